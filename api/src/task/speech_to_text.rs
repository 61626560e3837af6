//! What task SpeechToText accepts, in the words of transformers and of OpenAI's API.

use super::{Declaration, Field};

/// Longest text that a transcript may be said to go on with, in bytes; of tokens half a window's are read.
pub const LONGEST_PROMPT: usize = 4096;

pub const AUDIO: Field = Field::file(
    &["audio", "file"],
    "WAV, FLAC, MP3, Ogg Vorbis, AAC or ALAC (also in MP4), AIFF, Matroska; [up to four hours](speech-to-text.md#audio)",
);
pub const LANGUAGE: Field = Field::text(&["language"], 32, "what is spoken, as a code (`de`) or in English (`german`)")
    .default("heard in the first 30 seconds");
pub const TASK: Field = Field::word(
    &["task"],
    &["transcribe", "translate"],
    "`translate` writes down in English what is said in another language",
)
.default("`transcribe`");
pub const TIMESTAMPS: Field =
    Field::flag(&["timestamps", "return_timestamps"], "whether the result says when what was said").default("true");
pub const PROMPT: Field = Field::text(
    &["prompt", "initial_prompt"],
    LONGEST_PROMPT,
    "text that may have come before: names and words are then spelled as in it",
)
.default("none");
pub const FORMAT: Field = Field::word(
    &["format", "response_format"],
    &["json", "text", "srt", "vtt"],
    "`json`: the record's `value`; others: a file, and the language and duration in the `value`",
)
.default("`json`");

pub const DECLARATION: Declaration = Declaration {
    task: "SpeechToText",
    about: "Audio gives what is said in it, by a model of the Whisper family. What was asked for, and the language, are in the \
            record's `parameters`. [speech-to-text.md](speech-to-text.md) says which models load and how long audio is heard.",
    needs: &[AUDIO],
    needed: "what to listen to",
    fields: &[LANGUAGE, TASK, TIMESTAMPS, PROMPT, FORMAT],
    open: false,
};
