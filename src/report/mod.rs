//! The morning report and the model card, rebuilt from the journal alone.
//!
//! Pure functions from a run, as its records tell it, to text; writing files is the caller's. The page needs no network: its pictures are inline.

pub mod card;
pub mod license;
mod page;
mod pictures;
mod svg;
mod table;

use crate::event::run::Run;

/// Everything that belongs into `report/` of a run directory.
pub struct Report {
    /// `report.html`, self-contained.
    pub html: String,
    /// File name and SVG of each picture.
    pub pictures: Vec<(&'static str, String)>,
    /// `results.csv`: a row for each candidate.
    pub results_csv: String,
}

/// The report of a run as its journal tells it; also of one that goes on or was stopped. `dir` is what the run's directory is
/// called in commands.
pub fn of(run: &Run, dir: &str) -> Report {
    let pictures = pictures::all(run);
    Report {
        html: page::html(run, dir, &pictures),
        pictures: pictures.iter().map(|p| (p.file, p.svg.standalone())).collect(),
        results_csv: table::csv(run),
    }
}

/// File name and text of everything in `report/`.
pub fn files(run: &Run, dir: &str) -> Vec<(String, String)> {
    let report = of(run, dir);
    let pictures = report.pictures.into_iter().map(|(file, svg)| (file.to_owned(), svg));
    let rest = [
        ("report.html".to_owned(), report.html),
        ("results.csv".to_owned(), report.results_csv),
    ];
    rest.into_iter().chain(pictures).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Record, rehearsal};

    fn of_records(records: &[Record]) -> Run {
        Run::from_records(records)
    }

    #[test]
    fn the_report_of_a_whole_night() {
        let report = of(&of_records(&rehearsal::journal()), "runs/night");
        let files: Vec<&str> = report.pictures.iter().map(|p| p.0).collect();
        let all = [
            "contest.svg",
            "tasks.svg",
            "convergence.svg",
            "convergence-time.svg",
            "luck.svg",
            "pareto.svg",
            "weights.svg",
        ];
        assert_eq!(files, all);
        if let Some(directory) = std::env::var_os("HETEROSIS_WRITE_REPORT") {
            for (name, text) in super::files(&of_records(&rehearsal::journal()), "runs/night") {
                std::fs::write(std::path::Path::new(&directory).join(name), text).unwrap();
            }
        }
        for outside in ["http://", "https://", "<script", "@import", "url("] {
            assert!(!report.html.contains(outside), "the page reaches outside: {outside}");
        }
        insta::assert_snapshot!("opening", page::opening(&of_records(&rehearsal::journal())));
    }

    #[test]
    fn what_was_forgotten_stands_on_the_page_and_in_the_table() {
        let report = of(&of_records(&rehearsal::held_out()), "runs/night");
        assert!(report.html.contains("<h2>What the search never asked</h2>"));
        assert!(
            report.html.contains("30.0 ± 3.2 % (75 ± 10 % of the base)"),
            "{}",
            report.html
        );
        let header: Vec<&str> = report.results_csv.lines().next().unwrap().split(',').collect();
        let column = header.iter().position(|h| *h == "words-fr held out ÷ base").unwrap();
        let run = of_records(&rehearsal::held_out());
        let winner = format!(",{},", run.winner().unwrap().id);
        let row = report.results_csv.lines().find(|l| l.contains(&winner)).unwrap();
        let ratio: f64 = row.split(',').nth(column).unwrap().parse().unwrap();
        assert!((ratio - 0.75).abs() < 1e-12);
        assert!(header.contains(&"arith-es ÷ best expert"));
    }

    #[test]
    fn a_run_without_anything_still_has_a_report() {
        for records in [
            Vec::new(),
            rehearsal::journal()[..1].to_vec(),
            rehearsal::journal()[..7].to_vec(),
        ] {
            let report = of(&of_records(&records), "runs/night");
            assert!(report.html.contains("</html>"));
            assert!(report.results_csv.starts_with("rank,id,"));
        }
    }

