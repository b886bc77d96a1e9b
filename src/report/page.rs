//! `report.html`: the whole story on one page, opening with what matters in plain words.

use std::fmt::Write;

use super::pictures::Picture;
use super::svg::{escape, style};
use crate::event::freshness::Freshness;
use crate::event::normalized::{self, HeldOut, Ratio};
use crate::event::run::{Flip, Run, State, competes, counts, origin_name};
use crate::event::verdict::{best_unsearched, forgotten, is_hopeless, strongest, told, told_without_test, verdict};
use crate::event::words::{
    MIXED_KINDS, budget, busy_share, count, counted, duration, p_value, parent_name, right_answer, shell_word,
    short_duration, tags, task_name, task_of, worker_words,
};
use crate::event::{HeldOutTask, Learned, Level, Origin, Task, TestReading};

/// Rows of the leaderboard.
const BOARD_ROWS: usize = 25;
/// Flips shown of each kind.
const FLIPS: usize = 6;
/// The level under which a difference counts as shown.
const SIGNIFICANT: f64 = 0.05;

pub fn html(run: &Run, dir: &str, pictures: &[Picture]) -> String {
    let name = run
        .started
        .as_ref()
        .map_or("a run without a beginning", |s| s.name.as_str());
    let mut body = format!(
        "<header><p class=brand>heterosis</p><h1>{}</h1>{}</header>\n",
        escape(name),
        chips(run)
    );
    let (lead, rest) = split_opening(sentences(run));
    let _ = writeln!(body, "<p class=lead>{}</p>\n<p>{}</p>", escape(&lead), escape(&rest));
    body += &cards(run);
    for (file, heading) in SECTIONS {
        let Some(picture) = pictures.iter().find(|p| p.file == file) else {
            continue;
        };
        if !heading.is_empty() {
            let _ = writeln!(body, "<h2>{heading}</h2>");
        }
        let caption = escape(&picture.caption);
        let _ = writeln!(
            body,
            "<figure>{}<figcaption>{caption}</figcaption></figure>",
            picture.svg.inline()
        );
        body += &match file {
            "contest.svg" => comparisons(run) + &normalized(run),
            "learning.svg" => learning(run),
            "luck.svg" => finalists(run),
            "weights.svg" => recipe(run),
            _ => String::new(),
        };
    }
    if !pictures.iter().any(|p| p.file == "weights.svg") {
        body += &recipe(run);
    }
    body += &held_out(run);
    body += &workers(run);
    body += &flips(run);
    body += &board(run);
    body += &facts(run, dir);
    page(name, &body)
}

/// Pictures in the order of the page, with the heading that stands above them.
const SECTIONS: [(&str, &str); 9] = [
    ("contest.svg", "The child beside its parents"),
    ("tasks.svg", "Task by task"),
    ("luck.svg", "How much was luck"),
    ("convergence.svg", "How the search went"),
    ("convergence-time.svg", ""),
    ("learning.svg", "What texts taught"),
    ("pareto.svg", "One task against the other"),
    ("weights.svg", "What the winner is made of"),
    ("path.svg", "Its way through the layers"),
];

fn page(name: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n\
         <meta name=viewport content=\"width=device-width,initial-scale=1\">\n\
         <meta name=color-scheme content=\"light dark\">\n<title>{} · heterosis</title>\n\
         <style>{}{PAGE_STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(name),
        style()
    )
}

