//! HTTP: a document from elsewhere ([`Run::http`]), or a stream of pages of them.
//!
//! Always: a request is checked whole before it is made, and whatever goes wrong with it is something missing, so that `default`
//! catches it: `Error in HTTP GET of …`. What is not allowed at all is not.

use photondb_proto::datum::{Datum, Object, ObjectBuilder, Slice, Text, json, json_parse};
use photondb_proto::error::ErrorKind;
use photondb_proto::limits;
use photondb_proto::outside::{
    Certificates, HttpAnswer, HttpAuth, HttpAuthScheme, HttpCall, HttpMethod, HttpReply,
};
use photondb_proto::term::number;

use super::script::timeout_ms;
use super::{Arity, Determinism, Eval, Invocation, TermDef};
use crate::call::{Call, check_array_size, integer};
use crate::failure::{Failure, Outcome};
use crate::function::{Function, Meaning};
use crate::run::Run;
use crate::value::{Value, wrong_type};

pub static TERMS: &[TermDef] = &[TermDef {
    name: "HTTP",
    number: number::HTTP,
    arity: Arity::exactly(1),
    options: &[
        "attempts",
        "auth",
        "data",
        "header",
        "method",
        "page",
        "page_limit",
        "params",
        "redirects",
        "result_format",
        "timeout",
        "verify",
    ],
    determinism: Determinism::Never,
    eval: Eval::Strict(|run, invocation| Box::pin(http(run, invocation))),
}];

const TIMEOUT_DEFAULT_S: f64 = 30.0;
const ATTEMPTS_DEFAULT: u32 = 5;
const REDIRECTS_DEFAULT: u32 = 1;
/// Attempts and redirects that a query may ask for at most.
const REPEATS_MAX: i64 = 100;

/// What to make of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Auto,
    Json,
    Jsonp,
    Text,
    Binary,
}

/// How a page leads to the next.
enum Paging {
    LinkNext,
    Function(Function),
}

/// All that a query says of its request.
struct Wish {
    url: Text,
    params: Option<Object>,
    call: HttpCall,
    format: Format,
    paging: Option<(Paging, u64)>,
}

async fn http(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let mut wish = wish(&invocation)?;
    let Some((paging, pages_max)) = wish.paging.take() else {
        let (body, _) = request(run, &mut wish).await?;
        return Ok(Value::Datum(body));
    };
    let mut pages = Vec::new();
    let mut charge = run.charge();
    for _ in 0..pages_max {
        let (body, answer) = request(run, &mut wish).await?;
        let next = next_page(run, &paging, &wish, &body, &answer).await?;
        charge.add(body.approximate_bytes())?;
        match body {
            Datum::Array(items) => pages.extend(items.iter()),
            other => pages.push(other),
        }
        check_array_size(pages.len(), &run.limits)?;
        let Some((url, params)) = next else { break };
        (wish.url, wish.params) = (url, params);
    }
    Ok(Value::Datum(Datum::array(pages)))
}

/// Makes one request; gives what its body holds.
async fn request(run: &Run, wish: &mut Wish) -> Outcome<(Datum, HttpAnswer)> {
    wish.call.url = with_params(&wish.url, wish.params.as_ref());
    match run.http(wish.call.clone()).await? {
        HttpReply::Refused(reason) => Err(Failure::new(ErrorKind::OpFailed, reason)),
        HttpReply::TimedOut => {
            let (seconds, rest) = (wish.call.timeout_ms / 1000, wish.call.timeout_ms % 1000);
            Err(Failure::missing(format!("{} timed out after {seconds}.{rest:03} seconds.", error_in(wish))))
        }
        HttpReply::Failed(reason) => Err(failed(wish, &reason, &Datum::Null, &Datum::Null)),
        HttpReply::Answered(answer) => {
            let header = header_of(&answer);
            let text = || Datum::String(String::from_utf8_lossy(&answer.body).into_owned().into());
            if !(200..300).contains(&answer.status) {
                return Err(failed(wish, &format!("status code {}", answer.status), &header, &text()));
            }
            if wish.call.method == HttpMethod::Head {
                return Ok((header, answer));
            }
            let body =
                body_of(&answer, wish.format).map_err(|reason| failed(wish, &reason, &header, &text()))?;
            Ok((body, answer))
        }
    }
}

fn error_in(wish: &Wish) -> String {
    format!("Error in HTTP {} of `{}`:", wish.call.method.name(), wish.url.as_str())
}

