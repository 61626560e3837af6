//! Makes a tiny SDXL model with random weights, in the published layout: for tests and demos without a download. Its
//! pictures are noise; everything else about it is real.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::folder::Folder;
use super::load::{ENCODER_STEM, UNET_STEM};
use super::text_encoder::{self, Layer, TextEncoder};
use super::unet::UNet;
use super::vae::Vae;
use super::vocabulary::{BEGIN, END, Vocabulary};
use super::{unet_config, vae};
use crate::model::LoadError;

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

/// Writes a model into `dir`, which must be empty or not exist yet. The same seed gives the same bytes.
pub fn make_model(dir: &Path, seed: u64) -> Result<(), MakeModelError> {
    let maker = Maker { dir, seed };
    std::fs::create_dir_all(dir).map_err(|source| maker.failed("", source))?;
    if std::fs::read_dir(dir).map_err(|source| maker.failed("", source))?.next().is_some() {
        return Err(MakeModelError::NotEmpty(dir.to_owned()));
    }
    let vocabulary = Vocabulary::train();
    for tokenizer in [("tokenizer", END), ("tokenizer_2", "!")] {
        maker.tokenizer(tokenizer, &vocabulary)?;
    }
    for (file, content) in configs(vocabulary.tokens.len()) {
        maker.json(file, &content)?;
    }

    let folder = Folder::open(dir, None)?;
    for (component, projected) in [("text_encoder", false), ("text_encoder_2", true)] {
        let config = text_encoder::Config::read(&folder, component)?;
        let build = |vb: VarBuilder| TextEncoder::new(&vb, &config, Layer::Penultimate, projected).map(|_| ());
        maker.weights(component, ENCODER_STEM, build)?;
    }
    let unet = unet_config::Config::read(&folder)?;
    let text_time = unet.text_time()?;
    maker.weights("unet", UNET_STEM, |vb| UNet::new(&vb, &unet, text_time).map(|_| ()))?;
    let vae = vae::Config::read(&folder)?;
    maker.weights("vae", UNET_STEM, |vb| Vae::new(&vb, &vae).map(|_| ()))
}

struct Maker<'a> {
    dir: &'a Path,
    seed: u64,
}

impl Maker<'_> {
    fn failed(&self, file: &str, source: std::io::Error) -> MakeModelError {
        MakeModelError::Write { path: self.dir.join(file), source }
    }

    fn write(&self, file: &str, content: impl AsRef<[u8]>) -> Result<(), MakeModelError> {
        let path = self.dir.join(file);
        let folder = path.parent().unwrap_or(self.dir);
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, content))
            .map_err(|source| self.failed(file, source))
    }

    fn json(&self, file: &str, content: &Value) -> Result<(), MakeModelError> {
        self.write(file, format!("{content:#}\n"))
    }

    fn tokenizer(&self, (folder, pad): (&str, &str), vocabulary: &Vocabulary) -> Result<(), MakeModelError> {
        let numbered = vocabulary.tokens.iter().zip(0_u32..).map(|(token, id)| (token.clone(), id.into()));
        self.json(&format!("{folder}/vocab.json"), &Value::Object(numbered.collect::<Map<_, _>>()))?;
        let merges: Vec<_> = vocabulary.merges.iter().map(|(first, second)| format!("{first} {second}")).collect();
        self.write(&format!("{folder}/merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n")))?;
        let special = json!({"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": pad});
        self.json(&format!("{folder}/special_tokens_map.json"), &special)?;
        let mut config = json!({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": true});
        if let (Some(config), Value::Object(special)) = (config.as_object_mut(), special) {
            config.extend(special);
        }
        self.json(&format!("{folder}/tokenizer_config.json"), &config)
    }

    /// Builds a component as the loader does, giving it random weights for whatever it asks for, and saves those.
    fn weights(
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
        let file = format!("{component}/{stem}.safetensors");
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

/// The configs of SDXL base, with its numbers made small.
fn configs(vocab_size: usize) -> [(&'static str, Value); 6] {
    let encoder = |class: &str, act: &str| {
        json!({
            "architectures": [class], "model_type": "clip_text_model", "vocab_size": vocab_size, "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 77,
            "hidden_act": act, "layer_norm_eps": 1e-5, "projection_dim": 32, "bos_token_id": vocab_size - 2,
            "eos_token_id": vocab_size - 1, "pad_token_id": 1, "torch_dtype": "float32",
        })
    };
    [
        (
            "model_index.json",
            json!({
                "_class_name": "StableDiffusionXLPipeline", "_diffusers_version": "0.30.0",
                "force_zeros_for_empty_prompt": true, "add_watermarker": null,
                "scheduler": ["diffusers", "EulerDiscreteScheduler"],
                "text_encoder": ["transformers", "CLIPTextModel"],
                "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
                "tokenizer": ["transformers", "CLIPTokenizer"], "tokenizer_2": ["transformers", "CLIPTokenizer"],
                "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
            }),
        ),
        ("text_encoder/config.json", encoder("CLIPTextModel", "quick_gelu")),
        ("text_encoder_2/config.json", encoder("CLIPTextModelWithProjection", "gelu")),
        (
            "unet/config.json",
            json!({
                "_class_name": "UNet2DConditionModel", "sample_size": 16, "in_channels": 4, "out_channels": 4,
                "block_out_channels": [32, 64], "layers_per_block": 1,
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "mid_block_type": "UNetMidBlock2DCrossAttn",
                "attention_head_dim": [2, 4], "transformer_layers_per_block": [1, 2], "cross_attention_dim": 64,
                "use_linear_projection": true, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 80, "norm_num_groups": 32, "norm_eps": 1e-5,
                "flip_sin_to_cos": true, "freq_shift": 0, "act_fn": "silu",
            }),
        ),
        (
            "vae/config.json",
            json!({
                "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4,
                "block_out_channels": [32, 32, 32, 64], "layers_per_block": 1, "norm_num_groups": 32,
                "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
                "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
                "act_fn": "silu", "sample_size": 128, "scaling_factor": 0.13025, "force_upcast": true,
            }),
        ),
        (
            "scheduler/scheduler_config.json",
            json!({
                "_class_name": "EulerDiscreteScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085,
                "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "epsilon",
                "timestep_spacing": "leading", "steps_offset": 1, "interpolation_type": "linear",
                "use_karras_sigmas": false, "trained_betas": null,
            }),
        ),
    ]
}
