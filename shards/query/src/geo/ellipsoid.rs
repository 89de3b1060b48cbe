//! Distances on an ellipsoid of revolution, by Karney's algorithms ("Algorithms for geodesics", 2013).

use std::f64::consts::FRAC_PI_2;

use geographiclib_rs::{DirectGeodesic, Geodesic, InverseGeodesic};

use super::Position;
use super::pace::Pace;
use crate::call::exact_number;
use crate::failure::{Failure, Outcome};

/// A reference ellipsoid. The unit of its radius is that of all distances on it: metres for the Earth.
#[derive(Clone, Debug)]
pub struct Ellipsoid {
    equator_radius: f64,
    flattening: f64,
    geodesic: Geodesic,
}

/// What a geodesic takes, in steps of comparisons.
const GEODESIC_STEPS: usize = 20;

impl Ellipsoid {
    /// `equator_radius` is positive, `flattening` in [0, 1).
    pub fn new(equator_radius: f64, flattening: f64) -> Ellipsoid {
        Ellipsoid { equator_radius, flattening, geodesic: Geodesic::new(equator_radius, flattening) }
    }

    /// The Earth, in metres.
    pub fn wgs84() -> Ellipsoid {
        Ellipsoid::new(6_378_137.0, 1.0 / 298.257_223_563)
    }

    pub fn unit_sphere() -> Ellipsoid {
        Ellipsoid::new(1.0, 0.0)
    }

    pub fn equator_radius(&self) -> f64 {
        self.equator_radius
    }

    pub fn flattening(&self) -> f64 {
        self.flattening
    }

    pub fn pole_radius(&self) -> f64 {
        self.equator_radius * (1.0 - self.flattening)
    }

    pub fn distance(&self, from: Position, to: Position) -> f64 {
        self.geodesic.inverse(from.latitude, from.longitude, to.latitude, to.longitude)
    }

    /// Where one gets from `from`, going straight towards `azimuth` (degrees, north is 0, east 90).
    fn destination(&self, from: Position, azimuth: f64, distance: f64) -> Position {
        let (latitude, longitude) = self.geodesic.direct(from.latitude, from.longitude, azimuth, distance);
        Position { longitude, latitude }
    }

    /// The largest radius of a circle.
    pub fn circle_radius_max(&self) -> f64 {
        FRAC_PI_2 * self.equator_radius.min(self.pole_radius())
    }

    /// A closed line of `vertices` points, all at `radius` from the center.
    pub async fn circle(
        &self,
        center: Position,
        radius: f64,
        vertices: usize,
        pace: &Pace<'_>,
    ) -> Outcome<Vec<Position>> {
        if radius <= 0.0 {
            return Err(Failure::logic("Radius must be positive"));
        }
        if radius >= self.circle_radius_max() {
            return Err(Failure::logic(format!(
                "Radius must be smaller than a quarter of the circumference along the minor axis of the reference \
                 ellipsoid.  Got {}m, but must be smaller than {}m.",
                exact_number(radius),
                exact_number(self.circle_radius_max())
            )));
        }
        let azimuth = |index: usize| -180.0 + 360.0 / vertices as f64 * index as f64;
        let mut line = Vec::with_capacity(vertices + 1);
        for index in 0..vertices {
            pace.take(GEODESIC_STEPS).await;
            line.push(self.destination(center, azimuth(index), radius));
        }
        line.extend(line.first().copied());
        Ok(line)
    }
}

/// A unit of length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Metre,
    Kilometre,
    Mile,
    NauticalMile,
    Foot,
}

impl Unit {
    pub fn parse(name: &str) -> Outcome<Unit> {
        match name {
            "m" => Ok(Unit::Metre),
            "km" => Ok(Unit::Kilometre),
            "mi" => Ok(Unit::Mile),
            "nm" => Ok(Unit::NauticalMile),
            "ft" => Ok(Unit::Foot),
            other => Err(Failure::logic(format!("Unrecognized distance unit `{other}`."))),
        }
    }

    fn metres(self) -> f64 {
        match self {
            Unit::Metre => 1.0,
            Unit::Kilometre => 1000.0,
            Unit::Mile => 1609.344,
            Unit::NauticalMile => 1852.0,
            Unit::Foot => 0.3048,
        }
    }

    pub fn to_metres(self, distance: f64) -> f64 {
        distance * self.metres()
    }

    pub fn of_metres(self, distance: f64) -> f64 {
        distance * (1.0 / self.metres())
    }
}
