//! The trace: a CSV of what arrives when, and the jobs that it stands for.

use jiff::Timestamp;

use super::random::Random;

/// Most jobs of one simulation: what fits into a gigabyte of memory.
const MAX_JOBS: u64 = 5_000_000;
const COLUMNS: [&str; 3] = ["seconds", "arrivals", "service_seconds"];

/// A line of the trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Row {
    /// Its number in the file, from 1.
    line: usize,
    /// When, in seconds since the trace's second 0.
    pub(super) seconds: f64,
    /// How many jobs.
    pub(super) arrivals: u64,
    /// Their mean service time in seconds, where the row tells it.
    pub(super) service_seconds: Option<f64>,
}

/// One job of the trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Arrival {
    /// When it is sent, in seconds.
    pub(super) at: f64,
    /// How long it holds a slot, in seconds.
    pub(super) service: f64,
}

/// All jobs of a trace, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trace {
    pub(super) arrivals: Vec<Arrival>,
    /// The first row's second.
    pub(super) begin: f64,
    /// Where the last row's step ends.
    pub(super) end: f64,
}

/// Why a trace cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TraceError {
    /// A field that is no such value.
    #[error("line {line}, field {field}: {found:?} {problem}")]
    Field {
        /// In the file, from 1.
        line: usize,
        /// The column's name.
        field: &'static str,
        /// What stands there.
        found: String,
        /// What is wrong with it, and what to write.
        problem: &'static str,
    },
    /// Too few or too many columns.
    #[error(
        "line {line} has {found} fields; write seconds,arrivals or seconds,arrivals,service_seconds, separated by commas"
    )]
    Columns {
        /// In the file, from 1.
        line: usize,
        /// How many there are.
        found: usize,
    },
    /// Rows that go back in time.
    #[error("line {line}, field seconds: it is earlier than the line before; sort the rows by their first field")]
    Order {
        /// In the file, from 1.
        line: usize,
    },
    /// Nothing says how long a job takes.
    #[error("line {line}, field service_seconds: it is missing; add it to the row, or give --service-seconds")]
    NoService {
        /// In the file, from 1.
        line: usize,
    },
    /// No rows.
    #[error("it has no rows; write lines like 0,12: the second, and how many jobs arrive from then on")]
    Empty,
    /// Rows without any arrival.
    #[error("nothing arrives in it: every row has 0 arrivals")]
    NoArrivals,
    /// More than can be simulated.
    #[error("it has {jobs} jobs, and {MAX_JOBS} are the most: simulate a shorter time")]
    TooMany {
        /// How many.
        jobs: u64,
    },
}

/// Reads a trace: `seconds,arrivals[,service_seconds]`, with `#` before comments. A first line of the columns' names is
/// skipped, and so are empty ones.
pub(super) fn parse(text: &str) -> Result<Vec<Row>, TraceError> {
    let mut rows: Vec<Row> = Vec::new();
    let mut first = true;
    for (index, content) in text.lines().enumerate() {
        let line = index + 1;
        let content = content.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        let fields: Vec<&str> = content.split(',').map(|field| field.trim().trim_matches('"')).collect();
        if std::mem::take(&mut first) && fields.iter().zip(COLUMNS).all(|(field, name)| *field == name) {
            continue;
        }
        if !(2..=3).contains(&fields.len()) {
            return Err(TraceError::Columns { line, found: fields.len() });
        }
        let seconds = seconds(line, fields[0])?;
        if rows.last().is_some_and(|before| before.seconds > seconds) {
            return Err(TraceError::Order { line });
        }
        let arrivals = arrivals(line, fields[1])?;
        let service_seconds = fields.get(2).filter(|field| !field.is_empty());
        let service_seconds = service_seconds.map(|field| service(line, field)).transpose()?;
        rows.push(Row { line, seconds, arrivals, service_seconds });
    }
    if rows.is_empty() { Err(TraceError::Empty) } else { Ok(rows) }
}

fn wrong(line: usize, field: &'static str, found: &str, problem: &'static str) -> TraceError {
    TraceError::Field { line, field, found: found.into(), problem }
}

fn seconds(line: usize, word: &str) -> Result<f64, TraceError> {
    if let Ok(seconds) = word.parse::<f64>()
        && seconds.is_finite()
    {
        return Ok(seconds);
    }
    let time: Result<Timestamp, _> = word.parse();
    time.map(|time| time.as_duration().as_secs_f64()).map_err(|_| {
        wrong(
            line,
            "seconds",
            word,
            "is no time: write seconds such as 60 or 0.5, or a time such as 2026-11-23T10:00:00Z",
        )
    })
}

fn arrivals(line: usize, word: &str) -> Result<u64, TraceError> {
    // CloudWatch writes counts as 12.0.
    let number = word.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0 && n.fract() == 0.0);
    number
        .map(|n| n as u64)
        .ok_or_else(|| wrong(line, "arrivals", word, "is no count: write a whole number such as 12"))
}

fn service(line: usize, word: &str) -> Result<f64, TraceError> {
    let number = word.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0);
    number.ok_or_else(|| {
        wrong(
            line,
            "service_seconds",
            word,
            "is no duration: write seconds that are more than 0, such as 2.5, or nothing",
        )
    })
}

