//! The resource against a real kube-apiserver: schema, rules, subresources, columns.

use harness::cluster::ApiServer;

fn datastore(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

#[test]
fn the_resource_is_what_its_schema_says() {
    let api = ApiServer::start();
    api.install_crd();

    // What a person reads.
    let sentence = api.kubectl_ok(&["explain", "rr.spec.replicas"]);
    assert!(sentence.contains("the master is not counted"), "{sentence}");
    let resources = api.kubectl_ok(&["api-resources", "--api-group=replicated-redis.io"]);
    assert!(resources.contains("replicatedredises") && resources.contains(" rr "), "{resources}");

    // The quickstart is accepted and gets its defaults.
    let quickstart = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/quickstart.yaml");
    api.kubectl_ok(&["apply", "--validate=strict", "-f", quickstart]);
    let spec = |path: &str| api.kubectl_ok(&["get", "rr", "quickstart", "-o", &format!("jsonpath={{.spec.{path}}}")]);
    assert_eq!(spec("failover.downAfterSeconds"), "2");
    assert_eq!(spec("storage.type"), "PersistentVolumeClaim");
    let columns = api.kubectl_ok(&["get", "rr"]);
    for column in ["NAME", "MASTER", "READY", "REPLICAS", "PHASE", "AGE"] {
        assert!(columns.lines().next().is_some_and(|line| line.contains(column)), "{column} is missing: {columns}");
    }
    assert!(api.kubectl_ok(&["get", "rr", "-o", "wide"]).contains("LAG"));

    // The scale subresource.
    api.kubectl_ok(&["scale", "rr/quickstart", "--replicas=5"]);
    assert_eq!(spec("replicas"), "5");
    let refused = api.kubectl_refused(&["scale", "rr/quickstart", "--replicas=64"]);
    assert!(refused.contains("spec.replicas"), "{refused}");

    // What cannot work is refused with a sentence that names it.
    for (spec, words) in [
        ("{replicas: -1}", "spec.replicas"),
        ("{replicas: many}", "spec.replicas"),
        ("{replica: 1}", "unknown field \"spec.replica\""),
        ("{failover: {mode: Sometimes}}", "spec.failover.mode"),
        ("{replicas: 1, durability: {writeQuorum: 2}}", "no write could ever be answered"),
        ("{config: {requirepass: x}}", "is set by the operator and cannot be given here"),
        ("{storage: {size: big}}", "spec.storage.size"),
    ] {
        let complaint = api.apply_refused(&datastore("bad", spec));
        assert!(complaint.contains(words), "{spec}: {complaint}");
    }
    let long = "a".repeat(51);
    assert!(api.apply_refused(&datastore(&long, "{}")).contains("at most 50 characters"));

    // What cannot be changed is said when it is tried.
    for (change, words) in [
        ("{storage: {type: EmptyDir}}", "storage.type cannot be changed"),
        ("{storage: {size: 500Mi}}", "storage.size may only grow"),
        ("{storage: {storageClassName: other}}", "storage.storageClassName cannot be changed"),
    ] {
        let complaint = api.apply_refused(&datastore("quickstart", change));
        assert!(complaint.contains(words), "{change}: {complaint}");
    }
    api.apply_ok(&datastore("quickstart", "{storage: {size: 2Gi}}"));
}
