//! A list of edges that finds those near another edge without looking at all of them.
//!
//! Always: an arc lies within the ball around the middle of its chord that reaches its ends; so edges whose balls are apart
//! do not meet. Many edges are kept in slabs along the axis in which they are spread most. An edge may be found more than
//! once, in different slabs. No tree: building one costs more than most queries against it.

use s2::point::Point;
use s2::r3::vector::Vector;

use super::pace::Pace;
use super::sphere::{Compared, Crossing, angle_to_edge, bits, crosses_at_end, nearest_on_edge};

/// Edges count as near when their balls are closer than this: far more than any rounding, far less than an atom on Earth.
const MARGIN: f64 = 1e-14;
/// Up to so many edges are looked at one by one.
const UNSORTED_MAX: usize = 16;
const SLABS_MAX: usize = 4096;
/// In how many slabs an edge is, on average, at most (and in one or two more for its ends).
const ENTRIES_PER_EDGE: usize = 4;

#[derive(Clone, Copy, Debug)]
pub struct Edge {
    pub from: Point,
    pub to: Point,
    middle: Vector,
    radius: f64,
}

impl Edge {
    pub fn new(from: Point, to: Point) -> Edge {
        let middle = (from.0 + to.0) * 0.5;
        Edge { from, to, middle, radius: (from.0 - to.0).norm() * 0.5 + MARGIN }
    }

    pub fn has_end(&self, point: Point) -> bool {
        self.from == point || self.to == point
    }

    pub fn is_near(&self, other: &Edge) -> bool {
        self.is_within(other.middle, other.radius)
    }

    /// Whether its ball comes within `reach` of a point, which need not lie on the sphere.
    pub fn is_within(&self, center: Vector, reach: f64) -> bool {
        let reach = self.radius + reach;
        (self.middle - center).norm2() <= reach * reach
    }

    /// How far its ball reaches from a point.
    pub fn reach_from(&self, center: Vector) -> f64 {
        (self.middle - center).norm() + self.radius
    }
}

/// Whether a way crosses an odd number of these edges of closed paths: then one of its ends is inside, if the other is not.
pub fn crosses_oddly<'a>(way: &Edge, edges: impl IntoIterator<Item = &'a Edge>) -> bool {
    let (from, to) = (way.from, way.to);
    let compared = Compared::new(from, to);
    let crossed = edges.into_iter().filter(|edge| match compared.crossing(edge.from, edge.to) {
        Crossing::Apart => false,
        Crossing::Proper => true,
        Crossing::SharedEnd => crosses_at_end(from, to, edge.from, edge.to),
    });
    crossed.count() % 2 == 1
}

#[derive(Debug)]
pub struct Edges {
    pub list: Vec<Edge>,
    slabs: Option<Slabs>,
}

#[derive(Debug)]
struct Slabs {
    axis: usize,
    start: f64,
    per_unit: f64,
    edges: Vec<Vec<u32>>,
}

fn coordinate(vector: &Vector, axis: usize) -> f64 {
    [vector.x, vector.y, vector.z][axis]
}

impl Slabs {
    fn new(list: &[Edge]) -> Slabs {
        let bounds = |axis: usize| {
            list.iter().fold((f64::MAX, f64::MIN), |(low, high), edge| {
                let middle = coordinate(&edge.middle, axis);
                (low.min(middle - edge.radius), high.max(middle + edge.radius))
            })
        };
        let spread = |axis: &usize| bounds(*axis).1 - bounds(*axis).0;
        let axis = (0..3).max_by(|left, right| spread(left).total_cmp(&spread(right))).unwrap_or(0);
        let (start, end) = bounds(axis);
        // Long edges are in many slabs: there are fewer slabs then, so that all together hold few times as many edges as the list.
        let length: f64 = list.iter().map(|edge| 2.0 * edge.radius).sum();
        let dense = (list.len() * ENTRIES_PER_EDGE) as f64 * ((end - start) / length.max(MARGIN));
        let count = (list.len() / 4).min(dense as usize).clamp(1, SLABS_MAX);
        let per_unit = count as f64 / (end - start).max(MARGIN);
        let mut slabs = Slabs { axis, start, per_unit, edges: vec![Vec::new(); count] };
        for (index, edge) in list.iter().enumerate() {
            for slab in slabs.of(edge) {
                slabs.edges[slab].push(u32::try_from(index).expect("vertices are bounded"));
            }
        }
        slabs
    }

    /// The slabs an edge may reach into; a float below zero becomes zero.
    fn of(&self, edge: &Edge) -> std::ops::RangeInclusive<usize> {
        let middle = coordinate(&edge.middle, self.axis) - self.start;
        let slab = |at: f64| ((at * self.per_unit) as usize).min(self.edges.len() - 1);
        slab(middle - edge.radius)..=slab(middle + edge.radius)
    }
}

impl Edges {
    pub fn new(list: Vec<Edge>) -> Edges {
        let slabs = (list.len() > UNSORTED_MAX).then(|| Slabs::new(&list));
        Edges { list, slabs }
    }

    /// The edges that may come near `edge`, with their indexes; some perhaps twice.
    pub fn near<'a>(&'a self, edge: &'a Edge) -> impl Iterator<Item = (usize, &'a Edge)> {
        let unsorted = if self.slabs.is_none() { self.list.as_slice() } else { &[] };
        let sorted = self.slabs.iter().flat_map(|slabs| {
            slabs.of(edge).flat_map(|slab| slabs.edges[slab].iter().map(|index| *index as usize))
        });
        let all = (0..unsorted.len()).chain(sorted);
        all.map(|index| (index, &self.list[index])).filter(|(_, other)| other.is_near(edge))
    }

    /// How many edges [`Edges::near`] looks at.
    pub fn candidates(&self, edge: &Edge) -> usize {
        match &self.slabs {
            None => self.list.len(),
            Some(slabs) => slabs.of(edge).map(|slab| slabs.edges[slab].len()).sum(),
        }
    }

    /// The point of the edges that is nearest to `point`, which it is itself if there are none.
    pub async fn nearest(&self, point: Point, pace: &Pace<'_>) -> Point {
        let mut nearest: Option<(f64, &Edge)> = None;
        for edge in &self.list {
            pace.take(1).await;
            let angle = angle_to_edge(point, edge.from, edge.to);
            if nearest.is_none_or(|(least, _)| angle < least) {
                nearest = Some((angle, edge));
            }
        }
        nearest.map_or(point, |(_, edge)| nearest_on_edge(point, edge.from, edge.to))
    }

    /// Whether it is the end of an edge.
    pub fn have_end(&self, point: Point) -> bool {
        self.near(&Edge::new(point, point)).any(|(_, edge)| edge.has_end(point))
    }
}

/// A directed edge as a key.
pub fn edge_bits(from: Point, to: Point) -> [[u64; 3]; 2] {
    [bits(from), bits(to)]
}
