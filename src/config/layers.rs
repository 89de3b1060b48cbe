//! Settings from flags, environment, file and defaults, laid over each other.
//!
//! Always: the caller brings the sources as plain data (no process environment and no file is read here), so each rule
//! of precedence is a row of a test. A broken value in a source that a stronger one hides is still an error: it is a
//! mistake that would strike on the day the stronger one goes away. Only the environment is forgiving where others
//! write into it: empty variables and Kubernetes' `tcp://…` links are passed over.

use std::collections::BTreeMap;

use super::{Address, CLIENT, ConfigError, FOREIGN, Fallback, Kind, SERVE, Setting, Value, find};

/// The sources of settings, each as it was written.
#[derive(Debug, Default)]
pub struct Sources {
    /// Flags by the setting's proper name; several where one was repeated.
    pub flags: BTreeMap<String, Vec<String>>,
    pub environment: BTreeMap<String, String>,
    pub file: Option<FileText>,
}

/// A settings file as read.
#[derive(Debug)]
pub struct FileText {
    pub name: String,
    pub text: String,
}

/// The value of every setting of a table that has one.
#[derive(Debug, Default)]
pub struct Values {
    values: BTreeMap<&'static str, (Value, Source)>,
}

/// Where a value came from, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Default,
    File,
    Environment,
    Flag,
}

impl Values {
    pub fn source(&self, name: &str) -> Source {
        self.values.get(name).map_or(Source::Default, |(_, source)| *source)
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name).map(|(value, _)| value)
    }

    pub fn is_on(&self, name: &str) -> bool {
        self.value(name) == Some(&Value::Switch(true))
    }

    /// The number, or `None` for `auto` or nothing.
    pub fn whole(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            Some(Value::Whole(number)) => Some(*number),
            Some(Value::Switch(_) | Value::Auto | Value::Text(_) | Value::Path(_) | Value::Addresses(_))
            | None => None,
        }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text),
            Some(Value::Switch(_) | Value::Auto | Value::Whole(_) | Value::Path(_) | Value::Addresses(_))
            | None => None,
        }
    }

    pub fn path(&self, name: &str) -> Option<&std::path::Path> {
        match self.value(name) {
            Some(Value::Path(path)) => Some(path),
            Some(Value::Switch(_) | Value::Auto | Value::Whole(_) | Value::Text(_) | Value::Addresses(_))
            | None => None,
        }
    }

    pub fn addresses(&self, name: &str) -> Option<&[Address]> {
        match self.value(name) {
            Some(Value::Addresses(addresses)) => Some(addresses),
            Some(Value::Switch(_) | Value::Auto | Value::Whole(_) | Value::Text(_) | Value::Path(_))
            | None => None,
        }
    }
}

/// Lays the sources over each other.
pub fn resolve(table: &'static [Setting], sources: &Sources) -> Result<Values, ConfigError> {
    let mut values = Values::default();
    for setting in table {
        if let Fallback::Text(text) = setting.fallback {
            let value = setting.parse(text).expect("a default is a value");
            values.values.insert(setting.name, (value, Source::Default));
        }
    }
    if let Some(file) = &sources.file {
        read_file(table, file, &mut values)?;
    }
    for setting in table {
        if let Some(value) = from_environment(setting, &sources.environment)? {
            values.values.insert(setting.name, (value, Source::Environment));
        }
        if let Some(given) = sources.flags.get(setting.name) {
            let value = parse_given(setting, given, || format!("--{}", setting.name))?;
            values.values.insert(setting.name, (value, Source::Flag));
        }
    }
    Ok(values)
}

/// The strongest variable of a setting: `PHOTONDB_X` before `RETHINKDB_X`, the proper name before the others.
fn from_environment(
    setting: &Setting,
    environment: &BTreeMap<String, String>,
) -> Result<Option<Value>, ConfigError> {
    let mut strongest = None;
    for prefix in ["PHOTONDB", "RETHINKDB"] {
        for name in setting.names() {
            let variable = variable(prefix, name);
            let Some(text) = environment.get(&variable) else { continue };
            if text.is_empty() || is_service_link(setting, text) {
                continue;
            }
            let value = parse_given(setting, std::slice::from_ref(text), || variable.clone())?;
            strongest = strongest.or(Some(value));
        }
    }
    Ok(strongest)
}

