//! Committed journals replayed into a test terminal: what each screen says, what keys do, and that no size panics.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::model::{Page, Tab};
use super::{Action, Appearance, Message, Model, draw, plain, update};
use crate::event::{Event, Level, Origin, Phase, Record, rehearsal, run::Run};

fn path_of(name: &str) -> String {
    format!("{}/tests/data/dashboard/{name}.jsonl", env!("CARGO_MANIFEST_DIR"))
}

fn committed(name: &str) -> Vec<Record> {
    let text = std::fs::read_to_string(path_of(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn model_of(records: impl IntoIterator<Item = Record>) -> Model {
    let mut model = Model::new(Appearance::default(), rehearsal::START_MS);
    for record in records {
        update(&mut model, Message::Event(record));
    }
    model
}

/// The night as it stands while candidate `c0043` is decoded.
fn midway() -> Model {
    ticked(half_a_night())
}

fn half_a_night() -> Vec<Record> {
    let mut records = Vec::new();
    for record in rehearsal::night() {
        let seen = matches!(&record.event, Event::Progress(p) if p.id == "c0043" && p.answered >= 90);
        records.push(record);
        if seen {
            break;
        }
    }
    records
}

/// Two seconds after the last record.
fn ticked(records: Vec<Record>) -> Model {
    let mut model = model_of(records);
    let now_ms = model.now_ms + 2000;
    update(&mut model, Message::Tick { now_ms });
    model
}

/// The same half of the night as a race: three of four leave early.
fn raced() -> Model {
    let mut records = half_a_night();
    for (i, record) in records.iter_mut().enumerate() {
        match &mut record.event {
            Event::GenerationEnded(g) => (g.block, g.tau, g.split_half) = (Some(96), Some(0.71), Some(0.34)),
            Event::CandidateScored(c) if c.origin == Origin::Search && i % 4 != 0 => (c.eliminated, c.n) = (true, 24),
            _ => {}
        }
    }
    ticked(records)
}

/// The same half of the night with workers elsewhere: one at work, one that waits, and one that was lost.
fn with_workers() -> Model {
    let mut records = half_a_night();
    let last = records.last().cloned().unwrap();
    let worker = |name: &str, more: &str| {
        let text = format!(
            r#"{{"event": "worker", "worker": "{name}", "host": "node-{name}", "device": "cuda:0", "dtype": "bf16",
                "instruction_set": "avx512", "answers": 1200, "busy_ms": 970000, "here_ms": 1000000, {more}}}"#
        );
        serde_json::from_str::<Event>(&text).unwrap()
    };
    let doing = r#""state": "working", "doing": {"id": "c0043", "stage": "decode", "answered": 90, "questions": 250,
        "tokens": 5000, "tokens_per_s": 810.0}"#;
    for event in [
        worker("a", doing),
        worker("b", r#""state": "idle""#),
        worker("c", r#""state": "lost", "reason": "nothing is heard of it""#),
    ] {
        records.push(Record { event, ..last.clone() });
    }
    ticked(records)
}

#[test]
fn workers_elsewhere_stand_on_the_engines_page_and_in_the_log() {
    let mut model = with_workers();
    press(&mut model, "5");
    let screen = screen(&model, 100, 30);
    for says in [
        "2 workers",
        "1 at work",
        "node-a cuda:0",
        "c0043 decode",
        "90/250",
        "810 tok/s",
        "waits",
        "busy 97 %",
    ] {
        assert!(screen.contains(says), "'{says}' is not in:\n{screen}");
    }
    assert!(
        !screen.contains("node-c cuda:0"),
        "whoever is lost stands in the log only"
    );
    let mut lines = plain::PlainLines::new(0);
    let said: Vec<String> = [
        model.run.workers[0].clone(),
        model.run.workers[2].clone(),
        model.run.workers[0].clone(),
    ]
    .into_iter()
    .filter_map(|seen| {
        lines.line(&Record {
            schema_version: 1,
            seq: 0,
            time_ms: seen.time_ms,
            event: Event::Worker(seen.worker),
        })
    })
    .collect();
    assert_eq!(said.len(), 2, "what goes on is worth no line: {said:?}");
    assert!(
        said[0].ends_with("worker a (node-a, cuda:0 bf16) has come") && said[1].contains("warning: worker c"),
        "{said:?}"
    );
}

fn done() -> Model {
    model_of(committed("night"))
}

/// The night's final while its third finalist answers.
fn in_the_final() -> Model {
    let record = |event: Event, after: &Record| Record {
        time_ms: after.time_ms + 1000,
        event,
        ..after.clone()
    };
    let mut records = rehearsal::night();
    let at = records
        .iter()
        .position(|r| {
            matches!(
                r.event,
                Event::PhaseStarted {
                    phase: Phase::Selection
                }
            )
        })
        .unwrap();
    records.truncate(at + 1);
    let plan = serde_json::json!({"event": "final_planned", "finalists": 3, "selection": {"limit": 400, "questions": 400},
        "test": {"limit": 2000, "questions": 1000}, "held_out": 0});
    let started = serde_json::json!({"event": "exam_started", "phase": "selection", "questions": 400,
        "examinees": ["linear", "c0040", "c0041", "parent-maths"]});
    let answered = |id: &str| {
        serde_json::json!({"event": "exam_answered", "phase": "selection", "id": id,
            "score": {"value": 0.523, "stderr": 0.025, "n": 400}})
    };
    let progress = serde_json::json!({"event": "progress", "id": "c0041", "stage": "decode", "answered": 240,
        "questions": 400, "tokens": 9000, "tokens_per_s": 900.0});
    for event in [plan, started, answered("linear"), answered("c0040"), progress] {
        let last = records.last().unwrap();
        records.push(record(serde_json::from_value(event).unwrap(), last));
    }
    model_of(records)
}

/// A final of whole splits ran for an hour, and the screen said "search over, final runs" and "Not decided yet".
#[test]
fn the_final_shows_who_has_answered_how_much() {
    let mut model = in_the_final();
    for (columns, rows) in [(80, 24), (120, 40)] {
        let overview = screen(&model, columns, rows);
        assert!(overview.contains("selecting 3 of 4"), "{overview}");
        assert!(overview.contains("final ends in"), "{overview}");
        // Two of four have answered, and one of them 240 of 400.
        assert!(overview.contains("65%"), "{overview}");
    }
    press(&mut model, "7");
    let result = screen(&model, 80, 24);
    let row = |id: &str| {
        result
            .lines()
            .rev()
            .find(|l| l.contains(id))
            .unwrap_or_default()
            .to_string()
    };
    assert!(
        result.contains("selection: finalist 3 of 4 · 400 questions each"),
        "{result}"
    );
    assert!(row("c0040").contains("400  52.3"), "{result}");
    assert!(row("c0041").contains("240") && row("c0041").contains('█'), "{result}");
    assert!(
        row(" maths ").contains("  0") && !row(" maths ").contains('█'),
        "{result}"
    );

    let log: Vec<&str> = model.log.lines.iter().map(|l| l.message.as_str()).collect();
    assert!(
        log.iter()
            .any(|l| l.starts_with("4 finalists to answer 400 questions each; the final ends in about")),
        "{log:?}"
    );
    assert!(log.contains(&"finalist 2 of 4: c0040 52.3 ± 2.5 %"), "{log:?}");
}

/// What counts is by how much the best child leads what nobody searched for; the header had only the best parent.
#[test]
fn the_header_tells_the_lead_over_the_best_unsearched_merge() {
    let model = midway();
    let unsearched = model.run.best_unsearched().unwrap().id.clone();
    let header = screen(&model, 120, 40).lines().take(4).collect::<String>();
    assert!(
        header.contains(&format!("over {unsearched}")) || header.contains(&format!("against {unsearched}")),
        "{header}"
    );
}

fn press(model: &mut Model, keys: &str) -> Vec<Action> {
    keys.chars().filter_map(|c| key(model, KeyCode::Char(c))).collect()
}

fn key(model: &mut Model, code: KeyCode) -> Option<Action> {
    update(model, Message::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn ctrl_c(model: &mut Model) -> Option<Action> {
    update(
        model,
        Message::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)),
    )
}

fn drawn(model: &Model, columns: u16, rows: u16) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw(model, frame)).unwrap();
    terminal.backend().clone()
}

