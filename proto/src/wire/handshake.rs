//! The server's side of the handshakes: V0_3, V0_4 (authorization key) and V1_0 (SCRAM in JSON), from the first byte of a
//! connection to the first query frame.
//!
//! Always: at most [`limits::HANDSHAKE_BYTES_MAX`] bytes and a header are held for a peer that has not proved who it is;
//! messages may arrive split anywhere or all at once. The machine asks its owner for what it cannot know
//! ([`Progress::NeedCredential`], [`Progress::NeedKeyCheck`]) and goes on when that is answered; bytes behind the
//! handshake belong to the queries and are handed on by [`Handshake::into_rest`].

use serde_json::Value;

use super::scram::{self, Credential};
use crate::limits;

const MAGIC_V0_1: u32 = 0x3f61_ba36;
const MAGIC_V0_2: u32 = 0x7230_81e1;
pub const MAGIC_V0_3: u32 = 0x5f75_e83e;
pub const MAGIC_V0_4: u32 = 0x400c_2d20;
pub const MAGIC_V1_0: u32 = 0x34c2_bdc3;
pub const MAGIC_JSON: u32 = 0x7e69_70c7;
const MAGIC_PROTOBUF: u32 = 0x271f_fc41;

/// What drivers are told: they compare it with what they know.
pub const SERVER_VERSION: &str = "2.4.4";

/// The protocol a connection speaks after its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Queries of a connection run strictly one after another.
    V0_3,
    V0_4,
    V1_0,
}

/// What the owner must do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Send what was written, then push more bytes.
    NeedBytes,
    /// Answer with [`Handshake::credential`].
    NeedCredential { user: String },
    /// Compare with the admin's password (it may take a PBKDF2: not on a core) and answer with [`Handshake::key_checked`].
    NeedKeyCheck { key: Vec<u8> },
    /// Send what was written; queries follow.
    Done { protocol: Protocol, user: String },
    /// Send what was written and close.
    Failed,
}

/// Random bytes the machine needs, made by its owner.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeSecrets {
    pub nonce: [u8; scram::NONCE_BYTES],
    /// The same for the life of the server: unknown users get a salt made of it.
    pub salt_secret: [u8; 16],
    /// What unknown users are shown: as many as a new password gets.
    pub iterations: u32,
}

#[derive(Debug)]
enum State {
    Magic,
    KeyBytes { protocol: Protocol },
    Key { protocol: Protocol, bytes: usize },
    KeyCheck { protocol: Protocol },
    ProtocolMagic { protocol: Protocol },
    First,
    Credential(FirstMessage),
    Final(Box<Exchange>),
    Over,
}

#[derive(Debug)]
struct FirstMessage {
    user: String,
    /// Without the channel binding header.
    bare: String,
    nonce: String,
}

#[derive(Debug)]
struct Exchange {
    user: String,
    /// `None`: there is no such user, which only the last message may show.
    credential: Option<Credential>,
    nonce: String,
    /// Client's first bare message, a comma, the server's first message.
    messages: String,
}

