//! Folders whose files hold anything.

use super::{load_cpu, made};
use crate::model::damaged::{any_byte, any_content, any_setting};

const CONFIGS: [&str; 8] = [
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer_2/special_tokens_map.json",
];
const OTHERS: [&str; 5] = [
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer_2/tokenizer.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors.index.json",
];

#[test]
fn any_setting_may_be_anything() {
    let (_dir, model) = made();
    any_setting(&model, &CONFIGS, load_cpu);
}

#[test]
fn any_file_may_hold_anything() {
    let (_dir, model) = made();
    let files: Vec<&str> = CONFIGS.into_iter().chain(OTHERS).collect();
    any_content(&model, &files, load_cpu);
}

#[test]
fn any_byte_of_a_tokenizer_may_be_another() {
    let (_dir, model) = made();
    let files = ["tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json"];
    any_byte(&model, &files, load_cpu);
}