const PAGE_STYLE: &str = "\
:root{--ink:#1b1f24;--muted:#667079;--paper:#fff;--soft:#f5f6f8;--rule:#e4e7eb;--child:#b84e00;--good:#00775a;--bad:#b84e00}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--muted:#98a2ab;--paper:#15181b;--soft:#1d2125;--rule:#30363c;\
--child:#f0883e;--good:#3fb890;--bad:#f0883e}}\
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,\
'Segoe UI',Roboto,sans-serif}main{max-width:56rem;margin:0 auto;padding:2.5rem 1.25rem 5rem}\
.brand{margin:0;color:var(--muted);letter-spacing:.08em;text-transform:uppercase;font-size:.75rem}\
h1{margin:.1rem 0 .5rem;font-size:2.1rem;line-height:1.15}h2{margin:3rem 0 .75rem;font-size:1.3rem}\
.chips{color:var(--muted);font-size:.9rem;margin:0}.lead{font-size:1.2rem;line-height:1.6;margin:1.75rem 0}\
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.75rem;margin:1.5rem 0}\
.card{background:var(--soft);border-radius:.6rem;padding:.85rem 1rem}.card b{display:block;font-size:1.45rem;line-height:1.3}\
.card span{color:var(--muted);font-size:.85rem}.card.child b{color:var(--child)}\
figure{margin:1rem 0;overflow-x:auto}figure svg{display:block;width:100%;height:auto;min-width:36rem}figcaption{color:var(--muted);font-size:.85rem;margin-top:.35rem}\
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}\
th{text-align:left;color:var(--muted);font-weight:500}th,td{padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--rule);\
white-space:nowrap}.n{text-align:right}tr.won td{font-weight:600;color:var(--child)}td.wide{white-space:normal}\
pre{background:var(--soft);border-radius:.6rem;padding:1rem;overflow-x:auto;font-size:.82rem;line-height:1.45}\
details{margin:.6rem 0}summary{cursor:pointer;color:var(--muted)}\
.flip{display:grid;grid-template-columns:1fr 1fr;gap:.75rem;margin:.75rem 0}.flip pre{margin:0;white-space:pre-wrap}\
.flip h4{grid-column:1/-1;margin:.75rem 0 0;font-size:.95rem;font-weight:600;white-space:pre-wrap;overflow-wrap:anywhere}\
.flip>p{grid-column:1/-1}.flip p{margin:0 0 .25rem;font-size:.8rem;color:var(--muted);overflow-wrap:anywhere}\
.facts td{white-space:pre-line;overflow-wrap:anywhere;vertical-align:top}.facts td:first-child{color:var(--muted);min-width:9rem}\
.tag{border:1px solid var(--rule);border-radius:1rem;padding:0 .5rem;font-size:.75rem;color:var(--bad)}\
.good{color:var(--good)}.bad{color:var(--bad)}@media(max-width:40rem){.flip{grid-template-columns:1fr}}";

/// Whoever evaluated elsewhere, and what they did.
fn workers(run: &Run) -> String {
    if run.workers.is_empty() {
        return String::new();
    }
    let rows: Vec<(bool, Vec<Cell>)> = run
        .workers
        .iter()
        .map(|seen| {
            let worker = &seen.worker;
            let cells = vec![
                text(&worker.worker),
                text(worker_words(worker)),
                number(count(worker.answers)),
                number(format!("{:.0} %", 100.0 * busy_share(worker))),
                text(&worker.reason),
            ];
            (false, cells)
        })
        .collect();
    let heads = [
        text("worker"),
        text("where"),
        number("answers"),
        number("busy"),
        text(""),
    ];
    format!("<h2>Workers</h2>\n{}", table(&heads, &rows))
}

fn chips(run: &Run) -> String {
    let Some(started) = &run.started else {
        return String::new();
    };
    let state = match &run.state {
        State::Done => "done".to_owned(),
        State::Stopped(reason) => format!("stopped: {reason}"),
        State::Failed(reason) => format!("failed: {reason}"),
        State::Running | State::Waiting => "not over yet".to_owned(),
    };
    let words = [
        state,
        counted(run.evals as usize, "evaluation"),
        format!("{} answers", count(run.answers)),
        duration(run.elapsed(run.last_ms)),
        started.optimizer.clone(),
        format!("seed {}", started.seed),
        started.answered_by(),
    ];
    format!("<p class=chips>{}</p>", words.map(|w| escape(&w)).join(" · "))
}

/// What won and by how much, how sure that is, what it lost, what was luck, what more would bring.
#[cfg(test)]
pub fn opening(run: &Run) -> String {
    sentences(run).join(" ")
}

fn sentences(run: &Run) -> Vec<String> {
    let mut sentences = match &run.reading {
        Some(reading) => of_reading(run, reading),
        None => of_search(run).into_iter().chain(told_without_test(run)).collect(),
    };
    sentences.extend(outlook(run));
    sentences
}

/// The two sentences that everybody should read, and the others.
fn split_opening(mut sentences: Vec<String>) -> (String, String) {
    let rest = sentences.split_off(sentences.len().min(2));
    (sentences.join(" "), rest.join(" "))
}

