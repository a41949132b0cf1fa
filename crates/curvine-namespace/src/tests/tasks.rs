//! Loads, exports and frees in the log.

use curvine_proto::command::Body;
use curvine_proto::*;
use curvine_types::ErrorKind;
use curvine_types::limits::{TASK_FAILURES_MAX, TASKS_ENDED_MAX, TASKS_UNDONE_MAX};

use super::driver::*;

fn submit(kind: JobKind, path: &str) -> Body {
    let spec = TaskSpec { paths: vec![path.to_string().into()], ..Default::default() };
    Body::SubmitJob(SubmitJob { kind: kind as i32, spec: Some(spec) })
}

fn note(job: u64, run: u32, state: JobState, progress: TaskProgress) -> Body {
    Body::NoteJob(NoteJob { job, run, state: state as i32, progress: Some(progress) })
}

#[test]
fn the_same_task_is_joined_until_it_has_ended() {
    let mut d = Driver::new();
    let first = d.ok(0, submit(JobKind::Load, "/a"));
    assert!(first.created);
    let again = d.ok(0, submit(JobKind::Load, "/a"));
    assert_eq!((again.id, again.created), (first.id, false));
    let other = d.ok(0, submit(JobKind::Free, "/a"));
    assert!(other.created && other.id != first.id);
    d.ok(0, note(first.id, 0, JobState::Done, TaskProgress::default()));
    assert!(d.ok(0, submit(JobKind::Load, "/a")).created);
    let ids: Vec<u64> = d.ns.tasks(0, 2).0.iter().map(|job| job.id).collect();
    assert_eq!((ids, d.ns.tasks(0, 2).1), (vec![first.id, other.id], false));
}

#[test]
fn an_ended_task_changes_no_more_until_it_is_retried() {
    let mut d = Driver::new();
    let id = d.ok(0, submit(JobKind::Load, "/a")).id;
    assert_eq!(d.fails(0, Body::ControlJob(ControlJob { job: id, retry: true })), ErrorKind::Conflict);
    d.ok(0, note(id, 0, JobState::Running, TaskProgress { files: 3, ..Default::default() }));
    d.ok(0, Body::ControlJob(ControlJob { job: id, retry: false }));
    assert_eq!(d.fails(0, note(id, 0, JobState::Done, TaskProgress::default())), ErrorKind::Conflict);
    assert_eq!(d.fails(0, Body::ControlJob(ControlJob { job: id, retry: false })), ErrorKind::Conflict);
    let job = d.ns.job(id).unwrap();
    assert_eq!((job.state(), job.progress.unwrap().files), (JobState::Cancelled, 3));

    d.ok(0, Body::ControlJob(ControlJob { job: id, retry: true }));
    let job = d.ns.job(id).unwrap();
    assert_eq!((job.state(), job.run, job.progress), (JobState::Waiting, 1, None));
    assert_eq!(d.fails(0, note(id, 0, JobState::Done, TaskProgress::default())), ErrorKind::Conflict);
    d.ok(0, note(id, 1, JobState::Done, TaskProgress::default()));
}

#[test]
fn tasks_are_bounded_in_number_and_in_what_they_say() {
    let mut d = Driver::new();
    assert_eq!(d.fails(0, submit(JobKind::Upload, "/a")), ErrorKind::InvalidArgument);
    assert_eq!(d.fails(0, submit(JobKind::Load, "a")), ErrorKind::InvalidArgument);
    assert_eq!(d.fails(0, submit(JobKind::Load, &format!("/{}", "a".repeat(70_000)))), ErrorKind::TooBig);
    let ended = TASKS_ENDED_MAX + 5;
    for number in 0..ended {
        let id = d.ok(0, submit(JobKind::Load, &format!("/{number}"))).id;
        let failure = TaskFailure { path: "/x".into(), error: "e".repeat(9000) };
        let progress = TaskProgress { failures: vec![failure; TASK_FAILURES_MAX + 9], ..Default::default() };
        d.ok(0, note(id, 0, JobState::Partial, progress));
    }
    let (tasks, end) = d.ns.tasks(0, 10_000);
    assert_eq!((tasks.len(), end), (TASKS_ENDED_MAX, true));
    let failures = &tasks[0].progress.as_ref().unwrap().failures;
    assert_eq!((failures.len(), failures[0].error.len()), (TASK_FAILURES_MAX, 500));
    for number in 0..TASKS_UNDONE_MAX {
        d.ok(0, submit(JobKind::Export, &format!("/{number}")));
    }
    assert_eq!(d.fails(0, submit(JobKind::Export, "/more")), ErrorKind::Overloaded);
    assert_eq!(d.ns.tasks(0, 10_000).0.len(), TASKS_ENDED_MAX - 1 + TASKS_UNDONE_MAX, "the eldest ended one made way");
}

#[test]
fn tasks_are_in_snapshots() {
    let mut d = Driver::new();
    let id = d.ok(0, submit(JobKind::Load, "/a/*.bin")).id;
    d.ok(0, note(id, 0, JobState::Running, TaskProgress { found_files: 7, ..Default::default() }));
    let mut bytes = Vec::new();
    d.ns.snapshot().write_to(&mut bytes).unwrap();
    let restored = crate::Namespace::restore(&mut &bytes[..]).unwrap();
    assert_eq!(restored.tasks(0, 10), d.ns.tasks(0, 10));
}
