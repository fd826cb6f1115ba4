//! Deserialisation from a placed tree, with errors that keep their parts apart.
use super::json::{Member, Node, Value};
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, Error, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use std::fmt;

/// Why a tree is not what was asked for, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// The byte offset of the key or value at fault; filled in by whoever first knows.
    pub(super) at: Option<usize>,
    /// The keys that lead there, innermost first.
    pub(super) path: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Kind {
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    MissingKey(&'static str),
    DuplicateKey(&'static str),
    Unfit {
        found: String,
        expected: String,
    },
    UnknownName {
        found: String,
        known: &'static [&'static str],
    },
    Other(String),
}

impl Fault {
    fn placed(mut self, at: usize) -> Self {
        self.at.get_or_insert(at);
        self
    }

    fn below(mut self, key: &str) -> Self {
        self.path.push(key.to_owned());
        self
    }
}

impl From<Kind> for Fault {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            at: None,
            path: Vec::new(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Fault {}

impl Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Kind::Other(message.to_string()).into()
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Kind::Unfit {
            found: in_json(found),
            expected: expected.to_string(),
        }
        .into()
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        Kind::UnknownName {
            found: found.to_owned(),
            known,
        }
        .into()
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Kind::UnknownKey {
            key: key.to_owned(),
            known,
        }
        .into()
    }

    fn missing_field(key: &'static str) -> Self {
        Kind::MissingKey(key).into()
    }

    fn duplicate_field(key: &'static str) -> Self {
        Kind::DuplicateKey(key).into()
    }
}

/// What was found, as it is written in JSON, for scalars; else what it is.
fn in_json(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => serde_json::Value::from(value).to_string(),
        Unexpected::Str(text) => format!("\"{}\"", super::excerpt::glance(text)),
        Unexpected::Unit => "null".into(),
        Unexpected::Seq => "an array".into(),
        Unexpected::Map => "an object".into(),
        other => other.to_string(),
    }
}

impl<'de> Deserializer<'de> for &'de Node<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => visit_number(number, visitor),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(nodes) => visitor.visit_seq(Items(nodes.iter().enumerate())),
            Value::Object(members) => visitor.visit_map(Members {
                rest: members.iter(),
                current: None,
            }),
        };
        result.map_err(|fault| {
            let at = self.duplicate(&fault).unwrap_or(self.at);
            fault.placed(at)
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value {
            Value::String(name) => {
                let name: StrDeserializer<'_, Fault> = name.as_ref().into_deserializer();
                visitor
                    .visit_enum(name)
                    .map_err(|fault| fault.placed(self.at))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

impl Node<'_> {
    /// Where the key stands for the second time, if that is the fault: serde notices it between a key and its value, when
    /// nobody here is asked.
    fn duplicate(&self, fault: &Fault) -> Option<usize> {
        match (&fault.kind, &self.value) {
            (Kind::DuplicateKey(key), Value::Object(members)) => members
                .iter()
                .filter(|member| member.key == *key)
                .nth(1)
                .map(|member| member.key_at),
            _ => None,
        }
    }
}

fn visit_number<'de, V: Visitor<'de>>(
    number: &serde_json::Number,
    visitor: V,
) -> Result<V::Value, Fault> {
    if let Some(value) = number.as_u64() {
        visitor.visit_u64(value)
    } else if let Some(value) = number.as_i64() {
        visitor.visit_i64(value)
    } else {
        visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
    }
}

struct Items<'de, 'a>(std::iter::Enumerate<std::slice::Iter<'de, Node<'a>>>);

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some((index, node)) = self.0.next() else {
            return Ok(None);
        };
        seed.deserialize(node)
            .map(Some)
            .map_err(|fault| fault.placed(node.at).below(&index.to_string()))
    }
}

struct Members<'de, 'a> {
    rest: std::slice::Iter<'de, Member<'a>>,
    current: Option<&'de Member<'a>>,
}

impl<'de> MapAccess<'de> for Members<'de, '_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.current = self.rest.next();
        let Some(member) = self.current else {
            return Ok(None);
        };
        let key: StrDeserializer<'_, Fault> = member.key.as_ref().into_deserializer();
        seed.deserialize(key)
            .map(Some)
            .map_err(|fault| fault.placed(member.key_at))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let member = self
            .current
            .take()
            .ok_or_else(|| Fault::custom("a value was asked for before its key"))?;
        seed.deserialize(&member.node)
            .map_err(|fault| fault.placed(member.node.at).below(&member.key))
    }
}
