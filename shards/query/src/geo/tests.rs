//! Random shapes from printed seeds: what intersects is symmetric, what covers misses nothing, what is near is found.

use std::collections::BTreeSet;
use std::rc::Rc;

use photondb_proto::datum::{Datum, ObjectBuilder, Slice, document, key};
use photondb_proto::op::KeyBound;

use super::ellipsoid::Ellipsoid;
use super::nearest::{Nearest, Search};
use super::pace::{Pace, STEPS_A_TURN, at_once, whole};
use super::question::{Question, keys};
use super::{Center, Position, Shape, cover, parse_polygon};

/// A small generator of its own (splitmix64), so that a seed means the same for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (self.next() >> 11) as f64 / (1u64 << 53) as f64 * (high - low)
    }

    fn below(&mut self, count: u64) -> u64 {
        self.next() % count
    }

    /// Anywhere on the globe, often on the poles, the date line and round numbers.
    fn position(&mut self) -> Position {
        let special = [-180.0, -90.0, 0.0, 90.0, 180.0];
        let longitude = match self.below(4) {
            0 => special[self.below(5) as usize],
            1 => self.between(-180.0, 180.0).round(),
            _ => self.between(-180.0, 180.0),
        };
        let latitude = match self.below(4) {
            0 => [-90.0, -45.0, 0.0, 45.0, 90.0][self.below(5) as usize],
            1 => self.between(-90.0, 90.0).round(),
            _ => self.between(-90.0, 90.0),
        };
        Position { longitude, latitude }
    }

    /// A position near another, up to a number of degrees away.
    fn near(&mut self, center: Position, reach: f64) -> Position {
        let longitude = center.longitude + self.between(-reach, reach);
        let latitude = (center.latitude + self.between(-reach, reach)).clamp(-90.0, 90.0);
        Position { longitude: (longitude + 540.0).rem_euclid(360.0) - 180.0, latitude }
    }

    /// A point, a line, or a circle with or without a hole, near a position.
    fn shape(&mut self, near: Position, reach: f64) -> Shape {
        loop {
            let center = self.near(near, reach);
            let made = match self.below(3) {
                0 => geometry("Point", center.to_datum()),
                1 => {
                    let count = 2 + self.below(8);
                    let line = (0..count).map(|_| self.near(center, reach)).collect::<Vec<_>>();
                    geometry("LineString", array(&line))
                }
                _ => {
                    let radius = self.between(0.01, reach.min(80.0)) * 111_000.0;
                    let vertices = 3 + self.below(20) as usize;
                    let earth = Ellipsoid::wgs84();
                    let ring = |radius| {
                        whole(earth.circle(center, radius, vertices, &Pace::never())).expect("a circle fits")
                    };
                    let mut rings = vec![array(&ring(radius))];
                    if self.below(2) == 0 {
                        rings.push(array(&ring(radius * self.between(0.01, 0.4))));
                    }
                    geometry("Polygon", Datum::array(rings))
                }
            };
            // Lines may have equal neighbours at a pole.
            if let Ok(shape) = made {
                return shape;
            }
        }
    }
}

fn array(positions: &[Position]) -> Datum {
    Datum::array(positions.iter().map(|position| position.to_datum()).collect::<Vec<Datum>>())
}

fn object(name: &str, coordinates: Datum) -> photondb_proto::datum::Object {
    let mut builder = ObjectBuilder::default();
    builder.set("type", Datum::string(name));
    builder.set("coordinates", coordinates);
    builder.build()
}

fn geometry(name: &str, coordinates: Datum) -> Result<Shape, String> {
    whole(Shape::parse(&object(name, coordinates), &Pace::never())).map_err(|failure| failure.message)
}

fn is_in(ranges: &[std::ops::RangeInclusive<u64>], keys: &[u64]) -> bool {
    keys.iter().any(|key| ranges.iter().any(|range| range.contains(key)))
}

