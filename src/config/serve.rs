//! The settings of `serve` as the parts of the server want them: checked against each other and against the machine.
//!
//! Always: a [`ServeConfig`] can be started as far as settings go. What only the operating system can answer (ports in
//! use, io_uring, locks) is `boot`'s to find out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use photondb_runtime::{Backend, ChangeLogRetention};

use super::layers::{Source, Values};
use super::machine::Machine;
use super::{Address, CACHE_MB_MIN, ConfigError, PASSWORD_BYTES_MAX, QUERY_MEMORY_MB_MIN};
use crate::outside::http::HttpOptions;

/// All that `serve` needs to know.
#[derive(Clone, PartialEq, Eq)]
pub struct ServeConfig {
    pub bind_driver: Vec<IpAddr>,
    pub driver_port: u16,
    /// `None` with `--no-http`.
    pub http: Option<HttpConfig>,
    pub cluster_port: u16,
    pub data_dir: PathBuf,
    pub storage: Backend,
    pub log_dir: PathBuf,
    pub log_level: String,
    /// The CPU of each core.
    pub cpus: Vec<usize>,
    pub cache_bytes: u64,
    pub query_memory_bytes: u64,
    /// From 1 to 19, as zstd counts; 0: documents are stored as they are.
    pub compression_level: i32,
    pub compression_bytes_min: u32,
    /// What is kept of each table's changes.
    pub change_log: Option<ChangeLogRetention>,
    pub security: Security,
    pub initial_password: Option<InitialPassword>,
    pub password_iterations: u32,
    pub server_name: Option<String>,
    pub pid_file: Option<PathBuf>,
    /// What `http` in queries may do.
    pub query_http: HttpOptions,
    /// What the user should know though it is no error.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    pub addresses: Vec<SocketAddr>,
    pub timeout: Duration,
}

/// How much the server insists on a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Beyond loopback, the admin account must have a password.
    Guarded,
    /// `--allow-empty-password`.
    EmptyPasswordAllowed,
    /// `--dev-mode`: none, on loopback only.
    DevMode,
}

#[derive(Clone, PartialEq, Eq)]
pub enum InitialPassword {
    /// Make one and print it.
    Auto,
    Given(String),
}

impl ServeConfig {
    /// Whether anything listens beyond loopback.
    pub fn is_exposed(&self) -> bool {
        let http = self.http.iter().flat_map(|http| http.addresses.iter().map(SocketAddr::ip));
        self.bind_driver.iter().copied().chain(http).any(|address| !address.is_loopback())
    }

    pub fn driver_addresses(&self) -> Vec<SocketAddr> {
        self.bind_driver.iter().map(|address| SocketAddr::new(*address, self.driver_port)).collect()
    }
}

/// Bytes of the MB that memory settings are counted in, as RethinkDB's are.
pub const MB: u64 = 1 << 20;
/// What the server takes besides its two budgets, with a moderate number of connections.
const OVERHEAD_BYTES: u64 = 64 * MB;

/// The executor opens files relative to no directory, so a path must say where it begins.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Turns resolved settings into what `serve` needs.
pub fn serve_config(values: &Values, machine: &Machine) -> Result<ServeConfig, ConfigError> {
    let mut warnings = Vec::new();
    let [driver_port, http_port, cluster_port] = ports(values)?;
    let (cache_bytes, query_memory_bytes) = memory(values, machine, &mut warnings)?;
    let data_dir = absolute(values.path("data-dir").expect("has a default"));
    let log_dir = values.path("log-dir").map_or_else(|| data_dir.join("log"), absolute);
    let config = ServeConfig {
        bind_driver: listen_addresses(values, "bind-driver")?,
        driver_port,
        http: http(values, http_port)?,
        cluster_port,
        data_dir,
        log_dir,
        storage: values.text("storage").and_then(Backend::named).expect("has a default among the choices"),
        log_level: values.text("log-level").expect("has a default").to_owned(),
        cpus: cpus(values, machine, &mut warnings),
        cache_bytes,
        query_memory_bytes,
        compression_level: values.whole("compression-level").expect("has a default") as i32,
        compression_bytes_min: values.whole("compression-threshold").expect("has a default") as u32,
        change_log: change_log(values),
        security: security(values),
        initial_password: initial_password(values)?,
        password_iterations: values
            .whole("password-iterations")
            .and_then(|count| u32::try_from(count).ok())
            .expect("has a default within the bounds"),
        server_name: server_name(values)?,
        pid_file: values.path("pid-file").map(PathBuf::from),
        query_http: query_http(values),
        warnings,
    };
    check_dev_mode(&config)?;
    Ok(config)
}

