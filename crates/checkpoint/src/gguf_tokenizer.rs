//! The tokenizer that a GGUF file carries in its metadata, as the `tokenizer.json` and `tokenizer_config.json` that
//! transformers would make of it.
//!
//! Two kinds: byte-level BPE (`gpt2`), whose text is first split by a regular expression that the file names; and
//! SentencePiece BPE with byte fallback (`llama`), whose merges, if the file lacks them, follow from the scores. Where a file
//! does not say whether to begin with BOS, llama.cpp's rule holds.

use serde_json::{Map, Value as Json, json};

use super::gguf::{Metadata, Value};
use super::gguf_splits::{self, Split};

pub(super) const CONTROL: usize = 3;
pub(super) const USER_DEFINED: usize = 4;

/// A file's vocabulary, read for once.
struct Vocabulary<'a> {
    metadata: &'a Metadata,
    kind: &'a str,
    split: &'a str,
    tokens: Vec<&'a str>,
    types: Vec<usize>,
}

/// `tokenizer.json`, or why it cannot be made.
pub(super) fn tokenizer_json(metadata: &Metadata) -> Result<String, String> {
    let vocabulary = Vocabulary::read(metadata)?;
    let json = match vocabulary.kind {
        "gpt2" => vocabulary.byte_level()?,
        "llama" => vocabulary.sentence_piece()?,
        other => {
            return Err(format!(
                "its tokenizer is of the kind `{other}`; gpt2 and llama are known"
            ));
        }
    };
    Ok(json.to_string())
}

