//! Calls out: nginx makes none yet, so every one is refused at once.

use weir_core::host::Calls;

use super::{root::Worker, stream::RequestToken};

impl Calls<RequestToken> for Worker {}
