//! How numbers are put into words, the same in the dashboard, the plain lines, the report and the model card.
//!
//! A score never stands alone: it carries its standard error. Pure functions; nothing here reads a clock or a locale.

use super::{Answer, RunStarted, Score, TaskScore, Worker, WorkerState, interval};

/// The metric of tasks that are scored by likelihood instead of right or wrong.
pub const LOG_LIKELIHOOD: &str = "log_likelihood";

/// How a score is written: right-or-wrong scores as per cent, everything else as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Share of right answers, 0 to 1, times 100.
    Percent,
    /// Log-likelihood a token.
    Nats,
    /// How long answers are.
    Tokens,
    /// A command's scores, or a fitness that adds both kinds.
    #[default]
    Raw,
}

impl Unit {
    /// The unit of the fitness: per cent if every task is scored right or wrong.
    pub fn of_fitness(run: &RunStarted) -> Self {
        let mut units = run.tasks.iter().map(|task| Self::of_metric(&task.metric));
        let first = units.next().unwrap_or_default();
        match units.all(|unit| unit == first) {
            true => first,
            false => Self::Raw,
        }
    }

    /// The unit of one task, found by name and language (a re-read on another split has the same unit).
    pub fn of_task(run: &RunStarted, task: &str, lang: &str) -> Self {
        let metric = run
            .tasks
            .iter()
            .find(|t| t.task == task && t.lang == lang)
            .map(|t| t.metric.as_str());
        metric.map(Self::of_metric).unwrap_or_default()
    }

    /// The unit of scores by one metric, as in [`Task::metric`](super::Task::metric).
    pub fn of_metric(metric: &str) -> Self {
        match metric {
            LOG_LIKELIHOOD => Self::Nats,
            _ => Self::Percent,
        }
    }

    /// `%`, `nats`, or nothing.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Percent => "%",
            Self::Nats => "nats",
            Self::Tokens => "tokens",
            Self::Raw => "",
        }
    }

    /// `fitness ± SE, %`: a heading over numbers that stand without their unit.
    pub fn heading(self, what: &str) -> String {
        match self.sign() {
            "" => what.into(),
            sign => format!("{what}, {sign}"),
        }
    }

    /// `54.0 %` or `-1.234 nats`.
    pub fn full_value(self, value: f64) -> String {
        format!("{} {}", self.value(value), self.sign()).trim_end().into()
    }

    /// `54.0 ± 3.2 %`: in a sentence, or wherever no heading says the unit.
    pub fn full(self, value: f64, stderr: f64) -> String {
        format!("{} {}", self.with_error(value, stderr), self.sign())
            .trim_end()
            .into()
    }

    /// `54.0 ± 3.2 %`.
    pub fn full_score(self, score: &Score) -> String {
        self.full(score.value, score.stderr)
    }

    /// `54.0` or `-1.234`.
    pub fn value(self, value: f64) -> String {
        let text = match self {
            Self::Percent => format!("{:.1}", 100.0 * value),
            Self::Tokens => format!("{value:.1}"),
            Self::Nats | Self::Raw if value != 0.0 && (value.abs() >= 1e5 || value.abs() < 1e-3) => {
                format!("{value:.2e}")
            }
            Self::Nats | Self::Raw if value.abs() >= 1000.0 => format!("{value:.1}"),
            Self::Nats | Self::Raw => format!("{value:.3}"),
        };
        // No minus before a zero, also one that was rounded to.
        match text.strip_prefix('-') {
            Some(size) if is_zero(size) => size.into(),
            _ => text,
        }
    }

    /// Whether nothing of it is left in words.
    pub fn is_nothing(self, value: f64) -> bool {
        is_zero(&self.value(value))
    }

    /// `54.0 ± 3.2`: the standard error, not an interval. The score of a command has none.
    pub fn with_error(self, value: f64, stderr: f64) -> String {
        if self != Self::Percent && stderr == 0.0 {
            return self.value(value);
        }
        format!("{} ± {}", self.value(value), self.value(stderr))
    }

    /// `54.0 ± 3.2`.
    pub fn score(self, score: &Score) -> String {
        self.with_error(score.value, score.stderr)
    }

    /// `+12.4` or `-0.031`.
    pub fn signed(self, value: f64) -> String {
        let text = self.value(value);
        let sign = if text.starts_with('-') { "" } else { "+" };
        format!("{sign}{text}")
    }

    /// `+12.4 points` or `-0.031 nats`: a difference with its sign.
    pub fn lead(self, difference: f64) -> String {
        let sign = if self.value(difference).starts_with('-') {
            "-"
        } else {
            "+"
        };
        format!("{sign}{}", self.points(difference))
    }

    /// `12.4 points`, `0.031 nats` or `0.031`: the size of a difference, without its sign.
    pub fn points(self, difference: f64) -> String {
        match self {
            Self::Percent => format!("{} points", self.value(difference.abs())),
            Self::Nats | Self::Tokens | Self::Raw => self.full_value(difference.abs()),
        }
    }

    /// The 95 % interval of a score of one task. Of right-or-wrong answers that were not all asked, as in a race, it goes by
    /// as many questions as the standard error tells of.
    pub fn interval_95(self, score: &Score) -> (f64, f64) {
        let (p, variance) = (score.value, score.stderr.powi(2));
        match self {
            Self::Nats | Self::Tokens | Self::Raw => interval::normal(score.value, score.stderr),
            Self::Percent if p > 0.0 && p < 1.0 && variance > 0.0 => {
                interval::proportion(p, 1.0 + p * (1.0 - p) / variance)
            }
            Self::Percent => interval::proportion(p, score.n as f64),
        }
    }

    /// `61.9 to 80.6`.
    pub fn from_to(self, (low, high): (f64, f64)) -> String {
        format!("{} to {}", self.value(low), self.value(high))
    }
}

