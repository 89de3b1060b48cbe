//! Objects: the terms that make and take one, and the operations on one object that the sequence terms apply to a
//! value or row by row (`get_field`, `pluck`, `without`, `has_fields`, `merge`).
//!
//! Always: values of pseudotypes are no objects to these operations; [`fields_of`] says so in the term's name.

use photondb_proto::datum::pseudo::TYPE_KEY;
use photondb_proto::datum::{Array, Datum, Object, ObjectBuilder, Text, json};
use photondb_proto::term::number;

use super::{Arity, TermDef};
use crate::call::Call;
use crate::failure::{Failure, Outcome};

pub static TERMS: &[TermDef] = &[
    TermDef::pure("KEYS", number::KEYS, Arity::exactly(1), keys),
    TermDef::pure("VALUES", number::VALUES, Arity::exactly(1), values),
    TermDef::pure("OBJECT", number::OBJECT, Arity::at_least(0), object),
];

/// The object that `datum` is, for a term of that (lower-case) name.
///
/// # Errors
/// Pseudotypes are refused, other things are `non-object non-sequence`.
pub fn fields_of(datum: &Datum, term: &str) -> Outcome<Object> {
    if let Datum::Object(object) = datum
        && datum.pseudotype().is_none()
    {
        return Ok(object.clone());
    }
    if is_pseudotype(datum) {
        return Err(wrong_receiver(datum, term));
    }
    let text =
        format!("Cannot perform {term} on a non-object non-sequence `{}`.", json::to_message_string(datum));
    Err(if datum.is_null() { Failure::missing(text) } else { Failure::logic(text) })
}

fn is_pseudotype(datum: &Datum) -> bool {
    datum.type_name().starts_with("PTYPE<")
}

fn wrong_receiver(datum: &Datum, term: &str) -> Failure {
    Failure::logic(format!("Cannot call `{term}` on objects of type `{}`.", datum.type_name()))
}

/// `keys` and `values` blame their argument for anything that is not an object.
fn receiver(call: &Call, term: &str) -> Outcome<Object> {
    match call.datum(0)? {
        Datum::Object(object) if !object.has(TYPE_KEY) => Ok(object),
        other => Err(wrong_receiver(&other, term).at(&call.arguments[0].place)),
    }
}

fn keys(call: &Call) -> Outcome<Datum> {
    call.array_result(receiver(call, "keys")?.iter().map(|(key, _)| Datum::String(key)).collect())
}

fn values(call: &Call) -> Outcome<Datum> {
    call.array_result(receiver(call, "values")?.iter().map(|(_, value)| value).collect())
}

fn object(call: &Call) -> Outcome<Datum> {
    let count = call.count();
    if !count.is_multiple_of(2) {
        return Err(Failure::logic(format!(
            "OBJECT expects an even number of arguments (but found {count})."
        )));
    }
    let mut builder = ObjectBuilder::default();
    for index in (0..count).step_by(2) {
        let (key, value) = (call.string(index)?, call.datum(index + 1)?);
        add_new(&mut builder, key, value, "object")?;
    }
    Ok(Datum::Object(builder.build()))
}

/// Puts a value under a key that must be new; `what` names the object in the message.
pub fn add_new(builder: &mut ObjectBuilder, key: Text, value: Datum, what: &str) -> Outcome<()> {
    let new = json::to_string(&value);
    builder.add(key.clone(), value).map_err(|old| {
        let (old, key) = (json::to_string(&old), json::to_string(&Datum::String(key)));
        Failure::logic(format!("Duplicate key {key} in {what}.  (got {old} and {new} as values)"))
    })
}

/// The value under `key`; a missing one is an error that `default` catches.
pub fn get_field(object: &Object, key: &str) -> Outcome<Datum> {
    object.field(key).ok_or_else(|| {
        let text = json::to_message_string(&Datum::Object(object.clone()));
        Failure::missing(format!("No attribute `{key}` in object:\n{text}"))
    })
}

