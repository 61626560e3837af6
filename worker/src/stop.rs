//! When to stop: the first SIGTERM or SIGINT begins it, a second one hurries.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Told to every part of the worker.
#[derive(Debug, Clone)]
pub struct Stop {
    /// No more receives; finish what is held.
    pub stop: CancellationToken,
    /// The grace period is over: give back what is left.
    pub abort: CancellationToken,
}

impl Stop {
    /// Listens from now on. In a container the worker is process 1, for which the kernel drops a signal that nobody
    /// listens to; so this comes before everything else.
    pub fn on_signals() -> std::io::Result<Self> {
        let (term, int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = Self { stop: CancellationToken::new(), abort: CancellationToken::new() };
        tokio::spawn(stop.clone().listen(term, int));
        Ok(stop)
    }

    async fn listen(self, mut term: Signal, mut int: Signal) {
        for token in [self.stop, self.abort] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            token.cancel();
        }
    }
}
