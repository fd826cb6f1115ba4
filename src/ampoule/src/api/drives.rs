//! `PATCH /drives/{drive_id}`: an image's new size, another image, other limits.
use std::{fs::File, io, os::fd::OwnedFd, path::PathBuf};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use vmm::{
    config::{CacheType, Definition, Drive, DriveUpdate, TokenBucket},
    virtio::block::{Handle, Image},
};

use super::response::Response;
use crate::run::{claim, disk};

/// A disk of the machine's.
pub struct Disk {
    /// Its drive's id.
    pub id: String,
    /// By which it is changed.
    pub handle: Handle,
}

/// Changes the drive that is called `id`, all of it or nothing.
pub(super) fn change(
    definition: &mut Definition,
    disks: &[Disk],
    id: &str,
    update: DriveUpdate,
    descriptors: Vec<OwnedFd>,
) -> Response {
    if update.drive_id != id {
        return Response::fault(format_args!(
            "the path says drive {id:?}, the body says {:?}",
            update.drive_id
        ));
    }
    let drive = (definition.drives.iter_mut()).find(|drive| drive.drive_id == id);
    let disk = disks.iter().find(|disk| disk.id == id);
    let (Some(drive), Some(disk)) = (drive, disk) else {
        return Response::fault(format_args!("there is no drive {id:?}"));
    };
    match apply(drive, &disk.handle, update, descriptors) {
        Ok(()) => Response::done(),
        Err(error) => Response::fault(format_args!("drive {id:?}: {error}")),
    }
}

/// The limits come last: they cannot fail.
fn apply(
    drive: &mut Drive,
    handle: &Handle,
    update: DriveUpdate,
    descriptors: Vec<OwnedFd>,
) -> Result<(), Refused> {
    match (update.path_on_host, one(descriptors)?) {
        (Some(path), Some(image)) => {
            handle
                .replace(image_in(image, drive)?)
                .map_err(Refused::Host)?;
            drive.path_on_host = path;
        }
        (None, Some(_)) => return Err(Refused::Nameless),
        (Some(path), None) if path != drive.path_on_host => {
            return Err(Refused::OutOfReach(path));
        }
        (None, None) if update.rate_limiter.is_some() => {}
        (_, None) => drop(handle.resize().map_err(Refused::Host)?),
    }
    if let Some(limits) = &update.rate_limiter {
        let given = |bucket: Option<&TokenBucket>| bucket.map(|bucket| Some(disk::rate(bucket)));
        handle.limit(given(limits.bandwidth.as_ref()), given(limits.ops.as_ref()));
        drive.rate_limiter.take(limits);
    }
    Ok(())
}

/// Why a drive stays as it is.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(
        "{} cannot be opened from inside the sandbox: open it, and send its descriptor along with the request (SCM_RIGHTS); \
         the path that it has now, or none, has its size looked at again",
        .0.display()
    )]
    OutOfReach(PathBuf),
    #[error("an image came along without `path_on_host`, which says what it is called")]
    Nameless,
    #[error("{0} descriptors came along, where one is an image")]
    TooMany(usize),
    #[error("what came along cannot be its image: {0}")]
    NoImage(io::Error),
    #[error("{0}")]
    Host(io::Error),
}

fn one(descriptors: Vec<OwnedFd>) -> Result<Option<OwnedFd>, Refused> {
    match descriptors.len() {
        0 | 1 => Ok(descriptors.into_iter().next()),
        more => Err(Refused::TooMany(more)),
    }
}

/// The image that a client opened, if it is one and is open as this drive needs it; locked, as those that are opened here.
fn image_in(descriptor: OwnedFd, drive: &Drive) -> Result<Image, Refused> {
    let unfit = |why: &str| Err(Refused::NoImage(io::Error::other(why.to_owned())));
    let host = |error: rustix::io::Errno| Refused::NoImage(error.into());
    if drive.cache_type == CacheType::None {
        return unfit("a drive with `cache_type` `None` keeps the image that it has");
    }
    let flags = fcntl_getfl(&descriptor).map_err(host)?;
    if flags.contains(OFlags::PATH) {
        return unfit("it is a path (O_PATH), and no open file");
    }
    let metadata = fstat(&descriptor).map_err(host)?;
    let kind = FileType::from_raw_mode(metadata.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
        return unfit("it is neither a file nor a block device");
    }
    let readable = !matches!(flags & OFlags::RWMODE, OFlags::WRONLY);
    let writable = flags & OFlags::RWMODE == OFlags::RDWR;
    if !(writable || drive.is_read_only && readable) {
        return match drive.is_read_only {
            true => unfit("it is not open for reading"),
            false => unfit("it is not open for reading and writing"),
        };
    }
    // Each write would go to its end, or has to be aligned.
    if flags.intersects(OFlags::APPEND | OFlags::DIRECT) {
        return unfit("it is open with O_APPEND or O_DIRECT");
    }
    let file = File::from(descriptor);
    claim::lock(&file, drive.is_read_only).map_err(|error| Refused::NoImage(error.into()))?;
    Ok(Image::cached(file))
}
