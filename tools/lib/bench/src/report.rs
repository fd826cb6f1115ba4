//! Whether limits are met; the table and the JSON object.
use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    floor::{BARE_FLOOR, FLOOR},
    limits::{self, Against, Limit, item_title, title},
    results::Results,
    stats::Summary,
};

const OURS: &str = "ampoule";

/// A limit, judged.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The item of the specification.
    pub item: u8,
    /// The quantity.
    pub measure: String,
    /// What it is a multiple of.
    pub of: String,
    /// What it may be.
    pub at_most: f64,
    /// What it is, where it was measured.
    pub value: Option<f64>,
    /// The same of the tenth percentiles: what is left when other work of the machine keeps out of the way.
    pub undisturbed: Option<f64>,
    /// Whether it is.
    pub met: Option<bool>,
}

/// Judges every limit of the items that were measured.
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    let limits = limits::of(results.subject);
    limits.iter().map(|limit| judge(limit, results)).collect()
}

fn judge(limit: &Limit, results: &Results) -> Verdict {
    let (of, value) = weigh(limit, results, |summary| summary.p50);
    let (_, undisturbed) = weigh(limit, results, |summary| summary.p10);
    Verdict {
        item: limit.item,
        measure: limit.measure.into(),
        of,
        at_most: limit.at_most,
        value,
        undisturbed,
        met: value.map(|value| value <= limit.at_most),
    }
}

/// A quantity of ours by what it is held against, and the name of that; both by one percentile.
fn weigh(
    limit: &Limit,
    results: &Results,
    percentile: fn(&Summary) -> f64,
) -> (String, Option<f64>) {
    let ours = |measure: &str| results.get(measure, OURS).map(percentile);
    let value = ours(limit.measure);
    let ratio = |other: Option<f64>| value.zip(other).map(|(value, other)| value / other);
    match limit.against {
        Against::Itself => (String::new(), value),
        Against::Floor => (
            format!("× {FLOOR}"),
            ratio(results.get(limit.measure, FLOOR).map(percentile)),
        ),
        Against::BestRival => match best_rival(results, limit.measure, percentile) {
            Some((name, best)) => (format!("× the best rival here, {name}"), ratio(Some(best))),
            None => ("× the best rival".into(), None),
        },
        Against::Program(name) => {
            let theirs = results.get(limit.measure, name).map(percentile);
            (format!("× {name}"), ratio(theirs))
        }
        Against::Above(name) => {
            let theirs = results.get(limit.measure, name).map(percentile);
            let difference = value.zip(theirs).map(|(value, theirs)| value - theirs);
            (format!("us above {name}'s"), difference)
        }
        Against::Ours(other) => (format!("× {}", title(other)), ratio(ours(other))),
        Against::AddedVcpus(other, added) => {
            let share = value
                .zip(ours(other))
                .map(|(value, one)| (value - one) / one / added);
            (
                format!("× one vCPU's, added by each further one of {}", added + 1.0),
                share,
            )
        }
    }
}

