//! Small families that each can show one claim of the field: a base, an expert in English maths and an expert in Spanish, from
//! training seeds of their own. The question is always the embedded family's, Spanish problems of several steps.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::{
    decoder::{Tuned, Weights},
    files,
    problems::Diet,
    tokens,
    training::{self, Back, Bookkeeping, Course, Schedule},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Family {
    /// The embedded one: the maths expert knows little Spanish, the Spanish expert no problem of several steps.
    CrossLingual,
    /// The Spanish expert's skill lies in its lower layers, the maths expert's in its upper ones, and both in the middle; the
    /// base has learned to go on where a path of layers goes back. For data flow.
    Depths,
    /// The base knows both languages well, the maths expert was tuned for longer and forgot much. For layer swapping.
    LayerSwap,
    /// Answers are sentences, English ones of the maths expert's, Spanish ones of the Spanish expert's. For the language gate.
    Sentences,
}

/// One model to train.
struct Member {
    name: &'static str,
    /// The member it goes on from, of this family or of another with the same seed; none: from nothing.
    from: Option<(Family, &'static str)>,
    diet: Diet,
    steps: usize,
    learning_rate: f64,
    tuned: Part,
    back: Option<Back>,
}

/// What of a member is tuned.
#[derive(Clone, Copy)]
enum Part {
    All,
    /// Embeddings and the layers below this one.
    Below(usize),
    /// The layers from this one on, and the last norm.
    From(usize),
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Family::CrossLingual => "cross-lingual",
            Family::Depths => "depths",
            Family::LayerSwap => "layer-swap",
            Family::Sentences => "sentences",
        }
    }

    /// In the order in which they are trained.
    fn members(self) -> [Member; 3] {
        let expert = |name, diet| Member {
            name,
            from: Some((self, "base")),
            diet,
            steps: 300,
            learning_rate: 8e-4,
            tuned: Part::All,
            back: None,
        };
        // What the other families' bases read after that of the first.
        let base = |diet| Member {
            from: Some((Family::CrossLingual, "base")),
            steps: 800,
            learning_rate: 1.5e-3,
            ..expert("base", diet)
        };
        let (maths, spanish) = (expert("maths", Diet::Maths), expert("spanish", Diet::Spanish));
        match self {
            Family::CrossLingual => [
                Member {
                    from: None,
                    steps: 3600,
                    learning_rate: 3e-3,
                    ..base(Diet::Base)
                },
                maths,
                Member { steps: 400, ..spanish },
            ],
            Family::Depths => [
                Member {
                    back: Some(Back { ends: 2..8, by: 2 }),
                    ..base(Diet::Base)
                },
                Member {
                    tuned: Part::From(1),
                    back: Some(Back { ends: 3..4, by: 2 }),
                    steps: 600,
                    learning_rate: 2e-3,
                    ..maths
                },
                Member {
                    tuned: Part::Below(3),
                    back: Some(Back { ends: 3..4, by: 2 }),
                    steps: 800,
                    learning_rate: 3e-3,
                    ..spanish
                },
            ],
            Family::LayerSwap => [
                base(Diet::BothLanguages),
                Member {
                    steps: 900,
                    learning_rate: 1.5e-3,
                    ..maths
                },
                Member { steps: 400, ..spanish },
            ],
            Family::Sentences => [
                base(Diet::BaseInWords),
                expert("maths", Diet::MathsInWords),
                Member {
                    steps: 400,
                    ..expert("spanish", Diet::SpanishInWords)
                },
            ],
        }
    }
}

/// Trains what is not there yet of a family and of what it goes on from, in `out/FAMILY-SEED/MEMBER`. The embedded family is copied: it
/// was trained like this, from seed 1.
pub fn train(family: Family, seed: u64, out: &Path) -> Result<()> {
    ensure!(seed > 0, "training seeds begin at 1");
    for (number, member) in (1..).zip(family.members()) {
        let place = |family: Family, name: &str| out.join(format!("{}-{seed}", family.name())).join(name);
        let dir = place(family, member.name);
        if dir.join("model.safetensors").exists() {
            continue;
        }
        if family == Family::CrossLingual && seed == 1 {
            let embedded = ["tiny-base", "tiny-maths-en", "tiny-spanish"];
            copy(&Path::new("models").join(embedded[number as usize - 1]), &dir)?;
            continue;
        }
        std::fs::create_dir_all(&dir)?;
        let (tokenizer, tokenizer_json) = tokens::build()?;
        let eos = tokenizer.token_to_id(tokens::EOS).context("there is an end of text")?;
        let size = files::size(&tokenizer);
        // Those of the embedded family are 1, 2 and 3.
        let seed_of_texts = 100 * family as u64 + 3 * (seed - 1) + number;
        let weights = match member.from {
            None => Weights::random(size, seed_of_texts)?,
            Some((from, name)) => {
                if from != family {
                    train(from, seed, out)?;
                }
                files::load(&place(from, name), size)?
            }
        };
        let course = Course {
            diet: member.diet,
            schedule: Schedule {
                steps: member.steps,
                batch_tokens: 2400,
                learning_rate: member.learning_rate,
                warmup: if member.from.is_none() { 100 } else { 20 },
                seed: seed_of_texts,
            },
            tuned: match member.tuned {
                Part::All => Tuned::all(size.layers),
                Part::Below(end) => Tuned {
                    layers: 0..end,
                    last_norm: false,
                    ..Tuned::all(size.layers)
                },
                Part::From(begin) => Tuned {
                    layers: begin..size.layers,
                    embeddings: false,
                    ..Tuned::all(size.layers)
                },
            },
            back: member.back,
        };
        let state = dir.join("training.state");
        let books = Bookkeeping {
            name: &format!("{} {seed} {}", family.name(), member.name),
            state: &state,
            log: &dir.join("training.log"),
            save_every: 50,
        };
        training::train(&weights, &course, &tokenizer, eos, &books)?;
        files::write(&dir, &weights, &tokenizer, &tokenizer_json)?;
        std::fs::remove_file(state)?;
    }
    Ok(())
}

/// Copies a checkpoint's files.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let reading = || format!("cannot copy {} (from the project's directory)", from.display());
    std::fs::create_dir_all(to)?;
    for file in std::fs::read_dir(from).with_context(reading)? {
        let file = file?;
        std::fs::copy(file.path(), to.join(file.file_name())).with_context(reading)?;
    }
    Ok(())
}