fn of_reading(run: &Run, reading: &TestReading) -> Vec<String> {
    let mut sentences = vec![format!("{}.", verdict(run, reading).sentence)];
    if !is_hopeless(run, reading) {
        let name = parent_name(&reading.best_parent.id);
        let size = format!("of this size to {name}");
        sentences.push(chance(reading.p_value).replacen("of this size", &size, 1) + ".");
    }
    sentences.extend(crate::event::verdict::flips(reading));
    sentences.extend(told(run));
    sentences.extend(forgotten(run));
    sentences
}

/// A p-value in words.
fn chance(p: f64) -> String {
    if p >= SIGNIFICANT {
        return "A difference of this size comes about by chance often enough".to_owned();
    }
    let times = (1.0 / p.max(1e-12)).round().max(1.0);
    // One significant digit is all a reader needs.
    let power = 10_f64.powf(times.log10().floor());
    match times {
        t if t >= 1e6 => {
            "By chance alone a difference of this size would come about less than once in a million tries".into()
        }
        t => format!(
            "By chance alone a difference of this size would come about once in about {} tries",
            count(((t / power).round() * power) as u64)
        ),
    }
}

fn of_search(run: &Run) -> Vec<String> {
    let unit = run.unit();
    let Some(best) = run.winner() else {
        return vec!["No child has been scored yet, so there is nothing to tell.".into()];
    };
    let own = run.score_before_test(best).unwrap_or(best.search_score());
    let mut sentences = vec![format!(
        "The best {} is {} with {}.",
        match (run.state == State::Done, best.origin == Origin::Baseline) {
            (true, true) => "candidate, a merge that nobody searched for,",
            (false, true) => "candidate so far, a merge that nobody searched for,",
            (true, false) => "child",
            (false, false) => "child so far",
        },
        best.id,
        unit.full_score(&own)
    )];
    if run.selection.is_some() && run.is_scored_by_command() {
        let searched = unit.full(best.fitness, best.stderr);
        sentences.push(format!(
            "That is what the final made of it, which asked again; in the search it had {searched}."
        ));
    }
    if let Some((parent, score)) = run.best_parent().and_then(|p| Some((p, run.score_before_test(p)?))) {
        let (difference, name) = (own.value - score.value, parent_name(&parent.id));
        let theirs = unit.full_score(&score);
        sentences.push(match unit.is_nothing(difference) {
            true => format!("That is as much as {name}, the best of its parents, has ({theirs})."),
            false => format!(
                "That is {} {} than {name}, the best of its parents ({theirs}).",
                unit.points(difference),
                if difference > 0.0 { "more" } else { "less" },
            ),
        });
    }
    let unsearched = run.best_unsearched().filter(|m| m.id != best.id);
    if let Some((merge, score)) = unsearched.and_then(|merge| Some((merge, run.score_before_test(merge)?))) {
        sentences.push(format!(
            "The best merge that nobody searched for, {}, has {}.",
            merge.id,
            unit.full_score(&score)
        ));
    }
    if !run.is_scored_by_command() {
        let asked = match &run.selection {
            None => "the questions that the search chooses by, where the best of many is always a little lucky",
            Some(_) => "the selection questions, by which it was chosen",
        };
        let not_read = Freshness::of(run).test_not_read();
        sentences.push(format!("All were measured on {asked}; {not_read}."));
    }
    sentences
}

/// Fewer candidates tell nothing of those that would follow.
const LAST_THIRD: usize = 12;

/// What the last third of the search brought tells what as many candidates again would bring: no more, since finds get rarer.
fn outlook(run: &Run) -> Option<String> {
    let children: Vec<_> = run
        .scored
        .iter()
        .filter(|s| counts(&s.candidate.origin) && competes(&s.candidate))
        .collect();
    let (before, last_third) = children.split_at(children.len() * 2 / 3);
    if last_third.len() < LAST_THIRD {
        return None;
    }
    let then = before.iter().map(|s| s.worth).fold(f64::NEG_INFINITY, f64::max);
    let best = last_third.iter().max_by(|a, b| a.worth.total_cmp(&b.worth))?;
    let (gain, n, unit) = (best.worth - then, last_third.len(), run.unit());
    Some(if gain <= 0.0 {
        format!(
            "The last {n} candidates were no better than those before them; as many again would likely bring nothing."
        )
    } else if gain < best.candidate.stderr {
        format!(
            "The last {n} candidates brought {}, less than one standard error: the search had levelled off, and as many again \
             would likely bring nothing that can be told from luck.",
            unit.points(gain)
        )
    } else {
        format!(
            "The last {n} candidates still brought {}: as many again would likely bring something, and hardly more than that.",
            unit.points(gain)
        )
    })
}

