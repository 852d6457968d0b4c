//! Local sockets: their names, which addresses are of this machine, and who may be behind a name.
//!
//! Any user can take an abstract name. Invariant: a peer is talked to over a Unix socket only if it runs as root, as we do, or as
//! whoever has the TCP port: nobody gains anything by taking a name first.

use nix::unistd::geteuid;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::UnixStream;

/// First part of every name, with the version of what is spoken behind it: a port's two protocols.
const PREFIX: &str = "\0dfs/1/";
/// Enough for thousands of listening sockets, which the kernel lists first.
const PORT_TABLE_BYTES_MAX: u64 = 1 << 20;
/// Stands for every user whom this user namespace has no number for: it may be anybody.
const OVERFLOW_UID: u32 = 65534;
/// State of a listening socket in the kernel's table.
const LISTENING: &str = "0A";

/// Name beside the TCP socket that is bound to `bound`. `only_v6`: one bound to `[::]` has no IPv4 connections.
pub(super) fn name(bound: SocketAddr, only_v6: bool) -> String {
    match bound {
        SocketAddr::V6(any) if any.ip().is_unspecified() && !only_v6 => any_name(bound.port()),
        _ => format!("{PREFIX}{bound}"),
    }
}

/// Name of a server that has a port for IPv4 and IPv6.
fn any_name(port: u16) -> String {
    format!("{PREFIX}*:{port}")
}

/// Names under which a server that has `address` may be found. The kernel lets at most one of them have the port.
pub(super) fn names(address: SocketAddr) -> [String; 3] {
    let canonical = match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, address.port())),
        IpAddr::V6(_) => address,
    };
    let wildcard = match canonical {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    [
        name(canonical, true),
        name(SocketAddr::new(wildcard, address.port()), true),
        any_name(address.port()),
    ]
}

/// Whether `address` is one of this machine, in this network namespace: then the kernel would send from it, too.
pub(super) fn is_local(address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    if ip.is_loopback() {
        return true;
    }
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Connecting such a socket asks for a route and sends nothing.
    let source = UdpSocket::bind((any, 0))
        .and_then(|socket| socket.connect(address).and_then(|()| socket.local_addr()));
    source.is_ok_and(|source| source.ip().to_canonical() == ip)
}

/// Whether the process behind `stream` may serve `address`; says so once if not.
pub(super) fn is_trusted(stream: &UnixStream, address: SocketAddr) -> bool {
    // The kernel's record of who began to listen.
    let uid = match stream.peer_cred() {
        Ok(credentials) => credentials.uid(),
        Err(error) => {
            tracing::debug!(%error, "a local peer has no credentials");
            return false;
        }
    };
    if uid == 0 || uid != OVERFLOW_UID && (uid == geteuid().as_raw() || has_port(uid, address)) {
        return true;
    }
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            %address, uid,
            "the local socket of this address belongs to a user who is not its server; TCP is used"
        );
    }
    false
}

/// Whether the TCP sockets that listen at `address` are all of user `uid`, and there is one.
fn has_port(uid: u32, address: SocketAddr) -> bool {
    let (port, ip) = (address.port(), address.ip().to_canonical());
    let v4 = match ip {
        IpAddr::V4(ip) => owners("tcp", port, &[hex(&ip.octets()), hex(&[0; 4])]),
        IpAddr::V6(_) => Vec::new(),
    };
    let mapped = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let v6 = owners("tcp6", port, &[hex(&mapped.octets()), hex(&[0; 16])]);
    let mut owners = v4.into_iter().chain(v6).peekable();
    owners.peek().is_some() && owners.all(|owner| owner == Some(uid))
}

/// Owners of the sockets that listen at `port` of one of these addresses; `None` for one that cannot be read.
fn owners(table: &str, port: u16, ips: &[String]) -> Vec<Option<u32>> {
    // The thread's, not the process's: namespaces belong to threads.
    let mut text = String::new();
    let read = File::open(format!("/proc/thread-self/net/{table}"))
        .and_then(|file| file.take(PORT_TABLE_BYTES_MAX).read_to_string(&mut text));
    if let Err(error) = read {
        tracing::debug!(%error, table, "the table of ports cannot be read");
        return Vec::new();
    }
    owners_in(&text, port, ips)
}

