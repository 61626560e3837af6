//! What a FIFO queue keeps order by, and what it tells a repeat by.

use sha2::{Digest as _, Sha256};

use crate::invalid::InvalidJob;
use crate::job::Job;

/// Most characters of a message group.
const MAX_GROUP: usize = 128;

/// Whether SQS takes this as a message group.
pub(crate) fn is_group(text: &str) -> bool {
    (1..=MAX_GROUP).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The message group of a job: its own, else on a FIFO queue one for itself.
pub(crate) fn group(job: &Job, job_id: &str, fifo: bool) -> Result<Option<String>, InvalidJob> {
    match &job.group {
        Some(group) if is_group(group) => Ok(Some(group.clone())),
        Some(_) => {
            let message = format!("must be 1 to {MAX_GROUP} printable ASCII characters without spaces");
            Err(InvalidJob::new("group", message))
        }
        // a job id may be longer than a group
        None => Ok(fifo.then(|| if is_group(job_id) { job_id.to_owned() } else { digest(job_id) })),
    }
}

/// What SQS drops repeats by. Of the job's id too, as two jobs may have one body; and of the attempt, or one that is sent
/// again within five minutes of its failure would be dropped.
pub(crate) fn deduplication(job_id: &str, attempt: Option<&str>, body: &str) -> String {
    digest(&format!("{job_id}\n{}\n{body}", attempt.unwrap_or_default()))
}

/// Lower-case hex SHA-256.
pub(crate) fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}
