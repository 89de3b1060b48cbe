//! No crate of the lock file has a known hole.
//!
//! The list stands beside the repository in `../shared/advisories`, for machines that cannot reach the advisory database;
//! the check is skipped where it is absent.

use std::path::Path;

use semver::{Version, VersionReq};
use serde_json::Value;

/// Advisories we live with, and why.
const ACCEPTED: &[(&str, &str)] = &[
    ("RUSTSEC-2024-0384", "instant is unmaintained, a thin layer over std's clock; glommio brings it"),
    (
        "RUSTSEC-2026-0247",
        "bitmaps is unmaintained; glommio brings it, and its version here has no known fault",
    ),
];

#[derive(Debug, PartialEq, Eq)]
struct Hole {
    advisory: String,
    crate_name: String,
    version: String,
}

/// The locked crates that an advisory concerns.
fn holes(lock: &str, advisories: &str) -> Vec<Hole> {
    let lock: toml::Table = lock.parse().expect("Cargo.lock is TOML");
    let locked: Vec<(&str, Version)> = lock["package"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let text = |field: &str| package[field].as_str().expect("a text");
            (text("name"), Version::parse(text("version")).expect("a version"))
        })
        .collect();
    let mut found = Vec::new();
    for line in advisories.lines().filter(|line| !line.is_empty()) {
        let advisory: Value = serde_json::from_str(line).expect("a line of JSON");
        let matches_any = |field: &str, version: &Version| {
            let requirements = advisory[field].as_array().expect("a list").iter();
            requirements.into_iter().any(|text| {
                let text = text.as_str().expect("a text");
                VersionReq::parse(text).expect("a requirement").matches(version)
            })
        };
        for (name, version) in locked.iter().filter(|(name, _)| advisory["crate"] == **name) {
            if !matches_any("patched", version) && !matches_any("unaffected", version) {
                found.push(Hole {
                    advisory: format!(
                        "{} ({})",
                        advisory["id"].as_str().unwrap_or("?"),
                        advisory["kind"].as_str().unwrap_or("?")
                    ),
                    crate_name: (*name).to_owned(),
                    version: version.to_string(),
                });
            }
        }
    }
    found.retain(|hole| !ACCEPTED.iter().any(|(id, _)| hole.advisory.starts_with(id)));
    found
}

#[test]
fn no_locked_crate_has_a_known_hole() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Ok(advisories) = std::fs::read_to_string(root.join("../shared/advisories/rustsec.jsonl")) else {
        println!("skipped: ../shared/advisories is absent");
        return;
    };
    for lock in ["Cargo.lock", "tests/fuzz/Cargo.lock"] {
        let lock = std::fs::read_to_string(root.join(lock)).expect("the lock file is committed");
        let found = holes(&lock, &advisories);
        assert!(found.is_empty(), "known holes: {found:#?}");
    }
}

#[test]
fn a_version_is_affected_unless_patched_or_unaffected() {
    let check = |version: &str, want: usize| {
        let lock = format!("[[package]]\nname = \"leaky\"\nversion = \"{version}\"\n");
        let advisory = r#"{"id":"X-1","crate":"leaky","kind":"unsound","patched":[">= 1.2.0"],"unaffected":["< 0.9.0"]}"#;
        assert_eq!(holes(&lock, advisory).len(), want, "{version}");
    };
    for (version, want) in [("0.8.9", 0), ("0.9.0", 1), ("1.1.9", 1), ("1.2.0", 0), ("2.0.0", 0)] {
        check(version, want);
    }
}
