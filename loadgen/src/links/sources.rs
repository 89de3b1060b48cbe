//! Where connections come from. One address has some 28,000 ports, and the port of an ended connection rests for a minute
//! (RFC 9293, section 3.6.1), so that one who connects thousands of times a second soon spends more on the search for a
//! free port than on everything else. A server on this machine's loopback can be asked from every address of 127.0.0.0/8:
//! connections come from the next one whenever one has served some. `unsafe` here is one call: the option that leaves the
//! choice of a port to `connect`, which sees the server's address too and may give a port to many at once.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Connections from one address, of each thread: sixteen threads leave half of an address' ports to others.
const PER_ADDRESS: u32 = 1024;
/// Addresses that take turns: a minute's rest of 60,000 connections a second is in them.
const ADDRESSES: u32 = 4096;

/// Makes a thread's connections.
#[derive(Debug, Default)]
pub struct Sources {
    made: u32,
    /// Another address was refused once: from then on all are the system's choice.
    refused: bool,
}

impl Sources {
    /// A socket whose connection has begun. It does not block.
    ///
    /// # Errors
    /// When no socket can be made, or the refusal is known at once.
    pub fn begin(&mut self, server: SocketAddr) -> io::Result<TcpStream> {
        let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        if let Some(source) = self.next(server) {
            self.refused = come_from(&socket, source).is_err();
        }
        match rustix::net::connect(&socket, &server) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
            Err(error) => Err(error.into()),
        }
    }

    /// The next connection's address, where it is not left to the system.
    fn next(&mut self, server: SocketAddr) -> Option<Ipv4Addr> {
        let address = self.made / PER_ADDRESS % ADDRESSES;
        self.made = self.made.wrapping_add(1);
        // The first is the system's own choice, so that few connections look as they always did.
        let is_near = matches!(server, SocketAddr::V4(server) if server.ip().is_loopback());
        (is_near && address > 0 && !self.refused)
            .then(|| Ipv4Addr::from(Ipv4Addr::LOCALHOST.to_bits() + address))
    }
}

/// Where that fails the socket is as it was.
fn come_from(socket: &OwnedFd, source: Ipv4Addr) -> io::Result<()> {
    leave_port_to_connect(socket)?;
    Ok(rustix::net::bind(socket, &SocketAddrV4::new(source, 0))?)
}

fn leave_port_to_connect(socket: &OwnedFd) -> io::Result<()> {
    let is_left: libc::c_int = 1;
    // SAFETY: the kernel reads as many bytes as an integer has from where one stands; the descriptor is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const is_left).cast(),
            size_of_val(&is_left) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn many_connections_come_from_many_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = listener.local_addr().expect("it listens");
        let mut sources = Sources::default();
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..2 * PER_ADDRESS + 10 {
            let client = sources.begin(server).expect("it connects");
            let (_, peer) = listener.accept().expect("a client");
            assert_eq!(client.local_addr().expect("it has one"), peer);
            *counts.entry(peer.ip().to_string()).or_default() += 1;
        }
        let expected = [("127.0.0.1", PER_ADDRESS), ("127.0.0.2", PER_ADDRESS), ("127.0.0.3", 10)];
        assert!(counts.iter().map(|(address, count)| (address.as_str(), *count)).eq(expected), "{counts:?}");
    }

    #[test]
    fn what_is_not_on_the_loopback_is_left_to_the_system() {
        for server in ["192.0.2.1:28015", "[::1]:28015"] {
            let server = server.parse().expect("an address");
            let mut sources = Sources { made: 10 * PER_ADDRESS, refused: false };
            assert_eq!(sources.next(server), None);
        }
        // After the last address comes the first again.
        let server = "127.0.0.1:28015".parse().expect("an address");
        let mut sources = Sources { made: ADDRESSES * PER_ADDRESS - 1, refused: false };
        assert_eq!(sources.next(server), Some(Ipv4Addr::new(127, 0, 16, 0)));
        assert_eq!(sources.next(server), None);
    }

    #[test]
    fn a_socket_that_cannot_come_from_an_address_connects_without_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = listener.local_addr().expect("it listens");
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        come_from(&socket, Ipv4Addr::new(192, 0, 2, 1)).expect_err("nobody has it");
        rustix::net::connect(&socket, &server).expect("it connects");
        let mut sources = Sources { made: 2 * PER_ADDRESS, refused: true };
        assert_eq!(sources.next(server), None);
    }
}
