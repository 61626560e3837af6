//! `unet/config.json`: the shape of the UNet, in diffusers' own words and with its defaults.

use serde::Deserialize;
use serde_json::{Value, json};

use super::unet_blocks::Attends;
use crate::model::LoadError;
use crate::model::folder::{Folder, corrupt, unsupported};

pub(super) const CONFIG: &str = "unet/config.json";

/// More of anything is a mistake in the file, and would only be found when memory runs out.
const MAX_BLOCKS: usize = 16;
const MAX_LAYERS: usize = 64;
const MAX_CHANNELS: usize = 1 << 16;

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    sample_size: Option<Sides>,
    #[serde(default = "four")]
    pub(super) in_channels: usize,
    #[serde(default = "four")]
    pub(super) out_channels: usize,
    #[serde(default = "default_channels")]
    pub(super) block_out_channels: Vec<usize>,
    #[serde(default = "default_down")]
    down_block_types: Vec<String>,
    #[serde(default = "default_up")]
    up_block_types: Vec<String>,
    #[serde(default)]
    mid_block_type: MidType,
    #[serde(default = "two")]
    layers_per_block: PerBlock<usize>,
    /// Despite its name the number of heads: diffusers reads it so unless `num_attention_heads`, the later word for it,
    /// is there.
    #[serde(default = "eight")]
    attention_head_dim: PerBlock<usize>,
    num_attention_heads: Option<PerBlock<usize>>,
    #[serde(default = "one")]
    transformer_layers_per_block: PerBlock<usize>,
    #[serde(default = "default_context")]
    cross_attention_dim: PerBlock<usize>,
    #[serde(default = "never")]
    only_cross_attention: PerBlock<bool>,
    #[serde(default)]
    use_linear_projection: bool,
    #[serde(default)]
    upcast_attention: bool,
    #[serde(default)]
    addition_embed_type: Option<String>,
    #[serde(default)]
    addition_time_embed_dim: Option<usize>,
    #[serde(default)]
    projection_class_embeddings_input_dim: Option<usize>,
    /// Width of the guidance's embedding, in models that were distilled to take guidance as an input.
    #[serde(default)]
    pub(super) time_cond_proj_dim: Option<usize>,
    #[serde(default = "default_groups")]
    pub(super) norm_num_groups: usize,
    #[serde(default = "default_epsilon")]
    pub(super) norm_eps: f64,
    #[serde(default = "yes")]
    pub(super) flip_sin_to_cos: bool,
    #[serde(default)]
    pub(super) freq_shift: f64,
}

/// A number for both sides, or height and width.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Sides {
    Both(usize),
    Each(usize, usize),
}

/// A value for all blocks, or one for each on the way down.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum PerBlock<T> {
    All(T),
    Each(Vec<T>),
}

/// `mid_block_type`; `null` is a middle that is not there, and no word the usual one.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
struct MidType(Option<String>);

impl Default for MidType {
    fn default() -> Self {
        Self(Some("UNetMidBlock2DCrossAttn".into()))
    }
}

/// What SDXL adds to the timestep's embedding.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextTime {
    /// Width of each size's embedding.
    pub(super) size_channels: usize,
    /// Width of pooled text and sizes together.
    pub(super) input: usize,
}

/// What the UNet has in its middle.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mid {
    None,
    Resnet,
    Attends(Attends),
}

fn four() -> usize {
    4
}

fn one() -> PerBlock<usize> {
    PerBlock::All(1)
}

fn two() -> PerBlock<usize> {
    PerBlock::All(2)
}

fn eight() -> PerBlock<usize> {
    PerBlock::All(8)
}

fn never() -> PerBlock<bool> {
    PerBlock::All(false)
}

fn default_context() -> PerBlock<usize> {
    PerBlock::All(1280)
}

fn default_channels() -> Vec<usize> {
    vec![320, 640, 1280, 1280]
}

fn default_down() -> Vec<String> {
    ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"].map(Into::into).into()
}

fn default_up() -> Vec<String> {
    ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"].map(Into::into).into()
}

fn default_groups() -> usize {
    32
}

fn default_epsilon() -> f64 {
    1e-5
}

fn yes() -> bool {
    true
}

