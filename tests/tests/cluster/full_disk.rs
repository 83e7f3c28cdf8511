//! A volume without space: first a replica's, then the master's, while `save` is due all the time. It is said, nothing is lost,
//! and it heals by itself once there is space.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use harness::cluster::history::Promise;
use harness::cluster::witness::now_us;
use harness::cluster::{Case, Needs, Scene};
use harness::wait_for;

use crate::rolling_update::UNHURRIED;

pub(super) const CASES: &[Case] =
    &[Case { name: "full_disk", needs: Needs::Namespace, limit: Duration::from_secs(480), run: full_disk }];

const LIMIT: Duration = Duration::from_secs(90);
/// Of each volume, MiB: the clients' lists stay below 1.
const SIZE_MIB: usize = 8;

/// A volume of its own for each instance, on a small file system of a node.
struct Volumes<'s> {
    scene: &'s Scene<'s>,
    /// By instance, as it is seen from here.
    dirs: Vec<(String, PathBuf)>,
}

impl<'s> Volumes<'s> {
    /// For the claims that the instances will make; their class is the name of the scene's namespace.
    fn new(scene: &'s Scene<'s>, instances: &[&str]) -> Volumes<'s> {
        let mut volumes = Volumes { scene, dirs: Vec::new() };
        for (instance, node) in instances.iter().zip(scene.cluster.nodes()) {
            let name = format!("{}-{instance}", scene.namespace);
            let (path, seen) = scene.cluster.mount_small(&node, &name, SIZE_MIB);
            volumes.dirs.push((instance.to_string(), seen));
            scene.apply_ok(&format!(
                "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: {name}}}, spec: {{\
                 capacity: {{storage: {SIZE_MIB}Mi}}, accessModes: [ReadWriteOnce], hostPath: {{path: {path}}}, \
                 storageClassName: {class}, persistentVolumeReclaimPolicy: Retain, \
                 claimRef: {{namespace: {class}, name: data-{instance}}}, nodeAffinity: {{required: {{\
                 nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}}}}}",
                class = scene.namespace,
                path = path.display(),
            ));
        }
        volumes
    }

    fn filler(&self, instance: &str) -> PathBuf {
        let (_, dir) = self.dirs.iter().find(|(name, _)| name == instance).expect("it has a volume");
        dir.join("filler")
    }

    /// Leaves no byte.
    fn fill(&self, instance: &str) {
        let mut file = fs::File::create(self.filler(instance)).expect("the volume can be written");
        let full = loop {
            if let Err(error) = file.write_all(&[1; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn free(&self, instance: &str) {
        fs::remove_file(self.filler(instance)).expect("the filler can be removed");
    }
}

impl Drop for Volumes<'_> {
    fn drop(&mut self) {
        for (instance, _) in &self.dirs {
            let name = format!("{}-{instance}", self.scene.namespace);
            self.scene.cluster.kubectl(&["delete", "pv", &name, "--wait=false"]);
        }
    }
}

fn full_disk(scene: &Scene<'_>) {
    if !scene.cluster.has_own_nodes() {
        scene.step("left out: small volumes can be made on nodes of ours only");
        return;
    }
    let volumes = Volumes::new(scene, &["shop-master-0", "shop-replica-0", "shop-replica-1"]);
    let store = scene.ready_store(
        "shop",
        &format!(
            "{{replicas: 2, durability: {{writeQuorum: 1}}, {UNHURRIED}, config: {{save: \"1 1\"}}, \
             storage: {{size: {SIZE_MIB}Mi, storageClassName: {}}}}}",
            scene.namespace
        ),
    );
    store.wait_for_members(3);
    let witness = store.witness();
    let master = store.master();
    let replica = if master == "shop-replica-0" { "shop-replica-1" } else { "shop-replica-0" };

    // A replica's: it is said, and nobody is refused.
    volumes.fill(replica);
    wait_for("the failed save to be told", LIMIT, || store.condition("PersistenceHealthy", "status") == "False");
    let message = store.condition("PersistenceHealthy", "message");
    assert!(message.contains(replica) && !message.contains(&master), "{message}");
    wait_for("the event", LIMIT, || store.events().contains(&format!("SaveFailed: {replica}")));
    witness.accepted_after(now_us(), LIMIT);
    assert_eq!(store.condition("Ready", "status"), "True");
    scene.step(&message);
    volumes.free(replica);
    wait_for("it to be over", LIMIT, || store.condition("PersistenceHealthy", "status") == "True");
    wait_for("the event", LIMIT, || store.events().contains("SavesSucceed: "));

    // The master's: it takes no writes, as Redis does, answers reads, and stays what it is.
    volumes.fill(&master);
    wait_for("the failed save to be told", LIMIT, || store.condition("Ready", "reason") == "SaveFailed");
    let message = store.condition("Ready", "message");
    assert!(message.contains(&master), "{message}");
    let refusal = store.call_pod(&master, "SET refused yes");
    assert!(refusal.contains("MISCONF"), "{refusal}");
    let length = store.call("master", "LLEN log:1");
    assert!(length.parse::<u64>().is_ok_and(|length| length > 0), "{length}");
    scene.step(&message);
    volumes.free(&master);
    store.wait_ready(LIMIT);
    witness.accepted_after(now_us(), LIMIT);
    assert_eq!(store.master(), master);

    // Its end while it is full: another is master, and it follows once there is space.
    volumes.fill(&master);
    store.signal(&master, "-KILL");
    let next = store.wait_for_other_master(&master, LIMIT);
    witness.accepted_after(now_us(), LIMIT);
    scene.step(&format!("{master} ended while its disk was full, {next} is master"));
    volumes.free(&master);
    store.wait_for_members(3);
    store.wait_ready(LIMIT);
    wait_for("every save to succeed", LIMIT, || store.condition("PersistenceHealthy", "status") == "True");
    store.judge(vec![witness], Promise::Quorum);
}
