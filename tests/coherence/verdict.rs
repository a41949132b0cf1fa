//! Checks a history object by object and says in words what cannot be explained.

use std::collections::{BTreeSet, HashMap};
use std::fmt::{Debug, Write};

use super::history::{History, LogCall, SAMPLES, Span};
use super::linear::{Model, Timed, Verdict, check};
use super::models::{Cell, CellOp, Log, LogOp, Mode, ModeOp, NameOp, Names, Sight, Size, SizeOp};

/// The permission bits with which the workload makes files.
pub const NEW_MODE: u32 = 0o644;

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Each a violation, told with the operations around it.
    pub violations: Vec<String>,
    /// Objects with too many possibilities.
    pub undecided: usize,
    pub objects: usize,
    /// Samples of content that reads returned, and those of them that are held against nobody (see `as_on_linux`).
    pub samples: usize,
    pub excused: usize,
}

/// Checks everything.
pub fn judge(mut history: History) -> Findings {
    history.spread_cuts();
    let mut findings = Findings { violations: history.complaints.clone(), ..Findings::default() };
    let names = with_idle_renames(&seen_late(&with_mere_opens(&history.names), Names::changes));
    findings.object("the names", &Names { foundlings: foundlings(&names) }, &names);
    for (inode, ops) in &history.sizes {
        findings.object(
            &format!("the size of inode {inode}"),
            &Size,
            &with_growth(&seen_late(ops, |op| !matches!(op, SizeOp::See(_)))),
        );
    }
    for (inode, ops) in &history.modes {
        findings.object(
            &format!("the mode of inode {inode}"),
            &Mode(NEW_MODE),
            &seen_late(ops, |op| matches!(op, ModeOp::Set(_))),
        );
    }
    let mut disturbances: HashMap<u64, Vec<Span>> = HashMap::new();
    for ((inode, offset), ops) in &history.cells {
        let disturbing = disturbances.entry(*inode).or_insert_with(|| disturbances_of(*inode, &history, &names));
        let held = as_on_linux(ops, disturbing);
        findings.object(&format!("the content of inode {inode} at {offset}"), &Cell, &held);
        findings.samples += ops.iter().filter(|timed| is_sample(timed)).count();
        findings.excused +=
            ops.iter().filter(|timed| is_sample(timed)).count() - held.iter().filter(|timed| is_sample(timed)).count();
    }
    for (log, calls) in &history.logs {
        match in_order(calls) {
            Ok((model, ops)) => findings.object(&format!("log {log}"), &model, &ops),
            Err(complaint) => findings.violations.push(format!("log {log}: {complaint}")),
        }
    }
    findings
}

impl Findings {
    fn object<M: Model>(&mut self, name: &str, model: &M, ops: &[Timed<M::Op>]) {
        self.objects += 1;
        match check(model, ops) {
            Verdict::Explained => {}
            Verdict::Undecided => self.undecided += 1,
            Verdict::Unexplained(index) => self.violations.push(tell(name, ops, index)),
        }
    }
}

/// Inodes that were seen but that no call of known outcome made.
fn foundlings(ops: &[Timed<NameOp>]) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    let mut made = BTreeSet::new();
    for timed in ops {
        match timed.op {
            NameOp::See { sight: Sight::File(inode), .. } => drop(seen.insert(inode)),
            NameOp::Create { inode: Some(inode), .. } => drop(made.insert(inode)),
            _ => {}
        }
    }
    seen.difference(&made).copied().collect()
}

/// What the page cache of Linux shows while calls on the same file go on at the same time, whatever the file system below it:
/// * a read during a cut may get zeroes in the place of what is cut;
/// * a write is seen through its mount before its file system has it, and is not undone there by what comes in between from
///   another mount: it may count twice;
/// * when the kernel asks how long the file is and whether its pages are still right, it does not take the answer in if it was
///   told meanwhile that something has changed, found it out by another read, or while it writes or cuts the file itself
///   (`attr_version`, `FUSE_I_SIZE_UNSTABLE`): a read during an open, a change or another read of the file may get what was
///   right before.
///
/// All of it ends with the calls. What was seen that way becomes a step of the call, or is not held against anybody.
fn as_on_linux(ops: &[Timed<CellOp>], disturbing: &[Span]) -> Vec<Timed<CellOp>> {
    let mut all = Vec::with_capacity(ops.len());
    for timed in ops {
        let is_cut = |other: &&Timed<CellOp>| other.op == CellOp::Cut;
        let rivals = || ops.iter().filter(|other| other.mount != timed.mount && overlap(timed, other));
        // A read or write elsewhere tells this kernel nothing.
        let reaches = |span: &Span| {
            span.who != timed.who && (span.mount == timed.mount || !["read", "write"].contains(&span.call))
        };
        let is_held_up = || disturbing.iter().any(|span| reaches(span) && span.overlaps(timed));
        match timed.op {
            CellOp::See(_) if is_held_up() => continue,
            CellOp::Cut if ops.iter().any(|other| other.op == CellOp::See(Some(0)) && overlap(timed, other)) => {
                all.push(Timed { op: CellOp::Blank, optional: true, ..timed.clone() });
            }
            CellOp::Write(_) if rivals().any(|other| is_cut(&other) || matches!(other.op, CellOp::Write(_))) => {
                all.push(Timed { optional: true, ..timed.clone() });
            }
            _ => {}
        }
        all.push(timed.clone());
    }
    all
}

