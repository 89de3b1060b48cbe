//! Starts the server and stops it: the only place that wires its parts together.
//!
//! Always: parts stop in the reverse order of their start. Whatever keeps the server from starting is one sentence that
//! says what to do, and leaves nothing running. A first SIGTERM or SIGINT drains and stops within [`STOP_MAX`], a second
//! one, or one before the server serves, ends the process at once: the store is made to survive that.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow, bail};
use photondb_runtime::{
    CoreHandle, DataPlane, DataPlaneOptions, OutsideDoor, OutsideJob, ServerFacts, StartSummary,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::config::serve::{InitialPassword, MB, Security, ServeConfig};
use crate::control::board::Server;
use crate::control::{Control, ControlOptions, CoreLink};
use crate::outside::OutsideOptions;
use crate::{Program, VERSION, control, logging};

/// From the signal to the end of the process, at most.
const STOP_MAX: Duration = Duration::from_millis(4800);
/// What of it the cores have to drain and close their stores.
const DRAIN_MAX: Duration = Duration::from_millis(3500);
/// For the log writers before the process aborts.
const LOG_PAUSE: Duration = Duration::from_millis(200);

/// Runs the server until it is told to stop.
pub fn serve(program: Program, config: &ServeConfig) -> anyhow::Result<()> {
    let begun = Instant::now();
    let life = Life::watch_signals()?;
    raise_file_limit();
    let fresh = check_data_dir(config)?;
    check_driver_port(config)?;
    let http = config.http.as_ref();
    let listeners = control::listen(http.map_or(&[], |http| http.addresses.as_slice()))
        .map_err(|(address, error)| anyhow!(port_sentence(address, &error, "--http-port")))?;
    let http_addresses: Vec<SocketAddr> =
        listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    create_data_dir(&config.data_dir)?;
    photondb_runtime::probe(&config.data_dir)?;
    let logging = logging::start(&config.log_dir, &config.log_level)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let (door, jobs) = OutsideDoor::open();
    let control = Control::start(control_options(config, listeners, jobs))
        .context("cannot start the control thread")?;
    let facts = server_facts(config, http_addresses.first(), &logging);
    let (plane, password) = match start_data_plane(config, facts, door) {
        Ok(started) => started,
        Err(error) => {
            control.stop();
            tracing::error!(target: logging::FILES_ONLY, "the server did not start: {error:#}");
            return Err(error);
        }
    };
    control.serve(plane.cores().iter().map(core_link).collect());
    let _pid_file = PidFile::write(config.pid_file.as_deref())?;
    let greeting = Greeting { program, config, summary: plane.summary(), http: &http_addresses, begun };
    greeting.print(password.as_deref().map(|password| (password, fresh)));

    let signal = life.wait();
    tracing::info!("stopping on {signal}");
    control.begin_stop();
    let stopped = plane.stop(DRAIN_MAX);
    control.stop();
    match stopped {
        Ok(()) => tracing::info!("stopped"),
        Err(error) => tracing::warn!("stopped, but {error}; everything acknowledged is safe"),
    }
    drop(logging);
    Ok(())
}

fn start_data_plane(
    config: &ServeConfig,
    server: ServerFacts,
    outside: OutsideDoor,
) -> anyhow::Result<(DataPlane, Option<String>)> {
    let made = match &config.initial_password {
        Some(InitialPassword::Auto) => Some(random_password()?),
        Some(InitialPassword::Given(_)) | None => None,
    };
    let given = match &config.initial_password {
        Some(InitialPassword::Given(text)) => Some(text.clone()),
        Some(InitialPassword::Auto) => made.clone(),
        None => None,
    };
    let plane = DataPlane::start(DataPlaneOptions {
        bind: config.bind_driver.clone(),
        driver_port: config.driver_port,
        data_dir: config.data_dir.clone(),
        cpus: config.cpus.clone(),
        cache_bytes: config.cache_bytes,
        query_memory_bytes: config.query_memory_bytes,
        storage: config.storage,
        compression_level: config.compression_level,
        compression_bytes_min: config.compression_bytes_min,
        change_log: config.change_log,
        initial_password: given,
        server_name: config.server_name.clone(),
        password_iterations: config.password_iterations,
        server,
        require_admin_password: needs_password(config),
        outside,
        ..DataPlaneOptions::default()
    })?;
    Ok((plane, made))
}

/// What the system tables tell of this process. The command line is shown as `ps` shows it, without a password.
fn server_facts(config: &ServeConfig, http: Option<&SocketAddr>, logging: &logging::Logging) -> ServerFacts {
    let recent = logging.recent.clone();
    let uname = rustix::system::uname();
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    ServerFacts {
        version: VERSION.to_owned(),
        hostname: uname.nodename().to_string_lossy().into_owned(),
        argv: shown_arguments(std::env::args()),
        process_id: std::process::id(),
        started_unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
        cache_bytes: config.cache_bytes,
        http_port: http.map(SocketAddr::port),
        cluster_port: config.cluster_port,
        log: Some(Arc::new(move || recent.lines())),
    }
}

/// The words of the command line, but for what follows `--initial-password`.
fn shown_arguments(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut hides = false;
    let shown = words.map(|word| {
        let hidden = std::mem::replace(&mut hides, word == "--initial-password");
        match word.split_once('=') {
            _ if hidden => "...".to_owned(),
            Some(("--initial-password", _)) => "--initial-password=...".to_owned(),
            Some(_) | None => word,
        }
    });
    shown.collect()
}

fn needs_password(config: &ServeConfig) -> bool {
    config.is_exposed() && config.security == Security::Guarded
}

/// 128 random bits, in letters that can be read aloud.
fn random_password() -> anyhow::Result<String> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("the system gives no random numbers: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn control_options(
    config: &ServeConfig,
    listeners: Vec<TcpListener>,
    outside_jobs: flume::Receiver<OutsideJob>,
) -> ControlOptions {
    let server = Server {
        version: VERSION,
        started: Instant::now(),
        started_at: SystemTime::now(),
        cache_bytes: config.cache_bytes,
        query_memory_bytes: config.query_memory_bytes,
    };
    ControlOptions {
        listeners,
        http_timeout: config.http.as_ref().map_or(Duration::from_secs(30), |http| http.timeout),
        server,
        outside: OutsideOptions { http: config.query_http },
        outside_jobs,
        core_lost: Arc::new(abort_for_lost_core),
    }
}

/// A core ends only when the server stops or when something in it broke. Its shards are then out of reach and its
/// clients hang, so the process ends too and whoever watches it starts it anew.
fn abort_for_lost_core(core: u16) {
    let sentence = format!("core {core} has ended unexpectedly: the server aborts; start it again");
    tracing::error!("{sentence}");
    std::thread::sleep(LOG_PAUSE);
    let _ = writeln!(std::io::stderr(), "{sentence}");
    std::process::abort();
}

fn core_link(core: &CoreHandle) -> CoreLink {
    let handle = core.clone();
    let ask = move || {
        let handle = handle.clone();
        Box::pin(async move { handle.report().await }) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
    };
    CoreLink { number: core.number(), ask: Arc::new(ask) }
}

/// As many connections as the hard limit allows; how many that is, is the administrator's choice.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // The kernel refuses only what a sandbox forbids; the old limit then holds.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Refuses a directory that cannot be served; says whether it holds no store yet.
fn check_data_dir(config: &ServeConfig) -> anyhow::Result<bool> {
    let data_dir = &config.data_dir;
    if data_dir.exists() && !data_dir.is_dir() {
        bail!("{} is not a directory: choose another --data-dir", data_dir.display());
    }
    let fresh = !data_dir.join("store-0").exists();
    if fresh && data_dir.join("metadata").is_file() {
        bail!(
            "{} holds the data of RethinkDB, whose files PhotonDB does not read: choose another --data-dir and bring the \
             data over with rethinkdb-dump and rethinkdb-restore",
            data_dir.display()
        );
    }
    if fresh && needs_password(config) && config.initial_password.is_none() {
        bail!(EMPTY_PASSWORD);
    }
    Ok(fresh)
}

const EMPTY_PASSWORD: &str = "the admin account would have no password, so the server does not listen beyond loopback: give one \
     with --initial-password (`auto` makes one), or --allow-empty-password if the network is closed by other means";

fn create_data_dir(data_dir: &Path) -> anyhow::Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
    made.map_err(|error| anyhow!("cannot create {} ({error}): choose another --data-dir", data_dir.display()))
}

