//! Curvine as a component of Fluid's CacheRuntime, without a cluster: Fluid and the kubelet are played, the rest is real.

#[path = "fluid/e2e.rs"]
mod e2e;
#[path = "fluid/guard.rs"]
mod guard;
mod harness;
#[path = "fluid/manifests.rs"]
mod manifests;
#[path = "fluid/masters.rs"]
mod masters;
#[path = "fluid/pods.rs"]
mod pods;
#[path = "fluid/schema.rs"]
mod schema;
#[allow(dead_code)]
#[path = "guide/store.rs"]
mod store;

use std::os::unix::fs::FileExt;
use std::time::Duration;

use harness::cluster::CURVINE;
use harness::{Sh, mountinfo, until, within};
use pods::{Runtime, sh, text};
use serde_json::{Value, json};
use store::{ACCESS, SECRET, Store};

const MASTER: &str = "curvine-demo-master-0";
const WORKER: &str = "curvine-demo-worker-0";
const CLIENT: &str = "curvine-demo-client-x2b4z";
const SOON: Duration = Duration::from_secs(60);

/// The answer of an execution entry, as Fluid reads it: one JSON value and nothing else.
#[track_caller]
fn answer(runtime: &Runtime, arguments: &[&str]) -> Value {
    let command: Vec<&str> = ["/usr/local/bin/curvine", "fluid"].iter().chain(arguments).copied().collect();
    assert_eq!(guard::refuses(&command), None);
    let run = runtime.fluid(MASTER, arguments);
    let said = run.clone().ok();
    serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("{error}: {run}"))
}

#[track_caller]
fn mounted(runtime: &Runtime) -> Vec<String> {
    let answer = answer(runtime, &["mount-ufs", "--timeout", "50s"]);
    let mut paths: Vec<String> = answer["mounted"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|path| path.as_str().expect("a path").into())
        .collect();
    paths.sort();
    paths
}

