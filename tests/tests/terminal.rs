//! The console on a terminal: every key is the guest's, but for Ctrl-A; and the terminal comes back as it was.
use std::process::Command;

use ampoule_tests::{Finished, Guest, Launch, Terminal, ampoule, handmade};
use rustix::process::Signal;

const CTRL_A: u8 = 1;

/// A guest that waits for keys, on a terminal.
fn started(kernel: &handmade::Kernel) -> (Guest, Terminal) {
    let (mut guest, terminal) = kernel.launch(&["--stop-timeout", "1000"]).on_terminal();
    guest.wait_for("ampoule: Ctrl-A h for help, Ctrl-A x to quit\r\n");
    guest.wait_for("ready\n");
    assert!(terminal.is_raw());
    (guest, terminal)
}

/// Its end, with the terminal as it was before.
fn finished(guest: Guest, terminal: &Terminal) -> Finished {
    let finished = guest.finish();
    let modes = terminal.modes();
    assert_eq!(modes, terminal.before, "{finished:?}");
    finished
}

#[test]
fn keys_arrive_one_by_one() {
    let (mut guest, terminal) = started(&handmade::commands());
    // What would interrupt, suspend, quit, erase or end a line on a terminal that is not raw.
    for key in [3, 0x1a, 0x1c, 0x7f, b'\r', b'\n', 4, b'a'] {
        guest.type_bytes(&[key]);
        guest.wait_for(&format!("<{key:08x}>\n"));
    }
    guest.type_bytes(b"p");
    assert_eq!(finished(guest, &terminal).code, 0);
}

#[test]
fn ctrl_a_h_helps() {
    let (mut guest, terminal) = started(&handmade::commands());
    guest.type_bytes(&[CTRL_A, b'h']);
    guest.wait_for("ampoule: Ctrl-A x       quit: kill the guest\r\n");
    guest.wait_for("ampoule: Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n");
    // The guest got none of it.
    guest.type_bytes(b"ap");
    guest.wait_for("<00000061>\n");
    let screen = finished(guest, &terminal).console();
    assert_eq!(screen.matches('<').count(), 1, "{screen}");
}

#[test]
fn ctrl_a_twice_sends_one() {
    let (mut guest, terminal) = started(&handmade::commands());
    guest.type_bytes(&[CTRL_A, CTRL_A]);
    guest.wait_for("<00000001>\n");
    guest.type_bytes(b"p");
    let screen = finished(guest, &terminal).console();
    assert_eq!(screen.matches('<').count(), 1, "{screen}");
}

#[test]
fn ctrl_a_x_kills_whatever_the_guest_does() {
    for kernel in [handmade::commands(), handmade::deaf(), handmade::busy()] {
        let (mut guest, terminal) = started(&kernel);
        guest.type_bytes(&[CTRL_A]);
        guest.type_bytes(b"x");
        let finished = finished(guest, &terminal);
        assert_eq!(finished.code, 137);
        assert!(finished.console().contains("ampoule: the guest was killed"));
    }
}

#[test]
fn ctrl_a_x_is_heard_behind_much_that_the_guest_does_not_read() {
    let (mut guest, terminal) = started(&handmade::deaf());
    for _ in 0..100 {
        guest.type_bytes(&[b'.'; 1000]);
    }
    guest.type_bytes(&[CTRL_A, b'x']);
    assert_eq!(finished(guest, &terminal).code, 137);
}

#[test]
fn the_terminal_is_restored_after_a_crash() {
    for (command, report) in [("x", "triple fault"), ("m", "panicked")] {
        let (mut guest, terminal) = started(&handmade::commands());
        guest.type_bytes(command.as_bytes());
        let finished = finished(guest, &terminal);
        assert_eq!(finished.code, 125);
        assert!(finished.console().contains(report));
    }
}

#[test]
fn the_terminal_is_restored_after_signals() {
    let (guest, terminal) = started(&handmade::deaf());
    guest.signal(Signal::TERM);
    guest.signal(Signal::INT);
    assert_eq!(finished(guest, &terminal).code, 137);

    let (guest, terminal) = started(&handmade::deaf());
    guest.signal(Signal::QUIT);
    assert_eq!(finished(guest, &terminal).code, 137);

    let (guest, terminal) = started(&handmade::button());
    guest.signal(Signal::TERM);
    assert_eq!(finished(guest, &terminal).code, 0);
}

#[test]
fn the_terminal_is_restored_after_our_own_defects() {
    // Sent from outside, they strike as if a thread had brought them on itself.
    for (signal, word) in [
        (Signal::SYS, "sandbox"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::BUS, "SIGBUS"),
        (Signal::ILL, "SIGILL"),
    ] {
        let (guest, terminal) = started(&handmade::deaf());
        guest.signal(signal);
        let finished = finished(guest, &terminal);
        assert_eq!(finished.code, 125, "{signal:?}");
        assert!(finished.console().contains(word), "{}", finished.console());
    }
}

#[test]
fn a_refusal_leaves_the_terminal_alone() {
    let (guest, terminal) = Launch::run(["--kernel", "/nowhere/vmlinuz"]).on_terminal();
    assert_eq!(finished(guest, &terminal).code, 125);
}

#[test]
fn a_background_job_is_not_stopped() {
    let kernel = handmade::hello();
    // With job control, as a user's shell has it, the job is a process group of its own, and not the terminal's.
    let script = r#"set -m; "$0" run --kernel "$1" & wait $!; echo "code $?""#;
    let mut shell = Command::new("bash");
    shell.args(["-c", script]).arg(ampoule()).arg(kernel.path());
    let (mut guest, terminal) = Launch::command(shell).on_terminal();
    guest.wait_for("hello\r\n");
    guest.wait_for("code 0\r\n");
    finished(guest, &terminal);
}