/// The cores share their port with SO_REUSEPORT, which would let a second server of the same user in unnoticed. So it is
/// first bound plainly, which fails while anybody listens.
fn check_driver_port(config: &ServeConfig) -> anyhow::Result<()> {
    for address in config.driver_addresses() {
        TcpListener::bind(address)
            .map_err(|error| anyhow!(port_sentence(address, &error, "--driver-port")))?;
    }
    Ok(())
}

fn port_sentence(address: SocketAddr, error: &std::io::Error, flag: &str) -> String {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    let (ip, port) = (address.ip(), address.port());
    match error.kind() {
        AddrInUse => format!(
            "port {port} of {ip} is in use: stop the program that holds it, or choose another port with {flag} or \
             --port-offset"
        ),
        AddrNotAvailable => format!("this machine has no address {ip}: correct --bind"),
        PermissionDenied => {
            format!("not allowed to listen on port {port}: choose one above 1023 with {flag}")
        }
        _ => format!("cannot listen on {address}: {error}; choose another with --bind and {flag}"),
    }
}

/// The process's stages, which decide what a signal does.
const STARTING: u8 = 0;
const SERVING: u8 = 1;
const STOPPING: u8 = 2;

/// Signals, from before anything starts.
struct Life {
    stage: Arc<AtomicU8>,
    stop: mpsc::Receiver<i32>,
}

