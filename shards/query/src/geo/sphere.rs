//! Points and edges on the unit sphere: which way three points turn, whether edges cross, what is nearest.
//!
//! Always: [`turn`] is zero only when two of its points are equal, changes its sign when two points change places, and is
//! the exact sign of the determinant where that is not zero. Where it is zero (three points on one great circle, as on the
//! equator) the points are thought to be moved by infinitely small, different amounts, as S2 does it. So every point lies in
//! exactly one of the polygons of a subdivision, and no case is degenerate but that of equal points. The `s2` crate has
//! vectors and cells; its own predicates give up on such points, hence these.

use std::cmp::Ordering;

use s2::point::Point;
use s2::r3::vector::Vector;

/// The point at a longitude and latitude in degrees.
pub fn point_at(longitude: f64, latitude: f64) -> Point {
    let (phi, theta) = (latitude.to_radians(), longitude.to_radians());
    // Adding zero makes one zero of two, so that equal points have equal bits.
    Point(Vector { x: theta.cos() * phi.cos() + 0.0, y: theta.sin() * phi.cos() + 0.0, z: phi.sin() + 0.0 })
}

/// Longitude and latitude in degrees.
pub fn degrees(point: Point) -> (f64, f64) {
    let Vector { x, y, z } = point.0;
    (y.atan2(x).to_degrees(), z.atan2((x * x + y * y).sqrt()).to_degrees())
}

pub fn antipode(point: Point) -> Point {
    Point(point.0 * -1.0)
}

/// Bits that are equal when the points are.
pub fn bits(point: Point) -> [u64; 3] {
    [point.0.x, point.0.y, point.0.z].map(|coordinate| (coordinate + 0.0).to_bits())
}

// ---------------------------------------------------------------- turns

/// Beyond this the plain determinant of unit vectors has the right sign.
const DETERMINANT_ERROR_MAX: f64 = 3.6548 * f64::EPSILON;

/// 1 when `a`, `b`, `c` turn to the left (counterclockwise), -1 when to the right, 0 when two of them are equal.
pub fn turn(a: Point, b: Point, c: Point) -> i8 {
    let determinant = a.0.cross(&b.0).dot(&c.0);
    if determinant > DETERMINANT_ERROR_MAX {
        return 1;
    }
    if determinant < -DETERMINANT_ERROR_MAX {
        return -1;
    }
    if a == b || b == c || c == a {
        return 0;
    }
    let corner = |point: Point| robust::Coord3D { x: point.0.x, y: point.0.y, z: point.0.z };
    let origin = robust::Coord3D { x: 0.0, y: 0.0, z: 0.0 };
    match sign(robust::orient3d(corner(a), corner(b), corner(c), origin)) {
        0 => turn_of_moved(a, b, c),
        exact => exact,
    }
}

fn sign(number: f64) -> i8 {
    i8::from(number > 0.0) - i8::from(number < 0.0)
}

/// The exact sign of `a * d - b * c`.
fn minor(a: f64, b: f64, c: f64, d: f64) -> i8 {
    sign(robust::orient2d(
        robust::Coord { x: a, y: b },
        robust::Coord { x: c, y: d },
        robust::Coord { x: 0.0, y: 0.0 },
    ))
}

/// The turn of three different points on one great circle, moved a little ("Simulation of Simplicity", Edelsbrunner and
/// Mücke 1990): the first coefficient of the disturbed determinant that is not zero decides. Larger points move less.
fn turn_of_moved(a: Point, b: Point, c: Point) -> i8 {
    let mut sorted = [a.0, b.0, c.0];
    let mut parity = 1;
    for (left, right) in [(0, 1), (1, 2), (0, 1)] {
        if sorted[left].cmp(&sorted[right]) == Ordering::Greater {
            sorted.swap(left, right);
            parity = -parity;
        }
    }
    let [a, b, c] = sorted;
    let coefficients = [
        minor(b.x, b.y, c.x, c.y),
        minor(b.z, b.x, c.z, c.x),
        minor(b.y, b.z, c.y, c.z),
        minor(c.x, c.y, a.x, a.y),
        sign(c.x),
        -sign(c.y),
        minor(c.z, c.x, a.z, a.x),
        sign(c.z),
    ];
    let first = coefficients.into_iter().find(|coefficient| *coefficient != 0);
    // A point of the sphere has a coordinate that is not zero.
    parity * first.unwrap_or(1)
}

