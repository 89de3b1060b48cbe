//! Measuring PhotonDB: criterion benchmarks of its floors (`benches/`), and a closed loop of clients that drives any
//! server over TCP ([`closed_loop`]) for comparisons with other engines on the same pins in the same run.

#![forbid(unsafe_code)]

pub mod closed_loop;
pub mod fan_out;
pub mod server;
pub mod work;
