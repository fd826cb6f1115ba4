//! A JSON text as a tree that knows where everything stands.
//!
//! It is read to explain a mistake, so speed does not matter; and what is grammar and what is not has been decided by
//! `serde_json` before: here a text is taken apart, and its strings and numbers are given to `serde_json` again.
use std::borrow::Cow;
use std::ops::Range;

/// Most arrays and objects inside one another: at its 128th `serde_json` gives up.
const MAX_DEPTH: usize = 127;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node<'a> {
    /// The byte offset of its first character.
    pub(super) at: usize,
    pub(super) value: Value<'a>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(Cow<'a, str>),
    Array(Vec<Node<'a>>),
    Object(Vec<Member<'a>>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member<'a> {
    /// The byte offset of the key's opening quote.
    pub(super) key_at: usize,
    pub(super) key: Cow<'a, str>,
    pub(super) node: Node<'a>,
}

impl<'a> Node<'a> {
    /// The whole text as one value; `None` if it is no JSON text, or too deep.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut scanner = Scanner { text, at: 0 };
        let node = scanner.value(MAX_DEPTH)?;
        scanner.blanks();
        (scanner.at == text.len()).then_some(node)
    }

    /// The member of an object, the first if there are several.
    pub(super) fn member(&self, key: &str) -> Option<&Member<'a>> {
        match &self.value {
            Value::Object(members) => members.iter().find(|member| member.key == key),
            _ => None,
        }
    }

    /// What is at the end of a path of keys (and numbers of an array's elements), or the last thing on the way there; and where
    /// the key to it stands.
    pub(super) fn nearest(&self, path: &[&str]) -> Option<(usize, &Self)> {
        let (first, rest) = path.split_first()?;
        let (key_at, node) = match &self.value {
            Value::Array(nodes) => {
                let node = nodes.get(first.parse::<usize>().ok()?)?;
                (node.at, node)
            }
            _ => {
                let member = self.member(first)?;
                (member.key_at, &member.node)
            }
        };
        node.nearest(rest).or(Some((key_at, node)))
    }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&mut self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn blanks(&mut self) {
        self.skip(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    }

    fn skip(&mut self, which: impl Fn(u8) -> bool) -> Range<usize> {
        let start = self.at;
        while self.peek().is_some_and(&which) {
            self.at += 1;
        }
        start..self.at
    }

    fn value(&mut self, depth: usize) -> Option<Node<'a>> {
        self.blanks();
        let at = self.at;
        let value = match self.peek()? {
            b'{' => self.object(depth.checked_sub(1)?)?,
            b'[' => self.array(depth.checked_sub(1)?)?,
            b'"' => Value::String(self.string()?),
            _ => self.word()?,
        };
        Some(Node { at, value })
    }

    fn object(&mut self, depth: usize) -> Option<Value<'a>> {
        self.eat(b'{')?;
        let mut members = Vec::new();
        self.list(b'}', |scanner| {
            let key_at = scanner.at;
            let key = scanner.string()?;
            scanner.blanks();
            scanner.eat(b':')?;
            members.push(Member {
                key_at,
                key,
                node: scanner.value(depth)?,
            });
            Some(())
        })?;
        Some(Value::Object(members))
    }

    fn array(&mut self, depth: usize) -> Option<Value<'a>> {
        self.eat(b'[')?;
        let mut nodes = Vec::new();
        self.list(b']', |scanner| {
            nodes.push(scanner.value(depth)?);
            Some(())
        })?;
        Some(Value::Array(nodes))
    }

    /// Items with commas between them, and what closes the list.
    fn list(&mut self, close: u8, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.blanks();
        if self.eat(close).is_some() {
            return Some(());
        }
        loop {
            self.blanks();
            item(self)?;
            self.blanks();
            if self.eat(close).is_some() {
                return Some(());
            }
            self.eat(b',')?;
        }
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        let start = self.at;
        self.eat(b'"')?;
        loop {
            self.skip(|byte| !matches!(byte, b'"' | b'\\'));
            if self.eat(b'"').is_some() {
                break;
            }
            self.eat(b'\\')?;
            self.at += 1;
        }
        let raw = self.text.get(start..self.at)?;
        match serde_json::from_str::<&str>(raw) {
            Ok(text) => Some(Cow::Borrowed(text)),
            Err(_) => serde_json::from_str(raw).ok().map(Cow::Owned),
        }
    }

    fn word(&mut self) -> Option<Value<'a>> {
        let word =
            self.skip(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
        match self.text.get(word)? {
            "null" => Some(Value::Null),
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            number => serde_json::from_str(number).ok().map(Value::Number),
        }
    }
}

#[cfg(test)]
mod tests;