/// Whether `oa`, `ob`, `oc` are met in this order when turning to the left around `o` from `oa`.
pub fn in_order(a: Point, b: Point, c: Point, o: Point) -> bool {
    let met = [turn(b, o, a) >= 0, turn(c, o, b) >= 0, turn(a, o, c) > 0];
    met.into_iter().filter(|met| *met).count() >= 2
}

/// A vector orthogonal to both; not zero unless both are.
pub fn normal(a: Point, b: Point) -> Vector {
    a.cross(&b).0
}

/// How much a path turns to the left at `b`, in radians.
pub fn turn_angle(a: Point, b: Point, c: Point) -> f64 {
    let angle = normal(b, a).angle(&normal(c, b)).rad();
    if turn(a, b, c) > 0 { angle } else { -angle }
}

// ---------------------------------------------------------------- crossings

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crossing {
    Apart,
    /// They have an end in common.
    SharedEnd,
    /// They cross at a point inside both.
    Proper,
}

/// An edge that is compared with many.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    pub a: Point,
    pub b: Point,
    normal: Vector,
}

impl Compared {
    pub fn new(a: Point, b: Point) -> Compared {
        Compared { a, b, normal: normal(a, b) }
    }

    /// [`crossing`] with edge `cd`. Most edges lie on one side of the other, which the first half of [`turn`] tells.
    #[inline]
    pub fn crossing(&self, c: Point, d: Point) -> Crossing {
        let (c_side, d_side) = (self.normal.dot(&c.0), self.normal.dot(&d.0));
        if c_side.min(d_side) > DETERMINANT_ERROR_MAX || c_side.max(d_side) < -DETERMINANT_ERROR_MAX {
            return Crossing::Apart;
        }
        crossing(self.a, self.b, c, d)
    }
}

/// How edge `ab` meets edge `cd`.
pub fn crossing(a: Point, b: Point, c: Point, d: Point) -> Crossing {
    let (c_side, d_side) = (turn(a, b, c), turn(a, b, d));
    if c_side * d_side > 0 {
        return Crossing::Apart;
    }
    if a == c || a == d || b == c || b == d {
        return Crossing::SharedEnd;
    }
    // Seen from the other edge, the ends must lie on the sides that the same crossing gives.
    if c_side != d_side && turn(c, d, a) == d_side && turn(c, d, b) == c_side {
        Crossing::Proper
    } else {
        Crossing::Apart
    }
}

/// Whether edges with a common end cross there. Of the edges of a closed path that meets a point, an odd number crosses a
/// path that goes on from the point to the other side.
pub fn crosses_at_end(a: Point, b: Point, c: Point, d: Point) -> bool {
    if a == b || c == d {
        return false;
    }
    let reference = |point: Point| point.ortho();
    if a == d {
        in_order(reference(a), c, b, a)
    } else if b == c {
        in_order(reference(b), d, a, b)
    } else if a == c {
        in_order(reference(a), d, b, a)
    } else {
        b == d && in_order(reference(b), c, a, b)
    }
}

/// The point where two edges that cross properly do so.
pub fn meeting(a: Point, b: Point, c: Point, d: Point) -> Point {
    let found = normal(a, b).cross(&normal(c, d)).normalize();
    // The great circles meet twice; the nearer one is on the edges.
    let middle = (a.0 + b.0) + (c.0 + d.0);
    Point(if found.dot(&middle) < 0.0 { found * -1.0 } else { found })
}

/// How far along `ab` a point of it lies, 0 to 1.
pub fn fraction(x: Point, a: Point, b: Point) -> f64 {
    let (before, after) = (x.0.angle(&a.0).rad(), x.0.angle(&b.0).rad());
    before / (before + after)
}

// ---------------------------------------------------------------- nearness

/// Whether the nearest point of the great circle through `ab` to `x` lies between `a` and `b`.
fn beside(x: Point, a: Point, b: Point, normal: Vector) -> bool {
    let left = |p: Vector, q: Vector, r: Vector| r.cross(&p).dot(&q) > 0.0;
    left(normal, a.0, x.0) && left(x.0, b.0, normal)
}

