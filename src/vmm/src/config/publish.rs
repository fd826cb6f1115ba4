//! `--publish`: ports of the host's that lead to the guest.
use super::fields::text;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

string_enum! {
    /// What has ports.
    PortProtocol {
        /// Streams.
        #[default]
        Tcp = "tcp",
        /// Datagrams.
        Udp = "udp",
    }
}

/// Ports in a row, at least one, none of them 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// What is no such range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Something else than one or two numbers.
    #[error("found `{}`, expected a port from 1 to 65535, or a range of them such as 8000-8010", .0.escape_debug())]
    NoPort(String),
    /// The first port is behind the last.
    #[error("the range of ports {first}-{last} runs backwards (hint: {last}-{first})")]
    Backwards {
        /// As it was given.
        first: u16,
        /// As it was given.
        last: u16,
    },
}

impl PortRange {
    /// The ports from `first` to `last`, both of which it has.
    ///
    /// # Errors
    /// Port 0, and a `first` behind the `last`.
    pub fn new(first: u16, last: u16) -> Result<Self, PortError> {
        if first == 0 || last == 0 {
            return Err(PortError::NoPort("0".into()));
        }
        match first <= last {
            true => Ok(Self { first, last }),
            false => Err(PortError::Backwards { first, last }),
        }
    }

    /// Whether it has `port`.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }
}

impl FromStr for PortRange {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let wrong = || PortError::NoPort(text.to_owned());
        let number = |text| port(text).filter(|port| *port != 0).ok_or_else(wrong);
        Self::new(number(first)?, number(last)?)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        match first == last {
            true => write!(f, "{first}"),
            false => write!(f, "{first}-{last}"),
        }
    }
}

/// Digits and nothing but digits.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Ports of the host's that lead to as many of the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    address: IpAddr,
    /// None: the host picks one.
    host: Option<PortRange>,
    guest: PortRange,
    protocol: PortProtocol,
}

/// What cannot be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Too few parts, or too many.
    #[error("found `{}`, expected HOST:GUEST or ADDRESS:HOST:GUEST, such as 8080:80 or 0.0.0.0:5300-5310:53-63/udp", .0.escape_debug())]
    Shape(String),
    /// One port, with which Docker would have the host pick the other.
    #[error(
        "found only the port {0}, expected HOST:GUEST (hint: `0:{0}` has the host pick a port, `{0}:{0}` takes the same one)"
    )]
    OnePort(PortRange),
    /// Something else in the place of an address.
    #[error("found `{}`, expected the address of one of the host's networks (hint: 127.0.0.1 for this host only, 0.0.0.0 for all networks; IPv6 addresses are written in brackets, such as [::1])", .0.escape_debug())]
    Address(String),
    /// Something else in the place of a protocol.
    #[error("found `{}` behind the ports, expected `tcp` or `udp`", .0.escape_debug())]
    Protocol(String),
    /// Something else in the place of a port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// More ports on one side than on the other.
    #[error("found {} of the host's ports for {} of the guest's, expected as many", .host.count(), .guest.count())]
    Lengths {
        /// Ports of the host's.
        host: PortRange,
        /// Ports of the guest's.
        guest: PortRange,
    },
    /// A range for which the host is to pick ports.
    #[error(
        "found host port 0 for a range, but only one port at a time can be picked (hint: publish each port of {0} by itself)"
    )]
    PickedRange(PortRange),
}

impl Publish {
    /// Where the host listens unless told otherwise: only this host reaches it.
    pub const DEFAULT_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// The guest's ports `guest`, at those of the host's at `address`; without these, the host picks one.
    ///
    /// # Errors
    /// Not as many ports on one side as on the other.
    pub fn new(
        address: IpAddr,
        host: Option<PortRange>,
        guest: PortRange,
        protocol: PortProtocol,
    ) -> Result<Self, PublishError> {
        match host {
            None if guest.count() > 1 => return Err(PublishError::PickedRange(guest)),
            Some(host) if host.count() != guest.count() => {
                return Err(PublishError::Lengths { host, guest });
            }
            _ => {}
        }
        Ok(Self {
            address,
            host,
            guest,
            protocol,
        })
    }

    /// Where the host listens.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// What is heard there.
    #[must_use]
    pub fn protocol(&self) -> PortProtocol {
        self.protocol
    }

