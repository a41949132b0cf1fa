//! The steps of Fluid's own end-to-end test for Curvine: its dataset, its class for the image of old with a rendered config file,
//! its scripts and jobs, each executed as Fluid and the kubelet execute them.

use serde_json::json;

use crate::harness::{self, mountinfo, until};
use crate::pods::{Runtime, sh, text};
use crate::store::{ACCESS, SECRET, Store};
use crate::{CLIENT, MASTER, SOON, WORKER, guard};

/// What the class's init container renders of the runtime's file.
fn rendered() -> String {
    let host = "curvine-demo-master-0.svc-curvine-demo-master";
    format!(
        "[master]\nmeta_dir = \"testing/meta\"\n\n[journal]\njournal_addrs = [\n  {{id = 1, hostname = \"{host}\", port = 8996}}\n]\n\
         journal_dir = \"testing/journal\"\n\n[worker]\ndir_reserved = \"0\"\ndata_dir = [\n  \
         \"[HDD:1GB]/etc/fluid/mount/tiered-store/level-0-index-0-emptydir\"\n]\n"
    )
}

/// Mounts what the table lacks and answers with the paths of the table, with what a class of old has at hand: bash, sed, grep, cv.
const MOUNT_SCRIPT: &str = r#"#!/bin/bash
file=$(cat "${FLUID_RUNTIME_CONFIG_PATH}")
field() { echo "$file" | sed -nE 's/.*"'"$1"'":"([^"]+)".*/\1/p'; }
url=$(echo "$file" | sed -nE 's/.*"mountPoint":"([^"]+)".*/\1/p')
path=$(echo "$file" | sed -nE 's/.*"path":"([^"]+)".*/\1/p')
access=$(cat "$(field access)")
secret=$(cat "$(field secret)")
if ! /app/curvine/bin/cv mount | grep -q "$url"; then
    /app/curvine/bin/cv mount "$url" "$path" --check-path-consist false -c s3.endpoint_url="$(field endpoint_url)" \
        -c s3.credentials.access="$access" -c s3.credentials.secret="$secret" -c s3.region_name="$(field region_name)" \
        -c s3.path_style="$(field path_style)" >&2 || exit 1
fi
paths=$(/app/curvine/bin/cv mount | grep '^|' | cut -d'|' -f3 | sed -E 's/^ +//; s/ +$//' | grep '^/')
printf '{"mounted":['
first=1
for path in $paths; do
    [ "$first" = 1 ] || printf ,
    first=0
    printf '"%s"' "$path"
done
printf ']}\n'
"#;

/// A load with a config file that names the masters' log and nothing else, without the runtime's file.
const LOAD_SCRIPT: &str = r#"
printf '[journal]\njournal_addrs = [\n{id=1, hostname="curvine-demo-master-0.svc-curvine-demo-master"}\n]\n' > /etc/curvine.toml
IFS=: read -ra paths <<< "$FLUID_DATALOAD_DATA_PATH"
for path in "${paths[@]}"; do
    /app/curvine/bin/cv load "$path" --watch --conf /etc/curvine.toml || { echo "Error: load $path failed."; exit 1; }
done
"#;

/// As the class sets it: no address, no node.
fn environment(runtime: &Runtime, pod: &str, host: Option<&str>) -> Vec<(String, String)> {
    const LEFT_OUT: [&str; 4] = ["POD_IP", "NODE_NAME", "CURVINE_SOCKET_DIR", "CURVINE_RUN_DIR"];
    let mut pairs = runtime.environment(pod);
    pairs.retain(|(name, _)| !LEFT_OUT.contains(&name.as_str()));
    pairs.push(("CURVINE_CONF_FILE".into(), "/etc/curvine/curvine.toml".into()));
    if let Some(variable) = host {
        let component = if pod.contains("master") { "master" } else { "worker" };
        pairs.push((variable.into(), format!("{pod}.svc-curvine-demo-{component}")));
    }
    pairs
}

