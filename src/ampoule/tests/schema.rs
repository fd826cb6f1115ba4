//! The checked-in JSON schema and the parser say yes to the same documents.
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use ampoule::definition::{SCHEMA, parse};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Whether a document fits a schema: the keywords that ours uses, and a panic for any other.
fn fits(schema: &Value, value: &Value) -> bool {
    let keywords = schema.as_object().expect("a schema is an object");
    keywords
        .iter()
        .all(|(keyword, argument)| match keyword.as_str() {
            "type" => argument
                .as_array()
                .map_or(std::slice::from_ref(argument), Vec::as_slice)
                .iter()
                .any(|one| is_a(one, value)),
            "const" => value == argument,
            "enum" => items(argument).contains(value),
            "minimum" => value
                .as_i64()
                .is_none_or(|number| number >= argument.as_i64().unwrap()),
            "maximum" => value
                .as_i64()
                .is_none_or(|number| number <= argument.as_i64().unwrap()),
            "multipleOf" => value
                .as_i64()
                .is_none_or(|number| number % argument.as_i64().unwrap() == 0),
            "minLength" => value
                .as_str()
                .is_none_or(|text| text.chars().count() as u64 >= argument.as_u64().unwrap()),
            "maxLength" => value
                .as_str()
                .is_none_or(|text| text.chars().count() as u64 <= argument.as_u64().unwrap()),
            "maxItems" => value
                .as_array()
                .is_none_or(|items| items.len() as u64 <= argument.as_u64().unwrap()),
            "pattern" => value
                .as_str()
                .is_none_or(|text| matches(argument.as_str().unwrap(), text)),
            "required" => value.as_object().is_none_or(|members| {
                items(argument)
                    .iter()
                    .all(|key| members.contains_key(key.as_str().unwrap()))
            }),
            "properties" => value.as_object().is_none_or(|members| {
                members
                    .iter()
                    .all(|(key, value)| argument.get(key).is_none_or(|schema| fits(schema, value)))
            }),
            "additionalProperties" => value.as_object().is_none_or(|members| {
                members
                    .keys()
                    .all(|key| schema["properties"].get(key).is_some())
            }),
            "items" => value
                .as_array()
                .is_none_or(|items| items.iter().all(|item| fits(argument, item))),
            "allOf" => items(argument).iter().all(|schema| fits(schema, value)),
            "anyOf" => items(argument).iter().any(|schema| fits(schema, value)),
            "oneOf" => {
                items(argument)
                    .iter()
                    .filter(|schema| fits(schema, value))
                    .count()
                    == 1
            }
            "if" => !fits(argument, value) || fits(&schema["then"], value),
            "then" | "$schema" | "title" | "description" | "default" | "examples" | "format"
            | "writeOnly" => true,
            annotation if annotation.starts_with("x-") => true,
            unknown => panic!("this test does not know the keyword {unknown}"),
        })
}

fn items(value: &Value) -> &Vec<Value> {
    value.as_array().expect("an array")
}

fn is_a(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_i64() || value.is_u64(),
        unknown => panic!("this test does not know the type {unknown}"),
    }
}

/// The patterns in the schema.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern {
        r"^[^\u0000]*$" => !text.contains('\0'),
        r"^[^\u0000-\u0008\u000a-\u001f\u007f]*$" => {
            !text.contains(|c: char| c.is_ascii_control() && c != '\t')
        }
        r"^[A-Za-z0-9_]+$" => {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        }
        r"^[0-9A-Fa-f-]{1,36}$" => {
            (1..=36).contains(&text.len())
                && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
        }
        r"^[!-~]*$" => text.chars().all(|c| c.is_ascii_graphic()),
        unknown => panic!("this test does not know the pattern {unknown}"),
    }
}

fn agree(document: &Value) {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let parsed = parse("vm.json", document.to_string().as_bytes());
    let error = parsed
        .as_ref()
        .err()
        .map(ToString::to_string)
        .unwrap_or_default();
    assert_eq!(
        fits(&schema, document),
        parsed.is_ok(),
        "{document}\n{error}"
    );
}

