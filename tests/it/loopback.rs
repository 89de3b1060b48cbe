//! An HTTP server of a test, on a free port of the loopback address, whose paths behave in all the ways that a client meets.
//!
//! Each connection takes one request and is closed.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use md5::{Digest, Md5};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Map, Value, json};

/// How long `/slow` keeps its client waiting.
const SLOW: Duration = Duration::from_secs(4);
const REALM: &str = "test";
const NONCE: &str = "5ccc069c";

/// What a client asked.
struct Request {
    method: String,
    path: String,
    query: String,
    headers: Map<String, Value>,
    body: String,
}

/// How often each path was asked for.
#[derive(Clone, Default)]
pub struct Asked(Arc<Mutex<HashMap<String, u32>>>);

impl Asked {
    fn count(&self, path: &str) -> u32 {
        let mut asked = self.0.lock().expect("nobody panics with the lock");
        let count = asked.entry(path.to_owned()).or_default();
        *count += 1;
        *count
    }

    pub fn times(&self, path: &str) -> u32 {
        self.0.lock().expect("nobody panics with the lock").get(path).copied().unwrap_or_default()
    }
}

/// Starts the server; it lives as long as the test's process.
pub fn start() -> (SocketAddr, Asked) {
    let (listener, asked) = (TcpListener::bind("127.0.0.1:0").expect("a free port"), Asked::default());
    let address = listener.local_addr().expect("an address");
    let counted = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let asked = counted.clone();
            std::thread::spawn(move || serve(stream, address, &asked));
        }
    });
    (address, asked)
}

/// The same behind TLS with a certificate that nobody signed.
pub fn start_tls() -> SocketAddr {
    let certificate = CertificateDer::from(include_bytes!("certificate/certificate.der").as_slice());
    let key = PrivatePkcs8KeyDer::from(include_bytes!("certificate/key.der").as_slice());
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::from(key))
            .expect("a certificate with its key");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = rustls::ServerConnection::new(config.clone()).expect("a connection");
            serve(rustls::StreamOwned::new(connection, stream), address, &Asked::default());
        }
    });
    address
}

fn serve(stream: impl Read + Write, address: SocketAddr, asked: &Asked) {
    let mut stream = BufReader::new(stream);
    let Some(request) = read(&mut stream) else { return };
    let answer = answer(&request, address, asked);
    let _ = stream.get_mut().write_all(&answer);
    let _ = stream.get_mut().flush();
}

fn read(stream: &mut impl BufRead) -> Option<Request> {
    let mut line = || {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Map::new();
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), json!(value.trim()));
    }
    let length = headers.get("content-length").and_then(Value::as_str).and_then(|text| text.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let body = String::from_utf8_lossy(&body).into_owned();
    Some(Request { method, path: path.to_owned(), query: query.to_owned(), headers, body })
}

fn answer(request: &Request, address: SocketAddr, asked: &Asked) -> Vec<u8> {
    let count = asked.count(&request.path);
    let (name, argument) = request.path[1..].split_once('/').unwrap_or((&request.path[1..], ""));
    let number: u32 = argument.parse().unwrap_or_default();
    match name {
        "echo" => {
            let told = json!({ "method": request.method, "query": request.query, "headers": request.headers, "body": request.body });
            made(200, &["Content-Type: application/json"], told.to_string())
        }
        "typed" => made(200, &[&format!("Content-Type: {}", request.query)], "call([1, 2]);"),
        "list" => made(200, &["Content-Type: application/json; charset=utf-8"], "[1, 2]"),
        "plain" => made(200, &["Content-Type: text/plain"], "[1, 2]"),
        "bytes" => made(200, &["Content-Type: application/octet-stream"], "\0bytes"),
        "status" => made(number, &["Content-Type: text/plain"], "so it is"),
        "redirect" if number == 0 => made(302, &["Location: /echo"], ""),
        "redirect" => made(302, &[&format!("Location: http://{address}/redirect/{}", number - 1)], ""),
        "moved" => made(number, &["Location: /echo?moved"], ""),
        "away" => made(302, &[&format!("Location: http://localhost:{}/echo", address.port())], ""),
        "basic" => guarded(request, "Basic realm=\"test\"", |told| told == "Basic dTpw"),
        "digest" => {
            let challenge =
                format!("Digest realm=\"{REALM}\", nonce=\"{NONCE}\", qop=\"auth\", opaque=\"o\"");
            guarded(request, &challenge, |told| is_right(request, told))
        }
        // Pages of two numbers each, the last one without a link.
        "pages" if number < 3 => {
            let link = format!("Link: <http://{address}/pages/{}>; rel=\"next\"", number + 1);
            made(
                200,
                &["Content-Type: application/json", &link],
                format!("[{}, {}]", number * 2, number * 2 + 1),
            )
        }
        "pages" => made(200, &["Content-Type: application/json"], format!("[{}]", number * 2)),
        "busy" if count < number => made(503, &[], "later"),
        "busy" => made(200, &["Content-Type: application/json"], format!("{count}")),
        "slow" => {
            std::thread::sleep(SLOW);
            made(200, &[], "late")
        }
        "cut" => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec(),
        "noise" => b"what?\r\n\r\n".to_vec(),
        _ => made(404, &["Content-Type: text/plain"], "nothing here"),
    }
}

fn made(status: u32, headers: &[&str], body: impl Into<String>) -> Vec<u8> {
    let body: String = body.into();
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!(
        "HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn guarded(request: &Request, challenge: &str, is_right: impl Fn(&str) -> bool) -> Vec<u8> {
    match request.headers.get("authorization").and_then(Value::as_str) {
        Some(told) if is_right(told) => made(200, &["Content-Type: application/json"], "\"in\""),
        Some(_) | None => made(401, &[&format!("WWW-Authenticate: {challenge}")], "who?"),
    }
}

/// Whether the digest is that of user `u` with password `p`.
fn is_right(request: &Request, told: &str) -> bool {
    let hash =
        |text: String| -> String { Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect() };
    let value = |name: &str| {
        let (_, rest) = told.split_once(&format!("{name}="))?;
        Some(rest.trim_start_matches('"').split(['"', ',']).next().unwrap_or_default().to_owned())
    };
    let (Some(nonce), Some(count), Some(uri)) = (value(" cnonce"), value(" nc"), value(" uri")) else {
        return false;
    };
    let user = hash(format!("u:{REALM}:p"));
    let asked = hash(format!("{}:{uri}", request.method));
    value(" response") == Some(hash(format!("{user}:{NONCE}:{count}:{nonce}:auth:{asked}")))
}

/// A port of the loopback address that nobody listens at.
pub fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    assert!(TcpStream::connect(address).is_err());
    address
}
