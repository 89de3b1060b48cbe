//! Handshakes cut anywhere. What must hold is in `photondb_proto::fuzz`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| photondb_proto::fuzz::handshake(bytes));
