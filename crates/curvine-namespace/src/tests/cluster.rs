use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::{ClusterId, ErrorKind};

use super::driver::*;
use crate::Namespace;

#[test]
fn before_the_cluster_is_initialised_every_command_is_refused() {
    let mut ns = Namespace::new();
    let commands = [create(ROOT, "a", FileKind::File), Body::OpenSession(OpenSession::default())];
    let commands = commands.map(|body| Command { body: Some(body), ..Default::default() });
    for outcome in ns.apply(&CommandBatch { now: None, commands: commands.to_vec() }) {
        assert_eq!(kind(&outcome), ErrorKind::Unavailable);
    }
    assert_eq!(ns.cluster(), None);
    assert_eq!(ns.attr(ROOT).unwrap_err().kind(), ErrorKind::Stale);
}

#[test]
fn a_cluster_is_initialised_once() {
    let mut d = Driver::new();
    assert_eq!(d.ns.cluster(), Some(ClusterId(*b"0123456789abcdef")));
    let again = InitCluster { cluster: b"fedcba9876543210".as_slice().into(), ..Default::default() };
    assert_eq!(d.fails(0, Body::InitCluster(again)), ErrorKind::AlreadyExists);
    let root = d.attr(ROOT);
    assert_eq!((root.kind(), root.mode, root.nlink, root.size), (FileKind::Directory, 0o755, 2, 0));
    assert_eq!(d.lookup(ROOT, ".."), Some(ROOT));
}

#[test]
fn time_never_goes_back() {
    let mut d = Driver::new();
    d.clock = 5000;
    d.make(ROOT, "a");
    d.clock = 2000;
    let late = d.make(ROOT, "b");
    assert_eq!(seconds(d.attr(late).btime), 5001);
    assert_eq!(d.ns.now(), Time::new(5001, 0));
}

#[test]
fn a_worker_keeps_its_number_with_its_uuid() {
    let mut d = Driver::new();
    let (first, second) = (d.worker(1), d.worker(2));
    assert_ne!(first, second);
    let moved = RegisterWorker { uuid: vec![1; 16].into(), hostname: "new".into(), rpc_port: 7, socket: "s".into() };
    assert_eq!(d.ok(0, Body::RegisterWorker(moved)).id, first);
    assert_eq!(d.ns.worker(first).unwrap().hostname, "new");
    assert_eq!(d.ns.workers().len(), 2);
    let bad = RegisterWorker { uuid: vec![1; 3].into(), ..Default::default() };
    assert_eq!(d.fails(0, Body::RegisterWorker(bad)), ErrorKind::InvalidArgument);
}

#[test]
fn the_feature_level_only_rises() {
    let mut d = Driver::new();
    d.ok(0, Body::RaiseFeatureLevel(RaiseFeatureLevel { level: 3 }));
    assert_eq!(d.fails(0, Body::RaiseFeatureLevel(RaiseFeatureLevel { level: 2 })), ErrorKind::InvalidArgument);
    assert_eq!(d.ns.feature_level(), 3);
}

#[test]
fn a_command_of_a_newer_version_is_refused() {
    let mut d = Driver::new();
    let outcomes = d.ns.apply(&CommandBatch { now: None, commands: vec![Command::default()] });
    assert_eq!(kind(&outcomes[0]), ErrorKind::NotSupported);
}
