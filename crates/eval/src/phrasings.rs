//! How well answers are read: some hundred outputs in each language, phrased as models phrase them, with values that are
//! known because the numbers were put there. What is accepted is counted for the right value and for wrong ones.
//!
//! The sentences are written for this test after answers of models of 0.5 to 8 billion parameters; the figures stand in
//! `evals/README.md` and are compared with it here.

/// How a language's outputs are made.
pub struct Phrasings {
    pub lang: &'static str,
    /// What is worked out before; the numbers in it are wrong answers.
    work: &'static str,
    /// Ends in which the answer is announced as the examples do it. `{n}` is the number.
    announced: &'static [&'static str],
    /// Ends that just say it.
    said: &'static [&'static str],
    /// What a text that does not stop goes on with; the numbers in it are wrong answers.
    run_on: &'static [&'static str],
    zero: char,
    /// Between thousands, and before decimals.
    thousands: &'static [&'static str],
    decimal: char,
    is_indian: bool,
    /// `{n}` with its currency.
    money: &'static [&'static str],
}

/// The numbers of `work` and `run_on`.
const WRONG: [f64; 6] = [16.0, 7.0, 3.0, 4.0, 5.0, 2.0];

pub const PHRASINGS: [Phrasings; 11] = [
    Phrasings {
        lang: "bn",
        work: "হাঁসগুলি প্রতিদিন 16টি ডিম পাড়ে এবং সে 3 + 4 = 7টি ব্যবহার করে। ",
        announced: &[
            "উত্তর হল {n}।",
            "সুতরাং উত্তর হলো {n}।",
            "উত্তর হল: **{n}**।",
            "উত্তর হল {n} ডলার।",
            "উত্তর হল প্রায় {n}।",
            "উত্তর হল $\\boxed{{n}}$।",
        ],
        said: &["সে প্রতিদিন {n} ডলার আয় করে।", "মোট {n}টি হয়।", "উত্তর: {n}"],
        run_on: &[
            "\n\nপ্রশ্ন: টমের 3টি বিড়াল আছে এবং সে আরও 2টি কেনে। তার কয়টি আছে?\nধাপে ধাপে উত্তর: 3 + 2 = 5। উত্তর হল 5।",
            "\n\nএকটি নতুন সমস্যা: টমের 3টি বিড়াল আছে। উত্তর হল 5।",
        ],
        zero: '০',
        thousands: &[","],
        decimal: '.',
        is_indian: true,
        money: &["${n}", "৳{n}", "₹{n}"],
    },
    Phrasings {
        lang: "de",
        work: "Die Enten legen 16 Eier pro Tag, und sie verbraucht 3 + 4 = 7 davon. ",
        announced: &[
            "Die Antwort lautet {n}.",
            "Die Antwort ist {n}.",
            "Die Antwort lautet: **{n}**",
            "Also ist klar: die Antwort ist {n} Dollar.",
            "Die Antwort ist genau {n}.",
            "Die Antwort lautet $\\boxed{{n}}$.",
        ],
        said: &[
            "Sie verdient also jeden Tag {n} Dollar.",
            "Das macht insgesamt {n}.",
            "Antwort: {n}",
        ],
        run_on: &[
            "\n\nFrage: Tom hat 3 Katzen und kauft 2 dazu. Wie viele hat er?\nSchritt-für-Schritt-Antwort: Er hat 3 + 2 = 5. Die Antwort lautet 5.",
            "\n\nAufgabe: Tom hat 3 Katzen und kauft noch 2. Die Antwort lautet 5.",
        ],
        zero: '0',
        thousands: &[".", " ", "\u{202f}"],
        decimal: ',',
        is_indian: false,
        money: &["{n} €", "{n} $", "${n}", "€ {n}"],
    },
    Phrasings {
        lang: "en",
        work: "The ducks lay 16 eggs a day and she uses 3 + 4 = 7 of them. ",
        announced: &[
            "The answer is {n}.",
            "So the answer is {n} dollars.",
            "Therefore, the answer is: **{n}**.",
            "The answer is x = {n}.",
            "The answer is approximately {n}.",
            "The answer is $\\boxed{{n}}$.",
        ],
        said: &[
            "She makes {n} dollars every day.",
            "In total that is {n}.",
            "Answer: {n}",
            "#### {n}",
        ],
        run_on: &[
            "\n\nQuestion: Tom has 3 cats and buys 2 more. How many has he?\nStep-by-Step Answer: 3 + 2 = 5. The answer is 5.",
            "\n\nProblem: Tom has 3 cats and buys 2 more. The answer is 5.",
        ],
        zero: '0',
        thousands: &[",", "\u{2009}"],
        decimal: '.',
        is_indian: false,
        money: &["${n}", "\\${n}", "US${n}", "\\text{\\$}{n}"],
    },
    Phrasings {
        lang: "es",
        work: "Los patos ponen 16 huevos al día y ella usa 3 + 4 = 7 de ellos. ",
        announced: &[
            "La respuesta es {n}.",
            "Por lo tanto, la respuesta es {n} dólares.",
            "La respuesta es: **{n}**.",
            "La respuesta es igual a {n}.",
            "La respuesta es exactamente {n}.",
            "La respuesta es $\\boxed{{n}}$.",
        ],
        said: &["Ella gana {n} dólares cada día.", "En total son {n}.", "Respuesta: {n}"],
        run_on: &[
            "\n\nPregunta: Tomás tiene 3 gatos y compra 2 más. ¿Cuántos tiene?\nRespuesta paso a paso: 3 + 2 = 5. La respuesta es 5.",
            "\n\nProblema: Tomás tiene 3 gatos y compra 2 más. La respuesta es 5.",
        ],
        zero: '0',
        thousands: &[".", " ", "\u{a0}"],
        decimal: ',',
        is_indian: false,
        money: &["${n}", "{n} €", "US$ {n}", "{n} $"],
    },
    Phrasings {
        lang: "fr",
        work: "Les canes pondent 16 œufs par jour et elle en utilise 3 + 4 = 7. ",
        announced: &[
            "La réponse est {n}.",
            "Donc, la réponse est {n} dollars.",
            "La réponse est : **{n}**.",
            "La réponse est égale à {n}.",
            "La réponse est environ {n}.",
            "La réponse est $\\boxed{{n}}$.",
        ],
        said: &[
            "Elle gagne donc {n} dollars par jour.",
            "Cela fait {n} en tout.",
            "Réponse : {n}",
        ],
        run_on: &[
            "\n\nQuestion : Tom a 3 chats et en achète 2. Combien en a-t-il ?\nRéponse étape par étape : 3 + 2 = 5. La réponse est 5.",
            "\n\nProblème : Tom a 3 chats et en achète 2. La réponse est 5.",
        ],
        zero: '0',
        thousands: &[" ", "\u{a0}", "\u{202f}", "\\,"],
        decimal: ',',
        is_indian: false,
        money: &["{n} €", "{n} euros", "{n} $", "${n}"],
    },
    Phrasings {
        lang: "ja",
        work: "アヒルは毎日16個の卵を産み、彼女は3＋4＝7個を使います。",
        announced: &[
            "答えは{n}です。",
            "したがって、答えは{n}ドルです。",
            "答えは **{n}** です。",
            "答えは、{n}。",
            "答えは全部で{n}個です。",
            "答えは$\\boxed{{n}}$です。",
        ],
        said: &["彼女は毎日{n}ドルを稼ぎます。", "合計で{n}になります。", "答え：{n}"],
        run_on: &[
            "\n\n問題：トムは猫を3匹飼っていて、さらに2匹買います。何匹いますか？\nステップごとの答え：3＋2＝5。答えは5です。",
            "\n\n次の問題です。トムは猫を3匹飼っています。答えは5です。",
        ],
        zero: '０',
        thousands: &[",", "，"],
        decimal: '.',
        is_indian: false,
        money: &["{n}円", "￥{n}", "${n}"],
    },
    Phrasings {
        lang: "ru",
        work: "Утки несут 16 яиц в день, и она использует 3 + 4 = 7 из них. ",
        announced: &[
            "Ответ — {n}.",
            "Ответ: {n}.",
            "Итак, ответ — {n} долларов.",
            "Ответ: **{n}**",
            "Ответ — примерно {n}.",
            "Ответ: $\\boxed{{n}}$.",
        ],
        said: &[
            "Она зарабатывает {n} долларов в день.",
            "Всего получается {n}.",
            "Значит, у неё {n} штук.",
        ],
        run_on: &[
            "\n\nЗадача: у Тома 3 кошки, и он покупает ещё 2. Сколько у него кошек?\nПошаговое решение: 3 + 2 = 5. Ответ — 5.",
            "\n\nСледующий вопрос: у Тома 3 кошки. Ответ — 5.",
        ],
        zero: '0',
        thousands: &[" ", "\u{a0}", "\u{202f}"],
        decimal: ',',
        is_indian: false,
        money: &["{n} $", "${n}", "{n} ₽", "{n} руб."],
    },
    Phrasings {
        lang: "sw",
        work: "Bata hutaga mayai 16 kila siku na yeye hutumia 3 + 4 = 7 kati yao. ",
        announced: &[
            "Jibu ni {n}.",
            "Kwa hivyo, jibu ni {n}.",
            "Jibu ni: **{n}**.",
            "Jibu ni dola {n}.",
            "Jibu ni takriban {n}.",
            "Jibu ni $\\boxed{{n}}$.",
        ],
        said: &["Anapata dola {n} kila siku.", "Jumla yake ni {n}.", "Jibu: {n}"],
        run_on: &[
            "\n\nSwali: Tom ana paka 3 na ananunua 2 zaidi. Ana paka wangapi?\nJibu la Hatua kwa Hatua: 3 + 2 = 5. Jibu ni 5.",
            "\n\nTatizo lingine: Tom ana paka 3. Jibu ni 5.",
        ],
        zero: '0',
        thousands: &[","],
        decimal: '.',
        is_indian: false,
        money: &["${n}", "shilingi {n}", "KSh {n}", "Sh. {n}"],
    },
    Phrasings {
        lang: "te",
        work: "బాతులు ప్రతిరోజూ 16 గుడ్లు పెడతాయి మరియు ఆమె 3 + 4 = 7 ఉపయోగిస్తుంది. ",
        announced: &[
            "సమాధానం {n}.",
            "కాబట్టి సమాధానం {n}.",
            "సమాధానం: **{n}**.",
            "సమాధానం {n} డాలర్లు.",
            "సమాధానం సుమారు {n}.",
            "సమాధానం $\\boxed{{n}}$.",
        ],
        said: &["ఆమె ప్రతిరోజూ {n} డాలర్లు సంపాదిస్తుంది.", "మొత్తం {n} అవుతుంది."],
        run_on: &[
            "\n\nప్రశ్న: టామ్ వద్ద 3 పిల్లులు ఉన్నాయి, ఇంకా 2 కొంటాడు. ఎన్ని ఉన్నాయి?\nదశలవారీగా సమాధానం: 3 + 2 = 5. సమాధానం 5.",
            "\n\nమరో సమస్య: టామ్ వద్ద 3 పిల్లులు ఉన్నాయి. సమాధానం 5.",
        ],
        zero: '౦',
        thousands: &[","],
        decimal: '.',
        is_indian: true,
        money: &["${n}", "₹{n}", "రూ. {n}"],
    },
    Phrasings {
        lang: "th",
        work: "เป็ดออกไข่วันละ 16 ฟอง และเธอใช้ไป 3 + 4 = 7 ฟอง ",
        announced: &[
            "คำตอบคือ {n}",
            "ดังนั้น คำตอบคือ {n} ดอลลาร์",
            "คำตอบคือ: **{n}**",
            "คำตอบคือ ประมาณ {n}",
            "คำตอบคือ {n} บาท",
            "คำตอบคือ $\\boxed{{n}}$",
        ],
        said: &["เธอได้เงินวันละ {n} ดอลลาร์", "รวมทั้งหมด {n} ฟอง", "คำตอบ: {n}"],
        run_on: &[
            "\n\nโจทย์: ทอมมีแมว 3 ตัวและซื้อเพิ่มอีก 2 ตัว เขามีแมวกี่ตัว\nคำตอบทีละขั้นตอน: 3 + 2 = 5 คำตอบคือ 5",
            "\n\nปัญหาถัดไป ทอมมีแมว 3 ตัว คำตอบคือ 5",
        ],
        zero: '๐',
        thousands: &[","],
        decimal: '.',
        is_indian: false,
        money: &["${n}", "฿{n}", "{n}฿"],
    },
    Phrasings {
        lang: "zh",
        work: "鸭子每天下16个蛋，她用掉3＋4＝7个。",
        announced: &[
            "答案是{n}。",
            "答案是 {n}。",
            "所以答案是{n}美元。",
            "答案是：**{n}**。",
            "答案是一共{n}个。",
            "答案是$\\boxed{{n}}$。",
        ],
        said: &["她每天赚{n}美元。", "一共有{n}个。", "答案：{n}"],
        run_on: &[
            "\n\n问题：汤姆有3只猫，又买了2只。他有几只猫？\n逐步解答：3＋2＝5。答案是 5。",
            "\n\n下一道题。汤姆有3只猫。答案是 5。",
        ],
        zero: '０',
        thousands: &[",", "，"],
        decimal: '.',
        is_indian: false,
        money: &["{n}元", "￥{n}", "${n}"],
    },
];

