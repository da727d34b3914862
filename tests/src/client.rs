//! HTTP/1.1 and HTTP/2 connections to nginx. hyper inside, blocking outside.

use std::{future::Future, net::SocketAddr};

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
    wait::DEADLINE,
};

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
    pub fn try_send(&mut self, request: Request) -> hyper::Result<Response> {
        let what = format!("{} {}", request.method, request.target);
        let request = self.prepare(request);
        in_time(&self.runtime, &what, async {
            let response = match &mut self.sender {
                Sender::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Sender::Http2(sender) => sender.send_request(request).await,
            };
            collect(response?).await
        })
    }

    /// Sends a request over HTTP/2 without waiting for a response, which may never come.
    ///
    /// # Panics
    /// When this is no HTTP/2 connection, or the request cannot be sent.
    pub fn send_and_forget(&mut self, request: Request) {
        let request = self.prepare(request);
        let Sender::Http2(sender) = &self.sender else {
            panic!("a request without its response needs HTTP/2");
        };
        let mut sender = sender.clone();
        self.runtime.spawn(async move {
            // Nobody is left to be told.
            let _ = sender.send_request(request).await;
        });
        // The connection's task runs only while this thread waits for something on its runtime: let it write.
        in_time(&self.runtime, "send a request", async {
            for _ in 0..16 {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Sends all requests at once over HTTP/2, and gives the responses in the order of the requests.
    ///
    /// # Panics
    /// When this is no HTTP/2 connection, it breaks, or nothing comes in time.
    pub fn send_all(&mut self, requests: impl IntoIterator<Item = Request>) -> Vec<Response> {
        let requests: Vec<_> = requests.into_iter().map(|request| self.prepare(request)).collect();
        let Sender::Http2(sender) = &self.sender else {
            panic!("requests at once need HTTP/2");
        };
        in_time(&self.runtime, "requests at once", async {
            let mut tasks = JoinSet::new();
            for (index, request) in requests.into_iter().enumerate() {
                let mut sender = sender.clone();
                tasks.spawn(async move {
                    let response = sender.send_request(request).await.expect("a response");
                    (index, collect(response).await.expect("the response's body"))
                });
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
        }
        out
    }
}

async fn collect(response: hyper::Response<hyper::body::Incoming>) -> hyper::Result<Response> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?.to_bytes().to_vec();
    Ok(Response {
        status: head.status.as_u16(),
        version: http::version(head.version),
        headers: http::from_map(&head.headers),
        body,
    })
}

fn in_time<T>(runtime: &Runtime, what: &str, work: impl Future<Output = T>) -> T {
    match runtime.block_on(async { timeout(DEADLINE, work).await }) {
        Ok(done) => done,
        Err(_) => panic!("{what}: not done after {DEADLINE:?}"),
    }
}
