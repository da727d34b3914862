//! Free ports that stay free until nginx takes them.

use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
};

/// A port of 127.0.0.1 that nobody else is given for the next minute.
///
/// The port of a closed listener could go to another process at once. So a connection is made to it, and closed from
/// the listener's side: in TIME_WAIT, the port goes to nobody who asks for any port, while a server that names it, and
/// sets SO_REUSEADDR as nginx does, may take it.
///
/// # Panics
/// When the system has no port or no socket to give.
#[must_use]
pub fn free() -> u16 {
    reserve().expect("a free port on 127.0.0.1")
}

fn reserve() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let client = TcpStream::connect(address)?;
    let (server, _) = listener.accept()?;
    drop(server);
    drop(client);
    Ok(address.port())
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::TcpListener};

    #[test]
    fn are_all_different_and_can_be_taken() {
        let ports: HashSet<u16> = (0..50).map(|_| super::free()).collect();
        assert_eq!(ports.len(), 50);
        for port in ports {
            TcpListener::bind(("127.0.0.1", port)).expect("the port can be taken");
        }
    }
}
