//! The leaderboard: columns give way, least important first, until the table fits.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;

use super::{first_row, origin_style, panel, put_lines, title};
use crate::dashboard::appearance::{ACCENT, BEST, BOLD, DIM, PLAIN, SELECTED};
use crate::dashboard::model::{Model, Page, Sort};
use crate::dashboard::text::{cut, left, right, span, width};
use crate::event::Task;
use crate::event::run::{Scored, counts, origin_name};
use crate::event::words::{Unit, count};

#[derive(Clone, Copy, PartialEq)]
enum Column {
    Rank,
    Id,
    Fitness,
    Task(usize),
    Count,
    Origin,
    Generation,
    Age,
}

pub fn draw(model: &Model, area: Rect, buffer: &mut Buffer) {
    let rows = model.rows();
    let mut about = vec![span(format!("{} scored", count(model.run.scored.len() as u64)), DIM)];
    if !model.run.failed.is_empty() {
        about.push(span(format!(" · {} failed", model.run.failed.len()), DIM));
    }
    let out = model.run.scored.iter().filter(|s| s.candidate.eliminated).count();
    if out > 0 {
        about.push(span(format!(" · {} left a race early", count(out as u64)), DIM));
    }
    about.push(span(format!(" · by {}", sorted_by(model)), DIM));
    if !model.board.filter.is_empty() {
        about.push(span(format!(" · /{}", model.board.filter), ACCENT));
    }
    about.push(span(" ", PLAIN));
    let inner = panel(title("leaderboard", about), area, buffer);
    if rows.is_empty() {
        let text = if model.run.scored.is_empty() {
            "nothing is scored yet"
        } else {
            "nothing matches the filter"
        };
        return put_lines(&[Line::from(span(text, DIM))], inner, buffer);
    }
    let sizes = Sizes::of(model);
    let (columns, sizes) = fitting(model, sizes, inner.width.into());
    let shown = usize::from(inner.height.saturating_sub(1));
    let chosen = model.chosen_row(&rows);
    let first = first_row(chosen, shown, rows.len());
    let mut lines = vec![heading(model, &columns, &sizes)];
    for (i, (rank, scored)) in rows.iter().enumerate().skip(first).take(shown) {
        lines.push(line(model, (&columns, &sizes), *rank, scored, i == chosen));
    }
    put_lines(&lines, inner, buffer);
}

fn sorted_by(model: &Model) -> String {
    match model.board.sort {
        Sort::Fitness if model.run.allows_for_luck() => "worth".into(),
        Sort::Fitness => "fitness".into(),
        Sort::Age => "age".into(),
        Sort::Task(t) => model.task_names().get(t).cloned().unwrap_or_default(),
    }
}

/// Columns of the screen that the panel takes with all of its own.
pub fn natural_columns(model: &Model) -> u16 {
    let sizes = Sizes::of(model);
    let columns = all_columns(shown_tasks(model));
    let used: usize = columns.iter().map(|c| sizes.column(*c) + 2).sum();
    u16::try_from(used).unwrap_or(u16::MAX)
}

/// One task is the fitness itself.
fn shown_tasks(model: &Model) -> usize {
    let tasks = model.task_names().len();
    if tasks > 1 { tasks } else { 0 }
}

fn all_columns(tasks: usize) -> Vec<Column> {
    let mut columns = vec![Column::Rank, Column::Id, Column::Fitness];
    columns.extend((0..tasks).map(Column::Task));
    columns.extend([Column::Count, Column::Origin, Column::Generation, Column::Age]);
    columns
}

/// What fits, in order of appearance; ids give way before columns do.
fn fitting(model: &Model, mut sizes: Sizes, available: usize) -> (Vec<Column>, Sizes) {
    let tasks = shown_tasks(model);
    let mut columns = all_columns(tasks);
    let mut droppable = vec![Column::Generation, Column::Age, Column::Count];
    droppable.extend((2..tasks).rev().map(Column::Task));
    droppable.push(Column::Origin);
    droppable.extend((0..tasks.min(2)).rev().map(Column::Task));
    // The least important stands first.
    for column in droppable {
        let used = |sizes: &Sizes| columns.iter().map(|c| sizes.column(*c) + 2).sum::<usize>();
        let over = used(&sizes).saturating_sub(available + 2);
        let spare = sizes.id.saturating_sub(SHORTEST_ID);
        if over <= spare {
            sizes.id -= over;
            break;
        }
        columns.retain(|c| *c != column);
    }
    if columns.len() == 3 {
        sizes.id = sizes.id.min(SHORTEST_ID);
    }
    (columns, sizes)
}

const FITNESS: &str = "fitness ± SE";

/// Columns that an id keeps, and those that the longest may have.
const SHORTEST_ID: usize = 14;
const LONGEST_ID: usize = 28;

/// Widths of the columns that depend on the run.
struct Sizes {
    id: usize,
    fitness: usize,
    tasks: Vec<usize>,
}

