//! Calls out: directives of the `wasm` block, and `proxy_wasm_allow_calls`.

use std::{cell::RefCell, rc::Rc, time::Duration};

use weir_core::engine::limits::Limits;

use super::{
    Location, Refusal,
    location::set_once,
    main::{Block, Main, invalid, number, once, set, size, time},
};
use crate::{
    calls::{Settings, allow::Rules, idle::Keeping},
    ngx::{
        conf::Conf,
        net::{
            lookup::Resolver,
            tls::{Tls, Trust},
        },
    },
};

/// The directives of the `wasm` block; `None` where the default stands.
#[derive(Debug, Default)]
pub(super) struct CallsBlock {
    most: Option<usize>,
    response: Option<usize>,
    timeout: Option<Duration>,
    keeping: Option<Keeping>,
    /// Names that calls are encrypted for, or not, whatever their scheme.
    encrypted: Vec<(Box<[u8]>, bool)>,
    verify: Option<bool>,
    trusted: Option<Vec<u8>>,
    depth: Option<u8>,
    certificate: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    resolver: Option<Resolver>,
    resolver_time: Option<Duration>,
    /// Made of those above when the block ends.
    tls: Option<Rc<Tls>>,
}

/// How long a resolver is waited for (as `resolver_timeout` of nginx's).
const RESOLVER_TIME: Duration = Duration::from_secs(30);

/// Links of a chain of certificates, besides the first, where nothing is said.
const DEPTH: u8 = 4;

impl CallsBlock {
    /// What core bounds goes in place of the defaults.
    pub(super) fn apply(&self, limits: &mut Limits) {
        set(&mut limits.calls, self.most);
        set(&mut limits.call_response, self.response);
        set(&mut limits.call_timeout, self.timeout);
    }

    /// What a worker's client goes by.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            keeping: self.keeping.unwrap_or_default(),
            resolver: self.resolver,
            resolver_time: self.resolver_time.unwrap_or(RESOLVER_TIME),
            tls: self.tls.clone(),
            encrypted: self.encrypted.as_slice().into(),
        }
    }
}

impl Block {
    /// What a worker's calls go by.
    pub(crate) fn call_settings(&self) -> Settings {
        self.calls.settings()
    }
}

impl Main {
    /// The `wasm` block has been read: what it says of TLS is read as well.
    pub(super) fn begin_tls(&self, conf: &mut Conf<'_>) -> Result<(), Refusal> {
        let mut trust = None;
        self.with_block(|block| {
            let calls = &block.calls;
            let certificate = match (&calls.certificate, &calls.key) {
                (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
                (None, None) => None,
                (Some(_), None) => return Err(lacks("call_ssl_certificate", "call_ssl_certificate_key")),
                (None, Some(_)) => return Err(lacks("call_ssl_certificate_key", "call_ssl_certificate")),
            };
            trust = Some(Trust {
                verify: calls.verify.unwrap_or(true),
                trusted: calls.trusted.clone(),
                depth: calls.depth.unwrap_or(DEPTH),
                certificate,
            });
            Ok(())
        })?;
        let Some(trust) = trust else { return Ok(()) };
        if !cfg!(ngx_feature = "ssl") {
            return Ok(());
        }
        let tls = Tls::new(conf, &trust).ok_or(Refusal::Logged)?;
        self.with_block(|block| {
            block.calls.tls = Some(Rc::new(tls));
            Ok(())
        })
    }

    /// `calls_limit N;`
    pub(crate) fn calls_limit(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = number("calls_limit", conf.argument(0), 0, 1_000_000)?;
        main.with_block(|block| once("calls_limit", &mut block.calls.most, value))
    }

    /// `call_response_limit SIZE;`
    pub(crate) fn call_response_limit(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = size("call_response_limit", conf.argument(0), 1 << 10, 1 << 30)?;
        main.with_block(|block| once("call_response_limit", &mut block.calls.response, value))
    }

    /// `call_timeout TIME;`
    pub(crate) fn call_timeout(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = time("call_timeout", conf.argument(0))?;
        main.with_block(|block| once("call_timeout", &mut block.calls.timeout, value))
    }

    /// `call_keepalive NUMBER [timeout=TIME] [requests=NUMBER] | off;`
    pub(crate) fn call_keepalive(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        const NAME: &str = "call_keepalive";
        let each = match conf.argument(0) {
            b"off" => 0,
            each => number(NAME, each, 1, 10_000)?,
        };
        let mut keeping = Keeping { each, ..Keeping::default() };
        let (mut time_given, mut requests_given) = (None, None);
        for parameter in (1..).map_while(|index| conf.optional(index)) {
            let at = parameter.iter().position(|byte| *byte == b'=');
            let (name, value) = parameter.split_at(at.map_or(0, |at| at + 1));
            match name {
                b"timeout=" => once("call_keepalive timeout=", &mut time_given, time(NAME, value)?)?,
                b"requests=" => {
                    let value = number(NAME, value, 1, 1_000_000_000)?;
                    once("call_keepalive requests=", &mut requests_given, value)?;
                }
                _ => return Err(invalid(NAME, parameter, "\"timeout=\" or \"requests=\" and a value")),
            }
        }
        set(&mut keeping.time, time_given);
        set(&mut keeping.requests, requests_given);
        main.with_block(|block| once(NAME, &mut block.calls.keeping, keeping))
    }

    /// `call_ssl on | off NAME …;`
    pub(crate) fn call_ssl(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        const NAME: &str = "call_ssl";
        let encrypts = match conf.argument(0) {
            b"on" if !cfg!(ngx_feature = "ssl") => {
                return Err(format!("\"{NAME} on\" needs an nginx that is built with TLS").into());
            }
            b"on" => true,
            b"off" => false,
            other => return Err(invalid(NAME, other, "\"on\" or \"off\", and names")),
        };
        let names = (1..).map_while(|index| conf.optional(index));
        main.with_block(|block| {
            for name in names {
                let encrypted = &mut block.calls.encrypted;
                if encrypted.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                    let name = String::from_utf8_lossy(name);
                    return Err(format!("\"{NAME}\" has \"{name}\" twice: remove one").into());
                }
                encrypted.push((name.into(), encrypts));
            }
            Ok(())
        })
    }

