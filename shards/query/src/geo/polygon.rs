//! Polygons: rings none of which cross; a point is inside when it is inside an odd number of them.
//!
//! Always: no edge belongs to two rings, and no two rings cross. Edges that two of the given rings share (a hole along the
//! edge of its shell) cancel out, and rings are put together anew from what is left.

use std::collections::{BTreeMap, HashMap, HashSet};

use s2::point::Point;

use super::edges::{Edge, Edges, edge_bits};
use super::line::Line;
use super::pace::Pace;
use super::ring::{Nesting, Ring};
use super::sphere::{Crossing, bits, crosses_at_end, crossing, fraction, in_order, meeting};

#[derive(Debug)]
pub struct Polygon {
    rings: Vec<Ring>,
    /// The direction of each: an outer ring has an even number of rings around it.
    is_hole: Vec<bool>,
    /// All edges, with the inside to the left of each.
    edges: Edges,
}

/// Which side of the boundary is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Inside,
    Outside,
}

impl Polygon {
    /// The polygon of a shell and holes, each a list of vertices that makes a ring. `None`: rings cross.
    pub async fn new(outlines: Vec<Vec<Point>>, pace: &Pace<'_>) -> Option<Polygon> {
        let mut given = Vec::with_capacity(outlines.len());
        for outline in outlines {
            given.push(Ring::new(outline, pace).await);
        }
        let rings = if shares_edges(&given) { assemble(&given, pace).await? } else { given };
        for (index, ring) in rings.iter().enumerate() {
            for other in &rings[index + 1..] {
                if ring.nesting(other, pace).await == Nesting::Crosses {
                    return None;
                }
            }
        }
        if shares_edges(&rings) {
            return None;
        }
        Some(Polygon::of_rings(rings, pace).await)
    }

    async fn of_rings(rings: Vec<Ring>, pace: &Pace<'_>) -> Polygon {
        let mut is_hole = vec![false; rings.len()];
        for (index, inner) in rings.iter().enumerate() {
            for (other, outer) in rings.iter().enumerate() {
                is_hole[index] ^= other != index && outer.nests(inner, pace).await;
            }
        }
        pace.take(rings.iter().map(|ring| ring.vertices.len()).sum()).await;
        let directed = rings.iter().zip(&is_hole).flat_map(|(ring, is_hole)| {
            ring.edges.list.iter().map(|edge| if *is_hole { Edge::new(edge.to, edge.from) } else { *edge })
        });
        let edges = Edges::new(directed.collect());
        Polygon { rings, is_hole, edges }
    }

    /// Holes may have eaten everything.
    pub fn is_empty(&self) -> bool {
        self.rings.is_empty()
    }

    pub fn edges(&self) -> &Edges {
        &self.edges
    }

    /// A vertex of each ring.
    pub fn starts(&self) -> impl Iterator<Item = Point> {
        self.rings.iter().map(|ring| ring.vertices[0])
    }

    pub fn has(&self, point: Point) -> bool {
        self.rings.iter().filter(|ring| ring.has(point)).count() % 2 == 1
    }

    /// The point itself when it is inside, else the nearest one of the boundary.
    pub async fn nearest(&self, point: Point, pace: &Pace<'_>) -> Point {
        if self.has(point) { point } else { self.edges.nearest(point, pace).await }
    }

    // ------------------------------------------------------------ polygons

    fn outer(&self) -> impl Iterator<Item = &Ring> {
        self.rings.iter().zip(&self.is_hole).filter(|(_, is_hole)| !**is_hole).map(|(ring, _)| ring)
    }

    fn holes(&self) -> impl Iterator<Item = &Ring> {
        self.rings.iter().zip(&self.is_hole).filter(|(_, is_hole)| **is_hole).map(|(ring, _)| ring)
    }

    /// How a ring lies in this polygon.
    async fn nesting(&self, other: &Ring, pace: &Pace<'_>) -> Nesting {
        let mut inside = false;
        for ring in &self.rings {
            match ring.nesting(other, pace).await {
                Nesting::Crosses => return Nesting::Crosses,
                Nesting::Contains => inside = !inside,
                Nesting::Not => {}
            }
        }
        if inside { Nesting::Contains } else { Nesting::Not }
    }

    pub async fn contains(&self, other: &Polygon, pace: &Pace<'_>) -> bool {
        if let ([mine], [theirs]) = (self.rings.as_slice(), other.rings.as_slice()) {
            return mine.contains(theirs, pace).await;
        }
        if self.holes().next().is_none() && other.holes().next().is_none() {
            for ring in &other.rings {
                if !self.contains_in_one(ring, pace).await {
                    return false;
                }
            }
            return true;
        }
        for ring in other.outer() {
            if self.nesting(ring, pace).await != Nesting::Contains {
                return false;
            }
        }
        for hole in self.holes() {
            if other.nesting(hole, pace).await != Nesting::Not {
                return false;
            }
        }
        true
    }

    async fn contains_in_one(&self, other: &Ring, pace: &Pace<'_>) -> bool {
        for ring in &self.rings {
            if ring.contains(other, pace).await {
                return true;
            }
        }
        false
    }

    pub async fn intersects(&self, other: &Polygon, pace: &Pace<'_>) -> bool {
        if self.holes().next().is_none() && other.holes().next().is_none() {
            for mine in &self.rings {
                for theirs in &other.rings {
                    if mine.intersects(theirs, pace).await {
                        return true;
                    }
                }
            }
            return false;
        }
        for (polygon, rings) in [(self, other), (other, self)] {
            for ring in rings.outer() {
                if polygon.intersects_ring(ring, pace).await {
                    return true;
                }
            }
        }
        false
    }

