//! Measuring PhotonDB: criterion benchmarks of its floors (`benches/`), programs that start servers on given pins and load
//! them, and the floors that it must reach ([`floors`]).

#![forbid(unsafe_code)]

pub mod fan_out;
pub mod fio;
pub mod floors;
pub mod hot;
pub mod load;
pub mod resp;
pub mod server;
pub mod work;
