//! Every bound of the product as a named constant with its reason; relations are checked at compile time.

/// Largest query a client may send; bounds one session's receive buffer. RethinkDB's own figure.
pub const QUERY_BYTES_MAX: u32 = (128 << 20) - 1;
/// Rounds of PBKDF2 that a row of `users` may ask for: some seconds of a thread that has nothing better to do.
pub const PASSWORD_ITERATIONS_MAX: u32 = 10_000_000;
/// Oversized queries below this size are drained and answered; above it the connection is closed.
pub const QUERY_DRAIN_BYTES_MAX: u32 = 1 << 30;
/// Handshake messages and V0 authorization keys are bounded so that an unauthenticated peer costs little.
pub const HANDSHAKE_BYTES_MAX: usize = 2048;
/// Queries of one connection in flight; beyond it the session stops reading its socket.
pub const QUERIES_IN_FLIGHT_MAX: usize = 1024;
/// Nested terms of one query. Evaluation and parsing are bounded by it; drivers themselves stop at 20 levels
/// of `r.expr`, so only generated queries come near it.
pub const TERM_DEPTH_MAX: u32 = 500;
/// Nested arrays and objects of one stored document or JSON text.
pub const DATUM_DEPTH_MAX: u32 = 500;
/// Nested arrays and objects of a value that a query builds; what is inside stored documents comes on top. Values are printed,
/// compared and let go by functions that call themselves.
pub const VALUE_DEPTH_MAX: u32 = 2 * DATUM_DEPTH_MAX;
/// Elements of an array in a query unless `array_limit` says otherwise.
pub const ARRAY_ELEMENTS_DEFAULT: usize = 100_000;
/// Elements of an array in a stored document, whatever `array_limit` says.
pub const ARRAY_ELEMENTS_STORED_MAX: usize = 100_000;
/// Changes one feed may have buffered by default.
pub const FEED_QUEUE_DEFAULT: usize = 100_000;
/// Largest document; larger ones are refused before they reach the log.
pub const DOCUMENT_BYTES_MAX: usize = 64 << 20;
/// Largest primary key, measured in RethinkDB's text encoding, so that the same keys are accepted.
pub const PRIMARY_KEY_CHARACTERS_MAX: usize = 127;
/// Largest batch of a cursor in bytes, before the first-batch factor.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// The first batch is this many times smaller, for latency.
pub const FIRST_BATCH_FACTOR: usize = 4;
/// `range()` gives at most this many numbers a batch.
pub const RANGE_BATCH_ROWS: usize = 500;
/// Tasks told in one answer by the option `profile`.
pub const PROFILE_TASKS_MAX: usize = 10_000;
/// Rows of a write over a selection that travel together.
pub const WRITE_BATCH_ROWS: usize = 128;
/// Shards of a table, unless the machine has more cores.
pub const SHARDS_DEFAULT: u16 = 16;
/// Most shards a table may have.
pub const SHARDS_MAX: u16 = 1024;
/// Indexes of a table: every write evaluates all their functions, and the catalog's record of the table holds them.
pub const INDEXES_MAX: usize = 256;
/// Bytes of a value's key that an index entry's key holds; the rest of a longer one is the entry's value. With a primary key
/// behind it an entry's key stays within what trees store.
pub const INDEX_KEY_BYTES_MAX: usize = 1024;
/// Virtual shards a user may ask for in `table_create` and `reconfigure`.
pub const VIRTUAL_SHARDS_MAX: u32 = 64;

/// Scripts and HTTP requests that wait for the control side; beyond it they are refused.
pub const OUTSIDE_WAITING_MAX: usize = 256;
/// Source and arguments, or the result, of one script: what crosses to the process that runs it.
pub const SCRIPT_BYTES_MAX: usize = 32 << 20;
/// Longest that a script may be allowed to run.
pub const SCRIPT_TIMEOUT_MAX_MS: u64 = 3_600_000;
/// Longest that an HTTP request may be allowed to take.
pub const HTTP_TIMEOUT_MAX_MS: u64 = 3_600_000;
/// Largest body that `http` takes.
pub const HTTP_BODY_BYTES_MAX: usize = 32 << 20;

const _: () = assert!(SHARDS_DEFAULT.is_power_of_two() && SHARDS_MAX.is_power_of_two());
const _: () = assert!(QUERY_BYTES_MAX < QUERY_DRAIN_BYTES_MAX);
const _: () = assert!(DOCUMENT_BYTES_MAX < QUERY_BYTES_MAX as usize, "a document fits in a query");
/// Buckets of a duration histogram: powers of two of a microsecond up to half a minute.
pub const DURATION_BUCKETS: usize = 26;
