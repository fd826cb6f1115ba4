//! The initial RAM disk: the one that is named, or one that is made for a kernel with its drivers in modules.
use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use protocol::filesystem::{Kind, identify};
use vmm::{
    boot::{cache::Cache, initrd::Initrd, kernel::Kernel},
    config::{Definition, Drive, Transport, boot_args},
};

use crate::{
    failure::Failure,
    files,
    initramfs::{self, Made, Needs},
    paths::Paths,
};

/// The RAM disk that the definition names; made, where it names none and has disks. And how the guest finds its devices: where the
/// definition leaves that open, what is made decides. A `directed` guest may get network cards while it runs.
///
/// # Errors
/// When it cannot be read, or not be made though the kernel has modules.
pub(super) fn open(
    definition: &Definition,
    kernel: &Kernel,
    paths: &Paths,
    (directed, verbose): (bool, bool),
) -> Result<(Option<Initrd>, Transport), Failure> {
    let transport = definition.effective_transport();
    if let Some(path) = &definition.boot_source.initrd_path {
        return Ok((Some(open_named(path)?), transport));
    }
    let kernel_path = &definition.boot_source.kernel_image_path;
    let release = release(kernel, kernel_path).filter(|_| !definition.drives.is_empty());
    let Some(release) = release else {
        return Ok((None, transport));
    };
    let needs = Needs {
        release,
        kernel: kernel_path,
        transport,
        file_systems: file_systems(definition),
        drivers: drivers(definition, directed),
    };
    let cache = paths.cache.as_ref();
    let cache = cache.map(|cache| Cache::new(cache.join("initramfs"), ".cpio"));
    let made = initramfs::make(&needs, cache.as_ref())?;
    if verbose {
        report(&made);
    }
    match made {
        Made::Archive {
            file, transport, ..
        } => {
            let initrd = Initrd::open(file);
            let initrd = initrd.map_err(|error| Failure::new("the initial RAM disk", error))?;
            Ok((Some(initrd), transport))
        }
        Made::NotNeeded(transport) => Ok((None, transport)),
        Made::NoModules(places) => {
            note_no_modules(release, &places);
            Ok((None, transport))
        }
    }
}

/// It may well have all that it needs built in. If not, this is what its panic is about.
fn note_no_modules(release: &str, places: &[PathBuf]) {
    let places: Vec<_> = (places.iter())
        .map(|place| place.display().to_string())
        .collect();
    eprintln!(
        "ampoule: note: no modules for kernel {release} (looked in {}): its drivers for disks must be built in (hint: --initrd)",
        places.join(", ")
    );
}

fn report(made: &Made) {
    let text = match made {
        Made::Archive { cached: true, .. } => "generated, from the cache",
        Made::Archive { cached: false, .. } => "generated",
        Made::NotNeeded(_) => "not needed: the drivers are built in",
        Made::NoModules(_) => return,
    };
    eprintln!("ampoule: initial RAM disk: {text}");
}

fn open_named(path: &Path) -> Result<Initrd, Failure> {
    let what = || format!("initrd {}", path.display());
    let file = files::open(path).map_err(|error| Failure::new(what(), error))?;
    Initrd::open(file).map_err(|error| Failure::new(what(), error))
}

/// What the kernel calls itself: in a bzImage's header, in the name of an ELF file. It becomes part of paths.
fn release<'a>(kernel: &'a Kernel, path: &'a Path) -> Option<&'a str> {
    const LONGEST: usize = 64;
    let in_name = || path.file_name()?.to_str()?.strip_prefix("vmlinux-");
    let release = match kernel.version() {
        Some(version) => version.split_whitespace().next()?,
        None => in_name()?,
    };
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~-".contains(&byte);
    let sound = release.len() <= LONGEST
        && release.bytes().all(harmless)
        && release.starts_with(|first: char| first.is_ascii_digit());
    sound.then_some(release)
}

/// The drivers of devices besides disks, with those of devices that a `directed` guest may get later. The root may have none for this
/// kernel, so that all come along.
fn drivers(definition: &Definition, directed: bool) -> Vec<&'static str> {
    let balloon = definition.balloon.is_some();
    let cards = directed || !definition.network_interfaces.is_empty();
    let vsock = definition.vsock.is_some();
    let drivers = [
        (balloon, "virtio_balloon"),
        (cards, "virtio_net"),
        (vsock, "vmw_vsock_virtio_transport"),
    ];
    let wanted = drivers.into_iter().filter(|(wanted, _)| *wanted);
    wanted.map(|(_, name)| name).collect()
}

/// The file systems that the root may hold: what its image says that it holds, or any, where the root is somewhere else.
fn file_systems(definition: &Definition) -> Vec<Kind> {
    let user = definition
        .boot_source
        .boot_args
        .as_deref()
        .unwrap_or_default();
    let elsewhere = boot_args::tokens(user)
        .map(boot_args::name)
        .any(|name| name == "root" || name == "rootfstype");
    let root = definition.root_drive().filter(|_| !elsewhere);
    match root.and_then(identify_image) {
        Some(kind) => vec![kind],
        None => Kind::ALL.to_vec(),
    }
}

/// What the image says. It is a hint by which to choose drivers, and nothing else: the guest looks for itself.
fn identify_image(drive: &Drive) -> Option<Kind> {
    let image: File = files::open(&drive.path_on_host).ok()?;
    let found = identify(|offset, buffer| image.read_exact_at(buffer, offset).is_ok());
    found.map(|found| found.kind)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vmm::config::BootSource;

    use super::*;

    fn definition(image: &[u8], boot_args: Option<&str>) -> (Definition, tempfile::NamedTempFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(image).unwrap();
        let mut definition = Definition::new(BootSource::new("vmlinuz"));
        let mut drive = Drive::new("root", file.path());
        drive.is_root_device = true;
        definition.drives.push(drive);
        definition.boot_source.boot_args = boot_args.map(str::to_owned);
        (definition, file)
    }

    #[test]
    fn an_image_that_says_what_it_is_needs_one_driver() {
        let (squashed, _file) = definition(b"hsqs and more", None);
        assert_eq!(file_systems(&squashed), [Kind::Squashfs]);
        let (quiet, _file) = definition(b"hsqs and more", Some("quiet"));
        assert_eq!(file_systems(&quiet), [Kind::Squashfs]);
    }

    #[test]
    fn others_may_need_any() {
        let (partitioned, _file) = definition(&[0; 1024], None);
        assert_eq!(file_systems(&partitioned), Kind::ALL);
        let (elsewhere, _file) = definition(b"hsqs", Some("root=/dev/vdb"));
        assert_eq!(file_systems(&elsewhere), Kind::ALL);
    }
}
