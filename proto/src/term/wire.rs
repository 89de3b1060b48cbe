//! Terms as bytes: functions that travel to the cores (later: nodes) that own the data.
//!
//! | tag | term | payload |
//! |---|---|---|
//! | 0 | constant | length (varint), the value as in [`crate::datum::document`] |
//! | 1 | call | number (varint); count (varint) and arguments; count (varint) and options, each a key (length, text) and a term |
//!
//! A function ([`Function`]) is its term with what it captured and where it stands in the query, so that it evaluates,
//! and fails, as it would at home. The bytes come from our own cores, yet they are checked like a stranger's.

use super::{Call, Term, number};
use crate::datum::document::{self, put_bytes, put_varint, varint_at};
use crate::datum::{Datum, Slice, Text};
use crate::error::Frame;
use crate::limits;

const CONSTANT: u8 = 0;
const CALL: u8 = 1;
const FRAME_ARGUMENT: u8 = 0;
const FRAME_OPTIONAL: u8 = 1;
const ROW_NONE: u8 = 0;
const ROW_SOME: u8 = 1;

/// A function on its way: the term (a FUNC, or a constant that stands for one), the outer variables and row it uses, and
/// its place.
#[derive(Clone, Debug)]
pub struct Function {
    pub term: Term,
    pub captured: Vec<(i64, Datum)>,
    /// What `r.row` is around the function, when its body uses the row of an enclosing function.
    pub row: Option<Datum>,
    pub place: Vec<Frame>,
}

impl Function {
    /// The same function with variables numbered as they appear, so that equal functions have equal bytes.
    #[must_use]
    pub fn renumbered(mut self) -> Function {
        let mut known = Vec::new();
        for (variable, _) in &mut self.captured {
            *variable = renumber(*variable, &mut known);
        }
        renumber_in(&mut self.term, &mut known);
        self
    }
}

fn renumber(variable: i64, known: &mut Vec<i64>) -> i64 {
    let place = known.iter().position(|other| *other == variable).unwrap_or_else(|| {
        known.push(variable);
        known.len() - 1
    });
    place as i64
}

fn renumber_in(term: &mut Term, known: &mut Vec<i64>) {
    let Term::Call(call) = term else { return };
    let mut fresh = |datum: &Datum| match datum {
        Datum::Number(variable) => Datum::Number(renumber(*variable as i64, known) as f64),
        other => other.clone(),
    };
    match (call.number, call.arguments.first_mut()) {
        (number::VAR, Some(Term::Datum(variable))) => *variable = fresh(variable),
        (number::FUNC, Some(Term::Datum(Datum::Array(variables)))) => {
            let variables = variables.iter().map(|variable| fresh(&variable)).collect();
            call.arguments[0] = Term::Datum(Datum::array(variables));
        }
        (number::FUNC, Some(Term::Call(variables))) => {
            for variable in &mut variables.arguments {
                if let Term::Datum(variable) = variable {
                    *variable = fresh(variable);
                }
            }
        }
        _ => {}
    }
    call.arguments.iter_mut().for_each(|argument| renumber_in(argument, known));
    call.options.iter_mut().for_each(|(_, option)| renumber_in(option, known));
}

/// Bytes that are not a term or function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} of an encoded function is not what it should be")]
pub struct WireError {
    pub at: usize,
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    put_varint(u32::try_from(count).expect("counts of a query fit"), out);
}

/// Appends a term.
pub fn put_term(term: &Term, out: &mut Vec<u8>) {
    match term {
        Term::Datum(datum) => {
            out.push(CONSTANT);
            put_bytes(&document::to_bytes(datum), out);
        }
        Term::Call(call) => {
            out.push(CALL);
            put_varint(call.number, out);
            put_count(call.arguments.len(), out);
            for argument in &call.arguments {
                put_term(argument, out);
            }
            put_count(call.options.len(), out);
            for (key, option) in &call.options {
                put_bytes(key.as_bytes(), out);
                put_term(option, out);
            }
        }
    }
}

/// The term that [`put_term`] wrote at `at`, in bytes that this process made; its constants are views that share them.
///
/// # Panics
/// When the bytes are not those of a term that the parser made.
pub fn shared_term(bytes: &Slice, at: &mut usize) -> Term {
    const WHOLE: &str = "this process wrote the whole term";
    let tag = bytes[*at];
    *at += 1;
    let number = |at: &mut usize| {
        let (number, end) = varint_at(bytes, *at).expect(WHOLE);
        *at = end;
        number
    };
    let part = |at: &mut usize| {
        let length = number(at) as usize;
        let (start, end) = (*at, *at + length);
        *at = end;
        bytes.part(start, end)
    };
    if tag == CONSTANT {
        return Term::Datum(document::decode_storable(part(at)));
    }
    assert_eq!(tag, CALL, "{WHOLE}");
    let term_number = number(at);
    let arguments = (0..number(at)).map(|_| shared_term(bytes, at)).collect();
    let options = (0..number(at)).map(|_| (Text::from_slice(part(at)), shared_term(bytes, at))).collect();
    Term::Call(Box::new(Call { number: term_number, arguments, options }))
}

