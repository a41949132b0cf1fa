//! How answers are printed: lines, tables, JSON.

use std::io::Write;

use comfy_table::presets::ASCII_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use curvine_proto::{Attr, FileKind, Time};
use curvine_types::units::format_size;
use curvine_types::{Error, Result, format_utc};
use serde_json::{Value, json};

/// Prints bytes. A reader that has gone away, as `head` does, ends the process: nobody wants the rest.
pub fn write(bytes: &[u8]) -> Result<()> {
    match std::io::stdout().lock().write_all(bytes) {
        Err(source) if source.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        outcome => outcome.map_err(|source| Error::from_io(source, "cannot write the answer")),
    }
}

/// Prints a line.
pub fn say(line: &str) -> Result<()> {
    write(format!("{line}\n").as_bytes())
}

/// Prints JSON.
pub fn say_json(value: &Value) -> Result<()> {
    say(&format!("{value:#}"))
}

/// A table whose lines of content, and only those, begin with `|`.
pub fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table.add_rows(rows);
    table.to_string()
}

/// Bytes, for people if asked.
pub fn size(bytes: u64, human: bool) -> String {
    if human { format_size(bytes) } else { bytes.to_string() }
}

/// One letter, as in `ls -l`.
pub fn kind_letter(kind: FileKind) -> char {
    match kind {
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
        FileKind::File | FileKind::Unknown => '-',
    }
}

/// One word, for JSON.
pub fn kind_word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "char_device",
        FileKind::BlockDevice => "block_device",
        FileKind::File => "file",
        FileKind::Unknown => "unknown",
    }
}

/// `-rwxr-sr-x`.
pub fn mode_text(attr: &Attr) -> String {
    let mut text = String::from(kind_letter(attr.kind()));
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = attr.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (attr.mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// `2026-11-23 11:30:09`, in UTC.
pub fn time_text(time: Option<&Time>) -> String {
    time.map_or("-".to_string(), |time| format_utc(time.sec))
}

/// An age such as `3s` or `2h`; `never` for what was never seen.
pub fn age_text(millis: u64) -> String {
    match millis {
        u64::MAX => "never".to_string(),
        0..120_000 => format!("{}s", millis / 1000),
        120_000..7_200_000 => format!("{}m", millis / 60_000),
        7_200_000..172_800_000 => format!("{}h", millis / 3_600_000),
        _ => format!("{}d", millis / 86_400_000),
    }
}

/// Attributes as JSON.
pub fn attr_json(path: &str, attr: &Attr) -> Value {
    let time = |time: Option<&Time>| time.map(|time| time.sec as f64 + f64::from(time.nsec) / 1e9);
    json!({
        "path": path,
        "type": kind_word(attr.kind()),
        "inode": attr.inode,
        "mode": format!("{:04o}", attr.mode),
        "uid": attr.uid,
        "gid": attr.gid,
        "size": attr.size,
        "blocks": attr.blocks,
        "nlink": attr.nlink,
        "atime": time(attr.atime.as_ref()),
        "mtime": time(attr.mtime.as_ref()),
        "ctime": time(attr.ctime.as_ref()),
        "btime": time(attr.btime.as_ref()),
        "generation": attr.generation,
        "live": attr.live,
        "mount": attr.mount,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_shown_as_ls_does() {
        let text = |mode, kind: FileKind| mode_text(&Attr { mode, kind: kind as i32, ..Attr::default() });
        assert_eq!(text(0o644, FileKind::File), "-rw-r--r--");
        assert_eq!(text(0o1777, FileKind::Directory), "drwxrwxrwt");
        assert_eq!(text(0o6744, FileKind::File), "-rwsr-Sr--");
    }

    #[test]
    fn only_content_of_a_table_begins_with_a_bar() {
        let text = table(["ID", "Path"], vec![["1".into(), "/a".into()]]);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("| ID | Path"), "{text}");
        let columns: Vec<&str> = lines[1].split('|').map(str::trim).collect();
        assert_eq!(columns, ["", "1", "/a", ""]);
    }
}
