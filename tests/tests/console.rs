//! The serial console on pipes and files: nothing is lost, nothing grows without bound, nobody waits for ever.
use std::{
    fs::{self, File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    process::Command,
};

use ampoule_tests::{Launch, ampoule, handmade};
use rustix::process::Signal;

/// Ends the transmission to a guest that echoes.
const END: u8 = 4;

/// More than all buffers on the way to a guest hold together, no two parts of it alike, and no end of transmission.
fn much_input() -> String {
    (0..8_000).map(|line| format!("line {line:05}\n")).collect()
}

/// The same, for an echoing guest, with its end.
fn transmission() -> Vec<u8> {
    [much_input().as_bytes(), &[END]].concat()
}

fn echoed() -> String {
    format!("echo\n{}", much_input())
}

#[test]
fn a_slow_reader_gets_all_of_the_output() {
    let mut guest = handmade::flood().launch(&[]).output_unread().start();
    guest.wait_until_output_stalls();
    guest.read_output();
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert!(finished.stdout == handmade::flood_output());
}

#[test]
fn a_reader_that_never_reads_keeps_nobody_from_ending() {
    let kernel = handmade::chatter();
    let mut guest = kernel
        .launch(&["--stop-timeout", "1000"])
        .output_unread()
        .start();
    guest.wait_until_output_stalls();
    guest.signal(Signal::TERM);
    guest.signal(Signal::INT);
    assert_eq!(guest.finish().code, 137);
}

#[test]
fn output_of_a_guest_that_does_not_wait_for_room_is_bounded() {
    let kernel = handmade::rude();
    let mut guest = kernel.launch(&[]).output_unread().start();
    // It takes input only when it has printed everything; when it has taken this much, it has.
    guest.type_bytes(&vec![b'.'; 100 << 10]);
    guest.read_output();
    guest.type_bytes(&[END]);
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let everything = handmade::flood_output();
    assert!(finished.stdout.len() < everything.len() / 2);
    assert!(everything.starts_with(&finished.stdout));
}

#[test]
fn a_guest_outlives_its_reader() {
    let kernel = handmade::commands();
    let mut guest = kernel.launch(&[]).output_unread().start();
    guest.close_output();
    guest.type_bytes(b"hhhhp");
    let finished = guest.finish();
    assert_eq!((finished.code, finished.stderr.as_str()), (0, ""));
}

#[test]
fn the_end_of_input_leaves_the_guest_running() {
    let kernel = handmade::button();
    let (ended, _) = std::io::pipe().expect("the host has pipes");
    let nothing = File::open("/dev/null").expect("the host has it");
    for input in [ended.into(), std::process::Stdio::from(nothing)] {
        let mut guest = kernel.launch(&[]).input(input).start();
        guest.wait_for("ready\n");
        guest.signal(Signal::TERM);
        let finished = guest.finish();
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        assert_eq!(finished.console(), "ready\nbutton\n");
    }
}

#[test]
fn input_from_a_pipe_arrives_whole_by_interrupts() {
    let kernel = handmade::echo();
    let mut guest = kernel.run(&[]);
    guest.feed(transmission());
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert!(finished.console() == echoed());
}

#[test]
fn input_from_a_pipe_arrives_whole_by_polling() {
    let kernel = handmade::polling_echo();
    let mut guest = kernel.run(&[]);
    guest.feed(transmission());
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert!(finished.console() == echoed());
}

#[test]
fn input_from_a_file_arrives_whole() {
    let kernel = handmade::echo();
    let mut input = tempfile::tempfile().expect("a file can be made");
    input
        .write_all(&transmission())
        .expect("a file can be written");
    input.seek(SeekFrom::Start(0)).expect("it is a file");
    let finished = kernel.launch(&[]).input(input).start().finish();
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert!(finished.console() == echoed());
}

#[test]
fn output_is_appended_to_a_file_opened_so() {
    let kernel = handmade::commands();
    let file = handmade::Kernel::from_bytes(b"before\n");
    let output = OpenOptions::new().append(true).open(file.path());
    let output = output.expect("the file is there");
    let mut guest = kernel.launch(&[]).output(output).start();
    guest.type_bytes(b"hp");
    assert_eq!(guest.finish().code, 0);
    let log = fs::read_to_string(file.path()).expect("the file is there");
    assert_eq!(log, "before\nmemory 00000001\nready\nhello\n");
}

#[test]
fn output_may_go_nowhere() {
    let kernel = handmade::flood();
    let nowhere = File::options().write(true).open("/dev/null");
    let nowhere = nowhere.expect("the host has it");
    let finished = kernel.launch(&[]).output(nowhere).start().finish();
    assert_eq!((finished.code, finished.stderr.as_str()), (0, ""));
}

#[test]
fn no_stream_need_be_open() {
    let kernel = handmade::hello();
    for streams in ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"] {
        let script = format!(r#"exec "$0" run --kernel "$1" {streams}"#);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &script])
            .arg(ampoule())
            .arg(kernel.path());
        let finished = Launch::command(shell).start().finish();
        assert_eq!(
            (finished.code, finished.stderr.as_str()),
            (0, ""),
            "{streams}"
        );
    }
}