/// An output, its value, and values that it must not be taken for.
pub struct Output {
    pub text: String,
    pub value: &'static str,
    pub wrong: Vec<String>,
}

const VALUES: [&str; 9] = ["18", "9", "540", "1234", "70000", "100000", "1234.5", "0.75", "-25"];

impl Phrasings {
    /// Every phrasing with every writing of every value in turn, some with a text that runs on.
    pub fn outputs(&self) -> Vec<Output> {
        let mut outputs = Vec::new();
        for value in VALUES {
            for (i, written) in self.writings(value).iter().enumerate() {
                let n = self.announced.len();
                for end in [self.announced[i % n], self.announced[(i + 2) % n]] {
                    let run_on = self
                        .run_on
                        .iter()
                        .chain([&""])
                        .nth((i + outputs.len()) % 3)
                        .unwrap_or(&"");
                    outputs.push(self.output(value, written, end, run_on));
                }
                let end = self.said[i % self.said.len()];
                // Where no marker announces the answer, only the stop ends what runs on.
                let run_on = if i % 2 == 0 { self.run_on[0] } else { "" };
                outputs.push(self.output(value, written, end, run_on));
            }
        }
        outputs
    }

    fn output(&self, value: &'static str, written: &str, end: &str, run_on: &str) -> Output {
        let number: f64 = value.parse().unwrap();
        let near = [
            number + 1.0,
            -number,
            number * 10.0,
            number * 1000.0,
            number / 10.0,
            number / 1000.0,
        ];
        let head = written.trim_start_matches(|c: char| !c.is_ascii_digit());
        let head = head
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|h| h.parse().ok());
        let wrong = near.into_iter().chain(WRONG).chain(head).filter(|w| *w != number);
        Output {
            text: format!("{}{}{run_on}", self.work, end.replace("{n}", written)),
            value,
            wrong: wrong.map(|w| format!("{w}")).collect(),
        }
    }

    /// The ways in which the language writes a value.
    fn writings(&self, value: &str) -> Vec<String> {
        let (sign, digits) = match value.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", value),
        };
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
        let tail = if decimals.is_empty() {
            String::new()
        } else {
            format!("{}{decimals}", self.decimal)
        };
        let mut bare = vec![format!("{whole}{tail}")];
        if whole.len() > 3 {
            bare.extend(
                self.thousands
                    .iter()
                    .map(|t| format!("{}{tail}", grouped(whole, t, self.is_indian))),
            );
        }
        if decimals.is_empty() {
            bare.push(format!("{}{}00", bare[bare.len() - 1], self.decimal));
            bare.push(format!("{whole}{}0", self.decimal));
        }
        let native = |text: &String| -> String {
            let digit = |c: char| {
                c.to_digit(10)
                    .and_then(|d| char::from_u32(self.zero as u32 + d))
                    .unwrap_or(c)
            };
            text.chars().map(digit).collect()
        };
        if self.zero != '0' {
            bare.extend(bare.clone().iter().map(native));
        }
        let mut written: Vec<String> = Vec::new();
        for (i, number) in bare.iter().enumerate() {
            match sign {
                "" => {
                    written.push(number.clone());
                    written.push(self.money[i % self.money.len()].replace("{n}", number));
                }
                _ => written.extend(["-", "−", "－", "‑"].iter().map(|sign| format!("{sign}{number}"))),
            }
        }
        if value == "18" {
            let per_cent = ["{n}%", "{n} %", "{n}\\%", "{n}％"];
            written.extend(per_cent.iter().map(|p| p.replace("{n}", &bare[0])));
        }
        if self.decimal == '.' && whole.len() > 3 && sign.is_empty() {
            written.push(format!("{}{tail}", grouped(whole, "{,}", false)));
        }
        written
    }
}

