//! Task Echo: gives each input back after a set time. For trying out a queue, for tests and for load.

use std::time::{Duration, Instant};

use millrace_api::task::echo::{DECLARATION, MILLISECONDS};
use serde_json::{Map, Value};

use super::fields::Fields;
use super::{About, Engine, Input, InvalidInput, Item, LoadError, Loading, Product, Request, RunError};

/// How often a sleeping echo looks whether it is still wanted.
const SLICE: Duration = Duration::from_millis(50);

/// The engine of task Echo. A batch takes as long as its longest item.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

/// An input to give back, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct EchoRequest {
    value: Value,
    after: Duration,
}

impl Echo {
    /// There is nothing to load.
    pub fn load(_: &Loading) -> Result<Self, LoadError> {
        Ok(Self)
    }
}

impl Request for EchoRequest {
    /// Any input will do; an object's `milliseconds`, where it has one, overrides the consumer's.
    fn decode(input: &Input, defaults: &Map<String, Value>, _: &About) -> Result<Self, InvalidInput> {
        let milliseconds = Fields::read(&DECLARATION, input, defaults)?.integer(&MILLISECONDS);
        Ok(Self { value: input.value(), after: Duration::from_millis(milliseconds.unwrap_or(0)) })
    }

    fn check_defaults(defaults: &Map<String, Value>) -> Result<(), InvalidInput> {
        Fields::of_parameters(&DECLARATION, defaults).map(|_| ())
    }
}

/// The longest time that an item asks for which is still wanted.
fn longest(batch: &[Item<EchoRequest>]) -> Duration {
    let wanted = batch.iter().filter(|item| !item.cancel.is_cancelled());
    wanted.map(|item| item.request.after).max().unwrap_or_default()
}

impl Engine for Echo {
    type Request = EchoRequest;

    fn run(&mut self, batch: &[Item<EchoRequest>]) -> Vec<Result<Product, RunError>> {
        let started = Instant::now();
        while let Some(left) = longest(batch).checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
            std::thread::sleep(left.min(SLICE));
        }
        let echo = |item: &Item<EchoRequest>| {
            if item.cancel.is_cancelled() {
                return Err(RunError::Cancelled);
            }
            Ok(Product { value: Some(item.request.value.clone()), ..Product::default() })
        };
        batch.iter().map(echo).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fields::object;
    use super::*;

    fn decode(input: &Input, defaults: Value) -> Result<EchoRequest, InvalidInput> {
        EchoRequest::decode(input, &object(defaults), &About::default())
    }

    fn item(request: EchoRequest) -> Item<EchoRequest> {
        Item::new(request)
    }

    #[test]
    fn gives_inputs_back_in_order() {
        let text = decode(&Input::Text("42".into()), json!({})).unwrap();
        let fields = json!({"any": [1, null], "milliseconds": 1});
        let object = decode(&Input::Object(object(fields.clone())), json!({"milliseconds": 60_000})).unwrap();
        let products = Echo.run(&[item(text), item(object)]);
        let values: Vec<_> = products.into_iter().map(|product| product.unwrap().value.unwrap()).collect();
        assert_eq!(values, [json!("42"), fields]);
    }

    #[test]
    fn a_cancelled_item_does_not_hold_the_batch() {
        let slow = item(decode(&Input::Text("slow".into()), json!({"milliseconds": 3_600_000})).unwrap());
        let quick = item(decode(&Input::Text("quick".into()), json!({})).unwrap());
        slow.cancel.cancel();
        let results = Echo.run(&[slow, quick]);
        assert_eq!(results[0], Err(RunError::Cancelled));
        assert_eq!(results[1].as_ref().unwrap().value, Some(json!("quick")));
    }

    #[test]
    fn an_echo_that_sleeps_can_be_cancelled() {
        let slow = item(decode(&Input::Text("slow".into()), json!({"milliseconds": 3_600_000})).unwrap());
        let cancel = slow.cancel.clone();
        let running = std::thread::spawn(move || Echo.run(&[slow]));
        cancel.cancel();
        assert_eq!(running.join().unwrap(), [Err(RunError::Cancelled)]);
    }

    #[test]
    fn a_wrong_time_is_refused_by_name() {
        let error = decode(&Input::Object(object(json!({"milliseconds": "soon"}))), json!({})).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("milliseconds"));
        let error = EchoRequest::check_defaults(&object(json!({"millisecond": 1}))).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("model.parameters.millisecond"));
        assert!(EchoRequest::check_defaults(&object(json!({"milliseconds": 5}))).is_ok());
    }
}
