//! Model folders: what a made one holds, what else loads, and what is said of a folder that is wrong.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use serde_json::json;

use super::{apart, item, load_cpu, load_with, made, vector};
use crate::model::altered::{Case, WEIGHTS, are_told, edit, gone, remove, seeds_count, set, shard, weights};
use crate::model::testing::on_cpu;
use crate::model::text_embedding::{load, make_model};
use crate::model::{Engine, Loading};

fn cat(model: &Path) -> Vec<f64> {
    vector(&load_cpu(model).unwrap().run(&[item(json!("a cat"))]).remove(0).unwrap())
}

#[test]
fn the_same_seed_makes_the_same_model() {
    seeds_count(WEIGHTS, make_model);
}

/// Names and shapes as they are published, spelled out here because the made model takes them from the loader.
#[test]
fn tensors_have_the_names_of_transformers() {
    let (_dir, model) = made();
    let found = weights(&model);
    for (tensor, shape) in [
        ("embeddings.word_embeddings.weight", &[202, 32][..]),
        ("embeddings.position_embeddings.weight", &[128, 32]),
        ("embeddings.token_type_embeddings.weight", &[2, 32]),
        ("embeddings.LayerNorm.bias", &[32]),
        ("encoder.layer.0.attention.self.query.weight", &[32, 32]),
        ("encoder.layer.1.attention.output.LayerNorm.weight", &[32]),
        ("encoder.layer.1.intermediate.dense.weight", &[64, 32]),
        ("encoder.layer.1.output.dense.weight", &[32, 64]),
    ] {
        assert_eq!(found.get(tensor).unwrap_or_else(|| panic!("no {tensor}")).dims(), shape, "{tensor}");
    }
}

#[test]
fn names_with_the_model_before_them_are_the_same() {
    let (_dir, model) = made();
    let known = cat(&model);
    let prefixed: HashMap<String, Tensor> =
        weights(&model).into_iter().map(|(name, tensor)| (format!("bert.{name}"), tensor)).collect();
    candle_core::safetensors::save(&prefixed, model.join(WEIGHTS)).unwrap();
    assert_eq!(cat(&model), known);
}

#[test]
fn shards_and_half_precision_load() {
    let (_dir, model) = made();
    let known = cat(&model);
    shard(&model);
    assert!(apart(&cat(&model), &known) < 2e-3);

    let precision = millrace_api::Precision::BF16;
    let mut rough = load(&Loading { precision, ..on_cpu(&model) }).unwrap();
    let found = vector(&rough.run(&[item(json!("a cat"))]).remove(0).unwrap());
    assert!(apart(&found, &known) < 2e-2);
}

#[test]
fn a_transformer_alone_is_read_by_the_mean() {
    let (_dir, model) = made();
    edit(&model, "modules.json", |modules| drop(modules.as_array_mut().unwrap().pop()));
    let known = cat(&model);
    for file in ["modules.json", "1_Pooling/config.json"] {
        std::fs::remove_file(model.join(file)).unwrap();
    }
    assert_eq!(cat(&model), known);
}

#[test]
fn defaults_are_held_against_the_model() {
    let (_dir, model) = made();
    assert!(load_with(&model, json!({"prompt_name": "query", "dimensions": 32})).is_ok());
    for (parameters, field) in [
        (json!({"prompt_name": "passage"}), "model.parameters.prompt_name"),
        (json!({"dimensions": 33}), "model.parameters.dimensions"),
        (json!({"dimension": 3}), "model.parameters.dimension"),
    ] {
        let error = load_with(&model, parameters).unwrap_err();
        assert!(error.reason == "InvalidParameters" && error.message.starts_with(field), "{error}");
    }
}

#[test]
fn a_folder_that_is_wrong_is_named_with_what_is_wrong() {
    let cases: Vec<Case> = vec![
        (gone(), "ModelFileMissing", &["does not exist"]),
        (remove("config.json"), "ModelFileMissing", &["config.json"]),
        (remove("tokenizer.json"), "ModelFileMissing", &["tokenizer.json"]),
        (remove("1_Pooling/config.json"), "ModelFileMissing", &["1_Pooling/config.json"]),
        (remove(WEIGHTS), "ModelFileMissing", &[WEIGHTS]),
        (
            set("config.json", "/model_type", json!("t5")),
            "ModelUnsupported",
            &["model_type is t5", "bert", "modernbert"],
        ),
        (set("config.json", "/hidden_act", json!("softmax")), "ModelCorrupt", &["config.json", "softmax"]),
        (set("config.json", "/position_embedding_type", json!("relative_key")), "ModelUnsupported", &["relative_key"]),
        (set("config.json", "/num_attention_heads", json!(5)), "ModelCorrupt", &["config.json", "5", "32"]),
        (
            set("config.json", "/num_hidden_layers", json!(3)),
            "ModelCorrupt",
            &[WEIGHTS, "no tensor encoder.layer.2.attention.self.query.weight"],
        ),
        (
            set("config.json", "/intermediate_size", json!(65)),
            "ModelCorrupt",
            &[WEIGHTS, "encoder.layer.0.intermediate.dense.weight", "[64, 32]", "[65, 32]"],
        ),
        (set("config.json", "/vocab_size", json!(100)), "ModelCorrupt", &["tokenizer.json", "202 tokens", "knows 100"]),
        (
            set("sentence_bert_config.json", "/max_seq_length", json!(2)),
            "ModelCorrupt",
            &["sentence_bert_config.json", "max_seq_length is 2"],
        ),
        (
            set("1_Pooling/config.json", "/word_embedding_dimension", json!(31)),
            "ModelCorrupt",
            &["1_Pooling/config.json", "31", "32"],
        ),
        (
            set("modules.json", "/1/type", json!("sentence_transformers.models.WeightedLayerPooling")),
            "ModelUnsupported",
            &["modules.json", "no Pooling"],
        ),
        (
            set("modules.json", "/2/type", json!("sentence_transformers.models.LayerNorm")),
            "ModelUnsupported",
            &["modules.json", "LayerNorm"],
        ),
        (set("modules.json", "/1/path", json!("../1_Pooling")), "ModelCorrupt", &["modules.json", "leads out"]),
        (
            set("config_sentence_transformers.json", "/default_prompt_name", json!("passage")),
            "ModelCorrupt",
            &["config_sentence_transformers.json", "passage"],
        ),
    ];
    are_told(cases, made, load_cpu);
}
