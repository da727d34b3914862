//! The peers of a call, one after the other: those that a balancer chooses, or the addresses of a name.

use std::time::Duration;

use super::link::Deadline;
use crate::ngx::net::{
    address::Address,
    shadow::{Choice, End, Shadow},
    socket::Socket,
};

/// Peers that a call may use.
#[derive(Debug)]
pub(crate) enum Peers {
    /// Of an `upstream` block.
    Balanced(Shadow),
    /// Addresses that have not been tried, the last one first.
    Listed(Vec<Address>),
}

/// The next one.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its address.
    pub(crate) address: Address,
    /// A connection that `keepalive` of the `upstream` block has kept.
    pub(crate) kept: Option<Socket>,
}

impl Peers {
    /// The addresses of a name, in the order that they are to be tried in.
    pub(crate) fn listed(mut addresses: Vec<Address>) -> Self {
        addresses.reverse();
        Self::Listed(addresses)
    }

    /// The next peer, if there is one.
    pub(crate) fn next(&mut self) -> Option<Peer> {
        match self {
            Self::Balanced(shadow) => match shadow.choose() {
                Choice::Kept(socket, address) => Some(Peer { address, kept: Some(socket) }),
                Choice::Peer(address) => Some(Peer { address, kept: None }),
                Choice::None => None,
            },
            Self::Listed(addresses) => addresses.pop().map(|address| Peer { address, kept: None }),
        }
    }

    /// It went wrong with the peer at `address`, over a connection that had been kept if `was_kept`: then it is the
    /// connection's fault, and the peer may be tried again.
    pub(crate) fn failed(&mut self, address: Address, was_kept: bool) {
        match self {
            Self::Balanced(shadow) if was_kept => {
                shadow.give_back(End::Good);
                shadow.forgive();
            }
            Self::Balanced(shadow) => shadow.give_back(End::Failed),
            Self::Listed(addresses) if was_kept => addresses.push(address),
            Self::Listed(_) => {}
        }
    }

    /// How long connecting to the one that has been chosen may take: where others could be tried, it leaves them half of
    /// the time.
    pub(crate) fn share(&mut self, deadline: &Deadline) -> Duration {
        if self.has_others() { deadline.rest() / 2 } else { deadline.rest() }
    }

    /// Whether there may be another one besides the one that has been chosen.
    fn has_others(&mut self) -> bool {
        match self {
            // The one that has been chosen is counted until it has failed.
            Self::Balanced(shadow) => shadow.tries() > 1,
            Self::Listed(addresses) => !addresses.is_empty(),
        }
    }

    /// Whether there may be another one, after one has failed.
    pub(crate) fn has_more(&mut self) -> bool {
        match self {
            Self::Balanced(shadow) => shadow.tries() > 0,
            Self::Listed(addresses) => !addresses.is_empty(),
        }
    }

    /// All has gone well; the connection can be used again. Answers it unless the `upstream` block's `keepalive` has
    /// taken it.
    ///
    /// Only plain connections are offered to it, since it does not ask who may use them.
    pub(crate) fn keep(self, socket: Socket) -> Option<Socket> {
        match self {
            Self::Balanced(shadow) if !socket.is_encrypted() => shadow.keep(socket),
            Self::Balanced(_) | Self::Listed(_) => Some(socket),
        }
    }
}
