//! Many connections that do nothing cost little memory and no time; a server that does nothing costs no CPU.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use photondb_proto::term::number;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;

use crate::client::{Client, create, get, table, term};
use crate::machine::Machine;
use crate::server::{Folder, Server};

const IDLE_CONNECTIONS: usize = 10_000;
const IDLE_BYTES_MAX: u64 = 64 << 20;
/// Each source address has some 28,000 ports; a few of them stay clear of those that other programs hold.
const PER_SOURCE: usize = 2_500;
/// Threads that log in. Each login is a few round trips.
const GREETERS: usize = 4;

/// Descriptors for both ends of all connections, where the hard limit allows.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the soft limit may rise to the hard one");
    let enough = limit.current.is_none_or(|limit| limit as usize > IDLE_CONNECTIONS + 1000);
    assert!(
        enough,
        "this test needs a hard limit of more than {} descriptors (ulimit -Hn)",
        IDLE_CONNECTIONS + 1000
    );
}

/// A connection from a loopback address of our choice.
fn connect_from(source: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    rustix::net::bind(&socket, &SocketAddrV4::new(source, 0)).expect("every loopback address is ours");
    rustix::net::connect(&socket, &address).expect("the server accepts");
    TcpStream::from(socket)
}

fn open_idle(address: SocketAddr) -> Vec<Client> {
    let open = |first: usize| {
        (first..IDLE_CONNECTIONS).step_by(GREETERS).map(move |number| {
            let source = Ipv4Addr::new(127, 0, 1, 1 + (number / PER_SOURCE) as u8);
            let stream = connect_from(source, address);
            Client::greet(stream, "admin", "").expect("the connection holds").expect("admin is let in")
        })
    };
    std::thread::scope(|scope| {
        let greeters: Vec<_> =
            (0..GREETERS).map(|first| scope.spawn(move || open(first).collect::<Vec<_>>())).collect();
        greeters.into_iter().flat_map(|greeter| greeter.join().expect("logins succeed")).collect()
    })
}

/// The median of the time that a get takes, in nanoseconds.
fn get_p50(client: &mut Client, gets: usize) -> u64 {
    let query = get("docs", &json!(1));
    let mut times: Vec<u64> = (0..gets)
        .map(|_| {
            let begun = Instant::now();
            client.run(&query);
            begun.elapsed().as_nanos() as u64
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn ten_thousand_idle_connections_cost_little_memory_and_no_time() {
    raise_file_limit();
    let machine = Machine::alone();
    let (folder, other_folder) = (Folder::new("idle"), Folder::new("idle-reference"));
    // Two servers: one gets the connections, the other stays as it is, so that both are measured in turn.
    let server = Server::start(&machine, &folder, 1);
    let reference = Server::start(&machine, &other_folder, 1);
    let mut clients = [server.client(), reference.client()];
    for client in &mut clients {
        create(client, &["docs"]);
        client.run(&term(number::INSERT, json!([table("docs"), { "id": 1, "text": "x".repeat(500) }])));
        get_p50(client, 2000);
    }
    let before = server.resident_bytes();
    let idle = open_idle(server.driver);
    assert_eq!(idle.len(), IDLE_CONNECTIONS);
    let grown = server.resident_bytes().saturating_sub(before);
    println!("{IDLE_CONNECTIONS} idle connections take {} KiB", grown >> 10);
    assert!(grown < IDLE_BYTES_MAX, "{IDLE_CONNECTIONS} idle connections take {} MiB", grown >> 20);

    // The machine has moods: rounds are measured in turn, and the median of their ratios counts.
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let mut ratios: Vec<f64> = (0..21)
            .map(|_| {
                let [with, without] = clients.each_mut().map(|client| get_p50(client, 200));
                with as f64 / without as f64
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        best = best.min(ratios[ratios.len() / 2]);
        if best < 1.10 {
            break;
        }
    }
    println!("a get takes {best:.3} times as long beside them");
    assert!(best < 1.10, "beside idle connections a get takes {best:.2} times as long");
    drop(idle);
    // They go without harm, and what they took is free for others.
    assert_eq!(clients[0].run(&term(number::ADD, json!([1, 2]))), json!(3));
}

#[test]
fn an_idle_server_takes_less_than_half_a_percent_of_a_core_per_executor() {
    const CORES: u32 = 2;
    const WATCHED: Duration = Duration::from_secs(5);
    const SHARE_MAX: f64 = 0.005;
    let machine = Machine::alone();
    let folder = Folder::new("quiet");
    let server = Server::start(&machine, &folder, CORES);
    let _connected = server.client();
    std::thread::sleep(Duration::from_secs(1));
    // The machine has moods: the best of a few looks counts.
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        let before = server.cpu_time();
        std::thread::sleep(WATCHED);
        let taken = server.cpu_time() - before;
        best = best.min(taken.as_secs_f64() / WATCHED.as_secs_f64() / f64::from(CORES));
        println!("idle: {:.2}% of a core per executor", best * 100.0);
        if best < SHARE_MAX {
            return;
        }
    }
    panic!("idle, the server takes {:.2}% of a core per executor", best * 100.0);
}
