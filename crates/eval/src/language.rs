//! The language gate: is the text written in the language that was asked for?
//!
//! Without it a search for better maths drifts to English reasoning (Akiba et al. 2024 count an answer only if it is
//! right *and* Japanese). Six of MGSM's eleven languages are told by their script. The five in Latin script are told by
//! function words, which also work on a single sentence and know Swahili, and by trigrams (`whatlang`) when those tie.
//! Digits, formulas and single letters do not count; a text with too few letters is not judged.

use whatlang::{Detector, Lang};

/// The languages that the gate can tell apart: those of MGSM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Bengali,
    German,
    English,
    Spanish,
    French,
    Japanese,
    Russian,
    Swahili,
    Telugu,
    Thai,
    Chinese,
}

/// Lets a text through if it is in `language`, or too short to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// That an answer has to be in.
    pub language: Language,
    /// With fewer letters than this a text is not judged.
    pub min_letters: usize,
}

impl Gate {
    /// Letters below which nobody can tell, where a task file says nothing.
    pub const DEFAULT_MIN_LETTERS: usize = 20;

    /// Whether an output is in the language, or too short to tell.
    pub fn passes(&self, text: &str) -> bool {
        let letters = Letters::count(text);
        letters.total() < self.min_letters || letters.detect(text) == Some(self.language)
    }
}

impl Language {
    pub const CODES: [&str; 11] = ["bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"];

    /// By ISO 639-1 code.
    pub fn from_code(code: &str) -> Option<Language> {
        use Language::*;
        let all = [
            Bengali, German, English, Spanish, French, Japanese, Russian, Swahili, Telugu, Thai, Chinese,
        ];
        let position = Language::CODES.iter().position(|c| *c == code)?;
        Some(all[position])
    }
}

/// Letters by script. An ideograph counts for two, since it says more than a letter.
#[derive(Default)]
struct Letters {
    latin: usize,
    cyrillic: usize,
    bengali: usize,
    telugu: usize,
    thai: usize,
    han: usize,
    kana: usize,
    other: usize,
}

impl Letters {
    fn count(text: &str) -> Letters {
        let mut letters = Letters::default();
        // A single Latin letter is a variable or a unit, not language.
        let words = text.split(|c: char| !c.is_alphabetic());
        for word in words.filter(|word| !(word.len() == 1 && word.is_ascii())) {
            for c in word.chars() {
                *letters.script(c) += 1;
            }
        }
        letters.han *= 2;
        letters.kana *= 2;
        letters
    }

    fn script(&mut self, c: char) -> &mut usize {
        match c {
            'a'..='z' | 'A'..='Z' | '\u{c0}'..='\u{24f}' => &mut self.latin,
            '\u{400}'..='\u{52f}' => &mut self.cyrillic,
            '\u{980}'..='\u{9ff}' => &mut self.bengali,
            '\u{c00}'..='\u{c7f}' => &mut self.telugu,
            '\u{e00}'..='\u{e7f}' => &mut self.thai,
            '\u{3040}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' => &mut self.kana,
            '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' => &mut self.han,
            _ => &mut self.other,
        }
    }

    fn total(&self) -> usize {
        let Letters {
            latin,
            cyrillic,
            bengali,
            telugu,
            thai,
            han,
            kana,
            other,
        } = self;
        latin + cyrillic + bengali + telugu + thai + han + kana + other
    }

    /// The language of the script in which more than half of the letters are.
    fn detect(&self, text: &str) -> Option<Language> {
        let most = |letters: usize| 2 * letters > self.total();
        if most(self.han + self.kana) {
            // Japanese writes its grammar in kana; a Chinese text has next to none.
            let japanese = 10 * self.kana > self.han + self.kana;
            return Some(if japanese {
                Language::Japanese
            } else {
                Language::Chinese
            });
        }
        [
            (self.cyrillic, Language::Russian),
            (self.bengali, Language::Bengali),
            (self.telugu, Language::Telugu),
            (self.thai, Language::Thai),
        ]
        .into_iter()
        .find_map(|(letters, language)| most(letters).then_some(language))
        .or_else(|| most(self.latin).then(|| latin(text)).flatten())
    }
}

