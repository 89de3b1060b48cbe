//! What a query asks of the world outside the data plane: scripts and HTTP requests. The control side answers, in its own time;
//! a core only waits.

use crate::op::Document;

/// One thing that is done outside.
#[derive(Clone, Debug)]
pub enum OutsideOp {
    Script(ScriptCall),
    /// One request with its redirects → [`OutsideReply::Http`].
    Http(HttpCall),
}

#[derive(Clone, Debug)]
pub enum OutsideReply {
    Script(ScriptReply),
    Http(HttpReply),
}

/// JavaScript to be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptCall {
    pub source: String,
    /// The source gives a function and this is what it is called with; `None`: its own value is wanted.
    pub arguments: Option<Vec<Document>>,
    pub timeout_ms: u64,
}

/// What came of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptReply {
    Value(Document),
    /// The source gives a function, and none was called.
    Function,
    /// The source gives no function, though one was to be called.
    NoFunction,
    /// The script threw this, or its result is no ReQL value.
    Failed(String),
    TimedOut,
    /// The process that ran it ended: it used too much memory, or broke the engine.
    Crashed,
}

/// An HTTP request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCall {
    pub method: HttpMethod,
    /// With its query string; `http://` stands for a missing scheme.
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub timeout_ms: u64,
    /// Times to try while failures are temporary; at least 1.
    pub attempts: u32,
    pub redirects: u32,
    pub certificates: Certificates,
    pub auth: Option<HttpAuth>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpMethod {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

impl HttpMethod {
    pub const ALL: [HttpMethod; 6] = [
        HttpMethod::Get,
        HttpMethod::Head,
        HttpMethod::Post,
        HttpMethod::Put,
        HttpMethod::Patch,
        HttpMethod::Delete,
    ];

    pub fn name(self) -> &'static str {
        match self {
            HttpMethod::Get => "GET",
            HttpMethod::Head => "HEAD",
            HttpMethod::Post => "POST",
            HttpMethod::Put => "PUT",
            HttpMethod::Patch => "PATCH",
            HttpMethod::Delete => "DELETE",
        }
    }
}

/// Whether a server must prove who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificates {
    Checked,
    Ignored,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAuth {
    pub scheme: HttpAuthScheme,
    pub user: String,
    pub password: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpAuthScheme {
    Basic,
    Digest,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpReply {
    Answered(HttpAnswer),
    TimedOut,
    /// There is no answer: why.
    Failed(String),
    /// The server does not make requests at all: why.
    Refused(String),
}

/// The last answer, after redirects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}
