//! `heterosis grams-plus`: Gram matrices of all models of a recipe at once, each layer's behind merged layers (RegMean++).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{
    Failure, Outcome, environment, grams,
    measuring::{self, Asked},
    print, print_json, runtime,
};
use crate::{
    checkpoint::Writer,
    cli::{GramsPlusArgs, LabelsArg, MeasuringArgs, TaskQuestionsArgs},
    event::words::shell_word,
    learn::{
        grams::Inventory,
        regmean_plus::{Own, measure},
        twin,
    },
    merge::Plan,
    model::{Device, Text},
    models::{self, Parents, Runtime, beside, engine_of, read_recipe, verbatim},
    recipe::{Body, Method, Recipe, Source},
};

/// `--json`.
#[derive(Serialize)]
struct Document {
    recipe: String,
    labels: &'static str,
    models: Vec<Measured>,
    elapsed_ms: u64,
}

#[derive(Serialize)]
struct Measured {
    model: String,
    out: String,
    texts: usize,
    tokens: usize,
}

pub fn grams_plus(args: GramsPlusArgs) -> Outcome {
    let (clock, with) = (environment::stopwatch(), &args.with);
    let recipe = read_recipe(&args.recipe)?;
    let sources = sources(&recipe, &args.recipe)?;
    let tasks = tasks(with, sources)?;
    let parents = open(&recipe, &args.recipe)?;
    let runtime = runtime::runtime(&with.engine)?;
    let begin = |source| measuring::begin(&place(source, &args.recipe)?);
    let mut writers = sources.iter().map(begin).collect::<Result<Vec<_>>>()?;
    let mut own = Vec::new();
    for ((source, tasks), writer) in sources.iter().zip(&tasks).zip(&mut writers) {
        let model = own_of(source, tasks, with.labels, &parents, &runtime)?;
        writer.declare(&grams::specs(&model.inventory))?;
        own.push(model);
    }
    let tokens = written(&recipe, &parents, (&own, &runtime), &writers).map_err(Failure::work)?;
    let mut document = Document {
        recipe: args.recipe.display().to_string(),
        labels: with.labels.word(),
        models: Vec::new(),
        elapsed_ms: 0,
    };
    for (((source, own), mut writer), tokens) in sources.iter().zip(&own).zip(writers).zip(tokens) {
        let asked = named(&with.asked.tasks, &source.model);
        let mut provenance = measuring::provenance(with, &source.model, &parents, asked, own.texts.len());
        provenance["behind_layers_of"] = recipe.digest().into();
        provenance["tokens"] = tokens.into();
        let config = parents
            .checkpoint(&source.model)
            .context("every model of the recipe is open")?
            .config();
        writer.json("config.json", &grams::config(config, &own.inventory.grams, provenance))?;
        writer.finish().map_err(Failure::work)?;
        document.models.push(Measured {
            model: source.model.clone(),
            out: place(source, &args.recipe)?.display().to_string(),
            texts: own.texts.len(),
            tokens,
        });
    }
    document.elapsed_ms = clock().as_millis() as u64;
    show(&document, with.json);
    Ok(())
}

/// The models of a recipe that is one merge of whole models by RegMean.
fn sources<'a>(recipe: &'a Recipe, file: &Path) -> Result<&'a [Source]> {
    let file = file.display();
    let [stage] = &recipe.stages[..] else {
        bail!("{file}: the matrices are measured layer by layer of one merge, and this recipe has several stages");
    };
    if stage.merge_method != Method::Regmean {
        bail!(
            "{file}: {} reads no Gram matrices; write 'merge_method: regmean'",
            stage.merge_method.name()
        );
    }
    if stage.tokenizer_source.is_some() || stage.tokenizer.is_some() {
        bail!(
            "{file}: texts are read by one vocabulary; leave out 'tokenizer_source' and 'tokenizer' for models that share one"
        );
    }
    match &stage.body {
        Body::Models(sources) => {
            let twice = |(i, source): (usize, &Source)| {
                let before = sources[..i]
                    .iter()
                    .any(|before| source.grams.is_some() && before.grams == source.grams);
                before.then(|| source.grams.clone().unwrap_or_default())
            };
            match sources.iter().enumerate().find_map(twice) {
                Some(word) => bail!(
                    "{file}: 'grams: {word}' stands here twice; the matrices of each model go to a directory of their own"
                ),
                None => Ok(sources),
            }
        }
        Body::Slices(_) => {
            bail!("{file}: layers are merged side by side, from the first on; give 'models' instead of 'slices'")
        }
    }
}

