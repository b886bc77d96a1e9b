//! The way back from `tokenizer.json` to a GGUF file's metadata: tokens, their types, merges, and how text is split.
//!
//! Only what llama.cpp does the same way goes: byte-level BPE with a split that it knows by name, and SentencePiece BPE with
//! byte fallback. Everything else is refused with a reason; and what was translated is translated back and compared on
//! texts, so that no file is written whose model reads other tokens than the original.
//!
//! Source: llama.cpp's convert_hf_to_gguf.py and gguf-py's vocab.py for the names and the token types.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use tokenizers::Tokenizer;

use super::gguf::{Metadata, Value};
use super::gguf_splits;
use super::gguf_tokenizer::{CONTROL, USER_DEFINED, tokenizer_json};

const NORMAL: i128 = 1;
const UNKNOWN: i128 = 2;
const UNUSED: i128 = 5;
const BYTE: i128 = 6;

/// Texts on which both tokenizers must agree, besides the vocabulary itself.
const TEXTS: [&str; 12] = [
    "The quick brown fox doesn't jump over 12345 lazy dogs.",
    "Question: A baker has 3 trays of 24 rolls (at $1.50 each).\nAnswer: 3 × 24 = 72 #### 72",
    " leading, trailing  and   several    spaces \t\ttabs\n\n\nlines\r\n",
    "¿Cuántas manzanas tiene María? Él compró diez; ella, 1.234,56.",
    "東京の人口は約1400万人です。ロジャーはボールを5個持っています。",
    "Сколько будет 7 · 8? Ответ — 56.",
    "ประเทศไทย ৪২টি আম తెలుగు العربية עברית",
    "naïve café e\u{301}tude ﬁ ½ ² Å",
    "👩‍🚀🚀 emoji, \u{200b}zero width and \u{a0}no-break",
    "def f(x):\n    return {'a': x**2, \"b\": [1,2,3]}  # it's we'll I'D",
    "ALL CAPS HELLO WORLD THEY'RE 007",
    "",
];

/// What a GGUF file's metadata say of a tokenizer, by key.
///
/// `rows` is the number of rows of the embedding, `config` the model's `config.json`.
pub(super) fn metadata(
    tokenizer: &str,
    tokenizer_config: Option<&str>,
    config: &Json,
    rows: usize,
) -> Result<Metadata, String> {
    let json: Json = serde_json::from_str(tokenizer).map_err(|e| format!("its tokenizer.json is not JSON: {e}"))?;
    let tokenizer_config: Json = match tokenizer_config {
        Some(text) => serde_json::from_str(text).map_err(|e| format!("its tokenizer_config.json is not JSON: {e}"))?,
        None => Json::Null,
    };
    let original: Tokenizer = tokenizer.parse().map_err(|e| format!("its tokenizer.json: {e}"))?;
    let source = Source {
        json: &json,
        settings: &tokenizer_config,
        config,
        original: &original,
    };
    let metadata = source.metadata(rows)?;
    source.compare(&metadata)?;
    Ok(metadata)
}

struct Source<'a> {
    json: &'a Json,
    settings: &'a Json,
    config: &'a Json,
    original: &'a Tokenizer,
}

