//! The report's pictures, each a pure function of the run; a picture that has nothing to show is left out.

use super::svg::{Anchor, Svg, label, widest, width};
use crate::event::axes;
use crate::event::freshness::Freshness;
use crate::event::run::{Run, Scored, competes, counts, origin_name};
use crate::event::scale::Range;
use crate::event::weights::{self, Weights};
use crate::event::words::{Unit, count, duration, parent_name, task_of};
use crate::event::{Candidate, Learned, Origin, Score, TaskScore};

/// A picture with its file name and what it shows.
pub struct Picture {
    pub file: &'static str,
    pub caption: String,
    pub svg: Svg,
}

const WIDTH: f64 = 860.0;

/// All that the run has something to show for, in the order of the report.
pub fn all(run: &Run) -> Vec<Picture> {
    [
        contest(run),
        tasks(run),
        convergence(run, Clock::Evaluations),
        convergence(run, Clock::Wall),
        learning(run),
        luck(run),
        pareto(run),
        heat_map(run),
        path(run),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A plotting field inside a picture.
struct Field {
    svg: Svg,
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    x: Range,
    y: Range,
}

impl Field {
    fn new(title: &str, height: f64, right: f64, x: Range, y: Range) -> Self {
        let (left, top) = (58.0, 14.0);
        Self {
            svg: Svg::new(WIDTH, height, title),
            left,
            top,
            width: WIDTH - left - right,
            height: height - top - 46.0,
            x,
            y,
        }
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        (self.x_at(x), self.y_at(y))
    }

    fn x_at(&self, x: f64) -> f64 {
        self.left + self.x.fraction(x) * self.width
    }

    fn y_at(&self, y: f64) -> f64 {
        self.top + (1.0 - self.y.fraction(y).clamp(0.0, 1.0)) * self.height
    }

    fn right(&self) -> f64 {
        self.left + self.width
    }

    fn bottom(&self) -> f64 {
        self.top + self.height
    }

    fn y_grid(&mut self, unit: Unit) {
        self.svg
            .text((self.left - 8.0, 6.0), Anchor::End, "muted small", unit.sign());
        for tick in self.y.ticks(6) {
            let y = self.y_at(tick);
            self.svg.line((self.left, y), (self.right(), y), "grid");
            self.svg
                .text((self.left - 8.0, y), Anchor::End, "muted small", &unit.value(tick));
        }
    }

    /// `whole` is the step that labels count in.
    fn x_ticks(&mut self, whole: f64, name: &str, label: &dyn Fn(f64) -> String) {
        let (left, right, bottom) = (self.left, self.right(), self.bottom());
        self.svg.line((left, bottom), (right, bottom), "axis");
        let counted = Range {
            low: self.x.low / whole,
            high: self.x.high / whole,
        };
        for tick in counted.ticks(8) {
            let x = self.x_at(tick * whole);
            self.svg.line((x, bottom), (x, bottom + 4.0), "axis");
            self.svg
                .text((x, bottom + 15.0), Anchor::Middle, "muted small", &label(tick * whole));
        }
        self.svg
            .text(((left + right) / 2.0, bottom + 35.0), Anchor::Middle, "muted", name);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Clock {
    Evaluations,
    Wall,
}

/// Best so far, the field, the generations' middle halves; parents and baselines as levels.
fn convergence(run: &Run, clock: Clock) -> Option<Picture> {
    let when = |evals: u64, elapsed_ms: u64| match clock {
        Clock::Evaluations => evals as f64,
        Clock::Wall => elapsed_ms as f64,
    };
    let children: Vec<&Scored> = run.scored.iter().filter(|s| counts(&s.candidate.origin)).collect();
    let last = children.iter().map(|s| when(s.evals, s.elapsed_ms)).fold(0.0, f64::max);
    let levels = run
        .scored
        .iter()
        .filter(|s| !counts(&s.candidate.origin))
        .map(|s| s.candidate.fitness);
    let mut values: Vec<f64> = children.iter().map(|s| s.candidate.fitness).collect();
    values.sort_by(f64::total_cmp);
    // One collapsed child in twenty may fall off the bottom, so that the rest can be told apart.
    let kept = values.iter().skip(values.len() / 20).copied();
    let y = Range::around(levels.chain(kept), 0.06)?;
    if children.is_empty() || last <= 0.0 {
        return None;
    }
    let name = match clock {
        Clock::Evaluations => "evaluations",
        Clock::Wall => "time since the start",
    };
    let mut field = Field::new(
        &format!("Convergence over {name}"),
        380.0,
        margin(&level_names(run)),
        Range { low: 0.0, high: last },
        y,
    );
    field.y_grid(run.unit());
    match clock {
        Clock::Evaluations => field.x_ticks(1.0, name, &|x| count(x as u64)),
        Clock::Wall => field.x_ticks(time_step(last), name, &|x| duration(x as u64)),
    }
    draw_band(run, &mut field, &when);
    draw_levels(run, &mut field);
    for scored in &children {
        let c = &scored.candidate;
        let at = field.at(when(scored.evals, scored.elapsed_ms), c.fitness);
        let tip = format!(
            "{} · {} · {}",
            c.id,
            origin_name(&c.origin),
            run.unit().full(c.fitness, c.stderr)
        );
        match c.origin {
            Origin::Mean => field.svg.dot(at, 4.5, "hollow s-ink", &tip),
            Origin::Learned => field.svg.dot(at, 4.5, "child solid", &tip),
            _ => field.svg.dot(at, 2.6, "dot", &tip),
        }
    }
    draw_best(run, &mut field, &when, last);
    let is_raced = run.generations.iter().any(|g| g.generation.block.is_some());
    let caption = format!(
        "Each dot is a candidate on the search's questions; the line is the best so far{}, the shade the middle half of each \
         generation, rings the optimizer's mean{}; dashes are the parents, dots the unsearched baselines.",
        if is_raced {
            ", less the luck of few questions"
        } else {
            ""
        },
        if run.learned.iter().any(|round| round.failed.is_none()) {
            ", large dots what was learned by gradient"
        } else {
            ""
        }
    );
    let file = match clock {
        Clock::Evaluations => "convergence.svg",
        Clock::Wall => "convergence-time.svg",
    };
    Some(Picture {
        file,
        caption,
        svg: field.svg,
    })
}

/// The losses of every round of learning, one after the other.
fn learning(run: &Run) -> Option<Picture> {
    let rounds: Vec<&Learned> = run.learned.iter().filter(|round| !round.curve.is_empty()).collect();
    let points = rounds.iter().flat_map(|round| &round.curve);
    let losses = points.flat_map(|point| [Some(point.taught), point.held_back]).flatten();
    let y = Range::around(losses, 0.06)?;
    let last: usize = rounds.iter().map(|round| round.steps).sum();
    let x = Range {
        low: 0.0,
        high: last as f64,
    };
    let mut field = Field::new("Learning", 260.0, 150.0, x, y);
    field.y_grid(Unit::Nats);
    field.x_ticks(1.0, "steps", &|x| count(x as u64));
    let mut before = 0.0;
    for round in rounds {
        // What a step reports was so before the step.
        let taught: Vec<(f64, f64)> = round
            .curve
            .iter()
            .map(|p| field.at(before + p.step as f64 - 1.0, p.taught))
            .collect();
        field.svg.path(&taught, false, "line thin s-ink plain");
        let first = Some((before, round.held_back[0]));
        let held_back = round
            .curve
            .iter()
            .filter_map(|p| Some((before + p.step as f64, p.held_back?)));
        let held_back: Vec<(f64, f64)> = first
            .into_iter()
            .chain(held_back)
            .map(|(x, y)| field.at(x, y))
            .collect();
        field.svg.path(&held_back, false, "line s-child");
        let tip = format!(
            "{} · {:.3} nats a token on the held-back texts",
            round.id, round.held_back[1]
        );
        let at = field.at(before + round.best_step as f64, round.held_back[1]);
        field.svg.dot(at, 4.5, "child solid", &tip);
        before += round.steps as f64;
    }
    Some(Picture {
        file: "learning.svg",
        caption: "What texts taught, round after round: mean negative log-likelihood, in nats a token, of each step's \
                  texts (thin) and of those that were held back (line); a dot is where the round's candidate was taken."
            .to_owned(),
        svg: field.svg,
    })
}

/// Seconds, minutes or hours.
fn time_step(last_ms: f64) -> f64 {
    match last_ms {
        ms if ms < 120_000.0 => 1000.0,
        ms if ms < 7_200_000.0 => 60_000.0,
        _ => 3_600_000.0,
    }
}

fn draw_band(run: &Run, field: &mut Field, when: &dyn Fn(u64, u64) -> f64) {
    let upper = run.generations.iter().map(|g| (g, g.generation.upper_quartile));
    let lower = run.generations.iter().rev().map(|g| (g, g.generation.lower_quartile));
    let outline: Vec<(f64, f64)> = upper
        .chain(lower)
        .map(|(g, y)| field.at(when(g.evals, g.elapsed_ms), y))
        .collect();
    field.svg.path(&outline, true, "band");
}

/// What stands beside the levels and the best.
fn level_names(run: &Run) -> Vec<String> {
    let known = run.scored.iter().map(|s| &s.candidate).filter(|c| !counts(&c.origin));
    let known = known.map(|c| level_name(run, c, c.fitness));
    known
        .chain(run.best().map(|best| level_name(run, &best.candidate, best.worth)))
        .collect()
}

fn level_name(run: &Run, candidate: &Candidate, value: f64) -> String {
    format!("{} {}", label(parent_name(&candidate.id)), run.unit().value(value))
}

/// Room on the right for labels.
fn margin(labels: &[String]) -> f64 {
    (widest(labels.iter().map(String::as_str)) + LED + 4.0).max(110.0)
}

fn draw_levels(run: &Run, field: &mut Field) {
    let mut labels: Vec<Label> = Vec::new();
    for c in run.scored.iter().map(|s| &s.candidate).filter(|c| !counts(&c.origin)) {
        let (stroke, class) = classes(&c.origin);
        let y = field.y_at(c.fitness);
        field
            .svg
            .line((field.left, y), (field.right(), y), &format!("line {stroke}"));
        let text = level_name(run, c, c.fitness);
        labels.push(Label { y, text, class });
    }
    if let Some(best) = run.best() {
        let c = &best.candidate;
        let text = level_name(run, c, best.worth);
        labels.push(Label {
            y: field.y_at(best.worth),
            text,
            class: "child bold",
        });
    }
    let x = field.right();
    put_labels(field, x, labels);
}

/// A name beside the end of a line.
struct Label {
    y: f64,
    text: String,
    class: &'static str,
}

/// Pixels between two labels of a column.
const LINE: f64 = 15.0;

/// Pixels between a point and its label; more where a line has to lead there.
const BESIDE: f64 = 10.0;
const LED: f64 = 26.0;

/// How far a label may be from its point without a line that leads there.
const FAR: f64 = 5.0;

/// Labels in one column beside the points that end at `x`, each as near to its own as the others let it.
fn put_labels(field: &mut Field, x: f64, mut labels: Vec<Label>) {
    labels.sort_by(|a, b| a.y.total_cmp(&b.y));
    let wanted: Vec<f64> = labels.iter().map(|label| label.y).collect();
    let places = apart(&wanted, LINE, (field.top, field.bottom() + 4.0));
    let is_led = |y: f64, at: f64| (y - at).abs() > FAR;
    let indent = match wanted.iter().zip(&places).any(|(y, at)| is_led(*y, *at)) {
        true => LED,
        false => BESIDE,
    };
    for (label, at) in labels.iter().zip(places) {
        if is_led(label.y, at) {
            let from = (x + BESIDE - 3.0, label.y);
            field.svg.line(from, (x + indent - 3.0, at), "line axis thin");
        }
        let class = format!("{} halo", label.class);
        field.svg.text((x + indent, at), Anchor::Start, &class, &label.text);
    }
}

/// Places at least `line` apart within bounds, in order, with the least sum of squared distances from what is wanted (ascending);
/// closer together where the bounds hold no more.
///
/// **Source**: isotonic regression by pooling adjacent violators, of the places less what their order takes.
fn apart(wanted: &[f64], line: f64, (top, bottom): (f64, f64)) -> Vec<f64> {
    let gaps = wanted.len().saturating_sub(1) as f64;
    let line = line.min((bottom - top) / gaps.max(1.0));
    // Blocks of mean and number, ascending in their means.
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    for (i, y) in wanted.iter().enumerate() {
        let mut block = (y - i as f64 * line, 1);
        while let Some(&(mean, n)) = blocks.last().filter(|last| last.0 >= block.0) {
            let all = n + block.1;
            block = ((mean * n as f64 + block.0 * block.1 as f64) / all as f64, all);
            blocks.pop();
        }
        blocks.push(block);
    }
    let bounded = |mean: f64| mean.max(top).min(bottom - gaps * line);
    let starts = blocks
        .iter()
        .flat_map(|(mean, n)| std::iter::repeat_n(bounded(*mean), *n));
    starts.enumerate().map(|(i, start)| start + i as f64 * line).collect()
}

fn draw_best(run: &Run, field: &mut Field, when: &dyn Fn(u64, u64) -> f64, last: f64) {
    let mut steps: Vec<(f64, f64)> = Vec::new();
    let mut best = f64::NEG_INFINITY;
    for scored in run.scored.iter().filter(|s| competes(&s.candidate)) {
        if scored.worth > best {
            let x = when(scored.evals, scored.elapsed_ms);
            if best.is_finite() {
                steps.push(field.at(x, best));
            }
            best = scored.worth;
            steps.push(field.at(x, best));
        }
    }
    steps.push(field.at(last, best));
    field.svg.path(&steps, false, "line s-child");
}

/// Stroke and fill of an origin.
fn classes(origin: &Origin) -> (&'static str, &'static str) {
    match origin {
        Origin::Parent => ("s-parent", "parent"),
        Origin::Baseline | Origin::Random => ("s-baseline", "baseline"),
        _ => ("s-child", "child"),
    }
}

/// Somebody in the final, or on the search's questions where there was none.
struct Contestant<'a> {
    id: &'a str,
    origin: Origin,
    score: Score,
    tasks: &'a [TaskScore],
}

/// The winner, the parents and the baselines, best first; from the test split if it was read.
fn contestants(run: &Run) -> Vec<Contestant<'_>> {
    let origin = |id: &str| run.candidate(id).map_or(Origin::Search, |c| c.origin.clone());
    let mut field: Vec<Contestant> = match &run.reading {
        Some(reading) => [&reading.best, &reading.best_parent]
            .into_iter()
            .chain(reading.others.iter().map(|o| &o.other))
            .map(|t| Contestant {
                id: &t.id,
                origin: origin(&t.id),
                score: t.score,
                tasks: &t.tasks,
            })
            .collect(),
        None => {
            let others = run.scored.iter().map(|s| &s.candidate).filter(|c| !counts(&c.origin));
            run.winner().into_iter().chain(others).map(of_search).collect()
        }
    };
    field.sort_by(|a, b| b.score.value.total_cmp(&a.score.value));
    field.dedup_by(|a, b| a.id == b.id);
    field
}

fn of_search(c: &Candidate) -> Contestant<'_> {
    let score = c.search_score();
    Contestant {
        id: &c.id,
        origin: c.origin.clone(),
        score,
        tasks: &c.tasks,
    }
}

fn where_measured(run: &Run) -> String {
    match run.reading {
        Some(_) => format!("the {} questions", Freshness::of(run).test_word()),
        None => "the search's questions (the winner's score is flattering there)".into(),
    }
}

/// What somebody is, for those who cannot tell the colours apart.
fn kind(origin: &Origin) -> &'static str {
    match origin {
        Origin::Parent => "parent",
        Origin::Baseline => "baseline",
        Origin::Random => "random",
        _ => "child",
    }
}

