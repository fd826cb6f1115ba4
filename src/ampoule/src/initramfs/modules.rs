//! A kernel's modules, as `depmod` left them: which file is which module, what it needs, and what is built in.
//!
//! They belong to whoever made the kernel, from whom they come: what is named there is looked for in their directory and nowhere else, and
//! what is no ELF file does not get to the guest.
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt,
};

use vmm::boot::kernel::{
    Codec,
    payload::{self, PayloadError},
};

use crate::files::Directory;

/// The most that one of `depmod`'s files may have, in bytes: Debian's `modules.alias` has 1.4 MB.
const MAX_INDEX: u64 = 32 << 20;
/// The most that a module may have, in bytes: Debian's largest has 5 MB.
const MAX_MODULE: u64 = 64 << 20;
/// Modules that one may need, itself included: of those that are asked for here, Debian's need fewer than twenty.
const MAX_NEEDED: usize = 256;
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// The file that says what there is, and what needs what.
pub(super) const DEPENDENCIES: &str = "modules.dep";

/// The modules of one kernel.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// By name: the file, and the files that it needs, the ones to be loaded last first.
    files: HashMap<String, (String, Vec<String>)>,
    /// By name: what had better be loaded first, by names of modules or of what they provide.
    before: HashMap<String, Vec<String>>,
    /// By what is provided: the modules that do.
    providers: HashMap<String, Vec<String>>,
    built_in: HashSet<String>,
}

/// What a kernel has of a module.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Has {
    /// Nothing.
    Not,
    /// It is part of the kernel.
    BuiltIn,
    /// Files, to be loaded in this order.
    Files(Vec<String>),
}

impl Modules {
    /// Reads `depmod`'s files in `directory`, which is a `/lib/modules/RELEASE`.
    ///
    /// # Errors
    /// When there is no list of modules, or it cannot be read. Of the others each may be missing.
    pub(super) fn read(directory: &Directory) -> io::Result<Self> {
        let index = |name| read_index(directory, name).unwrap_or_default();
        Ok(Self::parse(
            &read_index(directory, DEPENDENCIES)?,
            &index("modules.softdep"),
            &index("modules.alias"),
            &index("modules.builtin"),
        ))
    }

    fn parse(files: &str, before: &str, aliases: &str, built_in: &str) -> Self {
        let mut modules = Self::default();
        for line in files.lines() {
            let Some((file, needs)) = line.split_once(':') else {
                continue;
            };
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            (modules.files).insert(name_of(file), (file.to_owned(), needs));
        }
        for line in before.lines() {
            let mut words = line.split_whitespace();
            if words.next() == Some("softdep")
                && let Some(name) = words.next()
            {
                let before = words.skip_while(|word| *word != "pre:").skip(1);
                let before = before.take_while(|word| *word != "post:");
                (modules.before.entry(normal(name)).or_default()).extend(before.map(str::to_owned));
            }
        }
        for line in aliases.lines() {
            let mut words = line.split_whitespace();
            if words.next() == Some("alias")
                && let (Some(what), Some(module)) = (words.next(), words.next())
            {
                let providers = modules.providers.entry(normal(what)).or_default();
                providers.push(normal(module));
            }
        }
        modules.built_in = built_in.lines().map(name_of).collect();
        modules
    }

    /// What this kernel has of the module `name`, with all that it needs and had better have.
    pub(super) fn has(&self, name: &str) -> Has {
        let name = normal(name);
        if self.built_in.contains(&name) {
            return Has::BuiltIn;
        }
        if !self.files.contains_key(&name) {
            return Has::Not;
        }
        let mut closure = Closure {
            modules: self,
            files: Vec::new(),
            seen: HashSet::new(),
        };
        closure.visit(&name);
        Has::Files(closure.files)
    }
}

