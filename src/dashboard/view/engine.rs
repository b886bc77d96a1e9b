//! The engine: which candidate is being merged, prefilled or decoded, how far, how fast.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{panel, progress_bar, put_lines, title};
use crate::dashboard::appearance::{ACCENT, BOLD, DIM, PLAIN};
use crate::dashboard::model::Model;
use crate::dashboard::pace::Pace;
use crate::dashboard::text::{Parts, clean, cut, left, right, span, sparkline, wrap};
use crate::event::run::{SeenWorker, Working, origin_name};
use crate::event::words::{busy_share, count, duration, short_duration};
use crate::event::{Learned, Learning, LearningStep};

const STAGES: [&str; 3] = ["merge", "prefill", "decode"];

pub fn draw(model: &Model, area: Rect, buffer: &mut Buffer) {
    let about = model
        .run
        .started
        .as_ref()
        .map(|s| span(format!("{} ", clean(&s.answered_by())), DIM));
    let inner = panel(title("engine", about.into_iter().collect()), area, buffer);
    put_lines(&lines(model, inner), inner, buffer);
}

/// Rows that all of it takes.
pub fn rows(model: &Model) -> u16 {
    let anywhere = Rect::new(0, 0, 60, 40);
    lines(model, anywhere).len() as u16 + 1
}

fn lines(model: &Model, area: Rect) -> Vec<Line<'static>> {
    let mut lines = match (&model.run.learning, &model.run.working) {
        _ if model.run.hands().next().is_some() && !model.is_over() => workers(model, area),
        (Some((learning, curve)), _) if !model.is_over() => learning_lines(model, learning, curve, area.width),
        (_, Some(working)) if !model.is_over() => working_lines(model, working, area.width),
        _ => vec![Line::from(span(idle(model), DIM))],
    };
    lines.push(totals(model, area.width));
    if let Some(pace) = Pace::of(&model.run) {
        let text = format!(
            "{} a candidate, half in {} to {}",
            seconds(pace.median_ms),
            seconds(pace.low_ms),
            seconds(pace.high_ms)
        );
        lines.push(Line::from(span(text, DIM)));
    }
    lines.extend(race(model, area.width));
    lines
}

/// Rows of the rounds that are over, with their heading.
pub fn learned_rows(model: &Model) -> u16 {
    match model.run.learned.len() {
        0 => 0,
        n => (n.min(SHOWN_ROUNDS) + 3) as u16,
    }
}

const SHOWN_ROUNDS: usize = 8;

/// The latest rounds of learning that are over.
pub fn draw_learned(model: &Model, area: Rect, buffer: &mut Buffer) {
    let rounds = &model.run.learned;
    if rounds.is_empty() {
        return;
    }
    let about = vec![span("nats a token, before → after ", DIM)];
    let inner = panel(title("learned", about), area, buffer);
    let heading = format!(
        "{} {} {} {} {} {}",
        left("round", 12),
        left("from", 16),
        right("texts", 6),
        left("  taught", 17),
        left("  held back", 17),
        right("time", 7)
    );
    let mut lines = vec![Line::from(span(heading, DIM))];
    let shown = rounds.iter().skip(rounds.len().saturating_sub(SHOWN_ROUNDS));
    lines.extend(shown.map(|round| round_line(round, inner.width)));
    put_lines(&lines, inner, buffer);
}

fn round_line(round: &Learned, columns: u16) -> Line<'static> {
    let change = |[before, after]: [f64; 2]| left(&format!("  {before:.3} → {after:.3}"), 17);
    let who = format!("{} {}", left(&round.id, 12), left(&round.from, 16));
    let what = match &round.failed {
        Some(reason) => format!(" nothing: {}", clean(reason)),
        None => format!(
            " {} {} {} {}",
            right(&count(round.texts as u64), 6),
            change(round.taught),
            change(round.held_back),
            right(&short_duration(round.elapsed_ms), 7)
        ),
    };
    let room = usize::from(columns).saturating_sub(29);
    Line::from(vec![span(who, PLAIN), span(cut(&what, room), DIM)])
}

/// Lines of the panel besides the workers'.
const BESIDES: u16 = 3;

/// Whoever evaluates elsewhere: where, what, how fast, when last heard of.
fn workers(model: &Model, area: Rect) -> Vec<Line<'static>> {
    let all: Vec<&SeenWorker> = model.run.hands().collect();
    let speed = |seen: &SeenWorker| seen.worker.doing.as_ref().map_or(0.0, |doing| doing.tokens_per_s);
    let at_work = all.iter().filter(|seen| seen.worker.doing.is_some()).count();
    let total: f64 = all.iter().map(|seen| speed(seen)).sum();
    let head = Parts::default()
        .left(0, vec![span(format!("{} workers", all.len()), BOLD)])
        .left(1, vec![span(format!("{at_work} at work"), PLAIN)])
        .right(1, vec![span(format!("{total:.0} tok/s"), PLAIN)]);
    let mut lines = vec![head.fit(area.width.into())];
    let room = usize::from(area.height.saturating_sub(BESIDES + 1)).max(1);
    lines.extend(all.iter().take(room).map(|seen| worker_line(model, seen, area.width)));
    if all.len() > room {
        lines.push(Line::from(span(format!("and {} more", all.len() - room), DIM)));
    }
    lines
}