fn full() -> Value {
    json!({
        "boot-source": { "kernel_image_path": "k", "boot_args": "quiet", "initrd_path": "i", "entry": "pvh" },
        "machine-config": {
            "vcpu_count": 2, "mem_size_mib": 64, "smt": true, "cpu_template": "None", "track_dirty_pages": false,
            "huge_pages": "2M", "shared_memory": true, "pmu": false
        },
        "lifecycle": { "on_reboot": "restart", "stop_timeout_s": 1 },
        "drives": [{
            "drive_id": "a", "path_on_host": "p", "is_root_device": true, "partuuid": "0eaa91a0-01", "is_read_only": true,
            "cache_type": "None", "io_engine": "Async", "socket": null, "serial": "S", "queues": 2,
            "rate_limiter": {
                "bandwidth": { "size": 1, "refill_time": 1, "one_time_burst": 1 },
                "ops": { "size": 1, "refill_time": 1, "one_time_burst": 1 }
            }
        }],
        "network-interfaces": [], "pmem": [], "vsock": { "guest_cid": 3, "uds_path": "v", "vsock_id": "a" }, "balloon": null, "entropy": null,
        "memory-hotplug": null, "cpu-config": null, "logger": null, "metrics": null, "mmds-config": null, "serial": null
    })
}

fn values() -> Vec<Value> {
    let names = [
        "auto",
        "linux64",
        "pvh",
        "bzimage",
        "exit",
        "restart",
        "None",
        "Transparent",
        "2M",
        "T2",
        "",
        "a\tb",
        "a\u{1f}b",
        "a\0",
        "é",
    ];
    let numbers = [
        -1_i64,
        0,
        1,
        2,
        3,
        31,
        32,
        33,
        254,
        255,
        1_048_576,
        1_048_577,
        4_294_967_295,
        4_294_967_296,
    ];
    let others = [
        json!(null),
        json!(true),
        json!(false),
        json!([]),
        json!([1]),
        json!({}),
        json!({ "x": 1 }),
        json!(1.5),
    ];
    names
        .into_iter()
        .map(Value::from)
        .chain(numbers.into_iter().map(Value::from))
        .chain(others)
        .collect()
}

/// Where each member of each object in a document is: a pointer to the object, and the key.
fn pointers(document: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut objects = vec![(String::new(), document)];
    while let Some((pointer, value)) = objects.pop() {
        for (key, value) in value.as_object().into_iter().flatten() {
            all.push((pointer.clone(), key.clone()));
            objects.push((format!("{pointer}/{key}"), value));
        }
        for (index, value) in value.as_array().into_iter().flatten().enumerate() {
            objects.push((format!("{pointer}/{index}"), value));
        }
    }
    all
}

fn object<'a>(
    document: &'a mut Value,
    pointer: &str,
) -> Option<&'a mut serde_json::Map<String, Value>> {
    document.pointer_mut(pointer)?.as_object_mut()
}

#[test]
fn they_agree_on_each_value_of_each_key_on_its_absence_and_on_strangers() {
    agree(&full());
    agree(&json!([]));
    for (section, key) in pointers(&full()) {
        for value in values() {
            let mut document = full();
            object(&mut document, &section)
                .unwrap()
                .insert(key.clone(), value);
            agree(&document);
        }
        let mut document = full();
        object(&mut document, &section).unwrap().remove(&key);
        agree(&document);
        object(&mut document, &section)
            .unwrap()
            .insert(key + "_", Value::Null);
        agree(&document);
    }
}

proptest! {
    #[test]
    fn they_agree_on_any_handful_of_changes(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..5)
    ) {
        let (pointers, values) = (pointers(&full()), values());
        let mut document = full();
        for (which, value) in changes {
            let (section, key) = which.get(&pointers);
            if let Some(object) = object(&mut document, section) {
                object.insert(key.clone(), value.get(&values).clone());
            }
        }
        agree(&document);
    }
}
