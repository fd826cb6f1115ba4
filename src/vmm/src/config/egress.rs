//! `--egress`: what a guest may reach.
use super::fields::text;
use super::publish::{PortError, PortProtocol, PortRange};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Bytes of a name's longest part (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;
/// Bytes of the longest name, as it is written: 255 as it is sent.
const MAX_NAME: usize = 253;

string_enum! {
    /// What a rule says of what it is about.
    Verdict {
        /// It may be reached.
        #[default]
        Allow = "allow",
        /// It may not.
        Deny = "deny",
    }
}

/// One rule, as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EgressRule {
    /// What becomes of all that no other rule is about.
    Default(Verdict),
    /// What was denied is shown.
    Log,
    /// What becomes of the target.
    Target(Verdict, Target),
}

/// Where a guest may want to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub destination: Destination,
    /// Its ports. Without them: all, and what has none.
    pub ports: Option<PortRange>,
    /// What has these ports. Without it: both, and, if there are no ports either, what has none.
    pub protocol: Option<PortProtocol>,
}

/// Which hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Those with these addresses.
    Network(Network),
    /// Those with this name.
    Name(NamePattern),
}

/// All addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A name, or all below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    /// In lower case, with no dot at the end.
    name: String,
    below: bool,
}

/// What is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// None of the words that a rule begins with.
    #[error("found `{}`, expected `allow`, `deny`, `log`, `allow=TARGET` or `deny=TARGET`, such as allow=10.0.0.0/8:443/tcp or allow=*.example.org", .0.escape_debug())]
    NoRule(String),
    /// Neither an address nor a network nor a name.
    #[error("found `{}`, expected an address, a network such as 10.0.0.0/8, or a name such as example.org or *.example.org", .0.escape_debug())]
    NoTarget(String),
    /// An IPv6 address that is none, perhaps for what follows it.
    #[error("found `{}`, expected an IPv6 address or network (hint: with a port it is written in brackets, such as [2001:db8::/32]:443)", .0.escape_debug())]
    NoIpv6(String),
    /// A network of more bits than an address has.
    #[error("found `/{prefix}` behind {address}, expected a whole number from 0 to {}", bits(*.address))]
    Prefix {
        /// Its first part.
        address: IpAddr,
        /// Its second part.
        prefix: String,
    },
    /// It is not the first address of its network.
    #[error("{address}/{} has bits behind its first {} (hint: the network is {network}, the address alone {address})", .network.prefix, .network.prefix)]
    HostBits {
        /// As it was given.
        address: IpAddr,
        /// Where it is.
        network: Network,
    },
    /// An IPv4 address that is written as an IPv6 one.
    #[error(
        "{0} are IPv4 addresses, which rules for IPv4 judge however they are written (hint: {1})"
    )]
    Mapped(Network, Network),
    /// A name in letters that it is not sent in.
    #[error("found `{}`, expected a name in ASCII (hint: write it in punycode, as xn--…)", .0.escape_debug())]
    NotAscii(String),
    /// Not a name that the domain name system would know.
    #[error("found `{}`, expected a name such as example.org or *.example.org: parts of at most {MAX_LABEL} letters, digits, `-` and `_`, together at most {MAX_NAME}, the last not a number", .0.escape_debug())]
    NoName(String),
    /// Any host, but as a name.
    #[error(
        "found `*`, expected a name or a network (hint: for whatever no rule is about, `allow` or `deny`; for all addresses, 0.0.0.0/0 and [::/0])"
    )]
    Anything,
    /// The one name that the domain name system is not asked about.
    #[error(
        "found `{0}`, which is not allowed by its name (hint: allow=127.0.0.1 and allow=[::1] with the ports that the guest may reach on this host)"
    )]
    Localhost(NamePattern),
    /// A name that is to be unknown on some ports only.
    #[error("found `{target}`, but a name that is denied is not resolved for any port (hint: deny={}, or deny the addresses)", .target.destination)]
    NameWithPort {
        /// Host and ports.
        target: Target,
    },
    /// Something else in the place of a port.
    #[error(transparent)]
    Port(#[from] PortError),
}

fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl Network {
    /// Those whose first `prefix` bits are those of `address`.
    ///
    /// # Errors
    /// Bits of `address` behind these, and IPv4 addresses as IPv6 ones, which no rule would ever see.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, EgressError> {
        if prefix > bits(address) {
            let prefix = prefix.to_string();
            return Err(EgressError::Prefix { address, prefix });
        }
        let network = Self {
            address: masked(address, prefix),
            prefix,
        };
        if network.address != address {
            return Err(EgressError::HostBits { address, network });
        }
        if let IpAddr::V6(inner) = address
            && let Some(inner) = inner.to_ipv4_mapped()
            && prefix >= 96
        {
            let plain = Self::known(IpAddr::V4(inner), prefix - 96);
            return Err(EgressError::Mapped(network, plain));
        }
        Ok(network)
    }

    /// One that is known to begin at its address: those who call it have a test of that.
    pub(crate) const fn known(address: IpAddr, prefix: u8) -> Self {
        Self { address, prefix }
    }

    /// Whether `address` is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }

    /// Whether all of them are in `other`.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        other.prefix <= self.prefix && other.contains(self.address)
    }
}

/// The first `prefix` bits of an address, which has as many or more.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let after = u32::from(bits(address) - prefix);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(after).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(after).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

