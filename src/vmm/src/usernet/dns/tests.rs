use super::*;
use proptest::{collection::vec, prelude::*};

/// A name as it is sent.
fn wire(name: &str) -> Vec<u8> {
    let labels: Vec<&[u8]> = name
        .split('.')
        .filter(|l| !l.is_empty())
        .map(str::as_bytes)
        .collect();
    wire_of(&labels)
}

fn wire_of(labels: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in labels {
        let label = label.as_ref();
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    bytes
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().copied().flat_map(u16::to_be_bytes).collect()
}

/// A message with one question, whose name is at byte 12, and what follows it.
fn message(flags: u16, counts: [u16; 3], name: &[u8], qtype: u16, rest: &[u8]) -> Vec<u8> {
    let [answers, authorities, additional] = counts;
    let head = words(&[0x1234, flags, 1, answers, authorities, additional]);
    let tail = words(&[qtype, CLASS_IN]);
    [&head, name, &tail, rest].concat()
}

fn query(name: &str, qtype: u16) -> Vec<u8> {
    message(RD, [0; 3], &wire(name), qtype, &[])
}

fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    let head = words(&[kind, CLASS_IN]);
    [
        owner,
        &head,
        &ttl.to_be_bytes(),
        &length.to_be_bytes(),
        data,
    ]
    .concat()
}

/// The record by which a client says how long a reply it takes.
fn edns(size: u16) -> Vec<u8> {
    [&[0][..], &words(&[TYPE_OPT, size, 0, 0, 0])].concat()
}

fn with_edns(name: &str, size: u16) -> Vec<u8> {
    message(RD, [0, 0, 1], &wire(name), TYPE_A, &edns(size))
}

/// The question's name.
const NAME: [u8; 2] = [0xc0, 12];

fn a(owner: &[u8], ttl: u32, address: [u8; 4]) -> Vec<u8> {
    record(owner, TYPE_A, ttl, &address)
}

fn cname(owner: &str, ttl: u32, target: &str) -> Vec<u8> {
    record(&wire(owner), TYPE_CNAME, ttl, &wire(target))
}

/// The answer to the question for the addresses of `example.org`.
fn answer(records: &[Vec<u8>]) -> Vec<u8> {
    let count = u16::try_from(records.len()).unwrap();
    let flags = QR | RD | RA;
    message(
        flags,
        [count, 0, 0],
        &wire("example.org"),
        TYPE_A,
        &records.concat(),
    )
}

fn asked() -> Query {
    Query::parse(&query("example.org", TYPE_A)).unwrap()
}

fn read(records: &[Vec<u8>]) -> Option<Answer> {
    Answer::parse(&answer(records), &asked())
}

fn v4(address: [u8; 4], ttl: u32) -> (IpAddr, u32) {
    (IpAddr::from(address), ttl)
}

#[test]
fn a_query_is_one_question() {
    assert_eq!(
        Query::parse(&query("WWW.Example.org", TYPE_AAAA)),
        Some(Query {
            id: 0x1234,
            flags: RD,
            name: "www.example.org".into(),
            qtype: TYPE_AAAA,
            qclass: CLASS_IN,
        })
    );
    assert_eq!(Query::parse(&query("", 2)).unwrap().name, "");
    assert_eq!(Query::parse(&with_edns("a.b", 1232)).unwrap().name, "a.b");
}

#[test]
fn what_is_no_query_or_more_than_one_is_not_read() {
    let good = query("example.org", TYPE_A);
    for (index, byte, why) in [
        (2, 0x81, "an answer"),
        (2, 0x29, "an update"),
        (5, 0, "no question"),
        (5, 2, "two questions"),
        (7, 1, "an answer in it"),
        (9, 1, "an authority in it"),
        (11, 1, "a record that is not there"),
        (12, 64, "a label of a reserved kind"),
        (12, 0xc0, "a reference to the header"),
        (12, 8, "a name that does not end"),
    ] {
        let mut bad = good.clone();
        bad[index] = byte;
        assert_eq!(Query::parse(&bad), None, "{why}");
    }
    for length in 0..good.len() {
        assert_eq!(Query::parse(&good[..length]), None, "{length}");
    }
    assert_eq!(Query::parse(&[&good[..], &[0]].concat()), None);
    let two = [edns(512), edns(4096)].concat();
    let two = message(RD, [0, 0, 2], &wire("a"), TYPE_A, &two);
    assert_eq!(Query::parse(&two), None);
    let many = record(&[0], 99, 0, &[]).repeat(9);
    let many = message(RD, [0, 0, 9], &wire("a"), TYPE_A, &many);
    assert_eq!(Query::parse(&many), None);
}

