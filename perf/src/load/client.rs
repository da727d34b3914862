//! Clients: connections to one server, and single requests on them.

use std::{
    collections::BTreeMap,
    error::Error,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
    header::{HeaderName, HeaderValue},
    rt::{Read, Write},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{net::TcpStream, sync::Semaphore, time::sleep};
use tokio_rustls::TlsConnector;

use super::{
    profile::{Profile, Protocol, Traffic},
    record::Fate,
    server::HOST,
};

/// Connections for HTTP/2, each of which carries many requests at once.
const H2_CONNECTIONS: usize = 4;

/// How long a slow client waits before it reads on.
const SLOW: Duration = Duration::from_millis(5);

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// It reads as fast as it can.
    Brisk,
    /// It reads slowly.
    Slow,
    /// It goes away.
    Aborts,
}

type Problem = Box<dyn Error + Send + Sync>;
type Body = Full<Bytes>;
type Http1 = http1::SendRequest<Body>;
type Http2 = http2::SendRequest<Body>;

/// One server, and connections to it.
pub(super) struct Target {
    addresses: [SocketAddr; 2],
    tls: BTreeMap<Protocol, TlsConnector>,
    pools: BTreeMap<Protocol, Pool>,
    requests: Vec<Prepared>,
    /// Requests that were sent again.
    again: AtomicU64,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Connections of one protocol.
struct Pool {
    /// How many more requests over HTTP/1.1 may be in flight.
    free: Semaphore,
    idle: Mutex<Vec<Http1>>,
    /// Locked while one is made, so that others wait for it.
    shared: Vec<tokio::sync::Mutex<Option<Http2>>>,
    next: AtomicUsize,
}

/// A kind of requests, ready to be sent.
struct Prepared {
    traffic: Traffic,
    uri: hyper::Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Target {
    /// The server at `addresses`, which shows `certificate`.
    ///
    /// # Errors
    /// What of the profile makes no request.
    pub(super) fn new(
        profile: &Profile,
        addresses: [SocketAddr; 2],
        certificate: &[u8],
    ) -> Result<Self, Box<dyn Error>> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.to_vec().into())?;
        let connector = |alpn: &[u8]| -> Result<TlsConnector, Box<dyn Error>> {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            config.alpn_protocols = vec![alpn.to_vec()];
            Ok(TlsConnector::from(Arc::new(config)))
        };
        let tls = [(Protocol::H1Tls, connector(b"http/1.1")?), (Protocol::H2Tls, connector(b"h2")?)].into();
        let pool = || Pool {
            free: Semaphore::new(profile.connections),
            idle: Mutex::default(),
            shared: (0..H2_CONNECTIONS).map(|_| tokio::sync::Mutex::default()).collect(),
            next: AtomicUsize::new(0),
        };
        let pools = profile.traffic.iter().map(|traffic| (traffic.protocol, pool())).collect();
        let requests = profile.traffic.iter().map(Prepared::new).collect::<Result<_, _>>()?;
        Ok(Self { addresses, tls, pools, requests, again: AtomicU64::new(0) })
    }

    /// How many requests were sent again since this was asked last.
    pub(super) fn take_again(&self) -> u64 {
        self.again.swap(0, Ordering::Relaxed)
    }

    /// Sends a request of kind number `kind`, and reads the response as `manner` says.
    pub(super) async fn ask(&self, kind: usize, manner: Manner) -> Fate {
        let Some(prepared) = self.requests.get(kind) else { return Fate::Odd };
        let Some(pool) = self.pools.get(&prepared.traffic.protocol) else { return Fate::Odd };
        let asked = if prepared.traffic.protocol.is_h2() {
            self.ask_http2(pool, prepared, manner).await
        } else {
            self.ask_http1(pool, prepared, manner).await
        };
        asked.unwrap_or_else(|error| Fate::Failed(describe(&*error)))
    }