/// `tokenizer_config.json`: the special tokens by role, BOS and EOS, the chat template.
pub(super) fn tokenizer_config(metadata: &Metadata) -> Result<String, String> {
    let vocabulary = Vocabulary::read(metadata)?;
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    for (role, key) in [
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("unk_token", "unknown"),
        ("pad_token", "padding"),
    ] {
        if let Some((_, token)) = vocabulary.special(key) {
            config.insert(role.into(), token.into());
        }
    }
    config.insert("add_bos_token".into(), vocabulary.adds_bos().into());
    config.insert("add_eos_token".into(), vocabulary.adds_eos().into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    if let Some(template) = chat_template(metadata) {
        config.insert("chat_template".into(), template.into());
    }
    Ok(format!("{:#}\n", Json::Object(config)))
}

/// The chat template that the file carries.
pub(super) fn chat_template(metadata: &Metadata) -> Option<&str> {
    metadata.get("tokenizer.chat_template").and_then(Value::text)
}

/// `generation_config.json`: where a sequence begins, and every token that ends it.
pub(super) fn generation_config(metadata: &Metadata) -> String {
    let id = |key: &str| {
        metadata
            .get(&format!("tokenizer.ggml.{key}_token_id"))
            .and_then(Value::usize)
    };
    let mut ends: Vec<usize> = ["eos", "eot"].into_iter().filter_map(id).collect();
    ends.dedup();
    let mut config = Map::new();
    if let Some(bos) = id("bos") {
        config.insert("bos_token_id".into(), bos.into());
    }
    match ends.as_slice() {
        [] => {}
        [end] => drop(config.insert("eos_token_id".into(), (*end).into())),
        several => drop(config.insert("eos_token_id".into(), several.into())),
    }
    format!("{:#}\n", Json::Object(config))
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata) -> Result<Self, String> {
        let text = |key: &str| metadata.get(key).and_then(Value::text);
        let kind = text("tokenizer.ggml.model").ok_or("it carries no tokenizer")?;
        let tokens = metadata
            .get("tokenizer.ggml.tokens")
            .and_then(Value::list)
            .ok_or("it carries no vocabulary")?;
        let tokens: Option<Vec<&str>> = tokens.iter().map(Value::text).collect();
        let types = metadata
            .get("tokenizer.ggml.token_type")
            .and_then(Value::list)
            .unwrap_or_default();
        Ok(Self {
            metadata,
            kind,
            split: text("tokenizer.ggml.pre").unwrap_or("default"),
            tokens: tokens.ok_or("its vocabulary is not a list of texts")?,
            types: types.iter().map(|value| value.usize().unwrap_or(0)).collect(),
        })
    }

    fn byte_level(&self) -> Result<Json, String> {
        let alphabet = byte_alphabet();
        let spelled = |token: &str| token.chars().all(|c| alphabet.contains(&c));
        let vocabulary: Map<String, Json> = self
            .tokens
            .iter()
            .enumerate()
            .map(|(id, token)| match spelled(token) {
                true => ((*token).to_owned(), id.into()),
                false => (
                    token.bytes().map(|byte| alphabet[usize::from(byte)]).collect(),
                    id.into(),
                ),
            })
            .collect();
        // A "control" token outside the byte alphabet is a mislabelled ordinary one.
        let added = self.added_tokens(spelled);
        let merges = self.merges()?.ok_or("its byte-level vocabulary comes without merges")?;
        let split = self.known_split().unwrap_or_else(|| {
            tracing::warn!(
                "how the tokenizer `{}` of this GGUF file splits text is not known; GPT-2's way is taken, which may cut some texts \
                 otherwise. A tokenizer.json from the model's source is the safe choice.",
                self.split
            );
            &gguf_splits::GPT2
        });
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": if split.composes { json!({"type": "NFC"}) } else { Json::Null },
            "pre_tokenizer": split.pre_tokenizer(),
            "post_processor": self.template(),
            "decoder": gguf_splits::bytes(true),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": split.takes_whole_words,
                "vocab": vocabulary, "merges": merges,
            },
        }))
    }

    fn sentence_piece(&self) -> Result<Json, String> {
        let vocabulary: Map<String, Json> = self
            .tokens
            .iter()
            .enumerate()
            .map(|(id, token)| ((*token).to_owned(), id.into()))
            .collect();
        let merges = match self.merges()? {
            Some(merges) => merges,
            None => self.merges_from_scores(&vocabulary)?,
        };
        let prefix = self.flag("add_space_prefix").unwrap_or(true);
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let scheme = if prefix { "first" } else { "never" };
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(|_| true),
            "normalizer": null,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false},
            "post_processor": self.template(),
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": self.special("unknown").map(|(_, token)| token),
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
                "ignore_merges": false, "vocab": vocabulary, "merges": merges,
            },
        }))
    }

    /// The merges that the file lists, as pairs.
    fn merges(&self) -> Result<Option<Vec<Json>>, String> {
        let Some(list) = self.metadata.get("tokenizer.ggml.merges").and_then(Value::list) else {
            return Ok(None);
        };
        let pair = |merge: &Value| {
            let (left, right) = merge.text()?.split_once(' ')?;
            Some(json!([left, right]))
        };
        list.iter()
            .map(pair)
            .collect::<Option<_>>()
            .map(Some)
            .ok_or_else(|| "one of its merges is no pair".to_owned())
    }

    /// Every way in which a token is two others, the best-scored token first; ties by the longer left, then right part.
    fn merges_from_scores(&self, vocabulary: &Map<String, Json>) -> Result<Vec<Json>, String> {
        let scores = self
            .metadata
            .get("tokenizer.ggml.scores")
            .and_then(Value::list)
            .unwrap_or_default();
        let scores: Vec<f64> = scores.iter().filter_map(Value::float).collect();
        if scores.len() != self.tokens.len() || scores.iter().any(|score| score.is_nan()) {
            return Err("its vocabulary comes with neither merges nor scores".to_owned());
        }
        let id = |piece: &str| vocabulary.get(piece).and_then(Json::as_u64);
        let mut merges: Vec<(f64, usize, usize, &str, &str)> = Vec::new();
        for (token, score) in self.tokens.iter().zip(&scores) {
            let mut ways: Vec<_> = token
                .char_indices()
                .skip(1)
                .enumerate()
                .filter_map(|(k, (at, _))| {
                    let (left, right) = token.split_at(at);
                    Some((
                        (id(left)?, id(right)?),
                        (*score, k + 1, right.chars().count(), left, right),
                    ))
                })
                .collect();
            ways.sort_by_key(|(ids, _)| *ids);
            merges.extend(ways.into_iter().map(|(_, way)| way));
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((b.1, b.2).cmp(&(a.1, a.2))));
        Ok(merges
            .into_iter()
            .map(|(_, _, _, left, right)| json!([left, right]))
            .collect())
    }

    /// Control tokens and those with a role are special; user-defined ones are matched whole, but are text.
    fn added_tokens(&self, allowed: impl Fn(&str) -> bool) -> Vec<Json> {
        let roles: Vec<usize> = ["bos", "eos", "unknown", "padding"]
            .into_iter()
            .filter_map(|key| Some(self.special(key)?.0))
            .collect();
        let of_type = |id: usize| self.types.get(id).copied().unwrap_or(0);
        self.tokens
            .iter()
            .enumerate()
            .filter(|(id, token)| {
                roles.contains(id) || ([CONTROL, USER_DEFINED].contains(&of_type(*id)) && allowed(token))
            })
            .map(|(id, token)| {
                let special = roles.contains(&id) || of_type(id) == CONTROL;
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                })
            })
            .collect()
    }

    /// What is put around a text: BOS, EOS, or nothing.
    fn template(&self) -> Json {
        let bos = self.special("bos").filter(|_| self.adds_bos());
        let eos = self.special("eos").filter(|_| self.adds_eos());
        let special = |token: Option<(usize, &str)>, kind: u32| {
            token.map(|(_, token)| json!({"SpecialToken": {"id": token, "type_id": kind}}))
        };
        let around = |name: &str, kind: u32| -> Vec<Json> {
            let text = json!({"Sequence": {"id": name, "type_id": kind}});
            special(bos, kind)
                .into_iter()
                .chain([text])
                .chain(special(eos, kind))
                .collect()
        };
        let used: Map<String, Json> = [bos, eos]
            .into_iter()
            .flatten()
            .map(|(id, token)| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
            .collect();
        let pair: Vec<Json> = around("A", 0).into_iter().chain(around("B", 1)).collect();
        json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": used})
    }

    fn adds_bos(&self) -> bool {
        self.flag("add_bos_token")
            .unwrap_or(self.kind == "llama" || self.known_split().is_some_and(|split| split.begins_with_bos))
    }

    fn known_split(&self) -> Option<&'static Split> {
        gguf_splits::find(self.split)
    }

    fn adds_eos(&self) -> bool {
        self.flag("add_eos_token").unwrap_or(false)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.metadata
            .get(&format!("tokenizer.ggml.{key}"))
            .and_then(Value::bool)
    }

    /// The id and text of the token with a role.
    fn special(&self, key: &str) -> Option<(usize, &'a str)> {
        let id = self
            .metadata
            .get(&format!("tokenizer.ggml.{key}_token_id"))
            .and_then(Value::usize)?;
        self.tokens.get(id).map(|token| (id, *token))
    }
}

