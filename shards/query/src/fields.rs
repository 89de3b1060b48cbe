//! The terms that work on an object and, row by row, on a sequence of objects: get_field, pluck, without, has_fields,
//! with_fields, merge; intersects and includes.
//!
//! One [`RowTerm`] is the term with its evaluated arguments; it is applied to an object at hand, and as a stage to rows.

use std::cell::OnceCell;

use photondb_proto::datum::{Datum, Text, json};

use crate::eval::{Now, Stop};
use crate::failure::{Failure, Outcome, Place};
use crate::function::Function;
use crate::geo::pace::{Pace, at_once};
use crate::geo::{self, Shape};
use crate::run::Run;
use crate::terms::geometry::geometry_of;
use crate::terms::object::{self, Path};

/// A row term with its arguments.
#[derive(Debug)]
pub struct RowTerm {
    pub work: Work,
    /// The term as the query calls it: `bracket` and `get_field` do the same work.
    pub name: Text,
    pub place: Place,
}

#[derive(Debug)]
pub enum Work {
    Field(Text),
    Pluck(Paths),
    Without(Paths),
    HasFields(Paths),
    WithFields(Paths),
    Merge(Vec<Function>),
    Compare(Comparison),
}

/// A comparison of geometries with one that is read when it is first needed, and then once.
#[derive(Debug)]
pub struct Comparison {
    pub relation: Relation,
    pub argument: Datum,
    shape: OnceCell<Outcome<Shape>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Intersects,
    Includes,
}

impl Comparison {
    pub fn intersects(argument: Datum) -> Comparison {
        Comparison { relation: Relation::Intersects, argument, shape: OnceCell::new() }
    }

    pub fn includes(argument: Datum) -> Comparison {
        Comparison { relation: Relation::Includes, argument, shape: OnceCell::new() }
    }

    /// Whether it holds for a geometry. `place` is the term's.
    async fn holds(&self, geometry: &Datum, place: &Place, pace: &Pace<'_>) -> Outcome<bool> {
        let left = geometry_of(geometry).map_err(|failure| failure.at(&place.argument(0)))?;
        match self.relation {
            Relation::Intersects => {
                let left = Shape::parse(&left, pace).await?;
                Ok(left.intersects(self.shape(place, pace).await?, pace).await)
            }
            Relation::Includes => {
                let left = geo::parse_polygon(&left, pace).await?;
                Ok(left.includes(self.shape(place, pace).await?, pace).await)
            }
        }
    }

    async fn shape(&self, place: &Place, pace: &Pace<'_>) -> Outcome<&Shape> {
        if self.shape.get().is_none() {
            let shape = async {
                let right = geometry_of(&self.argument).map_err(|failure| failure.at(&place.argument(1)))?;
                Shape::parse(&right, pace).await
            };
            // Whoever was faster has found the same.
            let _ = self.shape.set(shape.await);
        }
        self.shape.get().expect("it was just set").as_ref().map_err(Failure::clone)
    }
}

/// Paths, and the data that spelled them.
#[derive(Debug)]
pub struct Paths {
    pub spelled: Vec<Datum>,
    path: Path,
}

impl Paths {
    pub fn new(spelled: Vec<Datum>) -> Outcome<Paths> {
        let path = object::paths(&spelled)?;
        Ok(Paths { spelled, path })
    }
}

impl RowTerm {
    pub fn travels(&self) -> bool {
        self.functions().iter().all(Function::travels)
    }

    /// The functions it calls.
    pub fn functions(&self) -> &[Function] {
        match &self.work {
            Work::Merge(functions) => functions,
            Work::Field(_)
            | Work::Pluck(_)
            | Work::Without(_)
            | Work::HasFields(_)
            | Work::WithFields(_)
            | Work::Compare(_) => &[],
        }
    }

    /// On a single object: `has_fields` gives a bool, a missing field is an error. `None`: it would have to wait.
    pub fn on_object(&self, run: &Run, receiver: &Datum) -> Now<Datum> {
        // WITH_FIELDS on what is no object fails in its first half.
        let name = match &self.work {
            Work::WithFields(_) => "has_fields",
            Work::Field(_)
            | Work::Pluck(_)
            | Work::Without(_)
            | Work::HasFields(_)
            | Work::Merge(_)
            | Work::Compare(_) => &self.name,
        };
        if let (Work::Compare(comparison), Datum::Object(_) | Datum::Time(_)) = (&self.work, receiver) {
            let holds =
                at_once(comparison.holds(receiver, &self.place, &Pace::brief())).ok_or(Stop::Later)??;
            run.spend_for_shapes([receiver, &comparison.argument]);
            return Ok(Datum::Bool(holds));
        }
        let fields = object::fields_of(receiver, name)?;
        match &self.work {
            Work::Field(key) => Ok(object::get_field(&fields, key)?),
            Work::Pluck(paths) => Ok(Datum::Object(object::pluck(&fields, &paths.path))),
            Work::Without(paths) => Ok(Datum::Object(object::without(&fields, &paths.path))),
            Work::HasFields(paths) => Ok(Datum::Bool(object::has_fields(&fields, &paths.path))),
            // Its second half plucks what the first half gives: of a single object that is a bool.
            Work::WithFields(paths) => {
                object::fields_of(&Datum::Bool(object::has_fields(&fields, &paths.path)), "pluck")?;
                Err(Failure::internal("a bool has no fields").into())
            }
            Work::Merge(functions) => {
                let mut merged = receiver.clone();
                for function in functions {
                    if !run.spend() {
                        return Err(Stop::Later);
                    }
                    let right = function.datum_now(run, std::slice::from_ref(&merged))?;
                    merged = merge(&merged, &right, function)?;
                    run.spend_for(&merged);
                }
                Ok(merged)
            }
            // All that is not an object has been refused by its name.
            Work::Compare(_) => Err(Failure::internal("only objects are geometries").into()),
        }
    }

