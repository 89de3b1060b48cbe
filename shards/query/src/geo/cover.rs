//! Which S2 cells a shape is stored under in a geo index, and which to look through for the shapes that meet one.
//!
//! Always: the cells of a shape cover it, with a margin far above rounding. Two shapes that meet have covering cells of which
//! one contains the other; so whoever looks, for each cell of the query, through the ids of all cells within it and of the
//! cells around it, misses nothing. What is found may still not meet: `Shape::intersects` decides. A cell's id is a u64 that
//! orders cells along a space-filling curve, where all cells within a cell are one range around its id.
//!
//! An index stores a row under `keys(shape)` and reads `ranges(query)`, see [`super::question`]. Rows are stored under these
//! cells for good, so a shape's cells never change: they are those that S2's coverer gives.
//!
//! That coverer asks of each cell how it lies to the whole shape. Here a cell that is cut hands down to its parts the edges
//! that are near it, and whether its center is inside: the center of a part lies on the other side when the way there crosses
//! an odd number of edges. So a cell costs as much as there are edges near the cell that it is a part of. A polygon of 10,000 vertices
//! is covered in a tenth of the time that the whole shape for each cell took.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::ops::RangeInclusive;

use s2::cap::Cap;
use s2::cell::Cell;
use s2::cellid::CellID;
use s2::cellunion::CellUnion;
use s2::point::Point;
use s2::r3::vector::Vector;
use s2::region::RegionCoverer;
use s2::s1::angle::{Angle, Rad};

use super::Shape;
use super::edges::{Edge, crosses_oddly};
use super::pace::Pace;
use super::sphere::{Crossing, angle_to_edge, crossing, normal};

/// How many cells a shape is stored under at most. More cells mean fewer false hits and more index entries.
pub const INDEX_CELLS_MAX: usize = 8;
/// How many cells cover a query. Finer: a query's cells cost no room.
pub const QUERY_CELLS_MAX: usize = INDEX_CELLS_MAX * 2;

/// Of most edges little more is asked than how far away they are.
const EDGES_PER_STEP: usize = 8;
/// Cells with which covering begins, about.
const FIRST_CELLS_MAX: usize = 4;
/// Cells this close to a shape, in radians, count as touching it.
const MARGIN: f64 = 1e-14;
/// Edges on one side of a cell's side, and farther from its great circle than this, do not touch it: it leaves room for rounding.
const APART: f64 = 10.0 * MARGIN;
/// A cap larger than this, in radians, may not contain the arcs between its points.
const CAP_ANGLE_MAX: f64 = 1.5;
const CELL_LEVEL_MAX: u8 = 30;

/// The ids of the cells under which a shape is stored: one to eight, none for a polygon whose holes leave nothing.
pub async fn keys(shape: &Shape, pace: &Pace<'_>) -> Vec<u64> {
    cells(shape, INDEX_CELLS_MAX, pace).await.into_iter().map(|cell| cell.0).collect()
}

/// The ranges of ids, ascending and apart, that hold the keys of every shape that meets this one.
pub async fn ranges(shape: &Shape, pace: &Pace<'_>) -> Vec<RangeInclusive<u64>> {
    let mut ranges = Vec::new();
    for cell in cells(shape, QUERY_CELLS_MAX, pace).await {
        ranges.push((cell.range_min().0, cell.range_max().0));
        ranges.extend((0..cell.level()).map(|level| cell.parent(level).0).map(|around| (around, around)));
    }
    ranges.sort_unstable();
    ranges.dedup();
    ranges.into_iter().map(|(first, last)| first..=last).collect()
}

async fn cells(shape: &Shape, cells_max: usize, pace: &Pace<'_>) -> Vec<CellID> {
    if let Shape::Point(point) = shape {
        return vec![CellID::from(point)];
    }
    let Some(cap) = cap(shape) else { return Vec::new() };
    let coverer = RegionCoverer {
        min_level: 0,
        max_level: CELL_LEVEL_MAX,
        level_mod: 1,
        max_cells: cells_max.min(FIRST_CELLS_MAX),
    };
    let mut covering = Covering::default();
    for cell in coverer.fast_covering(&cap).0 {
        pace.take(shape.edges().len() / EDGES_PER_STEP).await;
        covering.add(Tile::of_shape(shape, cell), pace).await;
    }
    // The largest cells are cut first: there most is to be gained. Among those of one size, those of the fewest parts.
    while let Some(Cut { tile, parts, .. }) = covering.cut.pop() {
        let cells = covering.done.len() + covering.cut.len() + parts.len();
        if parts.len() == 1 || cells <= cells_max {
            for part in parts {
                covering.add(part, pace).await;
            }
        } else {
            covering.done.push(tile);
        }
    }
    let mut union = CellUnion(covering.done);
    union.normalize();
    union.0
}

/// A cap around a shape, if there is anything of it.
fn cap(shape: &Shape) -> Option<Cap> {
    let edges = shape.edges();
    let last = edges.last()?.to;
    let vertices = edges.iter().flat_map(|edge| [edge.from, edge.to]);
    let sum = vertices.fold(Vector { x: 0.0, y: 0.0, z: 0.0 }, |sum, vertex| sum + vertex.0);
    let center = Point(sum.normalize());
    let angles =
        edges.iter().map(|edge| edge.from).chain([last]).map(|vertex| center.0.angle(&vertex.0).rad());
    let angle = angles.fold(0.0, f64::max);
    if sum.norm() > MARGIN && angle < CAP_ANGLE_MAX {
        Some(Cap::from_center_angle(&center, &Angle::from(Rad(angle + MARGIN))))
    } else {
        Some(Cap::full())
    }
}

// ---------------------------------------------------------------- cells and their parts

