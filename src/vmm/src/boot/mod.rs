//! From a kernel file to a guest that can start: kernel images, command line, initrd, ACPI tables.
pub mod acpi;
pub mod cache;
pub mod initrd;
pub mod kernel;
