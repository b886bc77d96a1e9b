//! [`Recipe`] → mergekit YAML that mergekit reads and that leads it to the same weights.
//!
//! What mergekit cannot repeat (a method of ours, another generator's random masks) is said in a comment at the top.

use std::fmt::Write;

use super::{
    Body, DefaultValue, Kind, MethodInfo, ParamValue, Parameters, Recipe, Source, Stage, TokenSource, Tokenizer,
};

/// The recipe as YAML, one document for each stage.
pub fn to_yaml(recipe: &Recipe) -> String {
    let documents: Vec<String> = recipe.stages.iter().map(stage).collect();
    documents.join("---\n")
}

fn stage(stage: &Stage) -> String {
    let method = stage.merge_method.info();
    let mut out = notes(stage);
    if let Some(name) = &stage.name {
        line(&mut out, 0, "name", &word(name));
    }
    line(&mut out, 0, "merge_method", method.name);
    if let Some(base) = &stage.base_model {
        line(&mut out, 0, "base_model", &word(base));
    }
    if stage.modules.is_empty() {
        body(&mut out, 0, &stage.body, method);
        parameters(&mut out, 0, &stage.parameters, method);
    } else {
        out.push_str("modules:\n  text_decoder:\n");
        body(&mut out, 4, &stage.body, method);
        parameters(&mut out, 4, &stage.parameters, method);
        for (name, module) in &stage.modules {
            let _ = writeln!(out, "  {name}:\n    models:");
            module
                .models
                .iter()
                .for_each(|model| source(&mut out, 4, model, method));
            parameters(&mut out, 4, &module.parameters, method);
        }
    }
    for (key, value) in [("dtype", stage.dtype), ("out_dtype", stage.out_dtype)] {
        if let Some(dtype) = value {
            line(&mut out, 0, key, dtype.torch_name());
        }
    }
    for (key, value) in [
        ("tokenizer_source", &stage.tokenizer_source),
        ("chat_template", &stage.chat_template),
    ] {
        if let Some(value) = value {
            line(&mut out, 0, key, &word(value));
        }
    }
    if let Some(t) = &stage.tokenizer {
        tokenizer(&mut out, t);
    }
    if let Some(seed) = stage.seed {
        line(&mut out, 0, "seed", &seed.to_string());
    }
    out
}

fn body(out: &mut String, indent: usize, body: &Body, method: &MethodInfo) {
    let pad = " ".repeat(indent);
    match body {
        Body::Models(models) => {
            let _ = writeln!(out, "{pad}models:");
            models.iter().for_each(|model| source(out, indent, model, method));
        }
        Body::Slices(slices) => {
            let _ = writeln!(out, "{pad}slices:");
            for slice in slices {
                let _ = writeln!(out, "{pad}- sources:");
                for model in &slice.sources {
                    source(out, indent + 2, model, method);
                }
                if let Some(base) = &slice.base_model {
                    line(out, indent + 2, "base_model", &word(base));
                }
                parameters(out, indent + 2, &slice.parameters, method);
            }
        }
    }
}

/// What a reader of the file has to know before mergekit gets it.
fn notes(stage: &Stage) -> String {
    let method = stage.merge_method.info();
    let mut notes = String::new();
    if !method.in_mergekit {
        let _ = writeln!(
            notes,
            "# mergekit has no method '{}': merge this file with `heterosis merge`.",
            method.name
        );
    }
    if stage.merge_method.info().is_random {
        notes.push_str("# The random masks come from heterosis's own generator (see `seed`); mergekit draws others.\n");
    }
    let slices = match &stage.body {
        Body::Slices(slices) => slices.as_slice(),
        Body::Models(_) => &[],
    };
    let sources = slices.iter().flat_map(|slice| &slice.sources);
    if sources.into_iter().any(|source| source.parameters.contains_key("gain")) {
        notes.push_str("# mergekit knows no `gain` of passthrough: merge this file with `heterosis merge`.\n");
    }
    if stage.parameters.get("rescale") == Some(&ParamValue::Text("expectation".into())) {
        notes.push_str("# mergekit knows no `rescale: expectation`: merge this file with `heterosis merge`.\n");
    }
    if stage.models().iter().any(|model| model.contains('+')) {
        notes.push_str("# With adapters (model+adapter) mergekit-yaml wants --lora-merge-cache DIR.\n");
    }
    notes
}

