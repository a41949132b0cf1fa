//! Random histories against a model that is too simple to be wrong: maps of names and of files, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::ErrorKind::{self, *};
use curvine_types::{InodeId, SessionId};
use proptest::prelude::*;

use super::driver::*;
use crate::{Namespace, ResultLookup};

/// An inode of the model.
#[derive(Clone, Debug, PartialEq)]
struct Node {
    kind: FileKind,
    data: Vec<u8>,
    holders: BTreeSet<SessionId>,
    writers: BTreeSet<SessionId>,
    /// It has no name yet and may get one.
    unnamed: bool,
}

impl Node {
    fn new(kind: FileKind) -> Self {
        Self { kind, data: vec![], holders: [].into(), writers: [].into(), unnamed: false }
    }
}

#[derive(Clone, Debug)]
struct Model {
    names: BTreeMap<(InodeId, u8), InodeId>,
    nodes: BTreeMap<InodeId, Node>,
    sessions: BTreeSet<SessionId>,
}

type Answer = Result<(), ErrorKind>;

impl Model {
    fn new(sessions: &[SessionId]) -> Self {
        let root = Node::new(FileKind::Directory);
        let sessions = sessions.iter().copied().collect();
        Self { names: BTreeMap::new(), nodes: [(ROOT, root)].into(), sessions }
    }

    fn is_dir(&self, id: InodeId) -> bool {
        self.nodes[&id].kind == FileKind::Directory
    }

    fn links(&self, id: InodeId) -> u32 {
        let names = self.names.values().filter(|child| **child == id).count() as u32;
        let subdirs = self.names.iter().filter(|((dir, _), child)| *dir == id && self.is_dir(**child)).count() as u32;
        match self.is_dir(id) {
            true if id == ROOT || names > 0 => 2 + subdirs,
            true => 0,
            false => names,
        }
    }

    fn need_dir(&self, id: InodeId) -> Answer {
        match self.nodes.get(&id) {
            None => Err(Stale),
            Some(node) if node.kind != FileKind::Directory => Err(NotADirectory),
            Some(_) => Ok(()),
        }
    }

    fn need_live_dir(&self, id: InodeId) -> Answer {
        self.need_dir(id)?;
        if self.links(id) == 0 { Err(NotFound) } else { Ok(()) }
    }

    fn is_empty(&self, dir: InodeId) -> bool {
        !self.names.keys().any(|(have, _)| *have == dir)
    }

    fn sweep(&mut self) {
        let unused = |model: &Self, id: InodeId, node: &Node| {
            id != ROOT && model.links(id) == 0 && node.holders.is_empty() && node.writers.is_empty()
        };
        let gone: Vec<_> = self.nodes.iter().filter(|(id, node)| unused(self, **id, node)).map(|(id, _)| *id).collect();
        for id in gone {
            self.nodes.remove(&id);
        }
    }

    fn hold(&mut self, id: InodeId, holders: &[SessionId]) {
        if self.links(id) == 0 {
            let alive = holders.iter().filter(|holder| self.sessions.contains(holder)).copied().collect::<Vec<_>>();
            self.nodes.get_mut(&id).unwrap().holders.extend(alive);
        }
    }

    fn is_within(&self, mut dir: InodeId, tree: InodeId) -> bool {
        while dir != tree && dir != ROOT {
            match self.names.iter().find(|(_, child)| **child == dir) {
                Some(((parent, _), _)) => dir = *parent,
                None => return false,
            }
        }
        dir == tree
    }

    fn create(&mut self, parent: InodeId, name: u8, kind: FileKind, made: Option<InodeId>) -> Answer {
        self.need_dir(parent)?;
        if self.names.contains_key(&(parent, name)) {
            return Err(AlreadyExists);
        }
        self.need_live_dir(parent)?;
        let id = made.expect("the model makes it, so it must be made");
        let data = if kind == FileKind::Symlink { b"target".to_vec() } else { vec![] };
        self.nodes.insert(id, Node { data, ..Node::new(kind) });
        self.names.insert((parent, name), id);
        Ok(())
    }