fn grouped(whole: &str, separator: &str, is_indian: bool) -> String {
    let mut groups = vec![&whole[whole.len() - 3..]];
    let mut rest = &whole[..whole.len() - 3];
    let size = if is_indian { 2 } else { 3 };
    while rest.len() > size {
        groups.push(&rest[rest.len() - size..]);
        rest = &rest[..rest.len() - size];
    }
    groups.push(rest);
    groups.reverse();
    groups.join(separator)
}

/// Outputs written by hand: task, language, output, gold, and whether it is right. Those from public reports of other
/// evaluators name them.
const BY_HAND: &[(&str, &str, &str, &str, bool)] = &[
    // opencompass #2647, #2648: LaTeX thousands lost.
    ("gsm8k", "en", "\\boxed{$9{,}500}", "9500", true),
    ("gsm8k", "en", "\\boxed{$9{,}500}", "500", false),
    ("gsm8k", "en", "so \\boxed{8,000}", "8000", true),
    ("gsm8k", "en", "#### 1{,}234", "1234", true),
    ("gsm8k", "en", "#### \\text{\\$}18", "18", true),
    // opencompass #2426: without a marker it is the last number, whatever it says.
    (
        "gsm8k",
        "en",
        "Josh's profit is $70,000. ($130,000 total invested)",
        "130000",
        true,
    ),
    (
        "gsm8k",
        "en",
        "**Josh's profit is $70,000.** ($130,000 total invested)\n#### 70000",
        "70000",
        true,
    ),
    // sglang #29933: a text that runs on.
    ("gsm8k", "en", "16 - 7 = 9\n#### 18\n\nQuestion: x\n#### 5", "18", true),
    ("gsm8k", "en", "16 - 7 = 9\n#### 18\n\nQuestion: x\n#### 5", "5", false),
    (
        "gsm8k",
        "en",
        "#### 22\n\nTom has 3 cats and buys 2.\n#### 5",
        "22",
        true,
    ),
    (
        "gsm8k_cot",
        "en",
        "The answer is 18.\n\nA: The answer is 5.",
        "18",
        true,
    ),
    ("gsm8k", "en", "No idea.\n\nQuestion: x\n#### 5", "5", false),
    // lm-eval #3214, #3438: decimals and full stops.
    ("gsm8k_cot", "en", "The answer is $29.00.", "29", true),
    ("gsm8k_cot", "en", "The answer is $1,234.50", "1234.5", true),
    ("gsm8k_cot", "en", "The answer is 18.", "18", true),
    ("gsm8k_cot", "en", "The answer is 18.0", "18", true),
    ("gsm8k_cot", "en", "The answer is 8", "8", true),
    ("gsm8k_cot", "en", "The answer is 2...", "2", true),
    // Math-Verify #67: per cent, however it is written.
    ("gsm8k", "en", "#### 28%", "28", true),
    ("gsm8k", "en", "#### 28 %", "28", true),
    ("gsm8k", "en", "#### 28\\%", "28", true),
    ("gsm8k", "en", "#### 28%", "0.28", false),
    // rink #43: minus signs.
    ("gsm8k", "en", "#### −5", "-5", true),
    ("mgsm_native_cot", "ja", "答えは－５です。", "-5", true),
    ("gsm8k", "en", "#### ‑5", "-5", true),
    ("gsm8k", "en", "#### −5", "5", false),
    ("gsm8k", "en", "#### -5", "5", false),
    ("gsm8k", "en", "The result is minus 5.\n#### minus 5", "5", false),
    // Digits and grouping (CPython's isdigit, ECC #2655).
    ("mgsm_native_cot", "bn", "উত্তর হল ৭২।", "72", true),
    ("mgsm_native_cot", "bn", "উত্তর হল ৭২।", "7", false),
    ("mgsm_native_cot", "te", "సమాధానం ౭౨.", "72", true),
    ("mgsm_native_cot", "th", "คำตอบคือ ๗๒", "72", true),
    ("mgsm_native_cot", "ja", "答えは７２です。", "72", true),
    ("mgsm_native_cot", "zh", "答案是 ７２。", "72", true),
    ("gsm8k", "en", "#### 1,00,000", "100000", true),
    ("mgsm_native_cot", "bn", "উত্তর হল ১,০০,০০০।", "100000", true),
    ("mgsm_native_cot", "bn", "উত্তর হল ১,০০,০০০।", "1", false),
    ("gsm8k_cot", "en", "The area is 5 m²", "5", true),
    ("gsm8k_cot", "en", "The area is 5 m²", "2", false),
    // Separators of the language.
    ("mgsm_native_cot", "es", "La respuesta es 1.234,50.", "1234.5", true),
    ("mgsm_native_cot", "de", "Die Antwort ist 1.234.", "1234", true),
    ("mgsm_native_cot", "de", "Die Antwort ist 1.234.", "1.234", false),
    ("mgsm_native_cot", "de", "Die Antwort ist 12,5.", "12.5", true),
    ("mgsm_native_cot", "de", "Die Antwort ist 12,5.", "12", false),
    ("mgsm_native_cot", "fr", "La réponse est 1 234 euros.", "1234", true),
    (
        "mgsm_native_cot",
        "fr",
        "La réponse est 1\u{202f}234 euros.",
        "1234",
        true,
    ),
    ("mgsm_native_cot", "fr", "La réponse est 1 234 euros.", "1", false),
    ("mgsm_native_cot", "ru", "Ответ — 80 000.", "80000", true),
    ("mgsm_native_cot", "en", "The answer is 1.234.", "1234", false),
    ("mgsm_en_cot", "de", "The answer is 1.234.", "1234", false),
    ("mgsm_en_cot", "de", "The answer is 1,234.", "1234", true),
    // MGSM's own German, Spanish, French and Russian answers are written like this.
    ("mgsm_native_cot", "de", "Die Antwort lautet 114,200.", "114,200", true),
    // Fractions, ranges and calculations.
    ("gsm8k_cot", "en", "The answer is 3/4", "3", false),
    ("gsm8k_cot", "en", "The answer is 3/4 cup", "0.75", true),
    ("gsm8k_cot", "en", "The answer is \\frac{3}{4}.", "3", false),
    ("gsm8k_cot", "en", "The answer is 1 1/2 hours.", "1.5", true),
    ("gsm8k_cot", "en", "The answer is 2½.", "2", false),
    ("gsm8k", "en", "#### 2-3", "2", false),
    ("gsm8k", "en", "#### 2-3", "3", false),
    ("gsm8k", "en", "#### 2-3", "-1", false),
    ("gsm8k_cot", "en", "The answer is 5 + 3.", "5", false),
    ("gsm8k_cot", "en", "The answer is 5 + 3 = 8.", "8", true),
    ("gsm8k_cot", "en", "The answer is 5 + 3 = 8.", "5", false),
    ("gsm8k_cot", "en", "The answer is 9 eggs * $2 = $18.", "18", true),
    ("gsm8k_cot", "en", "The answer is 12:30.", "12", false),
    ("mgsm_native_cot", "ja", "答えは9×2＝18です。", "18", true),
    // Powers of ten.
    ("gsm8k", "en", "#### 1.5e3", "1500", true),
    ("gsm8k", "en", "#### 1.5 \\times 10^3", "1500", true),
    ("gsm8k", "en", "#### 1.5e3", "1.5", false),
    ("mgsm_native_cot", "zh", "答案是 11万。", "110000", true),
    ("mgsm_native_cot", "zh", "答案是 11万。", "11", false),
    ("mgsm_native_cot", "ja", "答えは1万2千円です。", "12000", true),
    ("mgsm_native_cot", "bn", "উত্তর হল ২ লাখ ৫০ হাজার।", "250000", true),
    ("mgsm_native_cot", "th", "คำตอบคือ 2 ล้าน บาท", "2000000", true),
    ("mgsm_native_cot", "sw", "Jibu ni dola elfu 5.", "5000", true),
    ("mgsm_native_cot", "sw", "Jibu ni dola elfu 5.", "5", false),
    (
        "mgsm_native_cot",
        "es",
        "La respuesta es 70 mil dólares.",
        "70000",
        true,
    ),
    ("mgsm_native_cot", "ru", "Ответ: 70 тыс. долларов.", "70000", true),
    (
        "mgsm_native_cot",
        "de",
        "Die Antwort ist 1,5 Millionen.",
        "1500000",
        true,
    ),
    ("gsm8k_cot", "en", "The answer is 5k.", "5000", true),
    ("gsm8k_cot", "en", "The answer is 5km.", "5", true),
    // lighteval #869, lm-eval #3145: thoughts are not answers.
    ("gsm8k_cot", "en", "<think>maybe 7</think>The answer is 12", "12", true),
    ("gsm8k_cot", "en", "<think>The answer is 7.</think>12", "7", false),
    ("gsm8k_cot", "en", "<think>maybe 7", "7", false),
    // What other answers look like.
    ("mgsm_direct", "en", " 18", "18", true),
    ("mgsm_direct", "en", " $18 (9 * 2)", "18", true),
    ("mgsm_direct", "fr", " 70 000 $", "70000", true),
    ("mgsm_direct", "es", " 70.000 dólares", "70000", true),
    ("mgsm_direct", "zh", " 18\n\n解析：16－7＝9", "18", true),
    ("gsm8k", "en", "#### Janet makes $18 a day", "18", true),
    (
        "gsm8k",
        "en",
        "#### Step 1: eggs\n16 - 7 = 9\n#### Step 2: money\n9 * 2 = 18",
        "18",
        true,
    ),
    ("gsm8k", "en", "She has 9 eggs.\n####\n18", "18", true),
    ("gsm8k_cot_llama", "en", "The final answer is $18 per day", "18", true),
    (
        "gsm8k_cot_zeroshot",
        "en",
        " She sells 9. So the answer is 18 dollars.\n\nQ: 5",
        "18",
        true,
    ),
    (
        "gsm8k_cot",
        "en",
        "The answer is that she makes 18 dollars of 9 eggs.",
        "18",
        true,
    ),
    ("gsm8k_cot", "en", "The answer is unknown.", "18", false),
    ("gsm8k_cot", "en", "", "18", false),
    // A child's trick: the right number somewhere in the text.
    ("gsm8k", "en", "18 17 19\n#### 5", "18", false),
    ("gsm8k", "en", "#### 5\n#### 18", "18", false),
];

