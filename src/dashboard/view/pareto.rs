//! Two tasks against each other: who is beaten by nobody on both.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::{panel, put_lines, title};
use crate::dashboard::appearance::{BASELINE, BEST, DIM, PARENT, PLAIN};
use crate::dashboard::model::Model;
use crate::dashboard::plot::Plot;
use crate::dashboard::text::{cut, right, span, width};
use crate::event::Origin;
use crate::event::run::Scored;
use crate::event::scale::Range;
use crate::event::words::parent_name;

const Y_LABELS: u16 = 7;

pub fn draw(model: &Model, area: Rect, buffer: &mut Buffer) {
    let names = model.task_names();
    let (ix, iy) = (model.pareto.x, model.pareto.y);
    let (Some(x_name), Some(y_name)) = (names.get(ix), names.get(iy)) else {
        let inner = panel(title("pareto", Vec::new()), area, buffer);
        let text = "This run has one task, so there is nothing to trade off.";
        return put_lines(&[Line::from(span(text, DIM))], inner, buffer);
    };
    let about = vec![
        span(format!("{y_name} (up) against {x_name} (right)  "), PLAIN),
        span("●", BEST),
        span(" front  ", DIM),
        span("·", PLAIN),
        span(" beaten  ", DIM),
        span("◇", PARENT),
        span(" parent ", DIM),
    ];
    let inner = panel(title("pareto", about), area, buffer);
    let points: Vec<(&Scored, (f64, f64))> = model
        .run
        .scored
        .iter()
        .filter_map(|s| Some((s, point(s, ix, iy)?)))
        .collect();
    let (Some(x), Some(y)) = (
        Range::around(points.iter().map(|p| p.1.0), 0.05),
        Range::around(points.iter().map(|p| p.1.1), 0.08),
    ) else {
        return put_lines(&[Line::from(span("nothing is scored yet", DIM))], inner, buffer);
    };
    if inner.width < 30 || inner.height < 5 {
        return;
    }
    let field = Rect {
        x: inner.x + Y_LABELS,
        width: inner.width - Y_LABELS - 1,
        height: inner.height - 1,
        ..inner
    };
    let mut plot = Plot::new(field, x, y);
    let front = front(&points, (direction(model, ix), direction(model, iy)));
    for (_, at) in &points {
        plot.dot(*at, PLAIN);
    }
    for &i in &front {
        plot.mark(points[i].1, '●', BEST);
    }
    for (scored, at) in &points {
        match scored.candidate.origin {
            Origin::Parent => plot.mark(*at, '◇', PARENT),
            Origin::Baseline => plot.mark(*at, '◇', BASELINE),
            _ => {}
        }
    }
    plot.render(buffer);
    label(model, &points, &front, &plot, field, buffer);
    ticks(model, (ix, iy), (x, y), &plot, field, buffer);
}

fn point(scored: &Scored, ix: usize, iy: usize) -> Option<(f64, f64)> {
    let at = |i: usize| scored.candidate.tasks.get(i).map(|t| t.score.value);
    Some((at(ix)?, at(iy)?))
}

/// −1 where less is better: a command's score of negative weight.
fn direction(model: &Model, axis: usize) -> f64 {
    let first = model.run.scored.first();
    let task = first.and_then(|s| s.candidate.tasks.get(axis));
    let weights = model.run.started.as_ref().map(|started| &started.score_weights);
    let weight = task.and_then(|task| weights?.get(&task.task));
    weight.map_or(1.0, |weight| weight.signum())
}

/// Indices of the points that no other beats on one axis without losing on the other.
fn front(points: &[(&Scored, (f64, f64))], directions: (f64, f64)) -> Vec<usize> {
    let better = |a: f64, b: f64, direction: f64| direction * a >= direction * b;
    let beats =
        |a: (f64, f64), b: (f64, f64)| better(a.0, b.0, directions.0) && better(a.1, b.1, directions.1) && a != b;
    let on_front = |p: (f64, f64)| !points.iter().any(|other| beats(other.1, p));
    (0..points.len()).filter(|&i| on_front(points[i].1)).collect()
}

fn label(
    model: &Model,
    points: &[(&Scored, (f64, f64))],
    front: &[usize],
    plot: &Plot,
    field: Rect,
    buffer: &mut Buffer,
) {
    let best = model.run.best().map(|b| b.candidate.id.as_str());
    for (i, (scored, at)) in points.iter().enumerate() {
        let c = &scored.candidate;
        let style = match c.origin {
            Origin::Parent => PARENT,
            Origin::Baseline => BASELINE,
            _ if best == Some(c.id.as_str()) || (front.contains(&i) && front.len() <= 4) => BEST,
            _ => continue,
        };
        let (Some(column), Some(row)) = (plot.column(at.0), plot.row(at.1)) else {
            continue;
        };
        let name = parent_name(&c.id);
        let size = width(name) as u16;
        // On the left of the point where there is no room on its right.
        let left = column.saturating_sub(size + 1).max(field.x);
        let start = if column + 2 + size <= field.right() {
            column + 2
        } else {
            left
        };
        buffer.set_string(start, row, cut(name, field.right().saturating_sub(start).into()), style);
    }
}

fn ticks(model: &Model, axes: (usize, usize), ranges: (Range, Range), plot: &Plot, field: Rect, buffer: &mut Buffer) {
    let unit = |axis: usize| {
        let task = model.run.started.as_ref().and_then(|s| s.tasks.get(axis));
        task.map(|t| model.run.task_unit(&t.task, &t.lang)).unwrap_or_default()
    };
    for tick in ranges.1.ticks((field.height / 5).max(2).into()) {
        if let Some(row) = plot.row(tick) {
            buffer.set_string(
                field.x - Y_LABELS,
                row,
                right(&unit(axes.1).value(tick), usize::from(Y_LABELS) - 1),
                DIM,
            );
        }
    }
    for tick in ranges.0.ticks((field.width / 16).max(2).into()) {
        let Some(column) = plot.column(tick).filter(|c| c + 6 < field.right()) else {
            continue;
        };
        buffer.set_string(column, field.bottom(), unit(axes.0).value(tick), DIM);
    }
}