/// Child, parents and baselines with 95 % whiskers.
fn contest(run: &Run) -> Option<Picture> {
    let field = contestants(run);
    if field.len() < 2 {
        return None;
    }
    let unit = run.unit();
    let whiskers: Vec<(f64, f64)> = field.iter().map(|c| run.interval_95(&c.score, c.tasks)).collect();
    let range = Range::around(whiskers.iter().flat_map(|w| [w.0, w.1]), 0.05)?;
    let row = 34.0;
    let height = 60.0 + row * field.len() as f64;
    let mut svg = Svg::new(WIDTH, height, "The child beside its parents and the baselines");
    let names: Vec<String> = field.iter().map(|c| label(parent_name(c.id))).collect();
    let scores: Vec<String> = field.iter().map(|c| unit.score(&c.score)).collect();
    let left = (widest(names.iter().map(String::as_str)) + 70.0).max(190.0);
    let right = WIDTH - margin(&scores);
    let x = |v: f64| left + range.fraction(v) * (right - left);
    let bottom = 14.0 + row * field.len() as f64;
    for tick in range.ticks(8) {
        svg.line((x(tick), 8.0), (x(tick), bottom), "grid");
        svg.text(
            (x(tick), bottom + 14.0),
            Anchor::Middle,
            "muted small",
            &unit.value(tick),
        );
    }
    for (i, (c, (low, high))) in field.iter().zip(&whiskers).enumerate() {
        let y = 14.0 + row * (i as f64 + 0.5);
        let (_, fill) = classes(&c.origin);
        let stroke = format!(
            "line {}",
            classes(&c.origin)
                .0
                .replace("s-parent", "s-parent plain")
                .replace("s-baseline", "s-baseline plain")
        );
        let bold = if counts(&c.origin) && c.origin != Origin::Random {
            " bold"
        } else {
            ""
        };
        svg.text((left - 62.0, y), Anchor::End, &format!("{fill}{bold}"), &names[i]);
        svg.text((left - 56.0, y), Anchor::Start, "muted small", kind(&c.origin));
        svg.line((x(*low), y), (x(*high), y), &stroke);
        for end in [low, high] {
            svg.line((x(*end), y - 5.0), (x(*end), y + 5.0), &stroke);
        }
        svg.dot(
            (x(c.score.value), y),
            5.5,
            fill,
            &format!("{} on {} questions", unit.full_score(&c.score), count(c.score.n as u64)),
        );
        svg.text((right + 14.0, y), Anchor::Start, &format!("ink{bold}"), &scores[i]);
    }
    svg.text(
        ((left + right) / 2.0, bottom + 34.0),
        Anchor::Middle,
        "muted",
        &unit.heading(&format!("score on {}", where_measured(run))),
    );
    let caption = "Dots are scores, whiskers 95 % intervals; ± is one standard error.".to_owned();
    Some(Picture {
        file: "contest.svg",
        caption,
        svg,
    })
}

