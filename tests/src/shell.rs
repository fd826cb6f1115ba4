//! A guest at its shell.
use crate::Guest;

/// Has the guest run a command to its end.
///
/// # Panics
/// When it fails, or does not end.
pub fn run(guest: &mut Guest, command: &str) {
    guest.type_line(&format!("{command}; echo en''ded=$?"));
    guest.wait_for("ended=0");
}

/// Has the guest power off, and waits until it has.
///
/// # Panics
/// When its process fails.
pub fn power_off(mut guest: Guest) {
    guest.type_line("poweroff -f");
    let finished = guest.finish();
    assert_eq!(finished.code, 0, "{}", finished.stderr);
}
