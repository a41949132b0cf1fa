use super::*;

/// As Fluid's own code has written it.
const CURRENT: &str = include_str!("../testdata/runtime.json");
/// As its older branch writes it once the runtime is set up.
const OLDER: &str = include_str!("../testdata/config.json");

#[test]
fn the_file_of_fluids_master_is_understood() {
    let runtime = parse(CURRENT).unwrap().unwrap();
    let [mount] = &runtime.mounts[..] else { panic!("one mount") };
    assert_eq!((mount.mount_point.as_str(), mount.path.as_str()), ("s3://test", "/minio"));
    assert_eq!(mount.encrypt_options["access"], Path::new("/etc/fluid/secrets/curvine-secret/access-key"));
    assert_eq!(runtime.target_path.unwrap(), Path::new("/runtime-mnt/cache/default/curvine-demo/cache-fuse"));
    let master = runtime.master.unwrap();
    assert_eq!((master.name.as_str(), master.service.as_str()), ("curvine-demo-master", "svc-curvine-demo-master"));
    assert_eq!((master.replicas, master.options["journal_port"].as_str()), (1, "8996"));
    let worker = runtime.worker.unwrap();
    assert_eq!(worker.levels.len(), 3);
    assert_eq!((worker.levels[0].medium.as_str(), worker.levels[0].quotas[0].as_str()), ("MEM", "1Gi"));
    assert_eq!(worker.levels[2].paths.len(), 2);
    assert_eq!(runtime.client.unwrap().service, "");
}

#[test]
fn the_file_of_the_older_branch_is_understood() {
    let runtime = parse(OLDER).unwrap().unwrap();
    assert_eq!(runtime.mounts[0].path, "/demo");
    assert!(runtime.mounts[0].encrypt_options.is_empty(), "a native mount needs no credentials");
    assert_eq!(runtime.mounts[1].encrypt_options["access"], Path::new("/etc/fluid/secrets/curvine-secret/access-key"));
    assert_eq!(runtime.target_path.unwrap(), Path::new("/runtime-mnt/cache/default/curvine-demo/cache-fuse"));
    let master = runtime.master.unwrap();
    assert_eq!(
        (master.service.as_str(), &master.pods[..]),
        ("curvine-demo-master", &["curvine-demo-master-0".into()][..])
    );
    let worker = runtime.worker.unwrap();
    assert_eq!((worker.levels[0].paths[0].to_str(), worker.levels[0].high.as_str()), (Some("/cache-data"), "0.8"));
}

#[test]
fn nothing_written_yet_is_no_error() {
    for nothing in ["", "\"\"", "null", " \n"] {
        assert_eq!(parse(nothing).unwrap(), None);
    }
    assert_eq!(read(Path::new("/no/such/runtime.json")).unwrap(), None);
}

#[test]
fn encrypt_options_may_come_as_a_list() {
    let text = r#"{"mounts":[{"mountPoint":"s3://b","encryptOptions":[{"name":"access","path":"/s/a"}],"name":"b"}]}"#;
    let runtime = parse(text).unwrap().unwrap();
    assert_eq!(runtime.mounts[0].encrypt_options["access"], Path::new("/s/a"));
    assert_eq!(runtime.mounts[0].path, "/b");
}

#[test]
fn a_level_without_paths_and_a_seedlike_file_are_no_errors() {
    let text =
        r#"{"worker":{"tieredStoreLevels":[{"mediumType":"HDD","high":"0.8","low":"0.5"}],"service":{"name":""}}}"#;
    let level = parse(text).unwrap().unwrap().worker.unwrap().levels.remove(0);
    assert!(level.paths.is_empty() && level.quotas.is_empty());
    assert_eq!(parse("{}").unwrap().unwrap(), Runtime::default());
}

#[test]
fn an_error_names_the_place_and_never_the_text() {
    for bad in ["{\"mounts\":[{\"options\":\"s3cr3t\"}]}", "{\"mounts\": \"s3cr3t\"", "s3cr3t"] {
        let error = parse(bad).unwrap_err().to_string();
        assert!(error.contains("column") && !error.contains("s3cr3t"), "{error}");
    }
}
