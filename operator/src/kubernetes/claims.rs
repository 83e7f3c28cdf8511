//! Asks claims to grow, and ties them to their owner where they are to go with it, beside the loop. That a claim cannot grow is told and is no reason to leave other objects as they are.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};

use super::caches::{Caches, Key};
use crate::api::ReplicatedRedis;
use crate::fault::Act;
use crate::storage::{to_grow, to_own};

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Claims that were asked now.
    pub(super) asked: Vec<String>,
    pub(super) refused: Option<String>,
}

/// The claims of a datastore.
pub(super) fn claims(caches: &Caches, key: &Key) -> Vec<PersistentVolumeClaim> {
    caches.claims.of(key).iter().map(|claim| PersistentVolumeClaim::clone(claim)).collect()
}

/// Asks every claim that is smaller than the spec wants; sees to it that claims go with the datastore or stay.
pub(super) async fn keep(client: &Client, caches: &Caches, owner: &ReplicatedRedis) -> Asked {
    let key = (owner.namespace().unwrap_or_default(), owner.name_any());
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &key.0);
    let (mut outcome, params) = (Asked::default(), PatchParams::default());
    for claim in to_grow(owner, &claims(caches, &key)) {
        let name = claim.name_any();
        let size = serde_json::json!({"spec": {"resources": {"requests": {"storage": owner.spec.storage.size}}}});
        match Act::GrowClaim.around(api.patch(&name, &params, &Patch::Merge(size))).await {
            Ok(_) => outcome.asked.push(name),
            Err(kube::Error::Api(status)) => outcome.refused = Some(status.message.clone()),
            Err(error) => outcome.refused = Some(error.to_string()),
        }
    }
    for (claim, owners) in to_own(owner, &claims(caches, &key), Timestamp::now().as_second()) {
        // With a precondition: owners of others are among them.
        let metadata = serde_json::json!({"resourceVersion": claim.resource_version(), "ownerReferences": owners});
        let patch = Patch::Merge(serde_json::json!({"metadata": metadata}));
        let name = claim.name_any();
        if let Err(error) = Act::OwnClaim.around(api.patch(&name, &params, &patch)).await {
            tracing::warn!("the owner of the claim {name}: {error}");
        }
    }
    outcome
}