fn failed(wish: &Wish, reason: &str, header: &Datum, body: &Datum) -> Failure {
    let print = json::to_message_string;
    Failure::missing(format!(
        "{} {reason}.\nheader:\n{}\nbody:\n{}",
        error_in(wish),
        print(header),
        print(body)
    ))
}

// ---------------------------------------------------------------- the request

fn wish(call: &Call) -> Outcome<Wish> {
    let url = call.string(0)?;
    let method = method(call)?;
    let mut headers = headers(call)?;
    let body = data(call, method, &mut headers)?;
    let seconds = number_option(call, "timeout")?.unwrap_or(TIMEOUT_DEFAULT_S);
    let repeats = |name: &str, otherwise: u32| -> Outcome<u32> {
        match number_option(call, name)? {
            Some(number) => Ok(integer(number)?.clamp(0, REPEATS_MAX) as u32),
            None => Ok(otherwise),
        }
    };
    let certificates =
        match checked_option(call, "verify", |datum| matches!(datum, Datum::Bool(_)), "a BOOL")? {
            Some(Datum::Bool(false)) => Certificates::Ignored,
            Some(_) | None => Certificates::Checked,
        };
    let http = HttpCall {
        method,
        url: String::new(),
        headers,
        body,
        timeout_ms: timeout_ms(seconds, limits::HTTP_TIMEOUT_MAX_MS),
        attempts: repeats("attempts", ATTEMPTS_DEFAULT)?.max(1),
        redirects: repeats("redirects", REDIRECTS_DEFAULT)?,
        certificates,
        auth: auth(call)?,
    };
    let params = object_option(call, "params")?;
    if let Some(params) = &params {
        for (key, value) in params.iter() {
            if !is_plain(&value) {
                let name = key.as_str();
                return Err(expected(&format!("params.{name}"), "a NUMBER, STRING or NULL", &value));
            }
        }
    }
    Ok(Wish { url, params, call: http, format: format(call)?, paging: paging(call)? })
}

fn expected(name: &str, wanted: &str, found: &Datum) -> Failure {
    let printed = json::to_message_string(found);
    Failure::logic(format!("Expected `{name}` to be {wanted}, but found {}:\n{printed}", found.type_name()))
}

fn checked_option(
    call: &Call,
    name: &str,
    fits: impl Fn(&Datum) -> bool,
    wanted: &str,
) -> Outcome<Option<Datum>> {
    let Some(datum) = call.option_datum(name)? else { return Ok(None) };
    if fits(&datum) {
        return Ok(Some(datum));
    }
    let failure = expected(name, wanted, &datum);
    Err(match call.option(name) {
        Some(argument) => failure.at(&argument.place),
        None => failure,
    })
}

fn number_option(call: &Call, name: &str) -> Outcome<Option<f64>> {
    match checked_option(call, name, |datum| matches!(datum, Datum::Number(_)), "a NUMBER")? {
        Some(Datum::Number(number)) => Ok(Some(number)),
        Some(_) | None => Ok(None),
    }
}

fn string_option(call: &Call, name: &str) -> Outcome<Option<Text>> {
    match checked_option(call, name, |datum| matches!(datum, Datum::String(_)), "a STRING")? {
        Some(Datum::String(text)) => Ok(Some(text)),
        Some(_) | None => Ok(None),
    }
}

fn object_option(call: &Call, name: &str) -> Outcome<Option<Object>> {
    match checked_option(call, name, |datum| matches!(datum, Datum::Object(_)), "an OBJECT")? {
        Some(Datum::Object(object)) => Ok(Some(object)),
        Some(_) | None => Ok(None),
    }
}

fn method(call: &Call) -> Outcome<HttpMethod> {
    let Some(name) = string_option(call, "method")? else { return Ok(HttpMethod::Get) };
    HttpMethod::ALL.into_iter().find(|method| method.name() == name.as_str()).ok_or_else(|| {
        Failure::logic(format!(
            "`method` ({}) is not recognized (GET, HEAD, POST, PUT, PATCH and DELETE are allowed).",
            name.as_str()
        ))
    })
}

fn format(call: &Call) -> Outcome<Format> {
    let Some(name) = string_option(call, "result_format")? else { return Ok(Format::Auto) };
    Ok(match name.as_str() {
        "auto" => Format::Auto,
        "json" => Format::Json,
        "jsonp" => Format::Jsonp,
        "text" => Format::Text,
        "binary" => Format::Binary,
        other => {
            return Err(Failure::logic(format!(
                "`result_format` ({other}) is not recognized, ('auto', 'json', 'jsonp', 'text', and 'binary' are allowed)."
            )));
        }
    })
}

