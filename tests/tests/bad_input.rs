//! What cannot be run is refused before there is a VM: by one clear error, with nothing on stdout. None of this needs KVM.
use std::{fs, os::unix::net::UnixListener, path::Path};

use ampoule_tests::{Finished, Guest, Launch, handmade};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;
use vmm::testing::kernel_image::{BzImage, Elf};

/// That it was refused: one message of ours, of a few lines at most.
fn refused(finished: &Finished) -> &str {
    let message = finished.stderr.as_str();
    assert_eq!(finished.code, 125, "{message}");
    assert_eq!(finished.console(), "");
    assert!((1..=5).contains(&message.lines().count()), "{message}");
    assert!(message.matches("(hint: ").count() <= 1, "{message}");
    message
}

/// That `ampoule run` with these arguments is refused, in a message that begins and goes on like this.
fn refuses(arguments: &[&str], start: &str, part: &str) {
    let finished = Guest::run(arguments).finish();
    let message = refused(&finished);
    assert!(message.starts_with(start), "{arguments:?}: {message}");
    assert!(message.contains(part), "{arguments:?}: {message}");
}

fn file(directory: &TempDir, name: &str, bytes: &[u8]) -> String {
    let path = directory.path().join(name);
    fs::write(&path, bytes).expect("a file can be written");
    text(&path)
}

fn named_pipe(directory: &TempDir) -> String {
    let path = directory.path().join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe can be made");
    text(&path)
}

fn text(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory can be made")
}

/// An ELF header of class `class` (1: 32 bits, 2: 64) for `machine`.
fn elf_header(class: u8, machine: u16) -> Vec<u8> {
    let mut bytes = vec![0x7f, b'E', b'L', b'F', class, 1, 1];
    bytes.resize(16, 0);
    bytes.extend_from_slice(&2u16.to_le_bytes());
    bytes.extend_from_slice(&machine.to_le_bytes());
    bytes.resize(256, 0);
    bytes
}

fn refuses_kernel(path: &str, part: &str) {
    refuses(
        &["--kernel", path],
        &format!("ampoule: kernel {path}: "),
        part,
    );
}

#[test]
fn kernels_that_are_no_files() {
    let directory = directory();
    refuses_kernel("/nowhere/vmlinuz", "No such file or directory");
    refuses_kernel(&text(directory.path()), "is a directory");
    refuses_kernel("/dev/zero", "is a character device");
    refuses_kernel(&named_pipe(&directory), "is a named pipe");
}

#[test]
fn kernels_that_are_no_kernels() {
    let directory = directory();
    refuses_kernel(&file(&directory, "empty", b""), "is empty (hint: ");
    refuses_kernel(&file(&directory, "text", b"#!/bin/sh\n"), "is not a kernel");
    refuses_kernel(
        "/bin/true",
        "is not a kernel: it is a program (ELF) (hint: ",
    );
}

#[test]
fn kernels_that_were_cut_short() {
    let directory = directory();
    let elf = Elf::kernel().build();
    for length in [16, 100, elf.len() / 2] {
        refuses_kernel(&file(&directory, "elf", &elf[..length]), "(hint: ");
    }
    let image = BzImage::new(&[0x55; 4096]).build();
    for length in [0x210, 0x500, image.len() / 2] {
        refuses_kernel(&file(&directory, "bzimage", &image[..length]), "(hint: ");
    }
}

#[test]
fn kernels_for_other_machines() {
    const I386: u16 = 3;
    const AARCH64: u16 = 183;
    let directory = directory();
    refuses_kernel(
        &file(&directory, "32-bit", &elf_header(1, I386)),
        "is built for i386 (a 32-bit ELF), and guests here are x86-64",
    );
    refuses_kernel(
        &file(&directory, "arm", &elf_header(2, AARCH64)),
        "is built for aarch64, and guests here are x86-64",
    );
}

#[test]
fn initrds_that_are_no_files() {
    let (kernel, directory) = (handmade::hello(), directory());
    let refuses_initrd = |path: &str, part: &str| {
        let arguments = ["--kernel", kernel.argument(), "--initrd", path];
        refuses(&arguments, &format!("ampoule: initrd {path}: "), part);
    };
    refuses_initrd("/nowhere/initrd.img", "No such file or directory");
    refuses_initrd(&file(&directory, "empty", b""), "empty");
    refuses_initrd(&text(directory.path()), "directory");
    refuses_initrd("/dev/zero", "device");
    refuses_initrd(&named_pipe(&directory), "pipe");
}

#[test]
fn impossible_numbers() {
    for (flag, value, part) in [
        ("--cpus", "0", ""),
        ("--cpus", "255", "254"),
        ("--cpus", "4294967296", ""),
        ("--cpus", "x", "'x'"),
        ("--cpus", "-1", "-1"),
        ("--memory", "31", "32"),
        ("--memory", "0", "32"),
        ("--memory", "100T", ""),
        ("--memory", "abc", "expected a size"),
        ("--memory", "-5", "-5"),
        ("--memory", "99999999999999999999G", ""),
        ("--stop-timeout", "-1", "-1"),
        ("--entry", "bios", "bios"),
        ("--sandbox", "maybe", "expected on or off"),
    ] {
        refuses(&[flag, value], "ampoule: ", part);
        refuses(&[flag, value], "ampoule: ", flag);
    }
}

