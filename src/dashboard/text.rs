//! Fitting words into columns: display width, cutting, cleaning, and lines whose parts give way in order.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// Columns that a text takes on the screen.
pub fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// A text from outside on one line: line breaks become a sign, other control characters go.
pub fn clean(text: &str) -> String {
    text.chars()
        .filter_map(|c| match c {
            '\n' => Some('⏎'),
            '\t' => Some(' '),
            c if c.is_control() => None,
            c => Some(c),
        })
        .collect()
}

/// Cuts to `columns`, with `…` in place of what went.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    if columns == 0 {
        return String::new();
    }
    let mut out = String::new();
    let mut taken = 0;
    for c in text.chars() {
        let next = width(c.encode_utf8(&mut [0; 4]));
        if taken + next > columns - 1 {
            break;
        }
        taken += next;
        out.push(c);
    }
    out.push('…');
    out
}

/// Cuts or fills on the right.
pub fn left(text: &str, columns: usize) -> String {
    let text = cut(text, columns);
    let space = columns.saturating_sub(width(&text));
    text + &" ".repeat(space)
}

/// Cuts or fills on the left.
pub fn right(text: &str, columns: usize) -> String {
    let text = cut(text, columns);
    " ".repeat(columns.saturating_sub(width(&text))) + &text
}

/// Breaks a text of several lines into rows of at most `columns`, at spaces where it can.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut rows = Vec::new();
    for line in text.split('\n') {
        let mut row = String::new();
        let mut taken = 0;
        for word in clean(line).split_inclusive(' ') {
            let visible = width(word.trim_end());
            if taken > 0 && taken + visible > columns {
                rows.push(std::mem::take(&mut row));
                taken = 0;
            }
            for c in word.chars() {
                let next = width(c.encode_utf8(&mut [0; 4]));
                if taken + next > columns {
                    if c == ' ' {
                        continue;
                    }
                    rows.push(std::mem::take(&mut row));
                    taken = 0;
                }
                row.push(c);
                taken += next;
            }
        }
        rows.push(row);
    }
    rows
}

/// A line made of parts that disappear, least important first, until it fits.
#[derive(Default)]
pub struct Parts<'a> {
    parts: Vec<(u8, bool, Vec<Span<'a>>)>,
}

impl<'a> Parts<'a> {
    /// `importance` 0 never gives way (it is cut at the edge instead).
    pub fn left(mut self, importance: u8, spans: Vec<Span<'a>>) -> Self {
        self.parts.push((importance, false, spans));
        self
    }

    pub fn right(mut self, importance: u8, spans: Vec<Span<'a>>) -> Self {
        self.parts.push((importance, true, spans));
        self
    }

    /// The line, `columns` wide: left parts, space, right parts; two spaces between parts.
    pub fn fit(mut self, columns: usize) -> Line<'a> {
        loop {
            let used: usize = self.parts.iter().map(|(_, _, spans)| part_width(spans) + 2).sum();
            if used <= columns + 2 {
                break;
            }
            let least = self.parts.iter().map(|p| p.0).max().unwrap_or(0);
            if least == 0 {
                break;
            }
            let last = self
                .parts
                .iter()
                .rposition(|p| p.0 == least)
                .expect("the largest is among them");
            self.parts.remove(last);
        }
        let (right, left): (Vec<_>, Vec<_>) = self.parts.into_iter().partition(|(_, right, _)| *right);
        let used: usize = right.iter().map(|(_, _, s)| part_width(s) + 2).sum();
        let mut line = join(left);
        if !right.is_empty() {
            let space = (columns + 2).saturating_sub(line.width() + used).max(2);
            line.push_span(Span::raw(" ".repeat(space)));
            line.spans.extend(join(right).spans);
        }
        line
    }
}

fn part_width(spans: &[Span]) -> usize {
    spans.iter().map(Span::width).sum()
}

fn join<'a>(parts: Vec<(u8, bool, Vec<Span<'a>>)>) -> Line<'a> {
    let mut line = Line::default();
    for (i, (_, _, spans)) in parts.into_iter().enumerate() {
        if i > 0 {
            line.push_span(Span::raw("  "));
        }
        line.spans.extend(spans);
    }
    line
}

/// A bar of eighths of a column, `columns` long at 1.
pub fn bar(fraction: f64, columns: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (fraction.clamp(0.0, 1.0) * columns as f64 * 8.0).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// The last values as a line of blocks, scaled from 0 to their largest.
pub fn sparkline(values: &[f64], columns: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values = &values[values.len().saturating_sub(columns)..];
    let largest = values.iter().copied().fold(0.0, f64::max);
    let block = |v: &f64| BLOCKS[((v / largest * 7.0).round().max(0.0) as usize).min(7)];
    if largest > 0.0 {
        values.iter().map(block).collect()
    } else {
        String::new()
    }
}

/// A styled piece of text.
pub fn span<'a>(text: impl Into<std::borrow::Cow<'a, str>>, style: Style) -> Span<'a> {
    Span::styled(text, style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_counts_columns_and_not_characters() {
        assert_eq!(cut("heterosis", 9), "heterosis");
        assert_eq!(cut("heterosis", 5), "hete…");
        assert_eq!(cut("漢字漢字", 5), "漢字…");
        assert_eq!(cut("漢字", 2), "…");
        assert_eq!(cut("x", 0), "");
        assert_eq!(right("7", 3), "  7");
        assert_eq!(left("漢", 3), "漢 ");
    }

    #[test]
    fn escape_sequences_of_a_model_do_not_reach_the_terminal() {
        assert_eq!(clean("a\u{1b}[31mb\nc\r\t"), "a[31mb⏎c ");
    }

    #[test]
    fn wrapping_keeps_every_word() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"].map(String::from));
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"].map(String::from));
        assert_eq!(wrap("a\n\nb", 3), ["a", "", "b"].map(String::from));
        assert_eq!(wrap("", 0), [""].map(String::from));
        assert_eq!(wrap("漢字漢", 4), ["漢字", "漢"].map(String::from));
    }

    #[test]
    fn the_least_important_part_gives_way_first() {
        let parts = || {
            Parts::default()
                .left(0, vec![Span::raw("name")])
                .left(3, vec![Span::raw("detail")])
                .right(1, vec![Span::raw("time")])
        };
        assert_eq!(parts().fit(20).to_string(), "name  detail    time");
        assert_eq!(parts().fit(12).to_string(), "name    time");
        assert_eq!(parts().fit(5).to_string(), "name");
    }

    #[test]
    fn bars_and_sparklines_scale() {
        assert_eq!(bar(0.5, 3), "█▌");
        assert_eq!(bar(7.0, 2), "██");
        assert_eq!(bar(f64::NAN, 2), "");
        assert_eq!(sparkline(&[0.0, 7.0, 14.0], 2), "▅█");
        assert_eq!(sparkline(&[], 5), "");
        assert_eq!(sparkline(&[0.0], 5), "");
    }
}
