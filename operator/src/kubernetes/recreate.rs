//! Fields of a StatefulSet that cannot be changed are changed by making it anew around its running pods: they are orphaned
//! and adopted again by their labels, and because updates are `OnDelete` none of them restarts.
//!
//! That is safe as long as the new one selects the same pods, under the same names, with the same claims. What would leave
//! a pod or its data behind is refused by the name of its field.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{DeleteParams, Preconditions, PropagationPolicy};
use kube::{Api, ResourceExt};
use tokio::time::{Instant, sleep};

use crate::fault::Act;

/// The garbage collector lets go of the pods within moments; if it does not, everything is tried again later.
const GONE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Why `live` cannot be made anew as `desired`: the field that would leave pods or data behind.
pub(super) fn refusal(live: &StatefulSet, desired: &StatefulSet) -> Option<&'static str> {
    let (live, desired) = (live.spec.as_ref()?, desired.spec.as_ref()?);
    if live.selector != desired.selector {
        return Some("spec.selector");
    }
    if live.service_name != desired.service_name {
        return Some("spec.serviceName");
    }
    let names = |spec: &StatefulSetSpec| claims(spec).iter().map(ResourceExt::name_any).collect::<Vec<_>>();
    if names(live) != names(desired) {
        return Some("spec.volumeClaimTemplates");
    }
    let class = |claim: &PersistentVolumeClaim| claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone());
    let classes = |spec: &StatefulSetSpec| claims(spec).iter().map(class).collect::<Vec<_>>();
    (classes(live) != classes(desired)).then_some("spec.volumeClaimTemplates.spec.storageClassName")
}

fn claims(spec: &StatefulSetSpec) -> &[PersistentVolumeClaim] {
    spec.volume_claim_templates.as_deref().unwrap_or_default()
}

/// Deletes `live`, the very one that was looked at, without its pods, and waits until it is gone.
pub(super) async fn orphan(api: &Api<StatefulSet>, live: &StatefulSet) -> kube::Result<()> {
    let name = live.name_any();
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        preconditions: Some(Preconditions { uid: live.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    match Act::OrphanPods.around(api.delete(&name, &params)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        deleted => deleted?,
    };
    let begun = Instant::now();
    while begun.elapsed() < GONE_WITHIN {
        match api.get_opt(&name).await? {
            Some(seen) if seen.uid() == live.uid() => sleep(LOOK_PAUSE).await,
            Some(_) | None => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::StorageType;
    use crate::resources::tests::datastore;
    use crate::resources::{Pool, stateful_set};

    #[test]
    fn a_claim_may_grow_and_nothing_may_be_left_behind() {
        let made = |change: &dyn Fn(&mut StatefulSetSpec)| {
            let mut set = stateful_set(&datastore(|_| {}), Pool::Replica, 2, "server:1");
            change(set.spec.as_mut().unwrap());
            set
        };
        let live = made(&|_| {});
        let grown = datastore(|spec| spec.storage.size = "2Gi".into());
        assert_eq!(refusal(&live, &stateful_set(&grown, Pool::Replica, 2, "server:1")), None);
        assert_eq!(refusal(&live, &made(&|spec| spec.pod_management_policy = None)), None);

        let other_pool = stateful_set(&datastore(|_| {}), Pool::Master, 1, "server:1");
        assert_eq!(refusal(&live, &other_pool), Some("spec.selector"));
        assert_eq!(refusal(&live, &made(&|spec| spec.service_name = None)), Some("spec.serviceName"));
        let empty_dir = datastore(|spec| spec.storage.kind = StorageType::EmptyDir);
        let empty_dir = stateful_set(&empty_dir, Pool::Replica, 2, "server:1");
        assert_eq!(refusal(&live, &empty_dir), Some("spec.volumeClaimTemplates"));
        let fast = datastore(|spec| spec.storage.storage_class_name = Some("fast".into()));
        let fast = stateful_set(&fast, Pool::Replica, 2, "server:1");
        assert_eq!(refusal(&live, &fast), Some("spec.volumeClaimTemplates.spec.storageClassName"));
    }
}
