//! What is told of jobs: a row each.

use millrace_api::{JobStatus, RecordError, ResultRecord};
use serde::Serialize;
use serde_json::Value;

use crate::exit::Ended;
use crate::show::{Tabular, brief};

/// What is known of one job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobReport {
    pub job_id: String,
    /// `SENT`, `NOT_SENT`, `PENDING` (no record yet), `UNKNOWN` (its record cannot be read), or as the record has it.
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// From sent to done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// Addresses of the outputs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// Where they were downloaded to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<RecordError>,
}

impl JobReport {
    /// A job without a record.
    pub fn new(job_id: impl Into<String>, status: &'static str) -> Self {
        Self {
            job_id: job_id.into(),
            status,
            message_id: None,
            total_seconds: None,
            value: None,
            outputs: Vec::new(),
            files: Vec::new(),
            error: None,
        }
    }

    /// A job that something is wrong with, in words of this program.
    pub fn wrong(job_id: impl Into<String>, status: &'static str, code: &str, message: String) -> Self {
        let error = RecordError { code: code.into(), message, field: None };
        Self { error: Some(error), ..Self::new(job_id, status) }
    }

    /// How this job's state counts.
    pub fn ended(&self) -> Ended {
        match self.status {
            "PENDING" => Ended::NotYet,
            "SENT" | "COMPLETED" if self.error.is_none() => Ended::Well,
            _ => Ended::JobsFailed,
        }
    }

    fn result(&self) -> String {
        let value = || self.value.as_ref().map(ToString::to_string);
        match &self.error {
            Some(RecordError { code, message, field: Some(field) }) => format!("{code}: {field}: {message}"),
            Some(RecordError { code, message, field: None }) => format!("{code}: {message}"),
            None if !self.files.is_empty() => self.files.join(" "),
            None => value().unwrap_or_else(|| self.outputs.join(" ")),
        }
    }
}

impl From<&ResultRecord> for JobReport {
    fn from(record: &ResultRecord) -> Self {
        let status = match record.status {
            JobStatus::Completed => "COMPLETED",
            JobStatus::Failed => "FAILED",
            JobStatus::Expired => "EXPIRED",
            JobStatus::Cancelled => "CANCELLED",
        };
        Self {
            message_id: Some(record.message_id.clone()),
            total_seconds: Some(record.timings.total_seconds),
            value: record.value.clone(),
            outputs: record.outputs.iter().map(|output| output.uri.clone()).collect(),
            error: record.error.clone(),
            ..Self::new(&record.job_id, status)
        }
    }
}

/// Jobs in the order in which they were asked for.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Jobs(pub Vec<JobReport>);

impl Jobs {
    /// The worst of them.
    pub fn ended(&self) -> Ended {
        self.0.iter().map(JobReport::ended).max().unwrap_or(Ended::Well)
    }
}

impl Tabular for Jobs {
    fn heads(&self) -> Vec<&'static str> {
        vec!["JOB", "STATUS", "SECONDS", "RESULT"]
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let seconds = |job: &JobReport| job.total_seconds.map(|s| format!("{s:.1}")).unwrap_or_default();
        let row = |job: &JobReport| vec![job.job_id.clone(), job.status.into(), seconds(job), brief(&job.result())];
        self.0.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_job_decides_how_it_ends() {
        let table = [
            (vec![], Ended::Well),
            (vec!["COMPLETED", "SENT"], Ended::Well),
            (vec!["COMPLETED", "EXPIRED"], Ended::JobsFailed),
            (vec!["FAILED", "PENDING"], Ended::NotYet),
        ];
        for (statuses, wanted) in table {
            let jobs = Jobs(statuses.iter().map(|status| JobReport::new("j", status)).collect());
            assert_eq!(jobs.ended(), wanted, "{statuses:?}");
        }
        assert_eq!(JobReport::wrong("j", "COMPLETED", "Download", "no".into()).ended(), Ended::JobsFailed);
    }
}
