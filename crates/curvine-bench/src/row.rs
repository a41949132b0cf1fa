//! What is measured, and what is wanted of it.

use serde::{Deserialize, Serialize};

/// What a figure counts, per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes, shown as MiB/s.
    Bytes,
    /// Operations.
    Operations,
}

impl Unit {
    /// A rate for people, such as `1,234 MiB/s` or `56,789 /s`.
    pub fn show(self, rate: f64) -> String {
        match self {
            Unit::Bytes => format!("{} MiB/s", grouped(rate / f64::from(1 << 20))),
            Unit::Operations => format!("{} /s", grouped(rate)),
        }
    }
}

/// A part of the baseline for people, such as `0.97x`; small ones with more digits.
pub(crate) fn show_ratio(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.3}x") } else { format!("{ratio:.2}x") }
}

/// A whole number with commas between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What a row is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "value")]
pub enum Goal {
    /// This part of the baseline's figure.
    Ratio(f64),
    /// This figure, whatever the baseline has.
    Rate(f64),
    /// Nothing is promised.
    None,
}

impl Goal {
    /// Whether it is reached; `None` if there is nothing to reach, or nothing to compare with.
    pub fn is_met(self, rate: f64, ratio: Option<f64>) -> Option<bool> {
        match self {
            Goal::Ratio(wanted) => ratio.map(|ratio| ratio >= wanted),
            Goal::Rate(wanted) => Some(rate >= wanted),
            Goal::None => None,
        }
    }

    /// For people.
    pub fn show(self, unit: Unit) -> String {
        match self {
            Goal::Ratio(wanted) => format!("{wanted:.2}x"),
            Goal::Rate(wanted) => unit.show(wanted),
            Goal::None => "-".to_string(),
        }
    }
}

/// One thing that is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Stable name, such as `seq_read_warm`; with more than one thread `create_small/16`.
    pub id: String,
    /// One line for people.
    pub what: String,
    pub unit: Unit,
    pub goal: Goal,
}

/// A row on one ground.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    #[serde(flatten)]
    pub row: Row,
    /// Name of the ground.
    pub ground: String,
    /// Units per second on the local file system; `None`: there is none to compare with.
    pub baseline: Option<f64>,
    pub this: f64,
    pub ratio: Option<f64>,
    /// The rates of the rounds on this ground.
    pub rounds: Vec<f64>,
}

impl Figure {
    /// See [`Goal::is_met`].
    pub fn is_met(&self) -> Option<bool> {
        self.row.goal.is_met(self.this, self.ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_grouped() {
        assert_eq!(Unit::Operations.show(1_234_567.4), "1,234,567 /s");
        assert_eq!(Unit::Operations.show(999.0), "999 /s");
        assert_eq!(Unit::Bytes.show(1536.0 * 1024.0 * 1024.0), "1,536 MiB/s");
        assert_eq!((show_ratio(0.972), show_ratio(0.0034)), ("0.97x".to_string(), "0.003x".to_string()));
    }

    #[test]
    fn a_goal_without_a_baseline_is_neither_met_nor_missed() {
        assert_eq!(Goal::Ratio(0.9).is_met(5.0, None), None);
        assert_eq!(Goal::Ratio(0.9).is_met(5.0, Some(0.91)), Some(true));
        assert_eq!(Goal::Rate(6.0).is_met(5.0, Some(2.0)), Some(false));
    }
}
