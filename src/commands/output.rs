//! What goes to stdout and stderr, and the one place where it is made harmless.
//!
//! Names, answers and errors come from files that others wrote: a journal, a model, an evaluator. A terminal obeys control
//! characters in them: it would change its title, its colours, its clipboard, or hide a line. So everything that is printed
//! passes [`printable`], in which they stand written out.

use std::{
    borrow::Cow,
    fmt::Display,
    io::{self, ErrorKind, Write},
};

use serde::Serialize;

use crate::event::words::turns_writing;

/// A text with every character that a terminal would obey rather than show written as JSON writes it, `\u001b`.
///
/// Line feeds, the carriage returns before them, and tabs stay. JSON stays the same JSON: where such a character can stand
/// raw in it, inside of a string, the escape means the same.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\r' if rest.peek() == Some(&'\n') => out.push(c),
            c if is_obeyed(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Controls (C0, DEL, C1), and the marks that turn the direction of writing and so show another text than there is.
fn is_obeyed(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t') || turns_writing(c) || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Prints a line on stdout; a reader that has gone away ends the program quietly, a disk that is full with a word and 1.
pub fn print(line: impl Display) {
    if let Err(e) = write_line(io::stdout(), &line) {
        std::process::exit(match e.kind() {
            ErrorKind::BrokenPipe => 0,
            _ => {
                say(format_args!("error: cannot write to stdout: {e}"));
                1
            }
        });
    }
}

/// Prints a part of a line at once, as far as anybody reads it.
pub fn print_part(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(printable(text).as_bytes()).and_then(|()| out.flush());
}

/// As [`print`], for work that goes on when nobody reads any more: the terminal of a laptop that was closed, say.
pub fn print_if_read(line: impl Display) {
    let _ = write_line(io::stdout(), &line);
}

/// A word on stderr, if anybody reads it.
pub fn say(line: impl Display) {
    let _ = write_line(io::stderr(), &line);
}

/// One JSON document on stdout, with the schema version first.
pub fn print_json<T: Serialize>(document: &T) {
    print(json_document(document));
}

/// As [`print_json`] prints it.
pub fn json_document<T: Serialize>(document: &T) -> String {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        schema_version: u32,
        #[serde(flatten)]
        document: &'a T,
    }
    let versioned = Versioned {
        schema_version: crate::event::SCHEMA_VERSION,
        document,
    };
    serde_json::to_string(&versioned).expect("a document is plain data")
}

fn write_line(mut to: impl Write, line: &dyn Display) -> io::Result<()> {
    writeln!(to, "{}", printable(&line.to_string()))?;
    to.flush()
}

/// stderr for the log. The subscriber writes out the escape characters of messages itself and adds its own for colours,
/// so these are let through here, and nothing else is.
#[derive(Clone, Copy)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let parts: Vec<Cow<'_, str>> = text.split('\u{1b}').map(printable).collect();
        io::stderr().write_all(parts.join("\u{1b}").as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model was called `\x1b]0;owned\x07`: `status` of its run set the terminal's title.
    #[test]
    fn nothing_that_a_terminal_obeys_is_printed_raw() {
        assert_eq!(printable("\u{1b}]0;owned\u{7}"), "\\u001b]0;owned\\u0007");
        assert_eq!(
            printable("a\rb\u{9b}31m\u{202e}c\u{7f}"),
            "a\\u000db\\u009b31m\\u202ec\\u007f"
        );
        for plain in ["", "a\tb\r\nc\n", "naïve café – 数学 ±0.5 👩\u{200d}🔬"] {
            assert_eq!(printable(plain), plain);
        }
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({"a\u{9b}": "\u{1b}[2J\u{202e}\u{7f}\n"});
        let printed = printable(&value.to_string()).into_owned();
        assert!(!printed.contains(is_obeyed));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).unwrap(), value);
    }
}
