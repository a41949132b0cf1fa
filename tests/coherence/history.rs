//! What one thread did and saw, sorted by object.

use std::collections::HashMap;
use std::time::Instant;

use super::linear::Timed;
use super::models::{CellOp, ModeOp, NameOp, SizeOp};

/// Offsets of a file at which its content is followed: around pages, the limit of inline content, checksummed pieces and
/// what one request carries. Each stands for the eight bytes from there.
pub const SAMPLES: [u64; 10] = [0, 8, 4088, 4096, 16_376, 16_384, 65_528, 65_536, 131_072, 262_136];

/// Every word of content that a workload writes has this in its upper 16 bits.
pub const STAMP: u64 = 0xc5a1 << 48;

/// The clock of all threads, in nanoseconds.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// When a call began and when its result was there; no result: it may or may not have happened.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub invoked: u64,
    pub returned: Option<u64>,
    pub mount: usize,
    pub who: usize,
    pub call: &'static str,
}

impl<Op> From<&Timed<Op>> for Span {
    fn from(timed: &Timed<Op>) -> Self {
        let Timed { invoked, returned, mount, who, call, .. } = *timed;
        Self { invoked, returned, mount, who, call }
    }
}

impl Span {
    /// Whether some of it was at the same time.
    pub fn overlaps<Op>(&self, other: &Timed<Op>) -> bool {
        let (end, other_end) = (self.returned.unwrap_or(u64::MAX), other.returned.unwrap_or(u64::MAX));
        other_end >= self.invoked && other.invoked <= end
    }

    fn of<Op>(self, op: Op) -> Timed<Op> {
        Timed {
            op,
            invoked: self.invoked,
            returned: self.returned,
            optional: false,
            mount: self.mount,
            who: self.who,
            call: self.call,
        }
    }
}

/// What was said about a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogCall {
    Append(u64),
    Read(Vec<u64>),
    Count(usize),
}

/// Everything that happened, by object. Files go by their inode, logs by their number.
#[derive(Default)]
pub struct History {
    pub names: Vec<Timed<NameOp>>,
    pub cells: HashMap<(u64, u64), Vec<Timed<CellOp>>>,
    pub sizes: HashMap<u64, Vec<Timed<SizeOp>>>,
    pub modes: HashMap<u64, Vec<Timed<ModeOp>>>,
    pub logs: HashMap<usize, Vec<Timed<LogCall>>>,
    /// Calls of unknown outcome that may have cut any of the files to nothing.
    pub cuts: Vec<Span>,
    /// What needs no history to be wrong.
    pub complaints: Vec<String>,
    /// Every call in words, with the span of its call.
    pub trace: Vec<(Span, String)>,
    pub calls: usize,
    pub unknown: usize,
}

impl History {
    pub fn name(&mut self, span: Span, op: NameOp) {
        self.trace.push((span, format!("{op:?}")));
        self.names.push(span.of(op));
    }

    pub fn mode(&mut self, span: Span, inode: u64, op: ModeOp) {
        self.trace.push((span, format!("inode {inode}: {op:?}")));
        self.modes.entry(inode).or_default().push(span.of(op));
    }

    pub fn log(&mut self, span: Span, log: usize, call: LogCall) {
        self.trace.push((span, format!("log {log}: {call:x?}")));
        self.logs.entry(log).or_default().push(span.of(call));
    }

    fn cell(&mut self, span: Span, inode: u64, offset: u64, op: CellOp) {
        self.cells.entry((inode, offset)).or_default().push(span.of(op));
    }

    fn size(&mut self, span: Span, inode: u64, op: SizeOp) {
        self.sizes.entry(inode).or_default().push(span.of(op));
    }

    /// The bytes `from..to` were filled with `stamp`.
    pub fn write(&mut self, span: Span, inode: u64, from: u64, to: u64, stamp: u64) {
        self.trace.push((span, format!("inode {inode}: {from}..{to} is {stamp:x}")));
        self.size(span, inode, SizeOp::Reach { from, to });
        for offset in SAMPLES.into_iter().filter(|offset| *offset < to) {
            self.cell(span, inode, offset, if offset >= from { CellOp::Write(stamp) } else { CellOp::Cover });
        }
    }

    /// The file was cut or extended to `size`.
    pub fn truncate(&mut self, span: Span, inode: u64, size: u64) {
        self.trace.push((span, format!("inode {inode}: size is {size}")));
        self.size(span, inode, SizeOp::Set(size));
        for offset in SAMPLES {
            self.cell(span, inode, offset, if offset < size { CellOp::Cover } else { CellOp::Cut });
        }
    }

    /// A read of `from..to` returned `bytes`; fewer than asked for: the rest is beyond the end.
    pub fn read(&mut self, span: Span, inode: u64, from: u64, to: u64, bytes: &[u8]) {
        self.trace.push((span, format!("inode {inode}: {} bytes of {from}..{to}", bytes.len())));
        for offset in SAMPLES.into_iter().filter(|offset| (from..to).contains(offset)) {
            let seen = word(bytes, (offset - from) as usize);
            self.cell(span, inode, offset, CellOp::See(seen));
        }
        for (position, chunk) in bytes.chunks(8).enumerate() {
            let found = word(chunk, 0).unwrap_or(u64::MAX);
            if found != 0 && found >> 48 != STAMP >> 48 {
                let offset = from + 8 * position as u64;
                self.complaints.push(format!("inode {inode} holds {found:#x} at {offset}, which nobody wrote"));
                break;
            }
        }
    }

    /// Says of every file that it may have been cut by the calls of which that is all that is known.
    pub fn spread_cuts(&mut self) {
        let inodes: Vec<u64> = self.sizes.keys().copied().collect();
        for span in std::mem::take(&mut self.cuts) {
            for inode in &inodes {
                self.truncate(span, *inode, 0);
            }
        }
    }

    /// Attributes said that the file has this size.
    pub fn saw_size(&mut self, span: Span, inode: u64, size: u64) {
        self.trace.push((span, format!("inode {inode}: saw size {size}")));
        self.size(span, inode, SizeOp::See(size));
    }

    /// Every call in the order of their beginnings.
    pub fn in_words(&self) -> String {
        use std::fmt::Write;
        let mut trace: Vec<_> = self.trace.iter().collect();
        trace.sort_by_key(|(span, _)| span.invoked);
        let millis = |nanos: u64| nanos as f64 / 1e6;
        trace.iter().fold(String::new(), |mut text, (span, words)| {
            let Span { invoked, returned, who, call, .. } = *span;
            let returned = returned.map_or(f64::INFINITY, millis);
            let _ = writeln!(text, "{:>12.3} .. {returned:>12.3}  thread {who}  {call}: {words}", millis(invoked));
            text
        })
    }

    /// Adds what another thread did.
    pub fn merge(&mut self, other: History) {
        fn all<K: std::hash::Hash + Eq, V>(into: &mut HashMap<K, Vec<V>>, from: HashMap<K, Vec<V>>) {
            for (key, mut values) in from {
                into.entry(key).or_default().append(&mut values);
            }
        }
        self.names.extend(other.names);
        all(&mut self.cells, other.cells);
        all(&mut self.sizes, other.sizes);
        all(&mut self.modes, other.modes);
        all(&mut self.logs, other.logs);
        self.trace.extend(other.trace);
        self.cuts.extend(other.cuts);
        self.complaints.extend(other.complaints);
        self.calls += other.calls;
        self.unknown += other.unknown;
    }
}

/// The eight bytes at `at`, if they are all there.
pub fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
}
