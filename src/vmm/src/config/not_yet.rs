//! Keys of Firecracker's format whose part does not exist here yet.
//!
//! They are known, so that a file which only empties them runs, and one which uses them is refused by name and not for an
//! unknown key. Whether one was used is all that is kept; [`super::Definition::validate`] refuses it.
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// An array, which must be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ListNotYet {
    pub(super) used: bool,
}

impl<'de> Deserialize<'de> for ListNotYet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = ListNotYet;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ListNotYet, A::Error> {
        let mut used = false;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            used = true;
        }
        Ok(ListNotYet { used })
    }
}

/// An object (or, as `cpu-config` may be, a string), which must be null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SectionNotYet {
    pub(super) used: bool,
}

impl<'de> Deserialize<'de> for SectionNotYet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SectionVisitor)
    }
}

struct SectionVisitor;

impl<'de> Visitor<'de> for SectionVisitor {
    type Value = SectionNotYet;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E: Error>(self) -> Result<SectionNotYet, E> {
        Ok(SectionNotYet { used: false })
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<SectionNotYet, E> {
        Ok(SectionNotYet { used: true })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SectionNotYet, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(SectionNotYet { used: true })
    }
}

/// A text, which must be null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TextNotYet {
    pub(super) used: bool,
}

impl<'de> Deserialize<'de> for TextNotYet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(Self {
            used: text.is_some(),
        })
    }
}

#[cfg(feature = "schema")]
mod schema {
    use super::{ListNotYet, SectionNotYet, TextNotYet};
    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use std::borrow::Cow;

    impl JsonSchema for ListNotYet {
        fn inline_schema() -> bool {
            true
        }

        fn schema_name() -> Cow<'static, str> {
            "ListNotYet".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({ "type": "array", "maxItems": 0, "x-not-yet": true })
        }
    }

    impl JsonSchema for SectionNotYet {
        fn inline_schema() -> bool {
            true
        }

        fn schema_name() -> Cow<'static, str> {
            "SectionNotYet".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({ "type": "null", "x-not-yet": true })
        }
    }

    impl JsonSchema for TextNotYet {
        fn inline_schema() -> bool {
            true
        }

        fn schema_name() -> Cow<'static, str> {
            "TextNotYet".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({ "type": "null", "x-not-yet": true })
        }
    }
}
