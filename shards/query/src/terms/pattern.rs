//! Regular expressions as RE2 reads them, on the crate `regex`, which has the same linear-time promise.
//!
//! The dialects differ in details that [`translate`] evens out: RE2's `\d`, `\w`, `\s` and `\b` know ASCII only, a `[`
//! inside a class is an ordinary character, there are no class operators (`&&`, `--`, `~~`), a brace that is no
//! repetition stands for itself, and `\Q…\E` quotes. What neither knows is refused in RE2's words.

use std::cell::RefCell;

use regex::Regex;
use regex_syntax::ast::{ErrorKind, parse::Parser};

use crate::failure::{Failure, Outcome};

/// Compiled patterns a core remembers: a filter matches every row with the same few.
const REMEMBERED: usize = 32;

thread_local! {
    /// Least recently used first.
    static COMPILED: RefCell<Vec<(Box<str>, Regex)>> = const { RefCell::new(Vec::new()) };
}

/// The compiled pattern, remembered from the last time it was asked for.
pub fn compile(pattern: &str) -> Outcome<Regex> {
    let found = COMPILED.with_borrow_mut(|compiled| {
        let index = compiled.iter().rposition(|(known, _)| **known == *pattern)?;
        let entry = compiled.remove(index);
        let regex = entry.1.clone();
        compiled.push(entry);
        Some(regex)
    });
    if let Some(regex) = found {
        return Ok(regex);
    }
    let regex = compile_new(pattern)?;
    COMPILED.with_borrow_mut(|compiled| {
        if compiled.len() == REMEMBERED {
            compiled.remove(0);
        }
        compiled.push((pattern.into(), regex.clone()));
    });
    Ok(regex)
}

fn compile_new(pattern: &str) -> Outcome<Regex> {
    let translated = translate(pattern)
        .map_err(|Refused { portion, reason }| failure(pattern, portion, &format!("{reason}: {portion}")))?;
    Regex::new(&translated).map_err(|error| {
        let (portion, reason) = match Parser::new().parse(&translated) {
            Err(syntax) if matches!(syntax.kind(), ErrorKind::EscapeUnexpectedEof) => {
                return failure(pattern, "", reason(syntax.kind()));
            }
            Err(syntax) if matches!(syntax.kind(), ErrorKind::GroupUnclosed | ErrorKind::GroupUnopened) => {
                (pattern.to_owned(), reason(syntax.kind()))
            }
            Err(syntax) if matches!(syntax.kind(), ErrorKind::ClassUnclosed) => {
                (translated[syntax.span().start.offset..].to_owned(), reason(syntax.kind()))
            }
            Err(syntax) => {
                let (start, end) = (syntax.span().start.offset, syntax.span().end.offset);
                let next = translated[start..].chars().next().map_or(0, char::len_utf8);
                (translated[start..end.max(start + next)].to_owned(), reason(syntax.kind()))
            }
            Ok(_) => match error {
                regex::Error::CompiledTooBig(_) => {
                    return failure(pattern, pattern, "pattern too large - compile failed");
                }
                _ => (pattern.to_owned(), "invalid character class range"),
            },
        };
        failure(pattern, &portion, &format!("{reason}: {portion}"))
    })
}

fn failure(pattern: &str, portion: &str, reason: &str) -> Failure {
    Failure::logic(format!("Error in regexp `{pattern}` (portion `{portion}`): {reason}"))
}

/// RE2's words for what our parser found.
fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ClassUnclosed => "missing ]",
        ErrorKind::ClassRangeInvalid | ErrorKind::ClassRangeLiteral | ErrorKind::ClassEscapeInvalid => {
            "invalid character class range"
        }
        ErrorKind::EscapeUnexpectedEof => "trailing \\",
        ErrorKind::FlagUnrecognized
        | ErrorKind::FlagDanglingNegation
        | ErrorKind::FlagDuplicate { .. }
        | ErrorKind::FlagRepeatedNegation { .. }
        | ErrorKind::FlagUnexpectedEof
        | ErrorKind::UnsupportedLookAround => "invalid perl operator",
        ErrorKind::GroupUnclosed | ErrorKind::GroupUnopened => "missing )",
        ErrorKind::GroupNameDuplicate { .. }
        | ErrorKind::GroupNameEmpty
        | ErrorKind::GroupNameInvalid
        | ErrorKind::GroupNameUnexpectedEof => "invalid named capture group",
        ErrorKind::RepetitionMissing => "no argument for repetition operator",
        ErrorKind::RepetitionCountInvalid
        | ErrorKind::RepetitionCountDecimalEmpty
        | ErrorKind::RepetitionCountUnclosed => "invalid repetition size",
        // The parser's enum is open: what is left are escapes it does not know.
        _ => "invalid escape sequence",
    }
}

