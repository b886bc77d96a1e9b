use super::*;

fn worth(text: &str, lang: &str) -> Vec<String> {
    let show = |value: Value| match value {
        Value::Decimal {
            is_negative,
            digits,
            exponent,
        } => {
            let sign = if is_negative { "-" } else { "" };
            match usize::try_from(exponent) {
                _ if digits.is_empty() => "0".into(),
                Ok(zeros) => format!("{sign}{digits}{}", "0".repeat(zeros)),
                Err(_) => {
                    let places = usize::try_from(-exponent).unwrap();
                    let padded = format!("{digits:0>width$}", width = places + 1);
                    let (whole, decimals) = padded.split_at(padded.len() - places);
                    format!("{sign}{whole}.{decimals}")
                }
            }
        }
        Value::Ratio {
            is_negative,
            numerator,
            denominator,
        } => format!("{}{numerator}/{denominator}", if is_negative { "-" } else { "" }),
    };
    readings(text, Style::of(lang)).into_iter().map(show).collect()
}

/// Language, what is written, and what it may mean.
const WRITTEN: &[(&str, &str, &[&str])] = &[
    // Digits of every script.
    ("bn", "৭২", &["72"]),
    ("te", "౭౨", &["72"]),
    ("th", "๗๒", &["72"]),
    ("hi", "७२", &["72"]),
    ("ar", "٧٢", &["72"]),
    ("fa", "۷۲", &["72"]),
    ("ja", "７２", &["72"]),
    ("km", "៧២", &["72"]),
    ("my", "၇၂", &["72"]),
    ("ta", "௭௨", &["72"]),
    ("en", "𝟕𝟐", &["72"]),
    // Separators as the language writes them.
    ("en", "1,234.50", &["1234.5"]),
    ("en", "1.234", &["1.234"]),
    ("en", "1,234,567", &["1234567"]),
    ("en", "1.234,50", &["1234.5"]),
    ("en", "0,5", &["0.5"]),
    // Two units of one quantity, and of none.
    ("en", "2 km 300 m", &["2.3", "2300"]),
    ("en", "2 km 300 g", &[]),
    ("en", "1 hour, 30 minutes and 15 seconds", &["361/240", "90.25", "5415"]),
    ("en", "2 weeks 3 days 12 hours", &["2.5", "17.5", "420"]),
    ("de", "1 Stunde 30 Minuten 15 Sekunden", &["361/240", "90.25", "5415"]),
    ("en", "1 hour and 15 seconds", &["241/240", "3615"]),
    ("en", "1h 30m 15s", &["361/240", "90.25", "5415"]),
    ("en", "1 hour and a half", &["1.5", "90"]),
    ("es", "2 horas y media", &["2.5", "150"]),
    ("fr", "2 heures et demie", &["2.5", "150"]),
    ("en", "2 hours and a quarter", &["2.25", "135"]),
    ("ja", "1時間半", &["1.5", "90"]),
    ("zh", "1个半小时", &["1.5", "90"]),
    ("zh", "3元5角2分", &["3.52", "35.2", "352"]),
    ("en", "3 yards, 2 feet and 5 inches", &["137/36", "137/12", "137"]),
    ("ja", "1時間30分15秒", &["361/240", "90.25", "5415"]),
    ("zh", "1小时30分15秒", &["361/240", "90.25", "5415"]),
    ("en", "3,5", &[]),
    ("en", "12345,678", &[]),
    ("es", "1.234,50", &["1234.5"]),
    ("es", "1,234.50", &["1234.5"]),
    ("es", "1.234", &["1234"]),
    ("es", "1,234", &["1.234", "1234"]),
    ("de", "12,5", &["12.5"]),
    ("de", "1.234.567", &["1234567"]),
    ("de", "0.123", &["0.123"]),
    ("fr", "1 234", &["1234"]),
    ("fr", "1\u{a0}234,5", &["1234.5"]),
    ("fr", "1\u{202f}234\u{202f}567", &["1234567"]),
    ("ru", "80 000", &["80000"]),
    ("en", "1 234", &["1234"]),
    ("en", "1\u{2009}234", &["1234"]),
    ("de", "1'234.50", &["1234.5"]),
    ("de", "1’234", &["1234"]),
    ("en", "1_000_000", &["1000000"]),
    ("en", "1,00,000", &["100000"]),
    ("bn", "১,০০,০০০", &["100000"]),
    ("te", "12,34,567.5", &["1234567.5"]),
    ("ar", "١٬٢٣٤٫٥", &["1234.5"]),
    ("ar", "١٢٫٥", &["12.5"]),
    ("ja", "１，２３４．５", &["1234.5"]),
    ("en", "1,23", &[]),
    ("en", "1,2,3", &[]),
    ("en", "1.2.3", &[]),
    ("de", "28.11.2026", &[]),
    // Signs.
    ("en", "-5", &["-5"]),
    ("en", "−5", &["-5"]),
    ("ja", "－５", &["-5"]),
    ("en", "‑5", &["-5"]),
    ("en", "–5", &["-5"]),
    ("en", "+5", &["5"]),
    ("en", "-$5", &["-5"]),
    ("en", "$-5", &["-5"]),
    ("en", "minus 5", &["-5"]),
    ("de", "minus 5", &["-5"]),
    ("ja", "マイナス5", &["-5"]),
    ("ru", "минус 5", &["-5"]),
    ("en", "-0", &["0"]),
    ("en", "- 5", &["-5"]),
    ("fr", "−\u{a0}5", &["-5"]),
    ("en", "$- 5$", &["-5"]),
    ("en", "-- 5", &["5"]),
    ("en", "±5", &[]),
    // Currency.
    ("en", "$29.00", &["29"]),
    ("en", "US$29", &["29"]),
    ("bn", "৳৫০০", &["500"]),
    ("te", "రూ. 500", &["500"]),
    ("te", "₹500", &["500"]),
    ("sw", "dola 18", &["18"]),
    ("sw", "KSh 500", &["500"]),
    ("ja", "￥500", &["500"]),
    ("de", "29 €", &["29"]),
    // Per cent.
    ("en", "28%", &["28"]),
    ("en", "28 %", &["28"]),
    ("en", "28\\%", &["28"]),
    ("ja", "２８％", &["28"]),
    ("ar", "٢٨٪", &["28"]),
    // LaTeX.
    ("en", "1{,}234", &["1234"]),
    ("en", "$9{,}500", &["9500"]),
    ("en", "\\$1{,}234.50", &["1234.5"]),
    ("en", "\\text{\\$}18", &["18"]),
    ("en", "\\boxed{8,000}", &["8000"]),
    ("en", "\\boxed{$9{,}500}", &["9500"]),
    ("en", "$\\boxed{\\text{18}}$", &["18"]),
    ("fr", "1\\,234", &["1234"]),
    ("en", "\\frac{3}{4}", &["0.75"]),
    ("en", "-\\dfrac34", &["-0.75"]),
    // Powers of ten.
    ("en", "1.5e3", &["1500"]),
    ("en", "1.5E+3", &["1500"]),
    ("en", "2e-3", &["0.002"]),
    ("en", "1.5 × 10^3", &["1500"]),
    ("en", "1.5 \\times 10^{3}", &["1500"]),
    ("en", "1,5·10³", &[]),
    ("de", "1,5·10³", &["1500"]),
    ("en", "10^3", &["1000"]),
    ("en", "10⁻²", &["0.01"]),
    ("en", "2^10", &[]),
    ("en", "5²", &[]),
    ("en", "5e999999999", &[]),
    // Words for them.
    ("zh", "11万", &["110000"]),
    ("ja", "1万2千", &["12000"]),
    ("ja", "３億５０００万", &["350000000"]),
    ("zh", "1.5亿", &["150000000"]),
    ("zh", "5千", &["5000"]),
    ("zh", "5千克", &[]),
    ("en", "1.5 million", &["1500000"]),
    ("en", "$2 billion", &["2000000000"]),
    ("en", "5k", &["5000"]),
    ("en", "$1.2M", &["1200000"]),
    ("fr", "1,2 M€", &["1200000"]),
    ("en", "2 lakh", &["200000"]),
    ("en", "5 m", &[]),
    ("en", "5\\text{ thousand}", &["5000"]),
    ("de", "1,5 Millionen", &["1500000"]),
    ("de", "2 Mrd.", &["2000000000"]),
    ("es", "5 mil", &["5000"]),
    ("es", "2 mil millones", &["2000000000"]),
    ("fr", "3 millions", &["3000000"]),
    ("ru", "5 тыс.", &["5000"]),
    ("ru", "2,5 млн", &["2500000"]),
    ("bn", "২ লাখ ৫০ হাজার", &["250000"]),
    ("te", "5 వేలు", &["5000"]),
    ("te", "2 లక్షలు", &["200000"]),
    ("th", "๒ ล้าน", &["2000000"]),
    ("th", "1 หมื่น 2 พัน", &["12000"]),
    ("sw", "elfu 5", &["5000"]),
    ("en", "5 mil", &[]),
    // Fractions.
    ("en", "3/4", &["0.75"]),
    ("en", "1/3", &["1/3"]),
    ("en", "-1/3", &["-1/3"]),
    ("en", "1 3/4", &["1.75"]),
    ("en", "2½", &["2.5"]),
    ("en", "½", &["0.5"]),
    ("en", "3\\frac{1}{4}", &["3.25"]),
    ("en", "3 \\frac14", &["3.25"]),
    ("en", "36/2", &["18"]),
    ("en", "5/0", &[]),
    ("en", "1/2/3", &[]),
    ("en", "3⁄4", &["0.75"]),
    ("en", "3∕4", &["0.75"]),
    ("en", "\\frac {3} {4}", &["0.75"]),
    ("en", "\\frac{-3}{4}", &["-0.75"]),
    ("en", "-\\frac{-3}{4}", &["0.75"]),
    ("en", "\\frac{1,500}{3}", &["500"]),
    ("en", "\\frac{0.5}{3}", &["1/6"]),
    ("en", "\\frac{5}{0}", &[]),
    ("en", "\\frac{0}{5}", &["0"]),
    ("en", "\\frac{x}{4}", &[]),
    ("en", "{3 \\over 4}", &["0.75"]),
    ("en", "3 \\over x", &[]),
    ("en", "1 and 3/4", &["1.75"]),
    ("es", "1 y 3/4", &["1.75"]),
    ("en", "3 and 4/3", &[]),
    ("en", "3 and a half", &["3.5"]),
    ("ja", "4分の3", &["0.75"]),
    ("zh", "1又4分之3", &["1.75"]),
    ("en", "3/x", &[]),
    // No numbers.
    ("en", "\\sqrt{16}", &[]),
    ("en", "5 to 7", &[]),
    ("en", "5, 7", &[]),
    ("en", "May 5, 2020", &[]),
    ("en", "2-3", &[]),
    ("en", "2–3", &[]),
    ("en", "5 + 3", &[]),
    ("en", "12:30", &[]),
    ("en", "3:4", &[]),
    ("en", "²", &[]),
    ("en", "2√3", &[]),
    ("en", "2\\pi", &[]),
    ("en", "five", &[]),
    ("en", "18 eggs", &[]),
    ("en", "", &[]),
    ("en", "...", &[]),
    ("en", ",", &[]),
    ("en", "-", &[]),
];

