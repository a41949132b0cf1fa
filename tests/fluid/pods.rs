//! Plays Fluid and the kubelet: pods as processes in mount namespaces of their own, with the environment, the files and the
//! propagation that they would have, and names that resolve.
//!
//! Always: everything lies in one directory and is gone when the runtime is dropped, mounts included.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::cluster::CURVINE;
use crate::harness::process::Process;
use crate::harness::reaper::Reaper;
use crate::harness::wait::try_until;
use crate::harness::{Run, mountinfo};

const READY: Duration = Duration::from_secs(60);
const TERMINATE: Duration = Duration::from_secs(40);

/// Enters a namespace as a container has it: its own `/etc/hosts`, the rest of the node, and shared what is shared.
const CONTAINER: &str = r#"mount --make-private / && mount --bind "$1" /etc/hosts && shift && exec "$@""#;

/// Enters a namespace whose root is a directory with what the image has: its own `/etc` and `/app`, the tools of this machine,
/// and the runtime's directory where it is.
const IMAGE: &str = r#"
root=$1 hosts=$2 shared=$3; shift 3
mount --make-private /
for name in bin sbin lib lib32 lib64; do
    if [ -L /$name ]; then cp -a /$name "$root/"; elif [ -d /$name ]; then mkdir -p "$root/$name" && mount --rbind /$name "$root/$name"; fi
done
for name in usr/bin usr/sbin usr/lib usr/lib64 usr/share dev proc sys; do
    [ ! -d /$name ] || { mkdir -p "$root/$name" && mount --rbind /$name "$root/$name"; }
done
mkdir -p "$root/etc/ssl" "$root/tmp" "$root/run" "$root$shared"
cp -a /etc/passwd /etc/group /etc/nsswitch.conf "$root/etc/" 2>/dev/null || true
[ ! -d /etc/ssl ] || mount --rbind /etc/ssl "$root/etc/ssl"
cp "$hosts" "$root/etc/hosts" && mount --bind "$hosts" "$root/etc/hosts"
mount --rbind "$shared" "$root$shared"
exec chroot "$root" sh -c 'cd /app/curvine && exec "$@"' sh "$@"
"#;

/// A runtime on one node.
pub struct Runtime {
    dir: PathBuf,
    /// Two numbers of 127.a.b.c that no other runtime of this machine has.
    subnet: (u8, u8),
    reaper: Arc<Reaper>,
    pods: BTreeMap<String, Pod>,
    /// Pods that were given another address.
    moved: BTreeMap<String, u8>,
    version: u32,
    /// How many masters the runtime is described with.
    pub masters: u32,
    pub namespace: String,
    pub dataset: String,
    /// `runtime.json`, or `config.json` of the older branch.
    pub file: &'static str,
}

struct Pod {
    process: Process,
    environment: Vec<(String, String)>,
    /// Its root is a directory with what the image has.
    of_image: bool,
}

