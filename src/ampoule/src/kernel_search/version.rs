//! Version order, as `sort -V` and dpkg have it (Debian Policy §5.6.12), on whole names.
use std::cmp::Ordering;

/// Compares two names as versions: runs of digits by value, everything else with `~` first, then the end, then letters, then the rest.
///
/// A total order: names that differ only in leading zeros are told apart by their bytes.
#[must_use]
pub fn compare(left: &[u8], right: &[u8]) -> Ordering {
    let (mut a, mut b) = (left, right);
    while !a.is_empty() || !b.is_empty() {
        let order = compare_text(take(&mut a, false), take(&mut b, false))
            .then_with(|| compare_number(take(&mut a, true), take(&mut b, true)));
        if order.is_ne() {
            return order;
        }
    }
    left.cmp(right)
}

/// Splits the longest prefix of digits, or of anything but digits, off `rest`.
fn take<'a>(rest: &mut &'a [u8], digits: bool) -> &'a [u8] {
    let end = rest
        .iter()
        .position(|byte| byte.is_ascii_digit() != digits)
        .unwrap_or(rest.len());
    let (run, tail) = rest.split_at(end);
    *rest = tail;
    run
}

fn compare_text(a: &[u8], b: &[u8]) -> Ordering {
    // The end of the text weighs more than `~` and less than anything else.
    let weights = |text: &[u8]| -> Vec<u16> {
        let weight = |&byte: &u8| match byte {
            b'~' => 0,
            letter if letter.is_ascii_alphabetic() => u16::from(letter),
            other => 256 + u16::from(other),
        };
        text.iter().map(weight).chain([1]).collect()
    };
    weights(a).cmp(&weights(b))
}

fn compare_number(a: &[u8], b: &[u8]) -> Ordering {
    let significant =
        |digits: &[u8]| -> Vec<u8> { digits.iter().copied().skip_while(|&d| d == b'0').collect() };
    let (a, b) = (significant(a), significant(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assert_ascending(names: &[&str]) {
        for (index, name) in names.iter().enumerate() {
            for (other_index, other) in names.iter().enumerate() {
                assert_eq!(
                    compare(name.as_bytes(), other.as_bytes()),
                    index.cmp(&other_index),
                    "{name} against {other}"
                );
            }
        }
    }

    #[test]
    fn kernel_releases_ascend_as_sort_v_has_them() {
        assert_ascending(&[
            "0-rescue-5f",
            "5.10.0-9-amd64",
            "5.10.0-28-amd64",
            "6.1.0-9-cloud-amd64",
            "6.1.0-47-amd64",
            "6.1.0-47-cloud-amd64",
            "6.12~rc3",
            "6.12",
            "6.12-rc3",
            "6.12.0",
            "6.12.9",
            "6.12.10",
            "10.0",
        ]);
    }

    #[test]
    fn numbers_longer_than_any_integer_compare_by_value() {
        assert_ascending(&[
            "99999999999999999999998",
            "99999999999999999999999",
            "100000000000000000000000",
        ]);
    }

    /// Names made of the characters that matter, so that near-equal ones are common.
    fn name() -> impl Strategy<Value = String> {
        "[0-2a.~-]{0,6}"
    }

    proptest! {
        #[test]
        fn it_is_a_total_order(a in name(), b in name(), c in name()) {
            let (a, b, c) = (a.as_bytes(), b.as_bytes(), c.as_bytes());
            prop_assert_eq!(compare(a, b), compare(b, a).reverse());
            prop_assert_eq!(compare(a, b).is_eq(), a == b);
            if compare(a, b).is_le() && compare(b, c).is_le() {
                prop_assert!(compare(a, c).is_le());
            }
        }

        #[test]
        fn numbers_ascend_by_value(a: u32, b: u32) {
            let name = |n: u32| format!("vmlinuz-{n}-amd64").into_bytes();
            prop_assert_eq!(compare(&name(a), &name(b)), a.cmp(&b));
        }

        #[test]
        fn any_bytes_compare(a: Vec<u8>, b: Vec<u8>) {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
        }
    }
}
