//! What task TextGeneration accepts, in the words of transformers and of OpenAI's API.

use super::{Declaration, Field, Kind};

/// Longest text in bytes; of tokens a model reads fewer.
pub const MOST_TEXT: usize = 1 << 20;
/// Most messages of a conversation.
pub const MOST_MESSAGES: usize = 1024;
/// Most texts that end another.
pub const MOST_STOPS: usize = 16;
/// Bytes of one.
pub const LONGEST_STOP: usize = 256;
const MOST_PROMPTS: usize = 256;
const MOST_TOKENS: u64 = 1 << 20;

pub const PROMPT: Field = Field::text(
    &["prompt", "text"],
    MOST_TEXT,
    "[gone on with as it is](text-generation.md#prompts-and-conversations), unless `chat` or `system` say otherwise",
)
.of_the_job();
pub const PROMPTS: Field =
    Field::new(&["prompts"], Kind::Texts { most: MOST_PROMPTS, longest: MOST_TEXT }, "several: the result is a list")
        .of_the_job();
pub const MESSAGES: Field = Field::new(
    &["messages"],
    Kind::Other("a list of 1 to 1024 objects with `role` and `content`"),
    "a conversation; content is a text or OpenAI's list of texts, other keys are the chat template's",
)
.of_the_job();
pub const SYSTEM: Field =
    Field::text(&["system"], MOST_TEXT, "put before a conversation; it makes one of a prompt").default("none");
pub const CHAT: Field =
    Field::flag(&["chat"], "whether a prompt is what a user says").default("true beside `system`, else false");
pub const MAX_TOKENS: Field = Field::integer(
    &["max_tokens", "max_new_tokens"],
    1,
    MOST_TOKENS,
    "of the answer; with the prompt at most what the model reads",
)
.default("512, or what is left");
pub const TEMPERATURE: Field = Field::number(&["temperature"], 0.0, 10.0, "0 takes the likeliest token")
    .default("what the model's `generation_config.json` says, else 0");
pub const TOP_P: Field =
    Field::number(&["top_p"], 0.0, 1.0, "the likeliest tokens that have this share together; above 0")
        .default("the model's own, else 1");
pub const TOP_K: Field =
    Field::integer(&["top_k"], 0, MOST_TOKENS, "so many tokens at most, 0 for all").default("the model's own, else 0");
pub const MIN_P: Field = Field::number(&["min_p"], 0.0, 1.0, "tokens at least this likely, relative to the likeliest")
    .default("the model's own, else 0");
pub const REPETITION_PENALTY: Field =
    Field::number(&["repetition_penalty"], 0.0, 10.0, "above 1, what was said is less likely; above 0")
        .default("the model's own, else 1");
pub const STOP: Field = Field::new(
    &["stop", "stop_strings"],
    Kind::Other("a text, or a list of up to 16, of 1 to 256 bytes each"),
    "the answer ends before the first of them",
)
.default("none");
pub const SEED: Field = Field::integer(&["seed"], 0, u64::MAX, "the same seed gives the same text")
    .default("from the job id, so that a repeat gives the same text");
pub const FORMAT: Field = Field::word(
    &["format"],
    &["json", "text"],
    "`json`: the record's `value`; `text`: a `.txt` file for each answer, and the rest in the `value`",
)
.default("`json`");

pub const DECLARATION: Declaration = Declaration {
    task: "TextGeneration",
    about: "A prompt or a conversation gives the text that follows, by a decoder of the Llama, Mistral or Qwen families. \
            How tokens were drawn is in the record's `parameters`. [text-generation.md](text-generation.md) says which \
            models load and what comes of a prompt.",
    needs: &[PROMPT, PROMPTS, MESSAGES],
    needed: "what to go on with",
    fields: &[SYSTEM, CHAT, MAX_TOKENS, TEMPERATURE, TOP_P, TOP_K, MIN_P, REPETITION_PENALTY, STOP, SEED, FORMAT],
    open: false,
};
