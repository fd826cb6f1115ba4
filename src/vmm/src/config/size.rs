//! Sizes as people write them: `512M`, `2GiB`, `1g`.
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Units by their first letter, largest first.
const UNITS: [(char, u64); 4] = [('T', TIB), ('G', GIB), ('M', MIB), ('K', KIB)];

/// Why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Nothing, or nothing that starts with a digit.
    #[error("found {found:?}, expected a size (hint: write for example `512M` or `2GiB`)")]
    NotASize {
        /// What was given.
        found: String,
    },
    /// Digits, then something that is no unit.
    #[error(
        "the unit {unit:?} is unknown (hint: `K`, `M`, `G`, `T` or `KiB`, `MiB`, `GiB`, `TiB`, powers of 1024; without a unit: MiB)"
    )]
    Unit {
        /// What follows the digits.
        unit: String,
    },
    /// A fraction.
    #[error("{found:?} is a fraction (hint: write a whole number of a smaller unit)")]
    Fraction {
        /// What was given.
        found: String,
    },
    /// More bytes than 64 bits count.
    #[error("{found:?} is more than 16777215 TiB")]
    TooLarge {
        /// What was given.
        found: String,
    },
    /// Not a multiple of 1 MiB, where one was asked for.
    #[error("{} is not a whole number of MiB", format(*.bytes))]
    NotWholeMib {
        /// The size.
        bytes: u64,
    },
}

/// Reads a size, in bytes. Units are powers of 1024, in either case; a bare number is MiB.
///
/// # Errors
/// Anything else, and sizes past 64 bits.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::NotASize {
            found: text.to_owned(),
        });
    }
    if unit.starts_with(['.', ',']) {
        return Err(SizeError::Fraction {
            found: text.to_owned(),
        });
    }
    let factor = factor(unit.trim_start()).ok_or_else(|| SizeError::Unit {
        unit: unit.to_owned(),
    })?;
    let too_large = || SizeError::TooLarge {
        found: text.to_owned(),
    };
    let number: u64 = number.parse().map_err(|_| too_large())?;
    number.checked_mul(factor).ok_or_else(too_large)
}

/// Reads a size, in MiB, of which it must be a whole number.
///
/// # Errors
/// As [`parse`], and sizes that are no multiple of 1 MiB.
pub fn parse_mib(text: &str) -> Result<u64, SizeError> {
    let bytes = parse(text)?;
    if bytes.is_multiple_of(MIB) {
        Ok(bytes / MIB)
    } else {
        Err(SizeError::NotWholeMib { bytes })
    }
}

/// Writes a size exactly, in the largest unit that it is a whole number of: `512 MiB`. [`parse`] reads it back.
#[must_use]
pub fn format(bytes: u64) -> String {
    let unit = UNITS
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    match unit {
        Some((letter, factor)) => format!("{} {letter}iB", bytes / factor),
        None => format!("{bytes} B"),
    }
}

fn factor(unit: &str) -> Option<u64> {
    if unit.is_empty() {
        return Some(MIB);
    }
    if unit.eq_ignore_ascii_case("B") {
        return Some(1);
    }
    let mut rest = unit.chars();
    let letter = rest.next()?.to_ascii_uppercase();
    let suffix = rest.as_str();
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == letter)?;
    (suffix.is_empty() || suffix.eq_ignore_ascii_case("iB")).then_some(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bare_number_is_mib_and_units_are_powers_of_1024_in_either_case() {
        for (text, bytes) in [
            ("512", 512 * MIB),
            ("512M", 512 * MIB),
            ("512m", 512 * MIB),
            ("512MiB", 512 * MIB),
            ("512 mib", 512 * MIB),
            ("2G", 2 * GIB),
            ("2gIb", 2 * GIB),
            ("1T", TIB),
            ("64k", 64 * KIB),
            (" 7B ", 7),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_for_its_own_reason() {
        for text in ["", " ", "M", "-5", "+5", "lots", "０"] {
            assert!(
                matches!(parse(text), Err(SizeError::NotASize { .. })),
                "{text}"
            );
        }
        for text in ["5X", "5MB", "5 M B", "5iB", "5e3", "0x10", "5M5"] {
            assert!(matches!(parse(text), Err(SizeError::Unit { .. })), "{text}");
        }
        assert!(matches!(parse("1.5G"), Err(SizeError::Fraction { .. })));
        for text in ["16777216T", "99999999999999999999", "18446744073709551615"] {
            assert!(
                matches!(parse(text), Err(SizeError::TooLarge { .. })),
                "{text}"
            );
        }
        assert_eq!(
            parse_mib("1025K"),
            Err(SizeError::NotWholeMib { bytes: 1025 * KIB })
        );
        assert_eq!(parse_mib("2048K"), Ok(2));
    }

    #[test]
    fn a_size_is_written_in_its_largest_whole_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (512 * MIB, "512 MiB"),
            (1536 * MIB, "1536 MiB"),
            (GIB, "1 GiB"),
        ] {
            assert_eq!(format(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes in any::<u64>(), shift in 0u32..50) {
            let bytes = bytes >> shift << shift;
            prop_assert_eq!(parse(&format(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC*|[0-9]{1,22} ?[kKmMgGtTiIbB]{0,3}") {
            if let Ok(mib) = parse_mib(&text) {
                prop_assert_eq!(parse(&text), Ok(mib * MIB));
            }
        }
    }
}