#[test]
fn a_dot_within_a_part_is_not_one_between_two() {
    let odd = wire_of(&[&b"www.example"[..], b"org"]);
    let odd = Query::parse(&message(RD, [0; 3], &odd, TYPE_A, &[])).unwrap();
    assert_eq!(odd.name, r"www\046example.org");
    let odd = wire_of(&[&b"a\\b\0 \xff~"[..]]);
    let odd = Query::parse(&message(RD, [0; 3], &odd, TYPE_A, &[])).unwrap();
    assert_eq!(odd.name, r"a\092b\000\032\255~");
}

#[test]
fn a_name_has_255_bytes_at_most() {
    let longest = [
        vec![b'a'; 63],
        vec![b'b'; 63],
        vec![b'c'; 63],
        vec![b'd'; 61],
    ];
    let name = wire_of(&longest);
    assert_eq!(name.len(), 255);
    let message = |name: &[u8]| message(RD, [0; 3], name, TYPE_A, &[]);
    assert_eq!(Query::parse(&message(&name)).unwrap().name.len(), 253);
    let mut longer = longest;
    longer[3].push(b'd');
    assert_eq!(Query::parse(&message(&wire_of(&longer))), None);
}

#[test]
fn addresses_of_the_name_that_was_asked_for_are_the_answer() {
    let found = read(&[
        a(&NAME, 300, [1, 2, 3, 4]),
        a(&wire("EXAMPLE.org"), 60, [5, 6, 7, 8]),
    ]);
    let found = found.unwrap();
    assert_eq!(found.names, ["example.org"]);
    assert_eq!(
        found.addresses,
        [v4([1, 2, 3, 4], 300), v4([5, 6, 7, 8], 60)]
    );
    assert_eq!((found.rcode, found.truncated), (0, false));
    let none = read(&[]).unwrap();
    assert!(none.addresses.is_empty());
}

#[test]
fn addresses_of_ipv6_are_answers_to_who_asks_for_them() {
    let message = |qtype, data: &[u8]| {
        let record = record(&NAME, TYPE_AAAA, 60, data);
        message(QR, [1, 0, 0], &wire("example.org"), qtype, &record)
    };
    let loopback = Ipv6Addr::LOCALHOST.octets();
    for (qtype, expected) in [
        (TYPE_AAAA, vec![(IpAddr::from(loopback), 60)]),
        (TYPE_ANY, vec![(IpAddr::from(loopback), 60)]),
        (TYPE_A, vec![]),
    ] {
        let asked = Query { qtype, ..asked() };
        let found = Answer::addresses(&message(qtype, &loopback), &asked);
        assert_eq!(found, Some(expected));
    }
    let asked = Query {
        qtype: TYPE_AAAA,
        ..asked()
    };
    assert_eq!(
        Answer::addresses(&message(TYPE_AAAA, &[0; 4]), &asked),
        None
    );
}

#[test]
fn aliases_lead_from_the_question_to_the_addresses_in_any_order() {
    let mut records = vec![
        cname("example.org", 30, "www.Example.net"),
        cname("www.example.NET", 600, "edge.cdn.example"),
        a(&wire("edge.cdn.example"), 300, [1, 2, 3, 4]),
    ];
    for _ in 0..records.len() {
        records.rotate_left(1);
        let found = read(&records).unwrap();
        assert_eq!(
            found.names,
            ["example.org", "www.example.net", "edge.cdn.example"]
        );
        assert_eq!(found.addresses, [v4([1, 2, 3, 4], 30)]);
    }
}