impl NamePattern {
    /// Whether `name` is that name or, if the pattern has a star, one below it. Case does not matter, nor does a dot at the end. A dot
    /// that is not one between two parts must be escaped in `name`, as [`Query::name`](crate::usernet::dns::Query::name) has it.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
        let own = self.name.as_bytes();
        if !self.below {
            return name.eq_ignore_ascii_case(own);
        }
        let Some(front) = name.len().checked_sub(own.len()) else {
            return false;
        };
        let (front, back) = name.split_at(front);
        front.len() > 1 && front.ends_with(b".") && back.eq_ignore_ascii_case(own)
    }

    fn is_local(&self) -> bool {
        self.name == "localhost" || self.name.ends_with(".localhost")
    }
}

impl FromStr for NamePattern {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        if !text.is_ascii() {
            return Err(EgressError::NotAscii(text.to_owned()));
        }
        if matches!(text, "*" | "*.") {
            return Err(EgressError::Anything);
        }
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let whole = name.len() <= MAX_NAME
            && name
                .split('.')
                .all(|label| (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(sound));
        let last = name.rsplit('.').next().unwrap_or_default();
        match whole && !last.bytes().all(|digit| digit.is_ascii_digit()) {
            true => Ok(Self { name, below }),
            false => Err(EgressError::NoName(text.to_owned())),
        }
    }
}

impl FromStr for EgressRule {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        let wrong = || EgressError::NoRule(text.to_owned());
        let Some((verdict, target)) = text.split_once('=') else {
            return match text {
                "log" => Ok(Self::Log),
                _ => text.parse().map(Self::Default).map_err(|_| wrong()),
            };
        };
        let verdict = verdict.parse().map_err(|_| wrong())?;
        let target: Target = target.parse()?;
        if let Destination::Name(name) = &target.destination {
            match verdict {
                // What it stands for is always an address that a name does not allow.
                Verdict::Allow if name.is_local() => {
                    return Err(EgressError::Localhost(name.clone()));
                }
                Verdict::Deny if target.ports.is_some() || target.protocol.is_some() => {
                    return Err(EgressError::NameWithPort { target });
                }
                _ => {}
            }
        }
        Ok(Self::Target(verdict, target))
    }
}

impl FromStr for Target {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        // What follows the slash of a network is a number.
        let protocol = text
            .rsplit_once('/')
            .and_then(|(rest, name)| Some((rest, name.parse().ok()?)));
        let (rest, protocol) = match protocol {
            Some((rest, protocol)) => (rest, Some(protocol)),
            None => (text, None),
        };
        let (destination, ports) = if let Some(inner) = rest.strip_prefix('[') {
            let wrong = || EgressError::NoIpv6(rest.to_owned());
            let (network, ports) = inner.split_once(']').ok_or_else(wrong)?;
            let ports = match ports.strip_prefix(':') {
                None if ports.is_empty() => None,
                ports => Some(ports.ok_or_else(wrong)?),
            };
            (parse_ipv6(network)?, ports)
        } else if rest.matches(':').count() > 1 {
            (parse_ipv6(rest)?, None)
        } else {
            match rest.split_once(':') {
                Some((host, ports)) => (parse_host(host)?, Some(ports)),
                None => (parse_host(rest)?, None),
            }
        };
        Ok(Self {
            destination,
            ports: ports.map(PortRange::from_str).transpose()?,
            protocol,
        })
    }
}

fn parse_ipv6(text: &str) -> Result<Destination, EgressError> {
    let wrong = || EgressError::NoIpv6(text.to_owned());
    let (address, prefix) = parts(text);
    let address: Ipv6Addr = address.parse().map_err(|_| wrong())?;
    network(address.into(), prefix)
}

/// An IPv4 address, a network of them, or a name.
fn parse_host(text: &str) -> Result<Destination, EgressError> {
    let (address, prefix) = parts(text);
    match (address.parse::<Ipv4Addr>(), prefix) {
        (Ok(address), _) => network(address.into(), prefix),
        (Err(_), None) if !text.is_empty() => text.parse().map(Destination::Name),
        (Err(_), _) => Err(EgressError::NoTarget(text.to_owned())),
    }
}

fn parts(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    }
}

fn network(address: IpAddr, prefix: Option<&str>) -> Result<Destination, EgressError> {
    let prefix = match prefix {
        None => bits(address),
        Some(text) => {
            let digits = text.bytes().all(|digit| digit.is_ascii_digit());
            let prefix = text.parse().ok().filter(|_| digits);
            prefix.ok_or_else(|| EgressError::Prefix {
                address,
                prefix: text.escape_debug().to_string(),
            })?
        }
    };
    Network::new(address, prefix).map(Destination::Network)
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default(verdict) => write!(f, "{verdict}"),
            Self::Log => f.write_str("log"),
            Self::Target(verdict, target) => write!(f, "{verdict}={target}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.destination, self.ports) {
            (Destination::Network(network), Some(ports)) if network.address.is_ipv6() => {
                write!(f, "[{network}]:{ports}")?;
            }
            (destination, Some(ports)) => write!(f, "{destination}:{ports}")?,
            (destination, None) => write!(f, "{destination}")?,
        }
        self.protocol
            .map_or(Ok(()), |protocol| write!(f, "/{protocol}"))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, prefix } = self;
        match *prefix == bits(*address) {
            true => write!(f, "{address}"),
            false => write!(f, "{address}/{prefix}"),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.below { "*." } else { "" };
        write!(f, "{star}{}", self.name)
    }
}

impl Serialize for EgressRule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EgressRule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(
            deserializer,
            "a rule, as a string such as \"allow=10.0.0.0/8:443\"",
        )
    }
}

#[cfg(test)]
mod tests;
