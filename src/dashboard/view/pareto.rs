//! Two objectives against each other: who is beaten by nobody on both.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{Sign, panel, pictured, put_lines, title};
use crate::dashboard::appearance::{BASELINE, BEST, DIM, PARENT, PLAIN};
use crate::dashboard::model::Model;
use crate::dashboard::plot::Plot;
use crate::dashboard::text::{cut, right, span, width};
use crate::event::Origin;
use crate::event::axes::{self, Axis};
use crate::event::run::Scored;
use crate::event::scale::Range;
use crate::event::words::parent_name;

const Y_LABELS: u16 = 7;

pub fn draw(model: &Model, area: Rect, buffer: &mut Buffer) {
    let axes = axes::axes(&model.run);
    let (Some(x_axis), Some(y_axis)) = (axes.get(model.pareto.x), axes.get(model.pareto.y)) else {
        let inner = panel(title("pareto", Vec::new()), area, buffer);
        let text = "This run has one objective, so there is nothing to trade off.";
        return put_lines(&[Line::from(span(text, DIM))], inner, buffer);
    };
    let inner = pictured("pareto", about(x_axis, y_axis), &SIGNS, area, buffer);
    let point = |s: &Scored| {
        let at = |axis: &Axis| Some(axis.score(&model.run, &s.candidate)?.value);
        Some((at(x_axis)?, at(y_axis)?))
    };
    let points: Vec<(&Scored, (f64, f64))> = model.run.scored.iter().filter_map(|s| Some((s, point(s)?))).collect();
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
    let values: Vec<(f64, f64)> = points.iter().map(|p| p.1).collect();
    let front = axes::front(&values, x_axis, y_axis);
    for at in &values {
        plot.dot(*at, PLAIN);
    }
    for &i in &front {
        plot.mark(values[i], '●', BEST);
    }
    for (scored, at) in &points {
        match scored.candidate.origin {
            Origin::Parent => plot.mark(*at, '◇', PARENT),
            Origin::Baseline => plot.mark(*at, '□', BASELINE),
            _ => {}
        }
    }
    plot.render(buffer);
    ticks((x_axis, y_axis), (x, y), &plot, field, buffer);
    label(model, &points, &front, &plot, field, buffer);
}

fn about(x: &Axis, y: &Axis) -> Vec<Span<'static>> {
    let better = |axis: &Axis, arrow: &'static str| match axis.less_is_better {
        true => format!("{arrow}, less is better"),
        false => arrow.to_owned(),
    };
    let what = format!(
        "{} ({}) against {} ({})  ",
        y.unit.heading(&y.name),
        better(y, "up"),
        x.unit.heading(&x.name),
        better(x, "right")
    );
    vec![span(what, PLAIN)]
}

const SIGNS: [Sign; 4] = [
    Sign {
        symbol: "●",
        style: BEST,
        means: "front: beaten by nobody in both",
        short: "front",
    },
    Sign {
        symbol: "·",
        style: PLAIN,
        means: "beaten",
        short: "beaten",
    },
    Sign {
        symbol: "◇",
        style: PARENT,
        means: "parent",
        short: "parent",
    },
    Sign {
        symbol: "□",
        style: BASELINE,
        means: "unsearched merge",
        short: "unsearched",
    },
];

/// Names beside their points, the best's first, each where it covers no other; a name that finds no such place is left out.
fn label(
    model: &Model,
    points: &[(&Scored, (f64, f64))],
    front: &[usize],
    plot: &Plot,
    field: Rect,
    buffer: &mut Buffer,
) {
    let best = model.run.winner().map(|best| best.id.as_str());
    let rank = |scored: &Scored| match scored.candidate.origin {
        _ if best == Some(scored.candidate.id.as_str()) => 0,
        Origin::Parent => 1,
        Origin::Baseline => 2,
        _ => 3,
    };
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by_key(|&i| rank(points[i].0));
    let marked = |i: usize| Some((plot.column(points[i].1.0)?, plot.row(points[i].1.1)?));
    let is_named = |i: usize| match rank(points[i].0) {
        3 => front.contains(&i) && front.len() <= 4,
        _ => true,
    };
    // Signs of those that are named must stay as well.
    let mut taken: Vec<(u16, u16, u16)> = (0..points.len())
        .filter(|&i| is_named(i))
        .filter_map(marked)
        .map(|(column, row)| (row, column, column + 1))
        .collect();
    for i in order.into_iter().filter(|&i| is_named(i)) {
        let c = &points[i].0.candidate;
        let Some((column, row)) = marked(i) else { continue };
        let style = match c.origin {
            Origin::Parent => PARENT,
            Origin::Baseline => BASELINE,
            _ => BEST,
        };
        let name = cut(parent_name(&c.id), 24);
        let size = width(&name) as u16;
        let rows = [Some(row), row.checked_sub(1), Some(row + 1)].into_iter().flatten();
        let places = rows.flat_map(|row| {
            [
                Some((row, column + 2)),
                column.checked_sub(size + 1).map(|start| (row, start)),
            ]
        });
        let is_free = |(row, start): &(u16, u16)| {
            let inside = *start >= field.x && start + size <= field.right() && (field.y..field.bottom()).contains(row);
            inside
                && !taken
                    .iter()
                    .any(|(other, from, to)| other == row && *start < to + 1 && start + size + 1 > *from)
        };
        if let Some((row, start)) = places.into_iter().flatten().find(is_free) {
            taken.push((row, start, start + size));
            buffer.set_string(start, row, name, style);
        }
    }
}

fn ticks(axes: (&Axis, &Axis), ranges: (Range, Range), plot: &Plot, field: Rect, buffer: &mut Buffer) {
    for tick in ranges.1.ticks((field.height / 5).max(2).into()) {
        if let Some(row) = plot.row(tick) {
            let text = right(&axes.1.unit.value(tick), usize::from(Y_LABELS) - 1);
            buffer.set_string(field.x - Y_LABELS, row, text, DIM);
        }
    }
    for tick in ranges.0.ticks((field.width / 16).max(2).into()) {
        let Some(column) = plot.column(tick).filter(|c| c + 6 < field.right()) else {
            continue;
        };
        buffer.set_string(column, field.bottom(), axes.0.unit.value(tick), DIM);
    }
}
