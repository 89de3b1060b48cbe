//! What a run needs before it: a table with its records, looked for or made by a connection of its own that asks one query
//! after another. A failure says what to do.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use photondb_proto::wire::client::{Response, ResponseDecoder};
use photondb_proto::wire::frame::write_query;
use serde_json::{Value, json};

use crate::dialect::{Dialect, Reql};
use crate::drive::DriveError;
use crate::template::Names;
use crate::workloads::Needs;
use crate::world::put_key;

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Building an index of many documents takes its time.
const ANSWER_MAX: Duration = Duration::from_secs(600);

const DB_CREATE: u32 = 57;
const DB_LIST: u32 = 59;
const TABLE_CREATE: u32 = 60;
const TABLE_DROP: u32 = 61;
const TABLE_LIST: u32 = 62;
const INDEX_CREATE: u32 = 75;
const INDEX_LIST: u32 = 77;
const INDEX_WAIT: u32 = 140;
const SYNC: u32 = 138;
const GET: u32 = 16;
const INFO: u32 = 79;

/// Why a run cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Connection(#[from] DriveError),
    #[error("the connection to the server broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the server refuses: {0}")]
    Refused(String),
    #[error("there is no table {0}.{1}: run `photondb-loadgen load` first, with the same --db and --table")]
    NoTable(String, String),
    #[error(
        "the table {0}.{1} has fewer than {2} records: run `photondb-loadgen load` first, with the same --records"
    )]
    FewRecords(String, String, u64),
    #[error("the table {0}.{1} has no index `bucket`: run `photondb-loadgen load --index` first")]
    NoIndex(String, String),
}

/// What `load` does before it fills the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Making {
    /// Drop a table that is there.
    pub is_fresh: bool,
    /// Have the index on `bucket`.
    pub is_indexed: bool,
}

/// A connection that asks one query at a time.
pub struct Asker {
    stream: TcpStream,
    decoder: ResponseDecoder,
    token: i64,
}

impl Asker {
    /// # Errors
    /// When there is no connection or no login.
    pub fn connect(address: SocketAddr, dialect: &mut Reql) -> Result<Asker, DriveError> {
        let failed = |error| DriveError::no_connection(address, Some(error));
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_MAX).map_err(failed)?;
        let limit = Some(CONNECT_MAX);
        stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(limit)).map_err(failed)?;
        let mut out = Vec::new();
        let mut greeting = dialect.greet(&mut out);
        let mut buffer = [0; 4096];
        loop {
            stream.write_all(&std::mem::take(&mut out)).map_err(failed)?;
            let count = receive(&mut stream, &mut buffer).map_err(failed)?;
            if count == 0 {
                return Err(DriveError::no_connection(address, None));
            }
            if dialect.greeted(&mut greeting, &buffer[..count], &mut out).map_err(DriveError::Login)? {
                stream.set_read_timeout(Some(ANSWER_MAX)).map_err(failed)?;
                return Ok(Asker { stream, decoder: ResponseDecoder::default(), token: 0 });
            }
        }
    }

    /// The first result of a query.
    ///
    /// # Errors
    /// When the connection breaks or the server refuses.
    pub fn ask(&mut self, term: &Value) -> Result<Value, PrepareError> {
        self.token += 1;
        let mut out = Vec::new();
        write_query(self.token, json!([1, term, {}]).to_string().as_bytes(), &mut out);
        self.stream.write_all(&out)?;
        let response = self.response()?;
        match response.error() {
            Some(message) => Err(PrepareError::Refused(message.to_owned())),
            None => Ok(response.results.into_iter().next().unwrap_or(Value::Null)),
        }
    }

    fn response(&mut self) -> io::Result<Response> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some(response) = self.decoder.next_response()? {
                return Ok(response);
            }
            let count = receive(&mut self.stream, &mut buffer)?;
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server"));
            }
            self.decoder.push(&buffer[..count]);
        }
    }

    fn has(&mut self, list: &Value, name: &str) -> Result<bool, PrepareError> {
        let names = self.ask(list)?;
        Ok(names.as_array().is_some_and(|names| names.iter().any(|found| found == name)))
    }
}

/// Reads once. A ring that this process has just closed may interrupt the call, which is no failure.
fn receive(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Looks whether what the run needs is there.
///
/// # Errors
/// Says what is missing and how to make it.
pub fn check(asker: &mut Asker, names: &Names, needs: Needs, records: u64) -> Result<(), PrepareError> {
    let (db, table) = (names.db.clone(), names.table.clone());
    if matches!(needs, Needs::Nothing | Needs::Makes) {
        return Ok(());
    }
    asker.ask(&json!([INFO, [names.term()]])).map_err(|error| match error {
        PrepareError::Refused(message) if message.ends_with("does not exist.") => {
            PrepareError::NoTable(db.clone(), table.clone())
        }
        other => other,
    })?;
    if matches!(needs, Needs::Records | Needs::Index) {
        let mut key = Vec::new();
        put_key(records.saturating_sub(1), &mut key);
        let key: Value = serde_json::from_slice(&key).map_err(io::Error::from)?;
        if asker.ask(&json!([GET, [names.term(), key]]))?.is_null() {
            return Err(PrepareError::FewRecords(db, table, records));
        }
    }
    if needs == Needs::Index && !asker.has(&json!([INDEX_LIST, [names.term()]]), "bucket")? {
        return Err(PrepareError::NoIndex(db, table));
    }
    Ok(())
}

/// Makes the database and the table, unless they are there.
///
/// # Errors
/// When the server refuses.
pub fn make(asker: &mut Asker, names: &Names, making: Making) -> Result<(), PrepareError> {
    let db = json!([14, [names.db]]);
    if !asker.has(&json!([DB_LIST, []]), &names.db)? {
        asker.ask(&json!([DB_CREATE, [names.db]]))?;
    }
    let mut is_there = asker.has(&json!([TABLE_LIST, [db]]), &names.table)?;
    if is_there && making.is_fresh {
        asker.ask(&json!([TABLE_DROP, [db, names.table]]))?;
        is_there = false;
    }
    if !is_there {
        asker.ask(&json!([TABLE_CREATE, [db, names.table]]))?;
    }
    if making.is_indexed && !asker.has(&json!([INDEX_LIST, [names.term()]]), "bucket")? {
        asker.ask(&json!([INDEX_CREATE, [names.term(), "bucket"]]))?;
        asker.ask(&json!([INDEX_WAIT, [names.term()]]))?;
    }
    Ok(())
}

/// Makes what was written softly last.
///
/// # Errors
/// When the server refuses.
pub fn sync(asker: &mut Asker, names: &Names) -> Result<(), PrepareError> {
    asker.ask(&json!([SYNC, [names.term()]])).map(drop)
}
