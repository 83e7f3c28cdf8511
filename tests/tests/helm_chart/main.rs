//! The charts with the real helm: what they render is taken by a real API server, they are installed, upgraded and uninstalled
//! ([`rights`]: with an operator that has the rights of its chart, and no more), and [`datastore`] is the second one.

#![expect(clippy::unwrap_used, reason = "a test")]

mod datastore;
mod rights;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::cluster::ApiServer;
use harness::cluster::helm::{Helm, chart};
use harness::wait_for;

const SOON: Duration = Duration::from_secs(90);
const CHART: &str = "replicated-redis-operator";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Values of which each one turns something on, or changes what is rendered.
const TOGGLES: &[&str] = &[
    "{}",
    "{crds: {install: false}}",
    "{crds: {keep: false}}",
    "{watchNamespaces: [one, two]}",
    "{replicaCount: 1, podDisruptionBudget: {enabled: false}}",
    "{rbac: {create: false}, serviceAccount: {create: false, name: given}}",
    "{rbac: {aggregateClusterRoles: false}, serviceAccount: {annotations: {a: b}}}",
    "{global: {imageRegistry: 'registry.example:5000', imagePullSecrets: [a, {name: b}]}, imagePullSecrets: [c]}",
    "{image: {digest: 'sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'}, server: {image: {tag: x}}}",
    "{commonLabels: {team: data}, commonAnnotations: {a: b}, podLabels: {c: d}, podAnnotations: {e: f}}",
    "{podAntiAffinityPreset: hard, priorityClassName: system-cluster-critical, nodeSelector: {a: b}}",
    "{podAntiAffinityPreset: none, tolerations: [{operator: Exists}]}",
    "{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
        {matchExpressions: [{key: a, operator: Exists}]}]}}}}",
    "{topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]}",
    "{env: [{name: A, value: b}], extraArgs: [--lease-name=other], logLevel: debug}",
    "{metrics: {service: {enabled: false}}}",
    "{metrics: {port: 9090, service: {annotations: {a: b}}}}",
    "{metrics: {serviceMonitor: {enabled: true, interval: 10s, scrapeTimeout: 5s, labels: {release: prometheus}}}}",
    "{metrics: {podMonitor: {enabled: true, namespace: one, relabelings: [{action: labeldrop, regex: pod}]}}}",
    "{metrics: {serverPodMonitor: {enabled: true}}, watchNamespaces: [one]}",
    "{metrics: {prometheusRule: {enabled: true, additionalGroups: [{name: g, rules: [{alert: A, expr: 'up == 0'}]}]}}}",
    "{networkPolicy: {enabled: true}}",
    "{networkPolicy: {enabled: true, metricsFrom: [{namespaceSelector: {}}], apiServer: {cidrs: [10.0.0.1/32]},
        extraEgress: [{ports: [{port: 1}]}]}, watchNamespaces: [one]}",
    "{nameOverride: other}",
    "{fullnameOverride: other}",
];

/// Values that the schema or a template refuses, and words of the refusal.
const REFUSED: &[(&str, &str)] = &[
    ("{replicas: 2}", "'replicas' not allowed"),
    ("{image: {version: 1}}", "'version' not allowed"),
    ("{replicaCount: -1}", "/replicaCount"),
    ("{image: {tag: ''}, server: {image: {digest: 'sha256:short'}}}", "/server/image/digest"),
    ("{watchNamespaces: [Upper]}", "/watchNamespaces/0"),
    ("{podAntiAffinityPreset: medium}", "/podAntiAffinityPreset"),
    ("{metrics: {service: {enabled: false}, serviceMonitor: {enabled: true}}}", "needs metrics.service.enabled"),
];

fn values(yaml: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), yaml).unwrap();
    file
}

fn render(helm: &Helm, release: &str, yaml: &str) -> String {
    let values = values(yaml);
    let file = values.path().to_string_lossy().into_owned();
    helm.ok(&["template", release, &chart(CHART), "--namespace", "default", "--values", &file])
}

