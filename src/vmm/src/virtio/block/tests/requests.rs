//! Requests of a driver, honest and not: what it reads, writes and asks for, and in what pieces.
use proptest::prelude::*;

use super::*;

#[test]
fn a_read_brings_what_the_image_holds() {
    let bench = Bench::new();
    assert_eq!(bench.ask(READ, 5, 1024), (0, 1025));
    assert_eq!(bench.data(1024), [[5; 512], [6; 512]].concat());
}

#[test]
fn a_write_reaches_the_image_and_nothing_beside_it() {
    for cache in [Cache::WriteBack, Cache::WriteThrough] {
        let bench = Bench::with(false, cache);
        bench.fill(&[0xaa; 512]);
        assert_eq!(bench.ask(WRITE, 7, 512), (0, 1));
        assert_eq!(
            bench.image(6, 1536),
            [[6; 512], [0xaa; 512], [8; 512]].concat()
        );
    }
}

#[test]
fn a_driver_may_cut_a_request_into_any_pieces() {
    let bench = Bench::new();
    bench.header(READ, 3);
    let chain = Chain {
        head: 0,
        readable: vec![
            segment(HEADER, 3),
            segment(HEADER + 3, 0),
            segment(HEADER + 3, 13),
        ],
        // The status is the last byte of the last piece.
        writable: vec![
            segment(DATA, 1),
            segment(DATA + 1, 510),
            segment(DATA + 511, 0),
            segment(STATUS - 1, 2),
        ],
    };
    assert_eq!(bench.serve(chain), (0, 513));
    assert_eq!(bench.data(511), [3; 511]);
}

#[test]
fn what_is_not_on_the_disk_is_an_error_for_the_guest() {
    let bench = Bench::new();
    for kind in [READ, WRITE] {
        for (sector, length) in [
            (SECTORS, 512),
            (SECTORS - 1, 1024),
            (u64::MAX, 512),
            (u64::MAX / 512, 512),
            (0, 100),
        ] {
            assert_eq!(
                bench.ask(kind, sector, length),
                (1, 1),
                "{kind} {sector} {length}"
            );
        }
    }
    assert_eq!(bench.image(SECTORS - 1, 512), [63; 512]);
}

#[test]
fn memory_that_is_not_there_is_an_error_for_the_guest() {
    let bench = Bench::new();
    bench.header(READ, 0);
    let end = u64::try_from(RAM).unwrap();
    for address in [end, end - 256, u64::MAX - 100] {
        let chain = Chain {
            head: 0,
            readable: vec![segment(HEADER, 16)],
            writable: vec![segment(address, 512), segment(STATUS, 1)],
        };
        assert_eq!(bench.serve(chain), (1, 1), "{address:#x}");
    }
}

#[test]
fn a_read_only_disk_takes_no_change() {
    let bench = Bench::with(true, Cache::WriteBack);
    bench.fill(&range(0, 8, 0));
    assert_eq!(bench.ask(DISCARD, 0, 16), (1, 1));
    assert_eq!(bench.ask(WRITE_ZEROES, 0, 16), (1, 1));
    assert_eq!(bench.ask(WRITE, 0, 512), (1, 1));
    assert_eq!(bench.ask(READ, 1, 512), (0, 513));
    assert_eq!(bench.image(0, 512), [0; 512]);
}

#[test]
fn a_disk_has_a_name_and_knows_no_other_requests() {
    let bench = Bench::new();
    assert_eq!(bench.ask(GET_ID, 0, 20), (0, 21));
    assert_eq!(&bench.data(8), b"serial\0\0");
    assert_eq!(bench.ask(GET_ID, 0, 3), (0, 4));
    assert_eq!(bench.ask(FLUSH, 0, 0), (0, 1));
    for kind in [2, 3, 5, 10, 12, 14, u32::MAX] {
        assert_eq!(bench.ask(kind, 0, 512), (2, 1));
    }
}

#[test]
fn a_request_that_cannot_be_answered_breaks_the_queue() {
    let bench = Bench::new();
    bench.header(READ, 0);
    let header = || vec![segment(HEADER, 16)];
    for (readable, writable) in [
        (header(), vec![]),
        (header(), vec![segment(STATUS, 0)]),
        (header(), vec![segment(u64::MAX, 1)]),
        (vec![segment(HEADER, 15)], vec![segment(STATUS, 1)]),
        (vec![], vec![segment(STATUS, 1)]),
        (vec![segment(u64::MAX - 3, 16)], vec![segment(STATUS, 1)]),
    ] {
        let mut chain = Chain {
            head: 0,
            readable,
            writable,
        };
        assert_eq!(bench.serve_any(&mut chain), Err(Broken));
    }
}

fn any_segments() -> impl Strategy<Value = Vec<Segment>> {
    let address = prop_oneof![0..u64::try_from(RAM).unwrap() + 4096, any::<u64>()];
    let length = prop_oneof![
        Just(0),
        Just(1),
        Just(16),
        Just(512),
        0..8192u32,
        any::<u32>()
    ];
    let one = (address, length).prop_map(|(address, length)| segment(address, length));
    proptest::collection::vec(one, 0..6)
}

proptest! {
    /// Whatever a driver asks for, in whatever pieces: an answer or a broken queue, and not one byte more than it gave room for.
    #[test]
    fn any_request_is_answered_or_breaks_the_queue(
        kind in prop_oneof![0..16u32, any::<u32>()],
        sector in prop_oneof![0..SECTORS + 2, any::<u64>()],
        readable in any_segments(),
        writable in any_segments(),
        with_header in any::<bool>(),
    ) {
        let bench = Bench::new();
        bench.header(kind, sector);
        bench.fill(&range(sector, kind, 0));
        let mut readable = readable;
        if with_header {
            readable.insert(0, segment(HEADER, 16));
        }
        let room: u64 = writable.iter().map(|piece| u64::from(piece.length)).sum();
        let mut chain = Chain { head: 0, readable, writable };
        if let Ok(written) = bench.serve_any(&mut chain) {
            prop_assert!(u64::from(written) <= room);
        }
        prop_assert_eq!(bench.file.metadata().unwrap().len(), SECTORS * 512);
    }
}
