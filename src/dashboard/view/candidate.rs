//! One candidate: its recipe and what changed, its weights by layer, its tasks, and the questions it gained and lost.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Modifier;
use ratatui::text::{Line, Span};
use serde_json::Value;

use super::{colour_of, columns as split, first_row, origin_style, panel, put_lines, title};
use crate::dashboard::appearance::{ACCENT, BAD, BEST, BOLD, DIM, GOOD, PARENT, PLAIN, SELECTED};
use crate::dashboard::model::{Detail, FlipKind, Model, Tab};
use crate::dashboard::text::{Parts, bar, clean, left, right, span, wrap};
use crate::event::run::{Flip, Run, counts, origin_name};
use crate::event::weights::{self, Weights};
use crate::event::words::{Unit, count, p_value, parent_name, right_answer, short_duration, tags, task_name};
use crate::event::{Answer, Candidate};

/// The tabs' names in place of the pages'.
pub fn tabs(detail: &Detail, columns: u16) -> Line<'static> {
    let mut spans = vec![span(" ‹ Esc ", DIM)];
    for (i, tab) in Tab::ALL.into_iter().enumerate() {
        let style = if tab == detail.tab {
            ACCENT.add_modifier(Modifier::REVERSED)
        } else {
            DIM
        };
        spans.push(span(format!(" {} {} ", i + 1, tab.name()), style));
    }
    Parts::default()
        .left(0, spans)
        .right(1, vec![span(detail.id.clone(), BEST)])
        .fit(columns.into())
}

pub fn draw(model: &Model, area: Rect, buffer: &mut Buffer) {
    let Some(detail) = &model.detail else { return };
    let Some(candidate) = model.run.candidate(&detail.id) else {
        let inner = panel(title(&detail.id, Vec::new()), area, buffer);
        return put_lines(&[Line::from(span("this candidate is not known", DIM))], inner, buffer);
    };
    match detail.tab {
        Tab::Recipe => recipe(model, candidate, detail.at, area, buffer),
        Tab::Weights => {
            let inner = panel(title("weights", about(model, candidate)), area, buffer);
            put_lines(
                &scrolled(weight_lines(candidate, inner.width), detail.at),
                inner,
                buffer,
            );
        }
        Tab::Tasks => {
            let inner = panel(title("tasks", about(model, candidate)), area, buffer);
            let mut lines = task_lines(model, candidate, inner.width);
            lines.extend(field_lines(model, candidate, inner.width.into()));
            put_lines(&scrolled(lines, detail.at), inner, buffer);
        }
        Tab::Flips => flips(model, detail, area, buffer),
    }
}

/// The chosen candidate beside the leaderboard, where there is room.
pub fn aside(model: &Model, area: Rect, buffer: &mut Buffer) {
    let rows = model.rows();
    let Some((_, scored)) = rows.get(model.chosen_row(&rows)) else {
        return;
    };
    let candidate = &scored.candidate;
    let inner = panel(title(&candidate.id, vec![span("Enter opens it ", DIM)]), area, buffer);
    let mut lines = vec![Line::from(about(model, candidate)), Line::default()];
    lines.extend(task_lines(model, candidate, inner.width));
    lines.push(Line::default());
    lines.extend(weight_lines(candidate, inner.width));
    lines.push(Line::default());
    lines.extend(difference_lines(model, candidate, inner));
    put_lines(&lines, inner, buffer);
}

fn about(model: &Model, candidate: &Candidate) -> Vec<Span<'static>> {
    let generation = candidate.generation.filter(|_| counts(&candidate.origin));
    let generation = generation.map(|g| format!(", generation {g}")).unwrap_or_default();
    let score = model.run.unit().full(candidate.fitness, candidate.stderr);
    vec![
        span(origin_name(&candidate.origin), origin_style(&candidate.origin)),
        span(format!("{generation} · "), DIM),
        span(score, BOLD),
        span(" ", PLAIN),
    ]
}

fn recipe(model: &Model, candidate: &Candidate, at: usize, area: Rect, buffer: &mut Buffer) {
    let wide = area.width >= 100;
    let (text, rest) = match wide {
        true => {
            let [text, rest] = split(area, [55, 45]);
            (text, rest)
        }
        false => {
            let [text, rest] = split(area, [50, 50]);
            (text, rest)
        }
    };
    let inner = panel(
        title("recipe", if wide { about(model, candidate) } else { Vec::new() }),
        text,
        buffer,
    );
    let lines: Vec<Line> = yaml(&candidate.recipe).into_iter().map(colour_key).collect();
    put_lines(&scrolled(lines, at), inner, buffer);
    let inner = panel(title("what changed", Vec::new()), rest, buffer);
    put_lines(&difference_lines(model, candidate, inner), inner, buffer);
}

