//! Folders whose files hold anything.

use super::{golden, load_cpu, made};
use crate::model::damaged::{any_content, any_setting};

const CONFIGS: [&str; 3] = ["config.json", "generation_config.json", "tokenizer_config.json"];

#[test]
fn any_setting_may_be_anything() {
    any_setting(&made().1, &CONFIGS, load_cpu);
    for family in ["qwen2", "mistral"] {
        any_setting(&golden::generation_model(family, 1).1, &CONFIGS, load_cpu);
    }
}

#[test]
fn any_file_may_hold_anything() {
    let (_dir, model) = made();
    let files: Vec<&str> =
        CONFIGS.into_iter().chain(["tokenizer.json", "chat_template.jinja", "model.safetensors"]).collect();
    any_content(&model, &files, load_cpu);
}
