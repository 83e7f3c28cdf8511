//! A real Prometheus scrapes real servers and the operator: metrics are well-formed, every query of the dashboard has data,
//! and alerts are silent while all is well and fire in staged failures.
//!
//! Pods are processes here; `manifests/prometheus.yaml` says which of the API server's pods are scraped, and how they are named.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use harness::cluster::{ApiServer, Operator, ProcessKubelet, until};
use harness::prometheus::{Prometheus, http_get, promtool, with_pods};
use harness::{Conn, wait_for};
use operator::resources::METRICS_PORT;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(90);
const ALERTS: &str = "charts/replicated-redis-operator/files/alerts.yaml";
const DASHBOARD: &str = "charts/replicated-redis-operator/files/dashboard.json";
/// Prefixes of our metrics, and the one name of the operator's that is every program's.
const METRIC_PREFIXES: [&str; 4] = ["redis_", "replicated_redis_", "replicatedredis_", "process_resident"];

fn path(of: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(of)
}

fn read(of: &str) -> String {
    std::fs::read_to_string(path(of)).unwrap_or_else(|error| panic!("{of}: {error}"))
}

/// The expressions of the dashboard: of its panels, its annotations and its variables.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut queries: Vec<String> = targets.map(|target| target["expr"].as_str().unwrap().to_string()).collect();
    for variable in dashboard["templating"]["list"].as_array().unwrap().iter().filter(|v| v["type"] == "query") {
        let query = variable["query"]["query"].as_str().unwrap();
        queries.push(query.strip_prefix("label_values(").unwrap().rsplit_once(',').unwrap().0.to_string());
    }
    assert!(queries.len() > 40);
    for (variable, value) in [("$__rate_interval", "10s"), ("$namespace", ".*"), ("$name", ".*")] {
        queries = queries.into_iter().map(|query| query.replace(variable, value)).collect();
    }
    queries
}

/// (name, expression) of the alerts.
fn alerts() -> Vec<(String, String)> {
    let text = read(ALERTS);
    let value = |line: &str, key: &str| line.trim_start_matches([' ', '-']).strip_prefix(key).map(String::from);
    let names = text.lines().filter_map(|line| value(line, "alert: "));
    let expressions = text.lines().filter_map(|line| value(line, "expr: "));
    names.zip(expressions).collect()
}

/// Names of metrics in an expression.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_metric = |word: &&str| METRIC_PREFIXES.iter().any(|prefix| word.starts_with(prefix));
    words.filter(is_metric).filter(|word| *word != "replicated_redis_io_cluster").map(String::from).collect()
}

/// `manifests/prometheus.yaml` with the API server's pods, quick, and with the operator that is a process here.
fn config(api: &ApiServer, operator: &Operator) -> String {
    let pods = api.kubectl_ok(&["get", "pods", "--all-namespaces", "-o", "json"]);
    let scrape = with_pods(&read("manifests/prometheus.yaml"), &pods);
    format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [RULES]\n{scrape}
  - job_name: operator-process
    honor_labels: true
    static_configs: [{{targets: ['{}'], labels: {{pod: operator-a}}}}]\n",
        operator.metrics
    )
}

/// The alerts as they are, but told after a second.
fn hasty_alerts() -> String {
    let hasty = |line: &str| match line.trim_start().starts_with("for: ") {
        true => "        for: 1s".to_string(),
        false => line.to_string(),
    };
    read(ALERTS).lines().map(hasty).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_manifests_are_those_of_the_chart() {
    let why = "run `make alerts`";
    assert!(read("manifests/dashboard.json") == read(DASHBOARD), "manifests/dashboard.json is stale: {why}");
    let manifest = read("manifests/alerts.yaml");
    let rules: Vec<&str> = manifest.lines().skip_while(|line| *line != "spec:").skip(1).collect();
    let source = read(ALERTS);
    let wanted: Vec<String> = source
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| if line.is_empty() { String::new() } else { format!("  {line}") })
        .collect();
    assert!(rules == wanted, "manifests/alerts.yaml is stale: {why}");
    assert!(manifest.contains("kind: PrometheusRule"));
}

