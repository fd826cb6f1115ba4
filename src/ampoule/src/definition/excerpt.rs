//! Places in a text, and the line around one.
use std::fmt;

/// A place in a text as an editor shows it: line and column from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
}

impl Position {
    /// The place of the character at (or around) a byte offset; past the end: of what would follow.
    pub(super) fn of(text: &str, offset: usize) -> Self {
        let before = before(text, offset);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

fn before(text: &str, offset: usize) -> &str {
    &text[..boundary(text, offset)]
}

/// The offset itself where a character starts, else that of the character around it; at most the end.
pub(super) fn boundary(text: &str, offset: usize) -> usize {
    (0..=offset.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or_default()
}

/// Most characters of a line that are shown before the place, and from it on.
const SHOWN: usize = 60;

/// The line around a place, fit for a terminal, and a caret below the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    line: usize,
    shown: String,
    caret: usize,
}

impl Excerpt {
    pub(super) fn of(text: &str, offset: usize) -> Self {
        let Position { line, column } = Position::of(text, offset);
        let start = before(text, offset).rfind('\n').map_or(0, |at| at + 1);
        let whole = text[start..].lines().next().unwrap_or_default();
        let skipped = (column - 1).saturating_sub(SHOWN);
        let cut_left = if skipped > 0 { "…" } else { "" };
        let caret = column - 1 - skipped + cut_left.chars().count();
        let mut shown = cut_left.to_owned();
        let mut rest = whole.chars().skip(skipped);
        shown.extend(rest.by_ref().take(SHOWN * 2).map(printable));
        if rest.next().is_some() {
            shown.push('…');
        }
        Self { line, shown, caret }
    }

    pub(super) fn is_blank(&self) -> bool {
        self.shown.trim().is_empty()
    }
}

/// Terminals act on control characters, and tabs would move the caret away.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        _ if c.is_control() => '\u{fffd}',
        _ => c,
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let (margin, indent) = (number.len() + 1, self.caret);
        writeln!(f, " {number} | {}", self.shown)?;
        write!(f, "{:margin$} | {:indent$}^", "", "")
    }
}

/// A text from the file as it appears in a message: escaped and no longer than a glance.
pub(super) fn glance(text: &str) -> String {
    const LONGEST: usize = 40;
    let cut = text
        .char_indices()
        .nth(LONGEST)
        .map_or(text, |(at, _)| &text[..at]);
    let ellipsis = if cut.len() < text.len() { "…" } else { "" };
    escaped(cut) + ellipsis
}

/// A text without the control characters that a terminal would act on.
pub(super) fn escaped(text: &str) -> String {
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.into()
        }
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_count_characters_from_one() {
        let text = "aé\n\u{1F3FA}b\n";
        for (offset, line, column) in [
            (0, 1, 1),
            (1, 1, 2),
            (2, 1, 2),
            (3, 1, 3),
            (4, 2, 1),
            (8, 2, 2),
            (10, 3, 1),
            (99, 3, 1),
        ] {
            assert_eq!(
                Position::of(text, offset),
                Position { line, column },
                "{offset}"
            );
        }
    }

    #[test]
    fn the_caret_stands_below_the_place() {
        let shown = Excerpt::of("{\n\t\"a\": 1\n}", 3).to_string();
        assert_eq!(shown, " 2 |  \"a\": 1\n   |  ^");
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{}!{}", "x".repeat(500), "y".repeat(500));
        let shown = Excerpt::of(&text, 500).to_string();
        let (line, caret) = shown.split_once('\n').unwrap();
        assert!(line.chars().count() < 140 && line.contains("x!y") && line.ends_with('…'));
        assert_eq!(line.chars().nth(caret.chars().count() - 1), Some('!'));
    }

    proptest! {
        #[test]
        fn any_place_of_any_text_can_be_shown(text in any::<String>(), offset in 0usize..200) {
            let shown = Excerpt::of(&text, offset).to_string();
            prop_assert_eq!(shown.matches('\n').count(), 1);
            prop_assert!(!shown.replace('\n', "").chars().any(char::is_control));
        }
    }
}
