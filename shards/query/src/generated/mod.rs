//! Random queries of the pure part of the language, and what a slow evaluator that shares nothing with ours makes of them.
//!
//! A query is made for a wanted type and mostly gets it; now and then it does not, so that errors are compared too, by their class. Each
//! failure names its seed, with which it can be had again. The queries also run over a table's rows, where the stages travel.

mod slow;
mod value;

use photondb_proto::error::ErrorKind;
use photondb_proto::term::number::*;
use slow::{E, eval};
use value::{Fault, V};

use crate::conformance::close;
use crate::harness::{Server, datum};

/// Names of terms with their numbers on the wire.
const WIRE: &[(&str, u32)] = &[
    ("make_array", MAKE_ARRAY),
    ("branch", BRANCH),
    ("default", DEFAULT),
    ("and", AND),
    ("or", OR),
    ("not", NOT),
    ("eq", EQ),
    ("ne", NE),
    ("lt", LT),
    ("le", LE),
    ("gt", GT),
    ("ge", GE),
    ("add", ADD),
    ("sub", SUB),
    ("mul", MUL),
    ("div", DIV),
    ("mod", MOD),
    ("floor", FLOOR),
    ("ceil", CEIL),
    ("round", ROUND),
    ("type_of", TYPE_OF),
    ("upcase", UPCASE),
    ("downcase", DOWNCASE),
    ("split", SPLIT),
    ("append", APPEND),
    ("prepend", PREPEND),
    ("difference", DIFFERENCE),
    ("set_insert", SET_INSERT),
    ("set_union", SET_UNION),
    ("set_intersection", SET_INTERSECTION),
    ("set_difference", SET_DIFFERENCE),
    ("insert_at", INSERT_AT),
    ("splice_at", SPLICE_AT),
    ("change_at", CHANGE_AT),
    ("delete_at", DELETE_AT),
    ("slice", SLICE),
    ("nth", NTH),
    ("limit", LIMIT),
    ("skip", SKIP),
    ("count", COUNT),
    ("is_empty", IS_EMPTY),
    ("distinct", DISTINCT),
    ("sum", SUM),
    ("avg", AVG),
    ("min", MIN),
    ("max", MAX),
    ("union", UNION),
    ("contains", CONTAINS),
    ("offsets_of", OFFSETS_OF),
    ("get_field", GET_FIELD),
    ("has_fields", HAS_FIELDS),
    ("pluck", PLUCK),
    ("without", WITHOUT),
    ("merge", MERGE),
    ("keys", KEYS),
    ("values", VALUES),
    ("map", MAP),
    ("filter", FILTER),
    ("concat_map", CONCAT_MAP),
    ("reduce", REDUCE),
    ("fold", FOLD),
    ("order_by", ORDER_BY),
    ("do", FUNCALL),
    ("group", GROUP),
];