#[test]
fn each_alert_fires_on_its_series_and_on_nothing_else() {
    let tests = path("tests/monitoring/alerts_test.yaml");
    let checked = promtool(&["check", "rules", path(ALERTS).to_str().unwrap()], "");
    assert!(checked.status.success(), "{checked:?}");
    let tested = promtool(&["test", "rules", tests.to_str().unwrap()], "");
    assert!(tested.status.success(), "{tested:?}");
    let text = std::fs::read_to_string(tests).unwrap();
    for (name, expression) in alerts() {
        assert!(text.contains(&format!("alertname=\"{name}\"")), "{name} has no test in alerts_test.yaml");
        // With other names in its test than in its expression it would be silent there, and the test would fail.
        assert!(!metrics_in(&expression).is_empty(), "{name}");
    }
    let source = read(ALERTS);
    let count = |key: &str| source.lines().filter(|line| line.trim_start().starts_with(key)).count();
    assert_eq!((count("runbook: "), count("summary: ")), (alerts().len(), alerts().len()));
}

#[test]
fn prometheus_sees_every_series_that_the_dashboard_and_the_alerts_ask_for() {
    let api = ApiServer::start();
    api.install_crd();
    let kubelet = ProcessKubelet::start(&api);
    let operator = Operator::start(&api, "operator-a");
    let apply = |config: &str| {
        let head = "apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis\nmetadata: {name: watched}";
        api.apply_ok(&format!("{head}\nspec: {{replicas: 2, config: {{{config}}}}}\n"));
    };
    let phase = || api.kubectl_ok(&["get", "rr", "watched", "-o", "jsonpath={.status.phase}"]);
    apply("maxclients: \"20\"");
    wait_for("the datastore to be ready", SOON, || phase() == "Ready");
    let prometheus = Prometheus::start(&config(&api, &operator), &hasty_alerts());

    // All are found, with the labels that the alerts use.
    let found =
        "count(redis_up{job=\"replicated-redis\",namespace=\"default\",replicated_redis_io_cluster=\"watched\"})";
    until("three instances to be scraped", SOON, || {
        prometheus.query(found).unwrap().first().filter(|(_, n)| *n == 3.0).map(drop)
    });

    // Prometheus's own linter has no complaint about any exposition.
    let mut expositions = vec![operator.exposition()];
    for pod in ["watched-master-0", "watched-replica-0"] {
        let address = kubelet.address("default", pod).unwrap();
        expositions.push(http_get((address, METRICS_PORT).into(), "/metrics").unwrap().1);
    }
    for exposition in &expositions {
        let checked = promtool(&["check", "metrics"], exposition);
        assert!(checked.status.success(), "{}\n{exposition}", String::from_utf8_lossy(&checked.stderr));
    }

    // While all is well nothing fires, and every query has an answer.
    let password =
        api.kubectl_ok(&["get", "secret", "watched-auth", "-o", "go-template={{.data.password | base64decode}}"]);
    let master = kubelet.address("default", "watched-master-0").unwrap();
    let connect = || {
        let mut conn = Conn::open_at((master, 6379).into()).ok()?;
        conn.try_call(&["AUTH", &password]).ok()?;
        Some(conn)
    };
    let mut conn = connect().unwrap();
    let mut missing = Vec::new();
    let traffic = |conn: &mut Conn| {
        for line in ["SET k v", "GET k", "GET none", "LPUSH k x"] {
            conn.text(line);
        }
    };
    let all_answered = |missing: &mut Vec<String>| {
        missing.clear();
        for query in dashboard_queries() {
            match prometheus.query(&query) {
                Ok(samples) if !samples.is_empty() => {}
                Ok(_) => missing.push(query),
                Err(error) => panic!("{query}: {error}"),
            }
        }
        missing.is_empty()
    };
    let begun = std::time::Instant::now();
    while !all_answered(&mut missing) {
        traffic(&mut conn);
        std::thread::sleep(Duration::from_millis(500));
        assert!(begun.elapsed() < SOON, "these queries of the dashboard have no data: {missing:#?}");
    }
    let names = prometheus.names();
    for (alert, expression) in alerts() {
        let unknown: Vec<String> = metrics_in(&expression).difference(&names).cloned().collect();
        assert!(unknown.is_empty(), "{alert} asks for {unknown:?}, which nobody tells");
        prometheus.query(&expression).unwrap_or_else(|error| panic!("{alert}: {error}"));
    }
    wait_for("silence", SOON, || prometheus.firing().is_empty());
    for _ in 0..6 {
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(prometheus.firing(), BTreeSet::new());
    }
    let fires = |wanted: &[&str]| {
        let wanted: BTreeSet<String> = wanted.iter().map(|name| format!("ReplicatedRedis{name}")).collect();
        wait_for(&format!("{wanted:?} to fire"), SOON, || wanted.is_subset(&prometheus.firing()));
    };

    // Too many clients.
    let crowd: Vec<Conn> = (0..40).filter_map(|_| connect()).collect();
    fires(&["ClientsNearLimit", "ConnectionsRejected"]);
    drop(crowd);

    // Replicas that hang, and then the master: nobody can be promoted, nobody takes writes.
    for pod in ["watched-replica-0", "watched-replica-1"] {
        kubelet.signal("default", pod, "-STOP");
    }
    fires(&["ReplicaMissing", "NotFailoverReady", "NotReady"]);
    kubelet.signal("default", "watched-master-0", "-STOP");
    fires(&["NoMaster"]);
    for pod in ["watched-master-0", "watched-replica-0", "watched-replica-1"] {
        kubelet.signal("default", pod, "-CONT");
    }
    wait_for("the datastore to be ready", SOON, || phase() == "Ready");
    // Connections were refused within the last minutes, which is told for a while.
    let of_the_past = BTreeSet::from(["ReplicatedRedisConnectionsRejected".to_string()]);
    wait_for("silence", SOON, || prometheus.firing().is_subset(&of_the_past));

    // A spec that cannot be carried out.
    apply("save: \"900 1\\nport 1\"");
    fires(&["Stalled"]);
    apply("maxclients: \"20\"");
    wait_for("silence", SOON, || prometheus.firing().is_subset(&of_the_past));

    // The datastore goes, and with it what the operator tells of it.
    api.kubectl_ok(&["delete", "rr", "watched"]);
    wait_for("its series to go", SOON, || !operator.exposition().contains("watched"));

    // No operator.
    drop(operator);
    fires(&["OperatorAbsent"]);
}

