//! The tour of the README, as it is written there: every `kubectl` line of its block, in its order.

use std::path::Path;
use std::time::Duration;

use harness::cluster::{Case, Needs, Scene};

pub(super) const CASES: &[Case] =
    &[Case { name: "tour", needs: Needs::Namespace, limit: Duration::from_secs(480), run: tour }];

fn tour(scene: &Scene<'_>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("the README can be read");
    let (_, section) = readme.split_once("\n## On Kubernetes\n").expect("the README has that section");
    let (section, _) = section.split_once("\n## ").expect("it is not the last one");
    let (_, block) =
        section.split_once("`tests/tests/cluster/tour.rs` runs it:\n\n").expect("the README names this test");
    let lines = block.lines().map_while(|line| line.strip_prefix("    "));
    // What installs the operator has been done for the whole suite, with images of this checkout.
    let lines: Vec<&str> =
        lines.filter(|line| line.starts_with("kubectl") && !line.contains("manifests/install.yaml")).collect();
    assert!(lines.len() > 5, "the tour has become short: {lines:?}");
    for line in lines {
        let output = scene.shell(&root, line);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{line}\n{said}");
        scene.step(&format!("{}\n{}", line.split(" #").next().unwrap_or(line).trim(), said.trim_end()));
    }
    let store = scene.store("quickstart");
    store.wait_ready(Duration::from_secs(90));
    assert_eq!(store.master(), "quickstart-replica-0", "the tour's switchover has been done");
    assert_eq!(store.field(".status.replicaSummary"), "4/4");
}
