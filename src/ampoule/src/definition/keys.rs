//! What the schema knows of keys: used to make suggestions, so that these cannot drift from the types.
use serde_json::Value;

/// The schema, read. It is checked in and tested, so it can be read; if it could not, suggestions would be missing.
pub(super) struct Keys(Value);

impl Keys {
    pub(super) fn load() -> Self {
        Self(serde_json::from_str(super::SCHEMA).unwrap_or_default())
    }

    /// What the schema says of a key.
    fn schema(&self, path: &[&str]) -> &Value {
        path.iter()
            .fold(&self.0, |schema, key| match key.parse::<usize>() {
                Ok(_) => &schema["items"],
                Err(_) => &schema["properties"][*key],
            })
    }

    /// A value that could stand at a key, as JSON text.
    pub(super) fn example(&self, path: &[&str]) -> Option<String> {
        self.schema(path)["examples"]
            .get(0)
            .map(ToString::to_string)
    }

    /// The flag that overrides a key, or the section that it stands in.
    pub(super) fn flag(&self, path: &[&str]) -> Option<&str> {
        let mut outwards = (1..=path.len()).rev();
        outwards.find_map(|length| self.schema(&path[..length])["x-flag"].as_str())
    }

    /// The keys that may be used in an object.
    pub(super) fn supported(&self, path: &[&str]) -> Vec<&str> {
        let keys = self.schema(path)["properties"].as_object();
        let supported = keys
            .into_iter()
            .flatten()
            .filter(|(_, schema)| schema["x-not-yet"] != true);
        supported.map(|(key, _)| key.as_str()).collect()
    }

    /// A key of that object which an unknown one was probably meant to be: spelled nearly so, or named as its flag is.
    pub(super) fn near<'a>(
        &'a self,
        path: &[&str],
        unknown: &str,
        known: &[&'a str],
    ) -> Option<&'a str> {
        nearest(unknown, known).or_else(|| {
            let of_flag = |key: &&&str| {
                let flag = self.schema(path)["properties"][**key]["x-flag"].as_str();
                flag.is_some_and(|flag| alike(unknown, flag))
            };
            known.iter().find(of_flag).copied()
        })
    }

    /// The section in which a key stands that was given at the wrong level.
    pub(super) fn section_of(&self, key: &str) -> Option<&str> {
        let sections = self.0["properties"].as_object()?;
        let holds = |schema: &Value| {
            schema["properties"]
                .as_object()
                .is_some_and(|keys| keys.contains_key(key))
        };
        sections
            .iter()
            .find(|(_, schema)| holds(schema))
            .map(|(section, _)| section.as_str())
    }

    pub(super) fn is_section(&self, key: &str) -> bool {
        !self.schema(&[key]).is_null()
    }
}

/// The candidate that differs from a text by a few letters, if one does.
pub(super) fn nearest<'a>(text: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let text = folded(text);
    let distance = |candidate: &str| {
        let candidate = folded(candidate);
        let prefix = text.len() >= 3 && candidate.starts_with(&text);
        let edits = if prefix {
            1
        } else {
            strsim::damerau_levenshtein(&text, &candidate)
        };
        (edits <= candidate.chars().count().div_ceil(4)).then_some(edits)
    };
    let near = candidates
        .iter()
        .filter_map(|candidate| Some((distance(candidate)?, *candidate)));
    near.min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

fn alike(a: &str, b: &str) -> bool {
    folded(a) == folded(b)
}

/// Without what people get wrong most: case and separators. Cut, as the text may be of any length.
fn folded(text: &str) -> String {
    text.chars()
        .filter(|c| !matches!(c, '-' | '_' | ' '))
        .take(64)
        .collect::<String>()
        .to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_found_and_far_ones_are_not() {
        let keys = ["vcpu_count", "mem_size_mib", "smt", "huge_pages"];
        for (text, meant) in [
            ("vcpu_cout", "vcpu_count"),
            ("vcpuCount", "vcpu_count"),
            ("VCPU-COUNT", "vcpu_count"),
            ("mem_size", "mem_size_mib"),
            ("mem_szie_mib", "mem_size_mib"),
            ("hugepage", "huge_pages"),
            ("stm", "smt"),
        ] {
            assert_eq!(nearest(text, &keys), Some(meant), "{text}");
        }
        for text in ["", "x", "kernel", "count", &"v".repeat(10_000)] {
            assert_eq!(nearest(text, &keys), None, "{text}");
        }
    }

    #[test]
    fn a_flags_name_leads_to_its_key_and_a_stray_key_to_its_section() {
        let keys = Keys::load();
        assert_eq!(
            keys.near(&["machine-config"], "cpus", &["vcpu_count", "mem_size_mib"]),
            Some("vcpu_count")
        );
        assert_eq!(
            keys.near(&["boot-source"], "cmdline", &["boot_args"]),
            Some("boot_args")
        );
        assert_eq!(keys.section_of("vcpu_count"), Some("machine-config"));
        assert_eq!(keys.section_of("x"), None);
        assert_eq!(
            keys.flag(&["lifecycle", "stop_timeout_s"]),
            Some("--stop-timeout")
        );
        assert_eq!(keys.flag(&["machine-config", "pmu"]), None);
    }
}
