//! Where credentials come from when a mount names none: the environment, a file, a container's service, an instance's service.
//!
//! All of that is the environment of a process, so each case is read by a child process: this test binary with `child` as its only test.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use curvine_ufs::{Expect, open_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::quick;
use crate::support::{ACCESS, SECRET, Store};

const ENDPOINT: &str = "CURVINE_TEST_ENDPOINT";

#[tokio::test]
#[ignore = "the other tests start it as a process of its own"]
async fn child() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let options = BTreeMap::from([("endpoint_url".to_string(), endpoint)]);
    let ufs = open_with("s3://data", &options, &BTreeMap::new(), quick()).unwrap();
    for _ in 0..3 {
        let expect = Expect { size: 5, ..Expect::default() };
        assert_eq!(ufs.read("object", 0, 5, &expect).await.unwrap(), b"hello"[..]);
    }
}

/// Whether a process with this environment reads the store, and what it said.
async fn reads(store: &Store, variables: &[(&str, &str)]) -> (bool, String) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "credentials::child", "--ignored", "--nocapture"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_") || name.contains("proxy")) {
        command.env_remove(name);
    }
    command.env("HOME", store.bucket()).env(ENDPOINT, &store.endpoint).envs(variables.iter().copied());
    command.stdin(Stdio::null());
    // Its waits are bounded. The store runs here meanwhile.
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

/// A service that gives out credentials, and the requests that it got.
async fn service(answer: impl Fn(&str) -> Option<String> + Send + 'static) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") && socket.read_buf(&mut head).await.unwrap_or(0) > 0 {}
            let head = String::from_utf8_lossy(&head).into_owned();
            noted.lock().unwrap().push(head.lines().next().unwrap_or_default().to_string());
            let (status, body) = answer(&head).map_or((403, String::new()), |body| (200, body));
            let text =
                format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            let _ = socket.write_all(text.as_bytes()).await;
        }
    });
    (endpoint, seen)
}

/// Credentials that end so soon that they are asked for again at once.
fn short_lived() -> String {
    let ends = SystemTime::now() + Duration::from_secs(60);
    let ends = curvine_types::format_utc(ends.duration_since(UNIX_EPOCH).unwrap().as_secs() as i64).replace(' ', "T");
    format!(
        r#"{{"Code":"Success","LastUpdated":"2020-01-01T00:00:00Z","Type":"AWS-HMAC","AccessKeyId":"{ACCESS}","SecretAccessKey":"{SECRET}","Token":"session","Expiration":"{ends}Z"}}"#
    )
}

#[tokio::test]
async fn credentials_come_from_the_environment_or_a_file() {
    let store = Store::start().await;
    store.put("object", b"hello");
    let none = ("AWS_EC2_METADATA_DISABLED", "true");
    let (read, said) = reads(&store, &[("AWS_ACCESS_KEY_ID", ACCESS), ("AWS_SECRET_ACCESS_KEY", SECRET), none]).await;
    assert!(read, "{said}");
    let temporary =
        [("AWS_ACCESS_KEY_ID", ACCESS), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_SESSION_TOKEN", "t"), none];
    let (read, said) = reads(&store, &temporary).await;
    assert!(read, "{said}");
    let file = store.bucket().join("credentials");
    std::fs::write(&file, format!("[default]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n"))
        .unwrap();
    let (read, said) = reads(&store, &[("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()), none]).await;
    assert!(read, "{said}");
    let (read, said) = reads(&store, &[("AWS_ACCESS_KEY_ID", ACCESS), ("AWS_SECRET_ACCESS_KEY", "wrong"), none]).await;
    assert!(!read && !said.contains("wrong\""), "{said}");
    assert!(said.contains("the secret does not belong to the access key") || said.contains("denies access"), "{said}");
    let (read, said) = reads(&store, &[none]).await;
    assert!(!read, "without any credentials a store that wants some is not read: {said}");
}

#[tokio::test]
async fn credentials_of_a_container_and_of_an_instance_are_renewed_before_they_end() {
    let store = Store::start().await;
    store.put("object", b"hello");
    let token = store.bucket().join("token");
    std::fs::write(&token, "pod-identity").unwrap();
    let (container, asked) =
        service(|head| head.to_ascii_lowercase().contains("authorization: pod-identity").then(short_lived)).await;
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap()),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    let (read, said) = reads(&store, &variables).await;
    assert!(read, "{said}");
    assert!(asked.lock().unwrap().len() > 1, "asked again before they end");

    let (instance, asked) = service(|head| {
        let line = head.lines().next().unwrap_or_default();
        let knows = head.to_ascii_lowercase().contains("x-aws-ec2-metadata-token: of-today");
        match line.split(' ').nth(1) {
            Some("/latest/api/token") => line.starts_with("PUT").then(|| "of-today".to_string()),
            Some("/latest/meta-data/iam/security-credentials/") => knows.then(|| "role".to_string()),
            Some("/latest/meta-data/iam/security-credentials/role") => knows.then(short_lived),
            _ => None,
        }
    })
    .await;
    let (read, said) = reads(&store, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &instance)]).await;
    assert!(read, "{said}");
    let renewed = asked.lock().unwrap().iter().filter(|line| line.contains("/role ")).count();
    assert!(renewed > 1, "asked again before they end");
}
