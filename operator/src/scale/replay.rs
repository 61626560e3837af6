//! Decisions written down so that they can be made again: `millrace-operator replay`.

use std::io::BufRead;
use std::time::Instant;

use anyhow::Context as _;
use millrace_api::ScalingSpec;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::decide::{Terms, decide_from};
use super::inputs::Inputs;
use super::{Decision, History, Rule};
use crate::clock;
use crate::validate::Validated;

/// The log target of decisions: `MILLRACE_LOG_LEVEL=info,millrace_operator::decision=debug` writes them down.
const TARGET: &str = "millrace_operator::decision";

/// All that a decision was made from.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Seconds since 1970.
    now: f64,
    rule: Rule,
    scaling: ScalingSpec,
    /// The visibility timeout, in seconds.
    lease: f64,
    inputs: Inputs,
    history: History,
}

impl Record {
    fn of(spec: &Validated, decision: &Decision, history: &History, now: Instant) -> Self {
        let Terms { rule, scaling, lease } = Terms::of(spec);
        let (inputs, history) = (decision.inputs.clone(), history.clone());
        Self { now: clock::seconds(now), rule, scaling: scaling.clone(), lease, inputs, history }
    }
}

/// Writes a decision into the log, where its target is logged.
pub(crate) fn record(spec: &Validated, decision: &Decision, history: &History, now: Instant) {
    if !tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
        return;
    }
    let record = serde_json::to_string(&Record::of(spec, decision, history, now)).unwrap_or_default();
    let Decision { from, desired, message, .. } = decision;
    tracing::debug!(target: TARGET, from, desired, reason = decision.word(), record, "{message}");
}

/// Makes decisions again from lines of the log (format json), or of records alone, and prints each. A log without any is an
/// error: it was not told to hold them.
pub(crate) fn replay(lines: impl BufRead, mut print: impl FnMut(&str)) -> anyhow::Result<()> {
    let mut found = false;
    for (index, line) in lines.lines().enumerate() {
        let line = line?;
        let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
        let inner = value.pointer("/fields/record").or_else(|| value.get("record")).and_then(Value::as_str);
        let text = match inner {
            Some(text) => text,
            None if value.get("inputs").is_some() => line.as_str(),
            // Another line of the log.
            None => continue,
        };
        let record: Record = serde_json::from_str(text)
            .with_context(|| format!("line {}: the record is of another version of the operator", index + 1))?;
        let Record { now, rule, scaling, lease, inputs, history } = record;
        let decision = decide_from(&Terms { rule, scaling: &scaling, lease }, &inputs, &history, now);
        let Decision { from, desired, message, .. } = &decision;
        print(&format!("{from} -> {desired} {}: {message}", decision.word()));
        found = true;
    }
    anyhow::ensure!(
        found,
        "no line holds a decision: log them with MILLRACE_LOG_FORMAT=json and MILLRACE_LOG_LEVEL=info,{TARGET}=debug (the chart's logFormat and logLevel)"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::fixtures::{observed, validated};
    use crate::scale::decide;

    #[test]
    fn a_line_of_the_log_gives_the_decision_again() {
        let (spec, seen, now) = (validated(&[]), observed(), Instant::now());
        let decision = decide(&spec, &seen, now);
        let record = serde_json::to_string(&Record::of(&spec, &decision, &seen.history, now)).unwrap();
        let line = serde_json::json!({ "level": "DEBUG", "fields": { "record": record } });
        let mut printed = Vec::new();
        let log = format!("not JSON\n{{\"fields\":{{}}}}\n{line}\n{record}\n");
        replay(log.as_bytes(), |line| printed.push(line.to_owned())).unwrap();
        let expected = format!("0 -> {} {}: {}", decision.desired, decision.word(), decision.message);
        assert_eq!(printed, [expected.clone(), expected]);
        // As a version wrote it that had one guess for all tasks.
        let mut older: Value = serde_json::from_str(&record).unwrap();
        older["inputs"].as_object_mut().unwrap().remove("service_prior").unwrap();
        replay(older.to_string().as_bytes(), |_| ()).unwrap();
        let other = replay(&b"{\"inputs\":1}\n"[..], |_| ()).unwrap_err();
        assert!(other.to_string().contains("line 1"), "{other}");
        let none = replay(&b"nonsense\n"[..], |_| ()).unwrap_err();
        assert!(none.to_string().contains("millrace_operator::decision=debug"), "{none}");
    }
}
