//! Loads a model folder: in the layout of transformers, or one GGUF file with a tokenizer beside it.

use candle_core::DType;

use super::TextGeneration;
use super::chat::ChatSettings;
use super::config::{Config, FILE, Ids};
use super::decoder::Decoder;
use super::gguf::Gguf;
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
    let settings = Settings::of_parameters(&how.parameters).map_err(|error| LoadError::parameters(&error))?;
    let on = device::open(how.device, how.gpus)?;
    let folder = Folder::open(&how.dir, how.variant.as_deref())?;

    // What is small comes first, so that a folder that cannot work fails before gigabytes are read.
    let mut gguf = Gguf::find(&folder, &on)?;
    let (family, config) = match &mut gguf {
        Some(gguf) => gguf.config()?,
        None => Config::read(&folder)?,
    };
    let tokenizer = Tokenizer::load(&folder, config.vocab_size).map_err(|error| beside(gguf.as_ref(), error))?;
    let mut chats = ChatSettings::read(&folder)?;
    if let Some(gguf) = &gguf {
        chats.fill(gguf.marks().map(|mark| tokenizer.token(mark?)));
    }
    let chat = chats.chat(&folder, gguf.as_ref().and_then(Gguf::template))?;
    let generation = Generation::read(&folder)?;
    let ends = ends(&generation, &config, &chats, &tokenizer)?;
    let (dtype, decoder, context_of) = if let Some(gguf) = &gguf {
        let rope = Rope::new(gguf.frequencies(&config)?, DType::F32, &on);
        let decoder = gguf.build(|weights| Decoder::new(weights, family, &config, rope, &on))?;
        (DType::F32, decoder, "context_length of the GGUF file".to_owned())
    } else {
        let dtype = config.numbers(how.precision, &on);
        let rope = Rope::new(config.rope().frequencies(config.head()), dtype, &on);
        let weights = folder.weights("", STEM)?;
        let decoder = weights.build(dtype, &on, |vb| Decoder::new(&vb, family, &config, rope, &on))?;
        (dtype, decoder, format!("max_position_embeddings of {FILE}"))
    };
    let context = config.max_position_embeddings;
    let model = Model { tokenizer, chat, decoder, generation, ends, context, context_of };
    // found now, rather than by every job
    model.check(&settings).map_err(|error| LoadError::parameters(&error.of_defaults()))?;
    Ok(TextGeneration::new(model, Room::new(&config, dtype, &on)))
}

/// Says what a GGUF file needs beside it.
fn beside(gguf: Option<&Gguf>, error: LoadError) -> LoadError {
    match gguf {
        Some(_) if error.reason == "ModelFileMissing" => {
            let message = format!(
                "{error}: put the tokenizer.json of the model that the GGUF file was made from beside it; the one within is not read"
            );
            LoadError { message, ..error }
        }
        _ => error,
    }
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