fn is_sample(timed: &Timed<CellOp>) -> bool {
    matches!(timed.op, CellOp::See(_))
}

/// The opens and changes of a file, and its reads from the start: each may void what the kernel is being told of it.
fn disturbances_of(inode: u64, history: &History, names: &[Timed<NameOp>]) -> Vec<Span> {
    let sizes = history.sizes.get(&inode).into_iter().flatten();
    let modes = history.modes.get(&inode).into_iter().flatten();
    let changes = sizes.filter(|timed| !matches!(timed.op, SizeOp::See(_))).map(Span::from);
    let modes = modes.filter(|timed| matches!(timed.op, ModeOp::Set(_))).map(Span::from);
    let of_names = names.iter().filter(|timed| match timed.op {
        NameOp::Create { inode: made, .. } => made.is_none_or(|made| made == inode),
        NameOp::See { sight, .. } => sight == Sight::File(inode) && ["open", "create"].contains(&timed.call),
        NameOp::Mkdir { .. } | NameOp::Rmdir { .. } | NameOp::OneAbsent { .. } => false,
        NameOp::Unlink { .. } | NameOp::Rename { .. } | NameOp::Exchange { .. } | NameOp::PerhapsMove { .. } => true,
    });
    let start = history.cells.get(&(inode, SAMPLES[0])).into_iter().flatten();
    let reads = start.filter(|timed| is_sample(timed)).map(Span::from);
    changes.chain(modes).chain(of_names.map(Span::from)).chain(reads).collect()
}

/// `rename` looks both names up before it is sent, and does nothing if they are of one file then. While others move that file
/// from one name to the other this may be so though it never was at one time.
fn with_idle_renames(ops: &[Timed<NameOp>]) -> Vec<Timed<NameOp>> {
    let moves = |timed: &Timed<NameOp>| match timed.op {
        NameOp::Rename { from, to, .. } => Some((from, to)),
        NameOp::Exchange { one, other } => Some((one, other)),
        _ => None,
    };
    let touches =
        |timed: &Timed<NameOp>, name: usize| moves(timed).is_some_and(|(one, other)| one == name || other == name);
    let mut all = ops.to_vec();
    for timed in &mut all {
        let Some((from, to)) = moves(timed) else { continue };
        let others = || ops.iter().filter(|other| other.who != timed.who && overlap(timed, *other));
        if others().any(|other| touches(other, from)) && others().any(|other| touches(other, to)) {
            timed.op = NameOp::PerhapsMove { from, to, whole: Box::new(timed.op.clone()) };
        }
    }
    all
}

fn overlap<One, Other>(one: &Timed<One>, other: &Timed<Other>) -> bool {
    Span::from(one).overlaps(other)
}

/// `open(O_CREAT)` of a file that somebody knew before is an open, which changes no name.
fn with_mere_opens(ops: &[Timed<NameOp>]) -> Vec<Timed<NameOp>> {
    let mut known_since: HashMap<u64, u64> = HashMap::new();
    for timed in ops {
        if let NameOp::Create { inode: Some(inode), .. } | NameOp::See { sight: Sight::File(inode), .. } = timed.op
            && let Some(returned) = timed.returned
        {
            let since = known_since.entry(inode).or_insert(returned);
            *since = returned.min(*since);
        }
    }
    let mere = |timed: &Timed<NameOp>| match timed.op {
        NameOp::Create { name, inode: Some(inode), exclusive: false } if known_since[&inode] < timed.invoked => {
            Timed { op: NameOp::See { name, sight: Sight::File(inode) }, ..timed.clone() }
        }
        _ => timed.clone(),
    };
    ops.iter().map(mere).collect()
}