fn worker_line(model: &Model, seen: &SeenWorker, columns: u16) -> Line<'static> {
    let worker = &seen.worker;
    let mut parts = Parts::default()
        .left(0, vec![span(clean(&worker.worker), PLAIN)])
        .left(2, vec![span(clean(&format!("{} {}", worker.host, worker.device)), DIM)]);
    parts = match &worker.doing {
        Some(doing) => parts
            .left(1, vec![span(clean(&format!("{} {}", doing.id, doing.stage)), ACCENT)])
            .left(3, vec![span(format!("{}/{}", doing.answered, doing.questions), PLAIN)])
            .right(1, vec![span(format!("{:.0} tok/s", doing.tokens_per_s), PLAIN)]),
        None => parts.left(1, vec![span("waits", DIM)]),
    };
    let silent = model.now_ms.saturating_sub(seen.time_ms);
    parts
        .right(4, vec![span(format!("busy {:.0} %", 100.0 * busy_share(worker)), DIM)])
        .right(3, vec![span(short_duration(silent), DIM)])
        .fit(columns.into())
}

/// How far the last generation's race can be trusted.
fn race(model: &Model, columns: u16) -> Vec<Line<'static>> {
    let generation = model.run.generations.last().map(|g| &g.generation);
    let Some((generation, block)) = generation.and_then(|g| Some((g, g.block?))) else {
        return Vec::new();
    };
    let mut text = format!("race: the last ones were asked {} questions", count(block as u64));
    for (what, value) in [
        (" · τ first questions against all", generation.tau),
        (" · halves agree", generation.split_half),
    ] {
        if let Some(value) = value {
            text += &format!("{what} {value:.2}");
        }
    }
    let rows = wrap(&text, columns.into()).into_iter();
    rows.map(|row| Line::from(span(row, DIM))).collect()
}

/// The engine on one line, for the compact layout.
pub fn line(model: &Model, columns: u16) -> Line<'static> {
    if let Some((learning, curve)) = model.run.learning.as_ref().filter(|_| !model.is_over()) {
        let losses: Vec<f64> = curve.iter().map(|point| point.taught).collect();
        return Parts::default()
            .left(1, vec![span("engine", DIM)])
            .left(
                0,
                vec![span(learning.id.clone(), BOLD), span(" learns".to_owned(), ACCENT)],
            )
            .left(
                1,
                vec![span(format!("step {}/{}", learning.point.step, learning.steps), PLAIN)],
            )
            .right(1, vec![span(format!("loss {:.3}", learning.point.taught), PLAIN)])
            .right(4, vec![span(sparkline(&losses, 12), DIM)])
            .fit(columns.into());
    }
    let Some(working) = model.run.working.as_ref().filter(|_| !model.is_over()) else {
        return Line::from(vec![span("engine  ", DIM), span(idle(model), DIM)]);
    };
    let mut parts = Parts::default()
        .left(1, vec![span("engine", DIM)])
        .left(0, vec![span(working.id.clone(), BOLD)]);
    parts = parts.left(0, vec![span(stage(working).to_owned(), ACCENT)]);
    if let Some(p) = &working.progress {
        parts = parts.left(1, progress_bar(fraction(working), 10));
        parts = parts.left(2, vec![span(format!("{}/{} answers", p.answered, p.questions), PLAIN)]);
    }
    if let Some(speed) = working.speeds.last() {
        parts = parts.right(1, vec![span(format!("{speed:.0} tok/s"), PLAIN)]);
    }
    parts
        .right(4, vec![span(sparkline(&working.speeds, 12), DIM)])
        .fit(columns.into())
}

fn working_lines(model: &Model, working: &Working, columns: u16) -> Vec<Line<'static>> {
    let origin = working.origin.as_ref().map(origin_name).unwrap_or_default();
    let generation = working
        .generation
        .map(|g| format!(" · generation {g}"))
        .unwrap_or_default();
    let since = duration(model.now_ms.saturating_sub(working.since_ms));
    let first = Parts::default()
        .left(
            0,
            vec![
                span(working.id.clone(), BOLD),
                span(format!(" {origin}{generation}"), DIM),
            ],
        )
        .right(1, vec![span(since, DIM)]);
    let mut lines = vec![first.fit(columns.into()), stages(working)];
    let answered = working.progress.as_ref().map_or((0, 0), |p| (p.answered, p.questions));
    let mut bar = progress_bar(fraction(working), usize::from(columns).saturating_sub(24).clamp(6, 40));
    bar.push(span(format!("  {}/{}", answered.0, answered.1), PLAIN));
    lines.push(Line::from(bar));
    let speed = working
        .speeds
        .last()
        .map(|s| format!("{s:.0} tok/s "))
        .unwrap_or_default();
    let space = usize::from(columns).saturating_sub(speed.len() + 1);
    lines.push(Line::from(vec![
        span(speed, PLAIN),
        span(sparkline(&working.speeds, space), ACCENT),
    ]));
    lines
}