/// For each task (and so each language) a group of bars.
fn tasks(run: &Run) -> Option<Picture> {
    let field = contestants(run);
    let names: Vec<String> = field.first()?.tasks.iter().map(|t| label(&task_of(t))).collect();
    if field.len() < 2 || names.len() < 2 {
        return None;
    }
    let (bar, gap) = (15.0, 26.0);
    let group = bar * field.len() as f64 + gap;
    let mut svg = Svg::new(WIDTH, 40.0 + group * names.len() as f64, "Scores by task");
    let contestant = |c: &Contestant| format!("{}, {}", label(parent_name(c.id)), kind(&c.origin));
    let labels: Vec<String> = field
        .iter()
        .map(|c| format!("-1.234 nats  {}", contestant(c)))
        .collect();
    let left = (widest(names.iter().map(String::as_str)) + 24.0).max(150.0);
    let right = WIDTH - margin(&labels);
    for (t, name) in names.iter().enumerate() {
        let top = 20.0 + group * t as f64;
        svg.text(
            (left - 14.0, top + bar * field.len() as f64 / 2.0),
            Anchor::End,
            "ink bold",
            name,
        );
        let scores: Vec<(&Contestant, &TaskScore)> = field.iter().filter_map(|c| Some((c, c.tasks.get(t)?))).collect();
        let unit = run.task_unit(&scores.first()?.1.task, &scores.first()?.1.lang);
        let ends = scores.iter().map(|(_, s)| unit.interval_95(&s.score));
        let zero = if unit == Unit::Percent { Some((0.0, 0.0)) } else { None };
        let range = Range::around(ends.chain(zero).flat_map(|w| [w.0, w.1]), 0.0)?;
        let x = |v: f64| left + range.fraction(v).clamp(0.0, 1.0) * (right - left);
        for (i, (c, s)) in scores.iter().enumerate() {
            let y = top + bar * i as f64;
            let (low, high) = unit.interval_95(&s.score);
            svg.rect(
                (left, y + 2.0),
                ((x(s.score.value) - left).max(0.5), bar - 4.0),
                classes(&c.origin).1,
                0.85,
            );
            svg.line((x(low), y + bar / 2.0), (x(high), y + bar / 2.0), "s-ink");
            let label = format!("{}  {}", unit.full_value(s.score.value), contestant(c));
            svg.text((right + 12.0, y + bar / 2.0), Anchor::Start, "muted small", &label);
        }
    }
    let caption = format!(
        "By task and language, on {}; whiskers are 95 % intervals.",
        where_measured(run)
    );
    Some(Picture {
        file: "tasks.svg",
        caption,
        svg,
    })
}