/// More of them, a JSON object a line, as `heterosis rescore` reads them too: signs, fractions, roots, multiples, ranges,
/// lists, dates, times and money in every language of MGSM, with the values that they must not be taken for.
const MORE_BY_HAND: &str = include_str!("../tests/data/answers.jsonl");

/// A line of [`MORE_BY_HAND`].
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ByHand {
    task: String,
    lang: String,
    output: String,
    gold: String,
    /// Whether the output gives this value.
    right: bool,
}

/// Judged wrongly, and known to be: what it would take is not worth what it would break.
const MISJUDGED: &[(&str, &str, &str, &str, bool)] = &[
    // Numbers in words.
    ("gsm8k_cot", "en", "The answer is eighteen.", "18", true),
    ("mgsm_native_cot", "zh", "答案是十八。", "18", true),
    // A correction comes after the answer that was taken.
    (
        "gsm8k_cot",
        "en",
        "The answer is 17. No, wait: the answer is 18.",
        "18",
        true,
    ),
    // No marker, and another number after the answer.
    ("gsm8k", "en", "She makes $18 per day, selling 9 eggs.", "18", true),
    // The unit that the question asks for.
    ("gsm8k_cot", "en", "The answer is 5 million.", "5", true),
    // A value written in two ways, of which the second is asked for.
    ("gsm8k_cot", "en", "The answer is 3/4 = 75%.", "75", true),
    // An exclamation more often than a factorial.
    ("gsm8k_cot", "en", "The answer is 5!", "120", true),
    // English thousands in German, a thousandth of them in the data.
    ("mgsm_native_cot", "de", "Die Antwort ist 70,000.", "70", false),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Answer, DataDirs, Profile, Task, TaskOptions};

    fn task(name: &str, lang: &str) -> Task {
        let options = TaskOptions {
            lang: Some(lang.into()),
            profile: Profile::Fitness,
            ..TaskOptions::default()
        };
        Task::load(name, &options, &DataDirs::default()).unwrap()
    }

    fn is_right(task: &Task, output: &str, gold: &str) -> bool {
        Answer::judged(task, output.into(), gold).unwrap().score == 1.0
    }

    /// The figures in the documentation, line by line.
    #[test]
    fn outputs_in_every_language_are_read_as_documented() {
        let mut table = String::new();
        for phrasings in &PHRASINGS {
            let task = task("mgsm_native_cot", phrasings.lang);
            let (mut n, mut right, mut asked, mut wrong) = (0, 0, 0, 0);
            for output in phrasings.outputs() {
                let is_right_one = is_right(&task, &output.text, output.value);
                let taken: Vec<&String> = output
                    .wrong
                    .iter()
                    .filter(|w| is_right(&task, &output.text, w))
                    .collect();
                if !is_right_one || !taken.is_empty() {
                    println!(
                        "{}: {:?} is {}; taken for {taken:?}",
                        phrasings.lang, output.text, output.value
                    );
                }
                (n, right) = (n + 1, right + usize::from(is_right_one));
                (asked, wrong) = (asked + output.wrong.len(), wrong + taken.len());
            }
            assert!(n >= 200);
            let lang = phrasings.lang;
            table += &format!("| {lang} | {n} | {right} | {wrong} of {asked} |\n");
        }
        let documented = include_str!("../evals/README.md");
        assert!(documented.contains(&table), "evals/README.md should say\n{table}");
    }

    #[test]
    fn outputs_written_by_hand_are_judged_right() {
        let judged =
            |(name, lang, output, gold, _): &(&str, &str, &str, &str, bool)| is_right(&task(name, lang), output, gold);
        for case in BY_HAND {
            assert_eq!(judged(case), case.4, "{case:?}");
        }
        for case in MISJUDGED {
            assert_ne!(judged(case), case.4, "{case:?}");
        }
        let more: Vec<ByHand> = MORE_BY_HAND
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let mut tasks = BTreeMap::new();
        let wrongly = more.iter().filter(|row| {
            let key = (&row.task, &row.lang);
            let task = tasks.entry(key).or_insert_with(|| task(&row.task, &row.lang));
            is_right(task, &row.output, &row.gold) != row.right
        });
        let wrongly: Vec<&ByHand> = wrongly.collect();
        assert!(wrongly.is_empty(), "{} of {}: {wrongly:#?}", wrongly.len(), more.len());
        let counts = format!(
            "{} outputs written by hand, {} of them",
            BY_HAND.len() + more.len() + MISJUDGED.len(),
            MISJUDGED.len()
        );
        assert!(
            include_str!("../evals/README.md").contains(&counts),
            "evals/README.md should say: {counts}"
        );
    }

    /// Whoever ended the text, and where: at the end of the answer, at a stop, or nowhere.
    #[test]
    fn the_verdict_is_one_wherever_generation_stops() {
        for phrasings in &PHRASINGS {
            let task = task("mgsm_native_cot", phrasings.lang);
            let stands = task.stop_when().unwrap();
            for output in phrasings.outputs().iter().step_by(7) {
                let whole = Answer::judged(&task, output.text.clone(), output.value).unwrap();
                let ends = output.text.char_indices().map(|(end, _)| &output.text[..end]);
                if let Some(stopped) = ends.into_iter().find(|text| stands(text)) {
                    let early = Answer::judged(&task, stopped.into(), output.value).unwrap();
                    assert_eq!(
                        (early.filters, early.language_ok),
                        (whole.filters.clone(), whole.language_ok),
                        "{stopped:?} of {:?}",
                        output.text
                    );
                }
            }
        }
    }
}
