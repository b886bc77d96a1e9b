//! IFEval's instructions (Zhou et al. 2023, arXiv 2311.07911): what a program can check of an answer.
//!
//! A question's gold answer is JSON: `instruction_id_list`, `kwargs` and `prompt` as in the published rows. The checks are
//! those of lm-evaluation-harness 0.4.13 (and of the authors). Three differ where they lean on data of another library:
//! sentences are counted by their punctuation (there: NLTK's Punkt model), words in capitals as the Penn Treebank splits
//! words, and languages are told by `whatlang` (there: langdetect).

use serde_json::{Map, Value};

use super::{Extracted, extract::python_strip, python_regex::PythonRegex};

/// All instructions of a question, and each for itself; of the answer as it is, and of the best of eight cuts of it.
pub const SCORES: [&str; 4] = [
    "prompt_level_strict_acc",
    "inst_level_strict_acc",
    "prompt_level_loose_acc",
    "inst_level_loose_acc",
];

/// The verdicts on an answer. `extracted` has a 1 for each instruction that is followed, and a 0 for each that is not.
///
/// # Errors
/// A gold answer that is not IFEval's, or an instruction that nobody knows here; in words.
pub fn judge(output: &str, gold: &str) -> Result<Vec<(String, Extracted)>, String> {
    let instructions = Instructions::read(gold)?;
    let strict = instructions.followed(&[output.to_string()])?;
    let loose = instructions.followed(&cuts(output))?;
    let score = |name: &str, followed: &[bool]| {
        let count = followed.iter().filter(|f| **f).count();
        let exact_match = match name.starts_with("prompt") {
            true => f64::from(u8::from(count == followed.len())),
            false => count as f64 / followed.len().max(1) as f64,
        };
        let extracted = followed.iter().map(|f| if *f { '1' } else { '0' }).collect();
        (name.to_string(), Extracted { extracted, exact_match })
    };
    let of = [&strict, &strict, &loose, &loose];
    Ok(SCORES
        .iter()
        .zip(of)
        .map(|(name, followed)| score(name, followed))
        .collect())
}

/// The answer, without its first line, its last line, both, and each of these without asterisks.
fn cuts(output: &str) -> Vec<String> {
    let lines: Vec<&str> = output.split('\n').collect();
    let joined = |lines: &[&str]| python_strip(&lines.join("\n")).to_string();
    let last = lines.len() - 1;
    let cut = [
        output.to_string(),
        joined(&lines[1..]),
        joined(&lines[..last]),
        joined(lines.get(1..last).unwrap_or_default()),
    ];
    let plain = cut.iter().map(|text| text.replace('*', ""));
    let plain: Vec<String> = plain.collect();
    cut.into_iter().chain(plain).collect()
}

struct Instructions {
    ids: Vec<String>,
    arguments: Vec<Map<String, Value>>,
}

impl Instructions {
    fn read(gold: &str) -> Result<Self, String> {
        let wrong = || "IFEval's instruction_id_list and kwargs are expected".to_string();
        let json: Value = serde_json::from_str(gold).map_err(|_| wrong())?;
        let (ids, kwargs) = (json["instruction_id_list"].as_array(), json["kwargs"].as_array());
        let (ids, kwargs) = ids.zip(kwargs).ok_or_else(wrong)?;
        if ids.len() != kwargs.len() {
            return Err(format!("{} instructions have {} kwargs", ids.len(), kwargs.len()));
        }
        Ok(Instructions {
            ids: ids
                .iter()
                .map(|id| id.as_str().unwrap_or_default().to_string())
                .collect(),
            arguments: kwargs
                .iter()
                .map(|k| k.as_object().cloned().unwrap_or_default())
                .collect(),
        })
    }

