//! The parts of the `ampoule` program: its command line's commands, and what they find on the host.
//!
//! The program itself (`main.rs`) only picks a command and runs it; everything that can be tested lives here.
pub mod allocator;
pub mod api;
pub mod definition;
pub mod doctor;
pub mod failure;
mod files;
pub mod image;
pub mod initramfs;
pub mod kernel_search;
pub mod last_words;
pub mod paths;
pub mod run;
pub mod sandbox;
pub mod terminal;