/// The term as it goes over the wire.
fn wire(e: &E) -> String {
    let all = |items: &[E]| items.iter().map(wire).collect::<Vec<_>>().join(",");
    match e {
        E::Is(V::Arr(items)) => wire(&E::Call("make_array", items.iter().cloned().map(E::Is).collect())),
        E::Is(V::Obj(fields)) => {
            wire(&E::Object(fields.iter().map(|(key, field)| (key.clone(), E::Is(field.clone()))).collect()))
        }
        E::Is(value) => value.json(),
        E::Var(id) => format!("[{VAR},[{id}]]"),
        E::Func(ids, body) => {
            let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
            format!("[{FUNC},[[{MAKE_ARRAY},[{}]],{}]]", ids.join(","), wire(body))
        }
        E::Object(fields) => {
            let fields = fields.iter().map(|(key, field)| format!("\"{key}\":{}", wire(field)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        // The function comes first.
        E::Call("do", arguments) => format!("[{FUNCALL},[{},{}]]", wire(&arguments[1]), wire(&arguments[0])),
        E::Call("rows_of_table", _) => format!("[{ORDER_BY},[[{TABLE},[\"t\"]]],{{\"index\":\"id\"}}]"),
        E::Call("group", arguments) => format!("[{UNGROUP},[[{GROUP},[{}]]]]", all(arguments)),
        E::Call(name, arguments) => {
            let (_, number) = WIRE.iter().find(|(known, _)| known == name).expect("terms made are listed");
            format!("[{number},[{}]]", all(arguments))
        }
    }
}

// ---------------------------------------------------------------- making queries

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Num,
    Int,
    Bool,
    Text,
    /// Of objects, mostly.
    Rows,
    /// Of numbers, mostly.
    Numbers,
    Object,
    Any,
}

const KINDS: [Want; 7] =
    [Want::Num, Want::Int, Want::Bool, Want::Text, Want::Rows, Want::Numbers, Want::Object];
const FIELDS: [&str; 4] = ["a", "b", "c", "id"];

struct Maker {
    state: u64,
    /// Variables in reach, with what they mostly hold.
    variables: Vec<(i64, Want)>,
    next_variable: i64,
}

impl Maker {
    fn new(seed: u64) -> Maker {
        Maker { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, variables: Vec::new(), next_variable: 1 }
    }

    /// Below `end`: xorshift64*.
    fn below(&mut self, end: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        ((self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % end
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn constant(&mut self, want: Want, depth: usize) -> V {
        match want {
            Want::Int => V::Num(self.below(9) as f64 - 3.0),
            Want::Num => V::Num((self.below(17) as f64 - 6.0) / 2.0),
            Want::Bool => self.pick(&[V::Bool(true), V::Bool(false), V::Bool(true)].each_ref()).clone(),
            Want::Text => V::Str(self.pick(&["", "a", "b", "ab", "Ba", "a b"]).to_owned()),
            Want::Numbers => {
                let count = self.below(4);
                V::Arr((0..count).map(|_| self.constant(Want::Int, 0)).collect())
            }
            Want::Rows => {
                let count = self.below(4);
                V::Arr((0..count).map(|_| self.constant(Want::Object, depth)).collect())
            }
            Want::Object => {
                let mut fields = std::collections::BTreeMap::new();
                for _ in 0..self.below(4) {
                    let key = self.pick(&FIELDS).to_owned();
                    let kind = if depth > 0 { Want::Any } else { Want::Num };
                    let value = self.constant(kind, depth.saturating_sub(1));
                    fields.insert(key, value);
                }
                V::Obj(fields)
            }
            Want::Any => match self.below(10) {
                0 => V::Null,
                _ => {
                    let kind = self.pick(&KINDS);
                    self.constant(kind, depth)
                }
            },
        }
    }

    fn leaf(&mut self, want: Want) -> E {
        let fitting: Vec<i64> = self
            .variables
            .iter()
            .filter(|(_, kind)| *kind == want || want == Want::Any)
            .map(|(id, _)| *id)
            .collect();
        if !fitting.is_empty() && self.below(3) > 0 {
            return E::Var(self.pick(&fitting));
        }
        E::Is(self.constant(want, 1))
    }

    /// A term that mostly gives what is wanted.
    fn term(&mut self, want: Want, depth: usize) -> E {
        let want = match (self.below(24), want) {
            (0, _) => Want::Any,
            (_, Want::Any) => self.pick(&KINDS),
            (_, want) => want,
        };
        if depth == 0 || self.below(6) == 0 {
            return self.leaf(want);
        }
        let depth = depth - 1;
        match self.below(12) {
            0 => return self.call("branch", &[Want::Bool, want, want], depth),
            1 => return self.call("default", &[want, want], depth),
            2 => {
                let kind = self.pick(&KINDS);
                let (given, body) = (self.term(kind, depth), self.function(&[kind], want, depth));
                return E::Call("do", vec![given, body]);
            }
            3 => {
                let key = E::Is(V::Str(self.pick(&FIELDS).to_owned()));
                return E::Call("get_field", vec![self.term(Want::Object, depth), key]);
            }
            4 => {
                let rows = if want == Want::Object { Want::Rows } else { Want::Numbers };
                return self.call("nth", &[rows, Want::Int], depth);
            }
            _ => {}
        }
        match want {
            Want::Num | Want::Int => self.number(depth),
            Want::Bool => self.boolean(depth),
            Want::Text => self.text(depth),
            Want::Rows | Want::Any => self.rows(depth),
            Want::Numbers => self.numbers(depth),
            Want::Object => self.object(depth),
        }
    }

    fn call(&mut self, name: &'static str, wants: &[Want], depth: usize) -> E {
        E::Call(name, wants.iter().map(|want| self.term(*want, depth)).collect())
    }

    /// A call whose last argument is a function of elements.
    fn over(&mut self, name: &'static str, of: Want, gives: Want, depth: usize) -> E {
        let items = self.term(of, depth);
        let element = if of == Want::Rows { Want::Object } else { Want::Int };
        E::Call(name, vec![items, self.function(&[element], gives, depth)])
    }

    fn function(&mut self, kinds: &[Want], gives: Want, depth: usize) -> E {
        let before = self.variables.len();
        let mut ids = Vec::new();
        for kind in kinds {
            ids.push(self.next_variable);
            self.variables.push((self.next_variable, *kind));
            self.next_variable += 1;
        }
        let body = self.term(gives, depth);
        self.variables.truncate(before);
        E::Func(ids, Box::new(body))
    }

    fn number(&mut self, depth: usize) -> E {
        use Want::*;
        match self.below(12) {
            0..=2 => {
                let name = self.pick(&["add", "sub", "mul", "div"]);
                self.call(name, &[Num, Num], depth)
            }
            3 => self.call("mod", &[Int, Int], depth),
            4 => {
                let name = self.pick(&["floor", "ceil", "round"]);
                self.call(name, &[Num], depth)
            }
            5 => {
                let (name, of) = (self.pick(&["sum", "avg", "min", "max"]), Numbers);
                self.call(name, &[of], depth)
            }
            6 => {
                let of = self.pick(&[Rows, Numbers, Text, Object]);
                self.call("count", &[of], depth)
            }
            7 => {
                let (name, of) = (self.pick(&["sum", "avg"]), self.pick(&[Rows, Numbers]));
                self.over(name, of, Num, depth)
            }
            8 => self.over("count", Rows, Bool, depth),
            9 => {
                let (items, function) = (self.term(Numbers, depth), self.function(&[Int, Int], Num, depth));
                E::Call("reduce", vec![items, function])
            }
            _ => {
                let (items, base) = (self.term(Numbers, depth), self.term(Num, depth));
                E::Call("fold", vec![items, base, self.function(&[Num, Int], Num, depth)])
            }
        }
    }

    fn boolean(&mut self, depth: usize) -> E {
        use Want::*;
        match self.below(8) {
            0..=2 => {
                let (name, kind) = (self.pick(&["eq", "ne", "lt", "le", "gt", "ge"]), self.pick(&KINDS));
                let count = 2 + self.below(2);
                self.call(name, &[kind, kind, kind][..count], depth)
            }
            3 => {
                let name = self.pick(&["and", "or"]);
                self.call(name, &[Bool, Bool], depth)
            }
            4 => self.call("not", &[Bool], depth),
            5 => {
                let name = self.pick(&["is_empty"]);
                self.call(name, &[Rows], depth)
            }
            6 => self.over("contains", Rows, Bool, depth),
            _ => self.field_term("has_fields", Object, depth),
        }
    }

    fn field_term(&mut self, name: &'static str, of: Want, depth: usize) -> E {
        let key = E::Is(V::Str(self.pick(&FIELDS).to_owned()));
        E::Call(name, vec![self.term(of, depth), key])
    }

    fn text(&mut self, depth: usize) -> E {
        use Want::*;
        match self.below(4) {
            0 => self.call("add", &[Text, Text], depth),
            1 => {
                let name = self.pick(&["upcase", "downcase"]);
                self.call(name, &[Text], depth)
            }
            2 => self.call("type_of", &[Any], depth),
            _ => self.call("slice", &[Text, Int, Int], depth),
        }
    }

    fn numbers(&mut self, depth: usize) -> E {
        use Want::*;
        match self.below(12) {
            0 => self.call("make_array", &[Num, Int, Num], depth),
            1 => {
                let name = self.pick(&["append", "prepend", "set_insert", "offsets_of"]);
                self.call(name, &[Numbers, Int], depth)
            }
            2 | 3 => {
                let name =
                    self.pick(&["difference", "set_union", "set_intersection", "set_difference", "union"]);
                self.call(name, &[Numbers, Numbers], depth)
            }
            4 => {
                let (name, of) = (self.pick(&["insert_at", "change_at"]), self.pick(&[Numbers, Rows]));
                self.call(name, &[of, Int, Num], depth)
            }
            5 => self.call("splice_at", &[Numbers, Int, Numbers], depth),
            6 => self.call("delete_at", &[Numbers, Int], depth),
            7 => self.over("map", Rows, Num, depth),
            8 => self.over("concat_map", Numbers, Numbers, depth),
            9 => self.field_term("get_field", Rows, depth),
            10 => self.call("mul", &[Numbers, Int], depth),
            _ => self.over("offsets_of", Numbers, Bool, depth),
        }
    }

    fn rows(&mut self, depth: usize) -> E {
        use Want::*;
        match self.below(13) {
            0 => self.call("make_array", &[Object, Object], depth),
            1 => {
                let (name, of) = (self.pick(&["limit", "skip"]), self.pick(&[Rows, Numbers]));
                self.call(name, &[of, Int], depth)
            }
            2 => self.call("slice", &[Rows, Int, Int], depth),
            3 => self.call("distinct", &[Rows], depth),
            4 | 5 => self.over("filter", Rows, Bool, depth),
            6 => self.over("order_by", Rows, Num, depth),
            7 => {
                let name = self.pick(&["pluck", "without", "has_fields"]);
                self.field_term(name, Rows, depth)
            }
            8 => self.call("merge", &[Rows, Object], depth),
            9 => self.over("map", Numbers, Object, depth),
            10 => self.over("group", Rows, Int, depth),
            11 => self.call("split", &[Text, Text], depth),
            _ => {
                let name = self.pick(&["keys", "values"]);
                self.call(name, &[Object], depth)
            }
        }
    }

    fn object(&mut self, depth: usize) -> E {
        use Want::*;
        match self.below(6) {
            0 => {
                let fields = [("a", Num), ("b", Any), ("c", Rows)];
                E::Object(fields.map(|(key, kind)| (key.to_owned(), self.term(kind, depth))).to_vec())
            }
            1 | 2 => self.call("merge", &[Object, Object], depth),
            3 => {
                let name = self.pick(&["pluck", "without"]);
                self.field_term(name, Object, depth)
            }
            _ => {
                let name = self.pick(&["min", "max"]);
                self.over(name, Rows, Num, depth)
            }
        }
    }
}

// ---------------------------------------------------------------- comparing

/// Which error a query fails with when several of its rows fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failing {
    /// That of the first row.
    First,
    /// Any: rows of a table come from several parts.
    Any,
}

/// What is wrong with our answer to an expression, if anything.
fn complaint(server: &mut Server, e: &E, failing: Failing) -> Option<String> {
    let query = format!("[1,{}]", wire(e));
    let reply = server.run(&query);
    let want = eval(e, &Vec::new());
    let same = match (&want, &reply.error) {
        (Ok(value), None) => {
            let found = match reply.kind {
                Some(crate::exec::AnswerKind::Atom) => reply.items[0].clone(),
                _ => format!("[{}]", reply.items.join(",")),
            };
            close(&datum(&found), &datum(&value.json()))
        }
        (Err(_), Some(_)) if failing == Failing::Any => true,
        (Err(Fault::Logic), Some((kind, ..))) => *kind == ErrorKind::QueryLogic,
        (Err(Fault::Missing), Some((kind, ..))) => *kind == ErrorKind::NonExistence,
        (Ok(_), Some(_)) | (Err(_), None) => false,
    };
    let want = want.map_or_else(|fault| format!("! {fault:?}"), |value| value.json());
    (!same).then(|| format!("{query}\n  slowly: {want}\n  we say: {}", reply.line()))
}

/// Compares what is made of each seed; a fair part of it, but not most, must be errors.
#[track_caller]
fn compare_seeds(
    seeds: std::ops::Range<u64>,
    server: &mut Server,
    failing: Failing,
    make: impl Fn(&mut Maker) -> E,
) {
    let count = seeds.end - seeds.start;
    let (mut errors, mut complaints) = (0, Vec::new());
    for seed in seeds {
        let e = make(&mut Maker::new(seed));
        complaints
            .extend(complaint(server, &e, failing).map(|complaint| format!("seed {seed}: {complaint}")));
        errors += u64::from(eval(&e, &Vec::new()).is_err());
    }
    let shown = complaints[..complaints.len().min(9)].join("\n");
    assert!(complaints.is_empty(), "{} of {count} differ:\n{shown}", complaints.len());
    assert!(errors * 50 > count && errors * 2 < count, "{errors} of {count} queries are errors");
}

#[test]
fn random_queries_give_what_a_slow_evaluator_gives() {
    compare_seeds(1..40_000, &mut Server::new(), Failing::First, |maker| {
        let depth = 1 + maker.below(4);
        let want = maker.pick(&KINDS);
        maker.term(want, depth)
    });
}

/// Rows of the table `t`, in the order of their keys.
fn rows() -> Vec<V> {
    let mut maker = Maker::new(4);
    let row = |id: usize| {
        let mut fields = match maker.constant(Want::Object, 2) {
            V::Obj(fields) => fields,
            _ => Default::default(),
        };
        fields.insert("id".into(), V::Num(id as f64));
        V::Obj(fields)
    };
    (0..40).map(row).collect()
}

fn server_with_rows() -> Server {
    let mut server = Server::new();
    assert_eq!(server.run(&format!("[1,[{TABLE_CREATE},[\"t\"]]]")).error, None);
    let inserted =
        server.run(&format!("[1,[{INSERT},[[{TABLE},[\"t\"]],{}]]]", wire(&E::Is(V::Arr(rows())))));
    assert!(inserted.line().contains("\"inserted\":40"), "{}", inserted.line());
    server
}

/// A few stages over the table and perhaps a terminal: what travels to the rows.
fn pipeline(maker: &mut Maker) -> E {
    use Want::*;
    let mut e = E::Call("rows_of_table", vec![E::Is(V::Arr(rows()))]);
    // Rows behind a limit are never looked at: it stands first, lest one of those fails.
    if maker.below(3) == 0 {
        e = E::Call("limit", vec![e, E::Is(V::Num(maker.below(40) as f64))]);
    }
    for _ in 0..1 + maker.below(3) {
        let (name, gives) = maker.pick(&[
            ("filter", Bool),
            ("map", Object),
            ("concat_map", Rows),
            ("order_by", Num),
            ("pluck", Text),
        ]);
        let last = match name {
            "pluck" => E::Is(V::Str(maker.pick(&FIELDS).to_owned())),
            _ => maker.function(&[Object], gives, 2),
        };
        e = E::Call(name, vec![e, last]);
        if maker.below(4) == 0 {
            e = E::Call("skip", vec![e, E::Is(V::Num(maker.below(20) as f64))]);
        }
    }
    let (name, gives) = maker.pick(&[("", Any), ("count", Bool), ("sum", Num), ("avg", Num), ("group", Int)]);
    match name {
        "" => e,
        _ => E::Call(name, vec![e, maker.function(&[Object], gives, 2)]),
    }
}

#[test]
fn random_pipelines_over_a_table_give_what_a_slow_evaluator_gives() {
    compare_seeds(1..2_000, &mut server_with_rows(), Failing::Any, pipeline);
}

/// Whether a value may stand in an index.
fn is_key(value: &V) -> bool {
    match value {
        V::Null | V::Obj(_) => false,
        V::Arr(items) => items.iter().all(is_key),
        V::Bool(_) | V::Num(_) | V::Str(_) => true,
    }
}

#[test]
fn reads_along_an_index_give_what_plain_filters_give() {
    let mut server = server_with_rows();
    let table = format!("[{TABLE},[\"t\"]]");
    assert_eq!(server.run(&format!("[1,[{INDEX_CREATE},[{table},\"a\"]]]")).error, None);
    let mut indexed: Vec<(V, V)> = rows()
        .into_iter()
        .filter_map(|row| Some((row.object().ok()?.get("a").filter(|key| is_key(key))?.clone(), row)))
        .collect();
    indexed.sort_by(|(left, _), (right, _)| value::compare(left, right));
    let mut maker = Maker::new(7);
    for _ in 0..500 {
        let (low, high) = (maker.constant(Want::Any, 1), maker.constant(Want::Any, 1));
        if !is_key(&low) || !is_key(&high) {
            continue;
        }
        let ids = |wanted: &dyn Fn(&V) -> bool| {
            let found = indexed.iter().filter(|(key, _)| wanted(key));
            V::Arr(found.map(|(_, row)| row.object().expect("rows are objects")["id"].clone()).collect())
        };
        let within = |key: &V| value::compare(&low, key).is_le() && value::compare(key, &high).is_lt();
        let [from, to] = [&low, &high].map(|bound| wire(&E::Is(bound.clone())));
        let option = "{\"index\":\"a\"}";
        let between = format!("[{BETWEEN},[{table},{from},{to}],{option}]");
        let cases = [
            (format!("[{ORDER_BY},[{between}],{option}]"), ids(&within)),
            (format!("[{ORDER_BY},[{table}],{option}]"), ids(&|_| true)),
            (format!("[{GET_ALL},[{table},{from}],{option}]"), ids(&|key| value::equal(key, &low))),
        ];
        for (term, want) in cases {
            let query = format!("[1,[{COERCE_TO},[[{GET_FIELD},[{term},\"id\"]],\"array\"]]]");
            let mut found = datum(&server.run(&query).line());
            // Rows of one key that a key asks for come in no order.
            if term.contains("[78,") {
                found = sorted(&found);
            }
            assert_eq!(found, datum(&want.json()), "{query}");
        }
    }
}

fn sorted(array: &photondb_proto::datum::Datum) -> photondb_proto::datum::Datum {
    let photondb_proto::datum::Datum::Array(items) = array else { panic!("an array") };
    let mut items: Vec<_> = items.iter().collect();
    items.sort();
    photondb_proto::datum::Datum::array(items)
}

#[test]
fn a_wrong_answer_would_be_seen() {
    let mut server = Server::new();
    let one = E::Is(V::Num(1.0));
    assert_eq!(complaint(&mut server, &one, Failing::First), None);
    // What the slow evaluator is told are the table's rows is another table's.
    let mut server = server_with_rows();
    let wrong = E::Call("rows_of_table", vec![E::Is(V::Arr(rows()[1..].to_vec()))]);
    assert!(complaint(&mut server, &E::Call("count", vec![wrong]), Failing::Any).is_some());
}