impl Sizes {
    fn of(model: &Model) -> Self {
        let ids = model.run.scored.iter().map(|s| width(&s.candidate.id));
        let number = |unit: Unit| if unit == Unit::Percent { 11 } else { 14 };
        let tasks = model.run.started.iter().flat_map(|started| &started.tasks);
        let of_task = |task: &Task| number(model.run.task_unit(&task.task, &task.lang));
        Self {
            id: ids.max().unwrap_or_default().clamp(SHORTEST_ID, LONGEST_ID),
            fitness: width(&model.run.unit().heading(FITNESS)).max(14),
            tasks: tasks.map(of_task).collect(),
        }
    }

    fn column(&self, column: Column) -> usize {
        match column {
            Column::Rank => 4,
            Column::Id => self.id,
            Column::Fitness => self.fitness,
            Column::Task(task) => self.tasks.get(task).copied().unwrap_or_default(),
            Column::Count => 5,
            Column::Origin => 10,
            Column::Generation => 4,
            Column::Age => 6,
        }
    }
}

fn heading(model: &Model, columns: &[Column], sizes: &Sizes) -> Line<'static> {
    let tasks = model.task_names();
    let unit = model.run.unit();
    let name = |column: &Column| match column {
        Column::Rank => "#".to_owned(),
        Column::Id => "id".to_owned(),
        Column::Fitness => unit.heading(FITNESS),
        Column::Task(t) => {
            let unit = model.run.started.as_ref().map(|started| {
                let task = &started.tasks[*t];
                model.run.task_unit(&task.task, &task.lang)
            });
            let of_unit = unit.unwrap_or_default().heading("");
            let room = sizes.column(*column).saturating_sub(width(&of_unit));
            cut(&tasks[*t], room) + &of_unit
        }
        Column::Count => "n".to_owned(),
        Column::Origin => "origin".to_owned(),
        Column::Generation => "gen".to_owned(),
        Column::Age => "age".to_owned(),
    };
    let cells: Vec<String> = columns.iter().map(|c| placed(*c, &name(c), sizes)).collect();
    Line::from(span(cells.join("  "), DIM))
}

fn line(
    model: &Model,
    (columns, sizes): (&[Column], &Sizes),
    rank: usize,
    scored: &Scored,
    chosen: bool,
) -> Line<'static> {
    let mut line = Line::default();
    for (i, column) in columns.iter().enumerate() {
        let gap = if i == 0 { "" } else { "  " };
        let text = cell(model, *column, rank, scored);
        line.push_span(span(
            format!("{gap}{}", placed(*column, &text, sizes)),
            style(model, *column, scored),
        ));
    }
    if chosen && shows_choice(model) {
        return line.patch_style(SELECTED);
    }
    line
}

fn shows_choice(model: &Model) -> bool {
    model.page == Page::Board || model.board.chosen.is_some()
}

fn cell(model: &Model, column: Column, rank: usize, scored: &Scored) -> String {
    let c = &scored.candidate;
    match column {
        // It left its race early, so nothing ranks it.
        Column::Rank if c.eliminated => "–".into(),
        Column::Rank => format!("{}{}", if leads(model, scored) { "★" } else { "" }, rank + 1),
        Column::Id => c.id.clone(),
        Column::Fitness => model.run.unit().with_error(c.fitness, c.stderr),
        Column::Task(t) => c.tasks.get(t).map_or_else(String::new, |task| {
            model.run.task_unit(&task.task, &task.lang).score(&task.score)
        }),
        Column::Count => count(c.n as u64),
        Column::Origin => origin_name(&c.origin).to_owned(),
        Column::Generation => c
            .generation
            .filter(|_| counts(&c.origin))
            .map_or_else(String::new, |g| g.to_string()),
        Column::Age => age(model.now_ms.saturating_sub(scored.time_ms)),
    }
}

/// The best so far has the star, and then whoever has won: fresh questions may have chosen another one.
fn leads(model: &Model, scored: &Scored) -> bool {
    model
        .run
        .winner()
        .is_some_and(|winner| winner.id == scored.candidate.id)
}

fn style(model: &Model, column: Column, scored: &Scored) -> Style {
    let best = leads(model, scored);
    match column {
        Column::Id | Column::Origin if best => BEST.add_modifier(Modifier::BOLD),
        Column::Id | Column::Origin => origin_style(&scored.candidate.origin),
        Column::Fitness if best => BOLD,
        Column::Fitness | Column::Task(_) => PLAIN,
        _ => DIM,
    }
}

/// `45 s`, `12 min`, `3 h`, `2 d`: nobody compares ages by the second.
fn age(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s @ 3600..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

fn placed(column: Column, text: &str, sizes: &Sizes) -> String {
    let size = sizes.column(column);
    match column {
        Column::Id | Column::Origin => left(text, size),
        _ => right(text, size),
    }
}
