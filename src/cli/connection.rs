//! One connection to a server for the client commands: the driver protocol over a blocking socket.
//!
//! Always: no step waits longer than `--connect-timeout`, and every failure is one sentence that names the server.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{ArgMatches, Command};
use photondb_proto::term::number;
use photondb_proto::wire::client::{ClientHandshake, ClientProgress, HandshakeError, ResponseDecoder};
use photondb_proto::wire::{frame, scram};
use serde_json::{Value, json};

use super::settings;
use crate::config::CLIENT;
use crate::config::layers::{Source, Values};

/// The flags that say which server, and as whom.
pub fn with_flags(command: Command) -> Command {
    settings::with_flags(command, CLIENT)
}

/// A logged-in connection.
pub struct Connection {
    stream: TcpStream,
    /// As the user knows the server, for sentences.
    server: String,
    timeout: Duration,
    token: i64,
    responses: ResponseDecoder,
}

impl Connection {
    /// Connects and logs in as the flags and the environment say.
    pub fn open(matches: &ArgMatches) -> anyhow::Result<Connection> {
        let values = settings::client_values(CLIENT, matches)?;
        let host = values.text("host").expect("has a default");
        let port = port(&values)?;
        let password = password(&values)?;
        let timeout = Duration::from_secs(values.whole("connect-timeout").expect("has a default"));
        let server = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let stream = connect(host, port, &server, timeout)?;
        stream.set_read_timeout(Some(timeout)).context("cannot set a time limit")?;
        stream.set_write_timeout(Some(timeout)).context("cannot set a time limit")?;
        // Without it a query could wait for the acknowledgement of the handshake.
        let _ = stream.set_nodelay(true);
        let mut connection =
            Connection { stream, server, timeout, token: 0, responses: ResponseDecoder::default() };
        connection.log_in(values.text("user").expect("has a default"), &password)?;
        Ok(connection)
    }

    fn log_in(&mut self, user: &str, password: &str) -> anyhow::Result<()> {
        let mut nonce = [0u8; scram::NONCE_BYTES];
        getrandom::fill(&mut nonce)
            .map_err(|error| anyhow!("the system gives no random numbers: {error}"))?;
        let mut out = Vec::new();
        let mut handshake = ClientHandshake::new(user, password, nonce, &mut out);
        loop {
            self.send(&out)?;
            out.clear();
            let mut bytes = [0u8; 4096];
            let count = self.receive(&mut bytes)?;
            match handshake.push(&bytes[..count], &mut out) {
                Ok(ClientProgress::Done) => return Ok(()),
                Ok(ClientProgress::NeedBytes) => {}
                Err(error) => return Err(self.refused(user, &error)),
            }
        }
    }

    fn refused(&self, user: &str, error: &HandshakeError) -> anyhow::Error {
        let message = error.message.trim_end_matches('.');
        match error.code {
            Some(10..=20) => {
                anyhow!("{} refused the user `{user}` ({message}): check --user and --password", self.server)
            }
            Some(_) | None => anyhow!("{} did not let us in: {message}", self.server),
        }
    }

    /// Runs a query that answers one value; the error is the server's own message.
    pub fn run(&mut self, term: &Value) -> anyhow::Result<Value> {
        self.token += 1;
        let query = json!([1, term, {}]).to_string();
        let mut out = Vec::new();
        frame::write_query(self.token, query.as_bytes(), &mut out);
        self.send(&out)?;
        let mut bytes = vec![0u8; 64 << 10];
        loop {
            let response = self.responses.next_response();
            let response =
                response.map_err(|error| anyhow!("{} answered something broken: {error}", self.server))?;
            if let Some(mut response) = response.filter(|response| response.token == self.token) {
                if let Some(message) = response.error() {
                    bail!("{message}");
                }
                return match response.results.len() {
                    1 => Ok(response.results.remove(0)),
                    _ => Ok(Value::Array(response.results)),
                };
            }
            let count = self.receive(&mut bytes)?;
            self.responses.push(&bytes[..count]);
        }
    }

    fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).map_err(|error| self.lost(&error))
    }

    fn receive(&mut self, bytes: &mut [u8]) -> anyhow::Result<usize> {
        match self.stream.read(bytes) {
            Ok(0) => bail!("{} closed the connection: is it a PhotonDB driver port?", self.server),
            Ok(count) => Ok(count),
            Err(error) => Err(self.lost(&error)),
        }
    }

    fn lost(&self, error: &std::io::Error) -> anyhow::Error {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        match error.kind() {
            TimedOut | WouldBlock => anyhow!(
                "{} has been silent for {} s: is it a PhotonDB driver port? (--connect-timeout waits longer)",
                self.server,
                self.timeout.as_secs()
            ),
            _ => anyhow!("the connection to {} broke: {error}", self.server),
        }
    }
}

/// The driver port with what the server adds to it.
fn port(values: &Values) -> anyhow::Result<u16> {
    let number = |name: &str| values.whole(name).expect("has a default");
    let (port, offset) = (number("driver-port"), number("port-offset"));
    u16::try_from(port + offset).map_err(|_| {
        anyhow!("there is no port {}: --driver-port {port} with --port-offset {offset}", port + offset)
    })
}

