//! Model folders: what a made one holds, what else loads, and what is said of a folder that is wrong.

use super::*;
use crate::model::altered::{Case, WEIGHTS, are_told, edit, gone, remove, seeds_count, set, shard, weights};

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
        ("model.encoder.conv1.weight", &[32, 80, 3][..]),
        ("model.encoder.conv2.bias", &[32]),
        ("model.encoder.embed_positions.weight", &[150, 32]),
        ("model.encoder.layers.1.self_attn.k_proj.weight", &[32, 32]),
        ("model.encoder.layers.0.fc1.weight", &[64, 32]),
        ("model.encoder.layer_norm.bias", &[32]),
        ("model.decoder.embed_positions.weight", &[64, 32]),
        ("model.decoder.layers.0.encoder_attn.out_proj.bias", &[32]),
        ("model.decoder.layers.1.encoder_attn_layer_norm.weight", &[32]),
        ("model.decoder.layers.1.final_layer_norm.weight", &[32]),
    ] {
        assert_eq!(found.get(tensor).unwrap_or_else(|| panic!("no {tensor}")).dims(), shape, "{tensor}");
    }
    assert!(!found.contains_key("model.decoder.layers.0.self_attn.k_proj.bias"));
    assert_eq!(found.len(), (4 + 1 + 2) + 2 * 15 + (1 + 1 + 2) + 2 * 24);
}

#[test]
fn shards_and_half_precision_load() {
    let (_dir, model) = made();
    shard(&model);
    load_cpu(&model).unwrap().warm_up().unwrap();
    let precision = millrace_api::Precision::BF16;
    load(&Loading { precision, ..on_cpu(&model) }).unwrap().warm_up().unwrap();
}

/// Models that know English alone have no marks of languages and tasks.
#[test]
fn an_english_model_hears_english() {
    let (_dir, model) = made();
    edit(&model, "generation_config.json", |config| {
        config["is_multilingual"] = json!(false);
        config.as_object_mut().unwrap().remove("prev_sot_token_id");
    });
    let mut engine = load_cpu(&model).unwrap();
    assert_eq!(value(engine.run(&[item(noise(10, 0), |_| {})]).remove(0))["language"], "en");
    assert!(engine.run(&[item(noise(10, 0), |settings| settings.language = Some("en".into()))]).remove(0).is_ok());
    let wrong: [(&str, &Change); 3] = [
        ("language", &|settings| settings.language = Some("de".into())),
        ("task", &|settings| settings.translate = true),
        ("prompt", &|settings| settings.prompt = Some("a".into())),
    ];
    for (field, change) in wrong {
        let result = engine.run(&[item(noise(10, 0), change)]).remove(0);
        let Err(RunError::Invalid(error)) = result else { panic!("{result:?}") };
        assert_eq!(error.field.as_deref(), Some(field));
    }
}

#[test]
fn defaults_are_held_against_the_model() {
    let (_dir, model) = made();
    assert!(load_with(&model, json!({"language": "german", "prompt": "the king"})).is_ok());
    for (parameters, field) in [
        (json!({"language": "cy"}), "model.parameters.language"),
        (json!({"langage": "de"}), "model.parameters.langage"),
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
        (remove("generation_config.json"), "ModelFileMissing", &["generation_config.json"]),
        (remove("tokenizer.json"), "ModelFileMissing", &["tokenizer.json"]),
        (remove(WEIGHTS), "ModelFileMissing", &[WEIGHTS]),
        (set("config.json", "model_type", json!("wav2vec2")), "ModelUnsupported", &["model_type is wav2vec2", "Http"]),
        (
            set("config.json", "activation_function", json!("relu")),
            "ModelUnsupported",
            &["activation_function is \"relu\""],
        ),
        (set("config.json", "decoder_attention_heads", json!(5)), "ModelCorrupt", &["5 decoder_attention_heads", "32"]),
        (
            set("config.json", "encoder_layers", json!(3)),
            "ModelCorrupt",
            &[WEIGHTS, "no tensor model.encoder.layers.2."],
        ),
        (
            set("config.json", "max_source_positions", json!(99)),
            "ModelCorrupt",
            &[WEIGHTS, "embed_positions", "[150, 32]"],
        ),
        (set("preprocessor_config.json", "feature_size", json!(128)), "ModelCorrupt", &["feature_size is 128", "80"]),
        (set("preprocessor_config.json", "sampling_rate", json!(8000)), "ModelUnsupported", &["sampling_rate is 8000"]),
        (
            set("generation_config.json", "no_timestamps_token_id", json!(1 << 20)),
            "ModelCorrupt",
            &["no_timestamps_token_id is 1048577", "tokens"],
        ),
    ];
    are_told(cases, made, load_cpu);
}
