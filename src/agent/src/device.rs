//! The root device: what `root=` says, found among the disks that there are.
use alloc::{
    ffi::CString,
    format,
    string::{String, ToString},
    vec::Vec,
};

use protocol::filesystem::{Identity, identify};

use crate::{failure::Failure, parameters::Parameters, partition, sys};

/// What `root=` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// `/dev/vda`, or just `vda`.
    Name(String),
    /// A partition, by the name that its table has for it.
    Partition(String),
    /// A file system's UUID.
    Uuid(String),
    /// A file system's label.
    Label(String),
}

impl Wanted {
    /// Reads what stands behind `root=`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (kind, value) = text.split_once('=').unwrap_or(("", text));
        let value = value.trim_matches('"').to_string();
        match kind {
            "PARTUUID" => Self::Partition(value),
            "UUID" => Self::Uuid(value),
            "LABEL" => Self::Label(value),
            _ => Self::Name(text.trim_start_matches("/dev/").to_string()),
        }
    }
}

/// How often to look for a device that is not there yet, and how long to wait between: 10 s in all.
const LOOKS: u32 = 1000;
const PAUSE_MS: u32 = 10;

/// A block device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) path: CString,
    pub(crate) identity: Option<Identity>,
}

/// The root device, as soon as it is there: some drivers look for theirs in their own time.
pub(crate) fn wait_for(parameters: &Parameters) -> Result<Device, Failure> {
    let Some(root) = parameters.root.as_deref() else {
        return Err(Failure::new(
            "no root device (hint: root=/dev/vda in --cmdline, or an --initrd)",
        ));
    };
    let wanted = Wanted::parse(root);
    for look in 0..LOOKS {
        if let Some(device) = find(&wanted) {
            return Ok(device);
        }
        if look > 0 {
            sys::sleep(PAUSE_MS);
        }
    }
    let there = names().join(" ");
    Err(Failure::new(format!(
        "root={root}: there is no such device (there are: {there})"
    )))
}

fn find(wanted: &Wanted) -> Option<Device> {
    let name = match wanted {
        Wanted::Name(name) => name.clone(),
        Wanted::Partition(id) => names().iter().find_map(|disk| {
            let mut read = reader(disk)?;
            partition::numbered(id, &mut read).map(|number| partition::name(disk, number))
        })?,
        Wanted::Uuid(id) => with_identity(|found| {
            found
                .uuid
                .is_some_and(|uuid| uuid_text(&uuid).eq_ignore_ascii_case(id))
        })?,
        Wanted::Label(label) => with_identity(|found| found.label() == label.as_bytes())?,
    };
    Some(Device {
        path: path_of(&name)?,
        identity: identity_of(&name)?,
    })
}

/// The file system on a device, if it is one that is known; none where there is no device.
fn identity_of(name: &str) -> Option<Option<Identity>> {
    reader(name).map(|mut read| identify(&mut read))
}

fn with_identity(is_it: impl Fn(&Identity) -> bool) -> Option<String> {
    let is_it = |name: &String| matches!(identity_of(name), Some(Some(found)) if is_it(&found));
    names().into_iter().find(is_it)
}

fn reader(name: &str) -> Option<impl FnMut(u64, &mut [u8]) -> bool> {
    let file = sys::File::open(&path_of(name)?).ok()?;
    Some(move |offset, buffer: &mut [u8]| file.read_at(offset, buffer).unwrap_or(false))
}

fn path_of(name: &str) -> Option<CString> {
    sys::path(&[b"/dev/", name.as_bytes()])
}

/// The names of the block devices that there are.
fn names() -> Vec<String> {
    let table = sys::read_file(c"/proc/partitions").unwrap_or_default();
    names_in(&String::from_utf8_lossy(&table))
}

/// The last of four columns, below a heading. Where a name has a slash in it, the table has a `!`, and `/dev` a directory.
fn names_in(table: &str) -> Vec<String> {
    let name = |line: &str| {
        let mut columns = line.split_ascii_whitespace();
        columns.next()?.parse::<u32>().ok()?;
        columns.nth(2).map(|name| name.replace('!', "/"))
    };
    table.lines().filter_map(name).collect()
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in uuid.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_a_name_or_says_what_kind_of_name() {
        assert_eq!(Wanted::parse("/dev/vda1"), Wanted::Name("vda1".into()));
        assert_eq!(
            Wanted::parse("PARTUUID=AB-1"),
            Wanted::Partition("AB-1".into())
        );
        assert_eq!(Wanted::parse("UUID=0-1"), Wanted::Uuid("0-1".into()));
        assert_eq!(
            Wanted::parse("LABEL=\"my root\""),
            Wanted::Label("my root".into())
        );
    }

    #[test]
    fn block_devices_are_listed_by_the_kernel() {
        let table = "major minor  #blocks  name\n\n 254        0    1048576 vda\n 254        1    1047552 vda1\n  72        0       1024 cciss!c0d0\n";
        assert_eq!(names_in(table), ["vda", "vda1", "cciss/c0d0"]);
    }

    #[test]
    fn uuids_are_written_in_groups() {
        let uuid = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255];
        assert_eq!(uuid_text(&uuid), "00010203-0405-0607-0809-0a0b0c0d0eff");
    }
}
