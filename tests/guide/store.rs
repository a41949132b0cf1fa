//! An S3 store in this process: each bucket is a directory, each request is written down, and it can be switched off.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

pub const ACCESS: &str = "AKIATESTACCESS";
pub const SECRET: &str = "test-secret-never-to-be-shown";

/// The store; gone when dropped.
pub struct Store {
    dir: tempfile::TempDir,
    address: SocketAddr,
    runtime: tokio::runtime::Runtime,
    make: Box<dyn Fn(&Path) -> S3Service>,
    server: Option<JoinHandle<()>>,
    requests: Arc<Mutex<Vec<String>>>,
    denied: Arc<Mutex<Option<String>>>,
    held: tokio::sync::watch::Sender<Hold>,
}

/// Which requests that move content are not answered now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    None,
    /// Parts of uploads from this number on.
    PartsFrom(usize),
    /// Those that store this object, named `/bucket/key`.
    Object(&'static str),
    All,
}

impl Hold {
    fn holds(self, request: &str) -> bool {
        match self {
            Hold::None => false,
            Hold::PartsFrom(first) => part_number(request).is_some_and(|number| number >= first),
            Hold::Object(path) => request.split(' ').nth(1).is_some_and(|uri| uri.split('?').next() == Some(path)),
            Hold::All => true,
        }
    }
}

/// The number of the part that a request sends.
pub fn part_number(request: &str) -> Option<usize> {
    let (_, rest) = request.split_once("partNumber=")?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

impl Store {
    /// With these buckets, empty.
    pub fn start(buckets: &[&str]) -> Store {
        Self::serve(buckets, |dir| service(s3s_fs::FileSystem::new(dir).expect("a store")))
    }

    /// Buckets as directories, or whatever else is made of the directory.
    fn serve(buckets: &[&str], make: impl Fn(&Path) -> S3Service + 'static) -> Store {
        let dir = tempfile::tempdir().expect("make a directory");
        for bucket in buckets {
            std::fs::create_dir(dir.path().join(bucket)).expect("make a bucket");
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = probe.local_addr().expect("an address");
        drop(probe);
        let held = tokio::sync::watch::Sender::new(Hold::None);
        let (requests, denied) = (Arc::default(), Arc::default());
        let make = Box::new(make);
        let mut store = Store { dir, address, runtime, make, server: None, requests, denied, held };
        store.switch_on();
        store
    }

    /// These objects, which nobody can change.
    pub fn of(objects: impl s3s::S3 + Clone) -> Store {
        Self::serve(&[], move |_| service(objects.clone()))
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn switch_on(&mut self) {
        let service = (self.make)(self.dir.path());
        let listener = self.runtime.block_on(TcpListener::bind(self.address)).expect("listen");
        let watch = Watch { requests: self.requests.clone(), denied: self.denied.clone(), held: self.held.subscribe() };
        self.server = Some(self.runtime.spawn(serve(listener, service, watch)));
    }

    /// Cuts all connections and refuses new ones.
    pub fn switch_off(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = self.runtime.block_on(server);
        }
    }

    /// Refuses the content of one object, named `/bucket/key`.
    pub fn deny(&self, path: Option<&str>) {
        *self.denied.lock().expect("nobody panics under it") = path.map(str::to_string);
    }

    /// Requests that move content are not answered until this is over.
    pub fn hold(&self, on: bool) {
        self.held.send_replace(if on { Hold::All } else { Hold::None });
    }

    /// Parts of uploads from this number on are not answered until `hold(false)`.
    pub fn hold_parts_from(&self, number: usize) {
        self.held.send_replace(Hold::PartsFrom(number));
    }

    /// Nothing is stored as this object, named `/bucket/key`, until `hold(false)`.
    pub fn hold_object(&self, path: &'static str) {
        self.held.send_replace(Hold::Object(path));
    }

    /// The requests since the last call: `GET /bucket/key?query bytes=0-99`.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().expect("nobody panics under it"))
    }

    pub fn path(&self, bucket: &str, key: &str) -> PathBuf {
        self.dir.path().join(bucket).join(key)
    }

    /// Stores an object; a reader of the store sees the old one or the new one.
    pub fn put(&self, bucket: &str, key: &str, content: &[u8]) {
        let path = self.path(bucket, key);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("make a directory");
        let unfinished = self.dir.path().join(".unfinished");
        std::fs::write(&unfinished, content).expect("write an object");
        std::fs::rename(unfinished, path).expect("store an object");
    }

    /// What uploads in parts that have not ended left in the store.
    pub fn unfinished(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.dir.path()).expect("list").map(|entry| entry.expect("an entry").file_name());
        names.filter_map(|name| name.into_string().ok()).filter(|name| name.contains("upload")).collect()
    }

    pub fn delete(&self, bucket: &str, key: &str) {
        std::fs::remove_file(self.path(bucket, key)).expect("delete an object");
    }
}

/// With the only credentials that are good.
fn service(store: impl s3s::S3) -> S3Service {
    let mut builder = S3ServiceBuilder::new(store);
    builder.set_auth(SimpleAuth::from_single(ACCESS, SECRET));
    builder.build()
}

/// What asks for the content of an object, not for names or attributes.
pub fn is_content(request: &str) -> bool {
    request.starts_with("GET ") && !request.contains("list-type") && !request.contains("delimiter=")
}

/// What is done with requests before the store sees them.
#[derive(Clone)]
struct Watch {
    requests: Arc<Mutex<Vec<String>>>,
    denied: Arc<Mutex<Option<String>>>,
    held: tokio::sync::watch::Receiver<Hold>,
}

impl Watch {
    /// Notes a request, holds it if it is to be held; whether it is refused.
    async fn refuses(mut self, request: &Request<Incoming>) -> bool {
        let range = request.headers().get("range").and_then(|range| range.to_str().ok()).unwrap_or_default();
        let line = format!("{} {} {range}", request.method(), request.uri());
        let moves = is_content(&line) || request.method() == hyper::Method::PUT;
        self.requests.lock().expect("nobody panics under it").push(line.clone());
        if moves {
            // Nobody waits so long; the store may be gone by then.
            let _ = tokio::time::timeout(Duration::from_secs(60), self.held.wait_for(|held| !held.holds(&line))).await;
        }
        let denied = self.denied.lock().expect("nobody panics under it");
        moves && denied.as_deref() == Some(request.uri().path())
    }
}

async fn serve(listener: TcpListener, service: S3Service, watch: Watch) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let (service, watch) = (service.clone(), watch.clone());
        connections.spawn(async move {
            let noted = service_fn(move |request: Request<Incoming>| {
                let (service, watch) = (service.clone(), watch.clone());
                async move {
                    if watch.refuses(&request).await {
                        let denial = hyper::Response::builder().status(403).body(s3s::Body::empty());
                        return Ok(denial.expect("a response"));
                    }
                    Service::call(&service, request).await
                }
            });
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), noted).await;
        });
        while connections.try_join_next().is_some() {}
    }
}
