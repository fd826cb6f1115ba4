//! The timeline as a chart: a bar for each program, cut where the launch passed its landmarks. Readable in light and dark.
use std::fmt::Write;

use crate::results::{Mark, Timeline};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 60.0;
const BAR: f64 = 22.0;
const STEP: f64 = 36.0;

/// Fills, darkest first, in the order of the marks; told apart by lightness as well as by hue.
const FILLS: usize = 10;

const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 16px; font-weight: 600 }
.head { font-weight: 600 }
.small { font-size: 11px; fill: #57606a }
.grid { stroke: #d0d7de }
.page { fill: #ffffff }
.f0 { fill: #0b3c5d } .f1 { fill: #2a78b8 } .f2 { fill: #7db8e0 } .f3 { fill: #c9a227 }
.f4 { fill: #8a5a00 } .f5 { fill: #2f855a } .f6 { fill: #86c79b } .f7 { fill: #8c4a86 }
.f8 { fill: #d38fc4 } .f9 { fill: #5f6b77 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #9198a1 }
  .grid { stroke: #3d444d }
  .page { fill: #0d1117 }
  .f0 { fill: #4f8fbf } .f1 { fill: #8cc4ee } .f2 { fill: #cfe8fa } .f3 { fill: #e3b341 }
  .f4 { fill: #b7791f } .f5 { fill: #3fb27f } .f6 { fill: #a6e3be } .f7 { fill: #a865a2 }
  .f8 { fill: #e3b9dd } .f9 { fill: #8b98a5 }
}";

/// One row of bars with an axis of its own.
struct Panel<'a> {
    title: String,
    bars: Vec<(&'a str, Vec<&'a Mark>)>,
}

/// The chart: everyone to the slowest one's scale, then the quick ones to ours, then our own stamps. None without a timeline.
pub fn chart(timelines: &[Timeline], own: &[Mark]) -> Option<String> {
    let ours = total(
        timelines
            .iter()
            .find(|timeline| timeline.program == "ampoule")?,
    )?;
    let mut panels = vec![Panel {
        title: "exec to first byte, everyone".into(),
        bars: timelines.iter().map(bar).collect(),
    }];
    let near = timelines
        .iter()
        .filter(|timeline| total(timeline).is_some_and(|time| time <= 4.0 * ours));
    panels.push(Panel {
        title: "The same, up to four times ours".into(),
        bars: near.map(bar).collect(),
    });
    let until = own
        .iter()
        .position(|mark| mark.name == "first_console_byte");
    if let Some(until) = until {
        panels.push(Panel {
            title: "Ours by its own stamps (another run)".into(),
            bars: vec![("ampoule", own[..=until].iter().collect())],
        });
    }
    Some(draw(&panels))
}

fn bar(timeline: &Timeline) -> (&str, Vec<&Mark>) {
    (timeline.program.as_str(), timeline.marks.iter().collect())
}

fn total(timeline: &Timeline) -> Option<f64> {
    timeline.marks.last().map(|mark| mark.at)
}

fn draw(panels: &[Panel<'_>]) -> String {
    let mut body = String::new();
    let mut y = 52.0;
    for panel in panels {
        y = draw_panel(&mut body, panel, y);
    }
    let height = y;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" role=\"img\" aria-labelledby=\"t\">\n\
         <title id=\"t\">Where a launch goes: milliseconds from exec to the first byte of a hand-made guest</title>\n\
         <style>\n{STYLE}\n</style>\n<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n\
         <text class=\"title\" x=\"16\" y=\"28\">Where a launch goes (ms, median)</text>"
    );
    svg.push_str(&body);
    svg.push_str("</svg>\n");
    svg
}

/// Draws a panel from `top` on, and gives the place below it.
fn draw_panel(body: &mut String, panel: &Panel<'_>, top: f64) -> f64 {
    let longest = panel
        .bars
        .iter()
        .filter_map(|(_, marks)| marks.last())
        .map(|mark| mark.at)
        .fold(0.0, f64::max);
    let step = tick(longest);
    let end = (longest / step).ceil().max(1.0) * step;
    let scale = (WIDTH - LEFT - RIGHT) / end;
    let bars_top = top + 14.0;
    let bars_bottom = panel.bars.iter().fold(bars_top, |y, _| y + STEP);
    let _ = writeln!(
        body,
        "<text x=\"16\" y=\"{:.0}\" class=\"head\">{}</text>",
        top,
        escape(&panel.title)
    );
    let mut at = 0.0;
    while at <= end + step / 2.0 {
        let x = LEFT + at * scale;
        let _ = writeln!(
            body,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bars_top:.0}\" y2=\"{bars_bottom:.0}\"/>\
             <text class=\"small\" x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
            bars_bottom + 15.0,
            axis_figure(at)
        );
        at += step;
    }
    let mut y = bars_top + (STEP - BAR) / 2.0;
    for (name, marks) in &panel.bars {
        draw_bar(body, name, marks, y, scale);
        y += STEP;
    }
    draw_legend(body, panel, bars_bottom + 36.0)
}

fn draw_bar(body: &mut String, name: &str, marks: &[&Mark], y: f64, scale: f64) {
    let middle = y + BAR / 2.0 + 4.5;
    let _ = writeln!(
        body,
        "<text x=\"{:.0}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
        LEFT - 10.0,
        escape(name)
    );
    let mut before = 0.0;
    for (index, mark) in marks.iter().enumerate() {
        let width = ((mark.at - before) * scale).max(0.0);
        let _ = writeln!(
            body,
            "<rect class=\"f{}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\"><title>{}: {:.3} ms, at {:.3}</title></rect>",
            index % FILLS,
            LEFT + before * scale,
            escape(&mark.name),
            mark.at - before,
            mark.at
        );
        before = mark.at.max(before);
    }
    let _ = writeln!(
        body,
        "<text x=\"{:.1}\" y=\"{middle:.1}\">{before:.2}</text>",
        LEFT + before * scale + 6.0
    );
}

/// What the fills mean, in rows that fit; gives the place below.
fn draw_legend(body: &mut String, panel: &Panel<'_>, top: f64) -> f64 {
    let Some((_, marks)) = panel.bars.first() else {
        return top;
    };
    let (mut x, mut y) = (LEFT, top);
    for (index, mark) in marks.iter().enumerate() {
        let words = format!("until {}", mark.name.replace('_', " "));
        let width = 24.0 + 7.2 * f64::from(u32::try_from(words.len()).unwrap_or(0));
        if x + width > WIDTH - 16.0 {
            x = LEFT;
            y += 20.0;
        }
        let _ = writeln!(
            body,
            "<rect class=\"f{}\" x=\"{x:.0}\" y=\"{:.0}\" width=\"12\" height=\"12\"/><text class=\"small\" x=\"{:.0}\" y=\"{y:.0}\">{}</text>",
            index % FILLS,
            y - 10.0,
            x + 17.0,
            escape(&words)
        );
        x += width;
    }
    y + 44.0
}

/// A step between ticks that people count in: at most ten of them.
fn tick(longest: f64) -> f64 {
    let mut step = 0.001;
    for factor in [2.0, 2.5, 2.0].into_iter().cycle().take(60) {
        if longest / step <= 10.0 {
            break;
        }
        step *= factor;
    }
    step
}

fn axis_figure(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(program: &str, times: &[f64]) -> Timeline {
        let marks = times
            .iter()
            .map(|at| Mark {
                name: format!("<{at}>"),
                at: *at,
            })
            .collect();
        Timeline {
            program: program.into(),
            marks,
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        for (longest, wanted) in [
            (0.9, 0.1),
            (9.9, 1.0),
            (11.0, 2.0),
            (53.0, 10.0),
            (21.0, 5.0),
        ] {
            let step = tick(longest);
            assert!((step - wanted).abs() < 1e-9, "{longest}: {step}");
        }
        assert!(tick(0.0) > 0.0);
        assert_eq!(axis_figure(2.5), "2.5");
        assert_eq!(axis_figure(10.0), "10");
    }

    #[test]
    fn every_program_has_a_bar_and_the_slow_only_one() {
        let svg = chart(
            &[
                timeline("ampoule", &[0.5, 1.0]),
                timeline("slow & old", &[20.0, 50.0]),
            ],
            &[],
        )
        .unwrap();
        assert_eq!(svg.matches(">ampoule</text>").count(), 2);
        assert_eq!(svg.matches(">slow &amp; old</text>").count(), 1);
        assert!(svg.contains("until &lt;0.5&gt;"));
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn tags_are_closed_and_nothing_is_right_of_the_page() {
        let svg = chart(
            &[timeline("ampoule", &[1.0, 2.0, 3.0])],
            &[Mark {
                name: "first_console_byte".into(),
                at: 3.0,
            }],
        )
        .unwrap();
        for tag in ["svg", "text", "style", "title"] {
            assert_eq!(
                svg.matches(&format!("<{tag}")).count(),
                svg.matches(&format!("</{tag}>")).count(),
                "{tag}"
            );
        }
        let right_ends = svg
            .lines()
            .filter(|line| line.starts_with("<rect class=\"f"))
            .map(|line| {
                let number = |name: &str| {
                    line.split(&format!(" {name}=\""))
                        .nth(1)
                        .unwrap()
                        .split('"')
                        .next()
                        .unwrap()
                        .parse::<f64>()
                        .unwrap()
                };
                number("x") + number("width")
            });
        assert!(right_ends.fold(0.0, f64::max) <= WIDTH);
    }

    #[test]
    fn without_our_timeline_there_is_no_chart() {
        assert!(chart(&[timeline("other", &[1.0])], &[]).is_none());
    }
}
