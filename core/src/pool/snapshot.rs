//! What an instance was like after its configuration, for others to begin there.

use std::{io, sync::Arc};

use wasmtime::{AsContextMut, Global, Memory, Val};

use super::image::{Image, Images};

/// Memory and mutable globals of a configured instance. Tables and segments are not in it: a module whose code changes
/// those has no snapshots ([`instrument`](crate::filter::instrument)).
#[derive(Debug)]
pub(crate) struct Snapshot {
    image: Arc<Image>,
    globals: Vec<Val>,
}

impl Snapshot {
    /// What `memory` and `globals` hold now. The image is added to `images`.
    ///
    /// # Errors
    /// What the system said.
    pub(crate) fn take(
        memory: Memory,
        globals: &[Global],
        mut store: impl AsContextMut,
        images: &mut Images,
    ) -> io::Result<Self> {
        let globals = globals.iter().map(|global| global.get(&mut store)).collect();
        let image = images.add(memory.data(&store))?;
        Ok(Self { image: Arc::new(image), globals })
    }

    /// The memory.
    pub(crate) fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Values of the globals, in the order of [`Exports::globals`](crate::filter::exports).
    pub(crate) fn globals(&self) -> &[Val] {
        &self.globals
    }
}
