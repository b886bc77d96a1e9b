//! A text as the grammar of numbers sees it: one symbol after the other, LaTeX and scripts evened out.
//!
//! Digits of all scripts become ASCII ones, full-width characters their ASCII twins, the dashes that are written for minus
//! `-`, the spaces that group digits [`THIN_SPACE`]; of LaTeX only what it shows is left. Each symbol knows the bytes that
//! it stands for. Where more text could make something else of the last symbol, the end counts as looked at.

use std::ops::Range;

/// Any space that does not break: no-break, narrow, thin, LaTeX's `\,`.
pub const THIN_SPACE: char = '\u{2009}';
/// LaTeX's `\frac`.
pub const FRACTION: char = '\u{e000}';
/// LaTeX's `\over`, which stands between what it divides.
pub const OVER: char = '\u{e002}';
/// A LaTeX command that is neither a number nor its dress.
const COMMAND: char = '\u{e001}';

struct Symbol {
    c: char,
    bytes: Range<usize>,
}

/// Reads on demand, and notes whether the end of the text was looked at.
pub struct Reader<'t> {
    text: &'t str,
    next: usize,
    symbols: Vec<Symbol>,
    pub ran_out: bool,
}

impl<'t> Reader<'t> {
    pub fn new(text: &'t str) -> Self {
        Reader {
            text,
            next: 0,
            symbols: Vec::new(),
            ran_out: false,
        }
    }

    /// The symbol at a place; none at the end.
    pub fn get(&mut self, at: usize) -> Option<char> {
        while self.symbols.len() <= at {
            let Some(symbol) = self.read() else {
                self.ran_out = true;
                return None;
            };
            self.symbols.push(symbol);
        }
        Some(self.symbols[at].c)
    }

    /// Whether the text itself has this character where a symbol was read, before anything was evened out.
    pub fn is_written(&self, at: usize, c: char) -> bool {
        let symbol = self.symbols.get(at);
        symbol.is_some_and(|symbol| self.text[symbol.bytes.clone()].starts_with(c))
    }

    /// The bytes of some symbols that were read.
    pub fn bytes(&self, symbols: Range<usize>) -> Range<usize> {
        let part = &self.symbols[symbols];
        match (part.first(), part.last()) {
            (Some(first), Some(last)) => first.bytes.start..last.bytes.end,
            _ => 0..0,
        }
    }

    fn read(&mut self) -> Option<Symbol> {
        loop {
            let start = self.next;
            let rest = &self.text[start..];
            let c = rest.chars().next()?;
            let (symbol, length) = match c {
                '\\' => latex(rest)?,
                '{' => braced(rest),
                c => (even(c), c.len_utf8()),
            };
            // More text could make another symbol of what stands at the end.
            self.ran_out |= length == rest.len() && matches!(c, '\\' | '{');
            self.next = start + length;
            if let Some(c) = symbol {
                return Some(Symbol {
                    c,
                    bytes: start..self.next,
                });
            }
        }
    }
}

/// What a backslash begins, and its length; no symbol where it shows nothing. None at the end of the text.
fn latex(rest: &str) -> Option<(Option<char>, usize)> {
    let c = rest[1..].chars().next()?;
    if !c.is_ascii_alphabetic() {
        let symbol = match c {
            '$' | '%' | '#' | '&' | '_' => c,
            ',' | ';' | ':' | '!' | ' ' => THIN_SPACE,
            '(' | '[' | '{' => '{',
            ')' | ']' | '}' => '}',
            '\\' => '\n',
            _ => return Some((Some(COMMAND), 1)),
        };
        return Some((Some(symbol), 1 + c.len_utf8()));
    }
    let name = rest[1..].split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or("");
    let symbol = match name {
        "times" | "cdot" | "ast" => Some('×'),
        "div" => Some('÷'),
        "neq" | "ne" => Some('≠'),
        "gt" => Some('>'),
        "lt" => Some('<'),
        "pm" => Some('±'),
        "approx" | "simeq" | "sim" => Some('≈'),
        "frac" | "dfrac" | "tfrac" | "cfrac" => Some(FRACTION),
        "over" => Some(OVER),
        // What it is of a number is another number: one symbol does for all of them.
        "sqrt" | "log" | "ln" | "lg" | "exp" | "sin" | "cos" | "tan" | "gcd" | "lcm" | "max" | "min" | "binom"
        | "dbinom" | "tbinom" | "lfloor" | "lceil" => Some('√'),
        "pi" => Some('π'),
        "circ" | "degree" => Some('°'),
        "euro" => Some('€'),
        "pounds" => Some('£'),
        "quad" | "qquad" => Some(' '),
        "boxed" | "fbox" | "mbox" | "text" | "textbf" | "textit" | "textrm" | "textsf" | "texttt" | "emph"
        | "mathbf" | "mathrm" | "mathit" | "mathsf" | "mathtt" | "boldsymbol" | "bm" | "bf" | "rm" | "underline"
        | "overline" | "displaystyle" | "left" | "right" | "big" | "Big" => None,
        _ => Some(COMMAND),
    };
    Some((symbol, 1 + name.len()))
}

