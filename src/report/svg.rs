//! Just enough SVG: shapes with classes, coloured by one style sheet for light and dark.
//!
//! By hand, and not by a drawing library: `plotters` and its kin write colours into each shape, so one picture cannot be
//! light and dark, set text by measured fonts that a reader's machine may lack, and give a point no words that show when the
//! pointer rests on it or a screen reader comes by. What is drawn here is lines, boxes, dots and text.

use std::fmt::{Display, Write};

use crate::event::words::turns_writing;

/// Colours of the pictures by their names in [`RULES`], for light and for dark rooms: Okabe and Ito's.
const COLOURS: [(&str, &str, &str); 9] = [
    ("ink", "#1b1f24", "#e6e9ec"),
    ("muted", "#667079", "#98a2ab"),
    ("grid", "#e4e7eb", "#30363c"),
    ("child", "#d55e00", "#f0883e"),
    ("parent", "#a8487d", "#e08fba"),
    ("baseline", "#0072b2", "#6cb6ef"),
    ("dot", "#9aa3ab", "#6b747c"),
    ("band", "#56b4e9", "#3f8fc4"),
    ("paper", "#fff", "#15181b"),
];

const FONT: &str = "svg{font:13px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}";

const RULES: &str = "\
.ink{fill:var(--ink)}.muted{fill:var(--muted)}.grid{stroke:var(--grid)}.axis{stroke:var(--muted)}\
.child{fill:var(--child)}.parent{fill:var(--parent)}.baseline{fill:var(--baseline)}.dot{fill:var(--dot)}\
.band{fill:var(--band);fill-opacity:.22}.warm{fill:var(--child)}.cold{fill:var(--band)}\
.line{fill:none;stroke-width:2}.s-child{stroke:var(--child)}.s-parent{stroke:var(--parent);stroke-dasharray:7 4}\
.s-baseline{stroke:var(--baseline);stroke-dasharray:2 4}.s-ink{stroke:var(--ink)}.bold{font-weight:600}\
.solid{fill-opacity:1}.thin{stroke-width:1;opacity:.45}.plain{stroke-dasharray:none}.hollow{fill:var(--paper);stroke-width:2}.small{font-size:11px}\
.halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px}";

/// The style sheet of pictures within a page.
pub fn style() -> String {
    let colours = |dark: bool| -> String {
        let colour =
            |(name, light, night): &(&str, &str, &str)| format!("--{name}:{};", if dark { night } else { light });
        COLOURS.iter().map(colour).collect()
    };
    let (light, dark) = (colours(false), colours(true));
    format!("{FONT}svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}{RULES}")
}

/// The style sheet of a picture in a file of its own. Drawing programs know no `var()` and skip what is for dark rooms.
fn plain_style() -> String {
    let rules = |dark: bool| {
        let colour = |rules: String, (name, light, night): &(&str, &str, &str)| {
            rules.replace(&format!("var(--{name})"), if dark { night } else { light })
        };
        let rules = format!("{RULES}svg{{background:var(--paper)}}");
        COLOURS.iter().fold(rules, colour)
    };
    format!(
        "{FONT}{}@media(prefers-color-scheme:dark){{{}}}",
        rules(false),
        rules(true)
    )
}

/// A picture in the making; coordinates in pixels from the top left.
pub struct Svg {
    width: f64,
    height: f64,
    title: String,
    body: String,
}

/// Where a text stands relative to its point.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        Self {
            width,
            height,
            title: title.to_owned(),
            body: String::new(),
        }
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        self.add(format_args!(
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" class="{class}"/>"#,
            from.0, from.1, to.0, to.1
        ));
    }

    /// A polyline, or with `close` a polygon.
    pub fn path(&mut self, points: &[(f64, f64)], close: bool, class: &str) {
        let mut d = String::new();
        for (i, (x, y)) in points.iter().enumerate() {
            let _ = write!(d, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
        }
        if points.len() > 1 {
            let end = if close { "Z" } else { "" };
            self.add(format_args!(r#"<path d="{d}{end}" class="{class}"/>"#));
        }
    }

    pub fn rect(&mut self, corner: (f64, f64), size: (f64, f64), class: &str, opacity: f64) {
        self.add(format_args!(
            r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}" rx="2" class="{class}" opacity="{opacity:.2}"/>"#,
            corner.0, corner.1, size.0, size.1
        ));
    }

    /// A dot that says what it is when the pointer rests on it.
    pub fn dot(&mut self, (x, y): (f64, f64), radius: f64, class: &str, tip: &str) {
        self.add(format_args!(
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius:.1}" class="{class}"><title>{}</title></circle>"#,
            escape(tip)
        ));
    }

    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.add(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" dominant-baseline="central" class="{class}">{}</text>"#,
            escape(text)
        ));
    }

    fn add(&mut self, element: impl Display) {
        let _ = writeln!(self.body, "{element}");
    }

    /// For a page that carries [`style`] itself.
    pub fn inline(&self) -> String {
        self.document("", "")
    }

    /// For a file of its own.
    pub fn standalone(&self) -> String {
        let style = format!("<style>{}</style>\n", plain_style());
        self.document(r#" xmlns="http://www.w3.org/2000/svg""#, &style)
    }

    fn document(&self, namespace: &str, style: &str) -> String {
        let (width, height, title) = (self.width, self.height, escape(&self.title));
        format!(
            "<svg{namespace} viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" \
             aria-label=\"{title}\">\n<title>{title}</title>\n{style}{}</svg>\n",
            self.body
        )
    }
}

/// Columns of a label that a picture has room for.
const LONGEST_LABEL: usize = 34;

/// A label, shortened where it would take the room of what it names.
pub fn label(text: &str) -> String {
    match text.chars().count() > LONGEST_LABEL {
        true => text.chars().take(LONGEST_LABEL - 1).chain(['…']).collect(),
        false => text.into(),
    }
}

/// Pixels that a text takes at most in the pictures' font, which a reader's machine chooses: no Latin font of its kind is
/// wider on average, and wide characters count twice.
pub fn width(text: &str) -> f64 {
    text.chars().map(|c| if c as u32 >= 0x1100 { 14.0 } else { 7.6 }).sum()
}

/// Pixels of the widest.
pub fn widest<'a>(texts: impl IntoIterator<Item = &'a str>) -> f64 {
    texts.into_iter().map(width).fold(0.0, f64::max)
}

/// Text for the inside of HTML and SVG elements and attributes; control characters go, and what turns the direction of writing is
/// written out.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' && c != '\t' => {}
            c if turns_writing(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_wrote_cannot_become_markup() {
        assert_eq!(
            escape("<script>'&\"\u{1b}</script>\n"),
            "&lt;script&gt;&#39;&amp;&quot;&lt;/script&gt;\n"
        );
    }

    #[test]
    fn a_picture_of_its_own_carries_its_style() {
        let mut svg = Svg::new(10.0, 20.0, "a < b");
        svg.line((0.0, 0.0), (1.0, 1.0), "axis");
        assert!(svg.standalone().contains("prefers-color-scheme"));
        assert!(!svg.standalone().contains("var("), "which drawing programs do not know");
        assert!(svg.standalone().contains(".child{fill:#d55e00}"));
        assert!(!svg.inline().contains("<style>"));
        assert!(svg.inline().contains("a &lt; b"));
    }
}
