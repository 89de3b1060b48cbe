//! From a query frame's JSON to a [`Term`]: straight from the simd-json tape, with buffers that are kept from query to
//! query.
//!
//! Always: nesting is bounded by [`limits::TERM_DEPTH_MAX`] before it can hurt the stack (simd-json itself keeps its own
//! stack on the heap). Constants are folded as they are read, but never where folding could hide an error or change its
//! place: not objects with equal keys or a `$reql_type$`, not arrays that might be longer than `array_limit`. Objects become views over
//! their binary form ([`constant`]).

use std::cell::RefCell;

use simd_json::{Buffers, Node, StaticNode, Tape};

use super::constant::{self, LEVELS_MAX};
use super::{Call, Term, number};
use crate::datum::{Datum, Text};
use crate::error::{ErrorKind, Frame, QueryError};
use crate::limits;

/// Buffers that grew beyond this for one large query are given back after it.
const KEPT_BYTES: usize = 1 << 20;

/// A message of a client, in the order of the wire's query types.
#[derive(Clone, Debug)]
pub enum QueryMessage {
    Start { term: Term, options: Vec<(Text, Term)> },
    Continue,
    Stop,
    NoreplyWait,
    ServerInfo,
}

/// Reads queries; one serves any number of connections of a core.
#[derive(Default)]
pub struct Parser {
    buffers: Buffers,
    tape: Option<Tape<'static>>,
    constants: RefCell<constant::Writer>,
}

impl Parser {
    /// Parses one query's JSON, which is scribbled on.
    ///
    /// # Errors
    /// Client errors for what is not a query, compile errors for what is not a term, with its place.
    pub fn parse(&mut self, query: &mut [u8]) -> Result<QueryMessage, QueryError> {
        let bytes = query.len();
        if has_lone_surrogate(query) {
            return Err(not_json());
        }
        let mut tape = self.tape.take().map_or_else(|| Tape(Vec::new()), Tape::reset);
        let message = match simd_json::fill_tape(query, &mut self.buffers, &mut tape) {
            Ok(()) => message(&tape.0, &self.constants),
            Err(_) => Err(not_json()),
        };
        if bytes > KEPT_BYTES {
            self.buffers = Buffers::default();
            self.constants.get_mut().release();
        } else {
            self.tape = Some(tape.reset());
        }
        message
    }
}

fn not_json() -> QueryError {
    QueryError::new(ErrorKind::Client, "Client is buggy (failed to deserialize query).")
}

/// Whether a `\u` escape is half a character, which is not JSON; simd-json would take it for a NUL.
fn has_lone_surrogate(query: &[u8]) -> bool {
    let mut rest = query;
    // Most queries have no escape at all, and to see that is cheap.
    while rest.contains(&b'\\') {
        let at = rest.iter().position(|byte| *byte == b'\\').expect("it is contained");
        rest = &rest[at..];
        let Some(first) = surrogate(rest) else {
            rest = rest.get(2..).unwrap_or_default();
            continue;
        };
        let second = rest.get(6..).and_then(surrogate);
        if first >= 0xdc00 || second.is_none_or(|second| second < 0xdc00) {
            return true;
        }
        rest = &rest[12..];
    }
    false
}

/// The code of an escape at the start of `bytes` when it is half of a pair.
fn surrogate(bytes: &[u8]) -> Option<u16> {
    let [b'\\', b'u', digits @ ..] = bytes else { return None };
    let digits = std::str::from_utf8(digits.get(..4)?).ok()?;
    let code = u16::from_str_radix(digits, 16).ok()?;
    (0xd800..0xe000).contains(&code).then_some(code)
}

fn client_error(what: impl std::fmt::Display) -> QueryError {
    QueryError::new(ErrorKind::Client, format!("Server could not parse query: {what}"))
}

fn compile_error(message: impl Into<String>) -> QueryError {
    QueryError::new(ErrorKind::Compile, message)
}

