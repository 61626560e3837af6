//! What makers of tiny models have in common: files in an empty folder, and random weights for whatever a model asks for.

pub(super) mod words;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::LoadError;
use super::folder::within;

/// Why no model was made.
#[derive(Debug, thiserror::Error)]
pub enum MakeModelError {
    /// The folder has something in it, which is never overwritten.
    #[error("{} is not empty: name a new or empty folder", .0.display())]
    NotEmpty(PathBuf),
    /// A file or folder cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A weights file cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    Weights {
        /// Which.
        path: PathBuf,
        /// Why.
        source: safetensors::SafeTensorError,
    },
    /// The configs and the model disagree.
    #[error("cannot build {component}: {source}")]
    Build {
        /// Which part of the model.
        component: &'static str,
        /// Why.
        source: candle_core::Error,
    },
    /// A config that was just written does not read back.
    #[error(transparent)]
    Config(#[from] LoadError),
}

/// Writes the files of one model.
#[derive(Debug)]
pub(super) struct Maker<'a> {
    dir: &'a Path,
    seed: u64,
}

impl<'a> Maker<'a> {
    /// One that writes into `dir`, which must be empty or not exist yet. The same seed gives the same bytes.
    pub(super) fn new(dir: &'a Path, seed: u64) -> Result<Self, MakeModelError> {
        let maker = Self { dir, seed };
        std::fs::create_dir_all(dir).map_err(|source| maker.failed("", source))?;
        if std::fs::read_dir(dir).map_err(|source| maker.failed("", source))?.next().is_some() {
            return Err(MakeModelError::NotEmpty(dir.to_owned()));
        }
        Ok(maker)
    }

    fn failed(&self, file: &str, source: std::io::Error) -> MakeModelError {
        MakeModelError::Write { path: self.dir.join(file), source }
    }

    /// Writes a file, and the folder that it lies in.
    pub(super) fn write(&self, file: &str, content: impl AsRef<[u8]>) -> Result<(), MakeModelError> {
        let path = self.dir.join(file);
        let folder = path.parent().unwrap_or(self.dir);
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, content))
            .map_err(|source| self.failed(file, source))
    }

    /// Writes a JSON file.
    pub(super) fn json(&self, file: &str, content: &Value) -> Result<(), MakeModelError> {
        self.write(file, format!("{content:#}\n"))
    }

    /// Builds a component as the loader does, giving it random weights for whatever it asks for, and saves those.
    pub(super) fn weights(
        &self,
        component: &'static str,
        stem: &str,
        build: impl FnOnce(VarBuilder) -> CandleResult<()>,
    ) -> Result<(), MakeModelError> {
        let made = Arc::new(Mutex::new(BTreeMap::new()));
        let source = RandomWeights { seed: format!("{}/{component}", self.seed), made: made.clone() };
        build(VarBuilder::from_backend(Box::new(source), DType::F32, Device::Cpu))
            .map_err(|source| MakeModelError::Build { component, source })?;
        let tensors = std::mem::take(&mut *made.lock().unwrap_or_else(PoisonError::into_inner));
        let file = within(component, &format!("{stem}.safetensors"));
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        // Not safetensors' own way to a file, which only its owner may read.
        let content = safetensors::serialize(tensors, Some(format))
            .map_err(|source| MakeModelError::Weights { path: self.dir.join(&file), source })?;
        self.write(&file, &content)
    }
}

/// Gives every tensor that is asked for random values, and keeps it.
struct RandomWeights {
    seed: String,
    made: Arc<Mutex<BTreeMap<String, Tensor>>>,
}

impl RandomWeights {
    /// Values that depend on the seed and the tensor's name only. Norms are left neutral; the rest keeps the variance
    /// of what passes through it, so that any depth stays finite.
    fn values(&self, name: &str, shape: &Shape, init: Init) -> Vec<f32> {
        let count = shape.elem_count();
        let spread = match (shape.dims(), init) {
            ([_], Init::Const(value)) => return vec![value as f32; count],
            ([_], _) => 0.02,
            (_, Init::Randn { stdev, .. }) => stdev as f32,
            (dims, _) => (dims.iter().skip(1).product::<usize>() as f32).sqrt().recip(),
        };
        let seed = Sha256::digest(format!("{}/{name}", self.seed));
        let rng = ChaCha12Rng::from_seed(seed.into());
        StandardNormal.sample_iter(rng).take(count).map(|value: f32| value * spread).collect()
    }
}

impl SimpleBackend for RandomWeights {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        let tensor = Tensor::from_vec(self.values(name, &shape, init), shape, device)?.to_dtype(dtype)?;
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> CandleResult<Tensor> {
        Err(candle_core::Error::CannotFindTensor { path: name.to_owned() })
    }

    /// Where a part knows several names for a tensor, it asks for today's first.
    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
