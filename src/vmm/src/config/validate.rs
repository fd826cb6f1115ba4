//! What must hold of a definition beyond its types.
use super::fields::whole_from;
use super::{
    Balloon, BootSource, Definition, Drive, HugePages, MAX_CID, MAX_DEVICE_NAME, MAX_DRIVES,
    MAX_MEM_SIZE_MIB, MAX_MTU, MAX_NETWORK_INTERFACES, MAX_QUEUE_PAIRS, MAX_QUEUES, MAX_SERIAL,
    MAX_SOCKET_PATH, MAX_STATS_INTERVAL, MAX_VCPUS, MIN_CID, MIN_MEM_SIZE_MIB, MIN_MTU,
    MIN_USER_MTU, MachineConfig, NetworkInterface, Vsock, boot_args,
};
use std::{borrow::Cow, fmt, path::Path};

/// A value that cannot be, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{path}`: {reason}")]
pub struct ValueError {
    /// The keys that lead to the value.
    pub path: KeyPath,
    /// What is wrong with it.
    pub reason: Reason,
}

/// The keys that lead to a value, outermost first: `machine-config.vcpu_count`, `drives[2].drive_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPath(Vec<Cow<'static, str>>);

impl KeyPath {
    /// The keys; of an array's element its number.
    pub fn keys(&self) -> Vec<&str> {
        self.0.iter().map(AsRef::as_ref).collect()
    }

    /// `key` of the drive at `index`.
    fn in_drive(index: usize, key: &'static str) -> Self {
        Self(vec!["drives".into(), index.to_string().into(), key.into()])
    }
}

impl<const N: usize> From<&[&'static str; N]> for KeyPath {
    fn from(keys: &[&'static str; N]) -> Self {
        Self(keys.iter().map(|key| Cow::Borrowed(*key)).collect())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_words(&self.keys()))
    }
}

/// Keys as they are written in text: `drives[2].drive_id`.
#[must_use]
pub fn in_words(keys: &[&str]) -> String {
    let mut text = String::new();
    for key in keys {
        match key.parse::<usize>() {
            Ok(index) => text.push_str(&format!("[{index}]")),
            Err(_) if text.is_empty() => text.push_str(key),
            Err(_) => text.push_str(&format!(".{key}")),
        }
    }
    text
}

/// What is wrong with a value. Reads well after a key's name, or a flag's, and a colon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Something else was expected.
    #[error("found {found}, expected {expected}")]
    Unfit {
        /// The value, as it would be written in JSON.
        found: String,
        /// What would have been taken.
        expected: String,
    },
    /// Nothing stands there.
    #[error("missing")]
    Missing,
    /// The key is Firecracker's, but what it asks for does not exist here.
    #[error("not supported yet")]
    NotYet,
    /// The kernel's command line cannot be made.
    #[error(transparent)]
    BootArgs(#[from] boot_args::BootArgsError),
}

