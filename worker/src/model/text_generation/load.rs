//! Loads a model folder in the layout of transformers.

use super::TextGeneration;
use super::chat::ChatSettings;
use super::config::{Config, FILE, Ids};
use super::decoder::Decoder;
use super::model::{GENERATION, Generation, Model};
use super::request::Settings;
use super::room::Room;
use super::rope::Rope;
use super::tokenizer::{SETTINGS, Tokenizer};
use crate::model::folder::{Folder, corrupt};
use crate::model::{LoadError, Loading, device};

/// The stem of a model's weights.
pub(super) const STEM: &str = "model";

/// Loads the model, and checks the consumer's parameters against it.
pub fn load(how: &Loading) -> Result<TextGeneration, LoadError> {
    let settings = Settings::of_defaults(&how.parameters).map_err(|error| LoadError::parameters(&error))?;
    let on = device::open(how.device, how.gpus)?;
    let folder = Folder::open(&how.dir, how.variant.as_deref())?;

    // What is small comes first, so that a folder that cannot work fails before gigabytes are read.
    let (family, config) = Config::read(&folder)?;
    let tokenizer = Tokenizer::load(&folder, config.vocab_size)?;
    let chats = ChatSettings::read(&folder)?;
    let chat = chats.chat(&folder, None)?;
    let generation = Generation::read(&folder)?;
    let ends = ends(&generation, &config, &chats, &tokenizer)?;
    let dtype = config.numbers(how.precision, &on);
    let weights = folder.weights("", STEM)?;
    let rope = Rope::new(config.rope().frequencies(config.head()), dtype, &on);
    let decoder = weights.build(dtype, &on, |vb| Decoder::new(&vb, family, &config, rope, &on))?;
    let context = config.max_position_embeddings;
    let context_of = format!("max_position_embeddings of {FILE}");
    let model = Model { tokenizer, chat, decoder, generation, ends, context, context_of };
    // found now, rather than by every job
    model.check(&settings).map_err(|error| LoadError::parameters(&error.of_defaults()))?;
    Ok(TextGeneration::new(model, Room::new(&config, dtype, &on)))
}

/// The tokens that end an answer, by whichever file names them.
fn ends(
    generation: &Generation,
    config: &Config,
    chats: &ChatSettings,
    tokenizer: &Tokenizer,
) -> Result<Vec<u32>, LoadError> {
    if let Some(ids) = generation.eos_token_id.clone().or(config.eos_token_id.clone()).map(Ids::list) {
        return Ok(ids);
    }
    let named = chats.eos_token.as_ref().map(|token| (token.text(), tokenizer.number(token.text())));
    match named {
        Some((_, Some(number))) => Ok(vec![number]),
        Some((token, None)) => Err(corrupt(SETTINGS, &format!("its eos_token {token} is no token of tokenizer.json"))),
        None => Err(corrupt(GENERATION, "nothing says which token ends an answer: it has no eos_token_id")),
    }
}
