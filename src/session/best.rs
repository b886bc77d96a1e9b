//! `best.yaml` and `best.json` of a run: its best recipe, or its best genes, so far.

use std::collections::BTreeMap;

use serde::Serialize;

use super::with_model_words;
use crate::{
    event::{self, Event, Record, run::Run},
    recipe::{Recipe, write},
    space::{BareGene, Space},
    store::RunDir,
};

/// Keeps `best.yaml` the best recipe so far, or `best.json` the best genes: by what its search score is worth, and in the end by the final.
pub struct BestFile<'a> {
    dir: &'a RunDir,
    space: &'a Space,
    run: Run,
    /// Who is in the file, and whether as the winner of the final.
    written: Option<(String, bool)>,
}

/// `best.json`.
#[derive(Serialize)]
struct BestGenes<'a> {
    schema_version: u32,
    name: &'a str,
    id: &'a str,
    /// On the search's questions.
    fitness: f64,
    /// It won the final.
    is_winner: bool,
    /// As the command was given them.
    genes: &'a serde_json::Value,
    /// The words that the numbers of choices stand for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    choices: BTreeMap<&'a str, &'a str>,
}

impl<'a> BestFile<'a> {
    pub fn new(dir: &'a RunDir, space: &'a Space) -> Self {
        Self {
            dir,
            space,
            run: Run::default(),
            written: None,
        }
    }

    pub fn see(&mut self, record: &Record) {
        // Answers are many, and say nothing of who is best.
        if matches!(record.event, Event::Answers(_)) {
            return;
        }
        self.run.apply(record);
        let Some(best) = self.run.winner() else { return };
        let now = (best.id.clone(), self.run.selection.is_some());
        if self.written.as_ref() != Some(&now) {
            self.write(best, now.1);
            self.written = Some(now);
        }
    }

    fn write(&self, best: &event::Candidate, is_winner: bool) {
        let (id, fitness, value) = (&best.id, best.fitness, &best.recipe);
        let (file, text) = match value.get("genes") {
            Some(genes) => (self.dir.best_genes(), self.genes(id, fitness, is_winner, genes)),
            None => match self.recipe(id, fitness, is_winner, value) {
                Some(text) => (self.dir.best(), text),
                None => return, // a parent as it is makes no recipe
            },
        };
        if let Err(e) = self.dir.replace(&file, &text) {
            tracing::warn!("{e}");
        }
    }

    fn recipe(&self, id: &str, fitness: f64, is_winner: bool, value: &serde_json::Value) -> Option<String> {
        let recipe: Recipe = serde_json::from_value(value.clone()).ok()?;
        let yaml = write::to_yaml(&with_model_words(&recipe, self.space));
        let what = match is_winner {
            true => "the winner of the final".into(),
            false => format!("{fitness:.4} on the search questions"),
        };
        Some(format!("# {id}, {what} of {}\n{yaml}", self.space.name))
    }

    fn genes(&self, id: &str, fitness: f64, is_winner: bool, genes: &serde_json::Value) -> String {
        let word = |(name, gene): &'a (String, BareGene)| match gene {
            BareGene::Choice { choice } => {
                let at = genes.get(name)?.as_f64()? as usize;
                Some((name.as_str(), choice.get(at)?.as_str()))
            }
            BareGene::Real(_) | BareGene::Int { .. } => None,
        };
        let best = BestGenes {
            schema_version: event::SCHEMA_VERSION,
            name: &self.space.name,
            id,
            fitness,
            is_winner,
            genes,
            choices: self.space.genes.iter().filter_map(word).collect(),
        };
        serde_json::to_string_pretty(&best).expect("genes are plain data") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{models::verbatim, store::holder};

    /// In a race a candidate that left after two dozen questions can have the highest score of all: `best.yaml` held it.
    #[test]
    fn the_best_file_ignores_who_left_a_race_early() {
        let text = "name: t\nmodels: {base: b, maths: m}\nbase: base\nparameter_space: {method: ties, genes: {weight: \
                    [0.0, 1.0]}}\nfitness: {tasks: [t]}\n";
        let space = Space::parse(Path::new("s.yaml"), text).unwrap();
        let tmp = tempfile::tempdir().unwrap();
        let (dir, _lock) = RunDir::create(&tmp.path().join("run"), &holder()).unwrap();
        let mut best = BestFile::new(&dir, &space);
        for (id, fitness, eliminated) in [("stays", 0.5, false), ("leaves", 0.9, true)] {
            let recipe = verbatim("maths");
            let candidate = serde_json::json!({
                "schema_version": 1, "seq": 0, "time_ms": 0, "event": "candidate_scored", "id": id, "origin": "search",
                "generation": 0, "genotype": [], "recipe": recipe, "recipe_digest": "", "fitness": fitness, "stderr": 0.0,
                "n": 1, "tasks": [], "eliminated": eliminated, "cached": false, "generated_tokens": 0, "merge_ms": 0,
                "evaluation_ms": 0
            });
            best.see(&serde_json::from_value(candidate).unwrap());
        }
        let written = fs::read_to_string(dir.best()).unwrap();
        assert!(written.contains("stays") && !written.contains("leaves"), "{written}");
    }