    /// Which instructions one of the texts follows.
    fn followed(&self, texts: &[String]) -> Result<Vec<bool>, String> {
        let one = |(id, arguments): (&String, &Map<String, Value>)| {
            let arguments = Arguments(arguments);
            for text in texts.iter().filter(|text| !python_strip(text).is_empty()) {
                if follows(id, &arguments, text)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        self.ids.iter().zip(&self.arguments).map(one).collect()
    }
}

/// The arguments of one instruction; null, 0 and the empty text count as none.
struct Arguments<'a>(&'a Map<String, Value>);

impl Arguments<'_> {
    fn text(&self, key: &str) -> Result<&str, String> {
        let text = self.0.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        text.ok_or_else(|| format!("the instruction lacks '{key}'"))
    }

    fn number(&self, key: &str) -> Result<usize, String> {
        // Some copies of the data have numbers with a decimal point.
        let number = self.0.get(key).and_then(Value::as_f64).filter(|n| *n > 0.0);
        number
            .map(|n| n as usize)
            .ok_or_else(|| format!("the instruction lacks '{key}'"))
    }

    fn texts(&self, key: &str) -> Result<Vec<&str>, String> {
        let texts = self.0.get(key).and_then(Value::as_array);
        let texts = texts.ok_or_else(|| format!("the instruction lacks '{key}'"))?;
        Ok(texts.iter().filter_map(Value::as_str).collect())
    }

    /// `count` against the number that is asked, by the relation that is asked.
    fn compare(&self, count: usize, number: &str, relation: &str) -> Result<bool, String> {
        let number = self.number(number)?;
        match self.text(relation)? {
            "less than" => Ok(count < number),
            "at least" => Ok(count >= number),
            other => Err(format!("the relation '{other}' is neither 'less than' nor 'at least'")),
        }
    }
}

fn count(pattern: &str, text: &str) -> Result<usize, String> {
    Ok(find_all(pattern, text)?.len())
}

fn find_all(pattern: &str, text: &str) -> Result<Vec<String>, String> {
    let regex = PythonRegex::new(pattern).map_err(|e| e.to_string())?;
    let found = regex.find_all(text).map_err(|e| e.to_string())?;
    Ok(found
        .into_iter()
        .filter_map(|groups| groups.first().map(ToString::to_string))
        .collect())
}

fn matches(pattern: &str, text: &str) -> Result<bool, String> {
    let regex = PythonRegex::new(pattern).map_err(|e| e.to_string())?;
    regex.is_match(text).map_err(|e| e.to_string())
}

/// The pieces of a text between matches: Python's `re.split`.
fn split<'t>(pattern: &str, text: &'t str) -> Result<Vec<&'t str>, String> {
    let regex = PythonRegex::new(pattern).map_err(|e| e.to_string())?;
    regex.split(text).map_err(|e| e.to_string())
}