/// The rival with the least of a quantity.
fn best_rival<'a>(
    results: &'a Results,
    measure: &str,
    percentile: fn(&Summary) -> f64,
) -> Option<(&'a str, f64)> {
    results
        .rows
        .iter()
        .filter(|row| {
            row.measure == measure
                && ![OURS, FLOOR, BARE_FLOOR].contains(&row.program.as_str())
                // By another transport.
                && !row.program.starts_with(OURS)
                // No monitor's own work, but the host's kernel's.
                && !row.program.contains("vhost")
        })
        .map(|row| (row.program.as_str(), percentile(&row.summary)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

/// The results as people read them.
pub fn table(results: &Results) -> String {
    let mut text = String::new();
    for (key, value) in &results.setting {
        line(&mut text, format_args!("{key}: {value}"));
    }
    let verdicts = verdicts(results);
    for item in 1..=6 {
        let rows = results.rows.iter().any(|row| row.item == item);
        if rows {
            line(
                &mut text,
                format_args!("\n{item}. {}", item_title(results.subject, item)),
            );
            item_table(&mut text, results, item);
            for verdict in verdicts.iter().filter(|verdict| verdict.item == item) {
                line(&mut text, format_args!("   {}", sentence(verdict)));
            }
        }
    }
    for (kernel, devices) in &results.exits {
        let list: Vec<_> = devices
            .iter()
            .map(|(device, count)| format!("{device} {count}"))
            .collect();
        line(
            &mut text,
            format_args!("\nexits until init, {kernel} kernel: {}", list.join(", ")),
        );
    }
    call_lines(&mut text, results);
    if !results.own_phases.is_empty() {
        line(
            &mut text,
            format_args!(
                "\nWhere our launch goes (our own stamps, p50)\n{:>12} {:>10}",
                "ms", "step"
            ),
        );
        let mut before = 0.0;
        for mark in &results.own_phases {
            line(
                &mut text,
                format_args!(
                    "{:>12.3} {:>+10.3}  {}",
                    mark.at,
                    mark.at - before,
                    mark.name
                ),
            );
            before = mark.at;
        }
    }
    if !results.skipped.is_empty() {
        line(&mut text, format_args!("\nNot measured"));
        for skip in &results.skipped {
            line(&mut text, format_args!("   {}: {}", skip.what, skip.reason));
        }
    }
    if !results.failures.is_empty() {
        line(&mut text, format_args!("\nFailed runs, in no figure above"));
        for (failure, times) in counted(&results.failures) {
            line(&mut text, format_args!("   {times} × {failure}"));
        }
    }
    let count = |wanted| {
        verdicts
            .iter()
            .filter(|verdict| verdict.met == wanted)
            .count()
    };
    let (met, missed, open) = (count(Some(true)), count(Some(false)), count(None));
    line(
        &mut text,
        format_args!("\n{met} limits met, {missed} missed, {open} not measured"),
    );
    text
}

/// Which system calls those are that were counted.
fn call_lines(text: &mut String, results: &Results) {
    for (what, programs) in &results.calls {
        line(text, format_args!("\n{}: which", title(what)));
        for (program, calls) in programs {
            let mut calls: Vec<_> = calls.iter().collect();
            calls.sort_by(|a, b| b.1.total_cmp(a.1));
            let list: Vec<_> = (calls.iter())
                .map(|(name, count)| format!("{name} {}", figure(**count)))
                .collect();
            line(text, format_args!("     {program}: {}", list.join(", ")));
        }
    }
}

/// Each once, with how often it is there.
fn counted(failures: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for failure in failures {
        *counts.entry(failure.as_str()).or_default() += 1;
    }
    counts
}

fn item_table(text: &mut String, results: &Results, item: u8) {
    let mut measures: Vec<&str> = Vec::new();
    for row in results.rows.iter().filter(|row| row.item == item) {
        if !measures.contains(&row.measure.as_str()) {
            measures.push(&row.measure);
        }
    }
    for measure in measures {
        let rows: Vec<_> = results
            .rows
            .iter()
            .filter(|row| row.measure == measure)
            .collect();
        let unit = rows.first().map_or("", |row| row.unit.as_str());
        let heading = format!("{} ({unit})", title(measure));
        line(
            text,
            format_args!(
                "   {heading:<82} {:>9} {:>9} {:>9} {:>7} {:>4}",
                "p50", "p10", "p90", "× ours", "n"
            ),
        );
        let ours = results.get(measure, OURS).map(|summary| summary.p50);
        for row in rows {
            let summary = row.summary;
            let ratio = ours
                .filter(|ours| *ours > 0.0)
                .map(|ours| format!("{:.2}", summary.p50 / ours))
                .unwrap_or_default();
            let [p50, p10, p90] = [summary.p50, summary.p10, summary.p90].map(figure);
            line(
                text,
                format_args!(
                    "     {:<80} {p50:>9} {p10:>9} {p90:>9} {ratio:>7} {:>4}",
                    row.program, summary.n
                ),
            );
        }
    }
}

/// Three digits that say something.
fn figure(value: f64) -> String {
    if value == 0.0 || value >= 1000.0 {
        format!("{value:.0}")
    } else if value >= 100.0 {
        format!("{value:.1}")
    } else if value >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

fn sentence(verdict: &Verdict) -> String {
    let state = match verdict.met {
        Some(true) => "met   ",
        Some(false) => "MISSED",
        None => "open  ",
    };
    let value = verdict
        .value
        .map_or_else(|| "not measured".to_owned(), figure);
    let of = if verdict.of.is_empty() {
        String::new()
    } else {
        format!(" {}", verdict.of)
    };
    let ratio = !verdict.of.is_empty();
    let undisturbed = verdict
        .undisturbed
        .filter(|_| ratio)
        .map(|value| format!(" (of p10s: {})", figure(value)))
        .unwrap_or_default();
    format!(
        "{state} {}: {value}{undisturbed}, at most {}{of}",
        title(&verdict.measure),
        figure(verdict.at_most)
    )
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{line}");
}

/// The results as programs read them: rows with their ratios, and the limits.
pub fn object(results: &Results) -> Value {
    let verdicts = verdicts(results);
    let rows: Vec<_> = results
        .rows
        .iter()
        .map(|row| {
            let ours = results.get(&row.measure, OURS).map(|summary| summary.p50);
            json!({
                "item": row.item,
                "measure": row.measure,
                "title": title(&row.measure),
                "unit": row.unit,
                "program": row.program,
                "p50": row.summary.p50,
                "p10": row.summary.p10,
                "p90": row.summary.p90,
                "samples": row.summary.n,
                "ratio_to_ours": ours.filter(|ours| *ours > 0.0).map(|ours| row.summary.p50 / ours),
            })
        })
        .collect();
    json!({
        "format": 1,
        "bench": results.subject,
        "setting": results.setting,
        "programs": results.programs,
        "rows": rows,
        "limits": verdicts,
        "timelines": results.timelines,
        "own_phases": results.own_phases,
        "exits_to_user_space": results.exits,
        "system_calls": results.calls,
        "skipped": results.skipped,
        "failures": results.failures,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(rows: &[(&str, &str, f64)]) -> Results {
        let mut results = Results::default();
        for (measure, program, value) in rows {
            results.row(1, measure, "ms", program, &[*value]);
        }
        results
    }

    fn verdict(results: &Results, measure: &str, nth: usize) -> Verdict {
        verdicts(results)
            .into_iter()
            .filter(|verdict| verdict.measure == measure)
            .nth(nth)
            .unwrap()
    }

    #[test]
    fn the_best_rival_is_neither_us_nor_a_floor() {
        let results = results(&[
            ("first_byte", "ampoule", 2.0),
            ("first_byte", "floor", 1.0),
            ("first_byte", "floor without libc", 0.5),
            ("first_byte", "qemu microvm", 50.0),
            ("first_byte", "firecracker", 8.0),
        ]);
        let floor = verdict(&results, "first_byte", 0);
        assert_eq!((floor.value, floor.met), (Some(2.0), Some(true)));
        let rival = verdict(&results, "first_byte", 1);
        assert_eq!((rival.value, rival.met), (Some(0.25), Some(true)));
        assert!(rival.of.ends_with("firecracker"));
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let results = results(&[("first_byte", "ampoule", 2.0)]);
        assert_eq!(verdict(&results, "first_byte", 1).met, None);
        assert_eq!(verdict(&results, "exits_own", 0).met, None);
    }

    #[test]
    fn a_further_processor_costs_its_share() {
        let results = results(&[
            ("launch_own", "ampoule", 100.0),
            ("launch_own_2", "ampoule", 104.0),
            ("launch_own_4", "ampoule", 118.0),
            ("launch_stock", "ampoule", 200.0),
        ]);
        assert_eq!(verdict(&results, "launch_own_2", 0).met, Some(true));
        assert_eq!(verdict(&results, "launch_own_4", 0).met, Some(false));
        assert_eq!(
            verdict(&results, "launch_own", 0).met,
            Some(false),
            "half is not a third"
        );
    }

    #[test]
    fn the_table_names_what_is_missed_and_what_is_absent() {
        let mut results = results(&[("system_calls", "ampoule", 101.0)]);
        results.skip("firecracker", "not on PATH");
        let table = table(&results);
        assert!(
            table.contains("MISSED system calls before the guest runs: 101.0, at most 100"),
            "{table}"
        );
        assert!(table.contains("firecracker: not on PATH"));
        assert_eq!(object(&results)["rows"][0]["ratio_to_ours"], 1.0);
    }
}
