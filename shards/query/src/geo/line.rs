//! Lines: open paths on the sphere; they may cross themselves.

use s2::point::Point;

use super::edges::{Edge, Edges};
use super::pace::Pace;
use super::sphere::{Crossing, antipode, crossing};

#[derive(Debug)]
pub struct Line {
    vertices: Vec<Point>,
    edges: Edges,
}

impl Line {
    /// The line through at least two points. `None`: neighbours are equal or opposite to each other.
    pub fn new(vertices: Vec<Point>) -> Option<Line> {
        let mut pairs = vertices.windows(2).map(|pair| (pair[0], pair[1]));
        if vertices.len() < 2 || pairs.any(|(from, to)| from == to || from == antipode(to)) {
            return None;
        }
        let edges = vertices.windows(2).map(|pair| Edge::new(pair[0], pair[1])).collect();
        Some(Line { vertices, edges: Edges::new(edges) })
    }

    pub fn vertices(&self) -> &[Point] {
        &self.vertices
    }

    pub fn edges(&self) -> &Edges {
        &self.edges
    }

    /// The point of the line that is nearest to `point`.
    pub async fn nearest(&self, point: Point, pace: &Pace<'_>) -> Point {
        self.edges.nearest(point, pace).await
    }

    /// Whether the lines cross or have a vertex in common.
    pub async fn intersects(&self, other: &Line, pace: &Pace<'_>) -> bool {
        for edge in &self.edges.list {
            pace.take(other.edges.candidates(edge)).await;
            let mut near = other.edges.near(edge);
            if near.any(|(_, side)| crossing(edge.from, edge.to, side.from, side.to) != Crossing::Apart) {
                return true;
            }
        }
        false
    }
}
