//! What a guest may reach.
//!
//! A rule that denies goes before one that allows, and that before the default. Where nobody wants a guest to be unless he says so
//! (this host's loopback, its link, what gives away a cloud's credentials), neither the default allows it, nor a wide network, nor a
//! name, whose owner chooses its addresses: only a rule for a network that lies there as a whole.
//!
//! An IPv6 address within which lies an IPv4 address, to which some router or the host itself sends what is sent there, is judged by both.
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

pub use crate::config::Verdict;
use crate::config::{Destination, EgressRule, NamePattern, Network, PortProtocol, Target};
use learned::Learned;

mod learned;
mod special;

/// What a guest speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
    /// Echo requests, which have no ports.
    Icmp,
}

/// An address may be used for so long after it was the answer for a name, even if the answer holds for less: a program may take its time
/// between the two.
pub const MIN_LEARNED: Duration = Duration::from_secs(60);
/// And for no longer than so, even if the answer holds for more.
pub const MAX_LEARNED: Duration = Duration::from_secs(3600);

/// The user's rules, and what the names in them stand for at present.
#[derive(Debug)]
pub struct Policy {
    default: Verdict,
    logs: bool,
    denied: Vec<(Network, Ports)>,
    denied_names: Vec<NamePattern>,
    allowed: Vec<(Network, Ports)>,
    allowed_names: Vec<(NamePattern, Ports)>,
    learned: Learned,
}

/// What a rule is about, its host aside.
#[derive(Clone, Copy, Debug)]
struct Ports {
    ports: Option<crate::config::PortRange>,
    protocol: Option<PortProtocol>,
}

impl Ports {
    fn of(target: &Target) -> Self {
        Self {
            ports: target.ports,
            protocol: target.protocol,
        }
    }

    fn has(self, protocol: Protocol, port: u16) -> bool {
        let spoken = match protocol {
            Protocol::Icmp => return self.is_all(),
            Protocol::Tcp => PortProtocol::Tcp,
            Protocol::Udp => PortProtocol::Udp,
        };
        self.protocol.is_none_or(|protocol| protocol == spoken)
            && self.ports.is_none_or(|ports| ports.contains(port))
    }

    fn is_all(self) -> bool {
        self.ports.is_none() && self.protocol.is_none()
    }
}

impl Policy {
    /// Without rules everything is allowed that is not denied whatever the rules. Rules that allow something make denial the default,
    /// unless there is another rule for that; of several such rules the last one holds.
    #[must_use]
    pub fn new(rules: &[EgressRule]) -> Self {
        let mut default = None;
        let mut logs = false;
        let (mut denied, mut denied_names) = (Vec::new(), Vec::new());
        let (mut allowed, mut allowed_names) = (Vec::new(), Vec::new());
        for rule in rules {
            match rule {
                EgressRule::Default(verdict) => default = Some(*verdict),
                EgressRule::Log => logs = true,
                EgressRule::Target(verdict, target) => {
                    let ports = Ports::of(target);
                    match (verdict, &target.destination) {
                        (Verdict::Allow, Destination::Network(at)) => allowed.push((*at, ports)),
                        (Verdict::Allow, Destination::Name(name)) => {
                            allowed_names.push((name.clone(), ports));
                        }
                        (Verdict::Deny, Destination::Network(at)) => denied.push((*at, ports)),
                        (Verdict::Deny, Destination::Name(name)) => denied_names.push(name.clone()),
                    }
                }
            }
        }
        let implied = match allowed.is_empty() && allowed_names.is_empty() {
            true => Verdict::Allow,
            false => Verdict::Deny,
        };
        Self {
            default: default.unwrap_or(implied),
            logs,
            denied,
            denied_names,
            allowed,
            learned: Learned::new(!allowed_names.is_empty()),
            allowed_names,
        }
    }

    /// Whether the guest may begin to talk to that address and port, which does not matter for what has none.
    #[must_use]
    pub fn verdict(&self, protocol: Protocol, address: IpAddr, port: u16, now: Instant) -> Verdict {
        let forms = Forms::of(address);
        let about = |(network, ports): &&(Network, Ports)| {
            ports.has(protocol, port) && forms.judged().any(|form| network.contains(form))
        };
        if self.denied.iter().any(|rule| about(&rule)) {
            return Verdict::Deny;
        }
        if forms.is_special() {
            return match forms.is_asked_for(self.allowed.iter().filter(about)) {
                true => Verdict::Allow,
                false => Verdict::Deny,
            };
        }
        let allowed = (self.allowed.iter()).any(|(network, ports)| {
            ports.has(protocol, port) && forms.meant().any(|form| network.contains(form))
        });
        match allowed || self.is_learned(&forms, protocol, port, now) {
            true => Verdict::Allow,
            false => self.default,
        }
    }

