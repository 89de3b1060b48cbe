//! Panics in evaluation: one is that query's INTERNAL error, and the connection lives.
//!
//! Always: only the query crate's code runs under these guards. A panic of storage or of this crate is a broken invariant:
//! it goes up to the core's thread, which ends the process.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt;
use photondb_proto::error::{ErrorKind, QueryError};

/// Awaits evaluation.
///
/// # Errors
/// INTERNAL when it panics; nothing of the evaluation is used afterwards.
pub async fn caught<T>(evaluation: impl Future<Output = T>) -> Result<T, QueryError> {
    AssertUnwindSafe(evaluation).catch_unwind().await.map_err(|panic| internal(&*panic))
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
