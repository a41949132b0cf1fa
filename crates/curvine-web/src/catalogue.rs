//! The declaration of metrics, and the page of documentation that is made from it.

/// What a number does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises while the process runs.
    Counter,
    /// The value now.
    Gauge,
}

impl Kind {
    /// As the text format has it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

/// Declares metrics as statics, and the list of all of them:
/// `LIST { NAME: Gauge = "curvine_x" ["label"], "What it is."; }`
#[macro_export]
macro_rules! metrics {
    ($(#[$doc:meta])* $list:ident { $($name:ident: $kind:ident = $text:literal [$($label:literal),*], $help:literal;)* }) => {
        $(pub(crate) static $name: $crate::Metric =
            $crate::Metric { name: $text, kind: $crate::Kind::$kind, labels: &[$($label),*], help: $help };)*
        $(#[$doc])*
        pub static $list: &[&$crate::Metric] = &[$(&$name),*];
    };
}

/// A page of documentation: (title, introduction, metrics) of each part.
pub fn reference(head: &str, parts: &[(&str, &str, &[&Metric])]) -> String {
    let mut page = head.to_string();
    for (title, about, metrics) in parts {
        page += &format!("\n## {title}\n\n{about}\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n");
        for metric in *metrics {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            page +=
                &format!("| `{}` | {} | {} | {} |\n", metric.name, metric.kind.name(), labels.join(", "), metric.help);
        }
    }
    page
}
