//! The house rules that a compiler does not know: who may import whom, what a file begins with, what no file may hold.
//!
//! Source is read as text. Comments and string literals are blanked first, and what stands behind `#[cfg(test)]` belongs to
//! the tests, which may reach anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One crate: where it is, what it may depend on of ours, and its floors from the top. A module may use those of its own
/// floor and of the floors below; every module stands on one floor.
struct House {
    source: &'static str,
    depends_on: &'static [&'static str],
    floors: &'static [&'static [&'static str]],
}

/// Top to bottom.
const HOUSES: &[House] = &[
    House {
        source: "src",
        // The load generator only for the program of that name.
        depends_on: &["photondb-loadgen", "photondb-proto", "photondb-query", "photondb-runtime"],
        floors: &[
            &["cli", "reference"],
            &["boot"],
            &["control", "config"],
            &["logging", "outside", "allocator"],
        ],
    },
    House {
        source: "shards/runtime/src",
        depends_on: &["photondb-proto", "photondb-query", "photondb-storage"],
        floors: &[
            &["offline"],
            &["in_one_world"],
            &["start"],
            &["session", "cursor"],
            &["hot"],
            &["route", "write", "together", "construct"],
            // A core holds its feeds, and feeds read as queries do: rows, system tables, by the user's permissions.
            &["access", "core", "feed", "owner", "questions", "rows", "scan", "system"],
            &["table", "index", "mesh", "jobs", "scratch"],
            &["catalog"],
            &["uring"],
            &["turns"],
            &["flights", "sockets"],
            &["behind"],
            &["env", "admission", "outgoing", "panics", "meter"],
        ],
    },
    House {
        source: "shards/query/src",
        depends_on: &["photondb-proto"],
        floors: &[
            &["generated"],
            &["exec"],
            &["options"],
            // The evaluator: a term evaluates terms, so these know each other.
            &[
                "blob", "call", "check", "cursor", "direct", "eval", "feed", "fields", "first", "fold",
                "function", "geo", "group", "index", "join", "merge", "profile", "push", "quick", "row",
                "run", "scalar", "scan", "shape", "source", "stream", "terms", "ties", "value", "write",
            ],
            &["failure"],
        ],
    },
    House {
        source: "shards/storage/src",
        depends_on: &["photondb-proto"],
        floors: &[
            &["golden"],
            &["backend", "library", "verify"],
            &["recovery"],
            &["checkpoint"],
            &["slab", "tables"],
            &["superblock"],
            &["wal"],
            &["btree", "cache"],
            &["blocking", "memory"],
            &["engine", "changelog"],
            &["disk", "bytes", "space", "event", "compress", "train"],
        ],
    },
    House {
        source: "proto/src",
        depends_on: &[],
        floors: &[
            &["fuzz"],
            &["wire"],
            &["op", "feed", "resume", "control", "outside"],
            &["rows"],
            &["term"],
            &["datum"],
            &["error"],
            &["limits"],
        ],
    },
    House {
        source: "loadgen/src",
        depends_on: &["photondb-proto"],
        floors: &[
            &["program"],
            &["compare", "plot"],
            &["arguments", "report"],
            &["prepare"],
            &["drive"],
            &["links", "mix", "plan", "record", "session", "workloads"],
            &["dialect"],
            &["operation"],
            &["template"],
            &["world"],
            &["choose"],
        ],
    },
    House {
        source: "tests/sim/src",
        depends_on: &["photondb-proto", "photondb-query", "photondb-runtime", "photondb-storage"],
        floors: &[
            &["main", "faults", "trials"],
            &["power_loss", "change_log", "journal", "env", "trial"],
            &["plan", "slab"],
            &["life"],
            &["workload"],
            &["history"],
            &["disk"],
            &["executor", "image", "trouble"],
        ],
    },
];

/// The files with `unsafe` in them; each says why in its head comment.
const UNSAFE_FILES: &[&str] = &[
    "loadgen/src/links/sources.rs",
    "loadgen/src/links/uring.rs",
    "shards/runtime/src/flights.rs",
    "shards/runtime/src/uring.rs",
    "shards/storage/src/cache/prefetch.rs",
    "shards/storage/src/train.rs",
    "src/allocator.rs",
];
/// The file that names the executor's crate.
const EXECUTOR_FILE: &str = "shards/runtime/src/uring.rs";
/// What the floors below the runtime may not name: executors, threads, sockets and clocks.
const FOREIGN_BELOW_RUNTIME: &[&str] =
    &["glommio", "tokio", "std::thread", "std::net", "SystemTime::now", "Instant::now"];
/// Names that say nothing, so that anything ends up in them.
const DRAWERS: &[&str] = &["utils", "util", "helpers", "helper", "common", "types", "misc", "shared"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the repository that is not ignored, as a path from its root.
fn files() -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["src", "proto", "shards", "loadgen", "tests", "bench"] {
        walk(&root().join(folder), &mut found);
    }
    found.sort();
    assert!(found.len() > 50, "the repository has more files than {found:?}");
    found
}

