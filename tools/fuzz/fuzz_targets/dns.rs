//! Any bytes as a guest's question and a resolver's answer: never a panic, a refusal answers its question, and no answer leads a guest to
//! where it must not get.
#![no_main]

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use libfuzzer_sys::fuzz_target;
use vmm::usernet::{
    dns::{Answer, CLASS_IN, MAX_UDP, MIN_UDP, Query, Rcode, TYPE_A, refuse, truncated, udp_limit},
    policy::{Policy, Protocol, Verdict},
};

/// The name that is asked for, and sixteen aliases.
const MAX_NAMES: usize = 17;

fuzz_target!(|bytes: &[u8]| {
    let Some((&split, bytes)) = bytes.split_first() else {
        return;
    };
    let (question, answer) = bytes.split_at(bytes.len().min(usize::from(split)));
    assert!((MIN_UDP..=MAX_UDP).contains(&udp_limit(question)));
    let refused = refuse(question, Rcode::NxDomain);
    let cut = truncated(question);
    assert!(refused.len() <= MIN_UDP && cut.len() == refused.len());
    let query = Query::parse(question).unwrap_or_else(|| Query {
        id: u16::from_be_bytes([bytes.first().copied().unwrap_or(0), 0]),
        flags: 0,
        name: "a".into(),
        qtype: TYPE_A,
        qclass: CLASS_IN,
    });
    if Query::parse(question).is_some() {
        let refused = Answer::parse(&refused, &query).expect("an answer");
        assert!(refused.rcode == 3 && refused.addresses.is_empty());
        assert!(Answer::parse(&cut, &query).expect("an answer").truncated);
    }
    let Some(answer) = Answer::parse(answer, &query) else {
        return;
    };
    assert!(answer.names.len() <= MAX_NAMES && answer.names[0] == query.name);
    let rule = "allow=*.example.org".parse().expect("a rule");
    let mut policy = Policy::new(&[rule]);
    let now = Instant::now();
    for (address, seconds) in &answer.addresses {
        let ttl = Duration::from_secs(u64::from(*seconds));
        policy.learn(&query.name, [*address].into_iter(), ttl, now);
    }
    for (address, _) in &answer.addresses {
        if policy.verdict(Protocol::Tcp, *address, 443, now) == Verdict::Allow {
            assert!(query.name.ends_with(".example.org") && policy.may_resolve(&query.name));
            let harmless = match address.to_canonical() {
                IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
                IpAddr::V6(address) => !address.is_loopback() && !address.is_multicast(),
            };
            assert!(harmless);
        }
    }
});
