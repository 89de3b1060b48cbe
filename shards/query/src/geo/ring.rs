//! Rings: closed paths on the sphere that do not touch themselves, with the part of the sphere to their left.
//!
//! Always: at least three vertices, all different; edges do not cross; the inside is at most half of the sphere. Two rings are
//! compared by the crossings of their edges and, where they share a vertex, by the order of the edges around it (S2's way:
//! nothing is computed but turns, so the answers agree with each other however close the rings are).

use std::collections::HashSet;

use s2::point::Point;

use super::edges::{Edge, Edges, crosses_oddly};
use super::pace::Pace;
use super::sphere::{self, Compared, Crossing, bits, in_order};

/// How many pairs of near edges may be compared to find whether a ring crosses itself: a fraction of a second in all. Only a ring
/// that was made to be slow has so many.
const NEAR_EDGES_MAX: usize = 1 << 23;

/// What the angle at a vertex takes, in steps.
const TURN_STEPS: usize = 3;

#[derive(Debug)]
pub struct Ring {
    pub vertices: Vec<Point>,
    pub edges: Edges,
    /// Whether the point from which crossings are counted is inside.
    origin_is_inside: bool,
}

/// What is wrong with a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFault {
    Invalid,
    TooComplex,
}

/// The corners of two rings at a vertex that both have.
struct Corner {
    at: Point,
    /// Before and behind the vertex.
    of_a: (Point, Point),
    of_b: (Point, Point),
}

/// How two rings whose boundaries do not cross lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nesting {
    Crosses,
    Contains,
    /// The first does not contain the second.
    Not,
}

impl Ring {
    /// The ring of the vertices, turned so that its inside is the smaller part of the sphere.
    pub async fn new(vertices: Vec<Point>, pace: &Pace<'_>) -> Ring {
        let ring = Ring::turned(vertices, pace).await;
        // A little leeway: a half of the sphere is fine either way.
        if ring.turning(pace).await >= -1e-14 {
            return ring;
        }
        let mut vertices = ring.vertices;
        vertices.reverse();
        Ring::turned(vertices, pace).await
    }

    async fn turned(vertices: Vec<Point>, pace: &Pace<'_>) -> Ring {
        let count = vertices.len();
        pace.take(count).await;
        let list = (0..count).map(|index| Edge::new(vertices[index], vertices[(index + 1) % count]));
        let mut ring = Ring { edges: Edges::new(list.collect()), vertices, origin_is_inside: false };
        let [before, at, behind] = [ring.vertices[0], ring.vertices[1], ring.vertices[2]];
        // A vertex is inside when a fixed direction from it points to the left of the path.
        ring.origin_is_inside = in_order(at.ortho(), before, behind, at) != ring.has(at);
        ring
    }

    /// Whether vertices make a ring.
    ///
    /// # Errors
    /// They are too few, equal, or their edges cross.
    pub async fn check(vertices: &[Point], pace: &Pace<'_>) -> Result<(), RingFault> {
        let count = vertices.len();
        pace.take(count).await;
        let mut seen = HashSet::with_capacity(count);
        if count < 3 || !vertices.iter().all(|vertex| seen.insert(bits(*vertex))) {
            return Err(RingFault::Invalid);
        }
        let list = (0..count).map(|index| Edge::new(vertices[index], vertices[(index + 1) % count]));
        let edges = Edges::new(list.collect());
        let mut compared = 0;
        for (index, edge) in edges.list.iter().enumerate() {
            pace.take(edges.candidates(edge)).await;
            let compared_edge = Compared::new(edge.from, edge.to);
            for (other, second) in edges.near(edge) {
                compared += 1;
                if other > index + 1 && compared_edge.crossing(second.from, second.to) == Crossing::Proper {
                    return Err(RingFault::Invalid);
                }
            }
            if compared > NEAR_EDGES_MAX {
                return Err(RingFault::TooComplex);
            }
        }
        Ok(())
    }

    /// How much the path turns in all: 2 pi less the area inside.
    async fn turning(&self, pace: &Pace<'_>) -> f64 {
        let count = self.vertices.len();
        let at = |index: usize| self.vertices[index % count];
        let mut turning = 0.0;
        for index in 0..count {
            pace.take(TURN_STEPS).await;
            turning += sphere::turn_angle(at(index), at(index + 1), at(index + 2));
        }
        turning
    }

    /// Whether a point is inside. Of rings that share an edge, one has its points.
    pub fn has(&self, point: Point) -> bool {
        crosses_oddly(&Edge::new(Point::origin(), point), &self.edges.list) != self.origin_is_inside
    }

    fn has_or_touches(&self, point: Point) -> bool {
        self.has(point) || self.edges.have_end(point)
    }

