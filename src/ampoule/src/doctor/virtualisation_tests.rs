use std::os::unix::fs::PermissionsExt;

use super::super::report::{State, Status};
use super::super::testing::FakeHost;
use super::*;

/// A host whose `/dev/kvm` does not open for this user, with this mode and the group of the test's own files.
fn forbidden(mode: u32, group: &str) -> FakeHost {
    let host = FakeHost::intel().with_system(|system| system.kvm = Err(libc::EACCES));
    let device = host.root().join("dev/kvm");
    std::fs::set_permissions(&device, std::fs::Permissions::from_mode(mode)).unwrap();
    let gid = std::fs::metadata(&device).unwrap().gid();
    host.with_file("/etc/group", &group.replace("GID", &gid.to_string()))
        .with_file(
            "/etc/passwd",
            "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n",
        )
}

#[test]
fn an_intel_host_is_ready() {
    let host = FakeHost::intel();
    assert_eq!(host.check("hardware").found, "Intel VMX");
    assert_eq!(host.check("nested-paging").found, "EPT");
    assert_eq!(host.check("kvm-access").status, Status::Ok);
}

#[test]
fn an_amd_host_is_ready() {
    let host = FakeHost::amd();
    assert_eq!(host.check("hardware").found, "AMD SVM");
    assert_eq!(host.check("nested-paging").found, "NPT");
}

#[test]
fn a_paravirtual_kvm_is_told_from_a_real_one() {
    let host =
        FakeHost::paravirtual().with_system(|system| system.writable.push("/run".to_owned()));
    let check = host.check("hardware");
    assert_eq!(check.status, Status::Missing);
    assert!(check.found.contains("kvm_pvm"), "{}", check.found);
    assert!(check.advice.unwrap().contains("nested"));
    let verdict = host.report().verdict;
    assert_eq!(verdict.state, State::StockKernelsWillNotRun);
    assert!(
        verdict
            .text
            .starts_with("Stock kernels will not run here: "),
        "{}",
        verdict.text
    );
}

#[test]
fn a_kvm_that_works_without_hardware_is_paravirtual_whatever_its_module() {
    let host = FakeHost::paravirtual().without("/sys/module/kvm_pvm/parameters/force");
    std::fs::remove_dir_all(host.root().join("sys/module/kvm_pvm")).unwrap();
    assert!(host.check("hardware").found.contains("no hardware module"));
}

#[test]
fn a_built_in_hardware_module_does_not_make_up_for_missing_flags() {
    let host = FakeHost::paravirtual().with_file("/sys/module/kvm_intel/parameters/ept", "N");
    assert_eq!(host.check("hardware").status, Status::Missing);
}

#[test]
fn without_kvm_the_processors_module_mends_it() {
    for (host, mend) in [
        (FakeHost::intel(), "sudo modprobe kvm_intel"),
        (FakeHost::amd(), "sudo modprobe kvm_amd"),
    ] {
        let host = host.without("/dev/kvm");
        let check = host.check("kvm-device");
        assert_eq!(
            (check.status, check.mend.as_deref()),
            (Status::Missing, Some(mend))
        );
        assert_eq!(host.check("kvm-access").status, Status::Info);
        assert_eq!(host.check("kvm-capabilities").found, "not checked");
        assert_eq!(host.report().verdict.state, State::NotReady);
    }
}

#[test]
fn a_container_without_the_device_is_told_to_pass_it_on() {
    let host = FakeHost::intel()
        .without("/dev/kvm")
        .with_file("/proc/misc", "200 tun\n232 kvm\n");
    assert!(
        host.check("kvm-device")
            .advice
            .unwrap()
            .contains("--device /dev/kvm")
    );
}

#[test]
fn a_paravirtual_kvm_is_recognised_by_users_who_may_not_open_it() {
    let host = FakeHost::paravirtual().with_system(|system| system.kvm = Err(libc::EACCES));
    assert!(host.check("hardware").found.contains("kvm_pvm"));
    assert_eq!(host.report().verdict.state, State::NotReady);
}

