//! What the tokens of a window say, and where the next window begins.

use super::rules::Marks;

/// What is said between two times, in frames of 10 ms from the begin of the audio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) tokens: Vec<u32>,
}

/// Frames of a time token.
const FRAMES: usize = 2;

/// Cuts the tokens of a window that begins at frame `from` and has `frames` of audio: its segments, and how many frames further
/// the next window begins.
///
/// Times that stand side by side end a segment and begin the next. What is behind the last pair was cut off by the window's end and
/// is heard again, unless a single time ends it: then nothing is said behind it.
pub(super) fn cut(marks: &Marks, tokens: &[u32], from: usize, frames: usize) -> (Vec<Segment>, usize) {
    let zero = marks.zero();
    let is_time = |at: usize| tokens.get(at).is_some_and(|token| *token >= zero);
    let frame = |token: u32| FRAMES * (token - zero) as usize;
    let text = |tokens: &[u32]| tokens.iter().copied().filter(|token| *token < marks.end).collect::<Vec<_>>();
    let last = tokens.len().wrapping_sub(1);
    let single = tokens.len() >= 2 && is_time(last) && !is_time(last - 1);
    // where a segment ends that another follows
    let mut cuts: Vec<usize> = (1..tokens.len()).filter(|at| is_time(at - 1) && is_time(*at)).collect();
    if cuts.is_empty() {
        let end = tokens.iter().rev().find(|token| **token >= zero).map(|token| frame(*token)).filter(|end| *end > 0);
        let whole = Segment { start: from, end: from + end.unwrap_or(frames), tokens: text(tokens) };
        return (vec![whole], frames);
    }
    if single {
        cuts.push(tokens.len());
    }
    let begins = std::iter::once(0).chain(cuts.iter().copied());
    let segments = begins.zip(&cuts).filter_map(|(begin, end)| {
        let part = tokens.get(begin..*end)?;
        let (first, last) = (part.first()?, part.last()?);
        let time = |token: u32| from + frame(token.max(zero));
        Some(Segment { start: time(*first), end: time(*last), tokens: text(part) })
    });
    let segments = segments.collect();
    let closed = cuts.last().and_then(|at| tokens.get(at - 1)).map_or(0, |token| frame(*token));
    // a window that ends where it began would be heard without end
    let further = if single || closed == 0 { frames } else { closed };
    (segments, further)
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::marks;
    use super::*;

    fn segment(start: usize, end: usize, tokens: &[u32]) -> Segment {
        Segment { start, end, tokens: tokens.to_vec() }
    }

    #[test]
    fn windows_are_cut_where_times_stand_side_by_side() {
        // times are 17 and more, texts below 10
        for (tokens, wanted, further) in [
            (&[][..], vec![segment(100, 400, &[])], 300),
            (&[1, 2], vec![segment(100, 400, &[1, 2])], 300),
            (&[17, 1, 2], vec![segment(100, 400, &[1, 2])], 300),
            (&[17, 1, 22], vec![segment(100, 110, &[1])], 300),
            (&[17, 1, 19, 19, 2], vec![segment(100, 104, &[1])], 4),
            (&[17, 1, 19, 20, 2, 22], vec![segment(100, 104, &[1]), segment(106, 110, &[2])], 300),
            (&[17, 1, 19, 20, 2, 21, 21], vec![segment(100, 104, &[1]), segment(106, 108, &[2])], 8),
            (&[17, 1, 17, 17, 2], vec![segment(100, 100, &[1])], 300),
        ] {
            assert_eq!(cut(&marks(), tokens, 100, 300), (wanted, further), "{tokens:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_window_always_goes_further(tokens in proptest::collection::vec(0_u32..40, 0..30), frames in 1_usize..3000) {
            let (segments, further) = cut(&marks(), &tokens, 7, frames);
            proptest::prop_assert!(further > 0 && segments.iter().all(|segment| segment.start >= 7));
        }
    }
}
