//! What queries do outside the data plane: scripts ([`script`]) and HTTP requests ([`http`]), on the control thread.
//!
//! Always: a core hands over a job and gets one answer; it never waits in a call. Jobs wait in a bounded queue, and of each kind
//! only so many run at a time. A script runs in another process ([`worker`]), so nothing that it does can hurt this one.

pub mod address;
mod digest;
pub mod http;
pub mod script;
mod tls;
pub mod worker;

use std::sync::Arc;

use photondb_proto::limits;
use photondb_proto::outside::{OutsideOp, OutsideReply};
use photondb_runtime::OutsideJob;
use tokio::sync::Semaphore;

/// What is allowed of it.
#[derive(Clone, Debug)]
pub struct OutsideOptions {
    pub http: http::HttpOptions,
}

/// HTTP requests at a time; others wait.
const HTTP_REQUESTS_MAX: usize = 64;

/// Does jobs until nobody can send one any more.
pub async fn serve(options: OutsideOptions, jobs: flume::Receiver<OutsideJob>) {
    let pool = Arc::new(script::Pool::new());
    let client = Arc::new(http::Http::new(options.http));
    let requests = Arc::new(Semaphore::new(HTTP_REQUESTS_MAX));
    let running = Arc::new(Semaphore::new(limits::OUTSIDE_WAITING_MAX));
    while let Ok(OutsideJob { op, answer }) = jobs.recv_async().await {
        // The queue fills, and queries are refused, while this many run or wait for their turn.
        let Ok(turn) = running.clone().acquire_owned().await else { return };
        let (pool, client, requests) = (pool.clone(), client.clone(), requests.clone());
        tokio::spawn(async move {
            let reply = match op {
                OutsideOp::Script(call) => OutsideReply::Script(pool.run(&call).await),
                OutsideOp::Http(call) => {
                    let _turn = requests.acquire().await;
                    OutsideReply::Http(client.fetch(&call).await)
                }
            };
            // The query may be gone.
            let _ = answer.send(reply);
            drop(turn);
        });
    }
}
