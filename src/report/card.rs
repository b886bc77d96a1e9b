//! The model card of an export: `README.md` with the front matter that the Hugging Face hub reads.

use std::fmt::Write;

use super::license::ParentLicense;
use crate::event::freshness::Freshness;
use crate::event::run::Run;
use crate::event::verdict::{flips, forgotten, provenance as provenance_of, told, told_without_test, verdict};
use crate::event::words::{LOG_LIKELIHOOD, Unit, count, counted, p_value, parent_name, task_name};
use crate::event::{Candidate, Comparison, Origin, TaskScore, TestReading, TestScore};

/// What a card is made of.
pub struct Card<'a> {
    pub run: &'a Run,
    /// The exported candidate.
    pub id: &'a str,
    /// The recipe as exported, mergekit's YAML.
    pub recipe_yaml: &'a str,
    /// The licence of the child; see [`of_child`](super::license::of_child).
    pub license: Option<&'a str>,
    /// The parents' licences.
    pub parent_licenses: &'a [ParentLicense],
    /// Names of the models that went in, as the user wrote them; those of the run if empty.
    pub models: &'a [String],
    /// Evaluation profile of the scores.
    pub profile: &'a str,
}

/// The card as Markdown. An id that the run does not know gives a card without scores.
pub fn model_card(card: &Card) -> String {
    format!("{}\n{}", front_matter(card), body(card))
}

fn name(card: &Card) -> String {
    let run = card.run.started.as_ref().map_or("merge", |s| s.name.as_str());
    format!("{run}-{}", card.id)
}

fn models(card: &Card) -> Vec<String> {
    if !card.models.is_empty() {
        return card.models.iter().map(|m| hub_name(m)).collect();
    }
    card.run
        .started
        .iter()
        .flat_map(|s| &s.models)
        .map(|m| hub_name(&m.model))
        .collect()
}

/// `hf:owner/name@revision` → `owner/name`; of a path on somebody's disk only the last part.
pub fn hub_name(model: &str) -> String {
    match model.strip_prefix("hf:") {
        Some(rest) => rest.split('@').next().unwrap_or(rest).to_owned(),
        None => model
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or(model)
            .to_owned(),
    }
}

