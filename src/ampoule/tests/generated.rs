//! Files that are generated from the types and checked in: the JSON schema, and the tables of the reference.
//!
//! `AMPOULE_BLESS=1 cargo test -p ampoule --test generated` writes them anew.
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use vmm::config::boot_args;

const BLESS: &str = "AMPOULE_BLESS=1 cargo test -p ampoule --test generated";

/// Compares a checked-in file with what it should be, or makes it so.
fn check(path: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    if std::env::var_os("AMPOULE_BLESS").is_some() {
        fs::write(&path, expected).unwrap();
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{} is stale: run `{BLESS}`",
        path.display()
    );
}

fn schema() -> Value {
    vmm::config::schema().to_value()
}

#[test]
fn the_schema_is_that_of_the_types() {
    check(
        "resources/vm-definition.schema.json",
        &(serde_json::to_string_pretty(&schema()).unwrap() + "\n"),
    );
}

#[test]
fn the_tables_of_the_reference_are_those_of_the_types() {
    const REFERENCE: &str = "docs/vm-definition.md";
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(REFERENCE);
    let mut text = fs::read_to_string(path).unwrap();
    let schema = schema();
    for section in ["boot-source", "machine-config", "lifecycle", "vsock"] {
        let schema = &schema["properties"][section];
        replace(&mut text, section, &keys_table(schema));
    }
    let drive = &schema["properties"]["drives"]["items"];
    let limiter = &drive["properties"]["rate_limiter"];
    let bucket = &limiter["properties"]["bandwidth"];
    for (name, schema) in [
        ("drive", drive),
        ("rate-limiter", limiter),
        ("token-bucket", bucket),
        (
            "network-interface",
            &schema["properties"]["network-interfaces"]["items"],
        ),
    ] {
        replace(&mut text, name, &keys_table(schema));
    }
    replace(&mut text, "sections", &sections_table(&schema));
    replace(&mut text, "boot-args", &defaults_table());
    replace(&mut text, "flags", &flags_table(&schema));
    check(REFERENCE, &text);
}

/// Replaces what stands between the markers of a table.
fn replace(text: &mut String, name: &str, table: &str) {
    let open = format!("<!-- generated: {name} -->\n");
    let start = text
        .find(&open)
        .unwrap_or_else(|| panic!("no marker {open:?}"))
        + open.len();
    let end = start
        + text[start..]
            .find("<!-- end -->")
            .expect("each generated table has an end");
    text.replace_range(start..end, table);
}

fn members(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"]
        .as_object()
        .expect("an object has properties")
        .iter()
}

fn keys_table(section: &Value) -> String {
    let mut table =
        "| Key | Type | Default | Whose | Meaning |\n|---|---|---|---|---|\n".to_owned();
    for (key, schema) in members(section) {
        let required = section["required"]
            .as_array()
            .is_some_and(|required| required.iter().any(|name| name == key));
        let default = match schema.get("default") {
            _ if required => "required".to_owned(),
            Some(default) if !default.is_null() => format!("`{default}`"),
            _ => "none".to_owned(),
        };
        let whose = if section["x-ours"] == true {
            whose(section)
        } else {
            whose(schema)
        };
        let (kind, meaning) = (kind(schema), meaning(schema));
        writeln!(
            table,
            "| `{key}` | {kind} | {default} | {whose} | {meaning} |"
        )
        .unwrap();
    }
    table
}

fn whose(schema: &Value) -> &'static str {
    if schema["x-ours"] == true {
        "Ampoule"
    } else {
        "Firecracker"
    }
}

fn meaning(schema: &Value) -> String {
    let mut text = schema["description"]
        .as_str()
        .unwrap_or_default()
        .replace('\n', " ");
    for variant in named_values(schema) {
        if let Some(description) = variant["description"].as_str() {
            write!(
                text,
                " `{}`: {}",
                variant["const"],
                description.replace('\n', " ")
            )
            .unwrap();
        }
    }
    text
}

fn named_values(schema: &Value) -> &[Value] {
    schema["oneOf"].as_array().map_or(&[], Vec::as_slice)
}

fn list(schema: &Value) -> &[Value] {
    schema
        .as_array()
        .map_or(std::slice::from_ref(schema), Vec::as_slice)
}

fn kind(schema: &Value) -> String {
    let named = named_values(schema).iter().map(|one| &one["const"]);
    let names: Vec<_> = named
        .chain(schema["enum"].as_array().into_iter().flatten())
        .map(|name| format!("`{name}`"))
        .collect();
    if !names.is_empty() {
        return names.join(", ");
    }
    if let Some(kinds) = schema["anyOf"].as_array() {
        let kinds: Vec<_> = kinds.iter().map(kind).collect();
        return kinds.join(", ");
    }
    let kind = list(&schema["type"])
        .iter()
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(" or ");
    match (&schema["minimum"], &schema["maximum"]) {
        (Value::Number(min), Value::Number(max)) => format!("{kind}, {min} to {max}"),
        _ => kind,
    }
}

fn sections_table(schema: &Value) -> String {
    let mut table = "| Key | Value | State | Whose | Meaning |\n|---|---|---|---|---|\n".to_owned();
    for (key, schema) in members(schema) {
        let required = key == "boot-source";
        let (value, state) = match (schema["x-not-yet"] == true, schema["type"] == "array") {
            (true, true) => ("array", "refused unless `[]`"),
            (true, false) => ("object", "refused unless `null`"),
            (false, true) => ("array", "supported"),
            _ if required => ("object", "required"),
            _ => ("object or null", "supported"),
        };
        writeln!(
            table,
            "| `{key}` | {value} | {state} | {} | {} |",
            whose(schema),
            meaning(schema)
        )
        .unwrap();
    }
    table
}

fn defaults_table() -> String {
    let mut table = "| Parameter | Reason |\n|---|---|\n".to_owned();
    for default in
        (boot_args::DEFAULTS.iter().cloned()).chain([boot_args::pci(false), boot_args::pci(true)])
    {
        writeln!(table, "| `{default}` | {} |", default.reason).unwrap();
    }
    table
}

fn flags_table(schema: &Value) -> String {
    let mut table = "| Flag | Key |\n|---|---|\n".to_owned();
    for (key, schema) in members(schema) {
        if let Some(flag) = schema["x-flag"].as_str() {
            let note = if schema["type"] == "array" {
                " (adds to it)"
            } else {
                ""
            };
            writeln!(table, "| `{flag}` | `{key}`{note} |").unwrap();
        }
    }
    for (section, schema) in members(schema).filter(|(_, schema)| schema["properties"].is_object())
    {
        for (key, schema) in members(schema) {
            if let Some(flag) = schema["x-flag"].as_str() {
                writeln!(table, "| `{flag}` | `{section}.{key}` |").unwrap();
            }
        }
    }
    table
}