const FUNCTION_WORDS: [(Language, &[&str]); 5] = [
    (
        Language::English,
        &[
            "the", "of", "and", "to", "is", "in", "that", "it", "for", "was", "with", "his", "her", "she", "he",
            "they", "are", "has", "have", "how", "many", "each", "per", "so", "this", "from", "then", "will", "what",
            "at", "there", "their", "if", "on", "be", "we",
        ],
    ),
    (
        Language::German,
        &[
            "der",
            "die",
            "das",
            "und",
            "ist",
            "sie",
            "er",
            "ein",
            "eine",
            "einen",
            "einem",
            "einer",
            "es",
            "mit",
            "für",
            "von",
            "den",
            "dem",
            "zu",
            "im",
            "auf",
            "hat",
            "wie",
            "viele",
            "viel",
            "jeder",
            "jede",
            "jeden",
            "pro",
            "also",
            "nicht",
            "sich",
            "als",
            "aus",
            "wenn",
            "sind",
            "insgesamt",
            "in",
        ],
    ),
    (
        Language::Spanish,
        &[
            "el", "la", "los", "las", "de", "que", "y", "en", "un", "una", "es", "por", "con", "para", "se", "su",
            "sus", "cada", "cuántos", "cuántas", "cuánto", "tiene", "del", "al", "más", "lo", "son", "entonces", "hay",
            "si", "como", "le",
        ],
    ),
    (
        Language::French,
        &[
            "le", "la", "les", "des", "de", "et", "est", "un", "une", "il", "elle", "que", "qui", "qu", "dans", "pour",
            "par", "sur", "avec", "combien", "chaque", "au", "aux", "du", "ce", "se", "sont", "donc", "ses", "ils",
            "en", "ont", "nous", "si", "à",
        ],
    ),
    (
        Language::Swahili,
        &[
            "ya",
            "wa",
            "na",
            "kwa",
            "ni",
            "za",
            "la",
            "katika",
            "kila",
            "alikuwa",
            "ana",
            "hivyo",
            "jumla",
            "watu",
            "kuna",
            "jibu",
            "yake",
            "yao",
            "kama",
            "hii",
            "moja",
            "mbili",
            "ambayo",
            "vya",
            "cha",
            "ngapi",
            "siku",
            "pia",
            "tu",
            "hiyo",
            "ikiwa",
            "anahitaji",
            "wake",
            "kisha",
            "kuwa",
            "baada",
        ],
    ),
];

/// One of the five languages in Latin script.
fn latin(text: &str) -> Option<Language> {
    let text = text.to_lowercase();
    let mut hits = [0usize; FUNCTION_WORDS.len()];
    for word in text.split(|c: char| !c.is_alphabetic()) {
        for (hits, (_, words)) in hits.iter_mut().zip(FUNCTION_WORDS) {
            *hits += usize::from(words.contains(&word));
        }
    }
    let best = *hits.iter().max().unwrap_or(&0);
    let mut leaders = hits.iter().zip(FUNCTION_WORDS).filter(|(h, _)| **h == best && best > 0);
    match (leaders.next(), leaders.next()) {
        (Some((_, (language, _))), None) => Some(language),
        _ => trigrams(&text),
    }
}

