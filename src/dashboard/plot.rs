//! A small plotting surface over terminal cells: Braille lines, shaded bands, level lines, marks, ticks.
//!
//! ratatui's own chart draws everything in one kind of stroke; here what belongs to a series is told by its stroke and
//! not only by its colour. Later strokes lie on top of earlier ones.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use crate::event::scale::Range;

/// The surface; drawn into a buffer with [`Plot::render`].
pub struct Plot {
    area: Rect,
    x: Range,
    y: Range,
    cells: Vec<Cell>,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    dots: u8,
    symbol: Option<char>,
    style: Style,
}

/// Bit of each dot of a Braille cell, by row and column.
const DOTS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

impl Plot {
    pub fn new(area: Rect, x: Range, y: Range) -> Self {
        let cells = vec![Cell::default(); area.width as usize * area.height as usize];
        Self { area, x, y, cells }
    }

    /// The screen row of a value, if it lies inside.
    pub fn row(&self, y: f64) -> Option<u16> {
        let (_, row) = self.cell_at(self.x.low, y)?;
        Some(self.area.y + row as u16)
    }

    /// The screen row of a value, or of the edge that is nearest to it.
    pub fn nearest_row(&self, y: f64) -> Option<u16> {
        Some(self.area.y + self.clamped_row(y)? as u16)
    }

    /// The value at the lower edge.
    pub fn lowest(&self) -> f64 {
        self.y.low
    }

    /// The screen column of a value, if it lies inside.
    pub fn column(&self, x: f64) -> Option<u16> {
        let (column, _) = self.cell_at(x, self.y.low)?;
        Some(self.area.x + column as u16)
    }

    /// Shades between two curves given as `(x, low, high)`, ascending in x, straight in between.
    pub fn band(&mut self, points: &[(f64, f64, f64)], style: Style) {
        for column in 0..self.area.width as usize {
            let fraction = (column as f64 + 0.5) / f64::from(self.area.width);
            let x = self.x.low + fraction * (self.x.high - self.x.low);
            let Some((low, high)) = between(points, x) else {
                continue;
            };
            let (Some(top), Some(bottom)) = (self.clamped_row(high), self.clamped_row(low)) else {
                continue;
            };
            for row in top..=bottom {
                self.put(column, row, '░', style);
            }
        }
    }

    /// A level line over the whole width.
    pub fn level(&mut self, y: f64, stroke: char, style: Style) {
        let Some((_, row)) = self.cell_at(self.x.low, y) else {
            return;
        };
        for column in 0..self.area.width as usize {
            self.put(column, row, stroke, style);
        }
    }

    /// A polyline of Braille dots.
    pub fn line(&mut self, points: &[(f64, f64)], style: Style) {
        for pair in points.windows(2) {
            self.segment(pair[0], pair[1], style);
        }
        if let [point] = points {
            self.dot(*point, style);
        }
    }

    /// One Braille dot.
    pub fn dot(&mut self, point: (f64, f64), style: Style) {
        if let Some((x, y)) = self.dot_at(point) {
            self.put_dot(x, y, style);
        }
    }

    /// One character.
    pub fn mark(&mut self, point: (f64, f64), symbol: char, style: Style) {
        if let Some((column, row)) = self.cell_at(point.0, point.1) {
            self.put(column, row, symbol, style);
        }
    }

    pub fn render(&self, buffer: &mut Buffer) {
        let width = self.area.width as usize;
        for (i, cell) in self.cells.iter().enumerate() {
            let symbol = match (cell.symbol, cell.dots) {
                (Some(symbol), _) => symbol,
                (None, 0) => continue,
                (None, dots) => char::from_u32(0x2800 + u32::from(dots)).unwrap_or('·'),
            };
            let position = (self.area.x + (i % width) as u16, self.area.y + (i / width) as u16);
            if let Some(target) = buffer.cell_mut(position) {
                target.set_char(symbol).set_style(cell.style);
            }
        }
    }

    fn segment(&mut self, from: (f64, f64), to: (f64, f64), style: Style) {
        let (Some((x0, y0)), Some((x1, y1))) = (self.dot_at(from), self.dot_at(to)) else {
            return;
        };
        let steps = x0.abs_diff(x1).max(y0.abs_diff(y1)).max(1);
        for step in 0..=steps {
            let t = step as f64 / steps as f64;
            let x = x0 as f64 + t * (x1 as f64 - x0 as f64);
            let y = y0 as f64 + t * (y1 as f64 - y0 as f64);
            self.put_dot(x.round() as usize, y.round() as usize, style);
        }
    }