#[test]
fn an_address_of_a_name_that_nobody_asked_for_is_none() {
    let found = read(&[
        a(&wire("bank.example"), 300, [6, 6, 6, 6]),
        a(&wire("www.example.org"), 300, [6, 6, 6, 6]),
        cname("elsewhere.example", 300, "example.org"),
        cname("example.org", 300, "edge.example"),
        // Not of a name that is an alias either.
        a(&NAME, 300, [6, 6, 6, 6]),
        a(&wire("edge.example"), 300, [1, 2, 3, 4]),
    ]);
    assert_eq!(found.unwrap().addresses, [v4([1, 2, 3, 4], 300)]);
    // Nor where there are no answers.
    let extra = a(&NAME, 300, [6, 6, 6, 6]);
    let extra = message(QR, [0, 0, 1], &wire("example.org"), TYPE_A, &extra);
    assert_eq!(Answer::addresses(&extra, &asked()), Some(vec![]));
}

#[test]
fn aliases_in_a_circle_are_no_answer() {
    assert_eq!(read(&[cname("example.org", 1, "example.org")]), None);
    let circle = [
        cname("example.org", 1, "b"),
        cname("b", 1, "c"),
        cname("c", 1, "b"),
    ];
    assert_eq!(read(&circle), None);
    // One that nobody gets into does not matter.
    let other = [
        cname("b", 1, "c"),
        cname("c", 1, "b"),
        a(&NAME, 9, [1, 1, 1, 1]),
    ];
    assert_eq!(read(&other).unwrap().addresses.len(), 1);
}

#[test]
fn a_name_is_an_alias_of_one_and_through_sixteen_at_most() {
    assert_eq!(
        read(&[cname("example.org", 1, "a"), cname("example.org", 1, "b")]),
        None
    );
    assert!(read(&[cname("example.org", 1, "a"), cname("example.org", 1, "A")]).is_some());
    let chain = |length: usize| {
        let name = |index| match index {
            0 => "example.org".to_owned(),
            _ => format!("n{index}"),
        };
        let mut records: Vec<_> = (0..length)
            .map(|index| cname(&name(index), 9, &name(index + 1)))
            .collect();
        records.push(a(&wire(&name(length)), 9, [1, 1, 1, 1]));
        read(&records)
    };
    assert_eq!(chain(16).unwrap().addresses.len(), 1);
    assert_eq!(chain(17), None);
}

#[test]
fn an_answer_to_another_question_is_none() {
    let good = answer(&[a(&NAME, 300, [1, 2, 3, 4])]);
    assert!(Answer::parse(&good, &asked()).is_some());
    let kind = good.iter().rposition(|byte| *byte == 0xc0).unwrap() - 3;
    for (index, byte, why) in [
        (0, 0x13, "another id"),
        (2, 0x01, "a query"),
        (2, 0xa1, "an answer to an update"),
        (5, 0, "to no question"),
        (5, 2, "to two"),
        (13, b'f', "another name"),
        (kind, 28, "another type"),
        (kind + 2, 3, "another class"),
        (7, 2, "an answer that is not there"),
    ] {
        let mut bad = good.clone();
        bad[index] = byte;
        assert_eq!(Answer::parse(&bad, &asked()), None, "{why}");
    }
    for length in 0..good.len() {
        assert_eq!(Answer::parse(&good[..length], &asked()), None, "{length}");
    }
    let mut case = good;
    case[13] = b'E';
    assert!(Answer::parse(&case, &asked()).is_some(), "the same name");
}

#[test]
fn an_error_is_an_answer_without_addresses() {
    let flags = QR | Rcode::NxDomain as u16;
    let record = a(&NAME, 300, [1, 2, 3, 4]);
    let error = message(flags, [1, 0, 0], &wire("example.org"), TYPE_A, &record);
    let found = Answer::parse(&error, &asked()).unwrap();
    assert_eq!((found.rcode, found.addresses), (3, vec![]));
    // Some servers answer so what they do not understand.
    let bare = words(&[0x1234, QR | Rcode::FormErr as u16, 0, 0, 0, 0]);
    assert_eq!(Answer::parse(&bare, &asked()).unwrap().rcode, 1);
    let bare = words(&[0x1234, QR, 0, 0, 0, 0]);
    assert_eq!(Answer::parse(&bare, &asked()), None);
}

#[test]
fn an_answer_that_was_cut_off_says_so() {
    let cut = message(QR | TC, [0; 3], &wire("example.org"), TYPE_A, &[]);
    assert!(Answer::parse(&cut, &asked()).unwrap().truncated);
}

