//! Every setting once: its name, help, default and bounds. Flags, environment variables, the TOML file and
//! docs/reference/settings.md are all made from [`SERVE`] and [`CLIENT`].
//!
//! Always: a setting means the same wherever it was given, because every source hands the same text to the same
//! [`Setting::parse`]; a flag wins over `PHOTONDB_X`, that over `RETHINKDB_X`, that over the file, that over the
//! default. Options of the `rethinkdb` binary that PhotonDB has no use for stand in [`FOREIGN`], so that they are
//! refused by name with what to do instead, never ignored and never "unknown".

pub mod layers;
pub mod machine;
pub mod reference;
pub mod serve;

use std::net::IpAddr;
use std::path::PathBuf;

use photondb_runtime::Backend;

/// One setting of the server or of the client commands.
#[derive(Debug)]
pub struct Setting {
    /// Its flag without dashes; in the environment it is upper case with underscores.
    pub name: &'static str,
    pub short: Option<char>,
    /// Other names that mean the same, as flags, in the environment and in the file.
    pub aliases: &'static [&'static str],
    pub group: Group,
    pub kind: Kind,
    /// What stands for the value in the help; empty for a switch.
    pub value_name: &'static str,
    pub fallback: Fallback,
    /// One sentence for the help.
    pub help: &'static str,
    /// What the reference adds to the help; may be empty.
    pub more: &'static str,
}

/// Where a setting stands in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Network,
    Storage,
    Resources,
    Security,
    Operation,
    Connection,
}

impl Group {
    pub const ALL: [Group; 6] = [
        Group::Network,
        Group::Storage,
        Group::Resources,
        Group::Security,
        Group::Operation,
        Group::Connection,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Group::Network => "Network",
            Group::Storage => "Storage",
            Group::Resources => "Resources",
            Group::Security => "Security",
            Group::Operation => "Operation",
            Group::Connection => "Connection",
        }
    }
}

/// What a setting's value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On or off; as a flag it takes no value.
    Switch,
    Whole {
        min: u64,
        max: u64,
    },
    /// A whole number, or `auto` for what the machine allows.
    WholeOrAuto {
        min: u64,
        max: u64,
    },
    Text,
    Choice(&'static [&'static str]),
    Path,
    /// IP addresses or `all`, separated by commas or by repeating the flag.
    Addresses,
}

/// What holds when nobody says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// This text, read as if it had been given.
    Text(&'static str),
    /// No value; the words say what that means.
    Nothing(&'static str),
}

/// The value of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Switch(bool),
    Whole(u64),
    Auto,
    Text(String),
    Path(PathBuf),
    Addresses(Vec<Address>),
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// Every IPv4 address of the machine.
    All,
    Ip(IpAddr),
}

/// Why the settings cannot be used: one sentence that names the setting and where it was given.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{place} is {found:?}, but must be {want}")]
    BadValue { place: String, found: String, want: String },
    #[error("{file}: there is no setting `{key}`{suggestion}")]
    UnknownKey { file: String, key: String, suggestion: String },
    #[error("PhotonDB does not take {place}: {instead}")]
    Foreign { place: String, instead: &'static str },
    #[error("cannot read the settings file {file}: {reason}")]
    File { file: String, reason: String },
    #[error("{file}: `{key}` is given twice (as `{other}` too): keep one of them")]
    Twice { file: String, key: String, other: String },
    #[error("{0}")]
    Conflict(String),
}

