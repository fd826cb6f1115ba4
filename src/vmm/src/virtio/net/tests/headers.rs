//! What the headers of a guest's frames may ask for.
use proptest::prelude::*;

use super::super::{
    config::feature,
    header::{self, PREFIX, Refused, Terms},
};

fn terms(features: u64) -> Terms {
    Terms {
        features,
        mtu: 1500,
        source: None,
    }
}

/// The header of a TCP packet that is to be cut.
fn long(kind: u8, header_length: u16, size: u16, start: u16, offset: u16) -> [u8; PREFIX] {
    let mut prefix = [0; PREFIX];
    prefix[..2].copy_from_slice(&[1, kind]);
    for (at, value) in [(2, header_length), (4, size), (6, start), (8, offset)] {
        prefix[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    prefix
}

#[test]
fn a_header_asks_for_what_was_agreed_on() {
    let judge = |mut prefix: [u8; PREFIX], length, features| {
        header::judge(&mut prefix, length, &terms(features))
    };
    let agreed = feature::CSUM | feature::HOST_TSO4 | feature::HOST_ECN;
    assert_eq!(judge(long(1, 54, 1448, 34, 16), 60_000, agreed), Ok(()));
    assert_eq!(judge(long(0x81, 54, 1448, 34, 16), 60_000, agreed), Ok(()));
    for (prefix, features) in [
        (long(1, 54, 1448, 34, 16), feature::CSUM),
        (long(4, 54, 1448, 34, 16), agreed),
        (long(5, 54, 1448, 34, 6), agreed),
        (long(3, 54, 1448, 34, 6), agreed),
        (long(1, 54, 0, 34, 16), agreed),
        (long(1, 54, 7, 34, 16), agreed),
        (long(1, 54, 0xffff, 34, 16), agreed),
        (long(1, 60_001, 1448, 34, 16), agreed),
        (long(1, 54, 1448, 34, 0xffff), agreed),
        (long(1, 54, 1448, 3, 16), agreed),
        (long(0x81, 54, 1448, 34, 16), agreed & !feature::HOST_ECN),
    ] {
        assert_eq!(judge(prefix, 60_000, features), Err(Refused::Header));
    }
    assert_eq!(judge(long(0, 0, 0, 34, 16), 60, 0), Err(Refused::Header));
}

proptest! {
    /// Whatever passes can be done: the checksum lies in the frame, pieces are of a size that there is.
    #[test]
    fn what_passes_can_be_done(bytes: [u8; PREFIX], length in 0..70_000usize, features: u64) {
        let mut prefix = bytes;
        if header::judge(&mut prefix, length, &terms(features)).is_ok() {
            let field = |at: usize| usize::from(u16::from_le_bytes([prefix[at], prefix[at + 1]]));
            prop_assert!((14..=header::MAX_FRAME).contains(&length));
            prop_assert!(prefix[0] <= 1);
            prop_assert!(prefix[0] == 0 || field(6) + field(8) + 2 <= length);
            prop_assert!(prefix[1] == 0 || (prefix[0] == 1 && field(4) >= 8 && field(2) <= length));
            prop_assert_eq!(&prefix[12..], &bytes[12..]);
        }
    }
}
