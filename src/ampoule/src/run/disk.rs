//! Disks: what `--disk` says, and the images that it names, opened.
use std::{
    fs::File,
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::fs::{Mode, OFlags};
use vmm::{
    config::{CacheType, Definition, Drive, MAX_QUEUES, TokenBucket},
    rate_limit::Rate,
    virtio::{
        block::{Block, Cache, Choice, Image, Options},
        transport::SharedDevice,
    },
};

use super::claim;
use crate::{api, failure::Failure};

/// `PATH[,ro][,format=raw][,cache=writeback|writethrough|none|unsafe][,id=ID][,serial=SERIAL][,queues=N]`. Without an id, its place
/// among the disks is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskArg {
    path: PathBuf,
    read_only: bool,
    cache: CacheType,
    id: Option<String>,
    serial: Option<String>,
    queues: Option<u16>,
}

impl FromStr for DiskArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let path = parts.next().unwrap_or_default();
        if path.is_empty() {
            return Err("the path of an image comes first: disk.raw,ro".into());
        }
        let mut disk = Self {
            path: path.into(),
            read_only: false,
            cache: CacheType::Writeback,
            id: None,
            serial: None,
            queues: None,
        };
        for part in parts {
            disk.option(part)?;
        }
        Ok(disk)
    }
}

impl DiskArg {
    fn option(&mut self, text: &str) -> Result<(), String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        match (key, value) {
            ("ro", "") => self.read_only = true,
            ("format", "raw") => {}
            ("format", other) => {
                return Err(format!("format={other}: only raw images are supported yet"));
            }
            ("cache", value) => self.cache = cache(value)?,
            ("queues", value) => {
                let wrong = |_| format!("queues={value}: expected a number from 1 to {MAX_QUEUES}");
                self.queues = Some(value.parse().map_err(wrong)?);
            }
            ("id" | "serial", "") => return Err(format!("{key}: a value is missing")),
            ("id", value) => self.id = Some(value.into()),
            ("serial", value) => self.serial = Some(value.into()),
            _ => {
                return Err(format!(
                    "{text}: no such option (there are ro, format=raw, cache=, id=, serial=, queues=)"
                ));
            }
        }
        Ok(())
    }

    /// The drive that it stands for, as number `index` of the machine's.
    pub fn drive(&self, index: usize) -> Drive {
        let id = self.id.clone().unwrap_or_else(|| format!("disk{index}"));
        let mut drive = Drive::new(id, &self.path);
        drive.is_read_only = self.read_only;
        drive.cache_type = self.cache;
        drive.serial.clone_from(&self.serial);
        drive.queues = self.queues;
        drive
    }
}

/// The names of modes of caching, as virtual machine monitors' options have them.
fn cache(name: &str) -> Result<CacheType, String> {
    Ok(match name {
        "writeback" => CacheType::Writeback,
        "writethrough" => CacheType::Writethrough,
        "none" => CacheType::None,
        "unsafe" => CacheType::Unsafe,
        _ => {
            return Err(format!(
                "cache={name}: expected writeback, writethrough, none or unsafe"
            ));
        }
    })
}

/// Queues of a drive that says nothing of them: one for each vCPU, up to as many.
const USUAL_QUEUES: u32 = 4;

/// The disks of a machine: for its guest, and for who changes them.
pub(super) type Disks = (Vec<SharedDevice>, Vec<api::Disk>);

/// Opens the images of the definition's drives, and locks them.
///
/// # Errors
/// When one is not there, not an image, not allowed, or in use.
pub(super) fn open(definition: &Definition) -> Result<Disks, Failure> {
    let usual = definition.machine_config.vcpu_count.clamp(1, USUAL_QUEUES);
    let usual = u16::try_from(usual).expect("a small number");
    let devices = definition.drives_in_order().zip(0u32..);
    let devices = devices.map(|(drive, index)| {
        let failed = |error| Failure::new(format!("disk {}", drive.path_on_host.display()), error);
        let options = open_disk(drive, usual).map_err(failed)?;
        let block = Block::new(options, format!("disk{index}"), Choice::Best).map_err(failed)?;
        let handle = block.handle();
        handle.limit(
            Some(drive.rate_limiter.bandwidth.as_ref().map(rate)),
            Some(drive.rate_limiter.ops.as_ref().map(rate)),
        );
        let id = drive.drive_id.clone();
        Ok((Arc::new(Mutex::new(block)) as _, api::Disk { id, handle }))
    });
    devices.collect()
}

