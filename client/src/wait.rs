//! Waits for jobs by their records in S3, with growing pauses.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, Stream};
use millrace_api::ResultRecord;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Error, Trouble};
use crate::look::Look;
use crate::send::Sent;

/// Records that are asked for at a time.
const AT_ONCE: usize = 64;
/// However many wait, S3 is asked no more often in a second once pauses have grown.
const ASKS_A_SECOND: u32 = 400;

/// How long a result is waited for, and how often it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Given up after this.
    pub timeout: Duration,
    /// First pause; half as long again after each look.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
    /// Given up, with the error, when S3 has given no good answer for so long.
    pub silence: Duration,
}

impl Patience {
    /// With pauses from a quarter of a second to five, and a minute of silence.
    pub fn of(timeout: Duration) -> Self {
        Self {
            timeout,
            first: Duration::from_millis(250),
            longest: Duration::from_secs(5),
            silence: Duration::from_mins(1),
        }
    }
}

/// What all share that are waited for together.
#[derive(Debug)]
struct Together {
    turns: Semaphore,
    /// Since when S3 has given none of them a good answer.
    silent: Mutex<Option<Instant>>,
}

impl Together {
    fn new(turns: usize) -> Self {
        Self { turns: Semaphore::new(turns), silent: Mutex::default() }
    }

    async fn look(&self, client: &Client, sent: &Sent) -> Result<Look, Error> {
        // nobody closes it; without a turn it would be looked for all the same
        let _turn = self.turns.acquire().await;
        let looked = client.look_closely(sent).await;
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_ok() {
            *silent = None;
        } else {
            silent.get_or_insert_with(Instant::now);
        }
        drop(silent);
        looked
    }

    fn silence(&self) -> Duration {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.map(|since| since.elapsed()).unwrap_or_default()
    }
}

impl Client {
    /// Waits until a job has ended, well or not. A failure that is there already and was recorded before the job was sent
    /// does not count: it is an earlier attempt's.
    pub async fn wait(&self, sent: &Sent, patience: Patience) -> Result<ResultRecord, Error> {
        self.wait_with(sent, patience, &Together::new(1)).await
    }

    async fn wait_with(&self, sent: &Sent, patience: Patience, others: &Together) -> Result<ResultRecord, Error> {
        let until = Instant::now() + patience.timeout;
        let mut pause = patience.first;
        // the message whose failure was there at the first look
        let mut earlier: Option<Option<String>> = None;
        loop {
            let mut trouble = None;
            match others.look(self, sent).await {
                Ok(Look::Ended(record)) => return Ok(*record),
                Ok(Look::Failed(record)) => {
                    let earlier = earlier.get_or_insert_with(|| Some(record.message_id.clone()));
                    if earlier.as_ref() != Some(&record.message_id) {
                        return Ok(*record);
                    }
                }
                Ok(Look::Nothing) => {
                    earlier.get_or_insert(None);
                }
                Err(error) => {
                    if !error.trouble().is_some_and(Trouble::passes) || others.silence() >= patience.silence {
                        return Err(error);
                    }
                    trouble = Some(Box::new(error));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::NoResult { job_id: sent.job_id.clone(), waited: patience.timeout, trouble });
            }
            tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0).min(left)).await;
            pause = pause.mul_f64(1.5).min(patience.longest);
        }
    }

    /// Waits for many and tells of each, by its place, as soon as it has ended.
    pub fn wait_all(
        &self,
        sent: Vec<Sent>,
        patience: Patience,
    ) -> impl Stream<Item = (usize, Result<ResultRecord, Error>)> {
        let together = Arc::new(Together::new(AT_ONCE));
        let many = u32::try_from(sent.len()).unwrap_or(u32::MAX);
        let longest = patience.longest.max(Duration::from_secs(1) * many / ASKS_A_SECOND);
        let patience = Patience { longest, ..patience };
        let one = |(index, sent): (usize, Sent)| {
            let together = Arc::clone(&together);
            async move { (index, self.wait_with(&sent, patience, &together).await) }
        };
        sent.into_iter().enumerate().map(one).collect::<FuturesUnordered<_>>()
    }
}
