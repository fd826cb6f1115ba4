//! The timing behind `tools/bench boot`: what a shell is too slow to measure, and what makes a table of it.
pub mod cpio;
pub mod disk_lab;
pub mod disk_path;
pub mod elf;
pub mod floor;
pub mod host;
pub mod lab;
pub mod launch;
pub mod programs;
pub mod report;
pub mod results;
pub mod smaps;
pub mod stats;
pub mod svg;
pub mod trace;