fn walk(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder can be read") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with("target") && !name.starts_with('.') && name != "node_modules" {
                walk(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned());
        }
    }
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).expect("a source file is text")
}

/// The source with comments and the insides of literals blanked.
fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let skipped = match bytes[at] {
            b'/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            b'"' => quoted(rest),
            b'r' if rest.starts_with("r\"") || rest.starts_with("r#") => raw_literal(rest),
            b'\'' => char_literal(rest),
            _ => 0,
        };
        if skipped == 0 {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(
                rest.as_bytes()[..skipped].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }),
            );
            at += skipped;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The length of the literal that begins with a quotation mark.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a raw literal, or 0 where `r` begins something else.
fn raw_literal(rest: &str) -> usize {
    let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
    if rest.as_bytes().get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    rest[2 + hashes..].find(&end).map_or(rest.len(), |at| 2 + hashes + at + end.len())
}

/// The length of a character literal, or 0 for a lifetime.
fn char_literal(rest: &str) -> usize {
    let mut characters = rest[1..].chars();
    match characters.next() {
        Some('\\') => rest[2..].find('\'').map_or(0, |at| at + 3 + usize::from(rest[2..].starts_with('\''))),
        Some(character) if characters.next() == Some('\'') => character.len_utf8() + 2,
        _ => 0,
    }
}

/// The part of a file that is no test: tests stand last.
fn product(code: &str) -> &str {
    code.find("#[cfg(test)]").map_or(code, |at| &code[..at])
}

/// The files of modules that are declared only for tests.
fn test_files(files: &[String]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files {
        let text = text(path);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0].starts_with("#[cfg(") && pair[0].contains("test"))
        {
            let declared = pair[1]
                .trim_start_matches("pub ")
                .strip_prefix("mod ")
                .and_then(|rest| rest.strip_suffix(';'));
            if let Some(name) = declared {
                let folder = match path.rsplit_once('/').expect("a folder") {
                    (folder, "lib.rs" | "mod.rs" | "main.rs") => folder.to_owned(),
                    (_, _) => path.trim_end_matches(".rs").to_owned(),
                };
                found.insert(format!("{folder}/{name}.rs"));
                let inside = format!("{folder}/{name}/");
                found.extend(files.iter().filter(|file| file.starts_with(&inside)).cloned());
            }
        }
    }
    found
}

/// Whether `word` stands in the code as a word of its own.
fn names(code: &str, word: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].chars().next_back().is_some_and(is_part)
            && !code[at + word.len()..].chars().next().is_some_and(is_part)
    })
}

/// Fails with all offences at once.
#[track_caller]
fn check_none(rule: &str, offences: Vec<String>) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn every_file_begins_by_saying_what_it_is_for() {
    let bare = files().into_iter().filter(|path| !text(path).starts_with("//!"));
    check_none("a file begins with a comment that says what it is for", bare.collect());
}

#[test]
fn the_executor_is_named_in_one_file() {
    let named =
        files().into_iter().filter(|path| path != EXECUTOR_FILE && names(&code(&text(path)), "glommio"));
    check_none("glommio is named outside its file", named.collect());
}

#[test]
fn unsafe_stands_only_in_the_listed_files() {
    let unsafe_files = files().into_iter().filter(|path| names(&code(&text(path)), "unsafe"));
    let found: BTreeSet<String> = unsafe_files.collect();
    let listed: BTreeSet<String> = UNSAFE_FILES.iter().map(|path| (*path).to_owned()).collect();
    assert_eq!(found, listed);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut offences = Vec::new();
    for path in files() {
        let code = code(&text(&path));
        for leftover in ["todo!", "unimplemented!", "dbg!"] {
            if code.contains(leftover) {
                offences.push(format!("{path}: {leftover}"));
            }
        }
    }
    check_none("unfinished code", offences);
}

#[test]
fn no_file_is_a_drawer() {
    let is_drawer = |path: &String| {
        Path::new(path).components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            DRAWERS.contains(&part.trim_end_matches(".rs"))
        })
    };
    check_none("a name that says nothing", files().into_iter().filter(is_drawer).collect());
}

#[test]
fn the_floors_below_the_runtime_know_no_executor_thread_or_clock() {
    let mut offences = Vec::new();
    let files = files();
    let tests = test_files(&files);
    for path in &files {
        let below = ["proto/src/", "shards/query/src/", "shards/storage/src/"]
            .iter()
            .any(|start| path.starts_with(start));
        if !below || tests.contains(path) {
            continue;
        }
        let code = code(&text(path));
        for foreign in FOREIGN_BELOW_RUNTIME.iter().filter(|foreign| product(&code).contains(**foreign)) {
            offences.push(format!("{path}: {foreign}"));
        }
    }
    check_none("a floor below the runtime names what only the runtime knows", offences);
}

