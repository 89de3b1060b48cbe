//! What a query costs grows with its length and with its values, not with their square.
//!
//! Always: a query is compared with the same one eight times as long. Work that grows with the length takes about eight times as long then,
//! and work that grows with its square 64 times; what is refused lies far from both, and each time is the least of several, so that
//! neither the machine nor what else runs on it decides.

use std::time::{Duration, Instant};

use photondb_proto::control::QueryKind;
use photondb_proto::error::{Frame, QueryError};
use photondb_proto::term::number;
use photondb_proto::term::parse::{Parser, QueryMessage};

use crate::exec::{Context, Execution, Step};

const FEW: usize = 2_000;
const TIMES: usize = 8;
const RATIO_MAX: f64 = 35.0;
const ATTEMPTS: usize = 5;

fn start(query: &str) -> Result<Execution, QueryError> {
    let mut text = query.as_bytes().to_vec();
    let (term, options) = match Parser::default().parse(&mut text) {
        Ok(QueryMessage::Start { term, options }) => (term, options),
        other => panic!("a START, not {other:?}"),
    };
    let context = Context { user: "admin".into(), now_epoch_seconds: 0.0, memory_bytes_max: 1 << 30 };
    Execution::start(&term.into(), options, context)
}

/// Runs a query that asks for no table. That it fails may be what takes long.
fn time(query: &str) -> Duration {
    let began = Instant::now();
    if let Ok(mut execution) = start(query) {
        while let Step::OutOfFuel = execution.step(1000) {}
    }
    began.elapsed()
}

fn least_time(query: &str) -> f64 {
    let times = (0..3).map(|_| time(query));
    times.min().expect("it runs three times").as_secs_f64()
}

/// Checks a term of a length.
#[track_caller]
fn check(name: &str, term: &dyn Fn(usize) -> String) {
    let query = |count| format!(r#"[1,{},{{"array_limit":1000000}}]"#, term(count));
    let (few, many) = (query(FEW), query(FEW * TIMES));
    let mut ratios = (0..ATTEMPTS).map(|_| least_time(&many) / least_time(&few));
    assert!(ratios.any(|ratio| ratio <= RATIO_MAX), "{name}: its cost grows faster than its length");
}

/// `[term,[arguments]]`.
fn term(term: u32, arguments: impl Iterator<Item = String>) -> String {
    format!("[{term},[{}]]", arguments.collect::<Vec<_>>().join(","))
}

/// An array of what a function of the row 1 makes of the numbers.
fn mapped(count: usize, body: &str) -> String {
    let range = format!("[{},[{count}]]", number::RANGE);
    let function = format!("[{},[[2,[1]],{body}]]", number::FUNC);
    format!("[{},[[{},[{range},{function}]],\"array\"]]", number::COERCE_TO, number::MAP)
}

/// The row of a function.
const ROW: &str = "[10,[1]]";

/// An object with a field for each number.
fn object(count: usize) -> String {
    format!("[51,[{},\"object\"]]", mapped(count, &format!("[2,[[51,[{ROW},\"string\"]],1]]")))
}

/// A key that comes before those of lesser numbers.
fn late(index: usize) -> String {
    format!("\"{}\"", 999_999 - index)
}

/// An object with these keys and values.
fn pairs(pairs: impl Iterator<Item = (String, String)>) -> String {
    let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}:{value}")).collect();
    format!("{{{}}}", pairs.join(","))
}

#[test]
fn chains_cost_what_their_length_does() {
    for (name, at) in [
        (number::EQ, (|_| 1) as fn(usize) -> usize),
        (number::LT, |index| index),
        (number::GE, |index| 1_000_000 - index),
        (number::ADD, |index| index),
        (number::MUL, |_| 1),
        (number::SUB, |index| index),
        (number::AND, |_| 1),
        (number::BIT_OR, |index| index),
    ] {
        let values = |count: usize| (0..count).map(move |index| at(index).to_string());
        check(&format!("constants, term {name}"), &|count| term(name, values(count)));
        let defaulted = |value| format!("[{},[{value},2]]", number::DEFAULT);
        check(&format!("terms, term {name}"), &|count| term(name, values(count).map(defaulted)));
    }
    let falses = |count: usize| (0..2 * count).map(|_| "false".to_owned());
    check("branch", &|count| term(number::BRANCH, falses(count).chain(["1".to_owned()])));
    check("union", &|count| term(number::UNION, (0..count).map(|_| "[2,[1]]".to_owned())));
    check("args", &|count| format!("[24,[[154,[{}]]]]", mapped(count, ROW)));
    check("strings", &|count| term(number::ADD, (0..count).map(|_| "\"abcdefghij\"".to_owned())));
}

