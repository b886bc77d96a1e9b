//! What the model looks like: a pure drawing, laid out for 80×24 (one column), 120×40 (two) and 200×60 (three).

mod board;
mod candidate;
mod chart;
mod engine;
mod log;
mod overlay;
mod pareto;
mod result;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Widget};

use super::appearance::{ACCENT, BAD, BASELINE, BEST, BOLD, DIM, GOOD, PARENT, PLAIN};
use super::model::{Model, Page, Tab};
use super::pace::{self, Pace};
use super::text::{Parts, clean, span};
use super::update::{has_board, has_filter};
use crate::event::exam::Exam;
use crate::event::freshness::Freshness;
use crate::event::run::{Lead, Run, State};
use crate::event::verdict::strongest;
use crate::event::words::{Unit, count, counted, duration, duration_range, p_value, parent_name};
use crate::event::{Origin, Phase, TestReading};

/// Draws the whole screen.
pub fn draw(model: &Model, frame: &mut Frame) {
    let area = frame.area();
    render(model, area, frame.buffer_mut());
}

pub(super) fn render(model: &Model, area: Rect, buffer: &mut Buffer) {
    Clear.render(area, buffer);
    if area.height < 8 || area.width < 30 {
        tiny(model, area, buffer);
    } else {
        let [header, _, body, footer] = Layout::vertical([
            Constraint::Length(4),
            Constraint::Length(u16::from(area.height >= 30)),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(area);
        self::header(model, header, buffer);
        self::body(model, body, buffer);
        self::footer(model, footer, buffer);
    }
    if let Some(overlay) = model.overlay {
        overlay::draw(model, overlay, area, buffer);
    }
    model.appearance.adapt(buffer);
}

/// A terminal the size of a stamp still tells the most important thing.
fn tiny(model: &Model, area: Rect, buffer: &mut Buffer) {
    let lines = [
        best_line(model, area.width),
        progress_line(model, area.width),
        state_line(model, area.width),
    ];
    put_lines(&lines, area, buffer);
}

fn header(model: &Model, area: Rect, buffer: &mut Buffer) {
    let inner = area.width.saturating_sub(2);
    let lines = [
        state_line(model, inner),
        progress_line(model, inner),
        best_line(model, inner),
        tabs(model, inner),
    ];
    put_lines(&lines, indented(area), buffer);
}

/// Which run, in which state, for how long.
fn state_line(model: &Model, columns: u16) -> Line<'static> {
    let run = &model.run;
    let name = run
        .started
        .as_ref()
        .map_or("waiting for a run", |s| s.name.as_str())
        .to_owned();
    let mut parts = Parts::default()
        .left(3, vec![span("heterosis", ACCENT.add_modifier(Modifier::BOLD))])
        .left(0, vec![span(name, BOLD)])
        .left(0, vec![state(model)]);
    if let Some(started) = &run.started {
        let resumes = if run.resumes > 0 {
            format!(" · resumed {}×", run.resumes)
        } else {
            String::new()
        };
        parts = parts
            .left(
                5,
                vec![span(
                    format!("{} · seed {}{resumes}", started.optimizer, started.seed),
                    DIM,
                )],
            )
            .left(6, vec![span(clean(&started.answered_by()), DIM)]);
    }
    let elapsed = duration(run.elapsed(model.now_ms));
    parts
        .right(1, vec![span("elapsed ", DIM), span(elapsed, PLAIN)])
        .fit(columns.into())
}

/// A sign and a word for where the run stands.
fn state(model: &Model) -> Span<'static> {
    let run = &model.run;
    let phase = match run.phase {
        Some(Phase::Baselines) => "scoring parents",
        Some(Phase::Search) | None => match run.stages.last().map(|s| s.stage.as_str()) {
            Some("data_flow_space") => "searching layers",
            Some("joint") => "searching weights and layers",
            _ if run.stages.len() > 1 => "searching weights",
            _ => "searching",
        },
        Some(Phase::Selection) => "selecting",
        Some(Phase::Test) => "testing",
        Some(Phase::HeldOut) => "held out",
    };
    match &run.state {
        State::Waiting => span("○ waiting", DIM),
        State::Done => span("✓ done", GOOD),
        State::Failed(_) => span("✗ failed", BAD),
        State::Stopped(_) => span("■ stopped", BEST),
        State::Running if model.feed_ended => span("■ not running", BEST),
        State::Running if model.stopping => span("▼ stopping", BEST),
        State::Running if model.paused => span("‖ paused", BEST),
        State::Running => match run.exam.as_ref().filter(|exam| !exam.is_over()) {
            Some(exam) => span(format!("● {phase} {} of {}", exam.turn(), exam.examinees.len()), GOOD),
            None => span(format!("● {phase}"), GOOD),
        },
    }
}

