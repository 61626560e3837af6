//! Makes a tiny SDXL model with random weights, in the published layout: for tests and demos without a download. Its
//! pictures are noise; everything else about it is real.

use std::path::Path;

use candle_nn::VarBuilder;
use serde_json::{Map, Value, json};

use super::load::{ENCODER_STEM, UNET_STEM};
use super::text_encoder::{self, Layer, TextEncoder};
use super::unet::UNet;
use super::vae::Vae;
use super::vocabulary::{BEGIN, END, Vocabulary};
use super::{unet_config, vae};
use crate::model::folder::Folder;
use crate::model::made::{MakeModelError, Maker};

/// Writes a model into `dir`, which must be empty or not exist yet. The same seed gives the same bytes.
pub fn make_model(dir: &Path, seed: u64) -> Result<(), MakeModelError> {
    let maker = Maker::new(dir, seed)?;
    let vocabulary = Vocabulary::train();
    for tokenizer in [("tokenizer", END), ("tokenizer_2", "!")] {
        write_tokenizer(&maker, tokenizer, &vocabulary)?;
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

/// Writes the files of one of the two tokenizers.
fn write_tokenizer(maker: &Maker, (folder, pad): (&str, &str), vocabulary: &Vocabulary) -> Result<(), MakeModelError> {
    let numbered = vocabulary.tokens.iter().zip(0_u32..).map(|(token, id)| (token.clone(), id.into()));
    maker.json(&format!("{folder}/vocab.json"), &Value::Object(numbered.collect::<Map<_, _>>()))?;
    let merges: Vec<_> = vocabulary.merges.iter().map(|(first, second)| format!("{first} {second}")).collect();
    maker.write(&format!("{folder}/merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n")))?;
    let special = json!({"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": pad});
    maker.json(&format!("{folder}/special_tokens_map.json"), &special)?;
    let mut config = json!({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": true});
    if let (Some(config), Value::Object(special)) = (config.as_object_mut(), special) {
        config.extend(special);
    }
    maker.json(&format!("{folder}/tokenizer_config.json"), &config)
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
