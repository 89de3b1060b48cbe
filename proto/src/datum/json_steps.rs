//! Large values as JSON, in steps: a core that prints 60 MB in one piece answers nobody else meanwhile.
//!
//! Always: the text is that of [`super::json::write`]. What is small is printed at once; only large containers and long text are
//! walked here, with a stack of their own.

use super::json::{self, Written};
use super::{Array, Datum, Object, Text};

/// A container of an encoded value with fewer bytes, and text that is shorter, is printed at once.
const SMALL_BYTES: usize = 16 << 10;

/// Values of more bytes than this, or so many parts that they may have as many, are large: to print them takes long.
const LARGE_BYTES: usize = 64 << 10;
/// What a part of a built value counts for at least.
const PART_BYTES: usize = 16;

/// Whether a value had better be printed in steps. Looks at no more of it than that takes.
pub fn is_large(datum: &Datum) -> bool {
    !is_within(datum, &mut { LARGE_BYTES })
}

/// Takes what a value counts for from what is `left`; false when there is not enough.
fn is_within(datum: &Datum, left: &mut usize) -> bool {
    let bytes = match datum {
        Datum::String(text) => text.as_bytes().len(),
        Datum::Binary(bytes) => bytes.len(),
        Datum::Array(array) => array.encoded().map_or(0, super::View::bytes),
        Datum::Object(object) => object.encoded().map_or(0, super::View::bytes),
        Datum::MinVal | Datum::Null | Datum::Bool(_) | Datum::Number(_) | Datum::Time(_) | Datum::MaxVal => 0,
    };
    match left.checked_sub(bytes + PART_BYTES) {
        Some(rest) => *left = rest,
        None => return false,
    }
    match datum {
        Datum::Array(array) if array.encoded().is_none() => array.iter().all(|item| is_within(&item, left)),
        Datum::Object(object) if object.encoded().is_none() => {
            object.iter().all(|(_, value)| is_within(&value, left))
        }
        _ => true,
    }
}

/// A value being printed.
pub struct Printing {
    levels: Vec<Level>,
    bytes_max: usize,
    bound: Option<&'static str>,
}

/// What is being printed at one level of the value, and how much of it has been.
enum Level {
    Items { array: Array, place: Place },
    Pairs { object: Object, place: Place },
    Text { text: Text, printed: usize },
}

/// Where the next item of a container is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    pub index: usize,
    /// In the bytes of a view; 0 at its beginning.
    pub at: usize,
}

impl Printing {
    /// `bytes_max`: a longer text is given up.
    pub fn new(datum: &Datum, bytes_max: usize, out: &mut Vec<u8>) -> Printing {
        let mut printing = Printing { levels: Vec::new(), bytes_max, bound: None };
        printing.enter(datum, out);
        printing
    }

    /// Prints about `bytes` more; gives what became of the value once that is known.
    pub fn step(&mut self, bytes: usize, out: &mut Vec<u8>) -> Option<Written> {
        let enough = out.len().saturating_add(bytes);
        while let Some(level) = self.levels.last_mut() {
            if out.len() > self.bytes_max {
                return Some(Written::TooLarge);
            }
            if out.len() >= enough {
                return None;
            }
            match level {
                Level::Items { array, place } => {
                    let is_first = place.index == 0;
                    match array.item_at(place) {
                        Some(item) => {
                            if !is_first {
                                out.push(b',');
                            }
                            self.enter(&item, out);
                        }
                        None => self.leave(b']', out),
                    }
                }
                Level::Pairs { object, place } => {
                    let is_first = place.index == 0;
                    match object.pair_at(place) {
                        Some((key, value)) => {
                            if !is_first {
                                out.push(b',');
                            }
                            json::write_string(key.as_bytes(), out);
                            out.push(b':');
                            self.enter(&value, out);
                        }
                        None => self.leave(b'}', out),
                    }
                }
                Level::Text { text, printed } => {
                    let rest = &text.as_bytes()[*printed..];
                    let part = &rest[..rest.len().min(SMALL_BYTES)];
                    json::write_escaped(part, out);
                    *printed += part.len();
                    if part.len() == rest.len() {
                        self.leave(b'"', out);
                    }
                }
            }
            if let Some(name) = self.bound {
                return Some(Written::Bound(name));
            }
        }
        Some(match self.bound {
            Some(name) => Written::Bound(name),
            None if out.len() > self.bytes_max => Written::TooLarge,
            None => Written::Whole,
        })
    }

