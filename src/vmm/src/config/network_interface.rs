//! `network-interfaces`: network cards.
use super::fields::{object_or_null, optional_object, whole_or_null};
use super::rate_limiter::RateLimiter;
use super::user_network::UserNetwork;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Most of them.
pub const MAX_NETWORK_INTERFACES: usize = 32;
/// Most pairs of virtqueues of a card.
pub const MAX_QUEUE_PAIRS: u64 = 16;
/// Bytes of an interface's name that Linux takes (`IFNAMSIZ`, less the zero at the end).
pub const MAX_DEVICE_NAME: usize = 15;
/// The shortest packet that any link takes, as Firecracker has it (RFC 791).
pub const MIN_MTU: u64 = 68;
/// The longest that an IP packet can be.
pub const MAX_MTU: u64 = 65535;

/// A network card of the guest's, on a TAP interface of the host's or on a network of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetworkInterface {
    /// What it is called on the host: letters, digits and `_`.
    #[cfg_attr(
        feature = "schema",
        schemars(regex(pattern = r"^[A-Za-z0-9_]+$"), example = &"eth0")
    )]
    pub iface_id: String,
    /// The TAP interface. One that does not exist is made, with the privilege to do so, and is gone at the end. Without it: `user`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 1, max = MAX_DEVICE_NAME), regex(pattern = r"^[!-$&-.0-9;-~]*$"), example = &"tap0")
    )]
    pub host_dev_name: String,
    /// The address of the guest's card, which it cannot send from any other than. Without it: one that is made of the names and this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<String>", regex(pattern = r"^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$"), example = &"06:00:ac:10:00:02")
    )]
    pub guest_mac: Option<Mac>,
    /// The longest packet that the guest sends and takes. Without it: the TAP's.
    #[serde(
        default,
        deserialize_with = "whole_or_null::<_, _, MIN_MTU, MAX_MTU>",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(range(min = MIN_MTU, max = MAX_MTU)))]
    pub mtu: Option<u16>,
    /// How much the guest may receive in how much time.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "RateLimiter::is_unlimited"
    )]
    #[cfg_attr(
        feature = "schema",
        schemars(schema_with = "super::schema::section::<RateLimiter>")
    )]
    pub rx_rate_limiter: RateLimiter,
    /// How much it may send.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "RateLimiter::is_unlimited"
    )]
    #[cfg_attr(
        feature = "schema",
        schemars(schema_with = "super::schema::section::<RateLimiter>")
    )]
    pub tx_rate_limiter: RateLimiter,
    /// Pairs of virtqueues, each with a thread of its own. Without it: 1. More need a TAP with `multi_queue`.
    #[serde(
        default,
        deserialize_with = "whole_or_null::<_, _, 1, MAX_QUEUE_PAIRS>",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MAX_QUEUE_PAIRS), extend("x-ours" = true)))]
    pub queues: Option<u16>,
    /// Instead of a TAP: a network for which nobody needs a privilege, and nothing is set up.
    #[serde(
        default,
        deserialize_with = "optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(
        feature = "schema",
        schemars(schema_with = "super::schema::section::<UserNetwork>", extend("x-ours" = true))
    )]
    pub user: Option<UserNetwork>,
}

impl NetworkInterface {
    /// A card on the TAP `host_dev_name`, with everything else at its default.
    #[must_use]
    pub fn new(iface_id: impl Into<String>, host_dev_name: impl Into<String>) -> Self {
        Self {
            iface_id: iface_id.into(),
            host_dev_name: host_dev_name.into(),
            guest_mac: None,
            mtu: None,
            rx_rate_limiter: RateLimiter::default(),
            tx_rate_limiter: RateLimiter::default(),
            queues: None,
            user: None,
        }
    }

    /// A card on a network of its own, with everything else at its default.
    #[must_use]
    pub fn on_user_network(iface_id: impl Into<String>, user: UserNetwork) -> Self {
        Self {
            user: Some(user),
            ..Self::new(iface_id, "")
        }
    }
}

/// `PATCH /network-interfaces/{iface_id}`. Of its buckets too, one that is absent stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterfaceUpdate {
    /// Which card.
    pub iface_id: String,
    /// How much the guest may receive in how much time from now on.
    #[serde(
        default,
        deserialize_with = "optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// How much it may send from now on.
    #[serde(
        default,
        deserialize_with = "optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// The address of one network card: not of a group, and not all zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac([u8; 6]);

/// What is no address of a card.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found `{}`, expected the address of a network card, such as 06:00:ac:10:00:02 (the first number even, not all 0)", .0.escape_debug())]
pub struct NoMac(String);

impl Mac {
    /// Its bytes, in the order in which they are sent.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// One of those that nobody was given: locally administered, of the first bytes of `seed`.
    #[must_use]
    pub fn local(seed: [u8; 6]) -> Self {
        let [first, rest @ ..] = seed;
        let [a, b, c, d, e] = rest;
        Self([first & 0xfc | 2, a, b, c, d, e])
    }
}

impl FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Self, NoMac> {
        let wrong = || NoMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(wrong)?;
            let digits = part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
            let value = u8::from_str_radix(part, 16).ok().filter(|_| digits);
            *byte = value.ok_or_else(wrong)?;
        }
        let of_one = bytes[0] & 1 == 0 && bytes != [0; 6];
        match parts.next().is_none() && of_one {
            true => Ok(Self(bytes)),
            false => Err(wrong()),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Mac;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the address of a network card, such as \"06:00:ac:10:00:02\" (the first number even, not all 0)")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Mac, E> {
                let wrong = |_| E::invalid_value(serde::de::Unexpected::Str(text), &self);
                text.parse().map_err(wrong)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_six_numbers_of_one_card() {
        let mac: Mac = "06:00:aC:10:00:02".parse().unwrap();
        assert_eq!(mac.bytes(), [6, 0, 0xac, 0x10, 0, 2]);
        assert_eq!(mac.to_string(), "06:00:ac:10:00:02");
        for text in [
            "",
            "06:00:ac:10:00",
            "06:00:ac:10:00:02:03",
            "6:0:ac:10:0:2",
            "06-00-ac-10-00-02",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "06:00:ac:10:00:+2",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_made_address_is_local_and_of_one_card() {
        let mac = Mac::local([0xff; 6]);
        assert_eq!(mac.bytes(), [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(Mac::local([0; 6]).to_string(), "02:00:00:00:00:00");
    }
}
