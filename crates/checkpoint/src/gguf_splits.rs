//! How byte-level tokenizers cut a text before they merge, by llama.cpp's names for it (`tokenizer.ggml.pre`).
//!
//! A split is a sequence of steps, each of which cuts the pieces that the one before it left. The steps are those of the models' own
//! `tokenizer.json`: llama.cpp writes some of them otherwise for its regular expressions (`(?i:'s)` as `'[sS]`, and digits that no
//! token joins in one piece), and the tokens are the same.
//!
//! Source: llama.cpp's llama-vocab.cpp for the names; where transformers 5.24 has them too (`integrations/gguf`), its expressions.

use serde_json::{Value as Json, json};

/// A way to cut texts.
#[derive(Debug)]
pub(super) struct Split {
    /// llama.cpp's names of it, first the one that is written.
    names: &'static [&'static str],
    steps: &'static [Step],
    /// Whether the last step, which turns bytes into letters, cuts GPT-2's way first.
    as_gpt2: bool,
    /// Whether texts are composed first (NFC). llama.cpp does not do that; the models' own tokenizers do.
    pub composes: bool,
    /// Whether a word that is a token is that token, whatever the merges make of it.
    pub takes_whole_words: bool,
    /// Whether a text begins with BOS where the file does not say.
    pub begins_with_bos: bool,
}

/// What cuts out of a text all that an expression matches, or each digit.
#[derive(Debug, PartialEq)]
enum Step {
    Regex(&'static str),
    Digits,
}

use Step::{Digits, Regex};

const LLAMA3_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN_WORDS: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O_WORDS: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3_WORDS: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const BLOOM_WORDS: &str = " ?[^(\\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+";
/// Han, and all that lies between U+0800 and it; Hangul.
const DEEPSEEK_IDEOGRAPHS: &str = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
const DEEPSEEK_PUNCTUATION: &str = "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+";
/// Letters that have a case, as Unicode had them then.
const CASED_LETTERS: &str = "\\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}\
     \u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\
     \u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\
     \u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\
     \u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\
     \u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\
     \u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\
     \u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\
     \u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\
     \u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\
     \u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\
     \u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\
     \u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+";

/// Of a file that does not say, too.
pub(super) const GPT2: Split = Split {
    names: &[
        "gpt-2",
        "gpt2",
        "default",
        "olmo",
        "phi-2",
        "mpt",
        "jais",
        "trillion",
        "exaone4",
        "gigachat",
        "mellum",
        "a.x-4.0",
        "jina-es",
        "jina-de",
        "jina-v1-en",
        "jina-v2-es",
        "jina-v2-de",
        "jina-v2-code",
        "roberta-bpe",
    ],
    steps: &[],
    as_gpt2: true,
    composes: false,
    takes_whole_words: false,
    begins_with_bos: false,
};

const LLAMA3: Split = Split {
    names: &[
        "llama-bpe",
        "llama3",
        "llama-v3",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
        "jina-v5-nano",
    ],
    steps: &[Regex(LLAMA3_WORDS)],
    as_gpt2: false,
    takes_whole_words: true,
    begins_with_bos: true,
    ..GPT2
};

/// As Llama 3, with merges within words (OLMo 2, Phi-4, SmolLM3).
const DBRX: Split = Split {
    names: &["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"],
    takes_whole_words: false,
    begins_with_bos: false,
    ..LLAMA3
};

const SPLITS: [Split; 15] = [
    GPT2,
    LLAMA3,
    DBRX,
    Split {
        names: &["qwen2", "deepseek-r1-qwen", "megrez"],
        steps: &[Regex(QWEN2_WORDS)],
        composes: true,
        ..DBRX
    },
    Split {
        names: &["stablelm2", "hunyuan", "kormo", "f2llmv2", "grok-2", "solar-open"],
        steps: &[Regex(QWEN2_WORDS)],
        ..DBRX
    },
    Split {
        names: &["qwen35"],
        steps: &[Regex(QWEN35_WORDS)],
        composes: true,
        ..DBRX
    },
    Split {
        names: &["tekken"],
        steps: &[Regex(TEKKEN_WORDS)],
        ..LLAMA3
    },
    // o200k (Phi-4-mini).
    Split {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        steps: &[Regex(GPT4O_WORDS)],
        ..DBRX
    },
    // Each digit alone, then GPT-2's way (SmolLM, Granite), though transformers' reader of GGUF files leaves digits together.
    Split {
        names: &[
            "smollm",
            "refact",
            "starcoder",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
        ],
        steps: &[Digits],
        ..GPT2
    },
    Split {
        names: &["seed-coder"],
        steps: &[Regex(SEED_WORDS)],
        ..DBRX
    },
    Split {
        names: &["deepseek-llm"],
        steps: &[
            Regex("[\r\n]"),
            Regex(CASED_LETTERS),
            Regex(DEEPSEEK_PUNCTUATION),
            Regex(r"\s+$"),
            Regex(DEEPSEEK_IDEOGRAPHS),
            Digits,
        ],
        ..DBRX
    },
    Split {
        names: &["deepseek-coder"],
        steps: &[
            Regex("[\r\n]"),
            Regex(r"\s?\p{L}+"),
            Regex(r"\s?\p{P}+"),
            Regex(DEEPSEEK_IDEOGRAPHS),
            Digits,
        ],
        ..DBRX
    },
    Split {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        steps: &[
            Regex(r"\p{N}{1,3}"),
            Regex("[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+"),
            Regex(DEEPSEEK3_WORDS),
        ],
        ..DBRX
    },
    Split {
        names: &["bloom", "poro-chat", "gpt3-finnish"],
        steps: &[Regex(BLOOM_WORDS)],
        ..DBRX
    },
    Split {
        names: &["viking"],
        steps: &[Regex(BLOOM_WORDS), Digits],
        ..DBRX
    },
];

/// The split of a name.
pub(super) fn find(name: &str) -> Option<&'static Split> {
    SPLITS.iter().find(|split| split.names.contains(&name))
}

