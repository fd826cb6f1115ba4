//! Disks: what `--disk` says, and the images that it names, opened.
use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::FileTypeExt},
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex},
};

use rustix::fs::{Mode, OFlags};
use vmm::{
    config::{CacheType, Drive},
    machine::Devices,
    virtio::block::{Block, Cache, Choice, Image, Options},
};

use crate::failure::Failure;

/// `PATH[,ro][,format=raw][,cache=writeback|writethrough][,id=ID][,serial=SERIAL]`. Without an id, its place among the disks is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskArg {
    path: PathBuf,
    read_only: bool,
    cache: CacheType,
    id: Option<String>,
    serial: Option<String>,
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
            cache: CacheType::default(),
            id: None,
            serial: None,
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
            ("cache", value) => {
                self.cache = value.parse().map_err(|error| format!("cache: {error}"))?;
            }
            ("id" | "serial", "") => return Err(format!("{key}: a value is missing")),
            ("id", value) => self.id = Some(value.into()),
            ("serial", value) => self.serial = Some(value.into()),
            _ => {
                return Err(format!(
                    "{text}: no such option (there are ro, format=raw, cache=, id=, serial=)"
                ));
            }
        }
        Ok(())
    }

    /// The drive that it stands for, as number `index` of the machine's.
    pub fn drive(&self, index: usize) -> Drive {
        Drive {
            drive_id: self.id.clone().unwrap_or_else(|| format!("disk{index}")),
            path_on_host: self.path.clone(),
            is_read_only: self.read_only,
            cache_type: self.cache,
            serial: self.serial.clone(),
        }
    }
}

/// Opens the images of `drives`, and locks them.
///
/// # Errors
/// When one is not there, not an image, not allowed, or in use.
pub(super) fn open(drives: &[Drive]) -> Result<Devices, Failure> {
    let devices = drives.iter().zip(0u32..).map(|(drive, index)| {
        let what = || format!("disk {}", drive.path_on_host.display());
        let options = open_disk(drive).map_err(|error| Failure::new(what(), error))?;
        let block = Block::new(options, format!("disk{index}"), Choice::Best);
        let block = block.map_err(|error| Failure::new(what(), error))?;
        Ok(Arc::new(Mutex::new(block)) as _)
    });
    devices.collect::<Result<_, _>>().map(Devices)
}

fn open_disk(drive: &Drive) -> io::Result<Options> {
    let access = match drive.is_read_only {
        true => OFlags::RDONLY,
        false => OFlags::RDWR,
    };
    // Not to wait for the other end of what turns out to be a FIFO.
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(&drive.path_on_host, flags, Mode::empty())?);
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::other("neither a file nor a block device"));
    }
    lock(&file, drive.is_read_only)?;
    let cache = match drive.cache_type {
        CacheType::WriteBack => Cache::WriteBack,
        CacheType::WriteThrough => Cache::WriteThrough,
    };
    let serial = drive.serial.as_ref().unwrap_or(&drive.drive_id);
    Ok(Options {
        image: Image::cached(file),
        read_only: drive.is_read_only,
        cache,
        id: drive.drive_id.clone(),
        serial: serial.clone(),
        queues: 1,
    })
}

/// Locks the whole image for as long as it is open: readers share it, a writer has it alone.
fn lock(file: &File, shared: bool) -> io::Result<()> {
    let kind = if shared { libc::F_RDLCK } else { libc::F_WRLCK };
    let lock = libc::flock {
        l_type: libc::c_short::try_from(kind).expect("a small number"),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).expect("a small number"),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open and the structure lives while the call lasts.
    let locked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if locked == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::other(match shared {
            true => "another program is writing to it",
            false => "another program is using it (to share an image, give it to all with ,ro)",
        }),
        _ => error,
    })
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
        assert_eq!(drive.cache_type, CacheType::WriteBack);
    }

    #[test]
    fn options_follow_the_path() {
        let text = "d.raw,ro,format=raw,cache=writethrough,id=root,serial=S1";
        let drive = text.parse::<DiskArg>().unwrap().drive(0);
        assert!(drive.is_read_only);
        assert_eq!(drive.cache_type, CacheType::WriteThrough);
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
            "d,cache=none",
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
            open_disk(&text.parse::<DiskArg>().unwrap().drive(0))
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
            assert!(open_disk(&format!("{path},ro").parse::<DiskArg>().unwrap().drive(0)).is_err());
        }
    }
}