/// Each finalist on the search's questions and on the selection's, and whoever took the test on that: how much was luck.
fn luck(run: &Run) -> Option<Picture> {
    // A command that is asked again may ask the same.
    let selection = run.selection.as_ref().filter(|_| !run.is_scored_by_command())?;
    let unit = run.unit();
    let tested = |id: &str| {
        run.reading.as_ref().and_then(|r| {
            let others = r.others.iter().map(|o| &o.other);
            [&r.best, &r.best_parent].into_iter().chain(others).find(|t| t.id == id)
        })
    };
    let values = selection.finalists.iter().flat_map(|f| {
        [
            Some(f.search.value),
            Some(f.fresh.value),
            tested(&f.id).map(|t| t.score.value),
        ]
    });
    let y = Range::around(values.flatten(), 0.08)?;
    let names: Vec<String> = selection.finalists.iter().map(|f| label(parent_name(&f.id))).collect();
    let mut field = Field::new(
        "Scores on the search's, the selection's and the test's questions",
        340.0,
        margin(&names),
        Range { low: -0.15, high: 2.15 },
        y,
    );
    field.y_grid(unit);
    for (i, name) in Freshness::of(run).columns().iter().enumerate() {
        let x = field.x_at(i as f64);
        field.svg.line((x, field.top), (x, field.bottom()), "axis");
        field
            .svg
            .text((x, field.bottom() + 18.0), Anchor::Middle, "muted", name);
    }
    let mut ends: [Vec<Label>; 3] = Default::default();
    for f in &selection.finalists {
        let mut points = vec![f.search, f.fresh];
        points.extend(tested(&f.id).map(|t| t.score));
        let last = points.len() - 1;
        let (stroke, class) = match (f.id == selection.best, &f.origin) {
            (_, Origin::Parent) => ("line s-parent", "parent"),
            (false, Origin::Baseline) => ("line s-baseline", "baseline"),
            (true, _) => ("line s-child", "child bold"),
            (false, _) => ("line axis", "muted small"),
        };
        let path: Vec<(f64, f64)> = (0..)
            .zip(&points)
            .map(|(i, s)| field.at(f64::from(i), s.value))
            .collect();
        field.svg.path(&path, false, stroke);
        for (score, at) in points.iter().zip(&path) {
            let tip = format!("{} {} (n={})", f.id, unit.full_score(score), score.n);
            field.svg.dot(*at, 4.5, class, &tip);
        }
        ends[last].push(Label {
            y: path[last].1,
            text: label(parent_name(&f.id)),
            class,
        });
    }
    for (i, labels) in ends.into_iter().enumerate() {
        let x = field.x_at(i as f64);
        put_labels(&mut field, x, labels);
    }
    let caption = "Parents (dashes) and unsearched merges (dots) were chosen by no score: what they lose from one set of \
                   questions to the next is the questions' difficulty, and what the winner loses beyond that was luck.";
    Some(Picture {
        file: "luck.svg",
        caption: caption.to_owned(),
        svg: field.svg,
    })
}