    fn leave(&mut self, closing: u8, out: &mut Vec<u8>) {
        out.push(closing);
        self.levels.pop();
    }

    /// Prints a small value, begins a large one.
    fn enter(&mut self, datum: &Datum, out: &mut Vec<u8>) {
        let is_small = |view: Option<&super::View>| view.is_some_and(|view| view.bytes() < SMALL_BYTES);
        match datum {
            Datum::Array(array) if !is_small(array.encoded()) => {
                out.push(b'[');
                self.levels.push(Level::Items { array: array.clone(), place: Place::default() });
            }
            Datum::Object(object) if !is_small(object.encoded()) => {
                out.push(b'{');
                self.levels.push(Level::Pairs { object: object.clone(), place: Place::default() });
            }
            Datum::String(text) if text.as_bytes().len() >= SMALL_BYTES => {
                out.push(b'"');
                self.levels.push(Level::Text { text: text.clone(), printed: 0 });
            }
            small => {
                if let Written::Bound(name) = json::write_within(small, usize::MAX, out) {
                    self.bound = Some(name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::document;

    fn stepped(datum: &Datum, step: usize, bytes_max: usize) -> (Written, usize, Vec<u8>) {
        let (mut out, mut steps) = (Vec::new(), 1);
        let mut printing = Printing::new(datum, bytes_max, &mut out);
        loop {
            match printing.step(step, &mut out) {
                Some(written) => return (written, steps, out),
                None => steps += 1,
            }
        }
    }

    fn large() -> Datum {
        let numbers =
            Datum::array((0..20_000).map(|number| Datum::Number(f64::from(number) * 0.5)).collect());
        let text = Datum::string(&"\"é\n".repeat(20_000));
        let inner = Datum::object([
            ("numbers", numbers.clone()),
            ("text", text.clone()),
            ("empty", Datum::array(vec![])),
        ]);
        // With a directory, whose pairs stand in another order.
        let long = |letter: &str| Datum::string(&letter.repeat(5_000));
        let wide = Datum::object([
            ("a", long("a")),
            ("b", Datum::Number(1.0)),
            ("c", long("c")),
            ("d", long("d")),
            ("e", Datum::Null),
            ("f", long("f")),
        ]);
        Datum::array(vec![inner.clone(), Datum::Null, numbers, Datum::object([]), text, wide, inner])
    }

    #[test]
    fn a_value_printed_in_steps_reads_as_one_printed_at_once() {
        let built = large();
        let view = document::from_bytes(&document::to_bytes(&built));
        let want = json::to_string(&built);
        for datum in [built, view] {
            assert!(is_large(&datum) && !is_large(&Datum::array(vec![Datum::Null; 100])));
            for step in [1, 1000, 1 << 16, usize::MAX] {
                let (written, steps, out) = stepped(&datum, step, usize::MAX);
                assert_eq!(written, Written::Whole);
                assert!(out == want.as_bytes(), "steps of {step}");
                // No step is much longer than it should be.
                assert!(
                    steps >= want.len() / (step.saturating_add(8 * SMALL_BYTES)),
                    "{steps} steps of {step}"
                );
            }
        }
        assert_eq!(stepped(&Datum::Null, 1, 100).2, b"null");
    }

    #[test]
    fn what_has_no_text_or_too_much_is_told() {
        let (written, _, out) = stepped(&large(), 1000, 100_000);
        assert_eq!(written, Written::TooLarge);
        assert!(out.len() < 200_000);
        let bound = Datum::array(vec![large(), Datum::MaxVal]);
        assert_eq!(stepped(&bound, 1000, usize::MAX).0, Written::Bound("r.maxval"));
        assert_eq!(stepped(&Datum::MinVal, 1000, usize::MAX).0, Written::Bound("r.minval"));
    }
}