/// `{,}`, which keeps LaTeX from setting a space after the comma, or a plain brace.
fn braced(rest: &str) -> (Option<char>, usize) {
    const KEPT: [(&str, char); 5] = [
        ("{,}", ','),
        ("{.}", '.'),
        ("{ }", THIN_SPACE),
        ("{\\,}", THIN_SPACE),
        ("{\\ }", THIN_SPACE),
    ];
    if let Some((written, symbol)) = KEPT.iter().find(|(written, _)| rest.starts_with(written)) {
        return (Some(*symbol), written.len());
    }
    // Cut off inside of one of them: the rest is taken as a whole, and the end was looked at.
    let is_cut_off = KEPT.iter().any(|(written, _)| written.starts_with(rest));
    (Some('{'), if is_cut_off { rest.len() } else { 1 })
}

/// One character for all that are written for it; none for what shows nothing.
fn even(c: char) -> Option<char> {
    Some(match c {
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => return None,
        '\u{a0}' | '\u{202f}' | '\u{2005}'..='\u{200a}' | '\u{205f}' => THIN_SPACE,
        '\u{3000}' => ' ',
        '−' | '‐' | '‑' | '‒' | '﹣' | '➖' => '-',
        '’' | 'ʼ' | '′' => '\'',
        '✕' | '✖' | '∗' | '⋅' => '×',
        '⁄' | '∕' => '/',
        '〜' => '~',
        '،' => ',',
        '٪' => '%',
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
        c => digit(c).unwrap_or(c),
    })
}

/// The ASCII digit that a decimal digit of any script stands for.
pub fn digit(c: char) -> Option<char> {
    /// The zeros of Unicode's decimal digits (general category Nd), as far as languages in use have them.
    const ZEROS: [u32; 26] = [
        0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20,
        0x1040, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1b50, 0xa9d0, 0xabf0, 0xff10,
    ];
    let code = c as u32;
    if code < 0x660 {
        return None;
    }
    // Bold, double-struck and other mathematical digits follow each other.
    if (0x1d7ce..=0x1d7ff).contains(&code) {
        return char::from_digit((code - 0x1d7ce) % 10, 10);
    }
    let zero = ZEROS.iter().find(|&&zero| (zero..zero + 10).contains(&code))?;
    char::from_digit(code - zero, 10)
}

/// Unicode's currency symbols (general category Sc).
pub fn is_currency(c: char) -> bool {
    matches!(c, '$' | '¢'..='¥' | '֏' | '؋' | '৲' | '৳' | '৻' | '૱' | '௹' | '฿' | '៛' | '\u{20a0}'..='\u{20c1}' | '\u{a838}'
        | '\u{fdfc}' | '\u{fe69}' | '\u{ffe0}' | '\u{ffe1}' | '\u{ffe5}' | '\u{ffe6}')
}

/// The digit that a superscript stands for.
pub fn superscript(c: char) -> Option<char> {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let value = DIGITS.iter().position(|digit| *digit == c)?;
    char::from_digit(value as u32, 10)
}

/// Numerator and denominator of a fraction that is one character.
pub fn vulgar(c: char) -> Option<(u64, u64)> {
    Some(match c {
        '¼' => (1, 4),
        '½' => (1, 2),
        '¾' => (3, 4),
        '⅐' => (1, 7),
        '⅑' => (1, 9),
        '⅒' => (1, 10),
        '⅓' => (1, 3),
        '⅔' => (2, 3),
        '⅕' => (1, 5),
        '⅖' => (2, 5),
        '⅗' => (3, 5),
        '⅘' => (4, 5),
        '⅙' => (1, 6),
        '⅚' => (5, 6),
        '⅛' => (1, 8),
        '⅜' => (3, 8),
        '⅝' => (5, 8),
        '⅞' => (7, 8),
        _ => return None,
    })
}
