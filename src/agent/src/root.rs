//! Mounting the root file system, and making it the root.
use alloc::{ffi::CString, string::String, vec::Vec};
use core::ffi::CStr;

use linux_raw_sys::general::{
    MS_MOVE, MS_NOATIME, MS_NODEV, MS_NODIRATIME, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_RELATIME,
    MS_SYNCHRONOUS,
};
use protocol::filesystem::Kind;
use syscalls::Errno;

use crate::{
    device::Device,
    failure::{Failure, Said},
    modules,
    parameters::Parameters,
    sys,
};

/// Where the root is mounted before it is one.
const NEW_ROOT: &CStr = c"/root";

/// Mounts `/proc` and `/dev`, for the command line and the disks.
pub(crate) fn mount_kernel_file_systems() -> Result<(), Failure> {
    for (kind, target) in [(c"proc", c"/proc"), (c"devtmpfs", c"/dev")] {
        sys::mount(kind, target, kind, 0, c"").map_err(Failure::on(target.to_string_lossy()))?;
    }
    Ok(())
}

/// The file systems that the root may be of: those that `rootfstype=` names, or the one that the device says.
pub(crate) fn kinds_of(device: &Device, parameters: &Parameters) -> Vec<Kind> {
    match &parameters.file_systems {
        Some(names) => names.split(',').filter_map(Kind::named).collect(),
        None => device.identity.iter().map(|found| found.kind).collect(),
    }
}

/// Mounts the root device at [`NEW_ROOT`].
pub(crate) fn mount(
    device: &Device,
    kinds: &[Kind],
    parameters: &Parameters,
) -> Result<(), Failure> {
    let path = device.path.to_string_lossy();
    let names = names(kinds, parameters);
    if names.is_empty() {
        return Err(Failure::new(format_args!(
            "{path}: no file system that is known (hint: rootfstype=NAME in --cmdline; for a partition root=/dev/vda1)"
        )));
    }
    let (flags, data) = options(parameters);
    let mut last = None;
    for name in &names {
        match sys::mount(&device.path, NEW_ROOT, name, flags, &data) {
            Ok(()) => return Ok(()),
            Err(error) => last = Some((name, error)),
        }
    }
    let (name, error) = last.unwrap_or((&names[0], Errno::EINVAL));
    Err(Failure::new(format_args!(
        "{path}: cannot be mounted as {}: {}{}",
        name.to_string_lossy(),
        Said(error),
        match error {
            Errno::ENODEV => " (the kernel has no driver for it)",
            _ => "",
        }
    )))
}

/// The names to try. A kernel may have built in what is not among the kinds that are known here.
fn names(kinds: &[Kind], parameters: &Parameters) -> Vec<CString> {
    let named = |name: &str| CString::new(name).ok();
    match &parameters.file_systems {
        Some(names) => names.split(',').filter_map(named).collect(),
        None => kinds.iter().filter_map(|kind| named(kind.name())).collect(),
    }
}

/// `rootflags=` taken apart: flags of mount(2), and the rest for the file system.
fn options(parameters: &Parameters) -> (u32, CString) {
    let mut flags = if parameters.writable { 0 } else { MS_RDONLY };
    let mut data = String::new();
    for option in parameters.flags.iter().flat_map(|text| text.split(',')) {
        match option {
            "" | "defaults" => {}
            "ro" => flags |= MS_RDONLY,
            "rw" => flags &= !MS_RDONLY,
            "noatime" => flags |= MS_NOATIME,
            "nodiratime" => flags |= MS_NODIRATIME,
            "relatime" => flags |= MS_RELATIME,
            "nodev" => flags |= MS_NODEV,
            "noexec" => flags |= MS_NOEXEC,
            "nosuid" => flags |= MS_NOSUID,
            "sync" => flags |= MS_SYNCHRONOUS,
            other => {
                if !data.is_empty() {
                    data.push(',');
                }
                data.push_str(other);
            }
        }
    }
    (flags, CString::new(data).unwrap_or_default())
}

/// Makes the mounted root the root, with `/dev` as a kernel without an initial RAM disk would leave it, and frees the RAM disk's memory.
pub(crate) fn switch() -> Result<(), Failure> {
    modules::remove_files();
    let _ = sys::unmount(c"/proc");
    let moved = sys::is_directory(c"/root/dev")
        && sys::mount(c"/dev", c"/root/dev", c"", MS_MOVE, c"").is_ok();
    if !moved {
        let _ = sys::unmount(c"/dev");
    }
    sys::change_directory(NEW_ROOT).map_err(Failure::on("/root"))?;
    sys::mount(c".", c"/", c"", MS_MOVE, c"").map_err(Failure::on("/"))?;
    sys::change_root(c".").map_err(Failure::on("/"))?;
    sys::change_directory(c"/").map_err(Failure::on("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_mount_are_taken_out_of_the_options() {
        let parameters = Parameters {
            flags: Some("noatime,subvol=@,rw,,compress=zstd".into()),
            ..Parameters::default()
        };
        let (flags, data) = options(&parameters);
        assert_eq!(flags, MS_NOATIME);
        assert_eq!(data.as_c_str(), c"subvol=@,compress=zstd");
        assert_eq!(options(&Parameters::default()).0, MS_RDONLY);
    }

    #[test]
    fn what_rootfstype_names_is_tried_in_its_order() {
        let parameters = Parameters {
            file_systems: Some("f2fs,ext4".into()),
            ..Parameters::default()
        };
        let found = names(&[Kind::Xfs], &parameters);
        assert_eq!(found, [c"f2fs".to_owned(), c"ext4".to_owned()]);
        let found = names(&[Kind::Xfs], &Parameters::default());
        assert_eq!(found, [c"xfs".to_owned()]);
    }
}
