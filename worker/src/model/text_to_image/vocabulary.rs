//! A small byte-pair vocabulary for the made model: every byte, and the words that prompts are full of.

use std::collections::BTreeMap;

/// What the pairs are counted in.
const WORDS: &str = "a an the of in on at with and or to from by for is are as its into over under near \
    photo photograph picture image portrait painting drawing sketch illustration render close up wide angle shot scene \
    landscape view background style art artist digital oil watercolor pencil ink anime cartoon cinematic dramatic \
    realistic photorealistic detailed highly intricate beautiful stunning epic masterpiece high quality resolution hd \
    light lighting soft warm cold dark bright golden hour sunset sunrise night day morning evening sky cloud clouds star \
    stars moon sun rain snow storm fog mist water river lake sea ocean beach island mountain mountains hill valley \
    forest tree trees flower flowers garden field grass desert city street town village house castle tower bridge road \
    car train ship boat plane rocket space planet mars astronaut robot machine computer cat dog horse bird fish fox \
    wolf bear lion tiger elephant dragon owl rabbit mouse cow sheep man woman girl boy child old young king queen \
    knight wizard face eyes hair hat dress red green blue yellow orange purple pink black white gray brown gold silver \
    small big large tiny giant little long tall round riding sitting standing running walking flying swimming eating \
    drinking looking holding wearing playing sleeping reading glass wood stone metal paper book table chair window door \
    cup tea coffee bread apple fruit food number message prompt test one two three four five six seven eight nine ten";

const WORD_END: &str = "</w>";

/// The vocabulary in the order of its numbers, and its merges in the order of their rank.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) tokens: Vec<String>,
    pub(super) merges: Vec<(String, String)>,
}

pub(super) const BEGIN: &str = "<|startoftext|>";
pub(super) const END: &str = "<|endoftext|>";

impl Vocabulary {
    /// Trains byte pairs until every word above is one token. As in CLIP's, bytes come first, then bytes that end a
    /// word, then what is merged from them, and the end token has the highest number.
    pub(super) fn train() -> Self {
        let bytes: Vec<String> = byte_letters().into_iter().map(String::from).collect();
        let mut tokens = bytes.clone();
        tokens.extend(bytes.iter().map(|byte| format!("{byte}{WORD_END}")));
        let mut words: Vec<Vec<String>> = WORDS.split_whitespace().map(letters).collect();
        let mut merges = Vec::new();
        while let Some((first, second)) = most_frequent_pair(&words) {
            let merged = format!("{first}{second}");
            for word in &mut words {
                merge(word, &first, &second, &merged);
            }
            tokens.push(merged);
            merges.push((first, second));
        }
        tokens.extend([BEGIN.to_owned(), END.to_owned()]);
        Self { tokens, merges }
    }
}

/// A word as its letters, the last of which knows that it is.
fn letters(word: &str) -> Vec<String> {
    let mut letters: Vec<_> = word.chars().map(String::from).collect();
    if let Some(last) = letters.last_mut() {
        last.push_str(WORD_END);
    }
    letters
}

fn most_frequent_pair(words: &[Vec<String>]) -> Option<(String, String)> {
    let mut counts = BTreeMap::new();
    for pair in words.iter().flat_map(|word| word.windows(2)) {
        if let [first, second] = pair {
            *counts.entry((first, second)).or_insert(0_usize) += 1;
        }
    }
    let ((first, second), _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    Some((first.clone(), second.clone()))
}

fn merge(word: &mut Vec<String>, first: &str, second: &str, merged: &str) {
    let mut at = 0;
    while at + 1 < word.len() {
        if word[at] == first && word[at + 1] == second {
            merged.clone_into(&mut word[at]);
            word.remove(at + 1);
        }
        at += 1;
    }
}

/// The letter that stands for each byte in a byte-level vocabulary: itself where it is printable, else one from beyond
/// Latin-1 (GPT-2's `bytes_to_unicode`).
fn byte_letters() -> Vec<char> {
    let printable = || (b'!'..=b'~').chain(0xA1..=0xAC).chain(0xAE..=0xFF);
    let rest = (0..=u8::MAX).filter(|byte| !printable().any(|p| p == *byte)).count() as u32;
    let beyond = (0..rest).filter_map(|index| char::from_u32(0x100 + index));
    printable().map(char::from).chain(beyond).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_letter_of_its_own() {
        let mut letters = byte_letters();
        assert_eq!(letters.len(), 256);
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), 256);
        assert_eq!(byte_letters()[0], '!');
    }

    #[test]
    fn training_makes_no_token_twice_and_ends() {
        let vocabulary = Vocabulary::train();
        let mut tokens = vocabulary.tokens.clone();
        assert_eq!(tokens.last().map(String::as_str), Some(END));
        tokens.sort();
        tokens.dedup();
        assert_eq!(tokens.len(), vocabulary.tokens.len());
        assert!(vocabulary.tokens.contains(&"astronaut</w>".to_owned()));
    }
}
