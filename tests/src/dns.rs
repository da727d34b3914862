//! A server of DNS in this process that answers by a closure, and remembers what it was asked.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use simple_dns::{
    CLASS, Name, Packet, QTYPE, RCODE, ResourceRecord, TYPE,
    rdata::{A, AAAA, CNAME, RData},
};

/// What the server says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Its addresses, of the family that was asked for.
    Addresses(Vec<IpAddr>),
    /// It is another name's, of which the server says what it knows as well.
    Alias(String),
    /// There is no such name.
    Unknown,
    /// Nothing.
    Silence,
}

impl Answer {
    /// These addresses.
    #[must_use]
    pub fn addresses(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self::Addresses(addresses.into_iter().collect())
    }
}

/// Questions that were asked: name in lower case, and type.
type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// A running server; it stops when dropped.
pub struct Dns {
    address: SocketAddr,
    asked: Asked,
    thread: Option<thread::JoinHandle<()>>,
}

/// What a datagram has that tells the server to stop.
const STOP: &[u8] = b"stop";

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Dns {
    /// Starts a server that answers for a name, in lower case, by `answer`.
    ///
    /// # Panics
    /// When the system has no socket or thread to give.
    #[must_use]
    pub fn start(answer: impl Fn(&str) -> Answer + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket for DNS");
        let address = socket.local_addr().expect("an address");
        let asked = Asked::default();
        let records = Arc::clone(&asked);
        let thread = thread::Builder::new()
            .name("dns".into())
            .spawn(move || serve(&socket, &records, &answer))
            .expect("a thread for DNS");
        Self { address, asked, thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it was asked for records of type `kind` of `name`.
    #[must_use]
    pub fn questions(&self, name: &str, kind: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|(asked, of)| asked == name && of == kind).count()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        let told = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(STOP, self.address));
        if let (Ok(_), Some(thread)) = (told, self.thread.take()) {
            // A panic in there has been reported, and the test has met silence.
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, asked: &Asked, answer: &impl Fn(&str) -> Answer) {
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let bytes = &buffer[..length];
        if bytes == STOP {
            return;
        }
        let Ok(question) = Packet::parse(bytes) else { continue };
        let reply = reply(&question, asked, answer);
        if let Some(reply) = reply.and_then(|reply| reply.build_bytes_vec().ok()) {
            // The other side may have gone.
            let _ = socket.send_to(&reply, from);
        }
    }
}

/// The reply to one packet; `None` for silence.
fn reply<'q>(packet: &Packet<'q>, asked: &Asked, answer: &impl Fn(&str) -> Answer) -> Option<Packet<'q>> {
    let mut reply = Packet::new_reply(packet.id());
    let question = packet.questions.first()?.clone();
    let (mut name, kind) = (question.qname.to_string().to_ascii_lowercase(), question.qtype);
    let of = if kind == QTYPE::TYPE(TYPE::AAAA) { "AAAA" } else { "A" };
    asked.lock().unwrap_or_else(PoisonError::into_inner).push((name.clone(), of.to_owned()));
    reply.questions.push(question);
    loop {
        let owner = Name::new(&name).ok()?.into_owned();
        let mut push = |data| reply.answers.push(ResourceRecord::new(owner.clone(), CLASS::IN, 60, data));
        match answer(&name) {
            Answer::Addresses(addresses) => {
                for address in addresses {
                    match (address, of) {
                        (IpAddr::V4(four), "A") => push(RData::A(A { address: four.into() })),
                        (IpAddr::V6(six), "AAAA") => push(RData::AAAA(AAAA { address: six.into() })),
                        _ => {}
                    }
                }
                return Some(reply);
            }
            Answer::Alias(other) => {
                push(RData::CNAME(CNAME(Name::new(&other).ok()?.into_owned())));
                name = other;
            }
            Answer::Unknown => {
                *reply.rcode_mut() = RCODE::NameError;
                return Some(reply);
            }
            Answer::Silence => return None,
        }
    }
}
