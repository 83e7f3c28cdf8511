//! What a person adds to pods, and to the objects that the operator makes, stays there: on a real API server.

use harness::cluster::pods::{Datastore, SOON};
use harness::cluster::{ApiServer, Operator, ProcessKubelet};
use harness::wait_for;

#[test]
fn sidecars_labels_and_placement_of_a_person_stay() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let _operator = Operator::start(&api, "operator-a");
    let store = Datastore { api: &api, kubelet: &kubelet, name: "mine" };
    let sidecar = "{name: sidecar, image: busybox, command: [sleep, infinity]}";
    let template = format!(
        "{{metadata: {{labels: {{team: a}}, annotations: {{example.com/scrape: 'yes'}}}}, terminationGracePeriodSeconds: 30, \
         env: [{{name: TZ, value: UTC}}], extraContainers: [{sidecar}], extraVolumes: [{{name: scratch, emptyDir: {{}}}}], \
         extraVolumeMounts: [{{name: scratch, mountPath: /scratch}}]}}"
    );
    store.apply(&format!(
        "{{replicas: 1, resources: {{limits: {{memory: 1Gi}}}}, podTemplate: {template}, inheritedMetadata: {{labels: {{cost-centre: '7'}}}}, \
         scheduling: {{placement: {{nodes: Required, zones: Required}}}}}}"
    ));
    store.wait_ready();
    let pod = |path: &str| api.kubectl_ok(&["get", "pod", "mine-master-0", "-o", &format!("jsonpath={{{path}}}")]);
    assert_eq!(pod(".spec.containers[*].name"), "server sidecar");
    assert_eq!(pod(".metadata.labels.team} {.metadata.labels.cost-centre"), "a 7");
    assert_eq!(pod(".spec.terminationGracePeriodSeconds"), "30");
    assert_eq!(pod(".spec.topologySpreadConstraints[0].whenUnsatisfiable"), "DoNotSchedule");
    let required = ".spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey";
    assert_eq!(pod(required), "kubernetes.io/hostname");
    assert!(store.call("mine-master-0", "CONFIG GET maxmemory").contains("805306368"), "three quarters of the limit");
    for object in ["service/mine-master", "secret/mine-auth", "configmap/mine-config", "poddisruptionbudget/mine"] {
        let label = api.kubectl_ok(&["get", object, "-o", "jsonpath={.metadata.labels.cost-centre}"]);
        assert_eq!(label, "7", "{object}");
    }

    // What others write into objects of ours is theirs: labels, annotations, a container of another field manager.
    api.kubectl_ok(&["label", "statefulset", "mine-replica", "their-label=yes"]);
    api.kubectl_ok(&["annotate", "secret", "mine-credentials", "example.com/theirs=yes"]);
    let container = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: mine-replica}\n\
        spec: {template: {spec: {containers: [{name: injected, image: busybox}]}}}";
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), container).expect("it can be written");
    let file = file.path().to_string_lossy();
    api.kubectl_ok(&["apply", "--server-side", "--field-manager=somebody", "-f", &file]);
    // The operator has looked at all of it since.
    api.kubectl_ok(&["scale", "rr/mine", "--replicas=2"]);
    wait_for("another replica", SOON, || store.pods().len() == 3);
    let set =
        |path: &str| api.kubectl_ok(&["get", "statefulset", "mine-replica", "-o", &format!("jsonpath={{{path}}}")]);
    assert_eq!(set(".metadata.labels.their-label} {.spec.replicas"), "yes 2");
    let containers = set(".spec.template.spec.containers[*].name");
    let mut names: Vec<&str> = containers.split(' ').collect();
    names.sort_unstable();
    assert_eq!(names, ["injected", "server", "sidecar"]);
    let theirs = "jsonpath={.metadata.annotations.example\\.com/theirs}";
    assert_eq!(api.kubectl_ok(&["get", "secret", "mine-credentials", "-o", theirs]), "yes");
}

#[test]
fn what_is_the_operators_is_refused_at_admission() {
    let api = ApiServer::start();
    api.install_crd();
    let cases = [
        ("{podTemplate: {extraContainers: [{name: server, image: x}]}}", "the container 'server' is the operator's"),
        ("{podTemplate: {extraVolumes: [{name: data, emptyDir: {}}]}}", "the volumes data, config and credentials"),
        ("{podTemplate: {env: [{name: POD_NAME, value: x}]}}", "POD_NAME and POD_NAMESPACE are set by the operator"),
        ("{podTemplate: {metadata: {labels: {replicated-redis.io/role: x}}}}", "are the operator's"),
        ("{inheritedMetadata: {annotations: {replicated-redis.io/applied: x}}}", "is the operator's"),
        ("{podTemplate: {terminationGracePeriodSeconds: 1}}", "should be greater than or equal to 10"),
        ("{scheduling: {placement: {nodes: Sometimes}}}", "Unsupported value"),
        ("{auth: {rotation: {overlapSeconds: -1}}}", "should be greater than or equal to 0"),
    ];
    let head = "apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis\nmetadata: {name: wrong}";
    for (spec, sentence) in cases {
        let said = api.apply_refused(&format!("{head}\nspec: {spec}\n"));
        assert!(said.contains(sentence), "{spec}: {said}");
    }
}
