use super::*;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

fn policy(rules: &[&str]) -> Policy {
    let rule = |text: &&str| {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    };
    Policy::new(&rules.iter().map(rule).collect::<Vec<EgressRule>>())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Whether TCP gets to an address and port.
fn reaches(policy: &Policy, address: &str, port: u16) -> bool {
    let verdict = policy.verdict(Protocol::Tcp, ip(address), port, Instant::now());
    verdict == Verdict::Allow
}

const ANYWHERE: [&str; 4] = ["93.184.216.34", "10.0.0.1", "2606:2800::1", "fd00::1"];

/// Addresses that are denied unless asked for, and in what range they lie.
const SPECIAL: &[(&str, &str)] = &[
    ("127.0.0.1", "127.0.0.0/8"),
    ("127.255.255.254", "127.0.0.0/8"),
    ("0.0.0.0", "0.0.0.0/8"),
    ("0.1.2.3", "0.0.0.0/8"),
    ("169.254.169.254", "169.254.0.0/16"),
    ("169.254.1.1", "169.254.0.0/16"),
    ("224.0.0.251", "224.0.0.0/4"),
    ("239.255.255.250", "224.0.0.0/4"),
    ("255.255.255.255", "240.0.0.0/4"),
    ("240.0.0.1", "240.0.0.0/4"),
    ("100.100.100.200", "100.100.100.200"),
    ("168.63.129.16", "168.63.129.16"),
    ("192.0.0.192", "192.0.0.192"),
    ("::", "::"),
    ("::1", "::1"),
    ("fe80::1", "fe80::/10"),
    ("febf::1", "fe80::/10"),
    ("ff02::1", "ff00::/8"),
    ("fd00:ec2::254", "fd00:ec2::254"),
    ("fd20:ce::254", "fd20:ce::254"),
];

/// Every way to write an IPv4 address as one of IPv6 by which it is reached.
fn disguises(address: Ipv4Addr) -> [Ipv6Addr; 5] {
    let bits = u128::from(address.to_bits());
    [
        address.to_ipv6_mapped(),
        Ipv6Addr::from_bits(bits),
        Ipv6Addr::from_bits(0xffff << 48 | bits),
        Ipv6Addr::from_bits(0x64_ff9b << 96 | bits),
        Ipv6Addr::from_bits(0x2002 << 112 | bits << 80 | 0x1234),
    ]
}

#[test]
fn without_rules_a_guest_reaches_anything_but_the_host_and_its_link() {
    let policy = policy(&[]);
    for address in ANYWHERE {
        assert!(reaches(&policy, address, 443), "{address}");
    }
    for (address, _) in SPECIAL {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
            let verdict = policy.verdict(protocol, ip(address), 443, Instant::now());
            assert_eq!(verdict, Verdict::Deny, "{address} by {protocol:?}");
        }
    }
    assert!(!policy.logs());
}

#[test]
fn denied_by_default_a_guest_reaches_nothing() {
    let policy = policy(&["deny", "log"]);
    for address in ANYWHERE {
        assert!(!reaches(&policy, address, 443), "{address}");
    }
    assert!(policy.logs());
}

#[test]
fn who_allows_something_allows_nothing_else() {
    let some = policy(&["allow=10.0.0.0/8"]);
    assert!(reaches(&some, "10.0.0.1", 443));
    assert!(!reaches(&some, "93.184.216.34", 443));
    let all = policy(&["allow", "allow=127.0.0.1:8080"]);
    assert!(reaches(&all, "127.0.0.1", 8080));
    assert!(reaches(&all, "93.184.216.34", 443));
    let name = policy(&["allow=example.org"]);
    assert!(!reaches(&name, "93.184.216.34", 443));
    let denial = policy(&["deny=10.0.0.0/8"]);
    assert!(reaches(&denial, "93.184.216.34", 443));
    assert!(!reaches(&denial, "10.0.0.1", 443));
}

