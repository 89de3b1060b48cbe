//! The allocator of the whole process, and how long it keeps what was freed.

/// Many small, short-lived objects on every core are what it is good at. Its background threads give back what a core freed, also when
/// that core has gone quiet since.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What was freed is given back within a second, not ten. Of a server whose cache is full little is freed for good, so pages are seldom missed;
/// but large batches and answers come and go, and all of them in ten seconds were 25 MB more than was in use at any time. The environment
/// variable `_RJEM_MALLOC_CONF` goes before it.
// SAFETY: jemalloc has a weak pointer to C text of this name for programs to define, and reads it before it serves the first allocation; a
// reference to an array is such a pointer, and nothing else has the name.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static SETTING: &[u8; 20] = b"dirty_decay_ms:1000\0";
