//! What a check found, and how it is told.

use curvine_types::Result;
use serde_json::{Value, json};

use crate::tool::output::{say, say_json};

/// What is wrong with one content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The log names it and the worker does not have it.
    Gone,
    /// The worker has a file without an index.
    Lost,
    /// The worker has another version than the log names.
    OtherVersion,
    /// The worker has it and nothing names it.
    Orphan,
    /// An invariant of the namespace does not hold.
    Broken,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Gone => "gone",
            What::Lost => "lost",
            What::OtherVersion => "other version",
            What::Orphan => "orphan",
            What::Broken => "broken",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    pub what: What,
    pub inode: u64,
    pub generation: u64,
    pub worker: u64,
    pub path: String,
    pub detail: String,
}

impl Finding {
    /// Of a content on a worker.
    pub fn of(what: What, inode: u64, generation: u64, worker: u64) -> Self {
        Self { what, inode, generation, worker, path: String::new(), detail: String::new() }
    }

    /// Of the namespace.
    pub fn broken(detail: String) -> Self {
        Self { detail, ..Self::of(What::Broken, 0, 0, 0) }
    }

    fn line(&self) -> String {
        if self.what == What::Broken {
            return format!("broken         {}", self.detail);
        }
        let name = if self.path.is_empty() { "(no name)" } else { &self.path };
        let at = format!("inode {} generation {} on worker {}", self.inode, self.generation, self.worker);
        let detail = if self.detail.is_empty() { String::new() } else { format!("  {}", self.detail) };
        format!("{:<14} {name}  {at}{detail}", self.what.name())
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what.name(),
            "path": self.path,
            "inode": self.inode,
            "generation": self.generation,
            "worker": self.worker,
            "detail": self.detail,
        })
    }
}

/// Everything that a check found.
#[derive(Default)]
pub struct Findings {
    pub inodes: u64,
    /// Contents that were compared.
    pub contents: u64,
    /// Copies of what under file systems have; nobody needs them.
    pub cached: u64,
    /// Contents whose worker or tier directory could not be asked.
    pub unchecked: u64,
    /// Why.
    pub reasons: Vec<String>,
    found: Vec<Finding>,
}

impl Findings {
    pub fn add(&mut self, finding: Finding) {
        self.found.push(finding);
    }

    pub fn is_wrong(&self) -> bool {
        !self.found.is_empty()
    }

    pub fn print(&self, as_json: bool) -> Result<()> {
        if as_json {
            return say_json(&json!({
                "inodes": self.inodes,
                "contents": self.contents,
                "cached": self.cached,
                "unchecked": self.unchecked,
                "unchecked_because": self.reasons,
                "found": self.found.iter().map(Finding::json).collect::<Vec<_>>(),
            }));
        }
        for finding in &self.found {
            say(&finding.line())?;
        }
        for reason in &self.reasons {
            say(&format!("unchecked      {reason}"))?;
        }
        let (inodes, contents, wrong) = (self.inodes, self.contents, self.found.len());
        let unchecked = if self.unchecked > 0 { format!(", {} not checked", self.unchecked) } else { String::new() };
        say(&format!("{inodes} inodes and {contents} contents checked{unchecked}: {wrong} wrong"))
    }
}