fn cards(run: &Run) -> String {
    let unit = run.unit();
    let mut cards: Vec<(&str, String, String)> = Vec::new();
    match &run.reading {
        Some(r) => {
            cards.push((
                "child",
                unit.full_score(&r.best.score),
                format!("{}, {}", r.best.id, Freshness::of(run).test_word()),
            ));
            cards.push((
                "",
                unit.full_score(&r.best_parent.score),
                format!("{}, best parent", parent_name(&r.best_parent.id)),
            ));
            if let Some(merge) = best_unsearched(run, r) {
                let name = format!("{}, best unsearched merge", merge.other.id);
                cards.push(("", unit.full_score(&merge.other.score), name));
            }
            if let Some(rival) = strongest(run, r) {
                let over = format!("over {}, {}", parent_name(&rival.score.id), p_value(rival.p_value));
                cards.push(("", unit.lead(rival.difference), over));
            }
            if r.negative_flips + r.positive_flips > 0 {
                let flips = format!(
                    "+{} −{}",
                    count(r.positive_flips as u64),
                    count(r.negative_flips as u64)
                );
                cards.push(("", flips, "questions gained and lost".into()));
            }
        }
        None => {
            if let Some(best) = run.winner() {
                let asked = if run.is_scored_by_command() {
                    ""
                } else {
                    ", search questions"
                };
                cards.push((
                    "child",
                    unit.full(best.fitness, best.stderr),
                    format!("{}{asked}", best.id),
                ));
            }
            if let Some(parent) = run.best_parent() {
                let name = format!("{}, best parent", parent_name(&parent.id));
                cards.push(("", unit.full(parent.fitness, parent.stderr), name));
            }
        }
    }
    let cards: Vec<String> = cards
        .iter()
        .map(|(class, value, what)| {
            format!(
                "<div class=\"card {class}\"><b>{}</b><span>{}</span></div>",
                escape(value),
                escape(what)
            )
        })
        .collect();
    if cards.is_empty() {
        String::new()
    } else {
        format!("<div class=cards>{}</div>\n", cards.concat())
    }
}

/// A cell and whether it is a number.
type Cell = (String, bool);

fn text(text: impl AsRef<str>) -> Cell {
    (escape(text.as_ref()), false)
}

fn number(text: impl AsRef<str>) -> Cell {
    (escape(text.as_ref()), true)
}

/// `won` marks a row.
fn table(header: &[Cell], rows: &[(bool, Vec<Cell>)]) -> String {
    let cells = |tag: &str, row: &[Cell]| -> String {
        row.iter()
            .map(|(text, number)| format!("<{tag}{}>{text}</{tag}>", if *number { " class=n" } else { "" }))
            .collect()
    };
    let rows: String = rows
        .iter()
        .map(|(won, row)| {
            format!(
                "<tr{}>{}</tr>\n",
                if *won { " class=won" } else { "" },
                cells("td", row)
            )
        })
        .collect();
    format!(
        "<div class=scroll><table><tr>{}</tr>\n{rows}</table></div>\n",
        cells("th", header)
    )
}

fn comparisons(run: &Run) -> String {
    let Some(reading) = &run.reading else {
        return String::new();
    };
    let unit = run.unit();
    let header = [
        text(""),
        number(unit.heading("score ± SE")),
        number("n"),
        number("child's lead"),
        number("p"),
        number("p, Holm"),
    ];
    let mut rows = vec![
        (
            true,
            vec![
                text(&reading.best.id),
                number(unit.score(&reading.best.score)),
                number(count(reading.best.score.n as u64)),
                text(""),
                text(""),
                text(""),
            ],
        ),
        (
            false,
            vec![
                text(parent_name(&reading.best_parent.id)),
                number(unit.score(&reading.best_parent.score)),
                number(count(reading.best_parent.score.n as u64)),
                number(unit.signed(reading.difference)),
                number(p_value(reading.p_value)),
                text(""),
            ],
        ),
    ];
    rows.extend(reading.others.iter().map(|o| {
        (
            false,
            vec![
                text(parent_name(&o.other.id)),
                number(unit.score(&o.other.score)),
                number(count(o.other.score.n as u64)),
                number(unit.signed(o.difference)),
                number(p_value(o.p_value)),
                number(p_value(o.p_holm)),
            ],
        )
    }));
    rows.extend(reading.together().map(|(name, score)| {
        let row = vec![
            text(name),
            number(unit.score(&score.score)),
            number(count(score.score.n as u64)),
            number(unit.signed(reading.best.score.value - score.score.value)),
            text(""),
            text(""),
        ];
        (false, row)
    }));
    table(&header, &rows)
}