    /// Each port of the host's, 0 for one that it picks, and the guest's that it leads to.
    pub fn ports(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let host = self.host.map_or(0..=0, |host| host.first..=host.last);
        host.zip(self.guest.first..=self.guest.last)
    }
}

impl FromStr for Publish {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let (rest, protocol) = match text.split_once('/') {
            Some((rest, name)) => {
                let wrong = |_| PublishError::Protocol(name.to_owned());
                (rest, name.parse().map_err(wrong)?)
            }
            None => (text, PortProtocol::default()),
        };
        let shape = || PublishError::Shape(text.to_owned());
        let (address, ports) = address_and_ports(rest).ok_or_else(shape)?;
        let address = match address {
            Some(address) => parse_address(address)?,
            None => Self::DEFAULT_ADDRESS,
        };
        let Some((host, guest)) = ports.split_once(':') else {
            return Err(ports
                .parse()
                .map_or_else(|_| shape(), PublishError::OnePort));
        };
        let host = match port(host) {
            Some(0) => None,
            _ => Some(host.parse()?),
        };
        Self::new(address, host, guest.parse()?, protocol)
    }
}

/// Takes the address off, if there is one: in brackets, or with two more colons behind it.
fn address_and_ports(text: &str) -> Option<(Option<&str>, &str)> {
    if text.starts_with('[') {
        let end = text.find(']')?;
        let (address, rest) = text.split_at(end + 1);
        let ports = rest.strip_prefix(':')?;
        return (ports.matches(':').count() <= 1).then_some((Some(address), ports));
    }
    let Some((before, guest)) = text.rsplit_once(':') else {
        return Some((None, text));
    };
    match before.rsplit_once(':') {
        Some((address, host)) => {
            let ports = &text[text.len() - host.len() - 1 - guest.len()..];
            Some((Some(address), ports))
        }
        None => Some((None, text)),
    }
}

fn parse_address(text: &str) -> Result<IpAddr, PublishError> {
    let in_brackets = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = match in_brackets {
        Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6),
        None => text.parse::<Ipv4Addr>().map(IpAddr::V4),
    };
    address.map_err(|_| PublishError::Address(text.to_owned()))
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:")?,
            IpAddr::V6(address) => write!(f, "[{address}]:")?,
        }
        match self.host {
            Some(host) => write!(f, "{host}")?,
            None => f.write_str("0")?,
        }
        write!(f, ":{}/{}", self.guest, self.protocol)
    }
}

impl Serialize for Publish {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Publish {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "ports, as a string such as \"8080:80\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn publish(text: &str) -> Publish {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refused(text: &str) -> String {
        text.parse::<Publish>().expect_err(text).to_string()
    }

