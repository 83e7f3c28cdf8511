//! The claims of a datastore against the size that the spec wants. Pure.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use crate::api::{Keep, ReplicatedRedis, StorageType};
use crate::resources::bytes;

/// Claims that are to be asked to grow: those that are bound and ask for less. (One that is not bound cannot be changed.)
pub fn to_grow<'c>(owner: &ReplicatedRedis, claims: &'c [PersistentVolumeClaim]) -> Vec<&'c PersistentVolumeClaim> {
    let Some(wanted) = wanted(owner) else { return Vec::new() };
    claims.iter().filter(|claim| is_bound(claim) && requested(claim).is_some_and(|size| size < wanted)).collect()
}

/// A claim that is not bound after this has no scheduler that is about to write to it, s.
const UNBOUND_S: i64 = 60;

/// Claims that go with their ReplicatedRedis, or no longer do, with the owners that they are to have.
///
/// `persistentVolumeClaimRetentionPolicy.whenDeleted` would have the StatefulSet controller write an owner into each new claim
/// just when the scheduler writes the chosen node into it: one of them is refused, and the pod is scheduled once more, perhaps
/// beside another. Here the owner is written when the claim is bound.
pub fn to_own<'c>(
    owner: &ReplicatedRedis,
    claims: &'c [PersistentVolumeClaim],
    now_s: i64,
) -> Vec<(&'c PersistentVolumeClaim, Vec<OwnerReference>)> {
    let Some(own) = owner.owner_ref(&()) else { return Vec::new() };
    let goes = owner.spec.storage.retention.when_deleted == Keep::Delete;
    let is_quiet = |claim: &&PersistentVolumeClaim| {
        let made_s = claim.creation_timestamp().map_or(now_s, |at| at.0.as_second());
        is_bound(claim) || now_s - made_s > UNBOUND_S
    };
    let wanted = |claim: &'c PersistentVolumeClaim| {
        let mut owners: Vec<OwnerReference> = claim.owner_references().to_vec();
        let has = owners.iter().any(|reference| reference.uid == own.uid);
        owners.retain(|reference| reference.uid != own.uid);
        owners.extend(goes.then(|| own.clone()));
        (has != goes).then_some((claim, owners))
    };
    claims.iter().filter(is_quiet).filter_map(wanted).collect()
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

fn wanted(owner: &ReplicatedRedis) -> Option<u64> {
    let storage = &owner.spec.storage;
    (storage.kind == StorageType::PersistentVolumeClaim).then(|| bytes(&storage.size)).flatten()
}

fn requested(claim: &PersistentVolumeClaim) -> Option<u64> {
    bytes(&claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?.0)
}

fn capacity(claim: &PersistentVolumeClaim) -> Option<u64> {
    bytes(&claim.status.as_ref()?.capacity.as_ref()?.get("storage")?.0)
}

/// Where the growth has got to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Growth {
    /// `None`: there are no claims, by the spec.
    pub size: Option<String>,
    /// Claims of instances that are smaller than wanted, and what their cluster says about it.
    pub growing: Vec<(String, Option<String>)>,
    /// Why claims cannot be asked for more, in the words of the API server.
    pub refused: Option<String>,
}

impl Growth {
    /// `instances`: those that are wanted. A claim that no pod uses cannot finish its growth, and nobody waits for it.
    pub fn of(
        owner: &ReplicatedRedis,
        instances: &[String],
        claims: &[PersistentVolumeClaim],
        refused: Option<String>,
    ) -> Growth {
        let Some(wanted) = wanted(owner) else { return Growth::default() };
        let is_used = |claim: &&PersistentVolumeClaim| {
            claim.name_any().strip_prefix("data-").is_some_and(|name| instances.iter().any(|own| own == name))
        };
        let is_small = |claim: &&PersistentVolumeClaim| capacity(claim).is_some_and(|size| size < wanted);
        let growing = claims.iter().filter(is_used).filter(is_small);
        let mut growing: Vec<_> = growing.map(|claim| (claim.name_any(), told(claim))).collect();
        growing.sort();
        Growth { size: Some(owner.spec.storage.size.clone()), growing, refused }
    }

    /// The condition StorageResizing: whether it holds, its reason and a sentence.
    pub fn said(&self) -> (bool, &'static str, String) {
        let Some(size) = &self.size else {
            return (false, "NoClaims", "spec.storage.type is EmptyDir".into());
        };
        if let Some(why) = &self.refused {
            return (false, "ExpansionRefused", format!("claims cannot grow to {size}: {why}"));
        }
        if self.growing.is_empty() {
            return (false, "AsWanted", format!("every claim has {size}"));
        }
        let one = |(name, told): &(String, Option<String>)| match told {
            Some(told) => format!("{name} ({told})"),
            None => name.clone(),
        };
        let names: Vec<String> = self.growing.iter().map(one).collect();
        (true, "Expanding", format!("to {size}: {}", names.join(", ")))
    }
}

