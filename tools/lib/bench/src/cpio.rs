//! An initial RAM disk with one program: `/init`, and a console for it to speak to.

/// The archive (newc), as the kernel unpacks it.
pub fn initrd(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    entry(&mut archive, 1, "dev", 0o040_755, (0, 0), &[]);
    entry(&mut archive, 2, "dev/console", 0o020_600, (5, 1), &[]);
    entry(&mut archive, 3, "init", 0o100_755, (0, 0), init);
    entry(&mut archive, 4, "TRAILER!!!", 0, (0, 0), &[]);
    archive.resize(archive.len().next_multiple_of(512), 0);
    archive
}

fn entry(
    archive: &mut Vec<u8>,
    inode: usize,
    name: &str,
    mode: usize,
    device: (usize, usize),
    data: &[u8],
) {
    archive.extend(b"070701");
    let (major, minor) = device;
    for field in [
        inode,
        mode,
        0,
        0,
        1,
        0,
        data.len(),
        0,
        0,
        major,
        minor,
        name.len() + 1,
        0,
    ] {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(name.bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_data_are_aligned_and_end_with_the_trailer() {
        let archive = initrd(b"12345");
        assert_eq!(archive.len() % 512, 0);
        let (mut at, mut names) = (0, Vec::new());
        loop {
            assert_eq!(&archive[at..at + 6], b"070701");
            let field = |index: usize| {
                let from = at + 6 + 8 * index;
                usize::from_str_radix(std::str::from_utf8(&archive[from..from + 8]).unwrap(), 16)
                    .unwrap()
            };
            let (size, name_size) = (field(6), field(11));
            let name = std::str::from_utf8(&archive[at + 110..at + 110 + name_size - 1]).unwrap();
            names.push(name.to_owned());
            let data = (at + 110 + name_size).next_multiple_of(4);
            if name == "init" {
                assert_eq!(&archive[data..data + size], b"12345");
            }
            at = (data + size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                break;
            }
        }
        assert_eq!(names, ["dev", "dev/console", "init", "TRAILER!!!"]);
    }
}
