//! Terms that make, measure and compare geometries.
//!
//! Always: what these terms return has been checked as `geojson` checks it. What is wrong with a geometry is blamed on the
//! term, a value that is no geometry at all on the argument.

use photondb_proto::datum::pseudo::{self, TYPE_KEY};
use photondb_proto::datum::{Array, Datum, Object, ObjectBuilder, json};
use photondb_proto::term::number;

use super::fields::{later, on_object};
use super::{Arity, Determinism, Eval, Groups, Paced, SequenceLater, SequenceNow, TermDef};
use crate::call::{Call, check_array_size};
use crate::failure::{Failure, Outcome};
use crate::geo::ellipsoid::{Ellipsoid, Unit};
use crate::geo::pace::{Pace, whole};
use crate::geo::{self, Center, GEOMETRY, Position, Shape};
use crate::value::wrong_type;

pub static TERMS: &[TermDef] = &[
    // Neither computes anything, so they are the same everywhere.
    TermDef::pure("POINT", number::POINT, Arity::exactly(2), point),
    TermDef::pure("TO_GEOJSON", number::TO_GEOJSON, Arity::exactly(1), to_geojson),
    computed("GEOJSON", number::GEOJSON, Arity::exactly(1), &[], |pace, call| Box::pin(geojson(pace, call))),
    computed("LINE", number::LINE, Arity::at_least(2), &[], |pace, call| {
        Box::pin(async move { line(&positions(call)?, call, pace).await })
    }),
    computed("POLYGON", number::POLYGON, Arity::at_least(3), &[], |pace, call| {
        Box::pin(async move { shell(positions(call)?, call, pace).await })
    }),
    computed("FILL", number::FILL, Arity::exactly(1), &[], |pace, call| Box::pin(fill(pace, call))),
    computed("POLYGON_SUB", number::POLYGON_SUB, Arity::exactly(2), &[], |pace, call| {
        Box::pin(polygon_sub(pace, call))
    }),
    computed(
        "CIRCLE",
        number::CIRCLE,
        Arity::exactly(2),
        &["fill", "geo_system", "num_vertices", "unit"],
        |pace, call| Box::pin(circle(pace, call)),
    ),
    computed("DISTANCE", number::DISTANCE, Arity::exactly(2), &["geo_system", "unit"], |pace, call| {
        Box::pin(distance(pace, call))
    }),
    compared(
        "INTERSECTS",
        number::INTERSECTS,
        |run, invocation| on_object(run, invocation, "intersects"),
        |run, invocation| Box::pin(later(run, invocation, "intersects")),
    ),
    compared(
        "INCLUDES",
        number::INCLUDES,
        |run, invocation| on_object(run, invocation, "includes"),
        |run, invocation| Box::pin(later(run, invocation, "includes")),
    ),
];

/// A term whose result depends on floating point, which may differ between machines.
const fn computed(
    name: &'static str,
    number: u32,
    arity: Arity,
    options: &'static [&'static str],
    eval: Paced,
) -> TermDef {
    TermDef { name, number, arity, options, determinism: Determinism::PerServer, eval: Eval::Paced(eval) }
}

/// A comparison of a geometry, or of each of a sequence, with another.
const fn compared(name: &'static str, number: u32, now: SequenceNow, later: SequenceLater) -> TermDef {
    let eval = Eval::Sequence { now, later, groups: Groups::Whole };
    let (arity, determinism) = (Arity::exactly(2), Determinism::PerServer);
    TermDef { name, number, arity, options: &[], determinism, eval }
}

fn is_geometry(object: &Object) -> bool {
    matches!(object.field(TYPE_KEY), Some(Datum::String(name)) if name.as_str() == GEOMETRY)
}

/// The geometry that a datum is.
///
/// # Errors
/// `Not a GEOMETRY pseudotype`, without a place.
pub fn geometry_of(datum: &Datum) -> Outcome<Object> {
    match datum {
        Datum::Object(object) if is_geometry(object) => Ok(object.clone()),
        other => {
            let text = format!("Not a GEOMETRY pseudotype: `{}`.", json::to_message_string(other));
            Err(if other.is_null() { Failure::missing(text) } else { Failure::logic(text) })
        }
    }
}

fn geometry(call: &Call, index: usize) -> Outcome<Object> {
    geometry_of(&call.datum(index)?).map_err(|failure| failure.at(&call.arguments[index].place))
}

// ---------------------------------------------------------------- making