/// A mount keeps what it knows while a change goes on that it has sent itself, and learns of it from the reply. Others may see
/// the change before that reply is there: until then what is seen through the mount may be of any time since the change was sent.
fn seen_late<Op: Clone>(ops: &[Timed<Op>], changes: impl Fn(&Op) -> bool) -> Vec<Timed<Op>> {
    let under_way: Vec<_> = ops.iter().filter(|timed| changes(&timed.op) && timed.returned.is_some()).collect();
    let late = |timed: &Timed<Op>| {
        let own =
            |change: &&&Timed<Op>| change.mount == timed.mount && change.who != timed.who && overlap(**change, timed);
        let since = under_way.iter().filter(own).map(|change| change.invoked).min();
        Timed { invoked: since.map_or(timed.invoked, |since| since.min(timed.invoked)), ..timed.clone() }
    };
    ops.iter().map(|timed| if changes(&timed.op) { timed.clone() } else { late(timed) }).collect()
}

/// On Linux a file may be seen growing while a write goes on: adds the sizes that were seen then, as steps of the write.
fn with_growth(ops: &[Timed<SizeOp>]) -> Vec<Timed<SizeOp>> {
    let mut all = ops.to_vec();
    for write in ops {
        let SizeOp::Reach { from, to } = write.op else { continue };
        let sizes: BTreeSet<u64> = ops
            .iter()
            .filter(|other| overlap(write, other))
            .filter_map(|other| if let SizeOp::See(size) = other.op { Some(size) } else { None })
            .filter(|size| (from + 1..to).contains(size))
            .collect();
        all.extend(sizes.into_iter().map(|to| Timed {
            op: SizeOp::Reach { from, to },
            optional: true,
            ..write.clone()
        }));
    }
    all
}

/// The order of the records, and the calls as operations on their number; an error if two reads contradict each other.
fn in_order(calls: &[Timed<LogCall>]) -> Result<(Log, Vec<Timed<LogOp>>), String> {
    let reads =
        calls.iter().filter_map(|timed| if let LogCall::Read(records) = &timed.op { Some(records) } else { None });
    let order = reads.clone().max_by_key(|records| records.len()).cloned().unwrap_or_default();
    for records in reads {
        if !order.starts_with(records) {
            let at = order.iter().zip(records).take_while(|(one, other)| one == other).count();
            return Err(format!("two reads differ at record {at}: {:x?} and {:x?}", &order[at..], &records[at..]));
        }
    }
    if order.iter().collect::<BTreeSet<_>>().len() != order.len() {
        return Err(format!("a record is there twice: {order:x?}"));
    }
    let op = |call: &LogCall| match call {
        LogCall::Append(stamp) => LogOp::Append(*stamp),
        LogCall::Read(records) => LogOp::See(records.len()),
        LogCall::Count(count) => LogOp::See(*count),
    };
    let ops = calls
        .iter()
        .map(|timed| Timed {
            op: op(&timed.op),
            invoked: timed.invoked,
            returned: timed.returned,
            optional: timed.optional,
            mount: timed.mount,
            who: timed.who,
            call: timed.call,
        })
        .collect();
    Ok((Log { order }, ops))
}

/// The operation that nothing explains, and those on the same object before it and during it.
fn tell<Op: Debug>(name: &str, ops: &[Timed<Op>], index: usize) -> String {
    const BEFORE: usize = 24;
    let culprit = &ops[index];
    let end = culprit.returned.unwrap_or(u64::MAX);
    let mut shown: Vec<&Timed<Op>> = ops.iter().filter(|timed| timed.invoked <= end).collect();
    shown.sort_by_key(|timed| (timed.returned.unwrap_or(u64::MAX), timed.invoked));
    let skipped = shown.len().saturating_sub(BEFORE);
    let mut text = format!("{name}: nothing explains {:?} ({}) of thread {}", culprit.op, culprit.call, culprit.who);
    if skipped > 0 {
        let _ = write!(text, "\n    ({skipped} earlier ones)");
    }
    for timed in &shown[skipped..] {
        let returned = timed.returned.map_or("?".to_string(), |returned| format!("{:.3}", returned as f64 / 1e6));
        let mark = if std::ptr::eq(*timed, culprit) { " <==" } else { "" };
        let _ = write!(
            text,
            "\n    {:>12.3} .. {returned:>12} ms  thread {}  {}: {:?}{mark}",
            timed.invoked as f64 / 1e6,
            timed.who,
            timed.call,
            timed.op
        );
    }
    text
}