#[test]
fn what_is_written_and_what_it_is_worth() {
    for (lang, text, expected) in WRITTEN {
        assert_eq!(worth(text, lang), *expected, "{lang}: {text}");
    }
}

/// A number of any length is compared to the last digit.
#[test]
fn long_numbers_are_exact() {
    let long = "1234567890".repeat(9);
    assert_ne!(worth(&long, "en"), worth(&format!("{long}.0000001"), "en"));
    assert_eq!(
        worth(&format!("{long}.000"), "en"),
        [long.trim_end_matches('0').to_string() + "0"]
    );
    assert_eq!(worth(&format!("{long}/3"), "en"), Vec::<String>::new());
    assert_eq!(worth(&format!("{long}万5"), "zh"), Vec::<String>::new());
}

fn announced_in(text: &str, lang: &str) -> Option<String> {
    let heading = Announcement {
        is_heading: true,
        ..Announcement::default()
    };
    match announced(text, Style::of(lang), heading) {
        Announced::Number(found) => Some(text[found.range].into()),
        _ => None,
    }
}

#[test]
fn what_follows_an_announcement() {
    for (lang, text, expected) in [
        ("en", " 18.", Some("18")),
        ("en", ": **$18** per day", Some("$18")),
        ("en", " about 18 dollars", Some("18")),
        ("en", " $\\boxed{18}$.", Some("18")),
        ("en", " \\(\\boxed{\\$1{,}234}\\)", Some("\\$1{,}234")),
        ("en", " x = 18", Some("18")),
        ("en", " minus 18", Some("minus 18")),
        ("en", "\n\n18", Some("18")),
        ("ru", " — 18.", Some("18")),
        ("ja", "全部で18個です。", Some("18")),
        ("ja", "、７２です。", Some("７２")),
        ("bn", " ৭২।", Some("৭২")),
        ("sw", " dola 18.", Some("dola 18")),
        ("en", " 9 * 2 = $18.", Some("$18")),
        ("en", " 16 - 3 - 4 = 9 eggs * $2 = $18 a day. 5 = 5", Some("$18")),
        ("en", " 9 eggs * $2 = $18", Some("$18")),
        ("en", " 18 = 9 * 2", Some("18")),
        ("en", " 2-3", Some("2-3")),
        ("en", " 9 × 2.", Some("9 × 2")),
        ("en", " 18 – 9 eggs at 2 dollars", Some("18")),
        ("en", " 18 - that is all", Some("18")),
        ("en", " 5-year plans", Some("5")),
        ("en", " 3/4 cup", Some("3/4")),
        ("en", " 5 m²", Some("5")),
        ("en", " 1 234 euros", Some("1 234")),
        ("en", " 18^\\circ", Some("18")),
        ("en", " 2\\sqrt{3}", Some("2\\sqrt")),
        ("en", " the sum of 5 and 3", None),
        ("en", " 1. First, the eggs", None),
        ("en", " (B) 18", None),
        ("en", "", None),
    ] {
        assert_eq!(announced_in(text, lang).as_deref(), expected, "{lang}: {text}");
    }
}