/// How the model is loaded, wherever the card lies.
const USE: &str = "## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model_id = \".\"  # this folder, or its name on the Hub
tokenizer = AutoTokenizer.from_pretrained(model_id)
model = AutoModelForCausalLM.from_pretrained(model_id, dtype=\"auto\")
inputs = tokenizer(\"Question: \", return_tensors=\"pt\")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=200)[0]))
```

";

fn front_matter(card: &Card) -> String {
    let mut out = String::from("---\nbase_model:\n");
    for model in models(card) {
        let _ = writeln!(out, "- {}", scalar(&model));
    }
    out += "base_model_relation: merge\nlibrary_name: transformers\npipeline_tag: text-generation\n";
    out += "tags:\n- mergekit\n- merge\n- heterosis\n";
    if let Some(license) = card.license {
        let _ = writeln!(out, "license: {}", scalar(license));
    }
    let mut languages: Vec<&str> = card
        .run
        .started
        .iter()
        .flat_map(|s| &s.tasks)
        .map(|t| t.lang.as_str())
        .collect();
    languages.retain(|l| !l.is_empty());
    languages.sort_unstable();
    languages.dedup();
    if !languages.is_empty() {
        out += "language:\n";
        // Quoted, for `no` is a language and YAML reads it as false.
        for language in languages {
            let _ = writeln!(out, "- {}", quoted(language));
        }
    }
    out += &model_index(card);
    out + "---\n"
}

fn model_index(card: &Card) -> String {
    let scores = scores(card);
    // A command's numbers are no metric that others know, and of no data set.
    if scores.is_empty() || card.run.is_scored_by_command() {
        return String::new();
    }
    let mut out = format!("model-index:\n- name: {}\n  results:\n", scalar(&name(card)));
    for score in scores {
        let (task, metric) = (task_name(&score.task, &score.lang), metric(card.run, score));
        let _ = write!(
            out,
            "  - task:\n      type: text-generation\n    dataset:\n      name: {}\n      type: {}\n      split: {}\n",
            scalar(&task),
            scalar(&task_name(&score.task, "")),
            scalar(&score.split)
        );
        let _ = write!(
            out,
            "    metrics:\n    - type: {metric}\n      name: {}\n      value: {:.4}\n      args:\n        stderr: {:.4}\n        n: {}\n",
            metric.replace('_', " "),
            score.score.value,
            score.score.stderr,
            score.score.n
        );
    }
    out
}

fn metric<'a>(run: &'a Run, score: &TaskScore) -> &'a str {
    if run.is_likelihood(&score.task, &score.lang) {
        LOG_LIKELIHOOD
    } else {
        "exact_match"
    }
}

/// The scores that may be published: the test's for the winner, the search's otherwise.
fn scores<'a>(card: &'a Card) -> &'a [TaskScore] {
    match reading(card) {
        Some(reading) => &reading.best.tasks,
        None => candidate(card).map(|c| c.tasks.as_slice()).unwrap_or_default(),
    }
}

/// The test's reading, if it is about this candidate.
fn reading<'a>(card: &'a Card) -> Option<&'a TestReading> {
    card.run.reading.as_ref().filter(|r| r.best.id == card.id)
}

fn candidate<'a>(card: &'a Card) -> Option<&'a Candidate> {
    card.run.candidate(card.id)
}

fn body(card: &Card) -> String {
    let mut out = format!("# {}\n\n", name(card));
    let names: Vec<String> = models(card).iter().map(|m| format!("`{m}`")).collect();
    let _ = writeln!(out, "A merge of {}, bred by heterosis.\n", joined(&names));
    out += &method(card);
    out += "## Scores\n\n";
    out += &match reading(card) {
        Some(reading) => tested(card, reading),
        None => untested(card),
    };
    if reading(card).is_none() {
        for sentence in told_without_test(card.run) {
            let _ = writeln!(out, "\n{sentence}");
        }
    }
    if let Some(forgotten) = forgotten(card.run).filter(|_| reading(card).is_some()) {
        let _ = writeln!(out, "\n{forgotten}");
    }
    // A command's scores have neither.
    if !card.run.is_scored_by_command() {
        let profile = card.profile;
        let _ = writeln!(out, "\n± is one standard error. Evaluation profile: `{profile}`.");
    }
    out.push('\n');
    let _ = writeln!(out, "## Recipe\n\n```yaml\n{}\n```\n", card.recipe_yaml.trim_end());
    out += USE;
    out += &licenses(card);
    out + &provenance(card)
}

fn licenses(card: &Card) -> String {
    if card.parent_licenses.is_empty() {
        return String::new();
    }
    let of_parent = |p: &ParentLicense| {
        let license = p
            .license
            .as_ref()
            .map_or_else(|| "no licence that it names".into(), |l| format!("`{l}`"));
        format!("`{}`: {license}", hub_name(&p.model))
    };
    let parents: Vec<String> = card.parent_licenses.iter().map(of_parent).collect();
    let child = match card.license {
        Some("other") | None => {
            "No single one of these says it all: the terms of every parent hold for this merge.".into()
        }
        Some(license) => format!("The most restrictive of them, `{license}`, holds for this merge."),
    };
    format!("## Licence\n\n{}. {child}\n\n", parents.join("; "))
}

fn method(card: &Card) -> String {
    let mut out = String::from("## Method\n\n");
    let method = candidate(card).and_then(|c| {
        c.recipe
            .get("stages")?
            .as_array()?
            .last()?
            .get("merge_method")?
            .as_str()
    });
    if let Some(method) = method {
        let _ = write!(out, "Merge method: `{method}`. ");
    }
    if let Some(made) = candidate(card).map(|c| provenance_of(card.run, c)) {
        let _ = write!(out, "{made}. ");
    }
    let tasks = card.run.started.iter().flat_map(|s| &s.tasks);
    let tasks: Vec<String> = tasks
        .map(|t| {
            format!(
                "{} ({}, {})",
                task_name(&t.task, &t.lang),
                t.split,
                counted(t.n, "question")
            )
        })
        .collect();
    if !tasks.is_empty() {
        let _ = write!(out, "Candidates were scored on {}.", joined(&tasks));
    }
    out.trim_end().to_owned() + "\n\n"
}

fn tested(card: &Card, reading: &TestReading) -> String {
    let unit = card.run.unit();
    let on = Freshness::of(card.run).reading(&reading.split);
    let mut out = format!("{on} {}.\n\n", verdict(card.run, reading).sentence);
    for sentence in told(card.run) {
        let _ = writeln!(out, "{sentence}\n");
    }
    let tasks = &reading.best.tasks;
    out += &header(card.run, tasks, "p");
    out += &row(card.run, card.id, unit, &reading.best, tasks, "");
    out += &row(
        card.run,
        parent_name(&reading.best_parent.id),
        unit,
        &reading.best_parent,
        tasks,
        &p_value(reading.p_value),
    );
    for Comparison { other, p_holm, .. } in &reading.others {
        out += &row(
            card.run,
            parent_name(&other.id),
            unit,
            other,
            tasks,
            &format!("{} (Holm)", p_value(*p_holm)),
        );
    }
    for (name, score) in reading.together() {
        out += &row(card.run, name, unit, score, tasks, "");
    }
    let is_drawn = |o: &Comparison| {
        card.run
            .candidate(&o.other.id)
            .is_some_and(|c| c.origin == Origin::Random)
    };
    if reading.others.iter().any(is_drawn) {
        out += "\nRandom draws have ids that begin with r.";
    }
    out += "\nThe first parent is the one that did best here: to beat it is to beat all of them. p (Holm) is corrected for all \
            comparisons of the table.\n";
    if let Some(flips) = flips(reading) {
        let _ = writeln!(out, "\n{flips}");
    }
    out
}

fn header(run: &Run, tasks: &[TaskScore], last: &str) -> String {
    let names: Vec<String> = tasks
        .iter()
        .map(|t| {
            let unit = run.task_unit(&t.task, &t.lang);
            format!(" {} |", unit.heading(&task_name(&t.task, &t.lang)))
        })
        .collect();
    let all = run.unit().heading("all");
    format!(
        "| model | {all} | {}n | {last} |\n|---|---|{}---|---|\n",
        names.concat().trim_start().to_owned() + " ",
        "---|".repeat(tasks.len())
    )
}

fn row(run: &Run, name: &str, unit: Unit, score: &TestScore, tasks: &[TaskScore], last: &str) -> String {
    let cells: Vec<String> = tasks
        .iter()
        .map(|t| {
            let own = score.tasks.iter().find(|s| s.task == t.task && s.lang == t.lang);
            let text = own.map_or_else(String::new, |s| run.task_unit(&s.task, &s.lang).score(&s.score));
            format!(" {text} |")
        })
        .collect();
    format!(
        "| {name} | {} |{} {} | {last} |\n",
        unit.score(&score.score),
        cells.concat(),
        count(score.score.n as u64)
    )
}

fn untested(card: &Card) -> String {
    let Some(c) = candidate(card) else {
        return "This merge was not scored.\n".into();
    };
    let unit = card.run.unit();
    let is_of_command = card.run.is_scored_by_command();
    // One whom the final has not asked has its score of the search, and is beside others' of the search.
    let selected = card.run.selection.as_ref().and(card.run.score_before_test(c));
    let n = |n: usize| {
        if is_of_command {
            String::new()
        } else {
            format!(" (n={})", count(n as u64))
        }
    };
    let (mut out, of_parent) = match &selected {
        Some(score) => {
            let was_chosen = card.run.winner().is_some_and(|winner| winner.id == c.id);
            let asked = match (is_of_command, was_chosen) {
                (true, true) => "In the final, which chose it",
                (true, false) => "In the final, which chose another",
                (false, true) => "On the selection questions, by which it was chosen",
                (false, false) => "On the selection questions, by which another was chosen",
            };
            let searched = unit.full(c.fitness, c.stderr);
            let out = format!(
                "{asked}, {}{}; in the search {searched}.",
                unit.full_score(score),
                n(score.n)
            );
            (
                out,
                card.run
                    .best_parent()
                    .and_then(|parent| card.run.score_before_test(parent)),
            )
        }
        None => {
            let asked = if is_of_command {
                "In the search"
            } else {
                "On the questions that the search chose by"
            };
            let out = format!("{asked}, {}{}.", unit.full(c.fitness, c.stderr), n(c.n));
            (out, card.run.best_parent().map(Candidate::search_score))
        }
    };
    if let Some((parent, score)) = card.run.best_parent().filter(|p| p.id != c.id).zip(of_parent) {
        let _ = write!(
            out,
            " The best parent, `{}`, has {}.",
            parent_name(&parent.id),
            unit.full_score(&score)
        );
    }
    out + " A score that was selected by is flattering; no test was read for this model.\n"
}

fn provenance(card: &Card) -> String {
    let Some(started) = &card.run.started else {
        return String::new();
    };
    let mut out = format!(
        "## Provenance\n\nheterosis {}, seed {}, search space `{}`, computed in {}.",
        started.engine_version, started.seed, started.space_digest, started.dtype
    );
    if !started.engine.is_empty() {
        let _ = write!(out, " Questions were answered by another engine: {}.", started.engine);
    }
    if let Some(c) = candidate(card) {
        let _ = write!(out, " Recipe digest `{}`.", c.recipe_digest);
    }
    out + " `provenance.json` has the hashes of every file that went in and came out; `heterosis verify` recomputes them.\n"
}

/// `a`, `a and b`, `a, b and c`.
fn joined(words: &[String]) -> String {
    match words {
        [] => "nothing".into(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A YAML scalar, quoted where a plain one could be read as something else.
fn scalar(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let reserved =
        ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if plain && word && !reserved {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// JSON's quoting is YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::rehearsal;

    const RECIPE: &str = "merge_method: ties\nbase_model: base\n";

    fn card<'a>(run: &'a Run, id: &'a str) -> Card<'a> {
        Card {
            run,
            id,
            recipe_yaml: RECIPE,
            license: Some("apache-2.0"),
            parent_licenses: &[],
            models: &[],
            profile: "fitness",
        }
    }

    fn front(text: &str) -> serde_json::Value {
        let yaml = text.strip_prefix("---\n").unwrap().split("\n---\n").next().unwrap();
        serde_yaml_ng::from_str(yaml).unwrap()
    }

    #[test]
    fn the_winners_card() {
        let run = Run::from_records(&rehearsal::journal());
        let id = run.winner().unwrap().id.clone();
        let text = model_card(&card(&run, &id));
        let front = front(&text);
        assert_eq!(front["base_model"][1], "tiny-maths");
        assert_eq!(front["base_model_relation"], "merge");
        assert_eq!(front["license"], "apache-2.0");
        assert_eq!(front["model-index"][0]["results"][0]["dataset"]["split"], "test");
        insta::assert_snapshot!("card", text);
    }

    #[test]
    fn another_candidates_card_says_what_was_not_measured() {
        let run = Run::from_records(&rehearsal::stopped());
        let mut card = card(&run, "c0005");
        card.license = None;
        let text = model_card(&card);
        assert!(front(&text).get("license").is_none());
        assert_eq!(
            front(&text)["model-index"][0]["results"][0]["metrics"][0]["type"],
            "log_likelihood"
        );
        assert!(text.contains("no test was read"));
        let text = model_card(&Card { id: "nobody", ..card });
        assert!(text.contains("was not scored") && front(&text).get("model-index").is_none());
    }

    #[test]
    fn the_parents_licences_stand_in_the_card() {
        let run = Run::from_records(&rehearsal::journal());
        let parents = ["mit", "apache-2.0"].map(|license| ParentLicense {
            model: format!("hf:owner/{license}-model"),
            license: Some(license.into()),
        });
        let text = model_card(&Card {
            parent_licenses: &parents,
            ..card(&run, "c0005")
        });
        assert!(
            text.contains("`owner/mit-model`: `mit`; `owner/apache-2.0-model`: `apache-2.0`."),
            "{text}"
        );
        assert!(text.contains("The most restrictive of them, `apache-2.0`,"), "{text}");
    }

    /// A stranger's run may be called what it likes: its card stays one document with the licence that the parents have, and
    /// its report a page without scripts.
    #[test]
    fn no_name_breaks_out_of_the_front_matter_or_the_page() {
        let evil = serde_json::Value::from("x\"\n---\nlicense: evil\n<script>alert(1)</script>").to_string();
        let evil = evil.trim_matches('"');
        let mut text = serde_json::to_string(&rehearsal::journal()).unwrap();
        for name in ["bilingual-maths", "c0047", "arith-es", "tiny-maths"] {
            assert!(text.contains(name), "{name}");
            text = text.replace(name, &format!("{name}{evil}"));
        }
        let records: Vec<crate::event::Record> = serde_json::from_str(&text).unwrap();
        let run = Run::from_records(&records);
        let id = run.winner().unwrap().id.clone();
        assert!(id.contains("<script>"));
        let mut card = card(&run, &id);
        card.models = &[];
        let text = model_card(&card);
        let front = front(&text);
        assert_eq!(front["license"], "apache-2.0");
        assert_eq!(front["library_name"], "transformers");
        assert!(
            front["model-index"][0]["name"].as_str().unwrap().contains("<script>"),
            "{text}"
        );
        for (name, text) in crate::report::files(&run, "runs/r") {
            assert!(name.ends_with(".csv") || !text.contains("<script"), "{name}");
        }
    }

    #[test]
    fn hub_names_and_scalars() {
        assert_eq!(hub_name("hf:owner/name@abc"), "owner/name");
        assert_eq!(hub_name("/home/me/models/x/"), "x");
        assert_eq!(scalar("no"), "\"no\"");
        assert_eq!(scalar("7b"), "\"7b\"");
        assert_eq!(scalar("a: b"), "\"a: b\"");
        assert_eq!(joined(&["a".into(), "b".into(), "c".into()]), "a, b and c");
    }
}
