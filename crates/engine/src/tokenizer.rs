//! Text to tokens and back, as transformers' fast tokenizers do it, with the end-of-sequence tokens and the chat template.
//!
//! The `tokenizers` crate does the work; this file adds what transformers keeps beside `tokenizer.json`: the named special
//! tokens of `tokenizer_config.json`, the clean-up of spaces, and where end-of-sequence tokens are looked for.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::AddedToken;

use super::Error;
use super::chat::ChatTemplate;
use super::growth;
use super::spec::token_ids;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// Its text, without the template's marks.
    pub content: String,
}

impl Message {
    /// A message whose role the template has to know.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// The texts that make up a tokenizer; all but the first may be absent.
#[derive(Clone, Debug, Default)]
pub struct TokenizerFiles {
    /// Where they come from, for error messages.
    pub name: String,
    /// `tokenizer.json`, byte for byte.
    pub tokenizer_json: Vec<u8>,
    /// `tokenizer_config.json`: special tokens, and in older models the chat template.
    pub tokenizer_config: Option<Value>,
    /// `generation_config.json`: which tokens end a sequence.
    pub generation_config: Option<Value>,
    /// The model's `config.json`, which says so where the other does not.
    pub config: Option<Value>,
    /// `chat_template.jinja`, which goes before the one in `tokenizer_config.json`.
    pub chat_template: Option<String>,
}

/// A tokenizer with everything transformers would know about it.
pub struct Tokenizer {
    name: String,
    inner: tokenizers::Tokenizer,
    clean_up: bool,
    special: Vec<(String, String)>,
    eos_token_ids: Vec<u32>,
    chat: Option<ChatTemplate>,
}

/// The named special tokens of `tokenizer_config.json`.
const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

impl Tokenizer {
    /// Reads the tokenizer of a model directory.
    pub fn from_dir(dir: &Path) -> Result<Self, Error> {
        let tokenizer = dir.join("tokenizer.json");
        let fail = |file: PathBuf, reason: String| Error::Tokenizer {
            file: file.display().to_string(),
            reason,
        };
        let tokenizer_json = std::fs::read(&tokenizer).map_err(|e| {
            let way_out = "text needs a tokenizer: put the model's tokenizer.json there";
            fail(tokenizer.clone(), format!("{e}; {way_out}"))
        })?;
        let json = |file: &str| -> Result<Option<Value>, Error> {
            let path = dir.join(file);
            match std::fs::read(&path) {
                Ok(bytes) => serde_json::from_slice(&bytes)
                    .map(Some)
                    .map_err(|e| fail(path, e.to_string())),
                Err(_) => Ok(None),
            }
        };
        Self::new(TokenizerFiles {
            name: tokenizer.display().to_string(),
            tokenizer_json,
            tokenizer_config: json("tokenizer_config.json")?,
            generation_config: json("generation_config.json")?,
            config: json("config.json")?,
            chat_template: std::fs::read_to_string(dir.join("chat_template.jinja")).ok(),
        })
    }