/// How far, how fast, and when it ends.
fn progress_line(model: &Model, columns: u16) -> Line<'static> {
    let run = &model.run;
    let pace = Pace::of(run).map(|p| span(format!("{:.0}/h", p.per_hour()), PLAIN));
    let answers = span(format!("{} answers", count(run.answers)), DIM);
    let mut parts = Parts::default();
    if let Some(fraction) = budget_used(model) {
        let size = if columns >= 100 { 30 } else { 16 };
        parts = parts.left(2, progress_bar(fraction, size));
    }
    parts = parts.left(0, evals(run));
    if let Some(pace) = pace {
        parts = parts.left(2, vec![pace]);
    }
    parts = parts.left(3, vec![answers]);
    if let Some(ending) = ending(model) {
        parts = parts.right(0, ending);
    }
    if let Some(then) = then(model) {
        parts = parts.right(3, then);
    }
    parts.fit(columns.into())
}

fn evals(run: &Run) -> Vec<Span<'static>> {
    let budget = run.started.as_ref().and_then(|s| s.budget.evals);
    let of = budget.map(|n| format!(" of {}", count(n))).unwrap_or_default();
    vec![span(count(run.evals), BOLD), span(format!("{of} evals"), PLAIN)]
}

/// Share of the budget that is used: of evaluations or time, whichever is further; then of the part of the final that runs.
fn budget_used(model: &Model) -> Option<f64> {
    let budget = model.run.started.as_ref()?.budget;
    if model.run.search_ended.is_some() {
        return Some(model.run.exam.as_ref().map_or(1.0, Exam::share));
    }
    let evals = budget.evals.map(|n| model.run.evals as f64 / n.max(1) as f64);
    let time = budget
        .duration_ms
        .map(|ms| model.run.elapsed(model.now_ms) as f64 / ms.max(1) as f64);
    evals.into_iter().chain(time).reduce(f64::max)
}

fn progress_bar(fraction: f64, size: usize) -> Vec<Span<'static>> {
    let done = ((fraction.clamp(0.0, 1.0) * size as f64).round() as usize).min(size);
    vec![
        span("━".repeat(done), ACCENT),
        span("╌".repeat(size - done), DIM),
        span(format!(" {:.0}%", 100.0 * fraction.clamp(0.0, 1.0)), PLAIN),
    ]
}

fn ending(model: &Model) -> Option<Vec<Span<'static>>> {
    let run = &model.run;
    if let Some((low, high)) = pace::search_ends_in(run, model.now_ms) {
        return Some(match model.paused {
            true => vec![span("paused", BEST)],
            false => vec![span("search ends in ", DIM), span(duration_range(low, high), BOLD)],
        });
    }
    match &run.state {
        State::Running if run.search_ended.is_some() => Some(match run.final_left_ms() {
            Some(ms) => vec![span("final ends in ", DIM), span(duration_range(ms, ms), BOLD)],
            None => vec![span("search over, final runs", PLAIN)],
        }),
        State::Done => Some(vec![span("result: 7", DIM)]),
        State::Stopped(_) => Some(vec![span("resume goes on", DIM)]),
        State::Failed(_) => Some(vec![span("why: 7", BAD)]),
        _ => None,
    }
}

/// What comes after the search.
fn then(model: &Model) -> Option<Vec<Span<'static>>> {
    let run = &model.run;
    let ms = run
        .final_left_ms()
        .filter(|_| run.search_ended.is_none() && !model.is_over())?;
    Some(vec![span("then final ", DIM), span(duration_range(ms, ms), PLAIN)])
}

