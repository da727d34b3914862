//! Which path answers what, and to whom.
//!
//! The dashboard shows what a server does, so pages of others must not read it. A browser keeps them from it unless the
//! dashboard allows it, which it never does, or a name of theirs leads to its address: so it answers to names of the
//! loopback interface alone, and to addresses where it was told to listen on others. Pages run no script but those of
//! the dashboard. Flame graphs have scripts of their own, and run in a sandbox.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::Value;

use super::{
    assets,
    hub::Hub,
    records::{self, Folders},
    stream::Stream,
};

/// What the pages may load, and from where: from here alone, and nothing inline.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// A flame graph's own script may run, without any rights here and without a connection to anywhere.
const PICTURE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; sandbox allow-scripts; \
     frame-ancestors 'self'",
);

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What is shown.
#[derive(Debug)]
pub(super) struct Dashboard {
    pub(super) hub: Arc<Hub>,
    pub(super) folders: Folders,
    /// It listens on the loopback interface alone.
    pub(super) loopback: bool,
}

type Shared = State<Arc<Dashboard>>;

/// All paths.
pub(super) fn router(dashboard: Dashboard) -> Router {
    let dashboard = Arc::new(dashboard);
    Router::new()
        .route("/", get(async || file(assets::INDEX)))
        .route("/assets/{*name}", get(asset))
        .route("/api/live", get(live))
        .route("/api/benches", get(async |state: Shared| json(state, records::benches).await))
        .route("/api/loads", get(async |state: Shared| json(state, records::loads).await))
        .route("/api/flamegraphs", get(async |state: Shared| json(state, records::pictures).await))
        .route("/flamegraphs/{name}", get(picture))
        .fallback(async || refused(StatusCode::NOT_FOUND, "there is no such page\n"))
        .layer(middleware::from_fn_with_state(Arc::clone(&dashboard), guard))
        .with_state(dashboard)
}

/// Answers who may ask, for what may be done.
async fn guard(State(dashboard): Shared, request: Request, next: Next) -> Response {
    let mut response = if !is_known(request.headers(), dashboard.loopback) {
        refused(
            StatusCode::FORBIDDEN,
            "the dashboard answers to localhost and to addresses, not to other names\n",
        )
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = refused(StatusCode::METHOD_NOT_ALLOWED, "the dashboard only shows\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        response
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(PAGE_POLICY);
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// Whether the host that `headers` name can only be this one: `localhost` or an address, which no one else can have a
/// name server point elsewhere.
fn is_known(headers: &HeaderMap, loopback: bool) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback() || !loopback)
}

fn refused(status: StatusCode, why: &'static str) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], why).into_response()
}

fn file(asset: assets::Asset) -> Response {
    ([(CONTENT_TYPE, asset.kind)], asset.bytes).into_response()
}

async fn asset(Path(name): Path<String>) -> Response {
    assets::find(&name).map_or_else(|| refused(StatusCode::NOT_FOUND, "there is no such file\n"), file)
}

async fn live(State(dashboard): Shared) -> Response {
    let body = Body::new(Stream(dashboard.hub.subscribe()));
    ([(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")], body).into_response()
}

/// What `read` finds in the folders.
async fn json(State(dashboard): Shared, read: fn(&Folders) -> Value) -> Response {
    let found = tokio::task::spawn_blocking(move || read(&dashboard.folders).to_string()).await;
    match found {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR, "the files cannot be read\n"),
    }
}

async fn picture(State(dashboard): Shared, Path(name): Path<String>) -> Response {
    let found = tokio::task::spawn_blocking(move || records::picture(&dashboard.folders, &name)).await;
    let Ok(Some(bytes)) = found else {
        return refused(StatusCode::NOT_FOUND, "there is no such flame graph\n");
    };
    let mut response = ([(CONTENT_TYPE, "image/svg+xml")], bytes).into_response();
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, PICTURE_POLICY);
    response
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, header::HOST};

    use super::is_known;

    fn known(hosts: &[&'static str], loopback: bool) -> bool {
        let hosts = hosts.iter().map(|host| (HOST, HeaderValue::from_static(host)));
        is_known(&hosts.collect::<HeaderMap>(), loopback)
    }

    #[test]
    fn names_that_others_can_point_here_are_refused() {
        for host in
            ["localhost", "LOCALHOST:9146", "127.0.0.1", "127.0.0.1:80", "[::1]:9146", "[::1]", "127.3.2.1"]
        {
            assert!(known(&[host], true) && known(&[host], false), "{host}");
        }
        for host in [
            "",
            ":",
            "evil.example",
            "evil.example:9146",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:x",
            "127.0.0.1@evil.example",
            "[::1",
            "2130706433",
        ] {
            assert!(!known(&[host], true) && !known(&[host], false), "{host}");
        }
        assert!(!known(&["192.0.2.1:9146"], true) && known(&["192.0.2.1:9146"], false));
        assert!(!known(&[], false) && !known(&["localhost", "localhost"], false));
    }
}