/// Skips the first lines, but never all of them.
fn scrolled(lines: Vec<Line<'static>>, at: usize) -> Vec<Line<'static>> {
    let at = at.min(lines.len().saturating_sub(1));
    lines.into_iter().skip(at).collect()
}

fn colour_key(line: String) -> Line<'static> {
    match line.split_once(": ") {
        Some((key, value)) => Line::from(vec![span(format!("{key}: "), DIM), span(value.to_owned(), PLAIN)]),
        None => Line::from(span(line, DIM)),
    }
}

/// The JSON of a recipe as the YAML a reader knows from mergekit.
fn yaml(recipe: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    match recipe.get("stages").and_then(Value::as_array) {
        Some(stages) => {
            for (i, stage) in stages.iter().enumerate() {
                if i > 0 {
                    lines.push("---".to_owned());
                }
                write_yaml(stage, 0, &mut lines);
            }
        }
        None => write_yaml(recipe, 0, &mut lines),
    }
    lines
}

fn write_yaml(value: &Value, indent: usize, lines: &mut Vec<String>) {
    let space = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match inline(value) {
                    Some(text) => lines.push(format!("{space}{key}: {text}")),
                    None => {
                        lines.push(format!("{space}{key}:"));
                        write_yaml(value, indent + 2, lines);
                    }
                }
            }
        }
        Value::Array(list) => {
            for value in list {
                let first = lines.len();
                match inline(value) {
                    Some(text) => lines.push(format!("{space}- {text}")),
                    None => write_yaml(value, indent + 2, lines),
                }
                // The dash stands where the first line's indent ends.
                if let Some(line) = lines.get_mut(first).filter(|l| l.len() >= indent + 2) {
                    line.replace_range(indent..indent + 2, "- ");
                }
            }
        }
        other => lines.push(format!("{space}{other}")),
    }
}

/// Scalars, and lists of scalars, on one line.
fn inline(value: &Value) -> Option<String> {
    match value {
        Value::Object(map) if map.is_empty() => Some("{}".into()),
        Value::Object(_) => None,
        Value::Array(list) if list.iter().any(|v| v.is_object() || v.is_array()) => None,
        Value::Array(list) => Some(format!(
            "[{}]",
            list.iter().filter_map(inline).collect::<Vec<_>>().join(", ")
        )),
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(short_number(number)),
        other => Some(other.to_string()),
    }
}

/// Four decimals are enough to read; the export has all of them.
fn short_number(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() => ((value * 1e4).round() / 1e4).to_string(),
        _ => number.to_string(),
    }
}

/// The genes that differ most from the nearest earlier candidate, and whose weight it mostly carries.
fn difference_lines(model: &Model, candidate: &Candidate, size: Rect) -> Vec<Line<'static>> {
    let (columns, rows) = (usize::from(size.width), usize::from(size.height));
    let mut lines = Vec::new();
    let shares = weights::shares(&weights::of_recipe(&candidate.recipe));
    if let Some((nearest, share)) = shares.first() {
        lines.push(Line::from(vec![
            span("nearest parent ", DIM),
            span(nearest.clone(), PARENT),
            span(format!(" ({:.0}%)", 100.0 * share), DIM),
        ]));
    }
    let Some((kin, distance)) = nearest_kin(&model.run, candidate) else {
        if lines.is_empty() {
            lines.push(Line::from(span("no genes: this is not a sample", DIM)));
        }
        return lines;
    };
    lines.push(Line::from(vec![
        span("nearest candidate ", DIM),
        span(kin.id.clone(), BOLD),
        span(
            format!(" {} at {distance:.2}", model.run.unit().full_value(kin.fitness)),
            DIM,
        ),
    ]));
    let names = model
        .run
        .scored(&candidate.id)
        .map(|s| model.run.genes_of(s))
        .unwrap_or_default();
    let mut genes: Vec<(usize, f64, f64)> = (0..candidate.genotype.len())
        .map(|i| (i, kin.genotype[i], candidate.genotype[i]))
        .filter(|(_, a, b)| a != b)
        .collect();
    genes.sort_by(|a, b| (b.2 - b.1).abs().total_cmp(&(a.2 - a.1).abs()));
    if genes.is_empty() {
        lines.push(Line::from(span("same genes", DIM)));
    }
    let shown = rows.saturating_sub(lines.len() + 1).max(1);
    let hidden = genes.len().saturating_sub(shown);
    for (i, before, after) in genes.into_iter().take(shown) {
        let name = names.get(i).cloned().unwrap_or_else(|| format!("gene {i}"));
        let (sign, style) = if after > before { ("↑", GOOD) } else { ("↓", BAD) };
        lines.push(Line::from(vec![
            span(left(&name, columns.saturating_sub(21).clamp(8, 32)), PLAIN),
            span(format!(" {before:>6.3} → {after:>6.3} "), DIM),
            span(sign, style),
        ]));
    }
    if hidden > 0 {
        lines.push(Line::from(span(format!("and {hidden} smaller changes"), DIM)));
    }
    lines
}

