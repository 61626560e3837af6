//! The jobs that `submit` is given: one on the command line, or a file with one a line.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use millrace_client::{Client, Job};
use serde_json::Value;

/// What U+FEFF at the beginning of a file is in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Jobs that are told of when many are wrong.
const MOST_ERRORS: usize = 10;

/// A job, and where it was given: what is wrong with it is told by that.
#[derive(Debug)]
pub struct Given {
    pub job: Job,
    /// `--prompt`, or `--file: jobs.jsonl, line 7`.
    pub place: String,
}

/// Reads a file of jobs, or standard input where its name is `-`.
pub fn read(file: &Path) -> anyhow::Result<Vec<Given>> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).context("--file -: cannot read standard input")?;
    } else {
        bytes = std::fs::read(file).with_context(|| format!("--file: cannot read {}", file.display()))?;
    }
    let given = lines(&bytes, file)?;
    ensure!(!given.is_empty(), "--file: {} has no jobs; a line is a text or a JSON object", file.display());
    Ok(given)
}

fn lines(bytes: &[u8], file: &Path) -> anyhow::Result<Vec<Given>> {
    // as editors of Windows begin a file
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut given = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let place = format!("--file: {}, line {}", file.display(), number + 1);
        let line = std::str::from_utf8(line).with_context(|| format!("{place}: not UTF-8; save the file as UTF-8"))?;
        if !line.trim().is_empty() {
            given.push(Given { job: parse(line).with_context(|| place.clone())?, place });
        }
    }
    Ok(given)
}

/// One job: JSON where it looks like it, else a text for the task's main field.
pub fn parse(text: &str) -> anyhow::Result<Job> {
    let trimmed = text.trim();
    if !trimmed.starts_with(['{', '"', '[']) {
        return Ok(Job::text(trimmed));
    }
    let value: Value = serde_json::from_str(trimmed).context(
        r#"not JSON, though it begins like it; a text that begins so is given as a JSON string, such as "[oil] a cat""#,
    )?;
    Ok(Job::from_value(value)?)
}

/// Holds jobs against their consumer, all before the first is sent.
pub fn check<'a>(client: &Client, given: impl Iterator<Item = &'a Given>) -> anyhow::Result<()> {
    let wrong = |Given { job, place }: &Given| Some(format!("{place}: {}", client.check(job).err()?));
    let wrong: Vec<String> = given.filter_map(wrong).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let more = wrong.len().saturating_sub(MOST_ERRORS);
    let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
    bail!("nothing was sent:\n{}{more}", wrong[..wrong.len().min(MOST_ERRORS)].join("\n"))
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
    fn a_file_may_begin_and_end_its_lines_as_windows_does() {
        let file = Path::new("jobs.jsonl");
        let read = lines(b"\xef\xbb\xbf{\"prompt\":\"x\"}\r\n\r\na cat\r\n", file).unwrap();
        let inputs: Vec<_> = read.iter().map(|given| given.job.input.clone()).collect();
        assert_eq!(inputs, [Job::new(json!({ "prompt": "x" })).input, Job::text("a cat").input]);
        assert_eq!(read[1].place, "--file: jobs.jsonl, line 3");
        let error = format!("{:#}", lines(b"a cat\nb\xe4r\n", file).unwrap_err());
        assert!(error.contains("line 2: not UTF-8; save the file as UTF-8"), "{error}");
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