    /// Builds a tokenizer from the texts of its files.
    pub fn new(files: TokenizerFiles) -> Result<Self, Error> {
        let fail = |reason: String| Error::Tokenizer {
            file: files.name.clone(),
            reason,
        };
        let mut inner = read(&files.tokenizer_json).map_err(fail)?;
        growth::check(&inner).map_err(fail)?;
        // Stored truncation and padding are for training; transformers resets both when it encodes.
        inner.with_truncation(None).map_err(|e| fail(e.to_string()))?;
        inner.with_padding(None);
        let empty = Value::Null;
        let config = files.tokenizer_config.as_ref().unwrap_or(&empty);
        let text_of = |v: &Value| {
            v.as_str()
                .or_else(|| v.get("content").and_then(Value::as_str))
                .map(String::from)
        };
        let special: Vec<(String, String)> = NAMED
            .iter()
            .filter_map(|name| Some((name.to_string(), text_of(config.get(*name)?)?)))
            .collect();
        let extra = ["additional_special_tokens", "extra_special_tokens"]
            .iter()
            .filter_map(|key| config.get(*key)?.as_array());
        let extra = extra.flatten().filter_map(text_of);
        let tokens = special
            .iter()
            .map(|(_, text)| text.clone())
            .chain(extra)
            .map(|text| AddedToken::from(text, true).normalized(false));
        inner
            .add_special_tokens(tokens.collect::<Vec<_>>())
            .map_err(|e| fail(e.to_string()))?;

        let eos = |source: &Option<Value>| token_ids(source.as_ref().and_then(|config| config.get("eos_token_id")));
        let named_eos = || {
            special
                .iter()
                .find(|(name, _)| name == "eos_token")
                .and_then(|(_, text)| inner.token_to_id(text))
        };
        let eos_token_ids = [
            eos(&files.generation_config),
            eos(&files.config),
            named_eos().into_iter().collect(),
        ];
        let eos_token_ids = eos_token_ids
            .into_iter()
            .find(|ids| !ids.is_empty())
            .unwrap_or_default();

        let is_bpe = matches!(inner.get_model(), tokenizers::ModelWrapper::BPE(_));
        let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
        // transformers 5 leaves BPE text alone, whatever the flag says, unless told twice.
        let clean_up = flag("clean_up_tokenization_spaces")
            && (!is_bpe || flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"));
        let chat = ChatTemplate::find(files.chat_template.as_deref(), config, &files.name)?;
        Ok(Tokenizer {
            name: files.name,
            inner,
            clean_up,
            special,
            eos_token_ids,
            chat,
        })
    }

    /// Tokens of a text; with special tokens, the tokenizer adds its own (a BOS token, say).
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, Error> {
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        encoding.map(|e| e.get_ids().to_vec()).map_err(|e| Error::Tokenizer {
            file: self.name.clone(),
            reason: e.to_string(),
        })
    }

    /// [`Self::encode`] of many texts, on all cores.
    pub fn encode_batch(&self, texts: &[&str], add_special_tokens: bool) -> Result<Vec<Vec<u32>>, Error> {
        use rayon::prelude::*;
        texts
            .par_iter()
            .map(|text| self.encode(text, add_special_tokens))
            .collect()
    }

    /// Tokens of a prompt, with what the tokenizer sets before and after it; one that opens with the BOS token's text, as chat
    /// templates write it, gets no second one.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, Error> {
        let bos = self.special_token("bos_token").filter(|bos| !bos.is_empty());
        self.encode(text, !bos.is_some_and(|bos| text.starts_with(bos)))
    }

    /// [`Self::encode_prompt`] of many prompts, on all cores.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_prompts(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>, Error> {
        use rayon::prelude::*;
        texts.par_iter().map(|text| self.encode_prompt(text)).collect()
    }

    /// Text of tokens, without special ones.
    pub fn decode(&self, ids: &[u32]) -> String {
        let text = self.inner.decode(ids, true).unwrap_or_default();
        if self.clean_up { clean_up_spaces(text) } else { text }
    }

