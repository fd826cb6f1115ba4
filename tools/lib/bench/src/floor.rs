//! The floor, compiled: the program in `floor.c`.
use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    elf::GUEST_BYTE,
    programs::{Kind, MEMORY_MIB, Program},
};

const SOURCE: &str = include_str!("../floor.c");

/// The name of the floor that limits are measured by.
pub const FLOOR: &str = "floor";
/// The name of the floor without a C library.
pub const BARE_FLOOR: &str = "floor without libc";

/// An ordinary static C program, with either interrupt controller, and one without a C library: compiled below `work`.
///
/// # Errors
/// When the compiler fails.
pub fn build(work: &Path) -> io::Result<[Program; 4]> {
    Ok([
        compile(work, FLOOR, "KVM_ENABLE_CAP", false)?,
        compile(work, FLOOR, "KVM_CREATE_IRQCHIP", false)?,
        compile(work, BARE_FLOOR, "KVM_ENABLE_CAP", true)?,
        compile(work, BARE_FLOOR, "KVM_CREATE_IRQCHIP", true)?,
    ])
}

fn compile(work: &Path, name: &str, irqchip: &str, bare: bool) -> io::Result<Program> {
    let source = work.join("floor.c");
    std::fs::write(&source, SOURCE)?;
    let path: PathBuf = work.join(format!("floor-{irqchip}-{bare}"));
    let mut compiler = Command::new("gcc");
    compiler.args(["-O2", "-static", "-fno-stack-protector"]);
    compiler
        .arg(format!("-DMEMORY={}", MEMORY_MIB << 20))
        .arg(format!("-DBYTE={GUEST_BYTE}"))
        .arg(format!("-DIRQCHIP={irqchip}"));
    if bare {
        compiler.args(["-DBARE", "-nostdlib"]);
    }
    let output = compiler.arg("-o").arg(&path).arg(&source).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!(
            "gcc floor.c: {}",
            String::from_utf8_lossy(&output.stderr)
        )));
    }
    let version = match irqchip {
        "KVM_ENABLE_CAP" => "local interrupt controllers in KVM, none else",
        _ => "all interrupt controllers in KVM",
    };
    Ok(Program {
        name: name.into(),
        kind: Kind::Floor,
        path,
        version: version.into(),
    })
}