    fn link(&mut self, id: InodeId, parent: InodeId, name: u8) -> Answer {
        if self.nodes.get(&id).ok_or(Stale)?.kind == FileKind::Directory {
            return Err(NotPermitted);
        }
        self.need_dir(parent)?;
        if self.names.contains_key(&(parent, name)) {
            return Err(AlreadyExists);
        }
        self.need_live_dir(parent)?;
        if self.links(id) == 0 && !self.nodes[&id].unnamed {
            return Err(NotFound);
        }
        let node = self.nodes.get_mut(&id).unwrap();
        node.unnamed = false;
        // A file that has a name needs no holder.
        node.holders.clear();
        self.names.insert((parent, name), id);
        Ok(())
    }

    fn create_unnamed(&mut self, parent: InodeId, session: SessionId, linkable: bool, made: Option<InodeId>) -> Answer {
        self.need_live_dir(parent)?;
        let id = made.expect("the model makes it, so it must be made");
        let node = Node { holders: [session].into(), unnamed: linkable, ..Node::new(FileKind::File) };
        self.nodes.insert(id, node);
        Ok(())
    }

    fn removable(&self, id: InodeId, as_directory: bool) -> Answer {
        match (self.is_dir(id), as_directory) {
            (true, false) => Err(IsADirectory),
            (false, true) => Err(NotADirectory),
            (true, true) if !self.is_empty(id) => Err(DirectoryNotEmpty),
            _ => Ok(()),
        }
    }

    fn unlink(&mut self, parent: InodeId, name: u8, directory: bool, holders: &[SessionId]) -> Answer {
        self.need_dir(parent)?;
        let id = *self.names.get(&(parent, name)).ok_or(NotFound)?;
        self.removable(id, directory)?;
        self.names.remove(&(parent, name));
        self.hold(id, holders);
        Ok(())
    }

    fn rename(&mut self, from: (InodeId, u8), to: (InodeId, u8), flags: u32, holders: &[SessionId]) -> Answer {
        if ![0, 1, 2, 4].contains(&flags) {
            return Err(InvalidArgument);
        }
        self.need_dir(from.0)?;
        self.need_live_dir(to.0)?;
        let source = *self.names.get(&from).ok_or(NotFound)?;
        let target = self.names.get(&to).copied();
        if self.is_dir(source) && from.0 != to.0 && self.is_within(to.0, source) {
            return Err(InvalidArgument);
        }
        if flags == 2 {
            let target = target.ok_or(NotFound)?;
            if self.is_dir(target) && from.0 != to.0 && self.is_within(from.0, target) {
                return Err(InvalidArgument);
            }
            self.names.insert(from, target);
            self.names.insert(to, source);
            return Ok(());
        }
        if let Some(target) = target {
            if flags == 1 {
                return Err(AlreadyExists);
            }
            if target == source {
                return Ok(());
            }
            self.removable(target, self.is_dir(source))?;
        }
        self.names.remove(&from);
        self.names.insert(to, source);
        if let Some(target) = target {
            self.hold(target, holders);
        }
        Ok(())
    }

    fn file(&mut self, id: InodeId) -> Result<&mut Node, ErrorKind> {
        let node = self.nodes.get_mut(&id).ok_or(Stale)?;
        match node.kind {
            FileKind::File => Ok(node),
            FileKind::Directory => Err(IsADirectory),
            _ => Err(InvalidArgument),
        }
    }

