//! Everything that cuts a run short, or its view: Ctrl-C, a signal, Ctrl-Z, a closed laptop, a view that panics.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering, mpsc::Sender},
};

use anyhow::Result;
use signal_hook::{
    consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGTSTP},
    flag,
    iterator::{Handle, Signals},
    low_level,
};

use rustix::process::Signal;

use super::{front::Searcher, say};
use crate::{
    dashboard::{self, Flags},
    event::words::shell_word,
    search::Control,
};

const STOPPING: &str = "stopping: what is being asked is answered first · Ctrl-C again ends at once; `heterosis resume` \
                        goes on after either";

/// Says to a person what an end in the midst of things means.
pub fn ended_at_once(run: &str) {
    say(format_args!(
        "ended at once: what was being asked is lost, all before it is in the journal; `heterosis resume {}` goes on",
        shell_word(run)
    ));
}

/// Where words to the person go: into the dashboard while it is shown, else to stderr.
#[derive(Clone, Default)]
pub struct Voice(Arc<Mutex<Option<Sender<String>>>>);

impl Voice {
    /// From now on through the dashboard; `None`: no more.
    pub fn is_through(&self, dashboard: Option<Sender<String>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = dashboard;
    }

    fn is_on_screen(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn say(&self, text: &str) {
        let dashboard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*dashboard {
            Some(dashboard) if dashboard.send(text.into()).is_ok() => {}
            _ => say(text),
        }
    }
}

/// Who is to be interrupted.
pub enum Searching {
    /// This process.
    Here(Control),
    /// A process of its own.
    There(Searcher),
}

impl Searching {
    /// Asks for an end in order.
    fn drain(&self) {
        match self {
            Self::Here(control) => control.stop.store(true, Ordering::Relaxed),
            Self::There(searcher) => searcher.signal(Signal::INT),
        }
    }

    /// Whether an end in order has been asked for, by a signal or otherwise.
    fn is_draining(&self) -> bool {
        matches!(self, Self::Here(control) if control.stop.load(Ordering::Relaxed))
    }

    /// Before this process ends in the midst of things.
    fn end_at_once(&self) {
        if let Self::There(searcher) = self {
            searcher.end_at_once();
        }
    }

    fn pass_on(&self, signal: Signal) {
        if let Self::There(searcher) = self {
            searcher.signal(signal);
        }
    }
}

/// Listens to signals until it is dropped.
pub struct Interruptions {
    /// What the dashboard must know of.
    pub flags: Flags,
    listener: Handle,
    /// The run's directory, when there is one.
    run: Arc<Mutex<String>>,
}

impl Interruptions {
    /// The first Ctrl-C or SIGTERM drains, the second ends at once, and both say so; Ctrl-Z gives the terminal back before it
    /// stops the search; SIGHUP, a closed laptop, ends nothing but the view.
    ///
    /// # Errors
    /// The operating system lets nobody listen.
    pub fn listen(searching: Searching, voice: &Voice) -> Result<Self> {
        let flags = Flags::default();
        flag::register(SIGHUP, flags.hung_up.clone())?;
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGTSTP, SIGCONT])?;
        let listener = signals.handle();
        let run = Arc::new(Mutex::new(String::new()));
        let (voice, of_view, name) = (voice.clone(), flags.clone(), Arc::clone(&run));
        std::thread::spawn(move || {
            let mut again = false;
            for signal in signals.forever() {
                match signal {
                    SIGTSTP if voice.is_on_screen() => of_view.suspend.store(true, Ordering::Relaxed),
                    SIGTSTP => {
                        searching.pass_on(Signal::TSTP);
                        suspend();
                    }
                    SIGCONT => {
                        searching.pass_on(Signal::CONT);
                        of_view.woken.store(true, Ordering::Relaxed);
                    }
                    _ if again || searching.is_draining() => {
                        if voice.is_on_screen() {
                            dashboard::restore();
                        }
                        searching.end_at_once();
                        ended_at_once(&name.lock().unwrap_or_else(PoisonError::into_inner));
                        low_level::exit(130);
                    }
                    _ => {
                        again = true;
                        searching.drain();
                        voice.say(STOPPING);
                    }
                }
            }
        });
        Ok(Self { flags, listener, run })
    }

    /// The run that is gone on with after an end at once.
    pub fn is_of(&self, run: &str) {
        run.clone_into(&mut self.run.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Interruptions {
    fn drop(&mut self) {
        self.listener.close();
    }
}

/// Stops the whole process until somebody sends it SIGCONT, as a shell's `fg` does.
pub fn suspend() {
    if let Err(e) = low_level::emulate_default_handler(SIGTSTP) {
        tracing::warn!("this process cannot be suspended: {e}");
    }
}

/// Shows a view; one that panics ends alone, and the run goes on.
pub fn guarded<T>(what: &str, view: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(view)) {
        Ok(shown) => Some(shown),
        Err(_) => {
            say(format_args!(
                "{what} has failed, which is a fault of heterosis; the run goes on"
            ));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_that_panics_ends_alone() {
        assert_eq!(guarded("the view", || 3), Some(3));
        assert_eq!(guarded("the view", || -> u32 { panic!("a view") }), None);
    }

    #[test]
    fn words_go_where_somebody_reads_them() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let voice = Voice::default();
        voice.is_through(Some(sender));
        voice.say("stopping");
        voice.is_through(None);
        voice.say("to stderr");
        assert_eq!(receiver.iter().collect::<Vec<_>>(), ["stopping"]);
    }
}