/// What is best, how sure that is, and by how much it leads.
fn best_line(model: &Model, columns: u16) -> Line<'static> {
    let run = &model.run;
    if let Some(reading) = &run.reading {
        return test_line(run, reading).fit(columns.into());
    }
    let Some(best) = run.winner() else {
        let text = run.best_parent().map(|p| {
            format!(
                "no child yet · best parent {} {}",
                parent_name(&p.id),
                run.unit().full(p.fitness, p.stderr)
            )
        });
        return Line::from(span(text.unwrap_or_else(|| "no score yet".into()), DIM));
    };
    if let Some((best, rival, lead)) = run.lead_in_selection() {
        return Parts::default()
            .left(0, best_score(run.unit(), &best.id, best.fresh.value, best.fresh.stderr))
            .left(4, vec![span(format!("SE (n={})", count(best.fresh.n as u64)), DIM)])
            .lead(run.unit(), lead, &rival.id, rival.fresh.value)
            .left(
                5,
                vec![span(
                    format!("on {} questions", Freshness::of(run).selection_word()),
                    DIM,
                )],
            )
            .fit(columns.into());
    }
    let mut parts = Parts::default().left(0, best_score(run.unit(), &best.id, best.fitness, best.stderr));
    if best.n > 1 {
        parts = parts.left(4, vec![span(format!("SE (n={})", count(best.n as u64)), DIM)]);
    }
    // The best of many beats a parent easily; what nobody searched for is the figure to beat.
    let unsearched = run.best_unsearched().filter(|_| best.origin != Origin::Baseline);
    if let Some(parent) = run.best_parent() {
        let lead = run.lead(best, parent);
        parts = match unsearched.is_some() && columns < 100 {
            true => parts.left(1, lead_over(run.unit(), lead, &parent.id, PARENT)),
            false => parts.lead(run.unit(), lead, &parent.id, parent.fitness),
        };
    }
    if let Some(unsearched) = unsearched {
        let lead = run.lead(best, unsearched);
        // On a narrow screen a long name leaves no room for the error.
        let lead = match columns < 100 && unsearched.id.len() > 10 {
            true => Lead { stderr: None, ..lead },
            false => lead,
        };
        parts = parts.left(1, lead_over(run.unit(), lead, &unsearched.id, BASELINE));
    }
    if run.best_parent().is_some() {
        parts = parts.left(5, vec![span("on the search's questions", DIM)]);
    }
    parts.fit(columns.into())
}

fn best_score(unit: Unit, id: &str, value: f64, stderr: f64) -> Vec<Span<'static>> {
    vec![
        span("best ", DIM),
        span(id.to_owned(), BEST.add_modifier(Modifier::BOLD)),
        span(format!(" {}", unit.full(value, stderr)), BOLD),
    ]
}

/// The same, once the test has spoken: the search's own score no longer counts. The lead is over the best of the parents and
/// of the merges that nobody searched for.
fn test_line(run: &Run, reading: &TestReading) -> Parts<'static> {
    let (unit, best) = (run.unit(), &reading.best);
    let n = format!(
        "SE (n={}, {})",
        count(best.score.n as u64),
        Freshness::of(run).test_word()
    );
    let parts = Parts::default()
        .left(0, best_score(unit, &best.id, best.score.value, best.score.stderr))
        .left(4, vec![span(n, DIM)]);
    let Some(rival) = strongest(run, reading) else {
        return parts;
    };
    let lead = Lead {
        difference: rival.difference,
        stderr: None,
        p_value: Some(rival.p_value),
    };
    parts.lead(unit, lead, &rival.score.id, rival.score.score.value)
}

impl Parts<'static> {
    /// `▲ +12.4 ± 3.0 over maths 47.8  p = 0.0031`.
    fn lead(self, unit: Unit, lead: Lead, parent: &str, score: f64) -> Self {
        let mut spans = lead_over(unit, lead, parent, PARENT);
        spans.push(span(format!(" {}", unit.value(score)), DIM));
        let parts = self.left(1, spans);
        match lead.p_value {
            Some(p) => parts.left(2, vec![span(p_value(p), DIM)]),
            None => parts,
        }
    }
}

/// Of a difference: good, bad, or neither where nothing of it is left in words.
fn colour_of(unit: Unit, difference: f64) -> Style {
    match difference > 0.0 {
        _ if unit.is_nothing(difference) => DIM,
        true => GOOD,
        false => BAD,
    }
}

