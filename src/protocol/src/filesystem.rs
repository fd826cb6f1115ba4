//! The file systems that a root can be of, told apart by their superblocks: the host brings the drivers for those that an image may hold,
//! the agent loads the one that it does.

/// A file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// ext4, and what its driver takes as well: ext2 and ext3.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// EROFS.
    Erofs,
    /// SquashFS 4.
    Squashfs,
}

/// Where a superblock says what it is, in bytes from the start of the device.
struct Superblock {
    magic_at: u64,
    magic: &'static [u8],
    /// Where 16 bytes of UUID are, where it has one.
    uuid_at: Option<u64>,
    /// Where the label is, and how many bytes there are for it: it ends there or before a NUL.
    label: Option<(u64, usize)>,
}

/// The longest magic.
const MAGIC: usize = 8;
/// The longest label.
const LABEL: usize = 256;

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Ext4,
        Self::Xfs,
        Self::Btrfs,
        Self::Erofs,
        Self::Squashfs,
    ];

    /// Its name, which is also its module's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Erofs => "erofs",
            Self::Squashfs => "squashfs",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Offsets by Linux's `ext4_super_block`, `xfs_dsb`, `btrfs_super_block`, `erofs_super_block` and `squashfs_super_block`.
    fn superblock(self) -> Superblock {
        match self {
            Self::Ext4 => Superblock {
                magic_at: 1024 + 0x38,
                magic: &[0x53, 0xef],
                uuid_at: Some(1024 + 0x68),
                label: Some((1024 + 0x78, 16)),
            },
            Self::Xfs => Superblock {
                magic_at: 0,
                magic: b"XFSB",
                uuid_at: Some(32),
                label: Some((108, 12)),
            },
            Self::Btrfs => Superblock {
                magic_at: 0x1_0000 + 0x40,
                magic: b"_BHRfS_M",
                uuid_at: Some(0x1_0000 + 0x20),
                label: Some((0x1_0000 + 0x12b, LABEL)),
            },
            Self::Erofs => Superblock {
                magic_at: 1024,
                magic: &[0xe2, 0xe1, 0xf5, 0xe0],
                uuid_at: Some(1024 + 0x30),
                label: Some((1024 + 0x40, 16)),
            },
            Self::Squashfs => Superblock {
                magic_at: 0,
                magic: b"hsqs",
                uuid_at: None,
                label: None,
            },
        }
    }
}

/// What a device says of the file system on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its kind.
    pub kind: Kind,
    /// Its UUID, where the kind has one.
    pub uuid: Option<[u8; 16]>,
    label: [u8; LABEL],
}

impl Identity {
    /// Its label, without the NULs that end it; empty where there is none.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        let end = self.label.iter().position(|&byte| byte == 0);
        &self.label[..end.unwrap_or(LABEL)]
    }
}

/// Identifies the file system on a device. `read` fills the buffer from an offset in bytes, and says whether it could; what cannot be
/// read is not there.
pub fn identify(mut read: impl FnMut(u64, &mut [u8]) -> bool) -> Option<Identity> {
    let mut is = |kind: &Kind| {
        let superblock = kind.superblock();
        let mut magic = [0; MAGIC];
        let magic = &mut magic[..superblock.magic.len()];
        read(superblock.magic_at, magic) && magic == superblock.magic
    };
    let kind = Kind::ALL.into_iter().find(|kind| is(kind))?;
    let superblock = kind.superblock();
    let mut uuid = [0; 16];
    let has_uuid = superblock
        .uuid_at
        .is_some_and(|offset| read(offset, &mut uuid));
    let mut label = [0; LABEL];
    if let Some((offset, length)) = superblock.label
        && !read(offset, &mut label[..length])
    {
        label = [0; LABEL];
    }
    Some(Identity {
        kind,
        uuid: has_uuid.then_some(uuid),
        label,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that holds these bytes at these offsets, and zeroes up to its end.
    fn device<'a>(
        size: u64,
        bytes: &'a [(u64, &'a [u8])],
    ) -> impl FnMut(u64, &mut [u8]) -> bool + 'a {
        move |offset, buffer| {
            if offset + buffer.len() as u64 > size {
                return false;
            }
            for (index, byte) in buffer.iter_mut().enumerate() {
                let at = offset + index as u64;
                let holds = |&&(start, bytes): &&(u64, &[u8])| {
                    (start..start + bytes.len() as u64).contains(&at)
                };
                *byte = bytes.iter().find(holds).map_or(0, |(start, bytes)| {
                    bytes[usize::try_from(at - start).unwrap()]
                });
            }
            true
        }
    }

    #[test]
    fn a_file_system_says_what_it_is_and_what_it_is_called() {
        let uuid = [7; 16];
        let found = identify(device(
            1 << 20,
            &[
                (0x438, &[0x53, 0xef]),
                (0x468, &uuid),
                (0x478, b"root"),
                (0x10040, b"_BHRfS_"),
            ],
        ));
        let found = found.unwrap();
        assert_eq!(
            (found.kind, found.uuid, found.label()),
            (Kind::Ext4, Some(uuid), b"root".as_slice())
        );
        let read_only = identify(device(4096, &[(0, b"hsqs")])).unwrap();
        assert_eq!((read_only.kind, read_only.uuid), (Kind::Squashfs, None));
        assert_eq!(read_only.label(), b"");
    }

    #[test]
    fn other_devices_say_nothing() {
        assert_eq!(identify(device(1 << 20, &[(510, &[0x55, 0xaa])])), None);
        assert_eq!(identify(device(0, &[])), None);
        // Too short for the label that it would have.
        let short = identify(device(0x440, &[(0x438, &[0x53, 0xef])])).unwrap();
        assert_eq!((short.uuid, short.label()), (None, b"".as_slice()));
    }

    #[test]
    fn each_kind_has_a_name_of_its_own() {
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(kind));
        }
        assert_eq!(Kind::named("ntfs"), None);
    }
}
