use std::collections::BTreeSet;

use super::testing::FakeHost;
use super::*;

fn ready() -> FakeHost {
    FakeHost::intel()
        .with_file("/boot/vmlinuz-6.1.0-47-cloud-amd64", "\x7fELF")
        .with_system(|system| system.writable.push("/run".to_owned()))
}

#[test]
fn a_host_with_warnings_is_ready() {
    let report = ready().report();
    assert_eq!(report.verdict.state, State::Ready, "{report:#?}");
    assert!(
        report
            .checks
            .iter()
            .any(|check| check.status == Status::Warning)
    );
    assert!(
        report
            .verdict
            .text
            .starts_with("Ready: stock kernels run here, on Intel VMX; ")
    );
}

#[test]
fn a_host_without_a_guest_kernel_is_ready_but_says_so() {
    let verdict = ready()
        .without("/boot/vmlinuz-6.1.0-47-cloud-amd64")
        .report()
        .verdict;
    assert_eq!(verdict.state, State::Ready);
    assert!(
        verdict.text.contains("no guest kernel yet"),
        "{}",
        verdict.text
    );
}

#[test]
fn the_verdict_on_a_host_that_is_not_ready_names_the_reasons() {
    let verdict = ready().without("/dev/kvm").report().verdict;
    assert_eq!(verdict.text, "Not ready: KVM device: no /dev/kvm.");
}

#[test]
fn every_host_has_the_same_checks_once_each() {
    let ids = |host: FakeHost| -> Vec<&str> {
        host.report().checks.iter().map(|check| check.id).collect()
    };
    let expected = ids(ready());
    assert_eq!(
        expected.iter().collect::<BTreeSet<_>>().len(),
        expected.len()
    );
    assert_eq!(ids(FakeHost::amd()), expected);
    assert_eq!(ids(FakeHost::paravirtual()), expected);
    assert_eq!(ids(FakeHost::intel().without("/dev/kvm")), expected);
    assert_eq!(
        ids(FakeHost::intel().with_file("/sys/fs/cgroup/cgroup.controllers", "cpu")),
        expected
    );
}

#[test]
fn what_keeps_guests_from_running_comes_with_a_cure() {
    let hosts = [
        FakeHost::paravirtual(),
        FakeHost::intel().without("/dev/kvm"),
        FakeHost::amd().with_system(|system| system.kvm = Err(libc::EACCES)),
        FakeHost::amd().with_system(|system| system.kvm = Err(libc::EIO)),
    ];
    for check in hosts.iter().flat_map(|host| host.report().checks) {
        let has_cure = check.mend.is_some() || check.advice.is_some();
        assert!(has_cure || check.status != Status::Missing, "{check:#?}");
    }
}

#[test]
fn the_json_report_has_the_documented_form() {
    let json: serde_json::Value = serde_json::from_str(&ready().report().to_json()).unwrap();
    assert_eq!(json["format"], 1);
    assert_eq!(json["verdict"]["state"], "ready");
    let check = &json["checks"][0];
    assert_eq!(check["id"], "architecture");
    assert_eq!(check["group"], "virtualisation");
    assert_eq!(check["status"], "ok");
    assert!(check["mend"].is_null() && check["advice"].is_null());
    let keys: BTreeSet<&str> = check
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys,
        BTreeSet::from([
            "id", "group", "title", "status", "found", "why", "mend", "advice"
        ])
    );
}

#[test]
fn the_table_is_aligned_and_ends_with_the_verdict() {
    let report = ready().report();
    let table = table::render(&report, false);
    assert!(
        table.starts_with("Virtualisation\n  ✓ Architecture "),
        "{table}"
    );
    assert_eq!(table.lines().last(), Some(report.verdict.text.as_str()));
    let column = |title: &str, found: &str| {
        let line = table.lines().find(|line| line.contains(title)).unwrap();
        line.chars().count() - found.chars().count()
    };
    assert_eq!(
        column("Hardware", "Intel VMX"),
        column("Nested paging", "EPT")
    );
    assert!(!table.contains('\x1b'));
}

#[test]
fn colours_are_used_only_when_asked_for() {
    assert!(table::render(&ready().report(), true).contains("\x1b[32m✓\x1b[0m"));
}

#[test]
fn what_files_are_called_cannot_reach_the_terminal_raw() {
    let host = ready().with_file("/boot/vmlinuz-9-cloud-\x1b[2J", "\x7fELF");
    let table = table::render(&host.report(), false);
    assert!(!table.contains('\x1b'), "{table}");
    assert!(table.contains(r"\u{1b}[2J"), "{table}");
}

#[test]
fn the_help_describes_the_exit_codes() {
    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        doctor: DoctorArgs,
    }
    let help = <Program as clap::CommandFactory>::command()
        .render_long_help()
        .to_string();
    assert!(help.contains("--json") && help.contains("125"), "{help}");
    let program = <Program as clap::Parser>::parse_from(["doctor", "--json"]);
    assert!(program.doctor.json);
}