/// Whether a text follows an instruction.
fn follows(id: &str, given: &Arguments<'_>, text: &str) -> Result<bool, String> {
    Ok(match id {
        "keywords:existence" => {
            for keyword in given.texts("keywords")? {
                if !matches(&format!("(?i){keyword}"), text)? {
                    return Ok(false);
                }
            }
            true
        }
        "keywords:frequency" => {
            let keyword = format!("(?i){}", given.text("keyword")?.trim());
            given.compare(count(&keyword, text)?, "frequency", "relation")?
        }
        "keywords:forbidden_words" => {
            for word in given.texts("forbidden_words")? {
                if matches(&format!(r"(?i)\b{word}\b"), text)? {
                    return Ok(false);
                }
            }
            true
        }
        "keywords:letter_frequency" => {
            let letter = given.text("letter")?.to_lowercase();
            let found = text.to_lowercase().matches(letter.as_str()).count();
            given.compare(found, "let_frequency", "let_relation")?
        }
        "language:response_language" => is_in(given.text("language")?, text),
        "length_constraints:number_sentences" => given.compare(sentences(text), "num_sentences", "relation")?,
        "length_constraints:number_paragraphs" => paragraphs(text)? == Some(given.number("num_paragraphs")?),
        "length_constraints:number_words" => given.compare(count(r"\w+", text)?, "num_words", "relation")?,
        "length_constraints:nth_paragraph_first_word" => nth_paragraph_first_word(given, text)?,
        "detectable_content:number_placeholders" => count(r"\[.*?\]", text)? >= given.number("num_placeholders")?,
        "detectable_content:postscript" => has_postscript(given.text("postscript_marker")?.trim(), text)?,
        "detectable_format:number_bullet_lists" => {
            let bullets = count(r"(?m)^\s*\*[^\*].*$", text)? + count(r"(?m)^\s*-.*$", text)?;
            bullets == given.number("num_bullets")?
        }
        "detectable_format:constrained_response" => ["My answer is yes.", "My answer is no.", "My answer is maybe."]
            .iter()
            .any(|option| text.contains(option)),
        "detectable_format:number_highlighted_sections" => highlights(text)? >= given.number("num_highlights")?,
        "detectable_format:multiple_sections" => {
            let mark = format!(r"\s?{}\s?\d+\s?", given.text("section_spliter")?.trim());
            split(&mark, text)?.len() > given.number("num_sections")?
        }
        "detectable_format:json_format" => is_json(text),
        "detectable_format:title" => {
            let titles = find_all(r"<<[^\n]+>>", text)?;
            titles
                .iter()
                .any(|title| !title.trim_start_matches('<').trim_end_matches('>').trim().is_empty())
        }
        "combination:two_responses" => are_two_responses(text),
        "combination:repeat_prompt" => {
            let wanted = python_strip(given.text("prompt_to_repeat")?).to_lowercase();
            python_strip(text).to_lowercase().starts_with(&wanted)
        }
        "startend:end_checker" => {
            let wanted = python_strip(given.text("end_phrase")?).to_lowercase();
            python_strip(text).trim_matches('"').to_lowercase().ends_with(&wanted)
        }
        "startend:quotation" => {
            let text = python_strip(text);
            text.chars().count() > 1 && text.starts_with('"') && text.ends_with('"')
        }
        "change_case:capital_word_frequency" => {
            given.compare(capital_words(text), "capital_frequency", "capital_relation")?
        }
        "change_case:english_capital" => is_cased(text, char::is_uppercase, char::is_lowercase) && is_in("en", text),
        "change_case:english_lowercase" => is_cased(text, char::is_lowercase, char::is_uppercase) && is_in("en", text),
        "punctuation:no_comma" => !text.contains(','),
        other => return Err(format!("the instruction '{other}' is not known here")),
    })
}

/// `str.isupper` and `str.islower`: has a letter of the case, and none of the other.
fn is_cased(text: &str, case: fn(char) -> bool, other: fn(char) -> bool) -> bool {
    text.chars().any(case) && !text.chars().any(other)
}

/// Whether a text is in a language (ISO 639-1); one that nobody can tell counts as followed, as in the harness.
fn is_in(language: &str, text: &str) -> bool {
    // All capitals look like no language to the trigrams of any.
    let Some(told) = whatlang::detect(&text.to_lowercase()) else {
        return true;
    };
    let code = told.lang().code();
    let language = language.split('-').next().unwrap_or(language);
    const CODES: [(&str, &str); 36] = [
        ("ar", "ara"),
        ("bg", "bul"),
        ("bn", "ben"),
        ("ca", "cat"),
        ("cs", "ces"),
        ("da", "dan"),
        ("de", "deu"),
        ("el", "ell"),
        ("en", "eng"),
        ("es", "spa"),
        ("et", "est"),
        ("fa", "pes"),
        ("fi", "fin"),
        ("fr", "fra"),
        ("gu", "guj"),
        ("he", "heb"),
        ("hi", "hin"),
        ("hu", "hun"),
        ("id", "ind"),
        ("it", "ita"),
        ("ja", "jpn"),
        ("kn", "kan"),
        ("ko", "kor"),
        ("mr", "mar"),
        ("ne", "nep"),
        ("pa", "pan"),
        ("pl", "pol"),
        ("pt", "por"),
        ("ru", "rus"),
        ("sw", "swh"),
        ("ta", "tam"),
        ("te", "tel"),
        ("th", "tha"),
        ("tr", "tur"),
        ("ur", "urd"),
        ("vi", "vie"),
    ];
    match CODES.iter().find(|(short, _)| *short == language) {
        Some((_, long)) => *long == code,
        None => language == "zh" && code == "cmn",
    }
}

