//! A cluster of processes: a master, workers, mounts, in a directory of their own.
//!
//! Always: each role has its own config file and log; whoever is blocked on a mount is freed at the latest when the
//! cluster's time is up, because then everything is killed and the connections to the kernel with it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustix::process::Signal;

use super::process::{Process, tail};
use super::reaper::Reaper;
use super::run::Run;
use super::wait::{try_until, until, within};
use super::{Rng, mountinfo};

/// The binary under test.
pub const CURVINE: &str = env!("CARGO_BIN_EXE_curvine");
/// The program that clusters run: another build of it where figures are wanted.
pub fn program() -> PathBuf {
    std::env::var_os("CURVINE_TEST_PROGRAM").map_or_else(|| PathBuf::from(CURVINE), PathBuf::from)
}

/// How long a process may take to serve after it was started.
pub const READY: Duration = Duration::from_secs(30);
/// How long a process may take to end after SIGTERM.
pub const TERMINATE: Duration = Duration::from_secs(30);

/// Who runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Master,
    /// A further master, from 1.
    Standby(usize),
    Worker(usize),
    Mount(usize),
}

impl Role {
    fn name(self) -> String {
        match self {
            Role::Master => "master".to_string(),
            Role::Standby(number) => format!("master-{number}"),
            Role::Worker(number) => format!("worker-{number}"),
            Role::Mount(number) => format!("mount-{number}"),
        }
    }
}

/// What to start.
pub struct Plan {
    pub masters: usize,
    pub workers: usize,
    pub mounts: usize,
    /// After it everything is killed.
    pub limit: Duration,
    /// (section, key, value as TOML), for every process.
    pub settings: Vec<(&'static str, &'static str, String)>,
    /// (mount, variable, value).
    pub environment: Vec<(usize, &'static str, &'static str)>,
    /// The same of the master.
    pub master_environment: Vec<(&'static str, String)>,
    /// Where its journal is, if not in the cluster's directory.
    pub journal_dir: Option<PathBuf>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            masters: 1,
            workers: 2,
            mounts: 2,
            limit: Duration::from_secs(300),
            settings: vec![("master", "lease_time", "\"3s\"".to_string())],
            environment: Vec::new(),
            master_environment: Vec::new(),
            journal_dir: None,
        }
    }
}

impl Plan {
    /// With one more setting.
    pub fn set(mut self, section: &'static str, key: &'static str, value: impl Into<String>) -> Self {
        self.settings.push((section, key, value.into()));
        self
    }
}

/// A running cluster.
pub struct Cluster {
    dir: PathBuf,
    plan: Plan,
    pub(super) ports: Ports,
    processes: Arc<Mutex<BTreeMap<Role, Process>>>,
    reaper: Arc<Reaper>,
    over: Arc<(Mutex<bool>, Condvar)>,
    timed_out: Arc<AtomicBool>,
}

pub(super) struct Ports {
    /// (RPC, log) of each master.
    masters: Vec<(u16, u16)>,
    pub(super) workers: Vec<u16>,
    /// Of the web page of each role.
    pub(super) web: BTreeMap<Role, u16>,
}

impl Cluster {
    /// Starts all of `plan` and waits until it serves.
    pub fn start(plan: Plan) -> Cluster {
        let cluster = Self::prepare(plan);
        for role in cluster.roles() {
            cluster.launch(role);
        }
        for role in cluster.roles() {
            cluster.ready(role);
        }
        cluster
    }