#[test]
fn a_covering_never_misses_what_intersects() {
    let (mut met, mut found, mut cells) = (0, 0, 0);
    for seed in 0..4000 {
        let mut random = Random(seed);
        let place = random.position();
        let reach = 10f64.powf(random.between(-4.0, 1.8));
        let (query, stored) = (random.shape(place, reach), random.shape(place, reach));
        let keys = whole(cover::keys(&stored, &Pace::never()));
        let ranges = whole(cover::ranges(&query, &Pace::never()));
        assert!((1..=cover::INDEX_CELLS_MAX).contains(&keys.len()), "seed {seed}: {} keys", keys.len());
        assert!(ranges.windows(2).all(|pair| pair[0].end() < pair[1].start()), "seed {seed}: {ranges:?}");
        let meets = whole(query.intersects(&stored, &Pace::never()));
        assert_eq!(
            meets,
            whole(stored.intersects(&query, &Pace::never())),
            "seed {seed}: {query:?} {stored:?}"
        );
        let is_found = is_in(&ranges, &keys);
        assert!(is_found || !meets, "seed {seed} misses: {query:?} {stored:?}");
        met += usize::from(meets);
        found += usize::from(is_found);
        cells += keys.len();
    }
    println!("{met} meet, {found} found, {cells} keys");
    assert!(met > 400 && found < 3200, "the test compares something: {met} of {found}");
}

#[test]
fn a_polygon_contains_what_lies_in_it() {
    for seed in 0..500 {
        let mut random = Random(seed);
        let center = random.position();
        let radius = random.between(10.0, 1_000_000.0);
        let circle =
            whole(Ellipsoid::wgs84().circle(center, radius, 32, &Pace::never())).expect("a circle fits");
        let polygon =
            whole(parse_polygon(&object("Polygon", Datum::array(vec![array(&circle)])), &Pace::never()))
                .expect("it is valid");
        let inner = whole(Ellipsoid::wgs84().circle(center, radius * 0.9, 16, &Pace::never()))
            .expect("a circle fits");
        let line = geometry("LineString", array(&inner)).expect("a line");
        let ring = geometry("Polygon", Datum::array(vec![array(&inner)])).expect("a polygon");
        let point = geometry("Point", center.to_datum()).expect("a point");
        for shape in [&line, &ring, &point] {
            assert!(whole(polygon.includes(shape, &Pace::never())), "seed {seed}: {shape:?}");
        }
        for vertex in &circle {
            let vertex = geometry("Point", vertex.to_datum()).expect("a point");
            assert!(
                whole(polygon.includes(&vertex, &Pace::never())),
                "a corner counts as inside; seed {seed}"
            );
        }
        let outer = whole(Ellipsoid::wgs84().circle(center, radius * 1.1, 16, &Pace::never()))
            .expect("a circle fits");
        let crossing = geometry("LineString", array(&[center, outer[3]])).expect("a line");
        assert!(
            !whole(polygon.includes(&crossing, &Pace::never()))
                && whole(Shape::Polygon(polygon).intersects(&crossing, &Pace::never())),
            "seed {seed}"
        );
    }
}

/// The answers of one row, as a scan of all of its entries in the question's ranges gives them.
fn answers(question: &Question, shape: &Shape, row: usize) -> Vec<Datum> {
    let row: Rc<[u8]> = document::to_bytes(&Datum::Number(row as f64)).into();
    let ranges = question.key_ranges();
    let mut answers = Vec::new();
    for cell in whole(keys(shape, &Pace::never())) {
        let entry = key::entry(&cell, &key::primary(&Datum::Number(1.0)).expect("a key"), 0);
        let is_scanned = ranges.iter().any(|range| match (&range.start, &range.end) {
            (KeyBound::Included(start), KeyBound::Excluded(end)) => (start..end).contains(&&entry),
            other => panic!("ranges are bounded: {other:?}"),
        });
        if is_scanned {
            let shapes = std::slice::from_ref(shape);
            answers.extend(whole(question.answers(shapes, &cell, &row, &Pace::never())));
        }
    }
    answers.into_iter().map(|bytes| document::decode(Slice::new(bytes))).collect()
}