/// GPT-2's spelling of the 256 bytes: printable ones as themselves, the others from U+0100 on.
fn byte_alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let byte = byte as u32;
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable {
            byte
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).expect("below the surrogates")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokenizers::Tokenizer;

    use super::super::Checkpoint;
    use super::super::gguf::tests::golden;
    use super::*;

    #[test]
    fn sentence_piece_ids_are_those_of_transformers() {
        let checkpoint = Checkpoint::open(&golden("plain.gguf")).unwrap();
        let tokenizer: Tokenizer = checkpoint.tokenizer_json().unwrap().unwrap().parse().unwrap();
        let texts: Json = serde_json::from_slice(&fs::read(golden("texts.json")).unwrap()).unwrap();
        for row in texts.as_array().unwrap() {
            let encoding = tokenizer.encode(row["text"].as_str().unwrap(), true).unwrap();
            assert_eq!(json!(encoding.get_ids()), row["ids"], "{}", row["text"]);
            assert_eq!(
                tokenizer.decode(encoding.get_ids(), false).unwrap(),
                row["decoded"].as_str().unwrap()
            );
        }
        let config: Json =
            serde_json::from_str(&checkpoint.side_text("tokenizer_config.json").unwrap().unwrap()).unwrap();
        assert_eq!(
            (&config["bos_token"], &config["add_bos_token"]),
            (&json!("<s>"), &json!(true))
        );
    }

    /// A byte-level vocabulary: the bytes, then `merged`, one control and one user-defined token.
    fn byte_level(split: &str, merged: &[&str], merges: &[&str]) -> Metadata {
        let text = |s: &str| Value::Text(s.to_owned());
        let mut tokens: Vec<String> = byte_alphabet().iter().map(char::to_string).collect();
        tokens.extend(merged.iter().map(|s| (*s).to_owned()));
        tokens.extend(["<|end|>".to_owned(), "<think>".to_owned()]);
        let mut types = vec![1; tokens.len()];
        let count = types.len();
        (types[count - 2], types[count - 1]) = (3, 4);
        let entries = [
            ("model", text("gpt2")),
            ("pre", text(split)),
            ("tokens", Value::List(tokens.iter().map(|s| text(s)).collect())),
            ("token_type", Value::List(types.into_iter().map(Value::Int).collect())),
            ("merges", Value::List(merges.iter().map(|s| text(s)).collect())),
            ("bos_token_id", Value::Int(count as i128 - 2)),
            ("eot_token_id", Value::Int(7)),
            ("eos_token_id", Value::Int(count as i128 - 2)),
        ];
        entries
            .into_iter()
            .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value))
            .collect()
    }

    fn tokens(metadata: &Metadata, text: &str) -> Vec<String> {
        let tokenizer: Tokenizer = tokenizer_json(metadata).unwrap().parse().unwrap();
        let encoding = tokenizer.encode(text, true).unwrap();
        assert_eq!(
            tokenizer.decode(encoding.get_ids(), true).unwrap(),
            text.replace("<|end|>", "")
        );
        encoding.get_tokens().to_vec()
    }

    #[test]
    fn byte_level_texts_are_split_as_their_file_says() {
        let metadata = |split| byte_level(split, &["11", "111", "ab"], &["1 1", "11 1", "a b"]);
        // GPT-2 lets digits meet, and merges 1 1 before 11 1; Llama 3 cuts them by three, takes 111 as the whole word that
        // it is, and begins with BOS; Qwen2 keeps them apart.
        assert_eq!(
            tokens(&metadata("gpt-2"), "ab1111 é"),
            ["ab", "11", "11", "Ġ", "Ã", "©"]
        );
        assert_eq!(tokens(&metadata("llama-bpe"), "ab1111"), ["<|end|>", "ab", "111", "1"]);
        assert_eq!(tokens(&metadata("qwen2"), "ab1111"), ["ab", "1", "1", "1", "1"]);
        assert_eq!(tokens(&metadata("tekken"), "ab11"), ["<|end|>", "ab", "1", "1"]);
        assert_eq!(tokens(&metadata("smollm"), "ab11"), ["ab", "1", "1"]);
        assert_eq!(tokens(&metadata("unheard-of"), "ab11"), ["ab", "11"]);
        assert_eq!(
            tokens(&metadata("gpt-2"), "a<think>b<|end|>"),
            ["a", "<think>", "b", "<|end|>"]
        );
    }

    #[test]
    fn what_ends_a_sequence_is_told() {
        let metadata = byte_level("gpt-2", &[], &[]);
        let config: Json = serde_json::from_str(&generation_config(&metadata)).unwrap();
        assert_eq!(config, json!({"bos_token_id": 256, "eos_token_id": [256, 7]}));
        let config: Json = serde_json::from_str(&tokenizer_config(&metadata).unwrap()).unwrap();
        assert_eq!(
            (&config["eos_token"], &config["add_bos_token"]),
            (&json!("<|end|>"), &json!(false))
        );
    }

    #[test]
    fn vocabularies_that_lack_something_are_refused() {
        assert!(tokenizer_json(&Metadata::new()).is_err());
        let spoil = |key: &str, value: Option<Value>| {
            let mut metadata = byte_level("gpt-2", &[], &["a b"]);
            metadata.remove(&format!("tokenizer.ggml.{key}"));
            metadata.extend(value.map(|value| (format!("tokenizer.ggml.{key}"), value)));
            tokenizer_json(&metadata)
        };
        assert!(spoil("tokens", None).is_err());
        assert!(spoil("merges", None).is_err());
        assert!(spoil("merges", Some(Value::List(vec![Value::Text("ab".into())]))).is_err());
        assert!(spoil("tokens", Some(Value::List(vec![Value::Int(1)]))).is_err());
        assert!(spoil("model", Some(Value::Text("wpm".into()))).is_err());
        assert!(
            spoil("model", Some(Value::Text("llama".into()))).is_ok(),
            "merges suffice"
        );
        assert!(spoil("bos_token_id", Some(Value::Int(-1))).is_ok());
        assert!(spoil("bos_token_id", Some(Value::Int(1 << 70))).is_ok());
    }
}
