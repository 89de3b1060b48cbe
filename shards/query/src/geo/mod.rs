//! Geometry: GeoJSON points, lines and polygons on the sphere, and distances on an ellipsoid, as RethinkDB computes them:
//! what lies in what, on the sphere with S2's rules; distances with Karney's geodesics.
//!
//! Always: pure functions of their arguments. A [`Shape`] is valid, and at most [`VERTICES_MAX`] vertices large, so whatever
//! is asked of two shapes takes a bounded time.

pub mod cover;
mod edges;
pub mod ellipsoid;
mod line;
pub mod nearest;
pub mod pace;
mod polygon;
pub mod question;
mod ring;
mod sphere;

use photondb_proto::datum::{Array, Datum, Object};
use s2::point::Point;

use crate::call::exact_number;
use crate::failure::{Failure, Outcome};
use crate::terms::object::get_field;
use crate::value::wrong_type;
use edges::Edge;
use ellipsoid::Ellipsoid;
use line::Line;
use pace::Pace;
use polygon::Polygon;
use ring::{Ring, RingFault};

/// Most vertices of one shape: as many as an array has elements unless a query says otherwise. Bounds the time that a
/// shape's checks take.
pub const VERTICES_MAX: usize = 100_000;

/// The value of GEOMETRY's `$reql_type$`.
pub const GEOMETRY: &str = "GEOMETRY";

/// A valid geometry.
#[derive(Debug)]
pub enum Shape {
    Point(Point),
    Line(Line),
    Polygon(Polygon),
}

/// A longitude and a latitude in degrees, as a client wrote them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    pub longitude: f64,
    pub latitude: f64,
}

impl Position {
    /// Reads a GeoJSON position; whether it lies on the globe is not looked at.
    pub fn parse(datum: &Datum) -> Outcome<Position> {
        let coordinates = array(datum)?;
        match coordinates.len() {
            2 => {}
            3 => {
                return Err(Failure::logic(
                    "A third altitude coordinate in GeoJSON positions was found, but is not supported.",
                ));
            }
            0 | 1 => {
                return Err(Failure::logic("Too few coordinates.  Need at least longitude and latitude."));
            }
            count => {
                return Err(Failure::logic(format!(
                    "Too many coordinates.  GeoJSON position should have no more than three coordinates, but got {count}."
                )));
            }
        }
        let mut numbers = coordinates.iter().map(|coordinate| match coordinate {
            Datum::Number(number) => Ok(number),
            other => Err(wrong_type("NUMBER", &other)),
        });
        let mut next = || numbers.next().unwrap_or(Ok(0.0));
        Ok(Position { longitude: next()?, latitude: next()? })
    }

    pub fn to_datum(self) -> Datum {
        Datum::array(vec![Datum::Number(self.longitude), Datum::Number(self.latitude)])
    }

    /// The point on the sphere.
    fn point(self) -> Outcome<Point> {
        let within = |number: f64, limit: f64, name: &str| {
            if number.abs() <= limit {
                return Ok(number);
            }
            let got = exact_number(number);
            Err(Failure::logic(format!("{name} must be between -{limit} and {limit}.  Got {got}.")))
        };
        let longitude = within(self.longitude, 180.0, "Longitude")?;
        let latitude = within(self.latitude, 90.0, "Latitude")?;
        // One meridian, one value.
        let longitude = if longitude == 180.0 { -180.0 } else { longitude };
        Ok(sphere::point_at(longitude, latitude))
    }
}

fn array(datum: &Datum) -> Outcome<&Array> {
    match datum {
        Datum::Array(items) => Ok(items),
        other => Err(wrong_type("ARRAY", other)),
    }
}

/// The name of a geometry's type.
pub fn type_of(geometry: &Object) -> Outcome<String> {
    match get_field(geometry, "type")? {
        Datum::String(name) => Ok(name.as_str().to_owned()),
        other => Err(wrong_type("STRING", &other)),
    }
}

/// The coordinates of a geometry that has to be of a certain type.
pub fn coordinates_of(geometry: &Object, wanted: &str) -> Outcome<Datum> {
    let found = type_of(geometry)?;
    if found != wanted {
        return Err(Failure::logic(format!("Expected geometry of type `{wanted}` but found `{found}`.")));
    }
    get_field(geometry, "coordinates")
}

