use super::*;
use proptest::prelude::*;

fn target(text: &str) -> Target {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    text.parse::<EgressRule>().expect_err(text).to_string()
}

fn network(text: &str) -> Network {
    match target(text).destination {
        Destination::Network(network) => network,
        Destination::Name(name) => panic!("{name} is a name"),
    }
}

fn name(text: &str) -> NamePattern {
    match target(text).destination {
        Destination::Name(name) => name,
        Destination::Network(network) => panic!("{network} is a network"),
    }
}

#[test]
fn a_bare_word_is_a_default_or_asks_for_a_log() {
    for (text, rule) in [
        ("allow", EgressRule::Default(Verdict::Allow)),
        ("deny", EgressRule::Default(Verdict::Deny)),
        ("log", EgressRule::Log),
    ] {
        assert_eq!(text.parse(), Ok(rule.clone()));
        assert_eq!(rule.to_string(), text);
    }
}

#[test]
fn the_slash_of_a_network_is_not_that_of_a_protocol() {
    for (text, ports, protocol) in [
        ("10.0.0.0/8", None, None),
        ("10.0.0.0/8/tcp", None, Some(PortProtocol::Tcp)),
        ("10.0.0.0/8:443", Some((443, 443)), None),
        (
            "10.0.0.0/8:443/tcp",
            Some((443, 443)),
            Some(PortProtocol::Tcp),
        ),
        (
            "10.0.0.0/8:8000-8010/udp",
            Some((8000, 8010)),
            Some(PortProtocol::Udp),
        ),
    ] {
        let found = target(text);
        assert_eq!(found.destination.to_string(), "10.0.0.0/8", "{text}");
        let ports = ports.map(|(first, last)| PortRange::new(first, last).unwrap());
        assert_eq!((found.ports, found.protocol), (ports, protocol), "{text}");
        assert_eq!(found.to_string(), text);
    }
}

#[test]
fn ipv6_is_in_brackets_when_a_port_follows() {
    for (text, written) in [
        ("2001:db8::/32", "2001:db8::/32"),
        ("[2001:db8::/32]", "2001:db8::/32"),
        ("2001:db8::/32/udp", "2001:db8::/32/udp"),
        ("[2001:db8::/32]/udp", "2001:db8::/32/udp"),
        ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
        ("[2001:DB8:0::1]:443/tcp", "[2001:db8::1]:443/tcp"),
        // Eight parts at most, so that this is an address and no port.
        ("::1:443", "::1:443"),
        ("[::/0]:1-65535", "[::/0]:1-65535"),
    ] {
        assert_eq!(target(text).to_string(), written);
    }
    let hint = "in brackets, such as [2001:db8::/32]:443";
    for text in ["1:2:3:4:5:6:7:8:443", "2001:db8::/32:443x:", "fe80::1%eth0"] {
        let found = refused(&format!("allow={text}"));
        assert!(
            found.contains(hint) || found.contains("expected a whole"),
            "{found}"
        );
    }
}

#[test]
fn a_network_holds_what_begins_as_it_does() {
    let private = network("10.0.0.0/8");
    assert!(private.contains("10.255.255.255".parse().unwrap()));
    assert!(!private.contains("11.0.0.0".parse().unwrap()));
    assert!(!private.contains("::ffff:10.0.0.1".parse().unwrap()));
    assert!(network("0.0.0.0/0").contains("255.255.255.255".parse().unwrap()));
    assert!(!network("0.0.0.0/0").contains("::".parse().unwrap()));
    assert!(network("::/0").contains("ff02::1".parse().unwrap()));
    let odd = network("2001:db8:8000::/33");
    assert!(odd.contains("2001:db8:ffff::".parse().unwrap()));
    assert!(!odd.contains("2001:db8:7fff::".parse().unwrap()));
}

#[test]
fn a_network_is_within_those_that_hold_all_of_it() {
    let private = network("10.0.0.0/8");
    for (text, within) in [
        ("10.0.0.0/8", true),
        ("10.1.0.0/16", true),
        ("10.1.2.3", true),
        ("0.0.0.0/0", false),
        ("10.0.0.0/7", false),
        ("11.0.0.0/16", false),
        ("::/0", false),
    ] {
        assert_eq!(network(text).is_within(&private), within, "{text}");
    }
}

#[test]
fn an_address_with_bits_behind_its_prefix_gets_its_network_as_a_hint() {
    assert_eq!(
        refused("allow=10.1.2.3/8:443"),
        "10.1.2.3/8 has bits behind its first 8 (hint: the network is 10.0.0.0/8, the address alone 10.1.2.3)"
    );
    assert!(refused("deny=2001:db8::1/32").contains("the network is 2001:db8::/32"));
    assert!(refused("deny=1.0.0.0/0").contains("the network is 0.0.0.0/0"));
}

