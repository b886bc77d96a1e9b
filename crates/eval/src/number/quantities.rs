//! Numbers that make one quantity: `72 dollars and 50 cents`, `5 feet 3 inches`, `2 hours, 30 minutes and 15 seconds`.
//!
//! Such a quantity has a value in each of its units, and which of them is asked for only the question says: all stand. Its first
//! number alone is never its value.

use super::{
    MOST_LEAD_IN, Parser, Term, Value, is_currency, is_space,
    reader::Reader,
    words::{self, Words, reads, word},
};

/// A unit, its part, and how many of the parts make one.
struct Pair {
    whole: &'static [&'static str],
    part: &'static [&'static str],
    ratio: u64,
}

const HOURS: &[&str] = &[
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
    "ч",
    "saa",
    "masaa",
    "時間",
    "小时",
    "小時",
    "个小时",
    "個小時",
    "ชั่วโมง",
    "ชม.",
    "ঘণ্টা",
    "ঘন্টা",
    "గంటలు",
    "గంటల",
    "గంట",
];
const MINUTES: &[&str] = &[
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
    "мин",
    "dakika",
    "分钟",
    "分鐘",
    "分",
    "m",
    "นาที",
    "মিনিট",
    "నిమిషాలు",
    "నిమిషాల",
    "నిమిషం",
];
const SECONDS: &[&str] = &[
    "second",
    "seconds",
    "sec",
    "secs",
    "sekunde",
    "sekunden",
    "segundo",
    "segundos",
    "seconde",
    "secondes",
    "секунда",
    "секунды",
    "секунд",
    "сек",
    "с",
    "s",
    "sek",
    "秒",
    "วินาที",
    "সেকেন্ড",
    "సెకన్లు",
    "సెకన్ల",
];
const DAYS: &[&str] = &[
    "day",
    "days",
    "tag",
    "tage",
    "tagen",
    "día",
    "días",
    "dia",
    "dias",
    "jour",
    "jours",
    "день",
    "дня",
    "дней",
    "siku",
    "天",
    "日",
    "วัน",
    "দিন",
    "రోజులు",
    "రోజుల",
    "రోజు",
];
const WEEKS: &[&str] = &[
    "week",
    "weeks",
    "woche",
    "wochen",
    "semana",
    "semanas",
    "semaine",
    "semaines",
    "неделя",
    "недели",
    "недель",
    "wiki",
    "周",
    "週",
    "星期",
    "个星期",
    "個星期",
    "週間",
    "สัปดาห์",
    "সপ্তাহ",
    "వారాలు",
    "వారాల",
    "వారం",
];
const MONTHS: &[&str] = &[
    "month",
    "months",
    "monat",
    "monate",
    "monaten",
    "mes",
    "meses",
    "mois",
    "месяц",
    "месяца",
    "месяцев",
    "mwezi",
    "miezi",
    "个月",
    "個月",
    "ヶ月",
    "か月",
    "カ月",
    "ヵ月",
    "เดือน",
    "মাস",
    "నెలలు",
    "నెలల",
    "నెల",
];
const YEARS: &[&str] = &[
    "year",
    "years",
    "jahr",
    "jahre",
    "jahren",
    "año",
    "años",
    "an",
    "ans",
    "год",
    "года",
    "лет",
    "mwaka",
    "miaka",
    "年",
    "ปี",
    "বছর",
    "సంవత్సరాలు",
    "సంవత్సరాల",
    "సంవత్సరం",
    "ఏళ్లు",
];

const FEET: &[&str] = &["foot", "feet", "ft", "fuß", "pie", "pies", "pied", "pieds"];
const YARDS: &[&str] = &["yard", "yards", "yd", "yds"];
const JIAO: &[&str] = &["角", "毛"];
const METERS: &[&str] = &["m", "meter", "meters", "metre", "metres", "米"];

