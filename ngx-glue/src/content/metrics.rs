//! `weir_metrics;`: the location answers with all metrics, for Prometheus.
//!
//! A text of many lines is written a piece at a time, between which nginx handles its other events, so no request waits
//! for it for more than a fraction of a millisecond.

use weir_core::metrics::{
    Metrics,
    catalog::Catalog,
    text::{Format, Text},
};

use std::{cell::RefCell, sync::Arc};

use crate::{
    conf::{Location, Refusal},
    module::main_of,
    ngx::{
        conf::Conf,
        content::{Content, Step},
        cycle::Cycle,
        headers_in::HeadersIn,
        request::{Part, Request},
    },
};

/// Lines that are written, and metrics that are learned of, before nginx gets control back: some 100 µs.
const LINES: usize = 500;

thread_local! {
    /// What this worker knows of the metrics in its file, which is always the same one but after a reload.
    static CATALOG: RefCell<Option<(Arc<Metrics>, Catalog)>> = const { RefCell::new(None) };
}

/// `weir_metrics;`
pub(crate) fn directive(conf: &mut Conf<'_>, _: &Location) -> Result<(), Refusal> {
    if conf.set_content_handler::<Scrape>() {
        return Ok(());
    }
    Err("\"weir_metrics\" stands in a location that has a handler already: give it a location of its own"
        .to_owned()
        .into())
}

/// A text of all metrics in the making.
#[derive(Debug)]
pub(crate) struct Scrape {
    metrics: Arc<Metrics>,
    format: Format,
    text: Option<Text>,
}

impl Content for Scrape {
    fn begin(request: Request<'_>) -> Result<Self, u16> {
        if !matches!(request.part(Part::Method), b"GET" | b"HEAD") {
            return Err(405);
        }
        let metrics = Cycle::with_current(|cycle| {
            let main = main_of(cycle)?;
            if let Some(runtime) = main.runtime.get() {
                runtime.settle();
            }
            main.metrics.get().cloned()
        });
        // Without a `wasm` block there is nothing to count.
        let metrics = metrics.ok_or(404_u16)?;
        let accept = HeadersIn::of(request).list().named(b"accept").map(|field| field.value().to_vec());
        let format = Format::accepted(&accept.collect::<Vec<_>>().join(&b","[..]));
        Ok(Self { metrics, format, text: None })
    }

    fn step(&mut self) -> Step {
        let words = self.metrics.words();
        let Some(text) = &mut self.text else {
            let known = CATALOG.with_borrow_mut(|known| {
                let fresh = known.take().filter(|(metrics, _)| Arc::ptr_eq(metrics, &self.metrics));
                let (_, catalog) =
                    known.insert(fresh.unwrap_or_else(|| (Arc::clone(&self.metrics), Catalog::new())));
                catalog.learn(words, LINES).then(|| catalog.series())
            });
            self.text = known.map(|series| Text::new(self.format, series));
            return Step::More;
        };
        if text.write(words, LINES) { Step::Done } else { Step::More }
    }

    fn content_type(&self) -> &'static str {
        self.format.content_type()
    }

    fn take_body(&mut self) -> Vec<u8> {
        self.text.take().map(Text::into_text).unwrap_or_default().into_bytes()
    }
}
