//! A proxy between the adapter and a store that breaks answers in chosen ways.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What is done to one answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It comes so late.
    Late(Duration),
    /// The store is not asked; the answer is this status with this body.
    Status(u16, &'static str),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The connection ends before the answer, after the store has done what was asked.
    Lost,
    /// The body is cut and the head says that this is all of it.
    Shorter(usize),
    /// The body is longer than it is in the store, and the head says so.
    Longer(usize),
    /// A header has another value.
    Header(&'static str, &'static str),
    /// The whole object instead of the range.
    Whole,
    /// The body is something else, of its own length.
    Body(&'static str),
    /// Bytes of the body come one by one, with so long between them.
    Drip(Duration),
    /// Not HTTP.
    Garbage,
}

/// Which requests the faults are for: those whose first line contains this.
pub struct Proxy {
    pub endpoint: String,
    plan: Arc<Mutex<Plan>>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Plan {
    wanted: String,
    faults: VecDeque<Fault>,
    /// The last fault stays.
    forever: bool,
    seen: Vec<String>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Proxy {
    pub async fn start(store: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let plan: Arc<Mutex<Plan>> = Arc::default();
        let shared = plan.clone();
        let server = tokio::spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let plan = shared.clone();
                running.spawn(async move {
                    // Either side may go away at any time.
                    let _ = serve(socket, store, plan).await;
                });
            }
        });
        Proxy { endpoint, plan, server }
    }

    /// The next answers to requests like `wanted` are broken so; then all is well, unless it is `forever`.
    pub fn break_next(&self, wanted: &str, faults: &[Fault], forever: bool) {
        let mut plan = self.plan.lock().unwrap();
        *plan =
            Plan { wanted: wanted.to_string(), faults: faults.iter().cloned().collect(), forever, seen: Vec::new() };
    }

    pub fn heal(&self) {
        self.break_next("", &[], false);
    }

    /// The first lines of the requests since the last plan.
    pub fn seen(&self) -> Vec<String> {
        self.plan.lock().unwrap().seen.clone()
    }
}

impl Plan {
    fn next(&mut self, line: &str) -> Option<Fault> {
        self.seen.push(line.to_string());
        if !line.contains(&self.wanted) {
            return None;
        }
        match self.forever && self.faults.len() == 1 {
            true => self.faults.front().cloned(),
            false => self.faults.pop_front(),
        }
    }
}

/// A head and what of the body was read with it.
async fn read_head(socket: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), body));
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.split_once(':').filter(|(have, _)| have.eq_ignore_ascii_case(name)))
        .map(|(_, value)| value.trim())
}

fn with_header(head: &str, name: &str, value: &str) -> String {
    let mut lines: Vec<&str> = head.trim_end().lines().collect();
    let line = format!("{name}: {value}");
    lines.retain(|line| !line.split_once(':').is_some_and(|(have, _)| have.eq_ignore_ascii_case(name)));
    lines.push(&line);
    format!("{}\r\n\r\n", lines.join("\r\n"))
}

/// One request, one answer, and the end of the connection.
async fn serve(mut socket: TcpStream, store: SocketAddr, plan: Arc<Mutex<Plan>>) -> std::io::Result<()> {
    let (head, mut body) = read_head(&mut socket).await?;
    let length: usize = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while body.len() < length {
        if socket.read_buf(&mut body).await? == 0 {
            return Ok(());
        }
    }
    let line = head.lines().next().unwrap_or_default().to_string();
    let fault = plan.lock().unwrap().next(&line);
    match &fault {
        Some(Fault::Status(status, text)) => {
            let answer = format!(
                "HTTP/1.1 {status} broken\r\ncontent-type: application/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
                text.len()
            );
            return socket.write_all(answer.as_bytes()).await;
        }
        Some(Fault::Garbage) => return socket.write_all(b"\0\0 what is HTTP?\r\n\r\n\r\n").await,
        Some(Fault::Late(late)) => tokio::time::sleep(*late).await,
        _ => {}
    }
    let (mut answer_head, mut answer) = ask(store, &head, &body, matches!(fault, Some(Fault::Whole))).await?;
    answer_head = with_header(&answer_head, "connection", "close");
    let mut sent = usize::MAX;
    match fault {
        Some(Fault::Lost) => return Ok(()),
        Some(Fault::Cut(after)) => sent = after,
        Some(Fault::Shorter(by)) => {
            answer.truncate(answer.len().saturating_sub(by));
            answer_head = with_header(&answer_head, "content-length", &answer.len().to_string());
        }
        Some(Fault::Longer(by)) => {
            answer.extend(vec![b'!'; by]);
            answer_head = with_header(&answer_head, "content-length", &answer.len().to_string());
        }
        Some(Fault::Header(name, value)) => answer_head = with_header(&answer_head, name, value),
        Some(Fault::Body(text)) => {
            answer = text.as_bytes().to_vec();
            answer_head = with_header(&answer_head, "content-length", &answer.len().to_string());
        }
        Some(Fault::Drip(between)) => {
            socket.write_all(answer_head.as_bytes()).await?;
            for byte in answer {
                socket.write_all(&[byte]).await?;
                tokio::time::sleep(between).await;
            }
            return Ok(());
        }
        _ => {}
    }
    socket.write_all(answer_head.as_bytes()).await?;
    socket.write_all(&answer[..answer.len().min(sent)]).await?;
    socket.shutdown().await
}

/// The answer of the store: its head, with the length of its body, and its body.
async fn ask(store: SocketAddr, head: &str, body: &[u8], whole: bool) -> std::io::Result<(String, Vec<u8>)> {
    let mut head = with_header(head, "connection", "close");
    if whole {
        // The signature covers it, so it is asked for elsewhere and cut out here.
        head = head
            .lines()
            .filter(|line| !line.to_ascii_lowercase().starts_with("range:"))
            .collect::<Vec<_>>()
            .join("\r\n");
        head.push_str("\r\n\r\n");
    }
    let mut upstream = TcpStream::connect(store).await?;
    upstream.write_all(head.as_bytes()).await?;
    upstream.write_all(body).await?;
    let (head, mut answer) = read_head(&mut upstream).await?;
    upstream.read_to_end(&mut answer).await?;
    if header(&head, "transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        answer = unchunked(&answer);
        let head = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("transfer-encoding"));
        let head = format!("{}\r\n", head.collect::<Vec<_>>().join("\r\n"));
        return Ok((with_header(&head, "content-length", &answer.len().to_string()), answer));
    }
    Ok((head, answer))
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let length = usize::from_str_radix(String::from_utf8_lossy(&bytes[..end]).trim(), 16).unwrap_or(0);
        if length == 0 {
            break;
        }
        out.extend_from_slice(&bytes[end + 2..end + 2 + length]);
        bytes = &bytes[end + 2 + length + 2..];
    }
    out
}
