//! How the languages write numbers: their separators, their words for powers of ten, what they put before a number.

use super::reader::{Reader, THIN_SPACE, is_currency};
use super::value::Value;

/// The habits of a language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub language: Words,
    /// A comma before decimals, a point or space between thousands: `1.234,50`. Else `1,234.50`.
    has_decimal_comma: bool,
    /// Plain spaces between thousands; no-break and thin ones group in every language.
    pub groups_with_spaces: bool,
}

/// The languages that have words of their own here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    English,
    German,
    Spanish,
    French,
    Russian,
    Swahili,
    Japanese,
    Other,
}

impl Style {
    /// As data are written: `1,234.50`.
    pub const DATA: Style = Style {
        language: Words::English,
        has_decimal_comma: false,
        groups_with_spaces: false,
    };

    /// By ISO 639-1 code. Separators are those of CLDR.
    pub fn of(code: &str) -> Style {
        const DECIMAL_COMMA: [&str; 43] = [
            "af", "az", "be", "bg", "bs", "ca", "cs", "da", "de", "el", "es", "et", "eu", "fi", "fr", "gl", "hr", "hu",
            "hy", "id", "is", "it", "ka", "kk", "lt", "lv", "mk", "nb", "nl", "nn", "no", "pl", "pt", "ro", "ru", "sk",
            "sl", "sq", "sr", "sv", "tr", "uk", "vi",
        ];
        let has_decimal_comma = DECIMAL_COMMA.contains(&code);
        Style {
            language: match code {
                "en" => Words::English,
                "de" => Words::German,
                "es" => Words::Spanish,
                "fr" => Words::French,
                "ru" => Words::Russian,
                "sw" => Words::Swahili,
                "ja" => Words::Japanese,
                _ => Words::Other,
            },
            has_decimal_comma,
            groups_with_spaces: has_decimal_comma,
        }
    }

    /// What groups of digits with separators between them may mean; nothing if they are no number.
    pub fn readings(self, groups: &[String], separators: &[char]) -> Vec<Value> {
        let whole = || Value::decimal(&groups.concat(), "");
        let Some((&last, before)) = separators.split_last() else {
            return vec![whole()];
        };
        let (decimals, integer) = (groups.last().map_or("", String::as_str), &groups[..groups.len() - 1]);
        let decimal = || Value::decimal(&integer.concat(), decimals);
        let is_grouped = |groups: &[String], separators: &[char]| {
            let same = |s: &char| *s == separators[0] || (is_space(*s) && is_space(separators[0]));
            separators.iter().all(same) && (in_thousands(groups) || (separators[0] == ',' && in_lakhs(groups)))
        };
        match last {
            '٫' => {
                let fits = before.is_empty() || is_grouped(integer, before);
                fits.then(decimal).into_iter().collect()
            }
            '.' | ',' if before.is_empty() => self.one_separator(groups, last, whole(), decimal()),
            _ if is_grouped(groups, separators) => vec![whole()],
            // The last separator differs from those before it: decimals after thousands.
            '.' | ',' if !before.contains(&last) && is_grouped(integer, before) => vec![decimal()],
            _ => Vec::new(),
        }
    }

    /// `1.234`, `1,234`, `12,5`: thousands, decimals, or either.
    fn one_separator(self, groups: &[String], separator: char, whole: Value, decimal: Value) -> Vec<Value> {
        let may_group = in_thousands(groups);
        match (separator, self.has_decimal_comma) {
            ('.', false) => vec![decimal],
            ('.', true) if may_group => vec![whole],
            // English thousands are common in such languages too.
            (_, true) if may_group => vec![decimal, whole],
            (_, true) => vec![decimal],
            // `3,5` in a language with decimal points is a list of two; `0,5` can only be one number.
            _ if may_group => vec![whole],
            _ if groups[0] == "0" => vec![decimal],
            _ => Vec::new(),
        }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | THIN_SPACE)
}

/// One to three digits, then three each.
fn in_thousands(groups: &[String]) -> bool {
    let (first, rest) = (&groups[0], &groups[1..]);
    matches!(first.len(), 1..=3) && !first.starts_with('0') && rest.iter().all(|group| group.len() == 3)
}

