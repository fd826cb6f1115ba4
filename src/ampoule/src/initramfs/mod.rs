//! The initial RAM disk for kernels whose drivers are modules, made when a machine has disks and nobody gave one.
//!
//! In it are the agent, which becomes the guest's first process, and the modules that it needs to mount the root: those of the machine's
//! devices, and those of the file systems that the root may hold. Decompressing them takes tens of milliseconds, so it is kept.
mod companion;
mod cpio;
mod modules;

use std::{
    fs::{self, File, Metadata},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use protocol::{
    filesystem::Kind,
    modules::{DIRECTORY, Group, LIST},
};
use rustix::fs::{MemfdFlags, memfd_create};
use vmm::{
    boot::cache::{self, Cache, Key},
    config::Transport,
};

use self::{
    cpio::Archive,
    modules::{DEPENDENCIES, Has, Modules},
};
use crate::{failure::Failure, files::Directory};

/// To change with what is put into the archive.
const VERSION: &str = "2";
/// Bytes that all modules together may have: Debian's for every file system have some 10 MB.
const MAX_MODULES: usize = 256 << 20;

/// What a machine needs of its kernel.
#[derive(Clone, Debug)]
pub struct Needs<'a> {
    /// The kernel's release, as `uname -r` says it.
    pub release: &'a str,
    /// Where the kernel is: its modules may be beside it.
    pub kernel: &'a Path,
    /// How the guest finds its devices; `Auto` where the kernel's drivers decide.
    pub transport: Transport,
    /// What the root may be.
    pub file_systems: Vec<Kind>,
    /// The drivers of devices besides disks. Who does without them boots all the same.
    pub drivers: Vec<&'static str>,
}

/// What came of it.
#[derive(Debug)]
pub enum Made {
    /// A RAM disk.
    Archive {
        /// The archive.
        file: File,
        /// Whether it was in the cache.
        cached: bool,
        /// The transport that it has the drivers for.
        transport: Transport,
    },
    /// The kernel has all that is needed built in, for this transport.
    NotNeeded(Transport),
    /// There are no modules for this kernel in any of these directories.
    NoModules(Vec<PathBuf>),
}

/// Makes the RAM disk, or finds it in `cache`.
///
/// # Errors
/// When the agent or a module cannot be read, or the kernel has no driver for the machine's disks.
pub fn make(needs: &Needs<'_>, cache: Option<&Cache>) -> Result<Made, Failure> {
    let places = places(needs);
    let kernel_owner = fs::metadata(needs.kernel).map(|kernel| kernel.uid()).ok();
    let found = places.iter().find_map(|place| find(place, kernel_owner));
    let Some((directory, list)) = found else {
        return Ok(Made::NoModules(places));
    };
    let agent_path = companion::find("ampoule-agent")?;
    let failed = |path: &Path| {
        let what = path.display().to_string();
        move |error| Failure::new(what, error)
    };
    let mut agent = File::open(&agent_path).map_err(failed(&agent_path))?;
    let agent_data = agent.metadata().map_err(failed(&agent_path))?;
    let sources = [cache::identity(&list), cache::identity(&agent_data)];
    for &transport in candidates(needs.transport) {
        let key = key(needs, transport, &sources);
        if let Some((file, _)) = cache.and_then(|cache| cache.lookup(&key)) {
            return Ok(Made::Archive {
                file,
                cached: true,
                transport,
            });
        }
    }
    let modules = Modules::read(&directory);
    let modules = modules.map_err(failed(&directory.path().join(DEPENDENCIES)))?;
    let transport = choose(&modules, needs.transport);
    let wanted = select(&modules, needs, transport, directory.path())?;
    if wanted.is_empty() {
        return Ok(Made::NotNeeded(transport));
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut agent, &mut bytes).map_err(failed(&agent_path))?;
    let mut archive = Vec::new();
    write(&directory, &wanted, &bytes, &mut archive)?;
    let racy = [&list, &agent_data].into_iter().any(cache::is_racy);
    let key = key(needs, transport, &sources);
    let stored = cache
        .filter(|_| !racy)
        .and_then(|cache| store(cache, &key, &archive).ok());
    let file = stored.map_or_else(|| in_memory(&archive), Ok);
    let file = file.map_err(|error| Failure::new("the initial RAM disk", error))?;
    Ok(Made::Archive {
        file,
        cached: false,
        transport,
    })
}

/// The transports that may be meant, the one that serves disks quicker first: a queue on PCI is rung by an I/O port and has an interrupt of
/// its own, and neither takes an exit.
fn candidates(wanted: Transport) -> &'static [Transport] {
    match wanted {
        Transport::Auto => &[Transport::Pci, Transport::Mmio],
        Transport::Mmio => &[Transport::Mmio],
        Transport::Pci => &[Transport::Pci],
    }
}

/// The first that the kernel has a driver for, or that nobody chose to do without.
fn choose(modules: &Modules, wanted: Transport) -> Transport {
    let candidates = candidates(wanted);
    let has = |transport: &&Transport| modules.has(driver(**transport)) != Has::Not;
    let found = candidates.iter().find(has).or(candidates.last());
    found.copied().unwrap_or(Transport::Mmio)
}

