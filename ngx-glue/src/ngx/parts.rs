//! Parts of buffers: where bytes of a body are, and what has to be told when they are no longer needed.
//!
//! A part refers to nginx's buffer, to a block of memory of our own, or to a region of a file. A buffer or block may
//! have been cut into several parts, so parts of it are counted: when the last one goes, nginx's buffer is marked as
//! sent, so that nginx uses it again, and a block of ours is used for other bytes.

use std::{ops::Range, ptr::NonNull, slice};

use nginx_sys::{ngx_buf_t, ngx_file_t, off_t};

use super::{
    chain::{Buffer, in_memory, size},
    request::Request,
};

/// Bytes of a file that are read at a time, on the stack.
const PIECE: usize = 16 * 1024;

/// Least bytes of a block.
const BLOCK: usize = 256;

/// There is no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoMemory;

/// A part of a file could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadError;

/// Where bytes are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// In memory, from here on.
    Memory(NonNull<u8>),
    /// In a file, from this offset on.
    File(NonNull<ngx_file_t>, off_t),
}

/// Some bytes of a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Where they are.
    pub(super) source: Source,
    /// How many.
    pub(super) len: usize,
    /// What is to be told when they are no longer needed.
    pub(super) owner: Option<OwnerId>,
}

impl Part {
    /// Whether its bytes are in a file only.
    pub(super) const fn is_in_file(&self) -> bool {
        matches!(self.source, Source::File(..))
    }

    /// The bytes of `range`, which lies inside it.
    fn cut(self, range: Range<usize>) -> Self {
        let source = match self.source {
            // SAFETY: the offset is inside the bytes of the part.
            Source::Memory(start) => Source::Memory(unsafe { start.add(range.start) }),
            Source::File(file, offset) => {
                Source::File(file, offset + off_t::try_from(range.start).unwrap_or(0))
            }
        };
        Self { source, len: range.end - range.start, ..self }
    }

    /// Shows the bytes of `range`, which lies inside it.
    pub(super) fn read(self, range: Range<usize>, piece: &mut dyn FnMut(&[u8])) -> Result<(), ReadError> {
        let wanted = self.cut(range);
        match wanted.source {
            Source::Memory(start) => {
                // SAFETY: a part in memory has that many bytes there, which stay while its owner is not released.
                piece(unsafe { slice::from_raw_parts(start.as_ptr(), wanted.len) });
                Ok(())
            }
            Source::File(file, offset) => read_file(file, offset, wanted.len, piece),
        }
    }
}

/// Memory that a file which is read around the page cache (`directio`) can be read into.
#[repr(align(4096))]
struct Aligned([u8; PIECE]);

/// What offsets in such a file have to be a multiple of, at most.
const ALIGNMENT: off_t = 4096;

fn read_file(
    file: NonNull<ngx_file_t>,
    offset: off_t,
    len: usize,
    piece: &mut dyn FnMut(&[u8]),
) -> Result<(), ReadError> {
    // SAFETY: a buffer in a file has the record of that file in the request's pool, open as long as the request lives.
    let file = unsafe { file.as_ref() };
    let (descriptor, is_direct) = (file.fd, file.directio() != 0);
    let mut bytes = Aligned([0; PIECE]);
    let mut offset = offset;
    let mut rest = len;
    while rest > 0 {
        let ahead = if is_direct { offset % ALIGNMENT } else { 0 };
        let skip = usize::try_from(ahead).map_err(|_| ReadError)?;
        let wanted = if is_direct { PIECE } else { PIECE.min(rest) };
        let place = bytes.0.get_mut(..wanted).unwrap_or_default();
        // SAFETY: the descriptor is open, and `place` has as many bytes as are asked for.
        let read = unsafe { libc::pread(descriptor, place.as_mut_ptr().cast(), place.len(), offset - ahead) };
        let Ok(read) = usize::try_from(read) else {
            if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted {
                continue;
            }
            return Err(ReadError);
        };
        let end = read.min(skip.saturating_add(rest));
        let Some(read) = place.get(skip..end).filter(|read| !read.is_empty()) else { return Err(ReadError) };
        piece(read);
        rest -= read.len();
        offset += off_t::try_from(read.len()).map_err(|_| ReadError)?;
    }
    Ok(())
}

/// Number of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnerId(usize);

/// Memory of our own in the request's pool.
#[derive(Debug, Clone, Copy)]
struct Block {
    start: NonNull<u8>,
    size: usize,
}

