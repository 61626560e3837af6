//! `millrace-worker infer`: one job by hand, without a queue.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::handler::Handler;
use crate::job::seed_of;
use crate::model::{About, Engine as _, Input, Item, Loading, Product};

/// One job by hand.
#[derive(Debug)]
pub struct ByHand {
    /// What to load it from and onto.
    pub how: Loading,
    /// The input, as a message body would have it.
    pub input: String,
    /// What kind of job it is, where the handler has several.
    pub route: Option<String>,
    /// Where the first output goes; more get `-1`, `-2` before the extension. A value without a file goes to stdout.
    pub output: Option<PathBuf>,
}

/// Loads the model, runs the job, and writes what comes of it.
pub fn infer<H: Handler>(handler: &H, job: ByHand) -> anyhow::Result<()> {
    let ByHand { how, input: text, route, output } = job;
    let about = About { seed: seed_of(&text), route: route.as_deref(), ..About::default() };
    let input = match serde_json::from_str(&text) {
        Ok(Value::Object(mut object)) => {
            read_files(&mut object, handler.object_fields(&about))?;
            Input::Object(object)
        }
        _ => Input::Text(text.clone()),
    };
    handler.check_defaults(&how.parameters).context("--parameters")?;
    let request = handler.decode(&input, &how.parameters, &about).context("--input")?;
    let mut engine = handler.load(&how)?;
    let mut results = engine.run(&[Item::new(request)]);
    let product = results.pop().context("the model gave no result")??;
    write(&product, output.as_deref())
}

/// A field that would name an object in S3 names a file here.
fn read_files(object: &mut Map<String, Value>, fields: &[&str]) -> anyhow::Result<()> {
    for field in fields {
        let Some(text) = object.get(*field).and_then(Value::as_str) else { continue };
        let path = Path::new(text);
        if !path.is_file() {
            // base64 has no dots
            let is_name = text.contains('.') && !text.starts_with("data:") && !text.contains("://");
            ensure!(!is_name, "--input: {field}: there is no file {text}");
            continue;
        }
        let content =
            std::fs::read(path).with_context(|| format!("--input: {field}: cannot read {}", path.display()))?;
        object.insert((*field).to_owned(), STANDARD.encode(content).into());
    }
    Ok(())
}

fn write(product: &Product, to: Option<&Path>) -> anyhow::Result<()> {
    if let Some(value) = &product.value {
        println!("{value}");
    }
    for (index, output) in product.outputs.iter().enumerate() {
        let path = to.context("--output: say where the file goes")?;
        let path = if index == 0 { path.to_owned() } else { numbered(path, index) };
        let body = output.body.whole().context("the output went somewhere else")?;
        std::fs::write(&path, body).with_context(|| format!("--output: cannot write {}", path.display()))?;
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
    fn a_file_that_is_not_there_is_told_from_what_is_no_file() {
        let read = |text: &str| read_files(&mut Map::from_iter([("image".to_owned(), text.into())]), &["image"]);
        let error = read("pictures/cat.png").unwrap_err();
        assert_eq!(error.to_string(), "--input: image: there is no file pictures/cat.png");
        for other in ["iVBORw0KGgo/AA==", "data:image/png;base64,AA.", "s3://bucket/cat.png"] {
            assert!(read(other).is_ok(), "{other}");
        }
    }

    #[test]
    fn more_outputs_are_numbered_before_the_extension() {
        assert_eq!(numbered(Path::new("a/out.png"), 2), Path::new("a/out-2.png"));
        assert_eq!(numbered(Path::new("out"), 1), Path::new("out-1"));
    }
}