/// The child by the best expert's score at each task.
fn normalized(run: &Run) -> String {
    let held_in = normalized::held_in(run);
    let Some(split) = held_in.first().map(|t| t.split.clone()) else {
        return String::new();
    };
    let header = [
        text("task"),
        text("best expert"),
        number("child ÷ best expert"),
        number("share of the expert's gain over the base"),
    ];
    let ratio = |ratio: &Option<Ratio>| number(ratio.map_or_else(|| "–".into(), |r| r.to_string()));
    let rows: Vec<(bool, Vec<Cell>)> = held_in
        .iter()
        .map(|t| {
            let name = task_name(&t.task, &t.lang);
            let row = vec![
                text(name),
                text(parent_name(&t.expert)),
                ratio(&t.of_expert),
                ratio(&t.of_gain),
            ];
            (false, row)
        })
        .collect();
    let note = format!(
        "On the {split} questions. The expert is the parent, other than the base, that is best at the task; ± is one standard \
         error."
    );
    format!("{}<p class=chips>{}</p>\n", table(&header, &rows), escape(&note))
}

/// What the child forgot, or learnt besides: a column for each task that the search never asked.
/// Each round of learning in a sentence: from how many texts, what it did to them, what the child scored.
fn learning(run: &Run) -> String {
    let unit = run.unit();
    let sentence = |round: &Learned| {
        if let Some(reason) = &round.failed {
            return format!("{}: nothing was learned: {reason}.", round.id);
        }
        let scored = run.candidate(&round.id);
        let score = scored.map_or_else(String::new, |c| {
            format!(
                " It scores {} on the search's questions.",
                unit.full(c.fitness, c.stderr)
            )
        });
        // A text that few could write weighs more than one that everybody could, and the mean counts all alike.
        let unlikelier = match round.taught[1] > round.taught[0] {
            true => {
                " (what is rarely right weighs more than what everybody has right, so their plain mean may rise while more \
                 questions are answered rightly; the score tells)"
            }
            false => "",
        };
        format!(
            "{}: beginning with {}, {} taught and {} were held back, to {} in all. The held-back texts went from {:.3} to {:.3} \
             nats a token, a few of those that taught from {:.3} to {:.3}{unlikelier}.{score}",
            round.id,
            parent_name(&round.from),
            counted(round.texts, "text"),
            round.held_back_texts,
            counted(round.questions, "question"),
            round.held_back[0],
            round.held_back[1],
            round.taught[0],
            round.taught[1],
        )
    };
    let told_apart = run.learned.iter().filter_map(|round| apart(run, round));
    let sentences = run
        .learned
        .iter()
        .map(sentence)
        .chain(told_apart)
        .chain(sensitivity(run));
    let items = sentences.map(|sentence| format!("<li>{}</li>", escape(&sentence)));
    format!("<ul>{}</ul>\n", items.collect::<String>())
}

/// Which genes a round's slopes would rather split.
fn apart(run: &Run, round: &Learned) -> Option<String> {
    let scored = run.scored.iter().find(|scored| scored.candidate.id == round.id)?;
    let told = run.genes_of(scored).iter().zip(&round.apart);
    let told: Vec<String> = told
        .filter_map(|(gene, luck)| luck.map(|luck| format!("{gene} (p = {luck:.2})")))
        .collect();
    (!told.is_empty()).then(|| {
        format!(
            "How likely luck alone would pull the parts of a gene as far apart as they pulled in {}: {}.",
            round.id,
            told.join(", ")
        )
    })
}

