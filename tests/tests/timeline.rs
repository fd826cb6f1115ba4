//! Where a launch's time went; and that flags and a definition say the same.
use std::fs;

use ampoule_tests::handmade;
use serde_json::Value;
use tempfile::TempDir;

const ALWAYS: [&str; 11] = [
    "started",
    "parsed",
    "memory_mapped",
    "kernel_loaded",
    "vm_created",
    "vcpus_created",
    "confined",
    "first_run",
    "first_exit",
    "first_console_byte",
    "ended",
];

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory can be made")
}

/// The phases in a report, and when they passed.
fn phases(report: &Value) -> Vec<(String, u64)> {
    let phases = report["phases"].as_array().expect("a list");
    let phase = |entry: &Value| {
        let name = entry["phase"].as_str().expect("a name").to_owned();
        (name, entry["microseconds"].as_u64().expect("a number"))
    };
    phases.iter().map(phase).collect()
}

fn written(kernel: &handmade::Kernel) -> Vec<(String, u64)> {
    let directory = directory();
    let path = directory.path().join("timeline.json");
    let flag = format!("--timeline={}", path.display());
    let finished = kernel.run(&[&flag]).finish();
    assert_eq!((finished.code, finished.stderr.as_str()), (0, ""));
    let text = fs::read(path).expect("it was written");
    phases(&serde_json::from_slice(&text).expect("it is JSON"))
}

#[test]
fn a_file_has_every_phase_in_order() {
    let timeline = written(&handmade::hello());
    let names: Vec<_> = timeline.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ALWAYS);
    assert!(
        timeline.is_sorted_by_key(|(_, microseconds)| *microseconds),
        "{timeline:?}"
    );
}

#[test]
fn user_space_is_reached_when_the_guest_says_so() {
    let timeline = written(&handmade::marker());
    let find = |name| timeline.iter().find(|(phase, _)| phase == name);
    let (_, reached) = find("user_space").expect("the guest said so");
    let (_, ran) = find("first_run").expect("the guest ran");
    let (_, ended) = find("ended").expect("the guest ended");
    assert!(ran <= reached && reached <= ended, "{timeline:?}");
}

#[test]
fn without_a_file_it_is_text() {
    let finished = handmade::marker().run(&["--timeline"]).finish();
    assert_eq!(finished.code, 0);
    assert_eq!(finished.console(), "marked\n");
    let mut lines = finished.stderr.lines();
    assert!(
        lines
            .next()
            .is_some_and(|line| line.starts_with("ampoule: timeline, microseconds"))
    );
    let names: Vec<_> = lines
        .filter_map(|line| line.split_whitespace().nth(2))
        .collect();
    let expected: Vec<_> = ALWAYS[..10]
        .iter()
        .copied()
        .chain(["user_space", "ended"])
        .collect();
    assert_eq!(names, expected);
}

#[test]
fn a_place_that_cannot_be_written_is_refused() {
    let finished = handmade::hello()
        .run(&["--timeline=/nowhere/t.json"])
        .finish();
    assert_eq!(finished.code, 125);
    assert!(
        finished
            .stderr
            .starts_with("ampoule: --timeline /nowhere/t.json: "),
        "{}",
        finished.stderr
    );
    assert_eq!(finished.console(), "");
}

/// A definition in a file, in Firecracker's format.
fn definition(directory: &TempDir, kernel: &str) -> String {
    let text = serde_json::json!({
        "boot-source": {"kernel_image_path": kernel, "boot_args": "color=blue"},
        "machine-config": {"vcpu_count": 2, "mem_size_mib": 64},
        "drives": []
    });
    let path = directory.path().join("vm.json");
    fs::write(&path, text.to_string()).expect("a file can be written");
    path.to_str().expect("a plain path").to_owned()
}

#[test]
fn a_definition_equals_its_flags() {
    for kernel in [handmade::hello(), handmade::cpuid()] {
        let directory = directory();
        let path = definition(&directory, kernel.argument());
        let by_file = ampoule_tests::Guest::run(["--config", &path]).finish();
        let flags = ["--cmdline", "color=blue", "--cpus", "2", "--memory", "64"];
        let by_flags = kernel.run(&flags).finish();
        assert_eq!(by_file.code, 0, "{}", by_file.stderr);
        assert_eq!(by_file.console(), by_flags.console());
    }
}

#[test]
fn flags_override_a_definition() {
    let (hello, cpuid, directory) = (handmade::hello(), handmade::cpuid(), directory());
    let path = definition(&directory, "/nowhere/vmlinuz");
    let finished = cpuid.run(&["--config", &path, "--cpus", "3"]).finish();
    assert!(finished.console().contains("threads 00000003\n"));
    let arguments = [
        "--config",
        &path,
        "--memory",
        "128M",
        "--cmdline",
        "color=red",
    ];
    let console = hello.run(&arguments).finish().console();
    assert!(console.contains("ram low 07f9fc00\n"), "{console}");
    assert!(console.contains(" color=red\n"), "{console}");
    assert!(!console.contains("color=blue"), "{console}");
}
