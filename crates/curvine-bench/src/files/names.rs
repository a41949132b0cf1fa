//! Many small files: what programs do with names and attributes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use curvine_types::Result;

use super::threads::{self, Share};
use super::{PAGE, Place, failed, wrong};
use crate::Measure;

pub(super) fn create(place: &Place, threads: usize) -> Result<Measure> {
    threads::run(place, threads, |share| {
        let content = [7; PAGE];
        let mut made = 0;
        while made < share.files && (Instant::now() < share.until || made == 0) {
            let path = share.dir.join(format!("f{made}"));
            let mut file = File::create_new(&path).map_err(failed(&path))?;
            file.write_all(&content).map_err(failed(&path))?;
            drop(file);
            made += 1;
        }
        Ok(made as u64)
    })
}

pub(super) fn stat(place: &Place, threads: usize) -> Result<Measure> {
    threads::run(place, threads, |share| {
        over(share, |path| {
            let attr = fs::symlink_metadata(path).map_err(failed(path))?;
            if attr.len() == PAGE as u64 { Ok(()) } else { Err(wrong(path, attr.len())) }
        })
    })
}

pub(super) fn open_close(place: &Place, threads: usize) -> Result<Measure> {
    threads::run(place, threads, |share| {
        over(share, |path| {
            drop(File::open(path).map_err(failed(path))?);
            Ok(())
        })
    })
}

pub(super) fn read(place: &Place, threads: usize) -> Result<Measure> {
    threads::run(place, threads, |share| {
        over(share, |path| {
            let mut content = [0; PAGE + 1];
            let mut file = File::open(path).map_err(failed(path))?;
            let length = file.read(&mut content).map_err(failed(path))?;
            if length == PAGE && content[..PAGE] == [7; PAGE] { Ok(()) } else { Err(wrong(path, length as u64)) }
        })
    })
}

pub(super) fn list(place: &Place, threads: usize) -> Result<Measure> {
    threads::run(place, threads, |share| list_again(share, |_| Ok(())))
}

pub(super) fn list_long(place: &Place, threads: usize) -> Result<Measure> {
    threads::run(place, threads, |share| {
        list_again(share, |entry| {
            let path = entry.path();
            fs::symlink_metadata(&path).map(|_| ()).map_err(failed(&path))
        })
    })
}

pub(super) fn rename(place: &Place, threads: usize) -> Result<Measure> {
    threads::run(place, threads, |share| {
        once(share, |path| {
            let to = path.with_extension("renamed");
            fs::rename(path, &to).map_err(failed(path))
        })
    })
}

pub(super) fn unlink(place: &Place, threads: usize) -> Result<Measure> {
    threads::run(place, threads, |share| once(share, |path| fs::remove_file(path).map_err(failed(path))))
}

/// The files that are there.
fn present(share: &Share) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(&share.dir).map_err(failed(&share.dir))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed(&share.dir))).collect()
}

/// Each file in turn, again and again until the time is up; at least once.
fn over(share: &Share, each: impl Fn(&PathBuf) -> Result<()>) -> Result<u64> {
    let files = present(share)?;
    let mut count = 0;
    for path in files.iter().cycle() {
        each(path)?;
        count += 1;
        if count >= files.len() as u64 && Instant::now() >= share.until {
            break;
        }
    }
    Ok(count)
}

/// Each file once.
fn once(share: &Share, each: impl Fn(&PathBuf) -> Result<()>) -> Result<u64> {
    let files = present(share)?;
    files.iter().try_for_each(each)?;
    Ok(files.len() as u64)
}

/// The whole directory, again and again until the time is up.
fn list_again(share: &Share, each: impl Fn(&fs::DirEntry) -> Result<()>) -> Result<u64> {
    let mut count = 0;
    loop {
        for entry in fs::read_dir(&share.dir).map_err(failed(&share.dir))? {
            each(&entry.map_err(failed(&share.dir))?)?;
            count += 1;
        }
        if count == 0 || Instant::now() >= share.until {
            return Ok(count);
        }
    }
}
