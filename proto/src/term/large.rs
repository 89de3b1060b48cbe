//! Large queries: parsed by an ordinary thread, because a core would be held up for some milliseconds with each megabyte.
//!
//! Always: what crosses to the core is bytes ([`wire`]); there its constants are views that share these bytes. So a document of
//! 60 MB that is inserted is parsed and encoded elsewhere, and nothing on the core looks at each of its values.

use super::parse::{Parser, QueryMessage};
use super::{Term, wire};
use crate::datum::{Slice, Text};
use crate::error::QueryError;

/// A parsed query that may go to another thread.
#[derive(Debug)]
pub enum LargeQuery {
    Start {
        /// The term, and the options' terms behind it.
        terms: Vec<u8>,
        options: Vec<String>,
    },
    /// It holds no term: as it is.
    Other(Short),
    Failed(QueryError),
}

/// What a query without a term asks for.
#[derive(Clone, Copy, Debug)]
pub enum Short {
    Continue,
    Stop,
    NoreplyWait,
    ServerInfo,
}

/// Parses a query that came in pieces.
pub fn parse(pieces: Vec<Vec<u8>>) -> LargeQuery {
    let mut query = match <[Vec<u8>; 1]>::try_from(pieces) {
        Ok([only]) => only,
        Err(pieces) => pieces.concat(),
    };
    match Parser::default().parse(&mut query) {
        Ok(QueryMessage::Start { term, options }) => {
            drop(query);
            let mut terms = Vec::new();
            wire::put_term(&term, &mut terms);
            for (_, option) in &options {
                wire::put_term(option, &mut terms);
            }
            let options = options.iter().map(|(name, _)| name.as_str().to_owned()).collect();
            LargeQuery::Start { terms, options }
        }
        Ok(QueryMessage::Continue) => LargeQuery::Other(Short::Continue),
        Ok(QueryMessage::Stop) => LargeQuery::Other(Short::Stop),
        Ok(QueryMessage::NoreplyWait) => LargeQuery::Other(Short::NoreplyWait),
        Ok(QueryMessage::ServerInfo) => LargeQuery::Other(Short::ServerInfo),
        Err(error) => LargeQuery::Failed(error),
    }
}

impl LargeQuery {
    /// The query, for the core.
    ///
    /// # Errors
    /// Those of [`Parser::parse`].
    pub fn into_message(self) -> Result<QueryMessage, QueryError> {
        match self {
            LargeQuery::Start { terms, options } => {
                let (terms, mut at) = (Slice::from(terms), 0);
                let term: Term = wire::shared_term(&terms, &mut at);
                let options =
                    options.iter().map(|name| (Text::new(name), wire::shared_term(&terms, &mut at)));
                Ok(QueryMessage::Start { term, options: options.collect() })
            }
            LargeQuery::Other(Short::Continue) => Ok(QueryMessage::Continue),
            LargeQuery::Other(Short::Stop) => Ok(QueryMessage::Stop),
            LargeQuery::Other(Short::NoreplyWait) => Ok(QueryMessage::NoreplyWait),
            LargeQuery::Other(Short::ServerInfo) => Ok(QueryMessage::ServerInfo),
            LargeQuery::Failed(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str) {
        let bytes = query.as_bytes();
        let wanted = format!("{:?}", Parser::default().parse(&mut bytes.to_vec()));
        for piece in [1, 7, bytes.len()] {
            let pieces = bytes.chunks(piece).map(<[u8]>::to_vec).collect();
            assert_eq!(format!("{:?}", parse(pieces).into_message()), wanted, "pieces of {piece}");
        }
    }

    #[test]
    fn a_query_that_crosses_threads_is_what_it_was() {
        check(
            r#"[1,[56,[[15,["t"]],{"id":1,"a":[2,[1,"x",null,{"b":1.5}]],"$x":[13,[]]}],{"conflict":"error"}],{"db":[14,["d"]],"noreply":true}]"#,
        );
        check("[2]");
        check("[3]");
        check("[4]");
        check("[5]");
        check("[1,[24]");
        check(r#"[1,[24,{"a":[1,{},{}]}]]"#);
    }
}
