//! The client's side of the protocol, sans-I/O: V0_4 and V1_0 handshakes and responses. The command line and the load
//! generator speak it.

use serde_json::{Map, Value};

use super::handshake::{MAGIC_JSON, MAGIC_V0_4, MAGIC_V1_0};
use super::scram::{self, ClientProof};
pub use super::scram::{NONCE_BYTES, SaltedPassword};

/// What the handshake needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientProgress {
    NeedBytes,
    Done,
}

/// Why a handshake failed: the server's words, or ours when it spoke nonsense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HandshakeError {
    pub message: String,
    /// The server's `error_code`: 10 to 20 are about who the user is.
    pub code: Option<u64>,
}

impl HandshakeError {
    fn new(message: impl Into<String>) -> HandshakeError {
        HandshakeError { message: message.into(), code: None }
    }
}

enum State {
    Key,
    Greeting,
    ServerFirst,
    ServerFinal { signature: [u8; 32] },
    Over,
}

/// A handshake. Of V1_0, messages 1 and 3 go out together, as drivers do it.
pub struct ClientHandshake {
    state: State,
    buffer: Vec<u8>,
    password: Vec<u8>,
    nonce: String,
    first_bare: String,
    salted: Option<SaltedPassword>,
}

impl ClientHandshake {
    /// V0_4, which logs in the user `admin` with the password as its key. Writes the first message to `out`.
    pub fn v0_4(key: &str, out: &mut Vec<u8>) -> ClientHandshake {
        out.extend_from_slice(&MAGIC_V0_4.to_le_bytes());
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(&MAGIC_JSON.to_le_bytes());
        ClientHandshake {
            state: State::Key,
            buffer: Vec::new(),
            password: Vec::new(),
            nonce: String::new(),
            first_bare: String::new(),
            salted: None,
        }
    }

    /// V1_0 of one who has logged in before: a salted password saves the work of salting it, if the salt is the same.
    pub fn with_salted(mut self, salted: Option<SaltedPassword>) -> ClientHandshake {
        self.salted = salted;
        self
    }

    /// The salted password, once the server has named the salt.
    pub fn salted(&self) -> Option<&SaltedPassword> {
        self.salted.as_ref()
    }

    /// V1_0. Writes the first messages to `out`. `nonce` is random.
    pub fn new(
        user: &str,
        password: &str,
        nonce: [u8; scram::NONCE_BYTES],
        out: &mut Vec<u8>,
    ) -> ClientHandshake {
        let nonce = scram::to_base64(&nonce);
        let first_bare = format!("n={},r={nonce}", scram::escape_user(user));
        out.extend_from_slice(&MAGIC_V1_0.to_le_bytes());
        let message = serde_json::json!({
            "protocol_version": 0,
            "authentication_method": "SCRAM-SHA-256",
            "authentication": format!("n,,{first_bare}"),
        });
        write_json(&message, out);
        ClientHandshake {
            state: State::Greeting,
            buffer: Vec::new(),
            password: password.as_bytes().to_vec(),
            nonce,
            first_bare,
            salted: None,
        }
    }

