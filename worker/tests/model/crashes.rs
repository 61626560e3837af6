//! Jobs that kill their worker: quarantined, while those that were merely beside them are done.

use std::time::Duration;

use millrace_api::JobStatus;
use serde_json::json;

use crate::lab::{BUCKET, Lab};
use crate::program::{self, Signal};

/// Until it is quarantined: with others, with others and a note, alone, alone.
const DEATHS: usize = 4;

#[tokio::test]
async fn a_job_that_kills_its_worker_is_quarantined_and_its_neighbours_are_not() {
    let lab = Lab::new(10).await;
    let killer = lab.send(json!({ "milliseconds": 3_600_000, "who": "killer" })).await;
    let mut beside = Vec::new();
    for n in 0..3 {
        beside.push(lab.send(json!({ "milliseconds": 500, "n": n })).await);
    }
    let mut deaths = 0;
    let _last = loop {
        let mut worker = program::start(&lab, &format!("w{deaths}"), json!({}));
        worker.until_ready().await;
        let name = format!("w{deaths}");
        let runs = crate::wait::until("the killer runs, or is out", async || {
            if lab.find(&killer).is_some() {
                return Some(false);
            }
            let held = worker.state().await.jobs.iter().any(|job| job.job_id == killer);
            // from the second receive on it has a note from just before it runs
            (held && (deaths == 0 || lab.note(&killer).is_some_and(|note| note["worker"] == name))).then_some(true)
        })
        .await;
        if !runs {
            break worker;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        worker.signal(Signal::Kill).await;
        worker.ended().await;
        deaths += 1;
        assert!(deaths <= DEATHS, "it kills on and on");
        lab.jump(Duration::from_secs(11));
    };
    assert_eq!(deaths, DEATHS);
    let record = lab.find(&killer).unwrap();
    assert_eq!((record.status, record.error.unwrap().code.as_str()), (JobStatus::Failed, "CrashPoison"));
    for id in &beside {
        assert_eq!(lab.record(id).await.status, JobStatus::Completed);
    }
    lab.drained().await;
    let dead = lab.dead();
    assert_eq!(dead.messages.len(), 1);
    let code = dead.messages[0].attributes.iter().find(|(name, _)| name == "millrace-error-code").unwrap();
    assert_eq!(code.1, "CrashPoison");
    let keys: Vec<_> = lab.model.objects(BUCKET).unwrap().into_keys().collect();
    let notes: Vec<_> = keys.iter().filter(|key| key.ends_with(".attempt")).collect();
    assert!(notes.is_empty(), "notes stay: {notes:?}");
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_takes_its_note_away() {
    let lab = Lab::new(10).await;
    let mut first = program::start(&lab, "first", json!({}));
    first.until_ready().await;
    let id = lab.send(json!({ "milliseconds": 3_600_000 })).await;
    first.until_busy(1).await;
    first.signal(Signal::Kill).await;
    first.ended().await;
    lab.jump(Duration::from_secs(11));

    let mut second = program::start(&lab, "second", json!({ "shutdown": { "gracePeriodSeconds": 0 } }));
    second.until_ready().await;
    crate::wait::until_true("a note from the second receive on", async || lab.note(&id).is_some()).await;
    second.signal(Signal::Term).await;
    assert!(second.ended().await.success());
    assert!(lab.note(&id).is_none(), "the note outlived a worker that stopped well");
    assert_eq!(lab.queue().in_flight, 0);
}
