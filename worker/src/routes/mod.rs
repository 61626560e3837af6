//! Several handlers in one worker, each for the jobs of one route.
//!
//! Their requests and engines are of different types, so they are kept without them here: a request finds its engine by
//! its route, and a batch holds requests of one route only.

mod any;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::handler::Handler;
use crate::model::{About, Batchable, Engine, Input, InvalidInput, Item, LoadError, Loading, Product, RunError};

/// Handlers by route: what `queue.mapping.route` points at, a Celery task's name, or a task envelope's `task_name`.
///
/// A job of another route, or of none, is invalid input whose error names the routes. Each handler has parameters of its
/// own: `model.parameters` holds an object for each route that has some. All engines are loaded when the worker starts,
/// from the same folder, and run on the same thread, one batch at a time.
#[derive(Default)]
pub struct Routes {
    handlers: BTreeMap<String, Box<dyn any::Handler>>,
}

impl Routes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has jobs of route `name` served by `handler`. A name that is given again is the later one's.
    #[must_use]
    pub fn route<H: Handler>(mut self, name: impl Into<String>, handler: H) -> Self {
        self.handlers.insert(name.into(), Box::new(handler));
        self
    }

    fn names(&self) -> String {
        self.handlers.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    fn of(&self, about: &About) -> Result<(&str, &dyn any::Handler), InvalidInput> {
        let Some(route) = about.route else {
            let message = format!("the job has no route (valid: {}): see queue.mapping.route", self.names());
            return Err(InvalidInput::body(message));
        };
        match self.handlers.get_key_value(route) {
            Some((name, handler)) => Ok((name, &**handler)),
            None => Err(InvalidInput::body(format!("unknown route {route} (valid: {})", self.names()))),
        }
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.handlers.keys()).finish()
    }
}

/// One route's part of `model.parameters`.
fn parameters_of(defaults: &Map<String, Value>, route: &str) -> Map<String, Value> {
    defaults.get(route).and_then(Value::as_object).cloned().unwrap_or_default()
}

impl Handler for Routes {
    type Engine = Engines;

    fn check_defaults(&self, defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
        for (route, parameters) in defaults {
            let field = |rest: &str| format!("model.parameters.{route}{rest}");
            let Some(handler) = self.handlers.get(route) else {
                return Err(InvalidInput::field(field(""), format!("no such route (valid: {})", self.names())));
            };
            let Some(parameters) = parameters.as_object() else {
                return Err(InvalidInput::field(field(""), "must be an object: the parameters of this route"));
            };
            handler.check_defaults(parameters).map_err(|error| of_route(route, error))?;
        }
        Ok(())
    }

    fn object_fields(&self, about: &About) -> &'static [&'static str] {
        self.of(about).map_or(&[], |(_, handler)| handler.object_fields(about))
    }

    fn content_field(&self, about: &About) -> Option<&'static str> {
        self.of(about).ok()?.1.content_field(about)
    }

    fn decode(&self, input: &Input, defaults: &Map<String, Value>, about: &About) -> Result<Routed, InvalidInput> {
        let (route, handler) = self.of(about)?;
        let (request, key) =
            handler.decode(input, &parameters_of(defaults, route), about).map_err(|error| of_route(route, error))?;
        Ok(Routed { route: route.to_owned(), key, request })
    }

    fn load(&self, how: &Loading) -> Result<Engines, LoadError> {
        let mut by_route = BTreeMap::new();
        for (route, handler) in &self.handlers {
            let how = Loading { parameters: parameters_of(&how.parameters, route), ..how.clone() };
            let told = |error: LoadError| LoadError { message: format!("route {route}: {}", error.message), ..error };
            by_route.insert(route.clone(), handler.load(&how).map_err(told)?);
        }
        Ok(Engines { by_route })
    }
}

/// An error of a consumer's parameters names them with their route.
fn of_route(route: &str, error: InvalidInput) -> InvalidInput {
    let placed = |field: String| match field.strip_prefix("model.parameters.") {
        Some(name) => format!("model.parameters.{route}.{name}"),
        None => field,
    };
    InvalidInput { field: error.field.map(placed), ..error }
}

/// A request of one of the routes.
pub struct Routed {
    route: String,
    /// Of the request itself.
    key: u64,
    request: Arc<dyn Any + Send + Sync>,
}

impl fmt::Debug for Routed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routed").field("route", &self.route).finish_non_exhaustive()
    }
}

impl Batchable for Routed {
    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.route, self.key).hash(&mut hasher);
        hasher.finish()
    }
}

