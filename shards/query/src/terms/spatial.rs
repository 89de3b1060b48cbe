//! Rows chosen by a geo index: GET_INTERSECTING, GET_NEAREST.
//!
//! Always: where the rows are, each candidate's geometry is compared exactly; the index only says who is a candidate.
//! GET_NEAREST gathers rings around its center until it has enough, so its result is an array.

use std::rc::Rc;

use photondb_proto::datum::Datum;
use photondb_proto::term::number;

use super::geometry::{self, ellipsoid, option_blamed, position, unit};
use super::table::{index_option, table_at};
use super::{Arity, Determinism, Eval, Invocation, SequenceLater, TermDef};
use crate::call::integer;
use crate::failure::{Failure, Outcome};
use crate::geo::ellipsoid::Unit;
use crate::geo::nearest::{DISTANCE_DEFAULT, Nearest, RESULTS_DEFAULT, Search};
use crate::geo::pace::Pace;
use crate::geo::question::Question;
use crate::run::Run;
use crate::stream::{self, ScanIndex, Sequence, SequenceKind, Source, TableScan, ranges_of};
use crate::value::{TableHandle, Value, wrong_type};

pub static TERMS: &[TermDef] = &[
    reading("GET_INTERSECTING", number::GET_INTERSECTING, &["index"], |run, invocation| {
        Box::pin(get_intersecting(run, invocation))
    }),
    reading(
        "GET_NEAREST",
        number::GET_NEAREST,
        &["geo_system", "index", "max_dist", "max_results", "unit"],
        |run, invocation| Box::pin(get_nearest(run, invocation)),
    ),
];

const fn reading(
    name: &'static str,
    number: u32,
    options: &'static [&'static str],
    eval: SequenceLater,
) -> TermDef {
    let (arity, determinism) = (Arity::exactly(2), Determinism::Never);
    TermDef { name, number, arity, options, determinism, eval: Eval::Strict(eval) }
}

/// The geo index that the option names; a term needs one.
fn geo_index(invocation: &Invocation, table: &TableHandle, term: &str) -> Outcome<ScanIndex> {
    match index_option(invocation, table)? {
        None => Err(Failure::logic(format!("{term} requires an index argument."))),
        Some(ScanIndex::Primary) => Err(Failure::logic(format!("{term} cannot use the primary index."))),
        Some(ScanIndex::Secondary(index)) if !index.geo => Err(Failure::logic(format!(
            "Index `{}` is not a geospatial index.  {term} can only be used with a geospatial index.",
            index.name
        ))),
        Some(index @ ScanIndex::Secondary(_)) => Ok(index),
    }
}

fn scan(table: TableHandle, index: ScanIndex, question: Question) -> Source {
    let ranges = ranges_of(question.key_ranges());
    Source::Scan(TableScan { ranges, question: Some(Rc::new(question)), ..TableScan::new(table, index) })
}

async fn get_intersecting(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let table = table_at(&invocation, 0)?;
    let datum = invocation.datum(1)?;
    let index = geo_index(&invocation, &table, "get_intersecting")?;
    invocation.blame(1, geometry::geometry_of(&datum))?;
    let source = scan(table.clone(), index, Question::meets(&datum, &Pace::of(run)).await?);
    let sequence = Sequence { source, stages: Vec::new(), table: Some(table), kind: SequenceKind::Selection };
    Ok(Value::Sequence(Rc::new(sequence)))
}

async fn get_nearest(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let table = table_at(&invocation, 0)?;
    let center = invocation.datum(1)?;
    let index = geo_index(&invocation, &table, "get_nearest")?;
    let center = position(&center)?;
    let (ellipsoid, unit) = (ellipsoid(&invocation)?, unit(&invocation)?);
    let distance_max =
        distance_max(&invocation, unit).map_err(|failure| option_blamed(&invocation, "max_dist", failure))?;
    let results_max =
        results_max(&invocation).map_err(|failure| option_blamed(&invocation, "max_results", failure))?;
    let mut nearest = Nearest::new(Search { center, ellipsoid, results_max, distance_max });
    let mut charge = run.charge();
    while let Some(ring) = nearest.next_ring()? {
        let source = scan(table.clone(), index.clone(), Question::ring(ring)?);
        for row in stream::gather_rows(run, &Sequence::new(source)).await? {
            charge.add(row.approximate_bytes())?;
            nearest.add(distance_of(&row)?, row);
        }
    }
    let shown = nearest.finish().into_iter().map(|(distance, row)| in_unit(&row, unit.of_metres(distance)));
    invocation.array_result(shown.collect::<Outcome<_>>()?).map(Value::Datum)
}

fn distance_of(row: &Datum) -> Outcome<f64> {
    match row {
        Datum::Object(object) if let Some(Datum::Number(distance)) = object.field("dist") => Ok(distance),
        _ => Err(Failure::internal("a row of a search has no distance")),
    }
}

fn in_unit(row: &Datum, distance: f64) -> Outcome<Datum> {
    let Datum::Object(object) = row else { return Err(wrong_type("OBJECT", row)) };
    let mut builder = object.to_builder();
    builder.set("dist", Datum::Number(distance));
    Ok(Datum::Object(builder.build()))
}

/// The option `max_dist`, in metres.
fn distance_max(invocation: &Invocation, unit: Unit) -> Outcome<f64> {
    let distance = match invocation.option_datum("max_dist")? {
        None => return Ok(DISTANCE_DEFAULT),
        Some(Datum::Number(distance)) => unit.to_metres(distance),
        Some(other) => return Err(wrong_type("NUMBER", &other)),
    };
    if distance > 0.0 { Ok(distance) } else { Err(Failure::logic("max_dist must be positive.")) }
}

