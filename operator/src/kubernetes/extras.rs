//! Objects that a datastore has only when its spec asks for them: a NetworkPolicy, and those of the Prometheus operator.
//!
//! They are not watched: most clusters lack the kinds of the Prometheus operator, and an operator may lack the rights for
//! what nobody uses. What there is was listed once; then each is applied when it changes. So what others change in them
//! stays until the spec changes or another operator leads.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use super::objects::{ApplyError, hash};
use crate::api::ReplicatedRedis;
use crate::fault::Act;
use crate::resources::{self, MANAGED_BY_LABEL, MANAGER};

/// Kind, namespace and name of those that there were when this operator began.
pub(super) type Found = HashSet<(String, String, String)>;

/// By kind: the hash of what was applied, or `None` where it is known that there is none.
pub(super) type Applied = HashMap<String, Option<String>>;

/// Why monitoring is not as the spec asks: a machine-readable reason and a sentence.
pub(super) type Unmonitored = (&'static str, String);

/// What has come of the objects of the Prometheus operator; `None` where the spec asks for none.
pub(super) type Monitored = Option<Result<String, Unmonitored>>;

fn kinds() -> [ApiResource; 3] {
    let [pod_monitor, rule] = resources::monitor_kinds();
    [ApiResource::erase::<NetworkPolicy>(&()), pod_monitor, rule]
}

/// What there is in these namespaces, or everywhere. Kinds that are not installed or may not be listed have nothing of ours.
pub(super) async fn find(client: &Client, namespaces: &[String]) -> Found {
    let mut found = Found::new();
    let ours = ListParams::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGER}"));
    for kind in kinds() {
        let apis: Vec<Api<DynamicObject>> = match namespaces {
            [] => vec![Api::all_with(client.clone(), &kind)],
            namespaces => namespaces.iter().map(|ns| Api::namespaced_with(client.clone(), ns, &kind)).collect(),
        };
        for api in apis {
            match api.list_metadata(&ours).await {
                Ok(list) => found.extend(
                    list.items.iter().map(|o| (kind.kind.clone(), o.namespace().unwrap_or_default(), o.name_any())),
                ),
                Err(error) => tracing::debug!("listing {}: {error}", kind.plural),
            }
        }
    }
    found
}

/// Brings them to what the spec asks for. The first error is about the NetworkPolicy; what is wrong with monitoring is told as
/// a condition and holds nothing else up.
pub(super) async fn apply(
    client: &Client,
    owner: &ReplicatedRedis,
    operator_namespace: &str,
    found: &Found,
    applied: &mut Applied,
) -> (Result<(), ApplyError>, Monitored) {
    let mut worker = Worker { client, owner, found, applied };
    let [policy_kind, monitor_kinds @ ..] = kinds();
    let policy = resources::network_policy(owner, operator_namespace);
    let policy = policy.map(|policy| serde_json::to_value(policy).expect("an object of the API is JSON"));
    let policy = worker.one(&policy_kind, policy).await.map_err(|error| ApplyError::Api {
        kind: policy_kind.kind.clone(),
        name: owner.name_any(),
        error: Box::new(error),
    });
    let mut monitors = resources::monitors(owner);
    let mut made = Vec::new();
    let mut problem: Option<Unmonitored> = None;
    for kind in monitor_kinds {
        let at = monitors.iter().position(|(own, _)| *own == kind);
        let wanted = at.map(|at| monitors.swap_remove(at).1);
        let is_wanted = wanted.is_some();
        let wanted = wanted.map(|object| serde_json::to_value(object).expect("an object of the API is JSON"));
        match worker.one(&kind, wanted).await {
            Ok(()) if is_wanted => made.push(kind.kind),
            Ok(()) => {}
            Err(error) => problem = problem.or(Some(explained(&kind, &error))),
        }
    }
    let monitored = owner.spec.monitoring.is_on().then(|| match problem {
        None => Ok(format!("{} {} made", made.join(" and "), if made.len() == 1 { "is" } else { "are" })),
        Some(problem) => Err(problem),
    });
    (policy, monitored)
}

fn explained(kind: &ApiResource, error: &kube::Error) -> Unmonitored {
    match error {
        kube::Error::Api(status) if status.code == 404 => (
            "NotInstalled",
            format!("{} is no kind of this cluster: the CRDs of the Prometheus operator are not installed", kind.kind),
        ),
        kube::Error::Api(status) if status.code == 403 => {
            ("Forbidden", format!("this operator has no rights for {}: {}", kind.plural, status.message))
        }
        error => ("Failed", format!("{}: {error}", kind.kind)),
    }
}

struct Worker<'a> {
    client: &'a Client,
    owner: &'a ReplicatedRedis,
    found: &'a Found,
    applied: &'a mut Applied,
}

impl Worker<'_> {
    async fn one(&mut self, kind: &ApiResource, wanted: Option<Value>) -> kube::Result<()> {
        let (namespace, name) = (self.owner.namespace().unwrap_or_default(), self.owner.name_any());
        let wanted_hash = wanted.as_ref().map(hash);
        let there = self.found.contains(&(kind.kind.clone(), namespace.clone(), name.clone()));
        match self.applied.get(&kind.kind) {
            Some(applied) if *applied == wanted_hash => return Ok(()),
            None if wanted.is_none() && !there => return Ok(()),
            Some(_) | None => {}
        }
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, kind);
        match &wanted {
            Some(wanted) => {
                let params = PatchParams::apply(MANAGER).force();
                Act::ApplyExtra.around(api.patch(&name, &params, &Patch::Apply(wanted))).await.map(drop)?;
            }
            None => match Act::DeleteExtra.around(api.delete(&name, &DeleteParams::default())).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                deleted => deleted.map(drop)?,
            },
        }
        self.applied.insert(kind.kind.clone(), wanted_hash);
        Ok(())
    }
}
