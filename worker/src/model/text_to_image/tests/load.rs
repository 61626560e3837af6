//! Model folders: what a made one holds, how weights are found, and what is said of a folder that is wrong.

use std::path::Path;

use serde_json::json;

use super::{item, load_cpu, made};
use crate::model::altered::{Case, are_told, edit, gone, remove, set, write};
use crate::model::testing::on_cpu;
use crate::model::text_to_image::load;
use crate::model::{Engine, Loading};

/// Names and shapes as diffusers publishes them, spelled out here because the made model takes them from the loader.
#[test]
fn tensors_have_the_names_of_diffusers() {
    let (_dir, model) = made();
    let cases: [(&str, &str, &[usize]); 24] = [
        ("text_encoder/model", "text_model.encoder.layers.2.self_attn.k_proj.bias", &[32]),
        ("text_encoder/model", "text_model.embeddings.position_embedding.weight", &[77, 32]),
        ("text_encoder_2/model", "text_model.final_layer_norm.weight", &[32]),
        ("text_encoder_2/model", "text_model.encoder.layers.0.mlp.fc1.weight", &[64, 32]),
        ("text_encoder_2/model", "text_projection.weight", &[32, 32]),
        ("unet/diffusion_pytorch_model", "conv_in.weight", &[32, 4, 3, 3]),
        ("unet/diffusion_pytorch_model", "time_embedding.linear_1.weight", &[128, 32]),
        ("unet/diffusion_pytorch_model", "add_embedding.linear_1.weight", &[128, 80]),
        ("unet/diffusion_pytorch_model", "down_blocks.0.resnets.0.time_emb_proj.weight", &[32, 128]),
        ("unet/diffusion_pytorch_model", "down_blocks.0.downsamplers.0.conv.weight", &[32, 32, 3, 3]),
        ("unet/diffusion_pytorch_model", "down_blocks.1.resnets.0.conv_shortcut.weight", &[64, 32, 1, 1]),
        ("unet/diffusion_pytorch_model", "down_blocks.1.attentions.0.proj_in.weight", &[64, 64]),
        ("unet/diffusion_pytorch_model", "mid_block.attentions.0.transformer_blocks.1.attn2.to_k.weight", &[64, 64]),
        ("unet/diffusion_pytorch_model", "mid_block.resnets.1.norm2.weight", &[64]),
        (
            "unet/diffusion_pytorch_model",
            "up_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj.weight",
            &[512, 64],
        ),
        ("unet/diffusion_pytorch_model", "up_blocks.0.attentions.1.transformer_blocks.0.ff.net.2.weight", &[64, 256]),
        ("unet/diffusion_pytorch_model", "up_blocks.0.resnets.1.conv1.weight", &[64, 96, 3, 3]),
        ("unet/diffusion_pytorch_model", "up_blocks.0.upsamplers.0.conv.weight", &[64, 64, 3, 3]),
        ("unet/diffusion_pytorch_model", "up_blocks.1.resnets.0.conv1.weight", &[32, 96, 3, 3]),
        ("unet/diffusion_pytorch_model", "conv_norm_out.weight", &[32]),
        ("vae/diffusion_pytorch_model", "decoder.mid_block.attentions.0.to_out.0.weight", &[64, 64]),
        ("vae/diffusion_pytorch_model", "decoder.up_blocks.1.resnets.0.conv_shortcut.weight", &[32, 64, 1, 1]),
        ("vae/diffusion_pytorch_model", "encoder.down_blocks.0.downsamplers.0.conv.weight", &[32, 32, 3, 3]),
        ("vae/diffusion_pytorch_model", "post_quant_conv.weight", &[4, 4, 1, 1]),
    ];
    for (file, tensor, shape) in cases {
        let content = std::fs::read(model.join(format!("{file}.safetensors"))).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&content).unwrap();
        let found = tensors.tensor(tensor).unwrap_or_else(|error| panic!("{file} {tensor}: {error}"));
        assert_eq!(found.shape(), shape, "{tensor}");
    }
}

