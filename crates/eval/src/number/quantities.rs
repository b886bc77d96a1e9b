//! Two numbers that make one quantity: `72 dollars and 50 cents`, `2 hours 30 minutes`, `5 feet 3 inches`.
//!
//! Such a quantity has a value in either unit, and which of them is asked for only the question says: both stand. Its first
//! number alone is never its value.

use super::{
    Parser, Term, Value, is_currency, is_space,
    reader::Reader,
    words::{reads, word},
};

/// A unit, its part, and how many of the parts make one.
struct Pair {
    whole: &'static [&'static str],
    part: &'static [&'static str],
    ratio: u64,
}

/// In lower case. Words of alphabets are looked up whole, those of other scripts by their beginning.
const PAIRS: &[Pair] = &[
    Pair {
        whole: &[
            "dollar",
            "dollars",
            "euro",
            "euros",
            "pound",
            "pounds",
            "dólar",
            "dólares",
            "dolares",
            "доллар",
            "доллара",
            "долларов",
            "евро",
            "dola",
            "ドル",
            "ユーロ",
            "美元",
            "欧元",
            "ดอลลาร์",
            "ডলার",
            "డాలర్లు",
            "డాలర్ల",
        ],
        part: &[
            "cent",
            "cents",
            "pence",
            "centavo",
            "centavos",
            "céntimo",
            "céntimos",
            "centime",
            "centimes",
            "цент",
            "цента",
            "центов",
            "senti",
            "セント",
            "美分",
            "欧分",
            "เซนต์",
            "সেন্ট",
            "సెంట్లు",
            "సెంట్ల",
        ],
        ratio: 100,
    },
    Pair {
        whole: &["рубль", "рубля", "рублей", "rupee", "rupees", "টাকা", "రూపాయలు", "บาท"],
        part: &["копейка", "копейки", "копеек", "paise", "পয়সা", "పైసలు", "สตางค์"],
        ratio: 100,
    },
    Pair {
        whole: &[
            "hour",
            "hours",
            "hr",
            "hrs",
            "h",
            "stunde",
            "stunden",
            "std",
            "hora",
            "horas",
            "heure",
            "heures",
            "час",
            "часа",
            "часов",
            "saa",
            "時間",
            "小时",
            "小時",
            "ชั่วโมง",
            "ঘণ্টা",
            "ঘন্টা",
            "గంటలు",
            "గంటల",
            "గంట",
        ],
        part: &[
            "minute",
            "minutes",
            "min",
            "mins",
            "minuten",
            "minuto",
            "minutos",
            "минута",
            "минуты",
            "минут",
            "dakika",
            "分",
            "นาที",
            "মিনিট",
            "నిమిషాలు",
            "నిమిషాల",
        ],
        ratio: 60,
    },
    Pair {
        whole: &["minute", "minutes", "min", "mins", "minuten", "minuto", "minutos"],
        part: &[
            "second", "seconds", "sec", "secs", "sekunden", "segundo", "segundos", "seconde", "secondes",
        ],
        ratio: 60,
    },
    Pair {
        whole: &[
            "day", "days", "tag", "tage", "tagen", "día", "días", "dia", "dias", "jour", "jours",
        ],
        part: &["hour", "hours", "stunde", "stunden", "hora", "horas", "heure", "heures"],
        ratio: 24,
    },
    Pair {
        whole: &[
            "week", "weeks", "woche", "wochen", "semana", "semanas", "semaine", "semaines",
        ],
        part: &[
            "day", "days", "tag", "tage", "tagen", "día", "días", "dia", "dias", "jour", "jours",
        ],
        ratio: 7,
    },
    Pair {
        whole: &["year", "years", "jahr", "jahre", "jahren", "año", "años", "an", "ans"],
        part: &["month", "months", "monat", "monate", "monaten", "mes", "meses", "mois"],
        ratio: 12,
    },
    Pair {
        whole: &["foot", "feet", "ft"],
        part: &["inch", "inches", "in"],
        ratio: 12,
    },
    Pair {
        whole: &["pound", "pounds", "lb", "lbs"],
        part: &["ounce", "ounces", "oz"],
        ratio: 16,
    },
];

impl Parser<'_> {
    /// Takes the rest of a quantity into the number that it begins with.
    pub(super) fn quantity(&mut self, term: &mut Term) {
        let Some((part, ratio, to)) = self.rest_of_quantity(term) else {
            return;
        };
        let whole: Option<u64> = match term.readings.as_slice() {
            [value] => value.natural(),
            _ => None,
        };
        let parts = whole.and_then(|whole| whole.checked_mul(ratio)?.checked_add(part));
        let in_parts = parts.map(|parts| Value::decimal(&parts.to_string(), ""));
        let in_wholes = parts.and_then(|parts| Value::ratio(parts, ratio));
        term.readings = in_wholes.into_iter().chain(in_parts).collect();
        (term.to, term.is_plain) = (to, false);
    }

    /// Number of parts, how many make a whole, and where it ends: of a part that is less than a whole.
    fn rest_of_quantity(&mut self, term: &Term) -> Option<(u64, u64, usize)> {
        let is_money = term.from > 0 && self.reader.get(term.from - 1).is_some_and(is_currency);
        let unit = self.spaces(term.to);
        let named: Vec<(&Pair, usize)> = PAIRS
            .iter()
            .filter_map(|pair| Some((pair, unit_at(&mut self.reader, unit, pair.whole)?)))
            .collect();
        // `$72 and 50 cents`
        let unnamed = PAIRS.first().filter(|_| is_money).map(|pair| (pair, term.to));
        named.into_iter().chain(unnamed).find_map(|(pair, to)| {
            let comma = to + usize::from(self.reader.get(to) == Some(','));
            let digits = self.after_and(comma).unwrap_or_else(|| self.spaces(comma));
            let end = self.digits(digits);
            let part: u64 = self.text(digits, end).parse().ok()?;
            let unit = self.spaces(end);
            let to = unit_at(&mut self.reader, unit, pair.part)?;
            (part < pair.ratio).then_some((part, pair.ratio, to))
        })
    }
}

/// Where the unit ends that is named at a place.
fn unit_at(reader: &mut Reader<'_>, at: usize, names: &[&str]) -> Option<usize> {
    let first = reader.get(at).filter(|c| c.is_alphabetic())?;
    if first < '\u{530}' {
        let (word, to) = word(reader, at);
        return names.contains(&word.as_str()).then_some(to);
    }
    let known = names.iter().find(|known| reads(reader, known, at))?;
    let to = at + known.chars().count();
    // `২ ঘণ্টা`: a space may follow, and in no script anything else that belongs to the name.
    Some(to).filter(|_| {
        reader
            .get(to)
            .is_none_or(|c| c.is_ascii_digit() || is_space(c) || !super::is_mark(c))
    })
}