fn connect(host: &str, port: u16, server: &str, timeout: Duration) -> anyhow::Result<TcpStream> {
    let addresses: Vec<_> = (host, port)
        .to_socket_addrs()
        .map_err(|error| anyhow!("cannot find the host `{host}`: {error}"))?
        .collect();
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    let reason = last.map_or_else(|| "it has no address".to_owned(), |error| error.to_string());
    bail!(
        "no server answers at {server} ({reason}): start one with `photondb serve`, or say where it is with --host and \
         --driver-port"
    )
}

/// The stronger source of the two decides; given in the same one, they contradict each other.
fn password(values: &Values) -> anyhow::Result<String> {
    let (text, file) = (values.text("password"), values.path("password-file"));
    match (text, file) {
        (None, None) => Ok(String::new()),
        (Some(text), None) => Ok(text.to_owned()),
        (None, Some(file)) => password_from(file),
        (Some(text), Some(file)) => match (values.source("password"), values.source("password-file")) {
            (Source::Flag, Source::Flag) => {
                bail!("--password and --password-file are both given: keep one of them")
            }
            (of_text, of_file) if of_text > of_file => Ok(text.to_owned()),
            (_, _) => password_from(file),
        },
    }
}

fn password_from(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the password file {}", file.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// A term of the query language as it goes over the wire.
pub fn call(term: u32, arguments: &[Value]) -> Value {
    json!([term, arguments])
}

/// `r.db(name)`
pub fn db(name: &str) -> Value {
    call(number::DB, &[json!(name)])
}

/// `r.db(db).table(name)`
pub fn table(db_name: &str, name: &str) -> Value {
    call(number::TABLE, &[db(db_name), json!(name)])
}

/// The texts of an array that the server answered.
pub fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(text).collect()
}

/// A value as a cell of a table: texts bare, everything else as JSON.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use photondb_proto::wire::frame::FrameDecoder;
    use photondb_proto::wire::handshake::{Handshake, HandshakeSecrets, Progress};
    use photondb_proto::wire::scram::{Credential, NONCE_BYTES, SALT_BYTES};

    use super::*;

    /// Serves one connection: logs in whoever knows the password, and gives `answer` to each query.
    fn server(password: &'static str, answer: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || serve(listener.accept().expect("a client").0, password, answer));
        port
    }

    fn serve(mut stream: TcpStream, password: &str, answer: &str) {
        let secrets = HandshakeSecrets { nonce: [1; NONCE_BYTES], salt_secret: [2; 16], iterations: 1 };
        let (mut handshake, mut out, mut bytes) = (Handshake::new(secrets), Vec::new(), [0u8; 4096]);
        loop {
            let count = stream.read(&mut bytes).expect("a handshake");
            let mut progress = handshake.push(&bytes[..count], &mut out);
            if let Progress::NeedCredential { .. } = progress {
                let credential = Credential::derive(password.as_bytes(), [3; SALT_BYTES], 4096);
                progress = handshake.credential(Some(credential), &mut out);
            }
            stream.write_all(&std::mem::take(&mut out)).expect("a client that listens");
            match progress {
                Progress::Done { .. } => break,
                Progress::Failed => return,
                _ => {}
            }
        }
        let mut frames = FrameDecoder::default();
        loop {
            if let Some(frame) = frames.next_frame().expect("a frame") {
                let mut out = frame.token.to_le_bytes().to_vec();
                out.extend_from_slice(&u32::try_from(answer.len()).expect("short").to_le_bytes());
                out.extend_from_slice(answer.as_bytes());
                stream.write_all(&out).expect("a client that listens");
            }
            match stream.read(&mut bytes) {
                Ok(0) | Err(_) => return,
                Ok(count) => frames.push(&bytes[..count]),
            }
        }
    }

    #[track_caller]
    fn check(password: &str, answer: &'static str, want: Result<Value, &str>) {
        let port = server("sesame", answer).to_string();
        let line = ["t", "--driver-port", &port, "--password", password, "--connect-timeout", "5"];
        let matches = with_flags(Command::new("t")).try_get_matches_from(line).expect("arguments");
        let found = Connection::open(&matches).and_then(|mut connection| {
            connection.run(&call(number::DB_LIST, &[]))?;
            connection.run(&call(number::DB_LIST, &[]))
        });
        let found = found.map_err(|error| format!("{error:#}").replace(&port, "PORT"));
        assert_eq!(found, want.map_err(str::to_owned), "{password} {answer}");
    }

    #[test]
    fn a_query_ends_in_its_value_or_one_sentence() {
        check("sesame", r#"{"t":1,"r":[["test"]],"n":[]}"#, Ok(json!(["test"])));
        check("sesame", r#"{"t":2,"r":[1,2],"n":[]}"#, Ok(json!([1, 2])));
        check(
            "sesame",
            r#"{"t":18,"e":4100000,"r":["Database `x` does not exist."],"b":[]}"#,
            Err("Database `x` does not exist."),
        );
        check(
            "open",
            "",
            Err("127.0.0.1:PORT refused the user `admin` (Wrong password): check --user and --password"),
        );
        check(
            "sesame",
            "nonsense",
            Err("127.0.0.1:PORT answered something broken: expected ident at line 1 column 2"),
        );
    }
}
