//! What each task accepts: one declaration, by which the worker reads jobs, the operator checks `model.parameters`, a
//! client checks what it sends, and docs/tasks.md and docs/schemas are written.

mod declaration;
mod describe;
pub mod echo;
mod field;
pub mod speech_to_text;
#[cfg(test)]
mod tests;
pub mod text_embedding;
pub mod text_generation;
pub mod text_to_image;

pub use self::declaration::{Declaration, FieldError, PARAMETERS, as_integer, find};
pub use self::describe::{input_schema, page, parameters_schema};
pub use self::field::{Field, Giver, Kind, describe};

use crate::Task;

/// Every task that has a declaration.
pub const DECLARED: [&Declaration; 5] = [
    &text_to_image::DECLARATION,
    &text_embedding::DECLARATION,
    &text_generation::DECLARATION,
    &speech_to_text::DECLARATION,
    &echo::DECLARATION,
];

impl Task {
    /// What it accepts; none where only a server or worker of the team's own knows.
    pub fn declaration(self) -> Option<&'static Declaration> {
        DECLARED.into_iter().find(|declaration| declaration.task == self.name())
    }
}