#[test]
fn of_two_defaults_the_last_one_holds() {
    assert!(reaches(&policy(&["deny", "allow"]), "10.0.0.1", 1));
    assert!(!reaches(&policy(&["allow", "deny"]), "10.0.0.1", 1));
}

#[test]
fn denial_goes_before_permission_in_any_order() {
    for rules in [
        ["allow=10.0.0.0/8", "deny=10.1.0.0/16"],
        ["deny=10.1.0.0/16", "allow=10.0.0.0/8"],
        ["allow=10.1.2.3", "deny=10.1.0.0/16"],
        ["allow", "deny=10.1.0.0/16"],
    ] {
        assert!(!reaches(&policy(&rules), "10.1.2.3", 443), "{rules:?}");
    }
    let host = policy(&["allow=127.0.0.0/8", "deny=127.0.0.1:22"]);
    assert!(reaches(&host, "127.0.0.1", 80));
    assert!(!reaches(&host, "127.0.0.1", 22));
}

#[test]
fn a_rule_with_ports_or_a_protocol_is_about_these_only() {
    let now = Instant::now();
    let at = ip("10.0.0.1");
    let allowed = |rule: &str, protocol, port| {
        policy(&[rule]).verdict(protocol, at, port, now) == Verdict::Allow
    };
    for (rule, tcp_80, tcp_81, udp_80, icmp) in [
        ("allow=10.0.0.1", true, true, true, true),
        ("allow=10.0.0.1:80", true, false, true, false),
        ("allow=10.0.0.1:70-80", true, false, true, false),
        ("allow=10.0.0.1/tcp", true, true, false, false),
        ("allow=10.0.0.1/udp", false, false, true, false),
        ("allow=10.0.0.1:80/tcp", true, false, false, false),
        ("deny=10.0.0.1", false, false, false, false),
        ("deny=10.0.0.1:80", false, true, false, true),
        ("deny=10.0.0.1/tcp", false, false, true, true),
        ("deny=10.0.0.1:80/udp", true, true, false, true),
    ] {
        assert_eq!(allowed(rule, Protocol::Tcp, 80), tcp_80, "{rule}");
        assert_eq!(allowed(rule, Protocol::Tcp, 81), tcp_81, "{rule}");
        assert_eq!(allowed(rule, Protocol::Udp, 80), udp_80, "{rule}");
        assert_eq!(allowed(rule, Protocol::Icmp, 0), icmp, "{rule}");
    }
}

#[test]
fn the_host_and_its_link_are_reached_by_nothing_but_a_rule_for_them() {
    let wide = policy(&["allow", "allow=0.0.0.0/0", "allow=::/0", "allow=fc00::/7"]);
    let wider_than_one = policy(&["allow=126.0.0.0/7", "allow=100.64.0.0/10", "allow=::/127"]);
    for (address, range) in SPECIAL {
        assert!(!reaches(&wide, address, 443), "{address}");
        assert!(!reaches(&wider_than_one, address, 443), "{address}");
        for rule in [address, range] {
            let asked = policy(&[&format!("allow={rule}")]);
            assert!(reaches(&asked, address, 443), "{address} by {rule}");
            let rule = match address.contains(':') {
                true => format!("allow=[{rule}]:80"),
                false => format!("allow={rule}:80"),
            };
            let port = policy(&[&rule]);
            assert!(reaches(&port, address, 80), "{address} by {rule}");
            assert!(!reaches(&port, address, 443), "{address} by {rule}");
        }
    }
    let link = policy(&["allow=169.254.1.0/24"]);
    assert!(reaches(&link, "169.254.1.1", 80));
    assert!(!reaches(&link, "169.254.169.254", 80));
}