/// A checked geometry of these coordinates.
async fn made(name: &str, coordinates: Datum, pace: &Pace<'_>) -> Outcome<Datum> {
    let mut builder = ObjectBuilder::default();
    builder.set(TYPE_KEY, Datum::string(GEOMETRY));
    builder.set("coordinates", coordinates);
    builder.set("type", Datum::string(name));
    let object = builder.build();
    Shape::parse(&object, pace).await?;
    Ok(Datum::Object(object))
}

fn point(call: &Call) -> Outcome<Datum> {
    let position = Position { longitude: call.number(0)?, latitude: call.number(1)? };
    whole(made("Point", position.to_datum(), &Pace::never()))
}

/// A point, or an array of its two coordinates.
pub fn position(datum: &Datum) -> Outcome<Position> {
    match datum {
        Datum::Object(object) if is_geometry(object) => {
            Position::parse(&geo::coordinates_of(object, "Point")?)
        }
        Datum::Array(items) if items.len() != 2 => Err(Failure::logic(format!(
            "Expected point coordinate pair.  Got {} element array instead of a 2 element one.",
            items.len()
        ))),
        other => Position::parse(other),
    }
}

fn positions(call: &Call) -> Outcome<Vec<Position>> {
    (0..call.count()).map(|index| position(&call.datum(index)?)).collect()
}

fn coordinates(positions: &[Position], call: &Call) -> Outcome<Datum> {
    check_array_size(positions.len(), &call.limits)?;
    Ok(Datum::array(positions.iter().map(|position| position.to_datum()).collect::<Vec<Datum>>()))
}

async fn line(positions: &[Position], call: &Call, pace: &Pace<'_>) -> Outcome<Datum> {
    made("LineString", coordinates(positions, call)?, pace).await
}

/// The polygon within a line, which is closed if it is not.
async fn shell(mut positions: Vec<Position>, call: &Call, pace: &Pace<'_>) -> Outcome<Datum> {
    if positions.first() != positions.last() {
        positions.extend(positions.first().copied());
    }
    made("Polygon", Datum::array(vec![coordinates(&positions, call)?]), pace).await
}

async fn fill(pace: &Pace<'_>, call: &Call) -> Outcome<Datum> {
    let outline = geo::coordinates_of(&geometry(call, 0)?, "LineString")?;
    let Datum::Array(outline) = outline else { return Err(wrong_type("ARRAY", &outline)) };
    shell(outline.iter().map(|datum| Position::parse(&datum)).collect::<Outcome<_>>()?, call, pace).await
}

async fn geojson(pace: &Pace<'_>, call: &Call) -> Outcome<Datum> {
    let object = match call.datum(0)? {
        Datum::Object(object) => object,
        other => return Err(wrong_type("OBJECT", &other)),
    };
    geo::check_no_reference_system(&object)?;
    Shape::parse(&object, pace).await?;
    if object.has(TYPE_KEY) {
        return Err(Failure::logic("GeoJSON object already had a $reql_type$ field."));
    }
    let mut builder = ObjectBuilder::default();
    builder.set(TYPE_KEY, Datum::string(GEOMETRY));
    // Bounds that others may have computed are of no use.
    object.iter().filter(|(key, _)| key.as_str() != "bbox").for_each(|(key, value)| builder.set(key, value));
    Ok(pseudo::from_object(builder.build())?)
}

fn to_geojson(call: &Call) -> Outcome<Datum> {
    let mut builder = geometry(call, 0)?.to_builder();
    builder.remove(TYPE_KEY);
    Ok(Datum::Object(builder.build()))
}

/// The only ring of a polygon without holes.
fn outer_ring(call: &Call, index: usize) -> Outcome<(Object, Array)> {
    let blame = |text: String| Failure::logic(text).at(&call.arguments[index].place);
    let object = geometry(call, index)?;
    let name = geo::type_of(&object)?;
    if name != "Polygon" {
        return Err(blame(format!("Expected a Polygon but found a {name}.")));
    }
    match object.field("coordinates") {
        Some(Datum::Array(rings)) if rings.len() > 1 => {
            Err(blame("Expected a Polygon with only an outer shell.  This one has holes.".into()))
        }
        Some(Datum::Array(rings)) => Ok((object, rings)),
        other => Err(wrong_type("ARRAY", &other.unwrap_or(Datum::Null))),
    }
}

async fn polygon_sub(pace: &Pace<'_>, call: &Call) -> Outcome<Datum> {
    let ((outer, shell), (inner, hole)) = (outer_ring(call, 0)?, outer_ring(call, 1)?);
    let is_inside =
        geo::parse_polygon(&outer, pace).await?.includes(&Shape::parse(&inner, pace).await?, pace).await;
    if !is_inside {
        return Err(Failure::logic(
            "The second argument to `polygon_sub` is not contained in the first one.",
        ));
    }
    made("Polygon", call.array_result(shell.iter().chain(hole.iter()).collect())?, pace).await
}