#[test]
fn the_last_number_and_the_first() {
    let last_in = |text: &str| last(text, Style::of("en")).map(|range| text[range].to_string());
    for (text, expected) in [
        ("1, 2, 3", Some("3")),
        ("She makes 9 * 2 = $18.", Some("$18")),
        ("18 kg of CO2 on 5 m^2 and x_2", Some("5")),
        ("That is 18 (9 * 2)", Some("18")),
        ("-5", Some("-5")),
        ("x = −５", Some("−５")),
        ("from 10-5", None),
        ("2-3", None),
        ("at 12:30", None),
        ("USD50", Some("50")),
        ("it is18", Some("18")),
        ("合計18個", Some("18")),
        ("合計−18個", Some("−18")),
        ("no", None),
        ("x = - 5", Some("- 5")),
        ("Total - 5", Some("5")),
        ("- 5", Some("5")),
        ("− 5", Some("− 5")),
        ("5 or 7", None),
        ("On May 5, 2020", None),
        ("\\frac{a}{4}", None),
    ] {
        assert_eq!(last_in(text).as_deref(), expected, "{text}");
    }
    let first_in = |text: &str| first(text, Style::of("en")).map(|range| text[range].to_string());
    assert_eq!(first_in("that she sells 9 * 2 = 18 and 5"), Some("18".into()));
    assert_eq!(first_in("unknown. 5 is left"), Some("5".into()));
    // Found whole, and no number.
    assert_eq!(first_in("unknown. 5 or 6"), Some("5 or 6".into()));
    assert_eq!(first_in("unknown"), None);
}

