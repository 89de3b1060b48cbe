//! GRANT: what a user may do, for all databases, for one, or for one table.

use photondb_proto::datum::{Datum, document};
use photondb_proto::op::{CatalogOp, CatalogReply, Scope};
use photondb_proto::term::number;

use super::{Arity, Determinism, Eval, Invocation, TermDef};
use crate::failure::Outcome;
use crate::run::{Run, wrong_reply};
use crate::value::Value;

pub static TERMS: &[TermDef] = &[TermDef {
    name: "GRANT",
    number: number::GRANT,
    arity: Arity::between(2, 3),
    options: &[],
    determinism: Determinism::Never,
    eval: Eval::Strict(|run, invocation| Box::pin(grant(run, invocation))),
}];

async fn grant(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let call = &invocation.call;
    let first = &call.arguments[0];
    let scope = match (call.count(), &first.value) {
        (2, _) => Scope::Global,
        (_, Value::Database(database)) => Scope::Database(database.id),
        (_, Value::Table(table)) => Scope::Table(table.info.database_id, table.info.id.named()),
        (_, other) => return Err(other.wrong_kind("TABLE").at(&first.place)),
    };
    let user = call.string(call.count() - 2)?.as_str().to_owned();
    let permissions = document::to_bytes(&call.datum(call.count() - 1)?);
    match run.catalog(CatalogOp::Grant { scope, user, permissions }).await? {
        CatalogReply::Value(change) => {
            let changes = Datum::array(vec![document::from_bytes(&change)]);
            let answer = [("granted", Datum::Number(1.0)), ("permissions_changes", changes)];
            Ok(Datum::object(answer).into())
        }
        CatalogReply::Table(_)
        | CatalogReply::Database(_)
        | CatalogReply::Names(_)
        | CatalogReply::Indexes(_) => Err(wrong_reply()),
    }
}

#[cfg(test)]
mod tests {
    use crate::world::World;

    #[test]
    fn permissions_are_granted_at_every_level() {
        let changes = r#"{"granted":1,"permissions_changes":[{"new_val":{"read":true},"old_val":null}]}"#;
        let mut world = World::new();
        for (query, want) in [
            (r#"[188,["u",{"read":true}]]"#, changes),
            (r#"[188,[[14,["test"]],"u",{"read":true}]]"#, changes),
            (r#"[188,[[15,["t"]],"u",{"read":true}]]"#, changes),
            (r#"[188,[1,"u",{"read":true}]]"#, "! Expected type TABLE but found DATUM:\n1"),
            (r#"[188,[1,{"read":true}]]"#, "! Expected type STRING but found NUMBER."),
            (r#"[188,["u"]]"#, "! Expected between 2 and 3 arguments but found 1."),
        ] {
            assert_eq!(world.answer(&format!("[1,{query}]")), want, "{query}");
        }
    }
}
