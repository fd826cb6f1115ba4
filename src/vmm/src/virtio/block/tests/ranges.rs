//! What a driver discards, or has zeroed.
use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn what_is_discarded_gives_its_room_back() {
    let bench = Bench::new();
    bench.file.sync_all().unwrap();
    let before = bench.file.metadata().unwrap().blocks();
    bench.fill(&range(8, 32, 0));
    assert_eq!(bench.ask(DISCARD, 0, 16), (0, 1));
    assert!(bench.file.metadata().unwrap().blocks() < before);
    assert_eq!(bench.image(7, 512), [7; 512]);
    assert_eq!(bench.image(8, 32 * 512), [0; 32 * 512]);
    assert_eq!(bench.image(40, 512), [40; 512]);
    assert_eq!(bench.file.metadata().unwrap().len(), SECTORS * 512);
}

#[test]
fn what_is_zeroed_reads_as_zeroes_with_and_without_its_room() {
    for flags in [0, 1] {
        let bench = Bench::new();
        bench.fill(&range(1, 3, flags));
        assert_eq!(bench.ask(WRITE_ZEROES, 0, 16), (0, 1));
        assert_eq!(bench.image(1, 3 * 512), [0; 3 * 512]);
        assert_eq!(bench.image(4, 512), [4; 512]);
    }
}

#[test]
fn ranges_that_cannot_be_are_refused() {
    let bench = Bench::new();
    for (kind, bytes, status) in [
        (DISCARD, range(60, 5, 0), 1),
        (DISCARD, range(u64::MAX, 1, 0), 1),
        (DISCARD, range(0, u32::MAX, 0), 1),
        (DISCARD, range(0, 1, 1), 2),
        (WRITE_ZEROES, range(0, 1, 2), 2),
        (DISCARD, [range(0, 1, 0), range(8, 1, 0)].concat(), 2),
        (DISCARD, range(0, 1, 0)[..15].to_vec(), 2),
    ] {
        bench.fill(&bytes);
        let length = u32::try_from(bytes.len()).unwrap();
        assert_eq!(bench.ask(kind, 0, length), (status, 1), "{kind} {bytes:?}");
    }
    assert_eq!(bench.image(1, 512), [1; 512]);
}

#[test]
fn no_more_is_zeroed_at_once_than_the_configuration_says() {
    let bench = Bench::new();
    bench.file.set_len(1 << 30).unwrap();
    bench.disk.measure().unwrap();
    let most = config(&block(options(&bench.file, false, Cache::WriteBack)), 48);
    for (count, status) in [(most, 0), (most + 1, 1)] {
        bench.fill(&range(0, count, 1));
        assert_eq!(bench.ask(WRITE_ZEROES, 0, 16), (status, 1));
    }
}