#[test]
fn a_negative_time_is_none() {
    let found = read(&[
        a(&NAME, u32::MAX, [1, 1, 1, 1]),
        a(&NAME, 1 << 30, [2, 2, 2, 2]),
    ]);
    let times = [v4([1, 1, 1, 1], 0), v4([2, 2, 2, 2], 1 << 30)];
    assert_eq!(found.unwrap().addresses, times);
}

#[test]
fn a_name_refers_back_only_and_not_to_itself() {
    let at = u8::try_from(answer(&[]).len()).unwrap();
    for (owner, why) in [
        (vec![0xc0, at], "itself"),
        (vec![0xc0, at + 2], "forwards"),
        (vec![1, b'a', 0xc0, at], "its own beginning"),
        (vec![0xc0, 11], "the header"),
        (vec![0xff, 0xff], "the end"),
        (vec![0xc0], "half a reference"),
        (vec![0x40, 0], "a label of a withdrawn kind"),
        (vec![0x80, 0], "a label of a reserved kind"),
    ] {
        assert_eq!(read(&[a(&owner, 1, [1, 1, 1, 1])]), None, "{why}");
    }
}

#[test]
fn a_name_refers_back_no_more_often_than_it_may_have_parts() {
    // A name in a record that does not matter: the root, and references that each refer to the one before.
    let chain = |length: usize| {
        let start = answer(&[]).len() + 11;
        let mut data = vec![0];
        for index in 0..length {
            let target = if index == 0 {
                start
            } else {
                start + 2 * index - 1
            };
            data.extend(words(&[0xc000 | u16::try_from(target).unwrap()]));
        }
        let last = u16::try_from(start + 2 * length - 1).unwrap();
        let first = record(&[0], 99, 1, &data);
        read(&[first, a(&words(&[0xc000 | last]), 1, [1, 1, 1, 1])])
    };
    assert!(chain(126).is_some());
    assert_eq!(chain(127), None);
}

#[test]
fn an_answer_has_a_thousand_records_at_most() {
    let many = |count| read(&vec![a(&NAME, 9, [1, 1, 1, 1]); count]);
    assert_eq!(many(1024).unwrap().addresses.len(), 1024);
    assert_eq!(many(1025), None);
}

#[test]
fn a_refusal_repeats_the_question_as_it_was_asked() {
    let question = query("Example.ORG", TYPE_A);
    for rcode in [
        Rcode::NoData,
        Rcode::FormErr,
        Rcode::ServFail,
        Rcode::NxDomain,
        Rcode::NotImp,
        Rcode::Refused,
    ] {
        let reply = refuse(&question, rcode);
        assert_eq!(reply[12..], question[12..]);
        let found = Answer::parse(&reply, &asked()).unwrap();
        assert_eq!(u16::from(found.rcode), rcode as u16);
        assert!(!found.truncated && found.addresses.is_empty());
        assert_eq!(reply[2..4], (QR | RD | RA | rcode as u16).to_be_bytes());
    }
}

#[test]
fn who_speaks_of_edns_is_answered_so() {
    let question = with_edns("example.org", 1232);
    let reply = refuse(&question, Rcode::NxDomain);
    assert_eq!(reply.len(), question.len());
    assert_eq!(reply[10..12], [0, 1]);
    assert!(reply.ends_with(&edns(4096)));
    assert_eq!(Answer::parse(&reply, &asked()).unwrap().rcode, 3);
}

#[test]
fn what_cannot_be_read_is_refused_without_its_question() {
    let good = query("example.org", TYPE_A);
    let reply = refuse(&good[..good.len() - 1], Rcode::FormErr);
    assert_eq!(reply, words(&[0x1234, QR | RD | RA | 1, 0, 0, 0, 0]));
    let mut two = good.clone();
    two[5] = 2;
    assert_eq!(refuse(&two, Rcode::FormErr).len(), HEADER);
    let mut update = good.clone();
    update[2] = 0x28;
    let reply = refuse(&update, Rcode::NotImp);
    assert_eq!(reply[2..4], (QR | 5 << 11 | RA | 4).to_be_bytes());
    assert_eq!(reply[12..], good[12..]);
}

#[test]
fn an_answer_is_not_answered() {
    for message in [&answer(&[])[..], &[0; 11], &[]] {
        assert!(refuse(message, Rcode::FormErr).is_empty());
        assert!(truncated(message).is_empty());
    }
}

