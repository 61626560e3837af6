//! Makes a tiny BERT with random weights in the layout of sentence-transformers: for tests and demos without a download. Its
//! vectors mean nothing; everything else about it is real.

use std::path::Path;

use serde_json::{Value, json};

use super::config::Config;
use super::encoder::Encoder;
use super::load::STEM;
use crate::model::folder::Folder;
use crate::model::made::{MakeModelError, Maker};

/// Tokens that mean something to the encoder, in the order of their numbers.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// Words that are one token; every other one is spelled.
const WORDS: &str = "a an the of in on at with and or to from by for is are as it this that cat dog bird fish house lighthouse \
    river sea mountain sky sun moon star light night day man woman child king queen love good bad big small new old red \
    green blue text vector query document search what who where when why how";
/// Most tokens of a text.
const LONGEST: usize = 128;

/// Writes a model into `dir`, which must be empty or not exist yet. The same seed gives the same bytes.
pub fn make_model(dir: &Path, seed: u64) -> Result<(), MakeModelError> {
    let maker = Maker::new(dir, seed)?;
    let vocabulary = vocabulary();
    for (file, content) in files(&vocabulary) {
        maker.json(file, &content)?;
    }
    let (family, config) = Config::read(&Folder::open(dir, None)?, "")?;
    maker.weights("", STEM, |vb| Encoder::new(&vb, family, &config, LONGEST).map(|_| ()))
}

/// Special tokens, every printable letter of ASCII at the begin of a word and within, and the words.
fn vocabulary() -> Vec<String> {
    let letters = || ('!'..='~').filter(|letter| !letter.is_ascii_uppercase());
    let special = SPECIAL.into_iter().map(str::to_owned);
    let begin = letters().map(String::from);
    let within = letters().map(|letter| format!("##{letter}"));
    let words = WORDS.split_whitespace().filter(|word| word.len() > 1).map(str::to_owned);
    special.chain(begin).chain(within).chain(words).collect()
}

fn files(vocabulary: &[String]) -> [(&'static str, Value); 7] {
    let module = |index: usize, path: &str, class: &str| json!({ "idx": index, "name": index.to_string(), "path": path, "type": format!("sentence_transformers.models.{class}") });
    [
        (
            "modules.json",
            json!([
                module(0, "", "Transformer"),
                module(1, "1_Pooling", "Pooling"),
                module(2, "2_Normalize", "Normalize")
            ]),
        ),
        (
            "config.json",
            json!({
                "architectures": ["BertModel"], "model_type": "bert", "vocab_size": vocabulary.len(), "hidden_size": 32,
                "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": "gelu",
                "max_position_embeddings": LONGEST, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
                "position_embedding_type": "absolute", "torch_dtype": "float32",
            }),
        ),
        ("sentence_bert_config.json", json!({ "max_seq_length": LONGEST, "do_lower_case": false })),
        (
            "config_sentence_transformers.json",
            json!({ "prompts": { "query": "query: ", "document": "" }, "default_prompt_name": null }),
        ),
        ("1_Pooling/config.json", json!({ "word_embedding_dimension": 32, "pooling_mode_mean_tokens": true })),
        ("tokenizer.json", tokenizer(vocabulary)),
        (
            "tokenizer_config.json",
            json!({
                "tokenizer_class": "BertTokenizer", "do_lower_case": true, "model_max_length": LONGEST, "cls_token": "[CLS]",
                "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]",
            }),
        ),
    ]
}

/// BERT's tokenizer, as transformers saves it.
fn tokenizer(vocabulary: &[String]) -> Value {
    let special = |(id, content): (usize, &str)| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        })
    };
    let framing = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
    let token = |id: &str, number: usize| json!({ "id": id, "ids": [number], "tokens": [id] });
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let single = [framing("[CLS]"), text("A"), framing("[SEP]")];
    let pair = [framing("[CLS]"), text("A"), framing("[SEP]"), text("B"), framing("[SEP]")];
    let numbered: serde_json::Map<String, Value> =
        vocabulary.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": SPECIAL.into_iter().enumerate().map(special).collect::<Vec<_>>(),
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing", "single": single, "pair": pair,
            "special_tokens": { "[CLS]": token("[CLS]", 2), "[SEP]": token("[SEP]", 3) },
        },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": numbered,
        },
    })
}
