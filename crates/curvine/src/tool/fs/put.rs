//! `put`: local files into Curvine.
//!
//! Always: a file that could not be copied whole is not left behind as if it were, unless it was there before.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use curvine_client::{Handle, NewFile, NewNode, OpenFlags};
use curvine_types::limits::IO_MAX;
use curvine_types::{Error, ErrorKind, Name, Result};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::change::{make_all, node};
use crate::args::PutArgs;
use crate::tool::path::{clean, find, is_directory, join};
use crate::tool::{Context, Failures};

/// Standard input.
const STDIN: &str = "-";

/// Copies local files and directories into Curvine.
pub async fn put(context: &Context, arguments: PutArgs) -> Result<ExitCode> {
    let Some((to, locals)) = arguments.paths.split_last() else { return Ok(ExitCode::SUCCESS) };
    let to = clean(to)?;
    let into = find(&context.fs, &to).await?.is_some_and(|there| is_directory(&there));
    if locals.len() > 1 && !into {
        return Err(Error::new(ErrorKind::NotADirectory, "several files go into a directory").with("path", to));
    }
    let mut failures = Failures::default();
    let mut jobs = Vec::new();
    for local in locals {
        let planned = plan(context, local, &to, into).await;
        jobs.extend(failures.check(local, planned).unwrap_or_default());
    }
    let parallel = context.conf.cli.parallel;
    let force = arguments.force;
    let copies = jobs.into_iter().map(|(local, path)| async move {
        let outcome = copy(context, &local, &path, force).await;
        (path, outcome)
    });
    let mut copies = futures::stream::iter(copies).buffer_unordered(parallel);
    while let Some((path, outcome)) = copies.next().await {
        failures.check(&path, outcome);
    }
    Ok(failures.code())
}

/// The files of one argument with their paths; the directories are made.
async fn plan(context: &Context, local: &str, to: &str, into: bool) -> Result<Vec<(PathBuf, String)>> {
    let top = PathBuf::from(local);
    let name = top.file_name().map(|name| name.as_bytes().to_vec());
    let path = match (into, name) {
        (true, Some(name)) if local != STDIN => join(to, &name),
        (true, _) => {
            return Err(Error::new(ErrorKind::IsADirectory, "say the name of the file to make").with("path", to));
        }
        (false, _) => to.to_string(),
    };
    if local == STDIN || !top.is_dir() {
        return Ok(vec![(top, path)]);
    }
    let (mut files, mut waiting) = (Vec::new(), vec![(top, path)]);
    while let Some((local, path)) = waiting.pop() {
        make_all(context, &path, node(context, 0o777)).await?;
        let failed = |source| Error::from_io(source, "cannot list the local directory").with("path", local.display());
        for entry in std::fs::read_dir(&local).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let below = (entry.path(), join(&path, entry.file_name().as_bytes()));
            // Links are followed, as cp does with what it is given.
            if entry.path().is_dir() { waiting.push(below) } else { files.push(below) }
        }
    }
    Ok(files)
}

async fn copy(context: &Context, local: &Path, path: &str, force: bool) -> Result<()> {
    let fs = &context.fs;
    let source: Box<dyn Read + Send> = if local.as_os_str() == STDIN {
        Box::new(std::io::stdin())
    } else {
        let file = File::open(local)
            .map_err(|source| Error::from_io(source, "cannot read the local file").with("path", local.display()))?;
        Box::new(file)
    };
    let (parent, name) = fs.resolve_parent(path.as_bytes()).await?;
    let NewNode { mode, umask, uid, gid } = node(context, 0o666);
    let open = Some(OpenFlags::WRITE);
    let new = NewFile { mode, umask, uid, gid, exclusive: true, open };
    let (made, handle) = match fs.create(parent.attr.inode, &name, new).await {
        Ok((_, handle)) => (true, handle),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && force => {
            let there = fs.lookup(parent.attr.inode, &name).await?.entry.ok_or(error)?;
            let flags = OpenFlags { truncate: true, ..OpenFlags::WRITE };
            (false, Some(fs.open(there.attr.inode, flags).await?))
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Error::new(ErrorKind::AlreadyExists, "the file is there, use --force to replace it"));
        }
        Err(error) => return Err(error),
    };
    let handle = handle.ok_or_else(|| Error::new(ErrorKind::Internal, "the new file was not opened"))?;
    let written = write_all(context, &handle, source).await;
    let outcome = match written {
        Ok(()) => fs.fsync(&handle, false).await,
        failed => failed,
    };
    // As a close does: of a file whose store fails nothing is lost, it is uploaded later.
    let stored = if outcome.is_ok() { fs.flush(&handle).await } else { Ok(()) };
    fs.release(handle);
    if outcome.is_err() && made {
        discard(context, parent.attr.inode, &name, path).await;
    }
    outcome.and(stored)
}

async fn discard(context: &Context, parent: u64, name: &Name, path: &str) {
    if let Err(error) = context.fs.unlink(parent, name).await {
        tracing::warn!(%error, path, "half a file is left behind");
    }
}

/// Reads ahead of the writes, and keeps some of those in flight.
async fn write_all(context: &Context, handle: &Handle, source: Box<dyn Read + Send>) -> Result<()> {
    let window = context.conf.client.write_window;
    let (send, mut receive) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(2);
    tokio::task::spawn_blocking(move || {
        let mut source = source;
        loop {
            let mut buffer = Vec::with_capacity(IO_MAX);
            let part = source.by_ref().take(IO_MAX as u64).read_to_end(&mut buffer).map(|_| Bytes::from(buffer));
            let ended = part.as_ref().map_or(true, Bytes::is_empty);
            // Nobody receives any more: a write has failed.
            if send.blocking_send(part).is_err() || ended {
                return;
            }
        }
    });
    let mut writes = FuturesUnordered::new();
    let mut offset = 0;
    while let Some(part) = receive.recv().await {
        let part = part.map_err(|source| Error::from_io(source, "cannot read the local file"))?;
        if part.is_empty() {
            break;
        }
        let length = part.len() as u64;
        writes.push(write_part(context, handle, offset, part));
        offset += length;
        if writes.len() >= window {
            writes.next().await.transpose()?;
        }
    }
    while let Some(written) = writes.next().await {
        written?;
    }
    Ok(())
}

async fn write_part(context: &Context, handle: &Handle, mut offset: u64, mut part: Bytes) -> Result<()> {
    while !part.is_empty() {
        let done = context.fs.write(handle, offset, part.clone(), false, false).await?;
        let length = usize::try_from(done.length).unwrap_or(usize::MAX).min(part.len());
        if length == 0 {
            return Err(Error::new(ErrorKind::Internal, "a write made no progress"));
        }
        offset += length as u64;
        part = part.split_off(length);
    }
    Ok(())
}
