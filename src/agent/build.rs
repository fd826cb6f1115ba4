//! Links the agent without a C library, so that it is static wherever it is built, small, and starts at once.
fn main() {
    // Not position-independent: nobody would relocate it.
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