/// Sentences end in a full stop, question or exclamation mark with white space after it, but not after an abbreviation, an
/// initial or a number of a list.
fn sentences(text: &str) -> usize {
    const ABBREVIATIONS: [&str; 22] = [
        "mr", "mrs", "ms", "dr", "prof", "st", "vs", "etc", "inc", "ltd", "jr", "sr", "no", "vol", "gen", "col",
        "capt", "rev", "e.g", "i.e", "u.s", "p.s",
    ];
    let mut count = 0;
    let mut has_words = false;
    let mut start = 0;
    for (at, c) in text.char_indices() {
        has_words |= c.is_alphanumeric();
        if !matches!(c, '.' | '!' | '?') {
            continue;
        }
        let after = &text[at + 1..];
        let after = after.trim_start_matches(['.', '!', '?', '"', '\'', ')', ']', '*', '”', '’']);
        if !(after.is_empty() || after.starts_with(char::is_whitespace)) {
            continue;
        }
        let word = text[start..at]
            .rsplit(char::is_whitespace)
            .next()
            .unwrap_or("")
            .to_lowercase();
        let word = word.trim_start_matches(|c: char| !c.is_alphanumeric());
        let goes_on = c == '.'
            && (ABBREVIATIONS.contains(&word)
                || (word.chars().count() == 1 && word.chars().all(char::is_alphanumeric)))
            && !after.trim().is_empty();
        if has_words && !goes_on {
            count += 1;
            has_words = false;
            start = at + 1;
        }
    }
    count + usize::from(has_words)
}

/// Words of capitals as the Penn Treebank splits words: `DON'T` is `DO` and `N'T`, a hyphen joins.
fn capital_words(text: &str) -> usize {
    let mut count = 0;
    for word in text.split_whitespace() {
        for piece in word.split(|c: char| !(c.is_alphanumeric() || matches!(c, '\'' | '-' | '.' | '_'))) {
            let upper = piece.to_uppercase();
            let contraction = ["N'T", "'S", "'M", "'D", "'LL", "'RE", "'VE"]
                .into_iter()
                .find(|c| upper.ends_with(c));
            let (stem, ending) = piece.split_at(piece.len() - contraction.map_or(0, str::len));
            for part in [stem, ending] {
                count += usize::from(is_cased(part, char::is_uppercase, char::is_lowercase));
            }
        }
    }
    count
}

/// The paragraphs between `***`; none if one in the middle is empty.
fn paragraphs(text: &str) -> Result<Option<usize>, String> {
    let pieces = split(r"\s?\*\*\*\s?", text)?;
    let mut count = pieces.len();
    for (i, piece) in pieces.iter().enumerate() {
        if python_strip(piece).is_empty() {
            if i != 0 && i != pieces.len() - 1 {
                return Ok(None);
            }
            count -= 1;
        }
    }
    Ok(Some(count))
}

fn nth_paragraph_first_word(given: &Arguments<'_>, text: &str) -> Result<bool, String> {
    let (wanted, nth) = (given.number("num_paragraphs")?, given.number("nth_paragraph")?);
    let first = given.text("first_word")?.to_lowercase();
    let pieces: Vec<&str> = text.split("\n\n").collect();
    let count = pieces.iter().filter(|piece| !python_strip(piece).is_empty()).count();
    let Some(paragraph) = pieces.get(nth - 1).filter(|_| nth <= count).map(|p| python_strip(p)) else {
        return Ok(false);
    };
    let Some(word) = paragraph.split_whitespace().next() else {
        return Ok(false);
    };
    let word = word.trim_start_matches('\'').trim_start_matches('"');
    let end = word.find(['.', ',', '?', '!', '\'', '"']).unwrap_or(word.len());
    Ok(count == wanted && word[..end].to_lowercase() == first)
}

