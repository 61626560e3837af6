//! The jobs that `submit` is given: one on the command line, or a file with one a line.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use millrace_client::Job;
use serde_json::Value;

/// A job, and where it was given: what is wrong with it is told by that.
#[derive(Debug)]
pub struct Given {
    pub job: Job,
    /// `--prompt`, or `--file: jobs.jsonl, line 7`.
    pub place: String,
}

/// Reads a file of jobs, or standard input where its name is `-`.
pub fn read(file: &Path) -> anyhow::Result<Vec<Given>> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).context("--file -: cannot read standard input")?;
        text
    } else {
        std::fs::read_to_string(file).with_context(|| format!("--file: cannot read {}", file.display()))?
    };
    let mut jobs = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("--file: {}, line {}", file.display(), number + 1);
        jobs.push(Given { job: parse(line).with_context(|| place.clone())?, place });
    }
    ensure!(!jobs.is_empty(), "--file: {} has no jobs; a line is a text or a JSON object", file.display());
    Ok(jobs)
}

/// One job: JSON where it looks like it, else a text for the task's main field.
pub fn parse(text: &str) -> anyhow::Result<Job> {
    let trimmed = text.trim();
    if !trimmed.starts_with(['{', '"', '[']) {
        return Ok(Job::text(trimmed));
    }
    let value: Value = serde_json::from_str(trimmed).context("not JSON, though it begins like it")?;
    Ok(Job::from_value(value)?)
}

/// Gives every job an id that a second run gives it again: its own, or one made of its input, with a number where the
/// same input comes more than once. Two jobs of one name and different inputs are an error.
pub fn name(given: &mut [Given], prefix: &str) -> anyhow::Result<()> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut own: HashMap<String, String> = HashMap::new();
    for Given { job, place } in given {
        if let Some(id) = &job.id {
            let input = job.input_sha256();
            let first = own.entry(id.clone()).or_insert_with(|| input.clone());
            ensure!(*first == input, "{place}: job_id {id} stands for two inputs; a job id is the name of one");
            job.id = Some(format!("{prefix}{id}"));
            continue;
        }
        let id = job.id();
        let times = seen.entry(id.clone()).or_default();
        *times += 1;
        job.id = Some(if *times == 1 { format!("{prefix}{id}") } else { format!("{prefix}{id}-{times}") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn given(job: Job) -> Given {
        Given { job, place: "line".into() }
    }

    #[test]
    fn a_line_is_a_text_or_json() {
        let input = |line: &str| parse(line).unwrap().input;
        assert_eq!(input("a cat "), Job::text("a cat").input);
        assert_eq!(input("8"), Job::text("8").input);
        assert_eq!(input("\"a {cat}\""), Job::text("a {cat}").input);
        assert_eq!(input(r#"{"prompt":"x"}"#), Job::new(json!({ "prompt": "x" })).input);
        for wrong in [r#"{"prompt":"x""#, "[1]", r#"{"job_id":7}"#] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_second_run_names_them_alike() {
        let jobs =
            || [Job::text("a"), Job::text("b"), Job::text("a"), Job { id: Some("own".into()), ..Job::text("a") }];
        let ids = |prefix: &str| {
            let mut given = jobs().map(given);
            name(&mut given, prefix).unwrap();
            given.map(|given| given.job.id())
        };
        let first = ids("");
        assert_eq!(first, ids(""));
        assert_eq!(first[2], format!("{}-2", first[0]));
        assert_eq!(first[3], "own");
        assert!(ids("again-").iter().all(|id| id.starts_with("again-")));
    }

    #[test]
    fn a_name_stands_for_one_input() {
        let job = |text: &str| given(Job { id: Some("j".into()), ..Job::text(text) });
        assert!(name(&mut [job("a"), job("a")], "").is_ok());
        let error = name(&mut [job("a"), job("b")], "").unwrap_err();
        assert!(error.to_string().contains("job_id j stands for two inputs"), "{error}");
    }
}
