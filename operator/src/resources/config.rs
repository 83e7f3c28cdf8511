//! NAME-config: redis.conf. It holds no secret.

use std::path::Path;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;

use super::memory::maxmemory;
use super::statefulset::{CREDENTIALS_DIR, DATA_DIR};
use super::{METRICS_PORT, PORT, child, one_label};
use crate::api::ReplicatedRedis;
use crate::config::{ConfigError, Credentials, ServerConfig, check_extra, render};
use crate::tenure::LEASE_MS;

/// Name of the file in the ConfigMap.
pub(super) const FILE: &str = "redis.conf";

/// Directives that follow from other fields of the spec.
fn derived(owner: &ReplicatedRedis) -> Vec<(String, String)> {
    let lease = ("managed-lease-ms".to_string(), LEASE_MS.to_string());
    let maxmemory = maxmemory(owner).map(|bytes| ("maxmemory".to_string(), bytes.to_string()));
    [lease].into_iter().chain(maxmemory).collect()
}

/// What the file says besides the operator's own directives: those that follow from the spec, then `spec.config`.
///
/// # Errors
/// A directive of `spec.config` that cannot be used, by its name.
pub fn directives(owner: &ReplicatedRedis) -> Result<Vec<(String, String)>, ConfigError> {
    check_extra(&owner.spec.config)?;
    let mut directives = derived(owner);
    directives.extend(owner.spec.config.iter().map(|(name, value)| (name.clone(), value.clone())));
    Ok(directives)
}

/// # Errors
/// A directive of `spec.config` that cannot be used, by its name.
pub fn config_map(owner: &ReplicatedRedis) -> Result<ConfigMap, ConfigError> {
    let text = render(&ServerConfig {
        bind: "* -::*",
        port: PORT,
        metrics_port: METRICS_PORT,
        dir: Path::new(DATA_DIR),
        credentials: Credentials::Include(&Path::new(CREDENTIALS_DIR).join(super::secrets::FILE)),
        derived: &derived(owner),
        extra: &owner.spec.config,
    })?;
    Ok(ConfigMap {
        metadata: child(owner, format!("{}-config", owner.name_any())),
        data: Some(one_label(FILE, &text)),
        ..ConfigMap::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::tests::datastore;

    #[test]
    fn it_includes_the_credentials_and_does_not_hold_them() {
        let map = config_map(&datastore(|spec| {
            spec.config.insert("hz".into(), "20".into());
        }))
        .unwrap();
        let text = &map.data.unwrap()[FILE];
        for line in
            ["hz 20", "bind * -::*", "include \"/etc/replicated-redis/credentials/credentials.conf\"", "managed yes"]
        {
            assert!(text.lines().any(|l| l == line), "{line} is missing in {text}");
        }
        assert!(!text.contains("requirepass"), "{text}");
    }

    #[test]
    fn a_directive_of_the_operator_is_named() {
        let owner = datastore(|spec| {
            spec.config.insert("port".into(), "1".into());
        });
        assert_eq!(
            config_map(&owner).unwrap_err().to_string(),
            "spec.config: 'port' is set by the operator and cannot be given here"
        );
    }
}