/// A failure of the V1_0 handshake: its text and number.
struct Refusal(&'static str, u32);

/// One connection's handshake.
#[derive(Debug)]
pub struct Handshake {
    state: State,
    buffer: Vec<u8>,
    secrets: HandshakeSecrets,
}

impl Handshake {
    pub fn new(secrets: HandshakeSecrets) -> Handshake {
        Handshake { state: State::Magic, buffer: Vec::new(), secrets }
    }

    /// Adds received bytes and goes as far as they reach; what must be sent is appended to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Progress {
        self.buffer.extend_from_slice(bytes);
        self.advance(out)
    }

    /// Answers [`Progress::NeedCredential`].
    ///
    /// # Panics
    /// When it was not asked for.
    pub fn credential(&mut self, credential: Option<Credential>, out: &mut Vec<u8>) -> Progress {
        let State::Credential(first) = std::mem::replace(&mut self.state, State::Over) else {
            panic!("no credential was asked for");
        };
        let (salt, iterations) = match &credential {
            Some(credential) => (credential.salt, credential.iterations),
            None => (scram::fabricated_salt(&self.secrets.salt_secret, &first.user), self.secrets.iterations),
        };
        let nonce = format!("{}{}", first.nonce, scram::to_base64(&self.secrets.nonce));
        let message = format!("r={nonce},s={},i={iterations}", scram::to_base64(&salt));
        write_json(&serde_json::json!({"authentication": message, "success": true}), out);
        let messages = format!("{},{message}", first.bare);
        self.state = State::Final(Box::new(Exchange { user: first.user, credential, nonce, messages }));
        self.advance(out)
    }

    /// Answers [`Progress::NeedKeyCheck`].
    ///
    /// # Panics
    /// When it was not asked for.
    pub fn key_checked(&mut self, right: bool, out: &mut Vec<u8>) -> Progress {
        let State::KeyCheck { protocol } = self.state else { panic!("no key check was asked for") };
        if !right {
            return self.fail_with_text("ERROR: Incorrect authorization key.\n", out);
        }
        self.state = State::ProtocolMagic { protocol };
        self.advance(out)
    }

    /// The bytes behind the handshake.
    pub fn into_rest(self) -> Vec<u8> {
        self.buffer
    }

    fn advance(&mut self, out: &mut Vec<u8>) -> Progress {
        loop {
            let step = match self.state {
                State::Magic => self.magic(out),
                State::KeyBytes { protocol } => self.key_bytes(protocol, out),
                State::Key { protocol, bytes } => self.key(protocol, bytes),
                State::ProtocolMagic { protocol } => self.protocol_magic(protocol, out),
                State::First | State::Final(_) => self.json_message(out),
                State::KeyCheck { .. } | State::Credential(_) => Some(Progress::NeedBytes),
                State::Over => Some(Progress::Failed),
            };
            if let Some(progress) = step {
                return progress;
            }
        }
    }

    /// Takes a little-endian u32 off the front, if it is all there.
    fn take_u32(&mut self) -> Option<u32> {
        let bytes = self.buffer.get(..4)?.try_into().expect("four bytes");
        self.buffer.drain(..4);
        Some(u32::from_le_bytes(bytes))
    }

    fn magic(&mut self, out: &mut Vec<u8>) -> Option<Progress> {
        let Some(magic) = self.take_u32() else { return Some(Progress::NeedBytes) };
        match magic {
            MAGIC_V0_3 => self.state = State::KeyBytes { protocol: Protocol::V0_3 },
            MAGIC_V0_4 => self.state = State::KeyBytes { protocol: Protocol::V0_4 },
            MAGIC_V1_0 => {
                let greeting = serde_json::json!({
                    "max_protocol_version": 0, "min_protocol_version": 0,
                    "server_version": SERVER_VERSION, "success": true,
                });
                write_json(&greeting, out);
                self.state = State::First;
            }
            MAGIC_V0_1 | MAGIC_V0_2 => {
                return Some(
                    self.fail_with_text("ERROR: The PROTOBUF client protocol is no longer supported\n", out),
                );
            }
            _ => {
                let text = "ERROR: Received an unsupported protocol version. This port is for RethinkDB queries. \
                            Does your client driver version not match the server?\n";
                return Some(self.fail_with_text(text, out));
            }
        }
        None
    }

    fn key_bytes(&mut self, protocol: Protocol, out: &mut Vec<u8>) -> Option<Progress> {
        let Some(bytes) = self.take_u32() else { return Some(Progress::NeedBytes) };
        let bytes = bytes as usize;
        if bytes > limits::HANDSHAKE_BYTES_MAX {
            let text = "ERROR: Client provided an authorization key that is too long.\n";
            return Some(self.fail_with_text(text, out));
        }
        self.state = State::Key { protocol, bytes };
        None
    }

    fn key(&mut self, protocol: Protocol, bytes: usize) -> Option<Progress> {
        if self.buffer.len() < bytes {
            return Some(Progress::NeedBytes);
        }
        let key = self.buffer.drain(..bytes).collect();
        self.state = State::KeyCheck { protocol };
        Some(Progress::NeedKeyCheck { key })
    }

    fn protocol_magic(&mut self, protocol: Protocol, out: &mut Vec<u8>) -> Option<Progress> {
        let Some(magic) = self.take_u32() else { return Some(Progress::NeedBytes) };
        Some(match magic {
            MAGIC_JSON => {
                out.extend_from_slice(b"SUCCESS\0");
                self.state = State::Over;
                Progress::Done { protocol, user: "admin".to_owned() }
            }
            MAGIC_PROTOBUF => {
                self.fail_with_text("ERROR: The PROTOBUF client protocol is no longer supported\n", out)
            }
            // RethinkDB prints the number as a signed one.
            unknown => {
                let text = format!("ERROR: Unrecognized protocol specified: '{}'\n", unknown as i32);
                self.fail_with_text(&text, out)
            }
        })
    }

    fn json_message(&mut self, out: &mut Vec<u8>) -> Option<Progress> {
        let Some(end) = self.buffer.iter().position(|byte| *byte == 0) else {
            if self.buffer.len() > limits::HANDSHAKE_BYTES_MAX {
                return Some(self.refuse(Refusal("Limited read buffer size.", 7), out));
            }
            return Some(Progress::NeedBytes);
        };
        if end > limits::HANDSHAKE_BYTES_MAX {
            return Some(self.refuse(Refusal("Limited read buffer size.", 7), out));
        }
        let message: Vec<u8> = self.buffer.drain(..=end).take(end).collect();
        let step = match std::mem::replace(&mut self.state, State::Over) {
            State::First => first_message(&message).map(|first| {
                let user = first.user.clone();
                self.state = State::Credential(first);
                Progress::NeedCredential { user }
            }),
            State::Final(exchange) => final_message(&message, &exchange).map(|signature| {
                write_json(&serde_json::json!({"authentication": signature, "success": true}), out);
                Progress::Done { protocol: Protocol::V1_0, user: exchange.user }
            }),
            other => unreachable!("no JSON message is expected in {other:?}"),
        };
        Some(step.unwrap_or_else(|refusal| self.refuse(refusal, out)))
    }

    fn fail_with_text(&mut self, text: &str, out: &mut Vec<u8>) -> Progress {
        out.extend_from_slice(text.as_bytes());
        out.push(0);
        self.state = State::Over;
        self.buffer = Vec::new();
        Progress::Failed
    }

    fn refuse(&mut self, refusal: Refusal, out: &mut Vec<u8>) -> Progress {
        write_json(&serde_json::json!({"error": refusal.0, "error_code": refusal.1, "success": false}), out);
        self.state = State::Over;
        self.buffer = Vec::new();
        Progress::Failed
    }
}

