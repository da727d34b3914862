//! A server in this process that records what it was asked and answers by a closure.

use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, runtime::Builder, sync::oneshot};

use crate::http::{self, Headers, Payload};

/// A running origin; it stops when dropped.
pub struct Origin {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// A request as it reached the origin.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// `HTTP/1.1` and the like.
    pub version: String,
    /// All headers.
    pub headers: Headers,
    /// The body, chunks put together.
    pub body: Vec<u8>,
}

impl Seen {
    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        http::header(&self.headers, name)
    }

    /// Every header of that name, in order.
    #[must_use]
    pub fn headers(&self, name: &str) -> Vec<&str> {
        http::headers(&self.headers, name)
    }
}

/// What the origin answers.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Headers,
    body: Payload,
}

impl Reply {
    /// An answer without a body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Payload::default() }
    }

    /// 200 with a body and its Content-Length.
    #[must_use]
    pub fn text(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200).body(body)
    }

    /// 200 with a body in chunks.
    #[must_use]
    pub fn chunks<C: Into<Vec<u8>>>(chunks: impl IntoIterator<Item = C>) -> Self {
        Self { body: Payload::chunked(chunks), ..Self::status(200) }
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Payload::sized(body);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a trailer, which an origin of HTTP/2 sends.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.body.push_trailer(name, value);
        self
    }
}

impl Origin {
    /// Starts an origin that answers by `answer`, once a request has come whole.
    ///
    /// # Panics
    /// When the system has no socket or thread to give.
    #[must_use]
    pub fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(false, answer)
    }

    /// The same for an origin that speaks HTTP/2 in clear text and nothing else: `grpc_pass` asks it.
    ///
    /// # Panics
    /// When the system has no socket or thread to give.
    #[must_use]
    pub fn start_http2(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(true, answer)
    }

    fn start_with(is_http2: bool, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel();
        let (say_address, address) = mpsc::channel();
        let records = Arc::clone(&seen);
        let thread = thread::Builder::new()
            .name("origin".into())
            .spawn(move || serve(is_http2, &records, Arc::new(answer), stopped, &say_address))
            .expect("a thread for the origin");
        let address = address.recv().expect("the origin listens");
        Self { address, seen, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests so far, in the order they came.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    /// The request that came last.
    ///
    /// # Panics
    /// When none has come.
    #[must_use]
    pub fn last(&self) -> Seen {
        lock(&self.seen).last().cloned().expect("a request has reached the origin")
    }

    /// Number of requests so far.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.seen).len()
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported, and broken the connection that the test looks at.
            let _ = thread.join();
        }
    }
}

fn lock(seen: &Mutex<Vec<Seen>>) -> MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve<A>(
    is_http2: bool,
    seen: &Arc<Mutex<Vec<Seen>>>,
    answer: Arc<A>,
    stopped: oneshot::Receiver<()>,
    say_address: &mpsc::Sender<SocketAddr>,
) where
    A: Fn(&Seen) -> Reply + Send + Sync + 'static,
{
    let runtime = Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a socket for the origin");
    // Nobody asks for it any more if the test has gone.
    let _ = say_address.send(listener.local_addr().expect("an address"));
    let seen = Arc::clone(seen);
    runtime.spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
            let service = service_fn(move |request| respond(request, Arc::clone(&seen), Arc::clone(&answer)));
            let io = TokioIo::new(stream);
            if is_http2 {
                tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service));
            } else {
                tokio::spawn(http1::Builder::new().serve_connection(io, service));
            }
        }
    });
    // That the sender is dropped is the sign to stop.
    let _ = runtime.block_on(stopped);
}

async fn respond<A: Fn(&Seen) -> Reply>(
    request: hyper::Request<Incoming>,
    seen: Arc<Mutex<Vec<Seen>>>,
    answer: Arc<A>,
) -> Result<hyper::Response<Payload>, Infallible> {
    let (head, body) = request.into_parts();
    // A body that breaks off is recorded as far as it came.
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    let request = Seen {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        version: http::version(head.version),
        headers: http::from_map(&head.headers),
        body,
    };
    let reply = answer(&request);
    lock(&seen).push(request);
    let mut response = hyper::Response::new(reply.body);
    *response.status_mut() = hyper::StatusCode::from_u16(reply.status).expect("a status");
    *response.headers_mut() = http::into_map(&reply.headers);
    Ok(response)
}
