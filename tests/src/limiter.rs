//! A rate limit service of Envoy's (`envoy.service.ratelimit.v3.RateLimitService`) in this process, which lets so many
//! requests of each descriptor pass.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, runtime::Builder, sync::oneshot};
use tonic::{
    Request, Response, Status,
    server::{Grpc, UnaryService},
};
use tonic_prost::ProstCodec;

/// `RateLimitRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(message, repeated, tag = "2")]
    descriptors: Vec<Descriptor>,
    #[prost(uint32, tag = "3")]
    hits: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Descriptor {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
}

/// A pair: an entry of a descriptor, or a header.
#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// `RateLimitResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(int32, tag = "1")]
    overall_code: i32,
    #[prost(message, repeated, tag = "3")]
    response_headers_to_add: Vec<Entry>,
}

/// `OK` and `OVER_LIMIT`.
const CODES: [i32; 2] = [1, 2];

/// Hits of each descriptor, as text.
type Hits = Arc<Mutex<HashMap<String, u32>>>;

/// A running service; it stops when dropped.
#[derive(Debug)]
pub struct Limiter {
    address: SocketAddr,
    hits: Hits,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Limiter {
    /// Starts a service that lets `limit` requests of each descriptor pass.
    ///
    /// # Panics
    /// When the system has no socket or thread to give.
    #[must_use]
    pub fn start(limit: u32) -> Self {
        let hits = Hits::default();
        let (stop, stopped) = oneshot::channel();
        let (say_address, address) = mpsc::channel();
        let shared = Arc::clone(&hits);
        let thread = thread::Builder::new()
            .name("limiter".into())
            .spawn(move || serve(limit, &shared, stopped, &say_address))
            .expect("a thread for the service");
        let address = address.recv().expect("the service listens");
        Self { address, hits, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked about, as `DOMAIN KEY=VALUE …`, and how often.
    #[must_use]
    pub fn hits(&self) -> HashMap<String, u32> {
        self.hits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported, and broken the call that the test looks at.
            let _ = thread.join();
        }
    }
}

fn serve(limit: u32, hits: &Hits, stopped: oneshot::Receiver<()>, say_address: &mpsc::Sender<SocketAddr>) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a socket for the service");
    // Nobody asks for it any more if the test has gone.
    let _ = say_address.send(listener.local_addr().expect("an address"));
    let hits = Arc::clone(hits);
    runtime.spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let hits = Arc::clone(&hits);
            let service = service_fn(move |request| respond(request, limit, Arc::clone(&hits)));
            let connection = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    // That the sender is dropped is the sign to stop.
    let _ = runtime.block_on(stopped);
}

async fn respond(
    request: hyper::Request<Incoming>,
    limit: u32,
    hits: Hits,
) -> Result<hyper::Response<tonic::body::Body>, Infallible> {
    let known = request.uri().path() == "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    let mut grpc = Grpc::new(ProstCodec::<Answer, Asked>::default());
    Ok(grpc.unary(Counting { limit: if known { limit } else { 0 }, hits }, request).await)
}

struct Counting {
    limit: u32,
    hits: Hits,
}

impl UnaryService<Asked> for Counting {
    type Response = Answer;
    type Future = Ready<Result<Response<Answer>, Status>>;

    fn call(&mut self, request: Request<Asked>) -> Self::Future {
        let Asked { domain, descriptors, hits } = request.into_inner();
        let entries = descriptors.iter().flat_map(|descriptor| &descriptor.entries);
        let text = entries.fold(domain, |text, Entry { key, value }| format!("{text} {key}={value}"));
        let mut all = self.hits.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(text).or_default();
        *count += hits;
        let over = *count > self.limit;
        let header = Entry { key: "x-ratelimit-limit".into(), value: self.limit.to_string() };
        ready(Ok(Response::new(Answer {
            overall_code: CODES[usize::from(over)],
            response_headers_to_add: vec![header],
        })))
    }
}
