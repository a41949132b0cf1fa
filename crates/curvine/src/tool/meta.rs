//! `cv meta`: the metadata of a directory that no master works on, out into a portable file and back into a fresh directory; and
//! snapshots of a running master's.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use curvine_client::Observer;
use curvine_config::ClusterConf;
use curvine_master::MetaState;
use curvine_namespace::{Namespace, snapshot_of_portable};
use curvine_proto::{Empty, Method, Time};
use curvine_raft::{Foundation, SnapshotSource, found, salvage};
use curvine_types::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::output::{say, say_json};
use crate::args::MetaCommand;
use crate::wiring;

/// Something could not be read.
const LOSSES: u8 = 3;

/// Longest wait for a snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

/// Runs a command of `cv meta`.
pub async fn run(conf: &ClusterConf, as_json: bool, command: &MetaCommand) -> Result<ExitCode> {
    match command {
        MetaCommand::Dump { journal_dir, output } => dump(&dir_of(conf, journal_dir)?, output.as_deref(), as_json),
        MetaCommand::Load { journal_dir, input } => load(conf, &dir_of(conf, journal_dir)?, input, as_json),
        MetaCommand::Snapshot => snapshot(conf, as_json).await,
    }
}

async fn snapshot(conf: &ClusterConf, as_json: bool) -> Result<ExitCode> {
    let observer = Observer::new(&wiring::tool_client(conf)?, SNAPSHOT_TIMEOUT)?;
    let begun = Instant::now();
    let _: Empty = observer.master(Method::TakeSnapshot, &Empty {}).await?;
    let took = begun.elapsed();
    match as_json {
        true => say_json(&json!({ "millis": took.as_millis() as u64 }))?,
        false => say(&format!("a snapshot was written in {:.1} s", took.as_secs_f64()))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn dir_of(conf: &ClusterConf, named: &Option<PathBuf>) -> Result<PathBuf> {
    let dir = named.clone().unwrap_or_else(|| conf.journal.journal_dir.clone());
    match dir.as_os_str().is_empty() {
        true => Err(Error::new(
            ErrorKind::Config,
            "name the directory: --journal-dir, or journal.journal_dir in the config",
        )),
        false => Ok(dir),
    }
}

fn dump(dir: &Path, output: Option<&Path>, as_json: bool) -> Result<ExitCode> {
    let rescued = salvage::<MetaState>(dir)?;
    let namespace = &rescued.machine.0;
    namespace
        .check()
        .map_err(|error| Error::new(ErrorKind::Internal, "the rescued metadata is not sound").caused_by(error))?;
    let now = rescued.now.unwrap_or_default();
    let about: [(&str, Value); 7] = [
        ("software", json!(env!("CARGO_PKG_VERSION"))),
        ("index", json!(rescued.index)),
        ("term", json!(rescued.term)),
        ("now_sec", json!(now.sec)),
        ("now_nsec", json!(now.nsec)),
        ("lost", json!(rescued.lost)),
        ("repairs", json!(rescued.repairs)),
    ];
    let records = match output {
        None => {
            let mut out = BufWriter::new(std::io::stdout().lock());
            let records = namespace.snapshot().write_portable(&about, &mut out);
            records.and_then(|records| out.flush().map(|()| records)).map_err(cannot_write)?
        }
        Some(path) => write_file(path, |out| namespace.snapshot().write_portable(&about, out))?,
    };
    for lost in &rescued.lost {
        eprintln!("lost: {lost}");
    }
    for repair in &rescued.repairs {
        eprintln!("repaired: {repair}");
    }
    if output.is_some() {
        let counts = namespace.counts();
        match as_json {
            true => say_json(&json!({
                "records": records, "files": counts.files, "directories": counts.directories, "index": rescued.index,
                "lost": rescued.lost, "repairs": rescued.repairs,
            }))?,
            false => say(&format!(
                "{records} records with {} files and {} directories, up to log entry {}",
                counts.files, counts.directories, rescued.index
            ))?,
        }
    }
    Ok(if rescued.lost.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(LOSSES) })
}

/// Under another name until it is whole and durable. Only its owner may read it: it has the secrets of mounts.
fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<u64>) -> Result<u64> {
    let draft = path.with_extension("draft");
    let file =
        File::options().create(true).truncate(true).write(true).mode(0o600).open(&draft).map_err(cannot_write)?;
    let mut out = BufWriter::new(file);
    let records = write(&mut out).map_err(cannot_write)?;
    let file = out.into_inner().map_err(|error| cannot_write(error.into_error()))?;
    file.sync_all().and_then(|()| std::fs::rename(&draft, path)).map_err(cannot_write)?;
    Ok(records)
}

fn cannot_write(source: std::io::Error) -> Error {
    Error::from_io(source, "cannot write the dump")
}

struct Whole(curvine_namespace::Snapshot);

impl SnapshotSource for Whole {
    fn write_to(&self, writer: &mut dyn Write) -> std::io::Result<()> {
        self.0.write_to(writer)
    }
}

fn load(conf: &ClusterConf, dir: &Path, input: &Path, as_json: bool) -> Result<ExitCode> {
    let cannot_read = |source| Error::from_io(source, "cannot read the dump").with("file", input.display());
    let source: Box<dyn Read> = match input.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(input).map_err(cannot_read)?),
    };
    // The bytes of a snapshot are checked as a whole before anything is made of them.
    let mut bytes = tempfile::tempfile().map_err(|source| Error::from_io(source, "cannot make a temporary file"))?;
    let mut out = BufWriter::new(&mut bytes);
    let head = snapshot_of_portable(&mut BufReader::new(source), &mut out)
        .map_err(|error| error.with("file", input.display()))?;
    out.flush().map_err(cannot_write)?;
    drop(out);
    bytes.rewind().map_err(cannot_write)?;
    let mut namespace = Namespace::restore(&mut BufReader::new(bytes))?;
    let repairs = namespace.repair(false);
    namespace.check()?;
    for repair in &repairs {
        eprintln!("repaired: {repair}");
    }
    let number = |key: &str| head.fields.get(key).and_then(Value::as_u64).unwrap_or(0);
    let seconds = head.fields.get("now_sec").and_then(Value::as_i64).unwrap_or(0);
    let foundation = Foundation {
        cluster: head.cluster,
        term: number("term"),
        index: number("index"),
        now: Some(Time { sec: seconds, nsec: number("now_nsec") as u32 }),
        address: wiring::member_address(conf),
        source: &Whole(namespace.snapshot()),
    };
    found(dir, &foundation)?;
    let counts = namespace.counts();
    match as_json {
        true => say_json(&json!({
            "cluster": head.cluster.to_string(), "files": counts.files, "directories": counts.directories,
            "repairs": repairs,
        }))?,
        false => say(&format!(
            "{} files and {} directories of the cluster {} are in {}; start a master on it, then run `cv fsck`",
            counts.files,
            counts.directories,
            head.cluster,
            dir.display()
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}