/// Which genes the last round found the texts' loss to depend on most, and least.
fn sensitivity(run: &Run) -> Option<String> {
    const NAMED: usize = 3;
    let round = run.learned.iter().rev().find(|round| round.failed.is_none())?;
    let scored = run.scored.iter().find(|scored| scored.candidate.id == round.id)?;
    let genes = run.genes_of(scored);
    let slopes = genes.iter().zip(&round.steepness).filter(|(_, steep)| **steep > 0.0);
    let mut slopes: Vec<(&str, f64)> = slopes.map(|(gene, steep)| (gene.as_str(), steep.sqrt())).collect();
    if slopes.len() < 2 * NAMED {
        return None;
    }
    slopes.sort_by(|a, b| b.1.total_cmp(&a.1));
    let named = |slopes: &[(&str, f64)]| {
        let named: Vec<String> = slopes
            .iter()
            .map(|(gene, slope)| format!("{gene} ({slope:.4})"))
            .collect();
        named.join(", ")
    };
    Some(format!(
        "The loss depends most on {} and least on {}: nats a token for each 1 by which a gene moves, root mean square over the \
         steps of {}.",
        named(&slopes[..NAMED]),
        named(&slopes[slopes.len() - NAMED..]),
        round.id
    ))
}

fn held_out(run: &Run) -> String {
    let Some(reading) = &run.held_out else {
        return String::new();
    };
    let measured = normalized::held_out(run);
    let mut header = vec![text("")];
    header.extend(reading.tasks.iter().map(|t| {
        let asked = counted(t.n, "question");
        number(format!("{}, {asked}", task_name(&t.task, &t.lang)))
    }));
    let cell = |id: &str, task: &HeldOutTask| {
        let same = |m: &&HeldOut| {
            m.id == id && (&m.score.task, &m.score.lang, &m.score.split) == (&task.task, &task.lang, &task.split)
        };
        let Some(m) = measured.iter().find(same) else {
            return number("–");
        };
        let score = run.task_unit(&task.task, &task.lang).full_score(&m.score.score);
        number(
            m.of_base
                .map_or(score.clone(), |r| format!("{score} ({r} of the base)")),
        )
    };
    let winner = run.winner().map(|w| w.id.as_str());
    let rows: Vec<(bool, Vec<Cell>)> = reading
        .scores
        .iter()
        .map(|s| {
            let mut row = vec![text(parent_name(&s.id))];
            row.extend(reading.tasks.iter().map(|task| cell(&s.id, task)));
            (Some(s.id.as_str()) == winner, row)
        })
        .collect();
    let freshness = Freshness::of(run);
    format!(
        "<h2>{}</h2>\n{}<p class=chips>{} ± is one standard error.</p>\n",
        freshness.held_out_heading(),
        table(&header, &rows),
        freshness.held_out_note()
    )
}

fn finalists(run: &Run) -> String {
    let Some(selection) = &run.selection else {
        return String::new();
    };
    let unit = run.unit();
    let header = [
        text("finalist"),
        text("origin"),
        number(unit.heading("search ± SE")),
        number(unit.heading(&format!("{} ± SE", Freshness::of(run).selection_word()))),
        number("n"),
    ];
    let rows: Vec<(bool, Vec<Cell>)> = selection
        .finalists
        .iter()
        .map(|f| {
            (
                f.id == selection.best,
                vec![
                    text(parent_name(&f.id)),
                    text(origin_name(&f.origin)),
                    number(unit.score(&f.search)),
                    number(unit.score(&f.fresh)),
                    number(count(f.fresh.n as u64)),
                ],
            )
        })
        .collect();
    table(&header, &rows)
}

fn recipe(run: &Run) -> String {
    let Some(winner) = run.winner().filter(|w| w.recipe.is_object()) else {
        return String::new();
    };
    let json = serde_json::to_string_pretty(&winner.recipe).unwrap_or_default();
    let yaml = serde_json::from_value(winner.recipe.clone()).ok();
    let written = yaml.as_ref().map(crate::recipe::write::to_yaml).unwrap_or(json);
    format!(
        "<details><summary>The {} of {}</summary><pre>{}</pre></details>\n",
        if winner.recipe.get("genes").is_some() {
            "genes"
        } else {
            "recipe"
        },
        escape(&winner.id),
        escape(&written)
    )
}

