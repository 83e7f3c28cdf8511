//! Two datastores of the same name in two namespaces, and a person whose rights end at one of them.

use std::time::Duration;

use harness::cluster::history::Promise;
use harness::cluster::witness::OUT_OF_PATIENCE;
use harness::cluster::{Case, Needs, Scene, Store};
use harness::{Conn, wait_for};

// By itself, because it asks that clients notice nothing: where the CPUs are taken by other cases, they do.
pub(super) const CASES: &[Case] =
    &[Case { name: "two_tenants", needs: Needs::Cluster, limit: Duration::from_secs(180), run: two_tenants }];

const LIMIT: Duration = Duration::from_secs(90);
const SPEC: &str = "{replicas: 1, durability: {writeQuorum: 1}, storage: {type: EmptyDir}}";

fn two_tenants(scene: &Scene<'_>) {
    let (own, other) = (scene.namespace.clone(), format!("{}-b", scene.namespace));
    scene.make_namespace(&other);
    scene.apply_ok(&format!(
        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: tenant, namespace: {own}}}}}\n---\n\
         {{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {{name: tenant, namespace: {own}}}, rules: [\
         {{apiGroups: [replicated-redis.io], resources: [replicatedredises, replicatedredises/scale], verbs: ['*']}}, \
         {{apiGroups: [''], resources: [secrets], verbs: [get]}}]}}\n---\n\
         {{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {{name: tenant, namespace: {own}}}, \
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: tenant}}, \
         subjects: [{{kind: ServiceAccount, name: tenant, namespace: {own}}}]}}\n"
    ));
    let tenant = format!("--as=system:serviceaccount:{own}:tenant");
    let manifest = |namespace: &str| {
        let file = tempfile::NamedTempFile::new().expect("a file can be made");
        let head = "apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis";
        let text = format!("{head}\nmetadata: {{name: shop, namespace: {namespace}}}\nspec: {SPEC}\n");
        std::fs::write(file.path(), text).expect("the file can be written");
        file
    };

    // A person with rights in one namespace makes a datastore there, and nothing elsewhere.
    let (here, there) = (manifest(&own), manifest(&other));
    scene.kubectl_ok(&["apply", "-f", &here.path().to_string_lossy(), &tenant]);
    let refusal = scene.cluster.kubectl(&["apply", "-f", &there.path().to_string_lossy(), &tenant]);
    assert!(String::from_utf8_lossy(&refusal.stderr).contains("forbidden"), "{refusal:?}");
    let (a, b) = (Store::new(scene, &own, "shop"), Store::new(scene, &other, "shop"));
    b.apply(SPEC);
    a.wait_ready(LIMIT);
    b.wait_ready(LIMIT);
    scene.step("both are ready");
    let secret = ["-n", other.as_str(), "get", "secret", "shop-auth", tenant.as_str()];
    let refusal = scene.cluster.kubectl(&secret);
    assert!(String::from_utf8_lossy(&refusal.stderr).contains("forbidden"), "{refusal:?}");
    scene.kubectl_ok(&["get", "secret", "shop-auth", &tenant]);

    // Each has its own password and its own data.
    assert_ne!(a.password(), b.password());
    let mut conn = Conn::open_at(b.service("master")).expect("the Service answers");
    let answer = conn.text(&format!("AUTH {}", a.password()));
    assert!(answer.contains("WRONGPASS"), "{answer}");
    let (clients_a, clients_b) = (a.witness(), b.witness());
    a.call("master", "SET whose a");
    b.call("master", "SET whose b");

    // What happens to one does not touch the other.
    let epoch = b.epoch();
    let uids =
        |store: &Store<'_>| store.pods().iter().map(|pod| store.pod_field(pod, ".metadata.uid")).collect::<Vec<_>>();
    let before = uids(&b);
    let epoch_a = a.epoch();
    a.signal(&a.master(), "-KILL");
    a.wait_for_reign_after(epoch_a, LIMIT);
    a.wait_ready(LIMIT);
    scene.kubectl_ok(&["scale", "rr/shop", "--replicas=2", &tenant]);
    a.wait_ready(LIMIT);
    assert_eq!((a.call("master", "GET whose"), b.call("master", "GET whose")), ("a".into(), "b".into()));
    a.judge(vec![clients_a], Promise::Quorum);
    scene.kubectl_ok(&["delete", "rr", "shop", &tenant]);
    wait_for("the pods of the one that was deleted to be told to go", LIMIT, || {
        let told =
            a.kubectl_ok(&["get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.deletionTimestamp}|{end}"]);
        !told.split_terminator('|').any(str::is_empty)
    });
    assert_eq!((b.epoch(), uids(&b)), (epoch, before), "the other one was touched");
    // No write was refused and no connection ended. A client's patience may have: both share two CPUs with the failover.
    let summary = b.judge(vec![clients_b], Promise::Quorum);
    let lost_patience = summary.notes.get(OUT_OF_PATIENCE).copied().unwrap_or(0);
    assert_eq!(
        (summary.refused, summary.unknown, summary.reigns),
        (0, lost_patience, 1),
        "clients of the other one have noticed"
    );
}
