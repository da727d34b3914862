//! Kinds of metrics, and units of their numbers.

/// What a metric counts. The first three numbers are the ABI's (`proxy_metric_type_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// How often something has happened: never less than before.
    Counter = 0,
    /// How much there is of something, in the whole server.
    Gauge = 1,
    /// How values are distributed.
    Histogram = 2,
    /// How much there is of something in one worker. Guests cannot define it.
    Level = 3,
}

impl Kind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Counter),
            1 => Some(Self::Gauge),
            2 => Some(Self::Histogram),
            3 => Some(Self::Level),
            _ => None,
        }
    }

    /// What Prometheus calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge | Self::Level => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a metric's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Unit {
    /// Just numbers.
    None = 0,
    /// Nanoseconds, exported as seconds.
    Nanoseconds = 1,
    /// Bytes.
    Bytes = 2,
}

impl Unit {
    pub(crate) const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::None),
            1 => Some(Self::Nanoseconds),
            2 => Some(Self::Bytes),
            _ => None,
        }
    }
}
