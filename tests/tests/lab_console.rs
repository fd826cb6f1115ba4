//! The serial console with Linux's driver at the other end.
use ampoule_tests::linux::linux;

#[test]
fn commands_come_by_a_pipe_that_closes_behind_them() {
    let mut guest = linux().start();
    // Long before anybody listens.
    guest.type_line("echo $((6 * 7)) answers");
    guest.type_line("poweroff -f");
    guest.close_input();
    let finished = guest.finish();
    assert_eq!((finished.code, finished.stderr.as_str()), (0, ""));
    assert!(
        finished.console().contains("42 answers"),
        "{}",
        finished.console()
    );
}

#[test]
fn a_long_paste_arrives_whole() {
    const LINES: usize = 2000;
    let mut guest = linux().start();
    guest.wait_for("user space");
    guest.wait_for("# ");
    guest.type_line("stty -echo; head -n 2000 | md5sum; poweroff -f");
    let paste: String = (0..LINES)
        .map(|line| format!("line {line:04} of a long paste\n"))
        .collect();
    guest.feed(paste.clone().into_bytes());
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let sum = md5(&paste);
    assert!(
        finished.console().contains(&sum),
        "no {sum} in {}",
        finished.console()
    );
}

/// By the host's `md5sum`.
fn md5(text: &str) -> String {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("a temporary file");
    let output = std::process::Command::new("md5sum")
        .arg(file.path())
        .output();
    let output = String::from_utf8(output.expect("md5sum is there").stdout).expect("it is text");
    output.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn a_terminal_has_job_control_and_interrupts() {
    let (mut guest, _terminal) = linux().on_terminal();
    guest.wait_for("user space");
    guest.wait_for("# ");
    guest.type_line("sh -c 'echo $((6 * 7)) sleeps; exec sleep 1000'");
    guest.wait_for("42 sleeps");
    guest.type_bytes(b"\x03");
    guest.type_line("echo $((7 * 7)) awake");
    guest.wait_for("49 awake");
    guest.type_line("poweroff -f");
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.console());
}
