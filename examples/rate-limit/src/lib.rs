//! Limits how many requests a client makes in a window of time, in all workers together.
//!
//! How many it has made is shared data; that it has used them up is a message in a queue, of which the root context in one
//! of the workers is told; decisions and reports are counted in metrics.
//!
//! ```json
//! { "limit": 100, "seconds": 60, "header": "x-api-key" }
//! ```

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::{error, warn};
use proxy_wasm::hostcalls::{define_metric, increment_metric, record_metric};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, MetricType, Status};
use serde::{Deserialize, Serialize};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Warn);
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

/// Keys of shared data begin with the name of the zone that nginx.conf has for them.
const ZONE: &str = "clients/";

/// The queue of reports.
const QUEUE: &str = "reports";

/// How often a count is tried to be raised that other workers raise at the same time.
const TRIES: usize = 32;

/// What the configuration says.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// Requests in a window.
    limit: u32,
    /// Length of a window.
    seconds: u64,
    /// Header that a client is known by.
    header: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { limit: 100, seconds: 60, header: "x-api-key".to_owned() }
    }
}

/// Numbers of the metrics.
#[derive(Default)]
struct Metrics {
    allowed: u32,
    refused: u32,
    reports: u32,
    delay: u32,
}

impl Metrics {
    fn define() -> Result<Self, Status> {
        Ok(Self {
            // `_decision=` becomes a label.
            allowed: define_metric(MetricType::Counter, "rate_limit_requests_decision=allowed")?,
            refused: define_metric(MetricType::Counter, "rate_limit_requests_decision=refused")?,
            reports: define_metric(MetricType::Counter, "rate_limit_reports")?,
            delay: define_metric(MetricType::Histogram, "rate_limit_report_delay_microseconds")?,
        })
    }
}

/// A client has used its requests up.
#[derive(Serialize, Deserialize)]
struct Report {
    client: String,
    /// When, in microseconds since 1970.
    at: u64,
}

/// Requests that a client has made: number of the window, how many.
#[derive(Clone, Copy, Default, PartialEq)]
struct Count {
    window: u64,
    requests: u32,
}

impl Count {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (window, requests) = bytes.split_first_chunk()?;
        let requests = u32::from_le_bytes(requests.try_into().ok()?);
        Some(Self { window: u64::from_le_bytes(*window), requests })
    }

    fn bytes(self) -> Vec<u8> {
        [&self.window.to_le_bytes()[..], &self.requests.to_le_bytes()].concat()
    }

    /// With one more request, in `window`.
    fn next(self, window: u64) -> Self {
        let before = if self.window == window { self.requests } else { 0 };
        Self { window, requests: before.saturating_add(1) }
    }
}

fn microseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The filter as configured; one for each `proxy_wasm` directive.
#[derive(Default)]
struct Root {
    shared: Rc<Shared>,
}

/// What requests have of it.
#[derive(Default)]
struct Shared {
    settings: Settings,
    metrics: Metrics,
    /// Number of the queue; the same in all workers.
    queue: u32,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        let settings = if bytes.trim_ascii().is_empty() { b"{}" } else { &bytes[..] };
        let settings = serde_json::from_slice::<Settings>(settings).map_err(|error| error.to_string());
        let settings = settings.and_then(|settings| {
            if settings.seconds > 0 { Ok(settings) } else { Err("\"seconds\" is 0".to_owned()) }
        });
        let metrics = Metrics::define().map_err(|status| format!("metrics cannot be defined: {status:?}"));
        match (settings, metrics) {
            (Ok(settings), Ok(metrics)) => {
                let queue = self.register_shared_queue(QUEUE);
                self.shared = Rc::new(Shared { settings, metrics, queue });
                true
            }
            (Err(reason), _) | (_, Err(reason)) => {
                error!("rate-limit: the configuration is not usable: {reason}");
                false
            }
        }
    }

    /// Called in one worker for the reports of all, again as long as it takes one.
    fn on_queue_ready(&mut self, queue: u32) {
        let Ok(Some(message)) = self.dequeue_shared_queue(queue) else { return };
        let Ok(report) = serde_json::from_slice::<Report>(&message) else { return };
        let Settings { limit, seconds, .. } = &self.shared.settings;
        warn!("rate-limit: {} has used up its {limit} requests in {seconds} s", report.client);
        let delay = microseconds(self.get_current_time()).saturating_sub(report.at);
        // There is nothing to be done where a count is refused.
        let _ = increment_metric(self.shared.metrics.reports, 1);
        let _ = record_metric(self.shared.metrics.delay, delay);
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(RateLimit { shared: Rc::clone(&self.shared) }))
    }
}

/// One request.
struct RateLimit {
    shared: Rc<Shared>,
}

impl Context for RateLimit {}

impl RateLimit {
    /// Whom the request is counted for.
    fn client(&self) -> String {
        let header = self.get_http_request_header(&self.shared.settings.header);
        header.filter(|key| !key.is_empty()).unwrap_or_else(|| {
            let address = self.get_property(vec!["source", "address"]).unwrap_or_default();
            let address = String::from_utf8_lossy(&address).into_owned();
            // Without the port, which is another one for each connection.
            address.rsplit_once(':').map_or(address.clone(), |(host, _)| host.to_owned())
        })
    }

    /// Counts the request; `None` where the count cannot be kept.
    fn count(&self, client: &str, window: u64) -> Option<Count> {
        let key = format!("{ZONE}{client}");
        for _ in 0..TRIES {
            let (value, cas) = self.get_shared_data(&key);
            let count = value.as_deref().and_then(Count::read).unwrap_or_default().next(window);
            // Who finds nothing writes whatever is there: of two that begin at once one is not counted.
            match self.set_shared_data(&key, Some(&count.bytes()), cas) {
                Ok(()) => return Some(count),
                Err(Status::CasMismatch) => {}
                Err(_) => return None,
            }
        }
        None
    }
}

impl HttpContext for RateLimit {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let Shared { settings, metrics, queue } = &*self.shared;
        let (client, now) = (self.client(), self.get_current_time());
        let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let (window, passed) = (since / settings.seconds, since % settings.seconds);
        let requests = self.count(&client, window).map_or(0, |count| count.requests);
        let refused = requests > settings.limit;
        let _ = increment_metric(if refused { metrics.refused } else { metrics.allowed }, 1);
        if requests == settings.limit {
            let report = Report { client, at: microseconds(now) };
            let report = serde_json::to_vec(&report).unwrap_or_default();
            // A queue that is full loses a report, not a request.
            let _ = self.enqueue_shared_queue(*queue, Some(&report));
        }
        if !refused {
            return Action::Continue;
        }
        let retry_after = (settings.seconds - passed).to_string();
        let headers = vec![("retry-after", &*retry_after), ("content-type", "text/plain")];
        self.send_http_response(429, headers, Some(b"too many requests\n"));
        Action::Pause
    }
}