/// `▲ +12.4 ± 3.0 over maths`; `= +0.0 against maths`, which is neither.
fn lead_over(unit: Unit, lead: Lead, other: &str, style: Style) -> Vec<Span<'static>> {
    let is_ahead = lead.difference > 0.0;
    let sign = match is_ahead {
        _ if unit.is_nothing(lead.difference) => "=",
        true => "▲",
        false => "▼",
    };
    let error = lead.stderr.map(|e| format!(" ± {}", unit.value(e))).unwrap_or_default();
    vec![
        span(
            format!("{sign} {}{error}", unit.signed(lead.difference)),
            colour_of(unit, lead.difference),
        ),
        span(if is_ahead { " over " } else { " against " }, DIM),
        span(parent_name(other).to_owned(), style),
    ]
}

fn tabs(model: &Model, columns: u16) -> Line<'static> {
    if let Some(detail) = &model.detail {
        return candidate::tabs(detail, columns);
    }
    let wide = columns >= 72;
    let mut line = Line::default();
    for (i, page) in Page::ALL.into_iter().enumerate() {
        let here = page == model.page;
        let name = if wide || here {
            format!(" {} {} ", i + 1, page.name())
        } else {
            format!(" {} ", i + 1)
        };
        line.push_span(span(
            name,
            if here {
                ACCENT.add_modifier(Modifier::REVERSED)
            } else {
                DIM
            },
        ));
    }
    line
}

fn body(model: &Model, area: Rect, buffer: &mut Buffer) {
    if model.detail.is_some() {
        return candidate::draw(model, area, buffer);
    }
    match model.page {
        Page::Overview => overview(model, area, buffer),
        Page::Chart => chart::draw(model, area, buffer),
        Page::Board => board_page(model, area, buffer),
        Page::Pareto => pareto::draw(model, area, buffer),
        Page::Engine => engine_page(model, area, buffer),
        Page::Log => log::draw(model, area, buffer),
        Page::Result => result::draw(model, area, buffer),
    }
}

fn overview(model: &Model, area: Rect, buffer: &mut Buffer) {
    if area.width >= 160 && area.height >= 40 {
        let [left, middle, right] = three_columns(model, area);
        let [chart, log] = Layout::vertical([Constraint::Percentage(62), Constraint::Fill(1)]).areas(left);
        let [board, engine] = Layout::vertical([Constraint::Fill(1), Constraint::Length(9)]).areas(middle);
        chart::draw(model, chart, buffer);
        log::draw(model, log, buffer);
        board::draw(model, board, buffer);
        engine::draw(model, engine, buffer);
        candidate::aside(model, right, buffer);
    } else if area.width >= 100 && area.height >= 26 {
        let [top, bottom] = Layout::vertical([Constraint::Percentage(50), Constraint::Fill(1)]).areas(area);
        let [board, right] = beside_board(model, bottom, bottom.width * 36 / 100);
        let [engine, log] = Layout::vertical([Constraint::Length(7), Constraint::Fill(1)]).areas(right);
        chart::draw(model, top, buffer);
        board::draw(model, board, buffer);
        engine::draw(model, engine, buffer);
        log::draw(model, log, buffer);
    } else {
        let [chart, board, engine, log] = Layout::vertical([
            Constraint::Percentage(48),
            Constraint::Fill(1),
            Constraint::Length(u16::from(area.height >= 10)),
            Constraint::Length(u16::from(area.height >= 12)),
        ])
        .areas(area);
        chart::draw(model, chart, buffer);
        board::draw(model, board, buffer);
        put_lines(
            &[engine::line(model, engine.width.saturating_sub(2))],
            indented(engine),
            buffer,
        );
        put_lines(&[log::last(model, log.width.saturating_sub(2))], indented(log), buffer);
    }
}

/// Columns that a candidate's panel needs to be read.
const CANDIDATE: u16 = 48;

/// Chart, leaderboard and candidate: what the board does not need goes to the candidate.
fn three_columns(model: &Model, area: Rect) -> [Rect; 3] {
    let [left, rest] = columns(area, [31, 69]);
    let [middle, right] = beside_board(model, rest, CANDIDATE);
    [left, middle, right]
}

/// The leaderboard with all its columns, if `least` are left for what stands beside it.
fn beside_board(model: &Model, area: Rect, least: u16) -> [Rect; 2] {
    let most = area.width.saturating_sub(least + 2);
    let board = board::natural_columns(model).min(most);
    Layout::horizontal([Constraint::Length(board), Constraint::Fill(1)])
        .spacing(2)
        .areas(area)
}

