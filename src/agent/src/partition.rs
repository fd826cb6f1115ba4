//! Partitions by their names: GUIDs of a GPT (UEFI 2.10 §5.3), and the signature and number of an MBR's.
use alloc::{format, string::String};

/// What a reader of a disk does: fill the buffer from an offset in bytes, and say whether it could.
pub type Read<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> bool;

/// The sizes of a logical block, in bytes: the table does not say which.
const BLOCKS: [u64; 2] = [512, 4096];
/// More partitions than Linux knows on one disk.
const MAX_ENTRIES: u32 = 256;
/// Larger than any entry.
const MAX_ENTRY: u32 = 4096;

/// The number, from 1, of the partition that `PARTUUID=id` stands for on the disk that `read` reads.
#[must_use]
pub fn numbered(id: &str, read: Read<'_>) -> Option<u32> {
    by_guid(id, read).or_else(|| by_signature(id, read))
}

fn by_guid(id: &str, read: Read<'_>) -> Option<u32> {
    BLOCKS.into_iter().find_map(|block| {
        let mut header = [0; 92];
        let is_table = read(block, &mut header) && header.starts_with(b"EFI PART");
        is_table
            .then(|| entry_of(id, &header, block, read))
            .flatten()
    })
}

fn entry_of(id: &str, header: &[u8; 92], block: u64, read: Read<'_>) -> Option<u32> {
    let start = u64::from_le_bytes(*header[72..].first_chunk()?).checked_mul(block)?;
    let count = u32::from_le_bytes(*header[80..].first_chunk()?).min(MAX_ENTRIES);
    let size = u32::from_le_bytes(*header[84..].first_chunk()?);
    if !(128..=MAX_ENTRY).contains(&size) {
        return None;
    }
    (0..count).find_map(|index| {
        let mut guid = [0; 16];
        let at = start.checked_add(u64::from(index) * u64::from(size) + 16)?;
        let found = read(at, &mut guid) && guid_text(&guid).eq_ignore_ascii_case(id);
        found.then_some(index + 1)
    })
}

/// The first three fields are little-endian numbers, the rest are bytes in order.
fn guid_text(guid: &[u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *guid;
    let (first, second, third) = (
        u32::from_le_bytes([a, b, c, d]),
        u16::from_le_bytes([e, f]),
        u16::from_le_bytes([g, h]),
    );
    let [i, j, k, l, m, n, o, p] = rest;
    format!(
        "{first:08x}-{second:04x}-{third:04x}-{i:02x}{j:02x}-{k:02x}{l:02x}{m:02x}{n:02x}{o:02x}{p:02x}"
    )
}

/// As Linux makes it up: the disk's signature and the partition's number, in hexadecimal.
fn by_signature(id: &str, read: Read<'_>) -> Option<u32> {
    let (signature, number) = id.split_once('-')?;
    let mut found = [0; 4];
    let mut mark = [0; 2];
    let is_table = read(0x1b8, &mut found) && read(0x1fe, &mut mark) && mark == [0x55, 0xaa];
    let same = format!("{:08x}", u32::from_le_bytes(found)).eq_ignore_ascii_case(signature);
    (is_table && same && number.len() == 2)
        .then(|| u32::from_str_radix(number, 16).ok())
        .flatten()
}

/// The name of a disk's partition: `vda1`, and `nvme0n1p1` where the disk's name ends in a digit.
#[must_use]
pub fn name(disk: &str, number: u32) -> String {
    let separator = if disk.ends_with(|last: char| last.is_ascii_digit()) {
        "p"
    } else {
        ""
    };
    format!("{disk}{separator}{number}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reader(disk: &[u8]) -> impl FnMut(u64, &mut [u8]) -> bool {
        |offset, buffer| {
            let range = usize::try_from(offset)
                .ok()
                .and_then(|start| disk.get(start..start.checked_add(buffer.len())?));
            range.map(|bytes| buffer.copy_from_slice(bytes)).is_some()
        }
    }

    fn gpt(block: usize) -> Vec<u8> {
        let mut disk = vec![0; 40 << 10];
        disk[block..block + 8].copy_from_slice(b"EFI PART");
        disk[block + 72] = 2;
        disk[block + 80] = 128;
        disk[block + 84] = 128;
        let guid = 2 * block + 128 + 16;
        disk[guid..guid + 16].copy_from_slice(&[
            0x78, 0x56, 0x34, 0x12, 0xcd, 0xab, 0x01, 0xef, 1, 2, 3, 4, 5, 6, 7, 8,
        ]);
        disk
    }

    #[test]
    fn a_guid_names_a_partition_whatever_the_blocks_size() {
        for block in [512, 4096] {
            let disk = gpt(block);
            let number = |id| numbered(id, &mut reader(&disk));
            assert_eq!(number("12345678-ABCD-EF01-0102-030405060708"), Some(2));
            assert_eq!(number("12345678-abcd-ef01-0102-030405060709"), None);
        }
    }

    #[test]
    fn a_signature_and_a_number_name_a_partition() {
        let mut disk = vec![0; 512];
        disk[0x1b8..0x1bc].copy_from_slice(&[0x04, 0x03, 0x02, 0x01]);
        disk[0x1fe..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(numbered("01020304-0a", &mut reader(&disk)), Some(10));
        assert_eq!(numbered("01020305-0a", &mut reader(&disk)), None);
        assert_eq!(numbered("01020304-1", &mut reader(&disk)), None);
    }

    #[test]
    fn partitions_are_called_as_linux_calls_them() {
        assert_eq!(name("vda", 3), "vda3");
        assert_eq!(name("nvme0n1", 3), "nvme0n1p3");
    }

    proptest! {
        #[test]
        fn any_table_is_read(header: [u8; 92], id in "[0-9a-f]{8}-[0-9a-f]{2}", disk in prop::collection::vec(any::<u8>(), 512..4096)) {
            let mut disk = disk;
            disk.resize(8192, 0);
            disk[512..604].copy_from_slice(&header);
            disk[512..520].copy_from_slice(b"EFI PART");
            let _ = numbered(&id, &mut reader(&disk));
        }
    }
}
