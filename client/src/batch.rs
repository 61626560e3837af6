//! Packs letters into batches as large as SQS takes them.

use std::iter::Peekable;

use crate::invalid::InvalidJob;
use crate::letter::{Letter, MAX_MESSAGE};

/// Most entries of one SQS batch call.
const ENTRIES: usize = 10;
/// More than a pointer to a body in S3 and its attributes ever take.
const POINTER: usize = 4 << 10;

/// A letter, or why there is none, with its place in what is sent.
pub(crate) type Numbered = (usize, Result<Letter, InvalidJob>);

/// What one call sends.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    pub letters: Vec<(usize, Letter)>,
    /// Jobs that were met on the way and cannot be sent.
    pub refused: Vec<(usize, InvalidJob)>,
}

/// The batches of `letters`, in order. A letter of more than `limit` bytes counts as the pointer that it will be.
pub(crate) struct Batches<I: Iterator> {
    letters: Peekable<I>,
    limit: usize,
    /// One letter of each group a batch: a batch may fail in part, and a group must keep its order.
    ordered: bool,
}

impl<I: Iterator<Item = Numbered>> Batches<I> {
    pub fn new(letters: I, limit: usize, ordered: bool) -> Self {
        Self { letters: letters.peekable(), limit, ordered }
    }
}

/// What a letter counts in a batch.
fn weight(letter: &Letter, limit: usize) -> usize {
    let size = letter.size();
    if size > limit { size - letter.body.len() + POINTER } else { size }
}

impl<I: Iterator<Item = Numbered>> Iterator for Batches<I> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        self.letters.peek()?;
        let (mut batch, mut bytes) = (Batch::default(), 0);
        while batch.letters.len() < ENTRIES {
            let next = match self.letters.next() {
                None => break,
                Some((index, Err(error))) => {
                    batch.refused.push((index, error));
                    continue;
                }
                Some((index, Ok(letter))) => (index, letter),
            };
            bytes += weight(&next.1, self.limit);
            batch.letters.push(next);
            let Some((_, Ok(ahead))) = self.letters.peek() else { continue };
            let met = |(_, sent): &(usize, Letter)| sent.group() == ahead.group();
            if bytes + weight(ahead, self.limit) > MAX_MESSAGE || self.ordered && batch.letters.iter().any(met) {
                break;
            }
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn letter(group: &str, bytes: usize) -> Letter {
        Letter::in_group("j".into(), "h".into(), "x".repeat(bytes), group.into(), Vec::new())
    }

    fn packed(letters: Vec<Numbered>, ordered: bool) -> Vec<Vec<usize>> {
        let batches = Batches::new(letters.into_iter(), MAX_MESSAGE, ordered);
        batches.map(|batch| batch.letters.iter().map(|(index, _)| *index).collect()).collect()
    }

    #[test]
    fn batches_end_at_ten_at_a_mebibyte_and_where_a_group_comes_again() {
        let of = |list: &[(&str, usize)]| -> Vec<Numbered> {
            list.iter().enumerate().map(|(i, (group, bytes))| (i, Ok(letter(group, *bytes)))).collect()
        };
        let twelve = of(&[("a", 1); 12]);
        assert_eq!(packed(twelve, false), [(0..10).collect::<Vec<_>>(), vec![10, 11]]);
        let half = MAX_MESSAGE / 2;
        let sizes =
            [("a", half), ("a", half), ("a", 1), ("a", 2 * MAX_MESSAGE), ("a", MAX_MESSAGE - POINTER), ("a", 9)];
        assert_eq!(packed(of(&sizes), false), [vec![0, 1], vec![2, 3], vec![4, 5]]);
        assert_eq!(packed(of(&[("a", 1), ("b", 1), ("a", 1), ("b", 1)]), true), [[0, 1], [2, 3]]);
    }

    #[test]
    fn what_cannot_be_sent_is_given_back_in_its_batch() {
        let wrong = || InvalidJob::new("input", "no");
        let letters = vec![(0, Err(wrong())), (1, Ok(letter("a", 1))), (2, Err(wrong()))];
        let batches: Vec<Batch> = Batches::new(letters.into_iter(), MAX_MESSAGE, false).collect();
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].refused, [(0, wrong()), (2, wrong())]);
    }

    proptest! {
        #[test]
        fn each_is_sent_once_in_order_and_no_batch_is_too_large(
            list in proptest::collection::vec(("[ab]", 1..MAX_MESSAGE * 3 / 2), 0..30), ordered: bool,
        ) {
            let letters = list.iter().enumerate().map(|(i, (group, bytes))| (i, Ok(letter(group, *bytes))));
            let batches: Vec<Batch> = Batches::new(letters, MAX_MESSAGE, ordered).collect();
            let order: Vec<usize> = batches.iter().flat_map(|b| b.letters.iter().map(|(i, _)| *i)).collect();
            prop_assert_eq!(order, (0..list.len()).collect::<Vec<_>>());
            for batch in &batches {
                prop_assert!(batch.letters.len() <= ENTRIES);
                let bytes: usize = batch.letters.iter().map(|(_, l)| weight(l, MAX_MESSAGE)).sum();
                prop_assert!(bytes <= MAX_MESSAGE || batch.letters.len() == 1);
            }
        }
    }
}
