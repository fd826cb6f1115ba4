//! How a guest ends, and what its user is told.
use ampoule_tests::{Finished, Guest, handmade};
use rustix::process::Signal;

/// A guest that does as it is told, told these things.
fn told(commands: &str) -> Finished {
    let mut guest = handmade::commands().run(&[]);
    guest.wait_for("ready\n");
    guest.type_bytes(commands.as_bytes());
    guest.finish()
}

fn ready(kernel: &handmade::Kernel, arguments: &[&str]) -> Guest {
    let mut guest = kernel.run(arguments);
    guest.wait_for("ready\n");
    guest
}

#[test]
fn power_off_is_a_success() {
    let finished = told("p");
    assert_eq!((finished.code, finished.stderr.as_str()), (0, ""));
}

#[test]
fn a_reset_is_a_success_by_either_register() {
    for command in ["r", "k"] {
        let finished = told(command);
        assert_eq!((finished.code, finished.stderr.as_str()), (0, ""));
    }
}

#[test]
fn a_reset_restarts_where_that_is_wanted() {
    let kernel = handmade::commands();
    let mut guest = kernel.run(&["--on-reboot", "restart", "--cpus", "4"]);
    for reset in ["r", "k", "r"] {
        // The count starts over: memory was cleared.
        guest.wait_for("memory 00000001\nready\n");
        guest.type_bytes(reset.as_bytes());
    }
    guest.wait_for("memory 00000001\nready\n");
    guest.type_bytes(b"ap");
    let finished = guest.finish();
    assert_eq!((finished.code, finished.stderr.as_str()), (0, ""));
    assert!(finished.console().ends_with("<00000061>\n"));
}

#[test]
fn what_was_typed_before_a_restart_arrives_after_it() {
    let kernel = handmade::commands();
    let mut guest = kernel.run(&["--on-reboot", "restart"]);
    guest.type_bytes(b"r");
    guest.wait_for("ready\n");
    guest.wait_for("ready\n");
    guest.type_bytes(b"p");
    assert_eq!(guest.finish().code, 0);
}

#[test]
fn the_power_button_works_after_a_restart() {
    let kernel = handmade::button();
    let mut guest = ready(&kernel, &["--on-reboot", "restart"]);
    guest.type_bytes(b"r");
    guest.wait_for("ready\n");
    guest.signal(Signal::TERM);
    guest.wait_for("button\n");
    assert_eq!(guest.finish().code, 0);
}

#[test]
fn a_triple_fault_is_reported_with_registers_and_code() {
    let finished = told("x");
    assert_eq!(finished.code, 125);
    let report = &finished.stderr;
    assert!(
        report.starts_with("ampoule: the guest crashed: vCPU 0: triple fault\n"),
        "{report}"
    );
    for part in [
        "\n  rip 0000000001",
        "\n  rax 0000000012345678 ",
        "\n  cr0 ",
        "\n  code 0f 0b ",
    ] {
        assert!(report.contains(part), "{part:?} in {report}");
    }
    assert!(finished.console().ends_with("ready\n"));
}

#[test]
fn an_instruction_that_cannot_be_run_is_reported() {
    let finished = told("u");
    assert_eq!(finished.code, 125);
    let report = &finished.stderr;
    assert!(
        report.starts_with("ampoule: the guest crashed: vCPU 0: KVM internal error"),
        "{report}"
    );
    assert!(report.contains("\n  rip 00000000d0000000 "), "{report}");
}

#[test]
fn a_panic_is_told_from_a_reboot() {
    let kernel = handmade::commands();
    for policy in ["exit", "restart"] {
        let mut guest = ready(&kernel, &["--on-reboot", policy]);
        guest.type_bytes(b"m");
        let finished = guest.finish();
        assert_eq!(finished.code, 125);
        assert!(finished.console().ends_with("last words\n"));
        assert!(
            finished
                .stderr
                .starts_with("ampoule: the guest's kernel panicked"),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn a_signal_presses_the_power_button() {
    let kernel = handmade::button();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let guest = ready(&kernel, &[]);
        guest.signal(signal);
        let finished = guest.finish();
        assert_eq!(
            (finished.code, finished.stderr.as_str()),
            (0, ""),
            "{signal:?}"
        );
        assert_eq!(finished.console(), "ready\nbutton\n");
    }
}

#[test]
fn a_guest_that_ignores_its_button_is_killed_in_time() {
    let kernel = handmade::deaf();
    let guest = ready(&kernel, &["--stop-timeout", "1"]);
    guest.signal(Signal::TERM);
    let finished = guest.finish();
    assert_eq!(finished.code, 137);
    let message = "ampoule: the guest was killed: it did not power off within 1 s (hint: ";
    assert!(finished.stderr.starts_with(message), "{}", finished.stderr);
}

#[test]
fn a_second_signal_kills_at_once() {
    let kernel = handmade::stubborn();
    for signal in [Signal::TERM, Signal::INT] {
        let mut guest = ready(&kernel, &["--stop-timeout", "1000"]);
        guest.signal(signal);
        guest.wait_for("button\n");
        guest.signal(signal);
        let finished = guest.finish();
        assert_eq!(finished.code, 137);
        assert_eq!(finished.stderr, "ampoule: the guest was killed\n");
    }
}

#[test]
fn no_guest_is_so_busy_that_it_cannot_be_killed() {
    let kernel = handmade::busy();
    let guest = ready(&kernel, &["--stop-timeout", "1000"]);
    guest.signal(Signal::TERM);
    guest.signal(Signal::INT);
    assert_eq!(guest.finish().code, 137);
}

#[test]
fn sigquit_does_not_ask() {
    for kernel in [handmade::deaf(), handmade::button(), handmade::busy()] {
        let guest = ready(&kernel, &["--stop-timeout", "1000"]);
        guest.signal(Signal::QUIT);
        let finished = guest.finish();
        assert_eq!(finished.code, 137);
        assert_eq!(finished.stderr, "ampoule: the guest was killed\n");
    }
}
