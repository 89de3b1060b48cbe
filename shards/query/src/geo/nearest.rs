//! The search for what is nearest to a point: rings around it, each wider, until enough is found or the limit is reached.
//!
//! Always: a ring has every shape whose distance lies between what the rings before reached and its own reach, so results
//! are complete up to that reach and those of later rings are farther away. Pure: whoever drives it reads the index (a
//! loop of [`Nearest::next_ring`], then [`Nearest::offer`] for each row found that is in the ring's ranges). A ring is a
//! polygon of eight corners with a hole: intersection is decided on the sphere and distance on the ellipsoid, so shell and
//! hole keep a margin that is larger than the difference.

use std::collections::BTreeSet;
use std::f64::consts::PI;
use std::ops::RangeInclusive;

use s2::point::Point;

use super::ellipsoid::Ellipsoid;
use super::polygon::Polygon;
use super::{Center, Position, Shape, cover};
use crate::failure::{Failure, Outcome};

/// `max_results` when a query does not say.
pub const RESULTS_DEFAULT: usize = 100;
/// `max_dist` when a query does not say, in metres.
pub const DISTANCE_DEFAULT: f64 = 100_000.0;

/// The first ring, as a part of the equator's radius: 10 m on Earth.
const FIRST_REACH: f64 = 10.0 / 6_378_137.0;
/// How much farther a ring may reach than the one before.
const GROWTH_MAX: f64 = 2.0;
/// How many results a ring should give.
const RING_RESULTS: f64 = 100.0;
const CORNERS: usize = 8;

/// What is searched for.
#[derive(Clone, Debug)]
pub struct Search {
    pub center: Position,
    pub ellipsoid: Ellipsoid,
    pub results_max: usize,
    /// In the ellipsoid's unit.
    pub distance_max: f64,
}

/// A running search; `K` are primary keys, `D` what the caller keeps of a row.
#[derive(Debug)]
pub struct Nearest<K, D> {
    search: Search,
    center: Center,
    /// Distance up to which everything has been found.
    reached: f64,
    /// Distance up to which the ring at hand finds everything.
    reach: f64,
    seen: BTreeSet<K>,
    /// Ascending by distance once their ring is done.
    found: Vec<(f64, D)>,
    found_before_ring: usize,
}

/// One ring: what of the index to read, and what to ask of its geometries.
#[derive(Debug)]
pub struct SearchRing {
    pub shape: Shape,
    /// See [`cover::ranges`].
    pub ranges: Vec<RangeInclusive<u64>>,
}

impl<K: Ord, D> Nearest<K, D> {
    /// # Errors
    /// The center is not on the globe.
    pub fn new(search: Search) -> Outcome<Nearest<K, D>> {
        let center = Center::new(search.center)?;
        Ok(Nearest {
            search,
            center,
            reached: 0.0,
            reach: 0.0,
            seen: BTreeSet::new(),
            found: Vec::new(),
            found_before_ring: 0,
        })
    }

    /// The next ring to read; `None` when the search is done.
    ///
    /// # Errors
    /// The ring would reach around the globe.
    pub fn next_ring(&mut self) -> Outcome<Option<SearchRing>> {
        let results = self.found.len() - self.found_before_ring;
        self.found[self.found_before_ring..].sort_by(|left, right| left.0.total_cmp(&right.0));
        self.found_before_ring = self.found.len();
        let is_first = self.reach == 0.0;
        if !is_first
            && (self.reach >= self.search.distance_max || self.found.len() >= self.search.results_max)
        {
            return Ok(None);
        }
        let next = if is_first {
            FIRST_REACH * self.search.ellipsoid.equator_radius()
        } else {
            // As wide as would give enough results if there are as many per area as in the last ring.
            let area = PI * (self.reach * self.reach - self.reached * self.reached);
            let wanted = RING_RESULTS / results as f64 * area / PI + self.reach * self.reach;
            wanted.sqrt().min(self.reach * GROWTH_MAX)
        };
        self.reached = self.reach;
        self.reach = next.min(self.search.distance_max);
        let shape = self.ring().map_err(|failure| {
            Failure::logic(format!(
                "The distance has become too large for continuing the indexed nearest traversal.  Consider specifying a \
                 smaller `max_dist` parameter.  ({})",
                failure.message
            ))
        })?;
        let ranges = cover::ranges(&shape);
        Ok(Some(SearchRing { shape, ranges }))
    }

    /// A row whose geometry lies in the ranges of the ring at hand; counts once however often it comes.
    pub fn offer(&mut self, ring: &SearchRing, key: K, geometry: &Shape, row: impl FnOnce() -> D) {
        if self.seen.contains(&key) || !ring.shape.intersects(geometry) {
            return;
        }
        let distance = geometry.distance(&self.center, &self.search.ellipsoid);
        if distance <= self.reach {
            self.seen.insert(key);
            self.found.push((distance, row()));
        }
    }

    /// What was found, nearest first, with distances in the ellipsoid's unit.
    pub fn finish(mut self) -> Vec<(f64, D)> {
        self.found.sort_by(|left, right| left.0.total_cmp(&right.0));
        self.found.truncate(self.search.results_max);
        self.found
    }

    fn ring(&self) -> Outcome<Shape> {
        let ellipsoid = &self.search.ellipsoid;
        let corners = |radius: f64| -> Outcome<Vec<Point>> {
            let mut circle = ellipsoid.circle(self.center.position, radius, CORNERS)?;
            circle.pop();
            circle.into_iter().map(Position::point).collect()
        };
        // The sides of a regular polygon are nearer than its corners; on the sphere less so than in the plane. Where the
        // ellipsoid is flattened, by as much as its radii differ.
        let (equator, pole) = (ellipsoid.equator_radius(), ellipsoid.pole_radius());
        let distortion = equator.max(pole) / equator.min(pole);
        let mut outlines = vec![corners(self.reach * 1.01 / (PI / CORNERS as f64).cos() * distortion)?];
        if self.reached > 0.0 {
            outlines.push(corners(self.reached * 0.99)?);
        }
        let polygon = Polygon::new(outlines);
        polygon.map(Shape::Polygon).ok_or_else(|| Failure::internal("the hole of a ring is not in its shell"))
    }
}
