//! A SentencePiece `tokenizer.model`, as the `tokenizer.json` that transformers makes of it: the only tokenizer of many
//! checkpoints of 2023.
//!
//! Only BPE without a normaliser (Llama, Mistral, Yi, Gemma and those after them); unigram models and character maps are
//! refused. The pieces become the metadata that a GGUF file would carry, and go the way of its tokenizer from there; tokens
//! that were added later stand in `tokenizer_config.json` and `added_tokens.json`.
//!
//! Source: sentencepiece_model.proto for the fields; transformers 5.24's LlamaTokenizer for what is made of them.

use serde_json::{Value as Json, json};

use super::gguf::{Metadata, Value};
use super::gguf_tokenizer;

/// `tokenizer.json`, or why it cannot be made. `settings` is `tokenizer_config.json`, `added` is `added_tokens.json`.
pub(super) fn tokenizer_json(model: &[u8], settings: &Json, added: &Json) -> Result<String, String> {
    let proto = Proto::read(model)?;
    let flag = |key: &str| settings.get(key).and_then(Json::as_bool);
    // Where nothing is said, as transformers 4 did and 5 documents: models of this kind begin with BOS.
    let adds_bos = flag("add_bos_token").unwrap_or(true);
    let adds_eos = flag("add_eos_token").unwrap_or(false);
    let json = gguf_tokenizer::tokenizer_json(&proto.metadata(adds_bos, adds_eos))?;
    let mut json: Json = serde_json::from_str(&json).map_err(|e| e.to_string())?;
    // Older tokenizers put a space before every stretch between special tokens, not only before the first.
    if flag("legacy") == Some(true) && json["pre_tokenizer"]["prepend_scheme"] == "first" {
        json["pre_tokenizer"]["prepend_scheme"] = "always".into();
    }
    add_tokens(&mut json, settings, added);
    Ok(json.to_string())
}

/// Tokens that came after training: `added_tokens_decoder` says all of them, `added_tokens.json` their numbers only.
fn add_tokens(json: &mut Json, settings: &Json, added: &Json) {
    let mut known: Vec<Json> = json["added_tokens"].as_array().cloned().unwrap_or_default();
    let mut put = |token: Json| {
        known.retain(|other| other["id"] != token["id"]);
        known.push(token);
    };
    for (content, id) in added.as_object().into_iter().flatten() {
        put(
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": true, "special": false}),
        );
    }
    for (id, token) in settings["added_tokens_decoder"].as_object().into_iter().flatten() {
        let flag = |key: &str, default: bool| token[key].as_bool().unwrap_or(default);
        if let (Ok(id), Some(content)) = (id.parse::<u64>(), token["content"].as_str()) {
            let special = flag("special", false);
            put(
                json!({"id": id, "content": content, "single_word": flag("single_word", false),
                "lstrip": flag("lstrip", false), "rstrip": flag("rstrip", false),
                "normalized": flag("normalized", !special), "special": special}),
            );
        }
    }
    known.sort_by_key(|token| token["id"].as_u64());
    json["added_tokens"] = known.into();
}

/// What a model file says, as far as it is needed.
struct Proto {
    pieces: Vec<Piece>,
    unknown: Option<usize>,
    bos: Option<usize>,
    eos: Option<usize>,
    pad: Option<usize>,
    adds_prefix: bool,
}

struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

impl Proto {
    fn read(model: &[u8]) -> Result<Self, String> {
        const BPE: u64 = 2;
        let mut proto = Proto {
            pieces: Vec::new(),
            unknown: Some(0),
            bos: Some(1),
            eos: Some(2),
            pad: None,
            adds_prefix: true,
        };
        let mut kind = 1;
        for field in Fields(model) {
            match field? {
                (1, Field::Bytes(piece)) => proto.pieces.push(Piece::read(piece)?),
                (2, Field::Bytes(trainer)) => {
                    for field in Fields(trainer) {
                        match field? {
                            (3, Field::Number(n)) => kind = n,
                            (40, Field::Number(n)) => proto.unknown = id(n),
                            (41, Field::Number(n)) => proto.bos = id(n),
                            (42, Field::Number(n)) => proto.eos = id(n),
                            (43, Field::Number(n)) => proto.pad = id(n),
                            _ => {}
                        }
                    }
                }
                (3, Field::Bytes(normalizer)) => proto.normalizer(normalizer)?,
                _ => {}
            }
        }
        if proto.pieces.is_empty() {
            return Err("it holds no pieces; it is no SentencePiece model".into());
        }
        match kind {
            BPE => Ok(proto),
            _ => Err(
                "its SentencePiece model is none of BPE; unigram models are not read, and need a tokenizer.json".into(),
            ),
        }
    }

    fn normalizer(&mut self, normalizer: &[u8]) -> Result<(), String> {
        for field in Fields(normalizer) {
            match field? {
                (2, Field::Bytes(map)) if !map.is_empty() => {
                    return Err(
                        "its SentencePiece model normalises text by a map of characters, which is not read".into(),
                    );
                }
                (3, Field::Number(n)) => self.adds_prefix = n != 0,
                _ => {}
            }
        }
        Ok(())
    }

