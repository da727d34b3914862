//! Connecting to a peer (`src/event/ngx_event_connect.c`).

use std::{io, ptr::NonNull};

use nginx_sys::{
    NGX_AGAIN, NGX_OK, ngx_close_connection, ngx_create_pool, ngx_event_connect_peer, ngx_event_get_peer,
    ngx_int_t, ngx_peer_connection_t, ngx_str_t, ngx_tcp_nodelay,
};

use super::{address::Address, quiet, socket::Socket};

/// Bytes of a connection's own pool: there is little in it, but for the record of its TLS layer.
const POOL: usize = 256;

/// Begins to connect to `address`. [`Socket::poll_connected`] says when it is.
///
/// # Errors
/// When the peer refuses at once, or nginx has no connection left.
pub(crate) fn connect(address: &Address) -> io::Result<Socket> {
    // SAFETY: pointers, integers, flags and optional functions, for all of which zeros are valid.
    let mut peer = unsafe { std::mem::zeroed::<ngx_peer_connection_t>() };
    // Only debugging lines of nginx's show it.
    let mut name = ngx_str_t::empty();
    peer.sockaddr = address.as_ptr();
    peer.socklen = address.length();
    peer.name = &raw mut name;
    peer.get = Some(ngx_event_get_peer);
    peer.log = quiet::log();
    // SAFETY: everything that `peer` points to is there until it returns, and it keeps none of it but the log, which
    // is there for ever.
    let code = unsafe { ngx_event_connect_peer(&raw mut peer) };
    let known = [NGX_OK as ngx_int_t, NGX_AGAIN as ngx_int_t];
    let connection = NonNull::new(peer.connection).filter(|_| known.contains(&code));
    let connection = connection.ok_or_else(|| {
        let system = io::Error::last_os_error();
        quiet::last_words();
        system
    })?;
    // SAFETY: the log is there for ever.
    let pool = unsafe { ngx_create_pool(POOL, quiet::log()) };
    if pool.is_null() {
        // SAFETY: the connection is ours alone.
        unsafe { ngx_close_connection(connection.as_ptr()) };
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    {
        // SAFETY: the connection is ours alone, and the reference ends with this block.
        let fields = unsafe { &mut *connection.as_ptr() };
        fields.pool = pool;
        fields.log = quiet::log();
    }
    // Not answered: a socket that cannot be told so works all the same, and a Unix socket need not be.
    // SAFETY: the connection is ours and open.
    unsafe { ngx_tcp_nodelay(connection.as_ptr()) };
    // SAFETY: the connection is open, has a pool, and is ours alone from here on.
    Ok(unsafe { Socket::new(connection) })
}