    /// `call_ssl_verify on | off;`
    pub(crate) fn call_ssl_verify(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = match conf.argument(0) {
            b"on" => true,
            b"off" => false,
            other => return Err(invalid("call_ssl_verify", other, "\"on\" or \"off\"")),
        };
        main.ssl("call_ssl_verify", |block| &mut block.verify, value)
    }

    /// `call_ssl_verify_depth NUMBER;`
    pub(crate) fn call_ssl_verify_depth(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = number("call_ssl_verify_depth", conf.argument(0), 0, 100)?;
        main.ssl("call_ssl_verify_depth", |block| &mut block.depth, value)
    }

    /// `call_ssl_trusted_certificate FILE;`
    pub(crate) fn call_ssl_trusted_certificate(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = conf.argument(0).to_vec();
        main.ssl("call_ssl_trusted_certificate", |block| &mut block.trusted, value)
    }

    /// `call_ssl_certificate FILE;`
    pub(crate) fn call_ssl_certificate(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = conf.argument(0).to_vec();
        main.ssl("call_ssl_certificate", |block| &mut block.certificate, value)
    }

    /// `call_ssl_certificate_key FILE;`
    pub(crate) fn call_ssl_certificate_key(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = conf.argument(0).to_vec();
        main.ssl("call_ssl_certificate_key", |block| &mut block.key, value)
    }

    fn ssl<T>(
        &self,
        name: &str,
        slot: impl FnOnce(&mut CallsBlock) -> &mut Option<T>,
        value: T,
    ) -> Result<(), Refusal> {
        if !cfg!(ngx_feature = "ssl") {
            return Err(format!("\"{name}\" needs an nginx that is built with TLS").into());
        }
        self.with_block(|block| once(name, slot(&mut block.calls), value))
    }

    /// `resolver ADDRESS … [valid=TIME] [ipv4=on|off] [ipv6=on|off];`
    pub(crate) fn resolver(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        main.with_block(|block| match block.calls.resolver {
            Some(_) => Err(Refusal::duplicate("resolver")),
            None => Ok(()),
        })?;
        let resolver = Resolver::of_directive(conf).ok_or(Refusal::Logged)?;
        main.with_block(|block| once("resolver", &mut block.calls.resolver, resolver))
    }

    /// `resolver_timeout TIME;`
    pub(crate) fn resolver_timeout(conf: &mut Conf<'_>, main: &Self) -> Result<(), Refusal> {
        let value = time("resolver_timeout", conf.argument(0))?;
        main.with_block(|block| once("resolver_timeout", &mut block.calls.resolver_time, value))
    }
}

fn lacks(one: &str, other: &str) -> Refusal {
    Refusal::Sentence(format!("\"{one}\" is of no use without \"{other}\": add it"))
}

/// `proxy_wasm_allow_calls NAME … | any | none;`
pub(crate) fn allow_calls(conf: &mut Conf<'_>, location: &Location) -> Result<(), Refusal> {
    const NAME: &str = "proxy_wasm_allow_calls";
    let words = || (0..).map_while(|index| conf.optional(index));
    let rules = if words().any(|word| word == b"none") {
        if words().count() > 1 {
            return Err(
                format!("\"none\" stands alone in \"{NAME}\" directive: remove it, or the others").into()
            );
        }
        Rules::nothing()
    } else {
        Rules::parse(words()).map_err(|(word, reason)| {
            Refusal::Sentence(format!("invalid value \"{word}\" in \"{NAME}\" directive: {reason}"))
        })?
    };
    location.with_draft(|draft| set_once(&mut draft.calls, Rc::new(rules), NAME))
}

/// All rules of a configuration, by the numbers that plugins have of them.
#[derive(Debug, Default)]
pub(crate) struct AllRules(RefCell<Vec<Rc<Rules>>>);

impl AllRules {
    /// The number of `rules`.
    pub(super) fn number(&self, rules: &Rc<Rules>) -> u32 {
        let mut all = self.0.borrow_mut();
        let at = all.iter().position(|one| one == rules).unwrap_or_else(|| {
            all.push(Rc::clone(rules));
            all.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    /// The rules of that number; none, which allow nothing, if there are none.
    pub(crate) fn get(&self, number: u32) -> Rc<Rules> {
        let all = self.0.borrow();
        let found = usize::try_from(number).ok().and_then(|number| all.get(number));
        found.map_or_else(|| Rc::new(Rules::nothing()), Rc::clone)
    }
}
