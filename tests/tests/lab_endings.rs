//! How Linux ends, by its own will or its user's, and what becomes of it.
use ampoule_tests::{
    Finished, Guest,
    linux::{Image, Linux, linux},
};
use rustix::process::Signal;

fn at_its_shell(guest: Linux) -> Guest {
    let mut guest = guest.start();
    guest.wait_for("user space");
    guest.wait_for("# ");
    guest
}

fn told(guest: Linux, command: &str) -> Finished {
    let mut guest = at_its_shell(guest);
    guest.type_line(command);
    guest.finish()
}

fn assert_ended_well(finished: &Finished) {
    assert_eq!(
        (finished.code, finished.stderr.as_str()),
        (0, ""),
        "{}",
        finished.console()
    );
}

fn assert_panicked(finished: &Finished) {
    assert_eq!(finished.code, 125, "{}", finished.stderr);
    assert!(
        finished.stderr.contains("the guest's kernel panicked"),
        "{}",
        finished.stderr
    );
    assert!(
        finished.console().contains("Kernel panic"),
        "{}",
        finished.console()
    );
}

#[test]
fn a_reboot_by_acpi_ends_it() {
    assert_ended_well(&told(linux(), "reboot -f"));
}

#[test]
fn a_reboot_by_the_keyboard_controller_ends_it() {
    assert_ended_well(&told(linux().parameters("reboot=k"), "reboot -f"));
}

#[test]
fn a_reboot_by_triple_fault_cannot_be_told_from_a_crash() {
    let finished = told(linux().parameters("reboot=t"), "reboot -f");
    assert_eq!(finished.code, 125);
    for part in ["vCPU 0: triple fault", "rip ", "cr3 "] {
        assert!(finished.stderr.contains(part), "{}", finished.stderr);
    }
}

#[test]
fn a_reboot_boots_it_again_in_place_where_that_is_wanted() {
    let mut guest = at_its_shell(linux().with("--on-reboot restart --cpus 2"));
    guest.type_line("echo once >/mnt/file; reboot -f");
    guest.wait_for("user space");
    guest.wait_for("# ");
    guest.type_line("ls -A /mnt | wc -l; nproc; poweroff -f");
    guest.wait_for("0\r\n2\r\n");
    assert_ended_well(&guest.finish());
}

#[test]
fn a_panic_is_a_failure() {
    assert_panicked(&told(linux(), "echo c >/proc/sysrq-trigger"));
}

#[test]
fn a_panic_is_a_failure_with_firecrackers_usual_parameters_too() {
    let finished = linux()
        .parameters("rdinit=/nonexistent reboot=k panic=1 pci=off")
        .run();
    assert_panicked(&finished);
}

#[test]
fn the_power_button_powers_it_off() {
    let mut guest = linux()
        .initrd(Image::DriversInitrd)
        .with("--stop-timeout 120")
        .start();
    guest.wait_for("user space");
    guest.wait_for("# ");
    // What an event daemon does: it opens the button's device, and when its first event has come, powers the machine off.
    guest.type_line(
        "exec 3</dev/input/event0; echo liste''ning; dd of=/dev/null bs=24 count=1 <&3; poweroff -f",
    );
    guest.wait_for("listening");
    guest.signal(Signal::TERM);
    assert_ended_well(&guest.finish());
}

#[test]
fn without_the_buttons_driver_it_is_killed_when_its_time_is_over() {
    let guest = at_its_shell(linux().with("--stop-timeout 1"));
    guest.signal(Signal::TERM);
    let finished = guest.finish();
    assert_eq!(finished.code, 137);
    assert!(
        finished.stderr.contains("did not power off within 1 s"),
        "{}",
        finished.stderr
    );
}
