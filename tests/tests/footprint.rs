//! What a running guest costs the host beside its memory.
use std::path::Path;

use ampoule_tests::handmade;

/// Of the program's code and constants: the bytes mapped, and those of them that are there.
fn image(smaps: &str, program: &Path) -> (u64, u64) {
    let (mut ours, mut size, mut resident) = (false, 0, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let kib = || words.clone().next().and_then(|word| word.parse().ok());
        match first {
            "Size:" if ours => size += kib().unwrap_or(0),
            "Rss:" if ours => resident += kib().unwrap_or(0),
            _ if !first.ends_with(':') => {
                let writable = words.next().is_some_and(|rights| rights.contains('w'));
                ours = !writable && line.ends_with(program.to_str().expect("it is text"));
            }
            _ => {}
        }
    }
    (size, resident)
}

#[test]
fn code_that_only_a_launch_needs_is_let_go() {
    let mut guest = handmade::deaf().run(&[]);
    guest.wait_for("ready\n");
    let of = |what| format!("/proc/{}/{what}", guest.pid().as_raw_nonzero());
    let program = std::fs::read_link(of("exe")).expect("it runs");
    let smaps = std::fs::read_to_string(of("smaps")).expect("it runs");
    let (size, resident) = image(&smaps, &program);
    assert!(
        0 < resident && resident < size * 3 / 4,
        "{resident} of {size} KiB of the program are mapped\n{smaps}"
    );
}
