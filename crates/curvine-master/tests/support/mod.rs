//! A client that speaks the protocol by hand, so that a test decides what it answers to a recall.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use curvine_master::{Master, MasterOptions};
use curvine_proto::command::Body as CommandBody;
use curvine_proto::{
    Attr, Command, Create, DeclareRequest, Empty, FileKind, HeartbeatReply, HeartbeatRequest, LookupReply,
    LookupRequest, Message, Method, MutateReply, MutateRequest, OpenInode, OpenReply, OpenRequest, OpenSession,
    OpenSessionReply, OpenSessionRequest, Outcome, PeerRole, RecallReply, RecallRequest, SessionKind, Unlink,
};
use curvine_rpc::{Address, Auth, Body, Call, ClusterCell, Connector, Limits, Peer, Reply, Service};
use curvine_types::{Error, Result, Secret};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

pub const ROOT: u64 = 1;

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub async fn master(dir: &Path, lease: Duration) -> Master {
    let mut options = MasterOptions::new(dir);
    options.bind = "127.0.0.1:0".to_string();
    options.lease_time = lease;
    Master::start(options).await.unwrap()
}

/// A recall that has come and waits for `answer`.
pub struct PendingRecall {
    pub request: RecallRequest,
    pub answer: tokio::sync::oneshot::Sender<()>,
}

struct Recalls(mpsc::UnboundedSender<PendingRecall>);

impl Service for Recalls {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Reply>> {
        async move {
            assert_eq!(call.method, Method::Recall);
            let (answer, answered) = tokio::sync::oneshot::channel();
            let _ = self.0.send(PendingRecall { request: call.request()?, answer });
            let _ = answered.await;
            Ok(Reply::new(&RecallReply::default()))
        }
        .boxed()
    }
}

pub struct Client {
    pub peer: Peer,
    pub session: u64,
    pub incarnation: u64,
    sequence: AtomicU64,
    pub recalls: tokio::sync::Mutex<mpsc::UnboundedReceiver<PendingRecall>>,
}

pub async fn dial(master: &Master, role: PeerRole, service: Option<Arc<dyn Service>>) -> Peer {
    let auth = Auth {
        secret: Secret::default(),
        role,
        cluster: Arc::new(ClusterCell::default()),
        hostname: "test".to_string(),
        id: 0,
    };
    let mut connector = Connector::new(auth, Limits::default());
    if let Some(service) = service {
        connector = connector.with_service(service);
    }
    let address = Address::Tcp(master.address().unwrap().to_string());
    connector.connect(&address, soon()).await.unwrap()
}

impl Client {
    pub async fn connect(master: &Master, name: &str) -> Self {
        let (sender, recalls) = mpsc::unbounded_channel();
        let peer = dial(master, PeerRole::Client, Some(Arc::new(Recalls(sender)))).await;
        let session = OpenSession {
            kind: SessionKind::Mount as i32,
            client: name.to_string(),
            hostname: "test".to_string(),
            replace: false,
        };
        let request = OpenSessionRequest { session: Some(session) };
        let (reply, _) =
            peer.call::<_, OpenSessionReply>(Method::OpenSession, &request, Body::Empty, soon()).await.unwrap();
        Self {
            peer,
            session: reply.session,
            incarnation: reply.incarnation,
            sequence: AtomicU64::new(1),
            recalls: tokio::sync::Mutex::new(recalls),
        }
    }

    /// The same session over a connection to a restarted master.
    pub async fn reconnect(self, master: &Master) -> Self {
        let (sender, recalls) = mpsc::unbounded_channel();
        let peer = dial(master, PeerRole::Client, Some(Arc::new(Recalls(sender)))).await;
        Self { peer, recalls: tokio::sync::Mutex::new(recalls), ..self }
    }

    pub async fn call<Q: Message, R: Message + Default>(&self, method: Method, request: &Q) -> Result<R> {
        Ok(self.peer.call::<_, R>(method, request, Body::Empty, soon()).await?.0)
    }

    pub async fn heartbeat(&self) -> Result<HeartbeatReply> {
        let request =
            HeartbeatRequest { session: self.session, incarnation: self.incarnation, dropped_leases: Vec::new() };
        self.call(Method::Heartbeat, &request).await
    }

    pub async fn declare(&self, incarnation: u64, opens: Vec<OpenInode>) -> Result<Empty> {
        let request = DeclareRequest { session: self.session, incarnation, opens, keep_leases: false };
        self.call(Method::Declare, &request).await
    }

    pub fn number(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    pub async fn mutate_as(&self, sequence: u64, body: CommandBody, wait: bool) -> Result<MutateReply> {
        let command = Command { session: self.session, sequence, lowest_unacked: 1, body: Some(body) };
        self.call(Method::Mutate, &MutateRequest { command: Some(command), wait, caller: None }).await
    }

    /// Executes a new command; its own error is the error.
    pub async fn mutate(&self, body: CommandBody) -> Result<Outcome> {
        let outcome = self.mutate_as(self.number(), body, false).await?.outcome.unwrap();
        match outcome.error.clone() {
            Some(error) => Err(Error::from(error)),
            None => Ok(outcome),
        }
    }

    pub async fn create(&self, name: &str, grant_write: bool) -> Result<Attr> {
        Ok(self.mutate(create(name, grant_write)).await?.attr.unwrap())
    }

    pub async fn unlink(&self, name: &str) -> Result<Outcome> {
        let unlink = Unlink { parent: ROOT, name: name.as_bytes().to_vec().into(), ..Default::default() };
        self.mutate(CommandBody::Unlink(unlink)).await
    }

    pub async fn lookup(&self, name: &str) -> Result<LookupReply> {
        let name = name.as_bytes().to_vec().into();
        self.call(Method::Lookup, &LookupRequest { session: self.session, parent: ROOT, name, caller: None }).await
    }

    pub async fn open(&self, inode: u64, write: bool) -> Result<OpenReply> {
        let request = OpenRequest { session: self.session, inode, write, read: true, caller: None };
        self.call(Method::Open, &request).await
    }

    pub async fn close(&self, inode: u64, write: bool) -> Result<Empty> {
        let closes = vec![OpenInode { inode, write }];
        self.call(Method::Close, &curvine_proto::CloseRequest { session: self.session, closes }).await
    }

    /// The next recall, which must come soon.
    pub async fn recalled(&self) -> PendingRecall {
        let mut recalls = self.recalls.lock().await;
        tokio::time::timeout(Duration::from_secs(10), recalls.recv()).await.expect("no recall came").unwrap()
    }
}

pub fn create(name: &str, grant_write: bool) -> CommandBody {
    CommandBody::Create(Create {
        parent: ROOT,
        name: name.as_bytes().to_vec().into(),
        kind: FileKind::File as i32,
        mode: 0o644,
        grant_write,
        exclusive: true,
        ..Default::default()
    })
}
