//! Geo indexes over the wire: what they find is what a scan of all rows finds.

use photondb_proto::term::number;
use serde_json::{Value, json};

use crate::client::{Client, SUCCESS_PARTIAL, create, get, insert, table, term};
use crate::machine::Machine;
use crate::server::{Folder, Server};

/// The same numbers for every run (SplitMix64).
struct Random(u64);

impl Random {
    fn between(&mut self, low: f64, high: f64) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64 * (high - low)
    }

    fn position(&mut self) -> Value {
        json!([number::MAKE_ARRAY, [self.between(-3.0, 3.0), self.between(49.0, 53.0)]])
    }

    /// A point, a line or a circle.
    fn geometry(&mut self) -> Value {
        match self.between(0.0, 3.0) as u8 {
            0 => json!([number::POINT, [self.between(-3.0, 3.0), self.between(49.0, 53.0)]]),
            1 => term(number::LINE, json!([self.position(), self.position()])),
            _ => {
                let radius = self.between(100.0, 60_000.0);
                json!([number::CIRCLE, [self.position(), radius], { "num_vertices": 8 }])
            }
        }
    }
}

/// Ids of the rows that a term gives, in order.
#[track_caller]
fn ids(client: &mut Client, rows: &Value) -> Vec<u64> {
    let found = client.run(&term(number::COERCE_TO, json!([[number::BRACKET, [rows, "id"]], "array"])));
    let ids = found.as_array().expect("an array").iter().map(|id| id.as_u64().expect("a whole id"));
    let mut ids: Vec<u64> = ids.collect();
    ids.sort_unstable();
    ids
}

/// A function of the row 1.
fn of_row(body: Value) -> Value {
    json!([number::FUNC, [[number::MAKE_ARRAY, [1]], body]])
}

#[test]
fn what_geo_indexes_find_is_what_scans_find() {
    let machine = Machine::shared();
    let folder = Folder::new("geometry");
    let server = Server::start(&machine, &folder, 2);
    let client = &mut server.client();
    create(client, &["docs"]);
    let random = &mut Random(11);
    let place = json!([number::BRACKET, [[number::VAR, [1]], "place"]]);
    let documents = |random: &mut Random, ids: std::ops::Range<u64>| -> Vec<Value> {
        ids.map(|id| json!({ "id": id, "place": random.geometry() })).collect()
    };
    client.run(&insert("docs", &documents(random, 0..150)));
    client.run(&json!([number::INDEX_CREATE, [table("docs"), "place"], { "geo": true }]));
    client.run(&insert("docs", &documents(random, 150..300)));
    client.run(&term(number::INDEX_WAIT, json!([table("docs")])));
    let mut found_in_all = 0;
    for _ in 0..30 {
        let query = random.geometry();
        let along = json!([number::GET_INTERSECTING, [table("docs"), query], { "index": "place" }]);
        let meets = of_row(term(number::INTERSECTS, json!([place, query])));
        let found = ids(client, &along);
        assert_eq!(found, ids(client, &term(number::FILTER, json!([table("docs"), meets]))), "{query}");
        assert_eq!(client.run(&term(number::COUNT, json!([along]))), json!(found.len()), "{query}");
        found_in_all += found.len();
    }
    assert!(found_in_all > 100, "the queries find something: {found_in_all}");
    for _ in 0..10 {
        let center = json!([number::POINT, [random.between(-3.0, 3.0), random.between(49.0, 53.0)]]);
        let options = json!({ "index": "place", "max_dist": 40, "unit": "km", "max_results": 1000 });
        let nearest = json!([number::GET_NEAREST, [table("docs"), center], options]);
        let rows = client.run(&nearest);
        let distances: Vec<f64> = rows
            .as_array()
            .expect("rows")
            .iter()
            .map(|row| row["dist"].as_f64().expect("a distance"))
            .collect();
        assert!(distances.is_sorted(), "{distances:?}");
        let distance = json!([number::DISTANCE, [center, place], { "unit": "km" }]);
        let is_near = of_row(term(number::LE, json!([distance, 40])));
        let want = ids(client, &term(number::FILTER, json!([table("docs"), is_near])));
        assert_eq!(ids(client, &json!([number::BRACKET, [nearest, "doc"]])), want, "{center}");
    }
    assert!(server.stop().success());
}