#[test]
fn fluids_own_test_passes_with_its_manifests_for_the_existing_image() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    // A store with a bucket, and its Secret.
    let store = Store::start(&["test"]);
    let mut runtime = Runtime::new("runtime.json");
    let secrets = runtime.path("secrets");
    std::fs::write(secrets.join("access-key"), ACCESS).unwrap();
    std::fs::write(secrets.join("secret-key"), SECRET).unwrap();
    let mounts = json!([{
        "mountPoint": "s3://test",
        "options": { "endpoint_url": store.endpoint(), "region_name": "us-east-1", "path_style": "true" },
        "encryptOptions": { "access": text(&secrets.join("access-key")), "secret": text(&secrets.join("secret-key")) },
        "name": "minio",
        "path": "/minio",
    }]);
    // Its options are names that nobody knows.
    let mut described = runtime.describe(mounts, 1);
    for component in ["master", "worker", "client"] {
        described[component]["options"] = json!({ "key1": "value1" });
    }
    runtime.publish(&described.to_string());
    let toml = rendered();

    let second = "curvine-demo-worker-1";
    for pod in [MASTER, WORKER, second, CLIENT] {
        let mut files = vec![("/etc/curvine/curvine.toml", toml.as_str())];
        if pod == MASTER {
            files.push(("/etc/curvine/mount/mountUfs.sh", MOUNT_SCRIPT));
        }
        runtime.prepare_root(pod, &files);
    }
    let variables = environment(&runtime, MASTER, Some("CURVINE_MASTER_HOSTNAME"));
    runtime.start_in_image(MASTER, variables, &["/entrypoint.sh", "master", "start"]);
    let variables = environment(&runtime, WORKER, Some("CURVINE_WORKER_HOSTNAME"));
    runtime.start_in_image(WORKER, variables, &["/entrypoint.sh", "worker", "start"]);

    // Its pods have no probes: Fluid executes the entry as soon as they run, and again until it answers with the dataset's paths.
    let command = ["bash", "-c", "/etc/curvine/mount/mountUfs.sh"];
    assert_eq!(guard::refuses(&command), None);
    let mut last = None;
    let bound = harness::wait::try_until(SOON, || {
        let run = last.insert(runtime.exec(MASTER, &command));
        run.worked().then(|| run.text())
    });
    let answer = bound.unwrap_or_else(|| panic!("the dataset is not bound: {}", last.expect("an attempt")));
    assert_eq!(answer.trim(), r#"{"mounted":["/minio"]}"#);
    assert_eq!(runtime.exec(MASTER, &command).ok().trim(), r#"{"mounted":["/minio"]}"#, "twice");
    until("the worker says that it is registered", SOON, || {
        let log = runtime.log(WORKER);
        let last: Vec<&str> = log.lines().rev().take(200).collect();
        last.iter().any(|line| line.contains("worker register success")).then_some(())
    });

    // The client, by its own name and arguments; the volume of a job is a bind mount of its path, that of the dataset which
    // refers to this one another one.
    let path = text(&runtime.mount_path());
    let client = ["/app/curvine/lib/curvine-fuse", "--mnt-path", &path, "--conf", "/etc/curvine/curvine.toml"];
    let variables = environment(&runtime, CLIENT, None);
    runtime.start_in_image(CLIENT, variables, &client);
    until("the mount is ready", SOON, || {
        let ours = |entry: &mountinfo::Entry| entry.kind == "fuse.curvine";
        mountinfo::at(&runtime.mount_path()).last().is_some_and(ours).then_some(())
    });
    let (data, other) = (runtime.path("data"), runtime.path("data-ref"));
    for volume in [&data, &other] {
        std::fs::create_dir(volume).unwrap();
        sh(r#"stat "$1" > /dev/null && mount --bind "$1" "$2""#, &[&path, &text(volume)]);
    }
    sh(r#"cd "$1" && echo helloworld > minio/bar"#, &[&text(&data)]);
    assert_eq!(std::fs::read(store.path("test", "bar")).unwrap(), b"helloworld\n", "the store has it");

    // The DataLoad's pod, which is given no file.
    let load = "curvine-dataload-loader-job-x2b4z";
    runtime.prepare_root(load, &[]);
    let variables = [
        ("PATH", std::env::var("PATH").unwrap_or_default()),
        ("FLUID_RUNTIME_CONFIG_PATH", "/etc/fluid/config/runtime.json".to_string()),
        ("FLUID_DATALOAD_DATA_PATH", "/minio".to_string()),
        ("FLUID_DATALOAD_METADATA", "false".to_string()),
        ("FLUID_DATALOAD_PATH_REPLICAS", "1".to_string()),
    ];
    let variables = variables.map(|(name, value)| (name.to_string(), value));
    runtime.job_in_image(load, &variables, &["/bin/bash", "-c", LOAD_SCRIPT]).ok();

    for volume in [&data, &other] {
        sh(r#"set -ex; test -n "$(cat "$1"/minio/bar)""#, &[&text(volume)]);
    }

    // Two workers and one again; what was written goes on being there.
    let variables = environment(&runtime, second, Some("CURVINE_WORKER_HOSTNAME"));
    runtime.start_in_image(second, variables, &["/entrypoint.sh", "worker", "start"]);
    until("the second worker is registered", SOON, || {
        runtime.log(second).contains("worker register success").then_some(())
    });
    sh(r#"dd if=/dev/urandom of="$1"/own bs=1M count=3 status=none && cp "$1"/own "$1"/minio/own"#, &[&text(&data)]);
    assert!(runtime.terminate(second).success(), "{}", runtime.log(second));
    sh(r#"cmp "$1"/own "$1"/minio/own && test "$(cat "$1"/minio/bar)" = helloworld"#, &[&text(&data)]);

    // Deleted: the client unmounts.
    for volume in [&data, &other] {
        sh(r#"umount "$1""#, &[&text(volume)]);
    }
    assert!(runtime.terminate(CLIENT).success(), "{}", runtime.log(CLIENT));
    assert!(mountinfo::at(&runtime.mount_path()).iter().all(|entry| !entry.kind.starts_with("fuse")));
    runtime.terminate(WORKER);
    assert!(runtime.terminate(MASTER).success(), "{}", runtime.log(MASTER));
    for pod in [MASTER, WORKER, second] {
        assert!(!runtime.log(pod).contains(SECRET) && !runtime.log(pod).contains(ACCESS));
    }
}
