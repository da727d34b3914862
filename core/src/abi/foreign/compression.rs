//! `compress`, `uncompress`: the zlib format (RFC 1950), as in Envoy.

use std::io::Read;

use flate2::{Compression, read::ZlibDecoder, read::ZlibEncoder};

use crate::{
    abi::status::{Hostcall, Status},
    engine::limits::{MAX_COMPRESSED, MAX_UNCOMPRESSED},
    host::Host,
    instance::State,
};

/// Arguments: any bytes. Answers them compressed.
pub(super) fn compress<H: Host>(state: &mut State<H>, bytes: &[u8]) -> Hostcall<Vec<u8>> {
    if bytes.len() > MAX_COMPRESSED {
        state.warn(&format!("compress: {} bytes are more than {MAX_COMPRESSED}", bytes.len()));
        return Err(Status::BadArgument.into());
    }
    let mut compressed = Vec::new();
    let read = ZlibEncoder::new(bytes, Compression::default()).read_to_end(&mut compressed);
    read.map_err(|_| Status::SerializationFailure)?;
    Ok(compressed)
}

/// Arguments: what `compress` has answered. Answers what it was given.
pub(super) fn uncompress<H: Host>(state: &mut State<H>, bytes: &[u8]) -> Hostcall<Vec<u8>> {
    let mut plain = Vec::new();
    let most = u64::try_from(MAX_UNCOMPRESSED).unwrap_or(u64::MAX);
    let mut decoder = ZlibDecoder::new(bytes).take(most + 1);
    decoder.read_to_end(&mut plain).map_err(|_| Status::SerializationFailure)?;
    if plain.len() > MAX_UNCOMPRESSED {
        state.warn(&format!("uncompress: it would be more than {MAX_UNCOMPRESSED} bytes"));
        return Err(Status::SerializationFailure.into());
    }
    Ok(plain)
}