fn owners_in(table: &str, port: u16, ips: &[String]) -> Vec<Option<u32>> {
    // sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid ...
    table
        .lines()
        .skip(1)
        .map(|line| line.split_ascii_whitespace())
        .filter_map(|mut fields| {
            let (ip, at) = fields.nth(1)?.split_once(':')?;
            let listens = fields.nth(1)? == LISTENING && u16::from_str_radix(at, 16) == Ok(port);
            (listens && ips.iter().any(|wanted| wanted == ip))
                .then(|| fields.nth(3).and_then(|uid| uid.parse().ok()))
        })
        .collect()
}

/// An address as the kernel's table has it: words in the machine's order.
fn hex(octets: &[u8]) -> String {
    octets
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| format!("{:08X}", u32::from_ne_bytes(*word)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_server_is_found_under_the_addresses_that_reach_it() {
        for (bound, only_v6, dialed) in [
            ("127.0.0.1:7", false, &["127.0.0.1:7", "[::ffff:127.0.0.1]:7"][..]),
            ("0.0.0.0:7", false, &["127.0.0.1:7", "10.0.0.1:7"]),
            ("[::1]:7", true, &["[::1]:7"]),
            ("[::]:7", false, &["[::1]:7", "127.0.0.1:7", "10.0.0.1:7"]),
            ("[::]:7", true, &["[::1]:7"]),
        ] {
            for dialed in dialed {
                assert!(
                    names(at(dialed)).contains(&name(at(bound), only_v6)),
                    "{bound} by {dialed}"
                );
            }
        }
        for (bound, only_v6, dialed) in [
            ("127.0.0.1:7", false, "127.0.0.1:8"),
            ("127.0.0.1:7", false, "127.0.0.2:7"),
            ("0.0.0.0:7", false, "[::1]:7"),
            ("[::]:7", true, "127.0.0.1:7"),
        ] {
            assert!(
                !names(at(dialed)).contains(&name(at(bound), only_v6)),
                "{bound} by {dialed}"
            );
        }
    }

    #[test]
    fn only_addresses_of_this_machine_are_local() {
        for address in ["127.0.0.1:7", "127.9.9.9:7", "[::1]:7", "[::ffff:127.0.0.1]:7"] {
            assert!(is_local(at(address)), "{address}");
        }
        // TEST-NET-1 and the documentation prefix are nobody's.
        for address in ["192.0.2.1:7", "[2001:db8::1]:7", "[::ffff:192.0.2.1]:7"] {
            assert!(!is_local(at(address)), "{address}");
        }
    }

    #[test]
    fn owner_of_a_port_is_read_from_the_kernels_table() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let uid = geteuid().as_raw();
        assert!(has_port(uid, address));
        assert!(!has_port(uid + 1, address));
        drop(listener);
        assert!(!has_port(uid, address), "nobody listens");
        let everywhere = std::net::TcpListener::bind("[::]:0").unwrap();
        let port = everywhere.local_addr().unwrap().port();
        for ip in ["127.0.0.1", "::1"] {
            assert!(has_port(uid, SocketAddr::new(ip.parse().unwrap(), port)), "{ip}");
        }
    }

    #[test]
    fn a_port_of_several_users_is_nobodys_and_odd_tables_say_nothing() {
        let row = |uid: &str| format!(" 0: 0100007F:0007 00000000:0000 0A 0:0 0:0 0 {uid} 0 1\n");
        let ips = ["0100007F".to_owned()];
        let table = format!("head\n{}{}", row("5"), row("6"));
        assert_eq!(owners_in(&table, 7, &ips), [Some(5), Some(6)]);
        assert_eq!(owners_in(&table, 8, &ips), []);
        assert_eq!(owners_in(&format!("head\n{}", row("x")), 7, &ips), [None]);
        assert_eq!(owners_in("head\n\n: :\n 0: 0100007F:0007", 7, &ips), []);
    }
}
