//! Functions as values: lambdas with the variables they captured, and the data that stand for functions.
//!
//! A function travels to the rows as bytes ([`Function::encode`]) when it [`Function::travels`]: its result depends on nothing but its
//! arguments and captured data, and it asks for nothing. Errors of a function that came by wire name the places of the query
//! it came from.

use std::rc::Rc;

use photondb_proto::datum::{Datum, Object, Text, pseudo};
use photondb_proto::error::Frame;
use photondb_proto::term::{Term, number, wire};

use crate::check::{self, Node, NodeKind, Parameters, Standing};
use crate::eval::{self, Binding, Env, Now, Stop};
use crate::failure::{Failure, Outcome, Place};
use crate::run::Run;
use crate::terms::Determinism;
use crate::terms::object::{fields_of, get_field};
use crate::terms::script::Script;
use crate::value::{Value, wrong_type};

/// A function value.
#[derive(Clone, Debug)]
pub struct Function(Rc<Form>);

#[derive(Debug)]
enum Form {
    Lambda {
        node: Rc<Node>,
        env: Env,
    },
    /// Data in a function's stead.
    Datum {
        datum: Datum,
        meaning: Meaning,
        place: Place,
    },
    Script {
        script: Script,
        place: Place,
    },
}

/// What a datum stands for where a function is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing: it is refused.
    Nothing,
    /// The function that gives it.
    Constant,
    /// The function that takes the field of that name.
    Field,
}

impl Function {
    pub fn lambda(node: Rc<Node>, env: Env) -> Function {
        debug_assert!(matches!(node.kind, NodeKind::Function(_)));
        Function(Rc::new(Form::Lambda { node, env }))
    }

    /// What a script gives.
    pub fn script(script: Script, place: Place) -> Function {
        Function(Rc::new(Form::Script { script, place }))
    }

    pub fn of_datum(datum: Datum, meaning: Meaning, place: Place) -> Function {
        Function(Rc::new(Form::Datum { datum, meaning, place }))
    }

    /// The function that a value is, or that a datum stands for.
    ///
    /// # Errors
    /// `Expected type FUNCTION but found …`, blamed on `place`.
    pub fn from_value(value: &Value, meaning: Meaning, place: &Place) -> Outcome<Function> {
        if let Value::Function(function) = value {
            return Ok(function.clone());
        }
        match (value.as_datum(), meaning) {
            (Some(datum), Meaning::Constant | Meaning::Field) => {
                Ok(Function::of_datum(datum.clone(), meaning, place.clone()))
            }
            (Some(_), Meaning::Nothing) | (None, _) => Err(value.wrong_kind("FUNCTION").at(place)),
        }
    }

    /// Where the function stands.
    pub fn place(&self) -> &Place {
        match &*self.0 {
            Form::Lambda { node, .. } => &node.place,
            Form::Datum { place, .. } | Form::Script { place, .. } => place,
        }
    }

    /// Where its result is blamed.
    pub fn body_place(&self) -> &Place {
        match &*self.0 {
            Form::Lambda { node, .. } => &node.body().place,
            Form::Datum { place, .. } | Form::Script { place, .. } => place,
        }
    }

    /// How many arguments it wants; `None` means any.
    pub fn arity(&self) -> Option<usize> {
        match self.parameters() {
            Some(parameters) if !parameters.variables.is_empty() => Some(parameters.variables.len()),
            Some(_) | None => None,
        }
    }

    fn parameters(&self) -> Option<&Parameters> {
        match &*self.0 {
            Form::Lambda { node, .. } => match &node.kind {
                NodeKind::Function(parameters) => Some(parameters),
                NodeKind::Call
                | NodeKind::Constant(_)
                | NodeKind::Variable(_)
                | NodeKind::Object(_)
                | NodeKind::StrayLiteral => None,
            },
            Form::Datum { .. } | Form::Script { .. } => None,
        }
    }

    pub fn determinism(&self) -> Determinism {
        match &*self.0 {
            Form::Lambda { node, .. } => node.determinism,
            Form::Datum { .. } => Determinism::Always,
            Form::Script { .. } => Determinism::Never,
        }
    }

    /// The constant it gives whatever its arguments, when it is one.
    pub fn constant(&self) -> Option<&Datum> {
        match &*self.0 {
            Form::Datum { datum, meaning: Meaning::Constant, .. } => Some(datum),
            Form::Datum { meaning: Meaning::Nothing | Meaning::Field, .. } | Form::Script { .. } => None,
            Form::Lambda { node, .. } => match &node.body().kind {
                NodeKind::Constant(datum) => Some(datum),
                NodeKind::Call
                | NodeKind::Variable(_)
                | NodeKind::Function(_)
                | NodeKind::Object(_)
                | NodeKind::StrayLiteral => None,
            },
        }
    }

    /// The field that it takes, when it is nothing but that.
    pub fn field(&self) -> Option<&Text> {
        match &*self.0 {
            Form::Datum { datum: Datum::String(field), meaning: Meaning::Field, .. } => Some(field),
            Form::Datum { .. } | Form::Lambda { .. } | Form::Script { .. } => None,
        }
    }

