//! The search for what is nearest to a point: rings around it, each wider, until enough is found or the limit is reached.
//!
//! Always: a ring gives every geometry whose distance lies above what the rings before reached and within its own reach, and
//! no other; so nothing comes twice, and results of later rings are farther away. Pure: whoever drives it asks the index
//! for each ring ([`Nearest::next_ring`], [`Nearest::add`]). A ring's shape is a polygon of eight corners with a hole:
//! intersection is decided on the sphere and distance on the ellipsoid, so shell and hole keep a margin larger than the
//! difference, and the distance decides.

use std::f64::consts::PI;

use s2::point::Point;

use super::ellipsoid::Ellipsoid;
use super::pace::{Pace, whole};
use super::polygon::Polygon;
use super::{Center, Position, Shape};
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
/// Less than any distance.
const NOTHING: f64 = -1.0;

/// What is searched for.
#[derive(Clone, Debug)]
pub struct Search {
    pub center: Position,
    pub ellipsoid: Ellipsoid,
    pub results_max: usize,
    /// In the ellipsoid's unit.
    pub distance_max: f64,
}

/// A running search; `D` is what is found.
#[derive(Debug)]
pub struct Nearest<D> {
    search: Search,
    /// Distance up to which everything has been found.
    reached: f64,
    /// Distance up to which the ring at hand finds everything.
    reach: f64,
    found: Vec<(f64, D)>,
    found_before_ring: usize,
}

/// One ring of a search.
#[derive(Clone, Debug)]
pub struct SearchRing {
    center: Center,
    at: Position,
    ellipsoid: Ellipsoid,
    reached: f64,
    reach: f64,
}

impl<D> Nearest<D> {
    pub fn new(search: Search) -> Nearest<D> {
        Nearest { search, reached: NOTHING, reach: NOTHING, found: Vec::new(), found_before_ring: 0 }
    }

    /// The next ring to read; `None` when the search is done.
    ///
    /// # Errors
    /// The center is not on the globe.
    pub fn next_ring(&mut self) -> Outcome<Option<SearchRing>> {
        let Search { center, ellipsoid, results_max, distance_max } = &self.search;
        let results = self.found.len() - self.found_before_ring;
        self.found_before_ring = self.found.len();
        let next = if self.reach == NOTHING {
            FIRST_REACH * ellipsoid.equator_radius()
        } else if self.reach >= *distance_max || self.found.len() >= *results_max {
            return Ok(None);
        } else {
            // As wide as would give enough results if there are as many per area as in the last ring.
            let inner = self.reached.max(0.0);
            let growth = (self.reach * self.reach - inner * inner) * RING_RESULTS / results as f64;
            (self.reach * self.reach + growth).sqrt().min(self.reach * GROWTH_MAX)
        };
        self.reached = self.reach;
        self.reach = next.min(*distance_max);
        SearchRing::new(*center, ellipsoid.clone(), self.reached, self.reach).map(Some)
    }

    /// A result of the ring at hand.
    pub fn add(&mut self, distance: f64, row: D) {
        self.found.push((distance, row));
    }

    /// What was found, nearest first, with distances in the ellipsoid's unit.
    pub fn finish(mut self) -> Vec<(f64, D)> {
        self.found.sort_by(|left, right| left.0.total_cmp(&right.0));
        self.found.truncate(self.search.results_max);
        self.found
    }
}

impl SearchRing {
    fn new(at: Position, ellipsoid: Ellipsoid, reached: f64, reach: f64) -> Outcome<SearchRing> {
        Ok(SearchRing { center: Center::new(at)?, at, ellipsoid, reached, reach })
    }

    /// The ring as it travels.
    pub fn numbers(&self) -> [f64; 6] {
        let Position { longitude, latitude } = self.at;
        let ellipsoid = &self.ellipsoid;
        [longitude, latitude, ellipsoid.equator_radius(), ellipsoid.flattening(), self.reached, self.reach]
    }

    pub fn from_numbers(numbers: [f64; 6]) -> Outcome<SearchRing> {
        let [longitude, latitude, equator_radius, flattening, reached, reach] = numbers;
        let ellipsoid = Ellipsoid::new(equator_radius, flattening);
        SearchRing::new(Position { longitude, latitude }, ellipsoid, reached, reach)
    }

    /// The distance of a geometry if this is the ring that it belongs to.
    pub async fn distance(&self, geometry: &Shape, pace: &Pace<'_>) -> Option<f64> {
        let distance = geometry.distance(&self.center, &self.ellipsoid, pace).await;
        (distance > self.reached && distance <= self.reach).then_some(distance)
    }

    /// A polygon that every geometry of the ring meets.
    ///
    /// # Errors
    /// It would reach around the globe.
    pub fn shape(&self) -> Outcome<Shape> {
        self.polygon().map(Shape::Polygon).map_err(|failure| {
            Failure::logic(format!(
                "The distance has become too large for continuing the indexed nearest traversal.  Consider specifying a \
                 smaller `max_dist` parameter.  ({})",
                failure.message
            ))
        })
    }

    fn polygon(&self) -> Outcome<Polygon> {
        let corners = |radius: f64| -> Outcome<Vec<Point>> {
            let mut circle = whole(self.ellipsoid.circle(self.at, radius, CORNERS, &Pace::never()))?;
            circle.pop();
            circle.into_iter().map(Position::point).collect()
        };
        // The sides of a regular polygon are nearer than its corners; on the sphere less so than in the plane. Where the
        // ellipsoid is flattened, by as much as its radii differ.
        let (equator, pole) = (self.ellipsoid.equator_radius(), self.ellipsoid.pole_radius());
        let distortion = equator.max(pole) / equator.min(pole);
        let mut outlines = vec![corners(self.reach * 1.01 / (PI / CORNERS as f64).cos() * distortion)?];
        if self.reached > 0.0 {
            outlines.push(corners(self.reached * 0.99)?);
        }
        let polygon = whole(Polygon::new(outlines, &Pace::never()));
        polygon.ok_or_else(|| Failure::internal("the hole of a ring is not in its shell"))
    }
}
