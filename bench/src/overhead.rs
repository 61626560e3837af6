//! What the worker adds to a message, told by its own records: the time from received to recorded, less the time in the
//! engine and the time of S3.

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use crate::aws::{Aws, Work};
use crate::report::rounded;

/// Records of a run that are read: keys are message ids, so any few are a sample.
const SAMPLE: usize = 2000;
/// Gets at once.
const AT_ONCE: usize = 16;

/// Overheads of messages, in milliseconds.
#[derive(Debug, Clone, Default)]
pub struct Overheads(Vec<f64>);

#[derive(serde::Deserialize)]
struct Record {
    timings: Timings,
}

#[derive(serde::Deserialize)]
#[allow(clippy::struct_field_names)] // as in the record
struct Timings {
    /// From sent to received.
    queued_seconds: f64,
    inference_seconds: f64,
    /// Of the outputs; the record's own put begins where `total_seconds` ends.
    upload_seconds: f64,
    /// From sent to the record.
    total_seconds: f64,
}

impl Timings {
    fn overhead_milliseconds(&self) -> f64 {
        1000.0 * (self.total_seconds - self.queued_seconds - self.inference_seconds - self.upload_seconds)
    }
}

impl Overheads {
    /// Reads them from the records of a run.
    pub async fn read(aws: &Aws, work: &Work) -> anyhow::Result<Self> {
        let keys = aws.objects(&work.bucket).await?;
        let step = keys.len().div_ceil(SAMPLE).max(1);
        let read = |key: String| async move {
            let body = aws.object(&work.bucket, &key).await?;
            let record: Record = serde_json::from_slice(&body).with_context(|| format!("record {key}"))?;
            anyhow::Ok(record.timings.overhead_milliseconds())
        };
        let reads: Vec<_> = keys.into_iter().step_by(step).map(read).collect();
        Ok(Self(futures::stream::iter(reads).buffer_unordered(AT_ONCE).try_collect().await?))
    }

    /// Takes in those of another run.
    pub fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The nearest rank: so many percent are at most this.
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100);
        rank.checked_sub(1).and_then(|index| sorted.get(index)).copied().unwrap_or(f64::NAN)
    }

    /// For the result.
    pub fn json(&self) -> Value {
        json!({
            "p50": rounded(self.percentile(50)), "p99": rounded(self.percentile(99)), "records": self.0.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_is_what_neither_the_queue_nor_the_engine_nor_s3_took() {
        let record = br#"{"job_id":"j","timings":{"queued_seconds":5.0,"waited_seconds":0.5,"inference_seconds":2.0,
            "upload_seconds":0.25,"total_seconds":8.0}}"#;
        let record: Record = serde_json::from_slice(record).unwrap();
        assert!((record.timings.overhead_milliseconds() - 750.0).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_of_nearest_rank() {
        let overheads = Overheads((1..=200).rev().map(f64::from).collect());
        assert_eq!(overheads.json(), json!({ "p50": 100.0, "p99": 198.0, "records": 200 }));
        assert!(Overheads::default().percentile(50).is_nan());
    }
}