    async fn ask_http1(&self, pool: &Pool, prepared: &Prepared, manner: Manner) -> Result<Fate, Problem> {
        let _permit = pool.free.acquire().await?;
        let idle = || pool.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (mut sender, response) = loop {
            let (mut sender, kept) = match idle() {
                Some(sender) if sender.is_closed() => continue,
                Some(sender) => (sender, true),
                None => (self.connect_http1(prepared.traffic.protocol).await?, false),
            };
            if sender.ready().await.is_err() && kept {
                continue;
            }
            match sender.send_request(prepared.request()?).await {
                Ok(response) => break (sender, response),
                // Closed by the server at the very moment: every client asks again.
                Err(error)
                    if kept && (error.is_canceled() || error.is_incomplete_message() || is_reset(&error)) =>
                {
                    self.again.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        };
        let fate = prepared.read(response, manner).await?;
        if manner != Manner::Aborts && sender.ready().await.is_ok() {
            pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
        Ok(fate)
    }

    async fn ask_http2(&self, pool: &Pool, prepared: &Prepared, manner: Manner) -> Result<Fate, Problem> {
        let mut first = true;
        let response = loop {
            let (mut sender, kept) = self.shared(pool, prepared.traffic.protocol).await?;
            if sender.ready().await.is_err() && kept {
                continue;
            }
            match sender.send_request(prepared.request()?).await {
                Ok(response) => break response,
                // A connection that goes away refuses what it has not begun.
                Err(_) if kept && first => {
                    first = false;
                    self.again.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        };
        prepared.read(response, manner).await
    }

    /// One of the connections for HTTP/2, and whether it was there before.
    async fn shared(&self, pool: &Pool, protocol: Protocol) -> Result<(Http2, bool), Problem> {
        let at = pool.next.fetch_add(1, Ordering::Relaxed) % H2_CONNECTIONS;
        let slot = pool.shared.get(at).ok_or("no connection of that number")?;
        let mut slot = slot.lock().await;
        if let Some(sender) = &*slot
            && !sender.is_closed()
        {
            return Ok((sender.clone(), true));
        }
        let sender = self.connect_http2(protocol).await?;
        *slot = Some(sender.clone());
        Ok((sender, false))
    }

    async fn connect_http1(&self, protocol: Protocol) -> Result<Http1, Problem> {
        async fn open(io: impl Read + Write + Send + Unpin + 'static) -> Result<Http1, Problem> {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Ok(sender)
        }
        let stream = self.connect(protocol).await?;
        match self.tls.get(&protocol) {
            Some(tls) => open(TokioIo::new(tls.connect(ServerName::try_from(HOST)?, stream).await?)).await,
            None => open(TokioIo::new(stream)).await,
        }
    }

    async fn connect_http2(&self, protocol: Protocol) -> Result<Http2, Problem> {
        async fn open(io: impl Read + Write + Send + Unpin + 'static) -> Result<Http2, Problem> {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Ok(sender)
        }
        let stream = self.connect(protocol).await?;
        match self.tls.get(&protocol) {
            Some(tls) => open(TokioIo::new(tls.connect(ServerName::try_from(HOST)?, stream).await?)).await,
            None => open(TokioIo::new(stream)).await,
        }
    }

    async fn connect(&self, protocol: Protocol) -> std::io::Result<TcpStream> {
        let [plain, tls] = self.addresses;
        let stream = TcpStream::connect(if protocol.is_tls() { tls } else { plain }).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Prepared {
    fn new(traffic: &Traffic) -> Result<Self, Box<dyn Error>> {
        let path = &traffic.name;
        let scheme = if traffic.protocol.is_tls() { "https" } else { "http" };
        // HTTP/2 has scheme and authority of its own.
        let uri =
            if traffic.protocol.is_h2() { format!("{scheme}://{HOST}/{path}") } else { format!("/{path}") };
        let mut headers = Vec::new();
        for (name, value) in &traffic.headers {
            headers.push((HeaderName::try_from(name)?, HeaderValue::try_from(value)?));
        }
        if !traffic.protocol.is_h2() {
            headers.push((hyper::header::HOST, HeaderValue::from_static(HOST)));
        }
        Ok(Self {
            traffic: traffic.clone(),
            uri: uri.parse()?,
            headers,
            body: vec![b'w'; traffic.send].into(),
        })
    }

    fn request(&self) -> hyper::http::Result<Request<Body>> {
        let method = if self.body.is_empty() { "GET" } else { "POST" };
        let mut request = Request::builder().method(method).uri(self.uri.clone());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(self.body.clone()))
    }

    async fn read(&self, response: Response<Incoming>, manner: Manner) -> Result<Fate, Problem> {
        let status = response.status().as_u16();
        if manner == Manner::Aborts {
            return Ok(Fate::Odd);
        }
        let (mut body, mut bytes) = (response.into_body(), 0);
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
            if manner == Manner::Slow {
                sleep(SLOW).await;
            }
        }
        let Traffic { statuses, filtered_statuses, .. } = &self.traffic;
        if !statuses.contains(&status) && !filtered_statuses.contains(&status) {
            return Ok(Fate::Failed(format!("status {status}")));
        }
        Ok(if manner == Manner::Slow { Fate::Odd } else { Fate::Answered(bytes) })
    }
}

/// Whether the connection was reset.
fn is_reset(error: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| {
            matches!(io.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
        }) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What went wrong, down to its first cause.
fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
