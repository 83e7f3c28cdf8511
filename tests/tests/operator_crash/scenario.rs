//! What is done to a datastore while its operator is about to die, and how it is to end.

use operator::fault::Act;
use serde_json::{Value, json};

use super::tenant::{SHOP, Tenant};

macro_rules! scenarios {
    ($($scenario:ident,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Scenario { $($scenario),* }

        impl Scenario {
            /// Every one.
            pub(crate) const ALL: &[Scenario] = &[$(Scenario::$scenario),*];
        }
    };
}

scenarios! {
    FirstStart,
    Failover,
    Switchover,
    ScaleUp,
    ScaleDown,
    Rollout,
    PasswordRotation,
    LiveConfig,
    ClaimsGrow,
    ClaimsAreOwned,
    Fence,
    ExternalMaster,
    Promotion,
    NetworkPolicy,
    NoNetworkPolicy,
    Lead,
    OrderlyEnd,
}

use Scenario::*;

/// How often in a row an act is tried that is done several times in one scenario. What is repeated all the time is enough once.
pub(crate) fn passes(act: Act) -> usize {
    match act {
        Act::WriteRecord | Act::Evict | Act::Apply => 2,
        _ => 1,
    }
}

impl Scenario {
    /// Whether the operator is to die at this act here, if it comes to it. The acts of the small scenarios that are acts of others
    /// too are tried there.
    pub(crate) fn is_about(self, act: Act) -> bool {
        let own: &[Act] = match self {
            Failover | ScaleUp | ScaleDown | Rollout => return act != Act::WriteLead,
            FirstStart => &[Act::CreatePassword, Act::WriteRecord, Act::Promise, Act::Promote, Act::Follow, Act::Apply],
            Switchover => &[Act::WriteRecord, Act::Handover, Act::Promise, Act::Promote, Act::TakeOffWish],
            PasswordRotation => &[Act::TellPassword, Act::Apply],
            LiveConfig => &[Act::TellDirectives, Act::Apply],
            ClaimsGrow => &[Act::GrowClaim, Act::OrphanPods, Act::Apply],
            ClaimsAreOwned => &[Act::OwnClaim],
            Fence => &[Act::Await],
            ExternalMaster => &[Act::FollowExternal, Act::WriteRecord],
            Promotion => &[Act::TakeOffWish, Act::WriteRecord, Act::Promote],
            NetworkPolicy => &[Act::ApplyExtra],
            NoNetworkPolicy => &[Act::DeleteExtra],
            Lead => &[Act::WriteLead],
            OrderlyEnd => &[Act::GiveUpLead],
        };
        own.contains(&act)
    }

    /// The replicas that the datastore has to have before.
    pub(crate) fn replicas_before(self) -> Option<u64> {
        match self {
            ScaleUp => Some(1),
            // With one replica that is fenced no write would find its quorum.
            ScaleDown | Fence => Some(2),
            _ => None,
        }
    }

    /// What is there before, besides the datastore that every tenant has.
    pub(crate) fn prepare(self, tenant: &mut Tenant<'_>) {
        match self {
            Promotion => {
                tenant.create_another(moved(tenant.source));
                tenant.until("the data of another to be there", is_following);
            }
            NetworkPolicy => {
                NoNetworkPolicy.begin(tenant);
                tenant.until("no policy", |tenant| !has_policy(tenant));
            }
            NoNetworkPolicy => {
                NetworkPolicy.begin(tenant);
                tenant.until("a policy", has_policy);
            }
            _ => {}
        }
    }

    pub(crate) fn begin(self, tenant: &mut Tenant<'_>) {
        match self {
            FirstStart => {
                let spec = json!({"replicas": 1, "durability": {"writeQuorum": 1}, "storage": {"type": "EmptyDir"}});
                tenant.create_another(spec);
            }
            Failover => tenant.kill_master(),
            Switchover => tenant.annotate(SHOP, "replicated-redis.io/switchover", Some("any")),
            ScaleUp => tenant.change("/replicas", json!(2)),
            ScaleDown => tenant.change("/replicas", json!(1)),
            Rollout => {
                tenant.count += 1;
                tenant.change("/image", json!(format!("server:{}", tenant.count)));
            }
            PasswordRotation => {
                tenant.count += 1;
                tenant.set_password(&format!("password-{}", tenant.count));
            }
            LiveConfig => {
                let hz = if tenant.spec["config"]["hz"] == "20" { "30" } else { "20" };
                tenant.change("/config/hz", json!(hz));
            }
            ClaimsGrow => {
                tenant.size += 1;
                tenant.change("/storage/size", json!(format!("{}Gi", tenant.size)));
            }
            ClaimsAreOwned => {
                let now =
                    if tenant.spec["storage"]["retention"]["whenDeleted"] == "Delete" { "Retain" } else { "Delete" };
                tenant.change("/storage/retention/whenDeleted", json!(now));
            }
            Fence => {
                let replica = tenant.a_replica();
                tenant.fenced = Some(replica.clone());
                let names = json!([replica]).to_string();
                tenant.annotate(SHOP, "replicated-redis.io/fenced-instances", Some(&names));
            }
            ExternalMaster => tenant.create_another(moved(tenant.source)),
            Promotion => tenant.annotate(&tenant.another, "replicated-redis.io/promote", Some("true")),
            NetworkPolicy => tenant.change("/networkPolicy/mode", json!("Managed")),
            NoNetworkPolicy => tenant.change("/networkPolicy/mode", json!("Disabled")),
            Lead => tenant.renewal = tenant.lease(),
            OrderlyEnd => tenant.end_operator(),
        }
    }

    /// Whether what was wanted has come true, besides that all is well.
    pub(crate) fn has_come_true(self, tenant: &Tenant<'_>) -> bool {
        match self {
            FirstStart => tenant.is_well(&tenant.another, 1),
            Failover => tenant.epoch() > tenant.epoch_before,
            Switchover => {
                tenant.epoch() > tenant.epoch_before
                    && tenant.annotation(SHOP, "replicated-redis.io/switchover").is_none()
            }
            // By the members and the pods: see `is_well`.
            ScaleUp | ScaleDown => true,
            Rollout => {
                let image = &tenant.spec["image"];
                tenant.pods(SHOP).iter().all(|pod| pod["spec"]["containers"][0]["image"] == *image)
                    && tenant.status(SHOP)["update"]["state"] == "Idle"
            }
            PasswordRotation => {
                tenant.condition(SHOP, "CredentialsApplied") == "True" && tenant.everywhere("PING", "PONG")
            }
            LiveConfig => {
                let hz = tenant.spec["config"]["hz"].as_str().unwrap().to_string();
                tenant.condition(SHOP, "ConfigApplied") == "True" && tenant.everywhere("CONFIG GET hz", &hz)
            }
            ClaimsGrow => {
                let size = &tenant.spec["storage"]["size"];
                let asks = |claim: &Value| claim["spec"]["resources"]["requests"]["storage"] == *size;
                let template = |set: &Value| asks(&set["spec"]["volumeClaimTemplates"][0]);
                tenant.claims().iter().all(asks)
                    && tenant.stateful_sets(SHOP).iter().filter(|set| template(set)).count() == 2
            }
            ClaimsAreOwned => {
                let owned = tenant.spec["storage"]["retention"]["whenDeleted"] == "Delete";
                let has_owner = |claim: &Value| !claim["metadata"]["ownerReferences"].is_null();
                tenant.claims().iter().all(|claim| has_owner(claim) == owned)
            }
            Fence => {
                let fenced = tenant.fenced.as_ref().unwrap();
                let instances = tenant.status(SHOP)["instances"].as_array().cloned().unwrap_or_default();
                let role = instances.iter().find(|i| i["name"] == **fenced).map(|i| i["role"].clone());
                tenant.is_held(SHOP) && role == Some(json!("awaiting")) && tenant.condition(SHOP, "Fenced") == "True"
            }
            ExternalMaster => is_following(tenant),
            Promotion => {
                tenant.is_well(&tenant.another, 1)
                    && tenant.annotation(&tenant.another, "replicated-redis.io/promote").is_none()
                    && tenant.ask(&tenant.another, "GET from").as_deref() == Some("source")
            }
            NetworkPolicy => has_policy(tenant),
            NoNetworkPolicy => !has_policy(tenant),
            Lead => tenant.lease() != tenant.renewal,
            OrderlyEnd => true,
        }
    }

    /// Makes things as they were, where that has to be.
    pub(crate) fn clean(self, tenant: &mut Tenant<'_>) {
        match self {
            FirstStart | ExternalMaster | Promotion => tenant.delete_another(),
            Fence => {
                tenant.fenced = None;
                tenant.annotate(SHOP, "replicated-redis.io/fenced-instances", None);
                tenant.until("the fenced one to be back", |tenant| tenant.is_well(SHOP, tenant.replicas()));
            }
            _ => {}
        }
    }
}

/// A datastore that begins with the data of a Redis at this port.
fn moved(port: u16) -> Value {
    json!({
        "replicas": 1, "durability": {"writeQuorum": 1}, "storage": {"type": "EmptyDir"},
        "bootstrap": {"externalMaster": {"host": "127.0.0.1", "port": port}},
    })
}

fn has_policy(tenant: &Tenant<'_>) -> bool {
    tenant.has_policy()
}

fn is_following(tenant: &Tenant<'_>) -> bool {
    let status = tenant.status(&tenant.another);
    tenant.is_held(&tenant.another)
        && (&status["bootstrap"]["phase"], &status["bootstrap"]["link"]) == (&json!("Following"), &json!("up"))
        && status["readyReplicas"] == 1
}