impl Runtime {
    pub fn new(file: &'static str) -> Runtime {
        static TURN: AtomicU8 = AtomicU8::new(0);
        let dir = tempfile::Builder::new().prefix("curvine-fluid-").tempdir().expect("make a directory").keep();
        let subnet = ((std::process::id() % 250 + 2) as u8, TURN.fetch_add(1, Ordering::Relaxed) + 10);
        let runtime = Runtime {
            dir,
            subnet,
            reaper: Arc::new(Reaper::start()),
            pods: BTreeMap::new(),
            moved: BTreeMap::new(),
            version: 0,
            masters: 1,
            namespace: "default".into(),
            dataset: "curvine-demo".into(),
            file,
        };
        for folder in ["logs", "config", "runtime-mnt", "sockets", "secrets"] {
            std::fs::create_dir(runtime.path(folder)).expect("make a directory");
        }
        // As the node's root is in a cluster: what a client mounts is seen outside.
        let shared = text(&runtime.path("runtime-mnt"));
        sh("mount --bind \"$1\" \"$1\" && mount --make-shared \"$1\"", &[&shared]);
        runtime.reaper.mounted(&runtime.path("runtime-mnt"));
        runtime.reaper.mounted(&runtime.mount_path());
        std::fs::create_dir_all(runtime.mount_path()).expect("make the mount point");
        std::fs::write(runtime.path("hosts"), runtime.hosts()).expect("write the hosts");
        runtime
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where the client mounts.
    pub fn mount_path(&self) -> PathBuf {
        self.path("runtime-mnt").join("cache").join(&self.namespace).join(&self.dataset).join("cache-fuse")
    }

    pub fn address(&self, pod: &str) -> String {
        let last = match pod.rsplit_once('-') {
            Some((name, number)) if name.ends_with("master") => 10 + number.parse::<u8>().unwrap_or(0),
            Some((name, number)) if name.ends_with("worker") => 50 + number.parse::<u8>().unwrap_or(0),
            _ => 100,
        };
        let last = self.moved.get(pod).copied().unwrap_or(last);
        format!("127.{}.{}.{last}", self.subnet.0, self.subnet.1)
    }

    /// The pod comes back with another address, as one that is made anew does.
    pub fn readdress(&mut self, pod: &str) {
        let next = 200 + self.moved.len() as u8;
        self.moved.insert(pod.to_string(), next);
        std::fs::write(self.path("hosts"), self.hosts()).expect("write the hosts");
    }

    /// The root directory of a pod of the image.
    pub fn root(&self, pod: &str) -> PathBuf {
        self.path(&format!("root-{pod}"))
    }

    fn service(&self, component: &str) -> String {
        match self.file {
            "runtime.json" => format!("svc-{}-{component}", self.dataset),
            _ => format!("{}-{component}", self.dataset),
        }
    }

    /// What the cluster's DNS would know.
    fn hosts(&self) -> String {
        let mut lines = "127.0.0.1 localhost\n".to_string();
        for component in ["master", "worker"] {
            for number in 0..4 {
                let pod = format!("{}-{component}-{number}", self.dataset);
                let short = format!("{pod}.{}", self.service(component));
                let full = format!("{short}.{}.svc.cluster.local", self.namespace);
                lines += &format!("{} {full} {short}\n", self.address(&pod));
            }
        }
        lines
    }

    /// As the kubelet does it: a new directory, and a symlink that is swapped to it.
    pub fn publish(&mut self, text: &str) {
        self.version += 1;
        let config = self.path("config");
        let data = config.join(format!("..{}", self.version));
        std::fs::create_dir(&data).expect("make a directory");
        std::fs::write(data.join(self.file), text).expect("write the file of the runtime");
        let draft = config.join("..data_tmp");
        std::os::unix::fs::symlink(format!("..{}", self.version), &draft).expect("make a symlink");
        std::fs::rename(&draft, config.join("..data")).expect("swap the symlink");
        let _ = std::os::unix::fs::symlink(format!("..data/{}", self.file), config.join(self.file));
    }

    /// The file as Fluid's master writes it.
    pub fn describe(&self, mounts: Value, workers: u32) -> Value {
        let component = |name: &str, replicas: u32, options: Value| {
            json!({
                "enabled": true,
                "name": format!("{}-{name}", self.dataset),
                "options": options,
                "replicas": replicas,
                "service": { "name": self.service(name) },
            })
        };
        let mut worker = component("worker", workers, json!({ "rpc_port": "8997" }));
        worker["tieredStoreLevels"] = json!([
            { "mountPaths": [text(&self.path("level-0"))], "mediumType": "MEM", "quotas": ["64Mi"], "high": "0.95", "low": "0.7" },
            { "mountPaths": [text(&self.path("level-1"))], "mediumType": "HDD", "quotas": ["2Gi"], "high": "0.8", "low": "0.5" },
        ]);
        let mut client = component("client", 0, json!({ "debug": "false" }));
        client["service"] = json!({ "name": "" });
        json!({
            "mounts": mounts,
            "accessModes": ["ReadWriteMany"],
            "targetPath": text(&self.mount_path()),
            "master": component("master", self.masters, json!({ "rpc_port": "8995", "lease_time": "3s", "rpc_prot": "1" })),
            "worker": worker,
            "client": client,
        })
    }

    /// What Fluid and the class give a pod; `pod` is `curvine-demo-master-0`.
    pub fn environment(&self, pod: &str) -> Vec<(String, String)> {
        let component =
            ["master", "worker", "client"].into_iter().find(|name| pod.contains(name)).expect("a component");
        let mut pairs = vec![
            ("FLUID_DATASET_NAME", self.dataset.clone()),
            ("FLUID_DATASET_NAMESPACE", self.namespace.clone()),
            ("FLUID_RUNTIME_CONFIG_PATH", text(&self.path("config").join(self.file))),
            ("FLUID_RUNTIME_MOUNT_PATH", text(&self.mount_path())),
            ("FLUID_RUNTIME_COMPONENT_TYPE", component.to_string()),
            ("POD_NAME", pod.to_string()),
            ("POD_IP", self.address(pod)),
            ("NODE_NAME", "node-a".to_string()),
            ("CURVINE_SOCKET_DIR", text(&self.path("sockets"))),
            ("CURVINE_RUN_DIR", text(&self.path(&format!("run-{pod}")))),
            // Pods have networks of their own; here they share one.
            ("ORPC_BIND_HOSTNAME", self.address(pod)),
            ("PATH", std::env::var("PATH").unwrap_or_default()),
        ];
        if self.file == "runtime.json" {
            let service = if component == "client" { String::new() } else { self.service(component) };
            pairs.push(("FLUID_RUNTIME_COMPONENT_SVC_NAME", service));
        }
        pairs.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }

    /// Where a master keeps what it knows.
    pub fn journal(&self, pod: &str) -> PathBuf {
        match ordinal(pod) {
            Some(0) | None => self.path("journal"),
            Some(number) => self.path(&format!("journal-{number}")),
        }
    }

    /// Starts a pod with its usual command.
    pub fn start(&mut self, pod: &str) {
        let component =
            ["master", "worker", "client"].into_iter().find(|name| pod.contains(name)).expect("a component");
        let mut environment = self.environment(pod);
        if component == "master" {
            // The volume of the master; a class would mount it at the default path.
            let file = self.path(&format!("{pod}.toml"));
            let journal = text(&self.journal(pod));
            std::fs::write(&file, format!("[journal]\njournal_dir = {journal:?}\n")).expect("write a config file");
            environment.push(("CURVINE_CONF_FILE".into(), text(&file)));
        }
        self.start_with(pod, environment, &[CURVINE, "fluid", component]);
    }

    pub fn start_with(&mut self, pod: &str, environment: Vec<(String, String)>, arguments: &[&str]) {
        let hosts = text(&self.path("hosts"));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "unchanged", "sh", "-c", CONTAINER, "sh", &hosts]).args(arguments);
        command.env_clear().envs(environment.clone());
        let process = Process::start(&mut command, &self.log_path(pod), &self.reaper);
        self.pods.insert(pod.to_string(), Pod { process, environment, of_image: false });
    }

    /// Makes the root of a pod of the image, with these files of its volumes.
    pub fn prepare_root(&self, pod: &str, files: &[(&str, &str)]) {
        let root = self.root(pod);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../curvine-docker/fluid/cache-runtime/layer.sh");
        sh(r#""$1" "$2" "$3""#, &[&text(&script), &text(&root), CURVINE]);
        for (path, content) in files {
            let path = root.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("make a directory");
            std::fs::write(&path, content).expect("write a file");
            let mode = if content.starts_with("#!") { 0o755 } else { 0o644 };
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set permissions");
        }
    }

    /// How a pod of the image is entered.
    fn in_image(&self, pod: &str, environment: &[(String, String)], arguments: &[&str]) -> Command {
        let (root, hosts, dir) = (text(&self.root(pod)), text(&self.path("hosts")), text(&self.dir));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "unchanged", "sh", "-c", IMAGE, "sh", &root, &hosts, &dir]);
        command.args(arguments).env_clear().envs(environment.iter().cloned());
        command
    }

    /// Starts a pod whose root was prepared.
    pub fn start_in_image(&mut self, pod: &str, environment: Vec<(String, String)>, arguments: &[&str]) {
        let mut command = self.in_image(pod, &environment, arguments);
        let process = Process::start(&mut command, &self.log_path(pod), &self.reaper);
        self.pods.insert(pod.to_string(), Pod { process, environment, of_image: true });
    }

    /// Runs a pod whose root was prepared to its end.
    pub fn job_in_image(&self, pod: &str, environment: &[(String, String)], arguments: &[&str]) -> Run {
        Run::of(&mut self.in_image(pod, environment, arguments), Duration::from_secs(120))
    }

    /// Executes a command in a pod, as Fluid's controller and the kubelet do: with its environment, without a terminal.
    pub fn exec(&self, pod: &str, arguments: &[&str]) -> Run {
        let found = &self.pods[pod];
        let mut command = Command::new("nsenter");
        command.args(["--target", &found.process.pid().to_string(), "--mount"]);
        if found.of_image {
            command.args(["--root", "--wd"]);
        }
        command.arg("--").args(arguments);
        command.env_clear().envs(found.environment.clone());
        Run::of(&mut command, Duration::from_secs(60))
    }

    pub fn fluid(&self, pod: &str, arguments: &[&str]) -> Run {
        self.exec(pod, &[&[CURVINE, "fluid"][..], arguments].concat())
    }

    /// A pod without a place in the runtime, such as that of a DataLoad: runs to its end.
    pub fn job(&self, environment: &[(String, String)], arguments: &[&str]) -> Run {
        let hosts = text(&self.path("hosts"));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "unchanged", "sh", "-c", CONTAINER, "sh", &hosts, CURVINE, "fluid"]);
        command.args(arguments).env_clear().env("PATH", std::env::var("PATH").unwrap_or_default());
        command.env("CURVINE_RUN_DIR", self.path("run-job")).envs(environment.iter().cloned());
        Run::of(&mut command, Duration::from_secs(120))
    }

    /// Waits for the readiness probe.
    #[track_caller]
    pub fn ready(&mut self, pod: &str) {
        let ready = try_until(READY, || {
            let ended = self.pods.get_mut(pod).expect("a pod").process.ended();
            if let Some(status) = ended {
                panic!("{pod} ended with {status}:\n{}", self.log(pod));
            }
            self.fluid(pod, &["probe"]).worked().then_some(())
        });
        if ready.is_none() {
            panic!("{pod} is not ready after {READY:?}: {}\n{}", self.fluid(pod, &["probe"]), self.log(pod));
        }
    }

    /// Processes that the first process of a pod has started.
    pub fn children(&self, pod: &str) -> Vec<u32> {
        let parent = self.pods[pod].process.pid().to_string();
        let is_child = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // pid (name) state parent
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(parent.as_str())
        };
        let entries = std::fs::read_dir("/proc").expect("read /proc").flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
    }

    #[track_caller]
    pub fn terminate(&mut self, pod: &str) -> ExitStatus {
        let mut found = self.pods.remove(pod).expect("a pod");
        found.process.signal(Signal::TERM);
        found.process.wait(TERMINATE).unwrap_or_else(|| panic!("{pod} ignored SIGTERM:\n{}", self.log(pod)))
    }

    pub fn kill(&mut self, pod: &str) {
        let mut found = self.pods.remove(pod).expect("a pod");
        found.process.signal_group(Signal::KILL);
        found.process.wait(Duration::from_secs(10)).expect("a killed process ends");
    }

    fn log_path(&self, pod: &str) -> PathBuf {
        self.path("logs").join(format!("{pod}.log"))
    }

    pub fn log(&self, pod: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path(pod)).unwrap_or_default()).into_owned()
    }

    /// Starts everything and waits until it is ready, the client last.
    #[track_caller]
    pub fn start_all(&mut self, workers: u32) {
        let mut pods = vec![format!("{}-master-0", self.dataset)];
        pods.extend((0..workers).map(|number| format!("{}-worker-{number}", self.dataset)));
        pods.push(format!("{}-client-x2b4z", self.dataset));
        for pod in &pods {
            self.start(pod);
        }
        for pod in &pods {
            self.ready(pod);
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for pod in self.pods.keys() {
                eprintln!(
                    "---- the end of the log of {pod}\n{}",
                    crate::harness::process::tail(&self.log_path(pod), 40)
                );
            }
        }
        for pod in self.pods.values() {
            pod.process.signal(Signal::KILL);
        }
        self.pods.clear();
        mountinfo::detach_below(&self.dir);
        if std::env::var_os("CURVINE_KEEP_TEST_DIRS").is_none() && mountinfo::below(&self.dir).is_empty() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn ordinal(pod: &str) -> Option<u32> {
    pod.rsplit_once('-')?.1.parse().ok()
}

pub fn text(path: &Path) -> String {
    path.display().to_string()
}

#[track_caller]
pub fn sh(script: &str, arguments: &[&str]) -> String {
    crate::harness::Sh::run(script, arguments).ok()
}
