//! How far the data is that comes from an external master. Pure.

use crate::api::{BootstrapPhase, BootstrapStatus};
use crate::observe::{Observed, Role};
use crate::plan::Plan;
use crate::record::Target;

/// What is said of it; `None` where the datastore begins empty.
pub fn bootstrap(before: Option<&BootstrapStatus>, o: &Observed, plan: &Plan) -> Option<BootstrapStatus> {
    let source = o.external.as_ref()?;
    let record = o.record.as_ref();
    let at = format!("{}:{}", source.host, source.port);
    let before = before.cloned().unwrap_or_default();
    if record.is_some_and(|r| r.initialized) {
        let message = format!("the datastore has had a master of its own; {at} is not followed any more");
        let phase = BootstrapPhase::Completed;
        return Some(BootstrapStatus { phase, source: at, link: None, lag_bytes: None, message, ..before });
    }
    let instance = record.and_then(|r| r.master.as_ref()).map(|m| m.name.clone());
    let status = instance.as_ref().and_then(|name| o.answering(name));
    let follows = |s: &&crate::observe::Status| {
        s.role == Role::Replica && (&s.master_host, s.master_port) == (&source.host, source.port)
    };
    let status = status.filter(follows);
    let (link, reached) = match status {
        Some(s) if s.link_up => ("up", BootstrapPhase::Following),
        Some(s) if s.syncing => ("syncing", BootstrapPhase::Syncing),
        Some(_) | None => ("down", BootstrapPhase::Connecting),
    };
    let is_end = record.is_some_and(|r| matches!(r.target, Some(Target::Named { .. })));
    let offset = status.map_or(before.offset, |s| s.offset);
    Some(BootstrapStatus {
        phase: if is_end { BootstrapPhase::Promoting } else { reached },
        source: at,
        instance,
        link: Some(link.into()),
        offset,
        lag_bytes: source.offset.map(|end| end.saturating_sub(offset)),
        message: plan.summary.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{External, Instance, Status};
    use crate::record::{Holder, Record};

    fn observed(status: Status) -> Observed {
        let master = Some(Holder { name: "x-master-0".into(), incarnation: "i".into() });
        let external = External { host: "old".into(), port: 6379, offset: Some(100), ..External::default() };
        let role = Role::Replica;
        let status = Status { role, master_host: "old".into(), master_port: 6379, offset: 90, ..status };
        let instance = Instance { running: true, status: Some(status), ..Instance::default() };
        Observed {
            record: Some(Record { epoch: 1, master, ..Record::default() }),
            instances: [("x-master-0".to_string(), instance)].into(),
            external: Some(external),
            ..Observed::default()
        }
    }

    #[test]
    fn progress_is_told_by_the_link_of_the_one_that_follows() {
        let said = |status: Status| bootstrap(None, &observed(status), &Plan::default()).unwrap();
        assert_eq!(said(Status::default()).phase, BootstrapPhase::Connecting);
        assert_eq!(said(Status { syncing: true, ..Status::default() }).phase, BootstrapPhase::Syncing);
        let up = said(Status { link_up: true, ..Status::default() });
        assert_eq!((up.phase, up.offset, up.lag_bytes), (BootstrapPhase::Following, 90, Some(10)));
        assert_eq!((up.source.as_str(), up.instance.as_deref()), ("old:6379", Some("x-master-0")));
    }

    #[test]
    fn what_is_over_stays_as_it_was() {
        let mut o = observed(Status { link_up: true, ..Status::default() });
        let before = bootstrap(None, &o, &Plan::default()).unwrap();
        o.record.as_mut().unwrap().target = Some(Target::Named { to: "x-master-0".into() });
        assert_eq!(bootstrap(Some(&before), &o, &Plan::default()).unwrap().phase, BootstrapPhase::Promoting);
        o.record.as_mut().unwrap().initialized = true;
        let done = bootstrap(Some(&before), &o, &Plan::default()).unwrap();
        assert_eq!((done.phase, done.offset, done.lag_bytes), (BootstrapPhase::Completed, 90, None));
        assert_eq!(bootstrap(Some(&done), &Observed::default(), &Plan::default()), None);
    }
}
