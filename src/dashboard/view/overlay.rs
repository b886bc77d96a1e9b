//! Help, and the one question that is asked.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Block, BorderType, Clear, Widget};

use super::{put_lines, window};
use crate::dashboard::appearance::{ACCENT, BEST, BOLD, DIM, PLAIN};
use crate::dashboard::model::{Model, Overlay};
use crate::dashboard::text::{left, span, wrap};

const HELP: [(&str, &str); 18] = [
    ("1–7  Tab", "pages: overview, chart, board, pareto, engine, log, result"),
    ("j k  ↓ ↑", "choose a row, scroll"),
    ("g G", "first, last"),
    ("Enter  Esc", "open a candidate, go back"),
    ("/", "filter the board (id or origin) or the log"),
    ("s", "sort the board: fitness, each task, age"),
    ("x  z", "chart: wall clock or evaluations; last generations or all"),
    ("x y", "pareto: the next objective on this axis"),
    ("v", "log: all, warnings, errors"),
    ("", ""),
    ("f  [ ]", "flips: lost or gained; against the next parent"),
    ("n N", "candidate: the next, the previous"),
    ("", ""),
    ("p", "pause and go on: what is in flight ends first"),
    ("e", "export the open candidate, else the best"),
    ("S", "stop the search (asks first); resume goes on later"),
    ("Ctrl-C", "stop; a second time: abort at once (in watch: leave)"),
    ("q", "give the shell back; the search goes on by itself"),
];

const ABOUT: [&str; 2] = [
    "± is one standard error, everywhere; 95 % intervals have two ends.",
    "In a race the board is by worth: fitness, the uncertain drawn to the mean.",
];

pub fn draw(model: &Model, overlay: Overlay, area: Rect, buffer: &mut Buffer) {
    match overlay {
        Overlay::Help => help(model, area, buffer),
        Overlay::ConfirmStop => confirm(model, area, buffer),
    }
}

/// Columns of the keys' names.
const KEYS: usize = 12;

/// Of a frame and the air within it.
const FRAME: u16 = 4;

/// Of the help, where there is room for them.
const COLUMNS: u16 = 74;

fn help(model: &Model, area: Rect, buffer: &mut Buffer) {
    let columns = usize::from(COLUMNS.min(area.width.saturating_sub(FRAME)));
    let mut lines: Vec<Line> = HELP
        .iter()
        .flat_map(|(key, what)| key_lines(key, what, columns))
        .collect();
    lines.push(Line::default());
    let about = ABOUT.iter().flat_map(|text| wrap(text, columns));
    lines.extend(about.map(|row| Line::from(span(row, DIM))));
    let rows = usize::from(area.height.saturating_sub(2));
    let shown = window(lines, rows, model.help_from);
    framed("keys", &shown, COLUMNS, area, buffer);
}

/// A key and what it does, in as many rows as that takes.
fn key_lines(key: &str, what: &str, columns: usize) -> Vec<Line<'static>> {
    let rows = wrap(what, columns.saturating_sub(KEYS)).into_iter().enumerate();
    rows.map(|(i, row)| {
        let key = if i == 0 { key } else { "" };
        Line::from(vec![span(left(key, KEYS), ACCENT), span(row, PLAIN)])
    })
    .collect()
}

fn confirm(model: &Model, area: Rect, buffer: &mut Buffer) {
    let name = model.run.started.as_ref().map_or("the run", |s| s.name.as_str());
    let lines = [
        Line::from(span(format!("Stop {name}?"), BOLD)),
        Line::default(),
        Line::from("What is in flight ends first and the journal is closed."),
        Line::from("`heterosis resume` goes on from there."),
        Line::default(),
        Line::from(vec![
            span("y", BEST),
            span(" stop    ", PLAIN),
            span("n", ACCENT),
            span(" go on", PLAIN),
        ]),
    ];
    framed("stop", &lines, 60, area, buffer);
}

fn framed(name: &'static str, lines: &[Line], columns: u16, area: Rect, buffer: &mut Buffer) {
    let frame = area.centered(
        ratatui::layout::Constraint::Length((columns + FRAME).min(area.width)),
        ratatui::layout::Constraint::Length((lines.len() as u16 + 2).min(area.height)),
    );
    Clear.render(frame, buffer);
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(ACCENT)
        .title(format!(" {name} "));
    let inner = block.inner(frame);
    block.render(frame, buffer);
    put_lines(lines, super::indented(inner), buffer);
}
