//! NAME-auth, the generated password, and NAME-credentials, the password as the server reads it.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::child;
use crate::api::{PASSWORD_KEY, ReplicatedRedis};
use crate::config::render_credentials;
use crate::passwords::Passwords;

/// Name of the file in NAME-credentials.
pub(super) const FILE: &str = "credentials.conf";
/// What the operator keeps there; pods do not see it.
const KEPT: &str = "passwords.json";

/// NAME-auth with a new password. It is created once and never written again: what a person puts there stays.
pub fn generated_password(owner: &ReplicatedRedis, password: &str) -> Secret {
    secret(owner, "auth", PASSWORD_KEY, password)
}

/// NAME-credentials: what the server reads, and all that is known of the passwords, for the next operator.
pub fn credentials(owner: &ReplicatedRedis, passwords: &Passwords) -> Secret {
    let mut secret = secret(owner, "credentials", FILE, &render_credentials(&passwords.accepted(), &passwords.used));
    let kept = serde_json::to_vec(passwords).expect("strings and numbers are JSON");
    secret.data.get_or_insert_default().insert(KEPT.into(), ByteString(kept));
    secret
}

/// Name of NAME-credentials.
pub fn credentials_name(name: &str) -> String {
    format!("{name}-credentials")
}

/// What an operator has kept in NAME-credentials.
pub fn kept_passwords(secret: &Secret) -> Option<Passwords> {
    serde_json::from_slice(&secret.data.as_ref()?.get(KEPT)?.0).ok()
}

fn secret(owner: &ReplicatedRedis, suffix: &str, key: &str, value: &str) -> Secret {
    Secret {
        metadata: child(owner, format!("{}-{suffix}", owner.name_any())),
        type_: Some("Opaque".into()),
        data: Some([(key.to_string(), ByteString(value.as_bytes().to_vec()))].into()),
        ..Secret::default()
    }
}

/// The password that a Secret holds under `key`.
///
/// # Errors
/// A sentence that names Secret and key, when there is none that could be used.
pub fn password_in(secret: &Secret, key: &str) -> Result<String, String> {
    let name = secret.name_any();
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    let bytes = value.ok_or_else(|| format!("the Secret {name} has no key {key}"))?;
    let text =
        std::str::from_utf8(&bytes.0).map_err(|_| format!("key {key} of the Secret {name} is not UTF-8 text"))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(format!("key {key} of the Secret {name} is empty or has control characters: no password"));
    }
    Ok(text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::tests::datastore;

    #[test]
    fn a_password_goes_in_and_comes_out() {
        let owner = datastore(|_| {});
        let secret = generated_password(&owner, "s3cret");
        assert_eq!(password_in(&secret, PASSWORD_KEY).unwrap(), "s3cret");
        assert_eq!(password_in(&secret, "other").unwrap_err(), "the Secret x-auth has no key other");
        let empty = generated_password(&owner, "\n");
        assert!(password_in(&empty, PASSWORD_KEY).unwrap_err().contains("no password"));
    }

    #[test]
    fn the_servers_file_quotes_it() {
        let state = Passwords::first("a\"b", "s".into());
        let secret = credentials(&datastore(|_| {}), &state);
        assert_eq!(kept_passwords(&secret), Some(state.clone()));
        let text = &secret.data.unwrap()[FILE].0;
        assert_eq!(text, b"requirepass \"a\\\"b\"\nmasterauth \"a\\\"b\"\n");
        let (state, _) = state.step("c d", true, 300, 0).unwrap();
        let text = credentials(&datastore(|_| {}), &state).data.unwrap()[FILE].0.clone();
        let wanted = "user default on \">a\\\"b\" \">c d\" ~* &* +@all\nmasterauth \"a\\\"b\"\n";
        assert_eq!(String::from_utf8(text).unwrap(), wanted);
    }
}