/// Two objectives against each other, with 95 % whiskers on the front: the first two tasks, or the first and the length of
/// answers.
fn pareto(run: &Run) -> Option<Picture> {
    let axes = axes::axes(run);
    let counts_tokens = run.started.as_ref()?.counts_tokens;
    let (x_axis, y_axis) = match axes.as_slice() {
        [first, .., tokens] if counts_tokens => (tokens, first),
        [first, second, ..] => (first, second),
        _ => return None,
    };
    let point = |c: &Candidate| Some((x_axis.score(run, c)?, y_axis.score(run, c)?));
    let points: Vec<(&Scored, Score, Score)> = run
        .scored
        .iter()
        .filter_map(|s| point(&s.candidate).map(|(a, b)| (s, a, b)))
        .collect();
    let x = Range::around(points.iter().map(|p| p.1.value), 0.08)?;
    let y = Range::around(points.iter().map(|p| p.2.value), 0.08)?;
    let (x_unit, y_unit, x_name, y_name) = (x_axis.unit, y_axis.unit, &x_axis.name, &y_axis.name);
    let mut field = Field::new(&format!("{y_name} against {x_name}"), 420.0, 110.0, x, y);
    field.y_grid(y_unit);
    field.x_ticks(1.0, &x_unit.heading(x_name), &|v| x_unit.value(v));
    field.svg.text((field.left, 6.0), Anchor::Start, "muted", y_name);
    let values: Vec<(f64, f64)> = points.iter().map(|p| (p.1.value, p.2.value)).collect();
    let front = axes::front(&values, x_axis, y_axis);
    let mut labels = Labels::default();
    for (i, p) in points.iter().enumerate() {
        let c = &p.0.candidate;
        let front = counts(&c.origin) && front.contains(&i);
        let at = field.at(p.1.value, p.2.value);
        let tip = format!(
            "{} · {x_name} {} · {y_name} {}",
            c.id,
            x_unit.full_score(&p.1),
            y_unit.full_score(&p.2)
        );
        if front {
            let (dx, dy) = (x_unit.interval_95(&p.1), y_unit.interval_95(&p.2));
            field.svg.line(
                (field.x_at(dx.0).max(field.left), at.1),
                (field.x_at(dx.1).min(field.right()), at.1),
                "s-child",
            );
            field
                .svg
                .line((at.0, field.y_at(dy.0)), (at.0, field.y_at(dy.1)), "s-child");
        }
        let labelled = front || !counts(&c.origin);
        let class = if labelled { classes(&c.origin).1 } else { "dot" };
        field.svg.dot(at, if labelled { 5.0 } else { 2.6 }, class, &tip);
        if labelled {
            labels.add(at, &label(parent_name(&c.id)), &format!("{class} small"));
        }
    }
    labels.put(&mut field);
    let caption =
        "Nobody beats the labelled children on both axes at once; whiskers are 95 % intervals. Search questions.";
    Some(Picture {
        file: "pareto.svg",
        caption: caption.to_owned(),
        svg: field.svg,
    })
}

