//! Functions in the words of the JavaScript driver, as `info`, `index_status` and `get_write_hook` show them to people.

use photondb_proto::datum::{Datum, Text, json};
use photondb_proto::term::{Call, Term, number};

use crate::function::Function;
use crate::terms;

/// `function(var1) { return … }`. Captured variables keep their names.
pub fn of_function(function: &Function) -> String {
    let mut out = String::new();
    match function.anatomy() {
        Some((parameters, body, _)) => write_function(parameters, &body.to_term(), &mut out),
        None => out.push_str("function() { }"),
    }
    out
}

/// Terms and values of a query that is still shown whole.
const SHOWN_NODES: usize = 2_000;
/// Characters of text in them.
const SHOWN_CHARACTERS: usize = 4_000;

/// A query for people to recognise. Of one that is large only its outermost term is shown, so that showing it costs little.
pub fn of_query(term: &Term) -> String {
    let mut out = String::new();
    let mut left = (SHOWN_NODES, SHOWN_CHARACTERS);
    match (is_small(term, &mut left), term) {
        (true, _) => write_term(term, Position::Alone, &mut out),
        (false, Term::Call(call)) => {
            let name = terms::find(call.number).map_or("TERM", |def| def.name);
            out = format!("r.{}(...)", name.to_lowercase());
        }
        (false, Term::Datum(_)) => out.push_str("r.expr(...)"),
    }
    out
}

/// Whether a term has no more in it than is left of these nodes and characters.
fn is_small(term: &Term, left: &mut (usize, usize)) -> bool {
    if left.0 == 0 {
        return false;
    }
    left.0 -= 1;
    match term {
        Term::Datum(datum) => {
            let bytes = datum.approximate_bytes();
            let fits = bytes <= left.1;
            left.1 = left.1.saturating_sub(bytes);
            fits
        }
        Term::Call(call) => {
            call.arguments.iter().all(|argument| is_small(argument, left))
                && call.options.iter().all(|(_, option)| is_small(option, left))
        }
    }
}

fn write_function(parameters: &[i64], body: &Term, out: &mut String) {
    out.push_str("function(");
    for (index, id) in parameters.iter().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        write_variable(*id, out);
    }
    out.push_str(") { return ");
    write_term(body, Position::Alone, out);
    out.push_str("; }");
}

/// Drivers give their own functions positive numbers; RethinkDB makes negative ones for field names and `r.row`.
fn write_variable(id: i64, out: &mut String) {
    let name = if id < 0 { "_var" } else { "var" };
    out.push_str(&format!("{name}{}", id.unsigned_abs()));
}

/// Where a term stands: plain data before a method or alone must be wrapped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Alone,
    Argument,
}

fn write_term(term: &Term, position: Position, out: &mut String) {
    let call = match term {
        Term::Datum(datum) => return write_datum(datum, position, out),
        Term::Call(call) => call,
    };
    match (call.number, call.arguments.as_slice()) {
        (number::VAR, [Term::Datum(Datum::Number(id))]) => write_variable(*id as i64, out),
        (number::IMPLICIT_VAR, _) => out.push_str("r.row"),
        (number::FUNC, [Term::Datum(Datum::Array(ids)), body]) => {
            let ids: Vec<i64> = ids
                .iter()
                .filter_map(|id| match id {
                    Datum::Number(id) => Some(id as i64),
                    _ => None,
                })
                .collect();
            match ids.is_empty() {
                // An option that is evaluated when it is needed.
                true => write_term(body, position, out),
                false => write_function(&ids, body, out),
            }
        }
        (number::MAKE_ARRAY, items) => wrapped(position, out, |out| {
            out.push('[');
            write_list(items, out);
            out.push(']');
        }),
        (number::MAKE_OBJ, _) => wrapped(position, out, |out| write_pairs(&call.options, out)),
        (number::BRACKET, [receiver, key]) => {
            write_term(receiver, Position::Alone, out);
            out.push('(');
            write_term(key, Position::Argument, out);
            out.push(')');
        }
        (number::FUNCALL, [function, arguments @ ..]) => {
            let (first, rest) = arguments.split_first().map_or((None, arguments), |(a, b)| (Some(a), b));
            out.push_str("r.do(");
            for argument in first.into_iter().chain(rest) {
                write_term(argument, Position::Argument, out);
                out.push_str(", ");
            }
            write_term(function, Position::Argument, out);
            out.push(')');
        }
        (_, arguments) => write_call(call, arguments, out),
    }
}