    /// Writes the files and starts nothing yet.
    pub fn prepare(plan: Plan) -> Cluster {
        let dir = tempfile::Builder::new().prefix("curvine-test-").tempdir().expect("make a directory").keep();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).expect("open the directory to others");
        let roles = roles_of(&plan);
        let mut free = free_ports(2 * plan.masters + plan.workers + roles.len());
        let mut port = || free.pop().expect("a port");
        let masters = (0..plan.masters).map(|_| (port(), port())).collect();
        let web = roles.into_iter().map(|role| (role, port())).collect();
        let ports = Ports { masters, workers: free, web };
        let cluster = Cluster {
            dir,
            plan,
            ports,
            processes: Arc::default(),
            reaper: Arc::new(Reaper::start()),
            over: Arc::default(),
            timed_out: Arc::default(),
        };
        for folder in ["logs", "journal"] {
            std::fs::create_dir(cluster.dir.join(folder)).expect("make a directory");
        }
        write_private(&cluster.dir.join("secret"), "a secret that only this test has, 32+");
        for role in cluster.roles() {
            std::fs::write(cluster.conf(role), cluster.render(role)).expect("write a config file");
            if let Role::Mount(number) = role {
                std::fs::create_dir(cluster.mount(number)).expect("make a mount point");
                cluster.reaper.mounted(&cluster.mount(number));
            }
        }
        cluster.watch();
        cluster
    }

    fn roles(&self) -> Vec<Role> {
        roles_of(&self.plan)
    }

    /// Where everything of this cluster is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the master's journal is.
    pub fn journal_dir(&self) -> PathBuf {
        self.plan.journal_dir.clone().unwrap_or_else(|| self.dir.join("journal"))
    }

    /// Waits until a process has ended by itself; how.
    #[track_caller]
    pub fn wait_end(&self, role: Role, limit: Duration) -> ExitStatus {
        let status = try_until(limit, || self.ended(role));
        let Some(status) = status else { panic!("{role:?} does not end:\n{}", self.log_tail(role)) };
        self.take(role);
        status
    }

    /// A mount point.
    pub fn mount(&self, number: usize) -> PathBuf {
        self.dir.join(format!("mnt-{number}"))
    }

    /// A config file.
    pub fn conf(&self, role: Role) -> PathBuf {
        match role {
            Role::Master => self.dir.join("curvine-cluster.toml"),
            other => self.dir.join(format!("{}.toml", other.name())),
        }
    }

    fn render(&self, role: Role) -> String {
        let mut keys: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
        let mut set = |section, key, value: String| keys.entry(section).or_default().insert(key, value);
        let text = |value: &Path| format!("{:?}", value.display().to_string());
        set("", "cluster_id", "\"test\"".to_string());
        set("master", "hostname", "\"127.0.0.1\"".to_string());
        let (rpc, log) = self.ports.masters[master_number(role)];
        set("master", "rpc_port", rpc.to_string());
        set("journal", "hostname", "\"127.0.0.1\"".to_string());
        set("journal", "rpc_port", log.to_string());
        set("journal", "journal_dir", text(&self.journal_dir_of(role)));
        if self.plan.masters > 1 {
            let list = |of: fn(&(u16, u16)) -> u16| {
                let addresses = self.ports.masters.iter().map(|ports| format!("\"127.0.0.1:{}\"", of(ports)));
                format!("[{}]", addresses.collect::<Vec<_>>().join(", "))
            };
            set("journal", "journal_addrs", list(|ports| ports.1));
            set("client", "master_addrs", list(|ports| ports.0));
        }
        set("security", "secret_file", text(&self.dir.join("secret")));
        set("client", "hostname", format!("{:?}", host(if let Role::Mount(number) = role { number } else { 0 })));
        let section = match role {
            Role::Master | Role::Standby(_) => "master",
            Role::Worker(_) => "worker",
            Role::Mount(_) => "fuse",
        };
        set(section, "web_port", self.ports.web[&role].to_string());
        match role {
            Role::Master | Role::Standby(_) => {}
            Role::Worker(number) => {
                let data = self.dir.join(role.name());
                set("worker", "hostname", format!("{:?}", host(number)));
                set("worker", "rpc_port", self.ports.workers[number].to_string());
                // Tests that move much have more room made for them.
                let ssd = std::env::var("CURVINE_TEST_SSD").unwrap_or_else(|_| "4GB".to_string());
                set("worker", "data_dir", format!("[\"[MEM:256MB]{0}/mem\", \"[SSD:{ssd}]{0}/ssd\"]", data.display()));
            }
            Role::Mount(number) => {
                set("fuse", "mnt_path", text(&self.mount(number)));
            }
        }
        for (section, key, value) in &self.plan.settings {
            set(section, key, value.clone());
        }
        let mut file = String::new();
        for (section, keys) in keys {
            if !section.is_empty() {
                let _ = writeln!(file, "\n[{section}]");
            }
            for (key, value) in keys {
                let _ = writeln!(file, "{key} = {value}");
            }
        }
        file
    }

    /// Starts a process without waiting for it.
    pub fn launch(&self, role: Role) {
        let mut command = Command::new(program());
        match role {
            Role::Master | Role::Standby(_) => command.arg("master"),
            Role::Worker(_) => command.arg("worker"),
            Role::Mount(_) => command.arg("mount"),
        };
        command.arg("--conf").arg(self.conf(role));
        if let Role::Mount(number) = role {
            command.arg("--mnt-path").arg(self.mount(number));
            for (_, variable, value) in self.plan.environment.iter().filter(|(mount, ..)| *mount == number) {
                command.env(variable, value);
            }
        }
        if role == Role::Master {
            command.envs(self.plan.master_environment.iter().map(|(variable, value)| (variable, value)));
        }
        // Held over the start, so that the deadline's kill and a start cannot miss each other.
        let mut processes = self.lock();
        assert!(!self.timed_out.load(Ordering::SeqCst), "the cluster's time is up");
        let process = Process::start(&mut command, &self.log(role), &self.reaper);
        processes.insert(role, process);
    }

    /// Waits until a process that was launched serves; panics with its log if it ends instead.
    #[track_caller]
    pub fn ready(&self, role: Role) {
        let served = try_until(READY, || {
            if let Some(status) = self.ended(role) {
                panic!("{role:?} ended with {status} instead of serving:\n{}", self.log_tail(role));
            }
            self.serves(role).then_some(())
        });
        if served.is_none() {
            panic!("{role:?} does not serve after {READY:?}:\n{}", self.log_tail(role));
        }
    }

    fn serves(&self, role: Role) -> bool {
        match role {
            Role::Master if self.plan.masters == 1 => self.cv(&["report", "json"]).worked(),
            Role::Master | Role::Standby(_) => self.votes(role),
            Role::Worker(number) => {
                let nodes = self.cv(&["node", "--list", "--json"]);
                nodes.worked() && live_worker_ports(&nodes.text()).contains(&self.ports.workers[number])
            }
            Role::Mount(number) => self.is_mounted(number) && self.root_lists(number),
        }
    }

    /// Whether a master is one of several that decide, by what the leader says.
    fn votes(&self, role: Role) -> bool {
        let run = self.cv(&["report", "json"]);
        let Ok(report) = serde_json::from_slice::<serde_json::Value>(&run.stdout) else { return false };
        let own = self.log_address(role);
        let masters = report["masters"].as_array().cloned().unwrap_or_default();
        run.worked() && masters.iter().any(|master| master["address"] == own.as_str() && master["voter"] == true)
    }

    /// Where a master's log is reached.
    pub fn log_address(&self, role: Role) -> String {
        format!("127.0.0.1:{}", self.ports.masters[master_number(role)].1)
    }

    /// Where a master is reached.
    pub fn rpc_address(&self, role: Role) -> String {
        format!("127.0.0.1:{}", self.ports.masters[master_number(role)].0)
    }

    /// Where the journal of a master is.
    pub fn journal_dir_of(&self, role: Role) -> PathBuf {
        match role {
            Role::Standby(number) => self.dir.join(format!("journal-{number}")),
            _ => self.journal_dir(),
        }
    }

    /// Whether the newest mount at the mount point is one of a living process.
    pub fn is_mounted(&self, number: usize) -> bool {
        let path = self.mount(number);
        mountinfo::at(&path).last().is_some_and(|entry| entry.kind == "fuse.curvine")
            && rustix::fs::statfs(&path).is_ok_and(|info| info.f_type == 0x6573_5546)
    }

    fn root_lists(&self, number: usize) -> bool {
        super::Sh::limited("ls \"$1\"", &[&self.mount(number).display().to_string()], Duration::from_secs(10)).worked()
    }

    /// `launch` and `ready`.
    #[track_caller]
    pub fn begin(&self, role: Role) {
        self.launch(role);
        self.ready(role);
    }

    /// Kills the process, and what it started, with SIGKILL and waits for the end. Of a mount, the dead mount stays where it is.
    pub fn kill(&self, role: Role) {
        let mut process = self.take(role);
        process.signal_group(Signal::KILL);
        assert!(process.wait(Duration::from_secs(10)).is_some(), "{role:?} survived SIGKILL");
    }

    /// Ends with SIGTERM; panics if it takes too long.
    #[track_caller]
    pub fn terminate(&self, role: Role) -> ExitStatus {
        let mut process = self.take(role);
        process.signal(Signal::TERM);
        match process.wait(TERMINATE) {
            Some(status) => status,
            None => panic!("{role:?} ignored SIGTERM for {TERMINATE:?}:\n{}", process.log_tail(60)),
        }
    }

    /// Stops (`true`) or continues (`false`) a process, and what it started.
    pub fn freeze(&self, role: Role, frozen: bool) {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        self.lock().get(&role).unwrap_or_else(|| panic!("{role:?} does not run")).signal_group(signal);
    }

    /// The number of the process.
    pub fn pid(&self, role: Role) -> u32 {
        self.lock().get(&role).unwrap_or_else(|| panic!("{role:?} does not run")).pid()
    }

    /// The process that serves a mount, which its supervisor has started; `None`: there is none just now.
    pub fn serving(&self, role: Role) -> Option<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid(role))).expect("the supervisor lives");
        let children = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let all: Vec<u32> = children
            .flat_map(|line| {
                line.split_ascii_whitespace().map(|pid| pid.parse().expect("a number")).collect::<Vec<_>>()
            })
            .collect();
        all.into_iter().find(|pid| {
            // A dead one has no command line any more, and before it is another program it has another one.
            let name = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&name).contains("serve-mount")
        })
    }

    fn ended(&self, role: Role) -> Option<ExitStatus> {
        self.lock().get_mut(&role).and_then(|process| process.ended())
    }

    fn take(&self, role: Role) -> Process {
        self.lock().remove(&role).unwrap_or_else(|| panic!("{role:?} does not run"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Role, Process>> {
        self.processes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Runs `cv` against this cluster.
    pub fn cv(&self, arguments: &[&str]) -> Run {
        self.cv_limited(arguments, Duration::from_secs(60))
    }

    /// The same with another limit.
    pub fn cv_limited(&self, arguments: &[&str], limit: Duration) -> Run {
        let mut command = Command::new(program());
        command.arg0("cv").args(arguments).arg("--conf").arg(self.conf(Role::Master));
        Run::of(&mut command, limit)
    }

    fn log(&self, role: Role) -> PathBuf {
        self.dir.join("logs").join(format!("{}.log", role.name()))
    }

    /// Kills the first process of a role with SIGKILL, and nothing that it started.
    pub fn kill_alone(&self, role: Role) {
        let mut process = self.take(role);
        process.signal(Signal::KILL);
        assert!(process.wait(Duration::from_secs(10)).is_some(), "{role:?} survived SIGKILL");
    }

    /// The end of a role's log, for people.
    pub fn log_tail(&self, role: Role) -> String {
        tail(&self.log(role), 60)
    }

    /// The whole log of a role.
    pub fn log_text(&self, role: Role) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log(role)).unwrap_or_default()).into_owned()
    }

    /// Ends everything with SIGTERM, mounts first, and panics unless each ended with 0, nothing is mounted any more and no
    /// process panicked on its way.
    #[track_caller]
    pub fn finish(&self) {
        for role in self.roles().into_iter().rev() {
            if !self.lock().contains_key(&role) {
                continue;
            }
            let status = self.terminate(role);
            assert!(status.success(), "{role:?} ended with {status}:\n{}", self.log_tail(role));
            if let Role::Mount(number) = role {
                let left = mountinfo::at(&self.mount(number));
                assert!(left.is_empty(), "{role:?} ended and left {left:?}");
            }
        }
        self.no_panics();
    }

    /// Panics if a process has.
    #[track_caller]
    pub fn no_panics(&self) {
        for role in self.roles() {
            let text = self.log_text(role);
            if let Some(place) = text.find("panicked at") {
                let from = text[..place].rfind('\n').unwrap_or(0);
                panic!("{role:?} panicked: {}", text[from..].chars().take(800).collect::<String>());
            }
        }
    }

    /// Drops the kernel's cached pages and names of everything.
    pub fn drop_caches(&self) {
        within("dropping the kernel's caches", Duration::from_secs(60), || {
            std::fs::write("/proc/sys/vm/drop_caches", "3").expect("drop caches; it needs root");
        });
    }

    /// Kills everything when the time is up.
    fn watch(&self) {
        let (over, timed_out, limit) = (self.over.clone(), self.timed_out.clone(), self.plan.limit);
        let processes = self.processes.clone();
        std::thread::spawn(move || {
            let guard = over.0.lock().expect("nobody panics under it");
            let (guard, wait) = over.1.wait_timeout_while(guard, limit, |over| !*over).expect("nobody panics under it");
            drop(guard);
            if !wait.timed_out() {
                return;
            }
            timed_out.store(true, Ordering::SeqCst);
            eprintln!("the cluster's time ({limit:?}) is up: everything is killed");
            kill_all(&processes);
        });
    }
}