fn http(values: &Values, port: u16) -> Result<Option<HttpConfig>, ConfigError> {
    if values.is_on("no-http") {
        return Ok(None);
    }
    let addresses = listen_addresses(values, "bind-http")?;
    let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
    let timeout = Duration::from_secs(values.whole("timeout").expect("has a default"));
    Ok(Some(HttpConfig { addresses, timeout }))
}

fn change_log(values: &Values) -> Option<ChangeLogRetention> {
    let bytes_max = values.whole("change-log-bytes").expect("has a default");
    let age_secs = values.whole("change-log-age").expect("has a default");
    (bytes_max > 0).then_some(ChangeLogRetention { bytes_max, age_ms_max: age_secs * 1000 })
}

fn query_http(values: &Values) -> HttpOptions {
    match (values.is_on("allow-http"), values.is_on("http-allow-private")) {
        (false, _) => HttpOptions::Off,
        (true, false) => HttpOptions::PublicAddresses,
        (true, true) => HttpOptions::AllAddresses,
    }
}

/// The three ports with the offset added: driver, HTTP, cluster.
fn ports(values: &Values) -> Result<[u16; 3], ConfigError> {
    let offset = values.whole("port-offset").expect("has a default");
    let names = ["driver-port", "http-port", "cluster-port"];
    let mut ports = [0u16; 3];
    for (port, name) in ports.iter_mut().zip(names) {
        let base = values.whole(name).expect("has a default");
        // Port 0 is any free one, with or without an offset.
        let offset = if base == 0 { 0 } else { offset };
        *port = u16::try_from(base + offset).map_err(|_| {
            ConfigError::Conflict(format!(
                "--{name} {base} plus --port-offset {offset} is more than 65535: choose a smaller offset"
            ))
        })?;
    }
    for (i, j) in [(0, 1), (0, 2), (1, 2)] {
        let unused = values.is_on("no-http") && (i == 1 || j == 1);
        if ports[i] == ports[j] && ports[i] != 0 && !unused {
            return Err(ConfigError::Conflict(format!(
                "--{} and --{} are both {}: give each a port of its own",
                names[i], names[j], ports[i]
            )));
        }
    }
    Ok(ports)
}

