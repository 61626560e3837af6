//! `millrace-worker infer`: one job by hand, without a queue.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use millrace_api::Task;
use serde_json::{Map, Value};

use crate::engines::{Loading, Served, Use, dispatch};
use crate::job::seed_of;
use crate::model::{Cancel, Input, Item, Product, Request};

/// One job by hand.
#[derive(Debug)]
pub struct ByHand {
    /// What to load it from and onto.
    pub how: Loading,
    /// The input, as a message body would have it.
    pub input: String,
    /// Where the first output goes; more get `-1`, `-2` before the extension. A value without a file goes to stdout.
    pub output: Option<PathBuf>,
}

/// Loads the model, runs the job, and writes what comes of it.
pub fn infer(task: Task, job: ByHand) -> anyhow::Result<()> {
    if task != Task::Echo && !job.how.dir.is_dir() {
        bail!("--model: {} is not a folder", job.how.dir.display());
    }
    dispatch(task, job)
}

impl Use for ByHand {
    type Output = anyhow::Result<()>;

    fn with<E: Served>(self) -> Self::Output {
        let input = match serde_json::from_str(&self.input) {
            Ok(Value::Object(object)) => Input::Object(object),
            _ => Input::Text(self.input.clone()),
        };
        let request = E::Request::decode(&input, &Map::new(), seed_of(&self.input)).context("--input")?;
        let mut engine = E::load(&self.how)?;
        let mut results = engine.run(&[Item { request: request.into(), cancel: Cancel::default() }]);
        let product = results.pop().context("the model gave no result")??;
        write(&product, self.output.as_deref())
    }
}

fn write(product: &Product, to: Option<&Path>) -> anyhow::Result<()> {
    if let Some(value) = &product.value {
        println!("{value}");
    }
    for (index, output) in product.outputs.iter().enumerate() {
        let path = to.context("--output: say where the file goes")?;
        let path = if index == 0 { path.to_owned() } else { numbered(path, index) };
        std::fs::write(&path, &output.body).with_context(|| format!("--output: cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    if let Some(seed) = product.seed {
        eprintln!("seed {seed}");
    }
    Ok(())
}

fn numbered(path: &Path, index: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}-{index}{extension}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_outputs_are_numbered_before_the_extension() {
        assert_eq!(numbered(Path::new("a/out.png"), 2), Path::new("a/out-2.png"));
        assert_eq!(numbered(Path::new("out"), 1), Path::new("out-1"));
    }
}
