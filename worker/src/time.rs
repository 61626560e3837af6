//! Times as records write them: RFC 3339, UTC, milliseconds.

use jiff::Timestamp;

/// `2026-11-23T09:30:00.123Z`.
pub fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The day of a time, UTC: `2026-11-23`.
pub fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

/// Seconds from `from` to `to`; 0 where clocks of two machines disagree.
pub fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    (to.as_microsecond() - from.as_microsecond()).max(0) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_milliseconds_and_never_a_negative_wait() {
        let at = Timestamp::from_millisecond(1_700_000_000_007).unwrap();
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20.007Z");
        assert_eq!(date(at), "2023-11-14");
        let later = Timestamp::from_millisecond(1_700_000_001_507).unwrap();
        assert!((seconds_between(at, later) - 1.5).abs() < 1e-9);
        assert!(seconds_between(later, at).abs() < 1e-9);
    }
}
