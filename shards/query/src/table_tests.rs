//! Queries over tables in two parts, with stages and terminals that travel: rows of queries and answers.

use crate::harness::Server;

fn server() -> Server {
    let rows = [
        r#"{"id":1,"n":5,"tags":["a","b"],"o":{"x":1}}"#,
        r#"{"id":2,"n":3,"tags":[],"o":{"x":2}}"#,
        r#"{"id":3,"n":8,"tags":["b"]}"#,
        r#"{"id":4,"n":3}"#,
        r#"{"id":5,"tags":["c","a"]}"#,
        r#"{"id":6,"n":null}"#,
        r#"{"id":7,"n":1}"#,
        r#"{"id":8,"n":9}"#,
    ];
    let partners = [r#"{"id":3,"name":"three"}"#, r#"{"id":5,"name":"five"}"#, r#"{"id":8,"name":"eight"}"#];
    Server::new().with_table("t", &rows).with_table("p", &partners).with_table("e", &[])
}

/// Runs a term (`T` stands for the table, `$f(x)` needs writing out) and compares the line it gives.
#[track_caller]
fn check(term: &str, want: &str) {
    check_with(term, "{}", want);
}

#[track_caller]
fn check_with(term: &str, options: &str, want: &str) {
    let term = term.replace('T', r#"[15,["t"]]"#).replace('P', r#"[15,["p"]]"#).replace('E', r#"[15,["e"]]"#);
    let found = server().run(&format!("[1,{term},{options}]")).line();
    assert_eq!(found, want, "{term}");
}

/// `x => x.n > 3`
const N_OVER_3: &str = r#"[69,[[2,[1]],[21,[[170,[[10,[1]],"n"]],3]]]]"#;
/// `x => x.n`
const N: &str = r#"[69,[[2,[1]],[31,[[10,[1]],"n"]]]]"#;

#[test]
fn rows_are_got_by_key() {
    check("[16,[T,3]]", r#"{"id":3,"n":8,"tags":["b"]}"#);
    check("[16,[T,99]]", "null");
    check(r#"[170,[[16,[T,3]],"n"]]"#, "8");
    check(
        r#"[16,[T,null]]"#,
        "! NonExistence Primary keys must be either a number, string, bool, pseudotype or array (got type NULL):\nnull []",
    );
    check(r#"[31,[[78,[T,3,1,3,99]],"id"]]"#, "<1,3,3>");
    check("[78,[T,null]]", "! NonExistence Keys cannot be NULL. [1]");
    check(r#"[43,[[182,[T,2,5]]]]"#, "3");
    check(r#"[43,[[182,[T,5,2]]]]"#, "0");
    check(r#"[182,[T,5,2]]"#, "<>");
    check(r#"[145,[[182,[T,5,5]],"n"]]"#, "0");
    check(r#"[43,[[182,[T,2,5],{"right_bound":"closed","left_bound":"open"}]]]"#, "3");
    check(r#"[31,[[41,[[182,[T,[180,[]],4]]],{"index":[74,["id"]]}],"id"]]"#, "<3,2,1>");
}

#[test]
fn ordered_scans_merge_the_parts() {
    check(r#"[31,[[41,[T],{"index":"id"}],"id"]]"#, "<1,2,3,4,5,6,7,8>");
    check(r#"[31,[[41,[T],{"index":[74,["id"]]}],"id"]]"#, "<8,7,6,5,4,3,2,1>");
    check(r#"[31,[[71,[[41,[T],{"index":"id"}],3]],"id"]]"#, "<1,2,3>");
    check(r#"[31,[[70,[[41,[T],{"index":"id"}],6]],"id"]]"#, "<7,8>");
    check(
        r#"[31,[[41,[T],{"index":"x"}],"id"]]"#,
        "! OpFailed Index `x` was not found on table `test.t`. [0]",
    );
    check(&format!(r#"[31,[[39,[[41,[T],{{"index":"id"}}],{N_OVER_3}]],"id"]]"#), "<1,3,8>");
    check(r#"[38,[[41,[T,[73,["n"]]]],[69,[[2,[1]],[170,[[10,[1]],"id"]]]]]]"#, "[5,6,7,2,4,1,3,8]");
    check(r#"[31,[[41,[T,[74,["n"]],"id"]],"id"]]"#, "[8,3,1,2,4,7,6,5]");
}

#[test]
fn batches_are_cut_and_the_last_one_is_not_partial() {
    let mut server = server();
    let reply = server.run(r#"[1,[31,[[41,[[15,["t"]]],{"index":"id"}],"id"]],{"max_batch_rows":3}]"#);
    assert_eq!((reply.batches, reply.items.len()), (3, 8));
    let reply = server.run(r#"[1,[71,[[15,["t"]],4]],{"max_batch_rows":4}]"#);
    assert_eq!((reply.batches, reply.items.len()), (1, 4));
    let reply = server.run(r#"[1,[173,[1200]]]"#);
    assert_eq!((reply.batches, reply.items.len()), (3, 1200));
}

#[test]
fn rows_and_batches_are_the_same_however_many_rows_come_at_once() {
    let mut server = server();
    let ordered = |range: &str, index: &str| format!(r#"[41,[{range}],{{"index":{index}}}]"#);
    for (left, right) in [(1, 9), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7), (6, 8), (1, 6), (3, 9), (4, 4)] {
        let range = format!(r#"[182,[[15,["t"]],{left},{right}]]"#);
        let mut upward: Vec<u32> = (left..right).collect();
        for (source, is_ordered) in [
            (range.clone(), false),
            (ordered(&range, r#""id""#), true),
            (ordered(&range, r#"[74,["id"]]"#), true),
        ] {
            for (skip, limit, rows_max) in (0..4)
                .flat_map(|skip| (1..9).flat_map(move |limit| (1..5).map(move |rows| (skip, limit, rows))))
            {
                let query =
                    format!(r#"[1,[71,[[70,[{source},{skip}]],{limit}]],{{"max_batch_rows":{rows_max}}}]"#);
                let reply = server.run(&query);
                let id = |item: &String| item[6..item.find([',', '}']).unwrap()].parse().unwrap();
                let mut ids: Vec<u32> = reply.items.iter().map(id).collect();
                let wanted: Vec<u32> = upward.iter().copied().skip(skip).take(limit).collect();
                assert_eq!(reply.batches, wanted.len().div_ceil(rows_max).max(1), "{query}");
                if is_ordered {
                    assert_eq!(ids, wanted, "{query}");
                }
                ids.sort_unstable();
                ids.dedup();
                assert_eq!(ids.len(), wanted.len(), "{query}");
                assert!(ids.iter().all(|id| (left..right).contains(id)), "{query}");
            }
            if is_ordered {
                upward.reverse();
            }
        }
    }
}

#[test]
fn an_error_in_a_later_batch_comes_after_the_rows_before_it() {
    let query = r#"[1,[38,[[173,[5]],[69,[[2,[1]],[27,[6,[25,[3,[10,[1]]]]]]]]]],{"max_batch_rows":2}]"#;
    let reply = server().run(query);
    assert_eq!(reply.items, ["2", "3", "6"]);
    assert!(reply.error.is_some_and(|(_, text, place)| text == "Cannot divide by zero." && place == "[1,1]"));
}

#[test]
fn terminals_travel_and_merge() {
    check("[43,[T]]", "8");
    check(&format!("[43,[[39,[T,{N_OVER_3}]]]]"), "3");
    check(r#"[43,[T,{"id":4,"n":3}]]"#, "1");
    check(&format!("[43,[T,{N_OVER_3}]]"), "3");
    check(r#"[145,[T,"n"]]"#, "29");
    check(r#"[146,[T,"n"]]"#, "4.833333333333333");
    check(r#"[147,[T,"n"]]"#, r#"{"id":6,"n":null}"#);
    check(r#"[148,[T,"n"]]"#, r#"{"id":8,"n":9}"#);
    check(r#"[148,[T],{"index":"id"}]"#, r#"{"id":8,"n":9}"#);
    check(r#"[31,[[147,[T],{"index":"id"}],"id"]]"#, "1");
    check(r#"[42,[[31,[T,"n"]]]]"#, "[null,1,3,5,8,9]");
    check(r#"[42,[T],{"index":"id"}]"#, "<1,2,3,4,5,6,7,8>");
    check(
        r#"[37,[[38,[T,[69,[[2,[1]],[170,[[10,[1]],"id"]]]]]],[69,[[2,[1,2]],[24,[[10,[1]],[10,[2]]]]]]]]"#,
        "36",
    );
    check(
        r#"[37,[E,[69,[[2,[1,2]],[10,[1]]]]]]"#,
        "! NonExistence Cannot reduce over an empty stream. [1,1]",
    );
    check(r#"[145,[E,"n"]]"#, "0");
    check(r#"[92,[[146,[E,"n"]],7]]"#, "7");
    check(
        r#"[145,[[2,[1]],"n"]]"#,
        "! QueryLogic Cannot perform get_field on a non-object non-sequence `1`. [1]",
    );
    check(r#"[145,[T,"tags"]]"#, "! QueryLogic Expected type NUMBER but found ARRAY. [1]");
}

#[test]
fn a_lambda_over_rows_is_blamed_where_it_stands() {
    check(
        &format!("[38,[T,{N}]]"),
        "! NonExistence No attribute `n` in object:\n{\n\t\"id\":\t5,\n\t\"tags\":\t[\n\t\t\"c\",\n\t\t\"a\"\n\t]\n} [1,1]",
    );
    check(
        r#"[39,[T,[69,[[2,[1]],[24,[[170,[[10,[1]],"n"]],"x"]]]]],{"default":true}]"#,
        "! QueryLogic Expected type NUMBER but found STRING. [1,1]",
    );
}

#[test]
fn filters_take_patterns_and_defaults() {
    check(r#"[31,[[39,[T,{"o":{"x":2}}]],"id"]]"#, "<2>");
    check(r#"[43,[[39,[T,{"n":3}]]]]"#, "2");
    check(r#"[43,[[39,[T,{"n":3}],{"default":true}]]]"#, "3");
    check(
        r#"[31,[[39,[T,{"n":3}],{"default":[12,[]]}],"id"]]"#,
        "! NonExistence No attribute `n` in object. [0,1]",
    );
    check(r#"[43,[[39,[T,true]]]]"#, "8");
    check(r#"[43,[[39,[T,[69,[[2,[1]],[93,[[170,[[10,[1]],"tags"]],"a"]]]]]]]]"#, "2");
}

#[test]
fn functions_capture_what_is_around_them() {
    check(
        r#"[64,[[69,[[2,[7]],[43,[[39,[T,[69,[[2,[1]],[17,[[170,[[10,[1]],"n"]],[10,[7]]]]]]]]]]]],3]]"#,
        "2",
    );
    check(
        r#"[64,[[69,[[2,[7]],[43,[[10,[7]]]]]],T]]"#,
        "! QueryLogic Expected type DATUM but found TABLE:\ntable(\"t\") [1]",
    );
    // The lambda reads another table: it stays with the coordinator.
    check(r#"[38,[P,[69,[[2,[1]],[170,[[16,[T,[170,[[10,[1]],"id"]]]],"id"]]]]]]"#, "<3,5,8>");
}

#[test]
fn grouped_terms_work_on_each_group() {
    let even = r#"[69,[[2,[1]],[28,[[170,[[10,[1]],"id"]],2]]]]"#;
    let grouped = |pairs: &str| format!(r#"{{"$grouped$":true,"data":{pairs}}}"#);
    check(&format!("[43,[[144,[T,{even}]]]]"), &grouped("[[0,4],[1,4]]"));
    check(&format!(r#"[145,[[144,[T,{even}]],"n"]]"#), &grouped("[[0,15],[1,14]]"));
    check(&format!(r#"[31,[[144,[T,{even}]],"n"]]"#), &grouped("[[0,[3,3,null,9]],[1,[8,5,1]]]"));
    check(
        &format!(r#"[150,[[148,[[31,[[144,[T,{even}]],"n"]]]]]]"#),
        r#"[{"group":0,"reduction":9},{"group":1,"reduction":8}]"#,
    );
    check(&format!(r#"[170,[[148,[[144,[T,{even}]],"n"]],"n"]]"#), &grouped("[[0,9],[1,8]]"));
    check(&format!(r#"[33,[[148,[[144,[T,{even}]],"n"]],"n"]]"#), &grouped(r#"[[0,{"n":9}],[1,{"n":8}]]"#));
    check(&format!("[24,[[43,[[144,[T,{even}]]]],1]]"), &grouped("[[0,5],[1,5]]"));
    check(&format!("[43,[[39,[[144,[T,{even}]],{N_OVER_3}]]]]"), &grouped("[[0,1],[1,2]]"));
    check(r#"[43,[[144,[T,"n"]]]]"#, &grouped("[[null,2],[1,1],[3,2],[5,1],[8,1],[9,1]]"));
    check(r#"[43,[[144,[T,"tags"],{"multi":true}]]]"#, &grouped(r#"[[null,5],["a",2],["b",2],["c",1]]"#));
    check(r#"[43,[[144,[[39,[T,{"n":3}]],"n","id"]]]]"#, &grouped("[[[3,2],1],[[3,4],1]]"));
    check(
        r#"[170,[[144,[[182,[T,1,4]],"n"]],0]]"#,
        &grouped(
            r#"[[3,{"id":2,"n":3,"o":{"x":2},"tags":[]}],[5,{"id":1,"n":5,"o":{"x":1},"tags":["a","b"]}],[8,{"id":3,"n":8,"tags":["b"]}]]"#,
        ),
    );
    check(
        r#"[144,[[144,[T,"n"]],"n"]]"#,
        "! QueryLogic Cannot call `group` on the output of `group` (did you mean to `ungroup`?). []",
    );
    check("[144,[T]]", "! QueryLogic Cannot group by nothing. []");
    check(r#"[52,[[144,[T,"n"]]]]"#, r#""GROUPED_STREAM""#);
    check(r#"[43,[[144,[E,"n"]]]]"#, &grouped("[]"));
    // A group without a row that counts is no group.
    check(r#"[146,[[144,[T,"id"]],"n"]]"#, &grouped("[[1,5],[2,3],[3,8],[4,3],[7,1],[8,9]]"));
}

#[test]
fn joins_pair_rows() {
    check(r#"[31,[[31,[[50,[T,"id",P]],"right"]],"name"]]"#, r#"<"three","five","eight">"#);
    check(
        r#"[33,[[72,[[50,[T,"id",P]]]],"name","id"]]"#,
        r#"<{"id":3,"name":"three"},{"id":5,"name":"five"},{"id":8,"name":"eight"}>"#,
    );
    check(
        r#"[48,[[2,[1,2]],[2,[2,3]],[69,[[2,[1,2]],[17,[[10,[1]],[10,[2]]]]]]]]"#,
        r#"[{"left":2,"right":2}]"#,
    );
    check(
        r#"[49,[[2,[1,2]],[2,[2,3]],[69,[[2,[1,2]],[17,[[10,[1]],[10,[2]]]]]]]]"#,
        r#"[{"left":1},{"left":2,"right":2}]"#,
    );
    check(r#"[72,[[2,[1]]]]"#, "! QueryLogic Expected type OBJECT but found NUMBER. []");
}

#[test]
fn sequences_know_their_kind() {
    for (term, want) in [
        ("T", "TABLE"),
        ("[182,[T,1,2]]", "TABLE_SLICE"),
        (r#"[41,[T],{"index":"id"}]"#, "TABLE_SLICE"),
        ("[39,[T,true]]", "SELECTION<STREAM>"),
        (r#"[41,[T,"n"]]"#, "SELECTION<ARRAY>"),
        ("[16,[T,1]]", "SELECTION<OBJECT>"),
        ("[45,[T,0]]", "SELECTION<OBJECT>"),
        (r#"[31,[T,"n"]]"#, "STREAM"),
        ("[44,[T,[2,[1]]]]", "STREAM"),
        ("[44,[[2,[1]],[2,[1]]]]", "ARRAY"),
        ("[38,[[2,[1]],[69,[[2,[1]],1]]]]", "ARRAY"),
        ("[69,[[2,[1]],1]]", "FUNCTION"),
        (r#"[14,["test"]]"#, "DB"),
    ] {
        check(&format!("[52,[{term}]]"), &format!("\"{want}\""));
    }
}

#[test]
fn positions_on_streams_and_arrays() {
    let ordered = r#"[31,[[41,[T],{"index":"id"}],"id"]]"#;
    check(&format!("[30,[{ordered},2,4]]"), "<3,4>");
    check(&format!("[30,[{ordered},2,4],{{\"left_bound\":\"open\",\"right_bound\":\"closed\"}}]"), "<4,5>");
    check(&format!("[30,[{ordered},6]]"), "<7,8>");
    check(&format!("[30,[{ordered},-1]]"), "! QueryLogic Cannot use a negative left index on a stream. []");
    check(&format!("[45,[{ordered},-1]]"), "8");
    check(&format!("[45,[{ordered},-2]]"), "! QueryLogic Cannot use an index < -1 (-2) on a stream. []");
    check(&format!("[45,[{ordered},99]]"), "! NonExistence Index out of bounds: 99 []");
    check("[30,[[2,[1,2,3,4]],1,-1]]", "[2,3]");
    check("[30,[[2,[1,2,3,4]],-2]]", "[3,4]");
    check(r#"[30,["héllo",1,3]]"#, r#""él""#);
    check("[71,[[2,[1,2,3]],-1]]", "! QueryLogic LIMIT takes a non-negative argument (got -1) [1]");
    check("[86,[E]]", "true");
    check("[86,[T]]", "false");
    check(&format!("[87,[{ordered},4]]"), "[3]");
}

#[test]
fn limits_are_kept() {
    let over = "Array over size limit `4`.  To raise the number of allowed elements, modify the `array_limit` option to `.run` (not available in the Data Explorer), or use an index.";
    check_with(r#"[51,[T,"array"]]"#, r#"{"array_limit":4}"#, &format!("! ResourceLimit {over} []"));
    check_with("[2,[1,2,3,4,5]]", r#"{"array_limit":4}"#, &format!("! ResourceLimit {over} []"));
    check_with(r#"[144,[T,"id"]]"#, r#"{"array_limit":4}"#, "! ResourceLimit Too many groups (> 4). []");
    check_with("1", r#"{"array_limit":0}"#, "! QueryLogic Illegal array size limit `0`.  (Must be >= 1.) []");
    check_with(
        "1",
        r#"{"changefeed_queue_size":0}"#,
        "! QueryLogic Illegal changefeed queue size limit `0`.  (Must be >= 1.) []",
    );
    let wide = r#"[51,[[38,[[173,[99000]],[69,[[2,[1]],[51,[[173,[100]],"array"]]]]]],"array"]]"#;
    let reply = server().run(&format!("[1,{wide}]"));
    assert!(reply.line().contains("memory budget of 67108864 bytes"), "{}", reply.line());
}

#[test]
fn values_that_nest_too_deep_are_refused() {
    for around in ["[2,[[10,[1]]]]", r#"{"a":[10,[1]]}"#, "[29,[[2,[]],[10,[1]]]]"] {
        let folded =
            |times: u32| format!("[1,[52,[[187,[[173,[{times}]],null,[69,[[2,[1,2]],{around}]]]]]]]");
        let reply = server().run(&folded(5000));
        assert!(reply.line().contains("Nesting depth limit 1000 exceeded."), "{}", reply.line());
        assert!(server().run(&folded(1000)).error.is_none(), "{around}");
    }
}

#[test]
fn queries_500_levels_deep_are_evaluated() {
    // Builds for tests use more of the stack than a release.
    let thread = std::thread::Builder::new().stack_size(16 << 20);
    thread.spawn(deep_queries).expect("a thread").join().expect("no overflow");
}

fn deep_queries() {
    let depth = 490;
    let sum = format!("{}1{}", "[24,[1,".repeat(depth), "]]".repeat(depth));
    check(&sum, "491");
    let choice = format!("{}[16,[T,99]]{}", "[65,[true,".repeat(depth), ",1]]".repeat(depth));
    check(&choice, "null");
}

#[test]
fn misplaced_terms_are_compile_errors() {
    check("[10,[1]]", "! Compile Variable name not found. []");
    check("[13,[]]", "! Compile r.row is not defined in this context. []");
    check(
        r#"[38,[[2,[1]],[69,[[2,[1]],[38,[[2,[1]],[69,[[2,[2]],[13,[]]]]]]]]]]"#,
        "! Compile Cannot use r.row in nested queries.  Use functions instead. [1,1,1,1]",
    );
    check(r#"[74,["a"]]"#, "! Compile DESC may only be used as an argument to ORDER_BY or UNION. []");
    check("[69,[[2,[1]]]]", "! Compile FUNC takes exactly two arguments (got 1) []");
    check(r#"[43,[T],{"x":1}]"#, r#"! Compile Unrecognized optional argument `x`. ["x"]"#);
    check("[9999,[]]", "! Compile Unrecognized TermType: 9999. []");
    check(r#"[69,[1,1]]"#, "! Compile CLIENT ERROR: FUNC variables must be a literal *array* of numbers. []");
    check_with("1", r#"{"nonsense":1}"#, "! Compile Unrecognized global optional argument `nonsense`. []");
}

#[test]
fn merge_pluck_and_the_like_work_row_by_row() {
    check(r#"[33,[[39,[T,{"id":1}]],{"o":"x"}]]"#, r#"<{"o":{"x":1}}>"#);
    check(
        r#"[34,[[35,[[39,[T,{"id":7}]],{"m":1},[69,[[2,[1]],{"k":[170,[[10,[1]],"m"]]}]]]],"n"]]"#,
        r#"<{"id":7,"k":1,"m":1}>"#,
    );
    check(r#"[43,[[32,[T,"n"]]]]"#, "6");
    check(r#"[96,[[39,[T,{"id":7}]],"n"]]"#, r#"<{"n":1}>"#);
    check(r#"[35,[{"a":{"b":1}},{"a":[137,[{"c":2}]]}]]"#, r#"{"a":{"c":2}}"#);
    check(r#"[31,[[40,[[39,[T,{"id":1}]],[69,[[2,[1]],[2,[[10,[1]],[10,[1]]]]]]]],"id"]]"#, "<1,1>");
    check(r#"[43,[[40,[T,[69,[[2,[1]],[92,[[170,[[10,[1]],"tags"]],[2,[]]]]]]]]]]"#, "5");
    // A merge whose function reads a table waits, and stays with the coordinator.
    let reads = r#"[35,[[39,[P,{"id":3}]],[69,[[2,[1]],{"n":[170,[[16,[T,[170,[[10,[1]],"id"]]]],"n"]]}]]]]"#;
    check(reads, r#"<{"id":3,"n":8,"name":"three"}>"#);
}

#[test]
fn several_sequences_are_mapped_together() {
    let add = "[69,[[2,[1,2]],[24,[[10,[1]],[10,[2]]]]]]";
    check(&format!("[38,[[2,[1,2,3]],[2,[10,20]],{add}]]"), "[11,22]");
    check(&format!("[38,[[173,[]],[2,[10,20]],{add}]]"), "<10,21>");
    check(
        "[38,[[2,[1]],[2,[2]],[69,[[2,[1]],1]]]]",
        "! QueryLogic The function passed to `map` expects 1 argument, but 2 sequences were found. []",
    );
    check("[44,[[2,[1]],[71,[[173,[]],2]]]]", "<1,0,1>");
    check(
        "[43,[[173,[]]]]",
        "! QueryLogic Cannot use an infinite stream with an aggregation function (`reduce`, `count`, etc.) or coerce it to an array. [0]",
    );
}

#[test]
fn options_of_run_stand_in_for_those_of_terms() {
    check_with("[43,[T]]", r#"{"read_mode":"majority"}"#, "8");
    check_with(
        "[43,[T]]",
        r#"{"read_mode":"x"}"#,
        "! QueryLogic Read mode `x` unrecognized (options are \"majority\", \"single\", and \"outdated\"). [\"read_mode\"]",
    );
    check_with("T", r#"{"db":[14,["nope"]]}"#, "! OpFailed Database `nope` does not exist. []");
    check(r#"[15,[[14,["nope"]],"t"]]"#, "! OpFailed Database `nope` does not exist. [0]");
    check(
        r#"[14,["no d"]]"#,
        "! QueryLogic Database name `no d` invalid (Use A-Z, a-z, 0-9, _ and - only). [0]",
    );
    check(
        r#"[15,["no t"]]"#,
        "! QueryLogic Table name `no t` invalid (Use A-Z, a-z, 0-9, _ and - only). [0]",
    );
}

#[test]
fn samples_and_random_numbers_stay_within_bounds() {
    check("[43,[[81,[T,3]]]]", "3");
    check("[43,[[81,[T,30]]]]", "8");
    check("[81,[[2,[1]],-1]]", "! QueryLogic Number of items to sample must be non-negative, got `-1`. []");
    check("[67,[[20,[0,[151,[10]]]],[19,[[151,[10]],10]]]]", "true");
    check(r#"[169,["magic"]]"#, r#""97dd10a5-4fc4-554f-86c5-0d2c2e3d5330""#);
}

#[test]
fn groups_go_along_an_index() {
    let mut server = server();
    let mut check = |term: &str, want: &str| {
        let term = term.replace('T', r#"[15,["t"]]"#);
        let found = server.run(&format!("[1,{term}]")).line();
        assert_eq!(found, want.replace("grouped", r#"{"$grouped$":true,"data":"#), "{term}");
    };
    check(r#"[75,[T,"n"]]"#, r#"{"created":1}"#);
    check(r#"[75,[T,"tags"],{"multi":true}]"#, r#"{"created":1}"#);
    check(r#"[43,[[144,[T],{"index":"id"}]]]"#, "grouped[[1,1],[2,1],[3,1],[4,1],[5,1],[6,1],[7,1],[8,1]]}");
    check(r#"[43,[[144,[T],{"index":"n"}]]]"#, "grouped[[1,1],[3,2],[5,1],[8,1],[9,1]]}");
    // A row belongs to the group of each of its values.
    check(r#"[43,[[144,[T],{"index":"tags"}]]]"#, r#"grouped[["a",2],["b",2],["c",1]]}"#);
    check(r#"[31,[[144,[T],{"index":"tags"}],"id"]]"#, r#"grouped[["a",[5,1]],["b",[3,1]],["c",[5]]]}"#);
    // The value of the index is the last part of the key.
    check(
        r#"[43,[[144,[T,"id"],{"index":"tags"}]]]"#,
        r#"grouped[[[1,"a"],1],[[1,"b"],1],[[3,"b"],1],[[5,"a"],1],[[5,"c"],1]]}"#,
    );
    check(
        r#"[145,[[144,[T,"id"],{"index":"n"}],"n"]]"#,
        "grouped[[[1,5],5],[[2,3],3],[[3,8],8],[[4,3],3],[[7,1],1],[[8,9],9]]}",
    );
    check(
        r#"[43,[[144,[[182,[T,"b","z"],{"index":"tags"}]],{"index":"tags"}]]]"#,
        r#"grouped[["b",2],["c",1]]}"#,
    );
    // The reduction reads a table: it stays with the coordinator.
    check(
        r#"[145,[[144,[T],{"index":"tags"}],[69,[[2,[1]],[170,[[16,[T,[170,[[10,[1]],"id"]]]],"id"]]]]]]"#,
        r#"grouped[["a",6],["b",4],["c",5]]}"#,
    );
}

#[test]
fn comparisons_stop_where_they_are_decided() {
    check(r#"[17,[1,2,[12,["never"]]]]"#, "false");
    check(r#"[18,[1,2,[12,["never"]]]]"#, "true");
    check(r#"[17,[1,1,[12,["now"]]]]"#, "! User now [2]");
    check(r#"[19,[[43,[T]],1,[12,["never"]]]]"#, "false");
}

#[test]
fn system_tables_have_no_indexes() {
    let users = r#"[15,[[14,["rethinkdb"]],"table_config"]]"#;
    let refused = |term: &str, why: &str| check(&term.replace('S', users), &format!("! OpFailed {why} []"));
    refused(
        r#"[75,[S,"x"]]"#,
        "Database `rethinkdb` is special; you can't create secondary indexes on the tables in it.",
    );
    refused(r#"[76,[S,"x"]]"#, "Index `x` does not exist on table `rethinkdb.table_config`.");
    refused(
        r#"[156,[S,"x","y"]]"#,
        "Index `x` does not exist or index `y` already exists on table `rethinkdb.table_config`.",
    );
    refused(r#"[140,[S,"x"]]"#, "Index `x` was not found on table `rethinkdb.table_config`.");
    check(&format!("[139,[{users}]]"), "[]");
    check(&format!("[140,[{users}]]"), "[]");
    refused(
        "[189,[S,null]]",
        "Database `rethinkdb` is special; you can't set a write hook on the tables in it.",
    );
    check(&format!("[190,[{users}]]"), "null");
}

#[test]
fn args_are_spliced_into_terms_that_evaluate_their_own_arguments() {
    check("[52,[[154,[[2,[1]]]]]]", r#""NUMBER""#);
    check("[52,[[154,[[2,[1,2]]]]]]", "! QueryLogic Expected 1 argument but found 2. []");
    check("[92,[[154,[[2,[null,2]]]]]]", "2");
    check("[92,[[154,[[2,[null]]]]]]", "! QueryLogic Expected 2 arguments but found 1. []");
}

#[test]
fn counts_and_places_have_32_bits() {
    let refused = "! QueryLogic Integer too large: 4294967296 [1]";
    check("[71,[T,4294967296]]", refused);
    check("[71,[[2,[1]],4294967296]]", refused);
    check("[45,[T,4294967296]]", refused);
    check("[45,[[2,[1]],4294967296]]", refused);
    check("[71,[[2,[1]],2147483647]]", "[1]");
}

#[test]
fn literals_are_strays_in_functions_that_travel_too() {
    let stray = "! QueryLogic Stray literal keyword found: literal is only legal inside of the object passed to merge or update \
                 and cannot nest inside other literals.";
    check("[38,[T,[69,[[2,[1]],[137,[1]]]]]]", &format!("{stray} [1,1]"));
    check(r#"[43,[[38,[T,[69,[[2,[1]],{"a":[137,[1]]}]]]]]]"#, &format!("{stray} [0,1,1,\"a\"]"));
    check(r#"[43,[[35,[T,{"n":[137,[1]]}]]]]"#, "8");
}

#[test]
fn literals_in_json_are_strays_only_where_they_are_used() {
    let json = r#"[98,["{\"$reql_type$\":\"LITERAL\",\"value\":7}"]]"#;
    let literal = r#"{"$reql_type$":"LITERAL","value":7}"#;
    let check =
        |term: &str, want: &str| assert_eq!(server().run(&format!("[1,{term}]")).line(), want, "{term}");
    check(&format!("[38,[[2,[1]],[69,[[2,[1]],{json}]]]]"), &format!("[{literal}]"));
    check(&format!(r#"[45,[[38,[[15,["t"]],[69,[[2,[1]],{json}]]]],0]]"#), literal);
    check(&format!(r#"[31,[[35,[{{"a":{{"b":1}}}},{{"a":{json}}}]],"a"]]"#), "7");
    check(
        r#"[31,[[56,[[15,["e"]],[98,["{\"id\":1,\"a\":{\"$reql_type$\":\"LITERAL\"}}"]]]],"first_error"]]"#,
        "\"Stray literal keyword found: literal is only legal inside of the object passed to merge or update and cannot nest \
         inside other literals.\"",
    );
}

#[test]
fn groups_are_neither_selections_nor_data() {
    let counts = r#"[43,[[144,[T,"n"]]]]"#;
    let groups = r#"[144,[T,"n"]]"#;
    let found = |wanted: &str| format!("! QueryLogic Expected type {wanted} but found DATUM:\n2 [0]");
    check(&format!("[53,[{counts},{{}}]]"), &found("SELECTION"));
    check(&format!("[54,[{counts}]]"), &found("SELECTION"));
    check(&format!("[55,[{counts},{{}}]]"), &found("SELECTION"));
    check(&format!("[56,[{counts},{{}}]]"), &found("TABLE"));
    check(&format!("[182,[{counts},1,2]]"), &found("TABLE_SLICE"));
    let data = "! QueryLogic Expected type DATUM but found GROUPED_DATA:\nVALUE GROUPED_DATA [1]";
    check(&format!("[24,[1,{counts}]]"), data);
    check(
        &format!("[24,[1,{groups}]]"),
        "! QueryLogic Expected type DATUM but found SEQUENCE:\nVALUE SEQUENCE [1]",
    );
    check(
        &format!("[56,[E,{groups}]]"),
        "! QueryLogic Cannot treat the output of `group` as a stream (did you mean to `ungroup`?). [1]",
    );
}

#[test]
fn for_each_over_groups_writes_for_each_of_them() {
    let term = r#"[68,[[144,[[39,[T,[69,[[2,[1]],[21,[[170,[[10,[1]],"id"]],6]]]]]],"n"]],[69,[[2,[1]],[56,[[15,["e"]],{"from":[170,[[10,[1]],"id"]],"id":[170,[[10,[1]],"id"]]}]]]]]]"#;
    let found = server().run(&format!("[1,{}]", term.replace('T', r#"[15,["t"]]"#))).line();
    assert!(found.starts_with(r#"{"$grouped$":true,"data":[["#), "{found}");
    assert!(found.contains(r#""inserted":1"#), "{found}");
}

#[test]
fn only_tables_have_distinct_values_of_an_index() {
    let refused = "! QueryLogic Can only perform an indexed distinct on a TABLE. []";
    check(r#"[42,[[2,[1,1]]],{"index":"n"}]"#, refused);
    check(r#"[42,[[39,[T,{}]]],{"index":"n"}]"#, refused);
}

#[test]
fn json_keeps_to_the_limit_of_arrays() {
    let limit = r#"{"array_limit":3}"#;
    check_with(r#"[98,["[1,2,3]"]]"#, limit, "[1,2,3]");
    let refused = "! ResourceLimit Array over size limit `3`.  To raise the number of allowed elements, modify the \
                   `array_limit` option to `.run` (not available in the Data Explorer), or use an index. []";
    check_with(r#"[98,["{\"a\":[1,2,3,4]}"]]"#, limit, refused);
}

/// 400 rows whose `n` is one of three numbers, in no order of their keys.
fn crowd() -> Server {
    let rows: Vec<String> =
        (0..400).map(|id| format!("{{\"id\":{id},\"n\":{},\"m\":{}}}", id * 7 % 3, id * 37 % 400)).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let mut server = Server::new().with_table("t", &rows);
    assert_eq!(server.run(r#"[1,[75,[[15,["t"]],"n"]]]"#).error, None);
    server
}

#[test]
fn values_of_an_index_are_found_past_many_entries() {
    let mut server = crowd();
    let mut check =
        |term: &str, want: &str| assert_eq!(server.run(&format!("[1,{term}]")).line(), want, "{term}");
    check(r#"[42,[[15,["t"]]],{"index":"n"}]"#, "<0,1,2>");
    check(r#"[42,[[182,[[15,["t"]],1,5],{"index":"n"}]],{"index":"n"}]"#, "<1,2>");
    check(r#"[42,[[41,[[15,["t"]]],{"index":[74,["n"]]}]],{"index":"n"}]"#, "<2,1,0>");
}

#[test]
fn the_first_rows_of_an_order_are_those_of_the_whole_order() {
    let mut server = crowd();
    let mut answer = |term: &str| server.run(&format!("[1,{term}]")).line();
    for keys in [r#""m""#, r#"[74,["m"]]"#, r#""n",[74,["id"]]"#, r#"[69,[[2,[1]],[170,[[10,[1]],"none"]]]]"#]
    {
        // In an array rows have an order to begin with.
        let rows = r#"[96,[[41,[[15,["t"]]],{"index":"id"}],"array"]]"#.replace("[96,", "[51,");
        let ordered = format!("[41,[{rows},{keys}]]");
        for count in [0, 1, 7, 200, 399, 1000] {
            let slice = format!("[30,[{ordered},0,{count}]]");
            let limit = format!("[71,[{ordered},{count}]]");
            assert_eq!(answer(&limit), answer(&slice), "{limit}");
        }
    }
    // Rows that are not kept do not count against the limit.
    let few = r#"{"array_limit":20}"#;
    assert!(server.run(&format!(r#"[1,[71,[[41,[[15,["t"]],"m"]],3]],{few}]"#)).error.is_none());
    assert!(server.run(&format!(r#"[1,[41,[[15,["t"]],"m"]],{few}]"#)).error.is_some());
}
