//! Servers under measurement, pinned to CPU 0 and ended with their owner; the client goes to CPU 1.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that ends with its owner.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts a command and waits until it listens.
    ///
    /// # Errors
    /// It cannot be started, or nothing listens after 20 s.
    pub fn start(mut command: Command, address: SocketAddr) -> io::Result<Server> {
        let server = Server(command.spawn()?);
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            if Instant::now() > end {
                let text = format!("nothing listens on {address} after 20 s");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Bytes of memory that it holds now.
    ///
    /// # Errors
    /// It is gone.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// The most memory that it held since this was last asked.
    ///
    /// # Errors
    /// It is gone, or the kernel does not let the mark be set back.
    pub fn highest_resident_bytes(&self) -> io::Result<u64> {
        let highest = self.status_bytes("VmHWM:")?;
        std::fs::write(format!("/proc/{}/clear_refs", self.0.id()), "5")?;
        Ok(highest)
    }

    fn status_bytes(&self, name: &str) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        Ok(kilobytes.ok_or_else(|| io::Error::other(format!("the status lacks {name}")))? * 1024)
    }

    /// Processor time that it has used, in seconds, the kernel's for it included.
    ///
    /// # Errors
    /// It is gone.
    pub fn processor_seconds(&self) -> io::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        // Behind the program's name, which may have blanks in it: state is the third field, utime and stime are the 14th and 15th.
        let (_, fields) = stat.rsplit_once(')').ok_or_else(|| io::Error::other("no name in stat"))?;
        let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
        Ok(ticks.sum::<f64>() / rustix::param::clock_ticks_per_second() as f64)
    }

    /// PhotonDB on one core, with its data in `folder`.
    ///
    /// # Errors
    /// As for [`Server::start`].
    pub fn photondb(program: &Path, folder: &Path, address: SocketAddr) -> io::Result<Server> {
        Server::photondb_on(1, 2048, program, folder, address)
    }

    /// PhotonDB on so many cores, from CPU 0 on, with so many megabytes of cache.
    ///
    /// # Errors
    /// As for [`Server::start`].
    pub fn photondb_on(
        cores: u16,
        cache_megabytes: u64,
        program: &Path,
        folder: &Path,
        address: SocketAddr,
    ) -> io::Result<Server> {
        let mut command = Command::new("taskset");
        command.args(["-c", &format!("0-{}", cores - 1)]).arg(program).stdout(Stdio::null());
        command.args(["serve", "--no-http", "--cores", &cores.to_string()]);
        command.args(["--cache-size", &cache_megabytes.to_string()]);
        command.args(["--driver-port", &address.port().to_string()]).arg("--data-dir").arg(folder);
        Server::start(command, address)
    }
}

/// The program pinned to CPU 0.
pub fn on_server_cpu(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program).stdout(Stdio::null());
    command
}

/// # Errors
/// There is no CPU 1.
pub fn pin_to_client_cpu() -> io::Result<()> {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(1);
    Ok(rustix::thread::sched_setaffinity(None, &cpus)?)
}

/// Makes a folder, or empties it.
///
/// # Errors
/// The file system's.
pub fn emptied(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => std::fs::create_dir_all(folder),
    }
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
