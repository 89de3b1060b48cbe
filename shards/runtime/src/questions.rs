//! The questions that scans of geo indexes ask on this core.
//!
//! Always: what is kept is a copy of what bytes say, so it may be forgotten at any time. A question travels with every step of a
//! scan, since nothing of a scan is kept between its steps; to read one with thousands of vertices takes longer than the step. So the
//! last large ones are kept as they were read, by their bytes. Small ones are read each time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use photondb_proto::error::QueryError;
use photondb_query::geo::pace::Pace;
use photondb_query::geo::question::Question;

use crate::core::Core;
use crate::env::Env;
use crate::panics::caught_in_turns;

/// A question of fewer bytes, some tens of vertices, is read within a few microseconds.
const LARGE_BYTES_MIN: usize = 1 << 10;
/// Bytes of the questions that are kept. What is read of one takes about ten times as much: ten megabytes on each core.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// The last large questions, the newest last.
#[derive(Default)]
pub struct Questions {
    kept: RefCell<VecDeque<Rc<Question>>>,
}

impl Questions {
    fn find(&self, bytes: &[u8]) -> Option<Rc<Question>> {
        let mut kept = self.kept.borrow_mut();
        let place = kept.iter().position(|question| question.bytes() == bytes)?;
        let found = kept.remove(place)?;
        kept.push_back(found.clone());
        Some(found)
    }

    fn keep(&self, question: &Rc<Question>) {
        let bytes = question.bytes().len();
        if !(LARGE_BYTES_MIN..=KEPT_BYTES_MAX).contains(&bytes) || self.find(question.bytes()).is_some() {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        kept.push_back(question.clone());
        while kept.iter().map(|question| question.bytes().len()).sum::<usize>() > KEPT_BYTES_MAX {
            kept.pop_front();
        }
    }
}

/// The question of these bytes; none if there are none.
///
/// # Errors
/// They are no question.
pub async fn question<E: Env>(core: &Core<E>, bytes: &[u8]) -> Result<Option<Rc<Question>>, QueryError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.len() >= LARGE_BYTES_MIN
        && let Some(known) = core.questions.find(bytes)
    {
        return Ok(Some(known));
    }
    let pace = Pace::pending();
    let read = caught_in_turns(Question::from_bytes(bytes, &pace), async || core.env.next_turn().await);
    let question = Rc::new(read.await??);
    core.questions.keep(&question);
    Ok(Some(question))
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;
    use photondb_proto::datum::Datum;

    use super::*;

    /// Asks for what meets a line of so many vertices.
    fn line(vertices: u32, latitude: f64) -> Rc<Question> {
        let position =
            |index| Datum::array(vec![Datum::Number(f64::from(index) * 0.001), Datum::Number(latitude)]);
        let line = Datum::object([
            ("$reql_type$", Datum::string("GEOMETRY")),
            ("coordinates", Datum::array((0..vertices).map(position).collect::<Vec<Datum>>())),
            ("type", Datum::string("LineString")),
        ]);
        Rc::new(block_on(Question::meets(&line, &Pace::never())).expect("a line"))
    }

    #[test]
    fn the_last_large_questions_are_kept_within_bounds() {
        let questions = Questions::default();
        let small = line(2, 0.0);
        questions.keep(&small);
        assert!(questions.find(small.bytes()).is_none());
        let large: Vec<Rc<Question>> = (0..8).map(|latitude| line(10_000, f64::from(latitude))).collect();
        for question in &large {
            questions.keep(question);
            questions.keep(question);
            assert!(questions.find(question.bytes()).is_some_and(|found| Rc::ptr_eq(&found, question)));
            // The first is asked again and again.
            assert!(questions.find(large[0].bytes()).is_some());
        }
        let kept = large.iter().filter(|question| questions.find(question.bytes()).is_some());
        assert_eq!(kept.count(), KEPT_BYTES_MAX / large[0].bytes().len());
    }
}
