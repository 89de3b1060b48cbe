//! LITERAL and the bounds MINVAL and MAXVAL. (Where a literal may stand is [`crate::check`]'s to say.)

use photondb_proto::datum::pseudo::TYPE_KEY;
use photondb_proto::datum::{Datum, ObjectBuilder};
use photondb_proto::term::number;

use super::{Arity, TermDef};

pub static TERMS: &[TermDef] = &[
    TermDef::pure("LITERAL", number::LITERAL, Arity::between(0, 1), |call| {
        let mut literal = ObjectBuilder::default();
        literal.set(TYPE_KEY, Datum::string("LITERAL"));
        if call.count() == 1 {
            literal.set("value", call.datum(0)?);
        }
        Ok(Datum::Object(literal.build()))
    }),
    TermDef::pure("MINVAL", number::MINVAL, Arity::exactly(0), |_| Ok(Datum::MinVal)),
    TermDef::pure("MAXVAL", number::MAXVAL, Arity::exactly(0), |_| Ok(Datum::MaxVal)),
];
