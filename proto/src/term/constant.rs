//! Constant objects of a query, written in their binary form straight from the tape: their values are never built one by one.
//!
//! Always: what is written is what [`document::encode`] makes of the constant, and may be stored. What could hide an error (equal keys, a
//! `$reql_type$`, an array that might be too long) or is nested deeply is no constant here.

use std::rc::Rc;

use simd_json::{Node, StaticNode};

use super::number;
use super::parse::{as_number, behind};
use crate::datum::document::{self, BodyWriter, tag};
use crate::datum::{Datum, Slice, pseudo};
use crate::limits;

/// Levels of objects and arrays in each other. An attempt that fails is made again inside, so this bounds how often.
pub const LEVELS_MAX: u32 = 16;

/// Writes constants one after another, with buffers that are kept.
#[derive(Default)]
pub struct Writer {
    out: Vec<u8>,
    /// Where the values of the objects under way are, by their keys' places.
    pairs: Vec<(usize, usize)>,
}

impl Writer {
    /// The object at `at`, if it is constant and its arrays have at most so many elements.
    pub fn object(&mut self, nodes: &[Node<'_>], at: usize, elements_max: usize) -> Option<Datum> {
        self.out.clear();
        self.pairs.clear();
        let elements_max = elements_max.min(limits::ARRAY_ELEMENTS_STORED_MAX);
        self.value(nodes, at, elements_max, 0)?;
        Some(document::decode_storable(Slice::new(Rc::from(self.out.as_slice()))))
    }

    /// Gives back what a large query took.
    pub fn release(&mut self) {
        *self = Writer::default();
    }

    fn value(&mut self, nodes: &[Node<'_>], at: usize, elements_max: usize, level: u32) -> Option<()> {
        match &nodes[at] {
            Node::String(text) => {
                self.out.push(tag::STRING);
                document::put_bytes(text.as_bytes(), &mut self.out);
            }
            Node::Static(StaticNode::Null) => self.out.push(tag::NULL),
            Node::Static(StaticNode::Bool(false)) => self.out.push(tag::FALSE),
            Node::Static(StaticNode::Bool(true)) => self.out.push(tag::TRUE),
            node @ Node::Static(StaticNode::I64(_) | StaticNode::U64(_) | StaticNode::F64(_)) => {
                let number = as_number(node).filter(|number| number.is_finite())?;
                document::encode_number(number, &mut self.out);
            }
            Node::Object { .. } | Node::Array { .. } if level == LEVELS_MAX => return None,
            Node::Object { len, .. } => self.pairs(nodes, at, *len, elements_max, level + 1)?,
            Node::Array { len, .. } => self.items(nodes, at, *len, elements_max, level + 1)?,
        }
        Some(())
    }

    fn pairs(
        &mut self,
        nodes: &[Node<'_>],
        at: usize,
        len: usize,
        elements_max: usize,
        level: u32,
    ) -> Option<()> {
        let key = |at: usize| match nodes[at] {
            Node::String(key) => key,
            _ => unreachable!("an object's keys are strings"),
        };
        let first = self.pairs.len();
        let mut place = at + 1;
        for _ in 0..len {
            self.pairs.push((place, place + 1));
            place = behind(nodes, place + 1);
        }
        let own = &mut self.pairs[first..];
        own.sort_unstable_by_key(|(at, _)| key(*at));
        if own.windows(2).any(|two| key(two[0].0) == key(two[1].0))
            || own.iter().any(|(at, _)| key(*at) == pseudo::TYPE_KEY)
        {
            return None;
        }
        let mut body = BodyWriter::begin(tag::OBJECT, &mut self.out);
        body.count(len);
        let start = body.leave();
        for index in first..first + len {
            let (at, value) = self.pairs[index];
            document::put_bytes(key(at).as_bytes(), &mut self.out);
            self.value(nodes, value, elements_max, level)?;
        }
        self.pairs.truncate(first);
        let mut body = BodyWriter::again(start, &mut self.out);
        body.add_directory();
        body.end();
        Some(())
    }

    /// An array's items: those of the term MAKE_ARRAY.
    fn items(
        &mut self,
        nodes: &[Node<'_>],
        at: usize,
        len: usize,
        elements_max: usize,
        level: u32,
    ) -> Option<()> {
        let is_array = len > 0 && as_number(&nodes[at + 1]) == Some(f64::from(number::MAKE_ARRAY));
        let count = match (is_array, len) {
            (true, 1) => 0,
            (true, 2) => match nodes[at + 2] {
                Node::Array { len, .. } if len <= elements_max => len,
                _ => return None,
            },
            (_, _) => return None,
        };
        let mut body = BodyWriter::begin(tag::ARRAY, &mut self.out);
        body.count(count);
        let start = body.leave();
        let mut item = at + 3;
        for _ in 0..count {
            self.value(nodes, item, elements_max, level)?;
            item = behind(nodes, item);
        }
        BodyWriter::again(start, &mut self.out).end();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::datum::properties::values;
    use crate::datum::{Datum, document, json};
    use crate::term::Term;
    use crate::term::parse::{Parser, QueryMessage};

    /// A value as drivers send it; `None` where it is no constant.
    fn sent(datum: &Datum) -> Option<String> {
        Some(match datum {
            Datum::Array(items) => {
                let items: Option<Vec<String>> = items.iter().map(|item| sent(&item)).collect();
                format!("[2,[{}]]", items?.join(","))
            }
            Datum::Object(object) => {
                let pair = |(key, value): (crate::datum::Text, Datum)| {
                    Some(format!("{}:{}", json::to_string(&Datum::String(key)), sent(&value)?))
                };
                let pairs: Option<Vec<String>> = object.iter().map(pair).collect();
                format!("{{{}}}", pairs?.join(","))
            }
            Datum::Binary(_) | Datum::Time(_) | Datum::MinVal | Datum::MaxVal => return None,
            Datum::Null | Datum::Bool(_) | Datum::Number(_) | Datum::String(_) => json::to_string(datum),
        })
    }

    fn parsed(text: &str) -> Term {
        match Parser::default().parse(&mut format!("[1,{text}]").into_bytes()) {
            Ok(QueryMessage::Start { term, .. }) => term,
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_value(datum in values()) {
            let datum = Datum::object([("value", datum)]);
            if let Some(text) = sent(&datum) {
                let Term::Datum(found) = parsed(&text) else { panic!("{text} is constant") };
                prop_assert_eq!(document::to_bytes(&found), document::to_bytes(&datum));
                prop_assert!(found.is_storable_at(0));
            }
        }
    }

    #[test]
    fn what_is_deeper_than_constants_go_is_left_to_be_evaluated() {
        let nested = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert!(matches!(parsed(&nested(16)), Term::Datum(_)));
        let Term::Call(deeper) = parsed(&nested(17)) else { panic!("17 levels are no constant") };
        assert!(matches!(deeper.options.as_slice(), [(_, Term::Datum(_))]));
    }
}
