//! Everything the dashboard shows: the run as its events tell it, and where the reader is looking.

use std::cmp::Ordering;

use super::Appearance;
use super::plain;
use super::reasons::Reasons;
use super::text::clean;
use crate::event::run::{Flip, Run, Scored, State, origin_name};
use crate::event::words::task_name;
use crate::event::{Event, Level, Record};

/// The dashboard's whole state; a pure function of the messages it has been given.
#[derive(Clone, Debug)]
pub struct Model {
    pub run: Run,
    pub appearance: Appearance,
    pub now_ms: u64,
    pub page: Page,
    pub board: Board,
    pub chart: ChartView,
    pub pareto: Axes,
    pub log: Log,
    pub detail: Option<Detail>,
    pub overlay: Option<Overlay>,
    /// A filter is being typed.
    pub typing: bool,
    pub paused: bool,
    pub stopping: bool,
    /// The search is another command's.
    pub looks_on: bool,
    /// First line of the result that is shown.
    pub result_from: usize,
    /// First line of the help that is shown.
    pub help_from: usize,
    /// No more records will come.
    pub feed_ended: bool,
    /// A word about the last key, until the next one.
    pub notice: Option<String>,
    pub(super) stale: bool,
}

/// The pages of the dashboard, in the order of their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Page {
    #[default]
    Overview,
    Chart,
    Board,
    Pareto,
    Engine,
    Log,
    Result,
}

impl Page {
    pub const ALL: [Self; 7] = [
        Self::Overview,
        Self::Chart,
        Self::Board,
        Self::Pareto,
        Self::Engine,
        Self::Log,
        Self::Result,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Chart => "chart",
            Self::Board => "board",
            Self::Pareto => "pareto",
            Self::Engine => "engine",
            Self::Log => "log",
            Self::Result => "result",
        }
    }

    pub fn step(self, by: isize) -> Self {
        let at = Self::ALL.iter().position(|p| *p == self).unwrap_or(0) as isize;
        Self::ALL[(at + by).rem_euclid(Self::ALL.len() as isize) as usize]
    }
}

/// The leaderboard: order, filter and the chosen row, which stays with its candidate while others come and go.
#[derive(Clone, Debug, Default)]
pub struct Board {
    pub sort: Sort,
    pub filter: String,
    /// Nothing chosen means the first row.
    pub chosen: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    Fitness,
    /// Score of the task of this index.
    Task(usize),
    /// Latest first.
    Age,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ChartView {
    /// Wall clock instead of evaluations.
    pub over_time: bool,
    /// All values from the worst on, and not those of the last generations.
    pub whole: bool,
}

/// The two objectives of the Pareto page, by index.
#[derive(Clone, Copy, Debug)]
pub struct Axes {
    pub x: usize,
    pub y: usize,
}

impl Default for Axes {
    fn default() -> Self {
        Self { x: 0, y: 1 }
    }
}

/// The log's lines and how far up the reader has scrolled.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub lines: Vec<Line>,
    /// Lines between the last shown and the latest; 0 follows.
    pub back: usize,
    pub filter: String,
    pub level: Option<Level>,
    reasons: Reasons,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub time_ms: u64,
    pub level: Level,
    pub message: String,
}

const KEPT_LINES: usize = 5000;

impl Log {
    /// A line at the end. The reason of a failure stands in one line: that of the latest who failed for it, with a count.
    fn add(&mut self, record: &Record, level: Level, message: &str) {
        let again = match (&record.event, self.reasons.again(record)) {
            (Event::RunFailed { .. }, _) => self.reasons.within(message),
            (_, again) => again,
        };
        let again = again.map(|reason| (clean(&reason.text), reason.count()));
        let mut message = clean(message);
        if let Some((text, n)) = again {
            self.lines.retain(|line| !line.message.contains(&text));
            self.back = self.back.min(self.lines.len());
            if n > 1 && !matches!(record.event, Event::RunFailed { .. }) {
                message += &format!(" ({n} by now)");
            }
        }
        if self.lines.len() >= KEPT_LINES {
            self.lines.drain(..KEPT_LINES / 10);
        }
        if self.back > 0 {
            self.back += 1;
        }
        self.lines.push(Line {
            time_ms: record.time_ms,
            level,
            message,
        });
    }
}

/// One candidate, opened with Enter.
#[derive(Clone, Debug)]
pub struct Detail {
    pub id: String,
    pub tab: Tab,
    /// First row shown of the recipe, chosen row of the flips.
    pub at: usize,
    pub flips: FlipKind,
    /// Whom the flips are against, by index into the parents and baselines.
    pub against: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    #[default]
    Recipe,
    Weights,
    Tasks,
    Flips,
}

impl Tab {
    pub const ALL: [Self; 4] = [Self::Recipe, Self::Weights, Self::Tasks, Self::Flips];