/// How text is cut before the merges.
enum Split {
    /// llama.cpp's name of it.
    Bytes(&'static str),
    SentencePiece {
        prefix: bool,
    },
}

impl Source<'_> {
    fn metadata(&self, rows: usize) -> Result<Metadata, String> {
        let model = &self.json["model"];
        if model["type"] != "BPE" {
            return Err(format!(
                "its tokenizer is of the kind {}, which llama.cpp does not have for such models; only BPE is translated",
                model["type"]
            ));
        }
        let split = self.split()?;
        let (tokens, types) = self.tokens(rows, &split)?;
        let merges = self.merges()?;
        let mut entries: Vec<(&str, Value)> = Vec::new();
        match split {
            Split::Bytes(name) => {
                entries.push(("model", text("gpt2")));
                entries.push(("pre", text(name)));
            }
            Split::SentencePiece { prefix } => {
                entries.push(("model", text("llama")));
                entries.push(("pre", text("default")));
                entries.push(("add_space_prefix", Value::Bool(prefix)));
                entries.push(("scores", Value::List(scores(&tokens, &merges))));
            }
        }
        for (key, id) in self.roles(&tokens) {
            entries.push((key, Value::Int(id as i128)));
        }
        let ids = self.encode(self.original, "a")?;
        let begins = |key: &str, id: Option<&u32>| {
            let role = entries.iter().find(|(k, _)| *k == key).and_then(|(_, v)| v.usize());
            role.is_some() && role == id.map(|id| *id as usize)
        };
        let (bos, eos) = (begins("bos_token_id", ids.first()), begins("eos_token_id", ids.last()));
        entries.push(("add_bos_token", Value::Bool(bos)));
        entries.push(("add_eos_token", Value::Bool(eos)));
        entries.push(("tokens", Value::List(tokens.iter().map(|t| text(t)).collect())));
        entries.push(("token_type", Value::List(types.into_iter().map(Value::Int).collect())));
        let merges = merges.iter().map(|(a, b)| text(&format!("{a} {b}")));
        entries.push(("merges", Value::List(merges.collect())));
        let entries = entries
            .into_iter()
            .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value));
        Ok(entries.collect())
    }

    fn split(&self) -> Result<Split, String> {
        let (pre, normalizer) = (&self.json["pre_tokenizer"], &self.json["normalizer"]);
        let steps = match pre["type"].as_str() {
            Some("Sequence") => pre["pretokenizers"].as_array().cloned().unwrap_or_default(),
            Some(_) => vec![pre.clone()],
            None => Vec::new(),
        };
        let kinds: Vec<&str> = steps.iter().filter_map(|s| s["type"].as_str()).collect();
        let unknown = || {
            format!(
                "how its tokenizer splits text ({}) has no name in llama.cpp that is known here",
                kinds.join(", ")
            )
        };
        let is_nothing = normalizer["normalizers"].as_array().is_some_and(Vec::is_empty);
        let normalizes = normalizer["type"].as_str().filter(|_| !is_nothing).unwrap_or_default();
        let whole_words = self.json["model"]["ignore_merges"] == true;
        let split = match (kinds.as_slice(), steps.as_slice()) {
            // Gemma splits at spaces after it has replaced them all.
            (["Split"], [split]) if split["pattern"]["String"] == " " => {
                return self.sentence_piece(None).ok_or_else(unknown);
            }
            ([], _) | (["Metaspace"], _) => return self.sentence_piece(steps.first()).ok_or_else(unknown),
            _ => gguf_splits::of_steps(&steps, normalizes == "NFC", whole_words).ok_or_else(unknown)?,
        };
        let wanted = if split.composes { "NFC" } else { "" };
        match normalizes == wanted {
            true => Ok(Split::Bytes(split.name())),
            false => Err(format!(
                "its tokenizer normalises text by {normalizer}, which llama.cpp does not"
            )),
        }
    }

    /// SentencePiece's way, in either of the two forms that transformers gives it.
    fn sentence_piece(&self, step: Option<&Json>) -> Option<Split> {
        if self.json["model"]["byte_fallback"] != true {
            return None;
        }
        let normalizer = &self.json["normalizer"];
        match step {
            Some(step) if normalizer.is_null() && step["replacement"] == "▁" => match step["prepend_scheme"].as_str()
            {
                Some("first" | "always") => Some(Split::SentencePiece { prefix: true }),
                Some("never") => Some(Split::SentencePiece { prefix: false }),
                _ => None,
            },
            None => {
                let steps = normalizer["normalizers"]
                    .as_array()
                    .cloned()
                    .unwrap_or_else(|| vec![normalizer.clone()]);
                let prefix = steps.iter().any(|s| s["type"] == "Prepend" && s["prepend"] == "▁");
                let replaces = steps.iter().any(|s| s["type"] == "Replace" && s["content"] == "▁");
                (replaces && steps.len() == 1 + usize::from(prefix)).then_some(Split::SentencePiece { prefix })
            }
            Some(_) => None,
        }
    }

    /// The tokens by id, and llama.cpp's types; rows of the embedding that have no token are marked as unused.
    fn tokens(&self, rows: usize, split: &Split) -> Result<(Vec<String>, Vec<i128>), String> {
        let mut by_id: BTreeMap<usize, (String, i128)> = BTreeMap::new();
        let unknown = self.json["model"]["unk_token"].as_str();
        for (token, id) in self.json["model"]["vocab"].as_object().into_iter().flatten() {
            let id = id
                .as_u64()
                .ok_or_else(|| format!("the id of its token {token:?} is no number"))? as usize;
            let is_byte = matches!(split, Split::SentencePiece { .. })
                && token.len() == 6
                && token.starts_with("<0x")
                && token.ends_with('>');
            let kind = match is_byte {
                true => BYTE,
                false if Some(token.as_str()) == unknown => UNKNOWN,
                false => NORMAL,
            };
            by_id.insert(id, (token.clone(), kind));
        }
        for added in self.json["added_tokens"].as_array().into_iter().flatten() {
            let (Some(id), Some(token)) = (added["id"].as_u64(), added["content"].as_str()) else {
                return Err("one of its added tokens has no id or no text".into());
            };
            let kind = match added["special"] == true {
                true if Some(token) == unknown => UNKNOWN,
                true => CONTROL as i128,
                false => USER_DEFINED as i128,
            };
            by_id.insert(id as usize, (token.to_owned(), kind));
        }
        let end = by_id.last_key_value().map_or(0, |(id, _)| id + 1);
        if end > rows {
            return Err(format!(
                "its tokenizer has {end} tokens, its embedding only {rows} rows"
            ));
        }
        Ok((0..rows)
            .map(|id| by_id.remove(&id).unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED)))
            .unzip())
    }

    fn merges(&self) -> Result<Vec<(String, String)>, String> {
        let merges = self.json["model"]["merges"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let pair = |merge: &Json| {
            let (a, b) = match merge {
                Json::String(text) => text.split_once(' ')?,
                pair => (pair[0].as_str()?, pair[1].as_str()?),
            };
            // A space inside a part cannot be told from the one between the parts.
            (!a.contains(' ') && !b.contains(' ')).then(|| (a.to_owned(), b.to_owned()))
        };
        let merges: Option<Vec<_>> = merges.iter().map(pair).collect();
        merges.ok_or_else(|| "one of its merges is no pair of tokens".into())
    }

    /// The ids of the tokens with a role, by llama.cpp's key.
    fn roles(&self, tokens: &[String]) -> Vec<(&'static str, usize)> {
        let by_text = |token: &str| tokens.iter().position(|t| t == token);
        let named = |field: &str| {
            let setting = &self.settings[field];
            by_text(setting.as_str().or_else(|| setting["content"].as_str())?)
        };
        // A list names several ends; the first is the one that the model was trained with.
        let configured = |field: &str| {
            let setting = &self.config[field];
            setting.as_u64().or_else(|| setting[0].as_u64()).map(|id| id as usize)
        };
        [
            ("bos_token_id", "bos_token", "bos_token_id"),
            ("eos_token_id", "eos_token", "eos_token_id"),
            ("padding_token_id", "pad_token", "pad_token_id"),
            ("unknown_token_id", "unk_token", ""),
        ]
        .into_iter()
        .filter_map(|(key, token, id)| Some((key, named(token).or_else(|| configured(id))?)))
        .filter(|(_, id)| *id < tokens.len())
        .collect()
    }

    fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, String> {
        let encoding = tokenizer
            .encode(text, true)
            .map_err(|e| format!("its tokenizer fails on {text:?}: {e}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The tokenizer that a reader would make of the metadata, against the original.
    fn compare(&self, metadata: &Metadata) -> Result<(), String> {
        let back: Tokenizer = tokenizer_json(metadata)?
            .parse()
            .map_err(|e| format!("read back: {e}"))?;
        let mut texts: Vec<String> = TEXTS.map(String::from).to_vec();
        // A sample of the vocabulary, in words and side by side.
        let size = self.original.get_vocab_size(true) as u32;
        let ids: Vec<u32> = (0..size).step_by((size as usize / 2000).max(1)).collect();
        for ids in ids.chunks(5) {
            let decoded = self
                .original
                .decode(ids, false)
                .map_err(|e| format!("its tokenizer does not decode: {e}"))?;
            texts.push(decoded);
        }
        for text in &texts {
            let (ours, theirs) = (self.encode(&back, text)?, self.encode(self.original, text)?);
            if ours != theirs {
                return Err(format!(
                    "translated and read back, its tokenizer cuts {text:?} otherwise ({} tokens, not {})",
                    ours.len(),
                    theirs.len()
                ));
            }
        }
        Ok(())
    }
}

/// llama.cpp merges the pair whose token scores best, where BPE takes the earliest merge: so the first merge that makes a
/// token is its score, negated.
fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<Value> {
    let mut ranks: BTreeMap<String, usize> = BTreeMap::new();
    for (rank, (a, b)) in merges.iter().enumerate() {
        ranks.entry(format!("{a}{b}")).or_insert(rank + 1);
    }
    let score = |token: &String| Value::Float(-(ranks.get(token).copied().unwrap_or(0) as f64));
    tokens.iter().map(score).collect()
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn special(id: usize, token: &str) -> Json {
        serde_json::json!({"id": id, "content": token, "special": true, "normalized": false, "single_word": false,
            "lstrip": false, "rstrip": false})
    }

    fn at<'a>(metadata: &'a Metadata, key: &str) -> Option<&'a Value> {
        metadata.get(&format!("tokenizer.ggml.{key}"))
    }

    /// llama.cpp's converters took the end token by its name, added a BOS token that the model had never seen, and wrote too
    /// few tokens for a padded embedding (its issues 3966, 7271, 3454, 3583).
    #[test]
    fn roles_come_from_the_settings_and_rows_without_a_token_are_unused() {
        let tokenizer = serde_json::json!({
            "version": "1.0", "added_tokens": [special(3, "<|endoftext|>"), special(4, "<|im_end|>")],
            "normalizer": null, "post_processor": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2}, "merges": []},
        });
        let settings = serde_json::json!({"add_bos_token": false, "bos_token": null, "eos_token": "<|im_end|>"});
        let config = serde_json::json!({"eos_token_id": 3});
        let of = |settings: Option<&str>| metadata(&tokenizer.to_string(), settings, &config, 8).unwrap();
        let qwen = of(Some(&settings.to_string()));
        assert_eq!(
            at(&qwen, "eos_token_id"),
            Some(&Value::Int(4)),
            "its tokenizer_config's word, not config.json's"
        );
        assert_eq!(
            at(&of(None), "eos_token_id"),
            Some(&Value::Int(3)),
            "else config.json's, whatever it is called"
        );
        assert_eq!(at(&qwen, "add_bos_token"), Some(&Value::Bool(false)));
        assert_eq!(at(&qwen, "bos_token_id"), None);
        let Some(Value::List(tokens)) = at(&qwen, "tokens") else {
            panic!("{qwen:?}")
        };
        assert_eq!((tokens.len(), &tokens[5]), (8, &text("[PAD5]")));
        let types = [
            NORMAL,
            NORMAL,
            NORMAL,
            CONTROL as i128,
            CONTROL as i128,
            UNUSED,
            UNUSED,
            UNUSED,
        ];
        assert_eq!(
            at(&qwen, "token_type"),
            Some(&Value::List(types.map(Value::Int).to_vec()))
        );
        let short = metadata(&tokenizer.to_string(), None, &config, 4).unwrap_err();
        assert!(short.contains("5 tokens, its embedding only 4 rows"), "{short}");
    }

    /// A space before the first word is the tokenizer's affair, and the GGUF file must say the same (transformers 31630).
    #[test]
    fn the_space_before_a_text_is_what_the_tokenizer_says() {
        for (scheme, prefix) in [("first", true), ("never", false)] {
            let tokenizer = serde_json::json!({
                "version": "1.0", "added_tokens": [special(0, "<unk>")],
                "normalizer": null, "post_processor": null, "decoder": null,
                "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false},
                "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                    "vocab": {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3}, "merges": ["▁ a"]},
            });
            let settings = Some(r#"{"unk_token": "<unk>"}"#);
            let metadata = metadata(&tokenizer.to_string(), settings, &Json::Null, 4).unwrap();
            assert_eq!(
                at(&metadata, "add_space_prefix"),
                Some(&Value::Bool(prefix)),
                "{tokenizer}"
            );
        }
    }
}