#[test]
fn objects_cost_what_their_fields_do() {
    let number = |index: usize| index.to_string();
    let sum = |index: usize| format!("[24,[{index},1]]");
    check("constants, keys in reverse", &|count| pairs((0..count).map(|index| (late(index), number(index)))));
    check("terms, keys in reverse", &|count| pairs((0..count).map(|index| (late(index), sum(index)))));
    check("a key twice", &|count| pairs((0..count).map(|index| (late(index.min(count - 2)), sum(index)))));
    check("a key again and again", &|count| {
        pairs((0..count).map(|index| ("\"a\"".to_owned(), number(index))))
    });
    let keys_and_values = |count: usize| (0..count).flat_map(|index| [late(index), index.to_string()]);
    check("object", &|count| term(number::OBJECT, keys_and_values(count)));
    check("json, a key twice", &|count| {
        let pairs = pairs((0..count).map(|index| (late(index.min(count - 2)), number(index))));
        format!("[{},[\"{}\"]]", number::JSON, pairs.replace('"', "\\\""))
    });
    let from_pairs = |key: &str, count| {
        format!("[51,[{},\"object\"]]", mapped(count, &format!("[2,[[51,[{key},\"string\"]],1]]")))
    };
    check("pairs in reverse", &|count| from_pairs(&format!("[25,[1000000,{ROW}]]"), count));
    check("pairs with equal keys", &|count| from_pairs(&format!("[28,[{ROW},100]]"), count));
    for selection in [number::PLUCK, number::WITHOUT, number::HAS_FIELDS] {
        let fields = |count: usize| (0..count).map(|index| format!("\"{index}\""));
        let all = |count: usize| term(selection, [object(count)].into_iter().chain(fields(count)));
        check(&format!("all fields, term {selection}"), &all);
    }
}

#[test]
fn arrays_cost_what_their_items_do() {
    let by_row = format!("[69,[[2,[1]],{ROW}]]");
    let sum = "[69,[[2,[1,2]],[24,[[10,[1]],[10,[2]]]]]]";
    let terms: [(&str, &str); 20] = [
        ("append", "[29,[ARRAY,1]]"),
        ("prepend", "[80,[ARRAY,1]]"),
        ("insert_at", "[82,[ARRAY,1,1]]"),
        ("splice_at", "[85,[ARRAY,1,ARRAY]]"),
        ("delete_at", "[83,[ARRAY,1,1000]]"),
        ("add", "[24,[ARRAY,ARRAY]]"),
        ("difference", "[95,[ARRAY,ARRAY]]"),
        ("set_union", "[90,[ARRAY,ARRAY]]"),
        ("set_intersection", "[89,[ARRAY,ARRAY]]"),
        ("set_difference", "[91,[ARRAY,ARRAY]]"),
        ("set_insert", "[88,[ARRAY,1]]"),
        ("distinct", "[42,[ARRAY]]"),
        ("order_by", "[41,[ARRAY,BY_ROW]]"),
        ("group", "[144,[ARRAY,BY_ROW]]"),
        ("ungroup", "[150,[[144,[ARRAY,BY_ROW]]]]"),
        ("reduce", "[37,[ARRAY,SUM]]"),
        ("fold", "[187,[ARRAY,0,SUM]]"),
        ("concat_map", "[40,[ARRAY,[69,[[2,[1]],[2,[[10,[1]],[10,[1]]]]]]]]"),
        (
            "nth of each",
            "[64,[[69,[[2,[7]],[38,[[10,[7]],[69,[[2,[1]],[45,[[10,[7]],[10,[1]]]]]]]]]],ARRAY]]",
        ),
        ("to_json_string", "[172,[ARRAY]]"),
    ];
    for (name, text) in terms {
        let text = text.replace("BY_ROW", &by_row).replace("SUM", sum);
        check(name, &|count| text.replace("ARRAY", &mapped(count, ROW)));
    }
}

/// Steps before a query with all the fuel there is asks for something or fails, and what it does then.
fn turns(query: &str) -> (usize, Execution, Step) {
    let mut execution = start(query).expect("it takes long to check");
    let mut turns = 0;
    loop {
        match execution.step(u32::MAX) {
            Step::OutOfFuel => turns += 1,
            step => return (turns, execution, step),
        }
    }
}

#[test]
fn others_have_their_turn_while_a_long_query_is_checked() {
    let rows = |count: usize| (0..count).map(|index| format!("{{\"id\":{index},\"n\":[24,[{index},1]]}}"));
    let insert = |rows: String| format!("[1,[56,[[15,[\"t\"]],{rows}]]]");
    let (turns, execution, step) = turns(&insert(term(number::MAKE_ARRAY, rows(20_000))));
    assert!(matches!(step, Step::Needs(_)), "{step:?}");
    assert_eq!(execution.kind(), QueryKind::Write);
    assert!(turns >= 20, "{turns} turns");
    // What is wrong is told as it is of a short query.
    let wrong = rows(20_000).chain(["[24,[1,[99999,[]]]]".to_owned()]);
    let (_, _, step) = self::turns(&insert(term(number::MAKE_ARRAY, wrong)));
    let Step::Failed(error) = step else { panic!("it fails, and does not give {step:?}") };
    assert_eq!(error.message, "Unrecognized TermType: 99999.");
    let place = [1, 20_000, 1].map(Frame::Argument);
    assert_eq!(error.backtrace, place);
}
