//! Tiny models in LocalStack: made by the worker's own `make-model`, uploaded once per run of the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::OnceCell;

use crate::Lab;

/// The bucket of models, shared by all scenarios and the demo.
const BUCKET: &str = "models";

/// A model that is in LocalStack.
#[derive(Debug, Clone, Copy)]
pub struct Model {
    folder: &'static str,
}

impl Model {
    /// Where it is.
    pub fn uri(&self) -> String {
        format!("s3://{BUCKET}/{}/", self.folder)
    }
}

static FIRST: OnceCell<()> = OnceCell::const_new();
static SECOND: OnceCell<()> = OnceCell::const_new();

impl Lab {
    /// A tiny SDXL model.
    pub async fn model(&self) -> Result<Model> {
        let folder = "tiny-sdxl";
        FIRST.get_or_try_init(|| self.publish(folder, 7)).await?;
        Ok(Model { folder })
    }

    /// Another one, which draws other pictures.
    pub async fn other_model(&self) -> Result<Model> {
        let folder = "tiny-sdxl-8";
        SECOND.get_or_try_init(|| self.publish(folder, 8)).await?;
        Ok(Model { folder })
    }

    /// The same seed makes the same bytes, so whoever reads an older upload meanwhile reads the same.
    async fn publish(&self, folder: &str, seed: u64) -> Result<()> {
        // us-east-1 takes it well when the bucket is there already
        self.create_bucket(BUCKET).await?;
        let made = make(seed)?;
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
        make(7)
    }
}

fn make(seed: u64) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let mut make = Command::new(worker_binary()?);
    make.args(["make-model", "--task", "TextToImage", "--seed", &seed.to_string()]).arg(folder.path());
    let output = make.output().with_context(|| format!("{make:?}"))?;
    ensure!(output.status.success(), "{make:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(folder)
}

/// The worker that was built beside these tests.
fn worker_binary() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let found = here.ancestors().map(|folder| folder.join("millrace-worker")).find(|file| file.is_file());
    found.context("millrace-worker is not built: run cargo build --workspace --bins")
}