fn results_max(invocation: &Invocation) -> Outcome<usize> {
    let count = match invocation.option_datum("max_results")? {
        None => return Ok(RESULTS_DEFAULT),
        Some(Datum::Number(count)) => integer(count)?,
        Some(other) => return Err(wrong_type("NUMBER", &other)),
    };
    match usize::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        Ok(_) | Err(_) => Err(Failure::logic("max_results must be positive.")),
    }
}

#[cfg(test)]
mod tests {
    use crate::harness::Server;

    const TABLE: &str = r#"[15,["tbl"]]"#;

    fn point(longitude: f64, latitude: f64) -> String {
        format!("[159,[{longitude},{latitude}]]")
    }

    /// A point, a square and a line; the point's row also has three points in an array.
    fn server() -> Server {
        let mut server = Server::new().with_table("tbl", &[]);
        let three = format!("[2,[{},{},{}]]", point(0.0, 0.0), point(1.0, 0.0), point(2.0, 0.0));
        let square = "[161,[[2,[0,0]],[2,[0,1]],[2,[1,1]],[2,[1,0]]]]";
        let line = "[160,[[2,[0.000002,-1]],[2,[-0.000001,1]]]]";
        let rows = format!(
            r#"[2,[{{"id":0,"g":{},"m":{three}}},{{"id":1,"g":{square}}},{{"id":2,"g":{line}}},{{"id":3,"g":5}}]]"#,
            point(10.0, 10.0)
        );
        for query in [
            format!("[56,[{TABLE},{rows}]]"),
            format!(r#"[75,[{TABLE},"g"],{{"geo":true}}]"#),
            format!(r#"[75,[{TABLE},"m"],{{"geo":true,"multi":true}}]"#),
            format!(r#"[75,[{TABLE},"other"]]"#),
        ] {
            let reply = server.run(&format!("[1,{query}]"));
            assert!(reply.error.is_none(), "{query}: {}", reply.line());
        }
        server
    }

    #[track_caller]
    fn check(term: &str, want: &str) {
        let reply = server().run(&format!("[1,{term}]"));
        let found = match &reply.error {
            Some((_, message, _)) => format!("! {message}"),
            None => reply.line(),
        };
        assert_eq!(found, want, "{term}");
    }

    fn intersecting(shape: &str, index: &str) -> String {
        format!(r#"[166,[{TABLE},{shape}],{{"index":"{index}"}}]"#)
    }

    fn count(term: &str) -> String {
        format!("[43,[{term}]]")
    }

    #[test]
    fn rows_that_intersect_come_once_for_each_geometry() {
        let square = "[161,[[2,[0,0]],[2,[1,0]],[2,[1,1]],[2,[0,1]]]]";
        let counted = |shape: &str, index: &str, want: &str| check(&count(&intersecting(shape, index)), want);
        counted(&point(0.0, 0.0), "g", "1");
        counted(&point(10.0, 10.0), "g", "1");
        counted(&point(0.5, 0.5), "g", "1");
        counted(&point(20.0, 20.0), "g", "0");
        counted(square, "g", "2");
        counted("[160,[[2,[0,0]],[2,[10,10]]]]", "g", "3");
        counted(&point(0.0, 0.0), "m", "1");
        counted(&point(2.0, 0.0), "m", "1");
        counted(&point(3.0, 0.0), "m", "0");
        counted(square, "m", "2");
        check(&format!("[52,[{}]]", intersecting(square, "g")), "\"SELECTION<STREAM>\"");
    }

    #[test]
    fn what_is_nearest_comes_first() {
        let nearest = |options: &str| {
            let term = format!(r#"[168,[{TABLE},{}],{{"index":"g"{options}}}]"#, point(0.0, 0.0));
            format!(r#"[33,[{term},"dist",{{"doc":"id"}}]]"#)
        };
        let first = r#"{"dist":0,"doc":{"id":1}},{"dist":0.05565974539675"#;
        let found = server().run(&format!("[1,{}]", nearest(""))).line();
        assert!(found.starts_with(&format!("[{first}")), "{found}");
        assert!(found.ends_with(r#","doc":{"id":2}}]"#), "{found}");
        let found = server().run(&format!("[1,{}]", nearest(r#","max_dist":1565.110,"unit":"km""#))).line();
        assert!(found.contains(r#"{"dist":1565.10909921"#), "{found}");
        check(
            &nearest(r#","max_dist":10000000"#),
            "! The distance has become too large for continuing the indexed nearest traversal.  Consider specifying a \
             smaller `max_dist` parameter.  (Radius must be smaller than a quarter of the circumference along the minor axis \
             of the reference ellipsoid.  Got 10968937.995244588703m, but must be smaller than 9985163.1855612862855m.)",
        );
        check(&nearest(r#","max_results":0"#), "! max_results must be positive.");
        check(&nearest(r#","max_dist":-1"#), "! max_dist must be positive.");
    }

    #[test]
    fn only_a_geo_index_will_do() {
        let place = point(0.0, 0.0);
        check(&format!("[166,[{TABLE},{place}]]"), "! get_intersecting requires an index argument.");
        check(&intersecting(&place, "id"), "! get_intersecting cannot use the primary index.");
        check(
            &intersecting(&place, "other"),
            "! Index `other` is not a geospatial index.  get_intersecting can only be used with a geospatial index.",
        );
        check(&intersecting(&place, "missing"), "! Index `missing` was not found on table `test.tbl`.");
        check(&format!("[168,[{TABLE},{place}]]"), "! get_nearest requires an index argument.");
        check(&intersecting("1", "g"), "! Not a GEOMETRY pseudotype: `1`.");
        check(
            &format!(r#"[78,[{TABLE},0],{{"index":"g"}}]"#),
            "! Index `g` is a geospatial index.  Only get_nearest and get_intersecting can use a geospatial index.",
        );
    }
}
