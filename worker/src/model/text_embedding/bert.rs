//! BERT and what was made of it: RoBERTa, XLM-R, MPNet, DistilBERT. After transformers' classes of these names; they differ in
//! the names of their tensors, in how places are numbered, and in MPNet's bias.

use candle_core::{Result, Tensor};
use candle_nn::{Embedding, Module, VarBuilder, embedding};

use super::attention::{Attention, Sight};
use super::config::{Config, Family};
use super::layers::{Activation, LayerNorm, Linear};
use super::pack::{Pack, Places, Run};
use super::relative;

/// What a family calls its tensors.
struct Names {
    /// Before all of them, in files of a model with a head for something else.
    prefix: &'static str,
    layers: &'static str,
    query_key_value: [&'static str; 3],
    out: &'static str,
    attention_norm: &'static str,
    up: &'static str,
    down: &'static str,
    norm: &'static str,
}

const BERT: Names = Names {
    prefix: "bert",
    layers: "encoder.layer",
    query_key_value: ["attention.self.query", "attention.self.key", "attention.self.value"],
    out: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
};

const ROBERTA: Names = Names { prefix: "roberta", ..BERT };

const MPNET: Names = Names {
    prefix: "mpnet",
    query_key_value: ["attention.attn.q", "attention.attn.k", "attention.attn.v"],
    out: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    ..BERT
};

const DISTILBERT: Names = Names {
    prefix: "distilbert",
    layers: "transformer.layer",
    query_key_value: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    out: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    norm: "output_layer_norm",
};

/// One encoder.
#[derive(Debug)]
pub(super) struct Bert {
    words: Embedding,
    /// With what every token of a first text has added to it.
    places: Embedding,
    numbered: Places,
    norm: LayerNorm,
    blocks: Vec<Block>,
    heads: usize,
    /// Of MPNet: by how far tokens are apart (buckets, heads).
    bias: Option<Tensor>,
}

impl Bert {
    pub(super) fn new(vb: &VarBuilder, family: Family, config: &Config) -> Result<Self> {
        let names = match family {
            Family::Mpnet => MPNET,
            Family::DistilBert => DISTILBERT,
            Family::Roberta => ROBERTA,
            Family::Bert | Family::ModernBert => BERT,
        };
        let vb = bare(vb, names.prefix, "embeddings.word_embeddings.weight");
        let (width, epsilon) = (config.hidden_size, config.layer_norm_eps);
        let embeddings = vb.pp("embeddings");
        let places = embedding(config.max_position_embeddings, width, embeddings.pp("position_embeddings"))?;
        let places = if matches!(family, Family::Bert | Family::Roberta) {
            let types = embedding(config.type_vocab_size, width, embeddings.pp("token_type_embeddings"))?;
            let first = types.embeddings().narrow(0, 0, 1)?;
            Embedding::new(places.embeddings().broadcast_add(&first)?, width)
        } else {
            places
        };
        let bias = (family == Family::Mpnet).then(|| {
            let size = (config.relative_attention_num_buckets, config.num_attention_heads);
            vb.pp("encoder.relative_attention_bias").get(size, "weight")
        });
        let blocks = (0..config.num_hidden_layers).map(|i| Block::new(&vb.pp(names.layers).pp(i), &names, config));
        Ok(Self {
            words: embedding(config.vocab_size, width, embeddings.pp("word_embeddings"))?,
            places,
            numbered: config.places(family),
            norm: LayerNorm::new(&embeddings.pp("LayerNorm"), width, epsilon)?,
            blocks: blocks.collect::<Result<_>>()?,
            heads: config.num_attention_heads,
            bias: bias.transpose()?,
        })
    }

    /// The last layer's states: (tokens, width).
    pub(super) fn forward(&self, pack: &Pack) -> Result<Tensor> {
        let device = self.words.embeddings().device();
        let words = self.words.forward(&pack.ids(device)?)?;
        let mut states = self.norm.of_sum(&words, &self.places.forward(&pack.positions(self.numbered, device)?)?)?;
        let bias = self.bias.as_ref().map(|bias| relative::bias(bias, pack.longest())).transpose()?;
        let sight = bias.as_ref().map_or(Sight::All, Sight::Biased);
        let attention = Attention { heads: self.heads, sight, rope: None };
        let runs = pack.runs();
        for block in &self.blocks {
            states = block.forward(&states, attention, &runs)?;
        }
        Ok(states)
    }
}

/// The model within a file, whose tensors have `prefix` before their names or not; `known` is one of them.
pub(super) fn bare<'a>(vb: &VarBuilder<'a>, prefix: &str, known: &str) -> VarBuilder<'a> {
    let prefixed = vb.pp(prefix);
    if !vb.contains_tensor(known) && prefixed.contains_tensor(known) { prefixed } else { vb.clone() }
}

#[derive(Debug)]
struct Block {
    query_key_value: Linear,
    out: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    activation: Activation,
    down: Linear,
    norm: LayerNorm,
}

impl Block {
    fn new(vb: &VarBuilder, names: &Names, config: &Config) -> Result<Self> {
        let (width, inner, epsilon) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let parts = names.query_key_value.map(|name| vb.pp(name));
        Ok(Self {
            query_key_value: Linear::stacked(&parts, width, config.num_attention_heads)?,
            out: Linear::new(&vb.pp(names.out), width, width, true)?,
            attention_norm: LayerNorm::new(&vb.pp(names.attention_norm), width, epsilon)?,
            up: Linear::new(&vb.pp(names.up), width, inner, true)?,
            activation: config.hidden_act,
            down: Linear::new(&vb.pp(names.down), inner, width, true)?,
            norm: LayerNorm::new(&vb.pp(names.norm), width, epsilon)?,
        })
    }

    fn forward(&self, x: &Tensor, attention: Attention, runs: &[Run]) -> Result<Tensor> {
        let attended = attention.forward(&self.query_key_value.forward(x)?, runs)?;
        let x = self.attention_norm.of_sum(&self.out.forward(&attended)?, x)?;
        let inner = self.up.activated(&x, self.activation)?;
        self.norm.of_sum(&self.down.forward(&inner)?, &x)
    }
}