#[test]
fn the_chart_is_well_formed_and_the_manifest_is_made_from_it() {
    let helm = Helm::new(None);
    println!("{}", helm.ok(&["lint", "--strict", &chart(CHART)]));
    for (yaml, words) in REFUSED {
        let values = values(yaml);
        let file = values.path().to_string_lossy().into_owned();
        let complaint = helm.refused(&["template", "x", &chart(CHART), "--values", &file]);
        assert!(complaint.contains(words), "{yaml}: {complaint}");
    }

    // Alerts and dashboard are files of the chart: they are rendered as they are, or their absence is said.
    for (toggle, file, kind) in [
        ("{metrics: {prometheusRule: {enabled: true}}}", "files/alerts.yaml", "kind: PrometheusRule"),
        ("{metrics: {dashboard: {enabled: true}}}", "files/dashboard.json", "grafana_dashboard: \"1\""),
    ] {
        let given = values(toggle);
        let output = helm.run(&["template", "x", &chart(CHART), "--values", &given.path().to_string_lossy()]);
        if Path::new(&chart(CHART)).join(file).exists() {
            let rendered = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && rendered.contains(kind), "{}", String::from_utf8_lossy(&output.stderr));
        } else {
            assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("has no {file}")));
        }
    }

    let fresh = Command::new(root("charts/install.sh")).output().unwrap();
    assert!(fresh.status.success(), "{}", String::from_utf8_lossy(&fresh.stderr));
    let committed = fs::read_to_string(root("manifests/install.yaml")).unwrap();
    assert!(fresh.stdout == committed.as_bytes(), "manifests/install.yaml is stale: run `make manifests`");

    // One version for everything that is released together.
    let workspace = fs::read_to_string(root("Cargo.toml")).unwrap();
    let version = workspace.lines().find_map(|line| line.strip_prefix("version = ")).unwrap().trim_matches('"');
    let about = fs::read_to_string(format!("{}/Chart.yaml", chart(CHART))).unwrap();
    for field in ["version", "appVersion"] {
        assert!(about.contains(&format!("\n{field}: {version}\n")), "{field} of the chart is not {version}");
    }
}

#[test]
fn without_cluster_roles_and_with_names_that_do_not_change() {
    let helm = Helm::new(None);
    let namespaced = render(&helm, "rro", "{watchNamespaces: [one, two]}");
    assert!(!namespaced.contains("kind: ClusterRole"), "{namespaced}");
    assert_eq!(namespaced.matches("\nkind: Role\n").count(), 3, "one for each namespace and one for the lead");

    // A selector that held a version could never be upgraded.
    for selector in render(&helm, "rro", "{crds: {install: false}}").split("matchLabels:").skip(1) {
        let selector: Vec<&str> = selector.lines().skip(1).take(4).collect();
        let selector = selector.iter().take_while(|line| line.contains("app.kubernetes.io/"));
        assert!(!selector.clone().any(|line| line.contains("version")) && selector.count() == 3);
    }
}

/// Kinds that the Prometheus operator brings, as far as the chart uses them.
fn install_monitoring_kinds(api: &ApiServer) {
    for (kind, plural, required) in [
        ("ServiceMonitor", "servicemonitors", "[selector, endpoints]"),
        ("PodMonitor", "podmonitors", "[selector, podMetricsEndpoints]"),
        ("PrometheusRule", "prometheusrules", "[groups]"),
    ] {
        let singular = kind.to_lowercase();
        api.apply_ok(&format!(
            "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {plural}.monitoring.coreos.com}}
spec:
  group: monitoring.coreos.com
  names: {{kind: {kind}, plural: {plural}, singular: {singular}}}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {{openAPIV3Schema: {{type: object, properties: {{spec: {{type: object, required: {required},
      x-kubernetes-preserve-unknown-fields: true}}}}}}}}\n"
        ));
        api.kubectl_ok(&["wait", "--for=condition=Established", &format!("crd/{plural}.monitoring.coreos.com")]);
    }
}

#[test]
fn the_api_server_takes_what_every_toggle_renders_and_releases_come_and_go() {
    let api = ApiServer::start();
    let helm = Helm::new(Some(&api.kubeconfig()));
    for namespace in ["one", "two", "system"] {
        api.kubectl_ok(&["create", "namespace", namespace]);
    }
    install_monitoring_kinds(&api);
    for yaml in TOGGLES {
        let rendered = render(&helm, "rro", yaml);
        let file = values(&rendered);
        let taken =
            api.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", &file.path().to_string_lossy()]);
        assert!(taken.status.success(), "{yaml}: {}\n{rendered}", String::from_utf8_lossy(&taken.stderr));
    }

    // The manifest, and with it the kind that the second chart needs.
    let manifest = root("manifests/install.yaml").to_string_lossy().into_owned();
    api.kubectl_ok(&["apply", "--server-side", "--validate=strict", "-f", &manifest]);
    let installed = ["-n", "replicated-redis-system", "get", "deployment,lease,role,service", "-o", "name"];
    assert!(api.kubectl_ok(&installed).contains("deployment.apps/replicated-redis-operator"));
    wait_for("the kind", SOON, || api.kubectl(&["get", "rr"]).status.success());
    datastore::are_taken(&api, &helm);
    api.kubectl_ok(&["delete", "-f", &manifest, "--wait=false"]);
    wait_for("the kind to go", SOON, || !api.kubectl(&["get", "rr"]).status.success());

    // Pods that the restricted level takes: the API server would warn of others.
    let levels = ["enforce", "warn"].map(|mode| format!("pod-security.kubernetes.io/{mode}=restricted"));
    api.kubectl_ok(&["label", "namespace", "system", &levels[0], &levels[1]]);
    let rendered = render(&helm, "rro", "{}").replace("namespace: default", "namespace: system");
    let file = values(&rendered);
    let taken = api.kubectl(&["apply", "--dry-run=server", "-f", &file.path().to_string_lossy()]);
    let complaint = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(taken.status.success() && !complaint.contains("PodSecurity"), "{complaint}");
    lifecycle(&api, &helm);
}

