//! Aligns the bytes that came with all that was expected of a peer until it acts again: which of both belong together.
//!
//! Pure. Not here: what becomes of the script (`amend`, `bless`).

use std::collections::BTreeMap;

use crate::script::matching::{End, Variables, Wanted, next_line};

/// Something that was expected.
pub(crate) struct Unit<'a> {
    pub(crate) wanted: &'a Wanted,
    /// It may come.
    pub(crate) is_optional: bool,
}

/// One step through both. Units are numbered; lengths are those of what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It came as it was expected.
    Match { unit: usize, len: usize },
    /// Something came in its place. Length 0: the end.
    Replace { unit: usize, len: usize },
    /// Nothing came in its place.
    Remove { unit: usize },
    /// It did not come, and need not.
    Skip { unit: usize },
    /// Nothing expected it.
    Insert { len: usize },
}

/// Where nothing is alike, one line instead of another still is less than a line removed and one inserted.
const INSERT: u32 = 100;
const REMOVE: u32 = 100;
const REPLACE: u32 = 199;
/// An end instead of a line is said, not left out.
const END: u32 = 50;
/// Where what is left may belong to what follows, nothing is removed while something is left.
const REMOVE_BEFORE_REST: u32 = REPLACE + 1;
/// Steps that are weighed. More is no difference to be looked at by a person.
const MAX_STEPS: usize = 4_000_000;

/// The line that begins with a text, its terminator included; at the end half a line.
pub(crate) fn token(rest: &[u8]) -> usize {
    next_line(rest).map_or(rest.len(), |(_, len)| len)
}

/// How much of what came is it, and what it captures of that.
pub(crate) fn fits(wanted: &Wanted, rest: &[u8], end: Option<&End>) -> Option<(usize, Variables)> {
    match wanted {
        Wanted::Bytes(bytes) => rest.starts_with(bytes).then(|| (bytes.len(), Variables::new())),
        Wanted::Eof | Wanted::Reset | Wanted::Truncated => {
            let is_it = match end {
                Some(End::Eof) => matches!(wanted, Wanted::Eof),
                Some(End::Reset) => matches!(wanted, Wanted::Reset),
                Some(End::Truncated) => matches!(wanted, Wanted::Truncated),
                _ => false,
            };
            (is_it && rest.is_empty()).then(|| (0, Variables::new()))
        }
        Wanted::Line(_) | Wanted::Prefix(_) | Wanted::Pattern(_) => {
            let (line, len) = next_line(rest)?;
            wanted.line(line).map(|captures| (len, captures))
        }
    }
}

/// How long what came instead of this is: as many lines as were expected.
fn instead(wanted: &Wanted, rest: &[u8]) -> usize {
    let Wanted::Bytes(bytes) = wanted else { return token(rest) };
    let whole = bytes.iter().filter(|byte| **byte == b'\n').count();
    let lines = whole + usize::from(bytes.last() != Some(&b'\n'));
    (0..lines).fold(0, |len, _| len + token(&rest[len..]))
}

/// From 0, nothing alike, to 99: by what both begin and end with.
fn alike(wanted: &Wanted, came: &[u8]) -> u32 {
    const LOOK: usize = 512;
    let came = match wanted {
        Wanted::Bytes(_) => came,
        _ => next_line(came).map_or(came, |(line, _)| line),
    };
    let Some(expected) = (match wanted {
        Wanted::Line(bytes) | Wanted::Prefix(bytes) | Wanted::Bytes(bytes) => Some(bytes),
        _ => None,
    }) else {
        return 30;
    };
    let came = if matches!(wanted, Wanted::Prefix(_)) { &came[..came.len().min(expected.len())] } else { came };
    let (short, long) = (expected.len().min(came.len()), expected.len().max(came.len()));
    if long == 0 {
        return 99;
    }
    let look = short.min(LOOK);
    let front = expected.iter().zip(came).take(look).take_while(|(a, b)| a == b).count();
    let back = expected.iter().rev().zip(came.iter().rev()).take(look - front).take_while(|(a, b)| a == b).count();
    ((front + back) * 99 / long.clamp(1, LOOK)).min(99) as u32
}

#[derive(Clone, Copy)]
struct Reached {
    cost: u32,
    /// The step that leads here, and from where in what came.
    by: Option<(Step, usize)>,
}

