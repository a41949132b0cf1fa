//! A containerd of its own, and containers in it.
//!
//! Always: it has its own directories and socket, touches no other containerd, and all is gone when it is dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Run, Sh, mountinfo, until};

const LIMIT: Duration = Duration::from_secs(120);

pub struct Containerd {
    dir: PathBuf,
    daemon: Child,
    image: String,
}

/// What the kubelet would say of a container.
pub struct Container {
    pub name: String,
    arguments: Vec<String>,
    pub environment: Vec<String>,
    mounts: Vec<Value>,
    pub privileged: bool,
}

impl Container {
    pub fn new(name: &str, arguments: &[&str]) -> Self {
        Self {
            name: name.into(),
            arguments: arguments.iter().map(|argument| argument.to_string()).collect(),
            environment: Vec::new(),
            mounts: Vec::new(),
            privileged: false,
        }
    }

    pub fn bind(&mut self, from: &Path, to: &str, options: &[&str]) {
        let options: Vec<&str> = ["rbind"].iter().chain(options).copied().collect();
        self.mounts.push(json!({ "destination": to, "type": "bind", "source": from, "options": options }));
    }

    /// As the runtime is told it.
    fn spec(&self, root: &Path) -> Value {
        let plain = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
        let mut mounts = vec![
            plain("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            plain("/dev", "tmpfs", &["nosuid", "mode=755"]),
            plain("/dev/shm", "tmpfs", &["nosuid", "nodev", "mode=1777"]),
            plain("/sys", "sysfs", &["nosuid", "noexec", "nodev"]),
            plain("/run", "tmpfs", &["nosuid", "mode=755"]),
        ];
        mounts.extend(self.mounts.clone());
        let usual = [
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_FSETID",
            "CAP_FOWNER",
            "CAP_MKNOD",
            "CAP_NET_RAW",
            "CAP_SETGID",
            "CAP_SETUID",
            "CAP_SETFCAP",
            "CAP_SETPCAP",
            "CAP_NET_BIND_SERVICE",
            "CAP_SYS_CHROOT",
            "CAP_KILL",
            "CAP_AUDIT_WRITE",
        ];
        let mut capabilities: Vec<&str> = usual.to_vec();
        let (mut devices, mut allowed) = (Vec::new(), vec![json!({ "allow": true, "access": "rwm" })]);
        if self.privileged {
            capabilities.push("CAP_SYS_ADMIN");
            devices.push(json!({ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 0 }));
        } else {
            allowed.clear();
        }
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": 0, "gid": 0 }, "args": self.arguments, "env": self.environment, "cwd": "/app/curvine",
                "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            },
            "root": { "path": root }, "hostname": self.name, "mounts": mounts,
            "linux": {
                "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }],
                "devices": devices, "resources": { "devices": allowed },
                "rootfsPropagation": if self.privileged { "rshared" } else { "rslave" },
                "cgroupsPath": format!("/curvine-image-test/{}", self.name),
            },
        })
    }
}

