//! A slow, obvious evaluator of the pure part of the language: one `match` over names of terms, everything eager and copied. It shares
//! nothing with the evaluator it judges, not even the order of values.

use std::collections::BTreeMap;

use super::value::{Fault, Found, V, compare, equal};

/// An expression: what the generator makes, what goes over the wire, what is evaluated here.
#[derive(Clone, Debug)]
pub enum E {
    /// A scalar.
    Is(V),
    Var(i64),
    Func(Vec<i64>, Box<E>),
    Object(Vec<(String, E)>),
    Call(&'static str, Vec<E>),
}

type Env = Vec<(i64, V)>;

pub fn eval(e: &E, env: &Env) -> Found {
    match e {
        E::Is(value) => Ok(value.clone()),
        E::Var(id) => {
            Ok(env.iter().rev().find(|(bound, _)| bound == id).expect("variables are bound").1.clone())
        }
        // A function where a value is wanted.
        E::Func(..) => Err(Fault::Logic),
        E::Object(fields) => {
            let fields = fields.iter().map(|(key, field)| Ok((key.clone(), eval(field, env)?)));
            Ok(V::Obj(fields.collect::<Found<_>>()?))
        }
        E::Call("branch", arguments) => {
            let chosen = if eval(&arguments[0], env)?.is_true() { 1 } else { 2 };
            eval(&arguments[chosen], env)
        }
        E::Call("default", arguments) => match eval(&arguments[0], env) {
            Ok(V::Null) | Err(Fault::Missing) => eval(&arguments[1], env),
            other => other,
        },
        E::Call(name @ ("eq" | "ne" | "lt" | "le" | "gt" | "ge"), arguments) => {
            let mut left = eval(&arguments[0], env)?;
            for argument in &arguments[1..] {
                let right = eval(argument, env)?;
                if !holds(name, compare(&left, &right)) {
                    return Ok(V::Bool(*name == "ne"));
                }
                left = right;
            }
            Ok(V::Bool(*name != "ne"))
        }
        E::Call(name @ ("and" | "or"), arguments) => {
            let mut value = V::Bool(*name == "and");
            for argument in arguments {
                value = eval(argument, env)?;
                if value.is_true() == (*name == "or") {
                    break;
                }
            }
            Ok(value)
        }
        E::Call(name, arguments) => {
            let mut values = Vec::new();
            let mut function = None;
            for argument in arguments {
                match argument {
                    E::Func(ids, body) => {
                        function = Some(move |with: &[V]| {
                            let mut env = env.clone();
                            env.extend(ids.iter().copied().zip(with.iter().cloned()));
                            eval(body, &env)
                        });
                    }
                    argument => values.push(eval(argument, env)?),
                }
            }
            match function {
                // A body that spells an object out is a pattern.
                Some(function) if *name == "filter" || *name == "count" => {
                    let pattern = matches!(arguments.last(), Some(E::Func(_, body)) if is_object(body));
                    let matching = |with: &[V]| match (function(with)?, pattern) {
                        (V::Obj(wanted), true) => matches(&wanted, &with[0]).map(V::Bool),
                        (result, _) => Ok(result),
                    };
                    with_function(name, &values, &matching)
                }
                Some(function) => with_function(name, &values, &function),
                None => arithmetic(name, &values),
            }
        }
    }
}

/// Whether neighbours compare as a term wants them to; `ne` denies what `eq` says.
fn holds(name: &str, order: std::cmp::Ordering) -> bool {
    match name {
        "lt" => order.is_lt(),
        "le" => order.is_le(),
        "gt" => order.is_gt(),
        "ge" => order.is_ge(),
        _ => order.is_eq(),
    }
}

fn is_object(body: &E) -> bool {
    matches!(body, E::Object(_) | E::Is(V::Obj(_)))
}

fn matches(wanted: &BTreeMap<String, V>, row: &V) -> Found<bool> {
    for (key, want) in wanted {
        let found = row.object()?.get(key).ok_or(Fault::Missing)?;
        let same = match (want, found) {
            (V::Obj(want), V::Obj(_)) => matches(want, found)?,
            (want, found) => equal(want, found),
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn finite(number: f64) -> Found {
    if number.is_finite() { Ok(V::Num(number)) } else { Err(Fault::Logic) }
}

fn arithmetic(name: &str, a: &[V]) -> Found {
    match name {
        "not" => Ok(V::Bool(!a[0].is_true())),
        "add" => match (&a[0], &a[1]) {
            (V::Str(left), right) => Ok(V::Str(left.clone() + right.text()?)),
            (V::Arr(left), right) => Ok(V::Arr([left.as_slice(), right.array()?].concat())),
            (left, right) => finite(left.num()? + right.num()?),
        },
        "sub" => finite(a[0].num()? - a[1].num()?),
        "mul" => match (&a[0], &a[1]) {
            (V::Arr(items), times) | (times, V::Arr(items)) => match times.int()? {
                times @ 0.. => Ok(V::Arr((0..times).flat_map(|_| items.clone()).collect())),
                _ => Err(Fault::Logic),
            },
            (left, right) => finite(left.num()? * right.num()?),
        },
        "div" => match (a[0].num()?, a[1].num()?) {
            (_, 0.0) => Err(Fault::Logic),
            (left, right) => finite(left / right),
        },
        "mod" => match (a[0].int()?, a[1].int()?) {
            (_, 0) => Err(Fault::Logic),
            (left, right) => Ok(V::Num((left % right) as f64)),
        },
        "floor" => Ok(V::Num(a[0].num()?.floor())),
        "ceil" => Ok(V::Num(a[0].num()?.ceil())),
        "round" => Ok(V::Num(a[0].num()?.round())),
        "type_of" => Ok(V::Str(a[0].type_name().into())),
        "upcase" => Ok(V::Str(a[0].text()?.to_uppercase())),
        "downcase" => Ok(V::Str(a[0].text()?.to_lowercase())),
        "split" => {
            let text = a[0].text()?;
            let parts: Vec<String> = match &a[1] {
                V::Null => text.split_whitespace().map(String::from).collect(),
                by if by.text()?.is_empty() => text.chars().map(String::from).collect(),
                by => text.split(by.text()?).map(String::from).collect(),
            };
            Ok(V::Arr(parts.into_iter().map(V::Str).collect()))
        }
        _ => arrays(name, a),
    }
}

/// The place in `0..=end` that an index names; negative ones count from `end`.
fn place(index: i64, end: usize, at_most: usize) -> Found<usize> {
    let place = if index < 0 { index + end as i64 } else { index };
    if (0..=at_most as i64).contains(&place) { Ok(place as usize) } else { Err(Fault::Missing) }
}

fn distinct(items: &[V]) -> Vec<V> {
    let mut kept: Vec<V> = Vec::new();
    for item in items {
        if !has(&kept, item) {
            kept.push(item.clone());
        }
    }
    kept
}

fn has(items: &[V], wanted: &V) -> bool {
    items.iter().any(|item| equal(item, wanted))
}

fn sorted(mut items: Vec<V>) -> Vec<V> {
    items.sort_by(compare);
    items
}

fn arrays(name: &str, a: &[V]) -> Found {
    let list = |items: Vec<V>| Ok(V::Arr(items));
    match name {
        "make_array" => list(a.to_vec()),
        "rows_of_table" => Ok(a[0].clone()),
        "append" => list([a[0].array()?.as_slice(), &a[1..]].concat()),
        "prepend" => list([&a[1..], a[0].array()?.as_slice()].concat()),
        "difference" => {
            let (left, right) = (a[0].array()?, a[1].array()?);
            list(left.iter().filter(|item| !has(right, item)).cloned().collect())
        }
        "set_insert" => list(distinct(&[a[0].array()?.as_slice(), &a[1..]].concat())),
        "set_union" => list(distinct(&[a[0].array()?.as_slice(), a[1].array()?].concat())),
        "set_intersection" => {
            let (left, right) = (a[0].array()?, a[1].array()?);
            list(distinct(right).into_iter().filter(|item| has(left, item)).collect())
        }
        "set_difference" => {
            let (left, right) = (a[0].array()?, a[1].array()?);
            list(distinct(left).into_iter().filter(|item| !has(right, item)).collect())
        }
        "insert_at" | "splice_at" => {
            let mut items = a[0].array()?.clone();
            let index = a[1].int()?;
            let at = place(index, items.len() + 1, items.len())?;
            let new = if name == "insert_at" { vec![a[2].clone()] } else { a[2].array()?.clone() };
            items.splice(at..at, new);
            list(items)
        }
        "change_at" | "delete_at" => {
            let mut items = a[0].array()?.clone();
            let at = place(a[1].int()?, items.len(), items.len())?;
            if at == items.len() {
                return Err(Fault::Missing);
            }
            items.splice(at..=at, a[2..].to_vec());
            list(items)
        }
        "slice" => match (a[1].int()?, a[2].int()?, &a[0]) {
            (left, right, V::Str(text)) => {
                let characters: Vec<char> = text.chars().collect();
                Ok(V::Str(cut(&characters, left, right).into_iter().collect()))
            }
            (left, right, V::Arr(items)) => list(cut(items, left, right)),
            (_, _, other) => Err(other.fault()),
        },
        _ => sequences(name, a),
    }
}

fn cut<T: Clone>(items: &[T], left: i64, right: i64) -> Vec<T> {
    let end = |index: i64| if index < 0 { index + items.len() as i64 } else { index };
    let (left, right) = (end(left).max(0), end(right).min(items.len() as i64));
    if left >= right { Vec::new() } else { items[left as usize..right as usize].to_vec() }
}

fn sequences(name: &str, a: &[V]) -> Found {
    match name {
        "nth" => {
            let (items, index) = (a[0].array()?, a[1].int()?);
            let at = place(index, items.len(), items.len())?;
            items.get(at).cloned().ok_or(Fault::Missing)
        }
        "limit" | "skip" => {
            let (items, count) = (a[0].array()?, a[1].int()?);
            match (name, count) {
                ("limit", ..0) => Err(Fault::Logic),
                ("limit", count) => Ok(V::Arr(cut(items, 0, count))),
                (_, count) => Ok(V::Arr(cut(items, count, items.len() as i64))),
            }
        }
        "count" => match &a[0] {
            V::Str(text) => Ok(V::Num(text.chars().count() as f64)),
            V::Obj(fields) => Ok(V::Num(fields.len() as f64)),
            other => Ok(V::Num(other.array()?.len() as f64)),
        },
        "is_empty" => Ok(V::Bool(a[0].array()?.is_empty())),
        "distinct" => Ok(V::Arr(sorted(distinct(a[0].array()?)))),
        "sum" => numbers(a[0].array()?).and_then(|numbers| finite(numbers.iter().sum())),
        "avg" => match numbers(a[0].array()?)? {
            numbers if numbers.is_empty() => Err(Fault::Missing),
            numbers => finite(numbers.iter().sum::<f64>() / numbers.len() as f64),
        },
        "min" => sorted(a[0].array()?.clone()).first().cloned().ok_or(Fault::Missing),
        "max" => sorted(a[0].array()?.clone()).last().cloned().ok_or(Fault::Missing),
        "union" => Ok(V::Arr([a[0].array()?.as_slice(), a[1].array()?].concat())),
        "contains" => Ok(V::Bool(has(a[0].array()?, &a[1]))),
        "offsets_of" => {
            let items = a[0].array()?.iter().enumerate();
            let places = items.filter(|(_, item)| equal(item, &a[1])).map(|(at, _)| V::Num(at as f64));
            Ok(V::Arr(places.collect()))
        }
        _ => objects(name, a),
    }
}

fn numbers(items: &[V]) -> Found<Vec<f64>> {
    items.iter().filter(|item| **item != V::Null).map(V::num).collect()
}

fn objects(name: &str, a: &[V]) -> Found {
    // On an array these work on each element, unless that is an array again.
    if let V::Arr(items) = &a[0]
        && !matches!(name, "keys" | "values")
    {
        let mut out = Vec::new();
        for item in items {
            if let V::Arr(_) = item {
                return Err(Fault::Logic);
            }
            let each = [std::slice::from_ref(item), &a[1..]].concat();
            match (name, objects(name, &each)) {
                ("get_field", Err(Fault::Missing)) if *item != V::Null => {}
                ("has_fields", Ok(V::Bool(true))) => out.push(item.clone()),
                ("has_fields", Ok(_)) => {}
                (_, result) => out.push(result?),
            }
        }
        return Ok(V::Arr(out));
    }
    let fields = match a[0].object() {
        Err(_) if matches!(name, "keys" | "values") => return Err(Fault::Logic),
        fields => fields?,
    };
    match name {
        "get_field" => fields.get(a[1].text()?).cloned().ok_or(Fault::Missing),
        "has_fields" => Ok(V::Bool(fields.get(a[1].text()?).is_some_and(|value| *value != V::Null))),
        "pluck" | "without" => {
            let key = a[1].text()?;
            let kept = fields.iter().filter(|(name_of, _)| (*name_of == key) == (name == "pluck"));
            Ok(V::Obj(kept.map(|(key, value)| (key.clone(), value.clone())).collect()))
        }
        "merge" => Ok(merge(&a[0], &a[1])),
        "keys" => Ok(V::Arr(fields.keys().cloned().map(V::Str).collect())),
        "values" => Ok(V::Arr(fields.values().cloned().collect())),
        other => unreachable!("{other} is not known here"),
    }
}

fn merge(left: &V, right: &V) -> V {
    let (V::Obj(left), V::Obj(right)) = (left, right) else { return right.clone() };
    let mut merged = left.clone();
    for (key, value) in right {
        let value = merged.get(key).map_or_else(|| merge(&V::Null, value), |held| merge(held, value));
        merged.insert(key.clone(), value);
    }
    V::Obj(merged)
}

/// What a function gives on an element; a missing value is none.
fn unless_missing(result: Found) -> Found<Option<V>> {
    match result {
        Err(Fault::Missing) => Ok(None),
        other => other.map(Some),
    }
}

fn with_function(name: &str, a: &[V], function: &dyn Fn(&[V]) -> Found) -> Found {
    if name == "do" {
        return function(a);
    }
    let items = a[0].array()?;
    let of = |item: &V| function(std::slice::from_ref(item));
    match name {
        "map" => Ok(V::Arr(items.iter().map(of).collect::<Found<_>>()?)),
        "filter" => {
            let mut kept = Vec::new();
            for item in items {
                if unless_missing(of(item))?.is_some_and(|result| result.is_true()) {
                    kept.push(item.clone());
                }
            }
            Ok(V::Arr(kept))
        }
        "concat_map" => {
            let mut out = Vec::new();
            for item in items {
                out.extend(of(item)?.array()?.clone());
            }
            Ok(V::Arr(out))
        }
        "reduce" => {
            let mut held = items.first().cloned().ok_or(Fault::Missing)?;
            for item in &items[1..] {
                held = function(&[held, item.clone()])?;
            }
            Ok(held)
        }
        "fold" => items.iter().try_fold(a[1].clone(), |held, item| function(&[held, item.clone()])),
        "order_by" => {
            let mut keyed = Vec::new();
            for item in items {
                keyed.push((unless_missing(of(item))?, item.clone()));
            }
            // What has no key comes first.
            keyed.sort_by(|(left, _), (right, _)| match (left, right) {
                (Some(left), Some(right)) => compare(left, right),
                (left, right) => left.is_some().cmp(&right.is_some()),
            });
            Ok(V::Arr(keyed.into_iter().map(|(_, item)| item).collect()))
        }
        "group" => group(items, &of),
        _ => aggregates(name, items, &of),
    }
}

/// GROUP followed by UNGROUP.
fn group(items: &[V], of: &dyn Fn(&V) -> Found) -> Found {
    let mut groups: Vec<(V, Vec<V>)> = Vec::new();
    for item in items {
        let key = unless_missing(of(item))?.unwrap_or(V::Null);
        match groups.iter_mut().find(|(held, _)| equal(held, &key)) {
            Some((_, members)) => members.push(item.clone()),
            None => groups.push((key, vec![item.clone()])),
        }
    }
    groups.sort_by(|(left, _), (right, _)| compare(left, right));
    let rows = groups.into_iter().map(|(key, members)| {
        V::Obj(BTreeMap::from([("group".to_owned(), key), ("reduction".to_owned(), V::Arr(members))]))
    });
    Ok(V::Arr(rows.collect()))
}

fn aggregates(name: &str, items: &[V], of: &dyn Fn(&V) -> Found) -> Found {
    match name {
        "count" | "contains" | "offsets_of" => {
            let mut places = Vec::new();
            for (at, item) in items.iter().enumerate() {
                if name == "contains" && !places.is_empty() {
                    break;
                }
                let result = match name {
                    "count" => unless_missing(of(item))?,
                    _ => Some(of(item)?),
                };
                if result.is_some_and(|result| result.is_true()) {
                    places.push(V::Num(at as f64));
                }
            }
            Ok(match name {
                "count" => V::Num(places.len() as f64),
                "contains" => V::Bool(!places.is_empty()),
                _ => V::Arr(places),
            })
        }
        "sum" | "avg" => {
            let mut found = Vec::new();
            for item in items {
                found.extend(unless_missing(of(item))?);
            }
            sequences(name, &[V::Arr(found)])
        }
        "min" | "max" => {
            let mut best: Option<(V, V)> = None;
            for item in items {
                let Some(key) = unless_missing(of(item))? else { continue };
                let wanted =
                    if name == "min" { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater };
                if best.as_ref().is_none_or(|(held, _)| compare(&key, held) == wanted) {
                    best = Some((key, item.clone()));
                }
            }
            best.map(|(_, item)| item).ok_or(Fault::Missing)
        }
        other => unreachable!("{other} is not known here"),
    }
}
