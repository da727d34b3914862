//! How the other side of a call is reached, as far as its name says, and by looking up the rest.

use std::{borrow::Cow, net::SocketAddr, rc::Rc, time::Duration};

use weir_core::host::calls::{CallError, CallFailure};

use super::{
    Client, Maker,
    allow::Rules,
    fault::Fault,
    link::Deadline,
    peers::Peers,
    target::{self, Target},
};
use crate::ngx::{
    net::{
        address::Address,
        lookup::{Lookup, Resolver, Unresolved},
        shadow::Shadow,
    },
    request::Request,
};

/// How the other side is reached.
#[derive(Debug)]
pub(crate) enum Way {
    /// Through these peers.
    Peers(Peers),
    /// Through the addresses of a host.
    Host(Host),
}

/// A host that has to be looked up.
#[derive(Debug)]
pub(crate) struct Host {
    /// Who is asked, and for how long.
    pub(crate) resolver: (Resolver, Duration),
    /// Its name, in lower case.
    pub(crate) name: String,
    /// The port to call.
    pub(crate) port: u16,
}

impl Client {
    /// How `upstream` is reached by `maker`, as far as that can be said at once.
    pub(super) fn way(&self, maker: Maker<'_>, upstream: &[u8], is_tls: bool) -> Result<Way, CallError> {
        let shown = || String::from_utf8_lossy(upstream);
        let refused = || {
            let advice = "add it to \"proxy_wasm_allow_calls\" if it should";
            CallError::Refused(format!("this filter may not call \"{}\": {advice}", shown()).into())
        };
        if let Some(servers) = self.upstreams.get(upstream) {
            let name = if upstream.iter().any(u8::is_ascii_uppercase) {
                Cow::Owned(upstream.to_ascii_lowercase())
            } else {
                Cow::Borrowed(upstream)
            };
            if !maker.rules.allows_name(&name) {
                return Err(refused());
            }
            let shadow = Shadow::new(&self.shadows, *servers, maker.request);
            let shadow = shadow.map_err(|error| CallError::Overloaded(error.to_string().into()))?;
            return Ok(Way::Peers(Peers::Balanced(shadow)));
        }
        let unknown = || {
            let kinds = "it is neither an \"upstream\" block, nor \"unix:/PATH\", HOST[:PORT] or an address";
            CallError::Unknown(format!("nothing can be called by the name \"{}\": {kinds}", shown()).into())
        };
        let default = if is_tls { 443 } else { 80 };
        match Target::parse(upstream).ok_or_else(unknown)? {
            Target::Unix(address) => {
                let name = upstream.strip_suffix(b":").unwrap_or(upstream);
                if !maker.rules.allows_name(name) {
                    return Err(refused());
                }
                Ok(Way::Peers(Peers::listed(vec![address])))
            }
            Target::Ip(ip, port) => {
                if !maker.rules.allows_address(ip, maker.rules.allows_name(ip.to_string().as_bytes())) {
                    return Err(refused());
                }
                let address = SocketAddr::new(ip, port.unwrap_or(default));
                Ok(Way::Peers(Peers::listed(vec![address.into()])))
            }
            Target::Host(host, port) => {
                if !maker.rules.may_allow(host.as_bytes()) {
                    return Err(refused());
                }
                let resolver = self.resolver_for(maker, &host)?;
                Ok(Way::Host(Host { resolver, name: host, port: port.unwrap_or(default) }))
            }
        }
    }

    /// Who is asked for the addresses of `host`, and for how long: the resolver that the location of the request or its
    /// server has, as for what nginx itself looks up there, then that of the `wasm` block, then that of `http`.
    pub(super) fn resolver_for(
        &self,
        maker: Maker<'_>,
        host: &str,
    ) -> Result<(Resolver, Duration), CallError> {
        let own = maker.request.and_then(Request::resolver);
        let own = own.filter(|(resolver, _)| Some(*resolver) != self.http_resolver);
        own.or(self.resolver.map(|resolver| (resolver, self.settings.resolver_time))).ok_or_else(|| {
            let advice = "add a \"resolver\" to the location, the \"wasm\" or the \"http\" block, or an \"upstream\" block";
            CallError::Unknown(format!("\"{host}\" cannot be looked up: {advice}").into())
        })
    }

    /// The name that the other side has to prove, where the connection is encrypted.
    pub(super) fn name(
        &self,
        way: &Way,
        authority: &[u8],
        is_tls: bool,
    ) -> Result<Option<Rc<str>>, CallError> {
        if !is_tls {
            return Ok(None);
        }
        if self.settings.tls.is_none() {
            return Err(CallError::Unknown("this nginx is built without TLS".into()));
        }
        if let Way::Host(host) = way {
            return Ok(Some(host.name.trim_end_matches('.').into()));
        }
        let authority = str::from_utf8(authority)
            .map_err(|_| CallError::Unknown("\":authority\" names no host that can be verified".into()))?;
        Ok(Some(target::host_of(authority).to_ascii_lowercase().into()))
    }
}

/// Whether a guest's `:scheme` asks for TLS.
pub(super) fn is_https(scheme: Option<&[u8]>) -> Result<bool, CallError> {
    match scheme {
        None => Ok(false),
        Some(scheme) if scheme.eq_ignore_ascii_case(b"http") => Ok(false),
        Some(scheme) if scheme.eq_ignore_ascii_case(b"https") => Ok(true),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            Err(CallError::Unknown(format!("\":scheme\" is \"{other}\": it must be http or https").into()))
        }
    }
}

/// Looks up the addresses of a host that may be called.
pub(crate) async fn look_up(
    deadline: &mut Deadline,
    host: &Host,
    rules: &Rules,
) -> Result<Vec<Address>, Fault> {
    let Host { resolver: (resolver, time), name, port } = host;
    let lookup = Lookup::new(*resolver, name.as_bytes(), *time);
    let found = deadline.within(lookup).await?.map_err(|unresolved| {
        let detail = match unresolved {
            Unresolved::TimedOut => "no resolver has said where the host is",
            Unresolved::Unknown => "the host has no address",
        };
        Fault::new(CallFailure::Resolve, detail)
    })?;
    let by_name = rules.allows_name(name.as_bytes());
    let is_allowed = |address: &Address| address.ip().is_some_and(|ip| rules.allows_address(ip, by_name));
    let (allowed, refused): (Vec<_>, Vec<_>) = found.into_iter().partition(is_allowed);
    match (allowed.is_empty(), refused.first()) {
        (false, _) => Ok(allowed.into_iter().map(|address| address.with_port(*port)).collect()),
        (true, Some(address)) => {
            let ip = address.ip().map(|ip| ip.to_string()).unwrap_or_default();
            let detail = format!(
                "the host has address {ip}, which this filter may not call; add it to \"proxy_wasm_allow_calls\" if it \
                 should"
            );
            Err(Fault::new(CallFailure::Refused, detail))
        }
        (true, None) => Err(Fault::new(CallFailure::Resolve, "the host has no address")),
    }
}