/// Questions that changed sides between the best parent and the winner, both answers side by side.
fn flips(run: &Run) -> String {
    let (Some(winner), Some(parent)) = (run.winner(), run.best_parent()) else {
        return String::new();
    };
    let mut flips = run.flips(&winner.id, &parent.id);
    // On the test's questions where there are answers to them.
    if let Some(reading) = run
        .reading
        .as_ref()
        .filter(|r| flips.iter().any(|f| f.split == r.split))
    {
        flips.retain(|f| f.split == reading.split);
    }
    if flips.is_empty() {
        return String::new();
    }
    let (gained, lost): (Vec<Flip>, Vec<Flip>) = flips.into_iter().partition(|f| f.gained);
    let name = parent_name(&parent.id);
    let mut out = String::from("<h2>Questions that changed sides</h2>\n");
    for (kind, flips) in [
        (format!("{name} had them right, {} has them wrong", winner.id), lost),
        (format!("{} has them right, {name} had them wrong", winner.id), gained),
    ] {
        let shown = flips.len().min(FLIPS);
        let _ = writeln!(
            out,
            "<details open><summary>{} ({} of {} shown)</summary>",
            escape(&kind),
            shown,
            count(flips.len() as u64)
        );
        flips
            .iter()
            .take(FLIPS)
            .for_each(|flip| out += &flip_html(flip, &winner.id, name));
        out += "</details>\n";
    }
    out
}

fn flip_html(flip: &Flip, child: &str, parent: &str) -> String {
    let side = |name: &str, answer: &crate::event::Answer| {
        let tags: String = tags(answer)
            .iter()
            .map(|t| format!(" <span class=tag>{t}</span>"))
            .collect();
        let got = if answer.got.is_empty() { "nothing" } else { &answer.got };
        format!(
            "<div><p>{} answered {}{tags}</p><pre>{}</pre></div>",
            escape(name),
            escape(got),
            escape(&answer.out)
        )
    };
    let mut of_task = task_name(flip.task, flip.lang);
    if flip.question.is_some() {
        let _ = write!(of_task, " · {}", flip.child.q);
    }
    format!(
        "<div class=flip><h4>{}</h4><p>{} · the right answer is {}</p>{}{}</div>\n",
        escape(flip.question.unwrap_or(&flip.child.q)),
        escape(&of_task),
        escape(right_answer(&flip.child.gold)),
        side(child, flip.child),
        side(parent, flip.other)
    )
}

fn board(run: &Run) -> String {
    let ranking = run.ranking();
    if ranking.is_empty() {
        return String::new();
    }
    let unit = run.unit();
    let tasks = run.started.as_ref().map(|s| s.tasks.as_slice()).unwrap_or_default();
    let tasks = if tasks.len() > 1 { tasks } else { &[] };
    let mut header = vec![
        number("#"),
        text("id"),
        text("origin"),
        number(unit.heading("fitness ± SE")),
    ];
    let headed = |t: &Task| run.task_unit(&t.task, &t.lang).heading(&task_name(&t.task, &t.lang));
    header.extend(tasks.iter().map(|t| number(headed(t))));
    header.extend([number("n"), number("merge"), number("answers")]);
    let best = run.winner().map(|w| w.id.as_str());
    let rows: Vec<(bool, Vec<Cell>)> = ranking
        .iter()
        .take(BOARD_ROWS)
        .enumerate()
        .map(|(rank, s)| {
            let c = &s.candidate;
            let mut row = vec![
                number((rank + 1).to_string()),
                text(parent_name(&c.id)),
                text(origin_name(&c.origin)),
                number(unit.with_error(c.fitness, c.stderr)),
            ];
            row.extend((0..tasks.len()).map(|i| {
                number(
                    c.tasks
                        .get(i)
                        .map_or_else(String::new, |t| run.task_unit(&t.task, &t.lang).score(&t.score)),
                )
            }));
            row.push(number(count(c.n as u64)));
            row.push(number(if c.cached {
                "cached".into()
            } else {
                short_duration(c.merge_ms)
            }));
            row.push(number(if c.cached {
                String::new()
            } else {
                short_duration(c.evaluation_ms)
            }));
            (Some(c.id.as_str()) == best, row)
        })
        .collect();
    let note = format!(
        "The first {} of {}; all of them are in results.csv.",
        rows.len(),
        counted(ranking.len(), "candidate")
    );
    format!(
        "<h2>On the search's questions</h2>\n{}<p class=chips>{}</p>\n",
        table(&header, &rows),
        escape(&note)
    )
}