#[test]
fn a_special_address_is_no_other_when_it_is_written_as_ipv6() {
    let open = policy(&[
        "allow",
        "allow=::/0",
        "allow=2002::/16",
        "allow=64:ff9b::/96",
    ]);
    for (address, _) in SPECIAL {
        let IpAddr::V4(address) = ip(address) else {
            continue;
        };
        let asked = policy(&[&format!("allow={address}")]);
        for disguise in disguises(address) {
            let text = disguise.to_string();
            assert!(!reaches(&open, &text, 80), "{address} as {text}");
            // `::` and `::1` are themselves.
            if disguise.to_bits() > 1 {
                assert!(reaches(&asked, &text, 80), "{address} as {text}");
            }
        }
    }
}

#[test]
fn a_network_is_denied_in_every_disguise_and_allowed_in_those_that_lead_there() {
    let denial = policy(&["deny=10.0.0.0/8"]);
    let permission = policy(&["allow=10.0.0.0/8"]);
    for disguise in disguises(Ipv4Addr::new(10, 1, 2, 3)) {
        let text = disguise.to_string();
        assert!(!reaches(&denial, &text, 80), "{text}");
        assert!(reaches(&permission, &text, 80), "{text}");
    }
    // A translator or a relay may take it for 10.1.2.3, or for another.
    for text in ["64:ff9b:1::10.1.2.3", "2001:0:1:2:3:4:f5fe:fdfc"] {
        assert!(!reaches(&denial, text, 80), "{text}");
        assert!(!reaches(&permission, text, 80), "{text}");
    }
    let outer = policy(&["allow=2002::/16", "deny=64:ff9b::/96"]);
    assert!(reaches(&outer, "2002:808:808::1", 80));
    assert!(!reaches(&outer, "64:ff9b::8.8.8.8", 80));
}

#[test]
fn a_name_allows_what_it_stood_for_when_the_guest_asked() {
    let mut policy = policy(&["allow=*.example.org:443/tcp", "allow=example.net"]);
    let now = Instant::now();
    let ttl = Duration::from_secs(300);
    policy.learn(
        "www.Example.org",
        [ip("93.184.216.34")].into_iter(),
        ttl,
        now,
    );
    policy.learn(
        "example.net",
        [ip("2606:2800::1"), ip("1.1.1.1")].into_iter(),
        ttl,
        now,
    );
    policy.learn("evil.example", [ip("6.6.6.6")].into_iter(), ttl, now);
    let is_allowed = |protocol, address, port| {
        policy.verdict(protocol, ip(address), port, now) == Verdict::Allow
    };
    assert!(is_allowed(Protocol::Tcp, "93.184.216.34", 443));
    assert!(is_allowed(Protocol::Tcp, "::ffff:93.184.216.34", 443));
    assert!(!is_allowed(Protocol::Tcp, "93.184.216.34", 80));
    assert!(!is_allowed(Protocol::Udp, "93.184.216.34", 443));
    assert!(!is_allowed(Protocol::Icmp, "93.184.216.34", 0));
    assert!(is_allowed(Protocol::Udp, "2606:2800::1", 53));
    assert!(is_allowed(Protocol::Icmp, "1.1.1.1", 0));
    assert!(!is_allowed(Protocol::Tcp, "6.6.6.6", 443));
}

#[test]
fn what_was_learned_holds_for_a_minute_at_least_and_an_hour_at_most() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    for (ttl, holds) in [
        (0, 60),
        (59, 60),
        (300, 300),
        (3600, 3600),
        (u64::MAX, 3600),
    ] {
        let mut policy = policy(&["allow=example.org"]);
        let ttl = Duration::from_secs(ttl);
        policy.learn("example.org", [ip("1.1.1.1")].into_iter(), ttl, start);
        let verdict = |seconds| policy.verdict(Protocol::Tcp, ip("1.1.1.1"), 1, at(seconds));
        assert_eq!(verdict(holds - 1), Verdict::Allow, "{ttl:?}");
        assert_eq!(verdict(holds), Verdict::Deny, "{ttl:?}");
    }
}

