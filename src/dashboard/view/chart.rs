//! Convergence: every candidate a dot, the best so far a line, the middle half of each generation a shade, the
//! optimizer's mean a diamond, parents and baselines as labelled levels.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Line;

use super::{Sign, pictured, put_lines};
use crate::dashboard::appearance::{ACCENT, BASELINE, BEST, DIM, PARENT, PLAIN};
use crate::dashboard::model::Model;
use crate::dashboard::plot::Plot;
use crate::dashboard::text::{cut, right, span, width};
use crate::event::Origin;
use crate::event::run::{Run, competes, counts};
use crate::event::scale::Range;
use crate::event::words::{Unit, count, duration, parent_name};

pub fn draw(model: &Model, area: Rect, buffer: &mut Buffer) {
    let run = &model.run;
    let zoomed = last_generations(run).filter(|_| !model.chart.whole);
    let zoom = zoomed.map(|_| span("last generations  ", ACCENT));
    let inner = pictured("convergence", zoom.into_iter().collect(), &SIGNS, area, buffer);
    let Some(y) = zoomed.or_else(|| value_range(run)) else {
        return put_lines(
            &[Line::from(span("the first scores will appear here", DIM))],
            inner,
            buffer,
        );
    };
    let x = Range {
        low: 0.0,
        high: last_x(model).max(1.0),
    };
    let longest = labels(run).iter().map(|l| width(&l.text) + 4).max().unwrap_or_default();
    let labels = (longest as u16).clamp(14, (inner.width / 3).max(19));
    let y_labels = if run.unit() == Unit::Percent { 6 } else { 8 };
    if inner.width < y_labels + labels + 10 || inner.height < 3 {
        return;
    }
    let field = Rect {
        x: inner.x + y_labels,
        width: inner.width - y_labels - labels,
        height: inner.height - 1,
        ..inner
    };
    let mut plot = Plot::new(field, x, y);
    plot_run(model, &mut plot);
    plot.render(buffer);
    y_ticks(run, &plot, y, inner, field, buffer);
    x_ticks(model, &plot, x, field, buffer);
    level_labels(run, &plot, field, labels, buffer);
}

const SIGNS: [Sign; 6] = [
    Sign {
        symbol: "━",
        style: BEST,
        means: "best so far",
        short: "best",
    },
    Sign {
        symbol: "·",
        style: PLAIN,
        means: "candidate",
        short: "candidate",
    },
    Sign {
        symbol: "╌",
        style: PARENT,
        means: "parent",
        short: "parent",
    },
    Sign {
        symbol: "┄",
        style: BASELINE,
        means: "unsearched merge",
        short: "unsearched",
    },
    Sign {
        symbol: "◆",
        style: ACCENT,
        means: "mean",
        short: "mean",
    },
    Sign {
        symbol: "░",
        style: DIM,
        means: "middle half of a generation",
        short: "middle half",
    },
];

/// Position of a candidate on the horizontal axis.
fn x_of(model: &Model, evals: u64, elapsed_ms: u64) -> f64 {
    if model.chart.over_time {
        elapsed_ms as f64
    } else {
        evals as f64
    }
}

fn last_x(model: &Model) -> f64 {
    let run = &model.run;
    let scored = run.scored.iter().map(|s| x_of(model, s.evals, s.elapsed_ms));
    scored.fold(0.0, f64::max)
}

/// From the worst level or the fifth percentile of the field to the best, so that one collapse does not flatten all.
fn value_range(run: &Run) -> Option<Range> {
    let mut children: Vec<f64> = run
        .scored
        .iter()
        .map(|s| &s.candidate)
        .filter(|c| counts(&c.origin))
        .map(|c| c.fitness)
        .collect();
    children.sort_by(f64::total_cmp);
    let skipped = children.len() / 20;
    let levels = levels(run).map(|(value, ..)| value);
    Range::around(levels.chain(children.into_iter().skip(skipped)), 0.06)
}

/// Children of the last generations that the axis follows.
const FOLLOWED_GENERATIONS: usize = 4;
const FEWEST_FOLLOWED: usize = 24;