/// A covering that is made.
#[derive(Default)]
struct Covering<'a> {
    done: Vec<CellID>,
    cut: BinaryHeap<Cut<'a>>,
}

/// A cell that may be replaced by those of its parts that the shape meets.
struct Cut<'a> {
    tile: CellID,
    parts: Vec<Tile<'a>>,
    /// Level, parts, and parts that will not be cut: the least is the next to be replaced.
    order: Reverse<(u8, usize, usize)>,
}

impl PartialEq for Cut<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Cut<'_> {}

impl PartialOrd for Cut<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Cut<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order.cmp(&other.order)
    }
}

impl<'a> Covering<'a> {
    /// Takes a cell as it is, or cuts it.
    async fn add(&mut self, tile: Tile<'a>, pace: &Pace<'_>) {
        match tile.lie {
            Lie::Apart => return,
            Lie::Crossed if tile.cell.level() < CELL_LEVEL_MAX => {}
            Lie::Crossed | Lie::Within => {
                self.done.push(tile.cell.id);
                return;
            }
        }
        let mut parts = Vec::with_capacity(4);
        for cell in tile.cell.id.child_iter() {
            pace.take(1 + tile.edges.len() / EDGES_PER_STEP).await;
            let part = tile.part(cell);
            if part.lie != Lie::Apart {
                parts.push(part);
            }
        }
        let level = tile.cell.level();
        let uncut =
            parts.iter().filter(|part| part.lie == Lie::Within || level + 1 == CELL_LEVEL_MAX).count();
        match (parts.len(), uncut) {
            (0, _) => {}
            (_, 4) => self.done.push(tile.cell.id),
            (count, uncut) => {
                let order = Reverse((level, count, uncut));
                self.cut.push(Cut { tile: tile.cell.id, parts, order });
            }
        }
    }
}

/// A cell, and what of a shape is near it.
struct Tile<'a> {
    cell: Cell,
    center: Point,
    edges: Vec<&'a Edge>,
    /// Vertices in the cell, one of each path.
    starts: Vec<Point>,
    /// Whether the center is inside, if the shape has an inside.
    has_center: Option<bool>,
    lie: Lie,
}

/// How a cell lies to a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    Apart,
    /// The shape's boundary comes into the cell.
    Crossed,
    /// It is inside the shape.
    Within,
}

impl<'a> Tile<'a> {
    fn of_shape(shape: &'a Shape, cell: CellID) -> Tile<'a> {
        let center = Cell::from(cell).center();
        let (starts, has_center) = match shape {
            Shape::Point(point) => (vec![*point], None),
            Shape::Line(line) => (vec![line.vertices()[0]], None),
            Shape::Polygon(polygon) => (polygon.starts().collect(), Some(polygon.has(center))),
        };
        Tile::new(cell, shape.edges().iter(), &starts, has_center)
    }

    /// The part of this cell that is `cell`.
    fn part(&self, cell: CellID) -> Tile<'a> {
        let way = Edge::new(self.center, Cell::from(cell).center());
        let near = || self.edges.iter().copied().filter(|edge| edge.is_near(&way));
        let has_center = self.has_center.map(|inside| inside != crosses_oddly(&way, near()));
        Tile::new(cell, self.edges.iter().copied(), &self.starts, has_center)
    }

    fn new(
        cell: CellID,
        edges: impl Iterator<Item = &'a Edge>,
        starts: &[Point],
        has_center: Option<bool>,
    ) -> Tile<'a> {
        let cell = Cell::from(cell);
        let (center, corners) = (cell.center(), cell.vertices());
        let sides: [Side; 4] =
            std::array::from_fn(|index| Side::new(corners[index], corners[(index + 1) % 4]));
        // An edge that is near a side, or a part of it, is near a ball around all of them.
        let reach = sides.iter().map(|side| side.edge.reach_from(center.0)).fold(0.0, f64::max);
        let edges: Vec<&Edge> = edges.filter(|edge| edge.is_within(center.0, reach)).collect();
        let starts: Vec<Point> = starts.iter().copied().filter(|start| cell.contains_point(start)).collect();
        // If no edge touches the cell's sides, a path that starts in it is there as a whole.
        let is_crossed =
            !starts.is_empty() || sides.iter().any(|side| edges.iter().any(|edge| side.touches(edge)));
        let lie = match (is_crossed, has_center) {
            (true, _) => Lie::Crossed,
            (false, Some(true)) => Lie::Within,
            (false, Some(false) | None) => Lie::Apart,
        };
        Tile { cell, center, edges, starts, has_center, lie }
    }
}

/// A side of a cell.
struct Side {
    edge: Edge,
    /// Of length one.
    normal: Vector,
}

impl Side {
    fn new(from: Point, to: Point) -> Side {
        Side { edge: Edge::new(from, to), normal: normal(from, to).normalize() }
    }

    fn touches(&self, edge: &Edge) -> bool {
        self.edge.is_near(edge) && !self.is_apart(edge) && touch(&self.edge, edge)
    }

    /// Most edges that are near lie on one side of this one's great circle, of which this tells most.
    fn is_apart(&self, edge: &Edge) -> bool {
        let (from, to) = (self.normal.dot(&edge.from.0), self.normal.dot(&edge.to.0));
        from.min(to) > APART || from.max(to) < -APART
    }
}

fn touch(left: &Edge, right: &Edge) -> bool {
    crossing(left.from, left.to, right.from, right.to) != Crossing::Apart
        || [left.from, left.to].into_iter().any(|end| angle_to_edge(end, right.from, right.to) <= MARGIN)
        || [right.from, right.to].into_iter().any(|end| angle_to_edge(end, left.from, left.to) <= MARGIN)
}
