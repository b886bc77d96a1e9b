//! What the child takes from one parent only: how its texts end and begin, how it is spoken to, where its positions turn. All
//! parents side by side, what the child gets, and what may go wrong with it in the morning.
//!
//! A base and its chat model often end with different tokens (Qwen2.5: 151643 and 151645). A child with the weights of both
//! and the settings of one writes on after its answer (mergekit #589), so it stops at either where its vocabulary has both.

use serde::Serialize;
use serde_json::Value;

use crate::{
    checkpoint::Checkpoint,
    merge::{ChildTokenizer, Plan},
    models::{Parents, tokenizer_files},
};

/// One setting.
#[derive(Debug, PartialEq, Serialize)]
pub struct Setting {
    pub name: &'static str,
    /// Each model's, in the order of the models.
    pub models: Vec<(String, String)>,
    pub child: String,
}

impl Setting {
    /// Whether everybody has the same.
    pub fn is_shared(&self) -> bool {
        self.models.iter().all(|(_, value)| *value == self.child)
    }

    fn differs_in(&self, model: &str) -> bool {
        self.models
            .iter()
            .any(|(name, value)| name == model && *value != self.child)
    }
}

/// Of the models of a plan, and of its child.
pub fn settings(plan: &Plan, parents: &Parents) -> Vec<Setting> {
    let child = plan.tokenizer();
    let names: Vec<&String> = child
        .models
        .iter()
        .filter(|name| parents.checkpoint(name).is_some())
        .collect();
    let row = |name: &'static str, of: &dyn Fn(&str) -> String, child: String| Setting {
        name,
        models: names.iter().map(|model| ((*model).clone(), of(model))).collect(),
        child,
    };
    let of_donor = |of: &dyn Fn(&str) -> String| of(&child.donor);
    let ends = |model: &str| {
        parents
            .spoken(model)
            .map_or("not known".into(), |s| tokens(parents, model, &s.ends))
    };
    let begins = |model: &str| special(parents, model, "bos_token");
    let pads = |model: &str| special(parents, model, "pad_token");
    let template = |model: &str| chat_template(parents, model);
    let config = |of: fn(&Value) -> String| {
        move |model: &str| parents.checkpoint(model).map_or(String::new(), |c| of(c.config()))
    };
    let (turns, context, rows) = (config(rope), config(context), config(vocabulary));
    vec![
        row(
            "stops at",
            &ends,
            tokens(parents, &child.donor, &parents.stop_tokens(&child)),
        ),
        row("begins with", &begins, of_donor(&begins)),
        row("pads with", &pads, of_donor(&pads)),
        row(
            "chat template",
            &template,
            match child.chat_template.as_deref() {
                None | Some("auto") => of_donor(&template),
                Some(word) if word.contains('{') => "the recipe's".into(),
                Some(word) => word.into(),
            },
        ),
        row("RoPE", &turns, rope(plan.config())),
        row("context", &context, self::context(plan.config())),
        row("vocabulary", &rows, vocabulary(plan.config())),
    ]
}

/// What of it may go wrong.
pub fn warnings(plan: &Plan, parents: &Parents, settings: &[Setting]) -> Vec<String> {
    let child = plan.tokenizer();
    let mut warnings: Vec<String> = child
        .models
        .iter()
        .flat_map(|model| of_stops(parents, &child, model))
        .collect();
    let speaks = |model: &str| parents.spoken(model).is_some_and(|s| s.has_chat_template);
    let has_template = speaks(&child.donor) || child.chat_template.as_deref().is_some_and(|word| word != "auto");
    if !has_template && let Some(model) = child.models.iter().find(|model| speaks(model)) {
        warnings.push(format!(
            "'{model}' has a chat template, and '{}', whose settings the child takes, has none: the child cannot be spoken to \
             as '{model}' is",
            child.donor
        ));
    }
    if let Some(rope) = settings.iter().find(|setting| setting.name == "RoPE") {
        let others: Vec<&str> = child
            .models
            .iter()
            .map(String::as_str)
            .filter(|m| rope.differs_in(m))
            .collect();
        if !others.is_empty() {
            warnings.push(format!(
                "positions turn otherwise in {} than in the child ({}): its attention was trained for another turn",
                others.join(", "),
                rope.child
            ));
        }
    }
    warnings
}