/// Appends a function.
pub fn put_function(function: &Function, out: &mut Vec<u8>) {
    put_count(function.place.len(), out);
    for frame in &function.place {
        match frame {
            Frame::Argument(position) => {
                out.push(FRAME_ARGUMENT);
                put_varint(*position, out);
            }
            Frame::Optional(name) => {
                out.push(FRAME_OPTIONAL);
                put_bytes(name.as_bytes(), out);
            }
        }
    }
    put_count(function.captured.len(), out);
    for (variable, value) in &function.captured {
        out.extend_from_slice(&variable.to_le_bytes());
        put_bytes(&document::to_bytes(value), out);
    }
    match &function.row {
        None => out.push(ROW_NONE),
        Some(row) => {
            out.push(ROW_SOME);
            put_bytes(&document::to_bytes(row), out);
        }
    }
    put_term(&function.term, out);
}

/// Reads what [`put_term`], [`put_function`] and their like wrote, front to back.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    pub fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn broken(&self) -> WireError {
        WireError { at: self.at }
    }

    pub fn byte(&mut self) -> Result<u8, WireError> {
        let byte = *self.bytes.get(self.at).ok_or(self.broken())?;
        self.at += 1;
        Ok(byte)
    }

    pub fn varint(&mut self) -> Result<u32, WireError> {
        let (number, end) = varint_at(self.bytes, self.at).ok_or(self.broken())?;
        self.at = end;
        Ok(number)
    }

    /// A count of things that take at least a byte each, so that a broken one cannot reserve memory.
    pub fn count(&mut self) -> Result<usize, WireError> {
        let count = self.varint()? as usize;
        if count > self.bytes.len() - self.at { Err(self.broken()) } else { Ok(count) }
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.varint()? as usize;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or(self.broken())?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    pub fn text(&mut self) -> Result<&'a str, WireError> {
        let at = self.at;
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError { at })
    }

    pub fn datum(&mut self) -> Result<Datum, WireError> {
        let at = self.at;
        let bytes = self.bytes()?;
        document::check(bytes).map_err(|_| WireError { at })?;
        Ok(document::from_bytes(bytes))
    }

    pub fn term(&mut self) -> Result<Term, WireError> {
        self.term_at_depth(0)
    }

    fn term_at_depth(&mut self, depth: u32) -> Result<Term, WireError> {
        if depth > limits::TERM_DEPTH_MAX {
            return Err(self.broken());
        }
        match self.byte()? {
            CONSTANT => Ok(Term::Datum(self.datum()?)),
            CALL => {
                let number = self.varint()?;
                let count = self.count()?;
                let arguments =
                    (0..count).map(|_| self.term_at_depth(depth + 1)).collect::<Result<_, _>>()?;
                let count = self.count()?;
                let options = (0..count)
                    .map(|_| Ok((Text::new(self.text()?), self.term_at_depth(depth + 1)?)))
                    .collect::<Result<_, _>>()?;
                Ok(Term::Call(Box::new(Call { number, arguments, options })))
            }
            _ => Err(self.broken()),
        }
    }

    pub fn function(&mut self) -> Result<Function, WireError> {
        let count = self.count()?;
        let place = (0..count).map(|_| self.frame()).collect::<Result<_, _>>()?;
        let count = self.count()?;
        let captured = (0..count).map(|_| Ok((self.variable()?, self.datum()?))).collect::<Result<_, _>>()?;
        let row = match self.byte()? {
            ROW_NONE => None,
            ROW_SOME => Some(self.datum()?),
            _ => return Err(self.broken()),
        };
        Ok(Function { place, captured, row, term: self.term()? })
    }

    fn frame(&mut self) -> Result<Frame, WireError> {
        match self.byte()? {
            FRAME_ARGUMENT => Ok(Frame::Argument(self.varint()?)),
            FRAME_OPTIONAL => Ok(Frame::Optional(self.text()?.into())),
            _ => Err(self.broken()),
        }
    }

    fn variable(&mut self) -> Result<i64, WireError> {
        let bytes = self.bytes.get(self.at..self.at + 8).ok_or(self.broken())?;
        self.at += 8;
        Ok(i64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::term::parse::{Parser, QueryMessage};

    fn function() -> Function {
        let mut query = br#"[1,[69,[[2,[1]],[24,[[10,[1]],{"a":[10,[7]]}]]]]]"#.to_vec();
        let QueryMessage::Start { term, .. } = Parser::default().parse(&mut query).expect("a query") else {
            panic!("a start")
        };
        let place = vec![Frame::Argument(1), Frame::Optional("default".into())];
        let captured = vec![(7, Datum::string("x")), (-1, Datum::Null)];
        Function { term, captured, row: Some(Datum::array(vec![1.0.into()])), place }
    }

    #[test]
    fn functions_come_back_as_they_went() {
        let mut bytes = Vec::new();
        put_function(&function(), &mut bytes);
        let mut reader = Reader::new(&bytes);
        let found = reader.function().expect("a function");
        assert!(reader.is_at_end());
        assert_eq!(format!("{found:?}"), format!("{:?}", function()));
    }

    #[test]
    fn cut_or_flipped_bytes_are_errors_and_never_panics() {
        let mut bytes = Vec::new();
        put_function(&function(), &mut bytes);
        for end in 0..bytes.len() {
            assert!(Reader::new(&bytes[..end]).function().is_err(), "cut at {end}");
            let mut flipped = bytes.clone();
            flipped[end] ^= 0xff;
            let _ = Reader::new(&flipped).function();
        }
    }
}