#[test]
fn a_folder_that_is_wrong_is_named_with_what_is_wrong() {
    const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
    let cases: Vec<Case> = vec![
        (gone(), "ModelFileMissing", &["does not exist"]),
        (remove("model_index.json"), "ModelFileMissing", &["model_index.json"]),
        (remove(UNET), "ModelFileMissing", &[UNET]),
        (remove("tokenizer_2/merges.txt"), "ModelFileMissing", &["tokenizer_2/merges.txt"]),
        (write("vae/config.json", "{"), "ModelCorrupt", &["vae/config.json"]),
        (Box::new(|model| cut(&model.join(UNET), 1000)), "ModelCorrupt", &[UNET, "cut short", "download"]),
        (write(UNET, "<html>no</html>"), "ModelCorrupt", &[UNET]),
        (
            set("unet/config.json", "layers_per_block", json!(2)),
            "ModelCorrupt",
            &[UNET, "no tensor down_blocks.0.resnets.1.norm1.weight"],
        ),
        (
            set("vae/config.json", "block_out_channels", json!([64, 32, 64, 64])),
            "ModelCorrupt",
            &["vae/diffusion_pytorch_model.safetensors", "encoder.conv_in.weight", "[32, 3, 3, 3]", "[64, 3, 3, 3]"],
        ),
        (
            set("unet/config.json", "attention_head_dim", json!(7)),
            "ModelCorrupt",
            &["unet/config.json", "32 channels in 7 heads"],
        ),
        (
            set("unet/config.json", "cross_attention_dim", json!(2048)),
            "ModelCorrupt",
            &["cross_attention_dim is 2048", "64"],
        ),
        (
            set("model_index.json", "scheduler", json!(["diffusers", "HeunDiscreteScheduler"])),
            "ModelUnsupported",
            &["HeunDiscreteScheduler", "EulerDiscreteScheduler"],
        ),
        (
            set("scheduler/scheduler_config.json", "use_beta_sigmas", json!(true)),
            "ModelUnsupported",
            &["use_beta_sigmas"],
        ),
        (
            set("model_index.json", "_class_name", json!("FluxPipeline")),
            "ModelUnsupported",
            &["FluxPipeline", "StableDiffusionXLPipeline"],
        ),
        (
            set("model_index.json", "_class_name", json!("StableDiffusionPipeline")),
            "ModelCorrupt",
            &["unet/config.json", "cross_attention_dim is 64", "32"],
        ),
        (
            set("unet/config.json", "block_out_channels", json!([32, 1_000_000_000])),
            "ModelCorrupt",
            &["block_out_channels", "65536"],
        ),
        (
            set("unet/config.json", "resnet_time_scale_shift", json!("scale_shift")),
            "ModelUnsupported",
            &["resnet_time_scale_shift", "scale_shift", "default"],
        ),
        (set("unet/config.json", "layers_per_block", json!([1, 1, 1])), "ModelCorrupt", &["layers_per_block", "2"]),
        (set("vae/config.json", "norm_num_groups", json!(0)), "ModelCorrupt", &["norm_num_groups"]),
        (set("text_encoder/config.json", "hidden_act", json!("relu")), "ModelCorrupt", &["relu"]),
    ];
    are_told(cases, made, load_cpu);
}

