//! `heterosis perplexity`: how surprising a text is to a model.

use anyhow::Context;
use serde::Serialize;

use super::{Failure, LONGEST_INPUT, Outcome, print, print_json, runtime};
use crate::{checkpoint, cli::PerplexityArgs};

#[derive(Serialize)]
struct Document {
    tokens: usize,
    nll_per_token: f64,
    perplexity: f64,
}

pub fn perplexity(args: PerplexityArgs) -> Outcome {
    let name = args.text.display();
    let text =
        checkpoint::read_text(&args.text, LONGEST_INPUT).with_context(|| format!("cannot read the text {name}"))?;
    let mut engine = runtime::engine(&args.model, &args.engine)?;
    let tokens = engine.tokenizer().encode(&text, true)?;
    if tokens.len() < 2 {
        return Err(anyhow::anyhow!(
            "{name} has {} tokens; two are the least that can be scored",
            tokens.len()
        )
        .into());
    }
    let longest = engine.decoder().spec().max_positions;
    let context = args.context.unwrap_or(longest);
    if context < 2 {
        return Err(anyhow::anyhow!("--context {context}: a window needs at least two tokens").into());
    }
    let result = engine.perplexity(&tokens, context).map_err(Failure::work)?;
    let document = Document {
        tokens: result.tokens,
        nll_per_token: result.nll_per_token,
        perplexity: result.perplexity,
    };
    if args.json {
        print_json(&document);
    } else {
        print(format_args!(
            "{} tokens, {:.6} nats a token, perplexity {:.4}",
            document.tokens, document.nll_per_token, document.perplexity
        ));
    }
    Ok(())
}
