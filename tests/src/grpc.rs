//! A gRPC server in this process: tonic's, with messages that have one text each.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, runtime::Builder, sync, sync::oneshot};
use tonic::{
    Code, Request, Response, Status, Streaming,
    codegen::tokio_stream::{StreamExt, wrappers::ReceiverStream},
    server::{Grpc, StreamingService},
};
use tonic_prost::ProstCodec;

/// A message of the service.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Text {
    /// What it says.
    #[prost(string, tag = "1")]
    pub text: String,
}

/// A running server; it stops when dropped. Its service is `weir.test.Talk`:
///
/// | method | answer |
/// |---|---|
/// | `Say` | the message |
/// | `Fail` | the status and message that the message is: `7 denied` |
/// | `Repeat` | as many messages as the message says, with trailing metadata `x-end` |
/// | `Join` | one message of all that came |
/// | `Echo` | each message |
/// | `Wait` | none, ever |
pub struct Service {
    address: SocketAddr,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Metadata of a call, by name.
pub type Metadata = HashMap<String, String>;

#[derive(Debug, Default)]
struct State {
    connections: AtomicUsize,
    live: AtomicUsize,
    last: Mutex<Metadata>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Service {
    /// Starts a server.
    ///
    /// # Panics
    /// When the system has no socket or thread to give.
    #[must_use]
    pub fn start() -> Self {
        let state = Arc::new(State::default());
        let (stop, stopped) = oneshot::channel();
        let (say_address, address) = mpsc::channel();
        let shared = Arc::clone(&state);
        let thread = thread::Builder::new()
            .name("grpc".into())
            .spawn(move || serve(&shared, stopped, &say_address))
            .expect("a thread for the server");
        let address = address.recv().expect("the server listens");
        Self { address, state, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has had.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many calls it works at.
    #[must_use]
    pub fn live(&self) -> usize {
        self.state.live.load(Ordering::SeqCst)
    }

    /// Headers of the call that came last.
    #[must_use]
    pub fn last(&self) -> Metadata {
        self.state.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported, and broken the call that the test looks at.
            let _ = thread.join();
        }
    }
}

fn serve(state: &Arc<State>, stopped: oneshot::Receiver<()>, say_address: &mpsc::Sender<SocketAddr>) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a socket for the server");
    // Nobody asks for it any more if the test has gone.
    let _ = say_address.send(listener.local_addr().expect("an address"));
    let state = Arc::clone(state);
    runtime.spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            stream.set_nodelay(true).expect("TCP_NODELAY");
            state.connections.fetch_add(1, Ordering::SeqCst);
            let state = Arc::clone(&state);
            let service = service_fn(move |request| respond(request, Arc::clone(&state)));
            tokio::spawn(
                http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    // That the sender is dropped is the sign to stop.
    let _ = runtime.block_on(stopped);
}

async fn respond(
    request: hyper::Request<Incoming>,
    state: Arc<State>,
) -> Result<hyper::Response<tonic::body::Body>, Infallible> {
    let headers = request.headers().iter();
    let headers =
        headers.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()));
    *state.last.lock().unwrap_or_else(PoisonError::into_inner) = headers.collect();
    let method = request.uri().path().strip_prefix("/weir.test.Talk/").unwrap_or_default().to_owned();
    let mut grpc = Grpc::new(ProstCodec::<Text, Text>::default());
    Ok(grpc.streaming(Talk { method, state }, request).await)
}

/// One call.
struct Talk {
    method: String,
    state: Arc<State>,
}

/// Counts a call as long as it is there.
struct Live(Arc<State>);

impl Live {
    fn new(state: &Arc<State>) -> Self {
        state.live.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(state))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a call answers, part by part.
type Answers = sync::mpsc::Sender<Result<Text, Status>>;

impl StreamingService<Text> for Talk {
    type Response = Text;
    type ResponseStream = ReceiverStream<Result<Text, Status>>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Text>>) -> Self::Future {
        let (method, live) = (self.method.clone(), Live::new(&self.state));
        Box::pin(async move {
            if !["Say", "Fail", "Repeat", "Join", "Echo", "Wait"].contains(&method.as_str()) {
                return Err(Status::unimplemented("no such method"));
            }
            let (answers, stream) = sync::mpsc::channel(1);
            tokio::spawn(async move {
                let closed = answers.clone();
                tokio::select! {
                    () = talk(&method, request.into_inner(), answers) => {}
                    () = closed.closed() => {}
                }
                drop(live);
            });
            Ok(Response::new(ReceiverStream::new(stream)))
        })
    }
}

async fn talk(method: &str, mut messages: Streaming<Text>, answers: Answers) {
    // Whom nobody listens to any more has nothing left to say.
    let say = |text: String| async { drop(answers.send(Ok(Text { text })).await) };
    let mut joined = String::new();
    while let Some(Ok(Text { text })) = messages.next().await {
        match method {
            "Say" | "Echo" => say(text).await,
            "Fail" => {
                let (code, message) = text.split_once(' ').unwrap_or(("2", ""));
                let status = Status::new(Code::from_i32(code.parse().unwrap_or(2)), message);
                drop(answers.send(Err(status)).await);
                return;
            }
            "Repeat" => {
                for number in 1..=text.parse().unwrap_or(0_u32) {
                    say(number.to_string()).await;
                }
            }
            _ => joined.push_str(&text),
        }
    }
    match method {
        "Join" => say(joined).await,
        "Repeat" => {
            let mut status = Status::ok("");
            status.metadata_mut().insert("x-end", "yes".parse().expect("a value"));
            drop(answers.send(Err(status)).await);
        }
        "Wait" => std::future::pending().await,
        _ => {}
    }
}
