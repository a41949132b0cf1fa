//! `get` and `cat`: files out of Curvine.
//!
//! Always: a local file appears under its name only when it is whole.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use curvine_client::{Handle, OpenFlags};
use curvine_proto::{Attr, FileKind};
use curvine_types::limits::IO_MAX;
use curvine_types::{Error, ErrorKind, Result};
use futures::StreamExt;

use crate::args::GetArgs;
use crate::tool::path::{clean, last};
use crate::tool::walk::Walk;
use crate::tool::{Context, Failures, output};

/// Bytes asked for at once; the client cuts and reads ahead.
const PART: usize = 4 * IO_MAX;

/// Writes files to standard output.
pub async fn cat(context: &Context, paths: &[String]) -> Result<ExitCode> {
    let mut failures = Failures::default();
    for typed in paths {
        let outcome = async {
            let path = clean(typed)?;
            let attr = context.fs.resolve(path.as_bytes()).await?.attr;
            read_all(context, &attr, |parts| parts.iter().try_for_each(|part| output::write(part))).await
        };
        failures.check(typed, outcome.await);
    }
    Ok(failures.code())
}

/// Copies files and directories out of Curvine.
pub async fn get(context: &Context, arguments: GetArgs) -> Result<ExitCode> {
    let Some((to, paths)) = arguments.paths.split_last() else { return Ok(ExitCode::SUCCESS) };
    let to = Path::new(to);
    if paths.len() > 1 && !to.is_dir() {
        return Err(
            Error::new(ErrorKind::NotADirectory, "several files go into a directory").with("path", to.display())
        );
    }
    let mut failures = Failures::default();
    let mut jobs = Vec::new();
    for typed in paths {
        let planned = plan(context, typed, to, &mut failures).await;
        jobs.extend(failures.check(typed, planned).unwrap_or_default());
    }
    let force = arguments.force;
    let copies = jobs.into_iter().map(|(attr, local)| async move {
        let outcome = copy(context, &attr, &local, force).await;
        (local, outcome)
    });
    let mut copies = futures::stream::iter(copies).buffer_unordered(context.conf.cli.parallel);
    while let Some((local, outcome)) = copies.next().await {
        failures.check(&local.display().to_string(), outcome);
    }
    Ok(failures.code())
}

/// The files of one argument with their local paths; the local directories are made.
async fn plan(context: &Context, typed: &str, to: &Path, failures: &mut Failures) -> Result<Vec<(Attr, PathBuf)>> {
    let path = clean(typed)?;
    let top = context.fs.resolve(path.as_bytes()).await?;
    let local = if to.is_dir() { to.join(last(&path)) } else { to.to_path_buf() };
    let mut files = Vec::new();
    let mut walk = Walk::new(&context.fs, &path, top);
    while let Some(found) = walk.next(failures).await {
        let below = found.path.strip_prefix(&path).unwrap_or_default().trim_start_matches('/');
        let local = if below.is_empty() { local.clone() } else { local.join(below) };
        match found.attr.kind() {
            FileKind::Directory => std::fs::create_dir_all(&local).map_err(|source| {
                Error::from_io(source, "cannot make the local directory").with("path", local.display())
            })?,
            FileKind::File => files.push((found.attr, local)),
            _ => eprintln!("{}: neither file nor directory, left out", found.path),
        }
    }
    Ok(files)
}

async fn copy(context: &Context, attr: &Attr, local: &Path, force: bool) -> Result<()> {
    let failed = |source| Error::from_io(source, "cannot write the local file").with("path", local.display());
    if !force && local.symlink_metadata().is_ok() {
        return Err(Error::new(ErrorKind::AlreadyExists, "the file is there, use --force to replace it"));
    }
    let name = local.file_name().unwrap_or_default().to_string_lossy();
    let draft = local.with_file_name(format!(".{name}.curvine-{}", std::process::id()));
    let mut file = File::create(&draft).map_err(failed)?;
    let written =
        read_all(context, attr, |parts| parts.iter().try_for_each(|part| file.write_all(part)).map_err(failed)).await;
    let outcome = written.and_then(|()| std::fs::rename(&draft, local).map_err(failed));
    if outcome.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    outcome
}

/// Hands over the content in order.
async fn read_all(context: &Context, attr: &Attr, mut take: impl FnMut(&[Bytes]) -> Result<()>) -> Result<()> {
    match attr.kind() {
        FileKind::File => {}
        FileKind::Directory => return Err(Error::new(ErrorKind::IsADirectory, "a directory")),
        _ => return Err(Error::new(ErrorKind::InvalidArgument, "not a regular file")),
    }
    let handle: Handle = context.fs.open(attr.inode, OpenFlags::READ).await?;
    let mut offset = 0;
    let outcome = loop {
        let parts = match context.fs.read(&handle, offset, PART).await {
            Ok(parts) => parts,
            Err(error) => break Err(error),
        };
        let length: usize = parts.iter().map(Bytes::len).sum();
        if length == 0 {
            break Ok(());
        }
        if let Err(error) = take(&parts) {
            break Err(error);
        }
        offset += length as u64;
    };
    context.fs.release(handle);
    outcome
}