#[test]
fn a_command_line_that_is_too_long() {
    let kernel = handmade::hello();
    let long = "x".repeat(2049);
    let arguments = ["--kernel", kernel.argument(), "--cmdline", &long];
    refuses(&arguments, "ampoule: --cmdline: ", "2047");
}

#[test]
fn unknown_words() {
    refuses(&["--frob"], "ampoule: unexpected argument '--frob'", "");
    refuses(
        &["--kernl", "x"],
        "ampoule: unexpected argument '--kernl'",
        "--kernel",
    );
    refuses(&["vmlinuz"], "ampoule: unexpected argument 'vmlinuz'", "");
    refuses(&["--kernel"], "ampoule: ", "--kernel");
    let unknown = Launch::ampoule(["frob"]).start().finish();
    assert!(refused(&unknown).contains("'frob'"));
}

#[test]
fn definitions_that_are_none() {
    let directory = directory();
    let nested = "[".repeat(100_000);
    for (text, place) in [
        (
            r#"{"boot-source": {"kernel_image_path": "k",}"#,
            ":1:43: not a JSON text: ",
        ),
        ("", ":1:"),
        (
            &*nested,
            ":1:128: not a JSON text: nested more than 127 levels deep",
        ),
        (
            "{\n \"boot-source\": {\"kernel_image_path\": \"k\", \"initrd\": \"x\"}}",
            ":2:44: `boot-source.initrd`: unknown key (hint: did you mean `initrd_path`?)",
        ),
        (
            "{\"boot-source\": {\"kernel_image_path\": \"k\"},\n\"entropy\": {}}",
            ":2:1: `entropy`: not supported yet",
        ),
        (
            r#"{"boot-source": {"kernel_image_path": 5}}"#,
            ":1:39: `boot-source.kernel_image_path`: found 5, expected a path, as a string",
        ),
        (
            "{\"boot-source\": {\"kernel_image_path\": \"k\"},\n\"machine-config\": {\"vcpu_count\": 0}}",
            ":2:",
        ),
    ] {
        let path = file(&directory, "vm.json", text.as_bytes());
        refuses(&["--config", &path], &format!("{path}{place}"), "");
    }
}

#[test]
fn definitions_that_are_no_files() {
    let directory = directory();
    let oversized = file(&directory, "large", &vec![b' '; 2 << 20]);
    for (path, part) in [
        ("/nowhere/vm.json", "No such file or directory"),
        (&*text(directory.path()), "directory"),
        (&*oversized, "too large"),
        ("/dev/zero", "too large"),
    ] {
        refuses(&["--config", path], &format!("ampoule: {path}: "), part);
    }
    let pipe = named_pipe(&directory);
    refuses(&["--config", &pipe], &format!("{pipe}:1:"), "");
}

#[test]
fn a_definition_may_come_through_a_pipe() {
    let definition = r#"{"boot-source": {"kernel_image_path": "/nowhere/k"}}"#;
    let program = text(&ampoule_tests::ampoule());
    // Whoever writes it takes longer than we to open it.
    let script = format!("exec {program} run --config <(sleep 0.1; echo '{definition}')");
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", &script]);
    let finished = Launch::command(bash).start().finish();
    assert!(refused(&finished).starts_with("ampoule: kernel /nowhere/k: "));
}

#[test]
fn disks_that_are_none() {
    let directory = directory();
    let kernel = file(
        &directory,
        "kernel",
        &Elf::new(0x10_0000).load(0x10_0000, &[0xf4], 0x1000).build(),
    );
    let image = file(&directory, "image", &[0; 512]);
    let empty = directory.path().to_str().expect("a plain path").to_owned();
    let pipe = named_pipe(&directory);
    let refuses_disk = |disk: &str, part: &str| {
        let disk_of = disk.split(',').next().unwrap_or_default();
        let arguments = ["--kernel", &kernel, "--disk", disk];
        refuses(&arguments, &format!("ampoule: disk {disk_of}: "), part);
    };
    refuses_disk("/nonexistent/image", "No such file");
    refuses_disk(&empty, "Is a directory");
    refuses_disk(&format!("{empty},ro"), "neither a file nor a block device");
    refuses_disk(&format!("{pipe},ro"), "neither a file nor a block device");
    refuses_disk("/dev/null", "neither a file nor a block device");

    for (disk, part) in [
        (",ro", "path"),
        ("image,rw", "no such option"),
        ("image,format=qcow2", "only raw"),
        (
            "image,cache=safe",
            "expected writeback, writethrough, none or unsafe",
        ),
        ("image,queues=many", "expected a number from 1 to 16"),
    ] {
        let finished = Guest::run(["--kernel", &kernel, "--disk", disk]).finish();
        let message = refused(&finished);
        assert!(
            message.contains("--disk") && message.contains(part),
            "{message}"
        );
    }
    for (second, part) in [
        ("image,id=a", "an id that no drive before has"),
        ("image,id=b/c", "letters, digits"),
        ("image,serial=123456789012345678901", "1 to 20 printable"),
        ("image,queues=17", "from 1 to 16"),
    ] {
        let arguments = [
            "--kernel",
            &kernel,
            "--disk",
            "image,id=a",
            "--disk",
            second,
        ];
        refuses(&arguments, "ampoule: --disk: ", part);
    }
    // Twice the same, to write to both.
    let arguments = ["--kernel", &kernel, "--disk", &image, "--disk", &image];
    refuses(&arguments, &format!("ampoule: disk {image}: "), "using it");
    // More than there are places for.
    let many = std::iter::repeat_n(["--disk", "image,ro"], 65).flatten();
    let arguments: Vec<_> = ["--kernel", &kernel].into_iter().chain(many).collect();
    refuses(&arguments, "ampoule: --disk: ", "at most 64");
}