/// The cheapest way through both. `None` where they are too long to say.
///
/// With `is_open` what is left behind the last unit may belong to what follows, and is left. An end that is left always is.
pub(crate) fn align(units: &[Unit<'_>], rest: &[u8], end: Option<&End>, is_open: bool) -> Option<Vec<Step>> {
    let mut layers: Vec<BTreeMap<usize, Reached>> = vec![BTreeMap::new(); units.len() + 1];
    layers[0].insert(0, Reached { cost: 0, by: None });
    // Behind the end, if there is one.
    let over = rest.len() + 1;
    let mut steps = 0;
    for layer in 0..=units.len() {
        let mut next = layers[layer].first_key_value().map(|(at, reached)| (*at, *reached));
        while let Some((at, here)) = next {
            steps += 1;
            if steps > MAX_STEPS {
                return None;
            }
            let mut reach = |layer: usize, to: usize, cost: u32, step: Step| {
                let cost = here.cost + cost;
                // Of equals the one that takes first what came: the others come to it earlier.
                if layers[layer].get(&to).is_none_or(|reached| cost <= reached.cost) {
                    layers[layer].insert(to, Reached { cost, by: Some((step, at)) });
                }
            };
            let left = rest.get(at..).unwrap_or_default();
            let is_last = layer == units.len();
            if !(left.is_empty() || is_last && is_open) {
                let len = token(left);
                reach(layer, at + len, INSERT, Step::Insert { len });
            }
            if let Some(unit) = units.get(layer) {
                let matched = fits(unit.wanted, left, end).filter(|_| at < over).map(|(len, _)| len);
                let is_end = matches!(unit.wanted, Wanted::Eof | Wanted::Reset | Wanted::Truncated);
                if let Some(len) = matched {
                    let to = if is_end { over } else { at + len };
                    reach(layer + 1, to, 0, Step::Match { unit: layer, len });
                }
                if unit.is_optional {
                    reach(layer + 1, at, 0, Step::Skip { unit: layer });
                } else {
                    if matched.is_none() && !left.is_empty() && !is_end {
                        let len = instead(unit.wanted, left);
                        let cost = REPLACE - alike(unit.wanted, &left[..len]);
                        reach(layer + 1, at + len, cost, Step::Replace { unit: layer, len });
                    }
                    if matched.is_none() && left.is_empty() && at < over && end.is_some() {
                        reach(layer + 1, over, END, Step::Replace { unit: layer, len: 0 });
                    }
                    let cost = if is_open && !left.is_empty() { REMOVE_BEFORE_REST } else { REMOVE };
                    reach(layer + 1, at, cost, Step::Remove { unit: layer });
                }
            }
            next = layers[layer].range(at + 1..).next().map(|(at, reached)| (*at, *reached));
        }
    }
    let last = layers.last()?;
    let finished = |at: &usize| is_open || *at >= rest.len();
    let (at, _) = last.iter().filter(|(at, _)| finished(at)).min_by_key(|(_, reached)| reached.cost)?;
    let (mut layer, mut at) = (units.len(), *at);
    let mut way = Vec::new();
    while let Some((step, from)) = layers[layer].get(&at)?.by {
        way.push(step);
        at = from;
        layer -= usize::from(!matches!(step, Step::Insert { .. }));
    }
    way.reverse();
    Some(way)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Wanted {
        Wanted::Line(text.as_bytes().to_vec())
    }

    #[track_caller]
    fn assert_steps(wanted: &[Wanted], came: &str, end: Option<End>, is_open: bool, steps: &[Step]) {
        let units: Vec<_> = wanted.iter().map(|wanted| Unit { wanted, is_optional: false }).collect();
        assert_eq!(align(&units, came.as_bytes(), end.as_ref(), is_open).as_deref(), Some(steps));
    }

    #[test]
    fn what_came_is_paired_with_what_is_most_like_it() {
        use Step::{Insert, Match, Remove, Replace};
        assert_steps(&[line("a")], "a\n", None, false, &[Match { unit: 0, len: 2 }]);
        assert_steps(&[line("a")], "b\n", None, false, &[Replace { unit: 0, len: 2 }]);
        let two = [line("alpha"), line("beta")];
        let moved = [Remove { unit: 0 }, Match { unit: 1, len: 5 }, Insert { len: 6 }];
        assert_steps(&two, "beta\ngamma\n", None, false, &moved);
        let more = [Insert { len: 4 }, Match { unit: 0, len: 6 }, Replace { unit: 1, len: 6 }];
        assert_steps(&two, "new\nalpha\nbetas\n", None, false, &more);
        // What is left belongs to what follows, and a line to its place.
        assert_steps(&two[..1], "x\ny\n", None, true, &[Replace { unit: 0, len: 2 }]);
        assert_steps(&two[..1], "", None, true, &[Remove { unit: 0 }]);
        // An end is said once.
        let ends = [Replace { unit: 0, len: 0 }, Remove { unit: 1 }];
        assert_steps(&two, "", Some(End::Eof), false, &ends);
        let late = [Match { unit: 0, len: 6 }, Insert { len: 2 }, Match { unit: 1, len: 0 }];
        assert_steps(&[line("alpha"), Wanted::Eof], "alpha\nx\n", Some(End::Eof), false, &late);
    }

    #[test]
    fn exact_bytes_are_as_many_lines_as_before() {
        let two_lines = [Wanted::Bytes(b"a\nb\n".to_vec())];
        assert_steps(
            &two_lines,
            "a\nc\nd\n",
            None,
            false,
            &[Step::Replace { unit: 0, len: 4 }, Step::Insert { len: 2 }],
        );
        let prompt = [Wanted::Bytes(b"login: ".to_vec()), line("Welcome")];
        let within = [Step::Match { unit: 0, len: 7 }, Step::Match { unit: 1, len: 8 }];
        assert_steps(&prompt, "login: Welcome\n", None, false, &within);
        assert_steps(&prompt[..1], "Login: ", None, false, &[Step::Replace { unit: 0, len: 7 }]);
    }
}