#[test]
fn an_answer_that_holds_shorter_takes_nothing_back() {
    let mut policy = policy(&["allow=example.org"]);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    for (ttl, when) in [(600, 0), (0, 10)] {
        let ttl = Duration::from_secs(ttl);
        policy.learn("example.org", [ip("1.1.1.1")].into_iter(), ttl, at(when));
    }
    let verdict = |policy: &Policy, when| policy.verdict(Protocol::Tcp, ip("1.1.1.1"), 1, at(when));
    assert_eq!(verdict(&policy, 599), Verdict::Allow);
    policy.learn(
        "example.org",
        [ip("1.1.1.1")].into_iter(),
        Duration::ZERO,
        at(599),
    );
    assert_eq!(verdict(&policy, 658), Verdict::Allow);
    assert_eq!(verdict(&policy, 659), Verdict::Deny);
}

#[test]
fn a_name_never_stands_for_the_host_its_link_or_what_is_denied() {
    let mut policy = policy(&["allow=example.org", "deny=10.0.0.0/8"]);
    let now = Instant::now();
    let special = SPECIAL.iter().map(|(address, _)| ip(address));
    let disguised = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip("169.254.169.254"),
        ip("10.0.0.1"),
    ];
    let disguised = disguised.into_iter().flat_map(|address| match address {
        IpAddr::V4(address) => disguises(address).map(IpAddr::V6),
        IpAddr::V6(_) => unreachable!(),
    });
    let all: Vec<IpAddr> = special.chain(disguised).chain([ip("10.0.0.1")]).collect();
    policy.learn(
        "example.org",
        all.iter().copied(),
        Duration::from_secs(60),
        now,
    );
    for address in all {
        let verdict = policy.verdict(Protocol::Tcp, address, 80, now);
        assert_eq!(verdict, Verdict::Deny, "{address}");
    }
}

#[test]
fn what_was_learned_longest_ago_goes_first() {
    let mut policy = policy(&["allow=*.example.org"]);
    let now = Instant::now();
    let address = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
    let most = u32::try_from(learned::MAX).unwrap();
    let ttl = Duration::from_secs(300);
    policy.learn("a.example.org", (0..most).map(address), ttl, now);
    // Known before, and as young as any from now on.
    policy.learn("b.example.org", [address(0)].into_iter(), ttl, now);
    policy.learn("c.example.org", [address(most)].into_iter(), ttl, now);
    let verdict = |number| policy.verdict(Protocol::Tcp, address(number), 80, now);
    assert_eq!(policy.learned.len(), learned::MAX);
    assert_eq!(verdict(0), Verdict::Allow);
    assert_eq!(verdict(1), Verdict::Deny);
    assert_eq!(verdict(2), Verdict::Allow);
    assert_eq!(verdict(most), Verdict::Allow);
}

#[test]
fn a_guest_resolves_what_it_may_reach_by_name() {
    let open = policy(&["deny=*.evil.example", "deny=worse.example"]);
    for (name, may) in [
        ("example.org", true),
        ("", true),
        ("evil.example", true),
        ("a.evil.example", false),
        ("a.b.EVIL.example.", false),
        ("worse.example", false),
        ("better.worse.example", true),
    ] {
        assert_eq!(open.may_resolve(name), may, "{name}");
    }
    let closed = policy(&[
        "allow=*.example.org",
        "allow=10.0.0.0/8",
        "deny=bad.example.org",
    ]);
    for (name, may) in [
        ("www.example.org", true),
        ("WWW.EXAMPLE.ORG.", true),
        ("example.org", false),
        ("bad.example.org", false),
        ("other.example", false),
        (r"www\046example.org", false),
        ("", false),
    ] {
        assert_eq!(closed.may_resolve(name), may, "{name}");
    }
    assert!(!policy(&["deny"]).may_resolve("example.org"));
    assert!(policy(&["allow", "allow=example.org"]).may_resolve("example.net"));
}

