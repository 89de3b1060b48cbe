//! What a client that follows a table knows, by what feeds have told it: every element must follow on that.

use std::collections::BTreeMap;

use photondb_proto::term::number;
use photondb_runtime::env::StreamEnd;
use serde_json::{Value, json};

use crate::client::Client;

/// The table that all feeds are about.
pub fn table() -> Value {
    json!([number::TABLE, [[number::DB, ["d"]], "t"]])
}

pub fn key(row: &Value) -> u64 {
    row["id"].as_u64().expect("rows have keys")
}

/// By key: the row as often as it was told to be there. A key without rows is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows(pub BTreeMap<u64, Vec<Value>>);

impl Rows {
    /// Takes a change or an initial value of rows that may be told in so many places each.
    pub fn lay(&mut self, element: &Value, places: usize) -> Result<(), String> {
        let side = |name: &str| element.get(name).filter(|row| !row.is_null());
        if let Some(old) = side("old_val") {
            let known = self.0.get_mut(&key(old));
            let place = known.as_ref().and_then(|known| known.iter().position(|row| row == old));
            match (known, place) {
                (Some(known), Some(place)) if known.len() > 1 => drop(known.remove(place)),
                (Some(_), Some(_)) => drop(self.0.remove(&key(old))),
                (known, _) => return Err(format!("{element} follows {known:?}")),
            }
        }
        if let Some(new) = side("new_val") {
            let known = self.0.entry(key(new)).or_default();
            known.push(new.clone());
            if known.len() > places {
                return Err(format!("{element} makes {known:?}"));
            }
        }
        Ok(())
    }

    pub fn count(&self, id: u64) -> usize {
        self.0.get(&id).map_or(0, Vec::len)
    }

    /// What a query finds now.
    pub async fn found(client: &mut Client, source: &Value) -> Result<Rows, StreamEnd> {
        let mut rows = Rows::default();
        match client.run(source).await? {
            Value::Array(found) => {
                for row in found {
                    rows.0.entry(key(&row)).or_default().push(row);
                }
            }
            row => rows.0.entry(key(&row)).or_default().push(row),
        }
        Ok(rows)
    }
}
