//! The command line, as it is typed: a standalone cluster without a mount, and `cv` against it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

const CURVINE: &str = env!("CARGO_BIN_EXE_curvine");
const PATIENCE: Duration = Duration::from_secs(60);

/// `curvine standalone` over a directory; killed when dropped.
struct Standalone {
    child: Child,
    dir: tempfile::TempDir,
}

impl Standalone {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        std::fs::create_dir_all(store.join("sub")).unwrap();
        std::fs::write(store.join("a.txt"), "from the store\n").unwrap();
        std::fs::write(store.join("sub/b.bin"), content(3_000_000)).unwrap();
        let child = Self::launch(dir.path());
        Self { child, dir }
    }

    fn launch(dir: &Path) -> Child {
        let mut child = Command::new(CURVINE)
            .arg("standalone")
            .arg("--data")
            .arg(dir.join("data"))
            .arg("--ufs")
            .arg(format!("{}=/store", dir.join("store").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let (send, receive) = mpsc::channel();
        // Goes on reading, so that the process never waits for a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match receive.recv_timeout(left) {
                Ok(line) if line.contains("Ctrl-C stops") => return child,
                Ok(_) => {}
                Err(error) => {
                    let _ = child.kill();
                    panic!("it never said that it runs: {error}");
                }
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn cv(&self, line: &str) -> Ran {
        self.cv_with(line, b"")
    }

    fn cv_with(&self, line: &str, input: &[u8]) -> Ran {
        let mut command = Command::new(CURVINE);
        command.arg0("cv").args(line.split_whitespace());
        command.env("CURVINE_CONF_FILE", self.path("data/curvine-cluster.toml"));
        Ran::of(command, input, line)
    }

    fn terminate(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        wait(&mut self.child)
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < end, "the process does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A command that has ended.
struct Ran {
    line: String,
    output: Output,
}

impl Ran {
    fn of(mut command: Command, input: &[u8], line: &str) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
        std::thread::spawn(move || stdin.write_all(&input));
        let mut pipes: Vec<Box<dyn Read + Send>> =
            vec![Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let readers: Vec<_> = pipes
            .drain(..)
            .map(|mut pipe| {
                std::thread::spawn(move || {
                    let mut bytes = Vec::new();
                    let _ = pipe.read_to_end(&mut bytes);
                    bytes
                })
            })
            .collect();
        let status = wait(&mut child);
        let mut read = readers.into_iter().map(|reader| reader.join().unwrap());
        let (stdout, stderr) = (read.next().unwrap(), read.next().unwrap());
        Self { line: line.to_string(), output: Output { status, stdout, stderr } }
    }

    fn says(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    fn complains(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    #[track_caller]
    fn ok(self) -> String {
        assert!(self.output.status.success(), "cv {}: {}", self.line, self.complains());
        self.says()
    }

    #[track_caller]
    fn fails(self, code: i32) -> String {
        assert_eq!(self.output.status.code(), Some(code), "cv {}: {} {}", self.line, self.says(), self.complains());
        self.complains()
    }

    #[track_caller]
    fn json(self) -> Value {
        let line = self.line.clone();
        serde_json::from_str(&self.ok()).unwrap_or_else(|error| panic!("cv {line}: {error}"))
    }
}

fn content(length: u32) -> Vec<u8> {
    (0..length).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn files_go_in_and_out_unchanged() {
    let cluster = Standalone::start();
    let local = cluster.path("local.bin");
    std::fs::write(&local, content(5_000_001)).unwrap();
    let local = local.display();

    cluster.cv(&format!("fs put {local} /big")).ok();
    assert!(cluster.cv(&format!("fs put {local} /big")).fails(1).contains("--force"));
    cluster.cv(&format!("fs put --force {local} /big")).ok();
    cluster.cv(&format!("fs get /big {}", cluster.path("out").display())).ok();
    assert_eq!(std::fs::read(cluster.path("out")).unwrap(), content(5_000_001));
    assert!(cluster.cv(&format!("fs get /big {}", cluster.path("out").display())).fails(1).contains("--force"));

    cluster.cv_with("fs put - /typed", b"hello\n").ok();
    assert_eq!(cluster.cv("fs cat /typed").ok(), "hello\n");
    let stat = cluster.cv("fs stat /big --json").json();
    assert_eq!((stat[0]["size"].as_u64(), stat[0]["type"].as_str()), (Some(5_000_001), Some("file")));

    let tree = cluster.path("tree");
    std::fs::create_dir_all(tree.join("deep/deeper")).unwrap();
    std::fs::write(tree.join("one"), "1").unwrap();
    std::fs::write(tree.join("deep/deeper/two"), content(2_000_000)).unwrap();
    cluster.cv(&format!("fs put {} /copy", tree.display())).ok();
    assert_eq!(cluster.cv("fs ls /copy").ok(), "deep\none\n");
    cluster.cv(&format!("fs get /copy {}", cluster.path("back").display())).ok();
    assert_eq!(std::fs::read(cluster.path("back/deep/deeper/two")).unwrap(), content(2_000_000));
    let count = cluster.cv("fs count /copy --json").json();
    assert_eq!((count[0]["directories"].as_u64(), count[0]["files"].as_u64()), (Some(3), Some(2)));
    assert_eq!(cluster.cv("fs du /copy").ok(), "2000001\t/copy\n");
}

#[test]
fn names_are_made_moved_and_removed() {
    let cluster = Standalone::start();
    cluster.cv("fs mkdir -p /a/b/c").ok();
    cluster.cv("fs mkdir -p /a/b/c").ok();
    cluster.cv("fs mkdir /a/b").fails(1);
    cluster.cv("fs touch /a/f /a/b/g").ok();
    cluster.cv("fs mv /a/f /a/b").ok();
    assert_eq!(cluster.cv("fs ls /a/b").ok(), "c\nf\ng\n");
    cluster.cv("fs mv --no-clobber /a/b/f /a/b/g").fails(1);
    cluster.cv("fs chmod -R 700 /a").ok();
    cluster.cv("fs chown 12:34 /a/b/g").ok();
    let stat = cluster.cv("fs stat --json /a/b/g").json();
    assert_eq!(
        (stat[0]["mode"].as_str(), stat[0]["uid"].as_u64(), stat[0]["gid"].as_u64()),
        (Some("0700"), Some(12), Some(34))
    );
    assert!(cluster.cv("fs ls -l /a/b").ok().contains("-rwx------   1    12    34"));
    assert!(cluster.cv("fs rm /a").fails(1).contains("--recursive"));
    cluster.cv("fs rm -r /a").ok();
    cluster.cv("fs rm /a").fails(1);
    cluster.cv("fs rm -f /a").ok();
    // One of several fails: the others are done, the code says it.
    cluster.cv("fs touch /x /y").ok();
    assert!(cluster.cv("fs rm /x /nothing /y").fails(1).contains("/nothing"));
    assert_eq!(cluster.cv("fs ls /").ok(), "store\n");
    assert!(cluster.cv("fs ls relative").fails(1).contains("begins with /"));
}

#[test]
fn a_store_is_mounted_loaded_and_taken_off() {
    let cluster = Standalone::start();
    let table = cluster.cv("mount").ok();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows[0], ["", "ID", "Curvine Path", "UFS Path", "Write Type", "Read Verify UFS", ""]);
    assert_eq!(rows[1][2], "/store");
    assert_eq!(rows.len(), 2);

    assert_eq!(cluster.cv("fs cat /store/a.txt").ok(), "from the store\n");
    let first = cluster.cv("load /store --watch --json").json();
    assert_eq!((first["files"].as_u64(), first["failures"].as_u64()), (Some(2), Some(0)));
    assert!(first["fetched_bytes"].as_u64() >= Some(3_000_000), "{first}");
    let again = cluster.cv("load /store --json").json();
    assert_eq!(again["fetched_bytes"].as_u64(), Some(0));
    let blocks = cluster.cv("fs blocks /store/sub/b.bin --format json").json();
    assert_eq!((blocks["layout"]["kind"].as_str(), blocks["workers"][0]["present"].as_u64()), (Some("ufs"), Some(3)));
    cluster.cv("load /nowhere").fails(1);

    // What is written is in the store when the command returns, and gone from it when it is removed.
    let local = cluster.path("local.bin");
    std::fs::write(&local, content(100_000)).unwrap();
    cluster.cv(&format!("fs put {} /store/sub/new.bin", local.display())).ok();
    assert_eq!(std::fs::read(cluster.path("store/sub/new.bin")).unwrap(), content(100_000));
    cluster.cv("fs rm /store/sub/new.bin").ok();
    let trash = cluster.cv("trash list /store/sub --json").json();
    assert_eq!(trash["trash"][0]["path"].as_str(), Some("/store/sub/new.bin"), "{trash}");
    cluster.cv("trash empty /store").ok();
    assert!(!cluster.path("store/sub/new.bin").exists());

    // Mounted anew, the store is seen as it is now.
    std::fs::write(cluster.path("store/sub/b.bin"), content(2_000_000)).unwrap();
    let url = format!("file://{}", cluster.path("store").display());
    cluster.cv("umount /store").ok();
    cluster.cv(&format!("mount {url} /again --ttl 0 --access-mode read_only")).ok();
    cluster.cv("fs touch /again/new").fails(1);
    assert_eq!(cluster.cv(&format!("load {url}/sub --json")).json()["bytes"].as_u64(), Some(2_000_000));
    assert!(cluster.cv(&format!("mount {url} /typo -c colour=red")).fails(1).contains("colour"));
    assert!(cluster.cv("mount file:///no/such/directory /gone").fails(1).contains("/no/such/directory"));
    assert_eq!(cluster.cv("mount --json").json()["mounts"].as_array().map(Vec::len), Some(1));
    cluster.cv("umount /again").ok();
    cluster.cv("umount /again").fails(1);
}

#[test]
fn reports_are_for_people_and_for_scripts() {
    let cluster = Standalone::start();
    assert!(cluster.cv("report").ok().contains("workers      1 live, 0 lost"));
    let report = cluster.cv("report json").json();
    assert_eq!((report["live_workers"].as_u64(), report["cluster"].as_str().map(str::len)), (Some(1), Some(36)));
    let nodes = cluster.cv("node --list --json").json();
    assert_eq!((nodes["workers"][0]["live"].as_bool(), nodes["workers"][0]["rpc_port"].is_u64()), (Some(true), true));
    assert!(cluster.cv("node --list").ok().contains("live"));
    assert!(cluster.cv("fs df --json").json()["capacity"].as_u64() > Some(0));
    assert_eq!(cluster.cv("version --json").json()["version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_is_typed_wrongly_is_told_from_what_fails() {
    let run = |name: &str, line: &str| {
        let mut command = Command::new(CURVINE);
        command.arg0(name).args(line.split_whitespace()).env_remove("CURVINE_CONF_FILE");
        Ran::of(command, b"", line)
    };
    run("cv", "bogus").fails(2);
    run("cv", "mount s3://bucket").fails(2);
    run("curvine", "").fails(2);
    assert!(run("cv", "--conf /nonexistent/x.toml report").fails(1).contains("/nonexistent/x.toml"));
    assert!(run("curvine", "master").fails(1).contains("no cluster secret"));
    assert!(run("curvine-server", "").fails(1).contains("--service"));
    assert!(run("curvine", "version").ok().starts_with("curvine "));
    assert!(run("curvine", "completion bash").ok().contains("standalone"));
    assert!(run("curvine", "config reference").ok().starts_with("# Configuration"));
    assert!(run("curvine-fuse", "--help").ok().contains("--mnt-path"));

    let dir = tempfile::tempdir().unwrap();
    let dead = dir.path().join("dead.toml");
    std::fs::write(&dead, "[cli]\nconnect_timeout = \"300ms\"\n[security]\nallow_no_secret = true\n").unwrap();
    let line = format!("--conf {} --master-addrs 127.0.0.1:1 report", dead.display());
    assert!(run("cv", &line).fails(1).contains("127.0.0.1:1"));

    let conf = dir.path().join("bad.toml");
    std::fs::write(&conf, "[master]\nrpc_prot = 1\n").unwrap();
    let complaint = run("cv", &format!("--conf {} report", conf.display())).fails(1);
    assert!(complaint.contains("did you mean rpc_port") && complaint.contains("line=2"), "{complaint}");
    assert!(run("curvine", &format!("config check --conf {}", conf.display())).fails(1).contains("line=2"));
}

#[test]
fn a_stop_is_clean_and_a_start_finds_everything() {
    let mut cluster = Standalone::start();
    cluster.cv_with("fs put - /kept", b"kept").ok();
    let busy = Command::new(CURVINE).arg("standalone").arg("--data").arg(cluster.path("data")).output().unwrap();
    assert_eq!(busy.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&busy.stderr).contains("another process"));
    let before = std::fs::read_to_string(cluster.path("data/curvine-cluster.toml")).unwrap();
    assert_eq!(cluster.terminate().code(), Some(0));

    cluster.child = Standalone::launch(cluster.dir.path());
    assert_eq!(cluster.cv("fs cat /kept").ok(), "kept");
    assert_eq!(cluster.cv("fs cat /store/a.txt").ok(), "from the store\n");
    let after = std::fs::read_to_string(cluster.path("data/curvine-cluster.toml")).unwrap();
    // Other clusters on this machine want the same well-known ports for their pages.
    let but_pages = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| !line.starts_with("web_port") && !line.starts_with("[fuse]"))
            .map(str::to_string)
            .collect()
    };
    assert_eq!(but_pages(&before), but_pages(&after), "ports are kept");
    assert_eq!(cluster.terminate().code(), Some(0));
}
