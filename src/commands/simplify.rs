//! `heterosis simplify`: the simplest recipe that is as good as the winner, tested on questions that the run did not ask.

use std::path::Path;

use super::{
    Failure, Outcome, environment, newest, print, print_json,
    replacement::{refuse_to_replace, replace},
    runtime::runtime_options,
    trust,
};
use crate::{
    cli::SimplifyArgs,
    eval::stats::questions_that_show,
    event::words::Unit,
    session::{Finished, Simplified},
    simplify::{Attempt, Complexity},
};

pub fn simplify(args: SimplifyArgs) -> Outcome {
    if !(args.margin > 0.0 && args.margin < 100.0) {
        return Err(anyhow::anyhow!("--margin {}: write points between 0 and 100, such as 1", args.margin).into());
    }
    args.out.as_deref().map(refuse_to_replace).transpose()?;
    let host = environment::host();
    let finished = Finished::take(&newest::or_newest(args.run)?, &host)?;
    trust::confirm_program(finished.dir().path(), finished.space(), args.yes)?;
    let simplifying = finished.open(&runtime_options(&args.engine)?, host)?;
    let comparing = simplifying.questions(args.limit)?;
    let (unit, margin) = (simplifying.unit(), args.margin / 100.0);
    let (questions, (winner, before)) = (comparing.questions(), comparing.winner());
    if !args.json {
        if !questions.unasked {
            tracing::warn!(
                "the run has used all its {} questions; the winner was chosen on them and looks better there than it is, so \
                 the tests are harder on simpler recipes than they should be",
                questions.split
            );
        }
        print(format_args!(
            "{winner}: {}. Simpler recipes may lose less than {} on {} questions ({} split).\n",
            words_of(before),
            unit.points(margin),
            questions.deciding,
            questions.split
        ));
        let shows = questions_that_show(margin);
        if unit == Unit::Percent && questions.deciding < shows {
            print(format_args!(
                "So few cannot show that, even where every answer stays the same: {shows} would (--limit), or fewer with a larger \
                 --margin.\n"
            ));
        }
    }
    let mut see = |attempt: &Attempt| {
        if !args.json {
            print(line_of(attempt, unit));
        }
    };
    let simplified = comparing.simplify(margin, &mut see).map_err(Failure::work)?;
    if let Some(file) = &args.out {
        replace(file, &simplified.yaml).map_err(Failure::Work)?;
    }
    match args.json {
        true => print_json(&simplified),
        false => tell(&simplified, unit, args.out.as_deref()),
    }
    Ok(())
}

/// `24 numbers in 4 slices of 3 models`.
fn words_of(complexity: Complexity) -> String {
    let Complexity {
        sources,
        slices,
        numbers,
        zeros,
        decimals,
        ..
    } = complexity;
    let decimals = decimals as f64 / (numbers - zeros).max(1) as f64;
    let zeros = if zeros > 0 {
        format!(" ({zeros} of them 0)")
    } else {
        String::new()
    };
    let place = match slices {
        0 => format!("for {sources} models"),
        1 => format!("for {sources} models in one slice"),
        n => format!("for {} models in {n} slices", sources / n),
    };
    format!("{numbers} numbers{zeros} of {decimals:.1} decimals {place}")
}

fn line_of(attempt: &Attempt, unit: Unit) -> String {
    let sign = if attempt.accepted { "kept   " } else { "refused" };
    let verdict = match (&attempt.test, &attempt.failure) {
        (Some(test), _) => format!("{} ± {}", unit.signed(test.difference), unit.value(test.stderr)),
        (None, reason) => reason.clone().unwrap_or_default(),
    };
    format!("  {sign} {:<48} {verdict}", attempt.change)
}

fn tell(simplified: &Simplified, unit: Unit, out: Option<&Path>) {
    let kept = simplified.attempts.iter().filter(|a| a.accepted).count();
    print(format_args!(
        "\n{kept} of {} changes kept: {} → {}",
        simplified.attempts.len(),
        words_of(simplified.before),
        words_of(simplified.after)
    ));
    let confirmation = &simplified.confirmation;
    print(format_args!(
        "on {} questions that decided nothing, the simplest recipe stands at {} ± {} against {}\n",
        confirmation.n,
        unit.signed(confirmation.difference),
        unit.value(confirmation.stderr),
        simplified.winner
    ));
    print("what each number is worth (fitness without it):");
    for s in &simplified.sensitivities {
        let worth = match (s.difference, s.stderr) {
            (Some(difference), Some(stderr)) => format!("{} ± {}", unit.signed(difference), unit.value(stderr)),
            _ => "cannot be left out".into(),
        };
        print(format_args!(
            "  {:<44} {:>8} → {:<4} {worth}",
            s.gene, s.value, s.without
        ));
    }
    match out {
        Some(file) => print(format_args!("\n{}", file.display())),
        None => print(format_args!("\n{}", simplified.yaml.trim_end())),
    }
}
