//! Disks of the host's own that a test may fill, or take away as a failing host would.
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::ioctl::{Setter, ioctl, opcode};
use tempfile::{NamedTempFile, TempDir};

/// `EXT4_IOC_SHUTDOWN`: from now on nothing more reaches the disk.
const SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: nor does what the journal has not on it yet.
const NOT_EVEN_THE_JOURNAL: u32 = 2;

/// An ext4 of its own, in a file on the scratch disk, mounted. Unmounted when it goes out of scope.
#[derive(Debug)]
pub struct HostDisk {
    backing: NamedTempFile,
    mounted: TempDir,
}

impl HostDisk {
    /// One of `bytes` bytes.
    ///
    /// # Panics
    /// When it cannot be made: that needs root.
    pub fn new(bytes: u64) -> Self {
        let backing = NamedTempFile::new_in("/scratch").expect("there is room for a disk");
        backing.as_file().set_len(bytes).expect("a sparse file");
        run("mkfs.ext4", &["-q"], &[backing.path()]);
        let mounted = tempfile::tempdir().expect("there is room for a directory");
        let disk = Self { backing, mounted };
        disk.mount();
        disk
    }

    fn mount(&self) {
        let paths = [self.backing.path(), self.mounted.path()];
        run("mount", &["-o", "loop"], &paths);
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.mounted.path().join(name)
    }

    /// Leaves no room in it, until what is returned goes.
    ///
    /// # Panics
    /// When it cannot be filled.
    pub fn fill(&self) -> NamedTempFile {
        let mut ballast = NamedTempFile::new_in(self.mounted.path()).expect("there is some room");
        let filled = io::copy(&mut io::repeat(b'x'), &mut ballast);
        assert_eq!(
            filled.map_err(|error| error.kind()),
            Err(io::ErrorKind::StorageFull)
        );
        ballast
    }

    /// What a power failure does: what is not on the disk yet is lost, and every call fails.
    ///
    /// # Panics
    /// When the kernel does not do it.
    pub fn fail(&self) {
        let failed = self.shut_down();
        failed.expect("an ext4 can be shut down");
    }

    fn shut_down(&self) -> io::Result<()> {
        let directory = File::open(self.mounted.path())?;
        // SAFETY: this request reads the flags, and nothing else.
        unsafe {
            let request = Setter::<SHUTDOWN, u32>::new(NOT_EVEN_THE_JOURNAL);
            Ok(ioctl(directory, request)?)
        }
    }

    /// What the host finds when it is up again. Nothing in it is open.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn come_back(&self) {
        run("umount", &[], &[self.mounted.path()]);
        self.mount();
    }
}

impl Drop for HostDisk {
    fn drop(&mut self) {
        // A test that failed may have files open there.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.mounted.path())
            .status();
    }
}

/// A block device whose sectors are in a file. It goes when it goes out of scope.
#[derive(Debug)]
pub struct LoopDevice(PathBuf);

impl LoopDevice {
    /// One of `file`.
    ///
    /// # Panics
    /// When it cannot be made: that needs root.
    pub fn of(file: &Path) -> Self {
        let path = run("losetup", &["--find", "--show"], &[file]);
        Self(path.trim_end().into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

/// What it prints.
fn run(program: &str, options: &[&str], paths: &[&Path]) -> String {
    let output = Command::new(program).args(options).args(paths).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