fn screen(model: &Model, columns: u16, rows: u16) -> String {
    drawn(model, columns, rows).to_string()
}

macro_rules! snapshot {
    ($name:literal, $model:expr) => {
        insta::assert_snapshot!(concat!($name, "-80x24"), screen($model, 80, 24));
        insta::assert_snapshot!(concat!($name, "-120x40"), screen($model, 120, 40));
        insta::assert_snapshot!(concat!($name, "-200x60"), screen($model, 200, 60));
    };
}

#[test]
fn overview_of_a_running_search() {
    let model = midway();
    snapshot!("overview", &model);
}

#[test]
fn before_the_first_record_and_the_first_child() {
    snapshot!("waiting", &model_of([]));
    snapshot!("parents", &model_of(committed("night").into_iter().take(8)));
}

#[test]
fn each_page_of_a_running_search() {
    let mut model = midway();
    press(&mut model, "2x");
    snapshot!("chart", &model);
    press(&mut model, "4");
    snapshot!("pareto", &model);
    press(&mut model, "5");
    snapshot!("engine", &model);
    press(&mut model, "6");
    snapshot!("log", &model);
}

#[test]
fn a_race_shows_who_left_and_how_far_it_can_be_trusted() {
    let mut model = raced();
    snapshot!("race", &model);
    press(&mut model, "3");
    snapshot!("race-board", &model);
    press(&mut model, "5");
    snapshot!("race-engine", &model);
    assert!(screen(&model, 80, 24).contains("0.71"));
}

