//! The values of one moment, in the text format of Prometheus (version 0.0.4).

use std::fmt::{Display, Write as _};

use crate::Metric;

/// Values being gathered. Metrics come out in the order of their declarations, each with its help also without a value.
pub struct Page {
    metrics: Vec<(&'static Metric, Vec<String>)>,
}

impl Page {
    /// For the metrics of these lists.
    pub fn of(lists: &[&[&'static Metric]]) -> Self {
        Self { metrics: lists.iter().flat_map(|list| list.iter()).map(|metric| (*metric, Vec::new())).collect() }
    }

    /// A metric without labels.
    pub fn set(&mut self, metric: &'static Metric, value: impl Display) {
        self.put(metric, &[], value);
    }

    /// A metric with the values of its labels, in the order of its declaration. Of a metric that is in no list of this page
    /// nothing is shown.
    pub fn put(&mut self, metric: &'static Metric, labels: &[&str], value: impl Display) {
        debug_assert_eq!(labels.len(), metric.labels.len(), "labels of {}", metric.name);
        let mut line = metric.name.to_string();
        for (position, (name, text)) in metric.labels.iter().zip(labels).enumerate() {
            let _ = write!(line, "{}{name}=\"{}\"", if position == 0 { "{" } else { "," }, escaped(text));
        }
        if !metric.labels.is_empty() {
            line.push('}');
        }
        let _ = write!(line, " {value}");
        if let Some((_, lines)) = self.metrics.iter_mut().find(|(known, _)| std::ptr::eq(*known, metric)) {
            lines.push(line);
        }
    }

    /// The text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (metric, lines) in &self.metrics {
            let _ = writeln!(text, "# HELP {} {}", metric.name, metric.help.replace('\\', "\\\\"));
            let _ = writeln!(text, "# TYPE {} {}", metric.name, metric.kind.name());
            for line in lines {
                let _ = writeln!(text, "{line}");
            }
        }
        text
    }
}

/// A label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::metrics! {
        TEST {
            ONE: Gauge = "curvine_one" [], "The first.";
            TWO: Counter = "curvine_two_total" ["path", "kind"], "The second.";
        }
    }

    #[test]
    fn labels_are_escaped_and_a_metric_without_a_value_is_declared() {
        let mut page = Page::of(&[TEST]);
        page.put(&TWO, &["a\"b\\c\nd", "x"], 7u64);
        assert_eq!(
            page.text(),
            "# HELP curvine_one The first.\n# TYPE curvine_one gauge\n# HELP curvine_two_total The second.\n# TYPE \
             curvine_two_total counter\ncurvine_two_total{path=\"a\\\"b\\\\c\\nd\",kind=\"x\"} 7\n"
        );
    }
}
