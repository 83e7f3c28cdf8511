//! Instances that a person has taken out of service.

use std::collections::BTreeSet;

use kube::ResourceExt;
use kube::runtime::events::EventType;

use super::Session;
use crate::api::ReplicatedRedis;

/// Annotation with the instances that are to serve nothing, as a JSON list of names; `"*"` stands for all. Their pods stay.
pub const FENCED: &str = "replicated-redis.io/fenced-instances";

/// The part of a datastore's problems that is told here: see [`super::Problems`].
const THEME: &str = "fence";

/// What the annotation says.
///
/// # Errors
/// A sentence, when it is not a list of names.
pub fn fenced_instances(object: &ReplicatedRedis) -> Result<Vec<String>, String> {
    let Some(text) = object.annotations().get(FENCED).filter(|text| !text.trim().is_empty()) else {
        return Ok(Vec::new());
    };
    serde_json::from_str(text)
        .map_err(|_| format!(r#"the annotation {FENCED} is no list of names, as ["NAME-replica-0"] or ["*"] is"#))
}

impl Session {
    /// Wanted instances that are to serve nothing; tells of every change. What cannot be read changes nothing.
    pub(super) async fn hear_fence(&mut self) {
        let listed = match fenced_instances(&self.object) {
            Ok(listed) => listed,
            Err(why) => return self.problems.set(THEME, "InvalidAnnotation", why),
        };
        self.problems.clear(THEME);
        let is_listed = |name: &String| listed.iter().any(|l| l == "*" || l == name);
        let fenced: BTreeSet<String> = self.wanted().into_iter().filter(is_listed).collect();
        let before = std::mem::replace(&mut self.fenced, fenced.clone());
        for name in fenced.difference(&before) {
            self.event(EventType::Warning, "InstanceFenced", &format!("{name} is to serve nothing")).await;
        }
        for name in before.difference(&fenced) {
            self.event(EventType::Normal, "InstanceUnfenced", &format!("{name} may serve again")).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_is_a_list_of_names() {
        let read = |text: Option<&str>| {
            let mut object = ReplicatedRedis::new("x", Default::default());
            object.annotations_mut().extend(text.map(|text| (FENCED.to_string(), text.to_string())));
            fenced_instances(&object)
        };
        assert_eq!(read(None), Ok(vec![]));
        assert_eq!(read(Some("")), Ok(vec![]));
        assert_eq!(read(Some(r#"["x-replica-0", "*"]"#)), Ok(vec!["x-replica-0".into(), "*".into()]));
        assert!(read(Some("x-replica-0")).unwrap_err().contains("no list of names"));
    }
}
