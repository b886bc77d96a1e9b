//! The invariants of `src/lib.rs`, checked on the source text: who may import whom, who prints, who reads the clock.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Crate below `crates/` → the project's crates that it may depend on.
const MAY_DEPEND: [(&str, &[&str]); 10] = [
    ("build-digest", &[]),
    ("checkpoint", &["build-digest", "isa"]),
    ("engine", &["build-digest", "isa", "unwind"]),
    ("eval", &["build-digest", "engine", "unwind", "yaml"]),
    ("isa", &["build-digest"]),
    ("journal", &["unwind"]),
    ("merge", &["build-digest", "isa", "yaml"]),
    ("optim", &[]),
    ("unwind", &[]),
    ("yaml", &[]),
];

/// Room of the application → rooms and crates that it may name.
const MAY_IMPORT: [(&str, &[&str]); 14] = [
    // What can be typed has the names of what there is.
    ("cli", &["isa"]),
    ("space", &["eval", "optim", "recipe", "yaml"]),
    ("simplify", &["recipe", "eval"]),
    ("dashboard", &["event"]),
    ("report", &["event", "recipe"]),
    ("tracking", &["event"]),
    ("learn", &["eval", "merge", "model", "models", "optim", "recipe"]),
    (
        "search",
        &[
            "learn",
            "isa",
            "optim",
            "space",
            "eval",
            "merge",
            "model",
            "models",
            "checkpoint",
            "store",
            "event",
            "recipe",
            "programs",
            "yaml",
        ],
    ),
    // Processes, and engines that decode: weights and tokens, whoever they are of.
    ("programs", &["checkpoint", "eval", "model"]),
    ("serve", &["model"]),
    ("host", &["checkpoint", "eval", "store"]),
    ("models", &["checkpoint", "merge", "model", "recipe", "yaml"]),
    // The application without its command line: everything but what prints and what shows.
    (
        "session",
        &[
            "checkpoint",
            "eval",
            "event",
            "host",
            "merge",
            "model",
            "models",
            "programs",
            "recipe",
            "report",
            "search",
            "serve",
            "simplify",
            "space",
            "store",
            "workers",
            "yaml",
        ],
    ),
    // Evaluators elsewhere: what a search asks of an evaluator, and what a worker opens to answer.
    (
        "workers",
        &[
            "checkpoint",
            "eval",
            "event",
            "model",
            "models",
            "programs",
            "recipe",
            "search",
            "space",
            "store",
            "yaml",
        ],
    ),
];

/// The file that tells everybody else what time it is, and what the environment says.
const HOST: &str = "host";

