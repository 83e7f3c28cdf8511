//! Counts the calls of the API server, as a layer around the client: verb, kind and the code of the answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::http::{Method, Request, Response, Uri};
use tower::{Layer, Service};

use crate::metrics::Metrics;

/// Makes a client count.
#[derive(Debug, Clone)]
pub(super) struct CountCalls(pub(super) Metrics);

impl<S> Layer<S> for CountCalls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, metrics: self.0.clone() }
    }
}

/// A client that counts.
#[derive(Debug, Clone)]
pub(super) struct Counted<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let (verb, kind) = name(request.method(), request.uri());
        let (metrics, begun) = (self.metrics.clone(), Instant::now());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            metrics.api_requests.with_label_values(&[verb, &kind, &code.to_string()]).inc();
            metrics.api_request_duration.with_label_values(&[verb]).observe(begun.elapsed().as_secs_f64());
            answer
        })
    }
}

/// Kubernetes's verb, and the kind in its plural with the subresource: `/apis/GROUP/VERSION/namespaces/NS/KIND/NAME/SUB`.
fn name(method: &Method, uri: &Uri) -> (&'static str, String) {
    let parts: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let rest = match parts.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => &[],
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        rest => rest,
    };
    let watches =
        uri.query().is_some_and(|query| query.split('&').any(|part| part == "watch=true" || part == "watch=1"));
    let verb = match method.as_str() {
        _ if watches => "watch",
        "GET" if rest.len() == 1 => "list",
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "other",
    };
    let kind = match rest {
        [kind] | [kind, _] => (*kind).to_string(),
        [kind, _, sub, ..] => format!("{kind}/{sub}"),
        [] => "other".to_string(),
    };
    (verb, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_named_by_verb_and_kind() {
        for (method, uri, verb, kind) in [
            (Method::GET, "/api/v1/namespaces/ns/pods?&labelSelector=a", "list", "pods"),
            (Method::GET, "/api/v1/pods?&watch=true&resourceVersion=7", "watch", "pods"),
            (Method::GET, "/api/v1/namespaces/ns/secrets/x", "get", "secrets"),
            (Method::GET, "/api/v1/namespaces/ns", "get", "namespaces"),
            (Method::PATCH, "/apis/apps/v1/namespaces/ns/statefulsets/x?fieldManager=m", "patch", "statefulsets"),
            (
                Method::PUT,
                "/apis/replicated-redis.io/v1alpha1/namespaces/ns/replicatedredises/x/status",
                "update",
                "replicatedredises/status",
            ),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/ns/events", "create", "events"),
            (Method::GET, "/version", "get", "other"),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(name(&method, &uri), (verb, kind.to_string()), "{method} {uri}");
        }
    }
}
