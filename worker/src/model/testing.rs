//! What tests of engines have in common.

use serde_json::{Map, Value};

use super::{About, Input, InvalidInput, Request};
use crate::metrics::Metrics;

/// A request that is a number.
#[derive(Debug)]
pub(crate) struct Number(pub(crate) u64);

impl Request for Number {
    fn decode(_: &Input, _: &Map<String, Value>, about: &About) -> Result<Self, InvalidInput> {
        Ok(Self(about.seed))
    }
}

/// Metrics of a worker that never runs.
pub(crate) fn metrics() -> Metrics {
    let text =
        "consumer: {namespace: a, name: b}\nqueue: {url: 'http://h/0/q'}\nmodel: {task: Echo}\noutput: {bucket: b}";
    Metrics::new(&serde_yaml::from_str(text).unwrap())
}
