//! Entry points for fuzzing: each takes any bytes, and panics when a machine does not keep its word.
//!
//! They serve three masters: the fuzz targets in `tests/fuzz`, the property tests below, and the replay of the checked-in
//! corpora, which runs with every `cargo test` so that what a fuzzer once found stays found.

use crate::datum::{Datum, Text, json, json_parse};
use crate::term::Term;
use crate::term::parse::{Parser, QueryMessage};
use crate::term::wire::{Reader, put_term};
use crate::wire::client::ResponseDecoder;
use crate::wire::frame::{FrameDecoder, Oversized};
use crate::wire::handshake::{Handshake, HandshakeSecrets, Progress};
use crate::wire::scram::{Credential, NONCE_BYTES, SALT_BYTES};

/// The first byte says how finely the rest is cut, so that a fuzzer can choose the cut.
fn pieces(bytes: &[u8]) -> (usize, &[u8]) {
    match bytes.split_first() {
        Some((piece, rest)) => (usize::from(*piece).max(1), rest),
        None => (1, bytes),
    }
}

/// A stream of query frames gives the same frames however it is cut.
pub fn frame(bytes: &[u8]) {
    let (piece, stream) = pieces(bytes);
    assert_eq!(frames(stream.chunks(piece)), frames(std::iter::once(stream)), "in pieces of {piece}");
    let mut responses = ResponseDecoder::default();
    responses.push(stream);
    while let Ok(Some(_)) = responses.next_response() {}
}

type Frames = (Vec<(i64, Vec<u8>)>, Option<Oversized>);

fn frames<'a>(stream: impl Iterator<Item = &'a [u8]>) -> Frames {
    let mut decoder = FrameDecoder::default();
    let mut found = Vec::new();
    for piece in stream {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => found.push((frame.token, frame.query.to_vec())),
                Ok(None) => break,
                Err(oversized) => return (found, Some(oversized)),
            }
        }
    }
    (found, None)
}

/// A handshake gives the same answers and the same end however its bytes are cut, and what is behind it is kept. The
/// user `admin` has the password `secret`, the salt 3, one iteration; the server's nonce is all 9.
pub fn handshake(bytes: &[u8]) {
    let (piece, stream) = pieces(bytes);
    let whole = shake_hands(stream.chunks(stream.len().max(1)));
    assert_eq!(shake_hands(stream.chunks(piece)), whole, "in pieces of {piece}");
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    sent: Vec<u8>,
    progress: Progress,
    /// Bytes behind a successful handshake.
    rest: Vec<u8>,
}

fn shake_hands<'a>(mut stream: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let secrets = HandshakeSecrets { nonce: [9; NONCE_BYTES], salt_secret: [1; 16], iterations: 1 };
    let mut handshake = Handshake::new(secrets);
    let mut sent = Vec::new();
    while let Some(piece) = stream.next() {
        let mut progress = handshake.push(piece, &mut sent);
        loop {
            progress = match progress {
                Progress::NeedBytes => break,
                Progress::NeedCredential { user } => {
                    let known = user == "admin";
                    let credential = known.then(|| Credential::derive(b"secret", [3; SALT_BYTES], 1));
                    handshake.credential(credential, &mut sent)
                }
                Progress::NeedKeyCheck { key } => handshake.key_checked(key == b"secret", &mut sent),
                Progress::Done { .. } => {
                    let mut rest = handshake.into_rest();
                    stream.for_each(|piece| rest.extend_from_slice(piece));
                    return Outcome { sent, progress, rest };
                }
                Progress::Failed => return Outcome { sent, progress, rest: Vec::new() },
            };
        }
    }
    Outcome { sent, progress: Progress::NeedBytes, rest: Vec::new() }
}

/// A query is refused or becomes a term that a used parser reads alike, that survives the way to another core, and whose
/// constants survive printing.
pub fn term_parser(bytes: &[u8]) {
    let mut parser = Parser::default();
    let first = parser.parse(&mut bytes.to_vec());
    let second = parser.parse(&mut bytes.to_vec());
    assert_eq!(format!("{first:?}"), format!("{second:?}"), "a parser keeps nothing of an earlier query");
    let Ok(QueryMessage::Start { term, options }) = first else { return };
    survives(&term);
    options.iter().for_each(|(_, option)| survives(option));
}

fn survives(term: &Term) {
    let mut bytes = Vec::new();
    put_term(term, &mut bytes);
    let mut reader = Reader::new(&bytes);
    let travelled = reader.term().expect("what we encode decodes");
    assert!(reader.is_at_end());
    assert_eq!(format!("{travelled:?}"), format!("{term:?}"));
    constants_print(term);
}

fn constants_print(term: &Term) {
    match term {
        // `r.json` refuses a NUL in its text, and prints never hold one: they escape it.
        Term::Datum(datum) => prints(datum),
        Term::Call(call) => {
            call.arguments.iter().for_each(constants_print);
            call.options.iter().for_each(|(_, option)| constants_print(option));
        }
    }
}

