//! What tests of engines have in common.

use std::path::Path;

use millrace_api::{Device, Precision};
use serde_json::{Map, Value};

use super::{About, Input, InvalidInput, Loading, Request};
use crate::metrics::Metrics;
use crate::trouble::Troubles;

/// A request that is a number.
#[derive(Debug)]
pub(crate) struct Number(pub(crate) u64);

impl Request for Number {
    fn decode(_: &Input, _: &Map<String, Value>, about: &About) -> Result<Self, InvalidInput> {
        Ok(Self(about.seed))
    }
}

/// A job's input: a text, or an object.
pub(crate) fn as_input(value: Value) -> Input {
    match value {
        Value::String(text) => Input::Text(text),
        Value::Object(fields) => Input::Object(fields),
        other => panic!("{other} is no input"),
    }
}

/// How a test loads a model on the CPU, with nothing said about it.
pub(crate) fn on_cpu(dir: &Path) -> Loading {
    let (device, precision) = (Device::Cpu, Precision::Auto);
    Loading {
        dir: dir.into(),
        device,
        precision,
        variant: None,
        gpus: 0,
        parameters: Map::new(),
        troubles: Troubles::default(),
    }
}

/// Metrics of a worker that never runs.
pub(crate) fn metrics() -> Metrics {
    let text =
        "consumer: {namespace: a, name: b}\nqueue: {url: 'http://h/0/q'}\nmodel: {task: Echo}\noutput: {bucket: b}";
    Metrics::new(&serde_yaml::from_str(text).unwrap())
}
