//! The archive that the kernel unpacks: cpio's "newc" (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).
use std::io;

/// Where an archive's bytes go.
type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// Ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// Writes an archive, entry by entry. A directory comes before what is in it.
pub(super) struct Archive<'a> {
    sink: Sink<'a>,
    entries: u32,
}

impl<'a> Archive<'a> {
    pub(super) fn new(sink: Sink<'a>) -> Self {
        Self { sink, entries: 0 }
    }

    /// A directory. Names have no slash in front.
    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY, (0, 0), &[])
    }

    /// A program.
    pub(super) fn program(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.entry(name, PROGRAM, (0, 0), bytes)
    }

    /// A file.
    pub(super) fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.entry(name, FILE, (0, 0), bytes)
    }

    /// A character device, by its numbers.
    pub(super) fn device(&mut self, name: &str, numbers: (u32, u32)) -> io::Result<()> {
        self.entry(name, CHARACTER_DEVICE, numbers, &[])
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.entry(TRAILER, 0, (0, 0), &[])
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let size = u32::try_from(bytes.len()).map_err(too_large)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let fields = [
            self.entries,
            mode,
            0, // owner
            0, // group
            links,
            0, // time of modification: the same input makes the same archive
            size,
            0, // the file system's device
            0,
            device.0,
            device.1,
            name_size,
            0, // no checksum in this format
        ];
        self.entries += 1;
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        header.push_str(name);
        header.push('\0');
        self.put(header.as_bytes())?;
        self.put(bytes)
    }

    /// Bytes, and zeroes up to a multiple of four.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        (self.sink)(bytes)?;
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        (self.sink)(&[0; 3][..padding])
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn another_program_lists_what_is_in_it() {
        let mut bytes = Vec::new();
        let mut sink = |piece: &[u8]| bytes.write_all(piece);
        let mut archive = Archive::new(&mut sink);
        archive.directory("dev").unwrap();
        archive.device("dev/console", (5, 1)).unwrap();
        archive.program("init", b"12345").unwrap();
        archive.file("a-much-longer-name", b"").unwrap();
        archive.finish().unwrap();
        let mut cpio = Command::new("cpio")
            .args(["-tv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = cpio.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Vec<_>> = (text.lines())
            .map(|line| line.split_whitespace().collect())
            .collect();
        let entry = |index: usize| (lines[index][0], *lines[index].last().unwrap());
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(entry(0), ("drwxr-xr-x", "dev"));
        assert_eq!(entry(1), ("crw-------", "dev/console"));
        assert_eq!(lines[1][4..6], ["5,", "1"]);
        assert_eq!(entry(2), ("-rwxr-xr-x", "init"));
        assert_eq!(lines[2][4], "5");
        assert_eq!(entry(3), ("-rw-r--r--", "a-much-longer-name"));
    }
}
