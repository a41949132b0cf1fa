//! `ls` and `stat`.

use std::process::ExitCode;

use curvine_proto::{Attr, FileKind};
use curvine_types::Result;
use serde_json::Value;

use crate::args::LsArgs;
use crate::tool::output::{attr_json, kind_word, mode_text, say, say_json, size, time_text};
use crate::tool::path::{clean, is_directory, join, last};
use crate::tool::walk::list;
use crate::tool::{Context, Failures};

/// An entry to show.
struct Line {
    path: String,
    name: String,
    attr: Attr,
    target: Option<String>,
}

/// Lists directories.
pub async fn ls(context: &Context, arguments: LsArgs) -> Result<ExitCode> {
    let mut failures = Failures::default();
    let mut values: Vec<Value> = Vec::new();
    let headings = arguments.paths.len() > 1 || arguments.recursive;
    let mut first = true;
    for typed in &arguments.paths {
        let mut waiting = Vec::new();
        let top = async {
            let path = clean(typed)?;
            let entry = context.fs.resolve(path.as_bytes()).await?;
            Ok((path, entry))
        };
        let Some((path, entry)) = failures.check(typed, top.await) else { continue };
        if arguments.directory || !is_directory(&entry) {
            let line = Line { name: path.clone(), path, attr: entry.attr, target: None };
            show(context, &arguments, vec![line], &mut values).await?;
            continue;
        }
        waiting.push((path, entry.attr.inode));
        while let Some((dir, inode)) = waiting.pop() {
            let Some(items) = failures.check(&dir, list(&context.fs, inode).await) else { continue };
            let mut lines: Vec<Line> = items
                .into_iter()
                .map(|item| Line {
                    path: join(&dir, &item.name),
                    name: String::from_utf8_lossy(&item.name).into_owned(),
                    attr: item.entry.attr,
                    target: None,
                })
                .collect();
            sort(&arguments, &mut lines);
            if arguments.recursive {
                let below = lines.iter().rev().filter(|line| line.attr.kind() == FileKind::Directory);
                waiting.extend(below.map(|line| (line.path.clone(), line.attr.inode)));
            }
            if headings && !context.json {
                say(&format!("{}{dir}:", if first { "" } else { "\n" }))?;
            }
            first = false;
            show(context, &arguments, lines, &mut values).await?;
        }
    }
    if context.json {
        say_json(&Value::Array(values))?;
    }
    Ok(failures.code())
}

fn sort(arguments: &LsArgs, lines: &mut [Line]) {
    lines.sort_by(|a, b| a.name.cmp(&b.name));
    let time = |line: &Line| line.attr.mtime.map_or((0, 0), |time| time.key());
    if arguments.by_time {
        lines.sort_by_key(|line| std::cmp::Reverse(time(line)));
    } else if arguments.by_size {
        lines.sort_by_key(|line| std::cmp::Reverse(line.attr.size));
    }
    if arguments.reverse {
        lines.reverse();
    }
}

async fn show(context: &Context, arguments: &LsArgs, mut lines: Vec<Line>, values: &mut Vec<Value>) -> Result<()> {
    if context.json {
        values.extend(lines.iter().map(|line| attr_json(&line.path, &line.attr)));
        return Ok(());
    }
    if !arguments.long {
        let names: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
        return if names.is_empty() { Ok(()) } else { say(&names.join("\n")) };
    }
    for line in lines.iter_mut().filter(|line| line.attr.kind() == FileKind::Symlink) {
        let target = context.fs.readlink(line.attr.inode).await?;
        line.target = Some(String::from_utf8_lossy(&target).into_owned());
    }
    let sizes: Vec<String> = lines.iter().map(|line| size(line.attr.size, arguments.human)).collect();
    let width = sizes.iter().map(String::len).max().unwrap_or(0);
    for (line, size) in lines.iter().zip(sizes) {
        let Attr { nlink, uid, gid, mtime, .. } = &line.attr;
        let target = line.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
        let (mode, time) = (mode_text(&line.attr), time_text(mtime.as_ref()));
        say(&format!("{mode} {nlink:>3} {uid:>5} {gid:>5} {size:>width$} {time} {}{target}", line.name))?;
    }
    Ok(())
}

/// Everything about files.
pub async fn stat(context: &Context, paths: &[String]) -> Result<ExitCode> {
    let mut failures = Failures::default();
    let mut values = Vec::new();
    for typed in paths {
        let found = async {
            let path = clean(typed)?;
            // A live file's size and times are asked anew: the entry may be of some moments ago.
            let inode = context.fs.resolve(path.as_bytes()).await?.attr.inode;
            Ok((path, context.fs.getattr(inode).await?.0))
        };
        let Some((path, attr)) = failures.check(typed, found.await) else { continue };
        if context.json {
            values.push(attr_json(&path, &attr));
            continue;
        }
        say(&text(&path, &attr))?;
    }
    if context.json {
        say_json(&Value::Array(values))?;
    }
    Ok(failures.code())
}

fn text(path: &str, attr: &Attr) -> String {
    let name = if last(path).is_empty() { "/" } else { path };
    let content = match (attr.kind(), attr.mount, attr.live) {
        (FileKind::File, 0, true) => "being written, or not sealed yet",
        (FileKind::File, 0, false) => "Curvine's own",
        (FileKind::File, _, _) => "of an under file system",
        _ => "",
    };
    let mut lines = vec![
        format!("  path        {name}"),
        format!("  type        {}", kind_word(attr.kind())),
        format!("  size        {}", attr.size),
        format!("  inode       {}  links {}", attr.inode, attr.nlink),
        format!("  mode        {:04o} {}  uid {}  gid {}", attr.mode, mode_text(attr), attr.uid, attr.gid),
    ];
    for (name, time) in
        [("read", &attr.atime), ("modified", &attr.mtime), ("changed", &attr.ctime), ("made", &attr.btime)]
    {
        lines.push(format!("  {name:<11} {} UTC", time_text(time.as_ref())));
    }
    if !content.is_empty() {
        lines.push(format!("  content     {content}, generation {}", attr.generation));
    }
    if attr.mount != 0 {
        lines.push(format!("  mount       {}", attr.mount));
    }
    lines.join("\n")
}
