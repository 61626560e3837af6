//! Task TextEmbedding: vectors of texts, by models in the layout of sentence-transformers, computed as that does. Texts of
//! any requests share the model's passes, sorted by length and never padded (docs/decisions/0019).

mod attention;
mod bert;
mod config;
mod dense;
mod encoder;
mod format;
mod layers;
mod layout;
mod load;
mod make_model;
mod model;
mod modern_bert;
mod pack;
mod passes;
mod pooling;
mod relative;
mod request;
#[cfg(test)]
mod tests;
mod tokenizer;

use rayon::prelude::*;

pub use self::load::load;
pub use self::make_model::make_model;
pub use self::request::TextEmbeddingRequest;

use self::format::{Embedded, product};
use self::model::{Model, Tokens};
use self::passes::{Place, passes};
use super::{Engine, Item, Product, Progress, RunError};

/// A loaded model.
#[derive(Debug)]
pub struct TextEmbedding {
    model: Model,
    /// Most tokens of a pass.
    budget: usize,
}

/// A request on its way.
struct Work<'a> {
    item: &'a Item<TextEmbeddingRequest>,
    texts: Vec<Tokens>,
    /// Of the texts that are done.
    vectors: Vec<Option<Vec<f32>>>,
    failed: Option<RunError>,
}

impl<'a> Work<'a> {
    fn new(model: &Model, item: &'a Item<TextEmbeddingRequest>) -> Self {
        let (texts, failed) = match model.read(&item.request) {
            Ok(texts) => (texts, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        Self { item, vectors: vec![None; texts.len()], texts, failed }
    }

    /// Whether anybody still waits for it.
    fn is_wanted(&self) -> bool {
        self.failed.is_none() && !self.item.cancel.is_cancelled()
    }

    fn take(&mut self, text: usize, vector: Vec<f32>) {
        self.vectors[text] = Some(vector);
    }

    fn tell(&self) {
        if let Some(hook) = &self.item.hook {
            let done = self.vectors.iter().filter(|vector| vector.is_some()).count();
            hook.stepped(Progress { step: done as u32, steps: self.vectors.len() as u32 });
        }
    }

    fn finish(self, model: &Model) -> Result<Product, RunError> {
        if self.item.cancel.is_cancelled() {
            return Err(RunError::Cancelled);
        }
        if let Some(error) = self.failed {
            return Err(error);
        }
        let request = &self.item.request;
        let lost = || RunError::Model("a text has no vector".into());
        let embedded = self.texts.into_iter().zip(self.vectors).map(|(text, vector)| {
            let vector = model.finish(vector.ok_or_else(lost)?, &request.settings)?;
            Ok(Embedded { vector, tokens: text.ids.len() })
        });
        let embedded = embedded.collect::<Result<Vec<_>, RunError>>()?;
        product(request, &embedded, model.normalizes(&request.settings))
    }
}

impl TextEmbedding {
    /// Runs texts of any requests; what fails is the error of those that have a text in it.
    fn pass(&self, works: &mut [Work], pass: &[Place]) {
        let wanted: Vec<Place> = pass.iter().filter(|place| works[place.item].is_wanted()).copied().collect();
        if wanted.is_empty() {
            return;
        }
        let texts: Vec<&Tokens> = wanted.iter().map(|place| &works[place.item].texts[place.text]).collect();
        match self.model.embed(&texts) {
            Ok(vectors) => {
                for (place, vector) in wanted.iter().zip(vectors) {
                    works[place.item].take(place.text, vector);
                }
            }
            Err(error) => {
                for place in &wanted {
                    works[place.item].failed = Some(error.clone());
                }
            }
        }
        let mut items: Vec<usize> = wanted.iter().map(|place| place.item).collect();
        items.sort_unstable();
        items.dedup();
        for item in items {
            works[item].tell();
        }
    }
}

impl Engine for TextEmbedding {
    type Request = TextEmbeddingRequest;

    fn warm_up(&mut self) -> Result<(), RunError> {
        self.run(&[Item::new(TextEmbeddingRequest::plain("warm up"))])
            .into_iter()
            .try_for_each(|result| result.map(|_| ()))
    }

    fn run(&mut self, batch: &[Item<TextEmbeddingRequest>]) -> Vec<Result<Product, RunError>> {
        let mut works: Vec<Work> = batch.par_iter().map(|item| Work::new(&self.model, item)).collect();
        let places = works.iter().enumerate().flat_map(|(item, work)| {
            work.texts.iter().enumerate().map(move |(text, tokens)| Place { item, text, tokens: tokens.ids.len() })
        });
        for pass in passes(places.collect(), self.budget) {
            self.pass(&mut works, &pass);
        }
        works.into_iter().map(|work| work.finish(&self.model)).collect()
    }
}