// ---------------------------------------------------------------- paths

/// What `pluck`, `without` and `has_fields` look for: fields, nested fields, or several of these.
#[derive(Clone, Debug)]
pub enum Path {
    Field(Text),
    /// Under each key, what is looked for in its value.
    Nested(Vec<(Text, Path)>),
    All(Vec<Path>),
}

/// The paths that a term's arguments spell: text, arrays of paths, and objects from a key to `true` or to a path.
pub fn paths<'a>(arguments: impl IntoIterator<Item = &'a Datum>) -> Outcome<Path> {
    arguments.into_iter().map(path).collect::<Outcome<Vec<Path>>>().map(Path::All)
}

fn path(datum: &Datum) -> Outcome<Path> {
    match datum {
        Datum::String(text) => Ok(Path::Field(text.clone())),
        Datum::Array(items) => {
            items.iter().map(|item| path(&item)).collect::<Outcome<Vec<Path>>>().map(Path::All)
        }
        Datum::Object(object) => object_path(object),
        // To RethinkDB a time is an object whose epoch is the first thing that cannot be a path.
        Datum::Time(time) => Err(bad_path(&Datum::Number(time.epoch_seconds))),
        Datum::MinVal
        | Datum::Null
        | Datum::Bool(_)
        | Datum::Number(_)
        | Datum::Binary(_)
        | Datum::MaxVal => Err(bad_path(datum)),
    }
}

fn bad_path(datum: &Datum) -> Failure {
    Failure::logic(format!("Invalid path argument `{}`.", json::to_message_string(datum)))
}

fn object_path(object: &Object) -> Outcome<Path> {
    let (mut all, mut nested) = (Vec::new(), Vec::new());
    for (key, value) in object.iter() {
        match value {
            Datum::Bool(true) => all.push(Path::Field(key)),
            value => nested.push((key, path(&value)?)),
        }
    }
    if all.is_empty() {
        return Ok(Path::Nested(nested));
    }
    all.push(Path::Nested(nested));
    Ok(Path::All(all))
}

/// Whether a path goes on into the items of an array. It does so once per nested field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IntoArrays {
    Yes,
    No,
}

/// The object with nothing but what the path names.
pub fn pluck(object: &Object, path: &Path) -> Object {
    let mut builder = ObjectBuilder::default();
    pluck_into(&mut builder, object, path);
    builder.build()
}

fn pluck_into(builder: &mut ObjectBuilder, object: &Object, path: &Path) {
    match path {
        Path::Field(key) => {
            if let Some(value) = object.field(key) {
                builder.set(key.clone(), value);
            }
        }
        Path::Nested(nested) => {
            for (key, path) in nested {
                let found = object.field(key).and_then(|value| pluck_value(&value, path, IntoArrays::Yes));
                if let Some(value) = found {
                    builder.set(key.clone(), value);
                }
            }
        }
        Path::All(paths) => paths.iter().for_each(|path| pluck_into(builder, object, path)),
    }
}

/// `None` when the value has no fields to pluck.
fn pluck_value(value: &Datum, path: &Path, into_arrays: IntoArrays) -> Option<Datum> {
    match (value, into_arrays) {
        (Datum::Object(object), _) => Some(Datum::Object(pluck(object, path))),
        (Datum::Array(items), IntoArrays::Yes) => each(items, |item| pluck_value(item, path, IntoArrays::No)),
        (_, IntoArrays::Yes | IntoArrays::No) => None,
    }
}

/// All items changed, or `None` if one cannot be.
fn each(items: &Array, change: impl Fn(&Datum) -> Option<Datum>) -> Option<Datum> {
    items.iter().map(|item| change(&item)).collect::<Option<Vec<Datum>>>().map(Datum::array)
}

/// The object without what the path names.
pub fn without(object: &Object, path: &Path) -> Object {
    let mut builder = object.to_builder();
    remove(&mut builder, path);
    builder.build()
}

