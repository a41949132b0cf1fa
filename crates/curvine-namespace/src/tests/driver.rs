//! A namespace with short words for commands, whose clock ticks a second with each of them.

use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::{ErrorKind, InodeId, ROOT_INODE, SessionId};

use crate::Namespace;

pub struct Driver {
    pub ns: Namespace,
    pub clock: i64,
    sequence: u64,
}

/// The error of an outcome.
pub fn kind(outcome: &Outcome) -> ErrorKind {
    ErrorKind::from_code(outcome.error.as_ref().expect("the command fails").kind)
}

impl Driver {
    /// An initialised cluster.
    pub fn new() -> Self {
        let mut driver = Self { ns: Namespace::new(), clock: 1000, sequence: 0 };
        let init = InitCluster { cluster: b"0123456789abcdef".as_slice().into(), ..Default::default() };
        driver.ok(0, Body::InitCluster(init));
        driver
    }

    /// Another one, restored from this one's snapshot.
    pub fn copy(&self) -> Self {
        let ns = Namespace::restore(&mut &self.bytes()[..]).unwrap();
        Self { ns, clock: self.clock, sequence: self.sequence }
    }

    /// Applies one command under a fresh number.
    pub fn run(&mut self, session: SessionId, body: Body) -> Outcome {
        self.sequence += 1;
        self.send(session, self.sequence, self.sequence, body)
    }

    /// Applies one command.
    pub fn send(&mut self, session: SessionId, sequence: u64, lowest_unacked: u64, body: Body) -> Outcome {
        self.clock += 1;
        let command = Command { session, sequence, lowest_unacked, body: Some(body) };
        let batch = CommandBatch { now: Some(Time::new(self.clock, 0)), commands: vec![command] };
        let mut outcomes = self.ns.apply(&batch);
        assert_eq!(outcomes.len(), 1);
        self.ns.check().expect("the invariants hold");
        outcomes.remove(0)
    }

    #[track_caller]
    pub fn ok(&mut self, session: SessionId, body: Body) -> Outcome {
        let outcome = self.run(session, body);
        assert_eq!(outcome.error, None);
        outcome
    }

    /// A command that must fail and change nothing but the clock.
    #[track_caller]
    pub fn fails(&mut self, session: SessionId, body: Body) -> ErrorKind {
        let counts = self.ns.counts();
        let outcome = self.run(session, body);
        let results = self.ns.counts().results;
        assert_eq!(crate::Counts { results, ..counts }, self.ns.counts());
        kind(&outcome)
    }

    pub fn session(&mut self, client: &str) -> SessionId {
        let open = OpenSession { kind: SessionKind::Mount as i32, client: client.into(), ..Default::default() };
        self.ok(0, Body::OpenSession(open)).id
    }

    pub fn worker(&mut self, number: u8) -> u64 {
        let register = RegisterWorker { uuid: vec![number; 16].into(), hostname: "w".into(), ..Default::default() };
        self.ok(0, Body::RegisterWorker(register)).id
    }

    /// Frees all of the removed trees.
    pub fn reap(&mut self) {
        while self.ok(0, Body::Reap(Reap { steps: 1000 })).more {}
    }

    #[track_caller]
    pub fn make(&mut self, parent: InodeId, name: &str) -> InodeId {
        self.ok(0, create(parent, name, FileKind::File)).attr.unwrap().inode
    }

    #[track_caller]
    pub fn mkdir(&mut self, parent: InodeId, name: &str) -> InodeId {
        self.ok(0, create(parent, name, FileKind::Directory)).attr.unwrap().inode
    }

    #[track_caller]
    pub fn attr(&self, inode: InodeId) -> Attr {
        self.ns.attr(inode).unwrap()
    }

    pub fn exists(&self, inode: InodeId) -> bool {
        self.ns.attr(inode).is_ok()
    }

    #[track_caller]
    pub fn lookup(&self, parent: InodeId, name: &str) -> Option<InodeId> {
        self.ns.lookup(parent, name.as_bytes()).unwrap().map(|attr| attr.inode)
    }

    pub fn names(&self, dir: InodeId) -> Vec<String> {
        let (entries, end) = self.ns.readdir(dir, 0, usize::MAX).unwrap();
        assert!(end);
        entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect()
    }

    pub fn path(&self, inode: InodeId) -> Option<String> {
        self.ns.path(inode).map(|path| String::from_utf8(path).unwrap())
    }

    /// The whole state as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.ns.snapshot().write_to(&mut bytes).unwrap();
        bytes
    }
}

pub const ROOT: InodeId = ROOT_INODE;

pub fn create(parent: InodeId, name: &str, kind: FileKind) -> Body {
    let target = if kind == FileKind::Symlink { "target" } else { "" };
    Body::Create(Create {
        parent,
        name: name.to_string().into(),
        kind: kind as i32,
        mode: 0o644,
        symlink_target: target.into(),
        exclusive: true,
        ..Default::default()
    })
}

pub fn unlink(parent: InodeId, name: &str) -> Body {
    Body::Unlink(Unlink { parent, name: name.to_string().into(), ..Default::default() })
}

pub fn rmdir(parent: InodeId, name: &str) -> Body {
    Body::Unlink(Unlink { parent, name: name.to_string().into(), directory: true, ..Default::default() })
}

pub fn link(inode: InodeId, parent: InodeId, name: &str) -> Body {
    Body::Link(Link { inode, parent, name: name.to_string().into() })
}

pub fn rename(parent: InodeId, name: &str, new_parent: InodeId, new_name: &str, flags: u32) -> Body {
    Body::Rename(Rename {
        parent,
        name: name.to_string().into(),
        new_parent,
        new_name: new_name.to_string().into(),
        flags,
        ..Default::default()
    })
}

pub fn write(inode: InodeId, offset: u64, data: &[u8]) -> Body {
    Body::WriteInline(WriteInline { inode, offset, data: data.to_vec().into(), ..Default::default() })
}

pub fn truncate(inode: InodeId, size: u64) -> Body {
    Body::SetAttr(SetAttr { inode, size: Some(size), ..Default::default() })
}

pub fn seconds(time: Option<Time>) -> i64 {
    time.unwrap().sec
}