    /// Parameters, body and surroundings of a lambda.
    pub fn anatomy(&self) -> Option<(&[i64], &Rc<Node>, &Env)> {
        match &*self.0 {
            Form::Lambda { node, env } => {
                self.parameters().map(|parameters| (parameters.variables.as_slice(), node.body(), env))
            }
            Form::Datum { .. } | Form::Script { .. } => None,
        }
    }

    /// Whether the body spells out an object: what it gives then is a pattern for FILTER.
    fn spells_object(&self) -> bool {
        match &*self.0 {
            Form::Datum { .. } => true,
            Form::Script { .. } => false,
            Form::Lambda { node, .. } => match &node.body().kind {
                NodeKind::Object(_) | NodeKind::Constant(_) => true,
                NodeKind::Call | NodeKind::Variable(_) | NodeKind::Function(_) | NodeKind::StrayLiteral => {
                    false
                }
            },
        }
    }

    // ---------------------------------------------------------------- calling

    fn bind(&self, node: &Rc<Node>, env: &Env, arguments: &[Datum]) -> Outcome<Env> {
        let NodeKind::Function(parameters) = &node.kind else {
            return Err(Failure::internal("a lambda is a FUNC node"));
        };
        let mut env = env.clone();
        if parameters.variables.is_empty() {
            return Ok(env);
        }
        if parameters.variables.len() != arguments.len() {
            return Err(wrong_arity(arguments.len(), parameters.variables.len()).at(&node.body().place));
        }
        for (id, value) in parameters.variables.iter().zip(arguments) {
            env = Binding::new(*id, Value::Datum(value.clone()), env);
        }
        Ok(env)
    }

    /// Calls it with data, without waiting.
    pub fn call_now(&self, run: &Run, arguments: &[Datum]) -> Now<Value> {
        match &*self.0 {
            Form::Lambda { node, env } => {
                if !node.body().now {
                    return Err(Stop::Later);
                }
                let env = self.bind(node, env, arguments)?;
                eval::now(run, node.body(), &env)
            }
            Form::Datum { .. } => Ok(Value::Datum(self.of_data(arguments)?)),
            Form::Script { .. } => Err(Stop::Later),
        }
    }

    /// Calls it with data.
    pub async fn call(&self, run: &Run, arguments: &[Datum]) -> Outcome<Value> {
        match self.call_now(run, arguments) {
            Ok(value) => return Ok(value),
            Err(Stop::Failed(failure)) => return Err(failure),
            Err(Stop::Later) => {}
        }
        match &*self.0 {
            Form::Lambda { node, env } => {
                let env = self.bind(node, env, arguments)?;
                eval::later(run, node.body(), &env).await
            }
            Form::Datum { .. } => Ok(Value::Datum(self.of_data(arguments)?)),
            Form::Script { script, place } => Ok(Value::Datum(script.call(run, arguments, place).await?)),
        }
    }

    /// Calls it with data for a datum: anything else it gives is refused where its body stands.
    pub fn datum_now(&self, run: &Run, arguments: &[Datum]) -> Now<Datum> {
        match self.call_now(run, arguments)? {
            Value::Datum(datum) => Ok(datum),
            Value::Row(_) => Err(Stop::Later),
            other => Err(Stop::Failed(other.wrong_kind("DATUM").at(self.body_place()))),
        }
    }

    pub async fn datum(&self, run: &Run, arguments: &[Datum]) -> Outcome<Datum> {
        let value = self.call(run, arguments).await?;
        let value = eval::loaded(run, value).await?;
        value.into_datum().map_err(|failure| failure.at(self.body_place()))
    }

    fn of_data(&self, arguments: &[Datum]) -> Outcome<Datum> {
        let Form::Datum { datum, meaning, place } = &*self.0 else {
            return Err(Failure::internal("only data stand for functions"));
        };
        match meaning {
            Meaning::Constant | Meaning::Nothing => Ok(datum.clone()),
            Meaning::Field => field_of(datum, arguments.first().unwrap_or(&Datum::Null))
                .map_err(|failure| failure.at(place)),
        }
    }

    // ---------------------------------------------------------------- filtering

    /// What the function's result on `row` means to FILTER.
    pub fn accepts(&self, result: &Datum, row: &Datum) -> Outcome<bool> {
        match result {
            Datum::Object(pattern) if self.spells_object() => {
                matches_pattern(pattern, row).map_err(|failure| failure.at(self.body_place()))
            }
            result => Ok(result.is_truthy()),
        }
    }

    // ---------------------------------------------------------------- travelling

    /// Whether it may be evaluated where its rows are.
    pub fn travels(&self) -> bool {
        match &*self.0 {
            Form::Datum { .. } => true,
            Form::Script { .. } => false,
            Form::Lambda { node, env } => {
                node.determinism <= Determinism::PerServer
                    && self.parameters().is_some_and(|parameters| {
                        parameters
                            .captured
                            .iter()
                            .all(|id| matches!(eval::lookup(env, *id), Some(Value::Datum(_))))
                    })
            }
        }
    }

