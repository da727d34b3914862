//! Which phase or filter of nginx calls which callbacks.
//!
//! | file | where nginx calls it | callbacks |
//! |---|---|---|
//! | `request_headers` | rewrite phase of a location, before `rewrite` and `return` | `on_request_headers` |
//! | `request_body` | filter of request bodies, as a handler reads the body | `on_request_body` |
//! | `response_headers` | header filter, before `add_header` and gzip | `on_response_headers` |
//! | `response_body` | body filter, right after the copy filter, before gzip | `on_response_body` |
//! | `response_trailers` | with the last piece of the body, where trailers follow it | `on_response_trailers` |
//! | `log` | log phase | `on_done`, `on_log`, `on_delete` |

pub(crate) mod log;
pub(crate) mod request_body;
pub(crate) mod request_headers;
pub(crate) mod response_body;
pub(crate) mod response_headers;
mod response_trailers;
mod sending;

pub(crate) use crate::ngx::filters::install;
