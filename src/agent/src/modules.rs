//! Loading the kernel's modules.
use alloc::{string::String, vec::Vec};

use protocol::{
    filesystem::Kind,
    modules::{DIRECTORY, Group, LIST, parse},
};
use syscalls::Errno;

use crate::{failure::Said, say, sys};

/// Loads what the machine's devices need.
pub(crate) fn load_machines() {
    load(&[Group::Machine]);
}

/// Loads what these file systems need.
pub(crate) fn load_for(kinds: &[Kind]) {
    let groups: Vec<_> = kinds.iter().copied().map(Group::FileSystem).collect();
    load(&groups);
}

/// Loads the modules of these groups. What cannot be loaded is said, and what needs it will say more.
fn load(groups: &[Group]) {
    let list = list();
    for (_, file) in parse(&list).filter(|(group, _)| groups.contains(group)) {
        if let Err(error) = load_one(file) {
            say!("{file}: {}", Said(error));
        }
    }
}

fn list() -> String {
    let list = sys::path(&[LIST.as_bytes()]).map(|path| sys::read_file(&path));
    let list = list.and_then(Result::ok).unwrap_or_default();
    String::from_utf8_lossy(&list).into_owned()
}

fn load_one(file: &str) -> sys::Result<()> {
    let path = [DIRECTORY.as_bytes(), b"/", file.as_bytes()];
    let path = sys::path(&path).ok_or(Errno::ENOENT)?;
    match sys::File::open(&path)?.load_module() {
        // One that is there; one for another processor than this, of several that can do the same.
        Err(Errno::EEXIST | Errno::ENODEV) => Ok(()),
        other => other,
    }
}

/// Frees the memory that the files have.
pub(crate) fn remove_files() {
    for (_, file) in parse(&list()) {
        let path = [DIRECTORY.as_bytes(), b"/", file.as_bytes()];
        if let Some(path) = sys::path(&path) {
            // One that stands in two groups is gone already.
            let _ = sys::remove(&path);
        }
    }
}
