//! A namespace with a datastore, an operator of its own, and a client that writes throughout.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::Conn;
use harness::cluster::history::{Promise, judge};
use harness::cluster::witness::{list_key, now_us};
use harness::cluster::{ApiServer, Operator, ProcessKubelet, Witness};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use operator::api::ReplicatedRedis;
use operator::fault;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::scenario::Scenario;

/// The datastore that every tenant has.
pub(crate) const SHOP: &str = "shop";
const LEASE: &str = "replicated-redis-operator";
/// An eviction that was cut off blocks the budget for two minutes, as the API server has it.
const SOON: Duration = Duration::from_secs(200);
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Between two writes, and two reads: the machine is to be busy with operators.
const PACE: Duration = Duration::from_millis(60);

/// A kind of object of a namespace.
trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Serialize + Debug
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Serialize + Debug
{
}

/// A class of claims that can grow, and volumes for so many tenants.
pub(crate) fn volumes(api: &ApiServer, tenants: usize) {
    let mut yaml = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: grows}\n\
                    provisioner: kubernetes.io/no-provisioner\nallowVolumeExpansion: true\n"
        .to_string();
    for n in 0..tenants * 3 {
        // Larger than what is ever asked for: nobody here makes a volume grow.
        yaml += &format!(
            "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: grows-{n}}}\nspec: {{capacity: {{storage: 1Ti}}, \
             accessModes: [ReadWriteOnce], storageClassName: grows, hostPath: {{path: /nowhere}}}}\n"
        );
    }
    api.apply_ok(&yaml);
}

pub(crate) struct Tenant<'a> {
    api: &'a ApiServer,
    kubelet: &'a ProcessKubelet,
    runtime: Runtime,
    client: Client,
    namespace: String,
    operator: Option<Operator>,
    /// How many operators there have been.
    operators: u32,
    /// Where the operator is told to die.
    order: PathBuf,
    witness: Option<Witness>,
    password: Arc<Mutex<String>>,
    /// Port of a Redis that the operator does not run.
    pub(crate) source: u16,

    /// What is wanted of the datastore.
    pub(crate) spec: Value,
    pub(crate) epoch_before: u64,
    /// Makes names that were not there before.
    pub(crate) count: u32,
    /// A datastore besides.
    pub(crate) another: String,
    /// Of the claims, Gi.
    pub(crate) size: u32,
    pub(crate) fenced: Option<String>,
    pub(crate) renewal: Option<String>,
}