impl Setting {
    /// Reads a value as it was written in any source; the error says what it must be.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let want = || self.kind.describe();
        match self.kind {
            Kind::Switch => parse_switch(text).map(Value::Switch).ok_or_else(want),
            Kind::Whole { min, max } => parse_whole(text, min, max).map(Value::Whole).ok_or_else(want),
            Kind::WholeOrAuto { .. } if text.eq_ignore_ascii_case("auto") => Ok(Value::Auto),
            Kind::WholeOrAuto { min, max } => parse_whole(text, min, max).map(Value::Whole).ok_or_else(want),
            Kind::Text if text.contains('\0') || text.is_empty() => Err(want()),
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::Choice(choices) if choices.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::Choice(_) => Err(want()),
            Kind::Path if text.is_empty() || text.contains('\0') => Err(want()),
            Kind::Path => Ok(Value::Path(PathBuf::from(text))),
            Kind::Addresses => parse_addresses(text).map(Value::Addresses).ok_or_else(want),
        }
    }

    /// Whether the setting goes by this name in flags, files (dashes) or the environment (translated by the caller).
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }

    /// All its names, the proper one first.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}

impl Kind {
    /// What the value must be, as a sentence ends: "must be …".
    pub fn describe(self) -> String {
        match self {
            Kind::Switch => "true or false".to_owned(),
            Kind::Whole { min, max } => format!("a whole number from {min} to {max}"),
            Kind::WholeOrAuto { min, max } => format!("a whole number from {min} to {max}, or `auto`"),
            Kind::Text => "a text that is not empty".to_owned(),
            Kind::Choice(choices) => format!("one of {}", choices.join(", ")),
            Kind::Path => "a path".to_owned(),
            Kind::Addresses => "`all` or IP addresses such as 127.0.0.1, separated by commas".to_owned(),
        }
    }
}

fn parse_switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn parse_whole(text: &str, min: u64, max: u64) -> Option<u64> {
    let digits_only = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits_only.then(|| text.parse::<u64>().ok()).flatten().filter(|number| (min..=max).contains(number))
}

fn parse_addresses(text: &str) -> Option<Vec<Address>> {
    text.split(',')
        .map(|part| match part.trim() {
            "all" => Some(Address::All),
            "localhost" => Some(Address::Ip(IpAddr::from([127, 0, 0, 1]))),
            part => part.parse().ok().map(Address::Ip),
        })
        .collect()
}

/// The setting of this name in a table, by any of its names.
pub fn find<'t>(table: &'t [Setting], name: &str) -> Option<&'t Setting> {
    table.iter().find(|setting| setting.is_called(name))
}

