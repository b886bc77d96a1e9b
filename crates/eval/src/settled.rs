//! One verdict whatever stopped the text: wherever generation may end as answered, what is extracted is what would be
//! extracted from the text as it would have gone on.

use super::{DataDirs, Profile, Task, TaskOptions, Think};

/// Pieces of outputs, to be put together at random: markers, numbers, stops, thoughts.
const PIECES: [&str; 39] = [
    "The answer is",
    "The final answer is",
    "La respuesta es",
    "答えは",
    "####",
    "Q:",
    "Question:",
    "Problem:",
    "Pregunta:",
    "</s>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "\\boxed{",
    "}",
    " she has",
    " huevos",
    "18",
    "1,234",
    "1.5",
    "-",
    "$",
    "=",
    "+",
    "*",
    ".",
    ",",
    " ",
    "\n",
    "\n\n",
    "です。",
    " dollars",
    "/",
    "%",
    " and ",
    "- ",
    ", ",
    "May ",
    "\\frac{",
];

fn task(name: &str, think: Option<Think>) -> Task {
    let options = TaskOptions {
        profile: Profile::Fitness,
        think,
        ..TaskOptions::default()
    };
    Task::load(name, &options, &DataDirs::default()).unwrap()
}

/// Found by the test below, once in many thousand texts: the sign that ends a text came in the midst of its own end, and what
/// was Japanese without it was not with it, for the whole text was looked at where the number might have gone on.
#[test]
fn the_language_is_that_of_what_leads_to_the_answer() {
    let task = task("mgsm_native_cot_ja", None);
    let whole = "Question:答えは18 she has</s>";
    let heard: Vec<bool> = whole
        .char_indices()
        .skip_while(|(at, _)| !whole[..*at].ends_with("18"))
        .map(|(at, _)| task.language_ok(&whole[..at]))
        .collect();
    assert!(heard.iter().all(|ok| *ok == task.language_ok(whole)), "{heard:?}");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(3000))]

    #[test]
    fn where_generation_may_end_the_verdict_stands(
        pieces in proptest::collection::vec(0..PIECES.len(), 0..20),
        which in 0..6usize,
        prompt_opens in proptest::bool::ANY,
    ) {
        thread_local! {
            static TASKS: Vec<(Task, bool)> = {
                let names = ["gsm8k", "gsm8k_cot_llama", "mgsm_native_cot_es", "mgsm_native_cot_ja"];
                let plain = names.into_iter().map(|name| (task(name, None), false));
                let thinking = names.into_iter().take(2).map(|name| (task(name, Some(Think::default())), true));
                plain.chain(thinking).collect()
            };
        }
        TASKS.with(|tasks| -> Result<(), proptest::test_runner::TestCaseError> {
            let (task, thinks) = &tasks[which];
            let opens = prompt_opens && *thinks;
            let text: String = pieces.iter().map(|i| PIECES[*i]).collect();
            let may_end = match task.think() {
                Some(think) => think.stop_when(opens, task.stop.clone(), task.stop_when()),
                None => task.stop_when().unwrap(),
            };
            // What the prompt opened is part of what is kept.
            let kept = |text: &str| match task.think() {
                Some(think) => think.with_opening(if opens { "<think>" } else { "" }, text.into()),
                None => text.to_string(),
            };
            let judge = |text: &str| (task.extract(&kept(text), "18").unwrap(), task.language_ok(&kept(text)));
            let whole = judge(&text);
            for (end, _) in text.char_indices() {
                if may_end(&text[..end]) {
                    proptest::prop_assert_eq!(judge(&text[..end]), whole.clone(), "{:?} of {:?}", &text[..end], &text);
                }
            }
            Ok(())
        })?;
    }
}
