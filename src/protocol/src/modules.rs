//! The kernel modules in a generated initial RAM disk, and when the agent loads which.
//!
//! [`LIST`] is text: on each line a [group](Group), a blank, and the name of a file in [`DIRECTORY`]. A file stands after those that it
//! needs, and may stand in several groups.
use core::fmt;

use crate::filesystem::Kind;

/// Where the modules are, uncompressed.
pub const DIRECTORY: &str = "/modules";
/// The file that lists them.
pub const LIST: &str = "/modules/list";

/// What modules are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The machine's devices: loaded first.
    Machine,
    /// A file system: loaded when the root is of that kind.
    FileSystem(Kind),
}

const MACHINE: &str = "machine";

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => MACHINE,
            Self::FileSystem(kind) => kind.name(),
        })
    }
}

/// The lines of a list, in order. A line of another version's, or none at all, is left out.
pub fn parse(list: &str) -> impl Iterator<Item = (Group, &str)> {
    list.lines().filter_map(|line| {
        let (group, file) = line.split_once(' ')?;
        let group = match group {
            MACHINE => Group::Machine,
            name => Group::FileSystem(Kind::named(name)?),
        };
        Some((group, file))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let lines = [
            (Group::Machine, "virtio.ko"),
            (Group::FileSystem(Kind::Ext4), "mbcache.ko"),
            (Group::FileSystem(Kind::Btrfs), "xor.ko"),
        ];
        let text: String = lines
            .iter()
            .map(|(group, file)| format!("{group} {file}\n"))
            .collect();
        assert!(parse(&text).eq(lines));
    }

    #[test]
    fn lines_that_mean_nothing_are_left_out() {
        assert_eq!(parse("machine\n\nfloppy fd.ko\nmachine a.ko").count(), 1);
    }
}