    /// On a row of a sequence: `None` drops it.
    pub fn on_row(&self, run: &Run, row: &Datum) -> Now<Option<Datum>> {
        if let Datum::Array(_) = row {
            let text = format!("Cannot perform {} on a sequence of sequences.", self.name.as_str());
            return Err(self.failed(Failure::logic(text)));
        }
        match &self.work {
            Work::Field(key) => {
                let fields = object::fields_of(row, &self.name).map_err(|failure| self.failed(failure))?;
                Ok(fields.field(key))
            }
            Work::HasFields(paths) | Work::WithFields(paths) => {
                let fields = object::fields_of(row, "has_fields").map_err(|failure| self.failed(failure))?;
                if !object::has_fields(&fields, &paths.path) {
                    return Ok(None);
                }
                match &self.work {
                    Work::WithFields(_) => Ok(Some(Datum::Object(object::pluck(&fields, &paths.path)))),
                    _ => Ok(Some(row.clone())),
                }
            }
            // A filter: what is missing drops the row.
            Work::Compare(_) => match self.on_object(run, row) {
                Ok(holds) => Ok(holds.is_truthy().then(|| row.clone())),
                Err(Stop::Failed(failure)) if failure.is_missing() => Ok(None),
                Err(Stop::Failed(failure)) => Err(self.failed(failure)),
                Err(Stop::Later) => Err(Stop::Later),
            },
            Work::Pluck(_) | Work::Without(_) | Work::Merge(_) => {
                self.on_object(run, row).map(Some).map_err(|stop| match stop {
                    Stop::Failed(failure) => self.failed(failure),
                    Stop::Later => Stop::Later,
                })
            }
        }
    }

    fn failed(&self, failure: Failure) -> Stop {
        Stop::Failed(failure.at(&self.place))
    }

    /// On a row of a sequence, where [`RowTerm::on_row`] would have to wait.
    pub async fn on_row_later(&self, run: &Run, row: &Datum) -> Outcome<Option<Datum>> {
        match (&self.work, self.on_object_later(run, row).await) {
            (Work::Compare(_), Ok(holds)) => Ok(holds.is_truthy().then(|| row.clone())),
            (Work::Compare(_), Err(failure)) if failure.is_missing() => Ok(None),
            (_, result) => result.map(Some).map_err(|failure| failure.at(&self.place)),
        }
    }

    /// MERGE with functions that have to wait, and comparisons of large geometries.
    pub async fn on_object_later(&self, run: &Run, row: &Datum) -> Outcome<Datum> {
        let functions = match &self.work {
            Work::Merge(functions) => functions,
            Work::Compare(comparison) => {
                return comparison.holds(row, &self.place, &Pace::of(run)).await.map(Datum::Bool);
            }
            Work::Field(_) | Work::Pluck(_) | Work::Without(_) | Work::HasFields(_) | Work::WithFields(_) => {
                return Err(Failure::internal("this term never waits"));
            }
        };
        object::fields_of(row, &self.name)?;
        let mut merged = row.clone();
        for function in functions {
            run.tick().await;
            let right = function.datum(run, std::slice::from_ref(&merged)).await?;
            merged = merge(&merged, &right, function)?;
            run.spend_for(&merged);
        }
        Ok(merged)
    }
}

fn merge(left: &Datum, right: &Datum, function: &Function) -> Outcome<Datum> {
    object::merge(left, right).map_err(|failure| {
        // A stray literal is MERGE's own fault, a wrong value its argument's.
        if failure.message.starts_with("Stray") { failure } else { failure.at(function.place()) }
    })
}

/// `Cannot perform T on a non-object non-sequence` and the value.
pub fn neither_object_nor_sequence(term: &str, datum: &Datum) -> Failure {
    let text =
        format!("Cannot perform {term} on a non-object non-sequence `{}`.", json::to_message_string(datum));
    if datum.is_null() { Failure::missing(text) } else { Failure::logic(text) }
}