/// A round of learning: how far, the losses of both kinds of texts, and the genes that have moved most.
fn learning_lines(model: &Model, learning: &Learning, curve: &[LearningStep], columns: u16) -> Vec<Line<'static>> {
    let columns = usize::from(columns);
    let step = learning.point.step;
    let first = Parts::default()
        .left(
            0,
            vec![span(learning.id.clone(), BOLD), span(" is learned".to_owned(), DIM)],
        )
        .left(2, vec![span(format!("from {}", learning.from), DIM)]);
    let mut bar = progress_bar(
        step as f64 / learning.steps.max(1) as f64,
        columns.saturating_sub(24).clamp(6, 40),
    );
    bar.push(span(format!("  step {step}/{}", learning.steps), PLAIN));
    let loss = |name: &str, losses: &[f64]| {
        let last = losses
            .last()
            .map_or_else(|| "–".to_owned(), |loss| format!("{loss:.3}"));
        let words = format!("{name:<10}{last} ");
        let space = columns.saturating_sub(words.len() + 1);
        Line::from(vec![span(words, PLAIN), span(sparkline(losses, space), ACCENT)])
    };
    let taught: Vec<f64> = curve.iter().map(|point| point.taught).collect();
    let held_back: Vec<f64> = curve.iter().filter_map(|point| point.held_back).collect();
    let mut lines = vec![
        first.fit(columns),
        Line::from(bar),
        loss("taught", &taught),
        loss("held back", &held_back),
    ];
    lines.extend(moved(model, learning).map(|text| Line::from(span(text, DIM))));
    lines
}

/// The genes farthest from where the round began, if that is known.
fn moved(model: &Model, learning: &Learning) -> Option<String> {
    const SHOWN: usize = 3;
    let from = model.run.candidate(&learning.from).map(|c| c.genotype.as_slice());
    let genes = model.run.stages.last().map(|stage| &stage.genes);
    let genes = genes.or(model.run.started.as_ref().map(|started| &started.genes))?;
    let from = from.filter(|from| from.len() == learning.genotype.len());
    let mut all: Vec<(f64, &String, f64)> = genes
        .iter()
        .zip(&learning.genotype)
        .enumerate()
        // Where a round begins at an unsearched merge, weights are 1 or near it.
        .map(|(i, (gene, now))| ((now - from.map_or(1.0, |from| from[i])).abs(), gene, *now))
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let words: Vec<String> = all
        .iter()
        .take(SHOWN)
        .map(|(_, gene, now)| format!("{gene} {now:.2}"))
        .collect();
    (!words.is_empty()).then(|| words.join(" · "))
}

/// `merge › prefill › decode` with the present one marked.
fn stages(working: &Working) -> Line<'static> {
    let mut spans: Vec<Span> = Vec::new();
    for (i, name) in STAGES.into_iter().enumerate() {
        if i > 0 {
            spans.push(span(" › ", DIM));
        }
        match name == stage(working) {
            true => spans.push(span(format!("[{name}]"), ACCENT)),
            false => spans.push(span(name, DIM)),
        }
    }
    Line::from(spans)
}

fn stage(working: &Working) -> &str {
    working
        .progress
        .as_ref()
        .map_or("between candidates", |p| p.stage.as_str())
}

fn fraction(working: &Working) -> f64 {
    working
        .progress
        .as_ref()
        .map_or(0.0, |p| p.answered as f64 / p.questions.max(1) as f64)
}

fn idle(model: &Model) -> &'static str {
    match (model.is_over(), model.paused) {
        (true, _) => "at rest: the run is not going on",
        (false, true) => "paused",
        (false, false) => "no live progress from this run",
    }
}

fn totals(model: &Model, columns: u16) -> Line<'static> {
    let run = &model.run;
    let cached = run.scored.iter().filter(|s| s.candidate.cached).count();
    let mut parts = Parts::default()
        .left(0, vec![span(format!("{} answers", count(run.answers)), DIM)])
        .left(1, vec![span(format!("{} tokens", count(run.generated_tokens)), DIM)]);
    if cached > 0 {
        parts = parts.left(2, vec![span(format!("{cached} from the cache"), DIM)]);
    }
    parts.fit(columns.into())
}

fn seconds(ms: f64) -> String {
    short_duration(ms as u64)
}