/// In lower case. Words of alphabets are looked up whole, those of other scripts by their beginning, the longest first. The first
/// pair is that of money, whose whole may be a sign.
const PAIRS: &[Pair] = &[
    Pair {
        whole: &[
            "dollar",
            "dollars",
            "us dollar",
            "us dollars",
            "usd",
            "euro",
            "euros",
            "eur",
            "pound",
            "pounds",
            "dólar",
            "dólares",
            "dolares",
            "доллар",
            "долл",
            "bucks",
            "peso",
            "pesos",
            "доллара",
            "долларов",
            "евро",
            "dola",
            "ドル",
            "ユーロ",
            "美元",
            "欧元",
            "歐元",
            "ดอลลาร์สหรัฐ",
            "ดอลลาร์",
            "เหรียญ",
            "ডলার",
            "డాలర్లు",
            "డాలర్ల",
            "元",
            "块",
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
            "歐分",
            "เซนต์",
            "সেন্ট",
            "సెంట్లు",
            "సెంట్ల",
            "分",
        ],
        ratio: 100,
    },
    Pair {
        whole: &[
            "рубль",
            "рубля",
            "рублей",
            "руб",
            "rupee",
            "rupees",
            "shilingi",
            "টাকা",
            "రూపాయలు",
            "రూపాయల",
            "บาท",
        ],
        part: &[
            "копейка",
            "копейки",
            "копеек",
            "коп",
            "paise",
            "senti",
            "পয়সা",
            "প\u{9df}সা",
            "పైసలు",
            "పైసల",
            "สตางค์",
        ],
        ratio: 100,
    },
    Pair {
        whole: &["元", "块"],
        part: JIAO,
        ratio: 10,
    },
    Pair {
        whole: JIAO,
        part: &["分"],
        ratio: 10,
    },
    Pair {
        whole: HOURS,
        part: MINUTES,
        ratio: 60,
    },
    Pair {
        whole: MINUTES,
        part: SECONDS,
        ratio: 60,
    },
    Pair {
        whole: HOURS,
        part: SECONDS,
        ratio: 3600,
    },
    Pair {
        whole: DAYS,
        part: MINUTES,
        ratio: 1440,
    },
    Pair {
        whole: WEEKS,
        part: HOURS,
        ratio: 168,
    },
    Pair {
        whole: DAYS,
        part: HOURS,
        ratio: 24,
    },
    Pair {
        whole: WEEKS,
        part: DAYS,
        ratio: 7,
    },
    Pair {
        whole: YEARS,
        part: MONTHS,
        ratio: 12,
    },
    Pair {
        whole: &[
            "km",
            "kilometer",
            "kilometers",
            "kilometre",
            "kilometres",
            "千米",
            "公里",
        ],
        part: METERS,
        ratio: 1000,
    },
    Pair {
        whole: &["kg", "kilogram", "kilograms", "公斤", "千克"],
        part: &["g", "gram", "grams", "克"],
        ratio: 1000,
    },
    Pair {
        whole: METERS,
        part: &["cm", "centimeter", "centimeters", "centimetre", "centimetres", "厘米"],
        ratio: 100,
    },
    Pair {
        whole: YARDS,
        part: FEET,
        ratio: 3,
    },
    Pair {
        whole: &["mile", "miles"],
        part: YARDS,
        ratio: 1760,
    },
    Pair {
        whole: &["l", "liter", "liters", "litre", "litres", "litro", "litros", "升"],
        part: &[
            "ml",
            "milliliter",
            "milliliters",
            "millilitre",
            "millilitres",
            "mililitros",
            "毫升",
        ],
        ratio: 1000,
    },
    Pair {
        whole: &["gallon", "gallons"],
        part: &["quart", "quarts"],
        ratio: 4,
    },
    Pair {
        whole: FEET,
        part: &["inch", "inches", "zoll", "pulgada", "pulgadas", "pouce", "pouces"],
        ratio: 12,
    },
    Pair {
        whole: &["pound", "pounds", "lb", "lbs"],
        part: &["ounce", "ounces", "oz"],
        ratio: 16,
    },
];

/// A half, glued to the name of a whole; what is set off by a space is [`words::part`]'s.
const GLUED_HALVES: [&str; 2] = ["半", "ครึ่ง"];

/// Behind a quantity whose parts stand behind commas, what says no more of its last number than of all.
const OF_ALL: &[&str] = &[
    "in total",
    "in all",
    "total",
    "altogether",
    "long",
    "tall",
    "later",
    "ago",
    "more",
    "left",
    "old",
    "en total",
    "au total",
    "insgesamt",
    "lang",
];

/// What may stand between the two besides `and`.
const WITH: &[&str] = &["with", "plus", "mit", "con", "avec"];