/// The earlier candidate whose genes are nearest (Euclidean).
fn nearest_kin<'a>(run: &'a Run, candidate: &Candidate) -> Option<(&'a Candidate, f64)> {
    let distance = |other: &Candidate| {
        let squares = other
            .genotype
            .iter()
            .zip(&candidate.genotype)
            .map(|(a, b)| (a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    // Another stage of the search has other genes.
    let stage = run.scored(&candidate.id)?.stage;
    run.scored
        .iter()
        .filter(|s| s.stage == stage)
        .map(|s| &s.candidate)
        .take_while(|c| c.id != candidate.id)
        .filter(|c| !c.genotype.is_empty() && c.genotype.len() == candidate.genotype.len())
        .map(|c| (c, distance(c)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

/// One row for each layer group, one bar for each module.
fn weight_lines(candidate: &Candidate, columns: u16) -> Vec<Line<'static>> {
    let tables = weights::of_recipe(&candidate.recipe);
    if tables.is_empty() {
        return vec![Line::from(span("no mixing weights in this recipe", DIM))];
    }
    let largest = weights::largest(&tables);
    let mut lines = Vec::new();
    for table in &tables {
        lines.extend(table_lines(table, largest, columns.into()));
    }
    lines.push(Line::from(span(format!("a full bar is {largest:.2}"), DIM)));
    lines
}

fn table_lines(table: &Weights, largest: f64, columns: usize) -> Vec<Line<'static>> {
    const LABEL: usize = 7;
    const NUMBER: usize = 6;
    let each = columns.saturating_sub(LABEL) / table.modules.len().max(1);
    let bar_columns = each.saturating_sub(NUMBER + 2).clamp(2, 24);
    let each = bar_columns + NUMBER + 2;
    let mut lines = Vec::new();
    for model in &table.models {
        let heading: String = table.modules.iter().map(|m| left(m, each)).collect();
        lines.push(Line::from(span(
            format!("{} · {}", model.model, table.parameter),
            PARENT,
        )));
        lines.push(Line::from(span(format!("{}{heading}", left("layers", LABEL)), DIM)));
        for group in &model.groups {
            let mut spans = vec![span(left(&group.layers, LABEL), DIM)];
            for value in &group.values {
                let Some(value) = value else {
                    spans.push(span(" ".repeat(each), PLAIN));
                    continue;
                };
                let style = if *value < 0.0 { BAD } else { ACCENT };
                spans.push(span(left(&bar(value.abs() / largest, bar_columns), bar_columns), style));
                spans.push(span(format!("{value:>6.2}  "), PLAIN));
            }
            lines.push(Line::from(spans));
        }
        lines.push(Line::default());
    }
    lines
}

fn task_lines(model: &Model, candidate: &Candidate, columns: u16) -> Vec<Line<'static>> {
    let run = &model.run;
    let parent = run.best_parent().filter(|p| p.id != candidate.id);
    let wide = columns >= 70;
    let against = parent.map_or(String::new(), |p| format!("against {}", parent_name(&p.id)));
    let heading = match wide {
        true => format!(
            "{}  {}  {}  {}  {}",
            left("task", 16),
            right("score ± SE", 14),
            right("95 % interval", 16),
            right("n", 6),
            against
        ),
        false => format!("{} {} {}", left("task", 12), right("score ± SE", 14), against),
    };
    let mut lines = vec![Line::from(span(heading, DIM))];
    for (i, task) in candidate.tasks.iter().enumerate() {
        let unit = run.task_unit(&task.task, &task.lang);
        let score = unit.score(&task.score);
        let name = task_name(&task.task, &task.lang);
        let mut spans = match wide {
            true => vec![
                span(left(&name, 16), PLAIN),
                span(format!("  {}", right(&score, 14)), BOLD),
                span(
                    format!("  {}", right(&unit.from_to(unit.interval_95(&task.score)), 16)),
                    PLAIN,
                ),
                span(format!("  {}", right(&count(task.score.n as u64), 6)), DIM),
            ],
            false => vec![
                span(left(&name, 12), PLAIN),
                span(format!(" {}", right(&score, 14)), BOLD),
            ],
        };
        if let Some(theirs) = parent.and_then(|p| p.tasks.get(i)) {
            let difference = task.score.value - theirs.score.value;
            spans.push(span(
                format!("  {:>7}", unit.signed(difference)),
                colour_of(unit, difference),
            ));
        }
        lines.push(Line::from(spans));
    }
    if candidate.tasks.is_empty() {
        lines.push(Line::from(span("scored as a whole, without tasks", DIM)));
    }
    if let Some(paired) = parent.and_then(|p| run.paired(&candidate.id, &p.id)) {
        let unit = run.unit();
        let text = format!(
            "together {} ± {}, {}",
            unit.signed(paired.difference),
            unit.value(paired.stderr),
            p_value(paired.p_value)
        );
        lines.push(Line::from(span(text, DIM)));
    }
    let cost = wrap(&cost(candidate), columns.into());
    lines.extend(cost.into_iter().map(|row| Line::from(span(row, DIM))));
    lines
}

/// The candidate beside the parents and baselines, task by task.
fn field_lines(model: &Model, candidate: &Candidate, columns: usize) -> Vec<Line<'static>> {
    let opponents = model.opponents();
    let others = opponents
        .iter()
        .filter_map(|id| model.run.candidate(id))
        .filter(|c| c.id != candidate.id);
    let field: Vec<&Candidate> = std::iter::once(candidate).chain(others).collect();
    let bar_columns = columns.saturating_sub(36).min(50);
    let mut lines = Vec::new();
    for (i, task) in candidate.tasks.iter().enumerate() {
        let unit = model.run.task_unit(&task.task, &task.lang);
        let scores: Vec<f64> = field
            .iter()
            .filter_map(|c| c.tasks.get(i))
            .map(|t| t.score.value)
            .collect();
        let lowest = scores.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // A proportion starts at nothing; a log-likelihood has no zero, so the worst gets the shortest bar.
        let from = if unit == Unit::Percent {
            0.0
        } else {
            lowest - 0.1 * (largest - lowest)
        };
        lines.extend([
            Line::default(),
            Line::from(span(task_name(&task.task, &task.lang), DIM)),
        ]);
        for c in &field {
            let Some(score) = c.tasks.get(i).map(|t| t.score) else {
                continue;
            };
            let style = if c.id == candidate.id {
                BEST
            } else {
                origin_style(&c.origin)
            };
            let share = (score.value - from) / (largest - from).max(1e-9);
            lines.push(Line::from(vec![
                span(left(parent_name(&c.id), 14), style),
                span(right(&unit.value(score.value), 8), PLAIN),
                span(format!(" ± {}  ", left(&unit.value(score.stderr), 6)), DIM),
                span(bar(share, bar_columns), style),
            ]));
        }
    }
    lines
}

fn cost(candidate: &Candidate) -> String {
    if candidate.cached {
        return "all answers came from the cache".into();
    }
    format!(
        "merged in {}, answered in {}, {} tokens",
        short_duration(candidate.merge_ms),
        short_duration(candidate.evaluation_ms),
        count(candidate.generated_tokens)
    )
}

/// The flip browser: the list, and both answers to the chosen question side by side.
fn flips(model: &Model, detail: &Detail, area: Rect, buffer: &mut Buffer) {
    let opponents = model.opponents();
    let other = opponents.get(detail.against).copied().unwrap_or("nobody");
    let all = model.run.flips(&detail.id, other);
    let gained = all.iter().filter(|f| f.gained).count();
    let lost = all.len() - gained;
    let counts = |kind, name: &'static str, n: usize| {
        let style = if detail.flips == kind {
            ACCENT.add_modifier(Modifier::REVERSED)
        } else {
            DIM
        };
        span(format!(" {name} {n} "), style)
    };
    let about = vec![
        span("against ", DIM),
        span(parent_name(other).to_owned(), PARENT),
        span(" [ ]  ", DIM),
        counts(FlipKind::Lost, "✗ lost", lost),
        counts(FlipKind::Gained, "✓ gained", gained),
        span(" f ", DIM),
    ];
    let listed: Vec<Flip> = all
        .into_iter()
        .filter(|f| f.gained == (detail.flips == FlipKind::Gained))
        .collect();
    let list_rows = if area.height >= 24 { 12 } else { area.height / 3 };
    let chosen = detail.at.min(listed.len().saturating_sub(1));
    let text = listed.get(chosen).and_then(|flip| flip.question);
    let question = text.map(|text| wrap(text, area.width.saturating_sub(2).into()));
    // Both answers keep most of the room.
    let asked_rows = question
        .as_ref()
        .map_or(0, |rows| (rows.len() as u16).min(area.height / 8).max(1) + 2);
    let rows = [
        Constraint::Length(list_rows),
        Constraint::Length(asked_rows),
        Constraint::Fill(1),
    ];
    let [list, asked, pair] = Layout::vertical(rows).areas(area);
    let inner = panel(title("flips", about), list, buffer);
    if listed.is_empty() {
        return put_lines(
            &[Line::from(span(no_flips(model, &detail.id, other), DIM))],
            inner,
            buffer,
        );
    }
    let first = first_row(chosen, inner.height.into(), listed.len());
    let lines: Vec<Line> = listed
        .iter()
        .enumerate()
        .skip(first)
        .map(|(i, flip)| flip_line(flip, i == chosen, inner.width))
        .collect();
    put_lines(&lines, inner, buffer);
    let [mine, theirs] = split(pair, [50, 50]);
    let flip = &listed[chosen];
    if let Some(question) = question {
        let inner = panel(title(&flip.child.q, Vec::new()), asked, buffer);
        let lines: Vec<Line> = question.into_iter().map(Line::from).collect();
        put_lines(&lines, inner, buffer);
    }
    answer(&detail.id, flip.child, flip.gained, mine, buffer);
    answer(parent_name(other), flip.other, !flip.gained, theirs, buffer);
}

fn no_flips(model: &Model, id: &str, other: &str) -> String {
    let known = |id: &str| !model.run.answers_of(id).is_empty();
    match (known(id), known(other)) {
        (true, true) => "none: on every question asked, both were right or both wrong".into(),
        (false, _) => format!("the answers of {id} are not kept here; the journal has them"),
        (_, false) => format!("the answers of {other} are not at hand"),
    }
}

fn flip_line(flip: &Flip, chosen: bool, columns: u16) -> Line<'static> {
    let wrong = if flip.gained { flip.other } else { flip.child };
    let tags = tags(wrong)
        .iter()
        .map(|t| format!("[{t}]"))
        .collect::<Vec<_>>()
        .join(" ");
    let said = if wrong.got.is_empty() { "nothing" } else { &wrong.got };
    let verdict = format!(
        "{}  {}",
        left(&format!("right {}", clean(right_answer(&flip.child.gold))), 14),
        left(&format!("said {}", clean(said)), 14)
    );
    let text = clean(flip.question.unwrap_or(&flip.child.q));
    let text_columns = usize::from(columns)
        .saturating_sub(32)
        .min(if tags.is_empty() { 110 } else { 96 });
    let line = Parts::default()
        .left(0, vec![span(left(&text, text_columns), PLAIN)])
        .left(1, vec![span(verdict, DIM)])
        .left(2, vec![span(tags, BAD)])
        .fit(columns.into());
    if chosen { line.patch_style(SELECTED) } else { line }
}