impl Definition {
    /// Checks what the types cannot: ranges (of values that no file gave), keys that depend on each other, and parts that
    /// do not exist yet.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the keys.
    pub fn validate(&self) -> Result<(), Vec<ValueError>> {
        let mut errors = Vec::new();
        check_boot_source(&self.boot_source, &mut errors);
        check_machine_config(&self.machine_config, &mut errors);
        check_drives(&self.drives, &mut errors);
        check_network_interfaces(&self.network_interfaces, &mut errors);
        if let Some(balloon) = &self.balloon {
            check_balloon(balloon, self.machine_config.mem_size_mib, &mut errors);
        }
        if let Some(vsock) = &self.vsock {
            check_vsock(vsock, &mut errors);
        }
        self.check_places(&mut errors);
        self.check_not_yet(&mut errors);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    /// Each device has a place and an interrupt of its own.
    fn check_places(&self, errors: &mut Vec<ValueError>) {
        let devices = self.devices();
        // More drives than that alone are told of by themselves.
        if devices > MAX_DRIVES && self.drives.len() <= MAX_DRIVES {
            let key = match self.network_interfaces.is_empty() {
                true => "drives",
                false => "network-interfaces",
            };
            let found = format!("{devices} devices in all");
            let expected = format!("at most {MAX_DRIVES}");
            errors.push(unfit(&[key], found, expected));
        }
    }

    fn check_not_yet(&self, errors: &mut Vec<ValueError>) {
        let machine = &self.machine_config;
        if machine.track_dirty_pages {
            errors.push(not_yet(&["machine-config", "track_dirty_pages"]));
        }
        let parts = [
            ("pmem", self.pmem.used),
            ("entropy", self.entropy.used),
            ("memory-hotplug", self.memory_hotplug.used),
            ("cpu-config", self.cpu_config.used),
            ("logger", self.logger.used),
            ("metrics", self.metrics.used),
            ("mmds-config", self.mmds_config.used),
            ("serial", self.serial.used),
        ];
        let used = parts.into_iter().filter(|(_, used)| *used);
        errors.extend(used.map(|(key, _)| not_yet(&[key])));
    }
}

fn not_yet(path: impl Into<KeyPath>) -> ValueError {
    ValueError {
        path: path.into(),
        reason: Reason::NotYet,
    }
}

fn check_boot_source(boot: &BootSource, errors: &mut Vec<ValueError>) {
    check_path(
        &["boot-source", "kernel_image_path"],
        &boot.kernel_image_path,
        errors,
    );
    if let Some(initrd) = &boot.initrd_path {
        check_path(&["boot-source", "initrd_path"], initrd, errors);
    }
    if let Err(error) = boot_args::merge(boot.boot_args.as_deref().unwrap_or_default()) {
        errors.push(ValueError {
            path: (&["boot-source", "boot_args"]).into(),
            reason: error.into(),
        });
    }
}

fn check_path(path: impl Into<KeyPath>, value: &Path, errors: &mut Vec<ValueError>) {
    let bytes = value.as_os_str().as_encoded_bytes();
    if bytes.is_empty() || bytes.contains(&0) {
        errors.push(unfit(
            path,
            format!("{value:?}"),
            "the path of a file".into(),
        ));
    }
}

fn check_machine_config(machine: &MachineConfig, errors: &mut Vec<ValueError>) {
    let cpus = u64::from(machine.vcpu_count);
    let vcpu_count = &["machine-config", "vcpu_count"];
    if !(1..=MAX_VCPUS).contains(&cpus) {
        errors.push(unfit(
            vcpu_count,
            cpus.to_string(),
            whole_from(1, MAX_VCPUS),
        ));
    } else if machine.smt && cpus > 1 && !cpus.is_multiple_of(2) {
        errors.push(unfit(
            vcpu_count,
            cpus.to_string(),
            "1 or an even number, as `smt` is true".into(),
        ));
    }
    let memory = machine.mem_size_mib;
    let mem_size_mib = &["machine-config", "mem_size_mib"];
    if !(MIN_MEM_SIZE_MIB..=MAX_MEM_SIZE_MIB).contains(&memory) {
        errors.push(unfit(
            mem_size_mib,
            memory.to_string(),
            whole_from(MIN_MEM_SIZE_MIB, MAX_MEM_SIZE_MIB),
        ));
    } else if machine.huge_pages == HugePages::Huge2M && !memory.is_multiple_of(2) {
        errors.push(unfit(
            mem_size_mib,
            memory.to_string(),
            "a multiple of 2, as `huge_pages` is `2M`".into(),
        ));
    }
}

fn check_drives(drives: &[Drive], errors: &mut Vec<ValueError>) {
    if drives.len() > MAX_DRIVES {
        let found = format!("{} of them", drives.len());
        errors.push(unfit(&["drives"], found, format!("at most {MAX_DRIVES}")));
    }
    for (index, drive) in drives.iter().enumerate() {
        check_drive(drive, index, &drives[..index], errors);
    }
}

/// Checks a drive by itself, and beside those before it.
fn check_drive(drive: &Drive, index: usize, before: &[Drive], errors: &mut Vec<ValueError>) {
    let at = |key| KeyPath::in_drive(index, key);
    let id = &drive.drive_id;
    if id.is_empty()
        || !id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        let expected = "letters, digits and `_`".into();
        errors.push(unfit(at("drive_id"), format!("{id:?}"), expected));
    } else if before.iter().any(|other| other.drive_id == *id) {
        let expected = "an id that no drive before has".into();
        errors.push(unfit(at("drive_id"), format!("{id:?}"), expected));
    }
    if drive.socket.used {
        errors.push(not_yet(at("socket")));
    } else if drive.path_on_host.as_os_str().is_empty() {
        errors.push(ValueError {
            path: at("path_on_host"),
            reason: Reason::Missing,
        });
    } else {
        check_path(at("path_on_host"), &drive.path_on_host, errors);
    }
    if drive.is_root_device && before.iter().any(|other| other.is_root_device) {
        let expected = "false, as a drive before is the root".into();
        errors.push(unfit(at("is_root_device"), "true".into(), expected));
    }
    if let Some(id) = &drive.partuuid {
        let fits = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
        if id.is_empty() || id.len() > 36 || !id.bytes().all(fits) {
            let expected = "a partition's identifier, such as \"0eaa91a0-01\"".into();
            errors.push(unfit(at("partuuid"), format!("{id:?}"), expected));
        }
    }
    if let Some(serial) = &drive.serial {
        let fits = (1..=MAX_SERIAL).contains(&serial.len());
        if !fits || !serial.bytes().all(|byte| byte.is_ascii_graphic()) {
            let expected = format!("1 to {MAX_SERIAL} printable characters");
            errors.push(unfit(at("serial"), format!("{serial:?}"), expected));
        }
    }
    if let Some(queues) = drive.queues
        && !(1..=MAX_QUEUES).contains(&queues.into())
    {
        errors.push(unfit(
            at("queues"),
            queues.to_string(),
            whole_from(1, MAX_QUEUES),
        ));
    }
}

