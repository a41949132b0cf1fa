//! The serving process, as its supervisor sees it.
//!
//! Always: it is gone when none of its threads can answer a request any more. One that waits in the kernel for a request which
//! only its successor can answer does not count: waiting for it would be waiting for ever.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use curvine_fuse_abi::Link;
use curvine_types::{Error, Result};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use tokio::sync::mpsc;
use tracing::warn;

use super::message::{ToSupervisor, read};

/// What came from a serving process; `None`: nothing more will come.
pub type FromChild = (u64, Option<(ToSupervisor, Vec<OwnedFd>)>);

/// A serving process.
#[derive(Debug)]
pub struct Child {
    /// Which one, counted over the life of the supervisor.
    pub number: u64,
    pub pid: Pid,
    pub link: Arc<Link>,
    pub started: Instant,
    pub serving_since: Option<Instant>,
    /// Its threads could answer nothing when they were looked at last.
    looked_stuck: bool,
    /// How it ended.
    how: Option<String>,
    /// Everything that it said has been heard.
    pub silent: bool,
}

impl Child {
    /// Starts this very program with other arguments; what it says comes through `events`.
    pub fn start(number: u64, arguments: &[OsString], events: &mpsc::UnboundedSender<FromChild>) -> Result<Self> {
        let (ours, theirs) = Link::pair()?;
        let spawned = Command::new("/proc/self/exe")
            .arg0("curvine")
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .map_err(|source| Error::from_io(source, "cannot start the process that serves the mount"))?;
        Ok(Self::known(number, Pid::from_child(&spawned), ours, events))
    }

    /// One that was started before.
    pub fn known(number: u64, pid: Pid, link: Link, events: &mpsc::UnboundedSender<FromChild>) -> Self {
        let link = Arc::new(link);
        let (listening, events) = (link.clone(), events.clone());
        std::thread::spawn(move || listen(number, &listening, &events));
        Self {
            number,
            pid,
            link,
            started: Instant::now(),
            serving_since: None,
            looked_stuck: false,
            how: None,
            silent: false,
        }
    }

    /// How it ended; `None` while it lives. To be asked again and again.
    pub fn ended(&mut self) -> Option<String> {
        if self.how.is_none() {
            self.how = self.look();
        }
        self.how.clone()
    }

    fn look(&mut self) -> Option<String> {
        match waitpid(Some(self.pid), WaitOptions::NOHANG) {
            Ok(None) => {}
            Ok(Some((_, status))) => return Some(describe(status)),
            // Somebody else has waited for it.
            Err(_) => return Some("ended".into()),
        }
        let stuck = is_stuck(self.pid);
        let twice = stuck && self.looked_stuck;
        self.looked_stuck = stuck;
        if twice {
            // Its end of the socket stays open for as long as they wait.
            self.silent = true;
        }
        twice.then(|| "killed, with threads that wait in the kernel".into())
    }

    pub fn kill(&self) {
        let _ = kill_process(self.pid, Signal::KILL);
    }
}

fn listen(number: u64, link: &Link, events: &mpsc::UnboundedSender<FromChild>) {
    loop {
        let message = match link.receive() {
            Ok(Some(received)) => read(&received.bytes).map(|message| (message, received.descriptors)),
            Ok(None) => break,
            Err(error) => Err(error),
        };
        match message {
            Ok(message) => {
                if events.send((number, Some(message))).is_err() {
                    return;
                }
            }
            Err(error) => {
                warn!(%error, "cannot hear the serving process");
                break;
            }
        }
    }
    let _ = events.send((number, None));
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".into(),
    }
}

/// Reaps every process that ended: a supervisor that is the first process of a container inherits all orphans. `ours` is left alone.
pub fn reap_orphans(ours: Option<Pid>) {
    if rustix::process::getpid() != Pid::INIT {
        return;
    }
    let children = std::fs::read_to_string("/proc/1/task/1/children").unwrap_or_default();
    for pid in children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw) {
        if Some(pid) != ours {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// Whether the process was killed, and those of its threads that are left wait in the kernel without being interruptible.
fn is_stuck(pid: Pid) -> bool {
    let pid = pid.as_raw_nonzero();
    if state_of(&format!("/proc/{pid}/stat")) != Some('Z') {
        return false;
    }
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let state = state_of(&task.path().join("stat").display().to_string());
        matches!(state, Some('D' | 'Z' | 'X') | None)
    })
}

/// The letter after the name, which may itself contain anything.
fn state_of(path: &str) -> Option<char> {
    let text = std::fs::read_to_string(path).ok()?;
    text.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_is_not_stuck() {
        assert_eq!(state_of("/proc/thread-self/stat"), Some('R'));
        assert!(!is_stuck(rustix::process::getpid()));
        assert_eq!(state_of("/proc/no/stat"), None);
    }
}
