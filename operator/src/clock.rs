//! Time as the decision knows it: seconds since 1970 that never go back while this process lives.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use jiff::Timestamp;

static ANCHOR: OnceLock<(Instant, f64)> = OnceLock::new();

/// Lets now be that time, for a simulation. Only before anybody has asked for the time.
pub(crate) fn begin_at(seconds: f64) {
    let _ = ANCHOR.set((Instant::now(), seconds));
}

fn anchor() -> (Instant, f64) {
    *ANCHOR.get_or_init(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        (Instant::now(), since.as_secs_f64())
    })
}

/// The instant that seconds are counted from.
pub(crate) fn origin() -> Instant {
    anchor().0
}

/// An instant of this process in seconds since 1970.
pub(crate) fn seconds(instant: Instant) -> f64 {
    let (start, at) = anchor();
    match instant.checked_duration_since(start) {
        Some(since) => at + since.as_secs_f64(),
        None => at - start.duration_since(instant).as_secs_f64(),
    }
}

/// A moment of the API server's or of a worker's clock in seconds since 1970.
pub(crate) fn of(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn differences_are_those_of_the_instants() {
        let now = Instant::now();
        let later = seconds(now + Duration::from_secs(90)) - seconds(now);
        assert!((later - 90.0).abs() < 1e-3, "{later}");
        let before = seconds(now) - seconds(now.checked_sub(Duration::from_secs(30)).unwrap());
        assert!((before - 30.0).abs() < 1e-3, "{before}");
    }
}