fn remove(builder: &mut ObjectBuilder, path: &Path) {
    match path {
        Path::Field(key) => {
            builder.remove(key);
        }
        Path::Nested(nested) => {
            for (key, path) in nested {
                let changed =
                    builder.field(key).and_then(|value| without_value(value, path, IntoArrays::Yes));
                if let Some(value) = changed {
                    builder.set(key.clone(), value);
                }
            }
        }
        Path::All(paths) => paths.iter().for_each(|path| remove(builder, path)),
    }
}

fn without_value(value: &Datum, path: &Path, into_arrays: IntoArrays) -> Option<Datum> {
    match (value, into_arrays) {
        (Datum::Object(object), _) => Some(Datum::Object(without(object, path))),
        (Datum::Array(items), IntoArrays::Yes) => {
            each(items, |item| without_value(item, path, IntoArrays::No))
        }
        (_, IntoArrays::Yes | IntoArrays::No) => None,
    }
}

/// Whether everything the path names is there and not null.
pub fn has_fields(object: &Object, path: &Path) -> bool {
    match path {
        Path::Field(key) => object.field(key).is_some_and(|value| !value.is_null()),
        Path::All(paths) => paths.iter().all(|path| has_fields(object, path)),
        Path::Nested(nested) => nested.iter().all(|(key, path)| match object.field(key) {
            Some(Datum::Object(inner)) => has_fields(&inner, path),
            Some(_) => matches!(path, Path::All(paths) if paths.is_empty()),
            None => false,
        }),
    }
}

// ---------------------------------------------------------------- merging

const STRAY_LITERAL: &str = "Stray literal keyword found: literal is only legal inside of the object passed to merge \
                             or update and cannot nest inside other literals.";

/// The error of a `literal` outside the argument of `merge` or `update`.
pub fn stray_literal() -> Failure {
    Failure::logic(STRAY_LITERAL)
}

/// `left` merged with `right`: objects key by key, anything else replaced; a literal replaces whole or removes.
///
/// # Errors
/// `right` is itself a literal, or a time or another pseudotype that cannot be merged.
pub fn merge(left: &Datum, right: &Datum) -> Outcome<Datum> {
    match right.type_name() {
        "PTYPE<LITERAL>" => return Err(stray_literal()),
        name if name.starts_with("PTYPE<") => {
            return Err(Failure::logic(format!("Cannot merge objects of type `{name}`.")));
        }
        _ => {}
    }
    Ok(merge_values(left, right).unwrap_or(Datum::Null))
}

/// `None` when `right` is a literal that removes.
fn merge_values(left: &Datum, right: &Datum) -> Option<Datum> {
    let (Datum::Object(left), Datum::Object(changes)) = (left, right) else { return without_literals(right) };
    if left.has(TYPE_KEY) || changes.has(TYPE_KEY) {
        return without_literals(right);
    }
    let mut builder = left.to_builder();
    for (key, change) in changes.iter() {
        let merged = match builder.field(&key) {
            Some(old) => merge_values(old, &change),
            None => without_literals(&change),
        };
        match merged {
            Some(value) => builder.set(key, value),
            None => {
                builder.remove(&key);
            }
        }
    }
    Some(Datum::Object(builder.build()))
}

/// The value with each literal in it replaced by its content; `None` when it is itself a literal without content.
pub fn without_literals(datum: &Datum) -> Option<Datum> {
    if !has_literals(datum) {
        return Some(datum.clone());
    }
    match datum {
        Datum::Object(object) if is_literal(datum) => object.field("value"),
        Datum::Object(object) => {
            let pairs = object.iter().filter_map(|(key, value)| Some((key, without_literals(&value)?)));
            Some(Datum::Object(Object::from_pairs(pairs.collect())))
        }
        Datum::Array(items) => {
            Some(Datum::array(items.iter().filter_map(|item| without_literals(&item)).collect()))
        }
        other => Some(other.clone()),
    }
}

