use super::*;

fn manifest(spec: &str) -> String {
    format!("apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis\nmetadata:\n  name: x\nspec:\n{spec}")
}

fn problem(spec: &str) -> String {
    parse_manifest(&manifest(spec), "m.yaml").unwrap_err().to_string()
}

#[test]
fn a_manifest_has_defaults() {
    let parsed = parse_manifest(&manifest("  config: {hz: \"20\"}\n"), "m.yaml").unwrap();
    assert_eq!((parsed.spec.replicas, parsed.spec.failover.down_after_seconds), (2, 2));
    assert_eq!(parsed.spec.config["hz"], "20");
}

#[test]
fn what_is_wrong_is_said_in_a_sentence_that_names_it() {
    assert!(problem("  replica: 3\n").contains("unknown field spec.replica;"));
    assert!(problem("  failover: {mood: x}\n").contains("unknown field spec.failover.mood"));
    assert!(problem("  replicas: -1\n").contains("spec.replicas is -1; it must be between 0 and 63"));
    assert!(problem("  replicas: many\n").contains("spec.replicas: invalid type"));
    assert!(problem("  durability: {writeQuorum: 3}\n").contains("more than the 2 replicas"));
    assert!(parse_manifest("a: [", "m.yaml").unwrap_err().to_string().starts_with("m.yaml: not a YAML document"));
    assert!(parse_manifest("kind: Pod", "m.yaml").unwrap_err().to_string().contains("kind \"Pod\""));
}

#[test]
fn the_committed_crds_are_up_to_date() {
    for file in ["manifests/crd.yaml", "charts/replicated-redis-operator/files/crd.yaml"] {
        let path = format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"));
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == crd_yaml().unwrap(), "{file} is stale: run `make manifests`");
    }
}

#[test]
fn the_quickstart_is_a_good_manifest() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/quickstart.yaml");
    let parsed = parse_manifest(&std::fs::read_to_string(path).unwrap(), path).unwrap();
    assert_eq!(parsed.spec.replicas, 2);
}
