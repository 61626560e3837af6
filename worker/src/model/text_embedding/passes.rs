//! Which texts go through the encoder together: those of like length, as many as a pass has room for.

/// One text of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) item: usize,
    pub(super) text: usize,
    /// Its tokens.
    pub(super) tokens: usize,
}

/// Splits texts into passes of up to `budget` tokens each, the longest first: where one has no room, that is found before
/// the others are computed. A text that is longer than that has a pass of its own.
pub(super) fn passes(mut places: Vec<Place>, budget: usize) -> Vec<Vec<Place>> {
    places.sort_by_key(|place| std::cmp::Reverse(place.tokens));
    let mut passes: Vec<Vec<Place>> = Vec::new();
    let mut left = 0;
    for place in places {
        if let Some(pass) = passes.last_mut().filter(|_| place.tokens <= left) {
            left -= place.tokens;
            pass.push(place);
        } else {
            left = budget.saturating_sub(place.tokens);
            passes.push(vec![place]);
        }
    }
    passes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_text_is_in_one_pass_that_is_not_too_large(tokens in prop::collection::vec(1_usize..300, 0..60)) {
            let places: Vec<_> = tokens.iter().enumerate().map(|(text, tokens)| Place { item: 0, text, tokens: *tokens }).collect();
            let passes = passes(places.clone(), 256);
            for pass in &passes {
                let sum: usize = pass.iter().map(|place| place.tokens).sum();
                prop_assert!(sum <= 256 || pass.len() == 1);
                prop_assert!(pass.is_sorted_by_key(|place| std::cmp::Reverse(place.tokens)));
            }
            let mut found = passes.concat();
            found.sort_by_key(|place| place.text);
            prop_assert_eq!(found, places);
        }
    }
}
