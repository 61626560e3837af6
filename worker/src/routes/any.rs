//! Handlers and engines without the types of their requests.

use std::any::Any;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::Routed;
use crate::handler::{self, RequestOf};
use crate::model::{self, About, Batchable as _, Input, InvalidInput, Item, LoadError, Loading, Product, RunError};

/// A handler of any engine.
pub(super) trait Handler: Send + Sync {
    fn check_defaults(&self, defaults: &Map<String, Value>) -> Result<(), InvalidInput>;
    fn object_fields(&self, about: &About) -> &'static [&'static str];
    fn content_field(&self, about: &About) -> Option<&'static str>;
    fn decode(&self, input: &Input, defaults: &Map<String, Value>, about: &About) -> Result<Read, InvalidInput>;
    fn load(&self, how: &Loading) -> Result<Box<dyn Engine>, LoadError>;
}

/// A request without its type, and its key.
pub(super) type Read = (Arc<dyn Any + Send + Sync>, u64);

impl<H: handler::Handler> Handler for H {
    fn check_defaults(&self, defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
        handler::Handler::check_defaults(self, defaults)
    }

    fn object_fields(&self, about: &About) -> &'static [&'static str] {
        handler::Handler::object_fields(self, about)
    }

    fn content_field(&self, about: &About) -> Option<&'static str> {
        handler::Handler::content_field(self, about)
    }

    fn decode(&self, input: &Input, defaults: &Map<String, Value>, about: &About) -> Result<Read, InvalidInput> {
        let request: RequestOf<H> = handler::Handler::decode(self, input, defaults, about)?;
        let key = request.key();
        Ok((Arc::new(request), key))
    }

    fn load(&self, how: &Loading) -> Result<Box<dyn Engine>, LoadError> {
        Ok(Box::new(handler::Handler::load(self, how)?))
    }
}

/// An engine of any request.
pub(super) trait Engine: Send {
    fn warm_up(&mut self) -> Result<(), RunError>;
    fn run(&mut self, items: &[Item<Routed>]) -> Vec<Result<Product, RunError>>;
}

impl<E: model::Engine> Engine for E {
    fn warm_up(&mut self) -> Result<(), RunError> {
        model::Engine::warm_up(self)
    }

    fn run(&mut self, items: &[Item<Routed>]) -> Vec<Result<Product, RunError>> {
        let own = |item: &Item<Routed>| {
            let request = Arc::clone(&item.request.request).downcast::<E::Request>().ok()?;
            Some(Item {
                request,
                cancel: item.cancel.clone(),
                hook: item.hook.clone(),
                uploads: item.uploads.clone(),
                is_last: item.is_last,
            })
        };
        match items.iter().map(own).collect::<Option<Vec<_>>>() {
            Some(own) => model::Engine::run(self, &own),
            None => vec![Err(astray()); items.len()],
        }
    }
}

/// A request whose engine is not there, or is another's: a fault of this module.
pub(super) fn astray() -> RunError {
    RunError::Model("the request is not of this route's engine".into())
}
