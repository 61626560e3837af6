//! Folders whose files hold anything.

use super::{load_cpu, made};
use crate::model::damaged::{any_content, any_setting};
use crate::model::golden::embedding_model;

const CONFIGS: [&str; 5] = [
    "config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "tokenizer_config.json",
];

#[test]
fn any_setting_may_be_anything() {
    any_setting(&made().1, &CONFIGS, load_cpu);
    for family in ["mpnet", "modernbert"] {
        any_setting(&embedding_model(family, 1).1, &CONFIGS, load_cpu);
    }
}

#[test]
fn any_file_may_hold_anything() {
    let (_dir, model) = made();
    let files: Vec<&str> = CONFIGS.into_iter().chain(["modules.json", "tokenizer.json", "model.safetensors"]).collect();
    any_content(&model, &files, load_cpu);
}