    /// Tokens that end a sequence: `generation_config.json` before `config.json` before the tokenizer's own.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// The text of a named special token, such as `bos_token` or `eos_token`.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, text)| text.as_str())
    }

    /// The id of a token by its text; `None` of what would be several tokens.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// All tokens with their ids, added ones included.
    pub fn vocab(&self) -> std::collections::HashMap<String, u32> {
        self.inner.get_vocab(true)
    }

    /// Tokens, added ones included; a model's embeddings may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether [`Self::apply_chat_template`] has a template to render.
    pub fn has_chat_template(&self) -> bool {
        self.chat.is_some()
    }

    /// Renders a conversation with the model's chat template.
    ///
    /// **Errors** when there is no template, or when the template refuses (a system role it does not know, say).
    pub fn apply_chat_template(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Error> {
        self.apply_chat_template_with(messages, add_generation_prompt, &serde_json::Map::new())
    }

    /// [`Self::apply_chat_template`] with variables that the template may ask for, such as `enable_thinking`.
    ///
    /// # Errors
    /// As there.
    pub fn apply_chat_template_with(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        variables: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<String, Error> {
        let chat = self.chat.as_ref().ok_or_else(|| Error::NoChatTemplate {
            model: self.name.trim_end_matches("/tokenizer.json").into(),
        })?;
        chat.render_with(messages, add_generation_prompt, &self.special, variables)
            .map_err(|reason| Error::ChatTemplate {
                file: chat.file.clone(),
                reason,
            })
    }
}

fn clean_up_spaces(text: String) -> String {
    const REPLACED: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    REPLACED.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

/// The text of a growing list of tokens, decoded a few tokens at a time.
///
/// Good for looking for stop strings; the final text is decoded whole.
#[derive(Default)]
pub(super) struct TextStream {
    text: String,
    /// Tokens from here on are decoded together with a new one, because decoding depends on what is before it.
    context_from: usize,
    /// Tokens before this are in `text`.
    done: usize,
    /// Length of the text of `context_from..done`.
    context_len: usize,
}

impl TextStream {
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Takes the tokens so far; gives how many bytes of text they added.
    pub fn push(&mut self, tokenizer: &Tokenizer, ids: &[u32]) -> usize {
        let text = tokenizer.decode(&ids[self.context_from..]);
        // A replacement character at the end is a code point that is not complete yet.
        if text.len() <= self.context_len || text.ends_with('\u{FFFD}') || !text.is_char_boundary(self.context_len) {
            return 0;
        }
        let added = text.len() - self.context_len;
        self.text.push_str(&text[self.context_len..]);
        self.context_from = self.done;
        self.done = ids.len();
        self.context_len = tokenizer.decode(&ids[self.context_from..self.done]).len();
        added
    }
}

/// Token ids from here on are no model's; the library counts on from the highest that a file names.
const MOST_TOKENS: u64 = 1 << 24;

/// Reads a `tokenizer.json`. The library panics at some texts that are no JSON (a decoder that is cut short) and may at
/// others: a file is no reason to end the program.
fn read(text: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    let json: Value = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let added = json.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let vocabulary = json.pointer("/model/vocab").and_then(Value::as_object).into_iter();
    let own = vocabulary.flat_map(|vocabulary| vocabulary.values());
    let ids = added
        .filter_map(|token| token.get("id"))
        .chain(own)
        .filter_map(Value::as_u64);
    if let Some(id) = ids.max().filter(|id| *id >= MOST_TOKENS) {
        return Err(format!("a token has the id {id}, which no model's vocabulary reaches"));
    }
    let read = heterosis_unwind::caught(|| tokenizers::Tokenizer::from_bytes(text));
    let read = read.map_err(|_| "the tokenizers library cannot take it".to_owned())?;
    read.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dir: &Path) {
        let tokenizer = Tokenizer::from_dir(dir).unwrap();
        let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(dir.join("cases.json")).unwrap()).unwrap();
        for case in &cases {
            let ids = |key: &str| token_ids(case.get(key));
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids("ids"), "{text:?}");
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids("plain"), "{text:?}");
            assert_eq!(tokenizer.decode(&ids("ids")), case["decoded"], "{text:?}");
            // A stream says the same, but for a code point that never gets complete.
            let mut stream = TextStream::default();
            let plain = ids("plain");
            let added: usize = (1..=plain.len()).map(|n| stream.push(&tokenizer, &plain[..n])).sum();
            assert_eq!(added, stream.text().len());
            assert_eq!(stream.text(), tokenizer.decode(&plain), "{text:?}");
        }
    }

    fn dir() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizer")
    }

    #[test]
    fn texts_and_tokens_agree_with_transformers() {
        check(&dir());
        // Directories with a tokenizer and cases.json, to check more than the repository holds.
        let Ok(root) = std::env::var("HETEROSIS_GOLDENS") else {
            return;
        };
        let dirs = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
        dirs.filter(|dir| dir.join("cases.json").exists())
            .for_each(|dir| check(&dir));
    }

    #[test]
    fn end_of_sequence_tokens_come_from_the_first_file_that_names_one() {
        let json = std::fs::read(dir().join("tokenizer.json")).unwrap();
        let eos = |generation_config: Option<Value>, config: Option<Value>| {
            let tokenizer_config = Some(serde_json::json!({"eos_token": "</s>"}));
            let name = "t".to_string();
            let files = TokenizerFiles {
                name,
                tokenizer_json: json.clone(),
                tokenizer_config,
                generation_config,
                config,
                chat_template: None,
            };
            Tokenizer::new(files).unwrap().eos_token_ids().to_vec()
        };
        let named = |ids: Value| Some(serde_json::json!({"eos_token_id": ids}));
        assert_eq!(eos(named(serde_json::json!([5, 6])), named(7.into())), [5, 6]);
        assert_eq!(eos(named(Value::Null), named(7.into())), [7]);
        assert_eq!(eos(None, None), [1]);
        let tokenizer = Tokenizer::from_dir(&dir()).unwrap();
        assert_eq!(tokenizer.eos_token_ids(), [1, 2]);
        assert_eq!(
            (tokenizer.special_token("bos_token"), tokenizer.token_id("<pad>")),
            (Some("<s>"), Some(2))
        );
        assert_eq!(tokenizer.special_token("unk_token"), None);
    }

    #[test]
    fn a_missing_or_broken_tokenizer_says_which_file() {
        let missing = Tokenizer::from_dir(Path::new("/nonexistent"))
            .err()
            .unwrap()
            .to_string();
        assert!(
            missing.contains("/nonexistent/tokenizer.json") && missing.contains("text needs a tokenizer"),
            "{missing}"
        );
        let files = TokenizerFiles {
            name: "here".into(),
            tokenizer_json: b"{}".to_vec(),
            ..Default::default()
        };
        assert!(Tokenizer::new(files).err().unwrap().to_string().contains("here"));
        let tokenizer = Tokenizer::from_dir(&dir()).unwrap();
        assert!(matches!(
            tokenizer.apply_chat_template(&[], true),
            Err(Error::NoChatTemplate { .. })
        ));
    }

    #[test]
    fn spaces_are_cleaned_where_asked_for() {
        assert_eq!(
            clean_up_spaces("do n't stop , it 's 5 . 5 !".into()),
            "don't stop, it's 5. 5!"
        );
    }

    /// A tokenizer.json that was cut short within its decoder ended the program with a panic of the library's.
    #[test]
    fn a_tokenizer_that_is_cut_short_is_refused_in_words() {
        let json = std::fs::read(dir().join("tokenizer.json")).unwrap();
        for cut in (0..json.len()).step_by(json.len() / 400 + 1) {
            let files = TokenizerFiles {
                name: "t.json".into(),
                tokenizer_json: json[..cut].to_vec(),
                ..TokenizerFiles::default()
            };
            assert!(
                matches!(Tokenizer::new(files), Err(Error::Tokenizer { .. })),
                "cut at {cut}"
            );
        }
    }

    /// Whether a space stands before what follows a special token is what the file says (tokenizers 1613, transformers
    /// 45822): Llama 2's own puts one there, one with `prepend_scheme: first` only at the text's beginning.
    #[test]
    fn a_special_token_is_followed_by_what_the_file_says() {
        let ids = |normalizer: Value, pre_tokenizer: Value| {
            let json = serde_json::json!({
                "version": "1.0",
                "added_tokens": [{"id": 1, "content": "<s>", "special": true, "normalized": false, "single_word": false,
                    "lstrip": false, "rstrip": false}],
                "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null,
                "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
                    "vocab": {"<unk>": 0, "<s>": 1, "▁": 2, "a": 3, ":": 4, "-": 5, ">": 6, "▁a": 7, "->": 8},
                    "merges": ["▁ a", "- >"]},
            });
            let files = TokenizerFiles {
                tokenizer_json: json.to_string().into_bytes(),
                ..TokenizerFiles::default()
            };
            Tokenizer::new(files).unwrap().encode("a:<s>->", true).unwrap()
        };
        let metaspace = |scheme: &str| serde_json::json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        let llama_2 = serde_json::json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
        assert_eq!(ids(llama_2, Value::Null), [7, 4, 1, 2, 8], "▁a : <s> ▁ ->");
        assert_eq!(ids(Value::Null, metaspace("always")), [7, 4, 1, 2, 8]);
        assert_eq!(ids(Value::Null, metaspace("first")), [7, 4, 1, 8], "▁a : <s> ->");
        assert_eq!(ids(Value::Null, metaspace("never")), [3, 4, 1, 8]);
    }

    /// A token with the id 4294967295, added or of the vocabulary, made the library count beyond it: a panic.
    #[test]
    fn an_id_beyond_every_vocabulary_is_refused() {
        let whole: Value = serde_json::from_slice(&std::fs::read(dir().join("tokenizer.json")).unwrap()).unwrap();
        let (mut added, mut own) = (whole.clone(), whole);
        added["added_tokens"][0]["id"] = u32::MAX.into();
        let vocabulary = own["model"]["vocab"].as_object_mut().unwrap();
        *vocabulary.values_mut().next().unwrap() = u32::MAX.into();
        for json in [added, own] {
            let files = TokenizerFiles {
                tokenizer_json: json.to_string().into_bytes(),
                ..TokenizerFiles::default()
            };
            let error = Tokenizer::new(files).err().unwrap().to_string();
            assert!(error.contains("4294967295"), "{error}");
        }
    }
}
