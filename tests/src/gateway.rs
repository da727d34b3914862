//! Servers of FastCGI, SCGI and uwsgi, in a thread: they record what they are asked, and answer by a closure.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

/// How nginx speaks to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `fastcgi_pass`: records of type and length (FastCGI 1.0).
    FastCgi,
    /// `scgi_pass`: a netstring of parameters.
    Scgi,
    /// `uwsgi_pass`: a packet of parameters.
    Uwsgi,
}

impl Dialect {
    /// The prefix of nginx's directives for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FastCgi => "fastcgi",
            Self::Scgi => "scgi",
            Self::Uwsgi => "uwsgi",
        }
    }
}

/// A request as it reached the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Parameters, `CONTENT_LENGTH` and such.
    pub parameters: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// A parameter; empty if there is none.
    #[must_use]
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }
}

/// A running server; it stops when dropped.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    asked: mpsc::Receiver<Asked>,
    stopped: Arc<AtomicBool>,
}

impl Gateway {
    /// Starts a server whose answers, CGI headers and body, are made by `answer`.
    ///
    /// # Panics
    /// When the system has no socket or thread to give.
    #[must_use]
    pub fn start(dialect: Dialect, answer: impl Fn(&Asked) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket for the server");
        let address = listener.local_addr().expect("an address");
        let (tell, asked) = mpsc::channel();
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // A connection that breaks is nginx's affair, which the test looks at.
                let _ = serve(dialect, stream, &answer, &tell);
            }
        });
        Self { address, asked, stopped }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next request that has reached it.
    ///
    /// # Panics
    /// When none has.
    #[must_use]
    pub fn next(&self) -> Asked {
        self.asked.try_recv().expect("a request has reached the server")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // The thread waits for a connection.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    dialect: Dialect,
    mut stream: TcpStream,
    answer: &impl Fn(&Asked) -> Vec<u8>,
    tell: &mpsc::Sender<Asked>,
) -> io::Result<()> {
    let asked = match dialect {
        Dialect::FastCgi => read_fastcgi(&mut stream)?,
        Dialect::Scgi => read_scgi(&mut stream)?,
        Dialect::Uwsgi => read_uwsgi(&mut stream)?,
    };
    let text = answer(&asked);
    // Nobody asks for it any more if the test has gone.
    let _ = tell.send(asked);
    match dialect {
        Dialect::FastCgi => write_fastcgi(&mut stream, &text),
        Dialect::Scgi | Dialect::Uwsgi => stream.write_all(&text),
    }
}

fn read_exactly(stream: &mut impl Read, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

// FastCGI 1.0: types of records.
const PARAMETERS: u8 = 4;
const INPUT: u8 = 5;
const OUTPUT: u8 = 6;
const END: u8 = 3;

fn read_fastcgi(stream: &mut TcpStream) -> io::Result<Asked> {
    let (mut parameters, mut body) = (Vec::new(), Vec::new());
    loop {
        let head = read_exactly(stream, 8)?;
        let size = usize::from(head[4]) << 8 | usize::from(head[5]);
        let content = read_exactly(stream, size)?;
        read_exactly(stream, usize::from(head[6]))?;
        match head[1] {
            PARAMETERS => parameters.extend(content),
            INPUT if content.is_empty() => break,
            INPUT => body.extend(content),
            _ => {}
        }
    }
    let mut rest = &parameters[..];
    let mut pairs = BTreeMap::new();
    while !rest.is_empty() {
        let sizes = [fastcgi_size(&mut rest)?, fastcgi_size(&mut rest)?];
        let [name, value] = [read_exactly(&mut rest, sizes[0])?, read_exactly(&mut rest, sizes[1])?];
        pairs.insert(text(&name), text(&value));
    }
    Ok(Asked { parameters: pairs, body })
}

fn fastcgi_size(rest: &mut &[u8]) -> io::Result<usize> {
    let first = read_exactly(rest, 1)?[0];
    if first < 0x80 {
        return Ok(usize::from(first));
    }
    let more = read_exactly(rest, 3)?;
    let size = more.iter().fold(usize::from(first & 0x7f), |size, byte| size << 8 | usize::from(*byte));
    Ok(size)
}

fn write_fastcgi(stream: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    let mut record = |kind: u8, content: &[u8]| {
        let [high, low] = u16::try_from(content.len()).expect("a record's size").to_be_bytes();
        stream.write_all(&[&[1, kind, 0, 1, high, low, 0, 0], content].concat())
    };
    for piece in answer.chunks(8000) {
        record(OUTPUT, piece)?;
    }
    record(OUTPUT, &[])?;
    record(END, &[0; 8])
}

fn read_scgi(stream: &mut TcpStream) -> io::Result<Asked> {
    let mut size = 0;
    loop {
        match read_exactly(stream, 1)?[0] {
            b':' => break,
            digit => size = size * 10 + usize::from(digit - b'0'),
        }
    }
    // The comma ends the netstring.
    let block = read_exactly(stream, size + 1)?;
    let words: Vec<String> = block[..size].split(|byte| *byte == 0).map(text).collect();
    let pairs: BTreeMap<String, String> =
        words.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    body_of(stream, pairs)
}

fn read_uwsgi(stream: &mut TcpStream) -> io::Result<Asked> {
    let head = read_exactly(stream, 4)?;
    let block = read_exactly(stream, usize::from(head[1]) | usize::from(head[2]) << 8)?;
    let mut rest = &block[..];
    let mut pairs = BTreeMap::new();
    while !rest.is_empty() {
        let mut next = || {
            let size = read_exactly(&mut rest, 2)?;
            read_exactly(&mut rest, usize::from(size[0]) | usize::from(size[1]) << 8)
        };
        let [name, value] = [next()?, next()?];
        pairs.insert(text(&name), text(&value));
    }
    body_of(stream, pairs)
}

/// Reads a body of the length that a parameter says.
fn body_of(stream: &mut TcpStream, parameters: BTreeMap<String, String>) -> io::Result<Asked> {
    let length = parameters.get("CONTENT_LENGTH").and_then(|length| length.parse().ok()).unwrap_or(0);
    Ok(Asked { body: read_exactly(stream, length)?, parameters })
}
