//! `--publish`: ports of the host's that lead to the guest.
use std::net::IpAddr;

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

impl PortRange {
    /// Whether it has `port`.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
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

impl Publish {
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
        let first = self.host.map_or(0, |host| host.first);
        (first..).zip(self.guest.first..=self.guest.last)
    }
}