/// The Indian way: two each, and three at last. `1,00,000`
fn in_lakhs(groups: &[String]) -> bool {
    let (first, rest) = (&groups[0], &groups[1..]);
    let Some((last, pairs)) = rest.split_last() else {
        return false;
    };
    let starts = matches!(first.len(), 1..=2) && !first.starts_with('0');
    starts && last.len() == 3 && !pairs.is_empty() && pairs.iter().all(|group| group.len() == 2)
}

/// A word for a power of ten after a number.
pub struct Scale {
    pub power: u32,
    pub to: usize,
    /// What follows is added where it is smaller: `1万2千`.
    pub is_summed: bool,
}

/// Words of alphabets that separate words; looked up whole, in lower case.
const SCALE_WORDS: &[(&str, u32, Option<Words>)] = &[
    ("hundred", 2, Some(Words::English)),
    ("thousand", 3, None),
    ("million", 6, None),
    ("millions", 6, None),
    ("billion", 9, Some(Words::English)),
    ("bn", 9, Some(Words::English)),
    ("trillion", 12, Some(Words::English)),
    // Indian English, and Latin letters in an Indian language.
    ("lakh", 5, None),
    ("lakhs", 5, None),
    ("lac", 5, Some(Words::English)),
    ("crore", 7, None),
    ("crores", 7, None),
    ("hundert", 2, Some(Words::German)),
    ("tausend", 3, Some(Words::German)),
    ("tsd", 3, Some(Words::German)),
    ("millionen", 6, Some(Words::German)),
    ("mio", 6, Some(Words::German)),
    ("milliarde", 9, Some(Words::German)),
    ("milliarden", 9, Some(Words::German)),
    ("mrd", 9, Some(Words::German)),
    ("mil", 3, Some(Words::Spanish)),
    ("millón", 6, Some(Words::Spanish)),
    ("millon", 6, Some(Words::Spanish)),
    ("millones", 6, Some(Words::Spanish)),
    ("mille", 3, Some(Words::French)),
    ("milliard", 9, Some(Words::French)),
    ("milliards", 9, Some(Words::French)),
    ("тысяча", 3, Some(Words::Russian)),
    ("тысячи", 3, Some(Words::Russian)),
    ("тысяч", 3, Some(Words::Russian)),
    ("тыс", 3, Some(Words::Russian)),
    ("миллион", 6, Some(Words::Russian)),
    ("миллиона", 6, Some(Words::Russian)),
    ("миллионов", 6, Some(Words::Russian)),
    ("млн", 6, Some(Words::Russian)),
    ("миллиард", 9, Some(Words::Russian)),
    ("миллиарда", 9, Some(Words::Russian)),
    ("миллиардов", 9, Some(Words::Russian)),
    ("млрд", 9, Some(Words::Russian)),
];

/// Words of scripts without spaces, or with endings: what begins with them counts, but for what is said.
const SCALE_BEGINNINGS: &[(&str, u32, &[&str])] = &[
    ("万", 4, &[]),
    ("萬", 4, &[]),
    ("亿", 8, &[]),
    ("億", 8, &[]),
    // Kilograms, kilometres, kilowatts, kilocalories, kilobytes.
    ("千", 3, &["克", "米", "瓦", "卡", "字", "焦", "赫"]),
    ("百", 2, &["分"]),
    ("হাজার", 3, &[]),
    ("লাখ", 5, &[]),
    ("লক্ষ", 5, &[]),
    ("কোটি", 7, &[]),
    ("মিলিয়ন", 6, &[]),
    ("মিলিয়ন", 6, &[]),
    ("বিলিয়ন", 9, &[]),
    ("వేల", 3, &[]),
    ("లక్ష", 5, &[]),
    ("కోట్ల", 7, &[]),
    ("కోటి", 7, &[]),
    ("మిలియన్", 6, &[]),
    // Not the beginning of "breed".
    ("พัน", 3, &["ธ"]),
    ("หมื่น", 4, &[]),
    ("แสน", 5, &[]),
    ("ล้าน", 6, &[]),
];