/// What the cluster says of a claim's growth.
fn told(claim: &PersistentVolumeClaim) -> Option<String> {
    let conditions = claim.status.as_ref()?.conditions.as_ref()?;
    let last = conditions.iter().rfind(|condition| condition.status == "True")?;
    let words = last.message.clone().filter(|message| !message.is_empty());
    Some(words.map_or_else(|| last.type_.clone(), |message| format!("{}: {message}", last.type_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::tests::datastore;

    fn claim(name: &str, phase: &str, requested: &str, capacity: &str) -> PersistentVolumeClaim {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name},
            "spec": {"resources": {"requests": {"storage": requested}}},
            "status": {"phase": phase, "capacity": {"storage": capacity}},
        }))
        .unwrap()
    }

    fn names(claims: &[&PersistentVolumeClaim]) -> Vec<String> {
        claims.iter().map(|claim| claim.name_any()).collect()
    }

    #[test]
    fn bound_claims_that_ask_for_less_are_to_grow() {
        let owner = datastore(|spec| spec.storage.size = "2Gi".into());
        let claims = [
            claim("data-x-master-0", "Bound", "1Gi", "1Gi"),
            claim("data-x-replica-0", "Bound", "2048Mi", "1Gi"),
            claim("data-x-replica-1", "Pending", "1Gi", "0"),
            claim("data-x-replica-2", "Bound", "5Gi", "5Gi"),
        ];
        assert_eq!(names(&to_grow(&owner, &claims)), ["data-x-master-0"]);
        let empty = datastore(|spec| spec.storage.kind = StorageType::EmptyDir);
        assert!(to_grow(&empty, &claims).is_empty());
    }

    #[test]
    fn claims_go_with_their_owner_if_that_is_wanted_and_never_while_they_are_being_bound() {
        let goes = datastore(|spec| spec.storage.retention.when_deleted = Keep::Delete);
        let stays = datastore(|_| {});
        let mut bound = claim("data-x-master-0", "Bound", "1Gi", "1Gi");
        let pending = claim("data-x-replica-0", "Pending", "1Gi", "0");
        let claims = [bound.clone(), pending];
        let owners = to_own(&goes, &claims, 0);
        assert_eq!((owners.len(), owners[0].0.name_any()), (1, "data-x-master-0".into()));
        let owner = &owners[0].1[0];
        assert_eq!((owner.kind.as_str(), owner.controller), ("ReplicatedRedis", None));
        assert!(to_own(&stays, &claims, 0).is_empty());
        bound.metadata.owner_references = Some(owners[0].1.clone());
        let claims = [bound];
        assert!(to_own(&goes, &claims, 0).is_empty());
        assert!(to_own(&stays, &claims, 0)[0].1.is_empty());
    }

    #[test]
    fn the_condition_tells_how_far_it_is_and_why_it_cannot_go_on() {
        let owner = datastore(|spec| spec.storage.size = "2Gi".into());
        let instances = ["x-master-0".to_string()];
        let said = |claims: &[PersistentVolumeClaim], refused: Option<&str>| {
            Growth::of(&owner, &instances, claims, refused.map(String::from)).said()
        };
        let mut small = claim("data-x-master-0", "Bound", "2Gi", "1Gi");
        let unused = claim("data-x-replica-7", "Bound", "2Gi", "1Gi");
        let (holds, reason, message) = said(&[small.clone(), unused.clone()], None);
        assert_eq!((holds, reason, message.as_str()), (true, "Expanding", "to 2Gi: data-x-master-0"));
        let pending = serde_json::json!([{"type": "FileSystemResizePending", "status": "True", "message": "waiting"}]);
        small.status.as_mut().unwrap().conditions = serde_json::from_value(pending).unwrap();
        assert_eq!(said(&[small.clone()], None).2, "to 2Gi: data-x-master-0 (FileSystemResizePending: waiting)");
        let refused = said(&[small], Some("the class does not allow it"));
        assert_eq!((refused.0, refused.1), (false, "ExpansionRefused"));
        assert!(refused.2.contains("the class does not allow it"));
        assert_eq!(said(&[claim("data-x-master-0", "Bound", "2Gi", "2Gi"), unused], None).1, "AsWanted");
    }
}
