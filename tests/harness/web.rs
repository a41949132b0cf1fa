//! What the roles tell over HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{Cluster, Role};

impl Cluster {
    /// Port of a worker's RPC.
    pub fn worker_port(&self, number: usize) -> u16 {
        self.ports.workers[number]
    }

    /// A page of a role's web server; the answer's first line and its body.
    pub fn page(&self, role: Role, path: &str) -> std::io::Result<(String, String)> {
        let limit = Duration::from_secs(10);
        let address = ([127, 0, 0, 1], self.ports.web[&role]).into();
        let mut stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        Ok((head.lines().next().unwrap_or_default().to_string(), body.to_string()))
    }

    /// The value of one line of a role's metrics, named with its labels; `None`: there is none.
    pub fn metric(&self, role: Role, line: &str) -> Option<u64> {
        let (_, page) = self.page(role, "/metrics").ok()?;
        page.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' ')?.parse().ok())
    }
}
