//! Loads a model folder in the layout of transformers.

use std::sync::Arc;

use candle_core::{DType, Device};

use super::SpeechToText;
use super::config::{Config, GENERATION, read_marks};
use super::decoder::Decoder;
use super::encoder::Encoder;
use super::mel::Mel;
use super::model::Model;
use super::request::Settings;
use crate::model::folder::{Folder, corrupt};
use crate::model::memory::for_keys;
use crate::model::{LoadError, Loading, device, tokenizing};

/// The stem of a model's weights.
pub(super) const STEM: &str = "model";
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// Loads the model, and checks the consumer's parameters against it.
pub fn load(how: &Loading) -> Result<SpeechToText, LoadError> {
    let settings = Settings::of_parameters(&how.parameters).map_err(|error| LoadError::parameters(&error))?;
    let on = device::open(how.device, how.gpus)?;
    let folder = Folder::open(&how.dir, how.variant.as_deref())?;

    // what is small comes first, so that a folder that cannot work fails before gigabytes are read
    let config = Config::read(&folder)?;
    let (marks, most) = read_marks(&folder, &config)?;
    let tokenizer = tokenizing::open(&folder, TOKENIZER)?;
    let known = tokenizer.get_vocab_size(false);
    if known < marks.end as usize {
        let message = format!("eos_token_id is {}, and {TOKENIZER} has {known} tokens before it", marks.end);
        return Err(corrupt(GENERATION, &message));
    }
    let dtype = device::dtype(how.precision, &on);
    let build = |vb: &candle_nn::VarBuilder| Ok((Encoder::new(vb, &config)?, Decoder::new(vb, &config)?));
    let (encoder, decoder) = folder.weights("", STEM)?.build(dtype, &on, |vb| build(&vb))?;
    let model = Model {
        mel: Arc::new(Mel::new(config.num_mel_bins)),
        tokenizer: Arc::new(tokenizer),
        encoder,
        decoder,
        marks,
        window: config.window(),
        tokens: config.max_target_positions,
        most,
        device: on,
    };
    // found now, rather than by every job
    model.check(&settings).map_err(|error| LoadError::parameters(&error.of_defaults()))?;
    let windows = room(&config, dtype, &model.device);
    Ok(SpeechToText::new(model, windows))
}

/// Windows that may be written at a time. On a CPU a process that takes too much is killed; on a GPU too much is an error, and
/// whoever meets it waits.
fn room(config: &Config, dtype: DType, device: &Device) -> usize {
    let places = config.max_source_positions + config.max_target_positions;
    let bytes = 2 * places * config.d_model * config.decoder_layers * dtype.size_in_bytes();
    let windows = match for_keys().filter(|_| device.is_cpu()) {
        Some(free) => ((free / bytes as f64) as usize).max(1),
        None => usize::MAX,
    };
    tracing::info!(bytes_of_window = bytes, windows = (windows < usize::MAX).then_some(windows), "room for windows");
    windows
}
