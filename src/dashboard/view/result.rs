//! The end: who won, by how much, how sure that is, what it cost, and what to do next.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use super::{colour_of, first_row, origin_style, panel, put_lines, title, window};
use crate::dashboard::appearance::{ACCENT, BAD, BEST, BOLD, DIM, GOOD, PARENT, PLAIN};
use crate::dashboard::model::Model;
use crate::dashboard::text::{bar, left, right, span, wrap};
use crate::event::exam::Exam;
use crate::event::freshness::Freshness;
use crate::event::run::{State, origin_name};
use crate::event::verdict::{Outcome, flips, told, verdict};
use crate::event::words::{Unit, count, p_value, parent_name, task_name};
use crate::event::{Phase, Selection, TestReading, TestScore};

pub fn draw(model: &Model, area: Rect, buffer: &mut Buffer) {
    let inner = panel(title("result", Vec::new()), area, buffer);
    let columns = usize::from(inner.width);
    let mut lines = Vec::new();
    match &model.run.reading {
        Some(reading) => {
            lines.extend(sentence(model, reading, columns));
            lines.push(Line::default());
            lines.extend(contest(model, reading, columns));
        }
        None => lines.extend(not_yet(model, columns)),
    }
    if let Some(exam) = running(model) {
        lines.push(Line::default());
        let rows = usize::from(inner.height).saturating_sub(lines.len());
        lines.extend(examination(model, exam, columns, rows));
    }
    if let Some(selection) = model.run.selection.as_ref() {
        lines.push(Line::default());
        lines.extend(finalists(model, selection));
    }
    let next = next_steps(model);
    // On a low screen the result goes first.
    let next = if usize::from(inner.height) < 2 * next.len() {
        Vec::new()
    } else {
        next
    };
    let mut shown = window(
        lines,
        usize::from(inner.height).saturating_sub(next.len()),
        model.result_from,
    );
    shown.extend(next);
    put_lines(&shown, inner, buffer);
}

/// The part of the final that runs.
fn running(model: &Model) -> Option<&Exam> {
    let exam = model.run.exam.as_ref().filter(|exam| !exam.is_over());
    exam.filter(|_| !model.is_over())
}

/// Everybody who takes part with a bar of what they have answered; who does not fit below is left out, the one at work never.
fn examination(model: &Model, exam: &Exam, columns: usize, rows: usize) -> Vec<Line<'static>> {
    let unit = model.run.unit();
    let of = format!("{} of {}", exam.turn(), exam.examinees.len());
    let what = match exam.phase {
        Phase::HeldOut => "held-out tasks: model",
        Phase::Test => "test: model",
        _ => "selection: finalist",
    };
    let each = match exam.questions {
        0 => String::new(),
        n => format!(" · {} questions each", count(n as u64)),
    };
    let mut lines = vec![Line::from(vec![span(format!("  {what} {of}"), BOLD), span(each, DIM)])];
    let bar_columns = columns.saturating_sub(52).clamp(8, 40);
    let shown = rows.saturating_sub(1).max(1);
    let first = first_row(exam.turn() - 1, shown, exam.examinees.len());
    for examinee in exam.examinees.iter().skip(first).take(shown) {
        let origin = model.run.candidate(&examinee.id).map(|c| &c.origin);
        let share = exam.share_of(examinee);
        let score = examinee.score.map(|score| unit.full_score(&score)).unwrap_or_default();
        lines.push(Line::from(vec![
            span(
                format!("  {}  ", left(parent_name(&examinee.id), 16)),
                origin.map_or(PLAIN, origin_style),
            ),
            span(
                left(&bar(share, bar_columns), bar_columns),
                if examinee.is_done { GOOD } else { ACCENT },
            ),
            span(format!("  {:>6}", count(examinee.answered as u64)), DIM),
            span(format!("  {score}"), PLAIN),
        ]));
    }
    lines
}

fn sentence(model: &Model, reading: &TestReading, columns: usize) -> Vec<Line<'static>> {
    let verdict = verdict(&model.run, reading);
    let (sign, style) = match verdict.outcome {
        Outcome::Won => ("✓ ", GOOD),
        Outcome::Open => ("? ", BEST),
        Outcome::Lost => ("✗ ", BAD),
    };
    let mut lines: Vec<Line> = Vec::new();
    for (i, row) in wrap(&format!("{}.", verdict.sentence), columns.saturating_sub(2))
        .into_iter()
        .enumerate()
    {
        lines.push(Line::from(vec![
            span(if i == 0 { sign } else { "  " }, style),
            span(row, BOLD),
        ]));
    }
    let told: Vec<String> = told(&model.run).into_iter().chain(flips(reading)).collect();
    let more = told.join(" ");
    lines.extend(
        wrap(&more, columns.saturating_sub(2))
            .into_iter()
            .map(|row| Line::from(span(format!("  {row}"), DIM))),
    );
    lines
}

