//! HTTP requests of queries.
//!
//! Always: a connection is made to an address that was checked ([`super::address`]) after its name was resolved, for each request and each
//! redirect anew, so neither a name nor a redirect leads to where queries may not go. Times, sizes, redirects and attempts
//! are bounded. Nothing is kept between requests: no cookies, no connections.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes};
use hyper::{Request, Response, Uri, header};
use hyper_util::rt::TokioIo;
use photondb_proto::limits;
use photondb_proto::outside::{
    Certificates, HttpAnswer, HttpAuth, HttpAuthScheme, HttpCall, HttpMethod, HttpReply,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::address::is_public;
use super::{digest, tls};

/// What requests are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpOptions {
    Off,
    PublicAddresses,
    /// Private addresses too.
    AllAddresses,
}

/// Pause before the first further attempt; each next one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

pub struct Http {
    options: HttpOptions,
    /// Where connections may be made to.
    is_allowed: fn(IpAddr) -> bool,
}

/// Why there is no answer.
#[derive(Debug)]
struct Failure {
    reason: String,
    /// Another attempt may do better.
    temporary: bool,
}

fn failed(reason: impl Into<String>) -> Failure {
    Failure { reason: reason.into(), temporary: false }
}

fn temporarily(reason: impl Into<String>) -> Failure {
    Failure { reason: reason.into(), temporary: true }
}

/// A request as it is at one stop of its way.
struct Leg {
    method: HttpMethod,
    uri: Uri,
    body: Bytes,
    /// The host is the first one: credentials may be shown to it.
    trusted: bool,
}

impl Http {
    pub fn new(options: HttpOptions) -> Http {
        let is_allowed = if options == HttpOptions::AllAddresses { |_| true } else { is_public };
        Http { options, is_allowed }
    }

    pub async fn fetch(&self, call: &HttpCall) -> HttpReply {
        if self.options == HttpOptions::Off {
            let reason =
                "`http` is off on this server: start it with --allow-http to let queries make HTTP requests.";
            return HttpReply::Refused(reason.to_owned());
        }
        match tokio::time::timeout(Duration::from_millis(call.timeout_ms), self.attempts(call)).await {
            Ok(Ok(answer)) => HttpReply::Answered(answer),
            Ok(Err(failure)) => HttpReply::Failed(failure.reason),
            Err(_) => HttpReply::TimedOut,
        }
    }