/// Terms that are called on `r`, not on a value.
fn stands_alone(term: u32) -> bool {
    use number::*;
    matches!(
        term,
        ARGS | BRANCH
            | ERROR
            | JSON
            | HTTP
            | JAVASCRIPT
            | NOW
            | TIME
            | EPOCH_TIME
            | ISO8601
            | UUID
            | RANDOM
            | RANGE
            | LITERAL
            | OBJECT
            | POINT
            | LINE
            | POLYGON
            | CIRCLE
            | GEOJSON
            | DB
            | BINARY
            | ASC
            | DESC
    )
}

fn write_call(call: &Call, arguments: &[Term], out: &mut String) {
    let (receiver, rest) = match arguments.split_first() {
        Some((receiver, rest)) if !stands_alone(call.number) => (Some(receiver), rest),
        Some(_) | None => (None, arguments),
    };
    match receiver {
        Some(receiver) => write_term(receiver, Position::Alone, out),
        None => out.push('r'),
    }
    out.push('.');
    out.push_str(&method_name(call.number));
    let is_constant = matches!(call.number, number::MINVAL | number::MAXVAL)
        || (number::MONDAY..=number::DECEMBER).contains(&call.number);
    if is_constant {
        return;
    }
    out.push('(');
    write_list(rest, out);
    if !call.options.is_empty() {
        out.push_str(if rest.is_empty() { "" } else { ", " });
        write_pairs(&call.options, out);
    }
    out.push(')');
}

/// `getField` of GET_FIELD.
fn method_name(term: u32) -> String {
    let name = match term {
        number::FUNCALL => "DO",
        number::JAVASCRIPT => "JS",
        number::MINVAL => return "minval".into(),
        number::MAXVAL => return "maxval".into(),
        _ => terms::find(term).map_or("UNKNOWN", |def| def.name),
    };
    let mut words = name.split('_').map(str::to_ascii_lowercase);
    let mut method = words.next().unwrap_or_default();
    for word in words {
        let (first, rest) = word.split_at(word.len().min(1));
        method.push_str(&first.to_ascii_uppercase());
        method.push_str(rest);
    }
    method
}

fn write_list(items: &[Term], out: &mut String) {
    for (index, item) in items.iter().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        write_term(item, Position::Argument, out);
    }
}

fn write_pairs(pairs: &[(Text, Term)], out: &mut String) {
    out.push('{');
    for (index, (key, value)) in pairs.iter().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        out.push_str(&json::to_string(&Datum::String(key.clone())));
        out.push_str(": ");
        write_term(value, Position::Argument, out);
    }
    out.push('}');
}

fn wrapped(position: Position, out: &mut String, write: impl FnOnce(&mut String)) {
    match position {
        Position::Alone => {
            out.push_str("r.expr(");
            write(out);
            out.push(')');
        }
        Position::Argument => write(out),
    }
}

fn write_datum(datum: &Datum, position: Position, out: &mut String) {
    wrapped(position, out, |out| match datum {
        Datum::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_datum(&item, Position::Argument, out);
            }
            out.push(']');
        }
        Datum::Object(object) => {
            out.push('{');
            for (index, (key, value)) in object.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                out.push_str(&json::to_string(&Datum::String(key)));
                out.push_str(": ");
                write_datum(&value, Position::Argument, out);
            }
            out.push('}');
        }
        Datum::MinVal => out.push_str("r.minval"),
        Datum::MaxVal => out.push_str("r.maxval"),
        Datum::Null
        | Datum::Bool(_)
        | Datum::Number(_)
        | Datum::String(_)
        | Datum::Binary(_)
        | Datum::Time(_) => out.push_str(&json::to_string(datum)),
    });
}