/// Most repetitions that `{}` may ask for.
const REPETITIONS_MAX: u32 = 1000;

/// What RE2 does not take and the crate would.
struct Refused<'a> {
    portion: &'a str,
    reason: &'static str,
}

/// Rewrites an RE2 pattern into the crate's dialect.
fn translate(pattern: &str) -> Result<String, Refused<'_>> {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    // Where the repetition began that stands right before: another may not follow it.
    let mut repeated = None;
    while let Some(next) = rest.chars().next() {
        let at = pattern.len() - rest.len();
        let was_repeated = repeated.take();
        rest = match next {
            '\\' => escape(rest, Within::Pattern, &mut out),
            '[' => class(rest, &mut out),
            '*' | '+' | '?' | '{' if next != '{' || is_repetition(rest) => {
                let length = if next == '{' { rest.find('}').map_or(1, |end| end + 1) } else { 1 };
                let (operator, after) = rest.split_at(length);
                if !counts(operator).all(|count| count <= REPETITIONS_MAX) {
                    return Err(Refused { portion: operator, reason: "invalid repetition size" });
                }
                // Not greedy.
                let length = length + usize::from(after.starts_with('?'));
                if let Some(start) = was_repeated {
                    let portion = &pattern[start..at + length];
                    return Err(Refused { portion, reason: "bad repetition operator" });
                }
                repeated = Some(at);
                out.push_str(&rest[..length]);
                &rest[length..]
            }
            '{' => {
                out.push_str("\\{");
                &rest[1..]
            }
            '(' if rest.starts_with("(?") => {
                out.push_str("(?");
                &rest[2..]
            }
            other => {
                out.push(other);
                &rest[other.len_utf8()..]
            }
        };
    }
    Ok(out)
}

/// The numbers in `{2,5}`; none in `*`.
fn counts(operator: &str) -> impl Iterator<Item = u32> {
    let numbers =
        operator.split(['{', ',', '}']).filter(|number| number.starts_with(|c: char| c.is_ascii_digit()));
    numbers.map(|number| number.parse().unwrap_or(u32::MAX))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Pattern,
    Class,
}

/// `{2}`, `{2,}` or `{2,5}` at the start of `rest`.
fn is_repetition(rest: &str) -> bool {
    let Some((inside, _)) = rest[1..].split_once('}') else { return false };
    let (low, high) = inside.split_once(',').unwrap_or((inside, ""));
    !low.is_empty() && low.bytes().chain(high.bytes()).all(|byte| byte.is_ascii_digit())
}

/// Translates the escape at the start of `rest`; gives what follows it.
fn escape<'a>(rest: &'a str, within: Within, out: &mut String) -> &'a str {
    let Some(escaped) = rest[1..].chars().next() else {
        out.push('\\');
        return "";
    };
    let after = &rest[1 + escaped.len_utf8()..];
    let replacement = match (escaped, within) {
        ('Q', Within::Pattern) => {
            let (quoted, after) = after.split_once("\\E").unwrap_or((after, ""));
            out.push_str(&regex_syntax::escape(quoted));
            return after;
        }
        ('d', Within::Pattern) => "[0-9]",
        ('d', Within::Class) => "0-9",
        ('D', _) => "[^0-9]",
        ('w', Within::Pattern) => "[0-9A-Za-z_]",
        ('w', Within::Class) => "0-9A-Za-z_",
        ('W', _) => "[^0-9A-Za-z_]",
        ('s', Within::Pattern) => "[\\t\\n\\f\\r ]",
        ('s', Within::Class) => "\\t\\n\\f\\r ",
        ('S', _) => "[^\\t\\n\\f\\r ]",
        ('b', Within::Pattern) => "(?-u:\\b)",
        ('B', Within::Pattern) => "(?-u:\\B)",
        (_, Within::Pattern | Within::Class) => {
            out.push('\\');
            out.push(escaped);
            return after;
        }
    };
    out.push_str(replacement);
    after
}