/// The modules' directory at `place`, and their list: if it is there, and nobody's but root's, this user's, or whose the kernel is. Others must
/// not slip code into a guest by a directory beside its kernel, in `/tmp` for example.
fn find(place: &Path, kernel_owner: Option<u32>) -> Option<(Directory, Metadata)> {
    let directory = Directory::open(place).ok()?;
    let list = directory.file(DEPENDENCIES).ok()?.metadata().ok()?;
    let own = rustix::process::geteuid().as_raw();
    let trusted = [0, own].contains(&list.uid()) || kernel_owner == Some(list.uid());
    trusted.then_some((directory, list))
}

/// Where a kernel's modules may be: in a tree where the kernel is in `boot`, beside the kernel, in this host's own place.
fn places(needs: &Needs<'_>) -> Vec<PathBuf> {
    let beside = needs.kernel.parent().unwrap_or(Path::new(""));
    [
        beside.join("../lib/modules"),
        beside.join("../usr/lib/modules"),
        beside.join("modules"),
        PathBuf::from("/lib/modules"),
    ]
    .into_iter()
    .map(|place| place.join(needs.release))
    .collect()
}

fn key(needs: &Needs<'_>, transport: Transport, [list, agent]: &[String; 2]) -> Key {
    let kinds: Vec<_> = needs.file_systems.iter().map(|kind| kind.name()).collect();
    Key::new(&[
        VERSION,
        needs.release,
        driver(transport),
        &kinds.join("+"),
        &needs.drivers.join("+"),
        list,
        agent,
    ])
}

fn driver(transport: Transport) -> &'static str {
    match transport {
        Transport::Auto | Transport::Mmio => "virtio_mmio",
        Transport::Pci => "virtio_pci",
    }
}

/// A module's file, and what it is for.
type Wanted = (Group, String);

/// The modules to put in, in the order to load them in. The guest is to hear the power button, too.
fn select(
    modules: &Modules,
    needs: &Needs<'_>,
    transport: Transport,
    directory: &Path,
) -> Result<Vec<Wanted>, Failure> {
    let mut wanted = Vec::new();
    for name in [driver(transport), "virtio_blk"] {
        match modules.has(name) {
            Has::Not => {
                return Err(Failure::new(
                    format_args!("kernel {}", needs.kernel.display()),
                    format_args!("it has no module {name} in {}", directory.display()),
                )
                .hint("another kernel, or --initrd"));
            }
            Has::BuiltIn => {}
            Has::Files(files) => add(&mut wanted, Group::Machine, files),
        }
    }
    let kinds = needs.file_systems.iter();
    let groups = kinds.map(|kind| (Group::FileSystem(*kind), kind.name()));
    let others = ["button", "evdev"].iter().chain(&needs.drivers);
    let others = others.map(|name| (Group::Machine, *name));
    for (group, name) in groups.chain(others) {
        // A root of another kind than the kernel knows is for the guest to refuse.
        if let Has::Files(files) = modules.has(name) {
            add(&mut wanted, group, files);
        }
    }
    Ok(wanted)
}

fn add(wanted: &mut Vec<Wanted>, group: Group, files: Vec<String>) {
    for file in files {
        let entry = (group, file);
        if !wanted.contains(&entry) {
            wanted.push(entry);
        }
    }
}

/// Writes the archive.
fn write(
    directory: &Directory,
    wanted: &[Wanted],
    agent: &[u8],
    archive: &mut Vec<u8>,
) -> Result<(), Failure> {
    let mut sink = |bytes: &[u8]| archive.write_all(bytes);
    let mut archive = Archive::new(&mut sink);
    let failed = |error| Failure::new("the initial RAM disk", error);
    for name in ["dev", "proc", "root", inside(DIRECTORY)] {
        archive.directory(name).map_err(failed)?;
    }
    archive.device("dev/console", (5, 1)).map_err(failed)?;
    archive.program("init", agent).map_err(failed)?;
    let mut list = String::new();
    let mut written: Vec<&str> = Vec::new();
    let mut room = MAX_MODULES;
    for (group, file) in wanted {
        let name = format!("{}.ko", modules::name_of(file));
        list.push_str(&format!("{group} {name}\n"));
        if written.contains(&file.as_str()) {
            continue;
        }
        written.push(file);
        let refused = |error| Failure::new(format_args!("module {file}"), error);
        let bytes = modules::load(directory, file).map_err(refused)?;
        room = room.checked_sub(bytes.len()).ok_or_else(|| {
            refused(io::Error::other(
                "the modules that are needed are too large",
            ))
        })?;
        let path = format!("{}/{name}", inside(DIRECTORY));
        archive.file(&path, &bytes).map_err(failed)?;
    }
    archive
        .file(inside(LIST), list.as_bytes())
        .map_err(failed)?;
    archive.finish().map_err(failed)
}

/// A path as it stands in an archive.
fn inside(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn store(cache: &Cache, key: &Key, archive: &[u8]) -> io::Result<File> {
    let mut store = cache.begin()?;
    store.write(archive)?;
    store.commit(key)
}

/// Without a cache it lives as long as this process.
fn in_memory(archive: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("initramfs", MemfdFlags::CLOEXEC)?);
    file.write_all(archive)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