/// A token that ends a model's texts, and not those of the donor of settings.
fn of_stops(parents: &Parents, child: &ChildTokenizer, model: &str) -> Option<String> {
    let (donor, other) = (parents.spoken(&child.donor)?, parents.spoken(model)?);
    let texts = other.ends.iter().filter_map(|end| other.text(*end));
    let (listed, unknown): (Vec<&str>, Vec<&str>) = texts
        .filter(|text| !donor.ends.iter().any(|end| donor.text(*end) == Some(text)))
        .partition(|text| parents.token_of_child(child, text).is_some());
    let name = &child.donor;
    match (unknown.is_empty(), listed.is_empty()) {
        (false, _) => Some(format!(
            "'{model}' ends its texts with {}, which the child's vocabulary, that of '{name}', does not have: the child may \
             write on after its answer; take the tokenizer of '{model}' (a space's tokenizer:, a recipe's tokenizer_source:), or \
             in a recipe tokenizer_source: union",
            unknown.join(", ")
        )),
        (true, false) => Some(format!(
            "'{model}' ends its texts with {}, '{name}' with {}: the child stops at either, and its generation_config.json \
             lists both",
            listed.join(", "),
            tokens(parents, name, &donor.ends)
        )),
        (true, true) => None,
    }
}

/// `<eos> (1), <end> (7)`.
fn tokens(parents: &Parents, model: &str, ids: &[u32]) -> String {
    let spoken = parents.spoken(model);
    let named = |id: &u32| match spoken.and_then(|spoken| spoken.text(*id)) {
        Some(text) => format!("{text} ({id})"),
        None => id.to_string(),
    };
    match ids {
        [] => "no token".into(),
        ids => ids.iter().map(named).collect::<Vec<_>>().join(", "),
    }
}

/// A named token of `tokenizer_config.json`.
fn special(parents: &Parents, model: &str, name: &str) -> String {
    let config = parents
        .checkpoint(model)
        .and_then(|c| tokenizer_files(c).ok()?.tokenizer_config);
    let text = config.as_ref().and_then(|config| {
        let token = config.get(name)?;
        token
            .as_str()
            .or_else(|| token.get("content")?.as_str())
            .map(String::from)
    });
    text.unwrap_or_else(|| "no token".into())
}

/// Templates of one digest are one template.
fn chat_template(parents: &Parents, model: &str) -> String {
    let text = |checkpoint: &Checkpoint| {
        let files = tokenizer_files(checkpoint).ok()?;
        files
            .chat_template
            .or_else(|| Some(files.tokenizer_config?.get("chat_template")?.to_string()))
    };
    match parents.checkpoint(model).and_then(text) {
        Some(text) => format!("#{}", &blake3::hash(text.as_bytes()).to_hex()[..6]),
        None => "none".into(),
    }
}

/// How far positions turn, in either of transformers' dialects.
fn rope(config: &Value) -> String {
    let nested = config.get("rope_parameters").filter(|v| v.is_object());
    let theta = config.get("rope_theta").or_else(|| nested?.get("rope_theta"));
    let theta = theta
        .and_then(Value::as_f64)
        .map_or("usual".into(), |theta| theta.to_string());
    let scaling = config.get("rope_scaling").filter(|v| v.is_object()).or(nested);
    let kind = scaling.and_then(|s| s.get("rope_type").or_else(|| s.get("type"))?.as_str());
    match kind.filter(|kind| *kind != "default") {
        Some(kind) => format!("{theta}, {kind}"),
        None => theta,
    }
}

fn context(config: &Value) -> String {
    let tokens = config.get("max_position_embeddings").and_then(Value::as_u64);
    tokens.map_or("not said".into(), |n| n.to_string())
}

