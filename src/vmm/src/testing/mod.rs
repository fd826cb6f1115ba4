//! Helpers for tests, here and in other crates: one place, so that each is written once.
//!
//! They panic where a test would fail.
pub mod journey;
pub mod kernel_image;
pub mod virtio_driver;
pub mod virtqueue;
