//! HTTP/1.1, HTTP/2 and HTTP/3 connections to nginx. hyper and h3 inside, blocking outside.

use std::{fmt, future::Future, net::SocketAddr, pin::Pin};

use http_body_util::BodyExt;
use hyper::{
    Uri,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
    task::JoinSet,
    time::timeout,
};

use crate::{
    http::{self, Payload, Request, Response},
    tls::Certificate,
    wait::DEADLINE,
};

mod http3;
use http3::Quic;

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 with keep-alive.
    Http1,
    /// HTTP/2 in clear text, known beforehand (nginx: `http2 on;`).
    Http2,
}

/// One connection that is kept.
#[derive(Debug)]
pub struct Connection {
    runtime: Runtime,
    sender: Sender,
    authority: String,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Payload>),
    Http2(http2::SendRequest<Payload>),
    Http3(Quic),
}

/// A connection, or a stream of it, that ended before its response was complete.
#[derive(Debug)]
pub struct Broken(String);

impl<E: std::error::Error> From<E> for Broken {
    fn from(error: E) -> Self {
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        Self(causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}")))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Panics
    /// When nobody answers there, or not in that protocol.
    #[must_use]
    pub fn open(address: SocketAddr, protocol: Protocol) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
        let sender = in_time(&runtime, "connect", async {
            let stream = TcpStream::connect(address).await.expect("connect to nginx");
            stream.set_nodelay(true).expect("TCP_NODELAY");
            let io = TokioIo::new(stream);
            match protocol {
                Protocol::Http1 => {
                    let (sender, connection) = http1::handshake(io).await.expect("an HTTP/1.1 connection");
                    tokio::spawn(connection);
                    Sender::Http1(sender)
                }
                Protocol::Http2 => {
                    let handshake = http2::handshake(TokioExecutor::new(), io);
                    let (sender, connection) = handshake.await.expect("an HTTP/2 connection");
                    tokio::spawn(connection);
                    Sender::Http2(sender)
                }
            }
        });
        Self { runtime, sender, authority: address.to_string() }
    }

