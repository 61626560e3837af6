//! The names that LoRA files have for a model's layers.
//!
//! diffusers and PEFT write the layer's path (`unet.down_blocks.1.….to_q.lora_A.weight`); kohya's tools write it with
//! underscores (`lora_unet_down_blocks_1_…_to_q.lora_down.weight`), some in the words of the original Stable Diffusion
//! (`lora_unet_input_blocks_4_1_…`). Underscores cannot be told from dots, so the model's own names are turned into each of
//! these instead, and looked up.

use std::collections::HashMap;

/// Which of a layer's tensors a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// From the layer's input to few channels.
    Down,
    /// From there to the layer's output.
    Up,
    /// What the product is multiplied with, by its rank.
    Alpha,
}

/// A key of a LoRA file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// As the file names it.
    pub(super) layer: String,
    pub(super) part: Part,
}

/// What follows a layer's name, in every way of writing it.
const ENDINGS: [(&str, Part); 14] = [
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora_A.default.weight", Part::Down),
    (".lora_B.default.weight", Part::Up),
    (".lora_A.default_0.weight", Part::Down),
    (".lora_B.default_0.weight", Part::Up),
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_linear_layer.up.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    ("_lora.down.weight", Part::Down),
    ("_lora.up.weight", Part::Up),
];

/// Takes a key apart; none for one that is not a LoRA's.
pub(super) fn split(key: &str) -> Option<Key> {
    let ended = ENDINGS.iter().find_map(|(ending, part)| Some((key.strip_suffix(ending)?, *part)));
    let (layer, part) = ended.or_else(|| Some((key.strip_suffix(".alpha")?, Part::Alpha)))?;
    // what older versions of diffusers wrote: processors beside the layers that they are for
    let layer = layer.replace(".processor.", ".").replace("base_model.model.", "");
    Some(Key { layer, part })
}

/// Every name by which a component's layers may be asked for.
#[derive(Debug)]
pub(super) struct Names {
    /// To the layer's weight.
    tensors: HashMap<String, String>,
}

impl Names {
    /// The names of a component that has these tensors.
    pub(super) fn new<'a>(component: &str, tensors: impl Iterator<Item = &'a str>) -> Self {
        let layers: Vec<&str> = tensors.filter_map(|tensor| tensor.strip_suffix(".weight")).collect();
        let per_block = layers_per_block(&layers);
        let mut names = Self { tensors: HashMap::new() };
        let kohya: &[&str] = match component {
            "unet" => &["lora_unet"],
            "text_encoder" => &["lora_te1", "lora_te"],
            _ => &["lora_te2"],
        };
        for layer in layers {
            let mut paths = vec![layer.to_owned()];
            if component == "unet" {
                paths.extend(original(layer, per_block));
            } else if !layer.starts_with("text_model.") {
                // transformers 5 leaves the prefix out that LoRAs have
                paths.push(format!("text_model.{layer}"));
            }
            for path in paths {
                for name in [path.clone(), old_attention(&path)] {
                    names.add(&format!("{component}.{name}"), layer);
                    for prefix in kohya {
                        names.add(&format!("{prefix}_{}", name.replace('.', "_")), layer);
                    }
                    // PEFT's own files are of one component, and do not say of which
                    if component == "unet" {
                        names.add(&name, layer);
                    }
                }
            }
        }
        names
    }

    fn add(&mut self, name: &str, layer: &str) {
        self.tensors.entry(name.to_owned()).or_insert_with(|| format!("{layer}.weight"));
    }

    /// The weight that a layer's name is for.
    pub(super) fn find(&self, layer: &str) -> Option<String> {
        self.tensors.get(layer).cloned()
    }
}

/// `to_out` is a list in diffusers of which the first is the layer; older files name the list, and text encoders' layers
/// as if they were a UNet's.
fn old_attention(path: &str) -> String {
    let renamed = path.strip_suffix(".to_out.0").map(|path| format!("{path}.to_out"));
    let renamed = renamed.or_else(|| {
        let (path, layer) = path.rsplit_once('.').filter(|(path, _)| path.ends_with("self_attn"))?;
        let layer = match layer {
            "q_proj" => "to_q",
            "k_proj" => "to_k",
            "v_proj" => "to_v",
            "out_proj" => "to_out",
            _ => return None,
        };
        Some(format!("{path}.{layer}"))
    });
    renamed.unwrap_or_else(|| path.to_owned())
}

/// Residual blocks of the first block on the way down.
fn layers_per_block(layers: &[&str]) -> usize {
    let numbers = layers
        .iter()
        .filter_map(|layer| layer.strip_prefix("down_blocks.0.resnets.")?.split('.').next()?.parse::<usize>().ok());
    numbers.max().map_or(0, |last| last + 1)
}

