//! Loads a model folder: in the layout of sentence-transformers, or a transformer alone.

use candle_core::Device;

use super::TextEmbedding;
use super::config::Config;
use super::encoder::Encoder;
use super::layout::{Head, Modules, Prompts, SentenceConfig};
use super::model::Model;
use super::request::Settings;
use super::tokenizer::{Tokenizer, Wanted};
use crate::model::folder::Folder;
use crate::model::{LoadError, Loading, device};

/// The stem of a transformer's weights.
pub(super) const STEM: &str = "model";

/// Most tokens of a pass on a CPU, whose caches then hold what a layer hands to the next; and on a GPU, which has to be given
/// much at once.
const BUDGET: usize = 1 << 11;
const BUDGET_OF_A_GPU: usize = 1 << 14;

/// Loads the model, and checks the consumer's parameters against it.
pub fn load(how: &Loading) -> Result<TextEmbedding, LoadError> {
    let settings = Settings::of_parameters(&how.parameters).map_err(|error| LoadError::parameters(&error))?;
    let device = device::open(how.device, how.gpus)?;
    let dtype = device::dtype(how.precision, &device);
    let folder = Folder::open(&how.dir, how.variant.as_deref())?;

    // What is small comes first, so that a folder that cannot work fails before gigabytes are read.
    let modules = Modules::read(&folder)?;
    let component = modules.as_ref().map_or("", Modules::transformer);
    let (family, config) = Config::read(&folder, component)?;
    let sentences = SentenceConfig::read(&folder, component)?;
    let wanted = Wanted {
        max_seq_length: sentences.max_seq_length,
        places: config.places(family).room(config.max_position_embeddings),
        vocabulary: config.vocab_size,
        lower_case: sentences.do_lower_case,
    };
    let tokenizer = Tokenizer::load(&folder, component, wanted)?;
    let prompts = Prompts::read(&folder)?;
    let head = if let Some(modules) = &modules {
        modules.head(&folder, &config)?
    } else {
        tracing::info!("the folder has no modules.json: a text's vector is the mean of its tokens' states");
        Head::mean()
    };
    let outputs =
        head.dense.last().map_or_else(|| head.pooling.outputs(config.hidden_size), super::dense::Dense::outputs);
    let longest = tokenizer.limit().tokens;
    let weights = folder.weights(component, STEM)?;
    let encoder = weights.build(dtype, &device, |vb| Encoder::new(&vb, family, &config, longest))?;
    let model = Model { tokenizer, encoder, head, prompts, width: config.hidden_size, outputs };
    // found now, rather than by every job
    model.check(&settings).map_err(|error| LoadError::parameters(&error.of_defaults()))?;
    let budget = if matches!(device, Device::Cpu) { BUDGET } else { BUDGET_OF_A_GPU };
    Ok(TextEmbedding { model, budget })
}