/// The engines of all routes.
pub struct Engines {
    by_route: BTreeMap<String, Box<dyn any::Engine>>,
}

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_route.keys()).finish()
    }
}

impl Engine for Engines {
    type Request = Routed;

    fn warm_up(&mut self) -> Result<(), RunError> {
        self.by_route.values_mut().try_for_each(|engine| engine.warm_up())
    }

    fn run(&mut self, batch: &[Item<Routed>]) -> Vec<Result<Product, RunError>> {
        let run = |items: &[Item<Routed>]| match self.by_route.get_mut(&items[0].request.route) {
            Some(engine) => engine.run(items),
            None => vec![Err(any::astray()); items.len()],
        };
        batch.chunk_by(|a, b| a.request.route == b.request.route).flat_map(run).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::echo::Echo;
    use crate::model::fields::object;
    use crate::model::testing::Number;

    /// Gives numbers back, twice as large.
    struct Double;

    impl Engine for Double {
        type Request = Number;

        fn run(&mut self, batch: &[Item<Number>]) -> Vec<Result<Product, RunError>> {
            let double = |item: &Item<Number>| Product { seed: Some(item.request.0 * 2), ..Product::default() };
            batch.iter().map(double).map(Ok).collect()
        }
    }

    fn routes() -> Routes {
        Routes::new().route("echo", Echo::load).route("double", |_: &Loading| Ok(Double))
    }

    fn how() -> Loading {
        let spec = serde_json::from_value(json!({ "task": "Custom" })).unwrap();
        Loading::new(&spec, std::path::Path::new(""))
    }

    fn decode(route: Option<&str>, defaults: Value) -> Result<Routed, InvalidInput> {
        let about = About { seed: 21, route, ..About::default() };
        routes().decode(&Input::Text("x".into()), &object(defaults), &about)
    }

    #[test]
    fn each_job_is_its_routes_engines() {
        let batch =
            ["echo", "double", "double", "echo"].map(|route| Item::new(decode(Some(route), json!({})).unwrap()));
        let mut engines = routes().load(&how()).unwrap();
        assert_eq!(engines.warm_up(), Ok(()));
        let products: Vec<_> = engines.run(&batch).into_iter().map(Result::unwrap).collect();
        let results: Vec<_> = products.into_iter().map(|product| (product.value, product.seed)).collect();
        let (echo, double) = ((Some(json!("x")), None), (None, Some(42)));
        assert_eq!(results, [echo.clone(), double.clone(), double, echo]);
    }

    #[test]
    fn jobs_of_two_routes_share_no_batch() {
        let key = |route| decode(Some(route), json!({})).unwrap().key();
        assert_eq!(key("echo"), key("echo"));
        assert_ne!(key("echo"), key("double"));
    }

    #[test]
    fn a_job_that_nobody_serves_names_those_that_are() {
        let error = |route| decode(route, json!({})).unwrap_err().to_string();
        assert_eq!(error(Some("triple")), "unknown route triple (valid: double, echo)");
        assert_eq!(error(None), "the job has no route (valid: double, echo): see queue.mapping.route");
    }

    #[test]
    fn each_route_has_parameters_of_its_own() {
        let check = |defaults: Value| routes().check_defaults(&object(defaults)).map_err(|error| error.to_string());
        assert_eq!(check(json!({ "echo": { "milliseconds": 5 } })), Ok(()));
        assert!(decode(Some("echo"), json!({ "echo": { "milliseconds": 5 } })).is_ok());
        let wrong = [
            (json!({ "echo": { "milisecond": 5 } }), "model.parameters.echo.milisecond: unknown field"),
            (json!({ "milliseconds": 5 }), "model.parameters.milliseconds: no such route (valid: double, echo)"),
            (json!({ "echo": 5 }), "model.parameters.echo: must be an object"),
        ];
        for (defaults, message) in wrong {
            let error = check(defaults).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
        let error = decode(Some("echo"), json!({ "echo": { "milliseconds": "soon" } })).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("model.parameters.echo.milliseconds"));
    }

    #[test]
    fn a_model_that_does_not_load_is_told_with_its_route() {
        let broken = |_: &Loading| -> Result<Double, LoadError> {
            Err(LoadError { reason: "ModelFileMissing", message: "no weights".into() })
        };
        let error = routes().route("broken", broken).load(&how()).unwrap_err();
        assert_eq!((error.reason, error.message.as_str()), ("ModelFileMissing", "route broken: no weights"));
    }
}
