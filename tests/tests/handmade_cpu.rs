//! What a guest's processor meets: the state it is entered in, ports, device registers, interrupts, CPUID.
use ampoule_tests::{Finished, handmade};

/// The lines of a guest that ended well.
fn lines(finished: Finished) -> Vec<String> {
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    assert_eq!(finished.stderr, "");
    finished.console().lines().map(str::to_owned).collect()
}

/// RAM of a machine with this much of it that its memory map gives to the kernel: all but what lies between the BIOS's
/// data and the first MiB.
fn usable(memory: u64) -> u64 {
    memory - ((1 << 20) - 0x9_fc00)
}

#[test]
fn long_mode_finds_the_zero_page() {
    let told = lines(
        handmade::hello()
            .run(&["--memory", "64M", "--cmdline", "color=blue quiet"])
            .finish(),
    );
    let (command_line, rest): (Vec<_>, Vec<_>) = told
        .into_iter()
        .partition(|line| line.starts_with("command line "));
    let low = format!("ram low {:08x}", usable(64 << 20));
    assert_eq!(
        rest,
        [
            "hello",
            "magic HdrS",
            "ram high 00000000",
            &low,
            "rsdp RSD PTR ",
            "rsdp sum 00000000",
            "initrd size 00000000"
        ]
    );
    assert!(
        command_line[0].contains("console=ttyS0"),
        "{command_line:?}"
    );
    assert!(
        command_line[0].ends_with(" color=blue quiet"),
        "{command_line:?}"
    );
}

#[test]
fn memory_continues_beyond_the_hole() {
    let told = lines(handmade::hello().run(&["--memory", "6G"]).finish());
    let total = usable(6 << 30);
    assert!(
        told.contains(&format!("ram high {:08x}", total >> 32)),
        "{told:?}"
    );
    assert!(
        told.contains(&format!("ram low {:08x}", total & 0xffff_ffff)),
        "{told:?}"
    );
}

#[test]
fn the_initrd_is_handed_over() {
    let initrd = handmade::Kernel::from_bytes(&[7; 0x1234]);
    let told = lines(
        handmade::hello()
            .run(&["--initrd", initrd.argument()])
            .finish(),
    );
    assert!(told.contains(&"initrd size 00001234".into()), "{told:?}");
}

#[test]
fn protected_mode_finds_the_start_info() {
    let told = lines(
        handmade::pvh()
            .run(&[
                "--entry",
                "pvh",
                "--memory",
                "64M",
                "--cmdline",
                "color=blue",
            ])
            .finish(),
    );
    assert_eq!(told[0], "hello from protected mode");
    assert_eq!(told[1], "magic 336ec578");
    assert_eq!(told[2], "version 00000001");
    assert!(told[3].ends_with(" color=blue"), "{told:?}");
    // "RSD ", as a number.
    assert_eq!(told[4], "rsdp 20445352");
    assert_eq!(told[5], format!("ram {:08x}", usable(64 << 20)));
}

#[test]
fn ports_take_every_width() {
    assert_eq!(
        lines(handmade::ports().run(&[]).finish()),
        [
            "scratch 0000005a",
            "absent byte 000000ff",
            "absent word 0000ffff",
            "absent long ffffffff",
            "straddling long ffffffff",
            "absent string ffffffff",
            "sleep control 00000000",
            "keyboard status 00000000",
            "many bytes by one instruction"
        ]
    );
}

#[test]
fn device_registers_answer_in_memory() {
    assert_eq!(
        lines(handmade::registers().run(&[]).finish()),
        [
            "ioapic version 00010011",
            "ioapic entry 00010031",
            "absent byte 000000ff",
            "absent word 0000ffff",
            "absent long ffffffff",
            "absent quad, upper half ffffffff"
        ]
    );
}

#[test]
fn a_sleeping_processor_wakes_for_its_timer() {
    assert_eq!(lines(handmade::timer().run(&[]).finish()), ["five ticks"]);
}

#[test]
fn a_sleeping_processor_wakes_for_the_serial_port() {
    let mut guest = handmade::echo().run(&[]);
    guest.wait_for("echo\n");
    guest.type_line("once");
    guest.wait_for("once\n");
    guest.type_line("again");
    guest.wait_for("again\n");
    guest.type_bytes(&[4]);
    assert_eq!(lines(guest.finish()), ["echo", "once", "again"]);
}

#[test]
fn cpuid_tells_of_kvm_and_of_no_nested_virtualisation() {
    let told = lines(handmade::cpuid().run(&["--cpus", "4"]).finish());
    assert_eq!(
        told,
        [
            "hypervisor 00000001",
            "vmx 00000000",
            "threads 00000004",
            "apic id 00000000",
            "svm 00000000",
            "signature KVMKVMKVM",
            "threads in the package 00000004",
            "x2apic id 00000000"
        ]
    );
}
