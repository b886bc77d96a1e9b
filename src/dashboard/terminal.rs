//! The impure part: the alternate screen, the keyboard, the channel.
//!
//! Draws only when something changed, at most ten times a second, so that a slow ssh line keeps up. The terminal is put
//! back on return, on an error and on a panic.

use std::io;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::Duration;

use crossterm::event::{self, Event as Input};
use ratatui::DefaultTerminal;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{Action, Appearance, Message, Model, draw, update};
use crate::event::Record;

const FRAME: Duration = Duration::from_millis(100);

/// How long what has come is looked for; a look that may take no time sees nothing.
const GLANCE: Duration = Duration::from_millis(1);

/// Records taken in between two looks at the keyboard.
const BATCH: usize = 2000;

/// Why the view was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `q` while the run goes on.
    Closed,
    /// Left after the run was over.
    Ended,
    /// The second Ctrl-C; [`Action::Abort`] has been given out.
    Aborted,
}

/// What the view is fed with.
pub struct Feed<'a> {
    pub records: &'a Receiver<Record>,
    /// Words about the reader's wishes, from whoever fulfils them.
    pub notices: &'a Receiver<String>,
    /// Wall clock, milliseconds since 1970.
    pub now_ms: &'a dyn Fn() -> u64,
    pub flags: &'a Flags,
    /// The search is another command's: Ctrl-C leaves the view.
    pub looks_on: bool,
}

/// What signals say to the view, set by whoever listens to them.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// SIGHUP: the terminal is gone. Nobody can press a key any more, and reading keys does not say so.
    pub hung_up: Arc<AtomicBool>,
    /// SIGTSTP: give the terminal back and ask for [`Action::Suspend`].
    pub suspend: Arc<AtomicBool>,
    /// SIGCONT: the process was stopped, and whoever had the terminal meanwhile has left it otherwise.
    pub woken: Arc<AtomicBool>,
}

/// Shows a run until the reader leaves. Blocks; wishes go to `on_action`.
///
/// **Errors**: the terminal's own, such as a terminal that is gone; the run is not the dashboard's and goes on.
pub fn run(feed: &Feed<'_>, appearance: Appearance, on_action: &mut dyn FnMut(Action)) -> io::Result<Exit> {
    // Also installs a panic hook that restores the terminal before the message is printed.
    // Never dropped: its own end tells a cursor that it cannot show to stderr, and panics where that is gone too.
    let mut terminal = ManuallyDrop::new(ratatui::try_init()?);
    let _restored = Restored;
    let model = Model {
        looks_on: feed.looks_on,
        ..Model::new(appearance, (feed.now_ms)())
    };
    attend(&mut terminal, feed, model, on_action)
}

struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was, its cursor too; for those who leave without a return.
pub fn restore() {
    // A terminal that is gone cannot be put back, and there is nobody to tell.
    let _ = ratatui::try_restore();
    let _ = crossterm::execute!(io::stdout(), crossterm::cursor::Show);
}

fn attend(
    terminal: &mut DefaultTerminal,
    feed: &Feed<'_>,
    mut model: Model,
    on_action: &mut dyn FnMut(Action),
) -> io::Result<Exit> {
    let mut paced = true;
    loop {
        take_records(&mut model, feed.records);
        for notice in feed.notices.try_iter() {
            update(&mut model, Message::Notice(notice));
        }
        let now_ms = (feed.now_ms)();
        update(&mut model, Message::Tick { now_ms });
        if model.take_stale() {
            terminal.draw(|frame| draw(&model, frame))?;
        }
        if feed.flags.hung_up.load(Ordering::Relaxed) {
            return Ok(Exit::Closed);
        }
        if feed.flags.suspend.swap(false, Ordering::Relaxed) {
            suspend(terminal, &mut model, on_action)?;
        }
        if feed.flags.woken.swap(false, Ordering::Relaxed) {
            take_back(terminal, &mut model)?;
        }
        // Whoever asked for the stop gets the terminal back when all is written.
        if model.stopping && model.is_over() {
            return Ok(Exit::Ended);
        }
        // A key is answered at once, a held key not faster than the frame rate.
        if !paced {
            thread::sleep(FRAME);
        }
        let Some(has_input) = wait_for_input()? else {
            return Ok(Exit::Closed);
        };
        paced = !has_input;
        if let Some(exit) = take_input(terminal, &mut model, on_action)? {
            return Ok(exit);
        }
    }
}

/// Gives the terminal back to the shell while the process is stopped, and takes it again when it goes on.
fn suspend(terminal: &mut DefaultTerminal, model: &mut Model, on_action: &mut dyn FnMut(Action)) -> io::Result<()> {
    restore();
    on_action(Action::Suspend);
    take_back(terminal, model)
}

fn take_back(terminal: &mut DefaultTerminal, model: &mut Model) -> io::Result<()> {
    crossterm::terminal::enable_raw_mode()?;
    crossterm::execute!(io::stdout(), crossterm::terminal::EnterAlternateScreen)?;
    update(model, Message::Resize);
    terminal.clear()
}

/// Waits a frame for input; `None` when the terminal is gone. A library that reads keys would read for ever, and find
/// nothing.
fn wait_for_input() -> io::Result<Option<bool>> {
    let stdin = io::stdin();
    let mut watched = [PollFd::new(&stdin, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(FRAME.subsec_nanos()),
    };
    match poll(&mut watched, Some(&timeout)) {
        Ok(_) => {}
        // A new size of the window is told by a signal.
        Err(Errno::INTR) => return Ok(Some(true)),
        Err(e) => return Err(e.into()),
    }
    let seen = watched[0].revents();
    let is_gone = seen.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
    Ok((!is_gone).then(|| seen.contains(PollFlags::IN)))
}

fn take_records(model: &mut Model, records: &Receiver<Record>) {
    for _ in 0..BATCH {
        match records.try_recv() {
            Ok(record) => update(model, Message::Event(record)),
            Err(TryRecvError::Disconnected) => return drop(update(model, Message::FeedEnded)),
            Err(TryRecvError::Empty) => return,
        };
    }
}

/// Takes in all input there is.
fn take_input(
    terminal: &mut DefaultTerminal,
    model: &mut Model,
    on_action: &mut dyn FnMut(Action),
) -> io::Result<Option<Exit>> {
    while event::poll(GLANCE)? {
        let message = match event::read()? {
            Input::Key(key) => Message::Key(key),
            Input::Resize(..) => Message::Resize,
            _ => continue,
        };
        let Some(action) = update(model, message) else {
            continue;
        };
        if action == Action::Suspend {
            suspend(terminal, model, on_action)?;
            continue;
        }
        on_action(action.clone());
        match action {
            Action::CloseView if model.is_over() => return Ok(Some(Exit::Ended)),
            Action::CloseView => return Ok(Some(Exit::Closed)),
            Action::Abort => return Ok(Some(Exit::Aborted)),
            _ => {}
        }
    }
    Ok(None)
}