/// 0 takes any free port, which start-up prints.
const PORT: Kind = Kind::Whole { min: 0, max: 65_535 };
const PORT_OF_SERVER: Kind = Kind::Whole { min: 1, max: 65_535 };
/// Cores a server may use: as many as a table may have shards.
const CORES_MAX: u64 = photondb_proto::limits::SHARDS_MAX as u64;
/// Below this a store cannot hold its dirty pages and the inner nodes of its trees.
pub const CACHE_MB_MIN: u64 = 16;
/// Below this one query of ordinary size would not fit.
/// Fewer protect nothing.
const PASSWORD_ITERATIONS_MIN: u64 = 1000;
const PASSWORD_ITERATIONS_MAX: u64 = photondb_proto::limits::PASSWORD_ITERATIONS_MAX as u64;
pub const QUERY_MEMORY_MB_MIN: u64 = 8;
/// 16 TB: beyond any machine, and its bytes still fit 64 bits.
const MEMORY_MB_MAX: u64 = 16 << 20;
/// A password travels in one handshake message.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// The settings of `photondb serve`.
pub static SERVE: &[Setting] = &[
    Setting {
        name: "bind",
        short: None,
        aliases: &[],
        group: Group::Network,
        kind: Kind::Addresses,
        value_name: "ADDRESS",
        fallback: Fallback::Text("127.0.0.1"),
        help: "Listen on this address too, besides 127.0.0.1; `all` means every address",
        more: "May be repeated, or hold several addresses with commas between. `all` is every IPv4 address; add IPv6 ones by \
               name, or give `::` for both families. Beyond loopback the admin account needs a password: see \
               `--initial-password`.",
    },
    Setting {
        name: "bind-driver",
        short: None,
        aliases: &[],
        group: Group::Network,
        kind: Kind::Addresses,
        value_name: "ADDRESS",
        fallback: Fallback::Nothing("as `--bind`"),
        help: "The same for the driver port alone, instead of --bind",
        more: "",
    },
    Setting {
        name: "bind-http",
        short: None,
        aliases: &[],
        group: Group::Network,
        kind: Kind::Addresses,
        value_name: "ADDRESS",
        fallback: Fallback::Nothing("as `--bind`"),
        help: "The same for the HTTP port alone, instead of --bind",
        more: "",
    },
    Setting {
        name: "no-default-bind",
        short: None,
        aliases: &[],
        group: Group::Network,
        kind: Kind::Switch,
        value_name: "",
        fallback: Fallback::Text("false"),
        help: "Listen only where --bind says, not on 127.0.0.1",
        more: "",
    },
    Setting {
        name: "driver-port",
        short: None,
        aliases: &[],
        group: Group::Network,
        kind: PORT,
        value_name: "PORT",
        fallback: Fallback::Text("28015"),
        help: "Port for drivers",
        more: "0 takes any free port; start-up prints it.",
    },
    Setting {
        name: "http-port",
        short: None,
        aliases: &["port"],
        group: Group::Network,
        kind: PORT,
        value_name: "PORT",
        fallback: Fallback::Text("8080"),
        help: "Port for HTTP: health and metrics",
        more: "0 takes any free port; start-up prints it. In the environment a value such as `tcp://10.0.0.1:8080`, which Kubernetes sets as `PHOTONDB_PORT` beside a \
               service of that name, is passed over.",
    },
    Setting {
        name: "cluster-port",
        short: None,
        aliases: &[],
        group: Group::Network,
        kind: PORT,
        value_name: "PORT",
        fallback: Fallback::Text("29015"),
        help: "Port for other servers; reserved, not opened yet",
        more: "",
    },
    Setting {
        name: "port-offset",
        short: Some('o'),
        aliases: &[],
        group: Group::Network,
        kind: Kind::Whole { min: 0, max: 65_534 },
        value_name: "N",
        fallback: Fallback::Text("0"),
        help: "Add this to every port, to run several servers on one machine",
        more: "",
    },
    Setting {
        name: "no-http",
        short: None,
        aliases: &["no-http-admin"],
        group: Group::Network,
        kind: Kind::Switch,
        value_name: "",
        fallback: Fallback::Text("false"),
        help: "Do not serve HTTP",
        more: "",
    },
    Setting {
        name: "timeout",
        short: None,
        aliases: &[],
        group: Group::Network,
        kind: Kind::Whole { min: 1, max: 3600 },
        value_name: "SECONDS",
        fallback: Fallback::Text("30"),
        help: "Longest that an HTTP request may take; driver queries have no limit",
        more: "",
    },
    Setting {
        name: "data-dir",
        short: Some('d'),
        aliases: &["directory"],
        group: Group::Storage,
        kind: Kind::Path,
        value_name: "DIR",
        fallback: Fallback::Text("photondb_data"),
        help: "Where the data lives; created when missing",
        more: "It holds `LOCK`, one `store-N` for each store and, unless `--log-dir` says otherwise, `log`. One server at a \
               time may use it, with any number of cores. Its file system must support O_DIRECT: ext4 and XFS do, tmpfs \
               does not.",
    },
    Setting {
        name: "storage",
        short: None,
        aliases: &[],
        group: Group::Storage,
        kind: Kind::Choice(&Backend::NAMES),
        value_name: "BACKEND",
        fallback: Fallback::Text("slab"),
        help: "How data is kept: slab, btree or memory",
        more: "`slab` keeps documents compressed in slots beside their B-trees, `btree` keeps those up to 2 KB as they are in the \
               leaves of theirs, `memory` keeps nothing and is for tests. A data directory stays with what it was made with.",
    },
    Setting {
        name: "log-dir",
        short: None,
        aliases: &[],
        group: Group::Storage,
        kind: Kind::Path,
        value_name: "DIR",
        fallback: Fallback::Nothing("`log` in the data directory"),
        help: "Where log files go, one a day; the newest 14 are kept",
        more: "",
    },
    Setting {
        name: "cores",
        short: Some('c'),
        aliases: &[],
        group: Group::Resources,
        kind: Kind::WholeOrAuto { min: 1, max: CORES_MAX },
        value_name: "N",
        fallback: Fallback::Text("auto"),
        help: "Cores that serve queries; by default all that the process may use",
        more: "`auto` counts the CPUs of the affinity mask, and takes no more than the CPU quota of the control group allows.",
    },
    Setting {
        name: "cache-size",
        short: None,
        aliases: &[],
        group: Group::Resources,
        kind: Kind::WholeOrAuto { min: CACHE_MB_MIN, max: MEMORY_MB_MAX },
        value_name: "MB",
        fallback: Fallback::Text("auto"),
        help: "Memory for cached data, over all cores",
        more: "In units of 1,048,576 bytes. `auto` is half of what remains of the memory, or of the control group's memory \
               limit, after 64 MB.",
    },
    Setting {
        name: "query-memory",
        short: None,
        aliases: &[],
        group: Group::Resources,
        kind: Kind::WholeOrAuto { min: QUERY_MEMORY_MB_MIN, max: MEMORY_MB_MAX },
        value_name: "MB",
        fallback: Fallback::Text("auto"),
        help: "Memory for what queries gather, over all cores; by default a quarter of the cache",
        more: "In units of 1,048,576 bytes. A query that needs more than is left fails with a clear error; the server goes on.",
    },
    Setting {
        name: "compression-level",
        short: None,
        aliases: &[],
        group: Group::Resources,
        kind: Kind::Whole { min: 0, max: 19 },
        value_name: "LEVEL",
        fallback: Fallback::Text("1"),
        help: "How hard zstd packs documents on disk, 1 to 19; 0 stores them as they are",
        more: "The cache holds documents as they are, whatever the level. Documents that are on disk already stay as they were \
               written.",
    },
    Setting {
        name: "compression-threshold",
        short: None,
        aliases: &[],
        group: Group::Resources,
        kind: Kind::Whole { min: 1, max: 65536 },
        value_name: "BYTES",
        fallback: Fallback::Text("129"),
        help: "Smaller documents are not compressed",
        more: "Documents of up to 128 bytes lie beside their keys and are never compressed, nor are those above 64 KiB.",
    },
    Setting {
        name: "change-log-bytes",
        short: None,
        aliases: &[],
        group: Group::Resources,
        kind: Kind::Whole { min: 0, max: 1 << 50 },
        value_name: "BYTES",
        fallback: Fallback::Text("0"),
        help: "Changes kept on disk of each table, for changefeeds that resume; 0 keeps none",
        more: "Old and new values of each change, in files of their own. `changes(resume_from=…)` goes on behind a resume token as long \
               as what follows it is kept. The oldest goes first. Set back to 0, what was kept is deleted at the next start. \
               A table says otherwise by `change_log` in its row of `table_config`: `{\"bytes\": …, \"age\": seconds}`.",
    },
    Setting {
        name: "change-log-age",
        short: None,
        aliases: &[],
        group: Group::Resources,
        kind: Kind::Whole { min: 1, max: 1_000_000_000 },
        value_name: "SECONDS",
        fallback: Fallback::Text("86400"),
        help: "How long changes are kept at most, where `change-log-bytes` keeps any",
        more: "Changes go in files, so some are kept an eighth longer.",
    },
    Setting {
        name: "initial-password",
        short: None,
        aliases: &[],
        group: Group::Security,
        kind: Kind::Text,
        value_name: "PASSWORD",
        fallback: Fallback::Nothing("none"),
        help: "Password for the admin account if it has none yet; `auto` makes one and prints it",
        more: "Other users of the machine can see a flag in the list of processes; the environment or the settings file keep \
               it from them.",
    },
    Setting {
        name: "password-iterations",
        short: None,
        aliases: &[],
        group: Group::Security,
        kind: Kind::Whole { min: PASSWORD_ITERATIONS_MIN, max: PASSWORD_ITERATIONS_MAX },
        value_name: "COUNT",
        fallback: Fallback::Text("100000"),
        help: "Rounds of PBKDF2-SHA256 for new passwords",
        more: "More make a stolen password file harder to guess, and logging in slower for clients; the server computes them \
               beside its cores. A row of `rethinkdb.users` may name another number for its own.",
    },
    Setting {
        name: "allow-empty-password",
        short: None,
        aliases: &[],
        group: Group::Security,
        kind: Kind::Switch,
        value_name: "",
        fallback: Fallback::Text("false"),
        help: "Listen beyond loopback although the admin account has no password",
        more: "Whoever reaches the port then owns the data. For networks that are closed by other means.",
    },
    Setting {
        name: "dev-mode",
        short: None,
        aliases: &[],
        group: Group::Security,
        kind: Kind::Switch,
        value_name: "",
        fallback: Fallback::Text("false"),
        help: "For trying things out: no security, and loopback only",
        more: "Refused together with any address but loopback.",
    },
    Setting {
        name: "allow-http",
        short: None,
        aliases: &[],
        group: Group::Security,
        kind: Kind::Switch,
        value_name: "",
        fallback: Fallback::Text("false"),
        help: "Let queries make HTTP requests with `http`, to public addresses",
        more: "Addresses are checked after names are resolved and at each redirect, so queries reach neither this machine nor its \
               private network.",
    },
    Setting {
        name: "http-allow-private",
        short: None,
        aliases: &[],
        group: Group::Security,
        kind: Kind::Switch,
        value_name: "",
        fallback: Fallback::Text("false"),
        help: "With --allow-http: let them go to private and loopback addresses too",
        more: "Whoever may run queries can then talk to whatever this machine can reach.",
    },
    Setting {
        name: "server-name",
        short: Some('n'),
        aliases: &[],
        group: Group::Operation,
        kind: Kind::Text,
        value_name: "NAME",
        fallback: Fallback::Nothing("made from the host name"),
        help: "Name that this server goes by",
        more: "Letters, digits, underscores and dashes.",
    },
    Setting {
        name: "pid-file",
        short: None,
        aliases: &[],
        group: Group::Operation,
        kind: Kind::Path,
        value_name: "FILE",
        fallback: Fallback::Nothing("none"),
        help: "Write the process id here; removed on a clean stop",
        more: "",
    },
    Setting {
        name: "log-level",
        short: None,
        aliases: &[],
        group: Group::Operation,
        kind: Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        value_name: "LEVEL",
        fallback: Fallback::Text("info"),
        help: "How much to log: error, warn, info, debug or trace",
        more: "",
    },
    Setting {
        name: "config",
        short: None,
        aliases: &[],
        group: Group::Operation,
        kind: Kind::Path,
        value_name: "FILE",
        fallback: Fallback::Nothing("none"),
        help: "Read settings from this TOML file, one `name = value` a line",
        more: "Flags and the environment win over the file. A key that is no setting is an error.",
    },
    Setting {
        name: "no-update-check",
        short: None,
        aliases: &[],
        group: Group::Operation,
        kind: Kind::Switch,
        value_name: "",
        fallback: Fallback::Text("false"),
        help: "Accepted for RethinkDB's sake; PhotonDB never asks for updates",
        more: "",
    },
    Setting {
        name: "direct-io",
        short: None,
        aliases: &[],
        group: Group::Operation,
        kind: Kind::Switch,
        value_name: "",
        fallback: Fallback::Text("true"),
        help: "Accepted for RethinkDB's sake; PhotonDB always uses direct I/O",
        more: "",
    },
];