#[test]
fn a_prefix_has_no_more_bits_than_an_address() {
    assert_eq!(
        refused("allow=10.0.0.0/33"),
        "found `/33` behind 10.0.0.0, expected a whole number from 0 to 32"
    );
    for text in [
        "::/129",
        "[::/129]:1",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0.0/999",
        "10.0.0.0/8/8",
        "10.0.0.0/255.0.0.0",
        "10.0.0.1/sctp",
    ] {
        let found = refused(&format!("allow={text}"));
        assert!(
            found.contains("expected a whole number from 0 to"),
            "{found}"
        );
    }
}

#[test]
fn ipv4_in_the_clothes_of_ipv6_is_to_be_written_as_ipv4() {
    assert_eq!(
        refused("allow=[::ffff:10.0.0.0/104]:443"),
        "::ffff:10.0.0.0/104 are IPv4 addresses, which rules for IPv4 judge however they are written (hint: 10.0.0.0/8)"
    );
    assert!(refused("deny=::ffff:127.0.0.1").ends_with("(hint: 127.0.0.1)"));
    assert!(refused("deny=::ffff:0:0/96").ends_with("(hint: 0.0.0.0/0)"));
}

#[test]
fn a_name_is_itself_in_either_case_and_with_a_dot_at_its_end() {
    let itself = name("Example.org");
    for (text, matches) in [
        ("example.org", true),
        ("EXAMPLE.ORG.", true),
        ("www.example.org", false),
        ("badexample.org", false),
        ("example.org.evil.net", false),
        ("example.org..", false),
        ("org", false),
        ("", false),
        (".", false),
    ] {
        assert_eq!(itself.matches(text), matches, "{text}");
    }
    assert_eq!(name("example.org."), itself);
    assert_eq!(itself.to_string(), "example.org");
}

#[test]
fn a_star_is_any_name_below_but_not_the_name_itself() {
    let below = name("*.Example.org");
    for (text, matches) in [
        ("www.example.org", true),
        ("a.B.eXample.org.", true),
        ("example.org", false),
        (".example.org", false),
        ("badexample.org", false),
        // One part, below `org`: its dot is none between two.
        (r"www\046example.org", false),
        ("www.example.org.evil.net", false),
        ("", false),
        ("é.example.org", true),
        ("éxample.org", false),
    ] {
        assert_eq!(below.matches(text), matches, "{text}");
    }
    assert_eq!(below.to_string(), "*.example.org");
}

#[test]
fn a_name_may_have_ports_where_it_is_allowed() {
    let git = target("*.example.org:22/tcp");
    assert_eq!(git.ports, Some(PortRange::new(22, 22).unwrap()));
    assert_eq!(git.to_string(), "*.example.org:22/tcp");
    assert_eq!(target("registry:5000").to_string(), "registry:5000");
    assert_eq!(target("example.org/udp").protocol, Some(PortProtocol::Udp));
}

#[test]
fn a_denied_name_is_denied_on_every_port() {
    assert!("deny=example.org".parse::<EgressRule>().is_ok());
    for text in ["deny=example.org:80", "deny=example.org/udp"] {
        assert!(refused(text).contains("(hint: deny=example.org, or deny the addresses)"));
    }
}

#[test]
fn this_host_is_allowed_by_its_addresses_only() {
    for text in [
        "localhost",
        "LOCALHOST.:8080",
        "*.localhost",
        "db.localhost",
    ] {
        let found = refused(&format!("allow={text}"));
        assert!(found.contains("(hint: allow=127.0.0.1 and"), "{found}");
    }
    assert!("deny=localhost".parse::<EgressRule>().is_ok());
}