    /// Connects over QUIC, in HTTP/3, to a server that has exactly this certificate.
    ///
    /// # Panics
    /// When nobody answers there, or not in that protocol.
    #[must_use]
    pub fn open_quic(address: SocketAddr, certificate: &Certificate) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
        let quic = in_time(&runtime, "connect over QUIC", Quic::open(address, certificate));
        let authority = format!("{}:{}", certificate.name(), address.port());
        Self { runtime, sender: Sender::Http3(quic), authority }
    }

    /// Sends a GET request and reads the response.
    ///
    /// # Panics
    /// As [`Connection::send`].
    pub fn get(&mut self, target: &str) -> Response {
        self.send(Request::get(target))
    }

    /// Sends a request and reads the whole response.
    ///
    /// # Panics
    /// When the connection breaks, or nothing comes in time.
    pub fn send(&mut self, request: Request) -> Response {
        self.try_send(request).expect("a response")
    }

    /// Sends a request and reads the whole response.
    ///
    /// # Errors
    /// When the connection breaks before the response is complete.
    ///
    /// # Panics
    /// When nothing comes in time.
    pub fn try_send(&mut self, request: Request) -> Result<Response, Broken> {
        let what = format!("{} {}", request.method, request.target);
        let request = self.prepare(request);
        in_time(&self.runtime, &what, async {
            if let Sender::Http1(sender) = &mut self.sender {
                sender.ready().await?;
                return collect(sender.send_request(request).await?).await;
            }
            self.sender.exchange(request).await
        })
    }

    /// Sends a request over HTTP/2 or HTTP/3 without waiting for a response, which may never come.
    ///
    /// # Panics
    /// When this is an HTTP/1.1 connection.
    pub fn send_and_forget(&mut self, request: Request) {
        let exchange = self.sender.exchange(self.prepare(request));
        self.runtime.spawn(async move {
            // Nobody is left to be told.
            let _ = exchange.await;
        });
        // The connection's task runs only while this thread waits for something on its runtime: let it write.
        in_time(&self.runtime, "send a request", async {
            for _ in 0..16 {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Sends all requests at once over HTTP/2 or HTTP/3, and gives the responses in the order of the requests.
    ///
    /// # Panics
    /// When this is an HTTP/1.1 connection, it breaks, or nothing comes in time.
    pub fn send_all(&mut self, requests: impl IntoIterator<Item = Request>) -> Vec<Response> {
        let requests: Vec<_> = requests.into_iter().map(|request| self.prepare(request)).collect();
        in_time(&self.runtime, "requests at once", async {
            let mut tasks = JoinSet::new();
            for (index, request) in requests.into_iter().enumerate() {
                let exchange = self.sender.exchange(request);
                tasks.spawn(async move { (index, exchange.await.expect("a response")) });
            }
            let mut responses = tasks.join_all().await;
            responses.sort_by_key(|(index, _)| *index);
            responses.into_iter().map(|(_, response)| response).collect()
        })
    }

    /// Makes hyper's request: with the whole URI for HTTP/2, with a Host header for HTTP/1.1.
    fn prepare(&self, request: Request) -> hyper::Request<Payload> {
        let host = http::header(&request.headers, "host").unwrap_or(&self.authority).to_owned();
        let uri: Uri = match self.sender {
            Sender::Http1(_) => request.target.parse(),
            Sender::Http2(_) => format!("http://{host}{}", request.target).parse(),
            Sender::Http3(_) => format!("https://{host}{}", request.target).parse(),
        }
        .expect("a request target");
        let mut out = hyper::Request::new(request.body);
        *out.method_mut() = request.method.parse().expect("a method");
        *out.uri_mut() = uri;
        *out.headers_mut() = http::into_map(&request.headers);
        match self.sender {
            Sender::Http1(_) => {
                out.headers_mut().insert("host", host.parse().expect("a host"));
            }
            Sender::Http2(_) => {
                out.headers_mut().remove("host");
            }
            Sender::Http3(_) => {
                out.headers_mut().remove("host");
                // hyper does this by itself.
                if let Some(length) = out.body().length() {
                    out.headers_mut().insert("content-length", length.into());
                }
            }
        }
        out
    }
}

impl Sender {
    /// One request of possibly several at once.
    fn exchange(
        &self,
        request: hyper::Request<Payload>,
    ) -> Pin<Box<dyn Future<Output = Result<Response, Broken>> + Send>> {
        match self {
            Self::Http1(_) => panic!("requests at once need HTTP/2 or HTTP/3"),
            Self::Http2(sender) => {
                let mut sender = sender.clone();
                Box::pin(async move { collect(sender.send_request(request).await?).await })
            }
            Self::Http3(quic) => {
                let quic = quic.clone();
                Box::pin(async move { quic.send(request).await })
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Sender::Http3(quic) = &self.sender {
            // A server that is told nothing keeps the connection, and does not stop gracefully.
            let quic = quic.clone();
            let _ = self.runtime.block_on(async { timeout(DEADLINE, quic.close()).await });
        }
    }
}

async fn collect(response: hyper::Response<hyper::body::Incoming>) -> Result<Response, Broken> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().map(http::from_map).unwrap_or_default();
    let body = body.to_bytes().to_vec();
    Ok(Response {
        status: head.status.as_u16(),
        version: http::version(head.version),
        headers: http::from_map(&head.headers),
        body,
        trailers,
    })
}

fn in_time<T>(runtime: &Runtime, what: &str, work: impl Future<Output = T>) -> T {
    match runtime.block_on(async { timeout(DEADLINE, work).await }) {
        Ok(done) => done,
        Err(_) => panic!("{what}: not done after {DEADLINE:?}"),
    }
}
