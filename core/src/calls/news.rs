//! What an event of a call means for its guest: which callback is called, with what.

use std::net::IpAddr;

use bytes::Bytes;

use super::Kind;
use crate::{
    filter::Callback,
    host::calls::{CallEvent, CallFailure, Closed, Response},
    instance::answer::Answer,
};

/// What a guest is told.
pub(super) struct News {
    pub(super) callback: Callback,
    pub(super) params: [i32; 3],
    pub(super) answer: Answer,
    pub(super) over: Over,
}

/// Whether a call has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    NotYet,
    Yes,
    /// Because of what has come: the other side does not know it yet.
    ByUs,
}

/// Statuses of gRPC that stand for what the other side did not say.
const CANCELLED: u32 = 1;
const DEADLINE_EXCEEDED: u32 = 4;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

impl Kind {
    /// What the guest is told of `event`; `None` for nothing now.
    pub(super) fn news(&mut self, event: CallEvent) -> Option<News> {
        match self {
            Self::Http => http(event),
            Self::Unary(message) => unary(message, event),
            Self::Stream { .. } => stream(event),
            Self::Lookup => lookup(event),
        }
    }
}

/// A size or a count as a callback's parameter.
fn param(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn http(event: CallEvent) -> Option<News> {
    let (response, failure) = match event {
        CallEvent::Response(response) => (response, None),
        CallEvent::Failed(failure) => (Response::default(), Some(failure)),
        event if event.is_last() => (Response::default(), Some(CallFailure::Protocol)),
        _ => return None,
    };
    let size = response.body.iter().map(Bytes::len).sum();
    let params = [response.headers.len(), size, response.trailers.len()].map(param);
    let answer = Answer::Http { response, failure };
    Some(News { callback: Callback::HttpCallResponse, params, answer, over: Over::Yes })
}

/// As Envoy has it: a guest that makes a call with one message each way is told once, of the message or of the failure.
fn unary(message: &mut Option<Bytes>, event: CallEvent) -> Option<News> {
    match event {
        CallEvent::Message(bytes) if message.is_none() => {
            *message = Some(bytes);
            None
        }
        CallEvent::Message(_) => {
            let text = "more than one message came back";
            let closed =
                Closed { status: INTERNAL, message: text.into(), failure: Some(CallFailure::Protocol) };
            Some(News { over: Over::ByUs, ..close(closed) })
        }
        CallEvent::Closed(Closed { status: 0, .. }) => Some(match message.take() {
            Some(bytes) => News { over: Over::Yes, ..receive(bytes) },
            None => close(Closed {
                status: INTERNAL,
                message: "no message came back".into(),
                failure: Some(CallFailure::Protocol),
            }),
        }),
        event if event.is_last() => Some(close(closed(event))),
        _ => None,
    }
}

fn stream(event: CallEvent) -> Option<News> {
    let metadata =
        |callback, count, answer| News { callback, params: [param(count), 0, 0], answer, over: Over::NotYet };
    Some(match event {
        CallEvent::InitialMetadata(fields) => {
            metadata(Callback::GrpcReceiveInitialMetadata, fields.len(), Answer::InitialMetadata(fields))
        }
        CallEvent::TrailingMetadata(fields) => {
            metadata(Callback::GrpcReceiveTrailingMetadata, fields.len(), Answer::TrailingMetadata(fields))
        }
        CallEvent::Message(bytes) => receive(bytes),
        event => close(closed(event)),
    })
}

fn receive(bytes: Bytes) -> News {
    let params = [param(bytes.len()), 0, 0];
    News { callback: Callback::GrpcReceive, params, answer: Answer::Message(bytes), over: Over::NotYet }
}

fn close(closed: Closed) -> News {
    let params = [closed.status.cast_signed(), 0, 0];
    News { callback: Callback::GrpcClose, params, answer: Answer::Closed(closed), over: Over::Yes }
}

/// How a gRPC call ended by its last event.
fn closed(event: CallEvent) -> Closed {
    let failure = match event {
        CallEvent::Closed(closed) => return closed,
        CallEvent::Failed(failure) => failure,
        _ => CallFailure::Protocol,
    };
    let status = match failure {
        CallFailure::Timeout => DEADLINE_EXCEEDED,
        CallFailure::Cancelled => CANCELLED,
        CallFailure::Refused => PERMISSION_DENIED,
        CallFailure::TooLarge => RESOURCE_EXHAUSTED,
        CallFailure::Protocol => INTERNAL,
        CallFailure::Connect
        | CallFailure::Reset
        | CallFailure::Resolve
        | CallFailure::Tls
        | CallFailure::Unavailable => UNAVAILABLE,
    };
    Closed { status, message: failure.word().into(), failure: Some(failure) }
}

/// The addresses, each in 16 bytes, IPv4 as IPv6 has it (`::ffff:a.b.c.d`); none where there is no answer.
fn lookup(event: CallEvent) -> Option<News> {
    let (addresses, failure) = match event {
        CallEvent::Resolved(addresses) => (addresses, None),
        CallEvent::Failed(failure) => (Vec::new(), Some(failure)),
        event if event.is_last() => (Vec::new(), Some(CallFailure::Protocol)),
        _ => return None,
    };
    let bytes = addresses.iter().flat_map(|address| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    });
    let data: Bytes = bytes.collect();
    let params = [param(data.len()), 0, 0];
    let answer = Answer::Data { data, failure };
    Some(News { callback: Callback::ForeignFunction, params, answer, over: Over::Yes })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{Over, UNAVAILABLE};
    use crate::{
        calls::Kind,
        filter::Callback,
        host::calls::{CallEvent, CallFailure, Closed, Fields, Response},
        instance::answer::Answer,
    };

    fn told(kind: &mut Kind, event: CallEvent) -> Option<(Callback, i32, Over)> {
        kind.news(event).map(|news| (news.callback, news.params[0], news.over))
    }

    #[test]
    fn a_unary_call_is_told_once() {
        let message = || CallEvent::Message(Bytes::from_static(b"abc"));
        let closed = |status| CallEvent::Closed(Closed { status, ..Closed::default() });
        let mut kind = Kind::Unary(None);
        assert_eq!(told(&mut kind, CallEvent::InitialMetadata(Fields::new())), None);
        assert_eq!(told(&mut kind, message()), None);
        assert_eq!(told(&mut kind, CallEvent::TrailingMetadata(Fields::new())), None);
        assert_eq!(told(&mut kind, closed(0)), Some((Callback::GrpcReceive, 3, Over::Yes)));

        let mut kind = Kind::Unary(None);
        assert_eq!(told(&mut kind, message()), None);
        assert_eq!(told(&mut kind, closed(7)), Some((Callback::GrpcClose, 7, Over::Yes)));
        assert_eq!(told(&mut Kind::Unary(None), closed(0)), Some((Callback::GrpcClose, 13, Over::Yes)));
        assert_eq!(told(&mut kind, message()), Some((Callback::GrpcClose, 13, Over::ByUs)));
    }

    #[test]
    fn failures_of_grpc_have_a_status() {
        let failed = CallEvent::Failed(CallFailure::Connect);
        let mut stream = Kind::Stream { open: true };
        let status = UNAVAILABLE.cast_signed();
        assert_eq!(told(&mut stream, failed), Some((Callback::GrpcClose, status, Over::Yes)));
    }

    #[test]
    fn what_is_none_of_its_kind_ends_a_call_as_a_failure() {
        let news = Kind::Http.news(CallEvent::Closed(Closed::default())).expect("told");
        assert!(matches!(news.answer, Answer::Http { failure: Some(CallFailure::Protocol), .. }));
        assert!(Kind::Http.news(CallEvent::Message(Bytes::new())).is_none());
        let news = Kind::Lookup.news(CallEvent::Response(Response::default())).expect("told");
        assert!(matches!(news.answer, Answer::Data { failure: Some(CallFailure::Protocol), .. }));
    }

    #[test]
    fn addresses_take_16_bytes() {
        let addresses = vec!["1.2.3.4".parse().expect("IPv4"), "::1".parse().expect("IPv6")];
        let news = Kind::Lookup.news(CallEvent::Resolved(addresses)).expect("told");
        assert_eq!(news.params[0], 32);
        let Answer::Data { data, failure: None } = news.answer else { panic!("data") };
        assert_eq!(data[10..16], [0xff, 0xff, 1, 2, 3, 4]);
        assert_eq!(data[31], 1);
    }
}
