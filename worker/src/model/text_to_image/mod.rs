//! Task TextToImage: Stable Diffusion 1, 2 and XL, loaded from a folder in the layout of diffusers and computed as diffusers
//! does. Requests join and leave between steps (docs/decisions/0015).

mod box_muller;
mod embeddings;
mod finish;
mod job;
mod load;
mod lora;
mod lora_names;
mod lora_settings;
mod make_model;
mod noise;
mod passes;
mod picture;
mod pipeline;
mod png;
mod request;
mod resnet;
mod room;
mod scheduler;
mod start;
#[cfg(test)]
mod tests;
mod text;
mod text_encoder;
mod tokenizer;
mod unet;
mod unet_blocks;
mod unet_config;
mod vae;
mod vae_blocks;
mod vocabulary;
mod weighting;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::load::load;
pub use self::make_model::make_model;
pub use self::request::TextToImageRequest;

use self::job::Job;
use self::picture::Picture;
use self::pipeline::Pipeline;
use self::request::Source;
use self::scheduler::SchedulerError;
use super::stepwise::{Jobs, Stepped, Stepwise, Ticket, alone, lost, run_all};
use super::{Engine, Item, Product, RunError, weights};

/// A loaded model, and what it works on.
pub struct TextToImage {
    pipeline: Pipeline,
    jobs: Jobs<Job>,
}

impl std::fmt::Debug for TextToImage {
    /// Without its weights: they are pages of shapes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextToImage")
            .field("family", &self.pipeline.family)
            .field("jobs", &self.jobs.len())
            .finish_non_exhaustive()
    }
}

impl TextToImage {
    fn new(pipeline: Pipeline) -> Self {
        Self { pipeline, jobs: Jobs::default() }
    }

    /// Takes jobs a step further that all have one to go.
    fn advance(&mut self, tickets: &[Ticket]) -> Vec<(Ticket, Result<(), RunError>)> {
        let mut blocks = Vec::new();
        let planned: Vec<(Ticket, Result<usize, RunError>)> = tickets
            .iter()
            .filter_map(|ticket| Some((*ticket, self.jobs.get(ticket)?.blocks(self.pipeline.dtype))))
            .map(|(ticket, rows)| {
                let count = rows.map_err(|error| weights::run_error(&error)).map(|rows| {
                    let count = rows.len();
                    blocks.extend(rows);
                    count
                });
                (ticket, count)
            })
            .collect();
        let mut guesses = self.pipeline.guess(&blocks).into_iter();
        let mut results = Vec::with_capacity(planned.len());
        for (ticket, count) in planned {
            let result = count.and_then(|count| {
                let own: Vec<_> = guesses.by_ref().take(count).collect();
                let own = own
                    .into_iter()
                    .collect::<candle_core::Result<Vec<_>>>()
                    .map_err(|error| weights::run_error(&error))?;
                let job = self.jobs.get_mut(&ticket).ok_or_else(lost)?;
                alone(|| job.advance(&self.pipeline, &own))
            });
            results.push((ticket, result));
        }
        results
    }
}

impl Engine for TextToImage {
    type Request = TextToImageRequest;

    fn warm_up(&mut self) -> Result<(), RunError> {
        let side = 8 * self.pipeline.scale;
        let mut request = TextToImageRequest::smallest("warm up", side, side);
        if self.pipeline.inpaints() {
            let blank = Arc::new(Picture::blank(side, side).map_err(RunError::Model)?);
            request.source = Some(Source { image: blank.clone(), mask: Some(blank), strength: Some(1.0) });
        }
        if let Err(SchedulerError::Steps { least, .. }) = self.pipeline.scheduler_of(&request)?.begin(1) {
            request.steps = least as u32;
        }
        self.run(&[Item::new(request)]).into_iter().try_for_each(|result| result.map(|_| ()))
    }

    fn run(&mut self, batch: &[Item<TextToImageRequest>]) -> Vec<Result<Product, RunError>> {
        run_all(self, batch)
    }

    fn stepwise(&mut self) -> Option<&mut dyn Stepwise<TextToImageRequest>> {
        Some(self)
    }
}

impl Stepwise<TextToImageRequest> for TextToImage {
    fn begin(&mut self, item: Item<TextToImageRequest>) -> Result<Ticket, RunError> {
        Ok(self.jobs.take_in(Job::begin(&self.pipeline, item)?))
    }

    fn step(&mut self, tickets: &[Ticket]) -> Vec<Stepped> {
        // decoding takes as long as several steps: one job's at a time, so that the others do not wait for all
        let mut may_finish = true;
        let to_go = |ticket: &&Ticket| self.jobs.get(*ticket).is_some_and(|job| !job.is_cancelled() && !job.is_done());
        let going: Vec<Ticket> = tickets.iter().filter(to_go).copied().collect();
        let mut advanced: BTreeMap<Ticket, Result<(), RunError>> = self.advance(&going).into_iter().collect();
        let one = |ticket: &Ticket| {
            let Some(job) = self.jobs.remove(ticket) else { return Stepped::Ended(Err(lost())) };
            Stepped::Ended(match advanced.remove(ticket) {
                _ if job.is_cancelled() => Err(RunError::Cancelled),
                Some(Err(error)) => Err(error),
                None if std::mem::take(&mut may_finish) => alone(|| job.finish(&self.pipeline)),
                Some(Ok(())) | None => {
                    let progress = job.progress();
                    self.jobs.insert(*ticket, job);
                    return Stepped::Running(progress);
                }
            })
        };
        tickets.iter().map(one).collect()
    }

    fn forget(&mut self, ticket: Ticket) {
        self.jobs.remove(&ticket);
    }
}