#[test]
fn crates_depend_only_downward() {
    let mut offences = Vec::new();
    for house in HOUSES {
        let manifest = Path::new(house.source).parent().expect("a crate's folder").join("Cargo.toml");
        let manifest: toml::Table = text(&manifest.to_string_lossy()).parse().expect("a manifest is TOML");
        let dependencies = manifest["dependencies"].as_table().expect("dependencies");
        for name in dependencies.keys().filter(|name| name.starts_with("photondb-")) {
            if !house.depends_on.contains(&name.as_str()) {
                offences.push(format!("{} depends on {name}", house.source));
            }
        }
    }
    check_none("a crate depends on one that is not below it", offences);
}

/// The module of the crate that a file belongs to, and how many `super` lead from it to the crate's root.
fn module_of(source: &str, path: &str) -> Option<(String, usize)> {
    let inside = path.strip_prefix(source)?.strip_prefix('/')?.strip_suffix(".rs")?;
    let parts: Vec<&str> = inside.split('/').filter(|part| *part != "mod").collect();
    match parts[0] {
        "lib" | "main" | "bin" => None,
        first => Some((first.to_owned(), parts.len())),
    }
}

/// The modules of the crate's root that the code names, by `crate::` or by enough `super::`.
fn imports(code: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let to_root = "super::".repeat(depth);
    for start in ["crate::", to_root.as_str()] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before
                .is_some_and(|character| character.is_alphanumeric() || character == '_' || character == ':')
            {
                continue;
            }
            found.extend(first_names(&code[at + start.len()..]));
        }
    }
    found
}

/// The names that a path begins with, or all of those in braces.
fn first_names(rest: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|character| character.is_alphanumeric() || *character == '_')
            .collect()
    };
    let Some(list) = rest.strip_prefix('{') else { return vec![word(rest)] };
    let (mut depth, mut names, mut begin) = (0u32, Vec::new(), 0);
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(word(&list[begin..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(word(&list[begin..at]));
                begin = at + 1;
            }
            _ => {}
        }
    }
    names
}

#[test]
fn modules_import_only_downward() {
    let mut offences = Vec::new();
    let files = files();
    let tests = test_files(&files);
    for house in HOUSES {
        let floor_of: BTreeMap<&str, usize> = house
            .floors
            .iter()
            .enumerate()
            .flat_map(|(floor, modules)| modules.iter().map(move |module| (*module, floor)))
            .collect();
        for path in files.iter().filter(|path| !tests.contains(*path)) {
            let Some((module, depth)) = module_of(house.source, path) else { continue };
            let Some(floor) = floor_of.get(module.as_str()) else {
                offences.push(format!("{path}: the module `{module}` stands on no floor"));
                continue;
            };
            let code = code(&text(path));
            for import in imports(product(&code), depth) {
                if floor_of.get(import.as_str()).is_some_and(|other| other < floor) {
                    offences.push(format!("{path} imports `{import}`, which stands above it"));
                }
            }
        }
    }
    check_none("an import runs upward", offences);
}

#[test]
fn the_server_knows_nothing_of_the_load_generator() {
    let names_it = |path: &String| path.starts_with("src/") && names(&code(&text(path)), "photondb_loadgen");
    let found: Vec<String> = files().into_iter().filter(names_it).collect();
    assert_eq!(found, ["src/bin/photondb-loadgen.rs"]);
}

#[test]
fn the_reference_pages_are_what_the_program_prints() {
    for page in ["settings", "commands", "metrics"] {
        let output = Command::new(crate::server::PROGRAM)
            .args(["reference", page])
            .output()
            .expect("the program starts");
        let committed = text(&format!("docs/reference/{page}.md"));
        assert!(output.stdout == committed.as_bytes(), "docs/reference/{page}.md is stale");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_photondb-loadgen")).arg("reference").output();
    let committed = text("docs/reference/loadgen.md");
    let printed = output.expect("the program starts").stdout;
    assert!(printed == committed.as_bytes(), "stale: photondb-loadgen reference >docs/reference/loadgen.md");
}

#[test]
fn comments_and_literals_are_no_code() {
    // A dash stands for a blanked character.
    for (source, want) in [
        ("a // glommio\nb", "a ----------\nb"),
        ("a /* b */ c", "a ------- c"),
        ("x(\"un\\\"safe\") y", "x(----------) y"),
        ("r#\"a\"b\"# c", "-------- c"),
        ("'a' 'b", "--- 'b"),
        ("'\\'' x", "---- x"),
    ] {
        assert_eq!(code(source), want.replace('-', " "), "{source}");
    }
}

#[test]
fn imports_are_found_in_every_form() {
    for (source, depth, want) in [
        ("use crate::a::B;", 1, &["a"][..]),
        ("use crate::{a::{B, C}, d};", 1, &["a", "d"]),
        ("let x = crate::a::f(super::g());", 1, &["a", "g"]),
        ("use super::super::a::B; use super::c;", 2, &["a"]),
        ("use mycrate::a;", 1, &[]),
    ] {
        let want: BTreeSet<String> = want.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(imports(source, depth), want, "{source}");
    }
}
