//! An S3 store in this process: each bucket is a directory.

use std::path::{Path, PathBuf};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;

pub const ACCESS: &str = "AKIATESTACCESS";
pub const SECRET: &str = "test-secret-never-to-be-shown";

pub struct Store {
    dir: tempfile::TempDir,
    pub endpoint: String,
    server: tokio::task::JoinHandle<()>,
}

impl Store {
    /// With a bucket `data`.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS, SECRET));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                running.spawn(async move {
                    let http = Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { dir, endpoint, server }
    }

    /// Switches the store off: connections are cut, new ones refused.
    pub async fn stop(self) -> tempfile::TempDir {
        self.server.abort();
        let _ = self.server.await;
        self.dir
    }

    pub fn path(&self, key: &str) -> PathBuf {
        self.bucket().join(key)
    }

    pub fn bucket(&self) -> PathBuf {
        Path::new(self.dir.path()).join("data")
    }

    pub fn put(&self, key: &str, content: &[u8]) {
        let path = self.path(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}