/// The bytes of the module in `file`, decompressed.
///
/// # Errors
/// When it cannot be read, does not decompress, or is no module.
pub(super) fn load(directory: &Directory, file: &str) -> io::Result<Vec<u8>> {
    let file = directory.file(file)?;
    let mut magic = [0; Codec::MAGIC];
    file.read_exact_at(&mut magic, 0)?;
    let mut bytes = Vec::new();
    let Some(codec) = Codec::detect(&magic) else {
        if !magic.starts_with(ELF_MAGIC) {
            return Err(io::Error::other("it is no module"));
        }
        read_whole(&file, MAX_MODULE, &mut bytes)?;
        return Ok(bytes);
    };
    let mut write = |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    payload::decompress(codec, BufReader::new(file), MAX_MODULE, &mut write).map_err(|error| {
        match error {
            PayloadError::Write(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    })?;
    Ok(bytes)
}

/// All of a file of at most `most` bytes.
fn read_whole(file: &File, most: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    file.take(most + 1).read_to_end(bytes)?;
    match u64::try_from(bytes.len()) {
        Ok(length) if length <= most => Ok(()),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

/// What a module needs, each after what it needs itself.
struct Closure<'a> {
    modules: &'a Modules,
    files: Vec<String>,
    seen: HashSet<String>,
}

impl Closure<'_> {
    fn visit(&mut self, name: &str) {
        // As deep as this goes down, too.
        if self.seen.len() >= MAX_NEEDED || !self.seen.insert(name.to_owned()) {
            return;
        }
        let modules = self.modules;
        for before in modules.before.get(name).into_iter().flatten() {
            let before = normal(before);
            match modules.providers.get(&before) {
                Some(providers) if !modules.files.contains_key(&before) => {
                    providers.iter().for_each(|provider| self.visit(provider));
                }
                _ => self.visit(&before),
            }
        }
        let Some((file, needs)) = modules.files.get(name) else {
            return;
        };
        for needed in needs.iter().rev() {
            self.visit(&name_of(needed));
        }
        self.files.push(file.clone());
    }
}

fn read_index(directory: &Directory, name: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    read_whole(&directory.file(name)?, MAX_INDEX, &mut bytes)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The module in a file: `kernel/lib/libcrc32c.ko.xz` holds `libcrc32c`.
pub(super) fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    normal(name.split(".ko").next().unwrap_or(name))
}

/// `-` and `_` are the same in names of modules.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use proptest::prelude::*;

    use super::*;

    const DEP: &str = "kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko
kernel/lib/crc16.ko:
kernel/fs/mbcache.ko:
kernel/fs/jbd2/jbd2.ko: kernel/lib/crc16.ko
kernel/crypto/crc32c_generic.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/drivers/virtio/virtio_ring.ko.xz
kernel/drivers/virtio/virtio_ring.ko.xz: kernel/drivers/virtio/virtio.ko.xz
kernel/drivers/virtio/virtio.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz
";

    fn modules() -> Modules {
        Modules::parse(
            DEP,
            "# Soft dependencies\nsoftdep ext4 pre: crc32c post: later\nsoftdep crc32c_intel pre: ext4\n",
            "alias crc32c crc32c_generic\nalias crc32c crc32c_intel\nalias fs-ext4 ext4\n",
            "kernel/fs/erofs/erofs.ko\nkernel/drivers/virtio/virtio-mmio.ko\n",
        )
    }

    #[test]
    fn what_a_module_needs_comes_before_it_and_what_it_had_better_have_too() {
        let Has::Files(files) = modules().has("ext4") else {
            panic!("no files")
        };
        let names: Vec<_> = files.iter().map(|file| name_of(file)).collect();
        let at = |name| names.iter().position(|found| found == name).unwrap();
        assert_eq!(names.len(), 6, "{names:?}");
        assert_eq!(at("ext4"), 5);
        assert!(at("crc16") < at("jbd2"));
        assert!(at("crc32c_generic") < at("ext4") && at("crc32c_intel") < at("ext4"));
    }

    #[test]
    fn what_needs_each_other_is_there_once() {
        let Has::Files(files) = modules().has("virtio-blk") else {
            panic!("no files")
        };
        assert_eq!(files.len(), 3);
        assert_eq!(files[2], "kernel/drivers/block/virtio_blk.ko.xz");
    }

    #[test]
    fn modules_are_files_or_built_in_or_missing() {
        assert_eq!(modules().has("erofs"), Has::BuiltIn);
        assert_eq!(modules().has("virtio_mmio"), Has::BuiltIn);
        assert_eq!(modules().has("xfs"), Has::Not);
    }

    #[test]
    fn modules_are_read_as_they_are_or_decompressed() {
        let directory = tempfile::tempdir().unwrap();
        let elf = [b"\x7fELF".as_slice(), &[7; 3000]].concat();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("plain.ko"), &elf).unwrap();
        fs::write(at("broken.ko"), b"\xfd7zXZ\0and no more").unwrap();
        symlink("nowhere", at("gone.ko")).unwrap();
        fs::write(at(DEPENDENCIES), "plain.ko:\n").unwrap();
        fs::write(at("text.ko"), "no module, but somebody's secret").unwrap();
        let opened = Directory::open(directory.path()).unwrap();
        let modules = Modules::read(&opened).unwrap();
        assert_eq!(modules.has("plain"), Has::Files(vec!["plain.ko".into()]));
        assert_eq!(load(&opened, "plain.ko").unwrap(), elf);
        for file in [
            "broken.ko",
            "gone.ko",
            "text.ko",
            "../plain.ko",
            "/etc/passwd",
        ] {
            assert!(load(&opened, file).is_err(), "{file}");
        }
        fs::remove_file(at(DEPENDENCIES)).unwrap();
        assert!(Modules::read(&opened).is_err());
    }

    #[test]
    fn a_chain_of_needs_without_an_end_is_cut() {
        let mut list = String::new();
        for index in 0..100_000 {
            list.push_str(&format!("m{index}.ko: m{}.ko\n", index + 1));
        }
        let Has::Files(files) = Modules::parse(&list, "", "", "").has("m0") else {
            panic!("no files")
        };
        assert_eq!(files.len(), MAX_NEEDED);
    }

    proptest! {
        #[test]
        fn any_lists_are_read(
            dep in "([a-c]{1,2}/)?[a-c]{1,2}(\\.ko)?:( [a-c]{1,2}\\.ko){0,3}\n([a-c]{1,2}\\.ko:( [a-c]{1,2}\\.ko){0,3}\n){0,9}",
            soft in "(softdep [a-c]{1,2} (pre:|post:)?( [a-c]{1,2}){0,3}\n){0,5}",
            alias in "(alias [a-c]{1,2} [a-c]{1,2}\n){0,5}",
            any: String,
        ) {
            Modules::parse(&dep, &soft, &alias, &any).has("a");
            Modules::parse(&any, &any, &any, "").has("a");
        }
    }
}