/// The scale word at a place, over at most one space.
pub fn scale(reader: &mut Reader<'_>, at: usize, style: Style) -> Option<Scale> {
    let mut from = at;
    while from < at + 3 && reader.get(from).is_some_and(|c| is_space(c) || c == '{' || c == '}') {
        from += 1;
    }
    let first = reader.get(from)?;
    if let Some(power) = letter(first) {
        let after = reader.get(from + 1);
        // Glued, and no unit: 5k, 1.2M, not 5 km; or money, as in 5 M€.
        let is_glued = from == at && !after.is_some_and(char::is_alphanumeric);
        if is_glued || after.is_some_and(is_currency) {
            return Some(Scale {
                power,
                to: from + if is_glued { 1 } else { 2 },
                is_summed: false,
            });
        }
    }
    if first.is_ascii_alphabetic() || ('\u{400}'..='\u{52f}').contains(&first) {
        let (word, to) = word(reader, from);
        let fits = |(known, _, language): &&(&str, u32, Option<Words>)| {
            *known == word && language.is_none_or(|language| language == style.language)
        };
        let (_, power, _) = SCALE_WORDS.iter().find(fits)?;
        return Some(Scale {
            power: *power,
            to,
            is_summed: false,
        });
    }
    let fits = |(known, _, except): &&(&str, u32, &[&str])| {
        let mut reads = |text: &str, at: usize| text.chars().zip(at..).all(|(c, i)| reader.get(i) == Some(c));
        let after = from + known.chars().count();
        reads(known, from) && !except.iter().any(|text| reads(text, after))
    };
    let (known, power, _) = SCALE_BEGINNINGS.iter().find(fits)?;
    let mut to = from + known.chars().count();
    if first > '\u{e7f}' {
        return Some(Scale {
            power: *power,
            to,
            is_summed: true,
        });
    }
    // Bengali and Telugu endings belong to the word; Thai has none.
    while !('\u{e00}'..='\u{e7f}').contains(&first)
        && reader.get(to).is_some_and(|c| ('\u{980}'..='\u{c7f}').contains(&c))
    {
        to += 1;
    }
    Some(Scale {
        power: *power,
        to,
        is_summed: true,
    })
}

/// The power of ten that a single letter stands for. A small `m` is metres.
fn letter(c: char) -> Option<u32> {
    match c {
        'k' | 'K' => Some(3),
        'M' => Some(6),
        'B' => Some(9),
        _ => None,
    }
}

/// The letters from a place on, in lower case, and where they end; at most 24.
pub fn word(reader: &mut Reader<'_>, from: usize) -> (String, usize) {
    let (mut word, mut to) = (String::new(), from);
    while to < from + 24 {
        let Some(c) = reader.get(to).filter(|c| c.is_alphabetic()) else {
            break;
        };
        word.extend(c.to_lowercase());
        to += 1;
    }
    (word, to)
}

/// What a word before a number says of it.
pub enum LeadIn {
    Minus,
    /// A power of ten that stands before its number.
    Power(u32),
    Currency,
    /// About, only, in all: nothing.
    Filler,
}

const MINUS: &[&str] = &["minus", "negative", "moins", "menos", "минус", "hasi"];
const SWAHILI_POWERS: &[(&str, u32)] = &[("elfu", 3), ("laki", 5), ("milioni", 6), ("bilioni", 9)];
const SWAHILI_UNITS: &[&str] = &[
    "saa", "masaa", "dakika", "sekunde", "siku", "wiki", "mwezi", "miezi", "mwaka", "miaka",
];
const CURRENCIES: &[&str] = &[
    "us", "usd", "eur", "gbp", "rs", "inr", "bdt", "tk", "ksh", "kes", "tsh", "tzs", "sh", "thb", "rub", "cny", "rmb",
    "jpy", "chf", "cad", "aud", "mxn", "shilingi", "dola",
];
const FILLERS: &[&str] = &[
    "about",
    "approximately",
    "around",
    "exactly",
    "only",
    "just",
    "a",
    "total",
    "of",
    "equal",
    "to",
    "etwa",
    "ungefähr",
    "rund",
    "genau",
    "nur",
    "insgesamt",
    "also",
    "aproximadamente",
    "exactamente",
    "unos",
    "unas",
    "de",
    "en",
    "igual",
    "a",
    "environ",
    "exactement",
    "au",
    "égale",
    "à",
    "около",
    "примерно",
    "ровно",
    "всего",
    "takriban",
    "jumla",
    "ya",
    "ni",
];
const MINUS_BEGINNINGS: &[&str] = &["マイナス", "负", "負", "ลบ", "মাইনাস", "ঋণাত্মক", "మైనస్"];
const FILLER_BEGINNINGS: &[&str] = &[
    "约",
    "約",
    "大约",
    "大約",
    "共",
    "总共",
    "一共",
    "为",
    "是",
    "全部で",
    "合計で",
    "合計",
    "およそ",
    "ประมาณ",
    "ทั้งหมด",
    "প্রায়",
    "প্রায়",
    "মোট",
    "సుమారు",
    "మొత్తం",
    "రూ",
];