/// In Telugu the answer is announced by a noun, and a dash may say `is`.
#[test]
fn a_dash_after_a_noun_is_no_sign() {
    let by = |is_noun| Announcement {
        is_noun,
        ..Announcement::default()
    };
    let range = |text: &str, is_noun| match announced(text, Style::of("te"), by(is_noun)) {
        Announced::Number(found) => text[found.range].to_string(),
        _ => String::new(),
    };
    assert_eq!(range(" - 5", true), "5");
    assert_eq!(range(" − 5", true), "− 5");
    assert_eq!(range(" -5", true), "-5");
    assert_eq!(range(": - 5", true), "- 5");
    assert_eq!(range(" - 5", false), "- 5");
}

/// Outputs of megabytes, made to be slow: each is read once, or nearly.
#[test]
fn hostile_texts_are_read_in_one_go() {
    for piece in [
        "1'111",
        "1 – ",
        "1+",
        "1,1",
        "1万",
        "####",
        "a1",
        "$",
        "{",
        "\\frac",
        "1/1",
        "1 1/2 ",
        "elfu ",
        "=1",
        "\\sqrt{",
        "1 to ",
        "1, ",
        "{1\\over",
        "May 5 ",
        "4分の",
        "- ",
        "1 and ",
        "1、",
        "\\text{",
        "> 1",
        "not 1 ",
        "1 dollars ",
        "1 dollar 1 cent ",
    ] {
        let text = piece.repeat(30_000);
        for lang in ["en", "fr", "sw", "ja"] {
            let style = Style::of(lang);
            last(&text, style);
            first(&text, style);
            announced(&text, style, Announcement::default());
            readings(&text, style);
        }
    }
}
