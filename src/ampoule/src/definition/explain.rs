//! What is no definition, though JSON, put into words: where, what, why, and what was probably meant.
use super::de::{Fault, Kind};
use super::error::Mistake;
use super::excerpt::{Position, glance};
use super::json::{Node, Value};
use super::keys::{Keys, nearest};
use super::syntax;
use vmm::config::{Definition, Reason, ValueError, in_words, object};

/// Explains why a text is no definition, given that `serde_json` has said `error` of it.
pub(super) fn misfit(name: &str, text: &str, error: &serde_json::Error) -> Mistake {
    let tree = match tree(name, text) {
        Ok(tree) => tree,
        Err(mistake) => return *mistake,
    };
    match object::<_, Definition>(&tree) {
        Err(fault) => explain(name, text, &tree, fault),
        // Two readers disagree, which is a defect of ours; the file is refused all the same.
        Ok(_) => Mistake::new(
            name,
            text,
            syntax::offset(text, error),
            "not a VM definition",
            syntax::message(error),
        ),
    }
}

/// Explains the values that cannot be: the first at length, the others by name.
pub(super) fn impossible_values(name: &str, text: &str, errors: &[ValueError]) -> Mistake {
    let tree = match tree(name, text) {
        Ok(tree) => tree,
        Err(mistake) => return *mistake,
    };
    let mut placed: Vec<_> = errors
        .iter()
        .map(|error| (place(&tree, error), error))
        .collect();
    placed.sort_by_key(|(at, _)| *at);
    let Some(((at, error), others)) = placed.split_first().map(|(first, others)| (*first, others))
    else {
        return Mistake::new(
            name,
            text,
            0,
            "not a VM definition",
            "a value is impossible",
        );
    };
    let what = quoted(&error.path.keys());
    let mut mistake = Mistake::new(name, text, at, what, error.reason.to_string());
    if error.reason == Reason::NotYet {
        mistake.hint = tree
            .nearest(&error.path.keys())
            .map(|(_, node)| without(&node.value).to_owned());
    }
    if !others.is_empty() {
        let names: Vec<_> = others
            .iter()
            .map(|(_, error)| quoted(&error.path.keys()))
            .collect();
        mistake.more = Some(format!(" also wrong: {}", names.join(", ")));
    }
    mistake
}

/// A syntax error further on goes before what is wrong with the part that was read.
fn tree<'a>(name: &str, text: &'a str) -> Result<Node<'a>, Box<Mistake>> {
    Node::parse(text).ok_or_else(|| {
        Box::new(match serde_json::from_str::<serde_json::Value>(text) {
            Err(error) => syntax::mistake(name, text, &error),
            Ok(_) => Mistake::new(name, text, 0, "not a JSON text", "it cannot be taken apart"),
        })
    })
}

fn place(tree: &Node<'_>, error: &ValueError) -> usize {
    let nearest = tree.nearest(&error.path.keys());
    nearest.map_or(tree.at, |(key_at, node)| {
        if error.reason == Reason::NotYet {
            key_at
        } else {
            node.at
        }
    })
}

fn without(value: &Value<'_>) -> &'static str {
    match value {
        Value::Array(_) => "remove the key, or what is in its array",
        Value::Bool(_) => "remove the key, or set it to false",
        _ => "remove the key, or set it to null",
    }
}

fn explain(name: &str, text: &str, tree: &Node<'_>, fault: Fault) -> Mistake {
    let at = fault.at.unwrap_or(tree.at);
    let path: Vec<&str> = fault.path.iter().rev().map(String::as_str).collect();
    let here = if path.is_empty() {
        "the VM definition".to_owned()
    } else {
        quoted(&path)
    };
    let (what, why, hint) = match fault.kind {
        Kind::UnknownKey { key, known } => (
            quoted_below(&path, &key),
            "unknown key".to_owned(),
            unknown_key(&path, &key, known),
        ),
        Kind::MissingKey(key) => (
            quoted_below(&path, key),
            "missing".to_owned(),
            missing_key(&path, key),
        ),
        Kind::DuplicateKey(key) => {
            let object = match path.as_slice() {
                [] => Some(tree),
                path => tree.nearest(path).map(|(_, node)| node),
            };
            let first = object
                .and_then(|node| node.member(key))
                .map(|member| Position::of(text, member.key_at));
            let hint = first
                .map(|first| format!("remove one of them; the first is in line {}", first.line));
            (quoted_below(&path, key), "given twice".to_owned(), hint)
        }
        Kind::Unfit { found, expected } => (
            here,
            format!("found {found}, expected {}", in_plain_words(&expected)),
            None,
        ),
        Kind::UnknownName { found, known } => {
            let why = format!(
                "found \"{}\", expected one of `{}`",
                glance(&found),
                known.join("`, `")
            );
            let hint = nearest(&found, known).map(|meant| format!("did you mean `{meant}`?"));
            (here, why, hint)
        }
        Kind::Other(message) => (here, message, None),
    };
    Mistake::new(name, text, at, what, why).hint(hint)
}

fn unknown_key(path: &[&str], key: &str, known: &[&str]) -> Option<String> {
    let keys = Keys::load();
    if let Some(meant) = keys.near(path, key, known) {
        return Some(format!("did you mean `{meant}`?"));
    }
    if let Some(section) = keys.section_of(key).filter(|section| path != [*section]) {
        return Some(format!("it belongs into `{section}`"));
    }
    if !path.is_empty() && keys.is_section(key) {
        return Some("it belongs to the outermost level".to_owned());
    }
    let supported = keys.supported(path);
    (!supported.is_empty()).then(|| format!("known here: `{}`", supported.join("`, `")))
}

fn missing_key(path: &[&str], key: &str) -> Option<String> {
    let full: Vec<&str> = path.iter().copied().chain([key]).collect();
    Keys::load()
        .example(&full)
        .map(|value| format!("add for example \"{key}\": {value}"))
}

/// serde's names of types in JSON's words.
fn in_plain_words(expected: &str) -> &str {
    match expected {
        "a boolean" => "`true` or `false`",
        "path string" => "a path, as a string",
        _ => expected,
    }
}

fn quoted(path: &[&str]) -> String {
    format!("`{}`", in_words(path))
}

fn quoted_below(path: &[&str], key: &str) -> String {
    let key = glance(key);
    let full: Vec<&str> = path.iter().copied().chain([key.as_str()]).collect();
    quoted(&full)
}
