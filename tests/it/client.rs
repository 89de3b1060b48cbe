//! A small blocking client of the driver protocol, for tests that need more control than a driver gives.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use photondb_proto::term::number;
use photondb_proto::wire::client::{
    ClientHandshake, ClientProgress, HandshakeError, Response, ResponseDecoder,
};
use photondb_proto::wire::frame;
use serde_json::{Value, json};

/// A server that is silent for this long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Response types of the protocol.
pub const SUCCESS_ATOM: u64 = 1;
pub const SUCCESS_SEQUENCE: u64 = 2;
pub const SUCCESS_PARTIAL: u64 = 3;
pub const CLIENT_ERROR: u64 = 16;
pub const COMPILE_ERROR: u64 = 17;
pub const RUNTIME_ERROR: u64 = 18;

/// What the server answered instead of a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub response_type: u64,
    pub error_type: Option<u64>,
    pub message: String,
}

/// A logged-in connection.
pub struct Client {
    pub stream: TcpStream,
    responses: ResponseDecoder,
    token: i64,
}

impl Client {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).expect("the server lets admin in")
    }

    pub fn try_connect(address: SocketAddr) -> io::Result<Client> {
        Client::greet(TcpStream::connect(address)?, "admin", "")?.map_err(io::Error::other)
    }

    /// Logs in over a fresh connection. The outer error is the connection's, the inner one the server's.
    pub fn greet(
        mut stream: TcpStream,
        user: &str,
        password: &str,
    ) -> io::Result<Result<Client, HandshakeError>> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let mut out = Vec::new();
        let mut handshake = ClientHandshake::new(user, password, [7; 18], &mut out);
        let mut buffer = [0; 1024];
        loop {
            stream.write_all(&std::mem::take(&mut out))?;
            let count = receive(&mut stream, &mut buffer)?;
            match handshake.push(&buffer[..count], &mut out) {
                Ok(ClientProgress::Done) => {
                    return Ok(Ok(Client { stream, responses: ResponseDecoder::default(), token: 0 }));
                }
                Ok(ClientProgress::NeedBytes) => {}
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Sends a query's text and gives its token.
    pub fn send_text(&mut self, text: &str) -> io::Result<i64> {
        self.token += 1;
        self.send_as(self.token, text)?;
        Ok(self.token)
    }

    pub fn send_as(&mut self, token: i64, text: &str) -> io::Result<()> {
        let mut out = Vec::new();
        frame::write_query(token, text.as_bytes(), &mut out);
        self.stream.write_all(&out)
    }

    /// Starts a query.
    pub fn send(&mut self, term: &Value, options: &Value) -> io::Result<i64> {
        self.send_text(&json!([1, term, options]).to_string())
    }

    /// The next response, whatever its token.
    pub fn receive(&mut self) -> io::Result<Response> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            if let Some(response) = self.responses.next_response()? {
                return Ok(response);
            }
            let count = receive(&mut self.stream, &mut buffer)?;
            self.responses.push(&buffer[..count]);
        }
    }

    /// The response to the only query in flight.
    pub fn ask_text(&mut self, text: &str) -> io::Result<Response> {
        let token = self.send_text(text)?;
        let response = self.receive()?;
        assert_eq!(response.token, token, "the answer to another query: {response:?}");
        Ok(response)
    }

    /// Runs a query to its end: the value, or all rows of a sequence as an array.
    pub fn try_run(&mut self, term: &Value) -> io::Result<Result<Value, Failure>> {
        let mut response = self.ask_text(&json!([1, term, {}]).to_string())?;
        let mut rows = Vec::new();
        loop {
            if let Some(message) = response.error() {
                return Ok(Err(Failure {
                    response_type: response.response_type,
                    error_type: response.error_type,
                    message: message.to_owned(),
                }));
            }
            match response.response_type {
                SUCCESS_ATOM => return Ok(Ok(response.results.swap_remove(0))),
                SUCCESS_PARTIAL => rows.append(&mut response.results),
                _ => {
                    rows.append(&mut response.results);
                    return Ok(Ok(Value::Array(rows)));
                }
            }
            self.send_as(response.token, "[2]")?;
            response = self.receive()?;
        }
    }

    /// Runs a query that has to succeed.
    #[track_caller]
    pub fn run(&mut self, term: &Value) -> Value {
        match self.try_run(term) {
            Ok(Ok(value)) => value,
            Ok(Err(failure)) => panic!("{term} failed: {failure:?}"),
            Err(error) => panic!("the connection broke at {term}: {error}"),
        }
    }

    /// Runs a query that has to fail.
    #[track_caller]
    pub fn fail(&mut self, term: &Value) -> Failure {
        match self.try_run(term) {
            Ok(Ok(value)) => panic!("{term} gave {value}"),
            Ok(Err(failure)) => failure,
            Err(error) => panic!("the connection broke at {term}: {error}"),
        }
    }
}

/// Reads some bytes; the end of the stream is an error.
fn receive(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

/// A term without options.
pub fn term(term: u32, arguments: Value) -> Value {
    json!([term, arguments])
}

/// `r.db('it').table(name)`
pub fn table(name: &str) -> Value {
    term(number::TABLE, json!([[number::DB, ["it"]], name]))
}

/// Makes the database `it` and the tables.
#[track_caller]
pub fn create(client: &mut Client, tables: &[&str]) {
    client.run(&term(number::DB_CREATE, json!(["it"])));
    for name in tables {
        client.run(&term(number::TABLE_CREATE, json!([[number::DB, ["it"]], name])));
    }
}

pub fn get(name: &str, key: &Value) -> Value {
    term(number::GET, json!([table(name), key]))
}

pub fn count(name: &str) -> Value {
    term(number::COUNT, json!([table(name)]))
}

/// An array of documents inserted into the table.
pub fn insert(name: &str, documents: &[Value]) -> Value {
    term(number::INSERT, json!([table(name), [number::MAKE_ARRAY, documents]]))
}
