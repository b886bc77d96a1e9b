//! `results.csv`: a row for each candidate, best first, failed ones at the end.

use crate::event::normalized::{self, HeldIn, HeldOut};
use crate::event::run::{Run, origin_name};
use crate::event::words::{task_name, task_of};

pub fn csv(run: &Run) -> String {
    let tasks = task_names(run);
    let mut genes: Vec<&String> = run.started.iter().flat_map(|s| &s.genes).collect();
    // A later stage of the search has other genes.
    for gene in run.stages.iter().flat_map(|stage| &stage.genes) {
        if !genes.contains(&gene) {
            genes.push(gene);
        }
    }
    let mut header: Vec<String> = [
        "rank",
        "id",
        "origin",
        "generation",
        "evals",
        "elapsed_ms",
        "fitness",
        "stderr",
        "n",
    ]
    .map(String::from)
    .into();
    for task in &tasks {
        header.extend([
            task.clone(),
            format!("{task} stderr"),
            format!("{task} ÷ best expert"),
            format!("{task} share of gain"),
        ]);
    }
    let held_out = run.held_out.iter().flat_map(|r| &r.tasks).collect::<Vec<_>>();
    for task in &held_out {
        let task = task_name(&task.task, &task.lang);
        let columns = ["", " stderr", " ÷ base"].map(|column| format!("{task} held out{column}"));
        header.extend(columns);
    }
    let measured = normalized::held_out(run);
    header.extend(
        [
            "cached",
            "generated_tokens",
            "merge_ms",
            "evaluation_ms",
            "recipe_digest",
            "failure",
        ]
        .map(String::from),
    );
    header.extend(genes.iter().map(|g| format!("gene {g}")));
    let mut out = row(&header);
    for (rank, scored) in run.ranking().iter().enumerate() {
        let c = &scored.candidate;
        let mut cells = vec![
            (rank + 1).to_string(),
            c.id.clone(),
            origin_name(&c.origin).to_owned(),
            c.generation.map_or_else(String::new, |g| g.to_string()),
            scored.evals.to_string(),
            scored.elapsed_ms.to_string(),
            c.fitness.to_string(),
            c.stderr.to_string(),
            c.n.to_string(),
        ];
        let held_in = normalized::held_in_of(run, c);
        for i in 0..tasks.len() {
            let task = c.tasks.get(i);
            let same = |h: &&HeldIn| task.is_some_and(|t| (&t.task, &t.lang) == (&h.task, &h.lang));
            let held_in = held_in.iter().find(same);
            cells.push(number(task.map(|t| t.score.value)));
            cells.push(number(task.map(|t| t.score.stderr)));
            cells.push(number(held_in.and_then(|h| Some(h.of_expert?.value))));
            cells.push(number(held_in.and_then(|h| Some(h.of_gain?.value))));
        }
        for task in &held_out {
            let same = |h: &&HeldOut| {
                h.id == c.id && (&h.score.task, &h.score.lang, &h.score.split) == (&task.task, &task.lang, &task.split)
            };
            let measured = measured.iter().find(same);
            cells.push(number(measured.map(|h| h.score.score.value)));
            cells.push(number(measured.map(|h| h.score.score.stderr)));
            cells.push(number(measured.and_then(|h| Some(h.of_base?.value))));
        }
        cells.extend([
            c.cached.to_string(),
            c.generated_tokens.to_string(),
            c.merge_ms.to_string(),
            c.evaluation_ms.to_string(),
            c.recipe_digest.clone(),
            String::new(),
        ]);
        let own = run.genes_of(scored);
        cells.extend(genes.iter().map(|gene| {
            let at = own.iter().position(|g| g == *gene);
            let value = at.and_then(|i| c.genotype.get(i));
            value.map_or_else(String::new, |v| v.to_string())
        }));
        out += &row(&cells);
    }
    let failure = header.iter().position(|h| h == "failure").unwrap_or(0);
    for failed in &run.failed {
        let mut cells = vec![String::new(); header.len()];
        cells[1] = failed.id.clone();
        cells[2] = origin_name(&failed.origin).to_owned();
        cells[3] = failed.generation.map_or_else(String::new, |g| g.to_string());
        cells[failure] = failed.reason.clone();
        out += &row(&cells);
    }
    out
}

/// Empty where there is none.
fn number(value: Option<f64>) -> String {
    value.map_or_else(String::new, |v| v.to_string())
}

/// The run's tasks; of a command the names of its scores, which only its answers tell.
fn task_names(run: &Run) -> Vec<String> {
    let named = run.started.iter().flat_map(|s| &s.tasks);
    let named: Vec<String> = named.map(|t| task_name(&t.task, &t.lang)).collect();
    match (named.is_empty(), run.scored.first()) {
        (true, Some(first)) => first.candidate.tasks.iter().map(task_of).collect(),
        _ => named,
    }
}

/// One line of RFC 4180.
fn row(cells: &[String]) -> String {
    let quoted: Vec<String> = cells.iter().map(|c| quote(c)).collect();
    quoted.join(",") + "\r\n"
}

/// Control characters are nobody's data, and whoever shows the file obeys them.
fn quote(cell: &str) -> String {
    let cell: String = cell.chars().filter(|c| !c.is_control() || *c == '\n').collect();
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::rehearsal;

    #[test]
    fn every_row_has_every_column() {
        let run = Run::from_records(&rehearsal::journal());
        let csv = csv(&run);
        let columns = csv.lines().next().unwrap().matches(',').count();
        assert_eq!(csv.lines().count(), 1 + run.scored.len() + run.failed.len());
        assert!(
            csv.lines().all(|line| line.matches(',').count() == columns),
            "no cell of this run holds a comma"
        );
        assert!(csv.contains("collapsed: perplexity"));
    }

    #[test]
    fn commas_and_quotes_are_quoted() {
        assert_eq!(quote("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(quote("plain"), "plain");
    }
}
