//! The image, imported into containerd and run by it as the kubelet has it run: one master, two workers and a client with
//! `/dev/fuse` and a mount that is seen on the node. Takes an archive that `build-image.sh --output` has written, and root; `make
//! test-image` builds one and runs this.

#[path = "image/containers.rs"]
mod containers;
mod harness;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use containers::{Container, Containerd};
use harness::{Sh, mountinfo, until};
use serde_json::{Value, json};

const READY: Duration = Duration::from_secs(60);
const MOUNT: &str = "/runtime-mnt/cache/default/curvine-demo/cache-fuse";
const MASTER: &str = "curvine-demo-master-0";
const CLIENT: &str = "curvine-demo-client-x2b4z";
const WORKERS: [&str; 2] = ["curvine-demo-worker-0", "curvine-demo-worker-1"];

fn described() -> Value {
    let component = |name: &str, replicas: u32| {
        json!({
            "enabled": true, "name": format!("curvine-demo-{name}"), "replicas": replicas,
            "service": { "name": if name == "client" { String::new() } else { format!("svc-curvine-demo-{name}") } },
        })
    };
    let mut worker = component("worker", 2);
    worker["tieredStoreLevels"] = json!([{
        "mountPaths": ["/etc/fluid/mount/tiered-store/level-0-index-0-hostpath"], "mediumType": "HDD", "quotas": ["2Gi"],
        "high": "0.8", "low": "0.5",
    }]);
    json!({
        "mounts": [{ "mountPoint": "curvine:///", "name": "demo", "path": "/demo" }], "accessModes": ["ReadWriteMany"],
        "targetPath": MOUNT, "master": component("master", 1), "worker": worker, "client": component("client", 0),
    })
}

fn environment(pod: &str, address: &str, component: &str) -> Vec<String> {
    let service = if component == "client" { String::new() } else { format!("svc-curvine-demo-{component}") };
    [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("FLUID_DATASET_NAME", "curvine-demo"),
        ("FLUID_DATASET_NAMESPACE", "default"),
        ("FLUID_RUNTIME_CONFIG_PATH", "/etc/fluid/config/runtime.json"),
        ("FLUID_RUNTIME_MOUNT_PATH", MOUNT),
        ("FLUID_RUNTIME_COMPONENT_TYPE", component),
        ("FLUID_RUNTIME_COMPONENT_SVC_NAME", &service),
        ("POD_NAME", pod),
        ("POD_IP", address),
        ("NODE_NAME", "node-a"),
        ("CURVINE_SOCKET_DIR", "/var/run/curvine-node"),
        // Pods have networks of their own; these share the node's.
        ("ORPC_BIND_HOSTNAME", address),
    ]
    .iter()
    .map(|(name, value)| format!("{name}={value}"))
    .collect()
}

