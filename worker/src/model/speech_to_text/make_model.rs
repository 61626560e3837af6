//! Makes a tiny Whisper with random weights in the layout of transformers, which hears windows of three seconds: for tests and
//! demos without a download. What it writes means nothing; everything else about it is real.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::{Config, FILE, GENERATION};
use super::decoder::Decoder;
use super::encoder::Encoder;
use super::load::{STEM, TOKENIZER};
use crate::model::folder::Folder;
use crate::model::made::{MakeModelError, Maker, words};

/// Places of a window, of 20 ms each.
const PLACES: usize = 150;
/// Most tokens of a window's text.
const TOKENS: usize = 64;
const BANDS: usize = 80;
const LANGUAGES: [&str; 3] = ["<|en|>", "<|de|>", "<|fr|>"];

/// Writes a model into `dir`, which must be empty or not exist yet. The same seed gives the same bytes.
pub fn make_model(dir: &Path, seed: u64) -> Result<(), MakeModelError> {
    let maker = Maker::new(dir, seed)?;
    for (file, content) in files() {
        maker.json(file, &content)?;
    }
    let config = Config::read(&Folder::open(dir, None)?)?;
    maker.weights("", STEM, |vb| {
        Encoder::new(&vb, &config)?;
        Decoder::new(&vb, &config).map(|_| ())
    })
}

/// Tokens that are no text, in the order of Whisper's.
fn marks() -> Vec<String> {
    let named = ["<|endoftext|>", "<|startoftranscript|>"].into_iter().chain(LANGUAGES).chain([
        "<|translate|>",
        "<|transcribe|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
    ]);
    let times = (0..=PLACES).map(|place| format!("<|{:.2}|>", place as f64 / 50.0));
    named.map(str::to_owned).chain(times).collect()
}

fn files() -> [(&'static str, Value); 4] {
    let (texts, merges) = words::vocabulary(Vec::new());
    let marks = marks();
    let vocabulary: Vec<String> = texts.into_iter().chain(marks.iter().cloned()).collect();
    let id = |token: &str| vocabulary.iter().position(|known| known == token);
    let languages: Map<String, Value> =
        LANGUAGES.into_iter().map(|language| (language.to_owned(), id(language).into())).collect();
    let framed = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    [
        (
            FILE,
            json!({
                "architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "vocab_size": vocabulary.len(),
                "num_mel_bins": BANDS, "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64,
                "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "max_source_positions": PLACES,
                "max_target_positions": TOKENS, "activation_function": "gelu", "scale_embedding": false,
                "tie_word_embeddings": true, "torch_dtype": "float32",
            }),
        ),
        (
            GENERATION,
            json!({
                "is_multilingual": true, "lang_to_id": languages,
                "task_to_id": { "transcribe": id("<|transcribe|>"), "translate": id("<|translate|>") },
                "decoder_start_token_id": id("<|startoftranscript|>"), "eos_token_id": id("<|endoftext|>"),
                "no_timestamps_token_id": id("<|notimestamps|>"), "prev_sot_token_id": id("<|startofprev|>"),
                "suppress_tokens": [id("<|startofprev|>"), id("<|nospeech|>"), id("<|startoftranscript|>")],
                "begin_suppress_tokens": [id("<|endoftext|>")], "max_initial_timestamp_index": 50, "max_length": TOKENS,
            }),
        ),
        (
            "preprocessor_config.json",
            json!({
                "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": BANDS, "sampling_rate": 16_000, "n_fft": 400,
                "hop_length": 160, "chunk_length": 3, "do_normalize": false,
            }),
        ),
        (TOKENIZER, words::tokenizer(&vocabulary, &merges, &marks, &framed)),
    ]
}
