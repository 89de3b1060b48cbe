//! What `fio` gives for the same work on the same disk: the measure of every figure about the disk.

use std::io;
use std::path::Path;
use std::process::Command;

/// Kinds of work that stores are compared with.
#[derive(Clone, Copy, Debug)]
pub enum Pattern {
    /// Blocks of 4 KiB anywhere in the file.
    RandomRead,
    /// The whole file from its begin, 1 MiB at a time.
    SequentialRead,
}

#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub reads_per_second: f64,
    pub bytes_per_second: f64,
}

/// Runs `fio` on a file past the page cache, from CPU 0, with so many reads in flight.
///
/// # Errors
/// `fio` is not installed, or fails.
pub fn rate(file: &Path, pattern: Pattern, depth: usize, seconds: u64) -> io::Result<Rate> {
    let (kind, block) = match pattern {
        Pattern::RandomRead => ("randread", "4k"),
        Pattern::SequentialRead => ("read", "1m"),
    };
    let output = Command::new("taskset")
        .args([
            "-c",
            "0",
            "fio",
            "--name=disk",
            "--ioengine=io_uring",
            "--direct=1",
            "--readonly",
            "--time_based",
        ])
        .args(["--output-format=json", "--rw", kind, "--bs", block])
        .args([format!("--iodepth={depth}"), format!("--runtime={seconds}")])
        .arg(format!("--filename={}", file.display()))
        .output()?;
    let failed = || io::Error::other(format!("fio: {}", String::from_utf8_lossy(&output.stderr)));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|_| failed())?;
    let figure = |name: &str| report["jobs"][0]["read"][name].as_f64().ok_or_else(failed);
    Ok(Rate { reads_per_second: figure("iops")?, bytes_per_second: figure("bw_bytes")? })
}

/// Reads that a block device has done, and their bytes.
#[derive(Clone, Copy, Debug)]
pub struct DeviceReads {
    pub reads: u64,
    pub bytes: u64,
}

impl DeviceReads {
    /// Since the machine was started; of everybody who reads, so be alone.
    ///
    /// # Errors
    /// There is no such device.
    pub fn of(device: &str) -> io::Result<DeviceReads> {
        let text = std::fs::read_to_string(format!("/sys/block/{device}/stat"))?;
        let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap_or(0));
        let (reads, sectors) = (numbers.next().unwrap_or(0), numbers.nth(1).unwrap_or(0));
        Ok(DeviceReads { reads, bytes: sectors * 512 })
    }

    pub fn since(self, before: DeviceReads) -> DeviceReads {
        DeviceReads { reads: self.reads - before.reads, bytes: self.bytes - before.bytes }
    }
}
