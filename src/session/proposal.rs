//! From two model names to a search space: which base the parents have, whether they fit, and what to search, chosen by their
//! number, their size and the time given; as commented YAML, with the reason of each choice.
//!
//! * `family.rs` opens the models, finds their base and gives them short names.
//! * `choice.rs` chooses: the method, how finely its weights are told apart, how many questions and candidates.
//!
//! What is proposed has been opened as a search would open it: it can be searched as it stands.

mod choice;
mod family;

use std::{
    fmt::Write,
    path::{Component, Path, PathBuf},
};

use choice::Choice;
use family::Family;

use super::{Error, Session, parse_space};
use crate::{
    checkpoint, eval,
    host::Host,
    models::{Runtime, RuntimeOptions},
    space::Space,
};

/// What somebody says who has models and a wish.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// MODEL words; the base may be among them.
    pub models: Vec<String>,
    /// What they were fine-tuned from; `none` mixes them without one. Found where nothing is said.
    pub base: Option<String>,
    /// `TASK` or `TASK:LANG`, built-in or a file.
    pub tasks: Vec<String>,
    pub duration_ms: Option<u64>,
    pub evals: Option<u64>,
}

/// A search space that was chosen.
pub struct Proposal {
    /// Commented, for the file that it was made for.
    pub yaml: String,
    /// What was chosen and why, a word and a sentence each.
    pub reasons: Vec<(&'static str, String)>,
    pub space: Space,
}

/// Chooses a search space for models, to be written to `file`: its paths are meant from there.
///
/// # Errors
/// A model or task cannot be opened, nobody says what the base is, or the models do not fit each other.
pub fn propose(wanted: &Wanted, file: &Path, options: &RuntimeOptions, host: &Host) -> Result<Proposal, Error> {
    let family = Family::open(wanted, &host.hub)?;
    let tasks = wanted
        .tasks
        .iter()
        .map(|word| task(word))
        .collect::<Result<Vec<_>, _>>()?;
    let on_gpu = !Runtime::new(options)?.device.is_cpu();
    let choice = Choice::new(&family, tasks.len(), wanted, on_gpu);
    let yaml = yaml(&family, &choice, &tasks, file)?;
    let space = parse_space(file, &yaml)?;
    let session = Session::open(space.clone(), options, host.clone())?;
    session.refuse_contradictions()?;
    session.refuse_overlap(session.questions_compared()?.as_ref())?;
    let mut reasons = family.reasons();
    reasons.extend(choice.reasons(&family));
    Ok(Proposal { yaml, reasons, space })
}

/// A task of the space, and its language if one was named.
struct Asked {
    task: String,
    lang: Option<String>,
}

/// Reads `TASK[:LANG]`.
fn task(word: &str) -> Result<Asked, Error> {
    // The benchmark's own name means the task that a model of any kind can answer.
    let (name, lang) = match word.rsplit_once(':') {
        Some((name, lang)) if !Path::new(word).exists() => (name, Some(lang)),
        _ => (word, None),
    };
    let name = if name == "mgsm" { "mgsm_native_cot" } else { name };
    eval::expand(name, lang)?;
    Ok(Asked {
        task: name.into(),
        lang: lang.map(String::from),
    })
}

fn yaml(family: &Family, choice: &Choice, tasks: &[Asked], file: &Path) -> Result<String, Error> {
    let folder = folder(file)?;
    let mut out = String::from(
        "# Chosen by heterosis init. Every line may be changed; docs/search-space.md lists all keys.\n\
         #   heterosis check FILE    does everything fit, and what does it cost\n\
         #   heterosis search FILE   breed\n",
    );
    let _ = writeln!(out, "name: {}", scalar(&family.name()));
    out += "models:\n";
    for parent in family.parents() {
        let _ = writeln!(
            out,
            "  {}: {}",
            parent.name,
            scalar(&from_folder(&parent.word, &folder))
        );
    }
    if let Some(base) = &family.base {
        let _ = writeln!(out, "base: {:<23} # {}", base.name, family.base_reason);
    }
    let _ = writeln!(out, "tokenizer: {:<18} # {}", choice.tokenizer, choice.tokenizer_reason);
    out += &choice.parameter_space(family);
    out += "\nfitness:\n  tasks:                      # a child's fitness is their weighted mean\n";
    for Asked { task, lang } in tasks {
        let word = match Path::new(task).exists() {
            true => from_folder(task, &folder),
            false => task.clone(),
        };
        let lang = lang
            .as_ref()
            .map_or(String::new(), |lang| format!(", lang: {}", scalar(lang)));
        let _ = writeln!(
            out,
            "    - {{task: {}{lang}, weight: 1.0, limit: {}{}}}",
            scalar(&word),
            choice.questions,
            if choice.speaks { ", chat_template: on" } else { "" }
        );
    }
    out += &choice.search();
    Ok(out)
}

/// Where a file lies, or will.
fn folder(file: &Path) -> Result<PathBuf, Error> {
    let absolute = std::path::absolute(file).map_err(Error::io(file))?;
    Ok(lexical(absolute.parent().unwrap_or(Path::new("/"))))
}

/// Without `.` and `..`.
fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// Most steps up that a relative path is better than an absolute one for.
const MOST_UP: usize = 3;

/// A MODEL word or path as a file in this folder should name it: `./` and `../` are meant from the file, wherever one is.
fn from_folder(word: &str, folder: &Path) -> String {
    let place = |part: &str| match part.starts_with("hf:") {
        true => part.to_string(),
        false => relative(Path::new(part), folder),
    };
    match checkpoint::split_adapter(word) {
        (model, Some(adapter)) => format!("{}+{}", place(model), place(adapter)),
        (model, None) => place(model),
    }
}

fn relative(path: &Path, folder: &Path) -> String {
    let Ok(absolute) = std::path::absolute(path) else {
        return path.display().to_string();
    };
    let tidy = lexical(&absolute);
    let shared = tidy
        .components()
        .zip(folder.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = folder.components().count() - shared;
    let down: PathBuf = tidy.components().skip(shared).collect();
    let start = if up == 0 { "./".into() } else { "../".repeat(up) };
    // A link on the way leads elsewhere than its name: then `..` is another place.
    let is_same = std::fs::canonicalize(folder.join(&start).join(&down)).ok() == std::fs::canonicalize(path).ok();
    match up <= MOST_UP && shared > 1 && is_same {
        true => format!("{start}{}", down.display()),
        false => absolute.display().to_string(),
    }
}

/// Text as YAML: plain where that is safe.
fn scalar(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./+@".contains(c);
    let is_word =
        text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '.' || c == '/') && text.chars().all(is_plain);
    let is_hub = text
        .strip_prefix("hf:")
        .is_some_and(|rest| !rest.is_empty() && rest.chars().all(is_plain));
    let is_reserved = ["null", "true", "false", "yes", "no", "on", "off"].contains(&&*text.to_ascii_lowercase());
    match (is_word || is_hub) && !is_reserved {
        true => text.into(),
        false => serde_json::Value::from(text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(models: &[&str], base: Option<&str>) -> Wanted {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let place = |word: &str| root.join("models").join(word).display().to_string();
        Wanted {
            models: models.iter().map(|m| place(m)).collect(),
            base: base.map(|base| if base == "none" { base.into() } else { place(base) }),
            tasks: vec![root.join("evals/arith-es.yaml").display().to_string()],
            ..Wanted::default()
        }
    }

    fn proposed(wanted: &Wanted) -> Result<Proposal, String> {
        let tmp = tempfile::tempdir().unwrap();
        propose(
            wanted,
            &tmp.path().join("s.yaml"),
            &RuntimeOptions::default(),
            &Host::this_machine(),
        )
        .map_err(|e| e.to_string())
    }

    /// The space file had to be written by hand: of 40 findings of a new user this was the first.
    #[test]
    fn two_names_and_a_task_make_a_space() {
        let found = proposed(&family(&["tiny-maths-en", "tiny-spanish"], None)).unwrap();
        let space = &found.space;
        let names: Vec<&str> = space.models.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["base", "maths-en", "spanish"]);
        assert_eq!(space.base.as_deref(), Some("base"));
        assert!(space.models[0].1.ends_with("models/tiny-base"), "{:?}", space.models);
        assert_eq!(space.name, "maths-en-x-spanish");
        assert!(space.search.learn.is_some());
        assert!(
            found.reasons.iter().any(|(_, why)| why.contains("card")),
            "{:?}",
            found.reasons
        );
        // The base among the models is the base, and named or not, the space is the same.
        for other in [
            family(&["tiny-base", "tiny-maths-en", "tiny-spanish"], None),
            family(&["tiny-maths-en", "tiny-spanish"], Some("tiny-base")),
        ] {
            assert_eq!(proposed(&other).unwrap().space, *space);
        }
        // Without a base there is still the mean.
        let mean = proposed(&family(&["tiny-maths-en", "tiny-spanish"], Some("none")))
            .unwrap()
            .space;
        assert!(mean.base.is_none() && mean.models.len() == 2);
    }

    /// A mixture of experts, each of them the MLP of a model, and a router that knows nothing.
    fn mixture(of: &Path, dir: &Path, experts: usize) -> String {
        let model = checkpoint::Checkpoint::open(of).unwrap();
        let mut writer = checkpoint::Writer::create(dir, u64::MAX).unwrap();
        for (name, info) in model.tensors() {
            let (bytes, dtype) = model.raw(name).unwrap();
            let mut put = |name: &str, shape: &[usize], bytes: &[u8]| writer.tensor(name, dtype, shape, bytes).unwrap();
            let Some((layer, matrix)) = name.split_once(".mlp.") else {
                put(name, &info.shape, bytes);
                continue;
            };
            let body = format!("{layer}.block_sparse_moe");
            let word = ["gate_proj", "down_proj", "up_proj"]
                .iter()
                .position(|w| matrix.starts_with(w))
                .unwrap()
                + 1;
            for expert in 0..experts {
                put(&format!("{body}.experts.{expert}.w{word}.weight"), &info.shape, bytes);
            }
            if word == 1 {
                let shape = [experts, info.shape[1]];
                let zeros = vec![0; dtype.size_bytes() * experts * info.shape[1]];
                put(&format!("{body}.gate.weight"), &shape, &zeros);
            }
        }
        let mut config = model.config().clone();
        config["model_type"] = "mixtral".into();
        config["architectures"] = serde_json::json!(["MixtralForCausalLM"]);
        config["num_local_experts"] = experts.into();
        config["num_experts_per_tok"] = 2.into();
        writer.json("config.json", &config).unwrap();
        writer.finish().unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(of.join(file), dir.join(file)).unwrap();
        }
        dir.display().to_string()
    }

    /// Experts shared one gene whatever the time, although a space can tell them apart by their numbers.
    #[test]
    fn a_mixtures_experts_are_told_apart_where_there_are_genes_for_them() {
        let tmp = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let asked = |experts: usize| {
            let named = |name: &str| mixture(&root.join(name), &tmp.path().join(format!("{name}-{experts}")), experts);
            let mut wanted = family(&[], None);
            wanted.models = vec![named("tiny-maths-en")];
            wanted.base = Some(named("tiny-base"));
            proposed(&wanted).unwrap()
        };
        let found = asked(4);
        assert_eq!(
            found.space.parameter_space.as_ref().unwrap().expert_groups,
            4,
            "{}",
            found.yaml
        );
        // One model, 4 groups of layers; attention, router, four groups of experts, the rest.
        assert!(found.yaml.contains("28 genes"), "{}", found.yaml);
        assert!(
            found.reasons.iter().any(|(_, why)| why.contains("groups of experts")),
            "{:?}",
            found.reasons
        );
        assert_eq!(asked(2).space.parameter_space.unwrap().expert_groups, 2);
        let dense = proposed(&family(&["tiny-maths-en", "tiny-spanish"], None)).unwrap();
        assert!(!dense.yaml.contains("expert_groups"), "{}", dense.yaml);
    }

    /// Chat models were asked without their chat template, and scored for what they never learned to read.
    #[test]
    fn chat_models_are_spoken_to() {
        let tmp = tempfile::tempdir().unwrap();
        let (root, chat) = (Path::new(env!("CARGO_MANIFEST_DIR")), tmp.path().join("chat"));
        std::fs::create_dir(&chat).unwrap();
        for entry in std::fs::read_dir(root.join("models/tiny-spanish")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), chat.join(entry.file_name())).unwrap();
        }
        std::fs::write(chat.join("chat_template.jinja"), "Q: {{ messages[0].content }} A:").unwrap();
        let mut wanted = family(&["tiny-maths-en"], Some("tiny-base"));
        wanted.models.push(chat.display().to_string());
        let found = proposed(&wanted).unwrap();
        assert_eq!(found.space.tokenizer, "chat");
        assert!(
            found.space.fitness.tasks[0].chat_template == Some(crate::space::ChatTemplate::On),
            "{}",
            found.yaml
        );
        assert!(
            !proposed(&family(&["tiny-maths-en", "tiny-spanish"], None))
                .unwrap()
                .yaml
                .contains("chat_template")
        );
    }

    #[test]
    fn what_is_missing_is_asked_for() {
        let message = proposed(&family(&["tiny-base"], None)).err().unwrap();
        assert!(message.contains("--base"), "{message}");
        let mut wanted = family(&["tiny-maths-en", "tiny-spanish"], None);
        wanted.tasks = vec!["gsm9k".into()];
        assert!(proposed(&wanted).err().unwrap().contains("gsm8k"));
    }

    /// A path that was right where the command was typed is wrong in a file that lies elsewhere.
    #[test]
    fn paths_are_meant_from_the_file() {
        let tmp = tempfile::tempdir().unwrap();
        let home = std::fs::canonicalize(tmp.path()).unwrap();
        for name in ["models/a", "spaces/deep/er/est"] {
            std::fs::create_dir_all(home.join(name)).unwrap();
        }
        let model = home.join("models/a").display().to_string();
        for (folder, expected) in [
            ("models", "./a".to_string()),
            ("", "./models/a".into()),
            ("spaces", "../models/a".into()),
            ("spaces/deep/er/est", model.clone()),
        ] {
            assert_eq!(from_folder(&model, &home.join(folder)), expected);
        }
        let both = from_folder(&format!("hf:o/n+{model}"), &home.join("spaces"));
        assert_eq!(both, "hf:o/n+../models/a");
        assert_eq!(scalar("no"), "\"no\"");
        assert_eq!(scalar("a b"), "\"a b\"");
        assert_eq!(scalar("hf:o/n@v1"), "hf:o/n@v1");
    }
}