    fn put(&mut self, column: usize, row: usize, symbol: char, style: Style) {
        if let Some(cell) = self.cells.get_mut(row * self.area.width as usize + column) {
            *cell = Cell {
                dots: 0,
                symbol: Some(symbol),
                style,
            };
        }
    }

    fn put_dot(&mut self, x: usize, y: usize, style: Style) {
        if let Some(cell) = self.cells.get_mut(y / 4 * self.area.width as usize + x / 2) {
            cell.dots |= DOTS[y % 4][x % 2];
            cell.symbol = None;
            cell.style = style;
        }
    }

    fn cell_at(&self, x: f64, y: f64) -> Option<(usize, usize)> {
        let (x, y) = self.dot_at((x, y))?;
        Some((x / 2, y / 4))
    }

    /// The row of a value, pulled to the edge when it lies outside.
    fn clamped_row(&self, y: f64) -> Option<usize> {
        let y = if y.is_nan() {
            return None;
        } else {
            y.clamp(self.y.low, self.y.high)
        };
        self.cell_at(self.x.low, y).map(|(_, row)| row)
    }

    fn dot_at(&self, (x, y): (f64, f64)) -> Option<(usize, usize)> {
        let (columns, rows) = (2 * self.area.width as usize, 4 * self.area.height as usize);
        if columns == 0 || rows == 0 {
            return None;
        }
        let (fx, fy) = (self.x.fraction(x), 1.0 - self.y.fraction(y));
        let inside = |f: f64| (0.0..=1.0).contains(&f);
        let at = |f: f64, n: usize| ((f * (n - 1) as f64).round() as usize).min(n - 1);
        (inside(fx) && inside(fy)).then(|| (at(fx, columns), at(fy, rows)))
    }
}

/// Linear interpolation of a band; nothing outside its ends.
fn between(points: &[(f64, f64, f64)], x: f64) -> Option<(f64, f64)> {
    let after = points.iter().position(|p| p.0 >= x)?;
    let b = points[after];
    let Some(&a) = after.checked_sub(1).and_then(|i| points.get(i)) else {
        return (b.0 == x).then_some((b.1, b.2));
    };
    let t = if b.0 > a.0 { (x - a.0) / (b.0 - a.0) } else { 1.0 };
    Some((a.1 + t * (b.1 - a.1), a.2 + t * (b.2 - a.2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(draw: impl FnOnce(&mut Plot)) -> Vec<String> {
        let area = Rect::new(0, 0, 4, 2);
        let unit = Range { low: 0.0, high: 1.0 };
        let mut plot = Plot::new(area, unit, unit);
        draw(&mut plot);
        let mut buffer = Buffer::empty(area);
        plot.render(&mut buffer);
        buffer
            .content
            .chunks(4)
            .map(|row| row.iter().map(|c| c.symbol()).collect())
            .collect()
    }

    #[test]
    fn corners_and_lines() {
        assert_eq!(drawn(|p| p.dot((0.0, 1.0), Style::new())), ["⠁   ", "    "]);
        assert_eq!(drawn(|p| p.dot((1.0, 0.0), Style::new())), ["    ", "   ⢀"]);
        assert_eq!(drawn(|p| p.level(1.0, '╌', Style::new())), ["╌╌╌╌", "    "]);
        assert_eq!(
            drawn(|p| p.line(&[(0.0, 0.0), (1.0, 0.0)], Style::new())),
            ["    ", "⣀⣀⣀⣀"]
        );
        assert_eq!(
            drawn(|p| p.band(&[(0.0, 0.0, 1.0), (0.5, 0.0, 1.0)], Style::new())),
            ["░░  ", "░░  "]
        );
    }

    #[test]
    fn outside_and_nan_draw_nothing() {
        let blank = ["    ", "    "];
        assert_eq!(drawn(|p| p.dot((2.0, 0.5), Style::new())), blank);
        assert_eq!(drawn(|p| p.dot((f64::NAN, 0.5), Style::new())), blank);
        assert_eq!(drawn(|p| p.level(f64::NAN, '-', Style::new())), blank);
        assert_eq!(
            drawn(|p| p.band(&[(0.0, f64::NAN, 1.0), (1.0, 0.0, f64::NAN)], Style::new())),
            blank
        );
    }

    #[test]
    fn an_empty_area_is_no_error() {
        let unit = Range { low: 0.0, high: 1.0 };
        let mut plot = Plot::new(Rect::new(0, 0, 0, 0), unit, unit);
        plot.line(&[(0.0, 0.0), (1.0, 1.0)], Style::new());
        plot.band(&[(0.0, 0.0, 1.0), (1.0, 0.0, 1.0)], Style::new());
        plot.render(&mut Buffer::empty(Rect::new(0, 0, 1, 1)));
        assert_eq!(plot.row(0.5), None);
    }
}
