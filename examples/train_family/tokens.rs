//! The family's tokenizer: one token a word, a digit or a punctuation mark, in the tokenizers crate's own format, so
//! that Rust and Python read it alike. A token carries the space before it, so decoding gives the text back exactly.

use std::collections::BTreeSet;
use std::str::FromStr;

use anyhow::{Error, Result};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::language;

pub const PAD: &str = "<pad>";
pub const EOS: &str = "<eos>";
pub const UNK: &str = "<unk>";
const SYMBOLS: [&str; 12] = ["####", "Q:", "A:", "+", "-", "*", "=", ";", ".", "?", "¿", ","];

/// Builds `tokenizer.json`.
pub fn build() -> Result<(Tokenizer, Value)> {
    let splitter = Tokenizer::from_str(&definition(&[]).to_string()).map_err(Error::msg)?;
    let mut words = BTreeSet::new();
    for fragment in language::all_fragments() {
        for token in pieces(&splitter, &fragment)? {
            words.insert(token);
        }
    }
    for digit in 0..10 {
        words.extend([digit.to_string(), format!("▁{digit}")]);
    }
    for symbol in SYMBOLS {
        words.extend([symbol.to_string(), format!("▁{symbol}")]);
    }
    words.insert("▁".to_string());
    let mut vocabulary: Vec<String> = [PAD, EOS, UNK].map(str::to_string).to_vec();
    vocabulary.extend(words);
    let json = definition(&vocabulary);
    Ok((Tokenizer::from_str(&json.to_string()).map_err(Error::msg)?, json))
}

/// The pre-tokenizer's pieces of a text.
fn pieces(splitter: &Tokenizer, text: &str) -> Result<Vec<String>> {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
    let mut pre = PreTokenizedString::from(text);
    if let Some(rule) = splitter.get_pre_tokenizer() {
        rule.pre_tokenize(&mut pre).map_err(Error::msg)?;
    }
    let splits = pre.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    Ok(splits.into_iter().map(|(piece, _, _)| piece.to_string()).collect())
}

fn definition(vocabulary: &[String]) -> Value {
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let vocabulary: serde_json::Map<String, Value> = if vocabulary.is_empty() {
        [PAD, EOS, UNK]
            .iter()
            .enumerate()
            .map(|(id, word)| (word.to_string(), json!(id)))
            .collect()
    } else {
        vocabulary
            .iter()
            .enumerate()
            .map(|(id, word)| (word.clone(), json!(id)))
            .collect()
    };
    let metaspace =
        |split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": split});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(0, PAD), special(1, EOS), special(2, UNK)],
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            metaspace(false),
            {"type": "Split", "behavior": "Isolated", "invert": false,
             "pattern": {"Regex": "▁?(?:####|[QA]:|[0-9]|[^▁0-9.,;:?¿]+|.)"}},
        ]},
        "post_processor": null,
        "decoder": metaspace(true),
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNK},
    })
}

/// `tokenizer_config.json`, as transformers reads it.
pub fn config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNK,
        "model_max_length": 512,
        "clean_up_tokenization_spaces": false,
        "padding_side": "left",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_gives_the_text_back() {
        let (tokenizer, _) = build().unwrap();
        let text = "Q: Tom tiene 22 juguetes. ¿Cuántos juguetes tiene Tom ahora? A: 22 + 5 = 27 ; 27 - 3 = 24 #### 24";
        let tokens = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(tokens.get_ids(), false).unwrap(), text);
        assert!(
            tokens
                .get_tokens()
                .iter()
                .all(|t| t.chars().filter(char::is_ascii_digit).count() < 2)
        );
    }
}