/// Names beside points, none over another.
#[derive(Default)]
struct Labels(Vec<((f64, f64), String, String)>);

impl Labels {
    fn add(&mut self, at: (f64, f64), text: &str, class: &str) {
        self.0.push((at, text.into(), class.into()));
    }

    /// On the right of its point, on its left, or a line further from it; what finds no place is told by the point itself.
    fn put(self, field: &mut Field) {
        const LINE: f64 = 13.0;
        let mut taken: Vec<(f64, f64, f64)> = Vec::new();
        for ((x, y), text, class) in self.0 {
            let size = 0.85 * width(&text);
            let is_free = |x: f64, y: f64, taken: &[(f64, f64, f64)]| {
                let meets = |(from, to, at): &(f64, f64, f64)| x < *to && x + size > *from && (y - at).abs() < LINE;
                x >= field.left
                    && x + size <= WIDTH
                    && y >= field.top
                    && y <= field.bottom()
                    && !taken.iter().any(meets)
            };
            let lines = [-9.0, 9.0, -9.0 - LINE, 9.0 + LINE, -9.0 - 2.0 * LINE, 9.0 + 2.0 * LINE];
            let places = lines
                .into_iter()
                .flat_map(|dy| [(x + 9.0, y + dy), (x - 9.0 - size, y + dy)]);
            if let Some((x, y)) = places.into_iter().find(|(x, y)| is_free(*x, *y, &taken)) {
                taken.push((x, x + size, y));
                field.svg.text((x, y), Anchor::Start, &class, &text);
            }
        }
    }
}

