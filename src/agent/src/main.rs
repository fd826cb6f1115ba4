//! The program: what the kernel enters, and what the compiler expects of a runtime.
#![no_std]
#![no_main]

mod runtime;

use core::{arch::global_asm, panic::PanicInfo};

use agent::{process::Arguments, say, sys};

// The kernel enters with the stack pointer at `argc`, and an alignment that functions do not expect (System V ABI, AMD64, §3.4.1).
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start,
);

/// SAFETY: `stack` is what the kernel left there: `argc`, the arguments, a null pointer, the environment, a null pointer.
unsafe extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: as the caller says.
    let arguments = unsafe { Arguments::at(stack) };
    agent::main(arguments)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("{info}");
    sys::exit(101)
}
