//! What each message changes. Keys follow k9s and lazygit; time comes as a message.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Axes, Detail, FlipKind, Model, Overlay, Page, Sort, Tab};
use crate::event::{Level, Record, axes};

/// What can happen to the dashboard.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // records are the common case, and messages are never stored
pub enum Message {
    Event(Record),
    Key(KeyEvent),
    /// Wall clock, milliseconds since 1970.
    Tick {
        now_ms: u64,
    },
    Resize,
    /// A word from whoever fulfils the reader's wishes, such as that an export is done.
    Notice(String),
    /// The sender of records is gone.
    FeedEnded,
}

/// What the dashboard asks of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave the view; the run goes on.
    CloseView,
    /// Drain: in-flight work ends, the journal is closed.
    RequestStop,
    /// Stop at once.
    Abort,
    /// Ctrl-Z: stop the process until it is told to go on; the terminal has been given back.
    Suspend,
    /// No new candidates until [`Action::RequestResume`].
    RequestPause,
    RequestResume,
    /// Export this candidate.
    RequestExport {
        id: String,
    },
}

const PAGE_ROWS: isize = 10;

/// Of the help on the narrowest screen, at most; what is beyond its last line is cut where the lines are known.
const HELP_LINES: usize = 60;

/// Takes a message in; the model remembers whether it must be drawn again.
pub fn update(model: &mut Model, message: Message) -> Option<Action> {
    match message {
        Message::Event(record) => model.apply(&record),
        Message::Key(key) if key.kind != KeyEventKind::Release => {
            model.stale = true;
            return on_key(model, key);
        }
        Message::Key(_) => {}
        Message::Tick { now_ms } => tick(model, now_ms),
        Message::Resize => model.stale = true,
        Message::Notice(text) => {
            model.notice = Some(super::text::clean(&text));
            model.stale = true;
        }
        Message::FeedEnded => {
            model.stale |= !model.feed_ended;
            model.feed_ended = true;
        }
    }
    None
}

/// Nothing on the screen is finer than a second, and nothing moves when the run is over.
fn tick(model: &mut Model, now_ms: u64) {
    model.stale |= !model.is_over() && now_ms / 1000 != model.now_ms / 1000;
    model.now_ms = model.now_ms.max(now_ms);
}

fn on_key(model: &mut Model, key: KeyEvent) -> Option<Action> {
    model.notice = None;
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => interrupt(model),
            KeyCode::Char('z') => Some(Action::Suspend),
            KeyCode::Char('d') => scroll(model, PAGE_ROWS),
            KeyCode::Char('u') => scroll(model, -PAGE_ROWS),
            _ => None,
        };
    }
    if let Some(overlay) = model.overlay {
        return on_overlay_key(model, overlay, key.code);
    }
    if model.typing {
        return on_typed(model, key.code);
    }
    match key.code {
        KeyCode::Char('q') => Some(Action::CloseView),
        KeyCode::Char('?') => {
            model.help_from = 0;
            show(model, Overlay::Help)
        }
        KeyCode::Char('S') if model.is_over() => notice(model, "the run is over: nothing to stop"),
        KeyCode::Char('S') => show(model, Overlay::ConfirmStop),
        KeyCode::Char('p') => pause(model),
        KeyCode::Char('e') => export(model),
        code => match scrolls(code) {
            Some(by) => scroll(model, by),
            None if model.detail.is_some() => on_detail_key(model, code),
            None => on_page_key(model, code),
        },
    }
}

/// By how many rows a key moves.
fn scrolls(code: KeyCode) -> Option<isize> {
    Some(match code {
        KeyCode::Char('j') | KeyCode::Down => 1,
        KeyCode::Char('k') | KeyCode::Up => -1,
        KeyCode::PageDown => PAGE_ROWS,
        KeyCode::PageUp => -PAGE_ROWS,
        KeyCode::Char('g') | KeyCode::Home => isize::MIN,
        KeyCode::Char('G') | KeyCode::End => isize::MAX,
        _ => return None,
    })
}

/// The first Ctrl-C drains, the second aborts; when the run is over, or somebody else's, it leaves.
fn interrupt(model: &mut Model) -> Option<Action> {
    if model.is_over() || model.looks_on {
        return Some(Action::CloseView);
    }
    if model.stopping {
        return Some(Action::Abort);
    }
    stop(model)
}

