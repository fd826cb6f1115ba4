//! Memory: as much as was asked for, in the pages that were asked for.
use std::fs;

use ampoule_tests::linux::{Image, MACHINE, WITHOUT_THE_LABS_QUIRK, linux};

fn found(mib: u64) {
    let report = linux()
        .with(&format!("--memory {mib}"))
        .parameters(WITHOUT_THE_LABS_QUIRK)
        .script(MACHINE)
        .report();
    report.assert_has_memory(mib);
    assert_eq!(report.complaints(), [""; 0]);
}

#[test]
fn a_small_machine() {
    found(128);
}

#[test]
fn a_machine_up_to_the_hole() {
    found(3 << 10);
}

#[test]
fn a_machine_that_reaches_past_the_hole() {
    found(4 << 10);
}

#[test]
fn a_machine_too_small_for_its_kernel_is_refused_before_it_exists() {
    let finished = linux().kernel(Image::Cloud).with("--memory 32M").run();
    assert_eq!(finished.code, 125);
    assert!(finished.stdout.is_empty());
    let message = finished.stderr;
    assert!(
        message.contains("MiB of memory, and the guest has 32") && message.contains("--memory"),
        "{message}"
    );
}

/// MiB of 2 MiB pages that this host has in reserve.
fn reserved_mib() -> u64 {
    let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
        .unwrap_or_default();
    free.trim().parse().unwrap_or(0) * 2
}

#[test]
fn memory_may_be_shared_or_of_huge_pages() {
    let mut kinds = vec!["--huge-pages Transparent", "--shared-memory"];
    // The host's owner decides how many there are; in the lab it is us.
    if reserved_mib() >= 256 {
        kinds.extend(["--huge-pages 2M", "--huge-pages 2M --shared-memory"]);
    }
    for kind in kinds {
        linux()
            .with(kind)
            .script(MACHINE)
            .report()
            .assert_has_memory(256);
    }
}

#[test]
fn more_huge_pages_than_there_are_is_refused_before_the_machine_exists() {
    for kind in ["--huge-pages 2M", "--huge-pages 2M --shared-memory"] {
        let mib = reserved_mib() + 2048;
        let finished = linux().with(&format!("{kind} --memory {mib}")).run();
        assert_eq!(finished.code, 125);
        assert!(finished.stdout.is_empty());
        let message = finished.stderr;
        assert!(
            message.contains("huge") || message.contains("2 MiB pages"),
            "{message}"
        );
        assert!(message.contains("nr_hugepages"), "{message}");
    }
}
