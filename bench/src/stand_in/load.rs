//! What the stand-in plays: how much waits in each queue at each time, and what a worker of it says.

use std::time::{Duration, SystemTime};

use millrace_api::{Activity, JobState, Received, ServiceSeconds, WorkerState};

/// Most workers that a backlog is for.
const MOST: u64 = 4;
/// Of eight steps of a busy queue so many are without a message.
const REST: u64 = 1;

/// How the load is spread.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Shape {
    /// One queue in so many has a backlog; the others are always empty.
    #[arg(long, default_value_t = 10)]
    busy_every: u32,
    /// How long a backlog stays as it is.
    #[arg(long, default_value_t = 60)]
    step_seconds: u64,
    /// Messages that one worker is for.
    #[arg(long, default_value_t = 5)]
    messages_per_replica: u64,
    /// Of what the backlogs are.
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

/// A load: the same for the same shape.
#[derive(Debug)]
pub struct Load(Shape);

impl Load {
    /// Of this shape.
    pub fn new(shape: Shape) -> Self {
        Self(shape)
    }

    /// How many workers queue `queue` has work for.
    pub fn level(&self, queue: u32, elapsed: Duration) -> u64 {
        if !queue.is_multiple_of(self.0.busy_every.max(1)) {
            return 0;
        }
        match self.draw(queue, elapsed) % 8 {
            draw if draw < REST => 0,
            draw => 1 + draw % MOST,
        }
    }

    /// Messages that wait in queue `queue`, and those that workers hold: one each.
    pub fn counts(&self, queue: u32, elapsed: Duration) -> (u64, u64) {
        let level = self.level(queue, elapsed);
        let spread = (self.draw(queue, elapsed) >> 8) % self.0.messages_per_replica.max(1);
        let all = (level * self.0.messages_per_replica).saturating_sub(spread);
        (all.saturating_sub(level), level.min(all))
    }

    /// A number of this queue and this step. Queues do not step in step.
    fn draw(&self, queue: u32, elapsed: Duration) -> u64 {
        let length = self.0.step_seconds.max(1) * 1000;
        let phase = mixed(u64::from(queue) ^ self.0.seed) % length;
        let step = (u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX) + phase) / length;
        mixed(mixed(u64::from(queue) ^ self.0.seed.rotate_left(32)).wrapping_add(step))
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a worker says that is about this, in as many words as a real one.
pub fn state(worker: &str, activity: Activity, elapsed: Duration) -> WorkerState {
    let ago = |seconds: u64| time(SystemTime::now() - Duration::from_secs(seconds));
    let holds = matches!(activity, Activity::Busy | Activity::Draining);
    let job = || JobState {
        job_id: format!("job-{worker}"),
        message_id: "5fea7756-0ea4-451a-a703-a558b933e274".into(),
        started_at: ago(1),
        lease_expires_at: ago(0),
        must_end_at: ago(0),
        sent_at: ago(12),
        progress: None,
    };
    WorkerState {
        worker: worker.into(),
        ready: true,
        draining: matches!(activity, Activity::Draining | Activity::Drained),
        activity,
        capacity: 1,
        busy: u32::from(holds),
        jobs: if holds { vec![job()] } else { Vec::new() },
        completed: elapsed.as_secs() / 5,
        service_seconds: Some(ServiceSeconds { mean: 5.0, p95: 5.5 }),
        receiving: u32::from(activity == Activity::Idle),
        last_received: Some(Received { at: ago(1), sent_at: ago(12) }),
        oldest_sent_at: holds.then(|| ago(12)),
        ..WorkerState::default()
    }
}

fn time(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { busy_every: 10, step_seconds: 60, messages_per_replica: 5, seed: 7 };

    #[test]
    fn one_queue_in_ten_is_busy_most_of_the_time() {
        let load = Load::new(SHAPE);
        let levels = |queue: u32| (0..60).map(move |minute| (queue, Duration::from_secs(60 * minute)));
        let at: Vec<u64> = (0..1000).flat_map(levels).map(|(queue, at)| load.level(queue, at)).collect();
        let busy = at.iter().filter(|level| **level > 0).count() as f64 / at.len() as f64;
        assert!((0.08..0.1).contains(&busy), "{busy}");
        assert_eq!(at.iter().max(), Some(&MOST));
        assert_eq!(load.counts(11, Duration::ZERO), (0, 0));
    }

    #[test]
    fn counts_are_for_as_many_workers_as_the_level_says() {
        let load = Load::new(SHAPE);
        for queue in (0..1000).step_by(10) {
            let (visible, in_flight) = load.counts(queue, Duration::from_secs(100));
            assert_eq!((visible + in_flight).div_ceil(5), load.level(queue, Duration::from_secs(100)), "{queue}");
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_load() {
        let at = Duration::from_secs(1234);
        let all = |seed: u64| (0..1000).map(|q| Load::new(Shape { seed, ..SHAPE }).counts(q, at)).collect::<Vec<_>>();
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
    }
}
