//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as RethinkDB's drivers speak it: both sides, no channel binding, no normalisation.
//!
//! Only [`Credential::derive`] and [`SaltedPassword::derive`] run PBKDF2, which takes milliseconds: a core never calls them. Checking
//! a client's proof against a stored credential costs four hashes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// Iterations of PBKDF2 for a new password unless a setting or the user's row names another number.
pub const ITERATIONS_DEFAULT: u32 = 100_000;
/// Iterations for no password: it hides nothing, and every client of that user has to count as far.
pub const ITERATIONS_EMPTY: u32 = 4096;
pub const SALT_BYTES: usize = 16;
/// Random bytes of a server nonce before base64.
pub const NONCE_BYTES: usize = 18;

type Hash = [u8; 32];

/// What the server keeps of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    pub iterations: u32,
    pub salt: [u8; SALT_BYTES],
    pub stored_key: Hash,
    pub server_key: Hash,
    /// Known at once without PBKDF2, which the V0 handshakes and start-up checks need.
    pub password_is_empty: bool,
}

impl Credential {
    /// Derives a credential. Slow on purpose.
    pub fn derive(password: &[u8], salt: [u8; SALT_BYTES], iterations: u32) -> Credential {
        let salted = salted_password(password, &salt, iterations);
        let client_key = hmac(&salted, b"Client Key");
        Credential {
            iterations,
            salt,
            stored_key: Sha256::digest(client_key).into(),
            server_key: hmac(&salted, b"Server Key"),
            password_is_empty: password.is_empty(),
        }
    }

    /// Whether `password` is the one. Slow on purpose.
    pub fn verify(&self, password: &[u8]) -> bool {
        if password.is_empty() || self.password_is_empty {
            return password.is_empty() && self.password_is_empty;
        }
        let other = Credential::derive(password, self.salt, self.iterations);
        equal(&other.stored_key, &self.stored_key)
    }

    /// Checks the proof over `auth_message`; gives the server's signature.
    pub(super) fn check_proof(&self, proof: &[u8], auth_message: &[u8]) -> Option<Hash> {
        let proof: &Hash = proof.try_into().ok()?;
        let signature = hmac(&self.stored_key, auth_message);
        let client_key = xor(proof, &signature);
        let stored_key: Hash = Sha256::digest(client_key).into();
        equal(&stored_key, &self.stored_key).then(|| hmac(&self.server_key, auth_message))
    }
}

/// The salt shown for a user that does not exist: always the same for one name, so that asking twice tells nothing.
pub(super) fn fabricated_salt(secret: &[u8], user: &str) -> [u8; SALT_BYTES] {
    hmac(secret, user.as_bytes())[..SALT_BYTES].try_into().expect("a hash is longer than a salt")
}

/// The client's answer to the server's first message.
pub(super) struct ClientProof {
    pub proof: Hash,
    pub server_signature: Hash,
}

/// A password after PBKDF2. Who logs in often keeps it, as RFC 5802 allows: the server names the same salt each time.
#[derive(Clone)]
pub struct SaltedPassword {
    password: Vec<u8>,
    salt: Vec<u8>,
    iterations: u32,
    salted: Hash,
}

impl SaltedPassword {
    /// Slow on purpose.
    pub(super) fn derive(password: &[u8], salt: &[u8], iterations: u32) -> SaltedPassword {
        let salted = salted_password(password, salt, iterations);
        SaltedPassword { password: password.to_vec(), salt: salt.to_vec(), iterations, salted }
    }

    pub(super) fn is_of(&self, password: &[u8], salt: &[u8], iterations: u32) -> bool {
        self.password == password && self.salt == salt && self.iterations == iterations
    }
}

impl ClientProof {
    pub fn new(password: &SaltedPassword, auth_message: &[u8]) -> ClientProof {
        let salted = &password.salted;
        let client_key = hmac(salted, b"Client Key");
        let stored_key: Hash = Sha256::digest(client_key).into();
        let signature = hmac(&stored_key, auth_message);
        ClientProof {
            proof: xor(&client_key, &signature),
            server_signature: hmac(&hmac(salted, b"Server Key"), auth_message),
        }
    }
}

/// Base64 with padding, as every field of the exchange uses it.
pub(super) fn to_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

/// Escapes a user name for a SCRAM message.
pub(super) fn escape_user(user: &str) -> String {
    user.replace('=', "=3D").replace(',', "=2C")
}

/// Undoes [`escape_user`]; `None` for a stray `=` or an empty name.
pub(super) fn unescape_user(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut user = parts.next()?.to_owned();
    for part in parts {
        let (escaped, rest) = match part.get(..2)? {
            "3D" => ('=', &part[2..]),
            "2C" => (',', &part[2..]),
            _ => return None,
        };
        user.push(escaped);
        user.push_str(rest);
    }
    Some(user)
}

/// The value of attribute `name` in a comma-separated SCRAM message.
pub(super) fn attribute(message: &str, name: char) -> Option<&str> {
    message.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
}

fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Hash {
    pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password, salt, iterations)
}

fn hmac(key: &[u8], message: &[u8]) -> Hash {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn xor(a: &Hash, b: &Hash) -> Hash {
    std::array::from_fn(|index| a[index] ^ b[index])
}

/// Compares in constant time.
fn equal(a: &Hash, b: &Hash) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exchange_of_rfc_7677_is_reproduced() {
        let salt = from_base64("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let auth_message = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let client =
            ClientProof::new(&SaltedPassword::derive(b"pencil", &salt, 4096), auth_message.as_bytes());
        assert_eq!(to_base64(&client.proof), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        assert_eq!(to_base64(&client.server_signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");

        let credential = Credential::derive(b"pencil", salt.try_into().expect("16 bytes"), 4096);
        let signature = credential.check_proof(&client.proof, auth_message.as_bytes());
        assert_eq!(signature, Some(client.server_signature));
        assert_eq!(credential.check_proof(&[0; 32], auth_message.as_bytes()), None);
        assert_eq!(credential.check_proof(&[0; 31], auth_message.as_bytes()), None);
    }

    #[test]
    fn passwords_are_verified() {
        let credential = |password: &[u8]| Credential::derive(password, [7; SALT_BYTES], 1);
        for (stored, tried, want) in
            [("a", "a", true), ("a", "b", false), ("a", "", false), ("", "", true), ("", "a", false)]
        {
            assert_eq!(credential(stored.as_bytes()).verify(tried.as_bytes()), want, "{stored:?} {tried:?}");
        }
    }

    #[test]
    fn user_names_survive_escaping() {
        for user in ["admin", "a=b,c", "=2C", ",,==", "Zoë"] {
            assert_eq!(unescape_user(&escape_user(user)).as_deref(), Some(user));
        }
        for broken in ["a=", "a=2", "a=2D", "=é"] {
            assert_eq!(unescape_user(broken), None, "{broken}");
        }
    }
}
