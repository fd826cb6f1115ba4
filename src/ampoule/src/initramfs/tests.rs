use std::{fs, os::unix::fs::FileExt};

use super::*;

/// A kernel's modules beside it, each a little ELF file.
fn tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    let directory = tree.path().join("modules/6.1.0-test");
    fs::create_dir_all(&directory).unwrap();
    let list = "virtio.ko:\nvirtio_blk.ko: virtio.ko\nvirtio_mmio.ko: virtio.ko\next4.ko: jbd2.ko\njbd2.ko:\nbutton.ko:\n";
    fs::write(directory.join(DEPENDENCIES), list).unwrap();
    for name in [
        "virtio",
        "virtio_blk",
        "virtio_mmio",
        "ext4",
        "jbd2",
        "button",
    ] {
        fs::write(
            directory.join(format!("{name}.ko")),
            format!("\x7fELF {name}"),
        )
        .unwrap();
    }
    tree
}

fn needs<'a>(kernel: &'a Path, transport: Transport) -> Needs<'a> {
    Needs {
        release: "6.1.0-test",
        kernel,
        transport,
        file_systems: vec![Kind::Ext4, Kind::Xfs],
        drivers: vec![],
    }
}

#[test]
fn modules_stand_in_the_order_to_load_them_in() {
    let tree = tree();
    let kernel = tree.path().join("vmlinuz");
    let needs = needs(&kernel, Transport::Mmio);
    let directory = tree.path().join("modules/6.1.0-test");
    let opened = Directory::open(&directory).unwrap();
    let modules = Modules::read(&opened).unwrap();
    let wanted = select(&modules, &needs, needs.transport, &directory).unwrap();
    let lines: Vec<_> = wanted
        .iter()
        .map(|(group, file)| format!("{group} {file}"))
        .collect();
    assert_eq!(
        lines,
        [
            "machine virtio.ko",
            "machine virtio_mmio.ko",
            "machine virtio_blk.ko",
            "ext4 jbd2.ko",
            "ext4 ext4.ko",
            "machine button.ko",
        ]
    );
    let mut archive = Vec::new();
    write(&opened, &wanted, b"agent", &mut archive).unwrap();
    let text = String::from_utf8_lossy(&archive);
    for part in [
        "modules/list\0",
        "machine virtio_blk.ko\n",
        "\x7fELF jbd2",
        "init\0",
        "agent",
    ] {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn a_kernel_without_the_machines_drivers_is_refused() {
    let tree = tree();
    let kernel = tree.path().join("vmlinuz");
    let needs = needs(&kernel, Transport::Pci);
    let directory = tree.path().join("modules/6.1.0-test");
    let opened = Directory::open(&directory).unwrap();
    let modules = Modules::read(&opened).unwrap();
    let error = select(&modules, &needs, needs.transport, &directory)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no module virtio_pci"), "{error}");
}

#[test]
fn the_kernel_decides_on_the_transport_where_nobody_does() {
    let tree = tree();
    let directory = tree.path().join("modules/6.1.0-test");
    let opened = Directory::open(&directory).unwrap();
    let modules = Modules::read(&opened).unwrap();
    assert_eq!(choose(&modules, Transport::Auto), Transport::Mmio);
    assert_eq!(choose(&modules, Transport::Pci), Transport::Pci);
    fs::write(directory.join("modules.builtin"), "kernel/virtio_pci.ko\n").unwrap();
    let opened = Directory::open(&directory).unwrap();
    let modules = Modules::read(&opened).unwrap();
    assert_eq!(choose(&modules, Transport::Auto), Transport::Pci);
}

#[test]
fn a_kernel_without_modules_is_left_to_itself() {
    let made = make(
        &needs(Path::new("/nonexistent/vmlinuz"), Transport::Mmio),
        None,
    )
    .unwrap();
    assert!(matches!(made, Made::NoModules(places) if places.len() == 4));
}

#[test]
fn modules_of_somebody_else_are_not_the_kernels() {
    let tree = tree();
    let place = tree.path().join("modules/6.1.0-test");
    let own = rustix::process::geteuid().as_raw();
    assert!(find(&place, None).is_some());
    if own == 0 {
        let other = 65_534;
        std::os::unix::fs::chown(place.join(DEPENDENCIES), Some(other), None).unwrap();
        assert!(find(&place, None).is_none());
        assert!(find(&place, Some(other)).is_some(), "whose the kernel is");
    }
}

#[test]
fn what_was_made_is_kept_and_found() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::new(directory.path().join("initramfs"), ".cpio");
    let key = Key::new(&["a"]);
    assert!(cache.lookup(&key).is_none());
    store(&cache, &key, b"archive").unwrap();
    let (file, size) = cache.lookup(&key).unwrap();
    let mut bytes = [0; 7];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!((size, &bytes), (7, b"archive"));
    let other = needs(Path::new("k"), Transport::Pci);
    let key = |agent: &str| super::key(&other, Transport::Pci, &["1".into(), agent.into()]);
    assert_ne!(key("2"), key("3"));
}