/// A circle of so many vertices, some kilometres north of a place.
fn circle(kilometres_north: f64, vertices: u32) -> Value {
    let center = json!([number::MAKE_ARRAY, [7.0, 50.0 + kilometres_north / 111.0]]);
    json!([number::CIRCLE, [center, 5], { "num_vertices": vertices, "unit": "km" }])
}

#[test]
fn rows_with_large_geometries_are_found_as_others_are() {
    let machine = Machine::shared();
    let folder = Folder::new("large-geometry");
    let server = Server::start(&machine, &folder, 2);
    let client = &mut server.client();
    create(client, &["docs"]);
    let place = of_row(json!([number::BRACKET, [[number::VAR, [1]], "place"]]));
    let index = |name: &str| json!([number::INDEX_CREATE, [table("docs"), name, place], { "geo": true }]);
    client.run(&index("before"));
    let row =
        |id: u32, kilometres: f64, vertices: u32| json!({ "id": id, "place": circle(kilometres, vertices) });
    client
        .run(&insert("docs", &[row(1, 0.0, 8000), row(2, 8.0, 5), row(3, 100.0, 8000), row(4, 200.0, 4000)]));
    let changed = |row: Value| json!([number::INSERT, [table("docs"), row], { "conflict": "replace" }]);
    assert_eq!(client.run(&changed(row(3, 9.0, 6000)))["replaced"], 1);
    assert_eq!(client.run(&term(number::DELETE, json!([get("docs", &json!(4))])))["deleted"], 1);
    client.run(&index("behind"));
    client.run(&term(number::INDEX_WAIT, json!([table("docs")])));
    for name in ["before", "behind"] {
        let asked = |kilometres: f64, vertices: u32| {
            let circle = circle(kilometres, vertices);
            json!([number::GET_INTERSECTING, [table("docs"), circle], { "index": name }])
        };
        assert_eq!(ids(client, &asked(0.0, 9000)), [1, 2, 3], "{name}");
        assert_eq!(ids(client, &asked(16.0, 9000)), [2, 3], "{name}");
        assert_eq!(ids(client, &asked(-8.0, 5)), [1], "{name}");
        assert_eq!(ids(client, &asked(100.0, 9000)), [0; 0], "{name}: a row lies where it was changed to");
        assert_eq!(ids(client, &asked(200.0, 9000)), [0; 0], "{name}: a row that was deleted is gone");
        let center = json!([number::POINT, [7.0, 49.9]]);
        let options = json!({ "index": name, "max_dist": 20, "unit": "km" });
        let nearest = json!([number::GET_NEAREST, [table("docs"), center], options]);
        assert_eq!(ids(client, &json!([number::BRACKET, [nearest, "doc"]])), [1, 2, 3], "{name}");
    }
    // A feed tells of those that lie there, and of one that comes and one that goes.
    let source = json!([number::GET_INTERSECTING, [table("docs"), circle(0.0, 9000)], { "index": "before" }]);
    let listener = &mut server.client();
    let query = json!([number::CHANGES, [source], { "include_initial": true }]);
    let feed = listener.send(&query, &json!({})).expect("it takes queries");
    let mut told = |count: usize| {
        let mut told: Vec<[Value; 2]> = Vec::new();
        while told.len() < count {
            let response = listener.receive().expect("it answers");
            assert_eq!((response.token, response.response_type), (feed, SUCCESS_PARTIAL), "{response:?}");
            let ids = |change: &Value| ["old_val", "new_val"].map(|row| change[row]["id"].clone());
            told.extend(response.results.iter().map(ids));
            listener.send_as(feed, "[2]").expect("it takes queries");
        }
        told.sort_by_key(|[_, new]| new.as_u64());
        told
    };
    assert_eq!(told(3), [1, 2, 3].map(|id| [Value::Null, json!(id)]));
    client.run(&changed(row(5, -4.0, 7000)));
    client.run(&changed(row(1, 300.0, 7000)));
    assert_eq!(told(2), [[json!(1), Value::Null], [Value::Null, json!(5)]]);
    assert!(server.stop().success());
}