fn source(out: &mut String, indent: usize, source: &Source, method: &MethodInfo) {
    let pad = " ".repeat(indent);
    let _ = writeln!(out, "{pad}- model: {}", word(&source.model));
    if let Some([start, end]) = source.layer_range {
        line(out, indent + 2, "layer_range", &format!("[{start}, {end}]"));
    }
    if let Some(fisher) = &source.fisher {
        line(out, indent + 2, "fisher", &word(fisher));
    }
    if let Some(grams) = &source.grams {
        line(out, indent + 2, "grams", &word(grams));
    }
    parameters(out, indent + 2, &source.parameters, method);
}

fn parameters(out: &mut String, indent: usize, parameters: &Parameters, method: &MethodInfo) {
    if parameters.is_empty() {
        return;
    }
    let pad = " ".repeat(indent);
    let _ = writeln!(out, "{pad}parameters:");
    for (name, value) in parameters {
        let kind = method.parameter(name).map(|p| p.kind);
        if let ParamValue::Filtered(entries) = value {
            let _ = writeln!(out, "{pad}  {name}:");
            for entry in entries {
                if let Some(filter) = &entry.filter {
                    let _ = writeln!(out, "{pad}  - filter: {}", word(filter));
                    let _ = writeln!(out, "{pad}    value: {}", scalar(&entry.value, kind));
                } else {
                    let _ = writeln!(out, "{pad}  - value: {}", scalar(&entry.value, kind));
                }
            }
        } else {
            line(out, indent + 2, name, &scalar(value, kind));
        }
    }
}

fn scalar(value: &ParamValue, kind: Option<Kind>) -> String {
    match (value, kind) {
        (ParamValue::Bool(b), _) => b.to_string(),
        (ParamValue::Number(n), kind) => number(*n, kind),
        // mergekit's `rescale` is a switch.
        (ParamValue::Text(t), Some(Kind::Choice(_))) if t == "l1" => "true".into(),
        (ParamValue::Text(t), Some(Kind::Choice(_))) if t == "none" => "false".into(),
        (ParamValue::Text(t), _) => word(t),
        (ParamValue::Gradient(values), _) => {
            let numbers: Vec<String> = values.iter().map(|n| number(*n, kind)).collect();
            format!("[{}]", numbers.join(", "))
        }
        // A filter list inside a filter list cannot be read, so it is never built.
        (ParamValue::Filtered(_), _) => "null".into(),
    }
}

/// Shortest digits that read back as the same number, without an exponent (YAML 1.1 readers take `1e-5` for a word).
fn number(n: f64, kind: Option<Kind>) -> String {
    match kind {
        Some(Kind::Switch) => (n != 0.0).to_string(),
        Some(Kind::Choice(words)) => scalar(&ParamValue::Text(words[n as usize].into()), kind),
        Some(Kind::Integer { .. }) => format!("{n:.0}"),
        _ if n.fract() == 0.0 && n.abs() < 1e15 => format!("{n:.1}"),
        _ => format!("{n}"),
    }
}

fn tokenizer(out: &mut String, tokenizer: &Tokenizer) {
    out.push_str("tokenizer:\n");
    line(out, 2, "source", &word(&tokenizer.source));
    if let Some(pad) = tokenizer.pad_to_multiple_of {
        line(out, 2, "pad_to_multiple_of", &pad.to_string());
    }
    if tokenizer.tokens.is_empty() {
        return;
    }
    out.push_str("  tokens:\n");
    for (token, rule) in &tokenizer.tokens {
        let _ = writeln!(out, "    {}:", quoted(token));
        match &rule.source {
            None => {}
            Some(TokenSource::Model(model)) => line(out, 6, "source", &word(model)),
            Some(TokenSource::Zero) => line(out, 6, "source", "{kind: zero}"),
            Some(TokenSource::ModelToken { model, token }) => {
                let (model, token) = (quoted(model), quoted(token));
                let value = format!("{{kind: model_token, model: {model}, token: {token}}}");
                line(out, 6, "source", &value);
            }
            Some(TokenSource::ModelTokenId { model, token_id }) => {
                let model = quoted(model);
                let value = format!("{{kind: model_token, model: {model}, token_id: {token_id}}}");
                line(out, 6, "source", &value);
            }
        }
        line(out, 6, "force", &rule.force.to_string());
    }
}

fn line(out: &mut String, indent: usize, key: &str, value: &str) {
    let _ = writeln!(out, "{}{key}: {value}", " ".repeat(indent));
}

/// Text as a plain scalar where every YAML reader takes it for text, else quoted.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./+@".contains(c);
    let starts = |c: char| c.is_ascii_alphabetic() || c == '_' || c == '/';
    let reserved = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let safe =
        text.chars().all(plain) && text.starts_with(starts) && !reserved.contains(&text.to_ascii_lowercase().as_str());
    if safe { text.into() } else { quoted(text) }
}

