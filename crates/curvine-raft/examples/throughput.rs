//! Measures acknowledged commands per second: `cargo run --release -p curvine-raft --example throughput -- [DIR] [IN_FLIGHT] [SECONDS]`.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use curvine_proto::{Command, Create, Outcome, Time, command::Body};
use curvine_raft::{Options, Replica, SnapshotSource, StateMachine};
use curvine_types::{ClusterId, Result};

#[derive(Default)]
struct Counter(u64);

struct View(u64);

impl StateMachine for Counter {
    fn apply(&mut self, _: Option<Time>, _: &Command) -> Outcome {
        self.0 += 1;
        Outcome { id: self.0, ..Default::default() }
    }

    fn snapshot(&self) -> Box<dyn SnapshotSource> {
        Box::new(View(self.0))
    }

    fn restored(reader: &mut dyn Read) -> Result<Self> {
        let mut bytes = [0; 8];
        reader.read_exact(&mut bytes).map_err(|source| curvine_types::Error::from_io(source, "no counter"))?;
        Ok(Self(u64::from_le_bytes(bytes)))
    }
}

impl SnapshotSource for View {
    fn write_to(&self, writer: &mut dyn std::io::Write) -> std::io::Result<()> {
        writer.write_all(&self.0.to_le_bytes())
    }
}

fn create(sequence: u64) -> Command {
    let body = Body::Create(Create {
        parent: 1,
        name: format!("file-{sequence:012}").into(),
        kind: 1,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        ..Default::default()
    });
    Command { session: 1, sequence, lowest_unacked: sequence, body: Some(body) }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let in_flight: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(64);
    let seconds: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let dir = parent.join(format!("curvine-raft-throughput-{}", std::process::id()));
    Replica::<Counter>::create(&dir, ClusterId([1; 16]))?;
    let mut options = Options::new(&dir);
    if let Some(entries) = arguments.next().and_then(|text| text.parse().ok()) {
        options.entries_in_flight = entries;
    }
    let started = Instant::now();
    let replica = Replica::open(options, Counter::default()).await?;
    println!("leads after {:?}", started.elapsed());
    let done = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs(seconds);
    let started = Instant::now();
    let mut tasks = Vec::new();
    for first in 0..in_flight {
        let (replica, done) = (replica.clone(), done.clone());
        tasks.push(tokio::spawn(async move {
            let mut sequence = first;
            while Instant::now() < end {
                replica.propose(create(sequence)).await?;
                done.fetch_add(1, Ordering::Relaxed);
                sequence += in_flight;
            }
            Ok::<_, curvine_types::Error>(())
        }));
    }
    for task in tasks {
        task.await
            .map_err(|error| curvine_types::Error::new(curvine_types::ErrorKind::Internal, error.to_string()))??;
    }
    let (count, elapsed) = (done.load(Ordering::Relaxed), started.elapsed());
    let status = replica.status();
    println!(
        "{in_flight} in flight: {:.0} commands/s, {:.0} entries/s, {:.1} commands an entry",
        count as f64 / elapsed.as_secs_f64(),
        status.last_index as f64 / elapsed.as_secs_f64(),
        count as f64 / status.last_index as f64
    );
    replica.shutdown().await;
    let started = Instant::now();
    let replica = Replica::open(Options::new(&dir), Counter::default()).await?;
    println!("leads again after {:?} with {} MiB of log", started.elapsed(), replica.status().log_bytes >> 20);
    replica.shutdown().await;
    std::fs::remove_dir_all(&dir).map_err(|source| curvine_types::Error::from_io(source, "cannot clean up"))
}