/// Checks that a GeoJSON object does not say in which coordinates it is.
pub fn check_no_reference_system(geometry: &Object) -> Outcome<()> {
    match geometry.field("crs") {
        None | Some(Datum::Null) => Ok(()),
        Some(_) => Err(Failure::logic(
            "Non-default coordinate reference systems are not supported in GeoJSON objects.  Make sure the `crs` field of \
             the geometry is null or non-existent.",
        )),
    }
}

impl Shape {
    /// Reads and checks a geometry or GeoJSON object.
    pub async fn parse(geometry: &Object, pace: &Pace<'_>) -> Outcome<Shape> {
        const UNSUPPORTED: [&str; 6] = [
            "MultiPoint",
            "MultiLineString",
            "MultiPolygon",
            "GeometryCollection",
            "Feature",
            "FeatureCollection",
        ];
        let name = type_of(geometry)?;
        let coordinates = get_field(geometry, "coordinates")?;
        match name.as_str() {
            "Point" => {
                pace.take(POSITION_STEPS).await;
                Ok(Shape::Point(Position::parse(&coordinates)?.point()?))
            }
            "LineString" => line(array(&coordinates)?, pace).await.map(Shape::Line),
            "Polygon" => polygon(array(&coordinates)?, pace).await.map(Shape::Polygon),
            name if UNSUPPORTED.contains(&name) => {
                Err(Failure::logic(format!("GeoJSON type `{name}` is not supported.")))
            }
            name => Err(Failure::logic(format!("Unrecognized GeoJSON type `{name}`."))),
        }
    }

    /// Whether two shapes have a point in common. Lines and points meet a polygon's boundary only as exactly as floats do.
    pub async fn intersects(&self, other: &Shape, pace: &Pace<'_>) -> bool {
        pace.take(self.edges().len() + other.edges().len()).await;
        match (self, other) {
            (Shape::Point(left), Shape::Point(right)) => left == right,
            (Shape::Point(point), Shape::Line(line)) | (Shape::Line(line), Shape::Point(point)) => {
                line.nearest(*point, pace).await == *point
            }
            (Shape::Point(point), Shape::Polygon(polygon))
            | (Shape::Polygon(polygon), Shape::Point(point)) => polygon.touches(*point, pace).await,
            (Shape::Line(left), Shape::Line(right)) => left.intersects(right, pace).await,
            (Shape::Line(line), Shape::Polygon(polygon)) | (Shape::Polygon(polygon), Shape::Line(line)) => {
                polygon.intersects_line(line, pace).await
            }
            (Shape::Polygon(left), Shape::Polygon(right)) => left.intersects(right, pace).await,
        }
    }

    /// How far the nearest point is from `center`, in the ellipsoid's unit; 0 inside.
    pub async fn distance(&self, center: &Center, ellipsoid: &Ellipsoid, pace: &Pace<'_>) -> f64 {
        let nearest = match self {
            Shape::Point(point) => *point,
            Shape::Line(line) => line.nearest(center.point, pace).await,
            Shape::Polygon(polygon) => polygon.nearest(center.point, pace).await,
        };
        if nearest == center.point && !matches!(self, Shape::Point(_)) {
            return 0.0;
        }
        let (longitude, latitude) = sphere::degrees(nearest);
        ellipsoid.distance(center.position, Position { longitude, latitude })
    }

    fn edges(&self) -> &[Edge] {
        match self {
            Shape::Point(_) => &[],
            Shape::Line(line) => &line.edges().list,
            Shape::Polygon(polygon) => &polygon.edges().list,
        }
    }
}

impl Polygon {
    async fn touches(&self, point: Point, pace: &Pace<'_>) -> bool {
        !self.is_empty() && self.nearest(point, pace).await == point
    }

    /// Whether all of a shape lies in this polygon.
    pub async fn includes(&self, shape: &Shape, pace: &Pace<'_>) -> bool {
        pace.take(self.edges().list.len()).await;
        match shape {
            Shape::Point(point) => self.touches(*point, pace).await,
            Shape::Line(line) => self.contains_line(line, pace).await,
            Shape::Polygon(polygon) => self.contains(polygon, pace).await,
        }
    }
}

