//! Panics in evaluation: one is that query's INTERNAL error, and the connection lives.
//!
//! Always: only the query crate's code runs under these guards. A panic of storage or of this crate is a broken invariant:
//! it goes up to the core's thread, which ends the process.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;

use futures_lite::future::poll_once;
use futures_util::FutureExt;
use photondb_proto::error::{ErrorKind, QueryError};

/// Awaits evaluation.
///
/// # Errors
/// INTERNAL when it panics; nothing of the evaluation is used afterwards.
pub async fn caught<T>(evaluation: impl Future<Output = T>) -> Result<T, QueryError> {
    AssertUnwindSafe(evaluation).catch_unwind().await.map_err(|panic| internal(&*panic))
}

/// Awaits evaluation among the rows of a core, which pends only to let others go first: `turn` waits until they have. Being woken
/// alone would not do, since an executor may go on with who has just been woken before it asks for what has come in.
///
/// # Errors
/// Those of [`caught`].
pub async fn caught_in_turns<T>(
    evaluation: impl Future<Output = T>,
    turn: impl AsyncFn(),
) -> Result<T, QueryError> {
    in_turns(caught(evaluation), turn).await
}

/// Awaits work that pends only to let others go first.
pub async fn in_turns<T>(work: impl Future<Output = T>, turn: impl AsyncFn()) -> T {
    let mut work = pin!(work);
    loop {
        match poll_once(work.as_mut()).await {
            Some(result) => return result,
            None => turn().await,
        }
    }
}

/// Runs one step of evaluation.
///
/// # Errors
/// INTERNAL when it panics; nothing of the evaluation is used afterwards.
pub fn caught_step<T>(step: impl FnOnce() -> T) -> Result<T, QueryError> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|panic| internal(&*panic))
}

fn internal(panic: &(dyn Any + Send)) -> QueryError {
    let text = panic.downcast_ref::<&str>().copied();
    let text =
        text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given");
    tracing::error!(panic = text, "evaluation panicked");
    QueryError::new(ErrorKind::Internal, format!("The server failed to evaluate this query ({text})."))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_lite::future::{block_on, yield_now};

    use super::caught_in_turns;

    #[test]
    fn evaluation_that_pends_lets_others_go_first() {
        let turns = Cell::new(0);
        let work = async {
            for done in 0..3 {
                assert_eq!(turns.get(), done);
                yield_now().await;
            }
        };
        let turn = async || turns.set(turns.get() + 1);
        assert!(block_on(caught_in_turns(work, turn)).is_ok());
        assert_eq!(turns.get(), 3);
    }
}