fn auth(call: &Call) -> Outcome<Option<HttpAuth>> {
    let Some(auth) = object_option(call, "auth")? else { return Ok(None) };
    let text = |field: &str| match auth.field(field) {
        Some(Datum::String(text)) => Ok(Some(text.as_str().to_owned())),
        Some(other) => Err(expected(&format!("auth.{field}"), "a STRING", &other)),
        None => Ok(None),
    };
    let required = |field: &str| {
        text(field)?.ok_or_else(|| Failure::logic(format!("`auth.{field}` not found in the auth object.")))
    };
    let scheme = match text("type")?.as_deref() {
        None | Some("basic") => HttpAuthScheme::Basic,
        Some("digest") => HttpAuthScheme::Digest,
        Some(_) => {
            return Err(Failure::logic("`auth.type` is not recognized ('basic', and 'digest' are allowed)."));
        }
    };
    Ok(Some(HttpAuth { scheme, user: required("user")?, password: required("pass")? }))
}

fn headers(call: &Call) -> Outcome<Vec<(String, String)>> {
    match call.option_datum("header")? {
        None => Ok(Vec::new()),
        Some(Datum::Object(object)) => {
            let pairs = object.iter().map(|(name, value)| match &value {
                Datum::String(text) => Ok((name.as_str().to_owned(), text.as_str().to_owned())),
                Datum::Number(_) => Ok((name.as_str().to_owned(), json::to_string(&value))),
                Datum::Null => Ok((name.as_str().to_owned(), String::new())),
                other => Err(expected(&format!("header.{}", name.as_str()), "a STRING", other)),
            });
            pairs.collect()
        }
        Some(Datum::Array(lines)) => {
            let pairs = lines.iter().map(|line| match &line {
                Datum::String(text) => match text.as_str().split_once(':') {
                    Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
                    None => Err(Failure::logic(format!("The header `{}` lacks a colon.", text.as_str()))),
                },
                other => Err(expected("header", "an ARRAY of STRINGs", other)),
            });
            pairs.collect()
        }
        Some(other) => Err(expected("header", "an ARRAY or OBJECT", &other)),
    }
}

/// The body of the request, and the type that goes with it unless the query names one.
fn data(call: &Call, method: HttpMethod, headers: &mut Vec<(String, String)>) -> Outcome<Vec<u8>> {
    let Some(data) = call.option_datum("data")? else { return Ok(Vec::new()) };
    let name = method.name();
    let mut typed = |media: &str| {
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            headers.push(("Content-Type".to_owned(), media.to_owned()));
        }
    };
    match (method, &data) {
        (HttpMethod::Get | HttpMethod::Head, _) => Err(Failure::logic(format!(
            "`data` should only be specified on a PUT, POST, PATCH, or DELETE request, not {name}."
        ))),
        (HttpMethod::Post, Datum::String(text)) => {
            typed("application/x-www-form-urlencoded");
            Ok(text.as_bytes().to_vec())
        }
        (_, Datum::String(text)) => Ok(text.as_bytes().to_vec()),
        (HttpMethod::Post, Datum::Object(object)) if data.pseudotype().is_none() => {
            if let Some((key, value)) = object.iter().find(|(_, value)| !is_plain(value)) {
                return Err(expected(&format!("data.{}", key.as_str()), "a NUMBER, STRING or NULL", &value));
            }
            typed("application/x-www-form-urlencoded");
            Ok(encoded_pairs(object).into_bytes())
        }
        (HttpMethod::Post, other) => Err(expected("data", "a STRING or OBJECT", other)),
        (HttpMethod::Put | HttpMethod::Patch | HttpMethod::Delete, other) => {
            typed("application/json");
            let mut text = Vec::new();
            super::string::put_json(other, limits::HTTP_BODY_BYTES_MAX, &mut text)?;
            Ok(text)
        }
    }
}

fn is_plain(value: &Datum) -> bool {
    matches!(value, Datum::Number(_) | Datum::String(_) | Datum::Null)
}