#[test]
fn of_shards_the_one_that_is_wrong_is_named() {
    let says = |damage: &dyn Fn(&Path), reason: &str, words: &[&str]| {
        let (_dir, model) = made();
        shard(&model.join("vae"), "diffusion_pytorch_model", "safetensors.index.json");
        damage(&model);
        let error = load_cpu(&model).map(|_| ()).unwrap_err();
        assert_eq!(error.reason, reason, "{error}");
        for word in words {
            assert!(error.message.contains(word), "{word:?} is not in: {error}");
        }
    };
    let second = "vae/diffusion_pytorch_model-00002-of-00002.safetensors";
    says(&|model| std::fs::remove_file(model.join(second)).unwrap(), "ModelFileMissing", &[second]);
    says(&|model| cut(&model.join(second), 8), "ModelCorrupt", &[second, "cut short"]);
    let index = "vae/diffusion_pytorch_model.safetensors.index.json";
    let deeper = |model: &Path| edit(model, "vae/config.json", |config| config["layers_per_block"] = json!(3));
    says(&deeper, "ModelCorrupt", &[index, "no tensor "]);
    let wider = |model: &Path| {
        edit(model, "vae/config.json", |config| config["block_out_channels"] = json!([64, 32, 64, 64]));
    };
    says(
        &wider,
        "ModelCorrupt",
        &["-of-00002.safetensors", "encoder.conv_in.weight", "[32, 3, 3, 3]", "[64, 3, 3, 3]"],
    );
}

#[test]
fn variants_and_shards_are_found() {
    let (_dir, model) = made();
    let whole = load_cpu(&model).unwrap().run(&[item(json!({"prompt": "a cat"}))]).remove(0).unwrap();
    let unet = model.join("unet");
    let file = unet.join("diffusion_pytorch_model.safetensors");
    std::fs::rename(&file, unet.join("diffusion_pytorch_model.fp16.safetensors")).unwrap();
    shard(&model.join("vae"), "diffusion_pytorch_model", "safetensors.index.json");
    let same = |variant: Option<&str>| {
        let variant = variant.map(str::to_owned);
        let mut engine = load(&Loading { variant, ..on_cpu(&model) }).unwrap();
        assert_eq!(engine.run(&[item(json!({"prompt": "a cat"}))]).remove(0).unwrap(), whole);
    };
    same(None);
    same(Some("fp16"));
    // nothing but shards of a variant, as diffusers and as others name their index
    for index in ["fp16.safetensors.index.json", "safetensors.index.fp16.json"] {
        let encoder = model.join("text_encoder_2");
        shard(&encoder, "model", index);
        same(None);
        same(Some("fp16"));
        unshard(&encoder, "model");
    }
}

fn cut(file: &Path, bytes: u64) {
    let length = std::fs::metadata(file).unwrap().len();
    std::fs::File::options().write(true).open(file).unwrap().set_len(length - bytes).unwrap();
}

/// Puts what was split together again.
fn unshard(folder: &Path, stem: &str) {
    let mut tensors = std::collections::HashMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_string_lossy().into_owned();
        if name.contains("-of-") {
            tensors.extend(candle_core::safetensors::load(&entry, &candle_core::Device::Cpu).unwrap());
        }
        if name.contains("-of-") || name.contains(".index.") {
            std::fs::remove_file(entry).unwrap();
        }
    }
    candle_core::safetensors::save(&tensors, folder.join(format!("{stem}.safetensors"))).unwrap();
}

/// Splits a weights file in two, with the index of this name that goes with it.
fn shard(folder: &Path, stem: &str, index: &str) {
    let whole = folder.join(format!("{stem}.safetensors"));
    let content = std::fs::read(&whole).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&content).unwrap().tensors();
    let half = tensors.len() / 2;
    let mut map = serde_json::Map::new();
    for (number, part) in [&tensors[..half], &tensors[half..]].into_iter().enumerate() {
        let name = format!("{stem}-{:05}-of-00002.safetensors", number + 1);
        let views = part.iter().map(|(tensor, view)| (tensor.clone(), view.clone()));
        safetensors::serialize_to_file(views, None, &folder.join(&name)).unwrap();
        map.extend(part.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
    }
    std::fs::write(folder.join(format!("{stem}.{index}")), json!({"weight_map": map}).to_string()).unwrap();
    std::fs::remove_file(whole).unwrap();
}
