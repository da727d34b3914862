//! A worker's share: its pool of instances and the chains of its requests. Nothing here is shared between workers.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use crate::{
    chain::{Chain, Step},
    filter::Callback,
    host::Host,
    plan::{ChainId, Plans},
    pool::{Lease, Pool},
};

/// One worker's instances. Single-threaded, like the worker.
#[derive(Debug)]
pub struct Shard<H: Host> {
    inner: Rc<Inner<H>>,
}

/// What chains keep of their shard.
#[derive(Debug)]
pub(crate) struct Inner<H: Host> {
    pub(crate) pool: Pool<H>,
    /// Vectors of chains that have ended, for the next ones: no allocation in steady state.
    spares: RefCell<Vec<Vecs<H>>>,
}

/// The vectors of a chain.
pub(crate) type Vecs<H> = (Vec<Step>, Vec<Lease<H>>);

/// Most spare vectors kept: as many as requests are commonly at work in a worker at once.
const SPARES: usize = 1024;

impl<H: Host> Shard<H> {
    /// A shard for the chains of `plans`; `root` is the worker.
    #[must_use]
    pub fn new(plans: Arc<Plans<H>>, root: H::Root) -> Self {
        let pool = Pool::new(plans, root);
        Self { inner: Rc::new(Inner { pool, spares: RefCell::default() }) }
    }

    /// Begins chain `id` for the request behind `stream`: checks instances out and creates the stream contexts.
    ///
    /// Where that fails the failure has been logged, and the chain's first verdict says so.
    #[must_use]
    pub fn begin(&self, id: ChainId, stream: &H::Stream) -> Chain<H> {
        Chain::begin(Rc::clone(&self.inner), id, stream.clone())
    }

    /// Whether some filter of chain `id` exports `callback`.
    #[must_use]
    pub fn wants(&self, id: ChainId, callback: Callback) -> bool {
        self.inner.pool.plans().chain(id).is_some_and(|chain| chain.wants(callback))
    }
}

impl<H: Host> Inner<H> {
    pub(crate) fn take_vecs(&self) -> Vecs<H> {
        self.spares.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn keep_vecs(&self, (mut steps, mut leases): Vecs<H>) {
        steps.clear();
        leases.clear();
        let mut spares = self.spares.borrow_mut();
        if spares.len() < SPARES {
            spares.push((steps, leases));
        }
    }
}
