//! Becoming the guest's own init.
use alloc::{ffi::CString, vec::Vec};
use core::{
    convert::Infallible,
    ffi::{CStr, c_char},
};

use crate::{
    failure::{Failure, Said},
    parameters::Parameters,
    say, sys,
};

/// Where the kernel looks for init when nobody says (`init/main.c: kernel_init`).
const USUAL: [&CStr; 4] = [c"/sbin/init", c"/etc/init", c"/bin/init", c"/bin/sh"];

/// The arguments and the environment that the kernel gave: what of its command line is for init.
#[derive(Clone, Copy, Debug)]
pub struct Arguments {
    arguments: *const *const c_char,
    count: usize,
    environment: *const *const c_char,
}

impl Arguments {
    /// What a program finds when it is entered.
    ///
    /// # Safety
    /// `stack` points to a count, as many pointers to strings that live for ever, a null pointer, more of them, and a null pointer.
    #[must_use]
    pub unsafe fn at(stack: *const usize) -> Self {
        // SAFETY: the caller says that a count is there.
        let count = unsafe { *stack };
        // SAFETY: the caller says that so many pointers and a null pointer follow.
        let (arguments, environment) = unsafe { (stack.add(1), stack.add(2 + count)) };
        Self {
            arguments: arguments.cast(),
            count,
            environment: environment.cast(),
        }
    }

    /// The same, with another name for the program, as a list that a null pointer ends.
    fn named(&self, name: &CStr) -> Vec<*const c_char> {
        let mut list = Vec::with_capacity(self.count + 2);
        list.push(name.as_ptr());
        // SAFETY: so many pointers are there, by the contract of `at`.
        list.extend((1..self.count).map(|index| unsafe { *self.arguments.add(index) }));
        list.push(core::ptr::null());
        list
    }
}

/// Becomes the program that `init=` names, or the one that the kernel would.
pub(crate) fn become_init(
    parameters: &Parameters,
    arguments: Arguments,
) -> Result<Infallible, Failure> {
    let named: Option<&CString> = parameters.init.as_ref();
    let candidates = named.into_iter().map(CString::as_c_str);
    for path in candidates.chain(USUAL) {
        let list = arguments.named(path);
        // SAFETY: both lists are ended by null pointers, and their strings live.
        let error = unsafe { sys::execute(path, list.as_ptr(), arguments.environment) };
        if error != syscalls::Errno::ENOENT || named.is_some_and(|named| named.as_c_str() == path) {
            say!("{}: {}", path.to_string_lossy(), Said(error));
        }
    }
    Err(Failure::new(
        "the root has no init (looked for /sbin/init, /etc/init, /bin/init and /bin/sh; hint: init=PATH in --cmdline)",
    ))
}
