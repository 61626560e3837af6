//! A worker of one's own. A message is the place of a number in the Fibonacci sequence, which starts 0, 1, 1, 2: the body
//! `8` gives 13. What is here is all that there is to write; docs/bring-your-own-engine.md goes through it.

use std::process::ExitCode;

use millrace_worker::{About, Engine, Input, InvalidInput, Item, LoadError, Loading, Product, Request, RunError};
use serde_json::{Map, Value, json};

/// The number at the next place needs more than 64 bits.
const LAST: u64 = 94;

/// The whole program: `run --config`, `infer`, `check`, logs, signals and the rest are the library's.
fn main() -> ExitCode {
    millrace_worker::run(Fibonacci::load)
}

/// The engine. One with a model would hold its weights.
struct Fibonacci;

/// A place in the sequence, counted from 1. Once it is decoded, it is known to be one that can be computed.
#[derive(Debug)]
struct Place(u64);

impl Request for Place {
    /// Says at once what can never be computed: such a message is not tried again.
    fn decode(input: &Input, _: &Map<String, Value>, _: &About) -> Result<Self, InvalidInput> {
        let said = match input {
            Input::Text(text) => text.clone(),
            other => other.value().to_string(),
        };
        match said.trim().parse() {
            Ok(place @ 1..=LAST) => Ok(Self(place)),
            _ => Err(InvalidInput::body(format!("Invalid request in message.Body:{said}"))),
        }
    }
}

impl Fibonacci {
    /// A model would be read from `how.dir` here, onto `how.device`.
    #[expect(clippy::unnecessary_wraps, reason = "loading a model can fail, and loading nothing cannot")]
    fn load(_: &Loading) -> Result<Self, LoadError> {
        Ok(Self)
    }
}

impl Engine for Fibonacci {
    type Request = Place;

    /// One result for each item of the batch, in order.
    fn run(&mut self, batch: &[Item<Place>]) -> Vec<Result<Product, RunError>> {
        let compute = |item: &Item<Place>| {
            let Place(place) = *item.request;
            let value = json!({ "arg": place, "value": number_at(place) });
            Ok(Product { value: Some(value), ..Product::default() })
        };
        batch.iter().map(compute).collect()
    }
}

fn number_at(place: u64) -> u64 {
    let (mut number, mut next) = (0_u64, 1_u64);
    for _ in 1..place {
        // only the one after the last is too large, and nobody asks for it
        (number, next) = (next, number.wrapping_add(next));
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(body: &str) -> Result<Place, InvalidInput> {
        Place::decode(&Input::Text(body.into()), &Map::new(), &About::default())
    }

    #[test]
    fn the_sequence_starts_with_nothing() {
        let numbers: Vec<u64> = (1..=10).map(number_at).collect();
        assert_eq!(numbers, [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]);
        assert_eq!(number_at(LAST), 12_200_160_415_121_876_738);
    }

    #[test]
    fn a_place_is_counted_from_one() {
        for (body, place) in [
            ("8", Some(8)),
            (" 1\n", Some(1)),
            ("94", Some(94)),
            ("95", None),
            ("0", None),
            ("-1", None),
            ("eight", None),
        ] {
            assert_eq!(decode(body).ok().map(|Place(place)| place), place, "{body}");
        }
        let error = decode("-1").unwrap_err();
        assert_eq!((error.field.as_deref(), error.to_string().as_str()), (None, "Invalid request in message.Body:-1"));
    }

    #[test]
    fn a_batch_keeps_its_order() {
        let batch = [8, 1].map(|place| Item::new(Place(place)));
        let values: Vec<_> = Fibonacci.run(&batch).into_iter().map(|result| result.unwrap().value.unwrap()).collect();
        assert_eq!(values, [json!({ "arg": 8, "value": 13 }), json!({ "arg": 1, "value": 0 })]);
    }
}