impl Parser<'_> {
    /// Takes the rest of a quantity into the number that it begins with.
    pub(super) fn quantity(&mut self, term: &mut Term) {
        let Some(rest) = self.rest_of_quantity(term).or_else(|| self.rest_behind_units(term)) else {
            return;
        };
        let in_least = |whole: &Value| whole.natural()?.checked_mul(rest.units[0])?.checked_add(rest.parts);
        let in_least: Vec<u64> = term.readings.iter().filter_map(in_least).collect();
        let in_units = rest
            .units
            .iter()
            .flat_map(|unit| in_least.iter().filter_map(|parts| Value::ratio(*parts, *unit)));
        term.readings = in_units.collect();
        (term.to, term.is_plain) = (rest.to, false);
    }

    /// `dollars and 50 cents` behind a number, and `30 minutes and 15 seconds` of hours: of each part less than one of the unit
    /// before it.
    fn rest_of_quantity(&mut self, term: &Term) -> Option<Rest> {
        let unit = self.gap(term.to);
        let mut named: Vec<(&'static Pair, usize)> = Vec::new();
        if let Some(name) = Name::at(&mut self.reader, unit) {
            let known = |pair: &'static Pair| Some((pair, name.end_of(&mut self.reader, pair.whole)?));
            named.extend(PAIRS.iter().filter_map(known));
        }
        // `$72 and 50 cents`, `72 € 50 cents`
        if self.reader.get(unit).is_some_and(is_currency) {
            named.push((&PAIRS[0], unit + 1));
        } else if term.from > 0 && self.reader.get(term.from - 1).is_some_and(is_currency) {
            named.push((&PAIRS[0], term.to));
        }
        if let Some(half) = named
            .iter()
            .find_map(|(pair, to)| self.half(pair, *to))
            .or_else(|| self.half_before_unit(unit))
        {
            return Some(half);
        }
        let mut part = named.into_iter().find_map(|(pair, to)| self.part(pair, to))?;
        let mut rest = Rest {
            parts: 0,
            units: vec![1],
            to: 0,
        };
        loop {
            rest.add(&part)?;
            match self.finer_part(part.pair, part.to) {
                Some(next) => part = next,
                None => return Some(rest),
            }
        }
    }

    /// `and a half` behind the name of a whole.
    fn half(&mut self, pair: &Pair, to: usize) -> Option<Rest> {
        let mut glued = GLUED_HALVES.into_iter();
        let (n, d, to) = words::part(&mut self.reader, to).or_else(|| {
            let half = glued.find(|half| reads(&mut self.reader, half, to))?;
            Some((1, 2, to + half.chars().count()))
        })?;
        (pair.ratio * n).is_multiple_of(d).then(|| Rest {
            parts: pair.ratio * n / d,
            units: vec![pair.ratio, 1],
            to,
        })
    }

    /// `个半小时` behind a number.
    fn half_before_unit(&mut self, at: usize) -> Option<Rest> {
        let half = ["个半", "個半"]
            .into_iter()
            .find(|half| reads(&mut self.reader, half, at))?;
        let name = Name::at(&mut self.reader, at + half.chars().count())?;
        PAIRS.iter().filter(|pair| pair.whole == HOURS).find_map(|pair| {
            let to = name.end_of(&mut self.reader, pair.whole)?;
            Some(Rest {
                parts: pair.ratio / 2,
                units: vec![pair.ratio, 1],
                to,
            })
        })
    }

    /// `and 15 seconds` behind minutes.
    fn finer_part(&mut self, pair: &Pair, to: usize) -> Option<Part> {
        let mut finer = PAIRS.iter().filter(|finer| finer.whole == pair.part);
        finer.find_map(|finer| self.part(finer, to))
    }

    /// `, and 50 cents` behind the name of a whole.
    fn part(&mut self, pair: &'static Pair, to: usize) -> Option<Part> {
        let comma = self.gap(to);
        let is_listed = self.reader.get(comma) == Some(',');
        let digits = self.after_link(comma + usize::from(is_listed));
        let end = self.digits(digits);
        let n: u64 = self.text(digits, end).parse().ok()?;
        let unit = self.gap(end);
        let is_cents = pair.ratio == 100 && self.reader.get(unit) == Some('¢');
        let to = match is_cents {
            true => unit + 1,
            false => Name::at(&mut self.reader, unit)?.end_of(&mut self.reader, pair.part)?,
        };
        // `5 days, 8 hours a day` is a list, `5 days, 8 hours and 3 minutes` is none; `3分の1` a third.
        let is_list = is_listed && self.goes_on(to) && !self.is_of_all(to) && self.finer_part(pair, to).is_none();
        let is_one = n < pair.ratio && !is_list && !self.is_under_digits(to);
        is_one.then_some(Part { pair, n, to })
    }

    fn is_of_all(&mut self, to: usize) -> bool {
        let at = self.gap(to);
        OF_ALL.iter().any(|words| {
            let end = at + words.chars().count();
            reads(&mut self.reader, words, at) && !self.reader.get(end).is_some_and(char::is_alphanumeric)
        })
    }

    /// `dola 72 na senti 50`: in Swahili units stand before their numbers.
    fn rest_behind_units(&mut self, term: &Term) -> Option<Rest> {
        if self.style.language != Words::Swahili {
            return None;
        }
        let bound = term.from.saturating_sub(MOST_LEAD_IN);
        let end = self.back_over(term.from, bound, is_space);
        let from = self.back_over(end, bound, char::is_alphabetic);
        let mut whole = self.text(from, end).to_lowercase();
        let mut rest = Rest {
            parts: 0,
            units: vec![1],
            to: term.to,
        };
        while let Some((part, name)) = self.part_behind_unit(&whole, rest.to) {
            rest.add(&part)?;
            whole = name;
        }
        (rest.units.len() > 1).then_some(rest)
    }

    /// `na senti 50`, and what its unit is called.
    fn part_behind_unit(&mut self, whole: &str, to: usize) -> Option<(Part, String)> {
        let comma = self.gap(to);
        let is_listed = self.reader.get(comma) == Some(',');
        let unit = self.after_link(comma + usize::from(is_listed));
        let (name, to) = word(&mut self.reader, unit);
        let pair = PAIRS
            .iter()
            .find(|pair| pair.whole.contains(&whole) && pair.part.contains(&name.as_str()))?;
        let digits = self.spaces(to);
        let to = self.digits(digits);
        let n: u64 = self.text(digits, to).parse().ok()?;
        (n < pair.ratio).then_some((Part { pair, n, to }, name))
    }

    /// Over spaces, bold type, and a word that links.
    fn after_link(&mut self, at: usize) -> usize {
        let at = self.gap(at);
        if self.reader.get(at) == Some('&') {
            return self.gap(at + 1);
        }
        let next = self.after_and(at).unwrap_or_else(|| {
            let (link, to) = word(&mut self.reader, at);
            if WITH.contains(&link.as_str()) { to } else { at }
        });
        self.gap(next)
    }

    /// Over spaces, bold type, and the braces that LaTeX puts around words.
    fn gap(&mut self, at: usize) -> usize {
        self.skip(at, |c| is_space(c) || matches!(c, '*' | '{' | '}' | '~'))
    }

    /// Whether `の1` or `之一` follows: what looked like minutes is a denominator.
    fn is_under_digits(&mut self, to: usize) -> bool {
        to > 0 && self.reader.get(to - 1) == Some('分') && self.reader.get(to).is_some_and(|c| matches!(c, 'の' | '之'))
    }
}

