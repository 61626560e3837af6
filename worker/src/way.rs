//! How far a job is: told by the model's thread, read by `/state`; and what it looks like meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millrace_api::JobProgress;
use tokio::sync::mpsc;

use crate::model::{Hook, Output, Progress};

/// A preview of one of a job's requests, by the request's number.
pub type Preview = (usize, Output);

/// A job on its way through the model.
#[derive(Debug)]
pub struct Way {
    /// Of each request: steps in the upper half, steps that are done in the lower one; nothing before it begins.
    requests: Vec<AtomicU64>,
    previews: Option<mpsc::Sender<Preview>>,
}

impl Way {
    /// The way of a job with so many requests; previews go to `previews`.
    pub fn new(requests: usize, previews: Option<mpsc::Sender<Preview>>) -> Arc<Self> {
        Arc::new(Self { requests: (0..requests).map(|_| AtomicU64::new(0)).collect(), previews })
    }

    /// How far all of its requests are together; none before the first has begun.
    pub fn progress(&self) -> Option<JobProgress> {
        let told = self.requests.iter().map(|packed| packed.load(Ordering::Relaxed)).filter(|packed| *packed > 0);
        let parts = told.map(|packed| JobProgress { step: packed as u32, steps: (packed >> 32) as u32 });
        parts.reduce(|a, b| JobProgress { step: a.step + b.step, steps: a.steps + b.steps })
    }

    /// What the model tells of request `index`.
    pub fn hook(self: &Arc<Self>, index: usize) -> Arc<dyn Hook> {
        Arc::new(Teller { way: Arc::clone(self), index })
    }
}

#[derive(Debug)]
struct Teller {
    way: Arc<Way>,
    index: usize,
}

impl Hook for Teller {
    fn stepped(&self, Progress { step, steps }: Progress) {
        if let Some(request) = self.way.requests.get(self.index) {
            request.store(u64::from(steps) << 32 | u64::from(step), Ordering::Relaxed);
        }
    }

    fn preview(&self, preview: Output) {
        if let Some(previews) = &self.way.previews {
            // one that S3 has no time for is as good as the next
            drop(previews.try_send((self.index, preview)));
        }
    }
}