    /// Appends the function's bytes, which are the same for functions that differ in the numbers of their variables only: drivers
    /// number them anew each time; [`Function::decode`] with the same meaning reads them.
    ///
    /// # Errors
    /// It [does not travel](Function::travels).
    pub fn encode(&self, out: &mut Vec<u8>) -> Outcome<()> {
        wire::put_function(&self.to_wire()?.renumbered(), out);
        Ok(())
    }

    /// The function's bytes alone, as writes carry them.
    pub fn to_bytes(&self) -> Outcome<Vec<u8>> {
        let mut out = Vec::new();
        wire::put_function(&self.to_wire()?, &mut out);
        Ok(out)
    }

    fn to_wire(&self) -> Outcome<wire::Function> {
        let place = self.place().frames();
        match &*self.0 {
            Form::Script { .. } => Err(Failure::internal("a script does not travel")),
            Form::Datum { datum, .. } => Ok(wire::Function {
                term: Term::Datum(datum.clone()),
                captured: Vec::new(),
                row: None,
                place,
            }),
            Form::Lambda { node, env } => {
                let ids = self.parameters().map_or(&[][..], |parameters| &parameters.captured);
                let captured = ids
                    .iter()
                    .map(|id| match eval::lookup(env, *id) {
                        Some(Value::Datum(datum)) => Ok((*id, datum.clone())),
                        Some(_) | None => Err(Failure::internal("a travelling function captured no datum")),
                    })
                    .collect::<Outcome<_>>()?;
                Ok(wire::Function { term: node.to_term(), captured, row: None, place })
            }
        }
    }

    /// Reads a function's bytes; a datum there gets `meaning`.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(reader: &mut wire::Reader<'_>, meaning: Meaning) -> Outcome<Function> {
        let function = reader.function().map_err(|error| Failure::internal(error.to_string()))?;
        let place = function.place.into_iter().fold(Place::root(), |place, frame: Frame| place.child(frame));
        let is_lambda = matches!(&function.term, Term::Call(call) if call.number == number::FUNC);
        if let Term::Datum(datum) = function.term {
            return Ok(Function::of_datum(datum, meaning, place));
        }
        if !is_lambda {
            return Err(Failure::internal("an encoded function is neither a lambda nor a datum"));
        }
        let ids: Vec<i64> = function.captured.iter().map(|(id, _)| *id).collect();
        // What replaces data may hold literals; anywhere else they are strays, as they were in the query.
        let standing = match meaning {
            Meaning::Constant => Standing::Function,
            Meaning::Nothing | Meaning::Field => Standing::Query,
        };
        let node = check::check_inside(&function.term, &ids, &place, standing)?;
        let env = function
            .captured
            .into_iter()
            .fold(None, |env, (id, datum)| Binding::new(id, Value::Datum(datum), env));
        Ok(Function::lambda(node, env))
    }

    /// Reads the bytes that [`Function::to_bytes`] made.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn from_bytes(bytes: &[u8], meaning: Meaning) -> Outcome<Function> {
        Function::decode(&mut wire::Reader::new(bytes), meaning)
    }
}

/// `Expected function with N arguments but found function with M arguments.`
pub fn wrong_arity(wanted: usize, found: usize) -> Failure {
    let plural = |count: usize| if count == 1 { "argument" } else { "arguments" };
    Failure::logic(format!(
        "Expected function with {wanted} {} but found function with {found} {}.",
        plural(wanted),
        plural(found)
    ))
}

fn field_of(name: &Datum, row: &Datum) -> Outcome<Datum> {
    let Datum::String(name) = name else { return Err(wrong_type("STRING", name)) };
    get_field(&fields_of(row, "get_field")?, name)
}

/// Whether `row` has all that `pattern` shows; patterns go into objects, other values must be equal.
fn matches_pattern(pattern: &Object, row: &Datum) -> Outcome<bool> {
    if matches!(pattern.field(pseudo::TYPE_KEY), Some(Datum::String(name)) if name.as_str() == "LITERAL") {
        return Ok(pattern.field("value").as_ref() == Some(row));
    }
    for (key, wanted) in pattern.iter() {
        let found = match row {
            Datum::Object(row) => row.field(&key),
            other => return Err(wrong_type("OBJECT", other)),
        };
        let Some(found) = found else {
            return Err(Failure::missing(format!("No attribute `{}` in object.", key.as_str())));
        };
        let matches = match (&wanted, &found) {
            (Datum::Object(wanted), Datum::Object(_)) => matches_pattern(wanted, &found)?,
            (Datum::Object(literal), _) if literal.has(pseudo::TYPE_KEY) => matches_pattern(literal, &found)?,
            _ => wanted == found,
        };
        if !matches {
            return Ok(false);
        }
    }
    Ok(true)
}
