//! From a kernel file to a guest that can start: kernel images, command line, initrd, ACPI tables.
pub mod kernel;