    /// The luckiest of two dozen questions stood in `best.yaml` for the rest of the night.
    #[test]
    fn the_best_file_is_drawn_to_the_mean_when_a_race_is_over() {
        let text = "name: t\nmodels: {base: b, maths: m}\nbase: base\nparameter_space: {method: ties, genes: {weight: \
                    [0.0, 1.0]}}\nfitness: {tasks: [t]}\n";
        let space = Space::parse(Path::new("s.yaml"), text).unwrap();
        let tmp = tempfile::tempdir().unwrap();
        let (dir, _lock) = RunDir::create(&tmp.path().join("run"), &holder()).unwrap();
        let mut best = BestFile::new(&dir, &space);
        let mut see = |event: serde_json::Value| best.see(&serde_json::from_value(event).unwrap());
        for (id, fitness, stderr) in [("lucky", 0.74, 0.1), ("known", 0.70, 0.02), ("third", 0.6, 0.1)] {
            see(serde_json::json!({
                "schema_version": 1, "seq": 0, "time_ms": 0, "event": "candidate_scored", "id": id, "origin": "search",
                "generation": 1, "genotype": [], "recipe": verbatim("maths"), "recipe_digest": "",
                "fitness": fitness, "stderr": stderr, "n": 24, "tasks": [], "cached": false, "generated_tokens": 0,
                "merge_ms": 0, "evaluation_ms": 0
            }));
        }
        assert!(fs::read_to_string(dir.best()).unwrap().starts_with("# lucky"));
        see(serde_json::json!({
            "schema_version": 1, "seq": 0, "time_ms": 0, "event": "generation_ended", "generation": 1, "best": 0.74,
            "upper_quartile": 0.7, "median": 0.7, "lower_quartile": 0.6, "failed": 0, "sigma": null, "block": 96,
            "tau": null, "split_half": null, "state_digest": ""
        }));
        assert!(fs::read_to_string(dir.best()).unwrap().starts_with("# known"));
    }

    /// Without models there is no recipe; what was searched for is left all the same.
    #[test]
    fn bare_genes_are_left_with_the_words_of_their_choices() {
        let text = "name: t\ngenes: {x: [0, 1], m: {choice: [adam, sgd]}}\nfitness: {command: [score]}\n";
        let space = Space::parse(Path::new("s.yaml"), text).unwrap();
        let tmp = tempfile::tempdir().unwrap();
        let (dir, _lock) = RunDir::create(&tmp.path().join("run"), &holder()).unwrap();
        let mut best = BestFile::new(&dir, &space);
        for (id, fitness, x) in [("c1", 0.5, 0.25), ("c2", 0.9, 0.75)] {
            let candidate = serde_json::json!({
                "schema_version": 1, "seq": 0, "time_ms": 0, "event": "candidate_scored", "id": id, "origin": "search",
                "generation": 0, "genotype": [x, 1.0], "recipe": {"genes": {"x": x, "m": 1.0}}, "recipe_digest": "",
                "fitness": fitness, "stderr": 0.0, "n": 1, "tasks": [], "cached": false, "generated_tokens": 0,
                "merge_ms": 0, "evaluation_ms": 0
            });
            best.see(&serde_json::from_value(candidate).unwrap());
        }
        let read =
            || -> serde_json::Value { serde_json::from_str(&fs::read_to_string(dir.best_genes()).unwrap()).unwrap() };
        let first = read();
        assert_eq!(
            (&first["id"], &first["genes"]["x"], &first["choices"]["m"]),
            (&"c2".into(), &0.75.into(), &"sgd".into())
        );
        let selected = serde_json::json!({
            "schema_version": 1, "seq": 0, "time_ms": 0, "event": "selected", "split": "selection", "finalists": [],
            "best": "c1", "best_parent": ""
        });
        best.see(&serde_json::from_value(selected).unwrap());
        assert_eq!((&read()["id"], &read()["is_winner"]), (&"c1".into(), &true.into()));
        assert!(!dir.best().exists());
    }
}
