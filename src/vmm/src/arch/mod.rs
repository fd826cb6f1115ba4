//! What depends on the processor architecture. Nothing outside this module says x86.
pub mod x86_64;