/// The leaderboard, and the chosen candidate beside it where there is room for both.
fn board_page(model: &Model, area: Rect, buffer: &mut Buffer) {
    let board_columns = board::natural_columns(model);
    if area.width < board_columns + 2 + CANDIDATE || area.height < PICTURE || model.rows().is_empty() {
        return board::draw(model, area, buffer);
    }
    let [board, right] = beside_board(model, area, CANDIDATE);
    board::draw(model, board, buffer);
    candidate::aside(model, right, buffer);
}

/// What the engine does; on a high screen with what it has learned, and the log.
fn engine_page(model: &Model, area: Rect, buffer: &mut Buffer) {
    let needed = engine::rows(model) + 1;
    if area.height < needed + PICTURE {
        return engine::draw(model, area, buffer);
    }
    let [engine, below] = Layout::vertical([Constraint::Length(needed), Constraint::Fill(1)]).areas(area);
    engine::draw(model, engine, buffer);
    let learned = engine::learned_rows(model);
    let [learned, log] = Layout::vertical([Constraint::Length(learned), Constraint::Fill(1)]).areas(below);
    engine::draw_learned(model, learned, buffer);
    log::draw(model, log, buffer);
}

fn footer(model: &Model, area: Rect, buffer: &mut Buffer) {
    let area = indented(area);
    let line = if model.typing {
        let filter = if model.page == Page::Log {
            &model.log.filter
        } else {
            &model.board.filter
        };
        Line::from(vec![
            span("/", ACCENT),
            span(format!("{filter}▏"), BOLD),
            span("  Enter keeps · Esc clears", DIM),
        ])
    } else if let Some(notice) = &model.notice {
        Line::from(span(notice.clone(), BEST))
    } else {
        keys(model, area.width)
    };
    put_lines(&[line], area, buffer);
}

fn keys(model: &Model, columns: u16) -> Line<'static> {
    let mut keys: Vec<(u8, &str, &str)> = vec![(0, "?", "help")];
    if let Some(detail) = &model.detail {
        keys.extend([
            (1, "Esc", "back"),
            (2, "Tab", "next tab"),
            (3, "j/k", "move"),
            (5, "n/N", "next candidate"),
        ]);
        if detail.tab == Tab::Flips {
            keys.extend([(4, "f", "lost/gained"), (4, "[ ]", "against")]);
        }
        keys.push((6, "e", "export"));
    } else {
        keys.push((3, "1-7", "pages"));
        if has_board(model.page) {
            keys.extend([(2, "Enter", "open"), (4, "j/k", "choose"), (5, "s", "sort")]);
        }
        if has_filter(model.page) {
            keys.push((5, "/", "filter"));
        }
        match model.page {
            Page::Chart => keys.extend([(2, "x", "time/evals"), (3, "z", "zoom")]),
            Page::Pareto => keys.push((2, "x y", "axes")),
            Page::Log => keys.extend([(4, "j/k", "scroll"), (4, "v", "level")]),
            Page::Result => keys.push((2, "Enter", "open the winner")),
            _ => {}
        }
        if model.is_over() {
            keys.push((1, "e", "export"));
        } else {
            keys.extend([
                (2, "p", if model.paused { "go on" } else { "pause" }),
                (2, "S", "stop"),
                (6, "e", "export"),
            ]);
        }
    }
    keys.push((
        0,
        "q",
        if model.is_over() {
            "quit"
        } else {
            "leave, search goes on"
        },
    ));
    let mut parts = Parts::default();
    for (importance, key, what) in keys {
        parts = parts.left(
            importance,
            vec![span(key.to_owned(), ACCENT), span(format!(" {what}"), DIM)],
        );
    }
    parts.fit(columns.into())
}

/// A panel: a rule with a title on top, a column of air on each side.
fn panel(title: Line<'static>, area: Rect, buffer: &mut Buffer) -> Rect {
    let block = Block::new().borders(Borders::TOP).border_style(DIM).title(title);
    let inner = block.inner(area);
    block.render(area, buffer);
    indented(inner)
}

