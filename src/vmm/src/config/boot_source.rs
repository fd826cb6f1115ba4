//! `boot-source`: what the guest boots.
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The kernel, its command line and its first root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BootSource {
    /// The kernel, relative to the working directory: a bzImage (`/boot/vmlinuz-*`) or an ELF `vmlinux`.
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 1), regex(pattern = r"^[^\u0000]*$"), example = "/boot/vmlinuz", extend("x-flag" = "--kernel"))
    )]
    pub kernel_image_path: PathBuf,
    /// Kernel parameters, merged over fast defaults, which they override: at most 2047 bytes after merging.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(length(max = 2047), regex(pattern = r"^[^\u0000-\u0008\u000a-\u001f\u007f]*$"), extend("x-flag" = "--cmdline"))
    )]
    pub boot_args: Option<String>,
    /// The initial RAM file system, relative to the working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 1), regex(pattern = r"^[^\u0000]*$"), extend("x-flag" = "--initrd"))
    )]
    pub initrd_path: Option<PathBuf>,
    /// Where the kernel is entered.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(extend("x-flag" = "--entry", "x-ours" = true)))]
    pub entry: Entry,
}

impl BootSource {
    /// Boots `kernel_image_path` with the default command line and no initrd.
    #[must_use]
    pub fn new(kernel_image_path: impl Into<PathBuf>) -> Self {
        Self {
            kernel_image_path: kernel_image_path.into(),
            boot_args: None,
            initrd_path: None,
            entry: Entry::Auto,
        }
    }
}

string_enum! {
    /// By which protocol a kernel is entered.
    Entry {
        /// The PVH entry of an ELF that has one, else the 64-bit entry.
        #[default]
        Auto = "auto",
        /// The 64-bit entry of the Linux/x86 boot protocol.
        Linux64 = "linux64",
        /// The 32-bit PVH entry, named by an ELF note.
        Pvh = "pvh",
        /// A bzImage's own: it unpacks itself in the guest, slower, but where KASLR wants it to be.
        BzImage = "bzimage",
    }
}
