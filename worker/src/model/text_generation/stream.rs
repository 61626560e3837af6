//! A text while it is written: from tokens, of which one may be a part of a letter, to the first of some texts that end it.

use super::tokenizer::Tokenizer;
use crate::model::RunError;

/// What stands for bytes that are no letter, or not yet.
const UNFINISHED: char = '\u{FFFD}';

/// What is written so far.
#[derive(Debug, Default)]
pub(super) struct Stream {
    tokens: Vec<u32>,
    /// The tokens from the first to the second place are in `text`, and are decoded again with those that follow: what a token says may
    /// depend on the one before it.
    context: usize,
    told: usize,
    text: String,
    stops: Vec<String>,
    /// Bytes of the longest of them.
    longest: usize,
}

impl Stream {
    /// One that ends before the first of `stops`.
    pub(super) fn new(stops: &[String]) -> Self {
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        Self { stops: stops.to_vec(), longest, ..Self::default() }
    }

    /// Takes one more token, and says whether the text has come to its end.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<bool, RunError> {
        self.tokens.push(token);
        let fresh = self.fresh(tokenizer)?;
        if fresh.is_empty() || fresh.ends_with(UNFINISHED) {
            return Ok(false);
        }
        (self.context, self.told) = (self.told, self.tokens.len());
        Ok(self.add(&fresh))
    }

    /// The whole text, when no token comes any more.
    pub(super) fn finish(mut self, tokenizer: &Tokenizer, stopped: bool) -> Result<String, RunError> {
        if !stopped {
            let rest = self.fresh(tokenizer)?;
            self.add(&rest);
        }
        Ok(self.text)
    }

    /// What the tokens say that are not in the text.
    fn fresh(&self, tokenizer: &Tokenizer) -> Result<String, RunError> {
        let known = tokenizer.text(&self.tokens[self.context..self.told])?;
        let all = tokenizer.text(&self.tokens[self.context..])?;
        Ok(all.get(known.len()..).unwrap_or_default().to_owned())
    }

    /// Adds to the text; what begins a stop and what follows is cut off.
    fn add(&mut self, fresh: &str) -> bool {
        // a stop may have begun in what was there
        let mut from = self.text.len().saturating_sub(self.longest);
        while !self.text.is_char_boundary(from) {
            from -= 1;
        }
        self.text.push_str(fresh);
        let found = self.stops.iter().filter_map(|stop| self.text[from..].find(stop.as_str())).min();
        if let Some(at) = found {
            self.text.truncate(from + at);
        }
        found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::tokenizer;
    use super::*;

    fn written(tokens: &[u32], stops: &[&str]) -> (String, bool) {
        let tokenizer = tokenizer();
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut stream = Stream::new(&stops);
        for token in tokens {
            if stream.push(&tokenizer, *token).unwrap() {
                return (stream.finish(&tokenizer, true).unwrap(), true);
            }
        }
        (stream.finish(&tokenizer, false).unwrap(), false)
    }

    fn tokens(text: &str) -> Vec<u32> {
        tokenizer().tokens(text, false).unwrap()
    }

    #[test]
    fn a_stop_is_found_across_tokens_and_letters() {
        let text = "the cat — and 🙂漢字 then";
        assert!(tokens("🙂").len() > 1, "a letter of several tokens");
        for (stops, wanted) in [
            (&["🙂"][..], "the cat — and "),
            (&["字 t"], "the cat — and 🙂漢"),
            (&["nothing", "— an"], "the cat "),
            (&["then", "cat"], "the "),
            (&["t", "the cat"], ""),
        ] {
            assert_eq!(written(&tokens(text), stops), (wanted.to_owned(), true), "{stops:?}");
        }
        assert_eq!(written(&tokens(text), &["dog", "🙂漢語"]), (text.to_owned(), false));
    }

    #[test]
    fn half_a_letter_at_the_end_is_told_as_such() {
        let half = &tokens("a🙂")[..2];
        assert_eq!(written(half, &["a🙂"]), ("a\u{FFFD}".to_owned(), false));
    }

    proptest! {
        #[test]
        fn token_by_token_it_is_the_text_of_all(tokens in proptest::collection::vec(4_u32..340, 0..40)) {
            prop_assert_eq!(written(&tokens, &[]).0, tokenizer().text(&tokens).unwrap());
        }

        #[test]
        fn it_ends_before_the_first_stop_and_nowhere_else(
            text in "[a-d🙂é ]{0,30}",
            stops in proptest::collection::vec("[a-d🙂é ]{1,4}", 0..4),
        ) {
            let all: Vec<&str> = stops.iter().map(String::as_str).collect();
            let first = all.iter().filter_map(|stop| text.find(stop)).min();
            let (found, stopped) = written(&tokens(&text), &all);
            prop_assert_eq!(stopped, first.is_some());
            // a token that completes two stops at once ends before the one that begins first
            prop_assert!(first.map_or(found == text, |_| text.starts_with(&found) && !all.iter().any(|stop| found.contains(stop))));
        }
    }
}