#[test]
fn the_result() {
    snapshot!("result", &done());
}

/// The star stayed with the luckiest of the search when fresh questions had chosen another one.
#[test]
fn whoever_has_won_has_the_star() {
    let mut records = rehearsal::night();
    let luckiest = Run::from_records(&records).best().unwrap().candidate.id.clone();
    let mut winner = String::new();
    for record in &mut records {
        if let Event::Selected(selection) = &mut record.event {
            let others = selection.finalists.iter().filter(|f| f.origin == Origin::Search);
            winner = others.map(|f| f.id.clone()).find(|id| *id != luckiest).unwrap();
            selection.best.clone_from(&winner);
        }
    }
    let selected = records
        .iter()
        .position(|r| matches!(r.event, Event::Selected(_)))
        .unwrap();
    let has_star = |model: &mut Model| {
        press(model, "3");
        let screen = screen(model, 120, 60);
        let starred = screen.lines().filter(|line| line.contains('★'));
        starred.map(str::to_owned).collect::<Vec<_>>()
    };
    for (known, leader) in [(selected, &luckiest), (records.len(), &winner)] {
        let starred = has_star(&mut ticked(records[..known].to_vec()));
        assert!(
            starred.len() == 1 && starred[0].contains(leader.as_str()),
            "{leader}: {starred:?}"
        );
    }
}

#[test]
fn a_candidate_from_all_sides() {
    let mut model = done();
    press(&mut model, "3");
    key(&mut model, KeyCode::Enter);
    for name in ["recipe", "weights", "tasks", "flips"] {
        insta::assert_snapshot!(format!("candidate-{name}-80x24"), screen(&model, 80, 24));
        insta::assert_snapshot!(format!("candidate-{name}-120x40"), screen(&model, 120, 40));
        insta::assert_snapshot!(format!("candidate-{name}-200x60"), screen(&model, 200, 60));
        key(&mut model, KeyCode::Tab);
    }
    assert_eq!(model.detail.as_ref().unwrap().tab, Tab::Recipe, "the tabs go round");
    key(&mut model, KeyCode::Esc);
    assert!(model.detail.is_none());
}

#[test]
fn a_stopped_run_on_log_likelihood() {
    let mut model = model_of(committed("stopped"));
    snapshot!("stopped", &model);
    press(&mut model, "7");
    snapshot!("stopped-result", &model);
}

