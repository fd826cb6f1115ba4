use super::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn read(value: Value) -> Result<Definition, String> {
    object(value).map_err(|error| error.to_string())
}

/// A definition with one section's keys put beside what it must have.
fn with(section: &str, value: Value) -> Value {
    let mut whole = json!({ "boot-source": { "kernel_image_path": "vmlinux" } });
    whole[section] = value;
    whole
}

fn machine(keys: Value) -> Result<Definition, String> {
    let mut machine = json!({ "vcpu_count": 2, "mem_size_mib": 512 });
    machine
        .as_object_mut()
        .unwrap()
        .extend(keys.as_object().unwrap().clone());
    read(with("machine-config", machine))
}

fn complaints(definition: &Definition) -> Vec<String> {
    definition
        .validate()
        .err()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_least_definition_is_a_kernel_and_gets_firecrackers_machine() {
    let definition = read(json!({ "boot-source": { "kernel_image_path": "vmlinux" } })).unwrap();
    assert_eq!(definition, Definition::new(BootSource::new("vmlinux")));
    assert_eq!(definition.machine_config.vcpu_count, 1);
    assert_eq!(definition.machine_config.mem_size_mib, 128);
    assert_eq!(
        definition.lifecycle,
        Lifecycle {
            on_reboot: OnReboot::Exit,
            stop_timeout_s: 10
        }
    );
    assert_eq!(complaints(&definition), [""; 0]);
}

#[test]
fn every_key_is_read_into_its_field() {
    let definition = read(json!({
        "boot-source": { "kernel_image_path": "k", "boot_args": "quiet", "initrd_path": "i", "entry": "pvh" },
        "machine-config": {
            "vcpu_count": 4, "mem_size_mib": 1024, "smt": true, "cpu_template": "None", "track_dirty_pages": false,
            "huge_pages": "2M", "shared_memory": true, "pmu": true, "transport": "pci"
        },
        "lifecycle": { "on_reboot": "restart", "stop_timeout_s": 3 },
        "drives": [], "network-interfaces": [], "pmem": [],
        "vsock": { "guest_cid": 5, "uds_path": "v.sock" }, "balloon": null, "entropy": null, "memory-hotplug": null, "cpu-config": null,
        "logger": null, "metrics": null, "mmds-config": null, "serial": null
    }))
    .unwrap();
    assert_eq!(definition.boot_source.kernel_image_path, Path::new("k"));
    assert_eq!(definition.boot_source.boot_args.as_deref(), Some("quiet"));
    assert_eq!(definition.boot_source.initrd_path, Some(PathBuf::from("i")));
    assert_eq!(definition.boot_source.entry, Entry::Pvh);
    assert_eq!(definition.vsock, Some(Vsock::new(5, "v.sock")));
    let machine = MachineConfig {
        vcpu_count: 4,
        mem_size_mib: 1024,
        smt: true,
        cpu_template: Some(CpuTemplate::None),
        track_dirty_pages: false,
        huge_pages: HugePages::Huge2M,
        shared_memory: true,
        pmu: true,
        transport: Transport::Pci,
    };
    assert_eq!(definition.machine_config, machine);
    assert_eq!(
        definition.lifecycle,
        Lifecycle {
            on_reboot: OnReboot::Restart,
            stop_timeout_s: 3
        }
    );
    assert_eq!(complaints(&definition), [""; 0]);
}

#[test]
fn a_definition_that_is_written_is_read_back() {
    let mut definition = Definition::new(BootSource {
        entry: Entry::Linux64,
        ..BootSource::new("k")
    });
    definition.machine_config.huge_pages = HugePages::Transparent;
    definition.machine_config.cpu_template = Some(CpuTemplate::None);
    definition.lifecycle.on_reboot = OnReboot::Restart;
    let text = serde_json::to_string(&definition).unwrap();
    let mut reader = serde_json::Deserializer::from_str(&text);
    assert_eq!(object::<_, Definition>(&mut reader).unwrap(), definition);
}

#[test]
fn sections_and_optional_fields_may_be_null_as_in_firecracker() {
    for section in ["machine-config", "lifecycle", "vsock", "logger"] {
        assert!(read(with(section, Value::Null)).is_ok(), "{section}");
    }
    assert!(machine(json!({ "cpu_template": null })).is_ok());
    let boot = json!({ "kernel_image_path": "k", "boot_args": null, "initrd_path": null });
    assert!(read(json!({ "boot-source": boot })).is_ok());
}

#[test]
fn fields_with_a_default_and_arrays_may_not_be_null() {
    for field in [
        "smt",
        "track_dirty_pages",
        "huge_pages",
        "shared_memory",
        "pmu",
        "transport",
        "vcpu_count",
        "mem_size_mib",
    ] {
        assert!(machine(json!({ field: null })).is_err(), "{field}");
    }
    for field in ["on_reboot", "stop_timeout_s"] {
        assert!(
            read(with("lifecycle", json!({ field: null }))).is_err(),
            "{field}"
        );
    }
    for list in ["drives", "network-interfaces", "pmem", "boot-source"] {
        assert!(read(with(list, Value::Null)).is_err(), "{list}");
    }
}

#[test]
fn unknown_keys_are_refused_at_every_level() {
    assert!(
        read(with("bootsource", json!({})))
            .unwrap_err()
            .contains("unknown field `bootsource`")
    );
    assert!(
        machine(json!({ "vcpus": 1 }))
            .unwrap_err()
            .contains("unknown field `vcpus`")
    );
    assert!(
        read(with("lifecycle", json!({ "x": 1 })))
            .unwrap_err()
            .contains("unknown field `x`")
    );
}

#[test]
fn the_forms_that_serde_would_take_but_the_schema_does_not_are_refused() {
    assert!(read(json!([{ "kernel_image_path": "k" }])).is_err());
    assert!(read(json!({ "boot-source": ["k", null, null, "auto"] })).is_err());
    assert!(read(with("lifecycle", json!(["exit", 10]))).is_err());
    assert!(machine(json!({ "huge_pages": { "2M": null } })).is_err());
}

#[test]
fn numbers_are_whole_and_in_range_and_the_error_says_which() {
    for wrong in [
        json!(0),
        json!(255),
        json!(-1),
        json!(1.0),
        json!("1"),
        json!(1e30),
        json!(4_294_967_297_u64),
    ] {
        let error = machine(json!({ "vcpu_count": wrong })).unwrap_err();
        assert!(error.contains("a whole number from 1 to 254"), "{error}");
    }
    for wrong in [json!(31), json!(1_048_577), json!(u64::MAX)] {
        let error = machine(json!({ "mem_size_mib": wrong })).unwrap_err();
        assert!(
            error.contains("a whole number from 32 to 1048576"),
            "{error}"
        );
    }
}

#[test]
fn a_balloon_is_no_larger_than_the_guest() {
    let balloon = |amount: u32| {
        let section = json!({ "amount_mib": amount, "deflate_on_oom": true });
        complaints(&read(with("balloon", section)).unwrap())
    };
    assert!(balloon(128).is_empty());
    assert_eq!(
        balloon(129),
        ["`balloon.amount_mib`: found 129, expected at most the guest's memory, 128"]
    );
    let sections = [
        json!({}),
        json!({ "amount_mib": 1 }),
        json!({ "amount_mib": 1, "deflate_on_oom": true, "stats_polling_interval_s": 65536 }),
        json!({ "amount_mib": -1, "deflate_on_oom": true }),
    ];
    for section in sections {
        assert!(read(with("balloon", section)).is_err());
    }
}

#[test]
fn parts_that_do_not_exist_yet_are_refused_by_name() {
    for (key, value) in [
        ("pmem", json!([1])),
        ("entropy", json!({})),
        ("memory-hotplug", json!({})),
        ("cpu-config", json!("template.json")),
        ("logger", json!({})),
        ("metrics", json!({})),
        ("mmds-config", json!({})),
        ("serial", json!({})),
    ] {
        let definition = read(with(key, value)).unwrap();
        assert_eq!(
            complaints(&definition),
            [format!("`{key}`: not supported yet")]
        );
    }
    let tracked = machine(json!({ "track_dirty_pages": true })).unwrap();
    assert_eq!(
        complaints(&tracked),
        ["`machine-config.track_dirty_pages`: not supported yet"]
    );
    assert!(
        machine(json!({ "cpu_template": "T2" }))
            .unwrap_err()
            .contains("CPU templates are not supported")
    );
    assert!(machine(json!({ "cpu_template": "none" })).is_err());
}

#[test]
fn values_that_came_by_no_file_are_checked_too() {
    let mut definition = Definition::new(BootSource::new(""));
    definition.boot_source.initrd_path = Some("a\0b".into());
    definition.boot_source.boot_args = Some("a\nb".into());
    definition.machine_config.vcpu_count = 0;
    definition.machine_config.mem_size_mib = 31;
    let errors = definition.validate().unwrap_err();
    let paths: Vec<_> = errors.iter().map(|error| error.path.to_string()).collect();
    assert_eq!(
        paths,
        [
            "boot-source.kernel_image_path",
            "boot-source.initrd_path",
            "boot-source.boot_args",
            "machine-config.vcpu_count",
            "machine-config.mem_size_mib"
        ]
    );
    assert_eq!(
        errors[3].reason.to_string(),
        "found 0, expected a whole number from 1 to 254"
    );
}

#[test]
fn keys_that_depend_on_each_other_are_checked_together() {
    for (cpus, fits) in [(1, true), (2, true), (3, false), (254, true)] {
        let definition = machine(json!({ "smt": true, "vcpu_count": cpus })).unwrap();
        assert_eq!(definition.validate().is_ok(), fits, "{cpus}");
    }
    let odd = machine(json!({ "huge_pages": "2M", "mem_size_mib": 513 })).unwrap();
    assert_eq!(
        complaints(&odd),
        [
            "`machine-config.mem_size_mib`: found 513, expected a multiple of 2, as `huge_pages` is `2M`"
        ]
    );
}

#[test]
fn names_are_read_from_the_command_line_as_from_json() {
    assert_eq!("2M".parse(), Ok(HugePages::Huge2M));
    assert_eq!(HugePages::Huge2M.to_string(), "2M");
    assert_eq!(
        "linux".parse::<Entry>().unwrap_err().to_string(),
        "found `linux`, expected one of `auto`, `linux64`, `pvh`, `bzimage`"
    );
}

#[test]
fn a_drive_of_firecracker_s_is_a_drive_here() {
    let drives = json!([
        { "drive_id": "data", "path_on_host": "d", "is_root_device": false, "is_read_only": null, "rate_limiter": null },
        {
            "drive_id": "rootfs", "path_on_host": "r", "is_root_device": true, "is_read_only": true, "cache_type": "Writeback",
            "partuuid": "0eaa91a0-01", "io_engine": "Sync",
            "rate_limiter": { "ops": { "size": 10, "refill_time": 100, "later": 1 }, "bandwidth": null }
        }
    ]);
    let definition = read(with("drives", drives)).unwrap();
    assert_eq!(complaints(&definition), [""; 0]);
    let ids: Vec<_> = (definition.drives_in_order())
        .map(|drive| drive.drive_id.as_str())
        .collect();
    assert_eq!(ids, ["rootfs", "data"]);
    let [data, root] = definition.drives.as_slice() else {
        panic!("two drives");
    };
    assert!(!data.is_read_only && data.cache_type == CacheType::Unsafe);
    assert!(data.rate_limiter.is_unlimited());
    assert_eq!(root.rate_limiter.ops.unwrap().refill_time, 100);
    assert_eq!(
        boot_args::root_of(root).to_string(),
        "root=PARTUUID=0eaa91a0-01 ro"
    );
    assert_eq!(boot_args::root_of(data).to_string(), "root=/dev/vda rw");
}

#[test]
fn network_cards_are_read_and_checked() {
    let card = json!({
        "iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:AC:10:00:02", "mtu": 1500,
        "rx_rate_limiter": { "bandwidth": { "size": 10, "refill_time": 1 } }, "tx_rate_limiter": null,
    });
    let definition = read(with("network-interfaces", json!([card]))).unwrap();
    assert!(definition.validate().is_ok());
    let interface = &definition.network_interfaces[0];
    assert_eq!(
        interface.guest_mac.unwrap().to_string(),
        "06:00:ac:10:00:02"
    );
    assert!(interface.tx_rate_limiter.is_unlimited() && !interface.rx_rate_limiter.is_unlimited());
    for (key, wrong) in [
        ("guest_mac", json!("01:00:00:00:00:01")),
        ("guest_mac", json!(7)),
        ("mtu", json!(67)),
        ("mtu", json!(65536)),
        ("queues", json!(17)),
        ("speed", json!(1)),
    ] {
        let mut card = card.clone();
        card[key] = wrong;
        assert!(
            read(with("network-interfaces", json!([card]))).is_err(),
            "{card}"
        );
    }
    let complaint = |changed: serde_json::Value| {
        let cards = json!([card, changed]);
        complaints(&read(with("network-interfaces", cards)).unwrap())
    };
    let of = |id: &str, tap: &str| json!({ "iface_id": id, "host_dev_name": tap });
    assert_eq!(complaint(of("eth1", "tap1")), Vec::<String>::new());
    for (changed, key) in [
        (of("eth0", "tap1"), "iface_id"),
        (of("a b", "tap1"), "iface_id"),
        (of("eth1", "tap0"), "host_dev_name"),
        (of("eth1", "tap%d"), "host_dev_name"),
        (of("eth1", "a name of 16 char"), "host_dev_name"),
        (of("eth1", ""), "host_dev_name"),
    ] {
        let said = complaint(changed);
        assert!(
            said.len() == 1 && said[0].contains(&format!("network-interfaces[1].{key}")),
            "{said:?}"
        );
    }
    let mut same = of("eth1", "tap1");
    same["guest_mac"] = json!("06:00:ac:10:00:02");
    assert!(complaint(same)[0].contains("network-interfaces[1].guest_mac"));
}