fn write_json(value: &Value, out: &mut Vec<u8>) {
    serde_json::to_writer(&mut *out, value).expect("writing to memory does not fail");
    out.push(0);
}

fn parse_object(message: &[u8]) -> Result<serde_json::Map<String, Value>, Refusal> {
    match serde_json::from_slice(message) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) | Err(_) => Err(Refusal("Invalid JSON object.", 8)),
    }
}

fn authentication(object: &serde_json::Map<String, Value>) -> Result<&str, Refusal> {
    object
        .get("authentication")
        .and_then(Value::as_str)
        .ok_or(Refusal("Expected a string for `authentication`.", 5))
}

/// `{protocol_version, authentication_method, authentication: "n,,n=<user>,r=<nonce>"}`
fn first_message(message: &[u8]) -> Result<FirstMessage, Refusal> {
    let object = parse_object(message)?;
    match object.get("protocol_version").and_then(Value::as_f64) {
        None => return Err(Refusal("Expected a number for `protocol_version`.", 1)),
        Some(0.0) => {}
        Some(_) => return Err(Refusal("Unsupported `protocol_version`.", 2)),
    }
    match object.get("authentication_method").and_then(Value::as_str) {
        None => return Err(Refusal("Expected a string for `authentication_method`.", 3)),
        Some("SCRAM-SHA-256") => {}
        Some(_) => return Err(Refusal("Unsupported `authentication_method`.", 4)),
    }
    let text = authentication(&object)?;
    // gs2-header: channel binding flag, authorization identity; then the bare message.
    let mut fields = text.splitn(3, ',');
    let invalid = || Refusal("Invalid encoding", 10);
    let binding = fields.next().ok_or_else(invalid)?;
    if binding.starts_with("p=") {
        return Err(Refusal("Channel binding is not supported", 15));
    }
    let identity = fields.next().ok_or_else(invalid)?;
    let bare = fields.next().ok_or_else(invalid)?;
    if !matches!(binding, "n" | "y") || !identity.is_empty() {
        return Err(invalid());
    }
    if bare.starts_with("m=") {
        return Err(Refusal("Extensions not supported", 11));
    }
    let mut attributes = bare.split(',');
    let user = attributes.next().and_then(|field| field.strip_prefix("n=")).ok_or_else(invalid)?;
    let nonce = attributes.next().and_then(|field| field.strip_prefix("r=")).ok_or_else(invalid)?;
    let user = scram::unescape_user(user).ok_or(Refusal("Invalid username encoding", 18))?;
    Ok(FirstMessage { user, bare: bare.to_owned(), nonce: nonce.to_owned() })
}