fn has_postscript(marker: &str, text: &str) -> Result<bool, String> {
    let pattern = match marker {
        "P.P.S" => r"(?m)\s*p\.\s?p\.\s?s.*$".to_string(),
        "P.S." => r"(?m)\s*p\.\s?s\..*$".to_string(),
        other => format!(r"(?m)\s*{}.*$", other.to_lowercase()),
    };
    matches(&pattern, &text.to_lowercase())
}

fn highlights(text: &str) -> Result<usize, String> {
    let says = |found: &&String| !found.trim_matches('*').trim().is_empty();
    let single = find_all(r"\*[^\n\*]*\*", text)?.iter().filter(says).count();
    let double = find_all(r"\*\*[^\n\*]*\*\*", text)?.iter().filter(says).count();
    Ok(single + double)
}

fn is_json(text: &str) -> bool {
    let mut text = python_strip(text);
    for opening in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(opening).unwrap_or(text);
    }
    let text = python_strip(text.strip_suffix("```").unwrap_or(text));
    serde_json::from_str::<Value>(text).is_ok()
}

fn are_two_responses(text: &str) -> bool {
    let pieces: Vec<&str> = text.split("******").collect();
    let last = pieces.len() - 1;
    let is_gap = |(i, piece): (usize, &&str)| python_strip(piece).is_empty() && i != 0 && i != last;
    let said: Vec<&str> = pieces
        .iter()
        .map(|piece| python_strip(piece))
        .filter(|piece| !piece.is_empty())
        .collect();
    !pieces.iter().enumerate().any(is_gap) && said.len() == 2 && said[0] != said[1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(id: &str, kwargs: Value, text: &str) -> bool {
        follows(id, &Arguments(kwargs.as_object().unwrap()), text).unwrap()
    }

    /// Two texts for each instruction, one that follows it and one that does not. `tests/peers/tasks.py` compares them with
    /// lm-eval's checks, but for sentences, words in capitals and languages.
    #[test]
    fn every_instruction_tells_right_from_wrong() {
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        for (id, kwargs, right, wrong) in CASES {
            assert!(check(id, json(kwargs), right), "{id}: {right}");
            assert!(!check(id, json(kwargs), wrong), "{id}: {wrong}");
        }
        let ids: std::collections::BTreeSet<&str> = CASES.iter().map(|(id, ..)| *id).collect();
        assert_eq!(ids.len(), 25, "all of IFEval's");
    }

    const CASES: [(&str, &str, &str, &str); 27] = [
        (
            "keywords:existence",
            r#"{"keywords": ["Cat", "dog"]}"#,
            "A cat and a DOG.",
            "A cat.",
        ),
        (
            "keywords:frequency",
            r#"{"keyword": "so", "frequency": 2, "relation": "at least"}"#,
            "So it is so.",
            "So.",
        ),
        (
            "keywords:forbidden_words",
            r#"{"forbidden_words": ["no"]}"#,
            "Nothing.",
            "Oh, No!",
        ),
        (
            "keywords:letter_frequency",
            r#"{"letter": "q", "let_frequency": 2, "let_relation": "less than"}"#,
            "Q",
            "qQ",
        ),
        (
            "language:response_language",
            r#"{"language": "de"}"#,
            "Das ist ein schöner Tag für uns alle.",
            "This is a fine day for all of us.",
        ),
        (
            "length_constraints:number_sentences",
            r#"{"num_sentences": 3, "relation": "at least"}"#,
            "One. Dr. Two! Three?",
            "One. Dr. Two!",
        ),
        (
            "length_constraints:number_paragraphs",
            r#"{"num_paragraphs": 2}"#,
            "a\n***\nb\n***",
            "a\n***\n***\nb",
        ),
        (
            "length_constraints:number_words",
            r#"{"num_words": 3, "relation": "less than"}"#,
            "two words",
            "it's three",
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            r#"{"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"}"#,
            "a\n\nthen, b",
            "a\n\nb",
        ),
        (
            "detectable_content:number_placeholders",
            r#"{"num_placeholders": 2}"#,
            "[a] [b c]",
            "[a]",
        ),
        (
            "detectable_content:postscript",
            r#"{"postscript_marker": "P.S."}"#,
            "x\np. s. y",
            "x",
        ),
        (
            "detectable_content:postscript",
            r#"{"postscript_marker": "P.P.S"}"#,
            "x\nP.P.S y",
            "P.S. x",
        ),
        (
            "detectable_format:number_bullet_lists",
            r#"{"num_bullets": 2}"#,
            "* a\n- b",
            "* a\n- b\n- c",
        ),
        (
            "detectable_format:constrained_response",
            "{}",
            "My answer is no.",
            "No.",
        ),
        (
            "detectable_format:number_highlighted_sections",
            r#"{"num_highlights": 2}"#,
            "*a* and *b*",
            "*a* and **",
        ),
        (
            "detectable_format:multiple_sections",
            r#"{"section_spliter": "Section", "num_sections": 2}"#,
            "Section 1 a Section 2 b",
            "Section 1 a",
        ),
        (
            "detectable_format:json_format",
            "{}",
            "```json\n{\"a\": [1]}\n```",
            "{a: 1}",
        ),
        ("detectable_format:title", "{}", "<<T>>\nx", "<< >>\nx"),
        ("combination:two_responses", "{}", "a\n******\nb", "a\n******\na"),
        (
            "combination:repeat_prompt",
            r#"{"prompt_to_repeat": "Say it."}"#,
            " say it. It.",
            "It. Say it.",
        ),
        (
            "startend:end_checker",
            r#"{"end_phrase": "The end."}"#,
            "x \"the end.\"",
            "The end. x",
        ),
        ("startend:quotation", "{}", " \"x\" ", "\"x"),
        (
            "change_case:capital_word_frequency",
            r#"{"capital_frequency": 3, "capital_relation": "at least"}"#,
            "I DON'T",
            "I DO not",
        ),
        (
            "change_case:english_capital",
            "{}",
            "THIS IS A FINE DAY FOR ALL OF US.",
            "This is a fine day for all of us.",
        ),
        (
            "change_case:english_lowercase",
            "{}",
            "this is a fine day for all of us.",
            "This is a fine day for all of us.",
        ),
        ("punctuation:no_comma", "{}", "a; b", "a, b"),
        (
            "keywords:frequency",
            r#"{"keyword": "so", "frequency": 2, "relation": "less than"}"#,
            "So.",
            "So it is so.",
        ),
    ];

    #[test]
    fn a_question_of_two_instructions_is_scored_four_ways() {
        let gold = r#"{"instruction_id_list": ["punctuation:no_comma", "startend:end_checker"],
                       "kwargs": [{"end_phrase": null}, {"end_phrase": "Bye."}]}"#;
        let of = |text: &str| {
            let verdicts = judge(text, gold).unwrap();
            let values: Vec<f64> = verdicts.iter().map(|(_, v)| v.exact_match).collect();
            (values, verdicts[1].1.extracted.clone())
        };
        assert_eq!(of("Hello. Bye."), (vec![1.0, 1.0, 1.0, 1.0], "11".into()));
        // Without its first line it follows both.
        assert_eq!(of("Sure, here:\nHello. Bye."), (vec![0.0, 0.5, 1.0, 1.0], "01".into()));
        assert_eq!(of("  ").0, [0.0, 0.0, 0.0, 0.0]);
        assert!(judge("x", "{}").unwrap_err().contains("instruction_id_list"));
        let unknown = r#"{"instruction_id_list": ["a:b"], "kwargs": [{}]}"#;
        assert!(judge("x", unknown).unwrap_err().contains("'a:b'"));
    }
}