/// Files that only the unit tests compile.
const TEST_ONLY: [&str; 3] = ["tests.rs", "golden.rs", "testing.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Source files of the application and of the crates, with their room (`src/search/…` is "search", `crates/merge/…` is
/// "crates/merge") and their text up to the unit tests.
fn sources() -> Vec<(PathBuf, String, String)> {
    let mut files = sources_below(&root().join("src"), None);
    for (name, _) in MAY_DEPEND {
        let room = format!("crates/{name}");
        files.extend(sources_below(&root().join(&room).join("src"), Some(&room)));
    }
    assert!(files.len() > 150, "the sources are found");
    files
}

fn sources_below(src: &Path, room: Option<&str>) -> Vec<(PathBuf, String, String)> {
    let (mut files, mut dirs) = (Vec::new(), vec![src.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !TEST_ONLY.iter().any(|f| path.ends_with(f)) {
                let inside = path.strip_prefix(src).unwrap();
                let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
                let room = room.unwrap_or(first.trim_end_matches(".rs")).to_string();
                let text = fs::read_to_string(&path).unwrap();
                let code = text
                    .split("#[cfg(test)]\nmod tests {")
                    .next()
                    .unwrap_or_default()
                    .to_string();
                files.push((path, room, code));
            }
        }
    }
    files
}

/// Lines of code that hold a text, comments left out.
fn lines_with<'a>(code: &'a str, text: &'a str) -> impl Iterator<Item = &'a str> {
    code.lines()
        .filter(move |line| !line.trim_start().starts_with("//") && line.contains(text))
}

/// Rooms that follow `crate::` anywhere in the code, groups such as `crate::{a, b::c}` included.
fn imports(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let line_start = code[..at].rfind('\n').map_or(0, |i| i + 1);
        if code[line_start..at].trim_start().starts_with("//") {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let word = |text: &str| {
            text.trim()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect::<String>()
        };
        match rest.strip_prefix('{') {
            None => rooms.push(word(rest)),
            Some(group) => {
                let (mut depth, mut start) = (0, 0);
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => {
                            rooms.push(word(&group[start..i]));
                            break;
                        }
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            rooms.push(word(&group[start..i]));
                            start = i + 1;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}

#[test]
fn rooms_import_only_what_they_may() {
    for (path, room, code) in sources() {
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
            continue; // commands, main, lib: any room; a crate's `crate::` is its own business
        };
        for import in imports(&code) {
            assert!(
                import == room || allowed.contains(&import.as_str()),
                "{}: {room} may not import {import}",
                path.display()
            );
        }
    }
}

/// Who reads events needs no disk; the compiler knows of crates only.
#[test]
fn events_know_nothing_of_what_keeps_them() {
    let events = root().join("crates/journal/src/event");
    for (path, _, code) in sources() {
        if path.starts_with(&events) || path == events.with_extension("rs") {
            let foreign = imports(&code).into_iter().find(|room| room != "event");
            assert_eq!(foreign, None, "{}", path.display());
        }
    }
}

/// The compiler refuses an import of what is no dependency, so the manifests are what has to be looked at.
#[test]
fn crates_depend_only_on_what_they_may() {
    for (name, allowed) in MAY_DEPEND {
        let manifest = fs::read_to_string(root().join(format!("crates/{name}/Cargo.toml"))).unwrap();
        for line in manifest.lines() {
            if let Some(rest) = line.strip_prefix("heterosis-") {
                let other = rest.split(['.', ' ', '=']).next().unwrap();
                assert!(allowed.contains(&other), "{name} may not depend on {other}");
            }
        }
    }
    let members = fs::read_dir(root().join("crates")).unwrap().count();
    assert_eq!(members, MAY_DEPEND.len(), "every crate has its row");
}

/// Kernels compute, the caller opens files: so the search, the command line and the tests can each bring their own tensors.
#[test]
fn a_merge_kernel_never_opens_a_file_and_the_optimizer_never_sees_a_tensor() {
    for (path, room, code) in sources() {
        let foreign: &[&str] = match room.as_str() {
            "crates/merge" => &["std::fs", "fs::", "File::", "heterosis_checkpoint"],
            "crates/optim" => &["candle", "half::", "safetensors", "heterosis_", "f32"],
            _ => continue,
        };
        for what in foreign {
            assert_eq!(lines_with(&code, what).next(), None, "{}", path.display());
        }
    }
}

#[test]
fn only_commands_print_and_only_the_host_reads_the_clock_or_the_environment() {
    for (path, room, code) in sources() {
        if matches!(room.as_str(), "commands" | "main") {
            continue;
        }
        let prints = ["println!(", "eprintln!(", "print!(", "eprint!("];
        let looks = ["SystemTime::now", "Instant::now", "env::var", "Host::this_machine"];
        let looks = looks.iter().filter(|_| room != HOST);
        for what in prints.iter().chain(looks) {
            let found: Vec<&str> = lines_with(&code, what).collect();
            assert!(found.is_empty(), "{}: {found:?}", path.display());
        }
    }
}

#[test]
fn sled_is_named_in_one_file_and_candle_not_in_the_dashboard() {
    for (path, room, code) in sources() {
        if !path.ends_with("store/cache.rs") {
            assert_eq!(lines_with(&code, "sled::").next(), None, "{}", path.display());
        }
        if matches!(
            room.as_str(),
            "dashboard" | "report" | "crates/optim" | "space" | "crates/journal"
        ) {
            assert_eq!(lines_with(&code, "candle").next(), None, "{}", path.display());
        }
    }
}

#[test]
fn unsafe_stands_only_around_memory_and_the_gpu() {
    for (path, _, code) in sources() {
        if lines_with(&code, "unsafe ").next().is_some() {
            let foreign = [
                "checkpoint/src/map.rs",
                "engine/src/cuda/gpu.rs",
                "engine/src/cuda/kernels.rs",
                "engine/src/heap.rs",
                "isa/src/lib.rs",
            ];
            assert!(foreign.iter().any(|file| path.ends_with(file)), "{}", path.display());
        }
    }
}

/// The string literals of a source text; comments, and what stands in no quotes, are left out.
fn literals(code: &str) -> Vec<String> {
    let (mut found, mut rest) = (Vec::new(), code);
    while let Some(at) = rest.find(['"', '/', '\'']) {
        let (here, after) = (&rest[at..], &rest[at + 1..]);
        rest = if here.starts_with("//") {
            after.split_once('\n').map_or("", |(_, next)| next)
        } else if here.starts_with("'\"'") {
            &rest[at + 3..]
        } else if here.starts_with('"') {
            let mut escaped = false;
            let end = after.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let (literal, next) = after.split_at(end.unwrap_or(after.len()));
            found.push(literal.to_lowercase());
            next.get(1..).unwrap_or_default()
        } else {
            after
        };
    }
    found
}

/// "On questions never used before" was said of questions that the search was bred on, in five places, none of which had
/// looked. Whoever wants to say such a thing asks `event::freshness`, which knows what was compared.
#[test]
fn only_freshness_calls_questions_new() {
    let claims = [
        "fresh",
        "sealed",
        "unseen",
        "never used",
        "never asked",
        "never saw",
        "no part in",
    ];
    assert_eq!(literals("a(\"x \\\" y\"); // \"no\"\n'\"' b(\"Z\")"), ["x \\\" y", "z"]);
    for (path, room, code) in sources() {
        let is_made_there = path.ends_with("event/freshness.rs") || room == "cli";
        let is_of_a_search = room == "crates/journal" || !room.starts_with("crates/");
        for literal in literals(&code).iter().filter(|_| is_of_a_search && !is_made_there) {
            let claim = claims.iter().find(|claim| literal.contains(*claim));
            assert_eq!(claim, None, "{}: {literal:?}", path.display());
        }
    }
}

/// Fields of the public structs of a file, by the struct's name in small letters.
fn fields(code: &str) -> Vec<(String, String)> {
    let (mut found, mut within) = (Vec::new(), None);
    for line in code.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().lines() {
        if let Some(name) = line
            .strip_prefix("pub struct ")
            .and_then(|rest| rest.strip_suffix(" {"))
        {
            within = Some(snake_case(name));
        } else if line == "}" {
            within = None;
        } else if let (Some(of), Some((field, _))) = (&within, line.trim().split_once(':')) {
            let field = field.trim_start_matches("pub ");
            if !field.contains([' ', '/', '#']) {
                found.push((of.clone(), field.to_string()));
            }
        }
    }
    found
}

fn snake_case(name: &str) -> String {
    let letter = |(i, c): (usize, char)| match c.is_uppercase() && i > 0 {
        true => format!("_{}", c.to_lowercase()),
        false => c.to_lowercase().to_string(),
    };
    name.chars().enumerate().map(letter).collect()
}

/// The schema was nowhere: who read a journal had to read the sources.
#[test]
fn the_page_of_the_journal_has_every_event_and_every_field() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    let (page, events) = (read("docs/journal.md"), read("crates/journal/src/event.rs"));
    let kinds = events
        .split("pub enum Event {")
        .nth(1)
        .unwrap()
        .split("\n}")
        .next()
        .unwrap();
    let is_kind = |line: &&str| line.starts_with("    ") && line.trim().starts_with(char::is_uppercase);
    let kinds: Vec<String> = kinds
        .lines()
        .filter(is_kind)
        .map(|line| snake_case(line.trim().split(['(', ' ', ',']).next().unwrap()))
        .collect();
    assert!(kinds.len() > 25, "{kinds:?}");
    for kind in &kinds {
        assert!(page.contains(&format!("\n| `{kind}` |")), "no row of the event {kind}");
    }
    // What stands in a record as fields of its own has its own section.
    let flattened = ["event", "point", "score", "other", "what"];
    for file in ["", "/freshness", "/changes", "/wording"].map(|part| format!("crates/journal/src/event{part}.rs")) {
        for (of, field) in fields(&read(&file)) {
            let heading = if of == "record" {
                "## Every line\n".into()
            } else {
                format!("### {of}\n")
            };
            let section = page
                .split(&heading)
                .nth(1)
                .unwrap_or_else(|| panic!("no section of {of}"));
            let section = section.split("\n#").next().unwrap();
            let has_row = section.contains(&format!("\n| `{field}` |"));
            assert!(has_row || flattened.contains(&&*field), "no row of {of}.{field}");
        }
    }
}

/// One merge to disk needs models and a recipe; it once took the whole search with it.
#[test]
fn a_merge_knows_nothing_of_a_search() {
    for (path, _, code) in sources() {
        if path.ends_with("commands/merge.rs") {
            let rooms = imports(&code);
            assert!(
                rooms.contains(&"models".to_string()) && !rooms.contains(&"search".to_string()),
                "{rooms:?}"
            );
        }
    }
}

/// Five enums said how a number is stored, and two pairs of functions rounded to that.
#[test]
fn how_numbers_are_stored_is_said_once() {
    for (path, room, code) in sources() {
        if room != "crates/isa" {
            for what in ["enum DType", "0x7fff +", "half::"] {
                assert_eq!(lines_with(&code, what).next(), None, "{}", path.display());
            }
        }
    }
}

/// Whether an answer was the journal's was asked in every file of the search. Now the loop's files say how a thing is found out,
/// and one file hands back what has been found out before.
#[test]
fn the_loop_knows_nothing_of_its_past() {
    let mut loop_files = 0;
    for (path, room, code) in sources() {
        let knows = ["search/replay.rs", "search/replay/past.rs", "search/chronicle.rs"];
        if room != "search" || knows.iter().any(|file| path.ends_with(file)) {
            continue;
        }
        loop_files += 1;
        for what in ["past", "Past", "replay", "Replay", "is_done()"] {
            let found: Vec<&str> = lines_with(&code, what).filter(|line| *line != "mod replay;").collect();
            assert!(found.is_empty(), "{}: {found:?}", path.display());
        }
    }
    assert!(loop_files > 20, "the loop's files are found");
}

#[test]
fn main_is_short() {
    let main = root().join("src/main.rs");
    assert!(fs::read_to_string(main).unwrap().lines().count() <= 60);
}
