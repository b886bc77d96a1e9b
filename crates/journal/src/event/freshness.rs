//! What may be said of the questions that a winner was chosen and judged by: that nobody had used them, or not.
//!
//! Every sentence that calls questions fresh, sealed, unseen or never used is made here, from what was compared before the
//! run began; `tests/it/tidy.rs` looks for these words elsewhere. A journal from before questions were compared, a command
//! that keeps its questions to itself or gives them names only, and a run that was allowed an overlap are told without them.

use serde::{Deserialize, Serialize};

use super::run::Run;
use super::words::{count, counted, task_name};

/// What was found when the questions of a run's parts were compared, before anything was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionsCompared {
    /// Questions of each task in each part.
    pub parts: Vec<PartOfRun>,
    /// Only a command knows what they ask: their names were compared.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_name: bool,
    /// The same question in two parts; none, unless the space allows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overlaps: Vec<Shared>,
    /// A published benchmark's test questions by which candidates are chosen; none, unless the space allows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
    /// The same problem in another language, in other words or with another answer: told, and not refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub near: Vec<Shared>,
    /// The same question in two tasks of one part, or twice in one, which is then both of them: told, and counted once where it is
    /// said how many there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubled: Vec<Shared>,
}

/// What questions are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Candidates are bred on these.
    Search,
    /// Worked examples in the prompts of any part.
    Shots,
    /// They decide among the finalists.
    Selection,
    /// Read once, when the winner is known.
    Test,
    /// Tasks that are no part of the fitness.
    HeldOut,
}

/// One task's questions in one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartOfRun {
    /// What they are for.
    pub part: Part,
    /// As in [`Task::task`](super::Task::task).
    pub task: String,
    /// As in [`Task::lang`](super::Task::lang).
    pub lang: String,
    /// As in [`Task::split`](super::Task::split).
    pub split: String,
    /// Questions in it.
    pub n: usize,
}

/// Questions that stand in two parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// The part that comes first in a run.
    pub first: PartOfRun,
    /// The part whose questions are therefore not new.
    pub second: PartOfRun,
    /// Questions of the second that the first has too.
    pub n: usize,
}

/// Questions of a benchmark's published test set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The part that has them.
    pub part: PartOfRun,
    /// `GSM8K` or `MGSM`.
    pub benchmark: String,
    /// Questions of the part that are the benchmark's.
    pub n: usize,
}

/// The way out of a refusal.
const WAY_OUT: &str = "Give one of them another split, other rows or other languages; or write `final: {allow_overlap: true}`, \
                       and the run says of no question that nobody had used it";

/// The same of questions that are known by name.
const WAY_OUT_BY_NAME: &str = "Questions of a command are compared by their ids. If the same id is another question in another \
                               split, give it another id, or give each line its \"question\"; if it is the same, leave it \
                               out of one of them, or write `final: {allow_overlap: true}`";

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Shots => "examples",
            Self::Selection => "selection",
            Self::Test => "test",
            Self::HeldOut => "held-out",
        }
    }
}

impl PartOfRun {
    /// `arith-es (search, split search)`.
    fn in_words(&self) -> String {
        let name = task_name(&self.task, &self.lang);
        match self.split.is_empty() {
            true => format!("{name} ({})", self.part.name()),
            false => format!("{name} ({}, split {})", self.part.name(), self.split),
        }
    }
}

impl Shared {
    fn in_words(&self) -> String {
        let (n, of) = (count(self.n as u64), counted(self.second.n, "question"));
        let second = self.second.in_words();
        match self.first == self.second {
            true => format!("{n} of the {of} of {second} are there a second time"),
            false => format!("{n} of the {of} of {second} are also in {}", self.first.in_words()),
        }
    }
}

impl Published {
    fn in_words(&self) -> String {
        format!(
            "{} of the {} of {} are of {}'s published test set, so no figure on that set may be given for what is bred on them",
            count(self.n as u64),
            counted(self.part.n, "question"),
            self.part.in_words(),
            self.benchmark
        )
    }
}

impl QuestionsCompared {
    /// Nothing that chooses is also what judges.
    pub fn is_clean(&self) -> bool {
        self.overlaps.is_empty() && self.published.is_empty()
    }

