//! The kernel's command line, as far as it is for the one who mounts the root.
use alloc::{
    ffi::CString,
    string::{String, ToString},
    vec::Vec,
};

/// What `Documentation/admin-guide/kernel-parameters.txt` calls `root=`, `rootfstype=`, `rootflags=`, `ro`, `rw` and `init=`. Of what
/// stands there more than once, the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// The root device.
    pub root: Option<String>,
    /// File systems to try, separated by commas.
    pub file_systems: Option<String>,
    /// Options for mounting, as `mount -o` has them.
    pub flags: Option<String>,
    /// Whether to mount it for writing: not unless somebody says so.
    pub writable: bool,
    /// The program to become.
    pub init: Option<CString>,
}

impl Parameters {
    /// Reads a command line.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let mut parameters = Self::default();
        for word in words(text) {
            let word = String::from_utf8_lossy(&word);
            let (key, value) = word.split_once('=').unwrap_or((&word, ""));
            match key {
                "root" => parameters.root = Some(value.to_string()),
                "rootfstype" => parameters.file_systems = Some(value.to_string()),
                "rootflags" => parameters.flags = Some(value.to_string()),
                "ro" => parameters.writable = false,
                "rw" => parameters.writable = true,
                // A line has no NUL in it, and where it has no such path is no program.
                "init" => parameters.init = CString::new(value).ok(),
                // What follows is for init.
                "--" => break,
                _ => {}
            }
        }
        parameters
    }
}

/// The words of a command line, without their quotes, which hide blanks (`lib/cmdline.c: next_arg`).
fn words(text: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word = Vec::new();
    let mut quoted = false;
    for &byte in text {
        match byte {
            b'"' => quoted = !quoted,
            b' ' | b'\n' | b'\t' if !quoted => words.push(core::mem::take(&mut word)),
            _ => word.push(byte),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_of_each_counts() {
        let parameters = Parameters::parse(
            b"root=/dev/vdb ro quiet root=PARTUUID=ab-02 rw init=/bin/sh -- root=/dev/vdz\n",
        );
        assert_eq!(parameters.root.as_deref(), Some("PARTUUID=ab-02"));
        assert!(parameters.writable);
        assert_eq!(parameters.init.as_deref(), Some(c"/bin/sh"));
    }

    #[test]
    fn quotes_hide_blanks() {
        let parameters =
            Parameters::parse(b"rootflags=\"subvol=a b\" \"rootfstype=btrfs\" rootwait");
        assert_eq!(parameters.flags.as_deref(), Some("subvol=a b"));
        assert_eq!(parameters.file_systems.as_deref(), Some("btrfs"));
        assert_eq!(Parameters::parse(b"").root, None);
    }

    proptest! {
        #[test]
        fn any_line_is_read(text: Vec<u8>) {
            let _ = Parameters::parse(&text);
        }
    }
}
