//! A request without its chain: what instances and their pool cost by themselves.

use super::{Memory, Request};
use crate::{
    context::ContextId, failure::Failure, filter::Callback, instance::Created, pool::Lease, shard::Shard,
};

/// An instance that is checked out for a request of one filter, with the filter's stream context in it.
#[derive(Debug)]
pub struct Checkout<'a> {
    shard: &'a Shard<Memory>,
    lease: Lease<Memory>,
    context: ContextId,
}

/// How many headers callbacks are told of.
const HEADERS: i32 = 5;

impl<'a> Checkout<'a> {
    /// Checks an instance of the first filter of all out, and has it create its context: `on_context_create`.
    ///
    /// # Errors
    /// What the instance or the callback has failed with, in words.
    pub fn begin(shard: &'a Shard<Memory>, request: &Request) -> Result<Self, String> {
        let begin = || {
            let mut lease = shard.pool().check_out(0)?;
            let Created { first, failure, .. } =
                lease.with(Callback::ContextCreate, |instance| instance.create_streams(0, 0, 1, request))?;
            match failure {
                Some(failure) => Err(failure),
                None => Ok(Self { shard, lease, context: first }),
            }
        };
        begin().map_err(|failure: Failure| failure.to_string())
    }

    /// The rest: `on_request_headers`, `on_response_headers`, `on_done`, `on_log`, `on_delete`, and the instance goes back.
    ///
    /// # Errors
    /// What a callback has failed with, in words.
    pub fn finish(mut self) -> Result<(), String> {
        let context = self.context;
        let params = [context.raw(), HEADERS, 1, 0, 0];
        let lasting = self.lease.lasting();
        let ended = self.lease.with(Callback::Done, |instance| {
            for callback in [Callback::RequestHeaders, Callback::ResponseHeaders] {
                instance.enter(callback, context, params)?;
            }
            let (_, ended) = instance.end_streams(context, 1, lasting);
            ended
        });
        let done = ended.flatten().map_err(|failure| failure.to_string());
        self.shard.pool().give_back(self.lease);
        done
    }
}
