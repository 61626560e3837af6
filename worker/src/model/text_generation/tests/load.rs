//! Model folders: what a made one holds, what else loads, and what is said of a folder that is wrong.

use super::*;
use crate::model::altered::{Case, WEIGHTS, are_told, edit, gone, remove, seeds_count, set, shard, weights};

fn cat(model: &Path) -> String {
    text(load_cpu(model).unwrap().run(&[item(json!({"prompt": "a cat", "max_tokens": 8, "temperature": 0}))]).remove(0))
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
    let tokens = found["model.embed_tokens.weight"].dims()[0];
    for (tensor, shape) in [
        ("model.embed_tokens.weight", &[tokens, 32][..]),
        ("model.layers.0.input_layernorm.weight", &[32]),
        ("model.layers.0.self_attn.q_proj.weight", &[32, 32]),
        ("model.layers.1.self_attn.k_proj.weight", &[16, 32]),
        ("model.layers.1.self_attn.v_proj.weight", &[16, 32]),
        ("model.layers.0.self_attn.o_proj.weight", &[32, 32]),
        ("model.layers.1.post_attention_layernorm.weight", &[32]),
        ("model.layers.1.mlp.gate_proj.weight", &[64, 32]),
        ("model.layers.1.mlp.up_proj.weight", &[64, 32]),
        ("model.layers.1.mlp.down_proj.weight", &[32, 64]),
        ("model.norm.weight", &[32]),
        ("lm_head.weight", &[tokens, 32]),
    ] {
        assert_eq!(found.get(tensor).unwrap_or_else(|| panic!("no {tensor}")).dims(), shape, "{tensor}");
    }
    assert_eq!(found.len(), 3 + 2 * 9);
}

#[test]
fn a_made_tokenizer_gives_back_every_text() {
    let (_dir, model) = made();
    let engine = load_cpu(&model).unwrap();
    for text in ["", "a cat in the lighthouse", " Über \t\r\n 漢字🙂\u{7f}\u{ad}ÿ"] {
        let tokens = engine.model.tokenizer.tokens(text, false).unwrap();
        assert_eq!(engine.model.tokenizer.text(&tokens).unwrap(), text);
    }
    assert_eq!(engine.model.tokenizer.tokens(" lighthouse", false).unwrap().len(), 1);
}

#[test]
fn shards_and_half_precision_load() {
    let (_dir, model) = made();
    shard(&model);
    assert!(!cat(&model).is_empty());
    let precision = millrace_api::Precision::BF16;
    let mut rough = load(&Loading { precision, ..on_cpu(&model) }).unwrap();
    assert!(rough.warm_up().is_ok());
}

#[test]
fn older_configs_say_the_same() {
    let (_dir, model) = golden::generation_model("llama", 1);
    let known = cat(&model);
    edit(&model, "config.json", |config| {
        let fields = config.as_object_mut().unwrap();
        let Value::Object(mut rope) = fields.remove("rope_parameters").unwrap() else { panic!("no object") };
        fields.insert("rope_theta".into(), rope.remove("rope_theta").unwrap());
        fields.insert("rope_scaling".into(), rope.into());
        fields.remove("head_dim");
    });
    assert_eq!(cat(&model), known);
    edit(&model, "config.json", |config| config["rope_scaling"] = Value::Null);
    assert_ne!(cat(&model), known);
}

#[test]
fn templates_and_ends_are_found_wherever_they_lie() {
    let (_dir, model) = made();
    let shown = |model: &Path| {
        let engine = load_cpu(model).unwrap();
        let message = object(json!({"role": "user", "content": "a"}));
        (engine.model.chat.map(|chat| chat.render(&[message]).unwrap()), engine.model.ends)
    };
    let own = "<|begin|><|turn|>user\na<|over|><|turn|>assistant\n".to_owned();
    assert_eq!(shown(&model), (Some(own), vec![1, 3]));
    let several = json!([{"name": "tools", "template": "no"}, {"name": "default", "template": "yes {{ bos_token }}"}]);
    edit(&model, "tokenizer_config.json", |config| config["chat_template"] = several);
    edit(&model, "tokenizer_config.json", |config| config["bos_token"] = json!({"content": "B"}));
    edit(&model, "generation_config.json", |config| config["eos_token_id"] = json!(3));
    assert_eq!(shown(&model), (Some("yes B".into()), vec![3]));
    std::fs::write(model.join("chat_template.jinja"), "by itself").unwrap();
    std::fs::remove_file(model.join("generation_config.json")).unwrap();
    edit(&model, "config.json", |config| drop(config.as_object_mut().unwrap().remove("eos_token_id")));
    assert_eq!(shown(&model), (Some("by itself".into()), vec![1]));
}