// ---------------------------------------------------------------- measuring

/// The option `geo_system`: a name, or an object of the equator's radius and the flattening.
pub fn ellipsoid(call: &Call) -> Outcome<Ellipsoid> {
    let Some(datum) = call.option_datum("geo_system")? else { return Ok(Ellipsoid::wgs84()) };
    let check = || match &datum {
        Datum::Object(object) => {
            let number = |key: &str| match super::object::get_field(object, key)? {
                Datum::Number(number) => Ok(number),
                other => Err(wrong_type("NUMBER", &other)),
            };
            let (radius, flattening) = (number("a")?, number("f")?);
            if radius <= 0.0 {
                return Err(Failure::logic("The equator radius `a` must be positive."));
            }
            if !(0.0..1.0).contains(&flattening) {
                return Err(Failure::logic("The flattening `f` must be in the range [0, 1)."));
            }
            Ok(Ellipsoid::new(radius, flattening))
        }
        Datum::String(name) => match name.as_str() {
            "WGS84" => Ok(Ellipsoid::wgs84()),
            "unit_sphere" => Ok(Ellipsoid::unit_sphere()),
            other => Err(Failure::logic(format!(
                "Unrecognized geo system \"{other}\" (valid options: \"WGS84\", \"unit_sphere\")."
            ))),
        },
        other => Err(wrong_type("STRING", other)),
    };
    check().map_err(|failure| option_blamed(call, "geo_system", failure))
}

pub fn option_blamed(call: &Call, name: &str, failure: Failure) -> Failure {
    match call.option(name) {
        Some(option) => failure.at(&option.place),
        None => failure,
    }
}

/// The option `unit`.
pub fn unit(call: &Call) -> Outcome<Unit> {
    match call.option_datum("unit")? {
        None => Ok(Unit::Metre),
        // An unknown unit is blamed on the term, another type on the option.
        Some(Datum::String(name)) => Unit::parse(name.as_str()),
        Some(other) => Err(option_blamed(call, "unit", wrong_type("STRING", &other))),
    }
}

async fn circle(pace: &Pace<'_>, call: &Call) -> Outcome<Datum> {
    let center = call.datum(0)?;
    let is_filled = call.option_datum("fill")?.is_none_or(|fill| fill.is_truthy());
    let vertices =
        vertices_of_circle(call).map_err(|failure| option_blamed(call, "num_vertices", failure))?;
    let (ellipsoid, unit) = (ellipsoid(call)?, unit(call)?);
    let center = position(&center)?;
    let radius = unit.to_metres(call.number(1)?);
    check_array_size(vertices + 1, &call.limits)?;
    let outline = ellipsoid.circle(center, radius, vertices, pace).await?;
    if is_filled { shell(outline, call, pace).await } else { line(&outline, call, pace).await }
}

/// The option `num_vertices`.
fn vertices_of_circle(call: &Call) -> Outcome<usize> {
    const DEFAULT: usize = 32;
    let count = match call.option_datum("num_vertices")? {
        None => return Ok(DEFAULT),
        Some(Datum::Number(number)) => crate::call::integer(number)?,
        Some(other) => return Err(wrong_type("NUMBER", &other)),
    };
    match u32::try_from(count) {
        Ok(0) => Err(Failure::logic("num_vertices must be positive.")),
        Ok(count) => {
            let count = count as usize;
            geo::check_vertex_count(count)?;
            Ok(count)
        }
        Err(_) => Err(Failure::logic(format!("Integer too large: {count}"))),
    }
}

async fn distance(pace: &Pace<'_>, call: &Call) -> Outcome<Datum> {
    let (ellipsoid, unit) = (ellipsoid(call)?, unit(call)?);
    let first = geometry(call, 0)?;
    let second = geometry(call, 1)?;
    // One of the two must be a point.
    let (center, shape) = if geo::type_of(&first)? == "Point" { (first, second) } else { (second, first) };
    let center = Center::new(Position::parse(&geo::coordinates_of(&center, "Point")?)?)?;
    let shape = Shape::parse(&shape, pace).await?;
    Ok(Datum::Number(unit.of_metres(shape.distance(&center, &ellipsoid, pace).await)))
}

#[cfg(test)]
mod tests {
    use photondb_proto::term::parse::{Parser, QueryMessage};

    use crate::exec::{AnswerKind, Context, Execution, Step};
    use crate::harness::Server;
    use crate::run::FUEL_SLICE;