fn vocabulary(config: &Value) -> String {
    let rows = config.get("vocab_size").and_then(Value::as_u64);
    rows.map_or("not said".into(), |n| n.to_string())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::recipe::read;

    /// A model of the family under another name, with other settings.
    fn parents(home: &Path, tokenizer_config: &str, generation_config: &str, config: &str) -> Parents {
        let family = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let chat = home.join("chat");
        fs::create_dir_all(&chat).unwrap();
        for entry in fs::read_dir(family.join("tiny-spanish")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), chat.join(entry.file_name())).unwrap();
        }
        fs::write(chat.join("tokenizer_config.json"), tokenizer_config).unwrap();
        fs::write(chat.join("generation_config.json"), generation_config).unwrap();
        let text = fs::read_to_string(chat.join("config.json")).unwrap();
        fs::write(chat.join("config.json"), text.replace("10000.0", config)).unwrap();
        let mut parents = Parents::default();
        parents
            .add("base", Checkpoint::open(&family.join("tiny-base")).unwrap())
            .unwrap();
        parents.add("chat", Checkpoint::open(&chat).unwrap()).unwrap();
        parents
    }

    fn plan(parents: &Parents) -> Plan {
        let text = "merge_method: linear\nmodels: [{model: base}, {model: chat}]\nparameters: {weight: 1}\ntokenizer_source: base\n";
        Plan::new(&read::parse(Path::new("r.yaml"), text).unwrap(), parents).unwrap()
    }

    /// A child of a base and its chat model never stopped, and nothing had told it (mergekit #589, Qwen #927).
    #[test]
    fn a_child_stops_where_any_parent_stops() {
        let tmp = tempfile::tempdir().unwrap();
        let parents = parents(
            tmp.path(),
            "{\"eos_token\": \"<unk>\", \"chat_template\": \"{{ messages }}\"}",
            "{\"eos_token_id\": [2, 1], \"temperature\": 0.6}",
            "50000.0",
        );
        let plan = plan(&parents);
        assert_eq!(parents.stop_tokens(&plan.tokenizer()), [1, 2]);
        assert_eq!(parents.tokenizer(&plan.tokenizer()).unwrap().eos_token_ids(), [1, 2]);
        let told = settings(&plan, &parents);
        let stops = &told[0];
        assert_eq!(stops.models[0], ("base".into(), "<eos> (1)".into()));
        assert_eq!(stops.child, "<eos> (1), <unk> (2)");
        let shared: Vec<&str> = told.iter().filter(|s| s.is_shared()).map(|s| s.name).collect();
        assert_eq!(shared, ["begins with", "context", "vocabulary"]);
        let warnings = warnings(&plan, &parents, &told);
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].contains("'chat' ends its texts with <unk>") && warnings[0].contains("lists both"));
        assert!(warnings[1].contains("chat template") && warnings[2].contains("positions turn otherwise in chat"));

        // What is written says the same.
        let out = tmp.path().join("child");
        let mut writer = crate::checkpoint::Writer::create(&out, 1 << 30).unwrap();
        crate::models::write(&mut writer, &plan, &parents, &mut |_| {}).unwrap();
        writer.finish().unwrap();
        let written: Value =
            serde_json::from_str(&fs::read_to_string(out.join("generation_config.json")).unwrap()).unwrap();
        assert_eq!(
            (&written["eos_token_id"], &written["pad_token_id"]),
            (&serde_json::json!([1, 2]), &0.into())
        );
        // A parent as it is stops where it always did.
        let alone = Plan::new(&crate::models::verbatim("base"), &parents).unwrap();
        assert_eq!(parents.tokenizer(&alone.tokenizer()).unwrap().eos_token_ids(), [1]);
    }

    /// A token that the child's vocabulary lacks cannot be listed: then it is told, with the way out.
    #[test]
    fn a_token_that_the_child_lacks_is_told() {
        let tmp = tempfile::tempdir().unwrap();
        let parents = parents(tmp.path(), "{\"eos_token\": \"<|im_end|>\"}", "{}", "10000.0");
        let config = tmp.path().join("chat/config.json");
        let text = fs::read_to_string(&config)
            .unwrap()
            .replace("\"eos_token_id\": 1", "\"eos_token_id\": null");
        fs::write(&config, text).unwrap();
        let mut again = Parents::default();
        let chat = Checkpoint::open(&tmp.path().join("chat")).unwrap();
        again.add("chat", chat).unwrap();
        again
            .add(
                "base",
                Checkpoint::open(parents.checkpoint("base").unwrap().path()).unwrap(),
            )
            .unwrap();
        let plan = plan(&again);
        let warnings = warnings(&plan, &again, &settings(&plan, &again));
        assert!(
            warnings[0].contains("<|im_end|>, which the child's vocabulary"),
            "{warnings:?}"
        );
        assert_eq!(again.stop_tokens(&plan.tokenizer()), [1]);
    }
}