fn is_literal(datum: &Datum) -> bool {
    datum.type_name() == "PTYPE<LITERAL>"
}

/// Whether the value is or holds a literal.
pub fn has_literals(datum: &Datum) -> bool {
    match datum {
        Datum::Object(object) => is_literal(datum) || object.iter().any(|(_, value)| has_literals(&value)),
        Datum::Array(items) => items.iter().any(|item| has_literals(&item)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use photondb_proto::datum::{Datum, ObjectBuilder, json};

    use super::{fields_of, has_fields, merge, paths, pluck, without};
    use crate::terms::probe::{answer, datum};

    #[track_caller]
    fn check(name: &str, arguments: &str, want: &str) {
        assert_eq!(answer(super::TERMS, name, arguments), want, "{name} {arguments}");
    }

    const TIME: &str = r#"{"$reql_type$":"TIME","epoch_time":5,"timezone":"+00:00"}"#;

    #[test]
    fn objects_come_apart_and_together() {
        check("KEYS", r#"[{"b":1,"a":2}]"#, r#"["a","b"]"#);
        check("VALUES", r#"[{"b":1,"a":2}]"#, "[2,1]");
        check("KEYS", "[1]", "! Cannot call `keys` on objects of type `NUMBER`.");
        check("KEYS", &format!("[{TIME}]"), "! Cannot call `keys` on objects of type `PTYPE<TIME>`.");
        check("OBJECT", "[]", "{}");
        check("OBJECT", r#"["b", 1, "a", 2]"#, r#"{"a":2,"b":1}"#);
        check("OBJECT", r#"["o", "d", "d"]"#, "! OBJECT expects an even number of arguments (but found 3).");
        check("OBJECT", "[1, 1]", "! Expected type STRING but found NUMBER.");
        check("OBJECT", r#"["e", 4, "e", 5]"#, r#"! Duplicate key "e" in object.  (got 4 and 5 as values)"#);
    }

    /// Applies an operation to an object and an array of paths.
    #[track_caller]
    fn check_paths(operation: &str, object: &str, path: &str, want: &str) {
        let Datum::Array(arguments) = datum(path) else { panic!("paths are an array") };
        let arguments: Vec<Datum> = arguments.iter().collect();
        let answer = fields_of(&datum(object), operation).and_then(|object| {
            let path = paths(&arguments)?;
            Ok(json::to_string(&match operation {
                "pluck" => Datum::Object(pluck(&object, &path)),
                "without" => Datum::Object(without(&object, &path)),
                _ => Datum::Bool(has_fields(&object, &path)),
            }))
        });
        let found = answer.unwrap_or_else(|failure| format!("! {}", failure.message));
        assert_eq!(found, want, "{operation} {object} {path}");
    }

    const OBJECT: &str = r#"{"a":1,"d":null,"e":{"f":"buzz","g":2},"l":[{"x":1,"y":2},{"y":3}]}"#;

    #[test]
    fn pluck_keeps_what_paths_name() {
        check_paths("pluck", OBJECT, "[]", "{}");
        check_paths("pluck", OBJECT, r#"["a","z"]"#, r#"{"a":1}"#);
        check_paths("pluck", OBJECT, r#"[{"e":"f"}]"#, r#"{"e":{"f":"buzz"}}"#);
        check_paths("pluck", OBJECT, r#"[{"e":{"g":true},"a":true}]"#, r#"{"a":1,"e":{"g":2}}"#);
        check_paths("pluck", OBJECT, r#"[{"l":["x"]}]"#, r#"{"l":[{"x":1},{}]}"#);
        check_paths("pluck", OBJECT, r#"[{"a":"x"}]"#, "{}");
        check_paths("pluck", OBJECT, "[1]", "! Invalid path argument `1`.");
        check_paths("pluck", TIME, r#"["x"]"#, "! Cannot call `pluck` on objects of type `PTYPE<TIME>`.");
        check_paths("pluck", "1", r#"["x"]"#, "! Cannot perform pluck on a non-object non-sequence `1`.");
    }

    #[test]
    fn without_drops_what_paths_name() {
        check_paths("without", OBJECT, r#"["e","l"]"#, r#"{"a":1,"d":null}"#);
        check_paths("without", r#"{"e":{"f":1}}"#, r#"[{"e":"f"}]"#, r#"{"e":{}}"#);
        check_paths("without", r#"{"e":{"f":1}}"#, r#"[{"e":"buzz"}]"#, r#"{"e":{"f":1}}"#);
        check_paths("without", r#"{"l":[{"x":1,"y":2}]}"#, r#"[{"l":{"x":true}}]"#, r#"{"l":[{"y":2}]}"#);
    }

    #[test]
    fn has_fields_asks_for_values_that_are_not_null() {
        check_paths("has_fields", OBJECT, r#"["a",{"e":"f"}]"#, "true");
        check_paths("has_fields", OBJECT, r#"["d"]"#, "false");
        check_paths("has_fields", OBJECT, r#"[{"e":"h"}]"#, "false");
        check_paths("has_fields", OBJECT, r#"[{"a":"h"}]"#, "false");
        check_paths("has_fields", "{}", &format!("[{TIME}]"), "! Invalid path argument `5`.");
    }

    /// Stands `{"LITERAL": x}` for a literal of x and `{"REMOVE": 1}` for an empty one, which JSON may not hold.
    fn literals(datum: Datum) -> Datum {
        match datum {
            Datum::Object(object) => {
                let mut builder = ObjectBuilder::default();
                for (key, value) in object.iter() {
                    match &*key {
                        "LITERAL" => builder.set("value", value),
                        "REMOVE" => {}
                        _ => {
                            builder.set(key, literals(value));
                            continue;
                        }
                    }
                    builder.set("$reql_type$", Datum::string("LITERAL"));
                }
                Datum::Object(builder.build())
            }
            Datum::Array(items) => Datum::array(items.iter().map(literals).collect()),
            other => other,
        }
    }

    #[track_caller]
    fn check_merge(left: &str, right: &str, want: &str) {
        let found = merge(&datum(left), &literals(datum(right))).map(|merged| json::to_string(&merged));
        assert_eq!(found.unwrap_or_else(|failure| format!("! {}", failure.message)), want, "{left} {right}");
    }

    #[test]
    fn merge_goes_into_objects_and_replaces_the_rest() {
        check_merge(r#"{"a":1}"#, "1", "1");
        check_merge(r#"{"a":{"b":1,"c":2}}"#, r#"{"a":{"b":2},"d":[1]}"#, r#"{"a":{"b":2,"c":2},"d":[1]}"#);
        check_merge(r#"{"a":[1]}"#, r#"{"a":[2]}"#, r#"{"a":[2]}"#);
        check_merge(r#"{"a":1}"#, TIME, "! Cannot merge objects of type `PTYPE<TIME>`.");
    }

    #[test]
    fn literals_replace_whole_values_or_remove_them() {
        check_merge(r#"{"a":{"b":1}}"#, r#"{"a":{"LITERAL":{"g":1}}}"#, r#"{"a":{"g":1}}"#);
        check_merge(r#"{"a":{"b":1},"c":1}"#, r#"{"a":{"REMOVE":1}}"#, r#"{"c":1}"#);
        check_merge("{}", r#"{"a":[{"LITERAL":3},{"REMOVE":1},{"x":{"REMOVE":1}}]}"#, r#"{"a":[3,{}]}"#);
        check_merge(r#"{"a":5}"#, r#"{"a":{"x":{"REMOVE":1},"y":1}}"#, r#"{"a":{"y":1}}"#);
        check_merge("{}", r#"{"LITERAL":1}"#, &format!("! {}", super::STRAY_LITERAL));
    }
}
