//! The log: what the plain lines say, followed or scrolled.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Line;

use super::{panel, put_lines, title};
use crate::dashboard::appearance::{ACCENT, BAD, BEST, DIM, PLAIN};
use crate::dashboard::model::{self, Model};
use crate::dashboard::plain::clock;
use crate::dashboard::text::{cut, span};
use crate::event::Level;

pub fn draw(model: &Model, area: Rect, buffer: &mut Buffer) {
    let lines = model.log_lines();
    let mut about = Vec::new();
    if let Some(level) = model.log.level {
        about.push(span(
            if level == Level::Error {
                "errors only "
            } else {
                "warnings and errors "
            },
            ACCENT,
        ));
    }
    if !model.log.filter.is_empty() {
        about.push(span(format!("/{} ", model.log.filter), ACCENT));
    }
    let following = model.log.back == 0;
    about.push(span(
        if following {
            "following "
        } else {
            "scrolled, G follows "
        },
        DIM,
    ));
    let inner = panel(title("log", about), area, buffer);
    if lines.is_empty() {
        return put_lines(&[Line::from(span("nothing to read", DIM))], inner, buffer);
    }
    let shown = usize::from(inner.height);
    let end = lines.len().saturating_sub(model.log.back).max(shown.min(lines.len()));
    let rows: Vec<Line> = lines[end.saturating_sub(shown)..end]
        .iter()
        .map(|l| row(model, l, inner.width))
        .collect();
    put_lines(&rows, inner, buffer);
}

/// The latest line, for the compact layout.
pub fn last(model: &Model, columns: u16) -> Line<'static> {
    model
        .log
        .lines
        .last()
        .map_or_else(Line::default, |line| row(model, line, columns))
}

fn row(model: &Model, line: &model::Line, columns: u16) -> Line<'static> {
    let (flag, style): (&str, Style) = match line.level {
        Level::Info => ("", if line.message.contains('★') { BEST } else { PLAIN }),
        Level::Warning => ("warning: ", BEST),
        Level::Error => ("error: ", BAD),
    };
    let time = clock(line.time_ms, model.appearance.utc_offset_s);
    let room = usize::from(columns).saturating_sub(time.len() + 1);
    Line::from(vec![
        span(time, DIM),
        span(" ", PLAIN),
        span(cut(&format!("{flag}{}", line.message), room), style),
    ])
}