/// Translates the bracketed class at the start of `rest`; gives what follows it.
fn class<'a>(rest: &'a str, out: &mut String) -> &'a str {
    out.push('[');
    let mut rest = &rest[1..];
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    // A bracket that comes first is an ordinary character.
    if let Some(after) = rest.strip_prefix(']') {
        out.push_str("\\]");
        rest = after;
    }
    while let Some(next) = rest.chars().next() {
        let after = &rest[next.len_utf8()..];
        rest = match next {
            ']' => {
                out.push(']');
                return after;
            }
            '\\' => escape(rest, Within::Class, out),
            '[' if after.starts_with(':') && after.contains(":]") => {
                let end = after.find(":]").expect("just found") + 2;
                out.push('[');
                out.push_str(&after[..end]);
                &after[end..]
            }
            '[' | '&' | '~' => {
                out.push('\\');
                out.push(next);
                after
            }
            other => {
                out.push(other);
                after
            }
        };
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::compile;

    #[track_caller]
    fn check(pattern: &str, text: &str, want: Option<&str>) {
        let regex = compile(pattern).unwrap_or_else(|failure| panic!("{}", failure.message));
        assert_eq!(regex.find(text).map(|found| found.as_str()), want, "{pattern} in {text}");
    }

    #[test]
    fn classes_know_ascii_only() {
        check(r"\d+", "٣12", Some("12"));
        check(r"\w+", "éab_", Some("ab_"));
        check(r"[\d-]+", "a1-2", Some("1-2"));
        check(r"[^\s]", "\u{a0}", Some("\u{a0}"));
        check(r"\bb", "éb", Some("b"));
        check(r".", "é", Some("é"));
        check(r"(?i)É", "é", Some("é"));
        check(r"\pL+", "1é", Some("é"));
    }

    #[test]
    fn brackets_and_braces_stand_for_themselves_where_re2_says_so() {
        check("[[]", "a[", Some("["));
        check("[]a]+", "]a", Some("]a"));
        check("[a&&b]+", "&b", Some("&b"));
        check("[[:alpha:]_]+", "1a_", Some("a_"));
        check("a{,2}", "a{,2}", Some("a{,2}"));
        check("a{2}", "aaa", Some("aa"));
        check("{", "{", Some("{"));
        check(r"\Qa.b\E+", "axb a.bb", Some("a.bb"));
    }

    #[test]
    fn bad_patterns_are_refused_in_the_words_of_re2() {
        #[track_caller]
        fn check(pattern: &str, portion: &str, reason: &str) {
            let want = format!("Error in regexp `{pattern}` (portion `{portion}`): {reason}");
            assert_eq!(compile(pattern).err().map(|failure| failure.message), Some(want));
        }
        check(r"ab\9", r"\9", r"invalid escape sequence: \9");
        check("*", "*", "no argument for repetition operator: *");
        check("x(a", "x(a", "missing ): x(a");
        check("a)b", "a)b", "missing ): a)b");
        check("x[ab", "[ab", "missing ]: [ab");
        check(r"a\", "", r"trailing \");
        check("a{1001}", "{1001}", "invalid repetition size: {1001}");
        check("a{2,99999999999}b", "{2,99999999999}", "invalid repetition size: {2,99999999999}");
        check("a**", "**", "bad repetition operator: **");
        check("xa+{2}?y", "+{2}?", "bad repetition operator: +{2}?");
        check("a*?+", "*?+", "bad repetition operator: *?+");
    }

    #[test]
    fn repetitions_are_taken_as_re2_takes_them() {
        #[track_caller]
        fn check(pattern: &str, text: &str, want: Option<&str>) {
            let found = compile(pattern).expect("a sound pattern");
            assert_eq!(found.find(text).map(|found| found.as_str()), want, "{pattern}");
        }
        check("a{2,3}?", "aaa", Some("aa"));
        check("a{1000}|b", "b", Some("b"));
        check("(?:a*)*", "aa", Some("aa"));
        check("(?i)A?b*", "ab", Some("ab"));
        check("(?P<n>a)+b", "aab", Some("aab"));
        check("[*+]+", "*+", Some("*+"));
        check(r"\*+", "**", Some("**"));
    }
}