/// Whose bytes parts refer to.
#[derive(Debug, Clone, Copy)]
enum Owner {
    /// A buffer of nginx's.
    Buffer(NonNull<ngx_buf_t>),
    /// A block of ours.
    Block(Block),
}

/// The owners of all parts of one direction.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// Each with the number of its parts.
    entries: Vec<(Option<Owner>, usize)>,
    vacant: Vec<usize>,
    free: Vec<Block>,
}

impl Owners {
    /// Forgets everything: the request's memory goes.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.vacant.clear();
        self.free.clear();
    }

    fn add(&mut self, owner: Owner) -> OwnerId {
        let entry = (Some(owner), 1);
        if let Some(at) = self.vacant.pop()
            && let Some(place) = self.entries.get_mut(at)
        {
            *place = entry;
            return OwnerId(at);
        }
        self.entries.push(entry);
        OwnerId(self.entries.len() - 1)
    }

    /// All of `buffer`, which stays as it is until it is marked as sent.
    pub(super) fn whole(&mut self, buffer: Buffer<'_>) -> Part {
        let record = buffer.copy();
        let source = match (NonNull::new(record.pos), NonNull::new(record.file)) {
            (Some(start), _) if in_memory(&record) => Source::Memory(start),
            (_, Some(file)) if record.in_file() != 0 => Source::File(file, record.file_pos),
            _ => Source::Memory(NonNull::dangling()),
        };
        Part { source, len: size(&record), owner: Some(self.add(Owner::Buffer(buffer.raw()))) }
    }

    /// nginx's buffer that `part` is all of.
    pub(super) fn as_whole(&self, part: &Part) -> Option<NonNull<ngx_buf_t>> {
        match self.entries.get(part.owner?.0)? {
            (Some(Owner::Buffer(raw)), 1) => {
                // SAFETY: nginx's buffers stay until they are marked as sent, which is done when the entry goes.
                let record = unsafe { Buffer::new(*raw) }.copy();
                (size(&record) == part.len).then_some(*raw)
            }
            _ => None,
        }
    }

    /// nginx's buffer that `part` is a part of.
    pub(super) fn buffer(&self, part: &Part) -> Option<NonNull<ngx_buf_t>> {
        match self.entries.get(part.owner?.0)? {
            (Some(Owner::Buffer(raw)), _) => Some(*raw),
            _ => None,
        }
    }

    /// Cuts `part` in two at `at`, which lies inside it.
    pub(super) fn split(&mut self, part: Part, at: usize) -> (Part, Part) {
        let head = self.share(&part, 0..at);
        (head, part.cut(at..part.len))
    }

    /// A part of the owner is no longer needed.
    pub(super) fn release(&mut self, owner: Option<OwnerId>) {
        match self.drop_part(owner) {
            // SAFETY: nginx's buffers stay until they are marked as sent, which happens here, once.
            Some(Owner::Buffer(raw)) => unsafe { Buffer::new(raw) }.consume(),
            Some(Owner::Block(block)) => self.free.push(block),
            None => {}
        }
    }

    /// The part goes its own way: nginx's buffer itself is passed on.
    pub(super) fn forget(&mut self, owner: Option<OwnerId>) {
        self.drop_part(owner);
    }

    /// The owner, if that was its last part.
    fn drop_part(&mut self, owner: Option<OwnerId>) -> Option<Owner> {
        let OwnerId(id) = owner?;
        let (owner, parts) = self.entries.get_mut(id)?;
        *parts = parts.saturating_sub(1);
        if *parts > 0 {
            return None;
        }
        let gone = owner.take()?;
        self.vacant.push(id);
        Some(gone)
    }

    /// Room for `len` bytes of our own: a part of that length, not filled; `None` without memory.
    pub(super) fn room(&mut self, request: Request<'_>, len: usize) -> Option<Part> {
        let fits = self.free.iter().position(|block| block.size >= len && block.size / 4 <= len.max(BLOCK));
        let block = match fits {
            Some(at) => self.free.swap_remove(at),
            None => {
                let size = if len < 1 << 16 { len.next_power_of_two().max(BLOCK) } else { len };
                Block { start: request.room::<u8>(size)?, size }
            }
        };
        Some(Part { source: Source::Memory(block.start), len, owner: Some(self.add(Owner::Block(block))) })
    }

    /// Whether `part` is in memory that nginx uses again.
    pub(super) fn is_lent(&self, part: &Part) -> bool {
        part.len > 0 && matches!(part.source, Source::Memory(_)) && self.buffer(part).is_some()
    }

    /// One more part of the owner of `part`: the bytes of `range`, which lies inside it.
    pub(super) fn share(&mut self, part: &Part, range: Range<usize>) -> Part {
        if let Some(OwnerId(id)) = part.owner
            && let Some((_, parts)) = self.entries.get_mut(id)
        {
            *parts += 1;
        }
        part.cut(range)
    }

    /// Adds `next` to the end of `part` where both are of one file and owner and the one follows the other; false, and
    /// nothing done, where they are not.
    pub(super) fn join(&mut self, part: &mut Part, next: &Part) -> bool {
        let (Source::File(file, offset), Source::File(other, from)) = (part.source, next.source) else {
            return false;
        };
        let follows = off_t::try_from(part.len).is_ok_and(|len| offset.checked_add(len) == Some(from));
        if file != other || part.owner != next.owner || !follows {
            return false;
        }
        part.len += next.len;
        // The owner has one part less, and not its last.
        self.drop_part(next.owner);
        true
    }

    /// `part` without the buffer of nginx's that it is a part of, where it is in a file: the file stays.
    pub(super) fn detach(&mut self, part: Part) -> Part {
        if matches!(part.source, Source::Memory(_)) {
            return part;
        }
        self.release(part.owner);
        Part { owner: None, ..part }
    }

    /// Writes `bytes` into memory of ours, `at` bytes behind the start of `part`; false, and nothing written, when its
    /// block does not reach that far.
    pub(super) fn fill(&self, part: &Part, at: usize, bytes: &[u8]) -> bool {
        let Some((start, room)) = self.block(part) else { return false };
        if at.checked_add(bytes.len()).is_none_or(|end| end > room) {
            return false;
        }
        // SAFETY: the block reaches that far.
        let place = unsafe { start.add(at) };
        // SAFETY: as above; nobody reads a block while it is written to, and `bytes` are not from there: a guest's
        // memory and nginx's buffers are not ours.
        unsafe { place.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        true
    }

    /// Where `part` begins in a block of ours, and how many bytes the block has from there on.
    fn block(&self, part: &Part) -> Option<(NonNull<u8>, usize)> {
        let Source::Memory(start) = part.source else { return None };
        match self.entries.get(part.owner?.0)? {
            (Some(Owner::Block(block)), _) => {
                let used = start.addr().get().checked_sub(block.start.addr().get())?;
                Some((start, block.size.checked_sub(used)?))
            }
            _ => None,
        }
    }

    /// Copies what nginx has of `shown` in memory into a block of ours, and gives nginx its buffers back.
    pub(super) fn keep_bytes(&mut self, request: Request<'_>, shown: &mut Vec<Part>) -> Result<(), NoMemory> {
        let owners = self;
        let total: usize = shown.iter().filter(|part| owners.is_lent(part)).map(|part| part.len).sum();
        let block = match total {
            0 => None,
            _ => Some(owners.room(request, total).ok_or(NoMemory)?),
        };
        let mut filled = 0;
        // The part kept last is a copy, whose bytes end where those of the next one go.
        let mut follows_copy = false;
        let mut kept = 0_usize;
        for at in 0..shown.len() {
            let Some(part) = shown.get(at).copied() else { break };
            let part = match &block {
                Some(block) if owners.is_lent(&part) => {
                    let from = filled;
                    // What is in memory is one piece, and can always be read.
                    let _ = part.read(0..part.len, &mut |bytes| {
                        owners.fill(block, from, bytes);
                    });
                    filled += part.len;
                    owners.release(part.owner);
                    if follows_copy
                        && let Some(previous) = kept.checked_sub(1).and_then(|at| shown.get_mut(at))
                    {
                        previous.len += part.len;
                        continue;
                    }
                    follows_copy = true;
                    owners.share(block, from..filled)
                }
                _ => {
                    follows_copy = false;
                    let part = owners.detach(part);
                    if part.len == 0 {
                        // What it said of flushing has no meaning any more.
                        owners.release(part.owner);
                        continue;
                    }
                    part
                }
            };
            if let Some(place) = shown.get_mut(kept) {
                *place = part;
                kept += 1;
            }
        }
        shown.truncate(kept);
        owners.release(block.and_then(|block| block.owner));
        Ok(())
    }
}