/// The split that the steps of a `tokenizer.json` are: of several that cut alike the one that composes texts and takes words
/// whole as the tokenizer does.
pub(super) fn of_steps(steps: &[Json], composes: bool, takes_whole_words: bool) -> Option<&'static Split> {
    let mut found = SPLITS.iter().filter(|split| split.is(steps));
    let first = found.clone().next();
    let is_alike = |split: &&Split| (split.composes, split.takes_whole_words) == (composes, takes_whole_words);
    found.find(is_alike).or(first)
}

/// The step that writes bytes as letters, after GPT-2's cut or without it.
pub(super) fn bytes(as_gpt2: bool) -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": as_gpt2})
}

impl Split {
    /// The name under which it is written.
    pub fn name(&self) -> &'static str {
        self.names[0]
    }

    /// As `tokenizer.json` has it.
    pub fn pre_tokenizer(&self) -> Json {
        match self.steps {
            [] => bytes(self.as_gpt2),
            steps => {
                let steps = steps.iter().map(Step::json).chain([bytes(self.as_gpt2)]);
                json!({"type": "Sequence", "pretokenizers": steps.collect::<Vec<_>>()})
            }
        }
    }

    fn is(&self, steps: &[Json]) -> bool {
        let Some((last, before)) = steps.split_last() else {
            return false;
        };
        let cuts = last["use_regex"].as_bool().unwrap_or(true);
        last["type"] == "ByteLevel"
            && last["add_prefix_space"] == false
            && cuts == self.as_gpt2
            && before.len() == self.steps.len()
            && self.steps.iter().zip(before).all(|(step, json)| step.json() == *json)
    }
}

impl Step {
    fn json(&self) -> Json {
        match self {
            Regex(regex) => {
                json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
            }
            Digits => json!({"type": "Digits", "individual_digits": true}),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper};

    use super::*;

    #[derive(serde::Deserialize)]
    struct Group {
        names: Vec<String>,
        texts: BTreeMap<String, Vec<String>>,
    }

    fn pieces<'t>(split: &Split, text: &'t str) -> Vec<&'t str> {
        let cut: PreTokenizerWrapper = serde_json::from_value(split.pre_tokenizer()).unwrap();
        let mut pieces = PreTokenizedString::from(text);
        cut.pre_tokenize(&mut pieces).unwrap();
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces.into_iter().map(|(_, (from, to), _)| &text[from..to]).collect()
    }

    /// DeepSeek's, StableLM's, Seed's and others' texts were cut GPT-2's way, with no more than a warning. Every name that
    /// llama.cpp or transformers knows and that stands here cuts as theirs does (tests/data/make_splits.py).
    #[test]
    fn each_name_cuts_as_llama_cpp_and_transformers_do() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/splits.json");
        let groups: Vec<Group> = serde_json::from_slice(&fs::read(data).unwrap()).unwrap();
        for (name, group) in groups
            .iter()
            .flat_map(|group| group.names.iter().map(move |name| (name, group)))
        {
            let split = find(name).unwrap_or_else(|| panic!("{name} is not known"));
            for (text, expected) in &group.texts {
                assert_eq!(pieces(split, text), *expected, "{name}: {text:?}");
            }
        }
        let is_compared = |name: &&str| groups.iter().any(|group| group.names.iter().any(|known| known == name));
        let left_out: Vec<&str> = SPLITS
            .iter()
            .map(Split::name)
            .filter(|name| !is_compared(name))
            .collect();
        assert!(left_out.is_empty(), "{left_out:?}");
    }

    #[test]
    fn what_is_read_is_written_under_a_name_that_means_the_same() {
        for split in &SPLITS {
            let json = split.pre_tokenizer();
            let steps = json["pretokenizers"]
                .as_array()
                .cloned()
                .unwrap_or_else(|| vec![json.clone()]);
            let found = of_steps(&steps, split.composes, split.takes_whole_words).unwrap();
            assert_eq!(found.name(), split.name());
        }
        assert!(of_steps(&[bytes(false)], false, false).is_none());
        let mut names: Vec<&str> = SPLITS.iter().flat_map(|split| split.names).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "a name stands for one split");
    }
}
