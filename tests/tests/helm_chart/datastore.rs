//! The second chart: values in the words of Bitnami's redis chart become a `ReplicatedRedis`, or are refused by name.

use std::fs;

use harness::cluster::ApiServer;
use harness::cluster::helm::{Helm, chart};
use harness::wait_for;
use serde_json::Value;

use super::rights::Datastore;
use super::{SOON, values};

const DATASTORE: &str = "replicated-redis";

/// Values of the second chart, and fields of the object that they become.
const DATASTORES: &[(&str, &[(&str, &str)])] = &[
    (
        "{}",
        &[
            ("/metadata/name", "cart-redis"),
            ("/spec/replicas", "3"),
            ("/spec/storage/size", "8Gi"),
            ("/spec/auth/passwordSecretRef/name", "cart-redis"),
            ("/spec/auth/passwordSecretRef/key", "redis-password"),
        ],
    ),
    ("{architecture: standalone}", &[("/spec/replicas", "0")]),
    (
        "{auth: {existingSecret: mine, existingSecretPasswordKey: pw}}",
        &[("/spec/auth/passwordSecretRef/name", "mine"), ("/spec/auth/passwordSecretRef/key", "pw")],
    ),
    (
        "{commonConfiguration: \"# a\\nsave 900 1\\n save  60 5\\nhz 20\", master: {configuration: HZ 30}}",
        &[("/spec/config/save", "900 1 60 5"), ("/spec/config/hz", "30")],
    ),
    ("{commonConfiguration: 'save \"\"'}", &[("/spec/config/save", "")]),
    (
        "{master: {persistence: {enabled: false, sizeLimit: 2Gi}}}",
        &[("/spec/storage/type", "EmptyDir"), ("/spec/storage/size", "2Gi")],
    ),
    (
        "{global: {defaultStorageClass: fast}, master: {persistence: {size: 9Gi}}}",
        &[("/spec/storage/storageClassName", "fast"), ("/spec/storage/size", "9Gi")],
    ),
    (
        "{master: {persistentVolumeClaimRetentionPolicy: {enabled: true, whenDeleted: Delete}}}",
        &[("/spec/storage/retention/whenDeleted", "Delete")],
    ),
    (
        "{image: {registry: r.example, repository: rr, tag: v1, pullPolicy: Always, pullSecrets: [s]}}",
        &[
            ("/spec/image", "r.example/rr:v1"),
            ("/spec/imagePullPolicy", "Always"),
            ("/spec/imagePullSecrets/0/name", "s"),
        ],
    ),
    (
        "{master: {resources: {limits: {memory: 1Gi}}, tolerations: [{operator: Exists}]},
          replica: {resources: {limits: {memory: 1Gi}}}}",
        &[("/spec/resources/limits/memory", "1Gi"), ("/spec/scheduling/tolerations/0/operator", "Exists")],
    ),
    (
        "{master: {podLabels: {team: shop}, podAnnotations: {a: b}, terminationGracePeriodSeconds: 300,
          extraEnvVars: [{name: TZ, value: UTC}], extraVolumes: [{name: tmp, emptyDir: {}}],
          extraVolumeMounts: [{name: tmp, mountPath: /tmp}], sidecars: [{name: side, image: 'example.org/side:1'}]}}",
        &[
            ("/spec/podTemplate/metadata/labels/team", "shop"),
            ("/spec/podTemplate/metadata/annotations/a", "b"),
            ("/spec/podTemplate/terminationGracePeriodSeconds", "300"),
            ("/spec/podTemplate/env/0/name", "TZ"),
            ("/spec/podTemplate/extraVolumes/0/name", "tmp"),
            ("/spec/podTemplate/extraVolumeMounts/0/mountPath", "/tmp"),
            ("/spec/podTemplate/extraContainers/0/name", "side"),
        ],
    ),
    (
        "{master: {service: {type: LoadBalancer}}, replica: {service: {annotations: {a: b}}}}",
        &[("/spec/services/master/type", "LoadBalancer"), ("/spec/services/replicas/annotations/a", "b")],
    ),
    (
        "{fullnameOverride: other, spec: {failover: {mode: Manual}, durability: {writeQuorum: 1}, replicas: 4}}",
        &[
            ("/metadata/name", "other"),
            ("/spec/failover/mode", "Manual"),
            ("/spec/durability/writeQuorum", "1"),
            ("/spec/replicas", "4"),
        ],
    ),
    ("{replica: {autoscaling: {enabled: true, targetCPU: 80, targetMemory: '70'}}}", &[]),
    (
        "{metrics: {podMonitor: {enabled: true}, serviceMonitor: {enabled: true},
          prometheusRule: {enabled: true, rules: [{alert: A, expr: 'up == 0'}]}}}",
        &[],
    ),
    (
        "{networkPolicy: {enabled: true, allowExternal: false, allowExternalEgress: false,
          ingressNSMatchLabels: {a: b}, metrics: {allowExternal: false}}}",
        &[],
    ),
    ("{extraDeploy: [{apiVersion: v1, kind: ConfigMap, metadata: {name: '{{ .Release.Name }}-more'}}]}", &[]),
];