#[test]
fn overlays() {
    let mut model = midway();
    press(&mut model, "?");
    snapshot!("help", &model);
    press(&mut model, "?S");
    snapshot!("confirm", &model);
}

#[test]
fn in_ascii_without_colour() {
    let mut model = midway();
    model.appearance = Appearance {
        color: false,
        unicode: false,
        ..Appearance::default()
    };
    let text = screen(&model, 80, 24);
    assert!(text.is_ascii(), "{text}");
    insta::assert_snapshot!("ascii-80x24", text);
}

#[test]
fn plain_lines_and_the_last_words() {
    let mut lines = plain::PlainLines::new(3600);
    let text: Vec<String> = committed("night").iter().filter_map(|r| lines.line(r)).collect();
    let mut told = text[..14].to_vec();
    told.push("…".into());
    told.extend_from_slice(&text[text.len() - 6..]);
    told.push(String::new());
    told.push(plain::summary(lines.run(), "runs/night"));
    insta::assert_snapshot!("plain", told.join("\n"));
    let mut lines = plain::PlainLines::new(0);
    committed("stopped").iter().for_each(|r| drop(lines.line(r)));
    insta::assert_snapshot!("plain-stopped", plain::summary(lines.run(), "runs/es"));
}

/// Every page, tab and overlay at every size from nothing upwards.
#[test]
fn no_size_panics() {
    let sizes = [
        (1, 1),
        (20, 5),
        (0, 0),
        (29, 8),
        (30, 8),
        (40, 10),
        (79, 23),
        (100, 26),
        (160, 40),
        (200, 60),
        (3, 80),
        (300, 2),
    ];
    for mut model in [midway(), done(), model_of([]), model_of(committed("stopped"))] {
        for page in Page::ALL {
            model.page = page;
            for (columns, rows) in sizes {
                drawn(&model, columns, rows);
            }
        }
        press(&mut model, "1");
        key(&mut model, KeyCode::Enter);
        for _ in Tab::ALL {
            for (columns, rows) in sizes {
                drawn(&model, columns, rows);
            }
            key(&mut model, KeyCode::Tab);
        }
        press(&mut model, "?");
        for (columns, rows) in sizes {
            drawn(&model, columns, rows);
        }
    }
}

#[test]
fn a_resize_storm_among_records_and_keys() {
    let mut model = model_of([]);
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let keys: Vec<char> = "1234567jkgGsx?xn".chars().collect();
    for (i, record) in rehearsal::night().into_iter().enumerate() {
        update(&mut model, Message::Event(record));
        press(&mut model, &keys[i % keys.len()].to_string());
        if i % 5 == 0 {
            update(&mut model, Message::Resize);
            terminal
                .backend_mut()
                .resize((i * 37 % 201) as u16, (i * 13 % 61) as u16);
            terminal.draw(|frame| draw(&model, frame)).unwrap();
        }
    }
}

#[test]
fn wide_characters_stay_in_their_columns() {
    let mut records = committed("night");
    for record in &mut records {
        match &mut record.event {
            Event::RunStarted(started) => started.name = "二言語の算数 🧬".into(),
            Event::Answers(answers) => {
                answers
                    .answers
                    .iter_mut()
                    .for_each(|a| a.out = "答えは\u{1b}[2J 42 です。👩‍🔬 ".repeat(9));
            }
            _ => {}
        }
    }
    let mut model = model_of(records);
    key(&mut model, KeyCode::Enter);
    press(&mut model, "4");
    let text = screen(&model, 80, 24);
    assert!(!text.contains('\u{1b}'), "a model's escape sequence reached the screen");
    insta::assert_snapshot!("wide-80x24", text);
}

#[test]
fn leaving_never_stops_and_stopping_asks() {
    let mut model = midway();
    assert_eq!(press(&mut model, "q"), [Action::CloseView]);
    assert_eq!(press(&mut model, "S"), []);
    assert_eq!(press(&mut model, "j"), [], "another key does not answer the question");
    assert!(model.overlay.is_some());
    assert_eq!(press(&mut model, "n"), []);
    assert!(model.overlay.is_none() && !model.stopping);
    assert_eq!(press(&mut model, "Sy"), [Action::RequestStop]);
    assert!(screen(&model, 80, 24).contains("stopping"));
    assert_eq!(ctrl_c(&mut model), Some(Action::Abort), "a stop is under way already");
}

