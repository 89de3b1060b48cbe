//! What goes the quick way over a table gives what the evaluator makes of the same rows in an array. Functions are drawn from seeds.

use photondb_proto::term::number::*;

use crate::harness::Server;

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

const LONG: &str = "a long text, so that the document has a directory of its fields and they are found by it, and more of it";

fn rows() -> Vec<String> {
    let values = ["1", "2", "-0.5", "0", "null", "true", "false", "\"x\"", "\"y\"", "4294967296"];
    let mut random = Random(11);
    (0..40)
        .map(|id| {
            let mut row = format!("{{\"id\":{id}");
            for field in ["a", "b", "c", "o"] {
                match random.below(8) {
                    0 => {}
                    1 => row += &format!(",\"{field}\":{{\"a\":{},\"{LONG}\":1}}", random.pick(&values)),
                    _ => row += &format!(",\"{field}\":{}", random.pick(&values)),
                }
            }
            if random.below(2) == 0 {
                row += &format!(",\"wide\":\"{LONG}\",\"$first\":2,\"zz\":{{}}");
            }
            row + "}"
        })
        .collect()
}

/// A function of the row `[10,[1]]`, without its FUNC.
fn value(random: &mut Random, depth: u32) -> String {
    let two = |random: &mut Random, term: u32| {
        format!("[{term},[{},{}]]", value(random, depth - 1), value(random, depth - 1))
    };
    let row = "[10,[1]]";
    if depth == 0 || random.below(4) == 0 {
        return match random.below(5) {
            0 => random.pick(&["0", "1", "-0.5", "null", "true", "\"x\"", "7"]).into(),
            1 => format!("[{GET_FIELD},[[{BRACKET},[{row},\"o\"]],\"a\"]]"),
            2 => format!("[{BRACKET},[{row},\"{}\"]]", random.pick(&["id", "wide", "zz", "$first", "none"])),
            _ => format!("[{GET_FIELD},[{row},\"{}\"]]", random.pick(&["a", "b", "c", "o"])),
        };
    }
    match random.below(9) {
        0..=3 => {
            let term = [EQ, NE, LT, LE, GT, GE][random.below(6) as usize];
            two(random, term)
        }
        4 => {
            let term = [ADD, SUB, MUL, DIV, MOD][random.below(5) as usize];
            two(random, term)
        }
        5 => format!("[{NOT},[{}]]", value(random, depth - 1)),
        6 => two(random, AND),
        7 => two(random, OR),
        _ => two(random, DEFAULT),
    }
}

fn function(random: &mut Random, depth: u32) -> String {
    match random.below(8) {
        0 => format!("\"{}\"", random.pick(&["a", "b", "id", "none"])),
        _ => format!("[{FUNC},[[{MAKE_ARRAY},[1]],{}]]", value(random, depth)),
    }
}

/// Stages and a terminal over `rows`.
fn query(random: &mut Random, rows: &str) -> String {
    let mut query = rows.to_owned();
    for _ in 0..random.below(3) {
        let filter = match random.below(6) {
            0 => format!(
                "{{\"{}\":{}}}",
                random.pick(&["a", "b", "none"]),
                random.pick(&["1", "null", "\"x\""])
            ),
            _ => format!("[{FUNC},[[{MAKE_ARRAY},[1]],{}]]", value(random, 3)),
        };
        query = format!("[{FILTER},[{query},{filter}]]");
    }
    let is_grouped = random.below(2) == 0;
    if is_grouped {
        let more = if random.below(3) == 0 { format!(",{}", function(random, 1)) } else { String::new() };
        query = format!("[{GROUP},[{query},{}{more}]]", function(random, 2));
    }
    query = match random.below(6) {
        0 => format!("[{COUNT},[{query}]]"),
        1 if !is_grouped => {
            return format!("[{ORDER_BY},[[{COERCE_TO},[{query},\"array\"]],\"id\"]]");
        }
        1 | 2 => format!("[{SUM},[{query},{}]]", function(random, 1)),
        3 => format!("[{AVG},[{query},{}]]", function(random, 1)),
        4 => format!("[{GET_FIELD},[[{MIN},[{query},\"id\"]],\"id\"]]"),
        _ => format!("[{MAX},[{query},{}]]", function(random, 1)),
    };
    if is_grouped { format!("[{UNGROUP},[{query}]]") } else { query }
}

#[test]
fn the_quick_way_gives_what_the_long_way_gives() {
    let rows = rows();
    let spelled: Vec<&str> = rows.iter().map(String::as_str).collect();
    let mut server = Server::new().with_table("t", &spelled);
    let array = format!("[{MAKE_ARRAY},[{}]]", rows.join(","));
    let (mut errors, seeds) = (0, 4_000);
    for seed in 0..seeds {
        let over = |rows: &str| query(&mut Random(seed), rows);
        let there = server.run(&format!("[1,{}]", over(&format!("[{TABLE},[\"t\"]]"))));
        let here = server.run(&format!("[1,{}]", over(&array)));
        errors += u64::from(here.error.is_some());
        let kind = |error: &Option<_>| error.as_ref().map(|(kind, _, _)| format!("{kind:?}"));
        // Of the best rows any may be given, and of rows that fail any may be named.
        if there.error.is_some() || here.error.is_some() {
            assert_eq!(kind(&there.error), kind(&here.error), "seed {seed}: {}", over("T"));
        } else if !over("T").contains(&format!("[{MAX},")) {
            assert_eq!(there.items, here.items, "seed {seed}: {}", over("T"));
        }
    }
    assert!(errors * 10 > seeds && errors * 4 < seeds * 3, "{errors} of {seeds} queries are errors");
}
