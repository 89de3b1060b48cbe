//! Queries run against a [`World`], with all there is to know of their answers: kind, batches, errors and their places.

use photondb_proto::datum::{Datum, Text, json_parse};
use photondb_proto::error::{ErrorKind, Frame, QueryError};
use photondb_proto::term::parse::{Parser, QueryMessage};
use photondb_proto::wire::response::AnswerKind;

use crate::exec::{Context, Execution, Step};
use crate::world::World;

pub const NOW: f64 = 1_375_147_296.681;
/// Small, so that every query yields now and then.
const FUEL: u32 = 7;

/// What a query gave.
#[derive(Debug, PartialEq)]
pub struct Reply {
    pub kind: Option<AnswerKind>,
    pub items: Vec<String>,
    pub error: Option<(ErrorKind, String, String)>,
    pub batches: usize,
}

/// A [`World`] whose answers tell batches, places and kinds.
pub struct Server {
    world: World,
}

pub fn datum(text: &str) -> Datum {
    json_parse::parse(&Text::new(text)).expect("a test's JSON is sound")
}

impl Server {
    /// With the database `test`, empty.
    pub fn new() -> Server {
        let mut world = World::new();
        assert!(!world.answer(r#"[1,[61,["t"]]]"#).starts_with('!'));
        Server { world }
    }

    /// A table of the database `test` with rows.
    pub fn with_table(mut self, name: &str, rows: &[&str]) -> Server {
        let rows = rows.join(",");
        for query in [format!("[1,[60,[\"{name}\"]]]"), format!("[1,[56,[[15,[\"{name}\"]],[2,[{rows}]]]]]")]
        {
            // A document's arrays are spelled as terms.
            let query =
                query.replace("[\"a\",\"b\"]", "[2,[\"a\",\"b\"]]").replace("[\"b\"]}", "[2,[\"b\"]]}");
            let query = query.replace(":[]", ":[2,[]]").replace("[\"c\",\"a\"]", "[2,[\"c\",\"a\"]]");
            let answer = self.world.answer(&query);
            assert!(!answer.starts_with('!') && !answer.contains("first_error"), "{answer}");
        }
        self
    }

    /// Runs a query to its end.
    #[track_caller]
    pub fn run(&mut self, query: &str) -> Reply {
        let mut text = query.as_bytes().to_vec();
        let parsed = Parser::default().parse(&mut text);
        let QueryMessage::Start { term, options } = (match parsed {
            Ok(message) => message,
            Err(error) => return Reply::of_error(error),
        }) else {
            panic!("a START")
        };
        let context = Context { user: "admin".into(), now_epoch_seconds: NOW, memory_bytes_max: 64 << 20 };
        let mut execution = match Execution::start(&term.into(), options, context) {
            Ok(execution) => execution,
            Err(error) => return Reply::of_error(error),
        };
        let mut reply = Reply { kind: None, items: Vec::new(), error: None, batches: 0 };
        loop {
            match execution.step(FUEL) {
                Step::OutOfFuel => {}
                Step::Needs(op) => {
                    let answer = self.world.reply(op);
                    execution.answer(answer);
                }
                Step::Ready(answer) => {
                    reply.batches += 1;
                    reply.kind.get_or_insert(answer.kind);
                    let items =
                        format!("[{}]", String::from_utf8(answer.items.to_vec()).expect("JSON is UTF-8"));
                    let Datum::Array(items) = raw(&items) else { panic!("an array") };
                    assert_eq!(items.len(), answer.count);
                    reply
                        .items
                        .extend(items.iter().map(|item| photondb_proto::datum::json::to_string(&item)));
                    if answer.kind != AnswerKind::Partial {
                        return reply;
                    }
                    execution.next_batch();
                }
                Step::Failed(error) => {
                    let failed = Reply::of_error(error);
                    return Reply {
                        kind: reply.kind,
                        items: reply.items,
                        error: failed.error,
                        batches: reply.batches,
                    };
                }
            }
        }
    }
}

/// JSON with pseudotypes left as objects would be best; what is compared is printed again anyway.
fn raw(text: &str) -> Datum {
    let text = text.replace("\"$reql_type$\":\"GROUPED_DATA\"", "\"$grouped$\":true");
    datum(&text)
}

impl Reply {
    fn of_error(error: QueryError) -> Reply {
        let frames: Vec<String> = error
            .backtrace
            .iter()
            .map(|frame| match frame {
                Frame::Argument(index) => index.to_string(),
                Frame::Optional(name) => format!("\"{name}\""),
            })
            .collect();
        let error = Some((error.kind, error.message, format!("[{}]", frames.join(","))));
        Reply { kind: None, items: Vec::new(), error, batches: 0 }
    }

    /// The reply as one line: items, or the error.
    pub fn line(&self) -> String {
        match &self.error {
            Some((kind, message, place)) => format!("! {kind:?} {message} {place}"),
            None => match self.kind {
                Some(AnswerKind::Atom) => self.items.join(","),
                Some(AnswerKind::Sequence | AnswerKind::Partial) => format!("<{}>", self.items.join(",")),
                None => "nothing".into(),
            },
        }
    }
}