/// On a small screen most of the test's rows could not be seen by any key.
#[test]
fn all_of_the_result_can_be_seen() {
    let mut model = done();
    press(&mut model, "7");
    let top = screen(&model, 80, 24);
    assert!(top.contains("lines more"), "{top}");
    press(&mut model, "G");
    let bottom = screen(&model, 80, 24);
    assert!(bottom.contains("end · k: up") && bottom != top, "{bottom}");
    press(&mut model, "g");
    assert_eq!(screen(&model, 80, 24), top);
}

#[test]
fn the_first_ctrl_c_drains_and_the_second_aborts() {
    let mut model = midway();
    press(&mut model, "?");
    assert_eq!(ctrl_c(&mut model), Some(Action::RequestStop));
    assert_eq!(ctrl_c(&mut model), Some(Action::Abort));
    let mut model = done();
    assert_eq!(ctrl_c(&mut model), Some(Action::CloseView));
    // Whoever only watched stopped somebody's search with it.
    let mut model = midway();
    model.looks_on = true;
    assert_eq!(ctrl_c(&mut model), Some(Action::CloseView));
    assert!(!model.stopping);
    assert_eq!(press(&mut model, "Sp"), [], "nothing to stop or pause");
}

#[test]
fn pause_goes_both_ways_and_export_names_its_candidate() {
    let mut model = midway();
    assert_eq!(press(&mut model, "pp"), [Action::RequestPause, Action::RequestResume]);
    let best = model.run.best().unwrap().candidate.id.clone();
    assert_eq!(press(&mut model, "e"), [Action::RequestExport { id: best }]);
    press(&mut model, "jj");
    key(&mut model, KeyCode::Enter);
    let open = model.detail.clone().unwrap().id;
    assert_eq!(press(&mut model, "e"), [Action::RequestExport { id: open }]);
    assert_eq!(press(&mut model_of([]), "e"), []);
}

#[test]
fn the_chosen_row_stays_with_its_candidate() {
    let records = committed("night");
    let mut model = model_of(records[..40].to_vec());
    press(&mut model, "3jj");
    let chosen = model.board.chosen.clone().unwrap();
    for record in &records[40..] {
        update(&mut model, Message::Event(record.clone()));
    }
    assert_eq!(model.board.chosen, Some(chosen));
    press(&mut model, "3G");
    let rows = model.rows();
    assert_eq!(model.chosen_row(&rows), rows.len() - 1);
    press(&mut model, "g");
    assert_eq!(model.board.chosen, None, "the first row follows the best");
}

#[test]
fn filters_and_orders() {
    let mut model = midway();
    press(&mut model, "3/parentq");
    assert_eq!(model.rows().len(), 0, "`q` is part of the filter while one types");
    key(&mut model, KeyCode::Backspace);
    key(&mut model, KeyCode::Enter);
    assert_eq!(model.rows().len(), 3);
    key(&mut model, KeyCode::Esc);
    let all = model.rows().len();
    assert!(all > 40);
    press(&mut model, "sss");
    let rows = model.rows();
    assert!(
        rows.windows(2).all(|pair| pair[0].1.time_ms >= pair[1].1.time_ms),
        "by age"
    );
    press(&mut model, "6v");
    assert_eq!(model.log_lines().iter().filter(|l| l.level == Level::Info).count(), 0);
    press(&mut model, "/collapsed");
    assert_eq!(model.log_lines().len(), 1);
}

#[test]
fn the_log_keeps_its_place_while_lines_arrive() {
    let records = committed("night");
    let mut model = model_of(records[..60].to_vec());
    press(&mut model, "6kkk");
    assert_eq!(model.log.back, 3);
    let lines = model.log.lines.len();
    model = records[60..70].iter().fold(model, |mut model, record| {
        update(&mut model, Message::Event(record.clone()));
        model
    });
    assert_eq!(model.log.back, 3 + model.log.lines.len() - lines);
    press(&mut model, "G");
    assert_eq!(model.log.back, 0);
}