#[test]
fn a_virtual_machine_with_hardware_of_its_own_is_nested() {
    let host = FakeHost::intel().with_file("/proc/cpuinfo", "flags : vmx hypervisor\n");
    assert_eq!(
        host.check("hardware").found,
        "Intel VMX, nested: this host is a virtual machine itself"
    );
}

#[test]
fn without_kvm_and_hardware_the_host_is_not_ready() {
    let host = FakeHost::paravirtual().without("/dev/kvm");
    assert_eq!(host.report().verdict.state, State::NotReady);
    assert_eq!(host.check("kvm-device").mend, None);
}

#[test]
fn a_user_outside_of_the_devices_group_is_told_to_join_it() {
    let check = forbidden(0o660, "kvm:x:GID:bob\n").check("kvm-access");
    assert_eq!(check.status, Status::Missing);
    assert_eq!(check.found, "/dev/kvm does not open: Permission denied");
    assert_eq!(
        check.mend.as_deref(),
        Some("sudo usermod -aG kvm \"$USER\"")
    );
}

#[test]
fn a_user_who_joined_the_group_but_did_not_log_in_again_is_told_so() {
    let check = forbidden(0o660, "kvm:x:GID:bob,ann\n").check("kvm-access");
    assert_eq!(check.mend.as_deref(), Some("newgrp kvm"));
}

#[test]
fn a_device_that_is_roots_alone_is_given_to_the_group() {
    let check = forbidden(0o600, "root:x:GID:\nkvm:x:108:\n").check("kvm-access");
    assert!(check.mend.unwrap().starts_with("sudo chgrp kvm /dev/kvm"));
    let check = forbidden(0o600, "root:x:GID:\n").check("kvm-access");
    assert_eq!(check.mend.as_deref(), Some("sudo chmod 666 /dev/kvm"));
}

#[test]
fn root_who_may_not_open_the_device_is_in_a_container() {
    let host = FakeHost::intel().with_system(|system| {
        system.uid = 0;
        system.kvm = Err(libc::EPERM);
    });
    assert!(
        host.check("kvm-access")
            .advice
            .unwrap()
            .contains("container")
    );
}

#[test]
fn a_device_without_its_module_is_mended_by_the_module() {
    let host = FakeHost::amd().with_system(|system| system.kvm = Err(libc::ENODEV));
    assert_eq!(
        host.check("kvm-access").mend.as_deref(),
        Some("sudo modprobe kvm_amd")
    );
}

#[test]
fn needed_capabilities_are_told_from_useful_ones() {
    let host = FakeHost::intel().with_system(|system| {
        let facts = system.kvm.as_mut().unwrap();
        facts.lacking = vec!["x2APIC API"];
    });
    assert_eq!(host.check("kvm-capabilities").status, Status::Warning);
    let host = host.with_system(|system| system.kvm.as_mut().unwrap().missing = vec!["irqfd"]);
    let check = host.check("kvm-capabilities");
    assert_eq!(
        (check.status, check.found.as_str()),
        (Status::Missing, "lacks irqfd")
    );
}

#[test]
fn another_version_of_the_interface_is_refused() {
    let host =
        FakeHost::intel().with_system(|system| system.kvm.as_mut().unwrap().api_version = 11);
    assert_eq!(host.check("kvm-api").found, "version 11, not 12");
}

#[test]
fn another_hypervisor_that_holds_the_processor_is_named_as_the_cause() {
    let host = FakeHost::intel()
        .with_system(|system| system.kvm.as_mut().unwrap().create_vm = Err(libc::EBUSY));
    let check = host.check("kvm-create-vm");
    assert_eq!(check.status, Status::Missing);
    assert!(check.advice.unwrap().contains("VirtualBox"));
}

#[test]
fn another_architecture_is_not_ready() {
    let host = FakeHost::intel().with_system(|system| system.machine = "aarch64");
    assert_eq!(host.report().verdict.state, State::NotReady);
}