    #[test]
    fn without_an_address_only_this_host_reaches_a_port() {
        let ssh = publish("2222:22");
        assert_eq!(ssh.address(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(ssh.protocol(), PortProtocol::Tcp);
        assert_eq!(ssh.ports().collect::<Vec<_>>(), [(2222, 22)]);
    }

    #[test]
    fn an_address_opens_a_port_to_its_network() {
        for (text, address) in [
            ("0.0.0.0:53:53/udp", "0.0.0.0"),
            ("[::]:53:53/udp", "::"),
            ("[2001:db8::1]:53:53/udp", "2001:db8::1"),
        ] {
            let dns = publish(text);
            assert_eq!(dns.address().to_string(), address);
            assert_eq!(dns.protocol(), PortProtocol::Udp);
            assert_eq!(dns.ports().collect::<Vec<_>>(), [(53, 53)]);
        }
    }

    #[test]
    fn the_ports_of_a_range_lead_to_those_of_another_in_their_order() {
        let few = publish("8000-8002:80-82");
        let pairs: Vec<_> = few.ports().collect();
        assert_eq!(pairs, [(8000, 80), (8001, 81), (8002, 82)]);
        let last = publish("65534-65535:65534-65535");
        assert_eq!(last.ports().last(), Some((65535, 65535)));
        assert_eq!(publish("1-65535:1-65535").ports().count(), 65535);
    }

    #[test]
    fn host_port_0_is_picked_by_the_host() {
        let picked = publish("[::1]:0:80");
        assert_eq!(picked.ports().collect::<Vec<_>>(), [(0, 80)]);
        assert_eq!(picked.to_string(), "[::1]:0:80/tcp");
        assert!(refused("0:80-90").contains("publish each port of 80-90 by itself"));
    }

    #[test]
    fn a_port_alone_gets_the_two_ways_to_say_what_was_meant() {
        assert_eq!(
            refused("80"),
            "found only the port 80, expected HOST:GUEST (hint: `0:80` has the host pick a port, `80:80` takes the same one)"
        );
        assert!(refused("8000-8010/udp").contains("`0:8000-8010`"));
    }

    #[test]
    fn ranges_of_two_lengths_are_refused() {
        assert_eq!(
            refused("8000-8010:80"),
            "found 11 of the host's ports for 1 of the guest's, expected as many"
        );
    }

    #[test]
    fn what_is_no_port_address_or_protocol_is_refused_for_its_own_reason() {
        for (text, reason) in [
            ("", "found ``, expected HOST:GUEST or"),
            ("ssh", "found `ssh`, expected HOST:GUEST or"),
            ("[::1]", "found `[::1]`, expected HOST:GUEST or"),
            ("[::1]80:80", "found `[::1]80:80`, expected HOST:GUEST or"),
            ("[::1:80:80", "found `[::1:80:80`, expected HOST:GUEST or"),
            ("[::1]:1:2:3", "found `[::1]:1:2:3`, expected HOST:GUEST or"),
            ("[::1]:80", "found only the port 80"),
            ("80:", "found ``, expected a port"),
            (":80", "found ``, expected a port"),
            ("127.0.0.1::80", "found ``, expected a port"),
            ("80:0", "found `0`, expected a port"),
            ("80:65536", "found `65536`, expected a port"),
            ("80:+1", "found `+1`, expected a port"),
            ("80:ssh", "found `ssh`, expected a port"),
            ("0-4:1-5", "found `0-4`, expected a port"),
            ("1-2-3:1-3", "found `1-2-3`, expected a port"),
            ("127.0.0.1:80", "found `127.0.0.1`, expected a port"),
            (
                "20-10:20-10",
                "the range of ports 20-10 runs backwards (hint: 10-20)",
            ),
            ("localhost:80:80", "found `localhost`, expected the address"),
            ("::1:80:80", "found `::1`, expected the address"),
            (
                "[127.0.0.1]:80:80",
                "found `[127.0.0.1]`, expected the address",
            ),
            (":80:80", "found ``, expected the address"),
            ("80:80/sctp", "found `sctp` behind the ports, expected"),
            ("80:80/", "found `` behind the ports, expected"),
            ("80:80/TCP", "found `TCP` behind the ports, expected"),
            (
                "\u{1b}[31m:80:80",
                r"found `\u{1b}[31m`, expected the address",
            ),
        ] {
            let found = refused(text);
            assert!(found.starts_with(reason), "{text}: {found}");
        }
    }

    #[test]
    fn in_json_it_is_a_string() {
        let ports: Vec<Publish> = serde_json::from_str(r#"["2222:22", "[::]:53:53/udp"]"#).unwrap();
        let text = serde_json::to_string(&ports).unwrap();
        assert_eq!(text, r#"["127.0.0.1:2222:22/tcp","[::]:53:53/udp"]"#);
        let error = serde_json::from_str::<Publish>("80").unwrap_err();
        assert!(error.to_string().contains("expected ports, as a string"));
        let error = serde_json::from_str::<Publish>(r#""80""#).unwrap_err();
        assert!(error.to_string().contains("`0:80` has the host pick"));
    }

    fn any_publish() -> impl Strategy<Value = Publish> {
        let ports = (any::<IpAddr>(), any::<bool>(), 1u16.., 1u16.., any::<u16>());
        ports.prop_map(|(address, udp, host, guest, more)| {
            let more = more.min(u16::MAX - host).min(u16::MAX - guest);
            let range = |first| PortRange::new(first, first + more).unwrap();
            let protocol = match udp {
                true => PortProtocol::Udp,
                false => PortProtocol::Tcp,
            };
            let host = (more != 0 || !host.is_multiple_of(8)).then(|| range(host));
            Publish::new(address, host, range(guest), protocol).unwrap()
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(publish in any_publish()) {
            prop_assert_eq!(publish.to_string().parse(), Ok(publish));
        }

        #[test]
        fn no_text_panics(text in "\\PC*|[\\[\\]0-9:./a-z-]{0,30}") {
            if let Ok(publish) = text.parse::<Publish>() {
                prop_assert!(publish.ports().count() > 0);
                prop_assert_eq!(publish.to_string().parse(), Ok(publish));
            }
        }
    }
}
