//! The control plane: one ordinary thread with a tokio current-thread runtime that serves HTTP and watches the cores.
//!
//! Always: it touches no state of a core; it asks by message and keeps copies of the answers ([`board`]). A slow or
//! blocked control plane never slows a query. It starts before the cores, so that a long recovery shows as "starting"
//! instead of a closed port, and ends after them, so that draining shows too.

pub mod board;
pub mod health;
pub mod http;
pub mod metrics;
mod watch;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use photondb_runtime::OutsideJob;
use tokio::sync::{mpsc, oneshot};

use board::{Board, Phase, Server};
pub use watch::CoreLink;

use crate::outside::{self, OutsideOptions};

/// What the control plane is told from outside.
pub struct ControlOptions {
    /// Bound and listening already, so that a port in use is `boot`'s to report; empty without HTTP.
    pub listeners: Vec<TcpListener>,
    pub http_timeout: Duration,
    pub server: Server,
    /// Scripts and HTTP requests of queries.
    pub outside: OutsideOptions,
    pub outside_jobs: flume::Receiver<OutsideJob>,
    /// Called on the control thread when a core has ended though nobody stopped it.
    pub core_lost: Arc<dyn Fn(u16) + Send + Sync>,
}

/// The running control plane.
pub struct Control {
    board: Arc<Board>,
    orders: mpsc::UnboundedSender<Order>,
    thread: JoinHandle<()>,
}

/// What `boot` tells the control thread; a handful in a process's life, so the channel needs no bound.
enum Order {
    Watch(Vec<CoreLink>),
    Stop(oneshot::Sender<()>),
}

/// How long connections may take to end once the server stops.
const HTTP_DRAIN: Duration = Duration::from_millis(300);

impl Control {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn start(options: ControlOptions) -> std::io::Result<Control> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let board = Arc::new(Board::new(options.server.clone()));
        let (orders, inbox) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn({
            let board = board.clone();
            move || runtime.block_on(run(options, board, inbox))
        })?;
        Ok(Control { board, orders, thread })
    }

    /// Begins to watch the cores: from now on the server is ready as long as they answer.
    pub fn serve(&self, cores: Vec<CoreLink>) {
        self.board.attach(cores.iter().map(|core| core.number));
        self.board.enter(Phase::Serving);
        let _ = self.orders.send(Order::Watch(cores));
    }

    /// From now on the server says that it is not ready, and cores may end.
    pub fn begin_stop(&self) {
        self.board.enter(Phase::Stopping);
    }

    /// Ends the thread; HTTP requests in flight get a moment to finish.
    pub fn stop(self) {
        self.begin_stop();
        let (done, ended) = oneshot::channel();
        if self.orders.send(Order::Stop(done)).is_ok() {
            let _ = ended.blocking_recv();
        }
        let _ = self.thread.join();
    }
}

async fn run(options: ControlOptions, board: Arc<Board>, mut inbox: mpsc::UnboundedReceiver<Order>) {
    let (stop, stopped) = tokio::sync::watch::channel(());
    let door = http::Door::new(board.clone(), options.http_timeout);
    for listener in options.listeners {
        let address = listener.local_addr().ok();
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => drop(tokio::spawn(door.clone().listen(listener, stopped.clone()))),
            Err(error) => tracing::error!(?address, %error, "HTTP cannot be served here"),
        }
    }
    drop(stopped);
    tokio::spawn(outside::serve(options.outside, options.outside_jobs));
    while let Some(order) = inbox.recv().await {
        match order {
            Order::Watch(cores) => {
                for core in cores {
                    board.link(&core);
                    tokio::spawn(watch::watch(core, board.clone(), options.core_lost.clone()));
                }
            }
            Order::Stop(done) => {
                let _ = stop.send(());
                // Every listener and connection holds a receiver until it has ended.
                let _ = tokio::time::timeout(HTTP_DRAIN, stop.closed()).await;
                let _ = done.send(());
                return;
            }
        }
    }
}

/// Listens on every address, each with the sentence to show when it cannot.
pub fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, (SocketAddr, std::io::Error)> {
    let listen_on = |address: &SocketAddr| {
        let listener = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        listener.map_err(|error| (*address, error))
    };
    addresses.iter().map(listen_on).collect()
}
