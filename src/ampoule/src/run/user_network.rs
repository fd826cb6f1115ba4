//! A card's own network, opened: the ports of this host that lead to the guest, and who resolves names.
use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicU64},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vmm::{
    config::{PortProtocol, Publish, UserNetwork},
    machine::Outpost,
    usernet::{FLOWS, Network, Options, Published, policy::Policy},
    virtio::net::Tap,
};

use super::descriptors;
use crate::failure::Failure;

/// Descriptors of all else that a guest's process has, questions for names among them.
const OTHER_DESCRIPTORS: usize = 512;
const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;

/// Opens what `user` says; the card's side of it, and what its thread does.
///
/// # Errors
/// When a port is not to be had, or the host has no room.
pub(super) fn open(
    user: &UserNetwork,
    mac: [u8; 6],
    mtu: u16,
    name: &str,
) -> Result<(Tap, Outpost), Failure> {
    let failed = |error: io::Error| Failure::new("--net user", error);
    // First: what is published takes some of them.
    let flows = flows(user);
    let published = user.publish.iter().map(publish);
    let published = published.collect::<Result<Vec<_>, _>>()?;
    let own = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let own = Resolvers::parse(&own);
    let resolvers = match user.dns.is_empty() {
        true => own.addresses,
        false => user.dns.clone(),
    };
    let features = Arc::new(AtomicU64::new(0));
    let options = Options {
        mac,
        mtu,
        features: features.clone(),
        ipv6: has_ipv6(&std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default()),
        published: published.into_iter().flatten().collect(),
        resolvers: resolvers
            .into_iter()
            .map(|address| SocketAddr::new(address, DNS_PORT))
            .collect(),
        hostname: None,
        search: own.search,
        policy: Policy::new(&user.egress),
        flows,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (card, frames) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|error| failed(error.into()))?;
    let network = Network::new(options, frames).map_err(failed)?;
    let outpost = Outpost {
        name: name.to_owned(),
        work: Box::new(move || network.run()),
    };
    Ok((Tap::stand_in(card, features), outpost))
}

/// As many flows as were asked for, as far as this process may have descriptors for them beside those of what is published.
fn flows(user: &UserNetwork) -> usize {
    let wanted = user.flows.map_or(FLOWS, |flows| {
        usize::try_from(flows).expect("at most 65536")
    });
    let ports = user.publish.iter().map(|publish| publish.ports().count());
    let others = OTHER_DESCRIPTORS + ports.sum::<usize>();
    let may = descriptors::raise(u64::try_from(wanted + others).unwrap_or(u64::MAX));
    let may = usize::try_from(may).unwrap_or(usize::MAX);
    wanted.min(may.saturating_sub(others)).max(1)
}

/// Listens where `publish` says.
fn publish(publish: &Publish) -> Result<Vec<Published>, Failure> {
    let address = publish.address();
    let protocol = publish.protocol();
    let bound = publish.ports().map(|(host, guest_port)| {
        let at = SocketAddr::new(address, host);
        let (socket, bound) = bind(protocol, at).map_err(|error| refusal(publish, at, &error))?;
        if host == 0 {
            eprintln!("ampoule: note: {bound} leads to the guest's {guest_port}/{protocol}");
        }
        Ok(Published {
            socket,
            protocol,
            guest_port,
        })
    });
    bound.collect()
}

fn bind(protocol: PortProtocol, at: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    match protocol {
        PortProtocol::Tcp => {
            let listener = TcpListener::bind(at)?;
            listener.set_nonblocking(true)?;
            let bound = listener.local_addr()?;
            Ok((listener.into(), bound))
        }
        PortProtocol::Udp => {
            let socket = UdpSocket::bind(at)?;
            socket.set_nonblocking(true)?;
            let bound = socket.local_addr()?;
            Ok((socket.into(), bound))
        }
    }
}

fn refusal(publish: &Publish, at: SocketAddr, error: &io::Error) -> Failure {
    let failure = Failure::new(format_args!("--publish {publish}"), error);
    match error.kind() {
        io::ErrorKind::AddrInUse => failure.hint(format_args!(
            "another program has {at}; HOST 0 picks a port that is free"
        )),
        io::ErrorKind::PermissionDenied => failure.hint(
            "ports below 1024 are root's: take a higher one, or sudo sysctl net.ipv4.ip_unprivileged_port_start=0",
        ),
        io::ErrorKind::AddrNotAvailable => {
            failure.hint(format_args!("{} is no address of this host's", at.ip()))
        }
        _ => failure,
    }
}

/// What this host's `resolv.conf` says (resolv.conf(5)).
#[derive(Debug, Default, PartialEq, Eq)]
struct Resolvers {
    addresses: Vec<IpAddr>,
    search: Vec<String>,
}

impl Resolvers {
    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                // An address with an interface (`fe80::1%eth0`) is one that nobody else can use.
                Some("nameserver") => {
                    found
                        .addresses
                        .extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                // The last one counts.
                Some("search" | "domain") => found.search = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        found
    }
}

/// Whether any interface but the loopback has an IPv6 address of global scope, by the kernel's `if_inet6`.
fn has_ipv6(table: &str) -> bool {
    const GLOBAL: &str = "00";
    table.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        matches!(words[..], [_, _, _, GLOBAL, _, name] if name != "lo")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_those_that_can_be_used() {
        let text = "# a comment\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver ::1\nsearch a.example b.example\noptions ndots:2\nnameserver\n";
        let found = Resolvers::parse(text);
        let expected = ["192.0.2.1", "::1"].map(|address| address.parse::<IpAddr>().unwrap());
        assert_eq!(found.addresses, expected);
        assert_eq!(found.search, ["a.example", "b.example"]);
        assert_eq!(Resolvers::parse(""), Resolvers::default());
    }

    #[test]
    fn only_global_addresses_count_as_ipv6() {
        let lo = "00000000000000000000000000000001 01 80 10 80       lo\n";
        let link = "fe80000000000000000000000000aaaa 02 40 20 80     eth0\n";
        let global = "20010db8000000000000000000000001 02 40 00 80     eth0\n";
        assert!(!has_ipv6(lo) && !has_ipv6(&[lo, link].concat()));
        assert!(has_ipv6(&[lo, link, global].concat()));
    }

    #[test]
    fn a_port_that_is_taken_is_told_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let told = publish(&format!("{port}:22").parse().unwrap()).unwrap_err();
        let told = told.to_string();
        assert!(told.contains("HOST 0 picks"), "{told}");
        let free = publish(&"0:22/udp".parse().unwrap()).unwrap();
        assert_eq!((free.len(), free[0].guest_port), (1, 22));
    }
}
