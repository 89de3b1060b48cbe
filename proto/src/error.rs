//! The errors a client can see: class, text and place. Their wording and classes are API.

use std::fmt;

/// What kind of failure a query had; numbers are those of the wire (`t` and `e`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The client broke the protocol (`t` = 16).
    Client,
    /// The query is malformed, found before evaluation (`t` = 17).
    Compile,
    Internal,
    ResourceLimit,
    QueryLogic,
    NonExistence,
    OpFailed,
    OpIndeterminate,
    User,
    Permission,
}

impl ErrorKind {
    /// The response type `t`: 16 client, 17 compile, 18 runtime.
    pub fn response_type(self) -> u8 {
        match self {
            ErrorKind::Client => 16,
            ErrorKind::Compile => 17,
            ErrorKind::Internal
            | ErrorKind::ResourceLimit
            | ErrorKind::QueryLogic
            | ErrorKind::NonExistence
            | ErrorKind::OpFailed
            | ErrorKind::OpIndeterminate
            | ErrorKind::User
            | ErrorKind::Permission => 18,
        }
    }

    /// The error type `e`, which only runtime errors carry.
    pub fn error_type(self) -> Option<u32> {
        match self {
            ErrorKind::Client | ErrorKind::Compile => None,
            ErrorKind::Internal => Some(1_000_000),
            ErrorKind::ResourceLimit => Some(2_000_000),
            ErrorKind::QueryLogic => Some(3_000_000),
            ErrorKind::NonExistence => Some(3_100_000),
            ErrorKind::OpFailed => Some(4_100_000),
            ErrorKind::OpIndeterminate => Some(4_200_000),
            ErrorKind::User => Some(5_000_000),
            ErrorKind::Permission => Some(6_000_000),
        }
    }
}

/// One step from a term to its child: an argument position or the name of an optional argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Argument(u32),
    Optional(Box<str>),
}

/// A failed query: what the client is told. Frames run from the root of the term tree to the culprit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryError {
    pub kind: ErrorKind,
    pub message: String,
    pub backtrace: Vec<Frame>,
}

impl QueryError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> QueryError {
        QueryError { kind, message: message.into(), backtrace: Vec::new() }
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for QueryError {}