impl<'a> Tenant<'a> {
    pub(crate) fn start(api: &'a ApiServer, kubelet: &'a ProcessKubelet, namespace: &str, source: u16) -> Tenant<'a> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let config = Kubeconfig::read_from(api.kubeconfig()).unwrap();
            let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
            Client::try_from(config).unwrap()
        });
        let made: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        runtime.block_on(Api::all(client.clone()).create(&PostParams::default(), &made)).unwrap();
        let spec = json!({
            "replicas": 2, "durability": {"writeQuorum": 1}, "image": "server:0", "config": {"hz": "10"},
            "storage": {"size": "1Gi", "storageClassName": "grows", "retention": {"whenDeleted": "Retain"}},
            "networkPolicy": {"mode": "Disabled"},
        });
        let mut tenant = Tenant {
            api,
            kubelet,
            runtime,
            client,
            namespace: namespace.to_string(),
            operator: None,
            operators: 0,
            order: api.kubeconfig().with_file_name(format!("{namespace}.order")),
            witness: None,
            password: Arc::default(),
            source,
            spec: spec.clone(),
            epoch_before: 0,
            count: 0,
            another: String::new(),
            size: 1,
            fenced: None,
            renewal: None,
        };
        tenant.start_operator();
        tenant.create(SHOP, spec);
        tenant.until("the first start", |tenant| tenant.is_well(SHOP, 2));
        let secret = tenant.get::<Secret>("shop-auth").unwrap();
        let secret: Secret = serde_json::from_value(secret).unwrap();
        *tenant.password.lock() = String::from_utf8(secret.data.unwrap()["password"].0.clone()).unwrap();
        tenant.witness = Some(tenant.start_witness());
        tenant
    }

    fn start_operator(&mut self) {
        // The one before is known to be dead: its successor need not wait for the end of its lease.
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let _ = self.runtime.block_on(leases.delete(LEASE, &DeleteParams::default()));
        self.operators += 1;
        let image = "server:test";
        let args = [
            "run",
            "--lease-namespace",
            &self.namespace,
            "--watch-namespace",
            &self.namespace,
            "--server-image",
            image,
        ];
        let (kubeconfig, order) = (self.api.kubeconfig(), self.order.to_string_lossy());
        let env = [("KUBECONFIG", &*kubeconfig.to_string_lossy()), (fault::VARIABLE, &order)];
        self.operator = Some(Operator::start_as(self.api, &self.operator_name(), &args, &env));
    }

    fn operator_name(&self) -> String {
        format!("{}-{}", self.namespace, self.operators)
    }

    fn start_witness(&self) -> Witness {
        let (addresses, namespace, password) =
            (self.kubelet.addresses(), self.namespace.clone(), Arc::clone(&self.password));
        let names = ["shop-master-0", "shop-replica-0", "shop-replica-1"];
        let witness = Witness::wandering(PACE, move |n| {
            let name = names[usize::try_from(n).unwrap_or(0) % names.len()];
            Some(((addresses.of(&namespace, name)?, 6379).into(), password.lock().clone()))
        });
        witness.accepted_after(0, SOON);
        witness
    }

    // ---- a run ----

    /// Whether nothing has to be done before this scenario.
    pub(crate) fn is_prepared(&self, scenario: Scenario) -> bool {
        scenario.replicas_before().is_none_or(|replicas| replicas == self.replicas())
    }

    /// One run; whether the operator has died of it. In the end all is well in any case.
    pub(crate) fn run(&mut self, scenario: Scenario, order: &str) -> bool {
        let begun = Instant::now();
        if let Some(replicas) = scenario.replicas_before().filter(|_| !self.is_prepared(scenario)) {
            self.change("/replicas", json!(replicas));
            self.until("the datastore to be scaled", |tenant| tenant.is_well(SHOP, replicas));
        }
        scenario.prepare(self);
        let what = format!("{} {scenario:?} {order}", self.namespace);
        let _ = std::fs::remove_file(fault::passed(&self.order));
        self.epoch_before = self.epoch();
        std::fs::write(&self.order, order).unwrap();
        scenario.begin(self);
        let has_come_true = |tenant: &Tenant<'_>| {
            let is_well = tenant.fenced.is_some() || tenant.is_well(SHOP, tenant.replicas());
            is_well && scenario.has_come_true(tenant)
        };
        self.until(&what, has_come_true);
        // It may have died of what came last of all.
        let has_died = !self.order.exists();
        let _ = std::fs::remove_file(&self.order);
        self.until(&what, has_come_true);
        let witness = self.witness.as_ref().unwrap();
        witness.accepted_after(now_us(), SOON);
        scenario.clean(self);
        println!("{what}: {}, epoch {}, {:?}", if has_died { "died" } else { "lived" }, self.epoch(), begun.elapsed());
        has_died
    }

    /// Waits until that is true, and starts another operator whenever one has ended.
    pub(crate) fn until(&mut self, what: &str, is_true: impl Fn(&Tenant<'_>) -> bool) {
        let begun = Instant::now();
        loop {
            if self.operator.as_mut().is_none_or(Operator::has_ended) {
                self.start_operator();
            }
            if is_true(self) {
                return;
            }
            if begun.elapsed() > SOON {
                let kinds = "rr,pods,statefulsets,services";
                println!("{}", self.api.kubectl_ok(&["-n", &self.namespace, "get", kinds, "-o", "wide"]));
                println!("{}", self.api.kubectl_ok(&["-n", &self.namespace, "get", "rr", "-o", "json"]));
                panic!("{what}: it does not converge within {SOON:?}");
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// The points that were passed in the last run, in their order.
    pub(crate) fn passed(&self) -> Vec<String> {
        let text = std::fs::read_to_string(fault::passed(&self.order)).unwrap_or_default();
        text.lines().map(str::to_string).collect()
    }

    /// Ends the client, and judges what it has seen.
    pub(crate) fn judge(&mut self) -> String {
        let operations = self.witness.take().unwrap().finish();
        let list = self.conn(SHOP, &self.master()).unwrap().call(&["LRANGE", &list_key(1), "0", "-1"]);
        let list = list.as_list().unwrap().iter().map(|item| u64::try_from(item.as_i64().unwrap()).unwrap()).collect();
        match judge(&operations, &BTreeMap::from([(1, list)]), Promise::Quorum) {
            Ok(summary) => format!("{}: {summary}", self.namespace),
            Err(complaints) => panic!("{}: the history is wrong:\n{}", self.namespace, complaints.join("\n")),
        }
    }

    // ---- what is done ----

    fn kind<K: Kind>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn patch<K: Kind>(&self, name: &str, patch: &Value) {
        let patched =
            self.runtime.block_on(self.kind::<K>().patch(name, &PatchParams::default(), &Patch::Merge(patch)));
        patched.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    pub(crate) fn create(&self, name: &str, spec: Value) {
        let object: ReplicatedRedis = serde_json::from_value(json!({
            "apiVersion": "replicated-redis.io/v1alpha1", "kind": "ReplicatedRedis", "metadata": {"name": name}, "spec": spec,
        }))
        .unwrap();
        self.runtime.block_on(self.kind().create(&PostParams::default(), &object)).unwrap();
    }

    /// Makes a datastore of a name that was not there before.
    pub(crate) fn create_another(&mut self, spec: Value) {
        self.count += 1;
        self.another = format!("another-{}", self.count);
        self.create(&self.another, spec);
    }

    pub(crate) fn delete_another(&self) {
        let api = self.kind::<ReplicatedRedis>();
        self.runtime.block_on(api.delete(&self.another, &DeleteParams::default())).unwrap();
    }

    /// Changes a field of the datastore's spec.
    pub(crate) fn change(&mut self, pointer: &str, value: Value) {
        *self.spec.pointer_mut(pointer).unwrap() = value;
        self.patch::<ReplicatedRedis>(SHOP, &json!({"spec": self.spec}));
    }

    pub(crate) fn annotate(&self, name: &str, annotation: &str, value: Option<&str>) {
        self.patch::<ReplicatedRedis>(name, &json!({"metadata": {"annotations": {annotation: value}}}));
    }

    pub(crate) fn set_password(&self, password: &str) {
        self.patch::<Secret>("shop-auth", &json!({"stringData": {"password": password}}));
        // From now on this is what the client comes with, as soon as it is let in by it.
        *self.password.lock() = password.to_string();
    }

    pub(crate) fn kill_master(&self) {
        self.kubelet.signal(&self.namespace, &self.master(), "-9");
    }

    pub(crate) fn end_operator(&mut self) {
        self.operator.as_mut().unwrap().end("-TERM");
    }

    // ---- what is seen ----

    fn get<K: Kind>(&self, name: &str) -> Option<Value> {
        let object = self.runtime.block_on(self.kind::<K>().get_opt(name)).unwrap()?;
        Some(serde_json::to_value(object).unwrap())
    }

    fn list<K: Kind>(&self, labels: &str) -> Vec<Value> {
        let list = self.runtime.block_on(self.kind::<K>().list(&ListParams::default().labels(labels))).unwrap();
        list.items.iter().map(|object| serde_json::to_value(object).unwrap()).collect()
    }

    fn object(&self, name: &str) -> Value {
        self.get::<ReplicatedRedis>(name).unwrap_or_default()
    }

    pub(crate) fn status(&self, name: &str) -> Value {
        self.object(name)["status"].clone()
    }

    pub(crate) fn condition(&self, name: &str, kind: &str) -> String {
        let conditions = self.status(name)["conditions"].as_array().cloned().unwrap_or_default();
        let of_kind = conditions.iter().find(|condition| condition["type"] == kind);
        of_kind.and_then(|condition| condition["status"].as_str()).unwrap_or_default().to_string()
    }

    pub(crate) fn annotation(&self, name: &str, annotation: &str) -> Option<String> {
        self.object(name)["metadata"]["annotations"][annotation].as_str().map(str::to_string)
    }

    pub(crate) fn pods(&self, name: &str) -> Vec<Value> {
        self.list::<Pod>(&format!("replicated-redis.io/cluster={name}"))
    }

    pub(crate) fn stateful_sets(&self, name: &str) -> Vec<Value> {
        self.list::<StatefulSet>(&format!("replicated-redis.io/cluster={name}"))
    }

    pub(crate) fn claims(&self) -> Vec<Value> {
        self.list::<PersistentVolumeClaim>("")
    }

    pub(crate) fn has_policy(&self) -> bool {
        self.get::<NetworkPolicy>(SHOP).is_some()
    }

    /// The version of the operator's Lease.
    pub(crate) fn lease(&self) -> Option<String> {
        Some(self.get::<Lease>(LEASE)?["metadata"]["resourceVersion"].as_str()?.to_string())
    }

    pub(crate) fn replicas(&self) -> u64 {
        self.spec["replicas"].as_u64().unwrap()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.status(SHOP)["record"]["epoch"].as_u64().unwrap_or(0)
    }

    fn master(&self) -> String {
        self.status(SHOP)["currentMaster"].as_str().unwrap_or_default().to_string()
    }

    pub(crate) fn a_replica(&self) -> String {
        let master = self.master();
        ["shop-master-0", "shop-replica-0"].into_iter().find(|name| *name != master).unwrap().to_string()
    }

    /// The operator that runs now has taken it over.
    pub(crate) fn is_held(&self, name: &str) -> bool {
        self.status(name)["record"]["holder"]
            .as_str()
            .is_some_and(|holder| holder.starts_with(&format!("{}-", self.operator_name())))
    }

    /// Ready as its spec says, by its status, its pods' labels and its Service, with nothing left undone.
    pub(crate) fn is_well(&self, name: &str, replicas: u64) -> bool {
        let object = self.object(name);
        let status = &object["status"];
        let record = &status["record"];
        let count = usize::try_from(replicas).unwrap();
        let pods = self.pods(name);
        let with_role = |role: &str| {
            pods.iter().filter(|pod| pod["metadata"]["labels"]["replicated-redis.io/role"] == role).count()
        };
        assert!(with_role("master") <= 1, "two pods are called master: {pods:?}");
        status["phase"] == "Ready"
            && status["observedGeneration"] == object["metadata"]["generation"]
            && self.is_held(name)
            && record["members"].as_array().is_some_and(|members| members.len() == count + 1)
            && (record["target"].is_null() && record["previous"].is_null())
            // The status is written beside the record: it may still tell of the master before.
            && status["currentMaster"] == record["master"]["name"]
            && pods.len() == count + 1
            && (with_role("master"), with_role("replica")) == (1, count)
            && self.leads_to(name) == status["currentMaster"]
    }

    /// The pod that the master Service selects.
    fn leads_to(&self, name: &str) -> Value {
        let service = self.get::<Service>(&format!("{name}-master")).unwrap_or_default();
        service["spec"]["selector"]["statefulset.kubernetes.io/pod-name"].clone()
    }

    fn conn(&self, name: &str, pod: &str) -> Option<Conn> {
        let address = self.kubelet.address(&self.namespace, pod)?;
        let mut conn = Conn::open_at((address, 6379).into()).ok()?;
        let password = match name {
            SHOP => self.password.lock().clone(),
            _ => {
                let secret: Secret = serde_json::from_value(self.get::<Secret>(&format!("{name}-auth"))?).ok()?;
                String::from_utf8(secret.data?.get("password")?.0.clone()).ok()?
            }
        };
        let answer = conn.try_call(&["AUTH", &password]).ok()?;
        (!answer.is_error()).then_some(conn)
    }

    /// What the master says.
    pub(crate) fn ask(&self, name: &str, line: &str) -> Option<String> {
        let master = self.status(name)["currentMaster"].as_str()?.to_string();
        let words: Vec<&str> = line.split(' ').collect();
        Some(self.conn(name, &master)?.try_call(&words).ok()?.as_str()?.to_string())
    }

    /// Whether every instance answers so, or with a list whose last word is that.
    pub(crate) fn everywhere(&self, line: &str, answer: &str) -> bool {
        let words: Vec<&str> = line.split(' ').collect();
        let says = |pod: &Value| {
            let reply = self.conn(SHOP, pod["metadata"]["name"].as_str()?)?.try_call(&words).ok()?;
            let last = reply.as_list().and_then(|list| list.last().cloned()).unwrap_or(reply);
            Some(last.as_str()? == answer)
        };
        self.pods(SHOP).iter().all(|pod| says(pod) == Some(true))
    }
}
