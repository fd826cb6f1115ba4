//! Limits, and whether they are met; the table and the JSON object.
use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    disk_path::FIO,
    floor::{BARE_FLOOR, FLOOR},
    results::{Results, Subject},
    stats::Summary,
};

const OURS: &str = "ampoule";

/// What a quantity is held against.
#[derive(Clone, Copy, Debug)]
enum Against {
    /// Nothing else: the limit is in its own unit.
    Itself,
    /// The floor's.
    Floor,
    /// The least of the rivals'.
    BestRival,
    /// A program's that is no rival.
    Program(&'static str),
    /// The same, by the difference.
    Above(&'static str),
    /// Another quantity of ours.
    Ours(&'static str),
    /// What each further vCPU adds to this quantity of ours, as a share of it.
    AddedVcpus(&'static str, f64),
}

struct Limit {
    item: u8,
    measure: &'static str,
    against: Against,
    at_most: f64,
}

const fn limit(item: u8, measure: &'static str, against: Against, at_most: f64) -> Limit {
    Limit {
        item,
        measure,
        against,
        at_most,
    }
}

const BLOCK_LIMITS: [Limit; 8] = [
    limit(2, "read_4k_1", Against::BestRival, 1.0),
    limit(2, "write_4k_1", Against::BestRival, 1.0),
    limit(2, "read_4k_32", Against::BestRival, 1.0),
    limit(2, "write_4k_32", Against::BestRival, 1.0),
    limit(2, "read_128k_1", Against::BestRival, 1.0),
    limit(3, "path_time_32", Against::Program(FIO), 1.0 / 0.9),
    limit(3, "path_time_1", Against::Above(FIO), 2.0),
    limit(4, "disk_dirty", Against::Itself, 0.8),
];

const BOOT_LIMITS: [Limit; 16] = [
    limit(1, "first_byte", Against::Floor, 2.0),
    limit(1, "first_byte", Against::BestRival, 0.5),
    limit(1, "system_calls", Against::Itself, 100.0),
    limit(2, "gone", Against::BestRival, 0.2),
    limit(3, "host_dirty", Against::Itself, 0.2),
    limit(3, "host_pss", Against::Itself, 1.5),
    limit(3, "host_pss_ten", Against::Itself, 0.4),
    limit(3, "lab_dirty_own", Against::Itself, 0.5),
    limit(3, "lab_pss_own", Against::Itself, 2.5),
    limit(4, "exits_own", Against::Itself, 50.0),
    limit(5, "launch_own", Against::Ours("launch_stock"), 1.0 / 3.0),
    limit(5, "launch_own", Against::BestRival, 1.0),
    limit(5, "touched_own", Against::Itself, 20.0),
    limit(
        5,
        "launch_own_2",
        Against::AddedVcpus("launch_own", 1.0),
        0.05,
    ),
    limit(
        5,
        "launch_own_4",
        Against::AddedVcpus("launch_own", 3.0),
        0.05,
    ),
    limit(6, "fifty_failures", Against::Itself, 0.0),
];

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
    let limits: &[Limit] = match results.subject {
        Subject::Boot => &BOOT_LIMITS,
        Subject::Block => &BLOCK_LIMITS,
    };
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
        })
        .map(|row| (row.program.as_str(), percentile(&row.summary)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

/// A quantity in words.
pub fn title(measure: &str) -> &str {
    match measure {
        "first_byte" => "exec to first byte of a hand-made guest",
        "system_calls" => "system calls before the guest runs",
        "gone" => "exec to process gone, of a guest that resets at once",
        "host_dirty" => "private dirty outside guest RAM, idle hand-made guest",
        "host_pss" => "PSS outside guest RAM, idle hand-made guest",
        "host_dirty_ten" => "private dirty each, ten running",
        "host_pss_ten" => "PSS each, ten running",
        "lab_dirty_own" => "private dirty outside guest RAM, Linux idle, own kernel",
        "lab_pss_own" => "PSS outside guest RAM, Linux idle, own kernel",
        "lab_dirty_stock" => "private dirty outside guest RAM, Linux idle, stock kernel",
        "lab_pss_stock" => "PSS outside guest RAM, Linux idle, stock kernel",
        "exits_own" => "exits to user space until init, own kernel, outside the serial port",
        "exits_stock" => "exits to user space until init, stock kernel, outside the serial port",
        "launch_own" => "launch to user space, own kernel, 1 vCPU",
        "launch_own_2" => "launch to user space, own kernel, 2 vCPUs",
        "launch_own_4" => "launch to user space, own kernel, 4 vCPUs",
        "launch_stock" => "launch to user space, stock kernel, 1 vCPU",
        "touched_own" => "guest RAM touched, own kernel",
        "touched_stock" => "guest RAM touched, stock kernel",
        "read_4k_1" => "4 KiB read at random, one under way, guest included",
        "write_4k_1" => "4 KiB written at random, one under way, guest included",
        "read_4k_32" => "4 KiB read at random, 32 under way, guest included",
        "write_4k_32" => "4 KiB written at random, 32 under way, guest included",
        "read_128k_1" => "128 KiB read at random, one under way, guest included",
        "path_reads_1" => "reads of 4 KiB from ring to file and back, one under way",
        "path_reads_32" => "reads of 4 KiB from ring to file and back, 32 under way",
        "path_time_1" => "time of each read, one under way",
        "path_time_32" => "time of each read, 32 under way",
        "disk_dirty" => "private dirty outside guest RAM, Linux idle with a disk",
        "fifty_at_once" => "fifty launches at once, on two processors",
        "fifty_in_turn" => "fifty launches in turn",
        "fifty_failures" => "launches of the fifties that failed",
        other => other,
    }
}

fn item_title(subject: Subject, item: u8) -> &'static str {
    match item {
        2 if subject == Subject::Block => "A request",
        3 if subject == Subject::Block => "The path on the host",
        4 if subject == Subject::Block => "Memory outside guest RAM",
        1 => "Start",
        2 => "Whole life",
        3 => "Memory outside guest RAM",
        4 => "Exits to user space",
        5 => "Linux",
        _ => "Fifty at once",
    }
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