/// A word that may stand between an announcement and its number.
pub fn lead_in(reader: &mut Reader<'_>, at: usize, style: Style) -> Option<(LeadIn, usize)> {
    let first = reader.get(at)?;
    if first.is_alphabetic() && (first < '\u{530}' || first.is_ascii()) {
        let (word, to) = word(reader, at);
        let word = word.as_str();
        let found = if MINUS.contains(&word) {
            LeadIn::Minus
        } else if let Some((_, power)) = SWAHILI_POWERS
            .iter()
            .find(|(known, _)| *known == word && style.is_swahili())
        {
            LeadIn::Power(*power)
        } else if style.is_swahili() && SWAHILI_UNITS.contains(&word) {
            // They stand before their number, and a second one may follow.
            LeadIn::Currency
        } else if CURRENCIES.contains(&word) || (word == "r" && reader.get(to) == Some('$')) {
            let to = to + usize::from(reader.get(to) == Some('.'));
            return Some((LeadIn::Currency, to));
        } else if FILLERS.contains(&word) {
            LeadIn::Filler
        } else {
            return None;
        };
        return Some((found, to));
    }
    let mut length = |text: &str| {
        let reads = text.chars().zip(at..).all(|(c, i)| reader.get(i) == Some(c));
        reads.then(|| text.chars().count())
    };
    if let Some(n) = MINUS_BEGINNINGS.iter().find_map(|text| length(text)) {
        return Some((LeadIn::Minus, at + n));
    }
    let n = FILLER_BEGINNINGS.iter().filter_map(|text| length(text)).max()?;
    let to = at + n;
    Some((LeadIn::Filler, to + usize::from(reader.get(to) == Some('.'))))
}

/// Whether a text stands at a place.
pub fn reads(reader: &mut Reader<'_>, text: &str, at: usize) -> bool {
    text.chars().zip(at..).all(|(c, i)| reader.get(i) == Some(c))
}

/// `and a half`, and what it adds.
const PARTS: &[(&str, u64, u64)] = &[
    ("and a half", 1, 2),
    ("and one half", 1, 2),
    ("and a quarter", 1, 4),
    ("and three quarters", 3, 4),
    ("y medio", 1, 2),
    ("y media", 1, 2),
    ("et demie", 1, 2),
    ("et demi", 1, 2),
    ("und eine halbe", 1, 2),
    ("с половиной", 1, 2),
    ("na nusu", 1, 2),
];

/// The part of one that words add to the number before them, over a space: numerator, denominator, and where it ends.
pub fn part(reader: &mut Reader<'_>, at: usize) -> Option<(u64, u64, usize)> {
    reader.get(at).filter(|c| is_space(*c))?;
    let (text, n, d) = PARTS.iter().find(|(text, ..)| reads(reader, text, at + 1))?;
    let to = at + 1 + text.chars().count();
    let goes_on = reader.get(to).is_some_and(char::is_alphabetic);
    (!goes_on).then_some((*n, *d, to))
}

/// Letters that may be glued to a number: `USD50`, `Rs50`.
pub fn is_currency_code(word: &str) -> bool {
    word == "R" || CURRENCIES.contains(&word.to_lowercase().as_str())
}

/// Where the Swahili power of ten starts that stands before a number at `at`.
pub fn power_before(reader: &mut Reader<'_>, at: usize, bound: usize, style: Style) -> Option<usize> {
    if !style.is_swahili() || at < bound + 2 || reader.get(at - 1) != Some(' ') {
        return None;
    }
    let mut from = at - 1;
    while from > bound && reader.get(from - 1).is_some_and(char::is_alphabetic) {
        from -= 1;
    }
    let (word, _) = word(reader, from);
    SWAHILI_POWERS.iter().any(|(known, _)| *known == word).then_some(from)
}

impl Style {
    fn is_swahili(self) -> bool {
        self.language == Words::Swahili
    }
}