#[test]
fn a_denied_name_is_known_by_whatever_alias() {
    let mut policy = policy(&["allow=*.example.org", "deny=bad.example.org"]);
    assert!(policy.denies_name("bad.example.org"));
    assert!(!policy.denies_name("elsewhere.example"));
    let now = Instant::now();
    policy.learn(
        "bad.example.org",
        [ip("1.1.1.1")].into_iter(),
        Duration::ZERO,
        now,
    );
    assert!(!reaches(&policy, "1.1.1.1", 443));
}

#[test]
fn an_answer_of_denied_addresses_only_is_none() {
    let policy = policy(&[
        "allow",
        "deny=10.0.0.0/8",
        "deny=11.0.0.0/8:80",
        "allow=127.0.0.1:8080",
    ]);
    let answer = |addresses: &[&str]| {
        let addresses: Vec<_> = addresses.iter().map(|address| (ip(address), 60)).collect();
        policy.only_denied(&addresses)
    };
    assert!(!answer(&[]));
    assert!(answer(&["0.0.0.0"]));
    assert!(answer(&["::ffff:169.254.169.254", "fe80::1", "10.0.0.1"]));
    assert!(!answer(&["169.254.169.254", "93.184.216.34"]));
    // Some port of these is reached.
    assert!(!answer(&["11.0.0.1"]));
    assert!(!answer(&["127.0.0.1"]));
    assert!(answer(&["127.0.0.2"]));
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    let special = (0..special::RANGES.len(), any::<u128>()).prop_map(|(range, bits)| {
        let range = special::RANGES[range].to_string();
        let (address, prefix) = range.split_once('/').unwrap_or((&range, "128"));
        let prefix: u32 = prefix.parse().unwrap();
        match ip(address) {
            IpAddr::V4(address) => {
                let low = u32::MAX.checked_shr(prefix).unwrap_or(0);
                let bits = u32::try_from(bits & 0xffff_ffff).unwrap() & low;
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() | bits))
            }
            IpAddr::V6(address) => {
                let low = u128::MAX.checked_shr(prefix).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() | bits & low))
            }
        }
    });
    let disguised = (any::<Ipv4Addr>(), 0usize..5)
        .prop_map(|(address, which)| IpAddr::V6(disguises(address)[which]));
    prop_oneof![any::<IpAddr>(), special, disguised]
}

proptest! {
    #[test]
    fn however_wide_the_permission_the_host_and_its_link_stay_out_of_reach(
        address in any_address(),
        port: u16,
    ) {
        let policy = policy(&["allow", "allow=0.0.0.0/0", "allow=::/0", "allow=*.example.org"]);
        let now = Instant::now();
        let denied = policy.verdict(Protocol::Udp, address, port, now) == Verdict::Deny;
        let canonical = address.to_canonical();
        let is_special = special::RANGES.iter().any(|range| range.contains(canonical));
        prop_assert!(denied || !is_special);
        prop_assert_eq!(denied, policy.only_denied(&[(address, 0)]));
        if let IpAddr::V4(address) = canonical {
            for disguise in disguises(address) {
                let verdict = policy.verdict(Protocol::Udp, disguise.into(), port, now);
                prop_assert!(!is_special || verdict == Verdict::Deny);
            }
        }
    }

    #[test]
    fn what_is_learned_is_bounded_and_changes_nothing_but_what_was_learned(
        answers in proptest::collection::vec((any_address(), any::<u32>()), 0..50),
        other in any_address(),
    ) {
        let mut policy = policy(&["allow=*.example.org"]);
        let now = Instant::now();
        for (address, ttl) in &answers {
            let ttl = Duration::from_secs(u64::from(*ttl));
            policy.learn("a.example.org", [*address].into_iter(), ttl, now);
        }
        prop_assert!(policy.learned.len() <= answers.len());
        let forms: Vec<_> = Forms::of(other).meant().collect();
        let known = answers.iter().any(|(address, _)| forms.contains(&address.to_canonical()));
        let allowed = policy.verdict(Protocol::Tcp, other, 1, now) == Verdict::Allow;
        prop_assert!(known || !allowed);
    }
}