    fn is_learned(&self, forms: &Forms, protocol: Protocol, port: u16, now: Instant) -> bool {
        let names = (0..).zip(&self.allowed_names);
        names
            .filter(|(_, (_, ports))| ports.has(protocol, port))
            .any(|(rule, _)| (forms.meant()).any(|form| self.learned.holds(rule, form, now)))
    }

    /// Whether the guest may ask for this name, in the form of [`Query::name`](super::dns::Query::name). If not, there is no such name for
    /// it.
    #[must_use]
    pub fn may_resolve(&self, name: &str) -> bool {
        if self.denies_name(name) {
            return false;
        }
        let mut allowed = self.allowed_names.iter();
        self.default == Verdict::Allow || allowed.any(|(pattern, _)| pattern.matches(name))
    }

    /// Whether a rule denies this name. It must be asked of every name of an answer: one that is allowed may be an alias of one that is
    /// denied.
    #[must_use]
    pub fn denies_name(&self, name: &str) -> bool {
        self.denied_names.iter().any(|denied| denied.matches(name))
    }

    /// Takes note of the addresses that were the answer for `name`, which the guest asked for: what it is an alias of does not matter.
    pub fn learn(
        &mut self,
        name: &str,
        addresses: impl Iterator<Item = IpAddr>,
        ttl: Duration,
        now: Instant,
    ) {
        let names = (0..).zip(&self.allowed_names);
        let rules: Vec<u32> = names
            .filter(|(_, (pattern, _))| pattern.matches(name))
            .map(|(rule, _)| rule)
            .collect();
        if rules.is_empty() || self.denies_name(name) {
            return;
        }
        let until = now + ttl.clamp(MIN_LEARNED, MAX_LEARNED);
        for address in addresses {
            let forms = Forms::of(address);
            if !forms.is_special() {
                for rule in &rules {
                    self.learned.insert(*rule, forms.address, until);
                }
            }
        }
    }

    /// Whether an answer holds nothing but addresses that are denied whatever the port: then the name is to be answered for as if it
    /// did not exist, so that no name of the Internet's stands for this host or its link. Of no addresses that is not so.
    #[must_use]
    pub fn only_denied(&self, addresses: &[(IpAddr, u32)]) -> bool {
        !addresses.is_empty() && addresses.iter().all(|(address, _)| self.denies(*address))
    }

    fn denies(&self, address: IpAddr) -> bool {
        let forms = Forms::of(address);
        let within = |network: &Network| forms.judged().any(|form| network.contains(form));
        let mut denied = self.denied.iter();
        denied.any(|(network, ports)| ports.is_all() && within(network))
            || forms.is_special() && !forms.is_asked_for(self.allowed.iter())
    }

    /// Whether what is denied is to be shown.
    #[must_use]
    pub fn logs(&self) -> bool {
        self.logs
    }
}

/// An address, and the one that lies within it.
#[derive(Debug)]
struct Forms {
    address: IpAddr,
    inner: Option<special::Inner>,
}

impl Forms {
    fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let inner = match address {
            IpAddr::V6(address) => special::inner(address),
            IpAddr::V4(_) => None,
        };
        Self { address, inner }
    }

    /// What must not be denied.
    fn judged(&self) -> impl Iterator<Item = IpAddr> {
        let inner = self.inner.map(|inner| inner.address.into());
        [self.address].into_iter().chain(inner)
    }

    /// What may be allowed.
    fn meant(&self) -> impl Iterator<Item = IpAddr> {
        let inner = self.inner.filter(|inner| inner.is_meant);
        let inner = inner.map(|inner| inner.address.into());
        [self.address].into_iter().chain(inner)
    }

    fn is_special(&self) -> bool {
        self.judged().any(|form| special::range(form).is_some())
    }

    /// Whether one of these rules is for nothing but the special range in which the address lies.
    fn is_asked_for<'a>(&self, rules: impl Iterator<Item = &'a (Network, Ports)>) -> bool {
        let special: Vec<_> = (self.meant())
            .filter_map(|form| Some((form, special::range(form)?)))
            .collect();
        let mut rules = rules;
        rules.any(|(network, _)| {
            special
                .iter()
                .any(|(form, range)| network.contains(*form) && network.is_within(range))
        })
    }
}

#[cfg(test)]
mod tests;