#[test]
fn flips_change_sides_and_opponents() {
    let mut model = done();
    key(&mut model, KeyCode::Enter);
    press(&mut model, "4");
    let count = |model: &Model| model.listed_flips(model.detail.as_ref().unwrap()).len();
    let lost = count(&model);
    press(&mut model, "f");
    assert!(count(&model) > lost, "the winner gains more than it loses");
    press(&mut model, "G");
    assert_eq!(model.detail.as_ref().unwrap().at, count(&model) - 1);
    press(&mut model, "]");
    assert_eq!(model.detail.as_ref().unwrap().at, 0);
    press(&mut model, "[[");
    assert_eq!(model.detail.as_ref().unwrap().against, model.opponents().len() - 1);
}

#[test]
fn only_what_can_be_seen_draws_again() {
    let mut model = midway();
    model.take_stale();
    let now_ms = model.now_ms;
    update(&mut model, Message::Tick { now_ms });
    assert!(!model.take_stale(), "no second has passed");
    update(&mut model, Message::Tick { now_ms: now_ms + 1000 });
    assert!(model.take_stale());
    let mut model = done();
    model.take_stale();
    update(
        &mut model,
        Message::Tick {
            now_ms: now_ms + 99_000_000,
        },
    );
    assert!(!model.take_stale(), "a run that is over stands still");
    update(&mut model, Message::FeedEnded);
    assert!(model.take_stale());
    update(&mut model, Message::FeedEnded);
    assert!(!model.take_stale());
}

#[test]
fn a_resumed_run_does_not_count_the_night_off() {
    let mut records = committed("stopped");
    let before = crate::event::run::Run::from_records(&records);
    let last = records[records.len() - 1].clone();
    let hours = 7 * 3_600_000;
    records.push(Record {
        time_ms: last.time_ms + hours,
        event: Event::RunResumed {
            engine_version: "0.1.0".into(),
            engine_build: String::new(),
            instruction_set: String::new(),
        },
        ..last.clone()
    });
    let model = model_of(records);
    assert_eq!(model.run.elapsed(last.time_ms + hours), before.elapsed(0));
    assert!(!model.is_over());
}

/// A command that was not there stood on the screen six times: a warning for each of three candidates, a failure for each, and
/// the end of the run.
#[test]
fn a_reason_for_failures_stands_once_on_the_screen_with_a_count() {
    let mut records = half_a_night();
    let last = records.last().cloned().unwrap();
    let reason = "the command ended before it answered (exit status: 1): ImportError: no module named lm_eval";
    let fault = crate::event::words::WHOSE_FAULT;
    let noted = |id: &str| serde_json::json!({"event": "log", "level": "warning", "message": format!("{id}: {reason}; {fault}")});
    let failed = serde_json::json!({"event": "run_failed",
        "reason": format!("3 candidates in a row failed, c0046 the last of them: {reason}. Mend it.")});
    for event in [noted("c0044"), noted("c0045"), noted("c0046")] {
        let event = serde_json::from_value(event).unwrap();
        records.push(Record { event, ..last.clone() });
    }
    let model = ticked(records.clone());
    let said = |model: &Model| {
        let lines = model.log.lines.iter().filter(|l| l.message.contains("lm_eval"));
        lines.map(|l| l.message.clone()).collect::<Vec<_>>()
    };
    assert_eq!(said(&model).len(), 1, "{:?}", said(&model));
    assert!(said(&model)[0].starts_with("c0046: ") && said(&model)[0].ends_with("(3 by now)"));
    records.push(Record {
        event: serde_json::from_value(failed).unwrap(),
        ..last
    });
    let mut model = ticked(records.clone());
    assert_eq!(said(&model).len(), 1, "{:?}", said(&model));
    assert!(said(&model)[0].starts_with("the run failed"));
    for page in ["1", "6", "7"] {
        press(&mut model, page);
        let screen = screen(&model, 200, 50);
        let times = screen.matches("ImportError").count();
        assert!(
            times <= 1 && (page == "1" || times == 1),
            "{times} times on {page}:\n{screen}"
        );
    }
    let mut lines = plain::PlainLines::new(0);
    let told: Vec<String> = records.iter().filter_map(|r| lines.line(r)).collect();
    let times = told.iter().filter(|line| line.contains("ImportError")).count();
    assert_eq!(times, 1, "{told:?}");
    assert!(told.last().unwrap().contains("for the reason told above"), "{told:?}");
}