/// `whatlang`, which does not know Swahili, over the other four.
fn trigrams(text: &str) -> Option<Language> {
    let detector = Detector::with_allowlist(vec![Lang::Eng, Lang::Deu, Lang::Spa, Lang::Fra]);
    match detector.detect(text)?.lang() {
        Lang::Eng => Some(Language::English),
        Lang::Deu => Some(Language::German),
        Lang::Spa => Some(Language::Spanish),
        Lang::Fra => Some(Language::French),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(code: &str) -> Gate {
        Gate {
            language: Language::from_code(code).unwrap(),
            min_letters: Gate::DEFAULT_MIN_LETTERS,
        }
    }

    /// The first sentence of one worked answer in each language of MGSM (Shi et al. 2022, CC BY 4.0).
    const SENTENCES: [(&str, &str); 11] = [
        (
            "bn",
            "রজারের প্রথমে 5টি বল ছিল। 2টি ক্যানের প্রতিটিতে 3টি টেনিস বল মানে 6টি টেনিস বল। 5 + 6 = 11। উত্তর হল 11।",
        ),
        (
            "de",
            "Roger begann mit 5 Bällen. 2 Dosen von jeweils 3 Tennisbällen macht 6 Tennisbälle. 5 + 6 = 11. Die Antwort ist 11.",
        ),
        (
            "en",
            "Roger started with 5 balls. 2 cans of 3 tennis balls each is 6 tennis balls. 5 + 6 = 11. The answer is 11.",
        ),
        (
            "es",
            "Roger comenzó con 5 bolas. 2 latas de 3 bolas de tenis cada una son 6 bolas de tenis. 5 + 6 = 11. La respuesta es 11.",
        ),
        (
            "fr",
            "Roger a commencé avec 5 balles. 2 boîtes de 3 balles de tennis chacune représentent 6 balles de tennis. La réponse est 11.",
        ),
        (
            "ja",
            "ロジャーは最初5個のボールがありました。テニスボール3個入りの缶が2つあれば、テニスボールは6個あります。5+6=11。答えは11です。",
        ),
        (
            "ru",
            "в начале у Роджера было 5 мячей. 2 банки по 3 теннисных мяча каждая — это 6 теннисных мячей. 5 + 6 = 11. Ответ — 11.",
        ),
        (
            "sw",
            "Roger alianza na mipira 5. Mikebe 2 ya mipira 3 ya tenisi kila moja ni mipira 6 ya tenisi. 5 + 6 = 11. Jibu ni 11.",
        ),
        (
            "te",
            "రోజర్ 5 బంతులతో ప్రారంభించాడు. ఒక్కొక్కటి 3 టెన్నిస్ బంతులున్న 2 క్యాన్‌లు అంటే 6 టెన్నిస్ బంతులు. 5+6=11. సమాధానం 11.",
        ),
        (
            "th",
            "โรเจอร์เริ่มด้วยลูกเทนนิส 5 ลูก 2 กระป๋องที่มีกระป๋องละ 3 ลูก ทำให้มีลูกเทนนิส 6 ลูก ดังนั้น 5 + 6 = 11 คำตอบคือ 11",
        ),
        (
            "zh",
            "罗杰一开始有 5 个球。2 罐各 3 个网球就是 6 个网球。5 + 6 = 11。答案是 11。",
        ),
    ];

    #[test]
    fn each_language_passes_its_own_gate_only() {
        for (asked, _) in SENTENCES {
            for (written, text) in SENTENCES {
                assert_eq!(
                    gate(asked).passes(text),
                    asked == written,
                    "{asked} gate, {written} text"
                );
            }
        }
    }

    #[test]
    fn numbers_and_short_texts_are_not_judged() {
        for text in ["", "18", "3 + 4 = 7 x = 5 km", "#### 1,200", "The answer is 5"] {
            assert!(gate("ja").passes(text), "{text}");
        }
        assert!(!gate("ja").passes("Roger has five tennis balls and the answer is 5"));
    }

    #[test]
    fn names_in_another_script_do_not_decide() {
        assert!(gate("ja").passes("Janet の アヒルは毎日16個の卵を産みます。答えは18です。"));
        assert!(gate("zh").passes("Wells Fargo 的股票每天上涨 5 美元，所以答案是 18。"));
    }

    #[test]
    fn nothing_to_go_by() {
        assert_eq!(Letters::count("12 + 5").detect("12 + 5"), None);
        assert_eq!(Language::from_code("it"), None);
    }
}