/// What a reader needs to judge or repeat the run.
fn facts(run: &Run, dir: &str) -> String {
    let Some(started) = &run.started else {
        return String::new();
    };
    let mut rows: Vec<(bool, Vec<Cell>)> = Vec::new();
    let mut fact = |name: &str, value: String| rows.push((false, vec![text(name), text(value)]));
    let began = jiff::Timestamp::from_millisecond(run.started_ms as i64);
    if let Ok(began) = began {
        fact("began", began.strftime("%Y-%m-%d %H:%M UTC").to_string());
    }
    if run.winner().is_some_and(|winner| winner.recipe.get("genes").is_none()) {
        fact(
            "to have the child",
            format!("heterosis export {} best OUT", shell_word(dir)),
        );
    }
    for m in &started.models {
        let base = if m.is_base { " (base)" } else { "" };
        fact(
            &format!("model {}{base}", m.name),
            format!("{} · {}", m.model, short(&m.digest)),
        );
    }
    for t in &started.tasks {
        let mut detail = format!(
            "{} · {} · weight {} · {} · {}",
            t.split,
            counted(t.n, "question"),
            // Four digits of a scaled one.
            (t.weight * 1e4).round() / 1e4,
            t.metric,
            short(&t.digest)
        );
        if !t.description.is_empty() {
            let _ = write!(detail, "\n{}", t.description);
        }
        fact(&format!("task {}", task_name(&t.task, &t.lang)), detail);
    }
    if let Some(reading) = &run.reading {
        let tasks: Vec<String> = reading
            .best
            .tasks
            .iter()
            .map(|t| format!("{} ({})", task_of(t), count(t.score.n as u64)))
            .collect();
        fact(
            Freshness::of(run).test_word(),
            format!("{}: {}", reading.split, tasks.join(", ")),
        );
    }
    if run.mixes_kinds() {
        fact("weights", MIXED_KINDS.into());
    } else if run.is_scaled {
        fact(
            "weights",
            "divided by the standard errors of the first model's scores".into(),
        );
    }
    fact(
        "optimizer",
        match started.population {
            0 => format!("{}, {} genes", started.optimizer, started.genes.len()),
            n => format!("{}, population {n}, {} genes", started.optimizer, started.genes.len()),
        },
    );
    if let Some(advised) = run.advice.in_words() {
        fact("advice", advised);
    }
    if let Some(compared) = &run.questions {
        let told = [Some(compared.in_words()), compared.warning()];
        fact("questions", told.into_iter().flatten().collect::<Vec<_>>().join("; "));
    }
    fact("budget", budget(started));
    fact("seed", started.seed.to_string());
    fact("search space", short(&started.space_digest));
    fact(
        "engine",
        match (started.engine.is_empty(), started.instruction_set.as_str()) {
            (false, _) => format!(
                "{}, asked by heterosis {}",
                started.answered_by(),
                started.engine_version
            ),
            (true, isa) => format!(
                "heterosis {} on {} in {}{}{isa}",
                started.engine_version,
                started.device,
                started.dtype,
                if isa.is_empty() { "" } else { ", " }
            ),
        },
    );
    if !started.machine.is_empty() {
        fact("machine", started.machine.clone());
    }
    if run.resumes > 0 {
        fact("resumed", counted(run.resumes, "time"));
    }
    if !run.failed.is_empty() {
        fact("failed candidates", count(run.failed.len() as u64));
    }
    let mut out = format!(
        "<h2>The run</h2>\n<div class=facts>{}</div>",
        table(&[text(""), text("")], &rows)
    );
    let warnings: Vec<String> = run
        .log
        .iter()
        .filter(|l| l.level >= Level::Warning)
        .map(|l| format!("<li>{}</li>", escape(&l.message)))
        .collect();
    if !warnings.is_empty() {
        let _ = writeln!(
            out,
            "<details><summary>{}</summary><ul>{}</ul></details>",
            counted(warnings.len(), "warning"),
            warnings.concat()
        );
    }
    out
}

fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_told_in_round_numbers() {
        assert!(chance(0.0031).ends_with("once in about 300 tries"));
        assert!(chance(0.02).ends_with("once in about 50 tries"));
        assert!(chance(1e-9).ends_with("once in a million tries"));
        assert!(chance(0.0).ends_with("once in a million tries"));
        assert!(chance(0.4).ends_with("often enough"));
    }
}