/// The environment variable of a setting.
pub fn variable(prefix: &str, name: &str) -> String {
    format!("{prefix}_{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// Kubernetes writes `X_PORT=tcp://address:port` for each service named `x`.
fn is_service_link(setting: &Setting, text: &str) -> bool {
    matches!(setting.kind, Kind::Whole { .. }) && (text.starts_with("tcp://") || text.starts_with("udp://"))
}

fn parse_given(
    setting: &Setting,
    given: &[String],
    place: impl Fn() -> String,
) -> Result<Value, ConfigError> {
    let bad =
        |found: &str, want: String| ConfigError::BadValue { place: place(), found: found.to_owned(), want };
    if setting.kind == Kind::Addresses {
        let text = given.join(",");
        return setting.parse(&text).map_err(|want| bad(&text, want));
    }
    // Of a repeated flag the last one holds, as everywhere on the command line.
    let text = given.last().expect("a given setting has a value");
    setting.parse(text).map_err(|want| {
        let secret = setting.name.contains("password");
        bad(if secret { "…" } else { text }, want)
    })
}

fn read_file(table: &'static [Setting], file: &FileText, values: &mut Values) -> Result<(), ConfigError> {
    let line = |at: usize| 1 + file.text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let parsed: BTreeMap<toml::Spanned<String>, toml::Value> =
        toml::from_str(&file.text).map_err(|error| ConfigError::File {
            file: format!("{}:{}", file.name, line(error.span().map_or(0, |span| span.start))),
            reason: error.message().trim().replace('\n', " "),
        })?;
    // As they stand in the file, so that the first mistake is the one that is told.
    let mut parsed: Vec<(&toml::Spanned<String>, &toml::Value)> = parsed.iter().collect();
    parsed.sort_by_key(|(key, _)| key.span().start);
    let mut seen: BTreeMap<&str, String> = BTreeMap::new();
    for (key, value) in parsed {
        let stands = format!("{}:{}", file.name, line(key.span().start));
        let key = key.get_ref();
        let name = key.replace('_', "-");
        let setting = match find(table, &name) {
            Some(setting) if setting.name != "config" => setting,
            Some(_) | None => return Err(not_a_setting(table, stands, key, &name)),
        };
        if let Some(other) = seen.insert(setting.name, key.clone()) {
            return Err(ConfigError::Twice { file: stands, key: key.clone(), other });
        }
        let place = || format!("{stands}: `{key}`");
        let given = file_texts(setting, value).map_err(|found| ConfigError::BadValue {
            place: place(),
            found,
            want: setting.kind.describe(),
        })?;
        let value = parse_given(setting, &given, place)?;
        values.values.insert(setting.name, (value, Source::File));
    }
    Ok(())
}

/// A file's value as the texts that a flag would bring; the error is how the value reads.
fn file_texts(setting: &Setting, value: &toml::Value) -> Result<Vec<String>, String> {
    match (setting.kind, value) {
        (Kind::Addresses, toml::Value::Array(parts)) if !parts.is_empty() => parts
            .iter()
            .map(|part| part.as_str().map(str::to_owned).ok_or_else(|| value_text(value)))
            .collect(),
        (Kind::Switch, toml::Value::Boolean(on)) => Ok(vec![on.to_string()]),
        (Kind::Whole { .. } | Kind::WholeOrAuto { .. }, toml::Value::Integer(number)) => {
            Ok(vec![number.to_string()])
        }
        (
            Kind::Text
            | Kind::Choice(_)
            | Kind::Path
            | Kind::Addresses
            | Kind::WholeOrAuto { .. }
            | Kind::Whole { .. },
            toml::Value::String(text),
        ) => Ok(vec![text.clone()]),
        (_, other) => Err(value_text(other)),
    }
}

fn value_text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(on) => on.to_string(),
        toml::Value::Datetime(time) => time.to_string(),
        toml::Value::Array(_) => "a list".to_owned(),
        toml::Value::Table(_) => "a section".to_owned(),
    }
}

fn not_a_setting(table: &'static [Setting], file: String, key: &str, name: &str) -> ConfigError {
    let foreign = FOREIGN.iter().find(|foreign| foreign.name == name && std::ptr::eq(table, SERVE));
    if let Some(foreign) = foreign {
        return ConfigError::Foreign { place: format!("`{key}` in {file}"), instead: foreign.instead };
    }
    let near = nearest(table.iter().flat_map(Setting::names).filter(|known| *known != "config"), name);
    let suggestion = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    ConfigError::UnknownKey { file, key: key.to_owned(), suggestion }
}