/// As it is kept to.
pub(crate) fn rate(bucket: &TokenBucket) -> Rate {
    Rate {
        size: bucket.size,
        refill: Duration::from_millis(bucket.refill_time),
        burst: bucket.one_time_burst.unwrap_or(0),
    }
}

fn open_disk(drive: &Drive, usual_queues: u16) -> io::Result<Options> {
    let file = open_image(drive, OFlags::empty())?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::other("neither a file nor a block device"));
    }
    let claim = open_again(drive, &file, OFlags::empty())?;
    claim::lock_or_name_holder(&claim, drive.is_read_only)?;
    let (cache, image) = match drive.cache_type {
        CacheType::Unsafe => (Cache::Unsafe, Image::cached(file)),
        CacheType::Writeback => (Cache::WriteBack, Image::cached(file)),
        CacheType::Writethrough => (Cache::WriteThrough, Image::cached(file)),
        CacheType::None => (Cache::WriteBack, around_the_cache(drive, file)?),
    };
    Ok(Options {
        image: image.claimed(claim),
        read_only: drive.is_read_only,
        cache,
        id: drive.drive_id.clone(),
        serial: drive.serial.as_ref().unwrap_or(&drive.drive_id).clone(),
        queues: drive.queues.unwrap_or(usual_queues),
    })
}

fn open_image(drive: &Drive, more: OFlags) -> io::Result<File> {
    let access = match drive.is_read_only {
        true => OFlags::RDONLY,
        false => OFlags::RDWR,
    };
    // Not to wait for the other end of what turns out to be a FIFO.
    let flags = access | more | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::open(&drive.path_on_host, flags, Mode::empty())?.into())
}

/// The image without the host's page cache.
fn around_the_cache(drive: &Drive, file: File) -> io::Result<Image> {
    let direct = open_again(drive, &file, OFlags::DIRECT).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => io::Error::other(
            "its file system cannot go around the page cache (hint: without cache=none)",
        ),
        _ => error,
    })?;
    Ok(Image::direct(file, direct))
}

/// What `file` is, open once more.
fn open_again(drive: &Drive, file: &File, more: OFlags) -> io::Result<File> {
    let again = open_image(drive, more)?;
    let identity = |file: &File| file.metadata().map(|data| (data.dev(), data.ino()));
    if identity(file)? != identity(&again)? {
        return Err(io::Error::other("it was replaced while it was opened"));
    }
    Ok(again)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_alone_is_a_writable_raw_disk() {
        let drive = "a b.raw".parse::<DiskArg>().unwrap().drive(3);
        assert_eq!(drive.path_on_host, PathBuf::from("a b.raw"));
        assert_eq!(drive.drive_id, "disk3");
        assert!(!drive.is_read_only);
        assert_eq!(drive.cache_type, CacheType::Writeback);
    }

    #[test]
    fn options_follow_the_path() {
        let text = "d.raw,ro,format=raw,cache=writethrough,id=root,serial=S1";
        let drive = text.parse::<DiskArg>().unwrap().drive(0);
        assert!(drive.is_read_only);
        assert_eq!(drive.cache_type, CacheType::Writethrough);
        assert_eq!(
            (drive.drive_id.as_str(), drive.serial.as_deref()),
            ("root", Some("S1"))
        );
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for text in [
            "",
            ",ro",
            "d,rw",
            "d,format=qcow2",
            "d,cache=safe",
            "d,queues=x",
            "d,id=",
            "d,ro=1",
        ] {
            assert!(text.parse::<DiskArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn writers_are_alone_and_readers_share() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let open = |options: &str| {
            let text = format!("{}{options}", image.path().display());
            open_disk(&text.parse::<DiskArg>().unwrap().drive(0), 1)
        };
        let writer = open("").unwrap();
        assert!(open("").unwrap_err().to_string().contains("using it"));
        assert!(open(",ro").unwrap_err().to_string().contains("writing"));
        drop(writer);
        let _readers = (open(",ro").unwrap(), open(",ro").unwrap());
        assert!(open("").is_err());
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for path in ["/", "/dev/null", "/nonexistent"] {
            assert!(
                open_disk(
                    &format!("{path},ro").parse::<DiskArg>().unwrap().drive(0),
                    1
                )
                .is_err()
            );
        }
    }
}