#[test]
fn defaults_are_held_against_the_model() {
    let (_dir, model) = made();
    assert!(load_with(&model, json!({"max_tokens": 100, "system": "be brief"})).is_ok());
    let check = |parameters: Value, field: &str| {
        let error = load_with(&model, parameters).unwrap_err();
        assert!(error.reason == "InvalidParameters" && error.message.starts_with(field), "{error}");
    };
    check(json!({"max_tokens": 256}), "model.parameters.max_tokens");
    check(json!({"max_token": 3}), "model.parameters.max_token");
    edit(&model, "tokenizer_config.json", |config| config["chat_template"] = Value::Null);
    check(json!({"system": "be brief"}), "model.parameters.system");
    check(json!({"chat": true}), "model.parameters.chat");
    let result =
        load_cpu(&model).unwrap().run(&[item(json!({"messages": [{"role": "user", "content": "a"}]}))]).remove(0);
    let Err(RunError::Invalid(error)) = result else { panic!("{result:?}") };
    assert!(error.field.as_deref() == Some("messages") && error.message.contains("needs a chat template"), "{error}");
}

#[test]
fn a_folder_that_is_wrong_is_named_with_what_is_wrong() {
    let rope = |kind: &str| json!({"rope_type": kind, "factor": 2.0});
    let cases: Vec<Case> = vec![
        (gone(), "ModelFileMissing", &["does not exist"]),
        (remove("config.json"), "ModelFileMissing", &["config.json"]),
        (remove("tokenizer.json"), "ModelFileMissing", &["tokenizer.json"]),
        (remove(WEIGHTS), "ModelFileMissing", &[WEIGHTS]),
        (
            set("config.json", "model_type", json!("gpt_neox")),
            "ModelUnsupported",
            &["model_type is gpt_neox", "llama, mistral, qwen2, qwen3", "Http", "vLLM"],
        ),
        (
            set("config.json", "quantization_config", json!({"quant_method": "awq"})),
            "ModelUnsupported",
            &["quantization_config", "GGUF"],
        ),
        (set("config.json", "hidden_act", json!("gelu")), "ModelUnsupported", &["hidden_act is \"gelu\""]),
        (set("config.json", "rope_scaling", rope("yarn")), "ModelUnsupported", &["rope_type is yarn", "llama3"]),
        (set("config.json", "rope_scaling", rope("llama3")), "ModelCorrupt", &["config.json", "lack low_freq_factor"]),
        (set("config.json", "num_attention_heads", json!(5)), "ModelCorrupt", &["config.json", "5", "32"]),
        (
            set("config.json", "num_key_value_heads", json!(3)),
            "ModelCorrupt",
            &["3 num_key_value_heads do not divide 4"],
        ),
        (set("config.json", "head_dim", json!(7)), "ModelCorrupt", &["odd width, 7"]),
        (
            set("config.json", "num_hidden_layers", json!(3)),
            "ModelCorrupt",
            &[WEIGHTS, "no tensor model.layers.2.input_layernorm.weight"],
        ),
        (
            set("config.json", "intermediate_size", json!(65)),
            "ModelCorrupt",
            &[WEIGHTS, "model.layers.0.mlp.gate_proj.weight", "[64, 32]", "[65, 32]"],
        ),
        (set("config.json", "vocab_size", json!(100)), "ModelCorrupt", &["tokenizer.json", "knows 100"]),
        (
            set("tokenizer_config.json", "chat_template", json!("{% for %}")),
            "ModelCorrupt",
            &["tokenizer_config.json", "chat template", "line 1"],
        ),
        (
            Box::new(|model| {
                std::fs::remove_file(model.join("generation_config.json")).unwrap();
                edit(model, "config.json", |config| config["eos_token_id"] = Value::Null);
                edit(model, "tokenizer_config.json", |config| config["eos_token"] = json!("<end>"));
            }),
            "ModelCorrupt",
            &["tokenizer_config.json", "<end> is no token"],
        ),
    ];
    are_told(cases, made, load_cpu);
}
