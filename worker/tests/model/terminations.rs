//! SIGTERM at random moments, a hundred times (a thousand by `make soak`): a worker that has ended holds nothing, so
//! nothing waits for its lease.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::lab::{Lab, seed, soaking};
use crate::program::{self, Signal};

/// Queues side by side, each with one worker at a time, so that what is in flight is that worker's.
const LANES: u64 = 4;
/// Kept in each queue, so that polls end soon.
const BACKLOG: usize = 100;

async fn lane(seed: u64, times: usize) {
    let lab = Lab::with(seed, 1000, false).await;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for n in 0..times {
        let missing = BACKLOG.saturating_sub(lab.queue().visible);
        let job = |_| (None, json!({ "milliseconds": rng.random_range(0..400) }).to_string());
        let jobs: Vec<_> = (0..missing).map(job).collect();
        lab.send_all(&jobs).await;
        let settings = json!({
            "queue": { "visibilityTimeoutSeconds": 3600 },
            "model": { "batch": { "maxSize": rng.random_range(1..20) } },
            "shutdown": { "gracePeriodSeconds": rng.random_range(0..2) },
        });
        let mut worker = program::start(&lab, &format!("w{n}"), settings);
        let ready = rng.random_bool(0.9);
        if ready {
            worker.until_ready().await;
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..600))).await;
        worker.signal(Signal::Term).await;
        if rng.random_bool(0.1) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..50))).await;
            worker.hurry().await;
        }
        let ended = worker.ended().await;
        // before its first line a process has no say in what a signal does; in a container, as process 1, it has
        let too_early = !ready && ended.signal() == Some(15);
        assert!(ended.success() || too_early, "{ended}, MILLRACE_SEED={seed}\n{}", worker.log());
        let queue = lab.queue();
        let held: Vec<_> = queue.messages.iter().filter(|message| message.in_flight_since.is_some()).collect();
        assert!(held.is_empty(), "stranded by termination {n}, MILLRACE_SEED={seed}: {held:?}\n{}", worker.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_told_to_stop_leaves_nothing_in_flight() {
    let seed = seed();
    let times = if soaking() { 250 } else { 25 };
    futures::future::join_all((0..LANES).map(|n| lane(seed.wrapping_add(n), times))).await;
}
