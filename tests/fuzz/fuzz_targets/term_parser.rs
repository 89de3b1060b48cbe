//! Queries, from JSON to terms, over the wire between cores and back. What must hold is in `photondb_proto::fuzz`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| photondb_proto::fuzz::term_parser(bytes));