/// A number of parts of the unit before it.
struct Part {
    pair: &'static Pair,
    n: u64,
    to: usize,
}

/// What follows the first number of a quantity.
struct Rest {
    /// Of the least of its units.
    parts: u64,
    /// How many of the least make one of each, the first one's unit first.
    units: Vec<u64>,
    to: usize,
}

impl Rest {
    /// `None` where it is more than can be counted.
    fn add(&mut self, part: &Part) -> Option<()> {
        let ratio = part.pair.ratio;
        self.parts = self.parts.checked_mul(ratio)?.checked_add(part.n)?;
        self.units.iter_mut().try_for_each(|unit| {
            *unit = unit.checked_mul(ratio)?;
            Some(())
        })?;
        self.units.push(1);
        self.to = part.to;
        Some(())
    }
}

/// A word where a unit may be named.
struct Name {
    at: usize,
    /// In lower case, and where it ends: of an alphabet that separates words.
    word: Option<(String, usize)>,
}

impl Name {
    fn at(reader: &mut Reader<'_>, at: usize) -> Option<Self> {
        let first = reader.get(at).filter(|c| c.is_alphabetic())?;
        if first >= '\u{530}' {
            return Some(Self { at, word: None });
        }
        let (mut name, mut to) = word(reader, at);
        if name == "us" && reader.get(to) == Some(' ') {
            let (second, end) = word(reader, to + 1);
            (name, to) = (format!("us {second}"), end);
        }
        // The point after a short form is part of it, if more follows.
        let is_short = name.chars().count() <= 4 && reader.get(to) == Some('.');
        let goes_on =
            is_short && reader.get(to + 1) == Some(' ') && reader.get(to + 2).is_some_and(|c| c.is_ascii_digit());
        let word = Some((name, to + usize::from(goes_on)));
        Some(Self { at, word })
    }

    /// Where it ends, if it is one of these.
    fn end_of(&self, reader: &mut Reader<'_>, names: &[&str]) -> Option<usize> {
        if let Some((name, to)) = &self.word {
            return names.contains(&name.as_str()).then_some(*to);
        }
        let known = names.iter().filter(|known| reads(reader, known, self.at));
        let length = known.map(|known| known.chars().count()).max()?;
        // A vowel sign after it would make it another word.
        let to = self.at + length;
        (!reader.get(to).is_some_and(super::is_mark)).then_some(to)
    }
}
