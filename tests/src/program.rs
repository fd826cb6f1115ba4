use std::{
    env,
    path::{Path, PathBuf},
};

/// The program under test: `$AMPOULE`, or else the one that was built beside the tests.
///
/// # Panics
/// When it is not there: cargo does not build another package's programs for a test.
pub fn ampoule() -> PathBuf {
    let program = match env::var_os("AMPOULE") {
        Some(path) => PathBuf::from(path),
        None => beside_the_tests(),
    };
    assert!(
        program.is_file(),
        "{} is not there: run `cargo build` first, or set AMPOULE to the program to test",
        program.display()
    );
    program
}

/// Tests are built as `target/PROFILE/deps/NAME-HASH`, programs as `target/PROFILE/NAME`.
fn beside_the_tests() -> PathBuf {
    let test = env::current_exe().expect("a process knows its program");
    let profile = test.parent().and_then(Path::parent);
    profile.expect("cargo's layout").join("ampoule")
}

/// A file of this project, by its path in it.
pub fn project_file(path: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("tests are a directory of it")
        .join(path)
}
