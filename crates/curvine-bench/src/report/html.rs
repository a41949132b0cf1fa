//! The page: for each row a bar against its goal, and a line over the runs of before. No script, nothing fetched.

use std::fmt::Write;

use curvine_types::format_utc;

use super::Report;
use crate::row::show_ratio;
use crate::{Figure, Goal, Unit};

const STYLE: &str = "
:root { --ink: #1c2330; --soft: #667085; --line: #d9dee7; --paper: #fff; --good: #2a9d6f; --bad: #d1495b; --plain: #4178be; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #344054; --paper: #12161d; --good: #46c28e; --bad: #ef6f80; --plain: #6ea8fe; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
p, li { color: var(--soft) } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line); vertical-align: middle }
th { color: var(--soft); font-weight: 600 } .n { text-align: right !important; font-variant-numeric: tabular-nums; white-space: nowrap }
td small { color: var(--soft); display: block } .met { color: var(--good); font-weight: 600 } .missed { color: var(--bad); font-weight: 600 }
svg { display: block }";

/// Widths in pixels.
const BAR: f64 = 220.0;
const LINE: f64 = 110.0;
const HEIGHT: f64 = 22.0;

pub(super) fn page(report: &Report, earlier: &[Report]) -> String {
    let mut page = String::new();
    let host = &report.host;
    let (met, judged) = report
        .results
        .iter()
        .filter_map(Figure::is_met)
        .fold((0, 0), |(met, all), is_met| (met + usize::from(is_met), all + 1));
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Curvine benchmark</title><style>{STYLE}</style><h1>Curvine benchmark</h1>\
         <p>Version {}, {} UTC; {} cores, {} GiB of memory, Linux {}. {met} of {judged} goals met. \
         Baseline and mounts were measured in the same rounds; figures are medians.</p>",
        escape(&report.software),
        format_utc(i64::try_from(report.taken).unwrap_or(i64::MAX / 2)),
        host.cores,
        host.memory_bytes >> 30,
        escape(&host.kernel),
    );
    let mut grounds: Vec<&str> = report.results.iter().map(|result| result.ground.as_str()).collect();
    grounds.dedup();
    let mut seen = Vec::new();
    for ground in grounds {
        if seen.contains(&ground) {
            continue;
        }
        seen.push(ground);
        let _ = write!(
            page,
            "<h2>{}</h2><table><tr><th>row<th class=n>baseline<th class=n>this<th class=n>ratio<th class=n>goal<th>against the goal{}",
            escape(ground),
            if earlier.is_empty() { "" } else { "<th>over time" }
        );
        for result in report.results.iter().filter(|result| result.ground == ground) {
            line(&mut page, result, earlier);
        }
        page.push_str("</table>");
    }
    page.push_str("<h2>How it was measured</h2><ul>");
    for (name, value) in &report.settings {
        let _ = write!(page, "<li>{}: {}", escape(name), escape(value));
    }
    for note in &report.notes {
        let _ = write!(page, "<li>{}", escape(note));
    }
    page.push_str("</ul></html>\n");
    page
}

fn line(page: &mut String, result: &Figure, earlier: &[Report]) {
    let unit = result.row.unit;
    let class = match result.is_met() {
        Some(true) => "met",
        Some(false) => "missed",
        None => "",
    };
    let _ = write!(
        page,
        "<tr><td>{}<small>{}</small><td class=n>{}<td class=\"n {class}\">{}<td class=n>{}<td class=n>{}<td>{}",
        escape(&result.row.id),
        escape(&result.row.what),
        result.baseline.map_or("–".to_string(), |rate| unit.show(rate)),
        unit.show(result.this),
        result.ratio.map_or("–".to_string(), show_ratio),
        result.row.goal.show(unit),
        bar(result),
    );
    if !earlier.is_empty() {
        let _ = write!(page, "<td>{}", over_time(result, earlier));
    }
}

/// A bar as long as what was reached, with a mark where the goal is; at most one and a half times the goal is drawn.
fn bar(result: &Figure) -> String {
    let share = match result.row.goal {
        Goal::Ratio(wanted) => result.ratio.map(|ratio| ratio / wanted),
        Goal::Rate(wanted) => Some(result.this / wanted),
        Goal::None => None,
    };
    let Some(share) = share else { return String::new() };
    let (width, goal) = (share.clamp(0.005, 1.5) / 1.5 * BAR, BAR / 1.5);
    let colour = if result.is_met() == Some(true) { "--good" } else { "--bad" };
    format!(
        "<svg width=\"{BAR}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{:.0} % of the goal\">\
         <rect y=\"5\" width=\"{width:.1}\" height=\"12\" rx=\"2\" fill=\"var({colour})\"/>\
         <line x1=\"{goal:.1}\" x2=\"{goal:.1}\" y1=\"1\" y2=\"{HEIGHT}\" stroke=\"var(--ink)\" stroke-width=\"2\"/></svg>",
        share * 100.0
    )
}

/// The same row in the runs of before and in this one: the ratio where there is one, because machines differ, else the rate.
fn over_time(result: &Figure, earlier: &[Report]) -> String {
    let figure = |result: &Figure| result.ratio.unwrap_or(result.this);
    let before = earlier.iter().filter_map(|report| {
        report.results.iter().find(|other| other.row.id == result.row.id && other.ground == result.ground)
    });
    let values: Vec<f64> = before.map(figure).chain([figure(result)]).collect();
    let highest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let step = LINE / (values.len() - 1).max(1) as f64;
    let points: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(number, value)| {
            format!("{:.1},{:.1}", number as f64 * step, HEIGHT - 3.0 - value / highest * (HEIGHT - 6.0))
        })
        .collect();
    let first = values[0];
    let shown = |value: f64| match (result.ratio, result.row.unit) {
        (Some(_), _) => show_ratio(value),
        (None, unit @ (Unit::Bytes | Unit::Operations)) => unit.show(value),
    };
    format!(
        "<svg width=\"{LINE}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"from {} to {}\">\
         <polyline points=\"{}\" fill=\"none\" stroke=\"var(--plain)\" stroke-width=\"2\"/></svg>",
        shown(first),
        shown(figure(result)),
        points.join(" ")
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn the_page_shows_every_row_and_no_markup_of_its_texts() {
        let page = page(&sample(20e3, 0.97), &[]);
        assert!(
            page.contains("seq_read_warm") && page.contains("0.97x") && page.contains("1 of 2 goals met"),
            "{page}"
        );
        assert!(page.contains("what &lt;library_create&gt; is") && page.contains("a &amp; b"), "{page}");
        assert!(!page.contains("over time"));
    }

    #[test]
    fn runs_of_before_become_a_line() {
        let page = page(&sample(40e3, 0.9), &[sample(10e3, 0.3), sample(20e3, 0.6)]);
        assert!(page.contains("from 0.30x to 0.90x") && page.contains("from 10,000 /s to 40,000 /s"), "{page}");
    }
}