    /// A geometry as messages of the wire write it.
    fn shape(term: u32, points: &str) -> String {
        format!("[{term},[{points}]]")
    }

    #[track_caller]
    fn check(term: &str, want: &str) {
        let reply = Server::new().run(&format!("[1,{term}]"));
        let found = match &reply.error {
            Some((_, message, _)) => format!("! {message}"),
            None => reply.line(),
        };
        assert_eq!(found, want, "{term}");
    }

    const SQUARE: &str = "[161,[[2,[0,0]],[2,[1,0]],[2,[1,1]],[2,[0,1]]]]";

    #[test]
    fn circles_are_checked() {
        let circle = |options: &str| format!("[165,[[2,[0,0]],1000],{options}]");
        let failed = |text: &str| format!("! {text}");
        check(
            &format!(
                "[43,[[31,[[158,[{}]],\"coordinates\"]]]]",
                circle("{\"num_vertices\":3,\"fill\":false}")
            ),
            "4",
        );
        check(&circle("{\"num_vertices\":0}"), &failed("num_vertices must be positive."));
        check(&circle("{\"num_vertices\":-1}"), &failed("Integer too large: -1"));
        check(&circle("{\"unit\":\"x\"}"), &failed("Unrecognized distance unit `x`."));
        check(
            &circle("{\"geo_system\":\"x\"}"),
            &failed("Unrecognized geo system \"x\" (valid options: \"WGS84\", \"unit_sphere\")."),
        );
        check(
            &circle("{\"geo_system\":{\"a\":0,\"f\":0}}"),
            &failed("The equator radius `a` must be positive."),
        );
        check(
            &circle("{\"geo_system\":{\"a\":1,\"f\":1}}"),
            &failed("The flattening `f` must be in the range [0, 1)."),
        );
    }

    #[test]
    fn a_query_over_many_large_geometries_yields_between_them() {
        let circle = r#"[165,[[2,[0,0]],1000],{"num_vertices":2000}]"#;
        let query = format!("[1,[38,[[173,[20]],[69,[[2,[1]],[163,[{circle},[159,[5,5]]]]]]]]]");
        let mut bytes = query.into_bytes();
        let Ok(QueryMessage::Start { term, options }) = Parser::default().parse(&mut bytes) else {
            panic!("a START")
        };
        let context = Context { user: "admin".into(), now_epoch_seconds: 0.0, memory_bytes_max: 64 << 20 };
        let mut execution = Execution::start(&term.into(), options, context).expect("a sound query");
        let mut yields = 0;
        loop {
            match execution.step(FUEL_SLICE) {
                Step::OutOfFuel => yields += 1,
                Step::Ready(answer) if answer.kind == AnswerKind::Partial => execution.next_batch(),
                Step::Ready(_) => break,
                other @ (Step::Needs(_) | Step::Failed(_)) => panic!("{other:?}"),
            }
        }
        assert!(yields >= 19, "{yields}");
    }

    #[test]
    fn comparisons_take_a_geometry_or_a_sequence_of_them() {
        let inside = shape(159, "0.5,0.5");
        let outside = shape(159, "2,2");
        check(&format!("[163,[{SQUARE},{inside}]]"), "true");
        check(&format!("[164,[{SQUARE},{outside}]]"), "false");
        let both = format!("[2,[{inside},{outside}]]");
        let kept = r#"[{"$reql_type$":"GEOMETRY","coordinates":[0.5,0.5],"type":"Point"}]"#;
        check(&format!("[163,[{both},{SQUARE}]]"), kept);
        check(
            &format!("[164,[{inside},{SQUARE}]]"),
            "! Expected geometry of type `Polygon` but found `Point`.",
        );
        check(
            &format!("[163,[1,{SQUARE}]]"),
            "! Cannot perform intersects on a non-object non-sequence `1`.",
        );
        check(&format!("[163,[{SQUARE},1]]"), "! Not a GEOMETRY pseudotype: `1`.");
        check(
            &format!("[163,[[2,[1]],{SQUARE}]]"),
            "! Cannot perform intersects on a non-object non-sequence `1`.",
        );
    }

    #[test]
    fn geometries_are_themselves_a_type() {
        check(&format!("[52,[{SQUARE}]]"), "\"PTYPE<GEOMETRY>\"");
        check(&format!("[43,[[158,[{SQUARE}]]]]"), "2");
        check("[158,[1]]", "! Not a GEOMETRY pseudotype: `1`.");
        check(&format!("[157,[{SQUARE}]]"), "! GeoJSON object already had a $reql_type$ field.");
    }
}