fn answer(name: &str, answer: &Answer, right: bool, area: Rect, buffer: &mut Buffer) {
    let (sign, style) = if right {
        ("✓ right ", GOOD)
    } else {
        ("✗ wrong ", BAD)
    };
    let mut about = vec![span(sign, style)];
    about.extend(tags(answer).into_iter().map(|t| span(format!("[{t}] "), BAD)));
    let inner = panel(title(name, about), area, buffer);
    let got = if answer.got.is_empty() {
        "nothing".to_owned()
    } else {
        answer.got.clone()
    };
    let mut lines = vec![Line::from(span(
        format!(
            "answer {got} · right {} · {} tokens",
            right_answer(&answer.gold),
            answer.tokens
        ),
        DIM,
    ))];
    lines.extend(wrap(&answer.out, inner.width.into()).into_iter().map(Line::from));
    put_lines(&lines, inner, buffer);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn recipes_read_as_yaml() {
        let recipe = json!({"stages": [{"merge_method": "ties", "models": [
            {"model": "a", "parameters": {"weight": [0.1, 0.2]}}, {"model": "b"},
        ]}]});
        let text = yaml(&recipe).join("\n");
        assert_eq!(
            text,
            "merge_method: ties\nmodels:\n  - model: a\n    parameters:\n      weight: [0.1, 0.2]\n  - model: b"
        );
        assert_eq!(yaml(&json!(null)), ["null"]);
        assert_eq!(yaml(&json!({})), Vec::<String>::new());
    }
}
