//! What is no JSON text, said better than "expected value".
use super::error::Mistake;
use super::excerpt::boundary;

const NOT_JSON: &str = "not a JSON text";

/// The bytes as text.
pub(super) fn text<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, Box<Mistake>> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        let wrong = Mistake::new(name, "", 0, NOT_JSON, "it is in UTF-16");
        return Err(Box::new(wrong.hint("save it as UTF-8".to_owned())));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        let byte = rest.first().copied().unwrap_or_default();
        let text = String::from_utf8_lossy(bytes);
        Mistake::new(
            name,
            &text,
            valid.len(),
            NOT_JSON,
            format!("the byte 0x{byte:02x} here is not UTF-8"),
        )
        .hint("is it the right file? JSON is text in UTF-8".to_owned())
    })?;
    if text.starts_with('\u{feff}') {
        let wrong = Mistake::new(name, text, 0, NOT_JSON, "it starts with a byte order mark");
        return Err(Box::new(
            wrong.hint("save it as UTF-8 without one".to_owned()),
        ));
    }
    if text.trim().is_empty() {
        let wrong = Mistake::new(name, text, 0, NOT_JSON, "it is empty");
        return Err(Box::new(wrong.hint(LEAST.to_owned())));
    }
    Ok(text)
}

/// The least definition there is.
const LEAST: &str =
    r#"the least definition is {"boot-source": {"kernel_image_path": "/boot/vmlinuz"}}"#;

/// Puts a syntax error of `serde_json`'s into words and place.
pub(super) fn mistake(name: &str, text: &str, error: &serde_json::Error) -> Mistake {
    let at = if error.is_eof() {
        text.trim_end().len()
    } else {
        offset(text, error)
    };
    let here = text.get(at..).unwrap_or_default();
    let message = message(error);
    let why = match message.as_str() {
        "recursion limit exceeded" => "nested more than 127 levels deep".to_owned(),
        "key must be a string" => "a key must be a string in double quotes".to_owned(),
        "expected ident" => "expected `true`, `false` or `null`".to_owned(),
        "expected value" => "expected a value".to_owned(),
        "trailing characters" => "something follows the end of the definition".to_owned(),
        _ if message.starts_with("EOF while parsing") => {
            message.replacen("EOF while parsing", "it ends in the middle of", 1)
        }
        _ if message.starts_with("control character") => {
            "a control character in a string".to_owned()
        }
        _ => message.clone(),
    };
    Mistake::new(name, text, at, NOT_JSON, why).hint(hint(&message, here, error).map(str::to_owned))
}

fn hint(message: &str, here: &str, error: &serde_json::Error) -> Option<&'static str> {
    if error.is_eof() {
        return Some("a closing quote, `]` or `}` is missing");
    }
    if message.starts_with("control character") {
        return Some(r"is the closing quote missing? In a string, a newline is `\n`");
    }
    match here.chars().next() {
        Some('/' | '#') => Some("JSON has no comments"),
        Some('\'') => Some("JSON puts strings in double quotes"),
        Some('T' | 'F' | 'N') => Some("JSON writes `true`, `false` and `null` in lower case"),
        _ => match message {
            "trailing comma" => Some("remove the comma before it"),
            "invalid number" => Some("JSON numbers are decimal, without leading zeros or signs"),
            "expected `,` or `}`" | "expected `,` or `]`" => Some("is a comma missing before it?"),
            "invalid escape" => Some(r"a backslash is written `\\`"),
            _ => None,
        },
    }
}

/// `serde_json`'s message without the place, which it counts in bytes.
pub(super) fn message(error: &serde_json::Error) -> String {
    let whole = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    whole.strip_suffix(&place).unwrap_or(&whole).to_owned()
}

/// The byte offset of an error's place: columns are bytes from 1, and 0 is the newline before.
pub(super) fn offset(text: &str, error: &serde_json::Error) -> usize {
    let line_start: usize = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum();
    let at = (line_start + error.column())
        .saturating_sub(1)
        .min(text.len());
    boundary(text, at)
}