/// What of `stored` a search finds, by driving it over a plain list.
fn search(search: Search, stored: &[Shape]) -> Vec<(f64, usize)> {
    let mut nearest = Nearest::new(search);
    while let Some(ring) = nearest.next_ring().expect("a center on the globe") {
        let question = Question::ring(ring).expect("a ring fits on the globe");
        let question = whole(Question::from_bytes(question.bytes(), &Pace::never())).expect("it travels");
        for (index, shape) in stored.iter().enumerate() {
            for answer in answers(&question, shape, index) {
                let Datum::Object(answer) = answer else { panic!("an answer is an object, not {answer:?}") };
                match (answer.field("dist"), answer.field("doc")) {
                    (Some(Datum::Number(distance)), Some(Datum::Number(row))) => {
                        nearest.add(distance, row as usize);
                    }
                    other => panic!("an answer has both: {other:?}"),
                }
            }
        }
    }
    nearest.finish()
}

#[test]
fn a_search_finds_what_is_nearest() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let center = random.position();
        let reach = 10f64.powf(random.between(-3.0, 0.5));
        let stored: Vec<Shape> = (0..60).map(|_| random.shape(center, reach)).collect();
        let distance_max = random.between(0.1, 1.0) * reach * 111_000.0;
        let results_max = 1 + random.below(40) as usize;
        let ellipsoid = Ellipsoid::wgs84();
        let from = Center::new(center).expect("a center on the globe");
        let mut want: Vec<(f64, usize)> = stored
            .iter()
            .enumerate()
            .map(|(index, shape)| (whole(shape.distance(&from, &ellipsoid, &Pace::never())), index))
            .filter(|(distance, _)| *distance <= distance_max)
            .collect();
        want.sort_by(|left, right| left.0.total_cmp(&right.0));
        want.truncate(results_max);
        let found = search(Search { center, ellipsoid, results_max, distance_max }, &stored);
        let distances = |rows: &[(f64, usize)]| rows.iter().map(|row| row.0).collect::<Vec<f64>>();
        assert_eq!(distances(&found), distances(&want), "seed {seed}");
        let all: BTreeSet<usize> = found.iter().map(|row| row.1).collect();
        assert_eq!(all.len(), found.len(), "seed {seed}: a row comes once");
    }
}

#[test]
fn a_search_around_the_globe_is_refused() {
    let center = Position { longitude: 0.0, latitude: 0.0 };
    let ellipsoid = Ellipsoid::unit_sphere();
    let mut nearest = Nearest::<()>::new(Search { center, ellipsoid, results_max: 1, distance_max: 10.0 });
    let failure = loop {
        let ring =
            nearest.next_ring().expect("a center on the globe").expect("the search does not end before");
        if let Err(failure) = Question::ring(ring) {
            break failure.message;
        }
    };
    assert!(failure.starts_with("The distance has become too large"), "{failure}");
}

#[track_caller]
fn check_polygon(rings: &[&[(f64, f64)]], want: Result<(), &str>) {
    let rings: Vec<Datum> = rings
        .iter()
        .map(|ring| {
            let positions = ring
                .iter()
                .map(|(longitude, latitude)| Position { longitude: *longitude, latitude: *latitude });
            array(&positions.collect::<Vec<_>>())
        })
        .collect();
    let found = geometry("Polygon", Datum::array(rings)).map(|_| ());
    assert_eq!(found.as_ref().map(drop).map_err(String::as_str), want);
}