    /// Why such a run is not begun unless its space allows it, and the way out.
    pub fn refusal(&self) -> Option<String> {
        let way_out = if self.by_name { WAY_OUT_BY_NAME } else { WAY_OUT };
        (!self.is_clean()).then(|| format!("{}. {way_out}", self.used().join("; ")))
    }

    /// Whether something is in two parts that was not when an earlier process looked.
    pub fn adds_to(&self, before: Option<&Self>) -> bool {
        fn grows<T>(now: &[T], before: Option<&[T]>, n: impl Fn(&T) -> usize) -> bool {
            let all = |list: &[T]| list.iter().map(&n).sum::<usize>();
            all(now) > before.map_or(0, all)
        }
        grows(&self.overlaps, before.map(|b| &b.overlaps[..]), |shared| shared.n)
            || grows(&self.published, before.map(|b| &b.published[..]), |published| {
                published.n
            })
    }

    /// What is no longer fresh, a sentence each.
    fn used(&self) -> Vec<String> {
        let overlaps = self.overlaps.iter().map(Shared::in_words);
        overlaps.chain(self.published.iter().map(Published::in_words)).collect()
    }

    /// The same problems in another form, and the same questions in several tasks, in a sentence.
    pub fn warning(&self) -> Option<String> {
        let all = |shared: &[Shared]| shared.iter().map(Shared::in_words).collect::<Vec<_>>().join("; ");
        let near = (!self.near.is_empty()).then(|| {
            format!(
                "the same problems in another language or in other words, or the same text with another answer: {}",
                all(&self.near)
            )
        });
        let doubled = (!self.doubled.is_empty()).then(|| {
            format!(
                "some questions are asked more than once, and the answers to them do not err independently, as standard errors \
                 and p-values take them to: {}",
                all(&self.doubled)
            )
        });
        let told: Vec<String> = near.into_iter().chain(doubled).collect();
        (!told.is_empty()).then(|| told.join(". And "))
    }

    /// How many questions so many answers of a part are to, if each question of it is answered for every task that asks it.
    pub fn distinct(&self, part: Part, n: usize) -> usize {
        if self.doubled.is_empty() {
            return n;
        }
        let all: usize = self.parts.iter().filter(|p| p.part == part).map(|p| p.n).sum();
        let doubled = self.doubled.iter().filter(|shared| shared.second.part == part);
        n.min(all - doubled.map(|shared| shared.n).sum::<usize>().min(all))
    }

    /// What it came to, in a line.
    pub fn in_words(&self) -> String {
        match self.is_clean() {
            true if self.by_name => "questions compared by their ids: none is in two parts of the run".into(),
            true => "questions compared: none is in two parts of the run".into(),
            false => format!("questions compared, overlap allowed: {}", self.used().join("; ")),
        }
    }

    /// Takes in what a later process found: an overlap that once was stays.
    pub fn and(mut self, later: &Self) -> Self {
        fn unite<T: Clone + PartialEq>(all: &mut Vec<T>, more: &[T]) {
            let new: Vec<T> = more.iter().filter(|x| !all.contains(x)).cloned().collect();
            all.extend(new);
        }
        self.parts.clone_from(&later.parts);
        self.by_name = later.by_name;
        unite(&mut self.overlaps, &later.overlaps);
        unite(&mut self.published, &later.published);
        unite(&mut self.near, &later.near);
        self.doubled.clone_from(&later.doubled);
        self
    }
}

/// What may be said of the final's questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Nobody looked.
    NotCompared,
    /// Compared, and none stands in two parts.
    Fresh,
    /// Nor does any here, but some of the test come again in another language or in other words.
    InAnotherForm,
    /// Compared, and some do.
    Used,
}

impl Freshness {
    /// What a run's journal proves of its questions.
    pub fn of(run: &Run) -> Self {
        match &run.questions {
            // A command keeps its questions to itself.
            None => Self::NotCompared,
            Some(_) if run.is_scored_by_command() => Self::NotCompared,
            // What was asked before the change is in no comparison.
            Some(_) if run.changes.iter().any(|change| change.what.is_of_questions()) => Self::NotCompared,
            Some(compared) if !compared.is_clean() => Self::Used,
            // That names differ does not say that questions do.
            Some(compared) if compared.by_name => Self::NotCompared,
            Some(compared) if compared.near.iter().any(|shared| shared.second.part == Part::Test) => {
                Self::InAnotherForm
            }
            Some(_) => Self::Fresh,
        }
    }