    /// Adds received bytes; answers are appended to `out`.
    ///
    /// # Errors
    /// When the server refuses, proves not to know the password, or does not speak the protocol.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<ClientProgress, HandshakeError> {
        self.buffer.extend_from_slice(bytes);
        while let Some(end) = self.buffer.iter().position(|byte| *byte == 0) {
            let message: Vec<u8> = self.buffer.drain(..=end).take(end).collect();
            if matches!(self.state, State::Key) && message == b"SUCCESS" {
                self.state = State::Over;
                return Ok(ClientProgress::Done);
            }
            let message: Value = serde_json::from_slice(&message).map_err(|_| {
                // Servers that refuse the protocol itself answer a plain sentence.
                HandshakeError::new(String::from_utf8_lossy(&message).trim_end().to_owned())
            })?;
            if message["success"] != Value::Bool(true) {
                let text = message["error"].as_str().unwrap_or("the server refused the handshake");
                return Err(HandshakeError {
                    message: text.to_owned(),
                    code: message["error_code"].as_u64(),
                });
            }
            match std::mem::replace(&mut self.state, State::Over) {
                State::Key => return Err(HandshakeError::new("the server does not speak V0_4")),
                State::Greeting => self.state = State::ServerFirst,
                State::ServerFirst => self.answer(authentication(&message)?, out)?,
                State::ServerFinal { signature } => {
                    let shown = scram::attribute(authentication(&message)?, 'v').and_then(scram::from_base64);
                    if shown.as_deref() != Some(&signature) {
                        return Err(HandshakeError::new(
                            "the server does not know the password either: is it the right one?",
                        ));
                    }
                    return Ok(ClientProgress::Done);
                }
                State::Over => {
                    return Err(HandshakeError::new("the server goes on after the end of the handshake"));
                }
            }
        }
        Ok(ClientProgress::NeedBytes)
    }

    fn answer(&mut self, server_first: &str, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        let broken = || HandshakeError::new("the server's authentication message is broken");
        let nonce = scram::attribute(server_first, 'r').ok_or_else(broken)?;
        let salt = scram::attribute(server_first, 's').and_then(scram::from_base64).ok_or_else(broken)?;
        let iterations =
            scram::attribute(server_first, 'i').and_then(|text| text.parse().ok()).ok_or_else(broken)?;
        if !nonce.starts_with(&self.nonce) {
            return Err(HandshakeError::new("the server answered with another nonce than ours"));
        }
        let without_proof = format!("c=biws,r={nonce}");
        let auth_message = format!("{},{server_first},{without_proof}", self.first_bare);
        let salted = match self.salted.take() {
            Some(known) if known.is_of(&self.password, &salt, iterations) => known,
            Some(_) | None => SaltedPassword::derive(&self.password, &salt, iterations),
        };
        let proof = ClientProof::new(&salted, auth_message.as_bytes());
        self.salted = Some(salted);
        let text = format!("{without_proof},p={}", scram::to_base64(&proof.proof));
        write_json(&serde_json::json!({"authentication": text}), out);
        self.state = State::ServerFinal { signature: proof.server_signature };
        Ok(())
    }
}

fn authentication(message: &Value) -> Result<&str, HandshakeError> {
    message["authentication"]
        .as_str()
        .ok_or_else(|| HandshakeError::new("the server sent no `authentication`"))
}

fn write_json(value: &Value, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, value).expect("writing to memory does not fail");
    out.push(0);
}

/// A response as a client sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    pub token: i64,
    /// `t`
    pub response_type: u64,
    /// `e`, which only runtime errors carry.
    pub error_type: Option<u64>,
    /// `r`
    pub results: Vec<Value>,
    /// `b`
    pub backtrace: Vec<Value>,
    /// `n`
    pub notes: Vec<u64>,
    pub profile: Option<Value>,
}

impl Response {
    /// The error's text, when the response is one.
    pub fn error(&self) -> Option<&str> {
        if self.response_type < 16 {
            return None;
        }
        Some(self.results.first().and_then(Value::as_str).unwrap_or("the server gave no reason"))
    }
}

/// Cuts responses out of a byte stream.
#[derive(Default)]
pub struct ResponseDecoder {
    buffer: Vec<u8>,
}

impl ResponseDecoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole response.
    ///
    /// # Errors
    /// When the payload is not a response.
    pub fn next_response(&mut self) -> Result<Option<Response>, serde_json::Error> {
        let Some(header) = self.buffer.get(..12) else { return Ok(None) };
        let token = i64::from_le_bytes(header[..8].try_into().expect("eight bytes"));
        let size = u32::from_le_bytes(header[8..].try_into().expect("four bytes")) as usize;
        if self.buffer.len() < 12 + size {
            return Ok(None);
        }
        // As a map, so that any other JSON is an error.
        let mut payload: Map<String, Value> = serde_json::from_slice(&self.buffer[12..12 + size])?;
        self.buffer.drain(..12 + size);
        let mut list = |key: &str| match payload.remove(key) {
            Some(Value::Array(items)) => items,
            Some(_) | None => Vec::new(),
        };
        let (results, backtrace, notes) = (list("r"), list("b"), list("n"));
        Ok(Some(Response {
            token,
            response_type: payload.get("t").and_then(Value::as_u64).unwrap_or(0),
            error_type: payload.get("e").and_then(Value::as_u64),
            results,
            backtrace,
            notes: notes.iter().filter_map(Value::as_u64).collect(),
            profile: payload.remove("p"),
        }))
    }
}