#[test]
fn rings_are_checked() {
    const SHELL: &[(f64, f64)] = &[(0.0, 0.0), (9.0, 0.0), (9.0, 9.0), (0.0, 9.0), (0.0, 0.0)];
    const INVALID: &str =
        "Invalid LinearRing.  Are there antipodal or duplicate vertices? Is it self-intersecting?";
    const CROSSING: &str = "Some edges in GeoJSON polygon could not be used.  Are they intersecting?";
    check_polygon(&[SHELL], Ok(()));
    check_polygon(&[&SHELL[..4]], Err("First and last vertex of GeoJSON LinearRing must be identical."));
    check_polygon(&[&SHELL[..3]], Err("GeoJSON LinearRing must have at least four positions."));
    check_polygon(&[&[(0.0, 0.0), (9.0, 9.0), (9.0, 0.0), (0.0, 9.0), (0.0, 0.0)]], Err(INVALID));
    check_polygon(&[SHELL, &[(1.0, 1.0), (2.0, 1.0), (2.0, 2.0), (1.0, 1.0)]], Ok(()));
    // A hole may touch a corner, and even lie along an edge.
    check_polygon(&[SHELL, &[(0.0, 0.0), (2.0, 1.0), (2.0, 2.0), (0.0, 0.0)]], Ok(()));
    check_polygon(&[SHELL, &[(0.0, 0.0), (9.0, 0.0), (5.0, 5.0), (0.0, 0.0)]], Ok(()));
    check_polygon(&[SHELL, SHELL], Ok(()));
    check_polygon(&[SHELL, &[(1.0, 1.0), (12.0, 1.0), (2.0, 2.0), (1.0, 1.0)]], Err(CROSSING));
}

#[test]
fn a_large_shape_takes_a_bounded_time() {
    let center = Position { longitude: 7.0, latitude: 50.0 };
    let circle =
        whole(Ellipsoid::wgs84().circle(center, 100_000.0, 50_000, &Pace::never())).expect("a circle fits");
    let shape = geometry("Polygon", Datum::array(vec![array(&circle)])).expect("a valid polygon");
    assert!(whole(shape.intersects(&geometry("Point", center.to_datum()).expect("a point"), &Pace::never())));
    assert!(whole(cover::keys(&shape, &Pace::never())).len() <= cover::INDEX_CELLS_MAX);
    assert!(whole(shape.intersects(&shape, &Pace::never())));
}

/// A ring that goes to and fro: all of its edges are long and close to each other.
fn comb(teeth: usize) -> Datum {
    let mut outline = Vec::new();
    for tooth in 0..teeth {
        let at = tooth as f64 * 10.0 / teeth as f64;
        outline.push(Position { longitude: at, latitude: 1.0 });
        outline.push(Position { longitude: at + 5.0 / teeth as f64, latitude: 20.0 });
    }
    outline.push(Position { longitude: 10.0, latitude: 0.0 });
    outline.push(Position { longitude: 0.0, latitude: 0.0 });
    outline.push(outline[0]);
    Datum::array(vec![array(&outline)])
}

/// What is done with large shapes, and what comes of it.
#[track_caller]
fn check_turns(left: &Datum, right: &Datum, meets: Option<bool>) {
    let pace = Pace::never();
    let shape = |coordinates: &Datum| {
        let parsed = whole(Shape::parse(&object("Polygon", coordinates.clone()), &pace));
        parsed.map_err(|failure| failure.message)
    };
    let found = match (shape(left), shape(right)) {
        (Ok(left), Ok(right)) => Some(whole(left.intersects(&right, &pace))),
        (Err(_), _) | (_, Err(_)) => None,
    };
    assert_eq!(found, meets);
    let (turns, most) = pace.turns.get();
    assert!(turns >= 20, "{turns} turns");
    assert!(most <= 10 * STEPS_A_TURN, "{most} steps between two turns");
    let brief = Pace::brief();
    assert!(at_once(Shape::parse(&object("Polygon", left.clone()), &brief)).is_none(), "this takes long");
}

#[test]
fn others_have_their_turn_while_large_shapes_are_compared() {
    let circle = |longitude: f64| {
        let center = Position { longitude, latitude: 50.0 };
        let outline = whole(Ellipsoid::wgs84().circle(center, 100_000.0, 10_000, &Pace::never()))
            .expect("a circle fits");
        Datum::array(vec![array(&outline)])
    };
    check_turns(&circle(7.0), &circle(7.001), Some(true));
    check_turns(&circle(7.0), &circle(27.0), Some(false));
    check_turns(&comb(400), &comb(400), Some(true));
    check_turns(&comb(10_000), &circle(7.0), None);
}