/// ` name ` with an explanation behind it, as a panel's title.
fn title(name: &str, rest: Vec<Span<'static>>) -> Line<'static> {
    let mut line = Line::from(vec![span("─ ", DIM), span(name.to_owned(), BOLD), span(" ", PLAIN)]);
    line.spans.extend(rest);
    line
}

/// A sign of a picture, and what it means in full and in short.
struct Sign {
    symbol: &'static str,
    style: Style,
    means: &'static str,
    short: &'static str,
}

/// Rows below which a picture keeps all of its room to itself.
const PICTURE: u16 = 8;

/// A picture's panel with its legend: behind the title where that fits, else in rows of its own, else in part.
fn pictured(name: &str, about: Vec<Span<'static>>, signs: &[Sign], area: Rect, buffer: &mut Buffer) -> Rect {
    let of = |sign: &Sign, means: &'static str| vec![span(sign.symbol, sign.style), span(format!(" {means}  "), DIM)];
    let long: Vec<Span> = signs.iter().flat_map(|sign| of(sign, sign.means)).collect();
    let short: Vec<Vec<Span>> = signs.iter().map(|sign| of(sign, sign.short)).collect();
    let titled = |legend: Vec<Span<'static>>| title(name, [about.clone(), legend].concat());
    let fits = |line: &Line| line.width() < usize::from(area.width);
    let all = short.concat();
    if let Some(line) = [titled(long), titled(all)].into_iter().find(fits) {
        return panel(line, area, buffer);
    }
    if area.height <= PICTURE {
        let most = (0..=short.len()).rev().map(|n| titled(short[..n].concat()));
        let line = most.into_iter().find(fits).unwrap_or_else(|| title(name, Vec::new()));
        return panel(line, area, buffer);
    }
    let inner = panel(titled(Vec::new()), area, buffer);
    let rows = in_rows(short, inner.width);
    put_lines(&rows, inner, buffer);
    let taken = (rows.len() as u16).min(inner.height);
    Rect {
        y: inner.y + taken,
        height: inner.height - taken,
        ..inner
    }
}

/// As many parts in each row as fit there.
fn in_rows(parts: Vec<Vec<Span<'static>>>, columns: u16) -> Vec<Line<'static>> {
    let mut rows: Vec<Line> = Vec::new();
    for part in parts {
        let size: usize = part.iter().map(Span::width).sum();
        match rows.last_mut() {
            // The air behind the last part may be cut.
            Some(row) if row.width() + size <= usize::from(columns) + 2 => row.spans.extend(part),
            _ => rows.push(Line::from(part)),
        }
    }
    rows
}

fn indented(area: Rect) -> Rect {
    let by = area.width.min(1);
    Rect {
        x: area.x + by,
        width: area.width.saturating_sub(2),
        ..area
    }
}

/// Columns by percentage with two columns of air in between.
fn columns<const N: usize>(area: Rect, percent: [u16; N]) -> [Rect; N] {
    Layout::horizontal(percent.map(Constraint::Percentage))
        .spacing(2)
        .areas(area)
}

/// One line a row; what does not fit is cut.
fn put_lines(lines: &[Line], area: Rect, buffer: &mut Buffer) {
    for (line, row) in lines.iter().zip(area.rows()) {
        buffer.set_line(row.x, row.y, line, row.width);
    }
}

/// So many lines from one of them on, the last one telling what is below and how to come there.
fn window(lines: Vec<Line<'static>>, rows: usize, from: usize) -> Vec<Line<'static>> {
    let (all, most) = (lines.len(), rows.saturating_sub(1));
    if all <= rows {
        return lines;
    }
    let from = from.min(all - most);
    let below = all - most - from;
    let told = match below {
        0 => "end · k: up".to_owned(),
        n => format!("{} more · j: down, k: up", counted(n, "line")),
    };
    let shown = lines.into_iter().skip(from).take(most);
    shown.chain([Line::from(span(told, DIM))]).collect()
}

/// First index of `shown` rows so that the chosen one is among them.
fn first_row(chosen: usize, shown: usize, all: usize) -> usize {
    let centred = chosen.saturating_sub(shown / 2);
    centred.min(all.saturating_sub(shown))
}

fn origin_style(origin: &Origin) -> Style {
    match origin {
        Origin::Parent => PARENT,
        Origin::Baseline => BASELINE,
        _ => PLAIN,
    }
}