/// Everybody who sat the test, best first, as bars.
fn contest(model: &Model, reading: &TestReading, columns: usize) -> Vec<Line<'static>> {
    let mut field: Vec<(&TestScore, Option<(f64, f64)>)> = vec![
        (&reading.best, None),
        (&reading.best_parent, Some((reading.difference, reading.p_value))),
    ];
    field.extend(
        reading
            .others
            .iter()
            .map(|o| (&o.other, Some((o.difference, o.p_holm)))),
    );
    field.sort_by(|a, b| b.0.score.value.total_cmp(&a.0.score.value));
    let unit = model.run.unit();
    let largest = field.iter().map(|f| f.0.score.value).fold(f64::NEG_INFINITY, f64::max);
    let bar_columns = columns.saturating_sub(63).min(40);
    let heading = format!(
        "  {}  {}  {}  {}",
        left(Freshness::of(&model.run).test_word(), 14),
        right(&unit.heading("score ± SE"), 14),
        left("", bar_columns),
        "child's lead"
    );
    let mut lines = vec![Line::from(span(heading, DIM))];
    for (score, against) in field {
        let style = contest_style(model, reading, &score.id);
        // Log-likelihoods have no zero to draw a bar from.
        let share = if unit == Unit::Percent {
            score.score.value / largest.max(1e-9)
        } else {
            0.0
        };
        let lead = against
            .map(|(d, p)| format!("{:>7}  {}", unit.signed(d), p_value(p)))
            .unwrap_or_default();
        lines.push(Line::from(vec![
            span(if score.id == reading.best.id { "★ " } else { "  " }, style),
            span(left(parent_name(&score.id), 14), style),
            span(format!("  {}  ", right(&unit.score(&score.score), 14)), PLAIN),
            span(left(&bar(share, bar_columns), bar_columns), style),
            span(format!("  {lead}"), DIM),
        ]));
    }
    lines.extend(by_task(model, reading));
    lines
}

fn contest_style(model: &Model, reading: &TestReading, id: &str) -> Style {
    if id == reading.best.id {
        return BEST.add_modifier(Modifier::BOLD);
    }
    model.run.candidate(id).map_or(PLAIN, |c| origin_style(&c.origin))
}

fn by_task(model: &Model, reading: &TestReading) -> Vec<Line<'static>> {
    if reading.best.tasks.len() < 2 {
        return Vec::new();
    }
    let mut lines = vec![Line::default()];
    for (mine, theirs) in reading.best.tasks.iter().zip(&reading.best_parent.tasks) {
        let unit = model.run.task_unit(&mine.task, &mine.lang);
        let difference = mine.score.value - theirs.score.value;
        lines.push(Line::from(vec![
            span(format!("  {}  ", left(&task_name(&mine.task, &mine.lang), 14)), PLAIN),
            span(right(&unit.full_score(&mine.score), 19), PLAIN),
            span(
                format!("  against {}  ", right(&unit.full_score(&theirs.score), 19)),
                DIM,
            ),
            span(format!("{:>7}", unit.signed(difference)), colour_of(unit, difference)),
        ]));
    }
    lines
}

fn finalists(model: &Model, selection: &Selection) -> Vec<Line<'static>> {
    let unit = model.run.unit();
    let heading = format!(
        "  {}  {}  {}  from",
        left("finalists", 14),
        right(
            &unit.heading(&format!("{} ± SE", Freshness::of(&model.run).selection_word())),
            17
        ),
        right("search ± SE", 14)
    );
    let mut lines = vec![Line::from(span(heading, DIM))];
    for finalist in &selection.finalists {
        let won = finalist.id == selection.best;
        let style = if won {
            BEST.add_modifier(Modifier::BOLD)
        } else {
            origin_style(&finalist.origin)
        };
        lines.push(Line::from(vec![
            span(if won { "★ " } else { "  " }, style),
            span(left(parent_name(&finalist.id), 14), style),
            span(format!("  {}  ", right(&unit.score(&finalist.fresh), 17)), PLAIN),
            span(right(&unit.score(&finalist.search), 14), DIM),
            span(format!("  {}", origin_name(&finalist.origin)), DIM),
        ]));
    }
    lines
}

fn not_yet(model: &Model, columns: usize) -> Vec<Line<'static>> {
    let run = &model.run;
    let text = match &run.state {
        State::Failed(reason) => format!("The run failed: {reason}"),
        State::Stopped(reason) => {
            format!("The run was stopped ({reason}) before its final. `heterosis resume` goes on.")
        }
        State::Done => "The run is done; it had no test split to read.".to_owned(),
        _ if run.is_scored_by_command() => {
            "Not decided yet. When the search ends, the command is asked for the finalists again.".to_owned()
        }
        _ => format!("Not decided yet. {}", Freshness::of(run).to_come()),
    };
    let mut lines: Vec<Line> = wrap(&text, columns).into_iter().map(Line::from).collect();
    if let Some(best) = run.best().map(|b| &b.candidate) {
        let unit = run.unit();
        lines.push(Line::default());
        let mut spans: Vec<Span> = vec![
            span("So far ", DIM),
            span(best.id.clone(), BEST),
            span(format!(" {}", unit.full(best.fitness, best.stderr)), BOLD),
        ];
        let rivals = run.best_parent().into_iter().chain(run.best_unsearched());
        let rival = rivals
            .filter(|c| c.id != best.id)
            .max_by(|a, b| a.fitness.total_cmp(&b.fitness));
        if let Some(parent) = rival {
            spans.push(span(" against ", DIM));
            spans.push(span(parent_name(&parent.id).to_owned(), PARENT));
            spans.push(span(format!(" {}", unit.full(parent.fitness, parent.stderr)), PLAIN));
        }
        lines.push(Line::from(spans));
        if run.is_scored_by_command() {
            return lines;
        }
        let caution = "on the questions that the search chooses by: the best of many is always a little lucky there.";
        lines.extend(wrap(caution, columns).into_iter().map(|row| Line::from(span(row, DIM))));
    }
    lines
}

fn next_steps(model: &Model) -> Vec<Line<'static>> {
    if !model.is_over() || model.run.best().is_none() {
        return Vec::new();
    }
    let key = |key: &'static str, what: &'static str| vec![span(key, ACCENT), span(what, DIM)];
    let spans = [
        key("e", " export it    "),
        key("Enter", " look inside    "),
        key("q", " quit"),
    ]
    .concat();
    vec![Line::default(), Line::from(spans)]
}