#[test]
fn a_client_with_little_room_is_sent_to_tcp() {
    let question = query("example.org", TYPE_A);
    let found = Answer::parse(&truncated(&question), &asked()).unwrap();
    assert!(found.truncated);
    assert_eq!(found.rcode, 0);
    for (size, limit) in [
        (0, 512),
        (512, 512),
        (1232, 1232),
        (4096, 4096),
        (65535, 4096),
    ] {
        assert_eq!(udp_limit(&with_edns("a", size)), limit);
    }
    assert_eq!(udp_limit(&question), 512);
    assert_eq!(udp_limit(&[]), 512);
}

fn any_name() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(any::<u8>(), 1..=63), 0..4)
}

/// What a name reads as.
fn presented(labels: &[Vec<u8>]) -> String {
    let label = |label: &Vec<u8>| -> String {
        let byte = |byte: &u8| match byte {
            b'.' | b'\\' | 0..=b' ' | 127.. => format!("\\{byte:03}"),
            _ => char::from(*byte).to_lowercase().to_string(),
        };
        label.iter().map(byte).collect()
    };
    labels.iter().map(label).collect::<Vec<_>>().join(".")
}

proptest! {
    #[test]
    fn a_query_that_is_written_is_read_back(
        labels in any_name(),
        qtype: u16,
        size in proptest::option::of(any::<u16>()),
    ) {
        let rest = size.map(edns).unwrap_or_default();
        let count = u16::from(size.is_some());
        let message = message(RD, [0, 0, count], &wire_of(&labels), qtype, &rest);
        let query = Query::parse(&message).unwrap();
        prop_assert_eq!(&query.name, &presented(&labels));
        prop_assert_eq!(query.qtype, qtype);
        prop_assert_eq!(query.name.split('.').filter(|label| !label.is_empty()).count(), labels.len());
        for reply in [refuse(&message, Rcode::NxDomain), truncated(&message)] {
            prop_assert!(reply.len() <= MIN_UDP);
            prop_assert!(Answer::parse(&reply, &query).is_some());
        }
    }

    #[test]
    fn an_answer_that_is_written_is_read_back(
        addresses in vec((any::<[u8; 4]>(), 0..=i32::MAX.unsigned_abs()), 0..20),
        aliases in 0usize..5,
        others in vec(any_name(), 0..5),
    ) {
        let name = |index| if index == 0 { "example.org".into() } else { format!("n{index}.example") };
        let mut records: Vec<_> = (0..aliases)
            .map(|index| cname(&name(index), i32::MAX.unsigned_abs(), &name(index + 1)))
            .collect();
        records.extend(others.iter().map(|other| a(&wire_of(other), 1, [6; 4])));
        let last = wire(&name(aliases));
        records.extend(addresses.iter().map(|(address, ttl)| a(&last, *ttl, *address)));
        let found = read(&records).unwrap();
        let expected: Vec<_> = addresses.iter().map(|(address, ttl)| v4(*address, *ttl)).collect();
        prop_assert_eq!(found.addresses, expected);
        prop_assert_eq!(found.names.len(), aliases + 1);
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..600)) {
        let _ = Query::parse(&bytes);
        prop_assert!((512..=4096).contains(&udp_limit(&bytes)));
        prop_assert!(refuse(&bytes, Rcode::ServFail).len() <= MIN_UDP);
        let _ = Answer::parse(&bytes, &asked());
    }

    #[test]
    fn no_damaged_message_panics(
        records in vec((any_name(), any_name(), any::<bool>()), 1..10),
        damage in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cut: proptest::sample::Index,
    ) {
        let records: Vec<_> = records
            .iter()
            .map(|(owner, target, is_alias)| match is_alias {
                true => record(&wire_of(owner), TYPE_CNAME, 60, &wire_of(target)),
                false => a(&NAME, 60, [1, 1, 1, 1]),
            })
            .collect();
        let mut bytes = answer(&records);
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        // The question may well be damaged too.
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            if let Some(answer) = Answer::parse(bytes, &asked()) {
                prop_assert!(answer.names.len() <= 1 + MAX_ALIASES);
                prop_assert!(answer.addresses.len() <= records.len());
            }
            let _ = Query::parse(bytes);
        }
    }
}