/// The settings of the commands that talk to a running server.
pub static CLIENT: &[Setting] = &[
    Setting {
        name: "host",
        short: None,
        aliases: &[],
        group: Group::Connection,
        kind: Kind::Text,
        value_name: "HOST",
        fallback: Fallback::Text("127.0.0.1"),
        help: "Server to talk to",
        more: "",
    },
    Setting {
        name: "driver-port",
        short: None,
        aliases: &[],
        group: Group::Connection,
        kind: PORT_OF_SERVER,
        value_name: "PORT",
        fallback: Fallback::Text("28015"),
        help: "Its driver port",
        more: "",
    },
    Setting {
        name: "port-offset",
        short: Some('o'),
        aliases: &[],
        group: Group::Connection,
        kind: Kind::Whole { min: 0, max: 65_534 },
        value_name: "N",
        fallback: Fallback::Text("0"),
        help: "What the server was told to add to its ports",
        more: "",
    },
    Setting {
        name: "user",
        short: Some('u'),
        aliases: &[],
        group: Group::Connection,
        kind: Kind::Text,
        value_name: "USER",
        fallback: Fallback::Text("admin"),
        help: "Account to log in with",
        more: "",
    },
    Setting {
        name: "password",
        short: Some('p'),
        aliases: &[],
        group: Group::Connection,
        kind: Kind::Text,
        value_name: "PASSWORD",
        fallback: Fallback::Nothing("the empty password"),
        help: "Its password; --password-file or PHOTONDB_PASSWORD keep it out of the list of processes",
        more: "",
    },
    Setting {
        name: "password-file",
        short: None,
        aliases: &[],
        group: Group::Connection,
        kind: Kind::Path,
        value_name: "FILE",
        fallback: Fallback::Nothing("none"),
        help: "Read the password from the first line of this file",
        more: "",
    },
    Setting {
        name: "connect-timeout",
        short: None,
        aliases: &[],
        group: Group::Connection,
        kind: Kind::Whole { min: 1, max: 3600 },
        value_name: "SECONDS",
        fallback: Fallback::Text("20"),
        help: "Give up when the server stays silent for this long",
        more: "",
    },
];

