//! The HTTP door: one table of resources, one file per resource, and the limits that all of them share.
//!
//! Always: connections, the time to send a request's head and the time to answer it are bounded, so that no client can
//! hold the control thread or its memory; every error is JSON of one shape.

mod health;
mod metrics;
mod root;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;

use super::board::Board;

/// One resource of the HTTP port.
pub struct Resource {
    pub path: &'static str,
    pub summary: &'static str,
    pub methods: fn() -> MethodRouter<Shared>,
}

/// Every resource, in the order of `/`.
pub static RESOURCES: &[&[Resource]] = &[root::RESOURCES, health::RESOURCES, metrics::RESOURCES];

/// What the resources see.
#[derive(Clone)]
pub struct Shared {
    pub board: Arc<Board>,
    pub answers: Arc<Answers>,
    timeout: Duration,
}

/// HTTP answers by hundreds of their status.
#[derive(Default)]
pub struct Answers {
    by_class: [AtomicU64; 5],
}

impl Answers {
    fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.by_class[class].fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> [u64; 5] {
        self.by_class.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

/// Connections at a time; more are closed at once. Probes and scrapers need a few.
const CONNECTIONS_MAX: usize = 1024;
/// How long a client may take to send a request's head, and a kept connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A request's head; ours fit easily.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// A peer that takes no byte of an answer for this long is given up.
const SEND_TIMEOUT_MS: u32 = 30_000;
/// Before the next try when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Everything a listener needs, shared by all of them.
#[derive(Clone)]
pub struct Door {
    router: Router,
    permits: Arc<Semaphore>,
}

impl Door {
    pub fn new(board: Arc<Board>, timeout: Duration) -> Door {
        let shared = Shared { board, answers: Arc::new(Answers::default()), timeout };
        Door { router: router(shared), permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }

    /// Accepts connections until `stopped` changes.
    pub async fn listen(self, listener: TcpListener, mut stopped: watch::Receiver<()>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopped.changed() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    // Without a permit the connection is dropped, which closes it.
                    if let Ok(permit) = self.permits.clone().try_acquire_owned() {
                        tokio::spawn(serve(stream, self.router.clone(), stopped.clone(), permit));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "an HTTP connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    router: Router,
    mut stopped: watch::Receiver<()>,
    permit: OwnedSemaphorePermit,
) {
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, SEND_TIMEOUT_MS);
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let answer = router.clone().oneshot(request.map(axum::body::Body::new));
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // How a client's connection ends is its own affair: nothing is logged.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    drop(permit);
}

fn router(shared: Shared) -> Router {
    let mut router = Router::new();
    for resource in RESOURCES.iter().copied().flatten() {
        router = router.route(resource.path, (resource.methods)());
    }
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(shared.clone(), bounded))
        .with_state(shared)
}

/// The time limit, the counts and the headers of every answer.
async fn bounded(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(shared.timeout, next.run(request)).await;
    let mut answer = answer.unwrap_or_else(|_| {
        let sentence = format!("the request took longer than {} s (--timeout)", shared.timeout.as_secs());
        Problem { status: StatusCode::SERVICE_UNAVAILABLE, code: "timeout", message: sentence }
            .into_response()
    });
    shared.answers.count(answer.status());
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// An error as every resource answers it: `{"error": {"code": …, "message": …}}`.
pub struct Problem {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": { "code": self.code, "message": self.message } });
        (self.status, axum::Json(body)).into_response()
    }
}

async fn not_found(uri: Uri) -> Problem {
    let message = format!("there is nothing at {}; / lists what there is", uri.path());
    Problem { status: StatusCode::NOT_FOUND, code: "not_found", message }
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let message = format!("{} does not take {method}", uri.path());
    Problem { status: StatusCode::METHOD_NOT_ALLOWED, code: "method_not_allowed", message }
}

#[cfg(test)]
mod tests;