impl<T: Copy + Default> PerBlock<T> {
    fn get(&self, block: usize) -> T {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => values.get(block).copied().unwrap_or_default(),
        }
    }

    fn fits(&self, blocks: usize) -> bool {
        !matches!(self, Self::Each(values) if values.len() != blocks)
    }
}

impl Config {
    pub(super) fn read(folder: &Folder) -> Result<Self, LoadError> {
        let null = [Value::Null];
        let off = [json!(false), Value::Null];
        let unscaled = [json!(1), json!(1.0)];
        let fixed: &[(&str, &[Value])] = &[
            ("addition_embed_type", &[json!("text_time"), Value::Null]),
            ("mid_block_type", &[json!("UNetMidBlock2DCrossAttn"), json!("UNetMidBlock2D"), Value::Null]),
            ("act_fn", &[json!("silu"), json!("swish")]),
            ("resnet_time_scale_shift", &[json!("default")]),
            ("resnet_skip_time_act", &off),
            ("resnet_out_scale_factor", &unscaled),
            ("time_embedding_type", &[json!("positional")]),
            ("downsample_padding", &[json!(1)]),
            ("mid_block_scale_factor", &unscaled),
            ("conv_in_kernel", &[json!(3)]),
            ("conv_out_kernel", &[json!(3)]),
            ("attention_type", &[json!("default")]),
            ("center_input_sample", &off),
            ("dual_cross_attention", &off),
            ("class_embeddings_concat", &off),
            ("class_embed_type", &null),
            ("num_class_embeds", &null),
            ("cross_attention_norm", &null),
            ("encoder_hid_dim", &null),
            ("encoder_hid_dim_type", &null),
            ("time_embedding_dim", &null),
            ("time_embedding_act_fn", &null),
            ("timestep_post_act", &null),
            ("reverse_transformer_layers_per_block", &null),
        ];
        let config: Self = folder.config(CONFIG, fixed)?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what would divide by zero, index out of range or allocate without bound later.
    fn check(&self) -> Result<(), LoadError> {
        let wrong = |what: &str| Err(corrupt(CONFIG, what));
        let blocks = self.block_out_channels.len();
        if blocks == 0 || self.down_block_types.len() != blocks || self.up_block_types.len() != blocks {
            return wrong("block_out_channels, down_block_types and up_block_types must have the same length, not 0");
        }
        let lists = [
            ("layers_per_block", self.layers_per_block.fits(blocks)),
            ("attention_head_dim", self.attention_head_dim.fits(blocks)),
            ("num_attention_heads", self.num_attention_heads.as_ref().is_none_or(|heads| heads.fits(blocks))),
            ("transformer_layers_per_block", self.transformer_layers_per_block.fits(blocks)),
            ("cross_attention_dim", self.cross_attention_dim.fits(blocks)),
            ("only_cross_attention", self.only_cross_attention.fits(blocks)),
        ];
        if let Some((name, _)) = lists.iter().find(|(_, fits)| !fits) {
            return wrong(&format!("{name} must be one value or {blocks}, as many as block_out_channels has"));
        }
        let odd = |types: &[String], known: [&str; 2]| types.iter().find(|t| !known.contains(&t.as_str())).cloned();
        let odd = odd(&self.down_block_types, ["DownBlock2D", "CrossAttnDownBlock2D"])
            .or_else(|| odd(&self.up_block_types, ["UpBlock2D", "CrossAttnUpBlock2D"]));
        if let Some(block) = odd {
            return Err(unsupported(CONFIG, &format!("blocks of type {block} are not supported")));
        }
        if blocks > MAX_BLOCKS {
            return wrong(&format!("block_out_channels has {blocks} entries; {MAX_BLOCKS} is the most"));
        }
        let widths = [self.in_channels, self.out_channels, self.norm_num_groups];
        if widths.iter().chain(&self.block_out_channels).any(|width| !(1..=MAX_CHANNELS).contains(width)) {
            return wrong(&format!(
                "in_channels, out_channels, norm_num_groups and block_out_channels must be from 1 to {MAX_CHANNELS}"
            ));
        }
        for (block, channels) in self.block_out_channels.iter().enumerate() {
            if !channels.is_multiple_of(self.norm_num_groups) || !channels.is_multiple_of(2) {
                let groups = self.norm_num_groups;
                return wrong(&format!(
                    "block {block} has {channels} channels, which norm_num_groups {groups} or 2 does not divide"
                ));
            }
            let Attends { heads, layers, context, .. } = self.attends(block);
            if heads == 0 || !channels.is_multiple_of(heads) {
                return wrong(&format!(
                    "block {block} has {channels} channels in {heads} heads, which do not divide evenly"
                ));
            }
            if !(1..=MAX_LAYERS).contains(&self.layers(block)) || !(1..=MAX_LAYERS).contains(&layers) {
                return wrong(&format!(
                    "layers_per_block and transformer_layers_per_block must be from 1 to {MAX_LAYERS}"
                ));
            }
            if !(1..=MAX_CHANNELS).contains(&context) {
                return wrong(&format!("cross_attention_dim must be from 1 to {MAX_CHANNELS}"));
            }
        }
        if let Some(width) = self.time_cond_proj_dim
            && (!(4..=MAX_CHANNELS).contains(&width) || !width.is_multiple_of(2))
        {
            return wrong("time_cond_proj_dim must be even and at least 4");
        }
        self.sides().and(self.text_time()).map(|_| ())
    }

    /// Height and width of the latents that the model was trained on.
    pub(super) fn sides(&self) -> Result<(usize, usize), LoadError> {
        let (height, width) = match self.sample_size {
            Some(Sides::Both(side)) => (side, side),
            Some(Sides::Each(height, width)) => (height, width),
            // diffusers has no size for such a model either; this is what its family was trained on
            None if self.addition_embed_type.is_some() => (128, 128),
            None => (64, 64),
        };
        if [height, width].iter().any(|side| !(1..=4096).contains(side)) {
            return Err(corrupt(CONFIG, "sample_size must be from 1 to 4096"));
        }
        Ok((height, width))
    }

    /// How pooled text and sizes are added; none in models before SDXL.
    pub(super) fn text_time(&self) -> Result<Option<TextTime>, LoadError> {
        if self.addition_embed_type.is_none() {
            return Ok(None);
        }
        match (self.addition_time_embed_dim, self.projection_class_embeddings_input_dim) {
            (Some(size_channels), Some(input))
                if size_channels >= 2
                    && size_channels.is_multiple_of(2)
                    && input > size_channels
                    && input <= MAX_CHANNELS =>
            {
                Ok(Some(TextTime { size_channels, input }))
            }
            _ => Err(corrupt(
                CONFIG,
                "addition_embed_type text_time needs an even addition_time_embed_dim and a larger \
                 projection_class_embeddings_input_dim",
            )),
        }
    }

    /// Width of the texts that the UNet attends to; its blocks must agree on it.
    pub(super) fn context_channels(&self) -> Result<usize, LoadError> {
        let first = self.cross_attention_dim.get(0);
        if (0..self.block_out_channels.len()).any(|block| self.cross_attention_dim.get(block) != first) {
            return Err(unsupported(CONFIG, "cross_attention_dim differs between blocks"));
        }
        Ok(first)
    }

    /// Residual blocks of down block `block`.
    pub(super) fn layers(&self, block: usize) -> usize {
        self.layers_per_block.get(block)
    }

    /// The transformer at the depth of down block `block`.
    fn attends(&self, block: usize) -> Attends {
        let heads = self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim).get(block);
        Attends {
            heads,
            layers: self.transformer_layers_per_block.get(block),
            context: self.cross_attention_dim.get(block),
            only_text: self.only_cross_attention.get(block),
            linear: self.use_linear_projection,
            upcast: self.upcast_attention,
        }
    }

    pub(super) fn down_attends(&self, block: usize) -> Option<Attends> {
        self.down_block_types[block].starts_with("CrossAttn").then(|| self.attends(block))
    }

    /// What is in the middle. It attends among the latents whatever `only_cross_attention` says of the blocks.
    pub(super) fn mid(&self) -> Mid {
        match self.mid_block_type.0.as_deref() {
            None => Mid::None,
            Some("UNetMidBlock2D") => Mid::Resnet,
            Some(_) => Mid::Attends(Attends { only_text: false, ..self.attends(self.block_out_channels.len() - 1) }),
        }
    }

    pub(super) fn up_attends(&self, block: usize) -> Option<Attends> {
        let mirror = self.block_out_channels.len() - 1 - block;
        self.up_block_types[block].starts_with("CrossAttn").then(|| self.attends(mirror))
    }
}