/// Install, upgrade from an older chart, uninstall, and both again where the CRD is not to be kept.
fn lifecycle(api: &ApiServer, helm: &Helm) {
    let older = older_chart();
    let (older, newer) = (older.path().to_string_lossy().into_owned(), chart(CHART));
    let field = |path: &str| {
        let output = api.kubectl(&[
            "-n",
            "system",
            "get",
            "deployment",
            "rro-replicated-redis-operator",
            "-o",
            &format!("jsonpath={{{path}}}"),
        ]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let has_crd = || api.kubectl(&["get", "crd", "replicatedredises.replicated-redis.io"]).status.success();
    let explains = |path: &str| api.kubectl(&["explain", path]).status.success();

    let notes = helm.ok(&["install", "rro", &older, "--namespace", "system"]);
    assert!(notes.contains("kubectl -n system rollout status deployment/rro-replicated-redis-operator"), "{notes}");
    let image = |tag: &str| format!("replicated-redis-operator:{tag}");
    assert_eq!(field(".spec.template.spec.containers[0].image"), image("0.0.9"));
    wait_for("the older schema", SOON, || explains("rr.spec.storage") && !explains("rr.spec.failover"));
    api.apply_ok("apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis\nmetadata: {name: kept}\nspec: {replicas: 1}\n");

    let selector = field(".spec.selector");
    helm.ok(&["upgrade", "rro", &newer, "--namespace", "system"]);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((field(".spec.template.spec.containers[0].image"), field(".spec.selector")), (image(version), selector));
    wait_for("the newer schema", SOON, || explains("rr.spec.failover"));
    helm.ok(&["rollback", "rro", "1", "--namespace", "system"]);
    assert_eq!(field(".spec.template.spec.containers[0].image"), image("0.0.9"));

    helm.ok(&["uninstall", "rro", "--namespace", "system"]);
    assert!(has_crd() && api.kubectl(&["get", "rr", "kept"]).status.success(), "the CRD and its objects are kept");
    let rest =
        api.kubectl_ok(&["-n", "system", "get", "deployment,role,rolebinding,poddisruptionbudget", "-o", "name"]);
    assert_eq!(rest, "");

    // What was kept is taken up by a release of the same name, or, when it is told to, by one of another name.
    helm.ok(&["install", "rro", &newer, "--namespace", "system"]);
    wait_for("the newer schema", SOON, || explains("rr.spec.failover"));
    assert!(api.kubectl(&["get", "rr", "kept"]).status.success());
    helm.ok(&["uninstall", "rro", "--namespace", "system"]);
    let refused = helm.refused(&["install", "other", &newer, "--namespace", "system"]);
    assert!(refused.contains("replicatedredises.replicated-redis.io") && refused.contains("rro"), "{refused}");
    helm.ok(&["install", "other", &newer, "--namespace", "system", "--take-ownership", "--set", "crds.keep=false"]);
    helm.ok(&["uninstall", "other", "--namespace", "system"]);
    wait_for("the CRD to go", SOON, || !has_crd());
}

/// The chart as a release before this one could have been: of another version, with a resource that has fewer fields.
fn older_chart() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(format!("{}/.", chart(CHART))).arg(dir.path()).status().unwrap();
    assert!(copied.success());
    let change = |file: &str, change: &dyn Fn(String) -> String| {
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        let changed = change(text.clone());
        assert_ne!(text, changed, "{file} should be changed");
        fs::write(path, changed).unwrap();
    };
    change("Chart.yaml", &|text| text.replace(env!("CARGO_PKG_VERSION"), "0.0.9"));
    change("files/crd.yaml", &|text| text.replace("              failover:\n", "              was:\n"));
    dir
}

#[test]
fn people_may_do_with_the_resource_what_their_roles_say() {
    let api = ApiServer::start();
    let helm = Helm::new(Some(&api.kubeconfig()));
    helm.ok(&["install", "rro", &chart(CHART)]);
    for role in ["view", "edit", "admin"] {
        let user = format!("--user={role}er");
        api.kubectl_ok(&["create", "rolebinding", role, &format!("--clusterrole={role}"), &user]);
    }
    let may = |user: &str, verb: &str, subresource: &str| {
        let what = format!("--subresource={subresource}");
        api.kubectl(&["auth", "can-i", verb, "rr", &what, "--as", user]).status.success()
    };
    wait_for("the roles to be aggregated", SOON, || may("viewer", "list", "") && may("adminer", "delete", ""));
    wait_for("the roles to be aggregated", SOON, || may("editer", "create", "") && may("editer", "get", ""));
    assert!(!may("viewer", "create", "") && !may("nobody", "get", ""));
    assert!(may("editer", "patch", "scale") && !may("viewer", "patch", "scale"));
    // The status is the operator's: it holds the record by which masters are chosen.
    assert!(may("viewer", "get", "status") && !may("adminer", "update", "status"));
}
