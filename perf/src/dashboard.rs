//! `weir dashboard`: what filters do, what benches and load tests have found, in a browser.
//!
//! ```text
//!  metrics file ──► watch ──► frame ──► hub ──► stream: server-sent events ──► browser
//!  benches/history, load tests, flame graphs ──► records ──► server ──┘
//! ```
//!
//! One thread looks at the metrics file; another answers, on the loopback interface unless it is told otherwise. It
//! changes nothing anywhere, and pages fetch nothing from elsewhere: what they are made of is in this program.
//!
//! | room | duty |
//! |---|---|
//! | `watch` | the thread that looks at the file again and again |
//! | `frame` | what one look has found, and what is new since the one before |
//! | `hub` | the looks of the last minutes, and who is told of the next one |
//! | `stream` | what a browser is told, as the body of a response |
//! | `records` | files that benches, load tests and profilers have left |
//! | `server` | which path answers what, and to whom |
//! | `assets` | the pages: `perf/assets/` |

use std::{
    error::Error,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::Args;

mod assets;
mod frame;
mod hub;
mod records;
mod server;
mod stream;
mod watch;

use hub::Hub;
use records::Folders;
use server::Dashboard;

/// What `weir dashboard` is told.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The file that `path` in the block `metrics` of nginx.conf names.
    file: PathBuf,
    /// Where browsers find it; port 0 is any free one. Whoever reaches an address that is not of the loopback
    /// interface sees everything.
    #[arg(long, default_value = "127.0.0.1:9146")]
    listen: SocketAddr,
    /// Seconds between two looks at the file.
    #[arg(long, default_value_t = 1.0, value_parser = crate::seconds)]
    interval: f64,
    /// The folder with the history of benches.
    #[arg(long, default_value = "benches/history")]
    history: PathBuf,
    /// The folder with results of load tests: where `weir load --out` has written them.
    #[arg(long, default_value = "target/load")]
    loads: PathBuf,
    /// The folder with flame graphs.
    #[arg(long, default_value = "flamegraphs")]
    flamegraphs: PathBuf,
}

/// Answers until the process is ended.
pub(crate) fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let Arguments { file, listen, interval, history, loads, flamegraphs } = arguments;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen).await.map_err(|error| {
            format!("cannot listen on {listen}: {error}; \"--listen ADDRESS:PORT\" names another place")
        })?;
        let listen = listener.local_addr()?;
        let hub = Arc::new(Hub::new(&file));
        watch::start(file, Duration::from_secs_f64(interval), Arc::clone(&hub))?;
        let folders = Folders { history, loads, flamegraphs };
        let dashboard = Dashboard { hub, folders, loopback: listen.ip().is_loopback() };
        announce(listen)?;
        Ok(axum::serve(listener, server::router(dashboard)).await?)
    })
}

/// Says where it is, to a person or to a script that waits for this line.
fn announce(listen: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "the dashboard is at http://{listen}/")?;
    out.flush()
}