fn prints(datum: &Datum) {
    for text in [json::to_string(datum), json::to_pretty_string(datum)] {
        let read = json_parse::parse(&Text::from(text)).expect("what we print parses");
        assert_eq!(format!("{read:?}"), format!("{datum:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::frame::write_query;
    use crate::wire::handshake::{MAGIC_JSON, MAGIC_V0_4, MAGIC_V1_0};

    #[test]
    fn corpora_keep_passing() {
        type Entry = fn(&[u8]);
        let corpora: [(&str, Entry); 3] =
            [("frame", frame), ("handshake", handshake), ("term_parser", term_parser)];
        for (target, entry) in corpora {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
            let mut count = 0;
            for file in fs::read_dir(&folder).expect("the corpus is checked in") {
                let path = file.expect("a readable folder").path();
                // Shown by the test harness when the entry panics.
                println!("{}", path.display());
                entry(&fs::read(&path).expect("a readable file"));
                count += 1;
            }
            assert!(count > 0, "{} is empty", folder.display());
        }
    }

    /// The corpus is worth something only while it reaches the ends of the machines.
    #[test]
    fn the_handshake_corpus_logs_in() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/handshake");
        for seed in ["v1_0_login", "v0_4_login"] {
            let bytes = fs::read(folder.join(seed)).expect("a readable file");
            let outcome = shake_hands(std::iter::once(&bytes[1..]));
            assert!(matches!(outcome.progress, Progress::Done { .. }), "{seed}: {outcome:?}");
        }
    }

    fn stream_of_frames() -> impl Strategy<Value = Vec<u8>> {
        let frames = vec((any::<i64>(), vec(any::<u8>(), 0..40)), 0..8);
        (any::<u8>(), frames, vec(any::<u8>(), 0..16)).prop_map(|(piece, frames, tail)| {
            let mut stream = vec![piece];
            frames.iter().for_each(|(token, query)| write_query(*token, query, &mut stream));
            stream.extend(tail);
            stream
        })
    }

    /// Bytes that look enough like a handshake to get somewhere.
    fn handshake_bytes() -> impl Strategy<Value = Vec<u8>> {
        let scrap = prop_oneof![
            Just(MAGIC_V1_0.to_le_bytes().to_vec()),
            Just(MAGIC_V0_4.to_le_bytes().to_vec()),
            Just(MAGIC_JSON.to_le_bytes().to_vec()),
            Just(b"\x06\0\0\0secret".to_vec()),
            Just(br#"{"protocol_version":0,"authentication_method":"SCRAM-SHA-256","authentication":"n,,n=admin,r=x"}"#
                .to_vec()),
            "\\{\"authentication\":\"[cnrp=,a-z/+]{0,20}\"\\}\0".prop_map(String::into_bytes),
            Just(vec![0]),
            vec(any::<u8>(), 0..8),
            (2000..3000usize).prop_map(|count| vec![b' '; count]),
        ];
        (any::<u8>(), vec(scrap, 0..6)).prop_map(|(piece, scraps)| {
            let mut bytes = vec![piece];
            bytes.extend(scraps.concat());
            bytes
        })
    }

    fn json_text() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            "-?[0-9]{1,25}",
            "-?[0-9]{1,3}\\.[0-9]{1,9}(e-?[0-9]{1,2})?",
            "\"[a-z\u{e9} ]{0,6}\"",
            "\"(\\\\u[0-9a-d][0-9a-f]{3}|\\\\[nrt\"\\\\/bf]){0,3}\"",
        ];
        leaf.prop_recursive(6, 60, 6, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(","))),
                vec(("[a-c$]{1,2}", inner.clone()), 0..4).prop_map(|pairs| {
                    let pairs: Vec<String> =
                        pairs.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                    format!("{{{}}}", pairs.join(", "))
                }),
                (0..200u32, vec(inner, 0..5))
                    .prop_map(|(number, items)| format!("[{number},[{}]]", items.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn frames_do_not_depend_on_cuts(stream in stream_of_frames()) {
            frame(&stream);
        }

        #[test]
        fn handshakes_do_not_depend_on_cuts(bytes in handshake_bytes()) {
            handshake(&bytes);
        }

        #[test]
        fn any_first_bytes_are_answered(bytes in vec(any::<u8>(), 0..60)) {
            handshake(&bytes);
            frame(&bytes);
            term_parser(&bytes);
        }

        #[test]
        fn any_json_is_a_query_or_an_error(text in json_text()) {
            term_parser(text.as_bytes());
            term_parser(format!("[1,{text},{{\"db\":{text}}}]").as_bytes());
        }

        #[test]
        fn any_depth_is_a_query_or_an_error(
            open in "\\[2,\\[|\\{\"a\":|\\[24,\\[1,|\\[64,\\{\"x\":", depth in 1..3000usize
        ) {
            let close = match &open[..] {
                "{\"a\":" => "}",
                "[64,{\"x\":" => "}]",
                _ => "]]",
            };
            term_parser(format!("[1,{}1{}]", open.repeat(depth), close.repeat(depth)).as_bytes());
        }
    }
}