    fn write(&mut self, id: InodeId, offset: usize, data: &[u8]) -> Answer {
        let node = self.file(id)?;
        node.data.resize(node.data.len().max(offset + data.len()), 0);
        node.data[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// One step; the numbers pick among what there is.
#[derive(Clone, Debug)]
enum Step {
    Create { dir: usize, name: u8, kind: FileKind },
    CreateUnnamed { dir: usize, session: usize, linkable: bool },
    Link { id: usize, dir: usize, name: u8 },
    Unlink { dir: usize, name: u8, directory: bool, held: u8 },
    Rename { dir: usize, name: u8, new_dir: usize, new_name: u8, flags: u32, held: u8 },
    Truncate { id: usize, size: u16 },
    Write { id: usize, offset: u16, data: Vec<u8> },
    Grant { id: usize, session: usize },
    Release { id: usize, session: usize },
    DropHold { id: usize, session: usize },
    Expire { session: usize },
    Again,
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    let (id, session, name, held) = (0usize..64, 0usize..3, 0u8..5, 0u8..8);
    let kind = prop_oneof![
        3 => Just(FileKind::Directory), 3 => Just(FileKind::File), 1 => Just(FileKind::Symlink), 1 => Just(FileKind::Fifo)
    ];
    let data = prop::collection::vec(any::<u8>(), 1..20);
    prop_oneof![
        8 => (id.clone(), name.clone(), kind).prop_map(|(dir, name, kind)| Step::Create { dir, name, kind }),
        3 => (id.clone(), id.clone(), name.clone()).prop_map(|(id, dir, name)| Step::Link { id, dir, name }),
        5 => (id.clone(), name.clone(), any::<bool>(), held.clone())
            .prop_map(|(dir, name, directory, held)| Step::Unlink { dir, name, directory, held }),
        2 => (id.clone(), session.clone(), any::<bool>())
            .prop_map(|(dir, session, linkable)| Step::CreateUnnamed { dir, session, linkable }),
        8 => (id.clone(), name.clone(), id.clone(), name, 0u32..8, held).prop_map(
            |(dir, name, new_dir, new_name, flags, held)| {
                // Plain renames as often as all others together.
                let flags = if flags > 4 { 0 } else { flags };
                Step::Rename { dir, name, new_dir, new_name, flags, held }
            }),
        2 => (id.clone(), 0u16..40).prop_map(|(id, size)| Step::Truncate { id, size }),
        3 => (id.clone(), 0u16..40, data).prop_map(|(id, offset, data)| Step::Write { id, offset, data }),
        2 => (id.clone(), session.clone()).prop_map(|(id, session)| Step::Grant { id, session }),
        2 => (id.clone(), session.clone()).prop_map(|(id, session)| Step::Release { id, session }),
        2 => (id, session.clone()).prop_map(|(id, session)| Step::DropHold { id, session }),
        1 => session.prop_map(|session| Step::Expire { session }),
        2 => Just(Step::Again),
        1 => Just(Step::Restore),
    ]
}

/// The namespace, its model, and a replica that gets the same batches.
struct Run {
    d: Driver,
    replica: Namespace,
    model: Model,
    sessions: Vec<SessionId>,
    /// Every inode that ever was, so that steps meet dead ones too.
    ever: Vec<InodeId>,
    sequence: u64,
    last: Option<(CommandBatch, Outcome)>,
}

impl Run {
    fn new() -> Self {
        let mut d = Driver::new();
        let sessions: Vec<_> = ["a", "b", "c"].map(|client| d.session(client)).to_vec();
        let replica = Namespace::restore(&mut &d.bytes()[..]).unwrap();
        let model = Model::new(&sessions);
        Self { d, replica, model, sessions, ever: vec![ROOT], sequence: 0, last: None }
    }

    fn pick(&self, number: usize) -> InodeId {
        self.ever[number % self.ever.len()]
    }

    /// Mostly a directory that is there, so that histories get somewhere.
    fn pick_dir(&self, number: usize) -> InodeId {
        let dirs: Vec<_> = self.model.nodes.keys().filter(|id| self.model.is_dir(**id)).collect();
        if number.is_multiple_of(8) { self.pick(number) } else { *dirs[number % dirs.len()] }
    }

    fn holders(&self, bits: u8) -> Vec<SessionId> {
        (0..3).filter(|bit| bits >> bit & 1 == 1).map(|bit| self.sessions[bit]).collect()
    }

    fn send(&mut self, session: SessionId, body: Body) -> Outcome {
        self.sequence += 1;
        self.d.clock += 1;
        let command = Command { session, sequence: self.sequence, lowest_unacked: self.sequence, body: Some(body) };
        let batch = CommandBatch { now: Some(Time::new(self.d.clock, 0)), commands: vec![command] };
        let outcome = self.d.ns.apply(&batch).remove(0);
        assert_eq!(self.replica.apply(&batch), std::slice::from_ref(&outcome));
        self.last = Some((batch, outcome.clone()));
        outcome
    }

    /// Runs a step in the namespace and in the model; what they answer must be the same.
    fn step(&mut self, step: &Step) {
        let name = |name: u8| char::from(b'a' + name).to_string();
        let (outcome, expected) = match step.clone() {
            Step::Again => return self.again(),
            Step::Restore => {
                self.d.ns = Namespace::restore(&mut &self.d.bytes()[..]).unwrap();
                return;
            }
            Step::Create { dir, name: n, kind } => {
                let dir = self.pick_dir(dir);
                let outcome = self.send(self.sessions[0], create(dir, &name(n), kind));
                let made = outcome.attr.as_ref().map(|attr| attr.inode);
                if let Some(made) = made {
                    assert!(!self.ever.contains(&made));
                    self.ever.push(made);
                }
                if self.model.sessions.contains(&self.sessions[0]) {
                    (outcome, self.model.create(dir, n, kind, made))
                } else {
                    (outcome, Err(SessionExpired))
                }
            }
            Step::CreateUnnamed { dir, session, linkable } => {
                let (dir, session) = (self.pick_dir(dir), self.sessions[session]);
                let body = Create {
                    parent: dir,
                    kind: FileKind::File as i32,
                    unnamed: true,
                    exclusive: !linkable,
                    ..Default::default()
                };
                let outcome = self.send(session, Body::Create(body));
                let made = outcome.attr.as_ref().map(|attr| attr.inode);
                self.ever.extend(made);
                if self.model.sessions.contains(&session) {
                    (outcome, self.model.create_unnamed(dir, session, linkable, made))
                } else {
                    (outcome, Err(SessionExpired))
                }
            }
            Step::Link { id, dir, name: n } => {
                let (id, dir) = (self.pick(id), self.pick_dir(dir));
                (self.send(0, link(id, dir, &name(n))), self.model.link(id, dir, n))
            }
            Step::Unlink { dir, name: n, directory, held } => {
                let (parent, holders) = (self.pick_dir(dir), self.holders(held));
                let expected = self.model.unlink(parent, n, directory, &holders);
                let body = Unlink { parent, name: name(n).into(), directory, holders, ..Default::default() };
                (self.send(0, Body::Unlink(body)), expected)
            }
            Step::Rename { dir, name: n, new_dir, new_name, flags, held } => {
                let (parent, new_parent, holders) = (self.pick_dir(dir), self.pick_dir(new_dir), self.holders(held));
                let expected = self.model.rename((parent, n), (new_parent, new_name), flags, &holders);
                let body = Rename {
                    parent,
                    name: name(n).into(),
                    new_parent,
                    new_name: name(new_name).into(),
                    flags,
                    holders,
                    ..Default::default()
                };
                let outcome = self.send(0, Body::Rename(body));
                // The device that took the old name, unless both names were of one inode.
                if flags == 4 && expected.is_ok() && !self.model.names.contains_key(&(parent, n)) {
                    let made = self.d.lookup(parent, &name(n)).expect("a whiteout");
                    assert!(!self.ever.contains(&made));
                    self.ever.push(made);
                    self.model.nodes.insert(made, Node::new(FileKind::CharDevice));
                    self.model.names.insert((parent, n), made);
                }
                (outcome, expected)
            }
            Step::Truncate { id, size } => {
                let id = self.pick(id);
                let expected = self.model.file(id).map(|node| node.data.resize(size.into(), 0));
                (self.send(0, truncate(id, size.into())), expected)
            }
            Step::Write { id, offset, data } => {
                let id = self.pick(id);
                (self.send(0, write(id, offset.into(), &data)), self.model.write(id, offset.into(), &data))
            }
            Step::Grant { id, session } => {
                let (id, session) = (self.pick(id), self.sessions[session]);
                let outcome = self.send(session, Body::GrantWrite(GrantWrite { inode: id }));
                let expected = match self.model.sessions.contains(&session) {
                    true => self.model.file(id).map(|node| {
                        node.writers.insert(session);
                    }),
                    false => Err(SessionExpired),
                };
                (outcome, expected)
            }
            Step::Release { id, session } => {
                let (id, session) = (self.pick(id), self.sessions[session]);
                let outcome = self.send(session, Body::ReleaseWrite(ReleaseWrite { inode: id }));
                let node = self.model.nodes.get_mut(&id);
                let expected = match self.model.sessions.contains(&session) {
                    true => node
                        .map(|node| {
                            node.writers.remove(&session);
                        })
                        .ok_or(Stale),
                    false => Err(SessionExpired),
                };
                (outcome, expected)
            }
            Step::DropHold { id, session } => {
                let (id, session) = (self.pick(id), self.sessions[session]);
                let outcome = self.send(0, Body::DropOrphan(DropOrphan { inode: id, session }));
                if let Some(node) = self.model.nodes.get_mut(&id) {
                    node.holders.remove(&session);
                }
                (outcome, Ok(()))
            }
            Step::Expire { session } => {
                let session = self.sessions[session];
                let outcome = self.send(0, Body::ExpireSession(ExpireSession { session }));
                self.model.sessions.remove(&session);
                for node in self.model.nodes.values_mut() {
                    node.holders.remove(&session);
                    node.writers.remove(&session);
                }
                (outcome, Ok(()))
            }
        };
        self.model.sweep();
        let got = outcome.error.map_or(Ok(()), |error| Err(ErrorKind::from_code(error.kind)));
        assert_eq!(got, expected, "{step:?}");
        self.compare();
    }

    /// The last command of a session comes again.
    fn again(&mut self) {
        let Some((batch, outcome)) = self.last.clone() else { return };
        let session = batch.commands[0].session;
        if session == 0 || !self.model.sessions.contains(&session) {
            return;
        }
        let before = self.d.bytes();
        assert_eq!(self.d.ns.apply(&batch), std::slice::from_ref(&outcome));
        assert_eq!(self.d.ns.result(session, self.sequence), ResultLookup::Known(outcome));
        assert_eq!(self.d.bytes(), before);
    }

    fn compare(&self) {
        let (ns, model) = (&self.d.ns, &self.model);
        ns.check().unwrap();
        for id in &self.ever {
            let Some(node) = model.nodes.get(id) else {
                assert_eq!(ns.attr(*id).unwrap_err().kind(), Stale);
                continue;
            };
            let attr = ns.attr(*id).unwrap();
            let entries = model.names.keys().filter(|(dir, _)| dir == id).count();
            let size = if node.kind == FileKind::Directory { entries } else { node.data.len() };
            assert_eq!((attr.kind(), attr.nlink, attr.size), (node.kind, model.links(*id), size as u64));
            if node.kind == FileKind::File {
                let Some(layout::Kind::Inline(inline)) = ns.layout(*id, true).unwrap().kind else { panic!("inline") };
                assert_eq!(inline.data, node.data);
                let writers = ns.grant(*id).map(|grant| grant.writers).unwrap_or_default();
                assert!(writers.iter().eq(node.writers.iter()));
            }
            assert_eq!(ns.path(*id).is_some(), *id == ROOT || model.names.values().any(|child| child == id));
            if node.kind == FileKind::Directory {
                let (entries, _) = ns.readdir(*id, 0, 100).unwrap();
                let got: BTreeMap<_, _> =
                    entries.iter().map(|entry| (entry.name[0] - b'a', entry.attr.as_ref().unwrap().inode)).collect();
                let names = model.names.range((*id, 0)..=(*id, u8::MAX)).map(|((_, name), child)| (*name, *child));
                assert_eq!(got, names.collect());
                assert_eq!(got.len(), entries.len());
            }
        }
        assert_eq!(ns.counts().inodes as usize, model.nodes.len());
        assert_eq!(ns.counts().dentries as usize, model.names.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn random_histories_lead_where_the_model_says(steps in prop::collection::vec(step(), 1..120)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
        }
        let mut replica = Vec::new();
        run.replica.snapshot().write_to(&mut replica).unwrap();
        prop_assert_eq!(run.d.bytes(), replica, "the replica saw no duplicates and was never restored");
    }

    #[test]
    fn nonsense_makes_no_harm(
        noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..30),
        numbers in prop::collection::vec(0u64..40, 30),
    ) {
        let mut d = Driver::new();
        d.session("a");
        for (bytes, number) in noise.iter().zip(numbers) {
            // Random bytes that happen to be a command, and otherwise one with random fields.
            let command = Command::decode(&bytes[..]).unwrap_or_else(|_| Command {
                session: number % 3,
                sequence: number,
                lowest_unacked: u64::MAX - number,
                body: Some(Body::Create(Create {
                    parent: number % 4,
                    name: bytes.clone().into(),
                    kind: number as i32,
                    mode: u32::MAX,
                    ..Default::default()
                })),
            });
            d.ns.apply(&CommandBatch { now: Some(Time::new(i64::MAX - number as i64, u32::MAX)), commands: vec![command] });
            d.ns.check().unwrap();
        }
        Namespace::restore(&mut &d.bytes()[..]).unwrap().check().unwrap();
    }
}