/// Where the last generations are, when the search has left its beginning behind; with what they have to beat, if that is
/// near. `None`: all of it can be seen at once.
fn last_generations(run: &Run) -> Option<Range> {
    let children = run
        .scored
        .iter()
        .map(|s| &s.candidate)
        .filter(|c| counts(&c.origin) && !c.eliminated);
    let children: Vec<f64> = children.map(|c| c.fitness).collect();
    let population = run.started.as_ref().map_or(1, |s| s.population);
    let followed = (FOLLOWED_GENERATIONS * population).max(FEWEST_FOLLOWED);
    if children.len() < 2 * followed {
        return None;
    }
    let mut last = children[children.len() - followed..].to_vec();
    last.sort_by(f64::total_cmp);
    let last = &last[followed / 10..];
    let best = run.best().map(|best| best.worth);
    let own = Range::around(last.iter().copied().chain(best), 0.06)?;
    let spread = own.high - own.low;
    let rivals = run
        .best_unsearched()
        .into_iter()
        .chain(run.best_parent())
        .map(|c| c.fitness);
    let near = rivals.filter(|value| *value > own.low - spread && *value < own.high + spread);
    Range::around([own.low, own.high].into_iter().chain(near), 0.02)
}

fn levels(run: &Run) -> impl Iterator<Item = (f64, &str, Style, char)> {
    let parents = run
        .of_origin(Origin::Parent)
        .map(|c| (c.fitness, parent_name(&c.id), PARENT, '╌'));
    let baselines = run
        .of_origin(Origin::Baseline)
        .map(|c| (c.fitness, c.id.as_str(), BASELINE, '┄'));
    parents.chain(baselines)
}

fn plot_run(model: &Model, plot: &mut Plot) {
    let run = &model.run;
    let band: Vec<(f64, f64, f64)> = run
        .generations
        .iter()
        .map(|g| {
            (
                x_of(model, g.evals, g.elapsed_ms),
                g.generation.lower_quartile,
                g.generation.upper_quartile,
            )
        })
        .collect();
    plot.band(&band, DIM);
    for (value, _, style, stroke) in levels(run) {
        plot.level(value, stroke, style);
    }
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for scored in &run.scored {
        let c = &scored.candidate;
        let at = (x_of(model, scored.evals, scored.elapsed_ms), c.fitness);
        if counts(&c.origin) {
            plot.dot(at, PLAIN);
        }
        if competes(c) && steps.last().is_none_or(|best| scored.worth > best.1) {
            if let Some(&(_, before)) = steps.last() {
                steps.push((at.0, before));
            }
            steps.push((at.0, scored.worth));
        }
    }
    if let Some(&(_, best)) = steps.last() {
        steps.push((last_x(model), best));
    }
    // What is below a picture of the last generations runs along its edge.
    steps.iter_mut().for_each(|step| step.1 = step.1.max(plot.lowest()));
    plot.line(&steps, BEST);
    for scored in run.scored.iter().filter(|s| s.candidate.origin == Origin::Mean) {
        plot.mark(
            (x_of(model, scored.evals, scored.elapsed_ms), scored.candidate.fitness),
            '◆',
            ACCENT,
        );
    }
}

fn y_ticks(run: &Run, plot: &Plot, y: Range, inner: Rect, field: Rect, buffer: &mut Buffer) {
    let unit = run.unit();
    for tick in y.ticks((field.height / 3).max(3).into()) {
        if let Some(row) = plot.row(tick) {
            buffer.set_string(
                inner.x,
                row,
                right(&unit.value(tick), usize::from(field.x - inner.x) - 1),
                DIM,
            );
        }
    }
}

fn x_ticks(model: &Model, plot: &Plot, x: Range, field: Rect, buffer: &mut Buffer) {
    let row = field.bottom();
    let unit = if model.chart.over_time { "time" } else { "evals" };
    let mut free_from = field.x;
    // Whole evaluations; whole seconds, minutes or hours.
    let whole = match (model.chart.over_time, x.high) {
        (false, _) => 1.0,
        (true, ms) if ms < 120_000.0 => 1000.0,
        (true, ms) if ms < 7_200_000.0 => 60_000.0,
        (true, _) => 3_600_000.0,
    };
    let counted = Range {
        low: x.low / whole,
        high: x.high / whole,
    };
    let ticks = counted.ticks(usize::from(field.width / 16).max(2));
    for tick in ticks.into_iter().filter(|t| t.fract() == 0.0).map(|t| t * whole) {
        let Some(column) = plot.column(tick) else {
            continue;
        };
        let text = if model.chart.over_time {
            duration(tick as u64)
        } else {
            count(tick as u64)
        };
        let half = text.chars().count() as u16 / 2;
        let at = column.saturating_sub(half).max(field.x);
        if at >= free_from && at + 2 * half < field.right() {
            buffer.set_string(at, row, &text, DIM);
            free_from = at + 2 * half + 3;
        }
    }
    buffer.set_string(field.right() + 1, row, unit, DIM);
    let of_y = model.run.unit().sign();
    buffer.set_string(field.x.saturating_sub(of_y.len() as u16 + 1), row, of_y, DIM);
}