fn stop(model: &mut Model) -> Option<Action> {
    model.stopping = true;
    model.notice = Some("stopping: what is being asked is answered first · Ctrl-C again ends at once".into());
    Some(Action::RequestStop)
}

fn on_overlay_key(model: &mut Model, overlay: Overlay, code: KeyCode) -> Option<Action> {
    if overlay == Overlay::Help
        && let Some(by) = scrolls(code)
    {
        model.help_from = moved(model.help_from, by, HELP_LINES);
        return None;
    }
    model.overlay = None;
    match (overlay, code) {
        (Overlay::ConfirmStop, KeyCode::Char('y' | 'Y')) => stop(model),
        (Overlay::ConfirmStop, KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc) => {
            notice(model, "not stopped: the search goes on")
        }
        // Any other key must not answer the question.
        (Overlay::ConfirmStop, _) => show(model, overlay),
        (Overlay::Help, _) => None,
    }
}

fn on_typed(model: &mut Model, code: KeyCode) -> Option<Action> {
    match code {
        KeyCode::Enter => model.typing = false,
        KeyCode::Esc => {
            model.typing = false;
            filter(model).clear();
        }
        KeyCode::Backspace => {
            filter(model).pop();
        }
        KeyCode::Char(c) => filter(model).push(c),
        _ => {}
    }
    None
}

/// The filter of the page that is shown.
fn filter(model: &mut Model) -> &mut String {
    match model.page {
        Page::Log => &mut model.log.filter,
        _ => &mut model.board.filter,
    }
}

/// What has this number, counted from 1.
fn by_number<T: Copy>(all: &[T], digit: char) -> Option<T> {
    let number = digit.to_digit(10)? as usize;
    all.get(number.checked_sub(1)?).copied()
}

fn on_page_key(model: &mut Model, code: KeyCode) -> Option<Action> {
    match code {
        KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => model.page = model.page.step(1),
        KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => model.page = model.page.step(-1),
        KeyCode::Char(digit @ '1'..='9') => model.page = by_number(&Page::ALL, digit).unwrap_or(model.page),
        KeyCode::Char('/') if has_filter(model.page) => model.typing = true,
        KeyCode::Char('s') if has_board(model.page) => next_sort(model),
        KeyCode::Char('v') if model.page == Page::Log => next_level(model),
        KeyCode::Char(axis @ ('x' | 'y')) if model.page == Page::Pareto => next_axis(model, axis),
        KeyCode::Char('x') => model.chart.over_time = !model.chart.over_time,
        KeyCode::Char('z') => model.chart.whole = !model.chart.whole,
        KeyCode::Enter if has_board(model.page) => open(model),
        KeyCode::Enter if model.page == Page::Result => open_winner(model),
        KeyCode::Esc => {
            filter(model).clear();
            model.log.back = 0;
        }
        _ => {}
    }
    None
}

pub fn has_board(page: Page) -> bool {
    matches!(page, Page::Overview | Page::Board)
}

pub fn has_filter(page: Page) -> bool {
    has_board(page) || page == Page::Log
}

fn on_detail_key(model: &mut Model, code: KeyCode) -> Option<Action> {
    let opponents = model.opponents().len().max(1);
    let detail = model.detail.as_mut()?;
    match code {
        KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace => model.detail = None,
        KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => (detail.tab, detail.at) = (detail.tab.step(1), 0),
        KeyCode::BackTab | KeyCode::Left | KeyCode::Char('h') => (detail.tab, detail.at) = (detail.tab.step(-1), 0),
        KeyCode::Char(digit @ '1'..='9') => {
            if let Some(tab) = by_number(&Tab::ALL, digit) {
                (detail.tab, detail.at) = (tab, 0);
            }
        }
        KeyCode::Char('f') => {
            detail.at = 0;
            detail.flips = match detail.flips {
                FlipKind::Lost => FlipKind::Gained,
                FlipKind::Gained => FlipKind::Lost,
            };
        }
        KeyCode::Char(']') => (detail.against, detail.at) = ((detail.against + 1) % opponents, 0),
        KeyCode::Char('[') => (detail.against, detail.at) = ((detail.against + opponents - 1) % opponents, 0),
        KeyCode::Char(c @ ('n' | 'N')) => step_candidate(model, if c == 'n' { 1 } else { -1 }),
        _ => {}
    }
    None
}

