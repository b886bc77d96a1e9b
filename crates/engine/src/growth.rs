//! How long a tokenizer may make a text.
//!
//! The normalizer and the decoder of a `tokenizer.json` replace text by text, one rule after the other. Rules from a
//! hostile file multiply: "replace each character by a hundred thousand x", twice, makes ten gigabytes of one character.
//! Each rule's largest growth is read off the file, and a chain that could multiply too much is refused before any text
//! goes through it.

use serde_json::Value;
use tokenizers::Tokenizer;

/// How many bytes one byte of text may become. The published ones stay below 20.
const MOST: f64 = 256.0;

/// Refuses a tokenizer that could make a text too long; the reason says which part.
pub(super) fn check(tokenizer: &Tokenizer) -> Result<(), String> {
    let json = |part: Result<Value, serde_json::Error>| part.map_err(|e| e.to_string());
    let normalizer = json(serde_json::to_value(tokenizer.get_normalizer()))?;
    let decoder = json(serde_json::to_value(tokenizer.get_decoder()))?;
    for (name, part) in [("normalizer", normalizer), ("decoder", decoder)] {
        let growth = growth(&part);
        if growth > MOST {
            return Err(format!(
                "its {name} could make a text {growth:.0} times as long (the limit is {MOST}), which no tokenizer needs; \
                 the file is damaged or hostile"
            ));
        }
    }
    Ok(())
}

/// The largest factor by which a rule, or a chain of rules, lengthens a text of some bytes.
fn growth(rule: &Value) -> f64 {
    let length = |key: &str| {
        rule.get(key)
            .and_then(Value::as_str)
            .map_or(0.0, |text| text.len() as f64)
    };
    let chain = |key: &str| {
        rule.get(key)
            .and_then(Value::as_array)
            .map(|rules| rules.iter().map(growth).product())
    };
    match rule.get("type").and_then(Value::as_str) {
        Some("Sequence") => chain("normalizers").or(chain("decoders")).unwrap_or(1.0),
        Some("Replace") => replaced(rule.get("pattern"), length("content")),
        Some("Prepend") => 1.0 + length("prepend"),
        // The longest decomposition in Unicode, of U+FDFA: three bytes become 33.
        Some("NFD" | "NFC" | "NFKD" | "NFKC") => 11.0,
        // Spaces around a character of three bytes; or upper case whose lower case is longer.
        Some("BertNormalizer" | "Lowercase") => 2.0,
        // A table of replacements, in practice NFKC's.
        Some("Precompiled") => 11.0,
        // A byte becomes a character of up to two bytes.
        Some("ByteLevel") => 2.0,
        _ => 1.0,
    }
}

/// A match of at least so many bytes becomes the content; a pattern that matches nothing puts it between all characters.
fn replaced(pattern: Option<&Value>, content: f64) -> f64 {
    let text = |kind: &str| pattern.and_then(|p| p.get(kind)).and_then(Value::as_str);
    match (text("String"), text("Regex")) {
        (Some(""), _) => 2.0 * content + 1.0,
        (Some(literal), _) => (content / literal.len() as f64).max(1.0),
        // What a pattern matches at least is not known: one byte, unless it matches nothing at all.
        (None, Some(regex)) => match matches_nothing(regex) {
            true => 2.0 * content + 1.0,
            false => content.max(1.0),
        },
        (None, None) => 1.0,
    }
}

/// Whether a pattern can match the empty text; one that cannot be told is taken to.
fn matches_nothing(pattern: &str) -> bool {
    regex::Regex::new(pattern).map_or(true, |regex| regex.is_match(""))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(part: &str, rules: Value) -> Result<Tokenizer, String> {
        let mut file = json!({
            "version": "1.0", "added_tokens": [],
            "model": {"type": "BPE", "vocab": {"a": 0, "x": 1}, "merges": []},
        });
        file[part] = rules;
        let tokenizer = Tokenizer::from_bytes(file.to_string()).unwrap();
        check(&tokenizer).map(|()| tokenizer)
    }

    fn replace(pattern: Value, content: &str) -> Value {
        json!({"type": "Replace", "pattern": pattern, "content": content})
    }

    /// A tokenizer.json that made gigabytes of one letter, or never came back.
    #[test]
    fn a_chain_that_multiplies_is_refused() {
        let huge = "x".repeat(100_000);
        let twice = json!([
            replace(json!({"Regex": "."}), &huge),
            replace(json!({"Regex": "."}), &huge)
        ]);
        let nothing: Vec<Value> = (0..30).map(|_| replace(json!({"String": ""}), "x")).collect();
        let nested = json!({"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": twice.clone()}]});
        for (part, rules) in [
            ("normalizer", json!({"type": "Sequence", "normalizers": twice.clone()})),
            ("normalizer", nested),
            ("normalizer", json!({"type": "Sequence", "normalizers": nothing})),
            ("normalizer", replace(json!({"String": "a"}), &huge)),
            ("normalizer", replace(json!({"Regex": "b*"}), &huge)),
            ("normalizer", json!({"type": "Prepend", "prepend": huge})),
            ("decoder", json!({"type": "Sequence", "decoders": twice})),
        ] {
            let reason = with(part, rules).err().unwrap();
            assert!(reason.contains(part) && reason.contains("times as long"), "{reason}");
        }
    }

    /// The normalizers of Llama, Gemma, T5, ALBERT, BERT and CLIP.
    #[test]
    fn published_ones_are_not() {
        let llama = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, replace(json!({"String": " "}), "▁")]});
        let albert = json!({"type": "Sequence", "normalizers": [
            replace(json!({"String": "``"}), "\""), replace(json!({"String": "''"}), "\""), {"type": "NFKD"},
            {"type": "StripAccents"}, {"type": "Lowercase"}, replace(json!({"Regex": " {2,}"}), " ")]});
        let bert = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                          "strip_accents": null, "lowercase": true});
        let clip = json!({"type": "Sequence", "normalizers": [
            {"type": "NFC"}, replace(json!({"Regex": "\\s+"}), " "), {"type": "Lowercase"}]});
        let t5 = json!({"type": "Sequence", "normalizers": [
            {"type": "NFKC"}, {"type": "Strip", "strip_left": false, "strip_right": true},
            replace(json!({"Regex": " {2,}"}), "▁")]});
        for rules in [Value::Null, llama, albert, bert, clip, t5] {
            with("normalizer", rules).unwrap();
        }
        let decoder = json!({"type": "Sequence", "decoders": [
            replace(json!({"String": "▁"}), " "), {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        with("decoder", decoder).unwrap();
    }
}