/// At 60×15 the last third of the help, how to stop and how to leave, could not be read.
#[test]
fn the_help_can_be_read_to_its_end_on_a_low_screen() {
    let mut model = midway();
    press(&mut model, "?");
    let mut seen = screen(&model, 60, 15);
    assert!(seen.contains("lines more · j: down"), "{seen}");
    for _ in 0..30 {
        press(&mut model, "j");
        seen += &screen(&model, 60, 15);
    }
    for says in [
        "q           give the shell back",
        "95 % intervals",
        "Ctrl-C",
        "abort at once",
    ] {
        assert!(seen.contains(says), "{says}: {}", screen(&model, 60, 15));
    }
    assert!(model.overlay.is_some(), "moving does not close it");
    press(&mut model, "?");
    assert!(model.overlay.is_none());
    press(&mut model, "?");
    assert!(
        screen(&model, 60, 15).contains("1–7  Tab"),
        "it begins at its beginning"
    );
}

/// At 80 columns nobody could know what a dash or a dotted line of the chart stood for.
#[test]
fn pictures_keep_their_legends_on_narrow_screens() {
    let mut model = midway();
    for (columns, rows) in [(60, 15), (80, 24), (120, 40), (200, 50)] {
        press(&mut model, "2");
        let chart = screen(&model, columns, rows);
        for says in [
            "━ best",
            "· candidate",
            "╌ parent",
            "┄ unsearched",
            "◆ mean",
            "░ middle half",
        ] {
            assert!(chart.contains(says), "{says} at {columns}x{rows}:\n{chart}");
        }
        press(&mut model, "4");
        let pareto = screen(&model, columns, rows);
        for says in ["● front", "· beaten", "◇ parent", "□ unsearched"] {
            assert!(pareto.contains(says), "{says} at {columns}x{rows}:\n{pareto}");
        }
    }
}

/// On 200×50 the board's page was two thirds empty, and beside the overview's half empty board the candidate was cut.
#[test]
fn wide_screens_show_the_candidate_in_full() {
    let mut model = midway();
    for page in ["1", "3"] {
        press(&mut model, page);
        let screen = screen(&model, 200, 50);
        for says in [
            "Enter opens it",
            "against maths",
            "merged in 0.8 s, answered in 29 s, 6,9",
        ] {
            assert!(screen.contains(says), "{says} on {page}:\n{screen}");
        }
        assert!(
            screen.contains("weight.spanish.g0.attn") || screen.contains("weight.maths.g3.attn"),
            "{screen}"
        );
    }
    let mut one_task = committed("stopped");
    one_task.truncate(20);
    let mut model = ticked(one_task);
    press(&mut model, "3");
    assert!(
        screen(&model, 140, 40).contains("Enter opens it"),
        "{}",
        screen(&model, 140, 40)
    );
}

/// The rehearsal writes the committed journals.
#[test]
fn the_committed_journals_still_read_and_are_what_the_rehearsal_writes() {
    for (name, records) in [("night", rehearsal::journal()), ("stopped", rehearsal::stopped())] {
        if std::env::var_os("HETEROSIS_WRITE_JOURNALS").is_some() {
            let lines = records
                .iter()
                .map(|record| serde_json::to_string(record).unwrap() + "\n");
            std::fs::write(path_of(name), lines.collect::<String>()).unwrap();
        }
        let read = committed(name);
        assert_eq!(read.len(), records.len(), "{name}");
        assert!(
            read == records,
            "{name}.jsonl is not what the rehearsal writes; set HETEROSIS_WRITE_JOURNALS=1 to write it"
        );
    }
}
