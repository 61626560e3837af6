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
use crate::store::{Bucket, Condition, Content, FAREWELL, GivenUp, NOTE, Put};
use crate::time::seconds_between;

/// Deaths of workers that ran nothing else, after which the job is to blame.
const CRASHES: u32 = 2;
/// Longest that taking a note away may keep a job, unless its worker stops.
const PATIENCE: Duration = Duration::from_mins(2);

/// What an attempt leaves behind if its worker dies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    job_id: String,
    message_id: String,
    input_sha256: String,
    worker: String,
    /// Nothing else ran in that worker.
    alone: bool,
    /// Workers that died before while they ran this job alone.
    crashes: u32,
    started_at: Timestamp,
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
    /// What a note that was left says of a job; one of another input says nothing. Another message of the same job may
    /// well be at work right now: its note says something only after a lease.
    fn of(note: Option<&Note>, head: &JobHead, message_id: &str, lease: Duration) -> Self {
        let told = |note: &&Note| note.input_sha256 == head.input_sha256 && !note.ended;
        let Some(note) = note.filter(told) else { return Self::None };
        let age = seconds_between(note.started_at, Timestamp::now());
        if note.message_id != message_id && age < lease.as_secs_f64() {
            return Self::None;
        }
        let crashes = note.crashes + u32::from(note.alone);
        if crashes >= CRASHES { Self::Poison { crashes } } else { Self::Alone { crashes } }
    }

    fn crashes(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Alone { crashes } | Self::Poison { crashes } => crashes,
        }
    }
}

/// The notes of one consumer.
#[derive(Debug, Clone)]
pub struct Notes {
    bucket: Bucket,
    worker: String,
    lease: Duration,
}

/// A note that was left, to be taken away.
#[derive(Debug)]
pub struct Left {
    note: Note,
    etag: String,
}

impl Notes {
    /// Notes beside the results in `bucket`, signed by `worker`, whose leases have this length.
    pub fn new(bucket: Bucket, worker: &str, lease: Duration) -> Self {
        Self { bucket, worker: worker.into(), lease }
    }

    fn key(&self, job_id: &str) -> String {
        format!("{}{job_id}{NOTE}", self.bucket.prefix())
    }

    /// What earlier attempts left.
    pub async fn read(
        &self,
        head: &JobHead,
        message_id: &str,
        give_up: &CancellationToken,
    ) -> Result<Suspicion, GivenUp> {
        let key = self.key(&head.id);
        let found = self.bucket.get(self.bucket.at(&key), give_up).await?;
        // one that cannot be read is as good as none: it is put anew
        let note = found.and_then(|(body, _)| serde_json::from_slice::<Note>(&body).ok());
        Ok(Suspicion::of(note.as_ref(), head, message_id, self.lease))
    }

    /// Before work; `alone` if nothing else runs in this worker.
    pub async fn leave(
        &self,
        head: &JobHead,
        message_id: &str,
        suspicion: Suspicion,
        alone: bool,
        give_up: &CancellationToken,
    ) -> Result<Left, GivenUp> {
        let note = Note {
            job_id: head.id.clone(),
            message_id: message_id.into(),
            input_sha256: head.input_sha256.clone(),
            worker: self.worker.clone(),
            alone,
            crashes: suspicion.crashes(),
            started_at: Timestamp::now(),
            ended: false,
        };
        match self.put(&note, &Condition::Any, give_up).await {
            Ok(Put::Done(etag)) => Ok(Left { note, etag }),
            // an unconditional put into one's own bucket is never refused
            Ok(Put::Refused | Put::Lost | Put::Never(_)) => Ok(Left { note, etag: String::new() }),
            Err(GivenUp) => {
                // it may have got there
                self.take_away(&head.id, FAREWELL).await;
                Err(GivenUp)
            }
        }
    }

    /// After work, however it ended.
    pub async fn take_back(&self, left: &Left, stopping: bool) {
        self.take_away(&left.note.job_id, if stopping { FAREWELL } else { PATIENCE }).await;
    }

    /// After work whose message is another's by now: only one's own note is touched.
    pub async fn disown(&self, left: Left) {
        let Left { note, etag } = left;
        let (note, condition) = (Note { ended: true, ..note }, Condition::Same(etag));
        let never = CancellationToken::new();
        // what is not marked in time has the job run alone when it comes again
        let _ = tokio::time::timeout(FAREWELL, self.put(&note, &condition, &never)).await;
    }

    /// Of a job that was taken out: whoever redrives it gives it a new start.
    pub async fn forget(&self, job_id: &str) {
        self.take_away(job_id, PATIENCE).await;
    }

    async fn put(&self, note: &Note, condition: &Condition, give_up: &CancellationToken) -> Result<Put, GivenUp> {
        let body = Bytes::from(serde_json::to_vec(note).unwrap_or_default());
        let content = Content { body: &body, content_type: "application/json", metadata: &[] };
        let key = self.key(&note.job_id);
        self.bucket.put(self.bucket.at(&key), content, condition, give_up).await
    }

    async fn take_away(&self, job_id: &str, patience: Duration) {
        let key = self.key(job_id);
        let take_away = async {
            let mut pause = Duration::from_millis(200);
            while let Err(error) = self.bucket.delete(self.bucket.at(&key)).await {
                tracing::warn!(key, %error, "cannot delete the note of an attempt");
                if error.reason == "BucketAccessDenied" {
                    // a role that may not delete must not have healthy jobs taken for killers
                    let blank = Bytes::from_static(b"{}");
                    let content = Content { body: &blank, content_type: "application/json", metadata: &[] };
                    let never = CancellationToken::new();
                    drop(self.bucket.put(self.bucket.at(&key), content, &Condition::Any, &never).await);
                    return;
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        };
        if tokio::time::timeout(patience, take_away).await.is_err() {
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
            message_id: "m".into(),
            input_sha256: "hash".into(),
            worker: "w".into(),
            alone,
            crashes,
            started_at: Timestamp::now(),
            ended: false,
        };
        let ended = Note { ended: true, ..note(true, 1) };
        let other_input = Note { input_sha256: "other".into(), ..note(true, 5) };
        let other_message = Note { message_id: "n".into(), ..note(true, 1) };
        let left_by_other = Note { started_at: Timestamp::UNIX_EPOCH, ..other_message.clone() };
        let table = [
            (None, Suspicion::None),
            (Some(other_input), Suspicion::None),
            (Some(ended), Suspicion::None),
            (Some(other_message), Suspicion::None),
            (Some(left_by_other), Suspicion::Poison { crashes: 2 }),
            (Some(note(false, 0)), Suspicion::Alone { crashes: 0 }),
            (Some(note(true, 0)), Suspicion::Alone { crashes: 1 }),
            (Some(note(true, 1)), Suspicion::Poison { crashes: 2 }),
            (Some(note(false, 2)), Suspicion::Poison { crashes: 2 }),
        ];
        for (note, wanted) in table {
            assert_eq!(Suspicion::of(note.as_ref(), &head, "m", Duration::from_mins(1)), wanted, "{note:?}");
        }
    }
}
