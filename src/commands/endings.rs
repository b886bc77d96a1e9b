//! Whether a child would stop where its parents stop: it takes tokenizer, config and chat template from one of them, and
//! weights from all.
//!
//! A base and its chat model often end with different tokens (Qwen2.5: 151643 and 151645). A child with the weights of the
//! one and the settings of the other writes on after its answer (mergekit #589).

use crate::{
    model::Tokenizer,
    models::{Parents, tokenizer_files},
};

/// How one model ends, and how it is spoken to.
struct Ending {
    name: String,
    /// Tokens that end a text.
    tokens: Vec<u32>,
    has_chat_template: bool,
}

/// What the child's `donor` of settings does not know of the other models. Models without a tokenizer are passed over.
pub fn warnings(parents: &Parents, donor: &str) -> Vec<String> {
    let ending = |name: &str| {
        let tokenizer = Tokenizer::new(tokenizer_files(parents.checkpoint(name)?).ok()?).ok()?;
        Some(Ending {
            name: name.into(),
            tokens: tokenizer.eos_token_ids().to_vec(),
            has_chat_template: tokenizer.has_chat_template(),
        })
    };
    let Some(donor) = ending(donor) else { return Vec::new() };
    let others = parents.iter().filter(|(name, _)| *name != donor.name);
    others
        .filter_map(|(name, _)| ending(name))
        .flat_map(|other| differences(&donor, &other))
        .collect()
}

fn differences(donor: &Ending, other: &Ending) -> Vec<String> {
    let mut warnings = Vec::new();
    let unknown: Vec<String> = other
        .tokens
        .iter()
        .filter(|t| !donor.tokens.contains(t))
        .map(u32::to_string)
        .collect();
    let way_out = format!(
        "take them from '{}' (a space's tokenizer:, a recipe's tokenizer_source:), or name both tokens in its \
         generation_config.json",
        other.name
    );
    if !unknown.is_empty() {
        warnings.push(format!(
            "'{}' ends its texts with token {}, which ends none of '{}', whose settings the child takes: the child may \
             write on after its answer; {way_out}",
            other.name,
            unknown.join(", "),
            donor.name
        ));
    }
    if other.has_chat_template && !donor.has_chat_template {
        warnings.push(format!(
            "'{}' has a chat template, and '{}', whose settings the child takes, has none: the child cannot be spoken to as \
             '{}' is",
            other.name, donor.name, other.name
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(name: &str, tokens: &[u32], has_chat_template: bool) -> Ending {
        Ending {
            name: name.into(),
            tokens: tokens.to_vec(),
            has_chat_template,
        }
    }

    /// A child of a base and its chat model never stopped, and nothing had told it (mergekit #589, Qwen #927).
    #[test]
    fn a_child_that_would_not_stop_is_told() {
        let (base, chat) = (
            ending("base", &[151643], false),
            ending("chat", &[151645, 151643], true),
        );
        let told = differences(&base, &chat);
        assert_eq!(told.len(), 2);
        assert!(
            told[0].contains("token 151645,") && told[0].contains("from 'chat'"),
            "{told:?}"
        );
        assert!(told[1].contains("chat template"), "{told:?}");
        assert!(differences(&chat, &base).is_empty());
        assert!(differences(&base, &ending("maths", &[151643], false)).is_empty());
    }
}
