//! Libraries that read files may panic where a file is damaged. A file is no reason to end the program, nor to write over a dashboard.

#![deny(missing_docs)]

use std::{
    any::Any,
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::Once,
    thread,
};

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// What a closure gives, or the words with which it panicked. The panic hook, which would write them to stderr, is not called for it:
/// the first call of all puts a hook before the one that is there, which passes on every panic but these.
///
/// Threads that the closure starts are not covered, and what it changes by reference may be left half done by a panic: let go of it.
///
/// ```
/// let length: usize = "4 billion".len();
/// assert_eq!(heterosis_unwind::caught(|| length), Ok(9));
/// assert_eq!(heterosis_unwind::caught(|| panic!("{length} bytes?")), Err::<(), _>("9 bytes?".into()));
/// ```
///
/// # Errors
/// The message of the panic; "it panicked" where that is no text.
pub fn caught<T>(what: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    // The hook cannot be changed by who is on the way out already.
    if !thread::panicking() {
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                if !CAUGHT.get() {
                    before(info);
                }
            }));
        });
    }
    let outer = CAUGHT.replace(true);
    let given = panic::catch_unwind(AssertUnwindSafe(what));
    CAUGHT.set(outer);
    given.map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it panicked").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a process of its own, whose stderr is read.
    #[test]
    fn only_panics_that_nobody_catches_are_written() {
        let program = std::env::current_exe().unwrap();
        let test = std::process::Command::new(program)
            .args(["--exact", "--nocapture", "tests::inner", "--ignored"])
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&test.stderr);
        assert!(
            stderr.contains("of nobody") && !stderr.contains("of a library"),
            "{stderr}"
        );
    }

    #[test]
    #[ignore = "run by the test above"]
    fn inner() {
        let of_a_library = || -> () { panic!("of a library") };
        assert_eq!(caught(|| caught(of_a_library)), Ok(Err("of a library".into())));
        assert_eq!(caught(|| std::panic::panic_any(7)), Err::<(), _>("it panicked".into()));
        let _ = panic::catch_unwind(|| panic!("of nobody"));
    }
}
