//! How `weir top` looks.

use std::path::Path;

use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Block, Cell, Paragraph, Row, Table},
};

use super::model::{Call, Count, Model, Store, Workload};

/// Draws `model`; `trouble` is why the last look found nothing.
pub(crate) fn draw(frame: &mut Frame<'_>, file: &Path, model: &Model, trouble: Option<&str>) {
    let lines = |count: usize, most| u16::try_from(count).unwrap_or(u16::MAX).clamp(1, most) + 3;
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(lines(model.workers.len(), 8)),
        Constraint::Min(5),
        Constraint::Length(lines(model.counts.len(), 10)),
        Constraint::Length(lines(model.stores.len(), 6)),
    ]);
    let [head, workers, calls, others, stores] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(heading(file, model, trouble)), head);
    frame.render_widget(workers_table(&model.workers), workers);
    frame.render_widget(calls_table(&model.calls), calls);
    frame.render_widget(counts_table(&model.counts), others);
    frame.render_widget(stores_table(&model.stores), stores);
}

fn heading(file: &Path, model: &Model, trouble: Option<&str>) -> Vec<Line<'static>> {
    let (used, all) = model.bytes;
    let first = format!(
        "{}   configuration {}   {} of {} KiB used",
        file.display(),
        model.generation,
        used.div_ceil(1024),
        all / 1024
    );
    let second = match trouble {
        Some(trouble) => Line::styled(trouble.to_owned(), Style::new().fg(Color::Red)),
        None => Line::raw(format!("{} workers", model.workers.len())),
    };
    vec![Line::styled(first, Style::new().add_modifier(Modifier::BOLD)), second]
}

fn workers_table(workers: &[Workload]) -> Table<'static> {
    let rows = workers.iter().map(|worker| {
        let style = if worker.suspended.is_empty() { Style::new() } else { Style::new().fg(Color::Red) };
        Row::new([
            Cell::new(worker.pid.to_string()),
            Cell::new(worker.suspended.join(" ")),
            right(worker.in_use.to_string()),
            right(worker.idle.to_string()),
            right(worker.most.to_string()),
            right(worker.capacity.to_string()),
            right(worker.contexts.to_string()),
            right(worker.deferred.to_string()),
            right(format!("{} MiB", worker.resident >> 20)),
        ])
        .style(style)
    });
    let widths = [
        Constraint::Length(10),
        Constraint::Min(16),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(12),
    ];
    let titles = ["pid", "suspended", "in use", "idle", "most", "of", "contexts", "deferred", "memory"];
    table(rows.collect(), &widths, &titles, 2, "Workers: instances, contexts")
}

fn stores_table(stores: &[Store]) -> Table<'static> {
    let kib = |bytes: i64| format!("{} KiB", (bytes + 1023) / 1024);
    let rows = stores.iter().map(|store| {
        let (used, size) = store.bytes.map_or_else(Default::default, |(used, size)| (kib(used), kib(size)));
        Row::new([
            Cell::new(store.kind.clone()),
            Cell::new(store.name.clone()),
            right(store.count.map_or_else(String::new, |count| count.to_string())),
            right(used),
            right(size),
        ])
    });
    let widths = [
        Constraint::Length(10),
        Constraint::Min(24),
        Constraint::Length(14),
        Constraint::Length(14),
        Constraint::Length(14),
    ];
    let titles = ["kind", "name", "keys, messages", "used", "of"];
    table(rows.collect(), &widths, &titles, 2, "Zones and queues")
}

fn calls_table(calls: &[Call]) -> Table<'static> {
    let rows = calls.iter().map(|call| {
        Row::new([
            Cell::new(call.filter.clone()),
            Cell::new(file_and_line(&call.directive)),
            Cell::new(call.callback.clone()),
            right(format!("{:.1}", call.rate)),
            right(call.p50.map_or_else(|| "-".to_owned(), time)),
            right(call.p99.map_or_else(|| "-".to_owned(), time)),
            right(format!("{:.2} %", call.share * 100.0)),
            right(call.total.to_string()),
        ])
    });
    let widths = [
        Constraint::Min(10),
        Constraint::Min(16),
        Constraint::Length(22),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(12),
    ];
    let titles = ["filter", "directive", "callback", "calls/s", "p50", "p99", "time", "calls"];
    table(rows.collect(), &widths, &titles, 3, "Callbacks")
}

fn counts_table(counts: &[Count]) -> Table<'static> {
    let rows = counts.iter().map(|count| {
        let style = if count.what == "failures" && count.rate > 0.0 {
            Style::new().fg(Color::Red)
        } else {
            Style::new()
        };
        Row::new([
            Cell::new(count.what.clone()),
            Cell::new(count.filter.clone()),
            Cell::new(count.detail.clone()),
            right(format!("{:.1}", count.rate)),
            right(count.total.to_string()),
        ])
        .style(style)
    });
    let widths = [
        Constraint::Length(18),
        Constraint::Min(10),
        Constraint::Min(24),
        Constraint::Length(12),
        Constraint::Length(16),
    ];
    table(rows.collect(), &widths, &["what", "filter", "", "each s", "in all"], 3, "Events")
}

/// `nginx.conf:7` of a whole path.
fn file_and_line(place: &str) -> String {
    place.rsplit('/').next().unwrap_or(place).to_owned()
}

/// A table whose columns from number `numbers` on are aligned to the right.
fn table(
    rows: Vec<Row<'static>>,
    widths: &[Constraint],
    titles: &[&'static str],
    numbers: usize,
    name: &'static str,
) -> Table<'static> {
    let titles = titles
        .iter()
        .enumerate()
        .map(|(at, title)| if at < numbers { Cell::new(*title) } else { right((*title).to_owned()) });
    let head = Row::new(titles.collect::<Vec<_>>()).style(Style::new().add_modifier(Modifier::BOLD));
    Table::new(rows, widths.to_vec()).header(head).block(Block::bordered().title(name))
}

fn right(text: String) -> Cell<'static> {
    Cell::new(Line::raw(text).right_aligned())
}

/// Nanoseconds with three digits and a unit.
#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
fn time(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => (ns as f64, "ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let digits = match value {
        _ if unit == "ns" => 0,
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ratatui::{Terminal, backend::TestBackend};

    use super::{draw, time};
    use crate::top::model::tests::sampled;

    #[test]
    fn times_have_three_digits() {
        let shown = [0, 999, 1_000, 12_340, 999_400, 1_234_000, 2_500_000_000].map(time);
        assert_eq!(shown, ["0 ns", "999 ns", "1.00 µs", "12.3 µs", "999 µs", "1.23 ms", "2.50 s"]);
    }

    #[test]
    fn everything_is_in_the_view_however_small_it_is() {
        let model = sampled();
        let shown = |width, height| {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
            terminal.draw(|frame| draw(frame, Path::new("/run/m"), &model, None)).expect("drawn");
            terminal.backend().to_string()
        };
        let view = shown(120, 32);
        for text in [
            "/run/m",
            "1 workers",
            "on_log",
            "500",
            "shm_kv",
            "sessions",
            "2 KiB",
            "nginx.conf:3",
            "1.00 ms",
            "failures",
            "trap",
        ] {
            assert!(view.contains(text), "no {text} in\n{view}");
        }
        for (width, height) in [(1, 1), (10, 3), (40, 8)] {
            shown(width, height);
        }
    }
}
