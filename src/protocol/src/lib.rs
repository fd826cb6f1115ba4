//! What the host and a guest's agent have to agree on. Both are built from it, and neither from the other.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod filesystem;
pub mod modules;