    #[test]
    fn a_stopped_run_says_what_it_does_not_know() {
        let run = of_records(&rehearsal::stopped());
        insta::assert_snapshot!("opening-stopped", page::opening(&run));
    }

    #[test]
    fn a_run_that_lost_says_so() {
        let mut records = rehearsal::journal();
        for record in &mut records {
            if let Event::TestRead(reading) = &mut record.event {
                reading.difference = -0.012;
                reading.p_value = 0.4;
            }
        }
        let opening = page::opening(&of_records(&records));
        assert!(opening.contains("is no better than"), "{opening}");
    }

    #[test]
    fn what_a_model_wrote_is_only_text() {
        let mut records = rehearsal::journal();
        for record in &mut records {
            if let Event::Answers(answers) = &mut record.event {
                answers
                    .answers
                    .iter_mut()
                    .for_each(|a| a.out = "<script>alert(1)</script>".into());
            }
            if let Event::QuestionTexts(texts) = &mut record.event {
                let odd = "How many <script>boxes</script>?\u{1b}[2J";
                texts.texts.values_mut().for_each(|text| *text = odd.into());
            }
        }
        let html = of(&of_records(&records), "runs/night").html;
        assert!(!html.contains("<script"));
        assert!(html.contains("&lt;script&gt;"));
        assert!(
            html.contains("<h4>How many &lt;script&gt;boxes&lt;/script&gt;?[2J</h4>"),
            "{html}"
        );
    }

    /// The ids of questions were all that a reader saw of them.
    #[test]
    fn flips_say_what_was_asked_and_what_is_right() {
        let html = of(&of_records(&rehearsal::journal()), "runs/night").html;
        assert!(html.contains("apples. How many are in"), "{html}");
        assert!(html.contains("the right answer is "));
        // A journal of an older build says the ids.
        let mut records = rehearsal::journal();
        records.retain(|record| !matches!(record.event, Event::QuestionTexts(_)));
        assert!(of(&of_records(&records), "runs/night").html.contains("<h4>arith-e"));
    }

    /// `-1.867 ± 0.07|`: labels of log-likelihoods, and names of tasks and models, went over the picture's edge.
    #[test]
    fn labels_stay_inside_of_their_pictures() {
        let mut records = rehearsal::stopped();
        for record in &mut records {
            if let Event::RunStarted(started) = &mut record.event {
                started.models[1].name = "owner-of-many-models-mistral-ft-optimized-1218".into();
            }
            if let Event::CandidateScored(candidate) = &mut record.event
                && candidate.id == "parent-maths"
            {
                candidate.id = "parent-owner-of-many-models-mistral-ft-optimized-1218".into();
            }
        }
        let report = of(&of_records(&records), "runs/night");
        let mut seen = 0;
        for (file, svg) in report.pictures {
            for text in svg.split("<text ").skip(1) {
                let at = text.split('"').nth(1).and_then(|x| x.parse::<f64>().ok()).unwrap();
                let words = text.split('>').nth(1).unwrap().split('<').next().unwrap();
                let size = svg::width(&words.replace("&#39;", "'"));
                let (from, to) = match text.split("text-anchor=\"").nth(1).unwrap().split('"').next().unwrap() {
                    "start" => (at, at + size),
                    "end" => (at - size, at),
                    _ => (at - size / 2.0, at + size / 2.0),
                };
                assert!(from >= -1.0 && to <= 861.0, "{file}: {words} from {from} to {to}");
                seen += 1;
            }
        }
        assert!(seen > 20);
    }

    #[test]
    fn every_svg_is_well_formed_enough_to_stand_alone() {
        for (file, svg) in of(&of_records(&rehearsal::journal()), "runs/night").pictures {
            assert!(svg.starts_with("<svg xmlns="), "{file}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{file}");
            for tag in ["svg", "text", "title", "circle"] {
                let (open, close) = (
                    svg.matches(&format!("<{tag}")).count(),
                    svg.matches(&format!("</{tag}>")).count(),
                );
                assert_eq!(open, close, "{file}: {tag}");
            }
        }
    }
}