/// A layer's path in the original Stable Diffusion, which numbers blocks through; `per_block` of them have one size.
fn original(layer: &str, per_block: usize) -> Option<String> {
    let top = match layer {
        "conv_in" => Some("input_blocks.0.0"),
        "conv_norm_out" => Some("out.0"),
        "conv_out" => Some("out.2"),
        "time_embedding.linear_1" => Some("time_embed.0"),
        "time_embedding.linear_2" => Some("time_embed.2"),
        "add_embedding.linear_1" => Some("label_emb.0.0"),
        "add_embedding.linear_2" => Some("label_emb.0.2"),
        _ => None,
    };
    if let Some(top) = top {
        return Some(top.to_owned());
    }
    let parts: Vec<&str> = layer.split('.').collect();
    let (prefix, kind, rest) = match parts.as_slice() {
        ["mid_block", kind, index, rest @ ..] => {
            let index: usize = index.parse().ok()?;
            let place = if *kind == "attentions" { 1 } else { index * 2 };
            (format!("middle_block.{place}"), *kind, rest)
        }
        [way @ ("down_blocks" | "up_blocks"), block, kind, index, rest @ ..] => {
            let (block, index): (usize, usize) = (block.parse().ok()?, index.parse().ok()?);
            let resizes = matches!(*kind, "downsamplers" | "upsamplers");
            let place = block * (per_block + 1) + if resizes { per_block } else { index };
            let (way, place) =
                if *way == "down_blocks" { ("input_blocks", place + 1) } else { ("output_blocks", place) };
            let inner = match *kind {
                "resnets" | "downsamplers" => "0",
                "attentions" => "1",
                // after the transformer where the block has one; the other numbering is added by nobody's tools
                _ => "2",
            };
            (format!("{way}.{place}.{inner}"), *kind, rest)
        }
        _ => return None,
    };
    let rest = match (kind, rest) {
        ("resnets", [part]) => match *part {
            "norm1" => "in_layers.0",
            "conv1" => "in_layers.2",
            "time_emb_proj" => "emb_layers.1",
            "norm2" => "out_layers.0",
            "conv2" => "out_layers.3",
            "conv_shortcut" => "skip_connection",
            _ => return None,
        }
        .to_owned(),
        ("downsamplers", ["conv"]) => "op".to_owned(),
        (_, rest) => rest.join("."),
    };
    Some(format!("{prefix}.{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNET: [&str; 9] = [
        "conv_in.weight",
        "down_blocks.0.resnets.0.conv1.weight",
        "down_blocks.0.resnets.1.conv1.weight",
        "down_blocks.0.downsamplers.0.conv.weight",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.weight",
        "mid_block.attentions.0.proj_in.weight",
        "up_blocks.0.attentions.2.transformer_blocks.0.ff.net.0.proj.weight",
        "up_blocks.0.upsamplers.0.conv.weight",
    ];

    fn found(names: &Names, key: &str) -> Option<String> {
        names.find(&split(key)?.layer)
    }

    #[test]
    fn every_way_of_writing_finds_its_layer() {
        let unet = Names::new("unet", UNET.into_iter());
        let to_q = UNET[4];
        let to_out = UNET[5];
        let cases = [
            ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", to_q),
            ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.default.weight", to_q),
            ("base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", to_q),
            ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight", to_q),
            ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight", to_out),
            ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora.down.weight", to_out),
            ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight", to_q),
            ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.alpha", to_q),
            ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_out_0.lora_up.weight", to_out),
            ("lora_unet_input_blocks_0_0.lora_up.weight", UNET[0]),
            ("lora_unet_input_blocks_2_0_in_layers_2.lora_up.weight", UNET[2]),
            ("lora_unet_input_blocks_3_0_op.lora_up.weight", UNET[3]),
            ("lora_unet_middle_block_1_proj_in.lora_up.weight", UNET[6]),
            ("lora_unet_output_blocks_2_1_transformer_blocks_0_ff_net_0_proj.lora_up.weight", UNET[7]),
            ("lora_unet_output_blocks_2_2_conv.lora_up.weight", UNET[8]),
        ];
        for (key, tensor) in cases {
            assert_eq!(found(&unet, key).as_deref(), Some(tensor), "{key}");
        }
        for (component, prefix) in
            [("text_encoder", "lora_te1"), ("text_encoder", "lora_te"), ("text_encoder_2", "lora_te2")]
        {
            for tensor in
                ["text_model.encoder.layers.3.self_attn.q_proj.weight", "encoder.layers.3.self_attn.q_proj.weight"]
            {
                let names = Names::new(component, std::iter::once(tensor));
                for key in [
                    format!("{prefix}_text_model_encoder_layers_3_self_attn_q_proj.lora_down.weight"),
                    format!("{component}.text_model.encoder.layers.3.self_attn.q_proj.lora_linear_layer.up.weight"),
                    format!("{component}.text_model.encoder.layers.3.self_attn.to_q_lora.down.weight"),
                ] {
                    assert_eq!(found(&names, &key).as_deref(), Some(tensor), "{key}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_lora_is_told() {
        let unet = Names::new("unet", UNET.into_iter());
        assert_eq!(split("lora_unet_conv_in.hada_w1_a"), None);
        assert_eq!(split("lora_unet_conv_in.dora_scale"), None);
        assert_eq!(found(&unet, "lora_unet_conv_out.alpha"), None);
        assert_eq!(found(&unet, "lora_te1_conv_in.alpha"), None);
    }
}