fn is_zero(digits: &str) -> bool {
    digits.chars().all(|c| matches!(c, '0' | '.'))
}

/// What is said where a fitness adds accuracies and log-likelihoods.
pub const MIXED_KINDS: &str = "the fitness adds accuracies (shares) and log-likelihoods (nats) as they are, so that whichever \
                               varies more decides; fitness.scale: standard_error makes them comparable";

/// `evals/arith-es.yaml` → `arith-es`; with the language where the name does not already end in it.
pub fn task_name(task: &str, lang: &str) -> String {
    let file = task.rsplit('/').next().unwrap_or(task);
    let stem = file
        .strip_suffix(".yaml")
        .or_else(|| file.strip_suffix(".yml"))
        .unwrap_or(file);
    if lang.is_empty() || stem.ends_with(&format!("-{lang}")) || stem.ends_with(&format!("_{lang}")) {
        stem.to_owned()
    } else {
        format!("{stem} {lang}")
    }
}

/// What is right, without the way to it: of a worked solution what follows its last `####`.
pub fn right_answer(gold: &str) -> &str {
    gold.rsplit("####").next().unwrap_or(gold).trim()
}

/// [`task_name`] of a score.
pub fn task_of(score: &TaskScore) -> String {
    task_name(&score.task, &score.lang)
}