fn check_balloon(balloon: &Balloon, memory: u64, errors: &mut Vec<ValueError>) {
    if u64::from(balloon.amount_mib) > memory {
        errors.push(unfit(
            &["balloon", "amount_mib"],
            balloon.amount_mib.to_string(),
            format!("at most the guest's memory, {memory}"),
        ));
    }
    if u64::from(balloon.stats_polling_interval_s) > MAX_STATS_INTERVAL {
        errors.push(unfit(
            &["balloon", "stats_polling_interval_s"],
            balloon.stats_polling_interval_s.to_string(),
            whole_from(0, MAX_STATS_INTERVAL),
        ));
    }
}

fn check_network_interfaces(interfaces: &[NetworkInterface], errors: &mut Vec<ValueError>) {
    if interfaces.len() > MAX_NETWORK_INTERFACES {
        let found = format!("{} of them", interfaces.len());
        let expected = format!("at most {MAX_NETWORK_INTERFACES}");
        errors.push(unfit(&["network-interfaces"], found, expected));
    }
    for (index, interface) in interfaces.iter().enumerate() {
        check_network_interface(interface, index, &interfaces[..index], errors);
    }
}

/// Checks the name of a card's TAP.
fn check_tap(
    name: &str,
    before: &[NetworkInterface],
    at: &dyn Fn(&'static str) -> KeyPath,
    errors: &mut Vec<ValueError>,
) {
    // As Linux has it; a `%` would ask for a number in its place.
    let fits = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    let sound = (1..=MAX_DEVICE_NAME).contains(&name.len()) && name.bytes().all(fits);
    if !sound || [".", ".."].contains(&name) {
        let expected = format!("an interface's name of 1 to {MAX_DEVICE_NAME} characters");
        errors.push(unfit(at("host_dev_name"), format!("{name:?}"), expected));
    } else if before.iter().any(|other| other.host_dev_name == *name) {
        let expected = "a TAP that no card before has".into();
        errors.push(unfit(at("host_dev_name"), format!("{name:?}"), expected));
    }
}

/// Checks a card that has a network of its own, and so neither a TAP nor more than one pair of queues.
fn check_user_network(
    interface: &NetworkInterface,
    before: &[NetworkInterface],
    at: &dyn Fn(&'static str) -> KeyPath,
    errors: &mut Vec<ValueError>,
) {
    let name = &interface.host_dev_name;
    if !name.is_empty() {
        let expected = "no TAP beside `user`".into();
        errors.push(unfit(at("host_dev_name"), format!("{name:?}"), expected));
    }
    if let Some(queues @ 2..) = interface.queues {
        let expected = "1, with `user`".into();
        errors.push(unfit(at("queues"), queues.to_string(), expected));
    }
    if interface.mtu.is_some_and(|mtu| mtu < MIN_USER_MTU) {
        let mtu = interface.mtu.unwrap_or_default().to_string();
        let expected = format!("{MIN_USER_MTU} or more, with `user` (IPv6 needs that)");
        errors.push(unfit(at("mtu"), mtu, expected));
    }
    if before.iter().any(|other| other.user.is_some()) {
        let expected = "one card with `user`: they would all have the same addresses".into();
        errors.push(unfit(at("user"), "another".into(), expected));
    }
}

/// Checks a card by itself, and beside those before it.
fn check_network_interface(
    interface: &NetworkInterface,
    index: usize,
    before: &[NetworkInterface],
    errors: &mut Vec<ValueError>,
) {
    let at = |key: &'static str| {
        KeyPath(vec![
            "network-interfaces".into(),
            index.to_string().into(),
            key.into(),
        ])
    };
    let id = &interface.iface_id;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if id.is_empty() || !id.bytes().all(fits) {
        let expected = "letters, digits and `_`".into();
        errors.push(unfit(at("iface_id"), format!("{id:?}"), expected));
    } else if before.iter().any(|other| other.iface_id == *id) {
        let expected = "an id that no card before has".into();
        errors.push(unfit(at("iface_id"), format!("{id:?}"), expected));
    }
    match &interface.user {
        Some(_) => check_user_network(interface, before, &at, errors),
        None => check_tap(&interface.host_dev_name, before, &at, errors),
    }
    if let Some(mac) = interface.guest_mac
        && before.iter().any(|other| other.guest_mac == Some(mac))
    {
        let expected = "an address that no card before has".into();
        errors.push(unfit(at("guest_mac"), format!("\"{mac}\""), expected));
    }
    let numbers = [
        ("mtu", interface.mtu, MIN_MTU, MAX_MTU),
        ("queues", interface.queues, 1, MAX_QUEUE_PAIRS),
    ];
    for (key, value, min, max) in numbers {
        if let Some(value) = value
            && !(min..=max).contains(&value.into())
        {
            errors.push(unfit(at(key), value.to_string(), whole_from(min, max)));
        }
    }
}

fn check_vsock(vsock: &Vsock, errors: &mut Vec<ValueError>) {
    let cid = vsock.guest_cid;
    let whose = match cid {
        0 => " (0 is the hypervisor's)",
        1 => " (1 is the guest's own loopback)",
        2 => " (2 is the host's)",
        u32::MAX => " (that one stands for any)",
        _ => "",
    };
    if !(MIN_CID..=MAX_CID).contains(&cid.into()) {
        let expected = whole_from(MIN_CID, MAX_CID) + whose;
        errors.push(unfit(&["vsock", "guest_cid"], cid.to_string(), expected));
    }
    let path = &vsock.uds_path;
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.len() > MAX_SOCKET_PATH {
        let found = format!("{} bytes", bytes.len());
        let expected = format!("at most the {MAX_SOCKET_PATH} bytes of a socket's address");
        errors.push(unfit(&["vsock", "uds_path"], found, expected));
    } else {
        check_path(&["vsock", "uds_path"], path, errors);
    }
}

fn unfit(path: impl Into<KeyPath>, found: String, expected: String) -> ValueError {
    ValueError {
        path: path.into(),
        reason: Reason::Unfit { found, expected },
    }
}
