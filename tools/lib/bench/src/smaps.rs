//! What a process keeps in memory, its guest's RAM apart (`/proc/PID/smaps`, proc(5)).
use std::{fs, io};

/// One mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    resident: u64,
    proportional: u64,
    private_dirty: u64,
}

/// Kibibytes of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Private dirty, outside guest RAM.
    pub private_dirty: u64,
    /// The proportional share of all that is resident, outside guest RAM.
    pub proportional: u64,
    /// What of guest RAM is resident.
    pub guest_touched: u64,
}

/// Of a process and all that descend from it, the largest of which holds the guest.
///
/// # Errors
/// When `/proc` cannot be read, or no mapping is as large as the guest's RAM.
pub fn usage(pid: u32, guest_bytes: u64) -> io::Result<Usage> {
    let mut total = Usage::default();
    let mut found = false;
    for pid in family(pid) {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
        let mappings = parse(&text);
        let guest = guest_range(&mappings, guest_bytes);
        found |= guest.is_some();
        let usage = sum(&mappings, guest);
        total.private_dirty += usage.private_dirty;
        total.proportional += usage.proportional;
        total.guest_touched += usage.guest_touched;
    }
    if found {
        Ok(total)
    } else {
        Err(io::Error::other(format!(
            "process {pid} has no mapping as large as its guest's RAM"
        )))
    }
}

fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while next < all.len() {
        if let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", all[next])) {
            for task in tasks.flatten() {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                all.extend(
                    children
                        .split_whitespace()
                        .filter_map(|child| child.parse::<u32>().ok()),
                );
            }
        }
        next += 1;
    }
    all
}

fn parse(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some(name) = first.strip_suffix(':') {
            let kibibytes = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            if let Some(mapping) = mappings.last_mut() {
                match name {
                    "Rss" => mapping.resident = kibibytes,
                    "Pss" => mapping.proportional = kibibytes,
                    "Private_Dirty" => mapping.private_dirty = kibibytes,
                    _ => {}
                }
            }
        } else if let Some((start, end)) = first.split_once('-') {
            let address = |text| u64::from_str_radix(text, 16).unwrap_or(0);
            mappings.push(Mapping {
                start: address(start),
                end: address(end),
                ..Mapping::default()
            });
        }
    }
    mappings
}

/// The addresses that are guest RAM. It is recognised by its size: neighbouring mappings that are together exactly as large
/// (a kernel's file mapped into guest RAM cuts it in pieces), or else the one that is at least as large and not much more: the kernel
/// joins it with a neighbour of the same kind, which then counts as the guest's.
fn guest_range(mappings: &[Mapping], guest_bytes: u64) -> Option<(u64, u64)> {
    for (first, from) in mappings.iter().enumerate() {
        let mut end = from.start;
        for mapping in &mappings[first..] {
            if mapping.start != end || end - from.start >= guest_bytes {
                break;
            }
            end = mapping.end;
        }
        if end - from.start == guest_bytes {
            return Some((from.start, end));
        }
    }
    let joined = mappings.iter().find(|mapping| {
        let size = mapping.end - mapping.start;
        size > guest_bytes && size < guest_bytes + guest_bytes / 4
    });
    joined.map(|mapping| (mapping.start, mapping.end))
}

fn sum(mappings: &[Mapping], guest: Option<(u64, u64)>) -> Usage {
    let mut usage = Usage::default();
    for mapping in mappings {
        if guest.is_some_and(|(start, end)| start <= mapping.start && mapping.end <= end) {
            usage.guest_touched += mapping.resident;
        } else {
            usage.private_dirty += mapping.private_dirty;
            usage.proportional += mapping.proportional;
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    const TEXT: &str = "\
00400000-00500000 r-xp 00000000 fd:00 123    /usr/bin/monitor
Size:               1024 kB
Rss:                 600 kB
Pss:                 300 kB
Pss_Dirty:             0 kB
Private_Dirty:         0 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0000800000 rw-p 00000000 00:00 0
Rss:                2048 kB
Pss:                2048 kB
Private_Dirty:      2048 kB
7f0001000000-7f0001010000 rw-p 00000000 00:00 0    [heap]
Rss:                  16 kB
Pss:                  16 kB
Private_Dirty:        12 kB
";

    #[test]
    fn guest_ram_is_told_from_the_rest_by_its_size() {
        let mappings = parse(TEXT);
        let guest = guest_range(&mappings, 8 * MIB);
        assert_eq!(guest, Some((0x7f00_0000_0000, 0x7f00_0080_0000)));
        let usage = sum(&mappings, guest);
        assert_eq!(
            usage,
            Usage {
                private_dirty: 12,
                proportional: 316,
                guest_touched: 2048
            }
        );
        assert_eq!(guest_range(&mappings, 16 * MIB), None);
    }

    #[test]
    fn guest_ram_in_pieces_is_found_and_a_gap_ends_it() {
        let piece = |start, end| Mapping {
            start,
            end,
            ..Mapping::default()
        };
        let pieces = [
            piece(0, MIB),
            piece(2 * MIB, 3 * MIB),
            piece(3 * MIB, 5 * MIB),
            piece(5 * MIB, 6 * MIB),
        ];
        assert_eq!(guest_range(&pieces, 4 * MIB), Some((2 * MIB, 6 * MIB)));
        assert_eq!(guest_range(&pieces, 3 * MIB), Some((2 * MIB, 5 * MIB)));
        assert_eq!(
            guest_range(&[piece(0, 4 * MIB), piece(5 * MIB, 9 * MIB)], 8 * MIB),
            None
        );
    }

    #[test]
    fn a_joined_mapping_counts_as_the_guests() {
        let mapping = Mapping {
            start: 0,
            end: 8 * MIB + 4096,
            ..Mapping::default()
        };
        assert_eq!(guest_range(&[mapping], 8 * MIB), Some((0, 8 * MIB + 4096)));
    }
}