/// A sentence for each variable that looks like a setting and is none. Kubernetes' links to services are passed over.
pub fn unknown_variables(environment: &BTreeMap<String, String>) -> Vec<String> {
    let known: Vec<String> = SERVE
        .iter()
        .chain(CLIENT)
        .flat_map(Setting::names)
        .flat_map(|name| ["PHOTONDB", "RETHINKDB"].map(|prefix| variable(prefix, name)))
        .collect();
    let is_link = |name: &str, text: &str| {
        let of_port =
            name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
        of_port || name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || text.contains("://")
    };
    let unknown = environment.iter().filter(|(name, text)| !known.contains(name) && !is_link(name, text));
    let sentence = |(name, _): (&String, &String)| {
        let bare = name.split_once('_').map_or("", |(_, bare)| bare).to_ascii_lowercase().replace('_', "-");
        let foreign = FOREIGN.iter().find(|foreign| foreign.name == bare);
        let hint = match (foreign, nearest(known.iter().map(String::as_str), name)) {
            (Some(foreign), _) => format!("PhotonDB does not take it: {}", foreign.instead),
            (None, Some(near)) => format!("there is no such setting; did you mean {near}?"),
            (None, None) => "there is no such setting".to_owned(),
        };
        format!("{name} in the environment says nothing: {hint}")
    };
    unknown.map(sentence).collect()
}

