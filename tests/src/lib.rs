//! What end-to-end tests share: the real program, with a guest in it, as its user sees it.
//!
//! ```no_run
//! use ampoule_tests::Guest;
//!
//! let mut guest = Guest::run(["--kernel", "vmlinuz", "--initrd", "initrd.img"]);
//! guest.wait_for("login:");
//! guest.type_line("root");
//! assert_eq!(guest.finish().code, 0);
//! ```
//!
//! Helpers panic where a test would fail, with all that the program and its guest have said so far.
pub mod api;
mod deadline;
mod guest;
pub mod handmade;
mod host_disk;
mod lacking;
mod launch;
pub mod linux;
pub mod network;
mod program;
pub mod shell;
mod terminal;
pub mod trace;
mod transcript;

pub use deadline::wait_until;
pub use guest::{Finished, Guest};
pub use host_disk::{HostDisk, LoopDevice};
pub use launch::Launch;
pub use program::{ampoule, project_file};
pub use terminal::{Modes, Terminal};