impl Containerd {
    /// Starts one and gives it the image.
    pub fn start(archive: &str, image: &str) -> Containerd {
        let dir = tempfile::Builder::new().prefix("curvine-image-").tempdir().expect("make a directory").keep();
        for folder in ["config", "sockets", "meta", "data", "logs", "bundles"] {
            std::fs::create_dir(dir.join(folder)).expect("make a directory");
        }
        let conf = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            dir.join("root"),
            dir.join("state"),
            dir.join("containerd.sock")
        );
        std::fs::write(dir.join("containerd.toml"), conf).expect("write a config");
        let log = std::fs::File::create(dir.join("logs/containerd.log")).expect("make a log");
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(dir.join("containerd.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("clone a file"))
            .stderr(log)
            .spawn()
            .expect("start containerd; apt-get install containerd runc");
        let node = Containerd { dir, daemon, image: image.to_string() };
        until("containerd answers", LIMIT, || node.ctr(&["version"]).worked().then_some(()));
        node.ctr(&["images", "import", archive]).ok();
        Sh::run(
            "mkdir -p /runtime-mnt/cache/default/curvine-demo/cache-fuse && mount --bind /runtime-mnt /runtime-mnt && mount --make-shared /runtime-mnt",
            &[],
        )
        .ok();
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn ctr(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.dir.join("containerd.sock")).args(["--namespace", "k8s.io"]).args(arguments);
        Run::of(&mut command, LIMIT)
    }

    /// Bytes of the image's content, as containerd counts them.
    pub fn image_size(&self) -> String {
        let listing = self.ctr(&["images", "ls"]).ok();
        let line = listing.lines().find(|line| line.starts_with(&self.image)).unwrap_or_default().to_string();
        let words: Vec<&str> = line.split_whitespace().collect();
        words.windows(2).find(|pair| pair[1].ends_with('B')).map(|pair| pair.join(" ")).unwrap_or(line)
    }

    #[track_caller]
    pub fn run(&self, container: &Container) {
        self.try_run(container).ok();
    }

    pub fn try_run(&self, container: &Container) -> Run {
        let name = container.name.as_str();
        let root = self.dir.join("bundles").join(name);
        std::fs::create_dir_all(&root).expect("make a directory");
        if mountinfo::at(&root).is_empty() {
            self.ctr(&["images", "mount", "--rw", &self.image, &root.display().to_string()]).ok();
        }
        let spec = self.dir.join(format!("{name}.json"));
        std::fs::write(&spec, container.spec(&root).to_string()).expect("write a spec");
        let created = self.ctr(&["containers", "create", "--config", &spec.display().to_string(), name]);
        if !created.worked() {
            return created;
        }
        let log = format!("file://{}", self.dir.join(format!("logs/{name}.log")).display());
        self.ctr(&["tasks", "start", "--detach", "--log-uri", &log, name])
    }

    pub fn exec(&self, name: &str, arguments: &[&str]) -> Run {
        static TURN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let id = format!("exec-{}", TURN.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        self.ctr(&[&["tasks", "exec", "--exec-id", &id, name], arguments].concat())
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("logs/{name}.log"))).unwrap_or_default()
    }

    fn pid(&self, name: &str) -> Option<u32> {
        let listing = self.ctr(&["tasks", "ls"]).text();
        listing
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name))?
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()
    }

    /// A process of a container by a word of its command line.
    pub fn pid_of(&self, name: &str, word: &str) -> Option<u32> {
        let listing = self.ctr(&["tasks", "ps", name]).text();
        let mut pids = listing.lines().skip(1).filter_map(|line| line.split_whitespace().next()?.parse::<u32>().ok());
        pids.find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(word)
        })
    }

    /// Of all processes of a container.
    pub fn resident_kib(&self, name: &str) -> u64 {
        let listing = self.ctr(&["tasks", "ps", name]).ok();
        let pids = listing.lines().skip(1).filter_map(|line| line.split_whitespace().next()?.parse::<u32>().ok());
        let resident = |pid: u32| -> Option<u64> {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
        };
        pids.filter_map(resident).sum()
    }

    /// SIGTERM, and gone within the time that the class grants.
    #[track_caller]
    pub fn stop(&self, name: &str) {
        if self.pid(name).is_some() {
            let _ = self.ctr(&["tasks", "kill", "--signal", "SIGTERM", name]);
        }
        self.ended(name);
        self.forget(name);
    }

    /// Waits until its first process has ended.
    #[track_caller]
    pub fn ended(&self, name: &str) {
        until(&format!("{name} ends"), Duration::from_secs(30), || {
            let listing = self.ctr(&["tasks", "ls"]).text();
            let line = listing.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap_or_default();
            (line.is_empty() || line.contains("STOPPED")).then_some(())
        });
    }

    pub fn kill(&self, name: &str) {
        self.ctr(&["tasks", "kill", "--signal", "SIGKILL", name]).ok();
        self.ended(name);
        self.forget(name);
    }

    /// Takes a container that does not run out of containerd.
    pub fn forget(&self, name: &str) {
        let _ = self.ctr(&["tasks", "delete", "--force", name]);
        let _ = self.ctr(&["containers", "delete", name]);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in std::fs::read_dir(self.dir.join("logs")).into_iter().flatten().flatten() {
                eprintln!(
                    "---- the end of {}\n{}",
                    entry.path().display(),
                    crate::harness::process::tail(&entry.path(), 25)
                );
            }
        }
        let listing = self.ctr(&["containers", "ls", "-q"]).text();
        for name in listing.lines() {
            let _ = self.ctr(&["tasks", "kill", "--signal", "SIGKILL", name]);
            let _ = self.ctr(&["tasks", "delete", "--force", name]);
            let _ = self.ctr(&["containers", "delete", name]);
        }
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.daemon),
            rustix::process::Signal::TERM,
        );
        let _ = self.daemon.wait();
        mountinfo::detach_below(Path::new("/runtime-mnt"));
        mountinfo::detach_below(&self.dir);
        if mountinfo::below(&self.dir).is_empty() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