    /// `2,000 questions never used before`, `2,000 questions of the test split`.
    pub fn asked(self, n: usize, split: &str) -> String {
        let asked = counted(n, "question");
        match self {
            Self::Fresh => format!("{asked} never used before"),
            Self::InAnotherForm => format!("{asked} never used in this form"),
            _ => format!("{asked} of the {split} split"),
        }
    }

    /// `400 fresh questions`, `400 selection questions`.
    pub fn selection(self, n: usize) -> String {
        match self {
            Self::Fresh | Self::InAnotherForm => counted(n, "fresh question"),
            _ => counted(n, "selection question"),
        }
    }

    /// Before a noun: `fresh` or `selection`.
    pub fn selection_word(self) -> &'static str {
        match self {
            Self::Fresh | Self::InAnotherForm => "fresh",
            _ => "selection",
        }
    }

    /// Before a noun: `sealed test` or `test`.
    pub fn test_word(self) -> &'static str {
        match self {
            Self::Fresh | Self::InAnotherForm => "sealed test",
            _ => "test",
        }
    }

    /// Over the scores on the search's questions, the selection's and the test's.
    pub fn columns(self) -> [&'static str; 3] {
        match self {
            Self::Fresh | Self::InAnotherForm => ["search", "selection (fresh)", "test (sealed)"],
            _ => ["search", "selection", "test"],
        }
    }

    /// What the selection's beginning is called in a log.
    pub fn selection_begins(self) -> &'static str {
        match self {
            Self::Fresh | Self::InAnotherForm => "finalists answer fresh questions",
            _ => "finalists answer the selection questions",
        }
    }

    /// What the test's beginning is called in a log.
    pub fn test_begins(self) -> &'static str {
        match self {
            Self::Fresh | Self::InAnotherForm => "opening the sealed test split, once",
            _ => "asking the test questions, once",
        }
    }

    /// What the beginning of the held-out tasks is called in a log.
    pub fn held_out_begins(self) -> &'static str {
        match self {
            Self::Fresh | Self::InAnotherForm => "winner and parents answer what the search never asked",
            _ => "winner and parents answer the held-out tasks",
        }
    }

    /// Over what was held out.
    pub fn held_out_heading(self) -> &'static str {
        match self {
            Self::Fresh | Self::InAnotherForm => "What the search never asked",
            _ => "Held-out tasks",
        }
    }

    /// Before the scores of what was held out.
    pub fn on_held_out(self) -> &'static str {
        match self {
            Self::Fresh | Self::InAnotherForm => "On what the search never asked",
            _ => "On the held-out tasks",
        }
    }

    /// Under the scores of what was held out.
    pub fn held_out_note(self) -> &'static str {
        match self {
            Self::Fresh | Self::InAnotherForm => "Nothing was chosen by these tasks: they show what the child forgot.",
            _ => "These tasks are no part of the fitness.",
        }
    }

    /// What is still to come.
    pub fn to_come(self) -> &'static str {
        match self {
            Self::Fresh | Self::InAnotherForm => {
                "When the search ends, the finalists answer fresh questions; then the sealed test split is opened once, and \
                 what it says stands here."
            }
            _ => {
                "When the search ends, the finalists answer the selection questions; then the test questions are asked once, \
                 and what they say stands here."
            }
        }
    }

    /// What did not come.
    pub fn test_not_read(self) -> &'static str {
        match self {
            Self::Fresh | Self::InAnotherForm => "the sealed test split has not been read",
            _ => "the test questions have not been asked",
        }
    }

    /// How the questions of the one reading are introduced.
    pub fn reading(self, split: &str) -> String {
        match self {
            Self::Fresh | Self::InAnotherForm => {
                format!("On the sealed `{split}` split, read once, after everything was chosen:")
            }
            _ => format!("On the `{split}` split:"),
        }
    }
}