/// Where a model's matrices go: as the recipe says, from its own folder.
fn place(source: &Source, recipe: &Path) -> Result<PathBuf> {
    let word = source
        .grams
        .as_deref()
        .context("every model of regmean names its Gram matrices")?;
    Ok(recipe.parent().unwrap_or(Path::new("")).join(word))
}

/// The tasks of one model among words `MODEL=TASK`.
fn named<'a>(words: &'a [String], model: &str) -> Vec<&'a str> {
    let of_model = words.iter().filter_map(|word| word.split_once('='));
    of_model
        .filter(|(name, _)| *name == model)
        .map(|(_, task)| task)
        .collect()
}

/// Of each model what it is asked.
fn tasks(args: &MeasuringArgs, sources: &[Source]) -> Result<Vec<Asked>> {
    let models: Vec<&str> = sources.iter().map(|source| source.model.as_str()).collect();
    for word in &args.asked.tasks {
        let name = word.split_once('=').map(|(name, _)| name);
        if !name.is_some_and(|name| models.contains(&name)) {
            bail!(
                "--task {word}: write MODEL=TASK, with a model of the recipe: {}",
                models.join(", ")
            );
        }
    }
    let of_model = |model: &&str| {
        let tasks = named(&args.asked.tasks, model);
        if tasks.is_empty() {
            bail!("no texts for '{model}'; give some with --task {model}=TASK");
        }
        let asked = TaskQuestionsArgs {
            tasks: tasks.into_iter().map(String::from).collect(),
            ..args.asked.clone()
        };
        measuring::tasks(args, &asked)
    };
    models.iter().map(of_model).collect()
}

/// The recipe's models, without what is to be measured of them.
fn open(recipe: &Recipe, file: &Path) -> Result<Parents> {
    let mut parents = Parents::default();
    for model in recipe.models().into_iter().filter(|model| !recipe.is_measured(model)) {
        models::add(&mut parents, model, &beside(model, file), &environment::hub_options())?;
    }
    Ok(parents)
}

/// A model with the texts that it reads.
fn own_of(source: &Source, tasks: &Asked, labels: LabelsArg, parents: &Parents, runtime: &Runtime) -> Result<Own> {
    let plan = Plan::new(&verbatim(&source.model), parents)?;
    let texts: Vec<Text> = measuring::texts(labels, &source.model, tasks, &mut engine_of(&plan, parents, runtime)?)?;
    let twin = twin(&plan, parents, Device::Cpu, runtime.dtype)?;
    Ok(Own {
        grams: source.grams.clone().unwrap_or_default(),
        inventory: Inventory::of(&twin)?,
        twin,
        texts,
    })
}

/// Measures and writes; gives the tokens that each model has read.
fn written(
    recipe: &Recipe,
    parents: &Parents,
    (own, runtime): (&[Own], &Runtime),
    writers: &[Writer],
) -> Result<Vec<usize>> {
    let layers = own.first().map_or(0, |own| own.twin.spec().layers.len());
    let bar = environment::progress_bar(layers as u64, "merging layer by layer");
    let tokens = measure(
        recipe,
        parents,
        (own, runtime.dtype),
        &mut |k, name, values| Ok::<_, anyhow::Error>(writers[k].put_f32(name, values)?),
        &mut |layer| bar.set_position(layer as u64),
    );
    bar.finish_and_clear();
    tokens
}

fn show(document: &Document, json: bool) {
    if json {
        print_json(document);
        return;
    }
    for of in &document.models {
        print(format_args!(
            "{}  ({}: {} texts, {} tokens)",
            of.out, of.model, of.texts, of.tokens
        ));
    }
    print(format_args!(
        "`heterosis merge {} OUT` merges with them",
        shell_word(&document.recipe)
    ));
}