/// An option of the `rethinkdb` binary that PhotonDB refuses, and what to do instead.
#[derive(Debug)]
pub struct Foreign {
    pub name: &'static str,
    pub short: Option<char>,
    pub instead: &'static str,
}

const NO_CLUSTER: &str = "this version runs single servers; leave it out";
const NO_TLS: &str =
    "this version has no TLS; put a TLS proxy such as stunnel or HAProxy in front of the port";
const RUN_AS: &str = "start it as the user it is to run as, with systemd's `User=` or `sudo -u`";

const fn foreign(name: &'static str, instead: &'static str) -> Foreign {
    Foreign { name, short: None, instead }
}

/// Options of the `rethinkdb` binary without a counterpart, each with the way to reach what it was for.
pub static FOREIGN: &[Foreign] = &[
    Foreign { name: "server-tag", short: Some('t'), instead: NO_CLUSTER },
    Foreign { name: "join", short: Some('j'), instead: NO_CLUSTER },
    foreign("join-delay", NO_CLUSTER),
    foreign("cluster-reconnect-timeout", NO_CLUSTER),
    foreign("canonical-address", NO_CLUSTER),
    foreign("bind-cluster", NO_CLUSTER),
    foreign("client-port", NO_CLUSTER),
    foreign("io-threads", "io_uring needs no I/O threads; leave it out"),
    foreign("no-direct-io", "it always uses direct I/O; leave it out"),
    foreign("log-file", "it writes one log file a day; say where with --log-dir"),
    foreign("config-file", "its settings file is TOML; write `name = value` lines and give it with --config"),
    foreign("reql-http-proxy", "this version has no r.http; leave it out"),
    foreign("web-static-directory", "this version has no web interface; leave it out"),
    foreign(
        "daemon",
        "run it under systemd or a container, or in the background with `nohup photondb serve &`",
    ),
    foreign("runuser", RUN_AS),
    foreign("rungroup", RUN_AS),
    foreign("http-tls-key", NO_TLS),
    foreign("http-tls-cert", NO_TLS),
    foreign("driver-tls-key", NO_TLS),
    foreign("driver-tls-cert", NO_TLS),
    foreign("driver-tls-ca", NO_TLS),
    foreign("cluster-tls-key", NO_TLS),
    foreign("cluster-tls-cert", NO_TLS),
    foreign("cluster-tls-ca", NO_TLS),
    foreign("tls-min-protocol", NO_TLS),
    foreign("tls-ciphers", NO_TLS),
    foreign("tls-ecdh-curve", NO_TLS),
    foreign("tls-dhparams", NO_TLS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, text: &str, want: Result<Value, &str>) {
        let setting = find(SERVE, name).expect("a setting");
        assert_eq!(setting.parse(text), want.map_err(str::to_owned), "{name} = {text:?}");
    }

    #[test]
    fn a_value_is_read_by_its_kind() {
        let port = "a whole number from 0 to 65535";
        check("driver-port", "28015", Ok(Value::Whole(28_015)));
        check("driver-port", "0", Ok(Value::Whole(0)));
        check("driver-port", "65536", Err(port));
        check("driver-port", "-1", Err(port));
        check("driver-port", "+1", Err(port));
        check("driver-port", " 1", Err(port));
        check("driver-port", "1.0", Err(port));
        check("driver-port", "", Err(port));
        check("driver-port", "99999999999999999999999", Err(port));
        check("cores", "auto", Ok(Value::Auto));
        check("cores", "AUTO", Ok(Value::Auto));
        check("cores", "0", Err("a whole number from 1 to 1024, or `auto`"));
        check("cache-size", "64", Ok(Value::Whole(64)));
        check("cache-size", "1", Err("a whole number from 16 to 16777216, or `auto`"));
        check("dev-mode", "yes", Ok(Value::Switch(true)));
        check("dev-mode", "Off", Ok(Value::Switch(false)));
        check("dev-mode", "maybe", Err("true or false"));
        check("data-dir", "", Err("a path"));
        check("log-level", "loud", Err("one of error, warn, info, debug, trace"));
    }

    #[test]
    fn addresses_are_read_with_commas() {
        let want = "`all` or IP addresses such as 127.0.0.1, separated by commas";
        check("bind", "all", Ok(Value::Addresses(vec![Address::All])));
        check(
            "bind",
            "10.0.0.1, ::1",
            Ok(Value::Addresses(vec![
                Address::Ip(IpAddr::from([10, 0, 0, 1])),
                Address::Ip("::1".parse().expect("an address")),
            ])),
        );
        check("bind", "example.com", Err(want));
        check("bind", "127.0.0.1:80", Err(want));
        check("bind", "", Err(want));
        check("bind", "127.0.0.1,", Err(want));
    }

    #[test]
    fn names_and_defaults_are_sound() {
        for table in [SERVE, CLIENT] {
            let mut names: Vec<&str> = table.iter().flat_map(Setting::names).collect();
            let mut shorts: Vec<char> = table.iter().filter_map(|setting| setting.short).collect();
            if std::ptr::eq(table, SERVE) {
                names.extend(FOREIGN.iter().map(|foreign| foreign.name));
                shorts.extend(FOREIGN.iter().filter_map(|foreign| foreign.short));
            }
            let (all_names, all_shorts) = (names.len(), shorts.len());
            names.sort_unstable();
            names.dedup();
            shorts.sort_unstable();
            shorts.dedup();
            assert_eq!((names.len(), shorts.len()), (all_names, all_shorts), "a name is taken twice");
            for setting in table {
                if let Fallback::Text(text) = setting.fallback {
                    setting
                        .parse(text)
                        .unwrap_or_else(|want| panic!("default of {} must be {want}", setting.name));
                }
                assert_eq!(setting.kind == Kind::Switch, setting.value_name.is_empty(), "{}", setting.name);
                assert!(setting.help.len() <= 90, "help of {} fits a line", setting.name);
            }
        }
    }
}
