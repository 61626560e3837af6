//! The record of an attempt, as far as it is the same however the job ended.

use jiff::Timestamp;
use millrace_api::{JobStatus, ModelSource, RecordModel, ResultRecord, Timings};

use super::Attempt;
use crate::handler::Handler;
use crate::job::JobHead;
use crate::pipeline::Pipeline;
use crate::time::{rfc3339, seconds_between};

impl<H: Handler> Pipeline<H> {
    /// `namespace/name` of the consumer.
    pub(super) fn owner(&self) -> String {
        self.config.worker.consumer.to_string()
    }

    /// What the message itself tells of a job's times.
    pub(super) fn timings(attempt: &Attempt<'_>) -> Timings {
        let message = attempt.message;
        Timings {
            queued_seconds: seconds_between(message.sent_at, message.received_at),
            total_seconds: seconds_between(message.sent_at, Timestamp::now()),
            ..Timings::default()
        }
    }

    /// Its record, to which outputs, value or error are added.
    pub(super) fn record(
        &self,
        attempt: &Attempt<'_>,
        head: &JobHead,
        status: JobStatus,
        timings: Timings,
    ) -> ResultRecord {
        let (worker, message) = (&self.config.worker, attempt.message);
        ResultRecord {
            job_id: head.id.clone(),
            message_id: message.id.clone(),
            status,
            consumer: self.owner(),
            outputs: Vec::new(),
            value: None,
            error: None,
            attempt: message.receive_count,
            worker: self.state.worker().into(),
            model: RecordModel {
                task: worker.model.task.name().into(),
                source: worker.model.source.as_ref().map(ModelSource::name).unwrap_or_default(),
                revision: self.revision.clone(),
            },
            input_sha256: head.input_sha256.clone(),
            form: head.form.name().into(),
            route: head.route.clone(),
            body: None,
            attributes: message.attributes.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect(),
            trace_id: head.trace.as_ref().map(|trace| trace.trace_id.clone()),
            timings,
            seed: None,
            parameters: Vec::new(),
            started_at: rfc3339(message.received_at),
            finished_at: rfc3339(Timestamp::now()),
            metadata: head.metadata.clone(),
        }
    }
}
