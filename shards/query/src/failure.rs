//! How evaluation fails inside this crate: class, text, and the place that is to blame.

use std::rc::Rc;

use photondb_proto::error::{ErrorKind, Frame, QueryError};

/// The place of a node in the query's term tree: a chain from the node up to the root. Made once by the checker, so that an
/// error raised late (in a function called for a stream's row) still names where its term stands in the query.
#[derive(Clone, Debug)]
pub struct Place(Option<Rc<Step>>);

#[derive(Debug)]
struct Step {
    parent: Place,
    frame: Frame,
}

impl Place {
    pub fn root() -> Place {
        Place(None)
    }

    pub fn argument(&self, index: usize) -> Place {
        self.child(Frame::Argument(u32::try_from(index).expect("arguments fit in a query")))
    }

    pub fn option(&self, name: &str) -> Place {
        self.child(Frame::Optional(name.into()))
    }

    pub fn child(&self, frame: Frame) -> Place {
        Place(Some(Rc::new(Step { parent: self.clone(), frame })))
    }

    /// From the root to here.
    pub fn frames(&self) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut here = self;
        while let Some(step) = &here.0 {
            frames.push(step.frame.clone());
            here = &step.parent;
        }
        frames.reverse();
        frames
    }
}

impl Drop for Step {
    /// Unlinks the chain in a loop: a deep query must not recurse here.
    fn drop(&mut self) {
        let mut next = self.parent.0.take();
        while let Some(step) = next {
            match Rc::try_unwrap(step) {
                Ok(mut step) => next = step.parent.0.take(),
                Err(_) => break,
            }
        }
    }
}

/// A failed evaluation. Without a place it is blamed on the term whose evaluator returned it.
#[derive(Clone, Debug)]
pub struct Failure {
    pub kind: ErrorKind,
    pub message: String,
    pub place: Option<Place>,
    /// Raised by a bare `error()`: `default` gives the original failure (or null) in its stead.
    pub bare: bool,
}

/// What evaluators return.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), place: None, bare: false }
    }

    /// A query that makes no sense: wrong types, wrong values. The usual kind.
    pub fn logic(message: impl Into<String>) -> Failure {
        Failure::new(ErrorKind::QueryLogic, message)
    }

    /// Something asked for is not there; `default` catches these.
    pub fn missing(message: impl Into<String>) -> Failure {
        Failure::new(ErrorKind::NonExistence, message)
    }

    pub fn limit(message: impl Into<String>) -> Failure {
        Failure::new(ErrorKind::ResourceLimit, message)
    }

    pub fn internal(message: impl Into<String>) -> Failure {
        Failure::new(ErrorKind::Internal, message)
    }

    /// What `default` catches and what filters and terminals skip.
    pub fn is_missing(&self) -> bool {
        self.kind == ErrorKind::NonExistence
    }

    /// Blames `place` unless somebody deeper is blamed already.
    pub fn at(mut self, place: &Place) -> Failure {
        if self.place.is_none() {
            self.place = Some(place.clone());
        }
        self
    }

    pub fn into_query_error(self) -> QueryError {
        QueryError {
            kind: self.kind,
            message: self.message,
            backtrace: self.place.map(|place| place.frames()).unwrap_or_default(),
        }
    }
}

impl From<QueryError> for Failure {
    /// Errors from `proto` (keys, JSON, pseudotypes) carry no place; those of functions that travelled do.
    fn from(error: QueryError) -> Failure {
        let place = match error.backtrace.as_slice() {
            [] => None,
            frames => Some(frames.iter().cloned().fold(Place::root(), |place, frame| place.child(frame))),
        };
        Failure { kind: error.kind, message: error.message, place, bare: false }
    }
}