#[test]
fn drives_of_a_definition_that_are_none() {
    let directory = directory();
    let kernel = file(
        &directory,
        "kernel",
        &Elf::new(0x10_0000).load(0x10_0000, &[0xf4], 0x1000).build(),
    );
    let drive = |id: &str, root: bool, path: &str| {
        format!(r#"{{"drive_id": "{id}", "is_root_device": {root}, "path_on_host": "{path}"}}"#)
    };
    let definition = |drives: &[String]| {
        let drives = drives.join(",\n");
        let text = format!(
            "{{\"boot-source\": {{\"kernel_image_path\": \"{kernel}\"}},\n\"drives\": [\n{drives}]}}"
        );
        file(&directory, "vm.json", text.as_bytes())
    };
    let missing = definition(&[drive("a", true, "/nonexistent/image")]);
    let start = "ampoule: disk /nonexistent/image: ";
    refuses(&["--config", &missing], start, "No such file");
    for (drives, line, part) in [
        (
            [drive("a", true, "i"), drive("b", true, "j")],
            4,
            "is_root_device",
        ),
        (
            [drive("a", true, "i"), drive("a", false, "j")],
            4,
            "drive_id",
        ),
        (
            [drive("a/b", true, "i"), drive("c", false, "j")],
            3,
            "drive_id",
        ),
        (
            [drive("a", true, "i"), drive("b", false, "")],
            4,
            "path_on_host",
        ),
    ] {
        let config = definition(&drives);
        refuses(&["--config", &config], &format!("{config}:{line}:"), part);
    }
}

#[test]
fn nothing_to_boot() {
    let home = directory();
    let finished = Launch::run([] as [&str; 0])
        .env("HOME", home.path())
        .without_env("XDG_DATA_HOME")
        .without_env("AMPOULE_KERNEL")
        .start()
        .finish();
    // A host with kernels of its own goes on to boot one, or to say that it may not read it.
    if finished.stderr.starts_with("ampoule: no guest kernel") {
        let message = refused(&finished);
        let place = home.path().join(".local/share/ampoule/kernel");
        assert!(
            message.contains(&format!("{} does not exist", place.display())),
            "{message}"
        );
        assert!(message.contains("(hint: "), "{message}");
    }
}

#[test]
fn a_kernel_that_the_environment_names_wrongly() {
    let finished = Launch::run([] as [&str; 0])
        .env("AMPOULE_KERNEL", "/nowhere/vmlinuz")
        .start()
        .finish();
    assert!(refused(&finished).contains("/nowhere/vmlinuz"));
}

#[test]
fn a_socket_that_cannot_be_is_refused() {
    let (directory, kernel) = (directory(), handmade::hello());
    let refuses = |vsock: &str, start: &str, part: &str| {
        refuses(
            &["--kernel", kernel.argument(), "--vsock", vsock],
            start,
            part,
        );
    };
    for (cid, whose) in [
        ("0", "hypervisor"),
        ("1", "loopback"),
        ("2", "host's"),
        ("4294967295", "any"),
    ] {
        refuses(
            &format!("{cid},v"),
            &format!("ampoule: --vsock: found {cid}, "),
            whose,
        );
    }
    for wrong in ["", "x,v", "4294967296,v"] {
        refuses(wrong, "ampoule: invalid value", "no context id");
    }
    refuses(
        &format!("3,{}", "p".repeat(108)),
        "ampoule: --vsock: found 108 bytes",
        "107",
    );
    let taken = file(&directory, "taken", b"precious");
    refuses(
        &format!("3,{taken}"),
        &format!("ampoule: vsock {taken}: "),
        "no socket",
    );
    assert_eq!(fs::read(&taken).expect("it is there"), b"precious");
    let path = text(&directory.path().join("live"));
    let _live = UnixListener::bind(&path).expect("a socket can be made");
    refuses(
        &format!("3,{path}"),
        &format!("ampoule: vsock {path}: "),
        "a running program listens",
    );
    let path = text(&directory.path().join("none/v"));
    refuses(
        &format!("3,{path}"),
        &format!("ampoule: vsock {path}: "),
        "",
    );
}
