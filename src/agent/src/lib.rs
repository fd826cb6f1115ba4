//! A guest's first process. Started from the initial RAM disk that `ampoule run` generates, it loads the kernel's drivers, mounts the
//! root file system, makes it the root, and becomes its init.
//!
//! There is no C library and no standard one, so that the program is small and static wherever it is built.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod device;
mod failure;
mod modules;
pub mod parameters;
pub mod partition;
pub mod process;
pub mod report;
mod root;
pub mod sys;

use core::convert::Infallible;

use crate::{failure::Failure, parameters::Parameters, process::Arguments};

/// Brings the guest up as far as its own init, which this process becomes.
///
/// What cannot be done is said on the console; then the process ends, which makes the kernel panic and tells the host.
pub fn main(arguments: Arguments) -> ! {
    if !sys::is_first_process() {
        say!("this is a guest's first process: ampoule run starts guests with it");
        sys::exit(125)
    }
    sys::mark_user_space();
    let Err(failure) = bring_up(arguments);
    say!("{failure}");
    sys::exit(1)
}

fn bring_up(arguments: Arguments) -> Result<Infallible, Failure> {
    root::mount_kernel_file_systems()?;
    let text = sys::read_file(c"/proc/cmdline").map_err(Failure::on("/proc/cmdline"))?;
    let parameters = Parameters::parse(&text);
    modules::load_machines();
    let device = device::wait_for(&parameters)?;
    let kinds = root::kinds_of(&device, &parameters);
    modules::load_for(&kinds);
    root::mount(&device, &kinds, &parameters)?;
    root::switch()?;
    process::become_init(&parameters, arguments)
}
