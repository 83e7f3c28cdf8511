//! An operator with several datastores: while all is well it asks the API server nothing, and writes nothing.

use std::thread::sleep;
use std::time::Duration;

use harness::cluster::fleet::{self, Work};
use harness::cluster::{ApiServer, Operator, ProcessKubelet};

const COUNT: usize = 6;

#[test]
fn nothing_is_asked_and_nothing_is_written_while_all_is_well() {
    let api = ApiServer::start();
    api.install_crd();
    let _kubelet = ProcessKubelet::start(&api);
    let operator = Operator::start(&api, "operator-a");
    fleet::make(&api, COUNT, 1, Duration::from_secs(120));
    // Members join and the status settles.
    sleep(Duration::from_secs(6));
    let before = Work::of(&operator);
    assert!(before.writes > COUNT as f64 * 10.0, "the objects of {COUNT} datastores are more: {before:?}");
    sleep(Duration::from_secs(10));
    let during = Work::of(&operator).since(before);
    assert_eq!((during.writes, during.reads), (0.0, 0.0), "{}", operator.exposition());
    assert!(during.plans > 0.0, "leases are granted meanwhile: {during:?}");
    assert!(during.resident < 4e6, "memory grows while nothing happens: {during:?}");
}
