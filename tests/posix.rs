//! The public suites against a mount: `pjdfstest` for what calls must do, `fsx` for what a file must hold.
//! `scripts/install-test-tools.sh` installs both.

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{Cluster, Plan, Run};

const KNOWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/pjdfstest-known-failures.txt");

const PJDFSTEST: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]

[settings]
naptime = 0.01
"#;

/// Tests that cannot run, and why.
const SKIPPED: [(&str, &str); 1] = [(
    "link::link_count_max",
    "pathconf(3) of the C library knows no limit for FUSE; EMLINK has a test in curvine-namespace",
)];

/// The names of the known failures, and of those among them that pass now and then (`~`). What follows a `#` is the reason.
fn known_failures() -> (BTreeSet<String>, BTreeSet<String>) {
    let text = std::fs::read_to_string(KNOWN).expect("read the list of known failures");
    let names = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    let (sometimes, always): (Vec<_>, Vec<_>) =
        names.filter(|name| !name.is_empty()).partition(|name| name.starts_with('~'));
    let sometimes: BTreeSet<String> =
        sometimes.into_iter().map(|name| name.trim_start_matches('~').to_string()).collect();
    (always.into_iter().map(str::to_string).chain(sometimes.iter().cloned()).collect(), sometimes)
}

/// The verdict on each test, from the lines `name verdict`.
fn verdicts(output: &str) -> BTreeMap<&str, &str> {
    let mut verdicts = BTreeMap::new();
    for line in output.lines().filter(|line| !line.starts_with(['\t', ' '])) {
        if let Some((name, verdict)) = line.trim_end().rsplit_once(' ')
            && ["ok", "FAILED", "skipped"].contains(&verdict)
            && name.contains("::")
        {
            verdicts.insert(name.trim_end(), verdict);
        }
    }
    verdicts
}

#[test]
fn verdicts_are_read_from_the_output_of_pjdfstest() {
    let output = "chmod::eloop          ok\nopen::enospc    skipped\n\trequires features: x\nunlink::a::b   FAILED\n\tsomething ok\n";
    let expected = BTreeMap::from([("chmod::eloop", "ok"), ("open::enospc", "skipped"), ("unlink::a::b", "FAILED")]);
    assert_eq!(verdicts(output), expected);
}

#[test]
fn pjdfstest_fails_nowhere_but_where_it_is_known_to() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    assert!(
        rustix::process::geteuid().is_root(),
        "pjdfstest changes users: run the tests as root, or with CURVINE_SKIP_FUSE_TESTS=1"
    );
    let program = harness::tool("pjdfstest");
    let cluster = Cluster::start(Plan { mounts: 1, limit: Duration::from_secs(900), ..Plan::default() });
    let elsewhere = cluster.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("make a directory");
    let run = |settings: &str, filter: &[&str]| {
        let file = cluster.dir().join("pjdfstest.toml");
        std::fs::write(&file, settings).expect("write the settings");
        let mut command = Command::new(&program);
        command.arg("-c").arg(&file).arg("-p").arg(cluster.mount(0)).arg("-s").arg(&elsewhere).args(filter);
        command.env("NO_COLOR", "1").current_dir(cluster.dir());
        let run = Run::of(&mut command, Duration::from_secs(400));
        assert!(run.status.is_some() && run.text().contains("Summary"), "pjdfstest did not come to its end: {run}");
        run
    };
    let run_all = run(PJDFSTEST, &[]);
    // These make the mount read-only, which does not go while a program of another test still runs from an unlinked file.
    let run_read_only = run(&format!("{PJDFSTEST}allow_remount = true\n"), &["erofs"]);
    let (output, read_only) = (run_all.text(), run_read_only.text());
    let mut verdicts = verdicts(&output);
    verdicts.extend(self::verdicts(&read_only));
    let output = format!("{output}{read_only}");
    let all = |wanted: &str| -> BTreeSet<String> {
        verdicts.iter().filter(|(_, verdict)| **verdict == wanted).map(|(name, _)| name.to_string()).collect()
    };
    let (passed, failed, skipped) = (all("ok"), all("FAILED"), all("skipped"));
    println!("{} passed, {} failed, skipped: {skipped:?}", passed.len(), failed.len());
    assert!(passed.len() > 390, "{} tests prove nothing: {output}", passed.len());
    let skippable: BTreeSet<String> = SKIPPED.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(skipped, skippable, "skipped without a reason, or no longer");

    let (known, sometimes) = known_failures();
    let new: Vec<_> = failed.difference(&known).collect();
    for name in &new {
        eprintln!("{}", details(&output, name));
    }
    assert!(new.is_empty(), "new failures: {new:#?}");
    let healed: Vec<_> = known.difference(&failed).filter(|name| !sometimes.contains(*name)).collect();
    assert!(healed.is_empty(), "these pass now (or are not run): take them out of {KNOWN}: {healed:#?}");
    cluster.finish();
}

/// The lines of a test in the output.
fn details(output: &str, name: &str) -> String {
    let mut lines = output.lines().skip_while(|line| !(line.starts_with(name) && line.ends_with("FAILED")));
    let first = lines.next().unwrap_or(name).to_string();
    lines.take_while(|line| line.starts_with(['\t', ' '])).take(6).fold(first, |text, line| text + "\n" + line)
}

