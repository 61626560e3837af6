//! Tiny models in LocalStack: made by the worker's own `make-model`, uploaded once per run of the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::Lab;

/// The bucket of models, shared by all scenarios and the demo.
const BUCKET: &str = "models";
/// The tasks that have tiny models.
const PICTURES: &str = "TextToImage";
const TEXTS: &str = "TextEmbedding";
const ANSWERS: &str = "TextGeneration";

/// A model that is in LocalStack.
#[derive(Debug, Clone)]
pub struct Model {
    uri: String,
}

impl Model {
    /// Where it is.
    pub fn uri(&self) -> &str {
        &self.uri
    }
}

static FIRST: OnceCell<()> = OnceCell::const_new();
static SECOND: OnceCell<()> = OnceCell::const_new();

impl Lab {
    /// A tiny SDXL model.
    pub async fn model(&self) -> Result<Model> {
        let folder = "tiny-sdxl";
        FIRST.get_or_try_init(|| self.publish(folder, 7)).await?;
        Ok(Model { uri: format!("s3://{BUCKET}/{folder}/") })
    }

    /// Another one, which draws other pictures.
    pub async fn other_model(&self) -> Result<Model> {
        let folder = "tiny-sdxl-8";
        SECOND.get_or_try_init(|| self.publish(folder, 8)).await?;
        Ok(Model { uri: format!("s3://{BUCKET}/{folder}/") })
    }

    /// One that is good for every prompt without the word `z`, which makes pictures of NaN.
    pub async fn spoiled_model(&self) -> Result<Model> {
        let made = make(PICTURES, 7)?;
        spoil(made.path())?;
        self.upload_folder(&self.name, "spoiled/", made.path()).await?;
        Ok(Model { uri: format!("s3://{}/spoiled/", self.name) })
    }

    /// A tiny model for embeddings, and its folder here.
    pub async fn embedding_model(&self) -> Result<(Model, tempfile::TempDir)> {
        let made = make(TEXTS, 7)?;
        self.upload_folder(&self.name, "tiny-bert/", made.path()).await?;
        Ok((Model { uri: format!("s3://{}/tiny-bert/", self.name) }, made))
    }

    /// A tiny model that writes, and its folder here.
    pub async fn writing_model(&self) -> Result<(Model, tempfile::TempDir)> {
        let made = make(ANSWERS, 7)?;
        self.upload_folder(&self.name, "tiny-llama/", made.path()).await?;
        Ok((Model { uri: format!("s3://{}/tiny-llama/", self.name) }, made))
    }

    /// The same seed makes the same bytes, so whoever reads an older upload meanwhile reads the same.
    async fn publish(&self, folder: &str, seed: u64) -> Result<()> {
        // us-east-1 takes it well when the bucket is there already
        self.create_bucket(BUCKET).await?;
        let made = make(PICTURES, seed)?;
        self.upload_folder(BUCKET, &format!("{folder}/"), made.path()).await
    }

    /// Uploads every file of a folder.
    pub async fn upload_folder(&self, bucket: &str, prefix: &str, folder: &Path) -> Result<()> {
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(&next)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder)?.to_str().context("file name")?.to_owned();
                    self.upload(bucket, &format!("{prefix}{name}"), &path).await?;
                }
            }
        }
        Ok(())
    }

    /// A tiny model in a folder here, to be spoiled.
    pub fn model_folder(&self) -> Result<tempfile::TempDir> {
        make(PICTURES, 7)
    }
}

fn make(task: &str, seed: u64) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let mut make = Command::new(worker_binary()?);
    make.args(["make-model", "--task", task, "--seed", &seed.to_string()]).arg(folder.path());
    run(make)?;
    Ok(folder)
}

/// The value that a job has by hand.
pub fn infer(task: &str, model: &Path, input: &str) -> Result<Value> {
    let mut infer = Command::new(worker_binary()?);
    infer.args(["infer", "--task", task, "--device", "cpu", "--input", input, "--model"]).arg(model);
    Ok(serde_json::from_slice(&run(infer)?)?)
}

fn run(mut command: Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// The worker that was built beside these tests.
fn worker_binary() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let found = here.ancestors().map(|folder| folder.join("millrace-worker")).find(|file| file.is_file());
    found.context("millrace-worker is not built: run cargo build --workspace --bins")
}

/// Makes the first text encoder's embedding of `z` NaN, in the safetensors format: the length of a JSON header, the header,
/// the data.
fn spoil(model: &Path) -> Result<()> {
    let vocabulary: Value = serde_json::from_slice(&std::fs::read(model.join("tokenizer/vocab.json"))?)?;
    let token = vocabulary["z</w>"].as_u64().context("the vocabulary has no z")? as usize;
    let file = model.join("text_encoder/model.safetensors");
    let mut bytes = std::fs::read(&file)?;
    let (length, rest) = bytes.split_first_chunk::<8>().context("no header")?;
    let length = u64::from_le_bytes(*length) as usize;
    let header: Value = serde_json::from_slice(rest.get(..length).context("no header")?)?;
    let tensor = &header["text_model.embeddings.token_embedding.weight"];
    ensure!(tensor["dtype"] == "F32", "{tensor}");
    let number = |value: &Value| value.as_u64().with_context(|| format!("{tensor}")).map(|n| n as usize);
    let row = number(&tensor["shape"][1])?;
    let start = 8 + length + number(&tensor["data_offsets"][0])? + token * row * 4;
    let row = bytes.get_mut(start..start + row * 4).context("outside of the file")?;
    row.chunks_exact_mut(4).for_each(|number| number.copy_from_slice(&f32::NAN.to_le_bytes()));
    std::fs::write(&file, bytes)?;
    Ok(())
}