    /// Whether a ring and this polygon meet, as far as the ring need not lie around all of the polygon.
    async fn intersects_ring(&self, other: &Ring, pace: &Pace<'_>) -> bool {
        let mut inside = false;
        for ring in &self.rings {
            if ring.contains(other, pace).await {
                inside = !inside;
            } else if !other.contains(ring, pace).await && ring.intersects(other, pace).await {
                return true;
            }
        }
        inside
    }

    // ------------------------------------------------------------ lines

    pub async fn intersects_line(&self, line: &Line, pace: &Pace<'_>) -> bool {
        !self.is_empty() && self.leaves_of(line, Side::Inside, pace).await
    }

    pub async fn contains_line(&self, line: &Line, pace: &Pace<'_>) -> bool {
        !self.leaves_of(line, Side::Outside, pace).await
    }

    /// Whether anything of a line is left when it is cut at the boundary and only the pieces on one side are kept.
    async fn leaves_of(&self, line: &Line, side: Side, pace: &Pace<'_>) -> bool {
        pace.take(self.edges.list.len()).await;
        let mut is_kept = self.has(line.vertices()[0]) == (side == Side::Inside);
        for edge in &line.edges().list {
            pace.take(self.edges.candidates(edge)).await;
            let mut cuts = self.cuts(edge);
            if is_kept {
                cuts.push((0.0, edge.from));
            }
            is_kept = cuts.len() % 2 == 1;
            if is_kept {
                cuts.push((1.0, edge.to));
            }
            cuts.sort_by(|left, right| left.0.total_cmp(&right.0).then_with(|| left.1.0.cmp(&right.1.0)));
            if cuts.chunks_exact(2).any(|piece| piece[0] != piece[1]) {
                return true;
            }
        }
        false
    }

    /// Where an edge goes through the boundary, and how far along it that is.
    fn cuts(&self, edge: &Edge) -> Vec<(f64, Point)> {
        let mut cuts = Vec::new();
        let mut seen = HashSet::new();
        let (a, b) = (edge.from, edge.to);
        for (index, side) in self.edges.near(edge) {
            let (c, d) = (side.from, side.to);
            match crossing(a, b, c, d) {
                Crossing::Apart => continue,
                _ if !seen.insert(index) => continue,
                Crossing::Proper => {
                    let at = meeting(a, b, c, d);
                    cuts.push((fraction(at, a, b), at));
                }
                Crossing::SharedEnd if crosses_at_end(a, b, c, d) => {
                    cuts.push(if a == c || a == d { (0.0, a) } else { (1.0, b) });
                }
                Crossing::SharedEnd => {}
            }
        }
        cuts
    }
}

/// Whether two of the rings have an edge in common, in whichever direction.
fn shares_edges(rings: &[Ring]) -> bool {
    let mut seen = HashSet::new();
    let edges = rings.iter().filter(|_| rings.len() > 1).flat_map(|ring| &ring.edges.list);
    edges.into_iter().any(|edge| {
        let mut ends = edge_bits(edge.from, edge.to);
        ends.sort_unstable();
        !seen.insert(ends)
    })
}

/// Rings of the edges of a shell and holes, without those that cancel out. `None`: edges are left over.
async fn assemble(given: &[Ring], pace: &Pace<'_>) -> Option<Vec<Ring>> {
    let mut ways: BTreeMap<[u64; 3], Vec<Point>> = BTreeMap::new();
    let mut starts = Vec::new();
    for (index, ring) in given.iter().enumerate() {
        for edge in &ring.edges.list {
            let (from, to) = if index == 0 { (edge.from, edge.to) } else { (edge.to, edge.from) };
            if !take(&mut ways, to, from) {
                ways.entry(bits(from)).or_default().push(to);
                starts.push((from, to));
            }
        }
    }
    let mut rings = Vec::new();
    for (from, to) in starts {
        while ways.get(&bits(from)).is_some_and(|ends| ends.contains(&to)) {
            rings.push(Ring::new(walk(&mut ways, from, to)?, pace).await);
        }
    }
    Some(rings)
}

fn take(ways: &mut BTreeMap<[u64; 3], Vec<Point>>, from: Point, to: Point) -> bool {
    let Some(ends) = ways.get_mut(&bits(from)) else { return false };
    let Some(place) = ends.iter().position(|end| *end == to) else { return false };
    ends.remove(place);
    true
}

/// Follows an edge, always turning left, until a vertex comes again; takes the edges of that ring away.
fn walk(ways: &mut BTreeMap<[u64; 3], Vec<Point>>, from: Point, to: Point) -> Option<Vec<Point>> {
    let mut path = vec![from, to];
    let mut places = HashMap::from([(bits(from), 0), (bits(to), 1)]);
    loop {
        let [.., before, at] = path.as_slice() else { return None };
        let (before, at) = (*before, *at);
        let ends = ways.get(&bits(at)).into_iter().flatten().copied().filter(|end| *end != before);
        let next = ends.reduce(|left, end| if in_order(before, left, end, at) { end } else { left })?;
        if let Some(place) = places.get(&bits(next)) {
            let ring = path.split_off(*place);
            for (index, vertex) in ring.iter().enumerate() {
                take(ways, *vertex, ring[(index + 1) % ring.len()]);
            }
            return (ring.len() >= 3).then_some(ring);
        }
        places.insert(bits(next), path.len());
        path.push(next);
    }
}