/// Where to listen: what is given for this port, or else `--bind`; and loopback, unless it is not wanted.
fn listen_addresses(values: &Values, name: &str) -> Result<Vec<IpAddr>, ConfigError> {
    let given_for = |name: &str| values.addresses(name).filter(|_| values.source(name) != Source::Default);
    let given = given_for(name).or_else(|| given_for("bind"));
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let no_default = values.is_on("no-default-bind");
    if no_default && given.is_none() {
        return Err(ConfigError::Conflict(
            "--no-default-bind leaves nowhere to listen: say where with --bind".to_owned(),
        ));
    }
    let mut addresses = if no_default { Vec::new() } else { vec![loopback] };
    for address in given.unwrap_or_default() {
        let address = match address {
            Address::All => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Address::Ip(address) => *address,
        };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(without_covered(addresses))
}

/// Drops the addresses that another one covers: binding both would fail as "in use".
fn without_covered(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let every_v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let every = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    if addresses.contains(&every) {
        return vec![every];
    }
    let covered =
        |address: &IpAddr| address.is_ipv4() && *address != every_v4 && addresses.contains(&every_v4);
    addresses.iter().copied().filter(|address| !covered(address)).collect()
}

fn cpus(values: &Values, machine: &Machine, warnings: &mut Vec<String>) -> Vec<usize> {
    let Some(asked) = values.whole("cores") else { return machine.cpus[..machine.cores()].to_vec() };
    let asked = usize::try_from(asked).expect("bounded by the table");
    if asked > machine.cpus.len() {
        warnings.push(format!(
            "--cores {asked} is more than the {} CPUs that this process may use: cores will share CPUs",
            machine.cpus.len()
        ));
    }
    machine.cpus.iter().copied().cycle().take(asked).collect()
}

/// Cache and query memory in bytes.
fn memory(values: &Values, machine: &Machine, warnings: &mut Vec<String>) -> Result<(u64, u64), ConfigError> {
    let spare = machine.memory_bytes.saturating_sub(OVERHEAD_BYTES);
    let cache_auto = (spare / 2 / MB).max(CACHE_MB_MIN);
    let cache_mb = values.whole("cache-size").unwrap_or(cache_auto);
    let query_mb = values.whole("query-memory").unwrap_or((cache_mb / 4).max(QUERY_MEMORY_MB_MIN));
    let wanted = (cache_mb + query_mb).saturating_mul(MB);
    if wanted > machine.memory_bytes {
        return Err(ConfigError::Conflict(format!(
            "--cache-size {cache_mb} and --query-memory {query_mb} are together more than the {} MB that this machine or \
             its control group allows: choose smaller ones",
            machine.memory_bytes / MB
        )));
    }
    if wanted > spare {
        warnings.push(format!(
            "--cache-size and --query-memory leave less than {} MB for everything else; the kernel may end the server",
            OVERHEAD_BYTES / MB
        ));
    }
    Ok((cache_mb * MB, query_mb * MB))
}

fn security(values: &Values) -> Security {
    match (values.is_on("dev-mode"), values.is_on("allow-empty-password")) {
        (true, _) => Security::DevMode,
        (false, true) => Security::EmptyPasswordAllowed,
        (false, false) => Security::Guarded,
    }
}

fn initial_password(values: &Values) -> Result<Option<InitialPassword>, ConfigError> {
    match values.text("initial-password") {
        None => Ok(None),
        Some("auto") => Ok(Some(InitialPassword::Auto)),
        Some(text) if text.len() > PASSWORD_BYTES_MAX => Err(ConfigError::Conflict(format!(
            "--initial-password is longer than {PASSWORD_BYTES_MAX} bytes: shorten it"
        ))),
        Some(text) => Ok(Some(InitialPassword::Given(text.to_owned()))),
    }
}

/// Longest server name.
const SERVER_NAME_BYTES_MAX: usize = 127;

fn server_name(values: &Values) -> Result<Option<String>, ConfigError> {
    let Some(name) = values.text("server-name") else { return Ok(None) };
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if !plain || name.len() > SERVER_NAME_BYTES_MAX {
        return Err(ConfigError::BadValue {
            place: "--server-name".to_owned(),
            found: name.to_owned(),
            want: format!("at most {SERVER_NAME_BYTES_MAX} letters, digits, underscores and dashes"),
        });
    }
    Ok(Some(name.to_owned()))
}

fn check_dev_mode(config: &ServeConfig) -> Result<(), ConfigError> {
    if config.security == Security::DevMode && config.is_exposed() {
        return Err(ConfigError::Conflict(
            "--dev-mode has no security and therefore listens on loopback only: leave out --dev-mode, or the --bind \
             addresses beyond 127.0.0.1"
                .to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::SERVE;
    use super::super::layers::{Sources, resolve};
    use super::*;

    fn machine() -> Machine {
        Machine { cpus: vec![2, 3, 5], cpu_quota: None, memory_bytes: 1088 * MB }
    }

    fn config_on(flags: &[(&str, &str)], machine: &Machine) -> Result<ServeConfig, String> {
        let mut sources = Sources::default();
        for (name, text) in flags {
            sources.flags.entry((*name).to_owned()).or_default().push((*text).to_owned());
        }
        let values = resolve(SERVE, &sources).map_err(|error| error.to_string())?;
        serve_config(&values, machine).map_err(|error| error.to_string())
    }

    fn config(flags: &[(&str, &str)]) -> Result<ServeConfig, String> {
        config_on(flags, &machine())
    }

    #[track_caller]
    fn check_listens(flags: &[(&str, &str)], driver: &[&str], http: &[&str]) {
        let config = config(flags).expect("settings");
        let found: Vec<String> = config.driver_addresses().iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, driver, "driver with {flags:?}");
        let found: Vec<String> =
            config.http.iter().flat_map(|http| http.addresses.iter().map(SocketAddr::to_string)).collect();
        assert_eq!(found, http, "HTTP with {flags:?}");
    }

    #[test]
    fn it_listens_where_it_is_told() {
        check_listens(&[], &["127.0.0.1:28015"], &["127.0.0.1:8080"]);
        check_listens(&[("bind", "all")], &["0.0.0.0:28015"], &["0.0.0.0:8080"]);
        check_listens(&[("bind", "::")], &["[::]:28015"], &["[::]:8080"]);
        check_listens(
            &[("bind", "10.0.0.1"), ("no-http", "true")],
            &["127.0.0.1:28015", "10.0.0.1:28015"],
            &[],
        );
        check_listens(
            &[("bind", "10.0.0.1"), ("no-default-bind", "true"), ("port-offset", "10")],
            &["10.0.0.1:28025"],
            &["10.0.0.1:8090"],
        );
        check_listens(&[("bind-driver", "all")], &["0.0.0.0:28015"], &["127.0.0.1:8080"]);
        check_listens(
            &[("bind", "10.0.0.1"), ("bind-http", "127.0.0.1"), ("http-port", "80")],
            &["127.0.0.1:28015", "10.0.0.1:28015"],
            &["127.0.0.1:80"],
        );
        check_listens(
            &[("bind", "all,::1,127.0.0.1")],
            &["0.0.0.0:28015", "[::1]:28015"],
            &["0.0.0.0:8080", "[::1]:8080"],
        );
    }

    #[track_caller]
    fn check_refused(flags: &[(&str, &str)], want: &str) {
        match config(flags) {
            Ok(_) => panic!("{flags:?} was accepted"),
            Err(refusal) => assert!(refusal.contains(want), "{flags:?}: {refusal}"),
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        check_refused(
            &[("port-offset", "40000")],
            "--driver-port 28015 plus --port-offset 40000 is more than 65535",
        );
        check_refused(&[("http-port", "28015")], "--driver-port and --http-port are both 28015");
        check_refused(&[("cluster-port", "28015")], "--driver-port and --cluster-port are both 28015");
        check_refused(&[("dev-mode", "true"), ("bind", "all")], "--dev-mode has no security");
        check_refused(&[("dev-mode", "true"), ("bind-http", "10.0.0.1")], "--dev-mode has no security");
        check_refused(&[("no-default-bind", "true")], "leaves nowhere to listen");
        check_refused(&[("cache-size", "2048")], "more than the 1088 MB");
        check_refused(&[("server-name", "a b")], "--server-name is \"a b\", but must be at most 127 letters");
    }

    #[test]
    fn ports_that_are_not_opened_may_coincide() {
        assert!(config(&[("http-port", "28015"), ("no-http", "true")]).is_ok());
        assert!(config(&[("http-port", "0"), ("driver-port", "0"), ("port-offset", "7")]).is_ok());
    }

    #[track_caller]
    fn check_cores(flags: &[(&str, &str)], quota: Option<usize>, want: &[usize], warnings: usize) {
        let config = config_on(flags, &Machine { cpu_quota: quota, ..machine() }).expect("settings");
        assert_eq!((config.cpus.as_slice(), config.warnings.len()), (want, warnings), "{flags:?} {quota:?}");
    }

    #[test]
    fn cores_follow_the_mask_and_the_quota_unless_told() {
        check_cores(&[], None, &[2, 3, 5], 0);
        check_cores(&[], Some(2), &[2, 3], 0);
        check_cores(&[], Some(9), &[2, 3, 5], 0);
        check_cores(&[("cores", "1")], None, &[2], 0);
        check_cores(&[("cores", "3")], Some(1), &[2, 3, 5], 0);
        check_cores(&[("cores", "4")], None, &[2, 3, 5, 2], 1);
        check_cores(&[("cores", "auto")], Some(1), &[2], 0);
    }

    #[track_caller]
    fn check_memory(flags: &[(&str, &str)], memory_mb: u64, want_mb: (u64, u64)) {
        let config =
            config_on(flags, &Machine { memory_bytes: memory_mb * MB, ..machine() }).expect("settings");
        assert_eq!(
            (config.cache_bytes / MB, config.query_memory_bytes / MB),
            want_mb,
            "{flags:?} {memory_mb}"
        );
    }

    #[test]
    fn memory_follows_the_machine_unless_told() {
        check_memory(&[], 1088, (512, 128));
        check_memory(&[], 256, (96, 24));
        check_memory(&[], 64, (16, 8));
        check_memory(&[("cache-size", "100")], 1088, (100, 25));
        check_memory(&[("cache-size", "100"), ("query-memory", "200")], 1088, (100, 200));
        check_memory(&[("query-memory", "auto"), ("cache-size", "auto")], 1088, (512, 128));
    }

    #[test]
    fn only_addresses_beyond_loopback_expose_the_server() {
        let exposed = |flags: &[(&str, &str)]| config(flags).expect("settings").is_exposed();
        assert!(!exposed(&[]));
        assert!(!exposed(&[("bind", "127.0.0.2,::1")]));
        assert!(exposed(&[("bind", "all")]));
        assert!(exposed(&[("bind-http", "10.0.0.1")]));
        assert!(!exposed(&[("bind-http", "10.0.0.1"), ("no-http", "true")]));
    }

    #[test]
    fn logs_go_into_the_data_directory_unless_told() {
        let found = config(&[("data-dir", "/d")]).expect("settings");
        assert_eq!(found.log_dir, PathBuf::from("/d/log"));
        let found = config(&[("data-dir", "/d"), ("log-dir", "/l")]).expect("settings");
        assert_eq!(found.log_dir, PathBuf::from("/l"));
    }
}
