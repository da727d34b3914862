//! The pages: the files of `perf/assets/`, which are part of this program.

/// One file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asset {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) bytes: &'static [u8],
}

/// The first page, which the others are parts of.
pub(super) const INDEX: Asset =
    Asset { name: "index.html", kind: HTML, bytes: include_bytes!("../../assets/index.html") };

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// An asset, by its path below `perf/assets/`.
macro_rules! asset {
    ($name:literal, $kind:expr) => {
        Asset { name: $name, kind: $kind, bytes: include_bytes!(concat!("../../assets/", $name)) }
    };
}

const ALL: &[Asset] = &[
    asset!("style.css", CSS),
    asset!("icon.svg", "image/svg+xml"),
    asset!("main.js", SCRIPT),
    asset!("live.js", SCRIPT),
    asset!("live/stream.js", SCRIPT),
    asset!("live/charts.js", SCRIPT),
    asset!("live/tables.js", SCRIPT),
    asset!("chart.js", SCRIPT),
    asset!("dom.js", SCRIPT),
    asset!("format.js", SCRIPT),
    asset!("theme.js", SCRIPT),
    asset!("benches.js", SCRIPT),
    asset!("flamegraphs.js", SCRIPT),
    asset!("loads.js", SCRIPT),
    asset!("vendor/uPlot.iife.min.js", SCRIPT),
    asset!("vendor/uPlot.min.css", CSS),
    asset!("vendor/uPlot.LICENSE", "text/plain; charset=utf-8"),
];

/// The one called `name`.
pub(super) fn find(name: &str) -> Option<Asset> {
    ALL.iter().copied().find(|asset| asset.name == name)
}