#[test]
fn what_is_no_rule_is_refused_for_its_own_reason() {
    let long = format!("allow={}.org", "a".repeat(64));
    let longer = format!("allow={}org", "a.".repeat(126));
    for (text, reason) in [
        ("", "found ``, expected `allow`, `deny`, `log`,"),
        ("Allow", "found `Allow`, expected `allow`"),
        ("log=10.0.0.1", "found `log=10.0.0.1`, expected `allow`"),
        ("10.0.0.0/8", "found `10.0.0.0/8`, expected `allow`"),
        ("allow=", "found ``, expected an address"),
        ("allow=/tcp", "found ``, expected an address"),
        ("allow=:443", "found ``, expected an address"),
        (
            "allow=example.org/24",
            "found `example.org/24`, expected an address",
        ),
        ("allow=10.0.0.1:0", "found `0`, expected a port"),
        ("allow=10.0.0.1:", "found ``, expected a port"),
        (
            "allow=10.0.0.1:443/sctp",
            "found `443/sctp`, expected a port",
        ),
        (
            "allow=10.0.0.1:443-80",
            "the range of ports 443-80 runs backwards",
        ),
        (
            "allow=https://example.org",
            "found `//example.org`, expected a port",
        ),
        ("allow=*", "found `*`, expected a name or a network (hint:"),
        (
            "allow=*:443",
            "found `*`, expected a name or a network (hint:",
        ),
        ("allow=www.*.org", "found `www.*.org`, expected a name"),
        (
            "allow=*example.org",
            "found `*example.org`, expected a name",
        ),
        ("allow=a..b", "found `a..b`, expected a name"),
        ("allow=10.0.0", "found `10.0.0`, expected a name"),
        ("allow=10.0.0.256", "found `10.0.0.256`, expected a name"),
        (
            "allow=example.org 443",
            "found `example.org 443`, expected a name",
        ),
        (
            "allow=bücher.example",
            "found `bücher.example`, expected a name in ASCII (hint: write it in punycode",
        ),
        ("allow=[::1", "found `[::1`, expected an IPv6"),
        ("allow=[::1]443", "found `[::1]443`, expected an IPv6"),
        ("allow=[10.0.0.1]:443", "found `10.0.0.1`, expected an IPv6"),
        (&long, "found `aaaa"),
        (&longer, "found `a.a."),
    ] {
        let found = refused(text);
        assert!(found.starts_with(reason), "{text}: {found}");
    }
}

#[test]
fn in_json_it_is_a_string() {
    let rules: Vec<EgressRule> =
        serde_json::from_str(r#"["deny", "log", "allow=Example.org:443"]"#).unwrap();
    let text = serde_json::to_string(&rules).unwrap();
    assert_eq!(text, r#"["deny","log","allow=example.org:443"]"#);
    let error = serde_json::from_str::<EgressRule>("true").unwrap_err();
    assert!(error.to_string().contains("expected a rule, as a string"));
    let error = serde_json::from_str::<EgressRule>(r#""allow=10.0.0.1/8""#).unwrap_err();
    assert!(error.to_string().contains("the network is 10.0.0.0/8"));
}

fn any_rule() -> impl Strategy<Value = EgressRule> {
    let networks = (any::<IpAddr>(), 0u8..=128).prop_filter_map("mapped", |(address, prefix)| {
        let prefix = prefix.min(bits(address));
        let network = Network::new(masked(address, prefix), prefix);
        network.ok().map(Destination::Network)
    });
    let label = "[a-z0-9_-]{0,20}[a-z]";
    let names = (proptest::collection::vec(label, 1..5), any::<bool>());
    let names = names.prop_map(|(labels, below)| {
        let name = labels.join(".");
        Destination::Name(NamePattern { name, below })
    });
    let ports = (1u16.., any::<u16>())
        .prop_map(|(first, more)| PortRange::new(first, first.saturating_add(more)).unwrap());
    let protocol = prop_oneof![Just(PortProtocol::Tcp), Just(PortProtocol::Udp)];
    let target = (
        prop_oneof![networks, names],
        proptest::option::of(ports),
        proptest::option::of(protocol),
    )
        .prop_map(|(destination, ports, protocol)| Target {
            destination,
            ports,
            protocol,
        });
    let verdict = prop_oneof![Just(Verdict::Allow), Just(Verdict::Deny)];
    prop_oneof![
        verdict.clone().prop_map(EgressRule::Default),
        Just(EgressRule::Log),
        (verdict, target).prop_map(|(verdict, mut target)| {
            if verdict == Verdict::Deny && matches!(target.destination, Destination::Name(_)) {
                (target.ports, target.protocol) = (None, None);
            }
            EgressRule::Target(verdict, target)
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(rule in any_rule()) {
        prop_assert_eq!(rule.to_string().parse(), Ok(rule));
    }

    #[test]
    fn no_text_panics(text in "\\PC*|(allow|deny)=[\\[\\]0-9a-f:./*-]{0,30}(/tcp|/udp)?") {
        match text.parse::<EgressRule>() {
            Ok(rule) => prop_assert_eq!(rule.to_string().parse(), Ok(rule)),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn a_network_holds_its_own_and_no_other(network: IpAddr, address: IpAddr, prefix in 0u8..=128) {
        let prefix = prefix.min(bits(network));
        let network = Network::known(masked(network, prefix), prefix);
        prop_assert!(network.contains(network.address));
        let within = Network::known(address, bits(address)).is_within(&network);
        prop_assert_eq!(network.contains(address), within);
    }
}