/// The winner's mixing weights: layer group × model × module.
fn heat_map(run: &Run) -> Option<Picture> {
    let winner = run.winner()?;
    let tables = weights::of_recipe(&winner.recipe);
    let largest = weights::largest(&tables);
    let rows: usize = tables
        .iter()
        .map(|t| t.models.iter().map(|m| m.groups.len()).max().unwrap_or(0) + 3)
        .sum();
    if tables.is_empty() {
        return None;
    }
    let row = 30.0;
    let mut svg = Svg::new(WIDTH, 20.0 + row * rows as f64, "Weights of the winner");
    let mut top = 10.0;
    for table in &tables {
        top = draw_table(&mut svg, table, largest, top, row);
    }
    let caption = format!(
        "What each model gives to each group of layers of {}: the stronger the colour, the larger the {}.",
        winner.id, tables[0].parameter
    );
    Some(Picture {
        file: "weights.svg",
        caption,
        svg,
    })
}

fn draw_table(svg: &mut Svg, table: &Weights, largest: f64, top: f64, row: f64) -> f64 {
    let (left, gap) = (96.0, 28.0);
    let models = table.models.len().max(1) as f64;
    let block = (WIDTH - left - 10.0 - gap * (models - 1.0)) / models;
    let cell = block / table.modules.len().max(1) as f64;
    let mut bottom = top;
    for (m, model) in table.models.iter().enumerate() {
        let x = left + m as f64 * (block + gap);
        svg.text(
            (x + block / 2.0, top + row * 0.4),
            Anchor::Middle,
            "ink bold",
            &model.model,
        );
        for (i, module) in table.modules.iter().enumerate() {
            svg.text(
                (x + cell * (i as f64 + 0.5), top + row * 1.2),
                Anchor::Middle,
                "muted small",
                module,
            );
        }
        for (g, group) in model.groups.iter().enumerate() {
            let y = top + row * (g as f64 + 1.6);
            if m == 0 {
                let label = if group.layers == "all" {
                    "all layers".into()
                } else {
                    format!("layers {}", group.layers)
                };
                svg.text((left - 12.0, y + row / 2.0), Anchor::End, "muted", &label);
            }
            for (i, value) in group.values.iter().enumerate() {
                let Some(value) = value else { continue };
                let class = if *value < 0.0 { "warm" } else { "cold" };
                let corner = (x + cell * i as f64 + 1.0, y + 1.0);
                svg.rect(
                    corner,
                    (cell - 2.0, row - 2.0),
                    class,
                    0.08 + 0.82 * (value.abs() / largest).min(1.0),
                );
                svg.text(
                    (corner.0 + cell / 2.0, y + row / 2.0),
                    Anchor::Middle,
                    "ink small",
                    &format!("{value:.2}"),
                );
            }
            bottom = bottom.max(y + row);
        }
    }
    bottom + row * 0.6
}

