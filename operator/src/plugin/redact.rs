//! What a report may not hold: passwords, values of Secrets, whatever a password could stand in.

use serde_json::{Map, Value, json};

/// In the place of what is left out.
pub(super) const HIDDEN: &str = "(redacted)";

/// Annotations that repeat an object, secrets included.
const REPEATING: [&str; 1] = ["kubectl.kubernetes.io/last-applied-configuration"];

/// An object without secrets: values of a Secret become their lengths, directives and variables that sound like passwords
/// lose their values, and `secrets` are hidden wherever they stand.
pub(super) fn object(object: &mut Value, secrets: &[String]) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            REPEATING.iter().for_each(|name| drop(annotations.remove(*name)));
        }
    }
    if object.get("kind").and_then(Value::as_str) == Some("Secret") {
        for field in ["data", "stringData"] {
            if let Some(data) = object.get_mut(field).and_then(Value::as_object_mut) {
                data.values_mut().for_each(|value| *value = json!(HIDDEN));
            }
        }
    }
    walk(object, secrets);
}

fn walk(value: &mut Value, secrets: &[String]) {
    match value {
        Value::Object(fields) => {
            hide_named(fields);
            fields.values_mut().for_each(|value| walk(value, secrets));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| walk(value, secrets)),
        Value::String(text) => *text = self::text(text, secrets),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A field whose value is a text and whose name sounds like a password; and the value beside such a name, as in `env`.
fn hide_named(fields: &mut Map<String, Value>) {
    let named = fields.get("name").and_then(Value::as_str).is_some_and(sounds_secret);
    for (name, value) in fields.iter_mut() {
        if value.is_string() && (sounds_secret(name) || named && name == "value") {
            *value = json!(HIDDEN);
        }
    }
}

fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let exempt = ["secretname", "passwordsecretref"];
    !exempt.contains(&name.as_str())
        && ["requirepass", "masterauth", "password", "passwd", "secret", "token"].iter().any(|word| name.contains(word))
}

/// A text without secrets: known ones, and the rest of lines that set one in a redis.conf.
pub(super) fn text(text: &str, secrets: &[String]) -> String {
    let hidden = secrets
        .iter()
        .filter(|secret| !secret.is_empty())
        .fold(text.to_string(), |text, secret| text.replace(secret.as_str(), HIDDEN));
    let line = |line: &str| {
        let first = line.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        match ["requirepass", "masterauth", "user", "tls-key-file-pass"].contains(&first.as_str()) {
            true => format!("{first} {HIDDEN}"),
            false => line.to_string(),
        }
    };
    let ends = if hidden.ends_with('\n') { "\n" } else { "" };
    hidden.lines().map(line).collect::<Vec<_>>().join("\n") + ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_left_in_an_object() {
        let mut secret = json!({
            "kind": "Secret",
            "metadata": {
                "name": "cart-auth", "managedFields": [{}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "hunter2", "mine": "stays"}
            },
            "data": {"password": "aHVudGVyMg=="}
        });
        object(&mut secret, &[]);
        assert_eq!(secret["data"]["password"], "(redacted)");
        assert_eq!(secret["metadata"], json!({"name": "cart-auth", "annotations": {"mine": "stays"}}));
        let mut pod = json!({
            "kind": "Pod",
            "spec": {
                "containers": [{"env": [{"name": "REDIS_PASSWORD", "value": "hunter2"}, {"name": "HOME", "value": "/data"}]}],
                "volumes": [{"secret": {"secretName": "cart-credentials"}}]
            },
            "status": {"message": "AUTH hunter2 failed"}
        });
        object(&mut pod, &["hunter2".to_string()]);
        let text = pod.to_string();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("cart-credentials") && text.contains("/data"), "{text}");
    }

    #[test]
    fn nothing_secret_is_left_in_a_text() {
        let conf = "port 6379\nrequirepass \"x y\"\n  masterauth z\nuser default on >pw\nmaxmemory 1gb\n";
        let want = "port 6379\nrequirepass (redacted)\nmasterauth (redacted)\nuser (redacted)\nmaxmemory 1gb\n";
        assert_eq!(text(conf, &[]), want);
        assert_eq!(text("a hunter2 b", &["hunter2".into(), String::new()]), "a (redacted) b");
    }
}