fn roles_of(plan: &Plan) -> Vec<Role> {
    std::iter::once(Role::Master)
        .chain((1..plan.masters).map(Role::Standby))
        .chain((0..plan.workers).map(Role::Worker))
        .chain((0..plan.mounts).map(Role::Mount))
        .collect()
}

fn kill_all(processes: &Mutex<BTreeMap<Role, Process>>) {
    let processes = std::mem::take(&mut *processes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    for process in processes.values() {
        process.signal_group(Signal::KILL);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        *self.over.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
        self.over.1.notify_all();
        let failed = std::thread::panicking() || self.timed_out.load(Ordering::SeqCst);
        if failed {
            for role in self.roles() {
                eprintln!("---- the end of the log of {role:?}\n{}", self.log_tail(role));
            }
        }
        kill_all(&self.processes);
        mountinfo::detach_below(&self.dir);
        let keep = failed || std::env::var_os("CURVINE_KEEP_TEST_DIRS").is_some();
        if keep {
            eprintln!("files and logs are kept in {}", self.dir.display());
        } else if mountinfo::below(&self.dir).is_empty() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Mounts and workers with the same number are on the same machine, as far as they know: each mount has one local worker
/// and reaches the others by TCP.
fn host(number: usize) -> &'static str {
    ["localhost", "127.0.0.1"].get(number).copied().unwrap_or("127.0.0.2")
}

/// Which master's ports stand in a role's file as its own.
fn master_number(role: Role) -> usize {
    if let Role::Standby(number) = role { number } else { 0 }
}

fn live_worker_ports(json: &str) -> Vec<u16> {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(json) else { return Vec::new() };
    let list = value.as_array().or_else(|| value.get("workers").and_then(|workers| workers.as_array()));
    let live = |node: &&serde_json::Value| node.get("live").and_then(|live| live.as_bool()).unwrap_or(false);
    let port = |node: &serde_json::Value| node.get("rpc_port").and_then(|port| port.as_u64());
    list.into_iter().flatten().filter(live).filter_map(port).map(|port| port as u16).collect()
}

/// Ports below the range from which the kernel picks those of outgoing connections: a restarted server finds its port free.
fn free_ports(count: usize) -> Vec<u16> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let turn = TURN.fetch_add(1, Ordering::Relaxed) as u64;
    let mut rng = Rng::new(u64::from(std::process::id()) << 16 | turn);
    let mut ports = Vec::new();
    until("free ports", Duration::from_secs(10), || {
        while ports.len() < count {
            let port = 12_000 + rng.below(20_000) as u16;
            if !ports.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                ports.push(port);
            }
        }
        Some(())
    });
    ports
}

fn write_private(path: &Path, text: &str) {
    use std::io::Write;
    let mut file = std::fs::File::options().create_new(true).write(true).mode(0o600).open(path).expect("make a file");
    file.write_all(text.as_bytes()).expect("write a file");
}
