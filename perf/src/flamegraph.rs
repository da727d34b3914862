//! `weir flamegraph`: what `perf script` prints, as a picture that one can zoom in. `scripts/flamegraph` calls it.

mod shares;

use std::{
    error::Error,
    io::{self, BufRead, BufReader, Write},
};

use clap::Args;
use inferno::{
    collapse::{
        Collapse,
        perf::{Folder, Options as Folding},
    },
    flamegraph::{
        self, Options,
        color::{MultiPalette, Palette},
    },
};

use shares::Shares;
use weir_core::profile::names::readable;

/// What `weir flamegraph` is told.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What stands above the picture.
    #[arg(long)]
    title: String,
    /// Something to know about it, `KEY: VALUE`; as often as need be. It becomes a comment in the file, which the
    /// dashboard shows. Whose the time is, in shares, is always there.
    #[arg(long)]
    about: Vec<String>,
    /// What is read is a line for each stack with microseconds at its end, as `weir profile` writes them into
    /// FILE.folded, not what `perf script` has printed.
    #[arg(long)]
    folded: bool,
}

/// Reads samples from standard input, and writes an SVG to standard output.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let input = BufReader::new(io::stdin().lock());
    let folded = if arguments.folded { input.lines().collect::<io::Result<_>>()? } else { fold(input)? };
    if folded.is_empty() {
        return Err("there are no samples: give this what \"perf script\" has printed".into());
    }
    let unit = if arguments.folded { "µs" } else { "ns" };
    let mut about = arguments.about.clone();
    about.push(format!("shares: {}", Shares::of(&folded)));
    let svg = draw(&arguments.title, &about, &folded, unit)?;
    Ok(io::stdout().lock().write_all(svg.as_bytes())?)
}

/// Where stacks stand whose outer frames are unknown: perf does not find its way out of guests.
const IN_GUESTS: &str = "in guests";

/// What the name of a guest's frame ends in.
const GUEST: &str = "_[j]";

/// Stacks, one in a line: frames from the outermost on, separated by `;`, and how often each was met. Frames of guests,
/// whose names come from a map beside the program, end in `_[j]`, those of the kernel in `_[k]`.
fn fold(samples: impl BufRead) -> io::Result<Vec<String>> {
    let mut options = Folding::default();
    (options.annotate_jit, options.annotate_kernel) = (true, true);
    let mut folded = Vec::new();
    Folder::from(options).collapse(samples, &mut folded)?;
    let lines = String::from_utf8_lossy(&folded).into_owned();
    Ok(lines.lines().map(named).collect())
}

/// A stack with names as people write them: perf does not know those of guests.
fn named(stack: &str) -> String {
    let frames = stack.split(';').enumerate().map(|(at, frame)| {
        let (name, rest) = match frame.find("_[") {
            Some(at) => frame.split_at(at),
            None => (frame, ""),
        };
        // What separates frames is in no name.
        let name = readable(name).replace(';', ":");
        if at == 1 && rest.starts_with(GUEST) { format!("{IN_GUESTS};{name}{rest}") } else { name + rest }
    });
    frames.collect::<Vec<_>>().join(";")
}

/// The picture of `folded`, in which a stack counts as so much time in `unit`; `about` is in a comment at its beginning.
pub(crate) fn draw(
    title: &str,
    about: &[String],
    folded: &[String],
    unit: &str,
) -> Result<String, Box<dyn Error>> {
    let mut options = Options::default();
    title.clone_into(&mut options.title);
    unit.clone_into(&mut options.count_name);
    // Green for guests, orange for the kernel.
    options.colors = Palette::Multi(MultiPalette::Java);
    options.hash = true;
    options.min_width = 0.05;
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, folded.iter().map(String::as_str), &mut svg)?;
    let svg = String::from_utf8(svg)?;
    let (first, rest) = svg.split_once("?>").ok_or("the picture does not begin as XML does")?;
    // What would end the comment is in none.
    let about = about.join("\n").replace("--", "- -");
    Ok(format!("{first}?>\n<!-- weir\n{about}\n-->\n{rest}"))
}

#[cfg(test)]
mod tests {
    use super::{draw, fold};

    const SAMPLES: &str = "\
nginx 100 1.000001:          1 instructions:u: 
\t    7f0000001000 _ZN5guest5inner17h0123456789abcdefE+0x10 (/tmp/perf-100.map)
\t    7f0000002000 proxy_on_request_headers+0x20 (/tmp/perf-100.map)
\t    55d000000010 weir_core::chain::Chain<H>::headers+0x4 (/m/ngx_http_weir_module.so)

nginx 100 1.000002:          1 instructions:u: 
\t    55d000000010 weir_core::chain::Chain<H>::headers+0x4 (/m/ngx_http_weir_module.so)

nginx 100 1.000003:          1 instructions:u: 
\t    7f0000003000 proxy_on_log+0x20 (/tmp/perf-100.map)

nginx 100 1.000004:          1 instructions:u: 
\t    7f0000004000 _ZN6bakery4Oven4bakeEj+0x8 (/tmp/perf-100.map)
\t    7f0000002000 proxy_on_request_headers+0x20 (/tmp/perf-100.map)
\t    55d000000010 weir_core::chain::Chain<H>::headers+0x4 (/m/ngx_http_weir_module.so)

";

    #[test]
    fn guests_have_their_names() {
        let folded = fold(SAMPLES.as_bytes()).expect("samples");
        let guest =
            "nginx;weir_core::chain::Chain<H>::headers;proxy_on_request_headers_[j];guest::inner_[j] 1";
        let alone = "nginx;in guests;proxy_on_log_[j] 1";
        let cpp = "nginx;weir_core::chain::Chain<H>::headers;proxy_on_request_headers_[j];\
                   bakery::Oven::bake(unsigned int)_[j] 1";
        assert_eq!(folded, [alone, "nginx;weir_core::chain::Chain<H>::headers 1", guest, cpp]);
    }

    #[test]
    fn a_picture_says_what_it_is() {
        let folded = fold(SAMPLES.as_bytes()).expect("samples");
        let about = ["command: perf record --all".to_owned(), "commit: abc".to_owned()];
        let svg = draw("add_headers", &about, &folded, "ns").expect("a picture");
        assert!(svg.contains("\n<!-- weir\ncommand: perf record - -all\ncommit: abc\n-->\n"), "{svg}");
        assert!(svg.starts_with("<?xml") && svg.contains("guest::inner") && svg.contains(">add_headers<"));
    }
}
