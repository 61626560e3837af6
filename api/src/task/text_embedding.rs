//! What task TextEmbedding accepts, in sentence-transformers' words where it has them.

use super::{Declaration, Field, Kind};

/// Longest text in bytes: a hundred times what most encoders read.
pub const MOST_TEXT: usize = 1 << 20;
/// Most texts of one request, whose vectors are held until all are made.
pub const MOST_TEXTS: usize = 1 << 16;
/// Longest prompt in bytes.
const MOST_PROMPT: usize = 16 << 10;
/// Most numbers of a vector.
const MOST_DIMENSIONS: u64 = 1 << 16;

pub const TEXT: Field =
    Field::text(&["text", "sentence"], MOST_TEXT, "one text, which may be empty; its vector is the record's `value`")
        .of_the_job();
pub const TEXTS: Field = Field::new(
    &["texts", "sentences"],
    Kind::Texts { most: MOST_TEXTS, longest: MOST_TEXT },
    "several, whose vectors are [one file](text-embedding.md#one-text-or-many)",
)
.of_the_job();
pub const SOURCE: Field = Field::file(&["source"], "an object of JSON Lines, with as many texts");
pub const PROMPT_NAME: Field = Field::text(&["prompt_name"], MOST_PROMPT, "a prompt of the model, by its name")
    .default("the model's `default_prompt_name`");
pub const PROMPT: Field =
    Field::text(&["prompt"], MOST_PROMPT, "what is put before each text; not beside `prompt_name`").default("none");
pub const TRUNCATE: Field = Field::word(
    &["truncate"],
    &["end", "error"],
    "`end`: what the model does not read is cut; `error`: such a text is refused",
)
.default("`end`");
pub const NORMALIZE: Field =
    Field::flag(&["normalize", "normalize_embeddings"], "whether vectors are made as long as one")
        .default("what the model's folder says");
pub const DIMENSIONS: Field = Field::integer(
    &["dimensions", "truncate_dim"],
    1,
    MOST_DIMENSIONS,
    "only the first so many numbers of a vector, at most the model's own",
)
.default("all");
pub const FORMAT: Field = Field::word(
    &["format"],
    &["json", "jsonl", "npy"],
    "of one text `json` (the record's `value`) or `npy`; of several `jsonl` or `npy`",
)
.default("`json`, `jsonl`");

pub const DECLARATION: Declaration = Declaration {
    task: "TextEmbedding",
    about: "A text gives a vector, by a model in the layout of sentence-transformers. \
            [text-embedding.md](text-embedding.md) says which models load and what comes of a text.",
    needs: &[TEXT, TEXTS, SOURCE],
    needed: "what to make a vector of",
    fields: &[PROMPT_NAME, PROMPT, TRUNCATE, NORMALIZE, DIMENSIONS, FORMAT],
    open: false,
};
