//! Prometheus scrapes real pods by `manifests/prometheus.yaml`, and sees a failover as what it is.

use std::path::Path;
use std::time::Duration;

use harness::cluster::{Case, Needs, Scene, until};
use harness::prometheus::{Prometheus, with_pods};

// Prometheus runs on this machine, from which the pods of our own nodes only can be reached.
pub(super) const CASES: &[Case] =
    &[Case { name: "monitoring", needs: Needs::Nodes, limit: Duration::from_secs(120), run: monitoring }];

const SOON: Duration = Duration::from_secs(60);

fn monitoring(scene: &Scene<'_>) {
    let store = scene.ready_store("watched", "{replicas: 2, storage: {size: 64Mi}}");
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/prometheus.yaml");
    let scrape = std::fs::read_to_string(manifests).expect("the checkout has it");
    let pods = scene.cluster.kubectl_ok(&["get", "pods", "--all-namespaces", "-o", "json"]);
    let scrape = with_pods(&scrape, &pods);
    let config = format!("global: {{scrape_interval: 1s}}\nrule_files: [RULES]\n{scrape}");
    let prometheus = Prometheus::start(&config, "groups: []\n");
    let namespace = &scene.namespace;
    let value = |expression: &str| prometheus.query(expression).expect("a valid expression").first().map(|(_, n)| *n);
    let becomes = |what: &str, expression: &str, wanted: f64| {
        until(what, SOON, || (value(expression) == Some(wanted)).then_some(()));
    };
    let of_servers = format!("namespace=\"{namespace}\",replicated_redis_io_cluster=\"watched\"");
    let of_operator = format!("namespace=\"{namespace}\",name=\"watched\"");
    becomes("the three pods", &format!("count(redis_up{{{of_servers}}})"), 3.0);
    becomes("one master", &format!("sum(replicated_redis_role{{{of_servers},role=\"master\"}})"), 1.0);
    becomes("links", &format!("sum(redis_master_link_up{{{of_servers}}})"), 2.0);
    becomes("the operator", "sum(replicatedredis_leader)", 1.0);
    becomes("its datastore", &format!("replicatedredis_has_master{{{of_operator}}}"), 1.0);
    scene.step("servers and operator are scraped");

    let (master, epoch) = (store.master(), store.epoch());
    store.signal(&master, "-KILL");
    becomes("the failover", &format!("sum(replicatedredis_failovers_total{{{of_operator}}})"), 1.0);
    let is_later = format!("replicated_redis_epoch{{{of_servers}}} > {epoch}");
    let is_master = format!("replicated_redis_role{{{of_servers},role=\"master\"}} == 1");
    let masters = format!("count({is_later} and on (pod) {is_master})");
    becomes("one master of a later epoch", &masters, 1.0);
    scene.step("the failover is told, and the pod that is master now");
}
