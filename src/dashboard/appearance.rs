//! What the terminal can show, and the palette.
//!
//! Views draw in full colour and Unicode; [`Appearance::adapt`] takes away afterwards what the terminal lacks, in one
//! place. Colours are Okabe and Ito's (safe for colour-blind eyes) in the 256-colour cube, readable on light and dark;
//! every colour goes along with a word, a sign or a position that says the same.

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier, Style};

/// What the terminal can show. The caller finds out (`NO_COLOR`, the locale).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appearance {
    pub color: bool,
    /// Off: everything is drawn in ASCII.
    pub unicode: bool,
    /// Offset of the reader's clock from UTC, for the log's times.
    pub utc_offset_s: i32,
}

impl Default for Appearance {
    fn default() -> Self {
        Self {
            color: true,
            unicode: true,
            utc_offset_s: 0,
        }
    }
}

const ORANGE: Color = Color::Indexed(172);
const SKY: Color = Color::Indexed(74);
const GREEN: Color = Color::Indexed(36);
const VERMILLION: Color = Color::Indexed(166);
const PURPLE: Color = Color::Indexed(175);

pub const PLAIN: Style = Style::new();
pub const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
pub const DIM: Style = Style::new().fg(Color::Indexed(244));
/// The brand, focus, keys.
pub const ACCENT: Style = Style::new().fg(SKY);
pub const BEST: Style = Style::new().fg(ORANGE);
pub const PARENT: Style = Style::new().fg(PURPLE);
pub const BASELINE: Style = Style::new().fg(SKY);
pub const GOOD: Style = Style::new().fg(GREEN);
pub const BAD: Style = Style::new().fg(VERMILLION);
pub const SELECTED: Style = Style::new().add_modifier(Modifier::REVERSED);

impl Appearance {
    /// Takes away what the terminal cannot show.
    pub fn adapt(self, buffer: &mut Buffer) {
        for cell in &mut buffer.content {
            if !self.color {
                cell.set_style(Style::new().fg(Color::Reset).bg(Color::Reset));
            }
            if !self.unicode && !cell.symbol().is_ascii() {
                let plain = ascii(cell.symbol());
                cell.set_char(plain);
            }
        }
    }
}

/// The ASCII character that comes nearest to a drawn one.
fn ascii(symbol: &str) -> char {
    let Some(first) = symbol.chars().next() else {
        return ' ';
    };
    match first {
        '─' | '╌' | '–' | '—' | '▔' => '-',
        '━' => '=',
        '│' | '┃' | '┊' => '|',
        '╭' | '╮' | '╰' | '╯' | '┌' | '┐' | '└' | '┘' | '├' | '┤' | '┬' | '┴' | '┼' => '+',
        '·' | '┄' => '.',
        '°' | '•' => 'o',
        '±' => '~',
        '×' => 'x',
        '›' | '▸' | '▶' => '>',
        '‹' | '◂' => '<',
        '●' | '◆' | '★' | '■' => '*',
        '○' | '◇' => 'o',
        '□' => '#',
        '✓' => '+',
        '✗' => 'x',
        '↑' | '▲' => '^',
        '↓' | '▼' => 'v',
        '→' => '>',
        '←' => '<',
        '⏎' | '↵' => ' ',
        '…' => '~',
        '░' => ':',
        '▒' | '▓' | '█' | '▉' | '▊' | '▋' | '▌' => '#',
        '▍' | '▎' | '▏' => '=',
        '▁' | '▂' => '_',
        '▃' | '▄' | '▅' => '=',
        '▆' | '▇' => '#',
        '‖' => '"',
        '\u{2800}'..='\u{28ff}' => braille_ascii(first),
        _ => '?',
    }
}

/// Upper half, lower half or both of a Braille cell.
fn braille_ascii(symbol: char) -> char {
    const UPPER: u32 = 0x01 | 0x02 | 0x08 | 0x10;
    let dots = symbol as u32 - 0x2800;
    match (dots & UPPER != 0, dots & !UPPER != 0) {
        (true, true) => '|',
        (true, false) => '\'',
        (false, true) => '.',
        (false, false) => ' ',
    }
}

#[cfg(test)]
mod tests {
    use ratatui::layout::Rect;

    use super::*;

    #[test]
    fn ascii_leaves_only_ascii_and_no_color_leaves_only_weight() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 12, 1));
        buffer.set_string(0, 0, "─●±⣿⠉⣀ñ漢 a", BEST.add_modifier(Modifier::BOLD));
        Appearance {
            color: false,
            unicode: false,
            ..Appearance::default()
        }
        .adapt(&mut buffer);
        let text: String = buffer.content.iter().map(|c| c.symbol()).collect();
        assert_eq!(text, "-*~|'.??  a ");
        assert!(
            buffer
                .content
                .iter()
                .all(|c| c.fg == Color::Reset && c.bg == Color::Reset)
        );
        assert!(buffer.content[0].modifier.contains(Modifier::BOLD));
    }
}