/// What a reader must know of a run's questions before he believes its scores; nothing of a clean run.
pub fn caution(run: &Run) -> Option<String> {
    let compared = run.questions.as_ref()?;
    let used = compared.used();
    let mut told = Vec::new();
    if !used.is_empty() {
        told.push(format!(
            "Beware: {}. The final's scores are no proof of what the winner makes of other questions.",
            used.join("; ")
        ));
    }
    told.extend(compared.warning().map(|w| format!("Note {w}.")));
    (!told.is_empty()).then(|| told.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, rehearsal};

    fn shared(n: usize) -> Shared {
        let part = |part, split: &str| PartOfRun {
            part,
            task: "evals/arith-es.yaml".into(),
            lang: "es".into(),
            split: split.into(),
            n: 60,
        };
        Shared {
            first: part(Part::Search, "search"),
            second: part(Part::Test, "test"),
            n,
        }
    }

    #[test]
    fn a_refusal_names_tasks_splits_how_many_and_the_way_out() {
        let mut compared = QuestionsCompared::default();
        assert_eq!(compared.refusal(), None);
        compared.overlaps.push(shared(12));
        let refusal = compared.refusal().unwrap();
        assert!(
            refusal.starts_with(
                "12 of the 60 questions of arith-es (test, split test) are also in arith-es (search, split search). Give"
            ),
            "{refusal}"
        );
        assert!(refusal.contains("`final: {allow_overlap: true}`"), "{refusal}");
        assert!(!refusal.contains("fresh"), "{refusal}");
    }

    /// The same name in two splits may be two questions, and other names the same one: nothing is claimed of names.
    #[test]
    fn names_are_refused_with_a_way_out_of_their_own_and_prove_nothing() {
        let mut compared = QuestionsCompared {
            by_name: true,
            ..QuestionsCompared::default()
        };
        assert_eq!(
            compared.in_words(),
            "questions compared by their ids: none is in two parts of the run"
        );
        let mut run = Run::from_records(&rehearsal::journal());
        run.questions = Some(compared.clone());
        assert_eq!(Freshness::of(&run), Freshness::NotCompared);
        compared.overlaps.push(shared(2));
        let refusal = compared.refusal().unwrap();
        assert!(
            refusal.contains("compared by their ids") && refusal.contains("\"question\""),
            "{refusal}"
        );
        run.questions = Some(compared);
        assert_eq!(Freshness::of(&run), Freshness::Used);
    }

    /// Forty of fifty test questions were the search's in capitals: it was told, and beside it "never used before".
    #[test]
    fn questions_in_another_form_were_not_never_used() {
        let mut run = Run::from_records(&rehearsal::journal());
        let mut compared = QuestionsCompared::default();
        compared.near.push(shared(40));
        run.questions = Some(compared.clone());
        let freshness = Freshness::of(&run);
        assert_eq!(freshness.asked(50, "test"), "50 questions never used in this form");
        assert_eq!(freshness.test_word(), Freshness::Fresh.test_word());
        assert!(!compared.adds_to(None));
        compared.overlaps.push(shared(1));
        assert!(compared.adds_to(None) && compared.adds_to(Some(&QuestionsCompared::default())));
        assert!(!compared.adds_to(Some(&compared)));
        run.questions = Some(compared);
        assert_eq!(Freshness::of(&run), Freshness::Used);
    }

    #[test]
    fn a_journal_from_before_questions_were_compared_claims_nothing() {
        let mut run = Run::from_records(&rehearsal::journal());
        assert_eq!(Freshness::of(&run), Freshness::Fresh);
        run.questions = None;
        assert_eq!(Freshness::of(&run), Freshness::NotCompared);
        assert_eq!(caution(&run), None);
    }

    #[test]
    fn an_overlap_that_once_was_stays() {
        let mut records = rehearsal::journal();
        let at = records
            .iter()
            .position(|r| matches!(r.event, Event::QuestionsCompared(_)))
            .unwrap();
        let mut allowed = records[at].clone();
        if let Event::QuestionsCompared(compared) = &mut allowed.event {
            compared.overlaps.push(shared(60));
        }
        records.insert(at, allowed);
        let run = Run::from_records(&records);
        assert_eq!(Freshness::of(&run), Freshness::Used);
        assert!(caution(&run).unwrap().starts_with("Beware: 60 of the 60 questions"));
    }
}