/// The known name that is most like this one, if any is like it at all.
pub fn nearest<'n>(known: impl Iterator<Item = &'n str>, name: &str) -> Option<&'n str> {
    known
        .map(|known| (strsim::jaro_winkler(known, name), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(flags: &[(&str, &str)], environment: &[(&str, &str)], file: &str) -> Sources {
        let mut sources = Sources::default();
        for (name, text) in flags {
            sources.flags.entry((*name).to_owned()).or_default().push((*text).to_owned());
        }
        sources.environment =
            environment.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        if !file.is_empty() {
            sources.file = Some(FileText { name: "p.toml".to_owned(), text: file.to_owned() });
        }
        sources
    }

    #[track_caller]
    fn check_port(flags: &[(&str, &str)], environment: &[(&str, &str)], file: &str, want: (u64, Source)) {
        let values = resolve(SERVE, &sources(flags, environment, file)).expect("settings");
        let found = values.whole("http-port").expect("a port");
        assert_eq!((found, values.source("http-port")), want, "{flags:?} {environment:?} {file:?}");
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let flag = [("http-port", "1")];
        let photon = ("PHOTONDB_HTTP_PORT", "2");
        let rethink = ("RETHINKDB_HTTP_PORT", "3");
        let file = "http-port = 4";
        check_port(&flag, &[photon, rethink], file, (1, Source::Flag));
        check_port(&[], &[photon, rethink], file, (2, Source::Environment));
        check_port(&[], &[rethink], file, (3, Source::Environment));
        check_port(&[], &[], file, (4, Source::File));
        check_port(&[], &[], "", (8080, Source::Default));
        check_port(&[("http-port", "1"), ("http-port", "2")], &[], "", (2, Source::Flag));
        check_port(&[], &[("PHOTONDB_PORT", "5")], file, (5, Source::Environment));
        check_port(&[], &[("PHOTONDB_PORT", "5"), photon], file, (2, Source::Environment));
        check_port(&[], &[("RETHINKDB_PORT", "5"), ("PHOTONDB_PORT", "6")], "", (6, Source::Environment));
        check_port(&[], &[("PHOTONDB_HTTP_PORT", "")], file, (4, Source::File));
        check_port(&[], &[("PHOTONDB_PORT", "tcp://10.1.2.3:28015")], file, (4, Source::File));
        check_port(&[], &[("HTTP_PORT", "7"), ("photondb_http_port", "8")], "", (8080, Source::Default));
        check_port(&[], &[], "http_port = 4", (4, Source::File));
        check_port(&[], &[], "port = \"4\"", (4, Source::File));
    }

    #[track_caller]
    fn check_refused(flags: &[(&str, &str)], environment: &[(&str, &str)], file: &str, want: &str) {
        let refused = resolve(SERVE, &sources(flags, environment, file)).expect_err("a refusal");
        assert_eq!(refused.to_string(), want);
    }

    #[test]
    fn a_refusal_names_the_place_and_what_is_wanted() {
        let want = "a whole number from 0 to 65535";
        check_refused(&[("http-port", "x")], &[], "", &format!("--http-port is \"x\", but must be {want}"));
        check_refused(
            &[],
            &[("RETHINKDB_PORT", "x")],
            "",
            &format!("RETHINKDB_PORT is \"x\", but must be {want}"),
        );
        check_refused(&[], &[], "port = true", &format!("p.toml:1: `port` is \"true\", but must be {want}"));
        check_refused(&[], &[], "port = 1.5", &format!("p.toml:1: `port` is \"1.5\", but must be {want}"));
        check_refused(
            &[],
            &[],
            "[port]\nx = 1",
            &format!("p.toml:1: `port` is \"a section\", but must be {want}"),
        );
        check_refused(
            &[],
            &[],
            "dev_mode = \"yes\"",
            "p.toml:1: `dev_mode` is \"yes\", but must be true or false",
        );
        check_refused(
            &[],
            &[],
            "# ports\n\ndrivr-port = 1\nxyzzy = 1",
            "p.toml:3: there is no setting `drivr-port`; did you mean `driver-port`?",
        );
        check_refused(&[], &[], "xyzzy = 1", "p.toml:1: there is no setting `xyzzy`");
        check_refused(&[], &[], "config = \"x\"", "p.toml:1: there is no setting `config`");
        check_refused(
            &[],
            &[],
            "port = 1\nhttp-port = 2",
            "p.toml:2: `http-port` is given twice (as `port` too): keep one of them",
        );
        check_refused(
            &[],
            &[],
            "io_threads = 64",
            "PhotonDB does not take `io_threads` in p.toml:1: io_uring needs no I/O threads; leave it out",
        );
        check_refused(
            &[("http-port", "1")],
            &[],
            "http-port = -1",
            "p.toml:1: `http-port` is \"-1\", but must be a whole number from 0 to 65535",
        );
    }

    #[test]
    fn a_broken_file_is_refused_with_its_line() {
        let refused = resolve(SERVE, &sources(&[], &[], "# x\nport = ")).expect_err("a refusal").to_string();
        assert!(refused.starts_with("cannot read the settings file p.toml:2: "), "{refused}");
        assert!(!refused.contains('\n'), "{refused}");
    }

    #[test]
    fn variables_that_say_nothing_are_told() {
        let told = |name: &str, text: &str| {
            unknown_variables(&[(name.to_owned(), text.to_owned())].into_iter().collect()).join(" ")
        };
        for (name, want) in [
            ("PHOTONDB_CASHE_SIZE", "there is no such setting; did you mean PHOTONDB_CACHE_SIZE?"),
            ("RETHINKDB_DRIVR_PORT", "there is no such setting; did you mean RETHINKDB_DRIVER_PORT?"),
            (
                "RETHINKDB_IO_THREADS",
                "PhotonDB does not take it: io_uring needs no I/O threads; leave it out",
            ),
        ] {
            assert_eq!(told(name, "1"), format!("{name} in the environment says nothing: {want}"));
        }
        for (name, text) in [
            ("PHOTONDB_CACHE_SIZE", "1"),
            ("PHOTONDB_PASSWORD", "x"),
            ("RETHINKDB_PORT", "tcp://10.1.2.3:28015"),
            ("RETHINKDB_SERVICE_HOST", "10.1.2.3"),
            ("RETHINKDB_SERVICE_PORT_DRIVER", "28015"),
            ("RETHINKDB_PORT_28015_TCP_PROTO", "tcp"),
        ] {
            assert_eq!(told(name, text), "");
        }
    }

    #[test]
    fn a_wrong_password_value_is_not_repeated() {
        let refused =
            resolve(SERVE, &sources(&[("initial-password", "a\0b")], &[], "")).expect_err("a refusal");
        assert!(!refused.to_string().contains('a') || refused.to_string().contains("\"…\""), "{refused}");
    }

    #[test]
    fn addresses_gather_from_repeated_flags_and_lists() {
        let one = Address::Ip(std::net::IpAddr::from([10, 0, 0, 1]));
        let values =
            resolve(SERVE, &sources(&[("bind", "10.0.0.1"), ("bind", "all")], &[], "")).expect("settings");
        assert_eq!(values.addresses("bind"), Some(&[one, Address::All][..]));
        let values = resolve(SERVE, &sources(&[], &[], "bind = [\"10.0.0.1\", \"all\"]")).expect("settings");
        assert_eq!(values.addresses("bind"), Some(&[one, Address::All][..]));
    }
}
