//! Which S2 cells a shape is stored under in a geo index, and which to look through for the shapes that meet one.
//!
//! Always: the cells of a shape cover it, with a margin far above rounding. Two shapes that meet have covering cells of which
//! one contains the other; so whoever looks, for each cell of the query, through the ids of all cells within it and of the
//! cells around it, misses nothing. What is found may still not meet: `Shape::intersects` decides. A cell's id is a u64 that
//! orders cells along a space-filling curve, where all cells within a cell are one range around its id.
//!
//! An index stores a row under `keys(shape)` and reads `ranges(query)`, see [`super::question`].

use std::ops::RangeInclusive;

use s2::cap::Cap;
use s2::cell::Cell;
use s2::cellid::CellID;
use s2::point::Point;
use s2::r3::vector::Vector;
use s2::region::{Region, RegionCoverer};
use s2::s1::angle::{Angle, Rad};

use super::Shape;
use super::edges::Edge;
use super::sphere::{Crossing, angle_to_edge, crossing};

/// How many cells a shape is stored under at most. More cells mean fewer false hits and more index entries.
pub const INDEX_CELLS_MAX: usize = 8;
/// How many cells cover a query. Finer: a query's cells cost no room.
pub const QUERY_CELLS_MAX: usize = INDEX_CELLS_MAX * 2;

/// Cells this close to a shape, in radians, count as touching it.
const MARGIN: f64 = 1e-14;
/// A cap larger than this, in radians, may not contain the arcs between its points.
const CAP_ANGLE_MAX: f64 = 1.5;
const CELL_LEVEL_MAX: u8 = 30;

/// The ids of the cells under which a shape is stored: one to eight, none for a polygon whose holes leave nothing.
pub fn keys(shape: &Shape) -> Vec<u64> {
    cells(shape, INDEX_CELLS_MAX).into_iter().map(|cell| cell.0).collect()
}

/// The ranges of ids, ascending and apart, that hold the keys of every shape that meets this one.
pub fn ranges(shape: &Shape) -> Vec<RangeInclusive<u64>> {
    let mut ranges = Vec::new();
    for cell in cells(shape, QUERY_CELLS_MAX) {
        ranges.push((cell.range_min().0, cell.range_max().0));
        ranges.extend((0..cell.level()).map(|level| cell.parent(level).0).map(|around| (around, around)));
    }
    ranges.sort_unstable();
    ranges.dedup();
    ranges.into_iter().map(|(first, last)| first..=last).collect()
}

fn cells(shape: &Shape, cells_max: usize) -> Vec<CellID> {
    match shape {
        Shape::Point(point) => vec![CellID::from(point)],
        Shape::Polygon(polygon) if polygon.is_empty() => Vec::new(),
        Shape::Line(_) | Shape::Polygon(_) => {
            let coverer =
                RegionCoverer { min_level: 0, max_level: CELL_LEVEL_MAX, level_mod: 1, max_cells: cells_max };
            coverer.covering(shape).0
        }
    }
}

/// What the coverer asks: bounds, and how cells lie to a shape.
impl Region for Shape {
    fn cap_bound(&self) -> Cap {
        let vertices = || self.edges().iter().flat_map(|edge| [edge.from, edge.to]);
        let sum = vertices().fold(Vector { x: 0.0, y: 0.0, z: 0.0 }, |sum, vertex| sum + vertex.0);
        let center = Point(sum.normalize());
        let angle = vertices().map(|vertex| center.0.angle(&vertex.0).rad()).fold(0.0, f64::max);
        if sum.norm() > MARGIN && angle < CAP_ANGLE_MAX {
            Cap::from_center_angle(&center, &Angle::from(Rad(angle + MARGIN)))
        } else {
            Cap::full()
        }
    }

    fn contains_cell(&self, cell: &Cell) -> bool {
        match self {
            Shape::Point(_) | Shape::Line(_) => false,
            Shape::Polygon(polygon) => {
                polygon.has(cell.center()) && !self.starts_in(cell) && !self.touches_edges_of(cell)
            }
        }
    }

    fn intersects_cell(&self, cell: &Cell) -> bool {
        match self {
            Shape::Point(point) => cell.contains_point(point),
            Shape::Line(_) => self.starts_in(cell) || self.touches_edges_of(cell),
            Shape::Polygon(polygon) => {
                self.starts_in(cell) || self.touches_edges_of(cell) || polygon.has(cell.center())
            }
        }
    }
}

impl Shape {
    /// Whether a path of the shape starts in a cell: if its edges do not touch those of the cell, all of it is there.
    fn starts_in(&self, cell: &Cell) -> bool {
        match self {
            Shape::Point(point) => cell.contains_point(point),
            Shape::Line(line) => cell.contains_point(&line.vertices()[0]),
            Shape::Polygon(polygon) => polygon.starts().any(|start| cell.contains_point(&start)),
        }
    }

    fn touches_edges_of(&self, cell: &Cell) -> bool {
        let edges = match self {
            Shape::Point(_) => return false,
            Shape::Line(line) => line.edges(),
            Shape::Polygon(polygon) => polygon.edges(),
        };
        let corners = cell.vertices();
        (0..4).any(|index| {
            let side = Edge::new(corners[index], corners[(index + 1) % 4]);
            edges.near(&side).any(|(_, edge)| touch(&side, edge))
        })
    }
}

fn touch(left: &Edge, right: &Edge) -> bool {
    crossing(left.from, left.to, right.from, right.to) != Crossing::Apart
        || [left.from, left.to].into_iter().any(|end| angle_to_edge(end, right.from, right.to) <= MARGIN)
        || [right.from, right.to].into_iter().any(|end| angle_to_edge(end, left.from, left.to) <= MARGIN)
}
