//! `unet/config.json`: the shape of the UNet, in diffusers' own words.

use serde::Deserialize;
use serde_json::{Value, json};

use super::folder::{Folder, corrupt, unsupported};
use super::unet_blocks::Attends;
use crate::model::LoadError;

pub(super) const CONFIG: &str = "unet/config.json";

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    pub(super) sample_size: usize,
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    pub(super) block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    pub(super) layers_per_block: usize,
    /// Despite its name the number of heads, in every SDXL model; `num_attention_heads` is the later word for it.
    attention_head_dim: PerBlock,
    num_attention_heads: Option<PerBlock>,
    #[serde(default = "one")]
    transformer_layers_per_block: PerBlock,
    pub(super) cross_attention_dim: usize,
    pub(super) addition_time_embed_dim: usize,
    pub(super) projection_class_embeddings_input_dim: usize,
    pub(super) norm_num_groups: usize,
    #[serde(default = "default_epsilon")]
    pub(super) norm_eps: f64,
    #[serde(default = "yes")]
    pub(super) flip_sin_to_cos: bool,
    #[serde(default)]
    pub(super) freq_shift: f64,
}

/// A number for all blocks, or one for each on the way down.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum PerBlock {
    All(usize),
    Each(Vec<usize>),
}

fn one() -> PerBlock {
    PerBlock::All(1)
}

fn default_epsilon() -> f64 {
    1e-5
}

fn yes() -> bool {
    true
}

impl PerBlock {
    fn get(&self, block: usize) -> usize {
        match self {
            Self::All(number) => *number,
            Self::Each(numbers) => numbers.get(block).copied().unwrap_or(0),
        }
    }
}

impl Config {
    pub(super) fn read(folder: &Folder) -> Result<Self, LoadError> {
        let null = [Value::Null];
        let off = [json!(false), Value::Null];
        let fixed: &[(&str, &[Value])] = &[
            ("addition_embed_type", &[json!("text_time")]),
            ("use_linear_projection", &[json!(true)]),
            ("mid_block_type", &[json!("UNetMidBlock2DCrossAttn")]),
            ("act_fn", &[json!("silu")]),
            ("resnet_time_scale_shift", &[json!("default")]),
            ("time_embedding_type", &[json!("positional")]),
            ("downsample_padding", &[json!(1)]),
            ("mid_block_scale_factor", &[json!(1), json!(1.0)]),
            ("conv_in_kernel", &[json!(3)]),
            ("conv_out_kernel", &[json!(3)]),
            ("attention_type", &[json!("default")]),
            ("center_input_sample", &off),
            ("dual_cross_attention", &off),
            ("only_cross_attention", &off),
            ("class_embed_type", &null),
            ("encoder_hid_dim", &null),
            ("encoder_hid_dim_type", &null),
            ("time_cond_proj_dim", &null),
            ("time_embedding_dim", &null),
            ("time_embedding_act_fn", &null),
            ("timestep_post_act", &null),
            ("reverse_transformer_layers_per_block", &null),
        ];
        let config: Self = folder.config(CONFIG, fixed)?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what would divide by zero or index out of range later.
    fn check(&self) -> Result<(), LoadError> {
        let blocks = self.block_out_channels.len();
        if blocks == 0 || self.down_block_types.len() != blocks || self.up_block_types.len() != blocks {
            let what = "block_out_channels, down_block_types and up_block_types must have the same length, not 0";
            return Err(corrupt(CONFIG, what));
        }
        let odd = |types: &[String], known: [&str; 2]| types.iter().find(|t| !known.contains(&t.as_str())).cloned();
        let odd = odd(&self.down_block_types, ["DownBlock2D", "CrossAttnDownBlock2D"])
            .or_else(|| odd(&self.up_block_types, ["UpBlock2D", "CrossAttnUpBlock2D"]));
        if let Some(block) = odd {
            return Err(unsupported(CONFIG, &format!("blocks of type {block} are not supported")));
        }
        for (block, channels) in self.block_out_channels.iter().enumerate() {
            let heads = self.attends(block).heads;
            if heads == 0 || *channels == 0 || !channels.is_multiple_of(heads) || !channels.is_multiple_of(2) {
                let what =
                    format!("block {block} has {channels} channels in {heads} heads, which do not divide evenly");
                return Err(corrupt(CONFIG, &what));
            }
        }
        if self.layers_per_block == 0
            || self.addition_time_embed_dim == 0
            || !self.addition_time_embed_dim.is_multiple_of(2)
        {
            return Err(corrupt(CONFIG, "layers_per_block is 0, or addition_time_embed_dim is not even and above 0"));
        }
        Ok(())
    }

    /// The transformer at the depth of down block `block`.
    pub(super) fn attends(&self, block: usize) -> Attends {
        let heads = self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim).get(block);
        Attends { heads, layers: self.transformer_layers_per_block.get(block) }
    }

    pub(super) fn down_attends(&self, block: usize) -> Option<Attends> {
        self.down_block_types[block].starts_with("CrossAttn").then(|| self.attends(block))
    }

    pub(super) fn up_attends(&self, block: usize) -> Option<Attends> {
        let mirror = self.block_out_channels.len() - 1 - block;
        self.up_block_types[block].starts_with("CrossAttn").then(|| self.attends(mirror))
    }
}
