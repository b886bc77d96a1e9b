//! What the parts of a model that also sees are called: in its file, and by transformers, whose names adapters have.
//!
//! transformers called the language model in such a model `language_model.model`, and calls it `model.language_model`; the first
//! files of Qwen's have it as if it stood alone. An adapter has the names of the day on which it was trained, a file those of the
//! day on which it was saved, and both mean the same module.
//!
//! Source: transformers 5.24, its models' `named_modules` and its conversions of old checkpoints.

/// What stands before the layers, the embeddings and the last norm of a language model; the plain one last, since others begin
/// with it.
const STACKS: [&str; 4] = [
    "language_model.model.",
    "model.language_model.",
    "model.text_model.",
    "model.",
];

const HEADS: [&str; 2] = ["language_model.lm_head.", "lm_head."];

/// A tower of SigLIP's or CLIP's, which was a model within the tower.
const TOWER: &str = "vision_tower.";
const OLD_TOWER: &str = "vision_tower.vision_model.";

/// Parts of a language model right below its stack.
const OF_STACK: [&str; 4] = ["layers.", "embed_tokens.", "norm.", "embedding_norm."];

/// The name by which a file has a tensor that an adapter calls `name`; the name itself where no tensor of the file, or more than
/// one, can be meant.
pub(super) fn in_file(name: &str, is_there: impl Fn(&str) -> bool) -> String {
    if is_there(name) {
        return name.to_owned();
    }
    let mut found = others(name).into_iter().filter(|other| is_there(other));
    match (found.next(), found.next()) {
        (Some(only), None) => only,
        _ => name.to_owned(),
    }
}

/// Other names of the same tensor.
fn others(name: &str) -> Vec<String> {
    if let Some(rest) = without(&HEADS, name) {
        return HEADS.map(|head| format!("{head}{rest}")).to_vec();
    }
    match without(&STACKS, name).filter(|rest| starts_with_one(rest, &OF_STACK)) {
        Some(rest) => STACKS.map(|stack| format!("{stack}{rest}")).to_vec(),
        None => {
            let bare = name.strip_prefix("model.").unwrap_or(name);
            let bare = bare.replacen(OLD_TOWER, TOWER, 1);
            // Tower and projector stand beside the language model, or all of them within one.
            let inside = ["", "model."].into_iter();
            let both = inside
                .flat_map(|outer| [bare.clone(), bare.replacen(TOWER, OLD_TOWER, 1)].map(|n| outer.to_owned() + &n));
            let mut names: Vec<String> = both.collect();
            names.dedup();
            names
        }
    }
}

/// What today's transformers calls a tensor of a file; `sees`: of a model with a language model beside other parts.
pub(super) fn of_today(name: &str, sees: bool) -> String {
    let is_text_model = name.starts_with("model.text_model.");
    if !sees || is_text_model {
        return name.to_owned();
    }
    if let Some(rest) = without(&HEADS, name) {
        return format!("lm_head.{rest}");
    }
    match without(&STACKS, name).filter(|rest| starts_with_one(rest, &OF_STACK)) {
        Some(rest) => format!("model.language_model.{rest}"),
        None => {
            let bare = name.strip_prefix("model.").unwrap_or(name);
            format!("model.{}", bare.replacen(OLD_TOWER, TOWER, 1))
        }
    }
}

/// The name of the head in a file whose embeddings are called so.
pub(super) fn head_beside(embeddings: &str) -> &'static str {
    match embeddings.starts_with(STACKS[0]) {
        true => "language_model.lm_head.weight",
        false => "lm_head.weight",
    }
}

fn without<'n>(prefixes: &[&str], name: &'n str) -> Option<&'n str> {
    prefixes.iter().find_map(|prefix| name.strip_prefix(prefix))
}

fn starts_with_one(name: &str, starts: &[&str]) -> bool {
    starts.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: &str = "layers.0.self_attn.q_proj.weight";

    /// An adapter with the names of one day is laid over a file with those of another.
    #[test]
    fn each_name_is_found_in_each_file() {
        for file in STACKS {
            let there = [
                format!("{file}{LAYER}"),
                format!("{file}embed_tokens.weight"),
                "visual.blocks.0.attn.qkv.weight".into(),
            ];
            let is_there = |name: &str| there.iter().any(|known| known == name);
            for stack in STACKS {
                assert_eq!(in_file(&format!("{stack}{LAYER}"), is_there), there[0], "{stack}");
            }
            assert_eq!(in_file("model.visual.blocks.0.attn.qkv.weight", is_there), there[2]);
            assert_eq!(in_file("model.layers.9.w.weight", is_there), "model.layers.9.w.weight");
        }
        let towers = ["", "model."]
            .into_iter()
            .flat_map(|outer| [TOWER, OLD_TOWER].map(|tower| format!("{outer}{tower}encoder.w")));
        let towers: Vec<String> = towers.collect();
        for (file, adapter) in towers
            .iter()
            .flat_map(|file| towers.iter().map(move |adapter| (file, adapter)))
        {
            assert_eq!(in_file(adapter, |name| name == file), *file, "{adapter}");
        }
        // Where a file has two that could be meant, neither is.
        let both = |name: &str| name.starts_with("language_model.") || name.starts_with("model.language_model.");
        assert_eq!(in_file("model.layers.0.w", both), "model.layers.0.w");
    }

    #[test]
    fn what_is_written_has_the_names_of_today() {
        for (file, today) in [
            ("language_model.model.layers.0.w", "model.language_model.layers.0.w"),
            ("model.layers.0.w", "model.language_model.layers.0.w"),
            ("model.language_model.norm.w", "model.language_model.norm.w"),
            ("model.text_model.layers.0.w", "model.text_model.layers.0.w"),
            ("language_model.lm_head.weight", "lm_head.weight"),
            ("lm_head.weight", "lm_head.weight"),
            ("visual.blocks.0.w", "model.visual.blocks.0.w"),
            ("model.vision_tower.w", "model.vision_tower.w"),
            ("vision_tower.vision_model.w", "model.vision_tower.w"),
        ] {
            assert_eq!(of_today(file, true), today);
            assert_eq!(of_today(file, false), file);
        }
        assert_eq!(
            head_beside("language_model.model.embed_tokens.weight"),
            "language_model.lm_head.weight"
        );
        assert_eq!(
            head_beside("model.language_model.embed_tokens.weight"),
            "lm_head.weight"
        );
    }
}