pub(super) fn are_taken(api: &ApiServer, helm: &Helm) {
    let example = fs::read_to_string(format!("{}/examples/from-bitnami.yaml", chart(DATASTORE))).unwrap();
    let example = (example.as_str(), &[("/spec/replicas", "2"), ("/spec/config/maxclients", "5000")][..]);
    for (yaml, fields) in DATASTORES.iter().chain([&example]) {
        let given = values(yaml);
        let file = given.path().to_string_lossy().into_owned();
        let rendered = helm.ok(&["template", "cart", &chart(DATASTORE), "--namespace", "default", "--values", &file]);
        let objects = values(&rendered);
        let file = objects.path().to_string_lossy().into_owned();
        let taken = api.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-o", "json", "-f", &file]);
        assert!(taken.status.success(), "{yaml}: {}\n{rendered}", String::from_utf8_lossy(&taken.stderr));
        let taken: Value = serde_json::from_slice(&taken.stdout).unwrap();
        let one = [taken.clone()];
        let items = taken["items"].as_array().map_or(&one[..], Vec::as_slice);
        let datastore = items.iter().find(|object| object["kind"] == "ReplicatedRedis").unwrap();
        for (pointer, expected) in *fields {
            let value = datastore.pointer(pointer).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string));
            assert_eq!(value.as_deref(), Some(*expected), "{pointer} of {yaml}");
        }
    }
}

fn put(place: &mut Value, path: &[&str], value: Value) {
    match path {
        [] => *place = value,
        [first, rest @ ..] => {
            let inner = place.as_object_mut().unwrap().entry(*first).or_insert_with(|| serde_json::json!({}));
            put(inner, rest, value);
        }
    }
}

/// What would be ignored is refused, each with its sentence.
#[test]
fn a_value_of_bitnamis_that_has_no_meaning_is_named() {
    let helm = Helm::new(None);
    println!("{}", helm.ok(&["lint", "--strict", &chart(DATASTORE)]));
    let mut given = serde_json::json!({});
    let mut sentences = Vec::new();
    let table = fs::read_to_string(format!("{}/files/refused.yaml", chart(DATASTORE))).unwrap();
    for line in table.lines().filter(|line| line.starts_with("- ")) {
        let field = |name: &str| line.split_once(name).map(|(_, rest)| rest);
        let path = field("{path: ").unwrap().split(',').next().unwrap();
        let why = field("why: \"").unwrap().trim_end_matches("\"}");
        let bad = match field("unless: ") {
            Some(unless) if unless.starts_with("[true]") => Value::from(false),
            Some(_) => Value::from("other"),
            None => Value::from(true),
        };
        let pools: &[&str] = if line.contains("pool: true") { &["master.", "replica."] } else { &[""] };
        for pool in pools {
            let path = format!("{pool}{path}");
            put(&mut given, &path.split('.').collect::<Vec<_>>(), bad.clone());
            sentences.push(format!("{path}: {why}"));
        }
    }
    let refused = |yaml: &str| {
        let given = values(yaml);
        helm.refused(&["template", "x", &chart(DATASTORE), "--values", &given.path().to_string_lossy()])
    };
    let complaint = refused(&given.to_string());
    for sentence in &sentences {
        assert!(complaint.contains(sentence), "{sentence}: is missing in {complaint}");
    }
    assert!(sentences.len() > 100);
    for (yaml, words) in [
        ("{master: {typo: 1}}", "'typo' not allowed"),
        ("{architecture: cluster}", "/architecture"),
        ("{replica: {nodeSelector: {a: b}}}", "must be the same as master.nodeSelector"),
        ("{replica: {persistence: {size: 1Gi}}}", "must be the same as master.persistence.size"),
        ("{replica: {podLabels: {a: b}}}", "must be the same as master.podLabels"),
        ("{master: {podLabels: {a: 1}}}", "/master/podLabels/a"),
        ("{master: {terminationGracePeriodSeconds: 5}}", "/master/terminationGracePeriodSeconds"),
        ("{commonConfiguration: appendonly yes}", "the append-only file is not built yet"),
        ("{image: {repository: bitnami/redis, tag: '8'}}", "does not hold the server of ReplicatedRedis"),
        ("{image: {tag: '8'}}", "of no use without image.repository"),
        ("{replica: {autoscaling: {enabled: true}}}", "give targetCPU or targetMemory"),
        ("{fullnameOverride: a-name-that-is-longer-than-fifty-characters-is-too-long}", "/fullnameOverride"),
    ] {
        let complaint = refused(yaml);
        assert!(complaint.contains(words), "{yaml}: {complaint}");
    }
}

/// The second chart, with its operator: names, password and values are where users of Bitnami's chart look for them.
pub(super) fn in_the_words_of_bitnami(helm: &Helm, store: &Datastore<'_>) {
    let install = |command: &str, more: &[&str]| {
        let chart = chart(DATASTORE);
        let all = [&[command, "shop", &chart, "--namespace", store.namespace], more].concat();
        helm.ok(&all)
    };
    let notes =
        install("install", &["--set", "replica.replicaCount=1", "--set-string", "commonConfiguration=maxclients 500"]);
    assert!(notes.contains("shop-redis-master.one.svc.cluster.local:6379"), "{notes}");
    store.wait_ready();
    store.kubectl(&["get", "service", "shop-redis-master", "shop-redis-replicas", "shop-redis-headless"]);
    let given = "go-template={{index .data \"redis-password\" | base64decode}}";
    let password = store.kubectl(&["get", "secret", "shop-redis", "-o", given]);
    let mut conn = store.conn(&password).unwrap();
    assert_eq!(conn.text("SET greeting hello"), "OK");
    assert_eq!(conn.cmd("CONFIG GET maxclients").to_string().matches("500").count(), 1);

    install("upgrade", &["--reuse-values", "--set", "replica.replicaCount=2"]);
    wait_for("two replicas", SOON, || store.field(".status.replicaSummary") == "2/2");
    assert_eq!(store.kubectl(&["get", "secret", "shop-redis", "-o", given]), password);
    helm.ok(&["uninstall", "shop", "--namespace", store.namespace]);
    wait_for("the end", SOON, || store.children().is_empty());
}
