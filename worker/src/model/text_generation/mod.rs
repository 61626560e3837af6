//! Task TextGeneration: texts that go on with prompts or conversations, by decoders of the Llama, Mistral and Qwen families.
//! Requests join and leave between two tokens, and share every pass (docs/decisions/0022-own-decoders.md).

mod chat;
mod config;
mod decoder;
mod gguf;
mod job;
mod layers;
mod load;
mod make_model;
mod model;
mod request;
mod result;
mod room;
mod rope;
mod sampler;
mod stream;
#[cfg(test)]
mod tests;
mod tokenizer;

use std::collections::BTreeMap;

pub use self::load::load;
pub use self::make_model::make_model;
pub use self::request::TextGenerationRequest;

use self::decoder::Piece;
use self::job::Job;
use self::model::Model;
use self::room::Room;
use super::passes::by_halves;
use super::stepwise::{Jobs, Stepped, Stepwise, Ticket, Working as _, alone, run_all};
use super::{Engine, Item, Product, RunError};

/// Most tokens of prompts in a pass; those of texts that are being written come on top.
const BUDGET: usize = 1 << 11;

/// A loaded model, and what it works on.
#[derive(Debug)]
pub struct TextGeneration {
    model: Model,
    room: Room,
    jobs: Jobs<Job>,
    /// There was no room on the device for all texts that had begun: no other begins before one has ended.
    pressed: bool,
}

/// Which text of which job.
type Place = (Ticket, usize);

impl TextGeneration {
    fn new(model: Model, room: Room) -> Self {
        Self { model, room, jobs: Jobs::default(), pressed: false }
    }

    /// Lets texts begin that there is room for, in their order.
    fn admit(&mut self, tickets: &[Ticket]) {
        let mut held: usize = self.jobs.values().map(Job::held).sum();
        for ticket in tickets {
            let Some(job) = self.jobs.get_mut(ticket).filter(|job| !job.is_cancelled()) else { continue };
            for text in job.texts.iter_mut().filter(|text| text.cache.is_none() && !text.is_done()) {
                let needs = text.needs();
                if held > 0 && (self.pressed || held.saturating_add(needs) > self.room.tokens()) {
                    return;
                }
                held += needs;
                text.cache = Some(self.model.decoder.cache(needs));
            }
        }
    }

    /// The next tokens of each text that has begun.
    fn pieces(&mut self, tickets: &[Ticket]) -> Vec<(Place, Piece)> {
        let (mut pieces, mut spent) = (Vec::new(), 0);
        for ticket in tickets {
            let Some(job) = self.jobs.get_mut(ticket).filter(|job| !job.is_cancelled()) else { continue };
            for (index, text) in job.texts.iter_mut().enumerate() {
                let Some((piece, of_prompt)) = text.piece() else { continue };
                let tokens = piece.tokens.len();
                if of_prompt && spent > 0 && spent + tokens > BUDGET {
                    text.put_back(piece);
                    continue;
                }
                spent += if of_prompt { tokens } else { 0 };
                pieces.push(((*ticket, index), piece));
            }
        }
        pieces
    }

    /// Computes pieces, and gives what failed.
    fn pass(&mut self, pieces: Vec<(Place, Piece)>) -> BTreeMap<Ticket, RunError> {
        let (places, mut pieces): (Vec<Place>, Vec<Piece>) = pieces.into_iter().unzip();
        let computed = by_halves(&mut pieces, &|pieces| self.model.decoder.forward(pieces));
        let mut failed = BTreeMap::new();
        let is_alone = pieces.len() == 1 && self.jobs.values().all(|job| job.held() == 0);
        for (((ticket, index), piece), logits) in places.into_iter().zip(pieces).zip(computed) {
            let Some(text) = self.jobs.get_mut(&ticket).and_then(|job| job.texts.get_mut(index)) else { continue };
            let taken = match logits {
                Err(RunError::OutOfMemory(_)) if !is_alone => {
                    tracing::warn!(
                        "a text does not fit into memory beside the others; it is computed again when one has ended"
                    );
                    self.pressed = true;
                    continue;
                }
                logits => logits.and_then(|logits| alone(|| text.take(&self.model, piece, logits))),
            };
            if text.is_done() {
                self.pressed = false;
            }
            if let Err(error) = taken {
                failed.insert(ticket, error);
            }
        }
        failed
    }
}

impl Engine for TextGeneration {
    type Request = TextGenerationRequest;

    fn warm_up(&mut self) -> Result<(), RunError> {
        let tokens = 2.min(self.model.context - 1).max(1);
        self.run(&[Item::new(TextGenerationRequest::plain("a", tokens))])
            .into_iter()
            .try_for_each(|result| result.map(|_| ()))
    }

    fn run(&mut self, batch: &[Item<TextGenerationRequest>]) -> Vec<Result<Product, RunError>> {
        run_all(self, batch)
    }

    fn stepwise(&mut self) -> Option<&mut dyn Stepwise<TextGenerationRequest>> {
        Some(self)
    }
}

impl Stepwise<TextGenerationRequest> for TextGeneration {
    fn begin(&mut self, item: Item<TextGenerationRequest>) -> Result<Ticket, RunError> {
        let job = Job::begin(&self.model, item)?;
        if let Some(why) = job.texts.iter().find_map(|text| self.room.too_small_for(text.needs())) {
            return Err(RunError::OutOfMemory(why));
        }
        Ok(self.jobs.take_in(job))
    }

    fn step(&mut self, tickets: &[Ticket]) -> Vec<Stepped> {
        self.admit(tickets);
        let pieces = self.pieces(tickets);
        let failed = self.pass(pieces);
        let stepped = self.jobs.stepped(tickets, failed, Job::finish);
        self.pressed &= !stepped.iter().any(Stepped::is_end);
        stepped
    }

    fn forget(&mut self, ticket: Ticket) {
        self.jobs.remove(&ticket);
    }
}
