//! What a file may say, and how it is told that it may not.

use std::path::Path;
use std::time::Duration;

use curvine_types::{Error, ErrorKind};

use crate::{ClusterConf, Role};

fn parse(text: &str) -> ClusterConf {
    let (conf, warnings) = ClusterConf::parse(text, "a.toml").unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    conf
}

fn refuse(text: &str) -> Error {
    let error = ClusterConf::parse(text, "a.toml").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    error
}

#[test]
fn values_are_read_with_their_units() {
    let conf = parse(
        r#"
        cluster_id = "training"
        [master]
        hostname = "m0"
        lease_time = "30s"
        root_mode = 0o750
        [worker]
        data_dir = ["[MEM:1GB]/dev/shm/curvine", "/data2"]
        dir_reserved = "1.5GB"
        [client]
        rpc_timeout_ms = 120000
        data_timeout_ms = "10s"
        umask = 0o22
        [fuse]
        io_threads = "16"
        clone_fd = "false"
        "#,
    );
    assert_eq!(conf.general.cluster_id, "training");
    assert_eq!(conf.master.lease_time, Duration::from_secs(30));
    assert_eq!(conf.master.root_mode, 0o750);
    assert_eq!(conf.worker.data_dir.len(), 2);
    assert_eq!(conf.worker.dir_reserved, 3 << 29);
    assert_eq!(conf.client.rpc_timeout_ms, Duration::from_secs(120));
    assert_eq!(conf.client.data_timeout_ms, Duration::from_secs(10));
    assert_eq!(conf.client.umask, 0o022);
    assert_eq!((conf.fuse.io_threads, conf.fuse.clone_fd), (16, false));
    assert_eq!(conf.client.master_addrs, ["m0:8995"]);
}

#[test]
fn addresses_are_texts_or_tables() {
    let conf = parse(
        r#"
        [journal]
        journal_addrs = [{ id = 1, hostname = "m0", port = 8996 }, "m1:8996"]
        [client]
        master_addrs = [{ hostname = "m0", port = "8995" }, "[::1]:8995"]
        "#,
    );
    assert_eq!(conf.journal.journal_addrs, ["m0:8996", "m1:8996"]);
    assert_eq!(conf.client.master_addrs, ["m0:8995", "[::1]:8995"]);
    // What manifests of the existing image write: the masters are where their log is.
    let short = parse("[master]\nrpc_port = 7\n[journal]\njournal_addrs = [{ id = 1, hostname = \"m0\" }, \"m1:9\"]");
    assert_eq!(short.journal.journal_addrs, ["m0:8996", "m1:9"]);
    assert_eq!(short.client.master_addrs, ["m0:7", "m1:7"]);
    for bad in ["[\"m0\"]", "[\":8995\"]", "[\"m0:\"]", "\"m0:8995\"", "[{ hostname = \"\", port = 1 }]"] {
        assert_eq!(refuse(&format!("[client]\nmaster_addrs = {bad}")).get("line"), Some("2"), "{bad}");
    }
}

#[test]
fn an_unknown_key_names_line_and_nearest_key() {
    let error = refuse("[master]\nhostname = \"a\"\n\nrpc_prot = 1\n");
    assert_eq!(
        (error.get("file"), error.get("line"), error.get("key")),
        (Some("a.toml"), Some("4"), Some("master.rpc_prot"))
    );
    assert!(error.to_string().contains("did you mean rpc_port?"), "{error}");
    assert!(refuse("[worker]\nmaster_addrs = []").to_string().contains("it belongs in [client]"));
    assert!(refuse("[wroker]\n").to_string().contains("did you mean worker?"));
    assert!(refuse("cluster_idd = \"x\"\n").to_string().contains("did you mean cluster_id?"));
    assert!(refuse("[client]\nxyzzy = 1\n").to_string().contains("CONFIGURATION.md"));
}