/// How rows become jobs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spread {
    /// A row's arrivals are spread evenly at random over so many seconds; without it, over the shortest distance of two
    /// rows, so that rows that were left out, being 0, change nothing.
    pub(super) step: Option<f64>,
    /// Mean service time where a row does not tell.
    pub(super) service: Option<f64>,
    /// Coefficient of variation of service times.
    pub(super) service_cv: f64,
}

/// The jobs that rows stand for.
pub(super) fn expand(rows: &[Row], spread: Spread, random: &mut Random) -> Result<Trace, TraceError> {
    let jobs = rows.iter().fold(0_u64, |sum, row| sum.saturating_add(row.arrivals));
    match jobs {
        0 => return Err(TraceError::NoArrivals),
        jobs if jobs > MAX_JOBS => return Err(TraceError::TooMany { jobs }),
        _ => {}
    }
    let distances = rows.windows(2).map(|pair| pair[1].seconds - pair[0].seconds).filter(|distance| *distance > 0.0);
    let step = spread.step.unwrap_or_else(|| distances.min_by(f64::total_cmp).unwrap_or(0.0));
    let mut arrivals = Vec::new();
    for row in rows.iter().filter(|row| row.arrivals > 0) {
        let mean = row.service_seconds.or(spread.service).ok_or(TraceError::NoService { line: row.line })?;
        for _ in 0..row.arrivals {
            let at = step.mul_add(random.unit(), row.seconds);
            arrivals.push(Arrival { at, service: random.lognormal(mean, spread.service_cv) });
        }
    }
    arrivals.sort_by(|a, b| a.at.total_cmp(&b.at));
    let second = |row: Option<&Row>| row.map_or(0.0, |row| row.seconds);
    Ok(Trace { arrivals, begin: second(rows.first()), end: second(rows.last()) + step })
}

#[cfg(test)]
mod tests {
    use super::super::random::Stream;
    use super::*;

    fn jobs(text: &str, spread: Spread) -> Result<Trace, TraceError> {
        expand(&parse(text)?, spread, &mut Random::new(1, Stream::Trace))
    }

    const FIVE: Spread = Spread { step: None, service: Some(5.0), service_cv: 0.0 };

    #[test]
    fn what_is_wrong_is_told_with_its_line_its_field_and_the_fix() {
        for (text, wanted) in [
            ("", "it has no rows"),
            ("# only a comment\n", "it has no rows"),
            ("0,1\nx,1\n", "line 2, field seconds: \"x\" is no time: write seconds"),
            ("0,1.5", "line 1, field arrivals: \"1.5\" is no count: write a whole number"),
            ("0,-1", "line 1, field arrivals: \"-1\" is no count"),
            ("\n0,1,0", "line 2, field service_seconds: \"0\" is no duration: write seconds that are more than 0"),
            ("0,1,2,3", "line 1 has 4 fields; write seconds,arrivals"),
            ("7", "line 1 has 1 fields"),
            ("10,1\n5,1", "line 2, field seconds: it is earlier than the line before; sort"),
            ("0,0", "nothing arrives"),
            ("0,99999999999", "the most: simulate a shorter time"),
        ] {
            let error = jobs(text, FIVE).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text:?}: {error}");
        }
        let error = jobs("0,1,2\n60,1", Spread::default()).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("give --service-seconds"), "{error}");
    }

    #[test]
    fn headers_comments_quotes_and_times_are_understood() {
        let text = "# from CloudWatch\nseconds,arrivals,service_seconds\n\"0\", 2 ,1.5 # two\n60,3.0,\n";
        let rows = parse(text).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].arrivals, rows[0].service_seconds), (2, Some(1.5)));
        assert_eq!((rows[1].arrivals, rows[1].service_seconds), (3, None));
        let rows = parse("1970-01-01T00:01:00Z,1\n1970-01-01T00:02:00+00:00,1").unwrap();
        assert!((rows[0].seconds - 60.0).abs() < 1e-9 && (rows[1].seconds - 120.0).abs() < 1e-9);
    }

    #[test]
    fn arrivals_are_spread_over_the_shortest_distance_of_rows() {
        let trace = jobs("0,100\n60,0\n600,100", FIVE).unwrap();
        assert!(trace.arrivals.iter().all(|a| a.at < 60.0 || (600.0..660.0).contains(&a.at)));
        assert!(trace.arrivals.windows(2).all(|pair| pair[0].at <= pair[1].at));
        assert!((trace.end - 660.0).abs() < 1e-9);
    }

    #[test]
    fn one_row_or_a_step_of_0_arrives_at_once() {
        let trace = jobs("7,100", FIVE).unwrap();
        assert!(trace.arrivals.iter().all(|a| (a.at - 7.0).abs() < 1e-9));
        let trace = jobs("0,1\n60,1", Spread { step: Some(0.0), ..FIVE }).unwrap();
        assert_eq!(trace.arrivals.iter().map(|a| a.at).collect::<Vec<_>>(), [0.0, 60.0]);
    }

    #[test]
    fn a_seed_makes_the_same_jobs() {
        let spread = Spread { service_cv: 0.3, ..FIVE };
        assert_eq!(jobs("0,10\n60,10", spread), jobs("0,10\n60,10", spread));
    }
}