/// The kinds of the Prometheus operator, as far as an API server needs to know them.
fn monitoring_crds() -> String {
    let one = |kind: &str, plural: &str| {
        format!(
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
             metadata: {{name: {plural}.monitoring.coreos.com}}\n\
             spec:\n  group: monitoring.coreos.com\n  scope: Namespaced\n  names: {{kind: {kind}, plural: {plural}}}\n  \
             versions:\n  - name: v1\n    served: true\n    storage: true\n    schema:\n      openAPIV3Schema:\n        \
             {{type: object, x-kubernetes-preserve-unknown-fields: true}}\n---\n"
        )
    };
    one("PodMonitor", "podmonitors") + &one("PrometheusRule", "prometheusrules")
}

#[test]
fn a_network_policy_and_monitors_are_made_when_they_are_asked_for_and_go_when_not() {
    let api = ApiServer::start();
    api.install_crd();
    let _kubelet = ProcessKubelet::start(&api);
    let mut operator = Operator::start(&api, "operator-a");
    let apply = |spec: &str| {
        let head = "apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis\nmetadata: {name: asked}";
        api.apply_ok(&format!("{head}\nspec: {spec}\n"));
    };
    let field = |path: &str| api.kubectl_ok(&["get", "rr", "asked", "-o", &format!("jsonpath={{{path}}}")]);
    let monitored = |of: &str| field(&format!(".status.conditions[?(@.type=='Monitored')].{of}"));
    let exists = |object: &str| api.kubectl(&["get", object]).status.success();
    let on = "networkPolicy: {mode: Managed, clientSelectors: [{podSelector: {matchLabels: {app: shop}}}]}, \
              monitoring: {podMonitor: {enabled: true, labels: {release: p}}, prometheusRule: {enabled: true}}";

    // The kinds are not there: that is said, and holds nothing up.
    apply(&format!("{{replicas: 0, {on}}}"));
    wait_for("the condition", SOON, || monitored("reason") == "NotInstalled");
    assert!(monitored("message").contains("CRDs of the Prometheus operator"), "{}", monitored("message"));
    wait_for("the datastore to be ready", SOON, || field(".status.phase") == "Ready");
    let events =
        api.kubectl_ok(&["get", "events", "-o", "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}"]);
    assert!(events.contains("NotInstalled: spec.monitoring: "), "{events}");

    // The policy lets in whom the spec names.
    let policy: Value =
        serde_json::from_str(&api.kubectl_ok(&["get", "networkpolicy", "asked", "-o", "json"])).unwrap();
    assert_eq!(policy["metadata"]["ownerReferences"][0]["name"], "asked");
    let clients = policy["spec"]["ingress"][0]["from"].as_array().unwrap();
    assert_eq!(clients.len(), 3);
    assert_eq!(clients[2]["podSelector"]["matchLabels"]["app"], "shop");

    // They are installed: the next change makes the objects (otherwise it is tried again each minute).
    api.apply_ok(&monitoring_crds());
    wait_for("the kinds", SOON, || exists("podmonitors") && exists("prometheusrules"));
    apply(&format!("{{replicas: 0, config: {{hz: \"11\"}}, {on}}}"));
    wait_for("the objects", SOON, || exists("podmonitor/asked") && exists("prometheusrule/asked"));
    wait_for("the condition", SOON, || monitored("status") == "True");
    let labels = api.kubectl_ok(&["get", "podmonitor", "asked", "-o", "jsonpath={.metadata.labels.release}"]);
    assert_eq!(labels, "p");
    let rules = api.kubectl_ok(&["get", "prometheusrule", "asked", "-o", "jsonpath={.spec}"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &rules).unwrap();
    let checked = promtool(&["check", "rules", file.path().to_str().unwrap()], "");
    assert!(checked.status.success(), "{checked:?}\n{rules}");

    // What others do to them is put back, by this operator and by one that finds them.
    let uid = |object: &str| {
        let got = api.kubectl(&["get", object, "-o", "jsonpath={.metadata.uid}"]);
        String::from_utf8_lossy(&got.stdout).into_owned()
    };
    let drifts = [
        ("networkpolicy/asked", r#"{"spec": {"ingress": []}}"#),
        ("podmonitor/asked", r#"{"spec": {"podTargetLabels": ["a"]}}"#),
        ("prometheusrule/asked", r#"{"spec": {"groups": [{"name": "a"}]}}"#),
    ];
    let spec = |object: &str| api.kubectl_ok(&["get", object, "-o", "jsonpath={.spec}"]);
    let mut _next = None;
    for is_next in [false, true] {
        if is_next {
            operator.end("-TERM");
            _next = Some(Operator::start(&api, "operator-b"));
            wait_for("the next operator", SOON, || field(".status.record.holder").starts_with("operator-b"));
        }
        for (object, drift) in drifts {
            let old = uid(object);
            api.kubectl_ok(&["delete", object]);
            wait_for("a deleted object to be back", SOON, || !uid(object).is_empty() && uid(object) != old);
            let before = spec(object);
            api.kubectl_ok(&["patch", object, "--type=merge", "-p", drift]);
            wait_for("a changed object to be put right", SOON, || spec(object) == before);
        }
    }

    // None of it is wanted any more.
    apply("{replicas: 0, config: {hz: \"11\"}}");
    wait_for("the objects to go", SOON, || {
        !exists("networkpolicy/asked") && !exists("podmonitor/asked") && !exists("prometheusrule/asked")
    });
    wait_for("the condition to go", SOON, || monitored("status").is_empty());
}