/// `a=1&b=x%20y`.
fn encoded_pairs(object: &Object) -> String {
    let pairs = object.iter().map(|(key, value)| {
        let value = match &value {
            Datum::String(text) => escaped(text.as_str()),
            Datum::Null => String::new(),
            other => escaped(&json::to_string(other)),
        };
        format!("{}={value}", escaped(key.as_str()))
    });
    pairs.collect::<Vec<String>>().join("&")
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn with_params(url: &Text, params: Option<&Object>) -> String {
    match params {
        Some(params) if !params.is_empty() => {
            let joint = if url.as_str().contains('?') { '&' } else { '?' };
            format!("{}{joint}{}", url.as_str(), encoded_pairs(params))
        }
        Some(_) | None => url.as_str().to_owned(),
    }
}

// ---------------------------------------------------------------- the answer

/// The headers as an object; links by their relations: `{link: {'rel="next"': url}}`.
fn header_of(answer: &HttpAnswer) -> Datum {
    let mut header = ObjectBuilder::default();
    let mut links = ObjectBuilder::default();
    for (name, value) in &answer.headers {
        if name == "link" {
            for link in value.split(", <") {
                let link = link.trim_start_matches('<');
                if let Some((url, relation)) = link.split_once('>') {
                    let relation = relation.trim_start_matches([';', ' ']);
                    links.set(relation, Datum::string(url));
                }
            }
            continue;
        }
        header.set(name.as_str(), Datum::string(value));
    }
    let links = links.build();
    if !links.is_empty() {
        header.set("link", Datum::Object(links));
    }
    Datum::Object(header.build())
}

/// What a body holds, or why it holds nothing.
fn body_of(answer: &HttpAnswer, format: Format) -> Result<Datum, String> {
    let format = match format {
        Format::Auto => format_of(answer),
        Format::Json | Format::Jsonp | Format::Text | Format::Binary => format,
    };
    if format == Format::Binary {
        return Ok(Datum::Binary(Slice::from(answer.body.as_slice())));
    }
    let text = std::str::from_utf8(&answer.body).map_err(|_| "the body is not UTF-8 text".to_owned())?;
    match format {
        Format::Json => json_of(text).map_err(|why| format!("failed to parse JSON response: {why}")),
        Format::Jsonp => json_of_jsonp(text).map_err(|why| format!("failed to parse JSONP response: {why}")),
        Format::Text | Format::Binary | Format::Auto => Ok(Datum::string(text)),
    }
}

fn format_of(answer: &HttpAnswer) -> Format {
    let media = answer.headers.iter().find(|(name, _)| name == "content-type");
    let media = media.map_or("", |(_, value)| value.split(';').next().unwrap_or_default().trim());
    match media.to_ascii_lowercase().as_str() {
        "application/json" => Format::Json,
        "text/javascript" | "application/json-p" | "text/json-p" | "application/javascript" => Format::Jsonp,
        "application/octet-stream" => Format::Binary,
        media if ["audio/", "image/", "video/"].iter().any(|kind| media.starts_with(kind)) => Format::Binary,
        _ => Format::Text,
    }
}

fn json_of(text: &str) -> Result<Datum, String> {
    // The body comes with the failure anyway; only why it is none is told here.
    json_parse::parse(&Text::new(text)).map_err(|error| match error.message.rsplit_once(" as JSON: ") {
        Some((_, why)) => why.to_owned(),
        None => error.message,
    })
}

/// The JSON in `name({…});`.
fn json_of_jsonp(text: &str) -> Result<Datum, String> {
    let wrapped = text.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
    match wrapped {
        Some((inside, after)) if after.trim().trim_end_matches(';').trim().is_empty() => json_of(inside),
        Some(_) | None => Err("the body is no call of a function".to_owned()),
    }
}

// ---------------------------------------------------------------- pages

fn paging(call: &Call) -> Outcome<Option<(Paging, u64)>> {
    let Some(argument) = call.option("page") else { return Ok(None) };
    let Some(limit) = number_option(call, "page_limit")? else {
        return Err(Failure::logic(
            "Cannot use `page` without specifying `page_limit` (a positive number performs that many requests, -1 is unlimited).",
        ));
    };
    let pages_max = match integer(limit)? {
        -1 => u64::MAX,
        limit => u64::try_from(limit).map_err(|_| {
            Failure::logic(format!("`page_limit` should be greater than or equal to -1, but was {limit}."))
        })?,
    };
    let paging = match &argument.value {
        Value::Datum(Datum::String(name)) if name.as_str() == "link-next" => Paging::LinkNext,
        Value::Datum(Datum::String(name)) => {
            return Err(Failure::logic(format!(
                "`page` method '{}' not recognized, only 'link-next' is available.",
                name.as_str()
            )));
        }
        value => Paging::Function(Function::from_value(value, Meaning::Nothing, &argument.place)?),
    };
    Ok(Some((paging, pages_max)))
}

/// Where the next page is and its parameters; `None` after the last one.
async fn next_page(
    run: &Run,
    paging: &Paging,
    wish: &Wish,
    body: &Datum,
    answer: &HttpAnswer,
) -> Outcome<Option<(Text, Option<Object>)>> {
    let header = header_of(answer);
    let function = match paging {
        Paging::Function(function) => function,
        Paging::LinkNext => {
            let Datum::Object(header) = header else { return Ok(None) };
            let next = match header.field("link") {
                Some(Datum::Object(links)) => links.field("rel=\"next\""),
                Some(_) | None => None,
            };
            return match next {
                Some(Datum::String(url)) => Ok(Some((url, None))),
                Some(_) | None => Ok(None),
            };
        }
    };
    let params = wish.params.clone().map_or(Datum::Null, Datum::Object);
    let told = Datum::object([("params", params), ("header", header), ("body", body.clone())]);
    match function.datum(run, std::slice::from_ref(&told)).await? {
        Datum::Null => Ok(None),
        Datum::String(url) => Ok(Some((url, wish.params.clone()))),
        Datum::Object(next) => {
            let url = match next.field("url") {
                Some(Datum::String(url)) => url,
                Some(Datum::Null) => return Ok(None),
                Some(other) => return Err(wrong_type("STRING", &other)),
                None => wish.url.clone(),
            };
            match next.field("params") {
                Some(Datum::Object(params)) => Ok(Some((url, Some(params)))),
                Some(Datum::Null) | None => Ok(Some((url, wish.params.clone()))),
                Some(other) => Err(expected("params", "an OBJECT", &other)),
            }
        }
        other => Err(Failure::logic(format!(
            "Expected `page` to return an OBJECT, STRING or NULL, but found {}.",
            other.type_name()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use photondb_proto::outside::{OutsideOp, OutsideReply};

    use super::*;
    use crate::world::World;

    /// Asks a server whose outside answers each request by its URL; gives the requests too.
    fn ask(
        query: &str,
        answers: &'static [(&'static str, u16, &'static str, &'static str)],
    ) -> (String, Vec<String>) {
        let asked = Rc::new(RefCell::new(Vec::new()));
        let (mut world, seen) = (World::new(), asked.clone());
        world.outside = Some(Box::new(move |op| {
            let OutsideOp::Http(call) = op else { panic!("an HTTP request") };
            let body = String::from_utf8_lossy(&call.body).into_owned();
            seen.borrow_mut().push(format!("{} {} {body}", call.method.name(), call.url).trim().to_owned());
            let found = answers.iter().find(|(url, ..)| *url == call.url);
            OutsideReply::Http(match found {
                None => HttpReply::TimedOut,
                Some((_, 0, reason, _)) => HttpReply::Failed((*reason).to_owned()),
                Some((_, status, header, body)) => HttpReply::Answered(HttpAnswer {
                    status: *status,
                    headers: header
                        .split('|')
                        .filter_map(|line| line.split_once(": "))
                        .map(|(name, value)| (name.to_owned(), value.to_owned()))
                        .collect(),
                    body: body.as_bytes().to_vec(),
                }),
            })
        }));
        let answer = world.answer(&format!("[1,{query}]"));
        let asked = asked.borrow().clone();
        (answer, asked)
    }

    const JSON: &str = "content-type: application/json; charset=utf-8";

    #[track_caller]
    fn check(query: &str, request: &str, want: &str) {
        const ANSWERS: &[(&str, u16, &str, &str)] = &[
            ("h/json", 200, JSON, r#"{"a":[1]}"#),
            ("h/json?a=1&b=x%20%26&c=", 200, JSON, "1"),
            ("h/bad", 200, JSON, "{"),
            ("h/text", 200, "content-type: text/plain", "[1]"),
            ("h/jsonp", 200, "content-type: application/javascript", "call([1]);\n"),
            ("h/image", 200, "content-type: image/png", "x"),
            ("h/gone", 404, "content-type: text/plain", "no"),
            ("h/lost", 0, "Couldn't resolve host name", ""),
        ];
        let (answer, asked) = ask(query, ANSWERS);
        assert_eq!((answer.as_str(), asked.join(", ").as_str()), (want, request), "{query}");
    }

    #[test]
    fn bodies_are_read_as_what_they_are() {
        check(r#"[153,["h/json"]]"#, "GET h/json", r#"{"a":[1]}"#);
        check(r#"[153,["h/text"]]"#, "GET h/text", r#""[1]""#);
        check(r#"[153,["h/text"],{"result_format":"json"}]"#, "GET h/text", "[1]");
        check(r#"[153,["h/jsonp"]]"#, "GET h/jsonp", "[1]");
        check(r#"[153,["h/image"]]"#, "GET h/image", r#"{"$reql_type$":"BINARY","data":"eA=="}"#);
        check(
            r#"[153,["h/json"],{"params":{"b":"x &","a":1,"c":null}}]"#,
            "GET h/json?a=1&b=x%20%26&c=",
            "1",
        );
    }

    #[test]
    fn data_is_encoded_by_the_method() {
        check(
            r#"[153,["h/text"],{"method":"POST","data":{"a":"x y","b":1}}]"#,
            "POST h/text a=x%20y&b=1",
            r#""[1]""#,
        );
        check(
            r#"[153,["h/text"],{"method":"PUT","data":{"a":[2,[1]]}}]"#,
            r#"PUT h/text {"a":[1]}"#,
            r#""[1]""#,
        );
        check(r#"[153,["h/text"],{"method":"DELETE","data":"raw"}]"#, "DELETE h/text raw", r#""[1]""#);
    }

    #[test]
    fn failures_are_something_missing() {
        check(
            r#"[153,["h/gone"]]"#,
            "GET h/gone",
            "! Error in HTTP GET of `h/gone`: status code 404.\nheader:\n{\n\t\"content-type\":\t\"text/plain\"\n}\nbody:\n\"no\"",
        );
        check(
            r#"[153,["h/lost"]]"#,
            "GET h/lost",
            "! Error in HTTP GET of `h/lost`: Couldn't resolve host name.\nheader:\nnull\nbody:\nnull",
        );
        check(
            r#"[153,["h/slow"],{"timeout":0.8,"method":"PUT"}]"#,
            "PUT h/slow",
            "! Error in HTTP PUT of `h/slow`: timed out after 0.800 seconds.",
        );
        check(r#"[92,[[153,["h/bad"]],7]]"#, "GET h/bad", "7");
    }

    #[test]
    fn requests_that_make_no_sense_are_not_made() {
        for (options, want) in [
            (
                r#"{"method":"LOOK"}"#,
                "`method` (LOOK) is not recognized (GET, HEAD, POST, PUT, PATCH and DELETE are allowed).",
            ),
            (r#"{"params":1}"#, "Expected `params` to be an OBJECT, but found NUMBER:\n1"),
            (
                r#"{"result_format":"xml"}"#,
                "`result_format` (xml) is not recognized, ('auto', 'json', 'jsonp', 'text', and 'binary' are allowed).",
            ),
            (
                r#"{"auth":{"type":"x","user":"u","pass":"p"}}"#,
                "`auth.type` is not recognized ('basic', and 'digest' are allowed).",
            ),
            (
                r#"{"page":"link-next"}"#,
                "Cannot use `page` without specifying `page_limit` (a positive number performs that many requests, -1 is unlimited).",
            ),
            (
                r#"{"page":"x","page_limit":1}"#,
                "`page` method 'x' not recognized, only 'link-next' is available.",
            ),
        ] {
            check(&format!(r#"[153,["h/json"],{options}]"#), "", &format!("! {want}"));
        }
    }

    #[test]
    fn pages_follow_links_and_functions() {
        const ANSWERS: &[(&str, u16, &str, &str)] = &[
            (
                "h/1",
                200,
                "content-type: application/json|link: <h/2>; rel=\"next\", <h/9>; rel=\"last\"",
                "[1,2]",
            ),
            ("h/2", 200, "content-type: application/json|link: <h/3>; rel=\"next\"", "[3]"),
            ("h/3", 200, JSON, "4"),
            ("h/p?n=1", 200, JSON, "1"),
            ("h/p?n=2", 200, JSON, "2"),
        ];
        let pages = |query: &str| ask(query, ANSWERS).0;
        assert_eq!(pages(r#"[153,["h/1"],{"page":"link-next","page_limit":-1}]"#), "[1,2,3,4]");
        assert_eq!(pages(r#"[153,["h/1"],{"page":"link-next","page_limit":2}]"#), "[1,2,3]");
        let next = r#"[69,[[2,[1]],[65,[[17,[[170,[[10,[1]],"body"]],1]],{"params":{"n":2}},null]]]]"#;
        let query = format!(r#"[153,["h/p"],{{"params":{{"n":1}},"page":{next},"page_limit":-1}}]"#);
        assert_eq!(pages(&query), "[1,2]");
    }
}