/// The name of a JSON value's type in messages.
fn kind_name(node: &Node<'_>) -> &'static str {
    match node {
        Node::String(_) => "STRING",
        Node::Object { .. } => "OBJECT",
        Node::Array { .. } => "ARRAY",
        Node::Static(StaticNode::Null) => "NULL",
        Node::Static(StaticNode::Bool(_)) => "BOOL",
        Node::Static(StaticNode::I64(_) | StaticNode::U64(_) | StaticNode::F64(_)) => "NUMBER",
    }
}

/// The index behind the value at `at`.
pub(super) fn behind(nodes: &[Node<'_>], at: usize) -> usize {
    match &nodes[at] {
        Node::Object { count, .. } | Node::Array { count, .. } => at + 1 + count,
        Node::String(_) | Node::Static(_) => at + 1,
    }
}

pub(super) fn as_number(node: &Node<'_>) -> Option<f64> {
    match node {
        Node::Static(StaticNode::I64(number)) => Some(*number as f64),
        Node::Static(StaticNode::U64(number)) => Some(*number as f64),
        Node::Static(StaticNode::F64(number)) => Some(*number),
        Node::Static(StaticNode::Null | StaticNode::Bool(_))
        | Node::String(_)
        | Node::Object { .. }
        | Node::Array { .. } => None,
    }
}

fn message(nodes: &[Node<'_>], constants: &RefCell<constant::Writer>) -> Result<QueryMessage, QueryError> {
    let Node::Array { len, .. } = nodes[0] else {
        let found = kind_name(&nodes[0]);
        return Err(client_error(format_args!("Expected a query to be an array, but found {found}.")));
    };
    if !(1..=3).contains(&len) {
        return Err(client_error(format_args!(
            "Expected 1 to 3 elements in the top-level query, but found {len}."
        )));
    }
    let Some(query_type) = as_number(&nodes[1]) else {
        let found = kind_name(&nodes[1]);
        return Err(client_error(format_args!("Expected a query type as a number, but found {found}.")));
    };
    let parts = Parts { term: (len > 1).then_some(2), options: (len > 2).then(|| behind(nodes, 2)) };
    match query_type {
        1.0 => start(nodes, &parts, constants),
        2.0 => Ok(QueryMessage::Continue),
        3.0 => Ok(QueryMessage::Stop),
        4.0 => Ok(QueryMessage::NoreplyWait),
        5.0 => Ok(QueryMessage::ServerInfo),
        other => Err(client_error(format_args!("Unrecognized QueryType: {other}."))),
    }
}

/// Where a query's term and options begin on the tape.
struct Parts {
    term: Option<usize>,
    options: Option<usize>,
}

fn start(
    nodes: &[Node<'_>],
    parts: &Parts,
    constants: &RefCell<constant::Writer>,
) -> Result<QueryMessage, QueryError> {
    let mut folded_elements_max = limits::ARRAY_ELEMENTS_DEFAULT;
    if let Some(at) = parts.options {
        match &nodes[at] {
            Node::Object { .. } => {
                for (_, value) in pairs(nodes, at).filter(|(key, _)| *key == "array_limit") {
                    // What is no number is the evaluator's to refuse.
                    let limit = as_number(&nodes[value]).map_or(0, |limit| limit as usize);
                    folded_elements_max = folded_elements_max.min(limit);
                }
            }
            other => {
                let found = kind_name(other);
                let text = format_args!("Expected global optargs as an object, but found {found}.");
                return Err(client_error(text));
            }
        }
    }
    let reader = Reader { nodes, folded_elements_max, constants };
    let Some(at) = parts.term else {
        return Err(client_error("Expected a query with a term."));
    };
    let term = reader.term(at, 0).map_err(in_order)?;
    let options = match parts.options {
        Some(at) => reader.pairs(at, 0).map_err(in_order)?,
        None => Vec::new(),
    };
    Ok(QueryMessage::Start { term, options })
}

/// Frames are collected from the culprit upwards.
fn in_order(mut error: QueryError) -> QueryError {
    error.backtrace.reverse();
    error
}

/// The keys of the object at `at` with where their values are.
fn pairs<'a>(nodes: &'a [Node<'a>], at: usize) -> impl Iterator<Item = (&'a str, usize)> {
    let end = behind(nodes, at);
    let mut at = at + 1;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let Node::String(key) = nodes[at] else { unreachable!("an object's keys are strings") };
        let value = at + 1;
        at = behind(nodes, value);
        Some((key, value))
    })
}

struct Reader<'a> {
    nodes: &'a [Node<'a>],
    /// Longer arrays are left to the evaluator, which may have to refuse them.
    folded_elements_max: usize,
    constants: &'a RefCell<constant::Writer>,
}