    async fn attempts(&self, call: &HttpCall) -> Result<HttpAnswer, Failure> {
        let mut pause = PAUSE_FIRST;
        let mut left = call.attempts.max(1);
        loop {
            left -= 1;
            let outcome = self.follow(call).await;
            let temporary = match &outcome {
                Ok(answer) => matches!(answer.status, 408 | 502 | 503 | 504),
                Err(failure) => failure.temporary,
            };
            if left == 0 || !temporary {
                return outcome;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One request, and where it is redirected to.
    async fn follow(&self, call: &HttpCall) -> Result<HttpAnswer, Failure> {
        let uri = absolute(&call.url)?;
        let mut leg = Leg { method: call.method, uri, body: Bytes::from(call.body.clone()), trusted: true };
        let mut redirects = 0;
        loop {
            let answer = self.leg(call, &leg).await?;
            let location = answer.headers.iter().find(|(name, _)| name == "location");
            let (true, Some((_, location))) =
                (matches!(answer.status, 301 | 302 | 303 | 307 | 308), location)
            else {
                return Ok(answer);
            };
            if call.redirects == 0 {
                return Ok(answer);
            }
            redirects += 1;
            if redirects > call.redirects {
                return Err(failed("Number of redirects hit maximum amount"));
            }
            leg = redirected(&leg, answer.status, location)?;
        }
    }

    /// One stop of a request, with the second try that digest authentication needs.
    async fn leg(&self, call: &HttpCall, leg: &Leg) -> Result<HttpAnswer, Failure> {
        let auth = call.auth.as_ref().filter(|_| leg.trusted);
        let basic = auth.filter(|auth| auth.scheme == HttpAuthScheme::Basic).map(basic_credentials);
        let answer = self.request(call, leg, basic.as_deref()).await?;
        let Some(auth) = auth.filter(|auth| auth.scheme == HttpAuthScheme::Digest && answer.status == 401)
        else {
            return Ok(answer);
        };
        let challenges = answer.headers.iter().filter(|(name, _)| name == "www-authenticate");
        let path = leg.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| failed(error.to_string()))?;
        let credentials = challenges
            .filter_map(|(_, challenge)| digest::credentials(challenge, auth, leg.method.name(), path, nonce))
            .next();
        match credentials {
            Some(credentials) => self.request(call, leg, Some(&credentials)).await,
            None => Ok(answer),
        }
    }

    async fn request(
        &self,
        call: &HttpCall,
        leg: &Leg,
        credentials: Option<&str>,
    ) -> Result<HttpAnswer, Failure> {
        let host = leg.uri.host().ok_or_else(|| failed("URL using bad/illegal format or missing URL"))?;
        let is_tls = leg.uri.scheme_str() == Some("https");
        let port = leg.uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = self.connect(host, port).await?;
        let request = build(call, leg, credentials)?;
        if !is_tls {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|_| failed(format!("`{host}` is no name that a certificate can be for")))?;
        let config = match call.certificates {
            Certificates::Checked => tls::CHECKED.clone(),
            Certificates::Ignored => tls::IGNORED.clone(),
        };
        let stream = TlsConnector::from(config).connect(name, stream).await;
        exchange(stream.map_err(|error| failed(format!("SSL connect error: {error}")))?, request).await
    }

    /// Connects to the first address of the host that may be reached and answers.
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Failure> {
        let found = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await;
        let found: Vec<SocketAddr> = match found {
            Ok(addresses) => addresses.collect(),
            Err(_) => return Err(temporarily("Couldn't resolve host name")),
        };
        let allowed = |address: &SocketAddr| (self.is_allowed)(address.ip().to_canonical());
        if !found.iter().any(allowed) {
            return Err(failed(format!(
                "`{host}` is not a public address, and `http` may reach others only with --http-allow-private"
            )));
        }
        for address in found.into_iter().filter(allowed) {
            if let Ok(stream) = TcpStream::connect(address).await {
                return Ok(stream);
            }
        }
        Err(temporarily("Couldn't connect to server"))
    }
}

// ---------------------------------------------------------------- places

/// The address that a query gave; `http` unless it says otherwise.
fn absolute(url: &str) -> Result<Uri, Failure> {
    let text = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    // A fragment is for the reader, and blanks are what people paste.
    let text = text.split('#').next().unwrap_or_default().trim().replace(' ', "%20");
    let uri: Uri = text.parse().map_err(|_| failed("URL using bad/illegal format or missing URL"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if !authority.as_str().contains('@') => Ok(uri),
        (Some("http" | "https"), Some(_)) => {
            Err(failed("a URL may hold no password here: use the option `auth`"))
        }
        (Some("http" | "https"), None) => Err(failed("URL using bad/illegal format or missing URL")),
        (_, _) => Err(failed("Unsupported protocol")),
    }
}

/// Where a redirect leads, seen from where it was met.
fn redirected(from: &Leg, status: u16, location: &str) -> Result<Leg, Failure> {
    let scheme = from.uri.scheme_str().unwrap_or("http");
    let authority = from.uri.authority().map_or("", |authority| authority.as_str());
    let uri = if location.contains("://") {
        absolute(location)?
    } else if location.starts_with("//") {
        absolute(&format!("{scheme}:{location}"))?
    } else if location.starts_with('/') {
        absolute(&format!("{scheme}://{authority}{location}"))?
    } else {
        let folder = from.uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        absolute(&format!("{scheme}://{authority}{folder}/{location}"))?
    };
    let becomes_get = match status {
        303 => from.method != HttpMethod::Head,
        301 | 302 => from.method == HttpMethod::Post,
        _ => false,
    };
    let (method, body) = match becomes_get {
        true => (HttpMethod::Get, Bytes::new()),
        false => (from.method, from.body.clone()),
    };
    let same_place = uri.scheme() == from.uri.scheme() && uri.authority() == from.uri.authority();
    Ok(Leg { method, uri, body, trusted: from.trusted && same_place })
}

// ---------------------------------------------------------------- requests

fn basic_credentials(auth: &HttpAuth) -> String {
    format!("Basic {}", BASE64.encode(format!("{}:{}", auth.user, auth.password)))
}

static USER_AGENT: LazyLock<String> = LazyLock::new(|| format!("RethinkDB/{}", crate::RETHINKDB_VERSION));

/// Headers that are not shown to other hosts than the first.
const PRIVATE_HEADERS: [&str; 2] = ["authorization", "cookie"];

fn build(call: &HttpCall, leg: &Leg, credentials: Option<&str>) -> Result<Request<Full<Bytes>>, Failure> {
    let path = leg.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(leg.method.name()).uri(path);
    let given = |name: &str| call.headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
    let authority = leg.uri.authority().map_or("", |authority| authority.as_str());
    if !given("host") || !leg.trusted {
        request = request.header(header::HOST, authority);
    }
    for (name, value) in
        [("user-agent", USER_AGENT.as_str()), ("accept", "*/*"), ("accept-encoding", "deflate, gzip")]
    {
        if !given(name) {
            request = request.header(name, value);
        }
    }
    for (name, value) in &call.headers {
        let lower = name.to_ascii_lowercase();
        let withheld = !leg.trusted && (PRIVATE_HEADERS.contains(&lower.as_str()) || lower == "host");
        // The length is what the body has; a body that a redirect took away has no type.
        let of_body = lower == "content-length" || (lower == "content-type" && leg.body.is_empty());
        if !withheld && !of_body && lower != "transfer-encoding" {
            request = request.header(name.as_str(), value.as_str());
        }
    }
    if let Some(credentials) = credentials {
        request = request.header(header::AUTHORIZATION, credentials);
    }
    let built = request.body(Full::new(leg.body.clone()));
    built.map_err(|error| failed(format!("the request cannot be made: {error}")))
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<HttpAnswer, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken =
        |error: hyper::Error| temporarily(format!("Failure when receiving data from the peer: {error}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let drive = async {
        // Whatever goes wrong with the connection, the exchange hears of it.
        let _ = connection.await;
        std::future::pending().await
    };
    let talk = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        answer(response).await
    };
    tokio::select! {
        answer = talk => answer,
        never = drive => never,
    }
}

async fn answer(
    response: Response<impl Body<Data = Bytes, Error = hyper::Error> + Unpin>,
) -> Result<HttpAnswer, Failure> {
    let status = response.status().as_u16();
    let headers: Vec<(String, String)> = response
        .headers()
        .iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    let mut incoming = response.into_body();
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame
            .map_err(|error| temporarily(format!("Failure when receiving data from the peer: {error}")))?;
        if let Ok(data) = frame.into_data() {
            body.extend_from_slice(&data);
            check_size(body.len())?;
        }
    }
    let encoding =
        headers.iter().find(|(name, _)| name == "content-encoding").map(|(_, value)| value.as_str());
    let body = match encoding.map(str::to_ascii_lowercase).as_deref() {
        Some("gzip" | "x-gzip") => unpacked(flate2::read::MultiGzDecoder::new(body.as_slice()))?,
        // Both forms are called so.
        Some("deflate") => match unpacked(flate2::read::ZlibDecoder::new(body.as_slice())) {
            Ok(body) => body,
            Err(_) => unpacked(flate2::read::DeflateDecoder::new(body.as_slice()))?,
        },
        Some(_) | None => body,
    };
    Ok(HttpAnswer { status, headers, body })
}

fn check_size(bytes: usize) -> Result<(), Failure> {
    let most = limits::HTTP_BODY_BYTES_MAX;
    if bytes > most { Err(failed(format!("the answer's body is larger than {most} bytes"))) } else { Ok(()) }
}

/// Unpacks no more than a body may have: a small one may be made to unfold without end.
fn unpacked(packed: impl Read) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let read = packed.take(limits::HTTP_BODY_BYTES_MAX as u64 + 1).read_to_end(&mut body);
    read.map_err(|error| failed(format!("the answer's body cannot be unpacked: {error}")))?;
    check_size(body.len())?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// The one address that is public in these tests.
    const PUBLIC: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

    /// Asks a server at the public address, which redirects to `location`; `PORT` there is that of a private server, which must hear
    /// nothing.
    #[track_caller]
    fn check(location: &str, want: &str) {
        let (public, private) = (TcpListener::bind((PUBLIC, 0)), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let (public, private) = (public.expect("a free port"), private.expect("a free port"));
        let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
        let location = location.replace("PORT", &port(&private).to_string());
        let url = format!("http://{PUBLIC}:{}/", port(&public));
        let server = std::thread::spawn(move || {
            let (mut stream, _) = public.accept()?;
            // An answer that is there before its question, or what is left unread, looks like a broken connection.
            let _ = stream.read(&mut [0; 4096])?;
            write!(stream, "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
        });
        let call = HttpCall {
            method: HttpMethod::Get,
            url,
            headers: Vec::new(),
            body: Vec::new(),
            timeout_ms: 5_000,
            attempts: 1,
            redirects: 3,
            certificates: Certificates::Checked,
            auth: None,
        };
        let http = Http { options: HttpOptions::PublicAddresses, is_allowed: |address| address == PUBLIC };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let HttpReply::Failed(reason) = runtime.block_on(http.fetch(&call)) else {
            panic!("it was not refused")
        };
        assert_eq!(
            reason,
            format!(
                "`{want}` is not a public address, and `http` may reach others only with --http-allow-private"
            )
        );
        server.join().expect("no panic").expect("the public server was asked");
        private.set_nonblocking(true).expect("a socket");
        assert_eq!(private.accept().expect_err("nobody came").kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_redirect_to_a_private_address_is_refused_whatever_it_is_called() {
        check("http://127.0.0.1:PORT/secret", "127.0.0.1");
        // Looked at after it is resolved.
        check("http://localhost:PORT/secret", "localhost");
        check("http://[::ffff:127.0.0.1]:PORT/", "[::ffff:127.0.0.1]");
        check("//127.1:PORT/", "127.1");
    }
}