/// JSON's quoting is YAML's double quoting.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A parameter's default in words, for listings.
impl std::fmt::Display for DefaultValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DefaultValue::Required => f.write_str("required"),
            DefaultValue::Value(v) => write!(f, "{v}"),
            DefaultValue::Method => f.write_str("auto"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::parse;
    use super::*;
    use std::path::Path;

    fn round_trip(text: &str) -> String {
        let recipe = parse(Path::new("r.yaml"), text).unwrap();
        let written = to_yaml(&recipe);
        let again = parse(Path::new("w.yaml"), &written).unwrap();
        assert_eq!(again, recipe, "{written}");
        written
    }

    #[test]
    fn what_is_written_reads_back_as_the_same_recipe() {
        round_trip(
            "merge_method: dare_ties\nbase_model: /m/base\nseed: 3\nout_dtype: float16\ntokenizer_source: union\n\
             parameters: {rescale: expectation, lambda: 1.3}\nmodels:\n- model: 'a b'\n  parameters:\n    weight:\n\
             \x20   - {filter: '*', value: [0, 1e-7, 1]}\n    density: 0.5\n- model: m+lora\n  parameters: {weight: -0.1}\n",
        );
        round_trip(
            "merge_method: passthrough\nslices:\n- sources:\n  - {model: a, layer_range: [0, 3]}\n- sources:\n  - model: b\n    layer_range: [1, 4]\n    parameters: {scale: 0.5}\n",
        );
        round_trip(
            "name: x\nmerge_method: karcher\nparameters: {max_iter: 5}\nmodels: [{model: a}, {model: b}]\n\
             tokenizer:\n  source: base\n  pad_to_multiple_of: 8\n  tokens:\n    '<a>': {source: {kind: zero}}\n    b: {source: {kind: model_token, model: a, token_id: 3}, force: true}\n",
        );
    }

    #[test]
    fn what_mergekit_lacks_is_said_at_the_top() {
        let text = "merge_method: pcb\nbase_model: base\nmodels: [{model: a}]\n";
        assert!(round_trip(text).starts_with("# mergekit has no method 'pcb'"));
        let text = "merge_method: ties\nbase_model: base\nmodels: [{model: a, parameters: {weight: 1}}]\n";
        assert!(round_trip(text).starts_with("merge_method: ties"));
        let text = "merge_method: ties\nbase_model: base\nmodels: [{model: base+lora}]\n";
        assert!(round_trip(text).starts_with("# With adapters"));
    }

    #[test]
    fn fisher_information_is_written_beside_its_model() {
        let text = "merge_method: fisher\nmodels:\n- {model: a, fisher: /f/a, parameters: {weight: 0.5}}\n- {model: b, fisher: f b}\n";
        assert!(round_trip(text).contains("\n- model: b\n  fisher: \"f b\"\n"));
        let refused = |text: &str| parse(Path::new("r.yaml"), text).unwrap_err().to_string();
        let without = refused("merge_method: fisher\nmodels: [{model: a}]\n");
        assert!(without.contains("heterosis fisher MODEL"), "{without}");
        let elsewhere = refused("merge_method: linear\nmodels: [{model: a, fisher: f}]\n");
        assert!(elsewhere.contains("merge_method: fisher"), "{elsewhere}");
    }

    #[test]
    fn gram_matrices_are_written_beside_their_model() {
        let text = "merge_method: regmean\nparameters: {alpha: 0.5}\nmodels:\n- {model: a, grams: /g/a}\n- {model: b, grams: g b}\n";
        assert!(round_trip(text).contains("\n- model: b\n  grams: \"g b\"\n"));
        let refused = |text: &str| parse(Path::new("r.yaml"), text).unwrap_err().to_string();
        let without = refused("merge_method: regmean\nmodels: [{model: a}]\n");
        assert!(without.contains("heterosis grams MODEL"), "{without}");
        let elsewhere = refused("merge_method: linear\nmodels: [{model: a, grams: f}]\n");
        assert!(elsewhere.contains("merge_method: regmean"), "{elsewhere}");
    }

    #[test]
    fn stages_become_documents() {
        let written = round_trip(
            "name: first\nmerge_method: passthrough\nmodels: [{model: a}]\n---\nmerge_method: passthrough\nmodels: [{model: first}]\n",
        );
        assert_eq!(written.matches("---\n").count(), 1);
    }
}
