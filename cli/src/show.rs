//! How answers are written: tables for people, JSON and YAML for programs.

use std::io::{ErrorKind, Write as _};

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
    Yaml,
}

/// What can be shown as a table.
pub trait Tabular {
    /// Heads of the columns.
    fn heads(&self) -> Vec<&'static str>;
    /// The rows, a cell for each column.
    fn rows(&self) -> Vec<Vec<String>>;
}

/// Writes an answer to standard output.
pub fn show<T: Serialize + Tabular>(format: Format, answer: &T) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => {
            let rows = answer.rows();
            if rows.is_empty() {
                eprintln!("there is nothing to show");
            }
            table(&answer.heads(), &rows)
        }
        Format::Json => format!("{}\n", serde_json::to_string_pretty(answer)?),
        Format::Yaml => serde_saphyr::to_string(answer)?,
    };
    write(&text)
}

/// Writes to standard output. Whoever has read enough of it and closed it is content.
pub fn write(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Columns as wide as their widest cell, three spaces apart, as kubectl has them. What would command a terminal is not
/// passed on to it: a cell may be anybody's text.
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| harmless(cell)).collect()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&heads).chain(&rows).collect();
    let width = |column: usize| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..heads.len()).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    all.into_iter().map(line).collect()
}

fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{FFFD}' } else { c }).collect()
}

/// A text in one line that is not too long for a table.
pub fn brief(text: &str) -> String {
    const LONGEST: usize = 100;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= LONGEST {
        line
    } else {
        format!("{}…", line.chars().take(LONGEST - 1).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let rows = [vec!["a".to_owned(), "FAILED".into()], vec!["bär-17".into(), String::new()]];
        assert_eq!(table(&["JOB", "STATUS"], &rows), "JOB      STATUS\na        FAILED\nbär-17\n");
        assert_eq!(table(&["JOB"], &[]), "");
        assert_eq!(table(&["BODY"], &[vec!["\u{1b}[2Jx\ny".to_owned()]]), "BODY\n\u{FFFD}[2Jx\ny\n");
    }

    #[test]
    fn a_cell_is_one_line() {
        assert_eq!(brief("a\n  b"), "a b");
        assert_eq!(brief(&"x".repeat(101)).chars().count(), 100);
    }
}