/// The angle from a point to an edge, in radians.
pub fn angle_to_edge(x: Point, a: Point, b: Point) -> f64 {
    let normal = normal(a, b);
    if beside(x, a, b, normal) {
        return (x.0.dot(&normal).abs() / normal.norm()).min(1.0).asin();
    }
    let chord2 = (x.0 - a.0).norm2().min((x.0 - b.0).norm2());
    2.0 * (0.5 * chord2.sqrt()).min(1.0).asin()
}

/// The point of an edge that is nearest to `x`.
pub fn nearest_on_edge(x: Point, a: Point, b: Point) -> Point {
    // A foot computed at an end may be off by a rounding, and then the end would not touch its own edge.
    if x == a || x == b {
        return x;
    }
    let normal = normal(a, b);
    let foot = Point(x.0 - normal * (x.0.dot(&normal) / normal.norm2()));
    if beside(foot, a, b, normal) {
        return foot.normalize();
    }
    if (x.0 - a.0).norm2() <= (x.0 - b.0).norm2() { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_equator(longitude: f64) -> Point {
        point_at(longitude, 0.0)
    }

    #[track_caller]
    fn check_turns(a: Point, b: Point, c: Point) {
        let way = turn(a, b, c);
        assert_ne!(way, 0);
        assert_eq!([turn(b, c, a), turn(c, a, b)], [way, way]);
        assert_eq!([turn(b, a, c), turn(a, c, b), turn(c, b, a)], [-way, -way, -way]);
    }

    #[test]
    fn different_points_always_turn_and_all_ways_agree() {
        check_turns(on_equator(0.0), on_equator(1.0), on_equator(2.0));
        check_turns(on_equator(0.0), on_equator(180.0), on_equator(90.0));
        check_turns(point_at(0.0, 90.0), point_at(0.0, -90.0), on_equator(0.0));
        check_turns(point_at(10.0, 10.0), point_at(10.0, 20.0), point_at(10.0, 40.0));
        let x = point_at(33.0, 44.0);
        check_turns(x, antipode(x), point_at(12.0, 13.0));
        assert_eq!(turn(x, x, on_equator(1.0)), 0);
        assert_eq!(turn(on_equator(0.0), on_equator(1.0), point_at(0.5, 0.1)), 1);
    }

    #[test]
    fn edges_cross_only_inside_both() {
        let cross = |a, b, c, d| crossing(point_of(a), point_of(b), point_of(c), point_of(d));
        assert_eq!(cross((0.0, 0.0), (2.0, 2.0), (0.0, 2.0), (2.0, 0.0)), Crossing::Proper);
        assert_eq!(cross((0.0, 2.0), (2.0, 0.0), (2.0, 2.0), (0.0, 0.0)), Crossing::Proper);
        assert_eq!(cross((0.0, 0.0), (2.0, 2.0), (0.0, 2.0), (0.5, 1.0)), Crossing::Apart);
        assert_eq!(cross((0.0, 0.0), (2.0, 2.0), (2.0, 2.0), (5.0, 0.0)), Crossing::SharedEnd);
        assert_eq!(cross((0.0, 0.0), (2.0, 2.0), (180.0, 1.0), (182.0, -5.0)), Crossing::Apart);
    }

    fn point_of((longitude, latitude): (f64, f64)) -> Point {
        point_at(longitude, latitude)
    }

    #[test]
    fn edges_meet_where_they_cross() {
        let x = meeting(on_equator(-1.0), on_equator(1.0), point_at(0.0, -1.0), point_at(0.0, 1.0));
        assert!(x.0.angle(&on_equator(0.0).0).rad() < 1e-15);
        let far = meeting(on_equator(179.0), on_equator(-179.0), point_at(180.0, 1.0), point_at(180.0, -1.0));
        assert!(far.0.angle(&on_equator(180.0).0).rad() < 1e-15);
        assert!((fraction(x, on_equator(-1.0), on_equator(3.0)) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn the_nearest_point_of_an_edge_is_beside_or_an_end() {
        let (a, b) = (on_equator(0.0), on_equator(10.0));
        let near = nearest_on_edge(point_at(5.0, 3.0), a, b);
        assert!(near.0.angle(&on_equator(5.0).0).rad() < 1e-15);
        assert!((angle_to_edge(point_at(5.0, 3.0), a, b) - 3f64.to_radians()).abs() < 1e-15);
        assert_eq!(nearest_on_edge(on_equator(12.0), a, b), b);
        assert!((angle_to_edge(on_equator(12.0), a, b) - 2f64.to_radians()).abs() < 1e-15);
    }
}
