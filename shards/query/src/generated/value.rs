//! Values of the slow evaluator: a tree of plain Rust, ordered by comparing names of types first.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A ReQL value of the types that the generator makes.
#[derive(Clone, Debug, PartialEq)]
pub enum V {
    Null,
    Bool(bool),
    Num(f64),
    Str(String),
    Arr(Vec<V>),
    Obj(BTreeMap<String, V>),
}

/// Class of a query's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Logic,
    Missing,
}

pub type Found<T = V> = Result<T, Fault>;

impl V {
    pub fn type_name(&self) -> &'static str {
        match self {
            V::Null => "NULL",
            V::Bool(_) => "BOOL",
            V::Num(_) => "NUMBER",
            V::Str(_) => "STRING",
            V::Arr(_) => "ARRAY",
            V::Obj(_) => "OBJECT",
        }
    }

    pub fn is_true(&self) -> bool {
        !matches!(self, V::Null | V::Bool(false))
    }

    /// Of the wrong type: null counts as missing.
    pub fn fault(&self) -> Fault {
        if *self == V::Null { Fault::Missing } else { Fault::Logic }
    }

    pub fn num(&self) -> Found<f64> {
        if let V::Num(number) = self { Ok(*number) } else { Err(self.fault()) }
    }

    pub fn int(&self) -> Found<i64> {
        let number = self.num()?;
        if number.fract() == 0.0 { Ok(number as i64) } else { Err(Fault::Logic) }
    }

    pub fn text(&self) -> Found<&str> {
        if let V::Str(text) = self { Ok(text) } else { Err(self.fault()) }
    }

    pub fn array(&self) -> Found<&Vec<V>> {
        if let V::Arr(items) = self { Ok(items) } else { Err(self.fault()) }
    }

    pub fn object(&self) -> Found<&BTreeMap<String, V>> {
        if let V::Obj(fields) = self { Ok(fields) } else { Err(self.fault()) }
    }

    pub fn json(&self) -> String {
        match self {
            V::Null => "null".into(),
            V::Bool(bool) => bool.to_string(),
            V::Num(number) if *number == 0.0 && number.is_sign_negative() => "-0.0".into(),
            V::Num(number) => number.to_string(),
            V::Str(text) => format!("\"{text}\""),
            V::Arr(items) => format!("[{}]", items.iter().map(V::json).collect::<Vec<_>>().join(",")),
            V::Obj(fields) => {
                let fields = fields.iter().map(|(key, value)| format!("\"{key}\":{}", value.json()));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// The total order: by name of type, then within the type.
pub fn compare(left: &V, right: &V) -> Ordering {
    match (left, right) {
        (V::Bool(left), V::Bool(right)) => left.cmp(right),
        (V::Num(left), V::Num(right)) => left.partial_cmp(right).expect("no number is NaN"),
        (V::Str(left), V::Str(right)) => left.cmp(right),
        (V::Arr(left), V::Arr(right)) => {
            let different = left.iter().zip(right).map(|(l, r)| compare(l, r)).find(|order| order.is_ne());
            different.unwrap_or(left.len().cmp(&right.len()))
        }
        (V::Obj(left), V::Obj(right)) => {
            let pairs = left.iter().zip(right);
            let different =
                pairs.map(|(l, r)| l.0.cmp(r.0).then_with(|| compare(l.1, r.1))).find(|order| order.is_ne());
            different.unwrap_or(left.len().cmp(&right.len()))
        }
        (left, right) => left.type_name().cmp(right.type_name()),
    }
}

pub fn equal(left: &V, right: &V) -> bool {
    compare(left, right).is_eq()
}
