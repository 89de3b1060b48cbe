//! Digest authentication (RFC 7616) as far as servers use it: MD5, with `auth` or no quality of protection.

use md5::{Digest, Md5};
use photondb_proto::outside::HttpAuth;

/// The Authorization header that answers a WWW-Authenticate header, if it is a challenge we can answer.
pub fn credentials(
    challenge: &str,
    auth: &HttpAuth,
    method: &str,
    path: &str,
    client_nonce: [u8; 16],
) -> Option<String> {
    let (scheme, parameters) = challenge.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("digest") {
        return None;
    }
    let value = |name: &str| parameter(parameters, name);
    let (realm, nonce) = (value("realm")?, value("nonce")?);
    if !value("algorithm").is_none_or(|algorithm| algorithm.eq_ignore_ascii_case("md5")) {
        return None;
    }
    let user = &auth.user;
    let secret = hash(&format!("{user}:{realm}:{}", auth.password));
    let request = hash(&format!("{method}:{path}"));
    let client_nonce = hex(&client_nonce);
    let quality = value("qop").map(|offered| offered.split(',').any(|quality| quality.trim() == "auth"));
    let (response, quality) = match quality {
        Some(true) => (
            hash(&format!("{secret}:{nonce}:00000001:{client_nonce}:auth:{request}")),
            format!(", qop=auth, nc=00000001, cnonce=\"{client_nonce}\""),
        ),
        Some(false) => return None,
        None => (hash(&format!("{secret}:{nonce}:{request}")), String::new()),
    };
    let opaque = value("opaque").map(|opaque| format!(", opaque=\"{opaque}\"")).unwrap_or_default();
    Some(format!(
        "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{path}\", response=\"{response}\"{quality}{opaque}"
    ))
}

fn hash(text: &str) -> String {
    hex(&Md5::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The value of `name` in `name=value, other="quoted, value"`.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(value.trim().to_owned());
        }
        rest = next.trim_start_matches([',', ' ']);
    }
    None
}

#[cfg(test)]
mod tests {
    use photondb_proto::outside::HttpAuthScheme;

    use super::*;

    /// The example of RFC 2617, section 3.5, with our way of writing it.
    #[test]
    fn a_challenge_is_answered_as_the_standard_says() {
        let auth = HttpAuth {
            scheme: HttpAuthScheme::Digest,
            user: "Mufasa".into(),
            password: "Circle Of Life".into(),
        };
        let challenge = r#"Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41""#;
        let found = credentials(challenge, &auth, "GET", "/dir/index.html", [0; 16]).expect("an answer");
        assert!(found.contains(r#"response="670fd8c2df070c60b045671b8b24ff02""#), "{found}");
        assert!(credentials("Basic realm=\"x\"", &auth, "GET", "/", [0; 16]).is_none());
        assert_eq!(parameter(challenge, "opaque").as_deref(), Some("5ccc069c403ebaf9f0171e9517f40e41"));
        let with_quality = format!("{challenge}, qop=\"auth,auth-int\", algorithm=MD5");
        let found = credentials(&with_quality, &auth, "GET", "/", [0; 16]).expect("an answer");
        assert!(
            found.contains("qop=auth, nc=00000001, cnonce=\"00000000000000000000000000000000\""),
            "{found}"
        );
    }
}