impl Life {
    fn watch_signals() -> anyhow::Result<Life> {
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])
            .context("cannot watch for signals")?;
        let stage = Arc::new(AtomicU8::new(STARTING));
        let (tell, stop) = mpsc::channel();
        let seen = stage.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for signal in signals.forever() {
                    let serves = seen.compare_exchange(SERVING, STOPPING, Ordering::SeqCst, Ordering::SeqCst);
                    if serves.is_err() || tell.send(signal).is_err() {
                        signal_hook::low_level::exit(128 + signal);
                    }
                    end_later();
                }
            })
            .context("cannot watch for signals")?;
        Ok(Life { stage, stop })
    }

    /// Waits for the signal to stop; gives its name.
    fn wait(&self) -> &'static str {
        self.stage.store(SERVING, Ordering::SeqCst);
        match self.stop.recv() {
            Ok(signal) => signal_hook::low_level::signal_name(signal).unwrap_or("a signal"),
            Err(mpsc::RecvError) => "the loss of the signal thread",
        }
    }
}

/// Ends the process if stopping takes too long: what was acknowledged is in the log, and opening will replay it.
fn end_later() {
    std::thread::spawn(|| {
        std::thread::sleep(STOP_MAX);
        let _ = writeln!(
            std::io::stderr(),
            "stopping took too long and was cut short; everything acknowledged is safe"
        );
        signal_hook::low_level::exit(1);
    });
}

/// The file with our process id, gone again when the server has stopped.
struct PidFile<'p> {
    path: Option<&'p Path>,
}

impl PidFile<'_> {
    fn write(path: Option<&Path>) -> anyhow::Result<PidFile<'_>> {
        if let Some(path) = path {
            std::fs::write(path, format!("{}\n", std::process::id())).with_context(|| {
                format!("cannot write the process id to {}: correct --pid-file", path.display())
            })?;
        }
        Ok(PidFile { path })
    }
}

impl Drop for PidFile<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What start-up prints for the person at the terminal.
struct Greeting<'g> {
    program: Program,
    config: &'g ServeConfig,
    summary: &'g StartSummary,
    http: &'g [SocketAddr],
    begun: Instant,
}

impl Greeting<'_> {
    /// `password` is one that was made, and whether it surely holds because the directory is new.
    fn print(&self, password: Option<(&str, bool)>) {
        let text = self.text(password);
        let mut out = std::io::stdout().lock();
        // A closed terminal is no reason to stop serving.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        tracing::info!(
            version = VERSION,
            listening = ?self.summary.listening,
            http = ?self.http,
            cpus = ?self.config.cpus,
            "serving"
        );
    }

    fn text(&self, password: Option<(&str, bool)>) -> String {
        let list = |addresses: &[SocketAddr], scheme: &str| {
            let texts: Vec<String> = addresses.iter().map(|address| format!("{scheme}{address}")).collect();
            if texts.is_empty() { "off".to_owned() } else { texts.join(", ") }
        };
        let cpus: Vec<String> = self.config.cpus.iter().map(usize::to_string).collect();
        let data_dir =
            std::path::absolute(&self.config.data_dir).unwrap_or_else(|_| self.config.data_dir.clone());
        let log_dir =
            std::path::absolute(&self.config.log_dir).unwrap_or_else(|_| self.config.log_dir.clone());
        let mut text = format!("{}\n", self.program.version_line());
        let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<9} {value}\n"));
        line("drivers", list(&self.summary.listening, ""));
        line("http", list(self.http, "http://"));
        line("data", format!("{} ({} store(s))", data_dir.display(), self.summary.stores));
        line("logs", log_dir.display().to_string());
        line("cores", format!("{} (on CPU {})", cpus.len(), cpus.join(", ")));
        line(
            "cache",
            format!(
                "{} MB, and {} MB for queries",
                self.config.cache_bytes / MB,
                self.config.query_memory_bytes / MB
            ),
        );
        match password {
            Some((password, true)) => line("password", format!("{password} (of admin; shown only now)")),
            Some((password, false)) => {
                line("password", format!("{password} (of admin, if it had none before; shown only now)"));
            }
            None => {}
        }
        match self.config.security {
            Security::DevMode => line("security", "off (--dev-mode)".to_owned()),
            Security::EmptyPasswordAllowed | Security::Guarded if self.summary.admin_password_is_empty => {
                line("security", "the admin account has no password".to_owned());
            }
            Security::EmptyPasswordAllowed | Security::Guarded => {}
        }
        if self.summary.shards_to_spread > 0 {
            line("shards", format!("{} stay in the stores they are in", self.summary.shards_to_spread));
        }
        let took = self.begun.elapsed().as_secs_f64();
        text.push_str(&format!(
            "Server ready, \"{}\" {}, after {took:.2} s\n",
            self.summary.server_name, self.summary.server_id
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_shown_without_its_password() {
        for (line, want) in [
            ("photondb serve --cores 2", "photondb serve --cores 2"),
            ("photondb --initial-password x serve", "photondb --initial-password ... serve"),
            ("photondb --initial-password=x serve", "photondb --initial-password=... serve"),
        ] {
            let shown = shown_arguments(line.split(' ').map(str::to_owned));
            assert_eq!(shown.join(" "), want);
        }
    }
}