#[test]
#[ignore = "needs an image, containerd and runc: make test-image"]
fn the_image_runs_in_containerd_as_the_guide_says() {
    let archive = std::env::var("CURVINE_IMAGE").expect("CURVINE_IMAGE=archive of the image");
    let node = Containerd::start(&archive, "docker.io/library/curvine:latest");
    std::fs::write(node.path("config/runtime.json"), described().to_string()).unwrap();
    let addresses =
        [(MASTER, "127.77.0.10"), (WORKERS[0], "127.77.0.50"), (WORKERS[1], "127.77.0.51"), (CLIENT, "127.77.0.100")];
    let mut hosts = "127.0.0.1 localhost\n".to_string();
    for (pod, address) in &addresses[..3] {
        let service = pod.rsplit_once('-').map(|(name, _)| name.replace("curvine-demo", "svc-curvine-demo")).unwrap();
        hosts += &format!("{address} {pod}.{service}.default.svc.cluster.local {pod}\n");
    }
    std::fs::write(node.path("hosts"), hosts).unwrap();
    let spec = |pod: &str, component: &str| {
        let address = addresses.iter().find(|(name, _)| *name == pod).map(|(_, address)| *address).unwrap();
        let mut container = Container::new(pod, &["/entrypoint.sh", "fluid", component]);
        container.environment = environment(pod, address, component);
        container.bind(&node.path("config"), "/etc/fluid/config", &["ro"]);
        container.bind(&node.path("hosts"), "/etc/hosts", &["ro"]);
        container.bind(&node.path("sockets"), "/var/run/curvine-node", &[]);
        match component {
            "master" => container.bind(&node.path("meta"), "/var/lib/curvine", &[]),
            "worker" => {
                container.bind(&node.path("data"), "/etc/fluid/mount/tiered-store/level-0-index-0-hostpath", &[])
            }
            _ => {
                container.bind(Path::new(MOUNT), MOUNT, &["rshared"]);
                container.privileged = true;
            }
        }
        container
    };
    let figure = |text: String| println!("{text}");
    figure(format!("image: {} of content in {archive}", node.image_size()));
    for (pod, component) in [(MASTER, "master"), (WORKERS[0], "worker"), (WORKERS[1], "worker"), (CLIENT, "client")] {
        let began = Instant::now();
        node.run(&spec(pod, component));
        until(&format!("{pod} is ready"), READY, || {
            node.exec(pod, &["/usr/local/bin/curvine", "fluid", "probe"]).worked().then_some(())
        });
        figure(format!("{component}: ready {:.1} s after its start", began.elapsed().as_secs_f64()));
    }
    let answer = node.exec(MASTER, &["/usr/local/bin/curvine", "fluid", "mount-ufs"]).ok();
    assert_eq!(serde_json::from_str::<Value>(answer.trim()).unwrap(), json!({ "mounted": ["/demo"] }));
    let summary: Value =
        serde_json::from_str(&node.exec(MASTER, &["/usr/local/bin/curvine", "fluid", "report-summary"]).ok()).unwrap();
    assert_eq!(summary["cacheCapacity"], "4.00GiB");
    assert!(node.log(WORKERS[0]).contains("worker register success"), "{}", node.log(WORKERS[0]));

    // Section 4 of the guide; the node's view of the path is what a volume shows.
    let in_client = |script: &str| node.exec(CLIENT, &["sh", "-c", script]).ok();
    in_client(&format!(r#"echo "Hello Curvine!" > {MOUNT}/test1.txt"#));
    in_client(&format!(r#"mkdir -p {MOUNT}/testdir && echo "Directory test" > {MOUNT}/testdir/file.txt"#));
    let on_node = |script: &str| Sh::run(script, &[MOUNT]).ok();
    assert_eq!(on_node(r#"cat "$1"/test1.txt"#), "Hello Curvine!\n");
    on_node(r#"echo "PVC test success!" > "$1"/pvc-test.txt"#);
    assert_eq!(in_client(&format!("cat {MOUNT}/pvc-test.txt")), "PVC test success!\n");
    on_node(r#"dd if=/dev/zero of="$1"/bigfile.dat bs=1M count=10 status=none"#);
    assert!(in_client(&format!("ls -lh {MOUNT}/bigfile.dat")).starts_with("-rw-r--r-- 1 root root 10M "));
    let nodes = node.exec(CLIENT, &["/app/curvine/bin/cv", "node", "--list"]).ok();
    assert_eq!(nodes.matches(" live ").count(), 2, "{nodes}");
    for tool in ["bash", "sed", "grep", "awk", "dd", "mountpoint"] {
        node.exec(CLIENT, &["sh", "-c", &format!("command -v {tool}")]).ok();
    }
    node.exec(CLIENT, &["sh", "-c", "command -v python3"]).fails();
    for pod in [MASTER, WORKERS[0], WORKERS[1], CLIENT] {
        figure(format!("{pod}: {} KiB resident at rest", node.resident_kib(pod)));
    }

    // The names that manifests for the existing image use.
    for name in ["/entrypoint.sh", "/app/curvine/lib/curvine-fuse", "/app/curvine/bin/cv", "/app/curvine/mountUfs.sh"] {
        node.exec(CLIENT, &["test", "-x", name]).ok();
    }
    node.exec(CLIENT, &["test", "-f", "/app/curvine/conf/curvine-cluster.toml"]).ok();
    node.exec(CLIENT, &["/app/curvine/lib/curvine-fuse", "--version"]).ok();

    // The process that serves is killed again and again, under an application that uses a bind mount of the path.
    let kills = harness::number("CURVINE_IMAGE_KILLS", 20);
    let data = node.path("data-of-a-pod");
    std::fs::create_dir(&data).unwrap();
    Sh::run(r#"mount --bind "$1" "$2""#, &[MOUNT, &data.display().to_string()]).ok();
    let serving = || node.pid_of(CLIENT, "serve-mount");
    let (turns, longest) = under_an_application(&data, || {
        for _ in 0..kills {
            let pid = until("a process serves", READY, serving);
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid as i32).unwrap(),
                rustix::process::Signal::KILL,
            )
            .unwrap();
            until("another process serves", READY, || serving().filter(|now| *now != pid));
            until("the mount answers", READY, || rustix::fs::statfs(&data).ok());
        }
    });
    figure(format!(
        "{kills} kills of the serving process: {turns} turns of an application, no error, longest {:.2} s",
        longest.as_secs_f64()
    ));
    Sh::run(r#"umount "$1""#, &[&data.display().to_string()]).ok();

    // A worker that goes leaves what only it had to the other one.
    node.stop(WORKERS[0]);
    assert!(node.log(WORKERS[0]).contains("nothing is only here any more"), "{}", node.log(WORKERS[0]));
    assert_eq!(on_node(r#"wc -c < "$1"/bigfile.dat"#), "10485760\n");
    node.run(&spec(WORKERS[0], "worker"));
    until("the worker is ready again", READY, || {
        node.exec(WORKERS[0], &["/usr/local/bin/curvine", "fluid", "probe"]).worked().then_some(())
    });

    // The kubelet's way to end a client, then a start on the same path.
    node.exec(CLIENT, &["/usr/local/bin/curvine", "fluid", "unmount", "--timeout", "5s"]).ok();
    node.stop(CLIENT);
    assert!(mountinfo::at(Path::new(MOUNT)).iter().all(|entry| !entry.kind.starts_with("fuse")));
    node.run(&spec(CLIENT, "client"));
    until("the client is ready again", READY, || {
        node.exec(CLIENT, &["/usr/local/bin/curvine", "fluid", "probe"]).worked().then_some(())
    });
    assert_eq!(on_node(r#"cat "$1"/test1.txt"#), "Hello Curvine!\n");

    // The first process killed: containerd cannot start on the path until the janitor has been there.
    node.kill(CLIENT);
    let refused = node.try_run(&spec(CLIENT, "client"));
    if refused.worked() {
        // This runtime starts it all the same: then it must not look ready while nobody outside sees its mount.
        node.ended(CLIENT);
        until("the client says why", READY, || node.log(CLIENT).contains("janitor").then_some(()));
    }
    let by = if refused.worked() { "refused by the client, not by the runtime" } else { "refused by the runtime" };
    figure(format!("start on a dead mount: {by}"));
    node.forget(CLIENT);
    {
        let mut janitor =
            Container::new("curvine-janitor", &["/entrypoint.sh", "fluid", "janitor", "--interval", "200ms"]);
        janitor.environment = vec!["PATH=/usr/local/bin:/usr/bin:/bin".into()];
        janitor.bind(Path::new("/runtime-mnt"), "/runtime-mnt", &["rshared"]);
        janitor.privileged = true;
        node.run(&janitor);
        until("the janitor detaches the dead mount", READY, || {
            mountinfo::at(Path::new(MOUNT)).iter().all(|entry| !entry.kind.starts_with("fuse")).then_some(())
        });
        node.run(&spec(CLIENT, "client"));
    }
    until("the client is ready once more", READY, || {
        node.exec(CLIENT, &["/usr/local/bin/curvine", "fluid", "probe"]).worked().then_some(())
    });
    assert_eq!(on_node(r#"cat "$1"/test1.txt && wc -c < "$1"/bigfile.dat"#), "Hello Curvine!\n10485760\n");
    node.stop(CLIENT);
}

/// Runs `work` while an application reads, writes and holds open files below `dir`; how many turns it made, and the longest.
/// Panics at the first error that it sees.
fn under_an_application(dir: &Path, work: impl FnOnce()) -> (u64, Duration) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let application = scope.spawn(|| {
            let mut options = std::fs::File::options();
            let held = options.create(true).truncate(true).read(true).write(true);
            let held = held.open(dir.join("held")).expect("open");
            std::fs::write(dir.join("read"), vec![7; 300_000]).expect("write");
            let (mut turn, mut longest) = (0u64, Duration::ZERO);
            while !over.load(Ordering::SeqCst) {
                let began = Instant::now();
                let line = format!("turn {turn:08}\n");
                held.write_all_at(line.as_bytes(), turn * line.len() as u64).expect("write to an open file");
                let mut back = vec![0; line.len()];
                held.read_exact_at(&mut back, turn * line.len() as u64).expect("read from an open file");
                assert_eq!(back, line.as_bytes());
                assert!(std::fs::read(dir.join("read")).expect("read") == vec![7; 300_000]);
                std::fs::write(dir.join("new"), line.as_bytes()).expect("make a file");
                std::fs::rename(dir.join("new"), dir.join("renamed")).expect("rename");
                assert_eq!(std::fs::read(dir.join("renamed")).expect("read"), line.as_bytes());
                turn += 1;
                longest = longest.max(began.elapsed());
            }
            (turn, longest)
        });
        work();
        over.store(true, Ordering::SeqCst);
        application.join().expect("the application saw an error")
    })
}