impl Reader<'_> {
    fn term(&self, at: usize, depth: u32) -> Result<Term, QueryError> {
        if depth > limits::TERM_DEPTH_MAX {
            let text = format!("The query nests terms deeper than {} levels.", limits::TERM_DEPTH_MAX);
            return Err(compile_error(text));
        }
        match &self.nodes[at] {
            Node::String(text) => Ok(Term::Datum(Datum::String(Text::new(text)))),
            Node::Static(StaticNode::Null) => Ok(Term::Datum(Datum::Null)),
            Node::Static(StaticNode::Bool(value)) => Ok(Term::Datum(Datum::Bool(*value))),
            node @ Node::Static(StaticNode::I64(_) | StaticNode::U64(_) | StaticNode::F64(_)) => {
                let number = as_number(node).expect("a number");
                if !number.is_finite() {
                    return Err(compile_error(format!("Non-finite number: {number}")));
                }
                Ok(Term::Datum(Datum::Number(number)))
            }
            Node::Object { .. } => self.object(at, depth),
            Node::Array { len, .. } => self.call(at, *len, depth),
        }
    }

    fn object(&self, at: usize, depth: u32) -> Result<Term, QueryError> {
        if depth + 2 * LEVELS_MAX < limits::TERM_DEPTH_MAX
            && let Some(datum) = self.constants.borrow_mut().object(self.nodes, at, self.folded_elements_max)
        {
            return Ok(Term::Datum(datum));
        }
        let options = self.pairs(at, depth)?;
        Ok(Term::Call(Box::new(Call { number: number::MAKE_OBJ, arguments: Vec::new(), options })))
    }

    /// The pairs of the object at `at`, in the order of the text.
    fn pairs(&self, at: usize, depth: u32) -> Result<Vec<(Text, Term)>, QueryError> {
        let Node::Object { len, .. } = self.nodes[at] else { unreachable!("the caller found an object") };
        let mut pairs = Vec::with_capacity(len);
        let mut at = at + 1;
        for _ in 0..len {
            let Node::String(key) = self.nodes[at] else { unreachable!("an object's keys are strings") };
            let value = self.term(at + 1, depth + 1).map_err(|mut error| {
                error.backtrace.push(Frame::Optional(key.into()));
                error
            })?;
            pairs.push((Text::new(key), value));
            at = behind(self.nodes, at + 1);
        }
        Ok(pairs)
    }

    fn call(&self, at: usize, len: usize, depth: u32) -> Result<Term, QueryError> {
        if !(1..=3).contains(&len) {
            let text = format!("Expected between 1 and 3 elements in a raw term, but found {len}.");
            return Err(compile_error(text));
        }
        let number = self.term_number(at + 1)?;
        let second = (len > 1).then_some(at + 2);
        let third = (len > 2).then(|| behind(self.nodes, at + 2));
        let (arguments, options) = match (second, third) {
            (None, _) => (Vec::new(), Vec::new()),
            (Some(second), third) => match (&self.nodes[second], third) {
                (Node::Array { len, .. }, None) => (self.arguments(second, *len, depth)?, Vec::new()),
                (Node::Array { len, .. }, Some(third)) => {
                    if !matches!(self.nodes[third], Node::Object { .. }) {
                        return Err(compile_error("Third element in a Term is not optional arguments."));
                    }
                    (self.arguments(second, *len, depth)?, self.pairs(third, depth)?)
                }
                (Node::Object { .. }, None) => (Vec::new(), self.pairs(second, depth)?),
                (Node::Object { .. }, Some(_)) => {
                    let text = "Second and third element in a term are both optional arguments.";
                    return Err(compile_error(text));
                }
                (Node::String(_) | Node::Static(_), _) => {
                    let text = "Second element in a Term is neither arguments nor optional arguments.";
                    return Err(compile_error(text));
                }
            },
        };
        if number == number::MAKE_ARRAY && options.is_empty() && self.folds(&arguments) {
            let items = arguments.into_iter().map(|term| match term {
                Term::Datum(datum) => datum,
                Term::Call(_) => unreachable!("all are constants"),
            });
            return Ok(Term::Datum(Datum::array(items.collect())));
        }
        Ok(Term::Call(Box::new(Call { number, arguments, options })))
    }

    fn term_number(&self, at: usize) -> Result<u32, QueryError> {
        let Some(number) = as_number(&self.nodes[at]) else {
            let found = kind_name(&self.nodes[at]);
            return Err(compile_error(format!("Expected a TermType as a NUMBER but found {found}.")));
        };
        if number.fract() != 0.0 || !(0.0..=f64::from(u32::MAX)).contains(&number) {
            return Err(compile_error(format!("Unrecognized TermType: {number}.")));
        }
        Ok(number as u32)
    }

    fn arguments(&self, at: usize, len: usize, depth: u32) -> Result<Vec<Term>, QueryError> {
        let mut arguments = Vec::with_capacity(len);
        let mut at = at + 1;
        for index in 0..len {
            let argument = self.term(at, depth + 1).map_err(|mut error| {
                error.backtrace.push(Frame::Argument(index as u32));
                error
            })?;
            arguments.push(argument);
            at = behind(self.nodes, at);
        }
        Ok(arguments)
    }

    fn folds(&self, arguments: &[Term]) -> bool {
        arguments.len() <= self.folded_elements_max
            && arguments.iter().all(|term| matches!(term, Term::Datum(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<QueryMessage, QueryError> {
        Parser::default().parse(&mut text.as_bytes().to_vec())
    }

    #[track_caller]
    fn check(text: &str, want: &str) {
        assert_eq!(format!("{:?}", parse(text).expect("a query")), want);
    }

    #[test]
    fn messages_are_told_apart() {
        check("[2]", "Continue");
        check("[3]", "Stop");
        check("[4]", "NoreplyWait");
        check("[5]", "ServerInfo");
    }

    #[test]
    fn constants_are_folded_where_nothing_is_hidden() {
        let term = |text: &str| match parse(text).expect("a query") {
            QueryMessage::Start { term, .. } => format!("{term:?}"),
            other => panic!("{other:?}"),
        };
        let folded = r#"Datum(Object({"a": Bool(true), "b": Array([Number(1.0), String("x"), Null])}))"#;
        assert_eq!(term(r#"[1,{"b":[2,[1,"x",null]],"a":true}]"#), folded);
        let call = |text: &str| term(text).starts_with("Call");
        assert!(call(r#"[1,{"a":1,"a":2}]"#), "equal keys are an error to be found");
        assert!(call(r#"[1,{"$reql_type$":"X"}]"#), "pseudotypes are converted by the evaluator");
        assert!(!call(r#"[1,[2,[1,2]],{"array_limit":2}]"#));
        assert!(call(r#"[1,[2,[1,2]],{"array_limit":1}]"#), "a limit is broken");
        assert!(call(r#"[1,[2,[1]],{"array_limit":[13,[]]}]"#), "a limit may be broken");
        assert!(call(r#"[1,[24,[1,2]]]"#));
        let long = format!("[1,[2,[{}1]]]", "1,".repeat(100_000));
        assert!(call(&long));
    }

    #[test]
    fn constants_keep_their_value() {
        let constant = |text: &str| match parse(&format!("[1,{text}]")).expect("a query") {
            QueryMessage::Start { term: Term::Datum(datum), .. } => crate::datum::json::to_string(&datum),
            other => panic!("{other:?}"),
        };
        for (text, want) in [
            ("1234567890123456789012345678901234567890", "1.2345678901234568e39"),
            ("-9223372036854775809", "-9223372036854776000.0"),
            ("18446744073709551616", "18446744073709552000.0"),
            ("9007199254740993", "9007199254740992"),
            ("-0", "0"),
            ("-0.0", "-0.0"),
            ("1e-400", "0"),
            (r#""\\ud800 \ud83d\ude00 \u0000""#, r#""\\ud800 😀 \u0000""#),
        ] {
            assert_eq!(constant(text), want);
        }
    }

    #[track_caller]
    fn check_error(text: &str, kind: ErrorKind, message: &str, backtrace: &[Frame]) {
        let error = parse(text).expect_err("not a query");
        assert_eq!((error.kind, error.message.as_str()), (kind, message), "{text}");
        assert_eq!(error.backtrace, backtrace, "{text}");
    }

    #[test]
    fn what_is_not_a_query_is_the_clients_error() {
        for (text, message) in [
            ("{}", "Server could not parse query: Expected a query to be an array, but found OBJECT."),
            (
                "[]",
                "Server could not parse query: Expected 1 to 3 elements in the top-level query, but found 0.",
            ),
            ("[null]", "Server could not parse query: Expected a query type as a number, but found NULL."),
            ("[9]", "Server could not parse query: Unrecognized QueryType: 9."),
            (
                "[1,1,1]",
                "Server could not parse query: Expected global optargs as an object, but found NUMBER.",
            ),
            ("[1,", "Client is buggy (failed to deserialize query)."),
            ("", "Client is buggy (failed to deserialize query)."),
            ("[1,1] x", "Client is buggy (failed to deserialize query)."),
            ("[1,1e400]", "Client is buggy (failed to deserialize query)."),
            (r#"[1,"\ud800"]"#, "Client is buggy (failed to deserialize query)."),
            (r#"[1,"\udc00\ud800"]"#, "Client is buggy (failed to deserialize query)."),
            (r#"[1,"\ud800\n"]"#, "Client is buggy (failed to deserialize query)."),
        ] {
            check_error(text, ErrorKind::Client, message, &[]);
        }
    }

    #[test]
    fn what_is_not_a_term_is_named_with_its_place() {
        let compile = |text: &str, message: &str, backtrace: &[Frame]| {
            check_error(text, ErrorKind::Compile, message, backtrace);
        };
        compile("[1,[]]", "Expected between 1 and 3 elements in a raw term, but found 0.", &[]);
        compile("[1,[\"x\"]]", "Expected a TermType as a NUMBER but found STRING.", &[]);
        let neither = "Second element in a Term is neither arguments nor optional arguments.";
        compile("[1,[24,[1,[24,1]]]]", neither, &[Frame::Argument(1)]);
        let both = "Second and third element in a term are both optional arguments.";
        compile("[1,{\"a\":[1,{},{}]}]", both, &[Frame::Optional("a".into())]);
        compile("[1,[1,[],[]]]", "Third element in a Term is not optional arguments.", &[]);
    }

    #[test]
    fn a_query_nested_10_000_deep_is_refused() {
        for (open, close) in [("[24,[", "]]"), ("{\"a\":", "}"), ("[", "]"), ("[2,[", "]]")] {
            let text = format!("[1,{}1{}]", open.repeat(10_000), close.repeat(10_000));
            let error = parse(&text).expect_err("too deep");
            assert_eq!(error.kind, ErrorKind::Compile);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_an_answer(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = Parser::default().parse(&mut bytes);
        }

        #[test]
        fn any_shape_of_brackets_gives_an_answer(text in "[\\[\\]{},:\"a1 ]{0,60}") {
            let _ = Parser::default().parse(&mut text.into_bytes());
        }

        #[test]
        fn random_terms_give_an_answer(text in term_text()) {
            let _ = Parser::default().parse(&mut format!("[1,{text}]").into_bytes());
        }
    }

    fn term_text() -> impl proptest::strategy::Strategy<Value = String> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just("null".to_owned()),
            "-?[0-9]{1,20}",
            Just("\"x\"".to_owned()),
            Just("1e300".to_owned())
        ];
        leaf.prop_recursive(4, 30, 4, |inner| {
            prop_oneof![
                (0..200u32, proptest::collection::vec(inner.clone(), 0..4))
                    .prop_map(|(number, arguments)| format!("[{number},[{}]]", arguments.join(","))),
                (0..200u32, inner.clone())
                    .prop_map(|(number, value)| format!("[{number},{{\"k\":{value}}}]")),
                proptest::collection::vec(inner, 0..3).prop_map(|items| {
                    let pairs: Vec<String> = items.iter().map(|item| format!("\"k\":{item}")).collect();
                    format!("{{{}}}", pairs.join(","))
                }),
            ]
        })
    }
}