#[test]
fn the_deployment_guide_comes_true() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let mut runtime = Runtime::new("runtime.json");
    let described = runtime.describe(json!([{ "mountPoint": "curvine:///", "name": "demo", "path": "/demo" }]), 2);
    runtime.publish(&described.to_string());
    // Something is at the path of the mount already: nothing of it may go.
    std::fs::write(runtime.mount_path().join("kept"), "kept").unwrap();
    runtime.start_all(2);
    assert!(runtime.log(WORKER).contains("worker register success"));
    assert!(runtime.log(MASTER).contains("running without a cluster secret"), "it says so loudly");
    assert!(
        runtime.log(MASTER).contains("rpc_prot") && runtime.log(MASTER).contains("rpc_port?"),
        "with the nearest key"
    );

    // What Fluid does before it binds the dataset.
    assert_eq!(mounted(&runtime), ["/demo"]);
    let summary = answer(&runtime, &["report-summary"]);
    for name in ["cached", "cachedPercentage", "cacheCapacity", "cacheHitRatio", "ufsTotal", "fileNum"] {
        assert!(summary[name].is_string(), "{summary}");
    }
    assert_eq!((&summary["cacheCapacity"], &summary["ufsTotal"]), (&json!("4.12GiB"), &json!("0.00B")));

    // Section 4. The application's volume is a bind mount of the client's path, as the CSI driver makes it.
    let data = runtime.path("data");
    std::fs::create_dir(&data).unwrap();
    let (client, data) = (text(&runtime.mount_path()), text(&data));
    sh(r#"mount --bind "$1" "$2""#, &[&client, &data]);
    let in_client = |script: &str| runtime.exec(CLIENT, &["sh", "-c", script, "sh", &client]).ok();
    let in_pod = |script: &str| sh(script, &[&data]);
    in_client(r#"echo "Hello Curvine!" > "$1"/test1.txt"#);
    assert_eq!(in_client(r#"cat "$1"/test1.txt"#), "Hello Curvine!\n");
    in_client(r#"mkdir -p "$1"/testdir && echo "Directory test" > "$1"/testdir/file.txt"#);
    for listing in [in_client(r#"ls -la "$1"/"#), in_pod(r#"ls -la "$1"/"#)] {
        assert!(listing.contains("test1.txt") && listing.contains("testdir") && listing.contains("demo"), "{listing}");
    }
    in_pod(r#"echo "PVC test success!" > "$1"/pvc-test.txt"#);
    assert_eq!(in_pod(r#"cat "$1"/pvc-test.txt"#), "PVC test success!\n");
    assert_eq!(in_client(r#"cat "$1"/pvc-test.txt"#), "PVC test success!\n");
    in_pod(r#"echo "Cross access test" > "$1"/cross-test.txt"#);
    assert_eq!(in_client(r#"cat "$1"/cross-test.txt"#), "Cross access test\n");
    let copied = Sh::run(r#"dd if=/dev/zero of="$1"/bigfile.dat bs=1M count=10"#, &[&data]);
    assert!(copied.worked() && copied.stderr.contains("10485760 bytes"), "{copied}");
    assert!(in_pod(r#"ls -lh "$1"/bigfile.dat"#).starts_with("-rw-r--r-- 1 root root 10M "));

    // Client and worker of a node meet at a socket in the directory that they share, and data went that way.
    let connections = |pod: &str| {
        assert!(runtime.path("sockets").join(format!("default.{pod}.sock")).exists());
        // A socket keeps the name that it was bound to before it was moved into its place.
        let bound = text(&runtime.path("sockets").join(format!("default.{pod}")));
        let table = std::fs::read_to_string("/proc/net/unix").unwrap();
        table.lines().filter(|line| line.contains(&bound)).count()
    };
    assert!(connections(WORKER) + connections("curvine-demo-worker-1") > 2, "two that listen, and a connection");
    let nodes = runtime.exec(CLIENT, &[CURVINE, "cv", "node", "--list", "--json"]).ok();
    assert!(nodes.contains(&runtime.address(WORKER)), "cv finds the cluster of its pod: {nodes}");

    // The pod ends as the kubelet ends it.
    sh(r#"umount "$1""#, &[&data]);
    runtime.fluid(CLIENT, &["unmount", "--timeout", "5s"]).ok();
    assert!(runtime.terminate(CLIENT).success());
    assert!(mountinfo::at(&runtime.mount_path()).iter().all(|entry| !entry.kind.starts_with("fuse")));
    assert_eq!(std::fs::read_to_string(runtime.mount_path().join("kept")).unwrap(), "kept");

    // A worker that goes leaves everything to the other one, and is not missed; the last one says loudly what it takes with it.
    let last = "curvine-demo-worker-1";
    assert!(runtime.terminate(WORKER).success(), "{}", runtime.log(WORKER));
    let left: Value = serde_json::from_str(&runtime.exec(MASTER, &[CURVINE, "cv", "node", "--json"]).ok()).unwrap();
    assert!(left["workers"].as_array().unwrap().iter().any(|worker| worker["state"] == "leaving"), "{left}");
    assert_eq!(runtime.exec(MASTER, &[CURVINE, "cv", "fs", "cat", "/test1.txt"]).ok(), "Hello Curvine!\n");
    let copied = runtime.path("copied");
    runtime.exec(MASTER, &[CURVINE, "cv", "fs", "get", "/bigfile.dat", &text(&copied)]).ok();
    assert_eq!(std::fs::read(&copied).unwrap(), vec![0; 10 << 20]);
    assert!(!runtime.terminate(last).success());
    let log = runtime.log(last);
    assert!(log.contains("ERROR") && log.contains("files that are nowhere else"), "{log}");
    assert!(runtime.terminate(MASTER).success(), "{}", runtime.log(MASTER));
    runtime.start_all(2);
    assert_eq!(mounted(&runtime), ["/demo"]);
    assert_eq!(sh(r#"cat "$1"/test1.txt && wc -c < "$1"/bigfile.dat"#, &[&client]), "Hello Curvine!\n10485760\n");
    assert!(runtime.terminate(CLIENT).success());
}

#[test]
fn mounts_follow_the_dataset_and_credentials_are_seen_nowhere() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let store = Store::start(&["test", "other"]);
    store.put("test", "a.txt", b"from the bucket\n");
    store.put("test", "sub/b.bin", &vec![7; 300_000]);
    store.put("other", "c.txt", b"of the other one\n");
    let mut runtime = Runtime::new("runtime.json");
    let secrets = runtime.path("secrets");
    std::fs::write(secrets.join("access-key"), ACCESS).unwrap();
    std::fs::write(secrets.join("secret-key"), format!("{SECRET}\n")).unwrap();
    let encrypted = json!({ "access": text(&secrets.join("access-key")), "secret": text(&secrets.join("secret-key")) });
    let mount = |bucket: &str, path: &str| {
        json!({
            "mountPoint": format!("s3://{bucket}"),
            "options": { "endpoint_url": store.endpoint(), "path_style": "true", "region_name": "us-east-1" },
            "encryptOptions": encrypted,
            "path": path,
        })
    };
    let own = json!({ "mountPoint": "curvine:///", "name": "demo", "path": "/demo" });
    let publish = |runtime: &mut Runtime, mounts: Value| {
        let described = runtime.describe(mounts, 1);
        runtime.publish(&described.to_string());
    };

    // A path that begins as another one, and Curvine's own tree beside a store.
    publish(&mut runtime, json!([mount("test", "/data"), own]));
    for pod in [MASTER, WORKER] {
        runtime.start(pod);
    }
    for pod in [MASTER, WORKER] {
        runtime.ready(pod);
    }
    assert_eq!(mounted(&runtime), ["/data", "/demo"]);
    assert_eq!(mounted(&runtime), ["/data", "/demo"], "twice is as good as once");
    let cv = |runtime: &Runtime, line: &str| {
        let words: Vec<&str> = [CURVINE, "cv"].into_iter().chain(line.split(' ')).collect();
        runtime.exec(MASTER, &words)
    };
    assert_eq!(cv(&runtime, "fs cat /data/a.txt").ok(), "from the bucket\n");
    publish(&mut runtime, json!([mount("test", "/data"), mount("other", "/data2"), own]));
    assert_eq!(mounted(&runtime), ["/data", "/data2", "/demo"]);
    assert_eq!(cv(&runtime, "fs cat /data2/c.txt").ok(), "of the other one\n");

    // Loading, told where the cluster is by the file, by the name of the pod, and by the class.
    let load = ("FLUID_DATALOAD_DATA_PATH", "/data:/data2");
    let file = text(&runtime.path("config/runtime.json"));
    let (namespace, host) = (("FLUID_DATASET_NAMESPACE", "default"), runtime.address(MASTER));
    let others = [("FLUID_DATALOAD_METADATA", "true"), ("FLUID_DATALOAD_PATH_REPLICAS", "1:1")];
    let base = [&[load][..], &others].concat();
    let with = |more: &[(&'static str, &str)]| -> Vec<(String, String)> {
        base.iter().chain(more).map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    let absent = ("FLUID_RUNTIME_CONFIG_PATH", "/etc/fluid/config/runtime.json");
    let loaded = runtime.job(&with(&[namespace, ("FLUID_RUNTIME_CONFIG_PATH", &file)]), &["data-load"]);
    assert!(loaded.clone().ok().contains("3 files"), "{loaded}");
    runtime.job(&with(&[absent, ("POD_NAME", "curvine-demo-load-loader-job-x2b4z")]), &["data-load"]).ok();
    runtime.job(&with(&[absent, ("CURVINE_MASTER", &host)]), &["data-load"]).ok();
    let lost = runtime.job(&with(&[absent, ("POD_NAME", "something")]), &["data-load"]).fails();
    assert!(lost.stderr.contains("CURVINE_MASTER"), "{lost}");
    runtime
        .job(&with(&[absent, ("CURVINE_MASTER", &host), ("FLUID_DATALOAD_DATA_PATH", "/nowhere")]), &["data-load"])
        .fails();
    // Workers tell what they hold with their heartbeats.
    let summary = until("everything is cached", SOON, || {
        let summary = answer(&runtime, &["report-summary"]);
        (summary["cachedPercentage"] == "100.0%").then_some(summary)
    });
    assert_eq!(summary["fileNum"], "3", "{summary}");
    assert_ne!(summary["ufsTotal"], "0.00B");

    // One is taken out of the dataset; another one is there twice under another store.
    publish(&mut runtime, json!([mount("other", "/data"), own]));
    assert_eq!(mounted(&runtime), ["/data", "/demo"]);
    assert_eq!(cv(&runtime, "fs cat /data/c.txt").ok(), "of the other one\n");
    cv(&runtime, "fs stat /data2/c.txt").fails();

    // Credentials that are wrong at first and put right in their file, by nobody's command.
    std::fs::write(secrets.join("secret-key"), "wrong-and-never-shown").unwrap();
    publish(&mut runtime, json!([mount("other", "/data"), mount("test", "/late"), own]));
    let refused = runtime.fluid(MASTER, &["mount-ufs"]).fails();
    assert!(refused.stdout.is_empty() && !refused.stderr.contains("never-shown"), "{refused}");
    std::fs::write(secrets.join("secret-key"), SECRET).unwrap();
    until("the first master follows the files of credentials", SOON, || {
        let table = cv(&runtime, "mount");
        (table.worked() && table.text().contains("| /late ")).then_some(())
    });
    assert_eq!(mounted(&runtime), ["/data", "/demo", "/late"]);
    assert_eq!(cv(&runtime, "fs cat /late/a.txt").ok(), "from the bucket\n");

    for pod in [MASTER, WORKER] {
        let log = runtime.log(pod);
        assert!(!log.contains(SECRET) && !log.contains(ACCESS) && !log.contains("never-shown"), "{log}");
        let conf = std::fs::read_to_string(runtime.path(&format!("run-{pod}/curvine-cluster.toml"))).unwrap();
        assert!(!conf.contains(SECRET));
    }

    // Without the file nothing is guessed and nothing is unmounted.
    let missing = text(&runtime.path("config/missing.json"));
    let lost = runtime.exec(
        MASTER,
        &["env", &format!("FLUID_RUNTIME_CONFIG_PATH={missing}"), CURVINE, "fluid", "mount-ufs", "--timeout", "2s"],
    );
    assert!(lost.fails().stdout.is_empty());
    assert_eq!(mounted(&runtime), ["/data", "/demo", "/late"]);

    // What is no dataset at all is an error with nothing on standard output.
    publish(&mut runtime, json!([mount("test", "/same"), mount("other", "/same/")]));
    assert!(runtime.fluid(MASTER, &["mount-ufs"]).fails().stdout.is_empty());
}

#[test]
fn the_older_branch_and_manifests_of_the_existing_image_work_too() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    // An empty text until the runtime is set up, which waits for the master to be ready.
    let mut runtime = Runtime::new("config.json");
    runtime.publish("\"\"");
    runtime.start(MASTER);
    runtime.ready(MASTER);
    let tiers = format!("[HDD:1GB:80%:50%]{}", text(&runtime.path("cache-data")));
    let mut environment = runtime.environment(WORKER);
    environment.push(("CURVINE_DATA_DIR".into(), tiers));
    runtime.start_with(WORKER, environment, &[CURVINE, "fluid", "worker"]);
    runtime.start(CLIENT);
    runtime.ready(WORKER);
    runtime.ready(CLIENT);
    let path = text(&runtime.mount_path());
    sh(r#"echo hello > "$1"/a && dd if=/dev/zero of="$1"/big bs=1M count=3 status=none && cat "$1"/a"#, &[&path]);
    assert!(runtime.path("cache-data/default.curvine-demo-worker-0").is_dir(), "a directory of its own");

    // Once it is set up the runtime is described, and nobody executes anything: the master mounts what the dataset lists.
    let early = runtime.path("early");
    std::fs::create_dir(&early).unwrap();
    std::fs::write(early.join("y"), "early\n").unwrap();
    let described = json!({
        "mounts": [
            { "mountPoint": "curvine:///", "name": "demo" },
            { "mountPoint": format!("file://{}", text(&early)), "name": "early" },
        ],
        "accessModes": ["ReadWriteMany"],
        "master": { "enabled": true }, "worker": { "enabled": true },
        "client": { "enabled": true, "targetPath": path },
        "topology": { "master": { "podConfigs": [{ "podName": MASTER }], "service": { "name": "curvine-demo-master" } } },
    });
    runtime.publish(&described.to_string());
    until("the master mounts what the dataset lists", SOON, || {
        let read = Sh::run(r#"cat "$1"/early/y && test -d "$1"/demo"#, &[&path]);
        (read.worked() && read.text() == "early\n").then_some(())
    });
    runtime.publish("\"\"");

    // The same pods with the config file and the commands of the existing image.
    for pod in [CLIENT, WORKER, MASTER] {
        // The only worker keeps what only it has, and says so.
        assert!(runtime.terminate(pod).success() != (pod == WORKER), "{}", runtime.log(pod));
    }
    let conf = text(&runtime.path("curvine.toml"));
    let (master, worker) = (runtime.address(MASTER), runtime.address(WORKER));
    let (journal, data) = (text(&runtime.path("journal")), text(&runtime.path("own-tier")));
    let toml = format!(
        "format_master = false\n[master]\nmeta_dir = \"/tmp/meta\"\n[journal]\njournal_dir = {journal:?}\n\
         journal_addrs = [{{id = 1, hostname = \"{master}\", port = 8996}}]\n[worker]\ndir_reserved = \"0\"\n\
         data_dir = [\"[HDD:1GB]{data}\"]\n[client]\nmaster_addrs = [{{ hostname = \"{master}\", port = 8995 }}]\n"
    );
    std::fs::write(&conf, toml).unwrap();
    for (pod, variable, host) in
        [(MASTER, "CURVINE_MASTER_HOSTNAME", &master), (WORKER, "CURVINE_WORKER_HOSTNAME", &worker)]
    {
        let mut environment = runtime.environment(pod);
        environment.push(("CURVINE_CONF_FILE".into(), conf.clone()));
        environment.push((variable.into(), host.clone()));
        let component = if pod == MASTER { "master" } else { "worker" };
        runtime.start_with(pod, environment, &[CURVINE, "fluid", component]);
        runtime.ready(pod);
    }
    assert!(runtime.path("own-tier").is_dir(), "the file's own tiers are kept");
    let bin = runtime.path("bin");
    std::fs::create_dir(&bin).unwrap();
    for name in ["cv", "curvine-fuse"] {
        std::os::unix::fs::symlink(CURVINE, bin.join(name)).unwrap();
    }
    let store = runtime.path("store");
    std::fs::create_dir(&store).unwrap();
    std::fs::write(store.join("x"), "of the store\n").unwrap();
    let (cv, fuse) = (text(&bin.join("cv")), text(&bin.join("curvine-fuse")));
    let url = format!("file://{}", text(&store));
    runtime.exec(MASTER, &[&cv, "mount", &url, "/minio", "--check-path-consist", "false"]).ok();
    let table = runtime.exec(MASTER, &[&cv, "mount"]).ok();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows.iter().any(|row| row.split('|').nth(2).map(str::trim) == Some("/minio")), "{table}");
    runtime.exec(MASTER, &[&cv, "load", "/minio", "--watch", "--conf", &conf]).ok();
    runtime.start_with(CLIENT, runtime.environment(CLIENT), &[&fuse, "--mnt-path", &path, "--conf", &conf]);
    runtime.ready(CLIENT);
    assert_eq!(sh(r#"cat "$1"/a "$1"/minio/x"#, &[&path]), "hello\nof the store\n");
    assert!(runtime.terminate(CLIENT).success());
}

#[test]
fn killed_clients_and_datasets_made_again_leave_a_node_that_works() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let mut runtime = Runtime::new("runtime.json");
    let described = runtime.describe(json!([{ "mountPoint": "curvine:///", "name": "demo", "path": "/demo" }]), 1);
    runtime.publish(&described.to_string());
    runtime.start_all(1);
    let path = text(&runtime.mount_path());
    sh(r#"echo one > "$1"/one && dd if=/dev/zero of="$1"/big bs=1M count=2 status=none"#, &[&path]);

    // The process that serves is killed again and again: an application with an open file notices nothing.
    let data = runtime.path("data");
    std::fs::create_dir(&data).unwrap();
    sh(r#"mount --bind "$1" "$2""#, &[&path, &text(&data)]);
    let held =
        std::fs::File::options().create(true).truncate(true).read(true).write(true).open(data.join("held")).unwrap();
    let held = std::sync::Arc::new(held);
    let kills = harness::number("CURVINE_FLUID_KILLS", 3);
    for turn in 0..kills {
        let served = until("the client has a process that serves", SOON, || runtime.children(CLIENT).first().copied());
        let pid = rustix::process::Pid::from_raw(served as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let (held, data) = (held.clone(), data.clone());
        within("an application goes on", SOON, move || {
            let line = format!("turn {turn:04}\n");
            held.write_all_at(line.as_bytes(), turn * 10).unwrap();
            let mut back = vec![0; 10];
            held.read_exact_at(&mut back, turn * 10).unwrap();
            assert_eq!(back, line.as_bytes());
            assert_eq!(std::fs::read_to_string(data.join("one")).unwrap(), "one\n");
            std::fs::write(data.join(format!("new-{turn}")), "new").unwrap();
        });
        until("the one that was killed is gone", SOON, || (!runtime.children(CLIENT).contains(&served)).then_some(()));
    }
    drop(held);
    sh(r#"umount "$1""#, &[&text(&data)]);
    runtime.ready(CLIENT);

    // The first process of the client is killed: the next one recovers the path by itself.
    runtime.kill(CLIENT);
    runtime.start(CLIENT);
    runtime.ready(CLIENT);
    assert_eq!(sh(r#"cat "$1"/one"#, &[&path]), "one\n");

    // Killed again, with nobody to come: the janitor makes the path usable for the container runtime.
    runtime.kill(CLIENT);
    let dead = runtime.mount_path();
    let is_dead = {
        let dead = dead.clone();
        within("looking at a dead mount", SOON, move || rustix::fs::statfs(&dead).is_err())
    };
    assert!(is_dead, "a dead mount is what this is about");
    let root = text(&runtime.path("runtime-mnt/cache"));
    let mut janitor = std::process::Command::new(CURVINE)
        .args(["fluid", "janitor", "--root", &root, "--interval", "100ms"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let usable = harness::wait::try_until(SOON, || rustix::fs::statfs(&dead).is_ok().then_some(()));
    let alive = mountinfo::at(&dead);
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&janitor), rustix::process::Signal::TERM);
    assert!(janitor.wait().unwrap().success());
    assert!(usable.is_some() && alive.iter().all(|entry| !entry.kind.starts_with("fuse")), "{alive:?}");
    runtime.start(CLIENT);
    runtime.ready(CLIENT);
    assert_eq!(sh(r#"cat "$1"/one"#, &[&path]), "one\n");
    assert!(runtime.terminate(CLIENT).success());

    // The dataset is deleted and made again: another cluster, over the same directories of the worker.
    for pod in [WORKER, MASTER] {
        assert!(runtime.terminate(pod).success() != (pod == WORKER));
    }
    std::fs::remove_dir_all(runtime.path("journal")).unwrap();
    runtime.start_all(1);
    assert!(runtime.log(WORKER).contains("another cluster"), "it says what lies there");
    sh(r#"test ! -e "$1"/one && dd if=/dev/zero of="$1"/new bs=1M count=2 status=none"#, &[&path]);
    assert!(runtime.terminate(CLIENT).success());
}