    pub fn name(self) -> &'static str {
        match self {
            Self::Recipe => "recipe",
            Self::Weights => "weights",
            Self::Tasks => "tasks",
            Self::Flips => "flips",
        }
    }

    pub fn step(self, by: isize) -> Self {
        let at = Self::ALL.iter().position(|t| *t == self).unwrap_or(0) as isize;
        Self::ALL[(at + by).rem_euclid(Self::ALL.len() as isize) as usize]
    }
}

/// Which flips are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlipKind {
    /// The other was right, the child is wrong.
    #[default]
    Lost,
    /// The other was wrong, the child is right.
    Gained,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlay {
    Help,
    ConfirmStop,
}

impl Model {
    pub fn new(appearance: Appearance, now_ms: u64) -> Self {
        Self {
            run: Run::default(),
            appearance,
            now_ms,
            page: Page::default(),
            board: Board::default(),
            chart: ChartView::default(),
            pareto: Axes::default(),
            log: Log::default(),
            detail: None,
            overlay: None,
            typing: false,
            paused: false,
            stopping: false,
            looks_on: false,
            result_from: 0,
            help_from: 0,
            feed_ended: false,
            notice: None,
            stale: true,
        }
    }

    /// Folds one record in; the end of the run turns to the result.
    pub fn apply(&mut self, record: &Record) {
        if let Some((level, message)) = plain::describe(&self.run, record) {
            self.log.add(record, level, &message);
        }
        self.run.apply(record);
        match record.event {
            Event::RunDone { .. } if self.detail.is_none() => self.page = Page::Result,
            // Whoever asked for a stop before the search was under way still wants it.
            Event::RunResumed { .. } => self.paused = false,
            _ => {}
        }
        self.now_ms = self.now_ms.max(record.time_ms);
        self.stale = true;
    }

    /// Whether something that can be seen has changed since the last call.
    pub fn take_stale(&mut self) -> bool {
        std::mem::take(&mut self.stale)
    }

    pub fn is_over(&self) -> bool {
        self.feed_ended || !matches!(self.run.state, State::Waiting | State::Running)
    }

    /// The leaderboard's rows with their rank by fitness, in the chosen order, filtered.
    pub fn rows(&self) -> Vec<(usize, &Scored)> {
        let wanted = self.board.filter.to_lowercase();
        let mut rows: Vec<(usize, &Scored)> = self
            .run
            .ranking()
            .into_iter()
            .enumerate()
            .filter(|(_, s)| {
                let c = &s.candidate;
                wanted.is_empty() || c.id.to_lowercase().contains(&wanted) || origin_name(&c.origin).contains(&wanted)
            })
            .collect();
        match self.board.sort {
            Sort::Fitness => {}
            Sort::Age => rows.sort_by_key(|row| std::cmp::Reverse(row.1.time_ms)),
            Sort::Task(task) => rows.sort_by(|a, b| by_task(b.1, a.1, task)),
        }
        rows
    }

    /// Index of the chosen row.
    pub fn chosen_row(&self, rows: &[(usize, &Scored)]) -> usize {
        let chosen = self.board.chosen.as_ref();
        chosen
            .and_then(|id| rows.iter().position(|(_, s)| s.candidate.id == *id))
            .unwrap_or(0)
    }

    /// Log lines that pass the filter and the level.
    pub fn log_lines(&self) -> Vec<&Line> {
        let wanted = self.log.filter.to_lowercase();
        let passes = |l: &&Line| {
            self.log.level.is_none_or(|least| l.level >= least)
                && (wanted.is_empty() || l.message.to_lowercase().contains(&wanted))
        };
        self.log.lines.iter().filter(passes).collect()
    }

    /// Names of the run's tasks, in order.
    pub fn task_names(&self) -> Vec<String> {
        let tasks = self.run.started.iter().flat_map(|s| &s.tasks);
        tasks.map(|t| task_name(&t.task, &t.lang)).collect()
    }

    /// Whom a candidate's flips can be read against: parents from the fittest down, then baselines.
    pub fn opponents(&self) -> Vec<&str> {
        use crate::event::Origin::{Baseline, Parent};
        let ranking = self.run.ranking();
        let of = |origin| {
            ranking
                .iter()
                .map(|s| &s.candidate)
                .filter(move |c| c.origin == origin)
                .map(|c| c.id.as_str())
        };
        of(Parent).chain(of(Baseline)).collect()
    }

    /// The flips that the open candidate's page lists.
    pub fn listed_flips(&self, detail: &Detail) -> Vec<Flip<'_>> {
        let opponents = self.opponents();
        let Some(other) = opponents.get(detail.against) else {
            return Vec::new();
        };
        let mut flips = self.run.flips(&detail.id, other);
        flips.retain(|f| f.gained == (detail.flips == FlipKind::Gained));
        flips
    }
}

fn by_task(a: &Scored, b: &Scored, task: usize) -> Ordering {
    let value = |s: &Scored| s.candidate.tasks.get(task).map_or(f64::NEG_INFINITY, |t| t.score.value);
    value(a).total_cmp(&value(b))
}