/// A ring of so many vertices that goes in and out around a center.
fn star(center: Position, degrees: f64, vertices: usize, inner: f64) -> Vec<Position> {
    let vertex = |index: usize| {
        let (sin, cos) = (std::f64::consts::TAU * index as f64 / vertices as f64).sin_cos();
        let reach = if index.is_multiple_of(2) { degrees } else { degrees * inner };
        Position { longitude: center.longitude + reach * cos, latitude: center.latitude + reach * sin }
    };
    (0..vertices).chain([0]).map(vertex).collect()
}

/// Many small rings beside each other.
fn islands(center: Position, degrees: f64, count: usize) -> Datum {
    let side = count.isqrt();
    let step = degrees / side as f64;
    let island = |index: usize| {
        let longitude = center.longitude + step * (index % side) as f64;
        let latitude = center.latitude + step * (index / side) as f64;
        array(&star(Position { longitude, latitude }, step * 0.4, 6, 0.9))
    };
    Datum::array((0..count).map(island).collect::<Vec<Datum>>())
}

/// Shapes of all sizes, and such as have many vertices.
fn stored_shapes() -> Vec<Shape> {
    let mut shapes: Vec<Shape> = (0..3000)
        .map(|seed| {
            let mut random = Random(seed);
            let place = random.position();
            let reach = 10f64.powf(random.between(-7.0, 1.8));
            random.shape(place, reach)
        })
        .collect();
    for seed in 0..40 {
        let mut random = Random(seed);
        let center =
            Position { longitude: random.between(-150.0, 150.0), latitude: random.between(-60.0, 60.0) };
        let degrees = 10f64.powf(random.between(-6.0, 1.3));
        let ring =
            array(&star(center, degrees, 2 * (2 + random.below(400) as usize), random.between(0.1, 0.95)));
        let hole = array(&star(center, degrees * 0.05, 40, 0.7));
        shapes.push(geometry("Polygon", Datum::array(vec![ring.clone()])).expect("a ring"));
        shapes.push(geometry("LineString", ring.clone()).expect("a line"));
        shapes.push(geometry("Polygon", Datum::array(vec![ring, hole])).expect("a ring and a hole"));
        shapes.push(geometry("Polygon", islands(center, degrees, 25)).expect("islands"));
    }
    shapes
}

#[test]
fn a_shape_is_stored_under_the_cells_it_has_always_been() {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |number: u64| {
        hash = number
            .to_le_bytes()
            .iter()
            .fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    };
    for shape in stored_shapes() {
        whole(cover::keys(&shape, &Pace::never())).into_iter().for_each(&mut add);
        whole(cover::ranges(&shape, &Pace::never())).iter().for_each(|range| {
            add(*range.start());
            add(*range.end());
        });
    }
    assert_eq!(hash, 15_432_023_184_295_065_245);
}

#[test]
fn covering_a_shape_takes_a_few_steps_for_each_edge() {
    for (vertices, degrees) in [(1000, 1.0), (50_000, 0.001), (50_000, 1.0), (50_000, 30.0)] {
        let center = Position { longitude: 8.0, latitude: 47.0 };
        let outline = array(&star(center, degrees, vertices, 1.0 - 3.0 / vertices as f64));
        for kind in ["LineString", "Polygon"] {
            let coordinates =
                if kind == "Polygon" { Datum::array(vec![outline.clone()]) } else { outline.clone() };
            let shape = geometry(kind, coordinates).expect("it is valid");
            let pace = Pace::never();
            whole(cover::ranges(&shape, &pace));
            let steps = pace.spent.get() / vertices;
            assert!(
                steps <= 10,
                "{kind} of {vertices} vertices in {degrees} degrees: {steps} steps for each"
            );
            let (_, most) = pace.turns.get();
            assert!(most <= STEPS_A_TURN + vertices / 8, "{most} steps between two turns");
        }
    }
}
