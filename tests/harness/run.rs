//! Commands that are run to their end, with a deadline.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::wait::try_until;

/// What a command printed and how it ended.
#[derive(Clone, Debug)]
pub struct Run {
    pub what: String,
    pub status: Option<ExitStatus>,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub took: Duration,
}

impl Run {
    /// Runs it; after `limit` it and what it started are killed, and `status` is `None`.
    pub fn of(command: &mut Command, limit: Duration) -> Run {
        let what = format!("{command:?}");
        let began = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {what}: {error}"));
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        let status = try_until(limit, || child.try_wait().expect("wait for a child"));
        if status.is_none() {
            let group = Pid::from_child(&child);
            let _ = kill_process_group(group, Signal::KILL);
            let _ = try_until(Duration::from_secs(5), || child.try_wait().expect("wait for a child"));
        }
        let take = |output: std::sync::mpsc::Receiver<Vec<u8>>| {
            output.recv_timeout(Duration::from_secs(5)).unwrap_or_default()
        };
        let stderr = String::from_utf8_lossy(&take(stderr)).into_owned();
        Run { what, status, stdout: take(stdout), stderr, took: began.elapsed() }
    }

    /// Whether it ended with 0.
    pub fn worked(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Its output; panics unless it ended with 0.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.worked(), "{self}");
        self.text()
    }

    /// Its output as bytes; panics unless it ended with 0.
    #[track_caller]
    pub fn ok_bytes(self) -> Vec<u8> {
        assert!(self.worked(), "{self}");
        self.stdout
    }

    /// Panics unless it ended by itself with another code than 0.
    #[track_caller]
    pub fn fails(self) -> Run {
        assert!(self.status.and_then(|status| status.code()).is_some_and(|code| code != 0), "{self}");
        self
    }

    /// The exit code, if it ended by itself.
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }

    /// What it printed.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ended = self.status.map_or("killed at its deadline".to_string(), |status| status.to_string());
        write!(
            f,
            "{}\n  {ended} after {:?}\n  stdout: {}\n  stderr: {}",
            self.what,
            self.took,
            self.text(),
            self.stderr
        )
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> std::sync::mpsc::Receiver<Vec<u8>> {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = send.send(bytes);
    });
    receive
}

/// A shell command, as a user types it.
pub struct Sh;

impl Sh {
    /// Runs `script` with `sh -c` and positional arguments `$1`, `$2`, ... for at most a minute.
    pub fn run(script: &str, arguments: &[&str]) -> Run {
        Self::limited(script, arguments, Duration::from_secs(60))
    }

    /// The same with another limit.
    pub fn limited(script: &str, arguments: &[&str], limit: Duration) -> Run {
        Run::of(Command::new("sh").args(["-c", script, "sh"]).args(arguments).env("LC_ALL", "C"), limit)
    }
}
