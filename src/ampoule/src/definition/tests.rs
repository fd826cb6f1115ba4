use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

const KERNEL: &str = r#""boot-source": {"kernel_image_path": "vmlinux"}"#;

/// The message for a text, which must be refused.
fn refusal(text: impl AsRef<[u8]>) -> String {
    let message = parse("vm.json", text.as_ref())
        .expect_err("this definition is refused")
        .to_string();
    assert!(message.lines().count() <= 5, "{message}");
    message
}

/// The first line of the message, after the file's name.
fn first_line(text: impl AsRef<[u8]>) -> String {
    let message = refusal(text);
    message
        .lines()
        .next()
        .unwrap()
        .strip_prefix("vm.json:")
        .unwrap()
        .to_owned()
}

/// The same for a definition with a kernel and one more line.
fn with(line: &str) -> String {
    first_line(format!("{{\n{KERNEL},\n{line}\n}}"))
}

#[test]
fn an_unknown_key_gets_its_place_and_the_key_that_was_meant() {
    let message = refusal(
        "{\n  \"boot-source\": { \"kernel_image_path\": \"vmlinux\" },\n  \"machine-config\": {\n    \"vcpu_cout\": 2,\n    \"mem_size_mib\": 128\n  }\n}\n",
    );
    assert_eq!(
        message,
        "vm.json:4:5: `machine-config.vcpu_cout`: unknown key (hint: did you mean `vcpu_count`?)\n 4 |     \"vcpu_cout\": 2,\n   |     ^"
    );
    assert_eq!(
        with(r#""machine_config": {}"#),
        "3:1: `machine_config`: unknown key (hint: did you mean `machine-config`?)"
    );
    assert_eq!(
        with(r#""vcpu_count": 1"#),
        "3:1: `vcpu_count`: unknown key (hint: it belongs into `machine-config`)"
    );
    assert_eq!(
        with(r#""machine-config": {"cpus": 1}"#),
        "3:20: `machine-config.cpus`: unknown key (hint: did you mean `vcpu_count`?)"
    );
    assert_eq!(
        with(r#""machine-config": {"lifecycle": 1}"#),
        "3:20: `machine-config.lifecycle`: unknown key (hint: it belongs to the outermost level)"
    );
    assert_eq!(
        with(r#""lifecycle": {"é": {}, "x": 1}"#),
        "3:15: `lifecycle.é`: unknown key (hint: known here: `on_reboot`, `stop_timeout_s`)"
    );
    assert_eq!(
        with(r#""x": 1"#),
        "3:1: `x`: unknown key (hint: known here: `boot-source`, `machine-config`, `lifecycle`, `drives`, `network-interfaces`, `vsock`, `balloon`)"
    );
}

#[test]
fn a_wrong_value_gets_its_place_and_what_was_expected() {
    for (line, expected) in [
        (
            r#""machine-config": {"vcpu_count": 0, "mem_size_mib": 64}"#,
            "3:34: `machine-config.vcpu_count`: found 0, expected a whole number from 1 to 254",
        ),
        (
            r#""machine-config": {"vcpu_count": "2", "mem_size_mib": 64}"#,
            "3:34: `machine-config.vcpu_count`: found \"2\", expected a whole number from 1 to 254",
        ),
        (
            r#""machine-config": {"vcpu_count": 1.5, "mem_size_mib": 64}"#,
            "3:34: `machine-config.vcpu_count`: found 1.5, expected a whole number from 1 to 254",
        ),
        (
            r#""machine-config": {"vcpu_count": 1, "mem_size_mib": -64}"#,
            "3:53: `machine-config.mem_size_mib`: found -64, expected a whole number from 32 to 1048576",
        ),
        (
            r#""machine-config": {"smt": "yes", "vcpu_count": 1, "mem_size_mib": 64}"#,
            "3:27: `machine-config.smt`: found \"yes\", expected `true` or `false`",
        ),
        (
            r#""machine-config": {"huge_pages": "2m"}"#,
            "3:34: `machine-config.huge_pages`: found \"2m\", expected one of `None`, `Transparent`, `2M` (hint: did you mean `2M`?)",
        ),
        (
            r#""machine-config": {"cpu_template": "T2"}"#,
            "3:36: `machine-config.cpu_template`: found \"T2\", expected `None` or null, as CPU templates are not supported",
        ),
        (
            r#""machine-config": [1, 128]"#,
            "3:19: `machine-config`: found an array, expected an object",
        ),
        (
            r#""drives": null"#,
            "3:11: `drives`: found null, expected an array",
        ),
        (
            r#""lifecycle": {"on_reboot": "\u001b[31m"}"#,
            "3:28: `lifecycle.on_reboot`: found \"\\u{1b}[31m\", expected one of `exit`, `restart`",
        ),
    ] {
        assert_eq!(with(line), expected, "{line}");
    }
    assert_eq!(
        first_line("[]"),
        "1:1: the VM definition: found an array, expected an object"
    );
    assert_eq!(
        first_line(r#"{"boot-source": {"kernel_image_path": 1}}"#),
        "1:39: `boot-source.kernel_image_path`: found 1, expected a path, as a string"
    );
}

#[test]
fn a_missing_key_gets_its_object_and_an_example() {
    assert_eq!(
        first_line("{}"),
        "1:1: `boot-source`: missing (hint: add for example \"boot-source\": {\"kernel_image_path\":\"/boot/vmlinuz\"})"
    );
    assert_eq!(
        with(r#""machine-config": {"vcpu_count": 1}"#),
        "3:19: `machine-config.mem_size_mib`: missing (hint: add for example \"mem_size_mib\": 512)"
    );
}

#[test]
fn a_key_given_twice_gets_both_places() {
    let hint = "(hint: remove one of them; the first is in line 2)";
    assert_eq!(
        with(KERNEL),
        format!("3:1: `boot-source`: given twice {hint}")
    );
    assert_eq!(
        with(r#""lifecycle": {"on_reboot": "exit", "on_reboot": "exit"}"#),
        "3:36: `lifecycle.on_reboot`: given twice (hint: remove one of them; the first is in line 3)"
    );
}

#[test]
fn parts_that_do_not_exist_yet_are_refused_by_name_and_the_others_listed() {
    assert_eq!(
        with(r#""pmem": [{"id": "pmem"}]"#),
        "3:1: `pmem`: not supported yet (hint: remove the key, or what is in its array)"
    );
    assert_eq!(
        with(r#""drives": [{"drive_id": "a", "is_root_device": true, "socket": "s"}]"#),
        "3:54: `drives[0].socket`: not supported yet (hint: remove the key, or set it to null)"
    );
    assert_eq!(
        with(
            r#""machine-config": {"vcpu_count": 1, "mem_size_mib": 64, "track_dirty_pages": true}"#
        ),
        "3:57: `machine-config.track_dirty_pages`: not supported yet (hint: remove the key, or set it to false)"
    );
    let all = refusal(format!(
        "{{{KERNEL},\n\"entropy\": {{}},\n\"pmem\": [1], \"logger\": {{}}}}"
    ));
    assert_eq!(
        all,
        "vm.json:2:1: `entropy`: not supported yet (hint: remove the key, or set it to null)\n 2 | \"entropy\": {},\n   | ^\n also wrong: `pmem`, `logger`"
    );
}

#[test]
fn a_context_id_that_is_not_a_guests_is_told_whose_it_is() {
    for (cid, whose) in [
        ("0", "(0 is the hypervisor's)"),
        ("1", "(1 is the guest's own loopback)"),
        ("2", "(2 is the host's)"),
        ("4294967295", "(that one stands for any)"),
    ] {
        let vsock = format!(r#""vsock": {{"uds_path": "v", "guest_cid": {cid}}}"#);
        let expected = format!(
            "3:41: `vsock.guest_cid`: found {cid}, expected a whole number from 3 to 4294967294 {whose}"
        );
        assert_eq!(with(&vsock), expected);
    }
    let path = "p".repeat(108);
    let vsock = format!(r#""vsock": {{"guest_cid": 3, "uds_path": "{path}"}}"#);
    assert_eq!(
        with(&vsock),
        "3:39: `vsock.uds_path`: found 108 bytes, expected at most the 107 bytes of a socket's address"
    );
}

#[test]
fn values_that_exclude_each_other_are_refused_where_they_stand() {
    assert_eq!(
        with(r#""machine-config": {"smt": true, "vcpu_count": 3, "mem_size_mib": 64}"#),
        "3:47: `machine-config.vcpu_count`: found 3, expected 1 or an even number, as `smt` is true"
    );
    assert_eq!(
        first_line(r#"{"boot-source": {"kernel_image_path": "k", "boot_args": "quiet\n"}}"#),
        "1:57: `boot-source.boot_args`: '\\n' at byte 5 is a control character (hint: separate parameters with spaces)"
    );
    let long = "x".repeat(2048);
    let line = first_line(format!(
        r#"{{"boot-source": {{"kernel_image_path": "k", "boot_args": "{long}"}}}}"#
    ));
    assert!(
        line.contains("bytes long with the defaults, the kernel takes 2047"),
        "{line}"
    );
}

#[test]
fn what_is_no_json_is_said_in_plain_words() {
    for (text, expected) in [
        (
            "",
            "1:1: not a JSON text: it is empty (hint: the least definition is {\"boot-source\": {\"kernel_image_path\": \"/boot/vmlinuz\"}})",
        ),
        (
            "\u{feff}{}",
            "1:1: not a JSON text: it starts with a byte order mark (hint: save it as UTF-8 without one)",
        ),
        (
            "{\n  // kernel\n}",
            "2:3: not a JSON text: a key must be a string in double quotes (hint: JSON has no comments)",
        ),
        (
            "{\"a\": # b\n1}",
            "1:7: not a JSON text: expected a value (hint: JSON has no comments)",
        ),
        (
            "{\"drives\": [],\n}",
            "2:1: not a JSON text: trailing comma (hint: remove the comma before it)",
        ),
        (
            "{\"drives\": []",
            "1:14: not a JSON text: it ends in the middle of an object (hint: a closing quote, `]` or `}` is missing)",
        ),
        (
            "{\"drives\": []\n\"pmem\": []}",
            "2:1: not a JSON text: expected `,` or `}` (hint: is a comma missing before it?)",
        ),
        (
            "{\"lifecycle\": {\"stop_timeout_s\": True}}",
            "1:34: not a JSON text: expected a value (hint: JSON writes `true`, `false` and `null` in lower case)",
        ),
        (
            "{'drives': []}",
            "1:2: not a JSON text: a key must be a string in double quotes (hint: JSON puts strings in double quotes)",
        ),
        ("vmlinux", "1:1: not a JSON text: expected a value"),
        (
            "{\"boot-source\": {\"kernel_image_path\": \"k\"}} {}",
            "1:45: not a JSON text: something follows the end of the definition",
        ),
        // A mistake in what was read before goes after one in the grammar.
        (
            "{\"é\": 1,\n \"b\" 2}",
            "2:6: not a JSON text: expected `:`",
        ),
    ] {
        assert_eq!(first_line(text), expected, "{text}");
    }
    assert_eq!(
        first_line(b"{\n \"\xff\""),
        "2:3: not a JSON text: the byte 0xff here is not UTF-8 (hint: is it the right file? JSON is text in UTF-8)"
    );
    assert_eq!(
        first_line(b"\xff\xfe{\0"),
        "1:1: not a JSON text: it is in UTF-16 (hint: save it as UTF-8)"
    );
}

#[test]
fn depth_is_refused_wherever_it_is() {
    let deep = "[".repeat(100_000);
    let closed = deep.clone() + &"]".repeat(100_000);
    for text in [
        deep.clone(),
        closed.clone(),
        format!(r#"{{"entropy": {{"a": {closed}}}, {KERNEL}}}"#),
        format!(r#"{{"unknown": {closed}}}"#),
        format!(r#"{{"lifecycle": {deep}"#),
    ] {
        let line = first_line(&text);
        assert!(line.contains("nested more than 127 levels deep"), "{line}");
    }
}

#[test]
fn files_are_read_whatever_their_kind_and_bounded_whatever_their_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm.json");
    let good = format!("{{{KERNEL}}}");
    std::fs::write(&path, &good).unwrap();
    assert_eq!(read(&path).unwrap(), parse("", good.as_bytes()).unwrap());

    let padded = good.clone() + &" ".repeat(MAX_LEN - good.len());
    assert!(parse("", padded.as_bytes()).is_ok());
    std::fs::write(&path, padded + " ").unwrap();
    assert!(
        read(&path)
            .unwrap_err()
            .to_string()
            .contains("too large for a VM definition: more than 1 MiB")
    );
    assert!(
        read(Path::new("/dev/zero"))
            .unwrap_err()
            .to_string()
            .contains("too large")
    );

    let (reader, mut writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut writer, good.as_bytes()).unwrap();
    drop(writer);
    let pipe = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
    assert!(read(Path::new(&pipe)).is_ok());
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_reason() {
    let directory = read(Path::new("/")).unwrap_err();
    assert_eq!(
        directory.to_string(),
        "/: cannot read the VM definition: Is a directory (os error 21) (hint: name a file in it)"
    );
    assert_eq!(directory.position(), None);
    let odd = read(Path::new("/no\n\u{1b}such")).unwrap_err().to_string();
    assert!(odd.starts_with("/no\\n\\u{1b}such: "), "{odd}");
    let missing = read(Path::new("/nonexistent/vm.json"))
        .unwrap_err()
        .to_string();
    assert!(
        missing.starts_with("/nonexistent/vm.json: cannot read the VM definition: No such file"),
        "{missing}"
    );
    let place = parse("vm.json", b"{}").unwrap_err().position();
    assert_eq!(place, Some(Position { line: 1, column: 1 }));
}

#[test]
fn the_examples_are_definitions() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../resources/examples");
    let paths: Vec<_> = std::fs::read_dir(examples)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(paths.len() >= 3);
    for path in paths {
        read(&path).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn the_schema_is_json_and_closed_at_every_level() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    for section in ["boot-source", "machine-config", "lifecycle"] {
        assert_eq!(
            schema["properties"][section]["additionalProperties"], false,
            "{section}"
        );
    }
}

fn full() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../resources/examples/full.json");
    std::fs::read_to_string(path).unwrap()
}

/// A definition's members, mostly known and mostly right.
fn documents() -> impl Strategy<Value = Value> {
    let value = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0i64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "exit|restart|auto|None|2M|[a-z\\PC]{0,5}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
    ];
    let key = "kernel_image_path|boot_args|entry|vcpu_count|mem_size_mib|smt|huge_pages|on_reboot|stop_timeout_s|[a-z]{2}";
    let members = |value| proptest::collection::hash_map(key, value, 0..4);
    let object = members(value.clone().boxed())
        .prop_map(|members| Value::Object(members.into_iter().collect()));
    let section = "boot-source|machine-config|lifecycle|drives|vsock|[a-z]{3}";
    proptest::collection::hash_map(section, prop_oneof![3 => object, 1 => value], 0..5)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse("vm.json", &bytes).map_err(|error| error.to_string());
    }

    #[test]
    fn no_mutation_of_a_definition_panics_and_each_is_taken_or_has_a_place(
        at in any::<prop::sample::Index>(),
        length in 0usize..20,
        insert in "[\\[\\]{}:,\"\\\\ 0-9a-zé\n]{0,6}",
    ) {
        let mut bytes = full().into_bytes();
        let start = at.index(bytes.len());
        let end = (start + length).min(bytes.len());
        bytes.splice(start..end, insert.bytes());
        if let Err(error) = parse("vm.json", &bytes) {
            let message = error.to_string();
            prop_assert!(message.lines().count() <= 5);
            let Position { line, column } = error.position().expect("a mistake in a text has a place");
            let prefix = format!("vm.json:{line}:{column}: ");
            prop_assert!(message.starts_with(&prefix));
            let lossy = String::from_utf8_lossy(&bytes);
            let there = lossy.split('\n').nth(line - 1).expect("the place is in the text");
            prop_assert!(column <= there.chars().count() + 1);
        }
    }

    /// The two readers, the fast one and the one that explains, refuse the same documents.
    #[test]
    fn what_is_refused_is_explained(document in documents()) {
        let text = document.to_string();
        let tree = json::Node::parse(&text).expect("it is JSON");
        let fast = from_text(&text);
        let placed = object::<_, Definition>(&tree);
        prop_assert_eq!(fast.is_ok(), placed.is_ok());
        if let (Ok(fast), Ok(placed)) = (fast, placed) {
            prop_assert_eq!(fast, placed);
        }
    }
}

#[test]
fn what_is_wrong_with_a_drive_is_told_at_its_place() {
    let drives = |second: &str| {
        with(&format!(
            r#""drives": [{{"drive_id": "a", "is_root_device": true, "path_on_host": "p"}}, {second}]"#
        ))
    };
    for (drive, expected) in [
        (
            r#"{"drive_id": "b", "is_root_device": false}"#,
            "3:76: `drives[1].path_on_host`: missing",
        ),
        (
            r#"{"drive_id": "a", "is_root_device": false, "path_on_host": "p"}"#,
            r#"3:89: `drives[1].drive_id`: found "a", expected an id that no drive before has"#,
        ),
        (
            r#"{"drive_id": "b/c", "is_root_device": false, "path_on_host": "p"}"#,
            r#"3:89: `drives[1].drive_id`: found "b/c", expected letters, digits and `_`"#,
        ),
        (
            r#"{"drive_id": "b", "is_root_device": true, "path_on_host": "p"}"#,
            "3:112: `drives[1].is_root_device`: found true, expected false, as a drive before is the root",
        ),
        (
            r#"{"drive_id": "b", "path_on_host": "p"}"#,
            "3:76: `drives[1].is_root_device`: missing (hint: add for example \"is_root_device\": true)",
        ),
        (
            r#"{"drive_id": "b", "is_root_device": false, "path_on_hots": "p"}"#,
            "3:119: `drives[1].path_on_hots`: unknown key (hint: did you mean `path_on_host`?)",
        ),
        (
            r#"{"drive_id": "b", "is_root_device": false, "path_on_host": "p", "queues": 17}"#,
            "3:150: `drives[1].queues`: found 17, expected a whole number from 1 to 16",
        ),
        (
            r#"{"drive_id": "b", "is_root_device": false, "path_on_host": "p", "rate_limiter": {"ops": {"size": 1}}}"#,
            "3:164: `drives[1].rate_limiter.ops.refill_time`: missing",
        ),
        ("7", "3:76: `drives[1]`: found 7, expected an object"),
    ] {
        let found = drives(drive);
        assert!(found.starts_with(expected), "{drive}\n{found}");
    }
}