/// How `fsx` exercises one file.
struct Exercise {
    name: &'static str,
    settings: &'static str,
    operations: u32,
    /// With `CURVINE_FSX_WHOLE`, and then with ten seeds.
    whole: u32,
}

const EXERCISES: [Exercise; 5] = [
    Exercise {
        name: "reads, writes and truncations",
        settings: "flen = 262144\n[weights]\nread = 10\nwrite = 10\ntruncate = 5\nmapread = 0\nmapwrite = 0\nclose_open = 1\nfsync = 1\n",
        operations: 3000,
        whole: 100_000,
    },
    Exercise {
        name: "with mmap",
        settings: "flen = 262144\n[weights]\nread = 10\nwrite = 10\ntruncate = 5\nmapread = 10\nmapwrite = 10\nclose_open = 1\ninvalidate = 1\n",
        operations: 3000,
        whole: 100_000,
    },
    Exercise {
        name: "within the inline content",
        settings: "flen = 20000\n[opsize]\nmin = 1\nmax = 6000\n[weights]\nread = 10\nwrite = 10\ntruncate = 10\nmapread = 5\nmapwrite = 5\nclose_open = 5\n",
        operations: 3000,
        whole: 100_000,
    },
    Exercise {
        name: "large requests over several chunks",
        settings: "flen = 8388608\n[opsize]\nmin = 1\nmax = 3000000\n[weights]\nread = 10\nwrite = 10\ntruncate = 3\nmapread = 3\nmapwrite = 3\nclose_open = 1\nfdatasync = 1\n",
        operations: 300,
        whole: 3000,
    },
    Exercise {
        name: "allocation, holes and copies",
        settings: "flen = 1048576\n[weights]\nread = 10\nwrite = 10\ntruncate = 5\nmapread = 2\nmapwrite = 2\nposix_fallocate = 5\npunch_hole = 5\ncopy_file_range = 5\nsendfile = 5\nposix_fadvise = 5\nclose_open = 1\n",
        operations: 2000,
        whole: 100_000,
    },
];

#[test]
fn fsx_finds_no_wrong_byte() {
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let program = harness::tool("fsx");
    let first = harness::number("CURVINE_FSX_SEED", 1);
    let whole = std::env::var_os("CURVINE_FSX_WHOLE").is_some();
    let seeds = harness::number("CURVINE_FSX_SEEDS", if whole { 10 } else { 2 });
    let limit = Duration::from_secs(if whole { 24 * 3600 } else { 900 });
    let cluster = Cluster::start(Plan { limit, ..Plan::default() });
    let mut failures = Vec::new();
    let only = std::env::var("CURVINE_FSX_EXERCISE").unwrap_or_default();
    let chosen: Vec<_> = EXERCISES.iter().filter(|exercise| exercise.name.contains(&only)).collect();
    assert!(!chosen.is_empty(), "no exercise has {only:?} in its name");
    for exercise in chosen {
        for seed in first..first + seeds {
            let operations = if whole { exercise.whole } else { exercise.operations };
            let run = fsx(&program, &cluster, exercise, operations, seed);
            println!("fsx, {}, seed {seed}: {:?}", exercise.name, run.took);
            if !run.worked() {
                let tail: Vec<_> = run.stderr.lines().rev().take(25).collect();
                let tail: Vec<_> = tail.into_iter().rev().collect();
                failures.push(format!(
                    "{} with seed {seed}: {:?}\n{}\n{}",
                    exercise.name,
                    run.status,
                    run.text(),
                    tail.join("\n")
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    cluster.finish();
}

fn fsx(program: &Path, cluster: &Cluster, exercise: &Exercise, operations: u32, seed: u64) -> Run {
    let settings: PathBuf = cluster.dir().join("fsx.toml");
    std::fs::write(&settings, exercise.settings).expect("write the settings");
    let mut command = Command::new(program);
    command.arg("-f").arg(&settings).arg("-N").arg(operations.to_string()).arg("-S").arg(seed.to_string());
    command.arg("-P").arg(cluster.dir()).arg(cluster.mount((seed % 2) as usize).join(format!("fsx-{seed}")));
    command.env("NO_COLOR", "1");
    Run::of(&mut command, Duration::from_secs(180 + u64::from(operations) / 10))
}

#[test]
fn an_open_with_o_trunc_empties_the_file_whatever_its_access_mode() {
    use rustix::fs::{Mode, OFlags, open};
    if harness::fuse_is_switched_off() {
        return;
    }
    let _alone = harness::alone();
    let cluster = Cluster::start(Plan::default());
    for (number, access) in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR].into_iter().enumerate() {
        let name = format!("file-{number}");
        let (here, there) = (cluster.mount(0).join(&name), cluster.mount(1).join(&name));
        std::fs::write(&here, vec![7; 100_000]).expect("write");
        assert_eq!(std::fs::metadata(&there).expect("stat").len(), 100_000);
        let file = open(&there, access | OFlags::TRUNC, Mode::empty()).expect("open");
        assert_eq!(rustix::fs::fstat(&file).expect("stat").st_size, 0, "{access:?}");
        assert_eq!(std::fs::read(&here).expect("read"), b"", "{access:?}");
    }
    cluster.finish();
}
