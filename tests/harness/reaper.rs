//! Cleans up after a test program that was itself killed: a shell that waits for the end of its input.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

const SCRIPT: &str = r#"
pids=; mounts=
while read -r verb value; do
    case $verb in
        pid) pids="$pids $value" ;;
        gone) left=; for pid in $pids; do [ "$pid" = "$value" ] || left="$left $pid"; done; pids=$left ;;
        mount) mounts="$mounts $value" ;;
        end) exit 0 ;;
    esac
done
for pid in $pids; do kill -9 "-$pid"; done
for mount in $mounts; do while umount -l "$mount"; do :; done; done
"#;

/// Kills what it was told of, and unmounts, when the program that holds it dies.
pub struct Reaper {
    child: Mutex<(Child, ChildStdin)>,
}

impl Reaper {
    pub fn start() -> Self {
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("start a shell");
        let input = child.stdin.take().expect("a pipe to the shell");
        Self { child: Mutex::new((child, input)) }
    }

    pub fn started(&self, pid: u32) {
        self.tell(&format!("pid {pid}"));
    }

    pub fn ended(&self, pid: u32) {
        self.tell(&format!("gone {pid}"));
    }

    pub fn mounted(&self, path: &Path) {
        self.tell(&format!("mount {}", path.display()));
    }

    fn tell(&self, line: &str) {
        let mut guard = self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        writeln!(guard.1, "{line}").expect("tell the reaper");
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        let mut guard = self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = writeln!(guard.1, "end");
        let _ = guard.0.wait();
    }
}
