//! One process of a cluster, with its output in a file.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::reaper::Reaper;
use super::wait::try_until;

/// A running process; killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
    reaper: Arc<Reaper>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it with both outputs appended to `log`.
    pub fn start(command: &mut Command, log: &Path, reaper: &Arc<Reaper>) -> Process {
        let file = File::options().create(true).append(true).open(log).expect("open a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("clone a file"))
            .stderr(file)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        reaper.started(child.id());
        Process { child, log: log.to_path_buf(), reaper: reaper.clone(), ended: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// Signals it and all that it started: each process begins a group of its own.
    pub fn signal_group(&self, signal: Signal) {
        if self.ended.is_none() {
            let _ = kill_process_group(Pid::from_child(&self.child), signal);
        }
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("wait for a child");
            if self.ended.is_some() {
                self.reaper.ended(self.child.id());
            }
        }
        self.ended
    }

    /// Waits for its end; `None` at the deadline.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        try_until(limit, || self.ended())
    }

    /// The end of its log, for people.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Also what it started: the process that serves a mount ends by itself, but later.
        self.signal_group(Signal::KILL);
        self.wait(Duration::from_secs(10));
    }
}

/// The last lines of a file.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
