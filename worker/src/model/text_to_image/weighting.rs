//! Weights in prompts: `(words:1.3)` weighs words, `(words)` by 1.1, `[words]` by 1/1.1; `\(` is a plain bracket.

/// Limits of a weight: beyond them a picture falls apart.
const LEAST: f32 = 0.0;
const MOST: f32 = 3.0;
/// What a pair of brackets without a number does.
const STEP: f32 = 1.1;

/// A part of a prompt whose words weigh the same.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    pub(super) text: String,
    pub(super) weight: f32,
}

/// An open bracket: which, and where its parts begin.
struct Open {
    round: bool,
    from: usize,
}

/// The parts of a prompt. Brackets that do not pair up end with the prompt.
pub(super) fn weighted(prompt: &str) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut text = String::new();
    let flush = |text: &mut String, parts: &mut Vec<Part>| {
        if !text.is_empty() {
            parts.push(Part { text: std::mem::take(text), weight: 1.0 });
        }
    };
    let mut letters = prompt.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.peek().is_some_and(|next| "()[]\\".contains(*next)) => text.extend(letters.next()),
            '(' | '[' => {
                flush(&mut text, &mut parts);
                open.push(Open { round: letter == '(', from: parts.len() });
            }
            ')' | ']' if open.last().is_some_and(|open| open.round == (letter == ')')) => {
                let number = if letter == ')' { take_number(&mut text) } else { None };
                flush(&mut text, &mut parts);
                let Some(Open { round, from }) = open.pop() else { continue };
                let factor = number.unwrap_or(if round { STEP } else { 1.0 / STEP });
                scale(&mut parts, from, factor);
            }
            other => text.push(other),
        }
    }
    flush(&mut text, &mut parts);
    for Open { round, from } in open.into_iter().rev() {
        scale(&mut parts, from, if round { STEP } else { 1.0 / STEP });
    }
    for part in &mut parts {
        part.weight = part.weight.clamp(LEAST, MOST);
    }
    merged(parts)
}

fn scale(parts: &mut [Part], from: usize, factor: f32) {
    for part in parts.iter_mut().skip(from) {
        part.weight *= factor;
    }
}

/// Takes `:1.3` off the end of a text.
fn take_number(text: &mut String) -> Option<f32> {
    let (before, number) = text.rsplit_once(':')?;
    let number: f32 = number.trim().parse().ok().filter(|number: &f32| number.is_finite())?;
    let length = before.len();
    text.truncate(length);
    Some(number)
}

/// Neighbours of one weight together, so that words are tokenized with their neighbours where they can be.
fn merged(parts: Vec<Part>) -> Vec<Part> {
    let mut merged: Vec<Part> = Vec::new();
    for part in parts {
        match merged.last_mut() {
            Some(last) if (last.weight - part.weight).abs() < f32::EPSILON => last.text.push_str(&part.text),
            _ => merged.push(part),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_weigh_what_they_hold() {
        let cases: [(&str, &[(&str, f32)]); 10] = [
            ("a cat", &[("a cat", 1.0)]),
            ("", &[]),
            ("a (red:1.5) cat", &[("a ", 1.0), ("red", 1.5), (" cat", 1.0)]),
            ("(a) [b]", &[("a", 1.1), (" ", 1.0), ("b", 1.0 / 1.1)]),
            ("((a:2) b:0.5)", &[("a", 1.0), (" b", 0.5)]),
            (r"a \(b\) c", &[("a (b) c", 1.0)]),
            ("(a: b)", &[("a: b", 1.1)]),
            ("(a", &[("a", 1.1)]),
            ("a) b]", &[("a) b]", 1.0)]),
            ("(a:99)", &[("a", 3.0)]),
        ];
        for (prompt, known) in cases {
            let found = weighted(prompt);
            assert_eq!(found.len(), known.len(), "{prompt}: {found:?}");
            for (found, (text, weight)) in found.iter().zip(known) {
                assert_eq!(found.text, *text, "{prompt}");
                assert!((found.weight - weight).abs() < 1e-6, "{prompt}: {found:?}");
            }
        }
    }
}