    fn has_strictly(&self, point: Point) -> bool {
        self.has(point) && !self.edges.have_end(point)
    }

    /// Looks at all corners that two rings share until one answers. `Err`: their boundaries cross.
    async fn corners<T>(
        &self,
        other: &Ring,
        pace: &Pace<'_>,
        mut at: impl FnMut(Corner) -> Option<T>,
    ) -> Result<Option<T>, ()> {
        let (count, others) = (self.vertices.len(), other.vertices.len());
        // Before and behind it a vertex or two are looked for among all.
        pace.take(count + others).await;
        for (index, edge) in other.edges.list.iter().enumerate() {
            pace.take(self.edges.candidates(edge)).await;
            let compared = Compared::new(edge.from, edge.to);
            for (mine, near) in self.edges.near(edge) {
                match compared.crossing(near.from, near.to) {
                    Crossing::Apart => {}
                    Crossing::Proper => return Err(()),
                    Crossing::SharedEnd if near.to == edge.to => {
                        let corner = Corner {
                            at: edge.to,
                            of_a: (near.from, self.vertices[(mine + 2) % count]),
                            of_b: (edge.from, other.vertices[(index + 2) % others]),
                        };
                        if let Some(answer) = at(corner) {
                            return Ok(Some(answer));
                        }
                    }
                    // Every shared vertex comes once as the end of an edge of each ring.
                    Crossing::SharedEnd => {}
                }
            }
        }
        Ok(None)
    }

    /// Whether the inside of `other` is part of this one's inside.
    pub async fn contains(&self, other: &Ring, pace: &Pace<'_>) -> bool {
        self.has_or_touches(other.vertices[0])
            && self.corners(other, pace, |corner| (!corner.contains()).then_some(())).await == Ok(None)
            // Else the two together are the whole sphere.
            && !other.has_strictly(self.vertices[0])
    }

    /// Whether the insides have a point in common.
    pub async fn intersects(&self, other: &Ring, pace: &Pace<'_>) -> bool {
        self.has_strictly(other.vertices[0])
            || self.corners(other, pace, |corner| corner.intersects().then_some(())).await != Ok(None)
            || other.has_strictly(self.vertices[0])
    }

    /// How `other` lies in this one.
    pub async fn nesting(&self, other: &Ring, pace: &Pace<'_>) -> Nesting {
        let (mut wider, mut narrower, mut apart) = (false, false, false);
        let crosses = self.corners(other, pace, |corner| {
            match corner.relation() {
                Relation::Equal => {}
                Relation::Wider => wider = true,
                Relation::Narrower => narrower = true,
                Relation::Apart => apart = true,
                Relation::Overlaps => return Some(()),
            }
            (wider && narrower).then_some(())
        });
        let crosses = crosses.await;
        if crosses != Ok(None) {
            Nesting::Crosses
        } else if apart || narrower || !self.has_or_touches(other.vertices[0]) {
            Nesting::Not
        } else {
            Nesting::Contains
        }
    }

    /// Whether a ring that shares no edge with this one and does not cross it lies within it.
    pub async fn nests(&self, other: &Ring, pace: &Pace<'_>) -> bool {
        self.nesting(other, pace).await == Nesting::Contains && !other.has_strictly(self.vertices[0])
    }
}

/// How the corner of one ring lies to that of another at the same vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Equal,
    Wider,
    Narrower,
    Apart,
    Overlaps,
}

impl Corner {
    /// The inside of a corner is what is met turning left from the edge behind to the edge before.
    fn contains(&self) -> bool {
        let ((a0, a2), (b0, b2)) = (self.of_a, self.of_b);
        in_order(a2, b2, b0, self.at) && in_order(b0, a0, a2, self.at)
    }

    fn intersects(&self) -> bool {
        let ((a0, a2), (b0, b2)) = (self.of_a, self.of_b);
        !(in_order(a0, b2, b0, self.at) && in_order(b0, a2, a0, self.at))
    }

    fn relation(&self) -> Relation {
        let ((a0, a2), (b0, b2)) = (self.of_a, self.of_b);
        if a0 == b0 && a2 == b2 {
            return Relation::Equal;
        }
        if in_order(a0, a2, b2, self.at) {
            return match (in_order(b2, b0, a0, self.at), a2 == b2) {
                (true, _) => Relation::Wider,
                (false, true) => Relation::Narrower,
                (false, false) => Relation::Overlaps,
            };
        }
        if in_order(a0, b0, b2, self.at) {
            Relation::Narrower
        } else if in_order(a0, b0, a2, self.at) {
            Relation::Apart
        } else {
            Relation::Overlaps
        }
    }
}
