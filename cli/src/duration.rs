//! Durations on the command line: `90s`, `15m`, `1h 30m`.

use std::time::Duration;

use jiff::SignedDuration;

/// Reads one.
pub fn parse(text: &str) -> Result<Duration, String> {
    let read: Result<SignedDuration, _> = text.parse();
    let positive = read.ok().and_then(|duration| Duration::try_from(duration).ok());
    positive.ok_or_else(|| "must be a time with its unit, such as 90s, 15m or 1h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        for (text, wanted) in
            [("90s", Some(90)), ("15m", Some(900)), ("1h 30m", Some(5400)), ("90", None), ("-1s", None)]
        {
            assert_eq!(parse(text).ok(), wanted.map(Duration::from_secs), "{text}");
        }
    }
}
