//! Vocabularies of made models: every text has tokens, and some words are one.

use serde_json::{Map, Value, json};

/// Words that are one token behind a space; every other one is spelled.
const WORDS: &str = "the a of in on at with and or to from by for is are as it this that cat dog bird fish house lighthouse \
    river sea mountain sky sun moon star light night day man woman child king queen love good bad big small new old red \
    green blue who where when why how what jobs wait queue";

/// Bytes as the letters that byte-level tokenizers write for them: printable ones of Latin-1 as they are, others from 256 on.
fn letters() -> Vec<char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = 0x100_u32..;
    (0..=u8::MAX)
        .filter_map(
            |byte| if printable(&byte) { Some(char::from(byte)) } else { others.next().and_then(char::from_u32) },
        )
        .collect()
}

/// The given tokens, one for every byte, and what leads from letters to words: each merge joins a word's begin and its next
/// letter.
pub(in crate::model) fn vocabulary(first: Vec<String>) -> (Vec<String>, Vec<String>) {
    let letters = letters();
    let space = letters[usize::from(b' ')];
    let mut tokens: Vec<String> = first.into_iter().chain(letters.iter().map(char::to_string)).collect();
    let mut merges = Vec::new();
    for word in WORDS.split_whitespace() {
        let mut begin = space.to_string();
        for letter in word.chars() {
            let longer = format!("{begin}{letter}");
            if !tokens.contains(&longer) {
                merges.push(format!("{begin} {letter}"));
                tokens.push(longer.clone());
            }
            begin = longer;
        }
    }
    (tokens, merges)
}

/// A byte-level tokenizer, as transformers saves it. `special` are those of the vocabulary that are no text, `framed` puts some
/// of them around one.
pub(in crate::model) fn tokenizer(
    vocabulary: &[String],
    merges: &[String],
    special: &[impl AsRef<str>],
    framed: &Value,
) -> Value {
    let special = |(id, content): (usize, &String)| {
        special.iter().any(|special| special.as_ref() == content).then(|| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": true,
            })
        })
    };
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let numbered: Map<String, Value> =
        vocabulary.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": vocabulary.iter().enumerate().filter_map(special).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": bytes,
        "post_processor": framed,
        "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": numbered, "merges": merges,
        },
    })
}
