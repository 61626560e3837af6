//! The transformer of a folder, whichever family it is of.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::bert::Bert;
use super::config::{Config, Family};
use super::modern_bert::ModernBert;
use super::pack::Pack;

/// What makes states of tokens.
#[derive(Debug)]
pub(super) enum Encoder {
    Bert(Bert),
    ModernBert(ModernBert),
}

impl Encoder {
    /// One that reads texts of up to `longest` tokens.
    pub(super) fn new(vb: &VarBuilder, family: Family, config: &Config, longest: usize) -> Result<Self> {
        Ok(match family {
            Family::ModernBert => Self::ModernBert(ModernBert::new(vb, config, longest)?),
            Family::Bert | Family::Roberta | Family::Mpnet | Family::DistilBert => {
                Self::Bert(Bert::new(vb, family, config)?)
            }
        })
    }

    /// The last layer's states of all tokens: (tokens, width).
    pub(super) fn forward(&self, pack: &Pack) -> Result<Tensor> {
        match self {
            Self::Bert(bert) => bert.forward(pack),
            Self::ModernBert(modern) => modern.forward(pack),
        }
    }
}