/// The winner's way through the layers of its sources, where it is a stack: what comes after what, and how strongly.
fn path(run: &Run) -> Option<Picture> {
    let winner = run.winner()?;
    let steps = weights::path(&winner.recipe)?;
    let mut models: Vec<&str> = Vec::new();
    for step in &steps {
        if !models.contains(&step.model.as_str()) {
            models.push(&step.model);
        }
    }
    let deepest = steps.iter().map(|s| s.layer).max()? as f64;
    let (left, right) = (58.0, WIDTH - 20.0);
    let (top, row) = (34.0, (340.0 / (deepest + 1.0)).clamp(5.0, 26.0));
    let column = ((right - left) / steps.len() as f64).min(64.0);
    let bottom = top + row * (deepest + 1.0);
    let mut svg = Svg::new(WIDTH, bottom + 52.0, "The way through the layers");
    let mut x = left;
    for (i, model) in models.iter().enumerate() {
        svg.rect((x, 4.0), (12.0, 12.0), model_class(i), 0.9);
        svg.text((x + 18.0, 10.0), Anchor::Start, "ink", model);
        x += 40.0 + 8.0 * model.chars().count() as f64;
    }
    let at = |i: usize, layer: usize| (left + column * i as f64, bottom - row * (layer as f64 + 1.0));
    for layer in 0..=deepest as usize {
        let y = at(0, layer).1 + row / 2.0;
        let end = left + column * steps.len() as f64;
        svg.line((left, y), (end, y), "grid");
        if row >= 12.0 || layer % 5 == 0 {
            svg.text((left - 10.0, y), Anchor::End, "muted small", &layer.to_string());
        }
    }
    let middles: Vec<(f64, f64)> = (steps.iter().enumerate())
        .map(|(i, s)| at(i, s.layer))
        .map(|(x, y)| (x + column / 2.0, y + row / 2.0))
        .collect();
    svg.path(&middles, false, "line s-ink thin");
    for (i, step) in steps.iter().enumerate() {
        let (x, y) = at(i, step.layer);
        let class = model_class(models.iter().position(|m| *m == step.model).unwrap_or(0));
        svg.rect((x + 1.0, y + 1.0), (column - 2.0, row - 2.0), class, 0.9);
        if let Some(scale) = step.scale.filter(|_| column >= 26.0) {
            svg.text(
                (x + column / 2.0, y - 7.0),
                Anchor::Middle,
                "ink small",
                &format!("×{scale:.2}"),
            );
        }
        if column >= 16.0 || i % 5 == 0 {
            svg.text(
                (x + column / 2.0, bottom + 12.0),
                Anchor::Middle,
                "muted small",
                &i.to_string(),
            );
        }
    }
    let middle = left + column * steps.len() as f64 / 2.0;
    svg.text((middle, bottom + 34.0), Anchor::Middle, "muted", "layer of the child");
    svg.text((left - 48.0, top - 10.0), Anchor::Start, "muted small", "source layer");
    let scaled = if steps.iter().any(|s| s.scale.is_some()) {
        "; × is the factor that a layer's output is scaled by"
    } else {
        ""
    };
    let caption = format!(
        "Which layer of which model stands at each place of {}{scaled}. A straight diagonal is a model as it was.",
        winner.id
    );
    Some(Picture {
        file: "path.svg",
        caption,
        svg,
    })
}

/// Fill of the n-th model.
fn model_class(n: usize) -> &'static str {
    ["baseline", "child", "parent", "band solid"][n % 4]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, rehearsal};

    /// Thirteen finalists close together: the last one's name stood a hundred pixels below its point, beside another's.
    #[test]
    fn names_stand_as_near_to_their_points_as_the_others_let_them() {
        // Three in one place share what it costs: one above, one there, one below.
        assert_eq!(apart(&[50.0, 50.0, 50.0], 15.0, (0.0, 100.0)), [35.0, 50.0, 65.0]);
        assert_eq!(apart(&[10.0, 80.0], 15.0, (0.0, 100.0)), [10.0, 80.0]);
        assert_eq!(apart(&[0.0, 0.0], 15.0, (0.0, 100.0)), [0.0, 15.0]);
        assert_eq!(apart(&[99.0, 99.0], 15.0, (0.0, 100.0)), [85.0, 100.0]);
        assert_eq!(apart(&[5.0, 5.0, 5.0], 15.0, (0.0, 20.0)), [0.0, 10.0, 20.0]);
        assert!(apart(&[], 15.0, (0.0, 100.0)).is_empty());
    }

    /// In the picture itself no two names of a column overlap, and one that had to move is led to.
    #[test]
    fn in_the_picture_of_luck_every_name_is_by_its_point() {
        let mut records = rehearsal::journal();
        let selection = records.iter_mut().find_map(|record| match &mut record.event {
            Event::Selected(selection) => Some(selection),
            _ => None,
        });
        let selection = selection.unwrap();
        let one = selection.finalists[0].clone();
        for i in 0..8 {
            let mut another = one.clone();
            another.id = format!("c09{i:02}");
            another.fresh.value += 0.001 * f64::from(i);
            selection.finalists.push(another);
        }
        let svg = luck(&Run::from_records(&records)).unwrap().svg.inline();
        let number = |line: &str, name: &str| -> f64 {
            let rest = line.split(&format!("{name}=\"")).nth(1).unwrap();
            rest.split('"').next().unwrap().parse().unwrap()
        };
        let names: Vec<(f64, f64)> = (svg.lines().filter(|l| l.contains(" halo")))
            .map(|l| (number(l, " x"), number(l, " y")))
            .collect();
        assert!(names.len() >= 11, "{svg}");
        for (i, (x, y)) in names.iter().enumerate() {
            let of_column = names[i + 1..].iter().filter(|other| other.0 == *x);
            assert!(of_column.clone().all(|other| (other.1 - y).abs() >= 13.9), "{names:?}");
        }
        assert!(svg.contains("line axis thin"), "those that moved are led to");
    }
}
