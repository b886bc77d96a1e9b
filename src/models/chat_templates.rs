//! The chat templates that a recipe may name (`chat_template: llama3`), as mergekit's recipes do.
//!
//! Each writes the turns as the models of that name were taught them: **Source** is the format's public description. The
//! text around the turns is what counts; how a template is put down is ours.

use super::Error;

/// Name and Jinja template.
const NAMED: [(&str, &str); 5] = [
    // Wang et al. 2023, after Stanford Alpaca: headings instead of tokens.
    (
        "alpaca",
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}\
         {% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}\
         {% else %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}",
    ),
    // OpenAI's ChatML.
    (
        "chatml",
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + \
         '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% \
         endif %}",
    ),
    // LG AI Research, EXAONE 3.0.
    (
        "exaone",
        "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}\
         {{ '[|system|][|endofturn|]\\n' }}{% endif %}{{ '[|' + message['role'] + '|]' + message['content'] }}\
         {% if message['role'] == 'user' %}{{ '\\n' }}{% else %}{{ '[|endofturn|]\\n' }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}",
    ),
    // Meta, Llama 3 model card: prompt format.
    (
        "llama3",
        "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + \
         '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}\
         {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    ),
    // Mistral AI, instruct format of v0.1; a system message stands before the first question.
    (
        "mistral",
        "{{ bos_token }}{% set given = namespace(system='') %}{% for message in messages %}\
         {% if message['role'] == 'system' %}{% set given.system = message['content'] + '\\n\\n' %}\
         {% elif message['role'] == 'user' %}{{ '[INST] ' + given.system + message['content'] + ' [/INST]' }}\
         {% set given.system = '' %}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}",
    ),
];

/// The template that a recipe's `chat_template` means; `None` for the tokenizer's own.
///
/// # Errors
/// A name that is not known.
pub fn template(wanted: Option<&str>) -> Result<Option<&str>, Error> {
    let Some(wanted) = wanted.filter(|word| *word != "auto") else {
        return Ok(None);
    };
    let named = NAMED.iter().find(|(name, _)| *name == wanted).map(|(_, text)| *text);
    let itself = || (wanted.contains("{{") || wanted.contains("{%")).then_some(wanted);
    match named.or_else(itself) {
        Some(text) => Ok(Some(text)),
        None => Err(Error::ChatTemplate {
            name: wanted.into(),
            known: NAMED.map(|(name, _)| name).join(", "),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tokenizer::{Message, Tokenizer, TokenizerFiles};

    fn said(name: &str) -> String {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-base");
        let tokenizer = Tokenizer::new(TokenizerFiles {
            tokenizer_json: std::fs::read(root.join("tokenizer.json")).unwrap(),
            tokenizer_config: Some(serde_json::json!({"bos_token": "<s>", "eos_token": "</s>"})),
            chat_template: template(Some(name)).unwrap().map(String::from),
            ..TokenizerFiles::default()
        });
        let turns = [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")];
        let messages = turns.map(|(role, content)| Message::new(role, content));
        tokenizer.unwrap().apply_chat_template(&messages, true).unwrap()
    }

    /// Recipes of the Hub with `chat_template: llama3` or `mistral` were refused.
    #[test]
    fn the_named_templates_write_what_their_models_read() {
        for (name, expected) in [
            (
                "alpaca",
                "S\n\n### Instruction:\nU\n\n### Response:\nA</s>\n\n### Instruction:\nV\n\n### Response:\n",
            ),
            (
                "chatml",
                "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n\
                 <|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
            ),
            (
                "exaone",
                "[|system|]S[|endofturn|]\n[|user|]U\n[|assistant|]A[|endofturn|]\n[|user|]V\n[|assistant|]",
            ),
            (
                "llama3",
                "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU\
                 <|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>user\
                 <|end_header_id|>\n\nV<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
            ("mistral", "<s>[INST] S\n\nU [/INST] A</s>[INST] V [/INST]"),
        ] {
            assert_eq!(said(name), expected, "{name}");
        }
        assert!(template(Some("auto")).unwrap().is_none() && template(None).unwrap().is_none());
        assert_eq!(template(Some("{{ x }}")).unwrap(), Some("{{ x }}"));
        let message = template(Some("llama4")).unwrap_err().to_string();
        assert!(message.contains("llama3, mistral"), "{message}");
    }
}
