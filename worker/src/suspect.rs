//! Jobs that kill their worker: told by a note that outlives it, run alone, and taken out before they kill a whole fleet.
//!
//! From the second receive on a note `{prefix}{job_id}.attempt` is put before work and taken away after it, however it
//! ended. So a note that is there already was left by a worker that died. Who shared that worker is suspect too; each runs
//! alone then, and only one whose worker died while it was alone, twice, is to blame. A healthy job costs nothing: it is
//! received once.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::job::JobHead;
use crate::store::{Bucket, Condition, Content, GivenUp};
use crate::time::rfc3339;

/// Deaths of workers that ran nothing else, after which the job is to blame.
const CRASHES: u32 = 2;
/// Longest that taking a note away may keep a worker that stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// What an attempt leaves behind if its worker dies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    job_id: String,
    input_sha256: String,
    worker: String,
    /// Nothing else ran in that worker.
    alone: bool,
    /// Workers that died before while they ran this job alone.
    crashes: u32,
    started_at: String,
    /// The attempt ended, and the note could not be deleted.
    #[serde(default)]
    ended: bool,
}

/// How a job may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    /// With others.
    None,
    /// Its worker died: alone. So many died already while it was alone.
    Alone {
        /// How many.
        crashes: u32,
    },
    /// Not at all.
    Poison {
        /// How many workers it cost.
        crashes: u32,
    },
}

impl Suspicion {
    /// What a note that was left says of a job; one of another input says nothing.
    fn of(note: Option<&Note>, head: &JobHead) -> Self {
        let Some(note) = note.filter(|note| note.input_sha256 == head.input_sha256 && !note.ended) else {
            return Self::None;
        };
        let crashes = note.crashes + u32::from(note.alone);
        if crashes >= CRASHES { Self::Poison { crashes } } else { Self::Alone { crashes } }
    }
}

/// The notes of one consumer.
#[derive(Debug, Clone)]
pub struct Notes {
    bucket: Bucket,
    worker: String,
}

impl Notes {
    /// Notes beside the results in `bucket`, signed by `worker`.
    pub fn new(bucket: Bucket, worker: &str) -> Self {
        Self { bucket, worker: worker.into() }
    }

    fn key(&self, head: &JobHead) -> String {
        format!("{}{}.attempt", self.bucket.prefix(), head.id)
    }

    /// What earlier attempts left.
    pub async fn read(&self, head: &JobHead, give_up: &CancellationToken) -> Result<Suspicion, GivenUp> {
        let key = self.key(head);
        let found = self.bucket.get(self.bucket.at(&key), give_up).await?;
        // one that cannot be read is as good as none: it is put anew
        let note = found.and_then(|(body, _)| serde_json::from_slice::<Note>(&body).ok());
        Ok(Suspicion::of(note.as_ref(), head))
    }

    /// Before work.
    pub async fn leave(
        &self,
        head: &JobHead,
        suspicion: Suspicion,
        give_up: &CancellationToken,
    ) -> Result<(), GivenUp> {
        self.put(head, suspicion, false, give_up).await
    }

    async fn put(
        &self,
        head: &JobHead,
        suspicion: Suspicion,
        ended: bool,
        give_up: &CancellationToken,
    ) -> Result<(), GivenUp> {
        let (alone, crashes) = match suspicion {
            Suspicion::None => (false, 0),
            Suspicion::Alone { crashes } | Suspicion::Poison { crashes } => (true, crashes),
        };
        let note = Note {
            job_id: head.id.clone(),
            input_sha256: head.input_sha256.clone(),
            worker: self.worker.clone(),
            alone,
            crashes,
            started_at: rfc3339(Timestamp::now()),
            ended,
        };
        let body = Bytes::from(serde_json::to_vec(&note).unwrap_or_default());
        let content = Content { body: &body, content_type: "application/json", metadata: &[] };
        let key = self.key(head);
        self.bucket.put(self.bucket.at(&key), content, &Condition::Any, give_up).await?;
        Ok(())
    }

    /// After work, and after a job was taken out.
    pub async fn take_away(&self, head: &JobHead) {
        let key = self.key(head);
        let take_away = async {
            let Err(error) = self.bucket.delete(self.bucket.at(&key)).await else { return };
            tracing::warn!(key, %error, "cannot delete the note of an attempt; it is marked as ended instead");
            // a role that may not delete must not have healthy jobs taken for killers
            let _ = self.put(head, Suspicion::None, true, &CancellationToken::new()).await;
        };
        if tokio::time::timeout(FAREWELL, take_away).await.is_err() {
            tracing::warn!(key, "S3 did not answer; the note of an attempt stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_deaths_alone_make_a_poison() {
        let head = JobHead::new("m", "hash".into());
        let note = |alone, crashes| Note {
            job_id: "m".into(),
            input_sha256: "hash".into(),
            worker: "w".into(),
            alone,
            crashes,
            started_at: String::new(),
            ended: false,
        };
        let ended = Note { ended: true, ..note(true, 1) };
        let other = Note { input_sha256: "other".into(), ..note(true, 5) };
        let table = [
            (None, Suspicion::None),
            (Some(other), Suspicion::None),
            (Some(ended), Suspicion::None),
            (Some(note(false, 0)), Suspicion::Alone { crashes: 0 }),
            (Some(note(true, 0)), Suspicion::Alone { crashes: 1 }),
            (Some(note(true, 1)), Suspicion::Poison { crashes: 2 }),
            (Some(note(false, 2)), Suspicion::Poison { crashes: 2 }),
        ];
        for (note, wanted) in table {
            assert_eq!(Suspicion::of(note.as_ref(), &head), wanted, "{note:?}");
        }
    }
}
