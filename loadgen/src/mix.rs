//! Workloads of the user's own: queries with weights from a TOML file.

use serde::Deserialize;
use toml::Spanned;

use crate::choose::Distribution;
use crate::operation::{Expect, Operation, Records};
use crate::template::{Names, Template, TemplateError};

const OPERATIONS_MAX: usize = 100;
const STEPS_MAX: usize = 16;
const WEIGHT_MAX: u32 = 1_000_000;
const NEW_DOCUMENTS_MAX: u64 = 100_000;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MixError {
    #[error("{0}")]
    Toml(String),
    #[error("there is no [[operation]] in it")]
    Empty,
    #[error("more than {OPERATIONS_MAX} operations")]
    TooMany,
    #[error("no operation has a weight above 0")]
    Weightless,
    #[error("two operations are called \"{0}\"")]
    Twice(String),
    #[error("line {line}, operation \"{name}\": {what}")]
    Operation { line: usize, name: String, what: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    distribution: Option<FileDistribution>,
    #[serde(default)]
    operation: Vec<Spanned<FileOperation>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FileDistribution {
    Zipfian,
    Latest,
    Uniform,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileOperation {
    name: String,
    #[serde(default = "one")]
    weight: u32,
    reql: Steps,
    #[serde(default = "no_options")]
    options: String,
    #[serde(default = "any")]
    expect: Expect,
    #[serde(default)]
    new_documents: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Steps {
    One(String),
    Many(Vec<String>),
}

fn one() -> u32 {
    1
}

fn no_options() -> String {
    "{}".to_owned()
}

fn any() -> Expect {
    Expect::Any
}

/// What a file asks for.
#[derive(Debug)]
pub struct Mix {
    pub distribution: Option<Distribution>,
    pub operations: Vec<Operation>,
}

/// Reads a file's text.
///
/// # Errors
/// Says where the mistake is.
pub fn parse(text: &str, names: &Names) -> Result<Mix, MixError> {
    let file: File =
        toml::from_str(text).map_err(|error| MixError::Toml(error.to_string().trim_end().to_owned()))?;
    if file.operation.is_empty() {
        return Err(MixError::Empty);
    }
    if file.operation.len() > OPERATIONS_MAX {
        return Err(MixError::TooMany);
    }
    let mut operations: Vec<Operation> = Vec::new();
    for spanned in &file.operation {
        let described = spanned.get_ref();
        let failed = |what: String| {
            let line = text[..spanned.span().start].matches('\n').count() + 1;
            MixError::Operation { line, name: described.name.clone(), what }
        };
        let operation = operation(described, names).map_err(failed)?;
        if operations.iter().any(|other| other.name == operation.name) {
            return Err(MixError::Twice(operation.name));
        }
        operations.push(operation);
    }
    if operations.iter().all(|operation| operation.weight == 0) {
        return Err(MixError::Weightless);
    }
    let distribution = file.distribution.map(|distribution| match distribution {
        FileDistribution::Zipfian => Distribution::Zipfian,
        FileDistribution::Latest => Distribution::Latest,
        FileDistribution::Uniform => Distribution::Uniform,
    });
    Ok(Mix { distribution, operations })
}

fn operation(described: &FileOperation, names: &Names) -> Result<Operation, String> {
    let steps = match &described.reql {
        Steps::One(step) => std::slice::from_ref(step),
        Steps::Many(steps) => steps,
    };
    if steps.is_empty() || steps.len() > STEPS_MAX {
        return Err(format!("`reql` holds from one to {STEPS_MAX} queries"));
    }
    if described.weight > WEIGHT_MAX {
        return Err(format!("`weight` is at most {WEIGHT_MAX}"));
    }
    if described.new_documents > NEW_DOCUMENTS_MAX {
        return Err(format!("`new_documents` is at most {NEW_DOCUMENTS_MAX}"));
    }
    let template = |step: &String| Template::parse(step, &described.options, names);
    let steps: Result<Vec<Template>, TemplateError> = steps.iter().map(template).collect();
    Ok(Operation {
        name: described.name.clone(),
        weight: described.weight,
        records: match described.new_documents {
            0 => Records::Existing,
            count => Records::New(count),
        },
        steps: steps.map_err(|error| error.to_string())?,
        expect: described.expect,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names { db: "d".to_owned(), table: "t".to_owned(), durability: "hard".to_owned() }
    }

    #[test]
    fn a_file_is_read_whole() {
        let text = r#"
            distribution = "latest"
            [[operation]]
            name = "read"
            weight = 9
            reql = '[16, ["$table", "$key"]]'
            expect = "value"
            [[operation]]
            name = "both"
            reql = ['[16, ["$table", "$key"]]', '[56, ["$table", "$documents"]]']
            new_documents = 3
            options = '{"read_mode": "outdated"}'
        "#;
        let mix = parse(text, &names()).expect("it is right");
        assert_eq!(mix.distribution, Some(Distribution::Latest));
        let [read, both] = mix.operations.as_slice() else { panic!("two operations") };
        assert_eq!((read.weight, read.expect, read.records), (9, Expect::Value, Records::Existing));
        assert_eq!((both.weight, both.steps.len(), both.records), (1, 2, Records::New(3)));
    }

    #[track_caller]
    fn check_refused(text: &str, words: &str) {
        let error = parse(text, &names()).expect_err("refused").to_string();
        assert!(error.contains(words), "{text}: {error}");
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        check_refused("", "there is no [[operation]] in it");
        check_refused("[[operation]\n", "TOML parse error at line 1");
        check_refused("[[operation]]\nname = 'a'", "missing field `reql`");
        check_refused("[[operation]]\nname = 'a'\nreql = '1'\nwieght = 2", "unknown field `wieght`");
        check_refused("[[operation]]\nname = 'a'\nreql = '1'\nexpect = 'luck'", "unknown variant `luck`");
        check_refused("[[operation]]\nname = 'a'\nreql = '1'\nweight = -1", "line 4");
        check_refused(
            "[[operation]]\nname = 'a'\nreql = '1'\nweight = 0",
            "no operation has a weight above 0",
        );
        check_refused("[[operation]]\nname = 'a'\nreql = []", "`reql` holds from one to 16 queries");
        check_refused(
            "[[operation]]\nname = 'a'\nreql = '1'\n[[operation]]\nname = 'a'\nreql = '1'",
            "two operations are called \"a\"",
        );
        check_refused(
            "[[operation]]\nname = 'a'\nreql = '1'\n\n[[operation]]\nname = 'b'\nreql = '[$key]'",
            "line 5, operation \"b\": the query is not JSON",
        );
        check_refused(
            "[[operation]]\nname = 'b'\nreql = '[\"$kye\"]'",
            "operation \"b\": there is no placeholder $kye",
        );
        check_refused("distribution = 'normal'\n", "unknown variant `normal`");
    }
}
