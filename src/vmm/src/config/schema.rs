//! The JSON schema of the definition, generated from its types.
//!
//! Beside the standard keywords it carries annotations of ours: `x-ours` (a key that Firecracker's format lacks),
//! `x-not-yet` (a key of Firecracker's that is refused when used), `x-flag` (the command-line flag that overrides the key).
use super::Definition;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// The JSON schema (draft 2020-12) of [`Definition`].
#[must_use]
pub fn schema() -> Schema {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let generated = settings
        .into_generator()
        .into_root_schema_for::<Definition>();
    let mut schema = json_schema!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Ampoule VM definition",
        "description": "One virtual machine. A strict superset of Firecracker's --config-file."
    });
    for (key, value) in generated.as_object().into_iter().flatten() {
        if schema.get(key).is_none() {
            schema.insert(key.clone(), value.clone());
        }
    }
    schema
}

/// A section that may be null. `Option<T>` would say the same, but with a default of null.
pub(super) fn section<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator);
    schema.insert("type".into(), serde_json::json!(["object", "null"]));
    schema
}

pub(super) fn cpu_template(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["None", null] })
}

pub(super) fn boot_source_example() -> serde_json::Value {
    serde_json::json!({ "kernel_image_path": "/boot/vmlinuz" })
}

/// A drive without a path is refused by `validate`: with a back end's socket it would need none.
pub(super) fn require_path(schema: &mut Schema) {
    let required = schema.ensure_object().get_mut("required");
    if let Some(required) = required.and_then(|keys| keys.as_array_mut()) {
        required.push("path_on_host".into());
    }
}

/// Adds what `validate` says of two keys of `machine-config` at once.
pub(super) fn relate_machine_keys(schema: &mut Schema) {
    let relations = json_schema!({
        "allOf": [
            {
                "if": { "properties": { "smt": { "const": true } }, "required": ["smt"] },
                "then": { "properties": { "vcpu_count": { "anyOf": [{ "const": 1 }, { "multipleOf": 2 }] } } }
            },
            {
                "if": { "properties": { "huge_pages": { "const": "2M" } }, "required": ["huge_pages"] },
                "then": { "properties": { "mem_size_mib": { "multipleOf": 2 } } }
            }
        ]
    });
    for (key, value) in relations.as_object().into_iter().flatten() {
        schema.insert(key.clone(), value.clone());
    }
}
