//! Task SpeechToText: what is said in audio, by models of the Whisper family. Requests join and leave between two tokens, and
//! share every pass; files are decoded beside it (docs/decisions/0025-speech.md).

mod audio;
mod config;
mod decoder;
mod encoder;
mod job;
mod languages;
mod layers;
mod load;
mod make_model;
mod mel;
mod model;
mod request;
mod result;
mod rules;
mod segments;
#[cfg(test)]
mod tests;
mod wav;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::load::load;
pub use self::make_model::make_model;
pub use self::request::SpeechToTextRequest;

use self::decoder::Piece;
use self::job::Job;
use self::model::{Model, Window};
use self::wav::wav;
use super::passes::by_halves;
use super::stepwise::{Jobs, Stepped, Stepwise, Ticket, Working as _, alone, lost, run_all};
use super::{Engine, Item, Product, RunError};

/// Most windows that are heard in one pass: texts that are being written wait for it.
const WINDOWS: usize = 8;
/// Tokens that are written before the model is ready.
const WARM: usize = 2;
/// How long a step waits for audio when there is nothing else to do.
const PATIENCE: Duration = Duration::from_millis(20);

/// A loaded model, and what it works on.
#[derive(Debug)]
pub struct SpeechToText {
    model: Model,
    /// Most windows that are held at a time.
    windows: usize,
    jobs: Jobs<Job>,
    /// There was no room on the device for another window: none is heard before one has ended.
    pressed: bool,
}

impl SpeechToText {
    fn new(model: Model, windows: usize) -> Self {
        Self { model, windows, jobs: Jobs::default(), pressed: false }
    }

    fn holding(&self) -> usize {
        self.jobs.values().filter(|job| job.is_holding()).count()
    }

    /// Looks for audio that was read meanwhile.
    fn look(&mut self, tickets: &[Ticket], failed: &mut BTreeMap<Ticket, RunError>) {
        let idle = self.jobs.values().all(Job::is_reading);
        let mut patience = if idle { PATIENCE } else { Duration::ZERO };
        for ticket in tickets {
            let Some(job) = self.jobs.get_mut(ticket).filter(|job| job.is_reading()) else { continue };
            if let Err(error) = job.look(std::mem::take(&mut patience)) {
                failed.insert(*ticket, error);
            }
        }
    }

    /// Hears the windows of jobs that wait for that, as far as there is room.
    fn hear(&mut self, tickets: &[Ticket], failed: &mut BTreeMap<Ticket, RunError>) {
        let holding = self.holding();
        let room = match (self.pressed, holding) {
            // those that met no room before may have been too many together
            (true, 0) => 1,
            (true, _) => 0,
            (false, _) => self.windows.saturating_sub(holding).min(WINDOWS),
        };
        let waiting = tickets.iter().filter_map(|ticket| {
            let job = self.jobs.get(ticket).filter(|job| !job.is_cancelled())?;
            Some((*ticket, job.window(&self.model)?))
        });
        let (tickets, mut windows): (Vec<Ticket>, Vec<Window>) = waiting.take(room).unzip();
        let heard = by_halves(&mut windows, &|windows| self.model.hear(windows));
        let is_alone = holding == 0 && tickets.len() == 1;
        for (ticket, heard) in tickets.into_iter().zip(heard) {
            let Some(job) = self.jobs.get_mut(&ticket) else { continue };
            match heard {
                Ok(heard) => job.hear(&self.model, heard),
                Err(RunError::OutOfMemory(_)) if !is_alone => {
                    tracing::warn!(
                        "a window does not fit into memory beside the others; it is heard when one has ended"
                    );
                    self.pressed = true;
                }
                Err(error) => drop(failed.insert(ticket, error)),
            }
        }
    }

    /// The next token of each text.
    fn write(&mut self, tickets: &[Ticket], failed: &mut BTreeMap<Ticket, RunError>) {
        let pieces = tickets.iter().filter_map(|ticket| {
            let job = self.jobs.get_mut(ticket).filter(|job| !job.is_cancelled())?;
            Some((*ticket, job.piece()?))
        });
        let (tickets, mut pieces): (Vec<Ticket>, Vec<Piece>) = pieces.unzip();
        let computed = by_halves(&mut pieces, &|pieces| self.model.decoder.forward(pieces));
        for ((ticket, piece), logits) in tickets.into_iter().zip(pieces).zip(computed) {
            let Some(job) = self.jobs.get_mut(&ticket) else { continue };
            let taken = logits.and_then(|logits| alone(|| job.take(&self.model, piece, logits)));
            if let Err(error) = taken {
                failed.insert(ticket, error);
            } else if !job.is_holding() {
                self.pressed = false;
            }
        }
    }
}

impl Engine for SpeechToText {
    type Request = SpeechToTextRequest;

    fn warm_up(&mut self) -> Result<(), RunError> {
        let silence = wav(16_000, 1, &[0; 1600]);
        let ticket = self.begin(Item::new(SpeechToTextRequest::plain(silence)))?;
        // a model may hear a long story in silence
        while self.jobs.get(&ticket).is_some_and(|job| job.written() < WARM) {
            match self.step(&[ticket]).pop() {
                Some(Stepped::Running(_)) => {}
                Some(Stepped::Ended(ended)) => return ended?().map(drop),
                None => return Err(lost()),
            }
        }
        self.forget(ticket);
        Ok(())
    }

    fn run(&mut self, batch: &[Item<SpeechToTextRequest>]) -> Vec<Result<Product, RunError>> {
        run_all(self, batch)
    }

    fn stepwise(&mut self) -> Option<&mut dyn Stepwise<SpeechToTextRequest>> {
        Some(self)
    }
}

impl Stepwise<SpeechToTextRequest> for SpeechToText {
    fn begin(&mut self, item: Item<SpeechToTextRequest>) -> Result<Ticket, RunError> {
        Ok(self.jobs.take_in(Job::begin(&self.model, item)?))
    }

    fn step(&mut self, tickets: &[Ticket]) -> Vec<Stepped> {
        let mut failed = BTreeMap::new();
        self.look(tickets, &mut failed);
        self.hear(tickets, &mut failed);
        self.write(tickets, &mut failed);
        let stepped = self.jobs.stepped(tickets, failed, |job| job.finish(&self.model));
        self.pressed &= !stepped.iter().any(Stepped::is_end);
        stepped
    }

    fn forget(&mut self, ticket: Ticket) {
        self.jobs.remove(&ticket);
        self.pressed = false;
    }
}
