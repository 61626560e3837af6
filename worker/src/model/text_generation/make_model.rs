//! Makes a tiny Llama with random weights in the layout of transformers: for tests and demos without a download. What it writes
//! means nothing; everything else about it is real.

use std::path::Path;

use candle_core::{DType, Device};
use serde_json::{Value, json};

use super::config::Config;
use super::decoder::Decoder;
use super::load::STEM;
use super::rope::Rope;
use crate::model::folder::Folder;
use crate::model::made::{MakeModelError, Maker, words};

/// Tokens that are no text, in the order of their numbers.
const SPECIAL: [&str; 4] = ["<|begin|>", "<|end|>", "<|turn|>", "<|over|>"];
const BEGIN: usize = 0;
const END: usize = 1;
const OVER: usize = 3;
/// Most tokens of a prompt and its answer.
const LONGEST: usize = 256;
/// Turns between the marks of the vocabulary.
const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}{% if message['role'] not in ['system', 'user', 'assistant'] %}\
    {{ raise_exception('role ' + message['role'] + ' is none of system, user and assistant') }}{% endif %}\
    {{ '<|turn|>' + message['role'] + '\\n' + message['content'] + '<|over|>' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}";

/// Writes a model into `dir`, which must be empty or not exist yet. The same seed gives the same bytes.
pub fn make_model(dir: &Path, seed: u64) -> Result<(), MakeModelError> {
    let maker = Maker::new(dir, seed)?;
    let (vocabulary, merges) = words::vocabulary(SPECIAL.into_iter().map(str::to_owned).collect());
    for (file, content) in files(&vocabulary, &merges) {
        maker.json(file, &content)?;
    }
    let (family, config) = Config::read(&Folder::open(dir, None)?)?;
    maker.weights("", STEM, |vb| {
        let rope = Rope::new(config.rope().frequencies(config.head()), DType::F32, &Device::Cpu);
        Decoder::new(&vb, family, &config, rope, &Device::Cpu).map(|_| ())
    })
}

fn files(vocabulary: &[String], merges: &[String]) -> [(&'static str, Value); 4] {
    [
        (
            "config.json",
            json!({
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary.len(), "hidden_size": 32,
                "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                "hidden_act": "silu", "max_position_embeddings": LONGEST, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
                "rope_scaling": null, "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": false,
                "bos_token_id": BEGIN, "eos_token_id": END, "torch_dtype": "float32",
            }),
        ),
        (
            "generation_config.json",
            json!({ "bos_token_id": BEGIN, "eos_token_id": [END, OVER], "do_sample": true, "temperature": 0.8, "top_p": 0.95 }),
        ),
        ("tokenizer.json", tokenizer(vocabulary, merges)),
        (
            "tokenizer_config.json",
            json!({
                "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LONGEST, "bos_token": SPECIAL[BEGIN],
                "eos_token": SPECIAL[END], "chat_template": TEMPLATE,
            }),
        ),
    ]
}

/// A byte-level tokenizer that puts its first token before a text.
fn tokenizer(vocabulary: &[String], merges: &[String]) -> Value {
    let begin = json!({ "SpecialToken": { "id": SPECIAL[BEGIN], "type_id": 0 } });
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let begins = json!({ "id": SPECIAL[BEGIN], "ids": [BEGIN], "tokens": [SPECIAL[BEGIN]] });
    let framed = json!({
        "type": "TemplateProcessing", "single": [begin, text("A")], "pair": [begin, text("A"), text("B")],
        "special_tokens": { SPECIAL[BEGIN]: begins },
    });
    words::tokenizer(vocabulary, merges, &SPECIAL, &framed)
}