/// `{authentication: "c=biws,r=<nonce>,p=<proof>"}`; gives `v=<server signature>`.
fn final_message(message: &[u8], exchange: &Exchange) -> Result<String, Refusal> {
    let object = parse_object(message)?;
    let text = authentication(&object)?;
    let invalid = || Refusal("Invalid encoding", 10);
    let (without_proof, proof) = text.rsplit_once(",p=").ok_or_else(invalid)?;
    let binding = scram::attribute(without_proof, 'c').ok_or_else(invalid)?;
    // base64 of the header `n,,` or `y,,`.
    if !matches!(binding, "biws" | "eSws") {
        return Err(Refusal("Channel binding is not supported", 15));
    }
    if scram::attribute(without_proof, 'r').ok_or_else(invalid)? != exchange.nonce {
        return Err(Refusal("Invalid nonce from server", 20));
    }
    let proof = scram::from_base64(proof).ok_or_else(invalid)?;
    let Some(credential) = &exchange.credential else { return Err(Refusal("Unknown user", 17)) };
    let auth_message = format!("{},{without_proof}", exchange.messages);
    let signature =
        credential.check_proof(&proof, auth_message.as_bytes()).ok_or(Refusal("Wrong password", 12))?;
    Ok(format!("v={}", scram::to_base64(&signature)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::{ClientHandshake, ClientProgress};

    const SECRETS: HandshakeSecrets =
        HandshakeSecrets { nonce: [9; scram::NONCE_BYTES], salt_secret: [1; 16], iterations: 4096 };

    fn credential(password: &str) -> Credential {
        Credential::derive(password.as_bytes(), [3; scram::SALT_BYTES], 2)
    }

    /// Pushes `bytes` in pieces of `piece` and answers what the machine asks; gives its output and its last word.
    fn run(bytes: &[u8], piece: usize, admin: &Credential) -> (Vec<u8>, Progress) {
        let mut handshake = Handshake::new(SECRETS);
        let mut out = Vec::new();
        let mut progress = Progress::NeedBytes;
        for piece in bytes.chunks(piece) {
            progress = handshake.push(piece, &mut out);
            progress = answer(&mut handshake, progress, admin, &mut out);
            if !matches!(progress, Progress::NeedBytes) {
                break;
            }
        }
        (out, progress)
    }

    fn answer(
        handshake: &mut Handshake,
        mut progress: Progress,
        admin: &Credential,
        out: &mut Vec<u8>,
    ) -> Progress {
        loop {
            progress = match progress {
                Progress::NeedCredential { user } => {
                    handshake.credential((user == "admin").then(|| admin.clone()), out)
                }
                Progress::NeedKeyCheck { key } => handshake.key_checked(admin.verify(&key), out),
                Progress::NeedBytes | Progress::Done { .. } | Progress::Failed => return progress,
            };
        }
    }

    fn v0(magic: u32, key: &str, protocol: u32) -> Vec<u8> {
        let mut bytes = magic.to_le_bytes().to_vec();
        bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(key.as_bytes());
        bytes.extend_from_slice(&protocol.to_le_bytes());
        bytes
    }

    #[track_caller]
    fn check(bytes: &[u8], want: &str) {
        for piece in [1, 3, bytes.len()] {
            let (out, _) = run(bytes, piece, &credential("secret"));
            assert_eq!(String::from_utf8_lossy(&out), want, "in pieces of {piece}");
        }
    }

    #[test]
    fn old_handshakes_answer_as_documented() {
        check(&v0(MAGIC_V0_4, "secret", MAGIC_JSON), "SUCCESS\0");
        check(&v0(MAGIC_V0_3, "secret", MAGIC_JSON), "SUCCESS\0");
        check(&v0(MAGIC_V0_4, "", MAGIC_JSON), "ERROR: Incorrect authorization key.\n\0");
        check(&v0(MAGIC_V0_4, "secret", 5), "ERROR: Unrecognized protocol specified: '5'\n\0");
        check(
            &v0(MAGIC_V0_4, &"x".repeat(2049), 5),
            "ERROR: Client provided an authorization key that is too long.\n\0",
        );
        let unsupported = "ERROR: Received an unsupported protocol version. This port is for RethinkDB queries. \
                           Does your client driver version not match the server?\n\0";
        check(b"GET / HTTP/1.1\r\n\r\n", unsupported);
    }

    fn v1(message: &str) -> Vec<u8> {
        let mut bytes = MAGIC_V1_0.to_le_bytes().to_vec();
        bytes.extend_from_slice(message.as_bytes());
        bytes.push(0);
        bytes
    }

    #[track_caller]
    fn check_refusal(message: &str, code: u32) {
        let (out, progress) = run(&v1(message), 4096, &credential("secret"));
        let last = out.split(|byte| *byte == 0).nth(1).expect("two messages");
        let last: Value = serde_json::from_slice(last).expect("JSON");
        assert_eq!(
            (last["error_code"].as_u64(), progress),
            (Some(code.into()), Progress::Failed),
            "{message}"
        );
    }

    #[test]
    fn wrong_first_messages_have_their_codes() {
        let scram = |authentication: &str| {
            format!(
                r#"{{"protocol_version":0,"authentication_method":"SCRAM-SHA-256","authentication":"{authentication}"}}"#
            )
        };
        check_refusal("not json", 8);
        check_refusal("[]", 8);
        check_refusal("{}", 1);
        check_refusal(r#"{"protocol_version":1}"#, 2);
        check_refusal(r#"{"protocol_version":0}"#, 3);
        check_refusal(r#"{"protocol_version":0,"authentication_method":"PLAIN"}"#, 4);
        check_refusal(r#"{"protocol_version":0,"authentication_method":"SCRAM-SHA-256"}"#, 5);
        check_refusal(&scram("nonsense"), 10);
        check_refusal(&scram("n,,m=x,n=a,r=b"), 11);
        check_refusal(&scram("p=tls,,n=a,r=b"), 15);
        check_refusal(&scram("n,,n=a=,r=b"), 18);
        check_refusal(&"x".repeat(3000), 7);
    }

    /// Client and server machines talk to each other; gives the client's verdict.
    fn talk(user: &str, password: &str) -> Result<Protocol, u64> {
        let mut to_server = Vec::new();
        let mut client = ClientHandshake::new(user, password, [4; scram::NONCE_BYTES], &mut to_server);
        converse(&mut client, to_server)
    }

    fn converse(client: &mut ClientHandshake, mut to_server: Vec<u8>) -> Result<Protocol, u64> {
        let admin = credential("secret");
        let mut server = Handshake::new(SECRETS);
        loop {
            let mut to_client = Vec::new();
            let progress = server.push(&std::mem::take(&mut to_server), &mut to_client);
            let progress = answer(&mut server, progress, &admin, &mut to_client);
            match client.push(&to_client, &mut to_server) {
                Ok(ClientProgress::NeedBytes) => {}
                Ok(ClientProgress::Done) => match progress {
                    Progress::Done { protocol, .. } => return Ok(protocol),
                    other => panic!("the client is done, the server says {other:?}"),
                },
                Err(error) => return Err(error.code.unwrap_or(0)),
            }
        }
    }

    #[test]
    fn client_and_server_understand_each_other() {
        assert_eq!(talk("admin", "secret"), Ok(Protocol::V1_0));
        assert_eq!(talk("admin", "wrong"), Err(12));
        assert_eq!(talk("nobody,=x", "secret"), Err(17));
    }

    #[test]
    fn the_old_handshake_is_understood_too() {
        for (key, want) in [("secret", Ok(Protocol::V0_4)), ("wrong", Err(0))] {
            let mut to_server = Vec::new();
            let mut client = ClientHandshake::v0_4(key, &mut to_server);
            assert_eq!(converse(&mut client, to_server), want, "{key}");
        }
    }

    #[test]
    fn a_salted_password_is_used_again_only_for_its_own_password() {
        let mut salted = None;
        for (password, want) in
            [("secret", Ok(Protocol::V1_0)), ("secret", Ok(Protocol::V1_0)), ("wrong", Err(12))]
        {
            let mut to_server = Vec::new();
            let nonce = [4; scram::NONCE_BYTES];
            let client = ClientHandshake::new("admin", password, nonce, &mut to_server);
            let mut client = client.with_salted(salted);
            assert_eq!(converse(&mut client, to_server), want, "{password}");
            salted = client.salted().cloned();
            assert!(salted.is_some());
        }
    }

    #[test]
    fn queries_behind_the_handshake_are_kept() {
        let mut bytes = v0(MAGIC_V0_4, "", MAGIC_JSON);
        bytes.extend_from_slice(b"query");
        let mut handshake = Handshake::new(SECRETS);
        let mut out = Vec::new();
        let progress = handshake.push(&bytes, &mut out);
        let progress = answer(&mut handshake, progress, &credential(""), &mut out);
        assert_eq!(progress, Progress::Done { protocol: Protocol::V0_4, user: "admin".to_owned() });
        assert_eq!(handshake.into_rest(), b"query");
    }
}
