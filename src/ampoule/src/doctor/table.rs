//! The report as text: a group's checks below its name, what is not fine followed by the reason and the cure.
use std::fmt::Write;

use super::report::{Check, Report, State, Status};

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BOLD: &str = "1";
const DIM: &str = "2";

pub(super) fn render(report: &Report, colours: bool) -> String {
    let paint = Paint { colours };
    let width = report
        .checks
        .iter()
        .map(|check| check.title.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    let mut group = None;
    for check in &report.checks {
        if group != Some(check.group) {
            let gap = if group.is_some() { "\n" } else { "" };
            let name = paint.with(BOLD, &check.group.to_string());
            line(&mut text, format_args!("{gap}{name}"));
            group = Some(check.group);
        }
        render_check(&mut text, check, width, &paint);
    }
    let colour = match report.verdict.state {
        State::Ready => GREEN,
        State::StockKernelsWillNotRun | State::NotReady => RED,
    };
    let verdict = paint.with(colour, &printable(&report.verdict.text));
    line(&mut text, format_args!("\n{verdict}"));
    text
}

fn render_check(text: &mut String, check: &Check, width: usize, paint: &Paint) {
    let (symbol, colour) = match check.status {
        Status::Ok => ("✓", GREEN),
        Status::Warning => ("!", YELLOW),
        Status::Missing => ("✗", RED),
        Status::Info => ("·", DIM),
    };
    let symbol = paint.with(colour, symbol);
    let found = printable(&check.found);
    line(
        text,
        format_args!("  {symbol} {:width$}  {found}", check.title),
    );
    let indent = width + 6;
    if matches!(check.status, Status::Warning | Status::Missing) {
        let why = paint.with(DIM, check.why);
        line(text, format_args!("{:indent$}why: {why}", ""));
    }
    if let Some(mend) = &check.mend {
        let mend = printable(mend);
        line(text, format_args!("{:indent$}run: {mend}", ""));
    }
    if let Some(advice) = &check.advice {
        let advice = printable(advice);
        line(text, format_args!("{:indent$}try: {advice}", ""));
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("writing to a string cannot fail");
}

/// File names can hold anything, escape sequences included.
fn printable(text: &str) -> String {
    let escape = |c: char| -> String {
        if c.is_control() {
            c.escape_default().collect()
        } else {
            c.into()
        }
    };
    text.chars().map(escape).collect()
}

struct Paint {
    colours: bool,
}

impl Paint {
    fn with(&self, colour: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