    /// As a GGUF file would carry it.
    fn metadata(&self, adds_bos: bool, adds_eos: bool) -> Metadata {
        let list = |of: &dyn Fn(&Piece) -> Value| Value::List(self.pieces.iter().map(of).collect());
        let mut entries = vec![
            ("model", Value::Text("llama".into())),
            ("tokens", list(&|piece| Value::Text(piece.text.clone()))),
            ("scores", list(&|piece| Value::Float(f64::from(piece.score)))),
            ("token_type", list(&|piece| Value::Int(i128::from(piece.kind)))),
            ("add_space_prefix", Value::Bool(self.adds_prefix)),
            ("add_bos_token", Value::Bool(adds_bos)),
            ("add_eos_token", Value::Bool(adds_eos)),
        ];
        let roles = [
            ("unknown_token_id", self.unknown),
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
            ("padding_token_id", self.pad),
        ];
        for (key, id) in roles {
            entries.extend(id.map(|id| (key, Value::Int(id as i128))));
        }
        let named = entries.into_iter();
        named
            .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value))
            .collect()
    }
}

impl Piece {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut piece = Piece {
            text: String::new(),
            score: 0.0,
            kind: 1,
        };
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(text)) => {
                    piece.text = String::from_utf8(text.to_vec()).map_err(|_| "one of its pieces is no UTF-8")?;
                }
                (2, Field::Word(bits)) => piece.score = f32::from_bits(bits),
                (3, Field::Number(kind)) => piece.kind = kind,
                _ => {}
            }
        }
        Ok(piece)
    }
}

/// An int32 that is an id; -1 says that there is none.
fn id(n: u64) -> Option<usize> {
    usize::try_from(n as i64).ok()
}

/// The value of a field of a protocol buffer.
enum Field<'a> {
    Number(u64),
    Word(u32),
    Bytes(&'a [u8]),
}

/// The fields of a message, with their numbers; after a fault there is no more.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => Field::Bytes(self.take(8)?),
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(len)?)
            }
            5 => Field::Word(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "it is cut short or damaged".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use tokenizers::Tokenizer;

    use super::super::Checkpoint;
    use super::*;

    fn data() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sentencepiece")
    }

    /// Many 7B models of 2023 have a `tokenizer.model` and nothing else; they had to be converted by somebody.
    #[test]
    fn ids_are_those_of_transformers() {
        let cases: Json = serde_json::from_slice(&fs::read(data().join("texts.json")).unwrap()).unwrap();
        let model = fs::read(data().join("tokenizer.model")).unwrap();
        for case in cases.as_array().unwrap() {
            let json = tokenizer_json(&model, &case["settings"], &case["added"]).unwrap();
            let tokenizer: Tokenizer = json.parse().unwrap();
            for row in case["texts"].as_array().unwrap() {
                let text = row["text"].as_str().unwrap();
                let encoding = tokenizer.encode(text, true).unwrap();
                assert_eq!(json!(encoding.get_ids()), row["ids"], "{}: {text:?}", case["settings"]);
                let decoded = tokenizer.decode(encoding.get_ids(), false).unwrap();
                assert_eq!(decoded, row["decoded"].as_str().unwrap(), "{text:?}");
            }
        }
    }

    #[test]
    fn a_directory_with_a_model_file_alone_has_a_tokenizer() {
        let dir = tempfile::tempdir().unwrap();
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/lora/base");
        for name in ["config.json", "model.safetensors"] {
            fs::copy(base.join(name), dir.path().join(name)).unwrap();
        }
        let checkpoint = || Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint().tokenizer_json().unwrap(), None);
        fs::copy(data().join("tokenizer.model"), dir.path().join("tokenizer.model")).unwrap();
        assert!(checkpoint().tokenizer_json().unwrap().unwrap().contains("\"BPE\""));
        // tokenizer.json is what transformers takes where there are both.
        fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        assert_eq!(checkpoint().tokenizer_json().unwrap().unwrap(), "{}");
        fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
        fs::write(dir.path().join("tokenizer.model"), "not one").unwrap();
        let error = checkpoint().tokenizer_json().unwrap_err().to_string();
        assert!(error.contains("tokenizer.model"), "{error}");
    }

    #[test]
    fn damaged_and_foreign_models_are_refused_in_words() {
        let model = fs::read(data().join("tokenizer.model")).unwrap();
        for len in [1, 2, 10, model.len() / 2, model.len() - 1] {
            let _ = tokenizer_json(&model[..len], &Json::Null, &Json::Null);
        }
        let refused = |model: &[u8]| tokenizer_json(model, &Json::Null, &Json::Null).unwrap_err();
        assert!(refused(&[]).contains("no pieces"));
        assert!(refused(&[0x0a, 0xff]).contains("cut short"));
        // A length of 2^63: no memory is asked for by it.
        assert!(refused(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).contains("cut short"));
        // One piece "a", and no trainer: unigram is the default.
        assert!(refused(&[0x0a, 0x03, 0x0a, 0x01, b'a']).contains("unigram"));
        // The same of BPE, with a map of characters.
        assert!(
            refused(&[
                0x0a, 0x03, 0x0a, 0x01, b'a', 0x12, 0x02, 0x18, 0x02, 0x1a, 0x03, 0x12, 0x01, 0x00
            ])
            .contains("map")
        );
    }
}
