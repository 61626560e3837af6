//! The ledger: what was sent beside what became of it. Nothing is lost, nothing committed twice, nothing left in flight.

use std::collections::BTreeMap;

use millrace_api::{JobStatus, ResultRecord};
use millrace_aws_model::Event;
use serde_json::Value;

use crate::lab::{BUCKET, Lab, PREFIX};

/// What a job must come to.
#[derive(Debug, Clone, PartialEq)]
pub enum Due {
    /// COMPLETED with this value.
    Value(Value),
    /// FAILED with this code, and in the dead-letter queue.
    Failed(&'static str),
}

/// What there was to count.
#[derive(Debug, Default)]
pub struct Totals {
    pub completed: usize,
    pub failed: usize,
    /// Healthy jobs whose workers were killed so often that they were taken for the killers.
    pub quarantined: usize,
}

/// Checks every job of `due` by its id, and that there is nothing else.
pub fn balance(lab: &Lab, due: &BTreeMap<String, Due>) -> Totals {
    let queue = lab.queue();
    assert!(queue.messages.is_empty(), "left in the queue: {:?}", queue.messages);
    let dead = lab.dead();
    assert_eq!(dead.in_flight, 0);
    let objects = lab.model.objects(BUCKET).unwrap();
    let mut totals = Totals::default();
    for (job_id, due) in due {
        let key = format!("{PREFIX}{job_id}.record.json");
        let object = objects.get(&key).unwrap_or_else(|| panic!("{job_id} is lost"));
        let record: ResultRecord = serde_json::from_slice(&object.body).unwrap();
        match (due, record.status) {
            (Due::Value(value), JobStatus::Completed) => {
                // a FAILED record may be replaced by the next attempt's; this one is final
                assert_eq!(object.puts, 1, "{job_id} was committed {} times", object.puts);
                assert_eq!(record.value.as_ref(), Some(value), "{job_id} has a wrong value");
                totals.completed += 1;
            }
            (Due::Value(_), JobStatus::Failed) => {
                let code = record.error.map(|error| error.code);
                assert_eq!(code.as_deref(), Some("CrashPoison"), "{job_id} failed");
                totals.quarantined += 1;
            }
            (Due::Failed(code), JobStatus::Failed) => {
                assert_eq!(record.error.map(|error| error.code).as_deref(), Some(*code), "{job_id}");
                totals.failed += 1;
            }
            (due, status) => panic!("{job_id} is {status:?}, due is {due:?}"),
        }
    }
    // a job must be run alone twice, and its worker killed both times: next to impossible for a healthy one
    assert!(totals.quarantined <= 1, "{} healthy jobs were taken for killers", totals.quarantined);
    let records = objects.keys().filter(|key| key.ends_with(".record.json")).count();
    assert_eq!(records, due.len(), "there are records of jobs that nobody sent");
    // sent again to the dead-letter queue if the first answer was lost: perhaps twice, never not at all
    assert!(dead.messages.len() >= totals.failed + totals.quarantined, "failed jobs are not in the dead-letter queue");
    if totals.failed + totals.quarantined == 0 {
        assert!(dead.messages.is_empty(), "healthy messages in the dead-letter queue: {:?}", dead.messages);
    }
    totals
}
