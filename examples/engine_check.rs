//! Whether an engine forgets: weights A, then B, then A again, and a fresh start with A, must answer alike.
//!
//! `cargo run --example engine_check -- MODEL_A MODEL_B [f32|bf16|f16] [PROGRAM ARGUMENTS…]`; without a program it is
//! heterosis's own engine. See `docs/engines.md`.

use heterosis::model::DType;

#[path = "shared/a_b_a.rs"]
#[allow(dead_code)] // the tests use the rest
mod a_b_a;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [a, b, rest @ ..] = &words[..] else {
        return Err("name two models of one shape: MODEL_A MODEL_B [f32|bf16|f16] [PROGRAM ARGUMENTS…]".into());
    };
    let named = |word: &String| word.parse::<DType>().ok();
    let (dtype, program) = match rest.first().and_then(named) {
        Some(dtype) => (dtype, &rest[1..]),
        None => (DType::F32, rest),
    };
    let program = (!program.is_empty()).then_some(program);
    let checked = a_b_a::check(a, b, program, dtype)?;
    println!("{} in {dtype}", checked.engine);
    let prompts = checked.first.together.len();
    let differ = |x: &[Vec<u32>], y: &[Vec<u32>]| x.iter().zip(y).filter(|(x, y)| x != y).count();
    println!(
        "{prompts} prompts: B differs from A in {}; A again from A in {}; a fresh A from A again in {}",
        differ(&checked.other.together, &checked.first.together),
        differ(&checked.again.together, &checked.first.together),
        differ(&checked.fresh.together, &checked.again.together)
    );
    match checked.problem() {
        None => println!("it forgets what it should"),
        Some(problem) => return Err(problem.into()),
    }
    Ok(())
}