/// `45 s`, `12 min`, `1 h 05 min`, `2 d 03 h`.
pub fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s} s"),
        60..600 => format!("{} min {:02} s", s / 60, s % 60),
        600..3600 => format!("{} min", s / 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {:02} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// `0.7 s`, else as [`duration`]: for what often takes less than a second.
pub fn short_duration(ms: u64) -> String {
    if ms < 10_000 {
        format!("{:.1} s", ms as f64 / 1000.0)
    } else {
        duration(ms)
    }
}

/// What is said of a candidate over which a program broke down.
pub const WHOSE_FAULT: &str = "whether that is its own fault shows when another one is scored";

/// `12–15 min`, `1.5–2.1 h`: one unit for both ends, one number where they read the same.
pub fn duration_range(low_ms: f64, high_ms: f64) -> String {
    let (unit_ms, unit, digits) = match high_ms {
        ms if ms < 90_000.0 => (1000.0, "s", 0),
        ms if ms < 5_400_000.0 => (60_000.0, "min", 0),
        ms if ms < 172_800_000.0 => (3_600_000.0, "h", 1),
        _ => (86_400_000.0, "d", 1),
    };
    let write = |ms: f64| format!("{:.digits$}", ms.max(0.0) / unit_ms);
    let (low, high) = (write(low_ms), write(high_ms));
    if low == high {
        format!("{high} {unit}")
    } else {
        format!("{low}–{high} {unit}")
    }
}

/// `30,750`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 question`, `1,000 questions`.
pub fn counted(n: usize, noun: &str) -> String {
    format!("{} {noun}{}", count(n as u64), if n == 1 { "" } else { "s" })
}

/// `p = 0.0031`, `p < 0.0001`.
pub fn p_value(p: f64) -> String {
    if p < 1e-4 {
        "p < 0.0001".into()
    } else if p < 0.095 {
        format!("p = {p:.4}")
    } else {
        format!("p = {p:.2}")
    }
}

/// `400 evaluations`, `8 h 00 min`, or both.
pub fn budget(started: &RunStarted) -> String {
    let evals = started.budget.evals.map(|n| counted(n as usize, "evaluation"));
    let time = started.budget.duration_ms.map(duration);
    match (evals, time) {
        (Some(evals), Some(time)) => format!("{evals} or {time}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "until stopped".into(),
    }
}

/// A parent's model, every other id as it is.
pub fn parent_name(id: &str) -> &str {
    // One prefix is the id's, more are the model's own; see `CandidateId`.
    id.strip_prefix("parent-").unwrap_or(id)
}

/// Tag of an answer that went wrong in a known way.
pub fn tags(answer: &Answer) -> Vec<&'static str> {
    let mut tags = Vec::new();
    match answer.finish.as_str() {
        "loop" => tags.push("loop"),
        "length" => tags.push("cut off"),
        _ => {}
    }
    if !answer.language_ok {
        tags.push("wrong language");
    }
    if answer.got.is_empty() && !answer.out.is_empty() {
        tags.push("no answer");
    }
    tags
}

/// The paired test's name in words.
pub fn test_name(test: &str) -> &str {
    match test {
        "mcnemar-exact" => "exact McNemar test",
        "paired-sign-flip" => "paired sign-flip test",
        other => other,
    }
}

/// Where a worker computes, and whether it is there.
pub fn worker_words(worker: &Worker) -> String {
    let Worker {
        host, device, dtype, ..
    } = worker;
    let state = match (worker.state, &worker.doing) {
        (WorkerState::Idle, _) => "waits".to_owned(),
        (WorkerState::Working, Some(doing)) => format!("at {}", doing.id),
        (WorkerState::Working, None) => "works".to_owned(),
        (WorkerState::Left, _) => "has gone".to_owned(),
        (WorkerState::Lost, _) => "lost".to_owned(),
        (WorkerState::Refused, _) => "does not fit".to_owned(),
    };
    format!("{host} {device} {dtype}, {state}")
}

/// The part of its time that a worker has worked; 0 of one that has just come.
pub fn busy_share(worker: &Worker) -> f64 {
    worker.busy_ms as f64 / worker.here_ms.max(1) as f64
}

/// A path as one word of a command that is printed to be typed: as it is where a shell takes it so, else in quotes, and no option.
///
/// ```
/// use heterosis_journal::event::words::shell_word;
///
/// assert_eq!(shell_word("runs/maths-20261130-110000"), "runs/maths-20261130-110000");
/// assert_eq!(shell_word("runs/it's mine"), "\"runs/it's mine\"");
/// assert_eq!(shell_word("-rf"), "./-rf");
/// ```
pub fn shell_word(path: &str) -> String {
    let here = if path.starts_with('-') { "./" } else { "" };
    // What has a NUL is no word of any command.
    shlex::try_quote(&format!("{here}{path}"))
        .unwrap_or_default()
        .into_owned()
}

/// Whether a character turns the direction of writing, and so shows another text than there is.
pub fn turns_writing(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_carry_their_error() {
        let score = Score {
            value: 0.54,
            stderr: 0.032,
            n: 250,
        };
        assert_eq!(Unit::Percent.score(&score), "54.0 ± 3.2");
        assert_eq!(Unit::Raw.with_error(-1.23456, 0.01), "-1.235 ± 0.010");
        assert_eq!(Unit::Raw.with_error(0.5, 0.0), "0.500", "a command gives no error");
        assert_eq!(Unit::Percent.signed(0.124), "+12.4");
        assert_eq!(Unit::Raw.signed(-0.031), "-0.031");
        assert_eq!(Unit::Percent.points(-0.124), "12.4 points");
        // "it keeps -0.0 ± 20.9 points more than they do"
        assert_eq!(Unit::Percent.with_error(-0.0001, 0.209), "0.0 ± 20.9");
        assert_eq!(
            (Unit::Percent.signed(-0.0001), Unit::Percent.lead(-0.0)),
            ("+0.0".into(), "+0.0 points".into())
        );
        assert_eq!(
            (Unit::Raw.value(0.0), Unit::Raw.value(-0.0)),
            ("0.000".into(), "0.000".into())
        );
        assert_eq!(Unit::Raw.value(-123_456_789.0), "-1.23e8");
    }

    /// Intervals were drawn as the score ± half of Wilson's width.
    #[test]
    fn an_interval_has_two_ends() {
        let score = |value: f64, stderr, n| Score { value, stderr, n };
        let of = |s: &Score| Unit::Percent.from_to(Unit::Percent.interval_95(s));
        assert_eq!(of(&score(0.0, 0.0, 10)), "0.0 to 27.8");
        assert_eq!(of(&score(1.0, 0.0, 10)), "72.2 to 100.0");
        // Sample standard deviation ÷ √100 of one half: the effective number is 100.
        assert_eq!(of(&score(0.5, 0.5 / 99_f64.sqrt(), 100)), "40.4 to 59.6");
        assert_eq!(
            Unit::Raw.from_to(Unit::Raw.interval_95(&score(-1.0, 0.5, 9))),
            "-1.980 to -0.020"
        );
    }

    #[test]
    fn durations_read_naturally() {
        assert_eq!(duration(0), "0 s");
        assert_eq!(duration(61_000), "1 min 01 s");
        assert_eq!(duration(754_000), "12 min");
        assert_eq!(duration(3_900_000), "1 h 05 min");
        assert_eq!(duration(90_000_000), "1 d 01 h");
        assert_eq!(duration_range(720_000.0, 900_000.0), "12–15 min");
        assert_eq!(duration_range(5_400_000.0, 7_560_000.0), "1.5–2.1 h");
        assert_eq!(duration_range(60_000.0, 60_100.0), "60 s");
        assert_eq!(duration_range(-5.0, 0.0), "0 s");
    }

    #[test]
    fn counts_and_p_values() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(30_750), "30,750");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "question"), "1 question");
        assert_eq!(p_value(0.000_01), "p < 0.0001");
        assert_eq!(p_value(0.0031), "p = 0.0031");
        assert_eq!(p_value(0.5), "p = 0.50");
    }

    #[test]
    fn task_names_lose_their_path() {
        assert_eq!(task_name("evals/arith-es.yaml", "es"), "arith-es");
        assert_eq!(task_name("mgsm_direct", "sw"), "mgsm_direct sw");
        assert_eq!(task_name("gsm8k", ""), "gsm8k");
    }
}
