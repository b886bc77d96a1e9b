//! `heterosis generate`: greedy text for many prompts, in one batch.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::{Failure, LONGEST_INPUT, Outcome, environment, print, print_json, runtime, standard_input};
use crate::{checkpoint, cli::GenerateArgs, eval, model::Request};

#[derive(Deserialize)]
struct Line {
    prompt: String,
}

#[derive(Serialize)]
struct Output {
    prompt: String,
    text: String,
    token_ids: Vec<u32>,
    finish: &'static str,
}

#[derive(Serialize)]
struct Outputs {
    outputs: Vec<Output>,
}

/// The prompts of a file, one a line, with where each stands.
fn lines(file: &Path) -> Result<Vec<(String, String)>> {
    let name = file.display();
    let text = checkpoint::read_text(&standard_input(file), LONGEST_INPUT)
        .with_context(|| format!("cannot read the prompts {name}"))?;
    let mut prompts = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("{name}:{}", i + 1);
        let line: Line = serde_json::from_str(line)
            .with_context(|| format!("{place}: a line of the form {{\"prompt\": …}} is expected"))?;
        prompts.push((place, line.prompt));
    }
    Ok(prompts)
}

pub fn generate(args: GenerateArgs) -> Outcome {
    let given = args.prompt.iter().enumerate();
    let mut prompts: Vec<(String, String)> = given
        .map(|(i, prompt)| (format!("--prompt number {}", i + 1), prompt.clone()))
        .collect();
    if let Some(file) = &args.prompts {
        prompts.extend(lines(file)?);
    }
    if args.max_new_tokens == 0 {
        return Err(anyhow!("--max-new-tokens 0 leaves nothing to generate").into());
    }
    let mut engine = runtime::engine(&args.model, &args.engine)?;
    let stop: Arc<[String]> = args.stop.into();
    let mut requests = Vec::new();
    for (i, (place, prompt)) in prompts.iter().enumerate() {
        let prompt = match runtime::chat(&args.chat) {
            None => engine.tokenizer().encode(prompt, true)?,
            Some(chat) => {
                let text = eval::said(engine.tokenizer(), prompt, &chat)?;
                engine.tokenizer().encode_prompt(&text)?
            }
        };
        if prompt.is_empty() {
            return Err(anyhow!("{place}: the prompt has no tokens; write one, or leave the line out").into());
        }
        requests.push(Request {
            prompt,
            max_new_tokens: args.max_new_tokens,
            stop: stop.clone(),
            stop_when: None,
            loop_guard: args.loop_guard,
            sampling: runtime::sampling(&args.sampling, i)?,
        });
    }
    let bar = environment::progress_bar(requests.len() as u64, "generating");
    let generations = engine
        .generate(&requests, &mut |progress| bar.set_position(progress.done as u64))
        .map_err(Failure::work)?;
    bar.finish_and_clear();
    let outputs: Vec<Output> = prompts
        .into_iter()
        .zip(generations)
        .map(|((_, prompt), generation)| Output {
            prompt,
            finish: generation.finish.name(),
            text: generation.text,
            token_ids: generation.token_ids,
        })
        .collect();
    if args.json {
        print_json(&Outputs { outputs });
    } else {
        for output in outputs {
            print(format_args!("{}{}\n", output.prompt, output.text));
        }
    }
    Ok(())
}
