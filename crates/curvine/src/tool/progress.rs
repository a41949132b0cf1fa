//! Showing how far a job is: a bar on a terminal, a line now and then elsewhere, nothing if nobody watches.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use curvine_proto::TaskProgress;
use curvine_types::units::format_size;
use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub struct Watch {
    bar: ProgressBar,
    lines: Option<Instant>,
    begun: Instant,
}

impl Watch {
    pub fn new(watch: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if watch && terminal { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = "{bar:30} {percent:>3} % {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left, {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self { bar, lines: (watch && !terminal).then(Instant::now), begun: Instant::now() }
    }

    pub fn show(&mut self, progress: Option<&TaskProgress>) {
        let Some(now) = progress else { return };
        let ended = now.files + now.failed;
        let more = if now.walked { "" } else { " found so far" };
        self.bar.set_length(now.found_bytes);
        self.bar.set_position(now.bytes);
        self.bar.set_message(format!("{ended} of {} files{more}", now.found_files));
        if self.lines.is_some_and(|last| last.elapsed() >= LINE_EVERY) {
            self.lines = Some(Instant::now());
            eprintln!("{}", line(now, self.begun.elapsed()));
        }
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn line(now: &TaskProgress, elapsed: Duration) -> String {
    let rate = now.bytes as f64 / elapsed.as_secs_f64().max(0.001);
    let left = now.found_bytes.saturating_sub(now.bytes) as f64 / rate.max(1.0);
    let (more, left) = match now.walked {
        true => ("", format!(", {left:.0} s left")),
        false => (" found so far", String::new()),
    };
    let (done, found) = (format_size(now.bytes), format_size(now.found_bytes));
    let ended = now.files + now.failed;
    format!("{ended} of {} files{more}, {done} of {found}, {}/s{left}", now.found_files, format_size(rate as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_rate_and_time_left_once_all_is_found() {
        let mut now =
            TaskProgress { found_files: 4, found_bytes: 40 << 20, files: 1, bytes: 10 << 20, ..Default::default() };
        let text = line(&now, Duration::from_secs(10));
        assert_eq!(text, "1 of 4 files found so far, 10.0 MiB of 40.0 MiB, 1.0 MiB/s");
        now.walked = true;
        assert!(line(&now, Duration::from_secs(10)).ends_with("1.0 MiB/s, 30 s left"));
    }
}
