//! What a scan of a geo index asks of the geometries it finds, as it travels to the rows.
//!
//! Always: a geometry has an entry for each of its cells, of which several may lie in a question's ranges, but it answers
//! at one alone: the row's first, in the order of entries, that lies there. So whoever scans need not remember which rows
//! it has seen, wherever a scan is cut into steps.

use std::ops::RangeInclusive;
use std::rc::Rc;

use photondb_proto::datum::{Array, Datum, Slice, document, key};
use photondb_proto::error::QueryError;
use photondb_proto::op::{Key, KeyBound, KeyRange};

use super::cover;
use super::nearest::SearchRing;
use super::pace::{Pace, whole};
use super::{Shape, array};
use crate::failure::{Failure, Outcome};
use crate::terms::geometry::geometry_of;

/// A question, with the ranges of cells where its answers are.
#[derive(Debug)]
pub struct Question {
    kind: Kind,
    ranges: Vec<RangeInclusive<u64>>,
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum Kind {
    /// Does it meet this shape? The answer is the row.
    Meets(Shape),
    /// Is it in this ring? The answer is an object of the distance, `dist`, and the row, `doc`.
    Ring(Box<SearchRing>),
}

impl Question {
    /// # Errors
    /// The datum is no valid geometry.
    pub async fn meets(geometry: &Datum, pace: &Pace<'_>) -> Outcome<Question> {
        let shape = Shape::parse(&geometry_of(geometry)?, pace).await?;
        let ranges = cover::ranges(&shape, pace).await;
        Ok(Question { kind: Kind::Meets(shape), ranges, bytes: document::to_bytes(geometry) })
    }

    /// # Errors
    /// The ring would reach around the globe.
    pub fn ring(ring: SearchRing) -> Outcome<Question> {
        let numbers = Datum::array(ring.numbers().map(Datum::Number).to_vec());
        let ranges = whole(cover::ranges(&ring.shape()?, &Pace::never()));
        Ok(Question { kind: Kind::Ring(Box::new(ring)), ranges, bytes: document::to_bytes(&numbers) })
    }

    /// The question of these bytes, which [`Question::bytes`] gave.
    ///
    /// # Errors
    /// They are none.
    pub async fn from_bytes(bytes: &[u8], pace: &Pace<'_>) -> Result<Question, QueryError> {
        let question = match document::decode(Slice::new(bytes.into())) {
            Datum::Array(numbers) => {
                six(&numbers).and_then(SearchRing::from_numbers).and_then(Question::ring)
            }
            geometry => Question::meets(&geometry, pace).await,
        };
        question.map_err(Failure::into_query_error)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The ranges of an index's entries to scan.
    pub fn key_ranges(&self) -> Vec<KeyRange> {
        let range = |ids: &RangeInclusive<u64>| KeyRange {
            start: KeyBound::Included(cell_key(*ids.start())),
            end: KeyBound::Excluded(key::behind_entries(&cell_key(*ids.end()))),
        };
        self.ranges.iter().map(range).collect()
    }

    /// The answers of a row's geometries, given at the first of its entries in the ranges. `cell` is the entry's.
    pub async fn answers(
        &self,
        geometries: &[Shape],
        cell: &[u8],
        row: &Rc<[u8]>,
        pace: &Pace<'_>,
    ) -> Vec<Rc<[u8]>> {
        let mut answers = Vec::new();
        for shape in geometries {
            answers.extend(self.answer(shape, row, pace).await);
        }
        if answers.is_empty() {
            return answers;
        }
        let mut first: Option<u64> = None;
        for shape in geometries {
            let among = cover::keys(shape, pace).await.into_iter().filter(|id| self.has(*id));
            first = first.into_iter().chain(among).min();
        }
        if first.is_some_and(|id| cell_key(id) == cell) { answers } else { Vec::new() }
    }

    pub async fn meets_any(&self, geometries: &[Shape], row: &Rc<[u8]>, pace: &Pace<'_>) -> bool {
        for shape in geometries {
            if self.answer(shape, row, pace).await.is_some() {
                return true;
            }
        }
        false
    }

    async fn answer(&self, geometry: &Shape, row: &Rc<[u8]>, pace: &Pace<'_>) -> Option<Rc<[u8]>> {
        match &self.kind {
            Kind::Meets(shape) => shape.intersects(geometry, pace).await.then(|| row.clone()),
            Kind::Ring(ring) => {
                let distance = ring.distance(geometry, pace).await?;
                let doc = document::decode(Slice::new(row.clone()));
                let answer = Datum::object([("dist", Datum::Number(distance)), ("doc", doc)]);
                Some(document::to_bytes(&answer).into())
            }
        }
    }

    fn has(&self, id: u64) -> bool {
        let behind = self.ranges.partition_point(|range| *range.end() < id);
        self.ranges.get(behind).is_some_and(|range| range.contains(&id))
    }
}

fn six(numbers: &Array) -> Outcome<[f64; 6]> {
    let number = |datum: Datum| match datum {
        Datum::Number(number) => Some(number),
        _ => None,
    };
    let numbers: Option<Vec<f64>> = numbers.iter().map(number).collect();
    let six = numbers.and_then(|numbers| numbers.try_into().ok());
    six.ok_or_else(|| Failure::internal("a question about nearness has six numbers"))
}

/// The key of a cell in a geo index: its bytes, so that keys are ordered as ids are.
fn cell_key(id: u64) -> Key {
    key::secondary(&Datum::Binary(Slice::from(id.to_be_bytes().to_vec()))).expect("binary data may be a key")
}

/// The keys under which a geometry is stored.
pub async fn keys(shape: &Shape, pace: &Pace<'_>) -> impl Iterator<Item = Key> {
    cover::keys(shape, pace).await.into_iter().map(cell_key)
}

/// The valid geometries among an index's values of a row: of an array, if the index is `multi`, its elements.
pub async fn geometries(value: &Datum, is_multi: bool, pace: &Pace<'_>) -> Vec<Shape> {
    let items = match array(value) {
        Ok(items) if is_multi => items,
        Ok(_) | Err(_) => return geometry(value, pace).await.into_iter().collect(),
    };
    let mut shapes = Vec::new();
    for item in items.iter() {
        shapes.extend(geometry(&item, pace).await);
    }
    shapes
}

/// The geometry that a value is, if it is a valid one.
pub async fn geometry(value: &Datum, pace: &Pace<'_>) -> Option<Shape> {
    Shape::parse(&geometry_of(value).ok()?, pace).await.ok()
}
