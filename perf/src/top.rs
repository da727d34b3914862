//! `weir top`: what filters do right now, in the terminal.

use std::{error::Error, io::Write, path::Path, thread, time::Duration};

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};

mod model;
mod view;

use model::{Model, Sample};

/// Columns and lines of a view that is printed once.
const PRINTED: (u16, u16) = (120, 40);

/// Shows what is in `file` until somebody presses q, or prints it once.
pub(crate) fn run(file: &Path, interval: Duration, once: bool) -> Result<(), Box<dyn Error>> {
    let first = Sample::read(file)?;
    if once {
        thread::sleep(interval);
        let model = Model::between(&first, &Sample::read(file)?);
        return print(file, &model);
    }
    let mut terminal = ratatui::try_init()?;
    let result = show(&mut terminal, file, first, interval);
    ratatui::restore();
    result
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    file: &Path,
    first: Sample,
    interval: Duration,
) -> Result<(), Box<dyn Error>> {
    let mut before = first;
    let mut model = Model::between(&before, &before);
    let mut trouble = None;
    loop {
        terminal.draw(|frame| view::draw(frame, file, &model, trouble.as_deref()))?;
        if event::poll(interval.saturating_sub(before.age()))? {
            if is_end(&event::read()?) {
                return Ok(());
            }
            continue;
        }
        // A file that is being made anew is there again at the next look.
        match Sample::read(file) {
            Ok(now) => {
                model = Model::between(&before, &now);
                before = now;
                trouble = None;
            }
            Err(error) => {
                trouble = Some(error.to_string());
                before.touch();
            }
        }
    }
}

/// Whether somebody has had enough: q, Escape, Control-C.
fn is_end(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press
        && match key.code {
            KeyCode::Char('q') | KeyCode::Esc => true,
            KeyCode::Char('c') => control,
            _ => false,
        }
}

fn print(file: &Path, model: &Model) -> Result<(), Box<dyn Error>> {
    let (width, height) = PRINTED;
    let mut terminal = Terminal::new(TestBackend::new(width, height))?;
    terminal.draw(|frame| view::draw(frame, file, model, None))?;
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for row in 0..height {
        let line: String = (0..width).map(|column| buffer[(column, row)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    Ok(std::io::stdout().lock().write_all(format!("{}\n", text.trim_end()).as_bytes())?)
}