/// A point from which distances are measured.
#[derive(Clone, Copy, Debug)]
pub struct Center {
    point: Point,
    /// Where the sphere says that the point is: not always the last digit of what a client wrote.
    position: Position,
}

impl Center {
    pub fn new(position: Position) -> Outcome<Center> {
        let point = position.point()?;
        let (longitude, latitude) = sphere::degrees(point);
        Ok(Center { point, position: Position { longitude, latitude } })
    }
}

/// Reads a polygon that INCLUDES or POLYGON_SUB asks.
pub async fn parse_polygon(geometry: &Object, pace: &Pace<'_>) -> Outcome<Polygon> {
    polygon(array(&coordinates_of(geometry, "Polygon")?)?, pace).await
}

/// How many vertices a value has if it is a geometry, at a glance; 0 otherwise.
pub fn vertex_count(datum: &Datum) -> usize {
    let Datum::Object(object) = datum else { return 0 };
    let Some(Datum::Array(items)) = object.field("coordinates") else { return 0 };
    match items.item(0) {
        // The rings of a polygon. Of a line the first item is a position: two numbers.
        Some(Datum::Array(first)) if matches!(first.item(0), Some(Datum::Array(_))) => items
            .iter()
            .map(|ring| if let Datum::Array(positions) = ring { positions.len() } else { 0 })
            .fold(0, usize::saturating_add),
        Some(_) | None => items.len(),
    }
}

/// Refuses shapes that are too large.
pub fn check_vertex_count(count: usize) -> Outcome<()> {
    if count <= VERTICES_MAX {
        return Ok(());
    }
    Err(Failure::limit(format!("A geometry may have at most {VERTICES_MAX} vertices.")))
}

/// What a position takes, in steps: sines and cosines.
const POSITION_STEPS: usize = 4;

async fn points(positions: &Array, pace: &Pace<'_>) -> Outcome<Vec<Point>> {
    check_vertex_count(positions.len())?;
    let mut points = Vec::with_capacity(positions.len());
    for position in positions.iter() {
        pace.take(POSITION_STEPS).await;
        points.push(Position::parse(&position)?.point()?);
    }
    Ok(points)
}

async fn line(positions: &Array, pace: &Pace<'_>) -> Outcome<Line> {
    if positions.len() < 2 {
        return Err(Failure::logic("GeoJSON LineString must have at least two positions."));
    }
    let points = points(positions, pace).await?;
    pace.take(points.len()).await;
    Line::new(points)
        .ok_or_else(|| Failure::logic("Invalid LineString.  Are there antipodal or duplicate vertices?"))
}

async fn polygon(rings: &Array, pace: &Pace<'_>) -> Outcome<Polygon> {
    let mut outlines = Vec::with_capacity(rings.len());
    let mut vertices = 0;
    for positions in rings.iter() {
        let positions = array(&positions)?.clone();
        vertices += positions.len();
        check_vertex_count(vertices)?;
        outlines.push(outline(&positions, pace).await?);
    }
    Polygon::new(outlines, pace).await.ok_or_else(|| {
        Failure::logic("Some edges in GeoJSON polygon could not be used.  Are they intersecting?")
    })
}

/// The vertices of a closed list of positions, without the last, which is the first again.
async fn outline(positions: &Array, pace: &Pace<'_>) -> Outcome<Vec<Point>> {
    if positions.len() < 4 {
        return Err(Failure::logic("GeoJSON LinearRing must have at least four positions."));
    }
    let mut vertices = points(positions, pace).await?;
    if vertices.first() != vertices.last() {
        return Err(Failure::logic("First and last vertex of GeoJSON LinearRing must be identical."));
    }
    vertices.pop();
    match Ring::check(&vertices, pace).await {
        Ok(()) => Ok(vertices),
        Err(RingFault::Invalid) => Err(Failure::logic(
            "Invalid LinearRing.  Are there antipodal or duplicate vertices? Is it self-intersecting?",
        )),
        Err(RingFault::TooComplex) => {
            Err(Failure::limit("Too many edges of a LinearRing run close to each other."))
        }
    }
}

#[cfg(test)]
mod tests;
