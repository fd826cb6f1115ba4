use super::*;
use proptest::prelude::*;
use serde_json::Value as Json;

impl Node<'_> {
    fn to_json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(number) => Json::Number(number.clone()),
            Value::String(text) => Json::String(text.to_string()),
            Value::Array(nodes) => nodes.iter().map(Node::to_json).collect(),
            Value::Object(members) => members
                .iter()
                .map(|member| (member.key.to_string(), member.node.to_json()))
                .collect(),
        }
    }

    /// Every value stands where the tree says: its text, taken from there, starts with the same value.
    fn check_places(&self, text: &str) {
        let mut there = serde_json::Deserializer::from_str(&text[self.at..]).into_iter::<Json>();
        assert_eq!(there.next().unwrap().unwrap(), self.to_json());
        match &self.value {
            Value::Array(nodes) => nodes.iter().for_each(|node| node.check_places(text)),
            Value::Object(members) => members.iter().for_each(|member| {
                let mut key = serde_json::Deserializer::from_str(&text[member.key_at..])
                    .into_iter::<String>();
                assert_eq!(key.next().unwrap().unwrap(), member.key);
                member.node.check_places(text);
            }),
            _ => {}
        }
    }
}

fn documents() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        any::<String>().prop_map(Json::from),
    ];
    leaf.prop_recursive(6, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
            proptest::collection::hash_map(any::<String>(), inner, 0..6)
                .prop_map(|members| Json::Object(members.into_iter().collect())),
        ]
    })
}

#[test]
fn members_are_found_by_path_and_a_missing_one_by_the_nearest_above_it() {
    let text = r#" { "a": { "b": [1], "b": 2 } }"#;
    let tree = Node::parse(text).unwrap();
    let places = |path: &[&str]| tree.nearest(path).map(|(key_at, node)| (key_at, node.at));
    assert_eq!(places(&["a", "b"]), Some((10, 15)));
    assert_eq!(places(&["a", "b", "0"]), Some((16, 16)));
    assert_eq!(places(&["a", "b", "1"]), Some((10, 15)));
    assert_eq!(places(&["a", "c"]), Some((3, 8)));
    assert_eq!(tree.nearest(&["c"]), None);
    assert_eq!(tree.nearest(&[]), None);
}

#[test]
fn what_is_no_json_has_no_tree() {
    for text in [
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\"}",
        "\"",
        "\"\\",
        "\"\\é",
        "1 2",
        "nul",
        "01",
        "{,}",
        "+1",
        "\"\u{1}\"",
    ] {
        assert_eq!(Node::parse(text), None, "{text}");
    }
}

#[test]
fn depth_is_bounded_as_serde_json_bounds_it() {
    for depth in [127, 128, 100_000] {
        let text = "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(
            Node::parse(&text).is_some(),
            serde_json::from_str::<Json>(&text).is_ok(),
            "{depth}"
        );
    }
}

proptest! {
    #[test]
    fn every_place_of_a_document_is_found(document in documents(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) }.unwrap();
        let tree = Node::parse(&text).unwrap();
        tree.check_places(&text);
    }

    #[test]
    fn any_text_has_a_tree_exactly_when_it_is_json(text in "[\\[\\]{}:,\"\\\\ 0-9eE+.a-fnult-]{0,24}|\\PC{0,30}") {
        prop_assert_eq!(Node::parse(&text).is_some(), serde_json::from_str::<Json>(&text).is_ok());
    }
}