/// A level's name.
struct Label {
    value: f64,
    text: String,
    style: Style,
    stroke: char,
}

/// The best and the levels, the highest first.
fn labels(run: &Run) -> Vec<Label> {
    let unit = run.unit();
    let label = |(value, name, style, stroke): (f64, &str, Style, char)| Label {
        value,
        text: format!("{} {name}", unit.value(value)),
        style,
        stroke,
    };
    let best = run.best().map(|b| (b.worth, b.candidate.id.as_str(), BEST, '━'));
    // A merge that nobody searched for may be the best, and is named once.
    let others = levels(run).filter(|(_, name, ..)| best.is_none_or(|best| best.1 != *name));
    let mut labels: Vec<Label> = best.into_iter().chain(others).map(label).collect();
    labels.sort_by(|a, b| b.value.total_cmp(&a.value));
    labels
}

/// Names of the levels beside the field, pushed apart where they meet, with an arrow where the level is outside; what finds
/// no row is left out.
fn level_labels(run: &Run, plot: &Plot, field: Rect, columns: u16, buffer: &mut Buffer) {
    let labels = labels(run);
    let rows: Vec<u16> = labels.iter().filter_map(|l| plot.nearest_row(l.value)).collect();
    if rows.len() < labels.len() {
        return;
    }
    for (label, row) in labels.iter().zip(spread(&rows, field.y, field.bottom())) {
        let Some(row) = row else { continue };
        let stroke = match plot.row(label.value) {
            Some(_) => label.stroke,
            None if label.value < plot.lowest() => '↓',
            None => '↑',
        };
        let text = format!("{stroke} {}", label.text);
        buffer.set_string(
            field.right() + 1,
            row,
            cut(&text, usize::from(columns) - 2),
            label.style,
        );
    }
}

/// Moves rows (ascending) so that no two are the same and all lie within `top..bottom`.
fn spread(rows: &[u16], top: u16, bottom: u16) -> Vec<Option<u16>> {
    let mut taken: Vec<Option<u16>> = Vec::new();
    let mut free = top;
    for (i, row) in rows.iter().enumerate() {
        // Leave room for those that follow.
        let left = (rows.len() - i - 1) as u16;
        let latest = bottom.saturating_sub(1 + left).max(free);
        let row = (*row).clamp(free, latest);
        taken.push((row < bottom).then_some(row));
        free = row + 1;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::rehearsal;

    /// After a hundred evaluations everything happened in two of twelve rows.
    #[test]
    fn the_axis_follows_the_last_generations() {
        let records = rehearsal::journal();
        let run = Run::from_records(&records);
        let all = value_range(&run).unwrap();
        let last = last_generations(&run).unwrap();
        let best = run.best().unwrap().worth;
        assert!(last.high - last.low < 0.8 * (all.high - all.low), "{last:?} of {all:?}");
        assert!(last.low < best && best <= last.high);
        let worst = run.of_origin(Origin::Parent).map(|c| c.fitness).fold(1.0, f64::min);
        assert!(worst < last.low, "what nobody has to beat any more is outside");
        let early = Run::from_records(&records[..60]);
        assert_eq!(last_generations(&early), None, "at first all of it is seen");
    }

    #[test]
    fn labels_never_share_a_row() {
        assert_eq!(spread(&[3, 3, 3], 0, 10), [Some(3), Some(4), Some(5)]);
        assert_eq!(spread(&[9, 9], 0, 10), [Some(8), Some(9)]);
        assert_eq!(spread(&[0, 0, 0], 0, 2), [Some(0), Some(1), None]);
        assert_eq!(spread(&[], 0, 0), []);
    }
}