#[test]
fn a_malformed_value_says_what_is_expected() {
    for (text, key, expected) in [
        ("[master]\nrpc_port = 70000", "master.rpc_port", "port number"),
        ("[master]\nlease_time = 10", "master.lease_time", "duration with its unit"),
        ("[worker]\ndata_dir = [\"[SPDK_DISK]/x\"]", "worker.data_dir", "SPDK_DISK"),
        ("[worker]\nmemory_limit = \"lots\"", "worker.memory_limit", "size"),
        ("[fuse]\nclone_fd = 1", "fuse.clone_fd", "true or false"),
        ("[client]\nread_window = 0", "client.read_window", "above 0"),
        ("[client]\numask = 22", "client.umask", "octal"),
        ("[log]\nformat = \"xml\"", "log.format", "\"json\""),
    ] {
        let error = refuse(text);
        assert_eq!((error.get("line"), error.get("key")), (Some("2"), Some(key)));
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_syntax_error_names_its_line() {
    let error = refuse("[master]\nhostname = \"a\nrpc_port = 1\n");
    assert_eq!((error.get("file"), error.get("line")), (Some("a.toml"), Some("2")));
}

#[test]
fn retired_keys_are_accepted_with_a_reason() {
    let text = "format_master = false\n[master]\nio_threads = 32\n[master.compatibility]\nmode = \"diagnose\"\n[job]\njob_max_files = 1\n";
    let (conf, warnings) = ClusterConf::parse(text, "a.toml").unwrap();
    assert_eq!(conf.master, Default::default());
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(
        warnings.iter().any(|text| text.starts_with("master.io_threads has no effect: ") && text.ends_with("line=3)"))
    );
}

#[test]
fn formatting_is_refused() {
    for text in ["format_master = true", "format_worker = \"true\""] {
        assert!(refuse(text).to_string().contains("nothing is ever formatted"));
    }
}

#[test]
fn no_retired_key_is_also_a_living_one() {
    let known = ClusterConf::default().keys();
    for (section, keys, _) in crate::retired::RETIRED {
        for key in *keys {
            assert!(!known.iter().any(|info| info.section == *section && info.name == *key), "{section}.{key}");
        }
    }
}

#[test]
fn combinations_that_cannot_work_are_refused() {
    for (text, key) in [
        ("[master]\nlease_time = \"100ms\"", "master.lease_time"),
        ("[master]\nblock_size = \"1.5MB\"", "master.block_size"),
        ("[fuse]\ncongestion_threshold = 300", "fuse.congestion_threshold"),
        ("[fuse]\nfuse_opts = [\"max_read=5\"]", "fuse.fuse_opts"),
        ("[client]\nmutations_in_flight = 2000", "client.mutations_in_flight"),
        ("[client]\nrpc_timeout_ms = 0", "client.rpc_timeout_ms"),
        ("[client]\nmaster_addrs = [\"a:1\", \"a:1\"]", "client.master_addrs"),
        ("[worker]\ndata_dir = [\"/data\", \"/data/b\"]", "worker.data_dir"),
        ("[worker]\ndata_dir = [\"/data\"]\n[journal]\njournal_dir = \"/data/j\"", "journal.journal_dir"),
    ] {
        assert_eq!(refuse(text).get("key"), Some(key));
    }
}

#[test]
fn a_role_says_what_it_lacks() {
    let mut conf = parse("");
    assert!(conf.check_role(Role::Client).unwrap_err().to_string().contains("no cluster secret"));
    conf.security.allow_no_secret = true;
    assert!(conf.check_role(Role::Client).is_ok());
    assert_eq!(conf.check_role(Role::Master).unwrap_err().get("key"), Some("journal.journal_dir"));
    assert_eq!(conf.check_role(Role::Worker).unwrap_err().get("key"), Some("worker.data_dir"));
}

#[test]
fn the_environment_overrides_host_names() {
    let mut conf = parse("[master]\nhostname = \"a\"");
    let set = |name: &str| match name {
        "CURVINE_MASTER_HOSTNAME" => Some("m".to_string()),
        "CURVINE_WORKER_HOSTNAME" => Some("w".to_string()),
        "CURVINE_CLIENT_HOSTNAME" => Some("c".to_string()),
        "ORPC_BIND_HOSTNAME" => Some("0.0.0.0".to_string()),
        _ => None,
    };
    assert_eq!(conf.apply_environment(set).unwrap(), Vec::<String>::new());
    assert_eq!(
        [&conf.master.hostname, &conf.journal.hostname, &conf.worker.hostname, &conf.client.hostname],
        ["m", "m", "w", "c"]
    );
    assert_eq!(conf.general.bind_hostname, "0.0.0.0");

    conf.general.net_interface = "lo".to_string();
    assert_eq!(conf.apply_environment(set).unwrap().len(), 3);
    assert_eq!(conf.worker.hostname, "127.0.0.1");
    conf.general.net_interface = "nosuch0".to_string();
    assert!(conf.apply_environment(set).unwrap_err().to_string().contains("lo"));
}

#[test]
fn an_unreadable_file_is_an_error() {
    let error = ClusterConf::load(Some(Path::new("/nonexistent/curvine.toml"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(error.get("file"), Some("/nonexistent/curvine.toml"));
}

#[test]
fn what_is_written_reads_back() {
    let mut conf = parse(
        "[worker]\ndata_dir = [\"[SSD:100GB]/a \\\"quoted\\\" b\"]\nufs_timeout = \"1500ms\"\n[log]\nformat = \"json\"",
    );
    conf.general.cluster_id = "a\nb".to_string();
    conf.fuse.interrupt_grace = Duration::from_micros(1_500_000);
    conf.client.umask = 0;
    assert_eq!(parse(&conf.to_toml()), conf);
    assert_eq!(ClusterConf::default().to_toml(), "");
}

#[test]
fn every_default_reads_back_from_the_reference() {
    let mut text = String::new();
    let mut section = "";
    for key in ClusterConf::default().keys() {
        if key.section != section {
            section = key.section;
            text += &format!("[{section}]\n");
        }
        text += &format!("{} = {}\n", key.name, key.value);
        assert!(key.doc.ends_with('.') && !key.doc.contains("  "), "{}: {:?}", key.name, key.doc);
    }
    assert_eq!(parse(&text), parse(""));
}

#[test]
fn the_sample_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../etc/curvine-cluster.toml");
    let conf = parse(&std::fs::read_to_string(path).unwrap());
    assert!(!conf.journal.journal_dir.as_os_str().is_empty() && !conf.worker.data_dir.is_empty());
}

/// With `CURVINE_REWRITE_DOCS=1` the page is written anew instead.
#[test]
fn the_reference_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CONFIGURATION.md");
    if std::env::var_os("CURVINE_REWRITE_DOCS").is_some() {
        std::fs::write(&path, crate::reference()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == crate::reference(),
        "docs/CONFIGURATION.md differs from the catalogue, run CURVINE_REWRITE_DOCS=1 cargo test -p curvine-config"
    );
}