fn pause(model: &mut Model) -> Option<Action> {
    if model.is_over() {
        return notice(model, "the run is over: nothing to pause");
    }
    model.paused = !model.paused;
    Some(if model.paused {
        Action::RequestPause
    } else {
        Action::RequestResume
    })
}

/// The open candidate, else the winner or the best so far.
fn export(model: &mut Model) -> Option<Action> {
    let best = || model.run.winner().map(|c| c.id.clone());
    let Some(id) = model.detail.as_ref().map(|d| d.id.clone()).or_else(best) else {
        return notice(model, "nothing to export yet");
    };
    model.notice = Some(format!("exporting {id}"));
    Some(Action::RequestExport { id })
}

fn show(model: &mut Model, overlay: Overlay) -> Option<Action> {
    model.overlay = Some(overlay);
    None
}

fn notice(model: &mut Model, text: &str) -> Option<Action> {
    model.notice = Some(text.to_owned());
    None
}

fn scroll(model: &mut Model, by: isize) -> Option<Action> {
    if let Some(detail) = &model.detail {
        let last = match detail.tab {
            Tab::Flips => model.listed_flips(detail).len().saturating_sub(1),
            _ => 500,
        };
        let at = moved(detail.at, by, last);
        if let Some(detail) = &mut model.detail {
            detail.at = at;
        }
    } else if model.page == Page::Log {
        // Upwards in time is back from the end.
        model.log.back = moved(
            model.log.back,
            by.saturating_neg(),
            model.log_lines().len().saturating_sub(1),
        );
    } else if model.page == Page::Result {
        // What is beyond the last line is cut where the lines are known.
        model.result_from = moved(model.result_from, by, 500);
    } else {
        choose(model, by);
    }
    None
}

fn choose(model: &mut Model, by: isize) {
    let rows = model.rows();
    let at = moved(model.chosen_row(&rows), by, rows.len().saturating_sub(1));
    // The first row stays the first row, whoever comes to stand there.
    model.board.chosen = if at == 0 {
        None
    } else {
        rows.get(at).map(|(_, s)| s.candidate.id.clone())
    };
}

fn moved(at: usize, by: isize, last: usize) -> usize {
    at.saturating_add_signed(by).min(last)
}

fn open(model: &mut Model) {
    let rows = model.rows();
    let id = rows.get(model.chosen_row(&rows)).map(|(_, s)| s.candidate.id.clone());
    open_detail(model, id);
}

fn open_winner(model: &mut Model) {
    let id = model.run.winner().map(|c| c.id.clone());
    open_detail(model, id);
}

fn open_detail(model: &mut Model, id: Option<String>) {
    model.detail = id.map(|id| Detail {
        id,
        tab: Tab::default(),
        at: 0,
        flips: FlipKind::default(),
        against: 0,
    });
}

fn step_candidate(model: &mut Model, by: isize) {
    let rows = model.rows();
    let Some(detail) = &model.detail else { return };
    let at = rows.iter().position(|(_, s)| s.candidate.id == detail.id).unwrap_or(0);
    let to = moved(at, by, rows.len().saturating_sub(1));
    let Some(id) = rows.get(to).map(|(_, s)| s.candidate.id.clone()) else {
        return;
    };
    model.board.chosen = Some(id.clone());
    if let Some(detail) = &mut model.detail {
        (detail.id, detail.at) = (id, 0);
    }
}

fn next_sort(model: &mut Model) {
    let tasks = model.task_names().len();
    model.board.sort = match model.board.sort {
        Sort::Fitness if tasks > 1 => Sort::Task(0),
        Sort::Fitness => Sort::Age,
        Sort::Task(t) if t + 1 < tasks => Sort::Task(t + 1),
        Sort::Task(_) => Sort::Age,
        Sort::Age => Sort::Fitness,
    };
}

fn next_level(model: &mut Model) {
    model.log.back = 0;
    model.log.level = match model.log.level {
        None => Some(Level::Warning),
        Some(Level::Warning) => Some(Level::Error),
        Some(_) => None,
    };
}

fn next_axis(model: &mut Model, axis: char) {
    let all = axes::axes(&model.run).len();
    let Axes { x, y } = &mut model.pareto;
    let (index, other) = if axis == 'x' { (x, *y) } else { (y, *x) };
    // One thing against itself is a line.
    let next = (1..=all).map(|step| (*index + step) % all).find(|next| *next != other);
    *index = next.unwrap_or(*index);
}
