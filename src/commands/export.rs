//! `heterosis export` and `verify`: the child as files that everybody's tools open, and the proof of where it came from.
//!
//! An export is written from the same merge that was scored, into a directory beside its own. There it is opened again from
//! disk and answers some of the run's questions; the answers must be those in the journal. Only then it takes its name, in
//! one step: an export is complete and checked, or it is not there, and one that it replaces stays until then.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Failure, LONGEST_DOCUMENT, Outcome, child, environment,
    models::{Computed, Opened, Runtime, add},
    overwrite::{self, marked},
    print, print_json,
    replacement::replace,
    search::with_model_words,
};
use crate::{
    checkpoint::{self, Checkpoint, GgufKind, parse_size},
    cli::{ExportArgs, GgufArg, VerifyArgs},
    event::{self, Candidate, CandidateId, Event, Origin, Record, run::Run},
    merge::Plan,
    model::{Engine, Generation, Request, ScoreRequest},
    recipe::{Recipe, write},
    report::{
        card::{Card, hub_name, model_card},
        license::{self, ParentLicense, of_child},
    },
    search::{ENGINE_VERSION, Parents, verbatim},
    space::Space,
    store::{self, RunDir},
};

/// Answers of each task that are given again from the exported files.
const FIRST_ANSWERS: usize = 4;
/// The most answers that `verify` gives again, and the most tokens of each: what asks for more was not written here.
const MOST_ANSWERS: usize = 4096;
const MOST_NEW_TOKENS: usize = 1 << 15;

/// How much likelier, in nats, the token that a child picks now may be than the one that it picked in the run, before this
/// is another child. Sums in another order move logits: on one machine's CPU not at all, between processors in the last
/// digits of f32; in half precision, where a GPU's sums depend on what shares the batch, a thousand times as much (of 64
/// answers of SmolLM2-135M that transformers wrote in bf16, 15 part from those in f32 by more than 0.01, at most by 0.2).
fn tie(dtype: &str) -> f64 {
    if dtype == "f32" { 0.01 } else { 0.5 }
}

/// `provenance.json`.
#[derive(Serialize, Deserialize)]
pub(super) struct Provenance {
    schema_version: u32,
    run: String,
    candidate: String,
    engine_version: String,
    seed: u64,
    space_digest: String,
    recipe_digest: String,
    parents: Vec<ParentProvenance>,
    tasks: Vec<event::Task>,
    /// What became another one while the run went on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    changes: Vec<event::changes::Change>,
    /// Candidates that the budget paid for, failed ones included: parents, unsearched merges and means are free.
    evals: u64,
    /// Whether any question stands in two parts of the run; absent in runs of older builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    questions: Option<event::QuestionsCompared>,
    /// The one reading of the test split, if it was read.
    test: Option<event::TestReading>,
    /// What the child makes of tasks that are no part of the fitness, if the run had any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_out: Option<event::HeldOutReading>,
    outputs: Vec<FileHash>,
    /// How the first answers were given; exports before there was this have it from the CPU, in f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    computed: Option<Computed>,
    first_answers: Vec<FirstAnswer>,
}

#[derive(Serialize, Deserialize)]
struct ParentProvenance {
    name: String,
    model: String,
    /// BLAKE3 of the content, as the run saw it.
    digest: String,
    files: Vec<FileHash>,
}

#[derive(Serialize, Deserialize)]
struct FileHash {
    file: String,
    size_bytes: u64,
    sha256: String,
}

/// A question of the run and what the child wrote, to be repeated by `verify`.
#[derive(Clone, Serialize, Deserialize)]
struct FirstAnswer {
    question: String,
    prompt: String,
    max_new_tokens: usize,
    stop: Vec<String>,
    output: String,
    /// Empty where only the text is known.
    #[serde(default)]
    token_ids: Vec<u32>,
}

/// What is known of the candidate that is exported.
struct Chosen {
    space: Space,
    records: Vec<Record>,
    run: Run,
    candidate: Candidate,
    recipe: Recipe,
}

impl Chosen {
    fn find(dir: &RunDir, id: &str) -> Result<Self> {
        let space = Space::read(&dir.space())?;
        let records = store::read(&dir.journal())?;
        let run = Run::from_records(&records);
        let found = match id {
            "best" => run.winner(),
            _ => run.candidate(id),
        };
        let Some(candidate) = found.cloned() else {
            let known: Vec<&str> = run.scored.iter().map(|s| s.candidate.id.as_str()).take(12).collect();
            bail!(
                "{} has no scored candidate '{id}'; some that it has: {}",
                dir.path().display(),
                known.join(", ")
            );
        };
        let recipe = match candidate.origin {
            Origin::Parent => {
                let names = space.models.iter().map(|(name, _)| name.as_str());
                verbatim(CandidateId::resolve(&candidate.id, names)?.model().unwrap_or_default())
            }
            _ if space.models.is_empty() => bail!(
                "{} searched bare genes, which make no model to export; the best ones are in {}",
                dir.path().display(),
                dir.best_genes().display()
            ),
            _ => serde_json::from_value(candidate.recipe.clone()).context("the journal's recipe cannot be read")?,
        };
        Ok(Self {
            space,
            records,
            run,
            candidate,
            recipe,
        })
    }
}

pub fn export(args: ExportArgs) -> Outcome {
    let dir = RunDir::open(&args.run)?;
    let (id, out) = match args.target.as_slice() {
        [out] => ("best", PathBuf::from(out)),
        [id, out, ..] => (id.as_str(), PathBuf::from(out)),
        [] => return Err(anyhow::anyhow!("the directory of the export is missing").into()),
    };
    let chosen = Chosen::find(&dir, id)?;
    let named = with_model_words(&chosen.recipe, &chosen.space);
    let yaml = write::to_yaml(&named);
    let for_mergekit = for_mergekit(&chosen.recipe, &chosen.space);
    if args.recipe_only {
        return write_recipe(&out, &for_mergekit, args.overwrite);
    }
    let shard_size = parse_size(&args.shard_size).context("--shard-size")?;
    // What the checks will need is opened before gigabytes are written.
    let runtime = Runtime::new(&computed(&chosen)?.again(&args.engine))?;
    let asked = first_questions(&chosen)?;
    let mut parents = Parents::default();
    for (name, word) in &chosen.space.models {
        add(&mut parents, name, word).with_context(|| format!("models.{name}"))?;
    }
    refuse_changed_parents(&chosen, &parents)?;
    let plan = Plan::new(&chosen.recipe, &parents)?;
    let mut writer = overwrite::begin(&out, shard_size, args.overwrite)?;
    let bar = environment::progress_bar(plan.outputs().len() as u64, "writing");
    let mut work = || -> Result<()> {
        child::write(&mut writer, &plan, &parents, &mut |done| bar.set_position(done as u64))?;
        writer.text("mergekit_config.yml", &marked(&for_mergekit))?;
        writer.text("recipe.yaml", &yaml)?;
        let licenses = licenses(&chosen, &parents, &plan)?;
        let mut models: Vec<String> = licenses.iter().map(|l| l.model.clone()).collect();
        models.dedup();
        let license = of_child(&licenses);
        license
            .warnings
            .iter()
            .for_each(|warning| tracing::warn!("licence: {warning}"));
        writer.text(
            "README.md",
            &model_card(&Card {
                run: &chosen.run,
                id: &chosen.candidate.id,
                recipe_yaml: &for_everybody(&named),
                license: license.license.as_deref(),
                parent_licenses: &licenses,
                models: &models,
                profile: "fitness",
            }),
        )?;
        Ok(())
    };
    let staged = work().and_then(|()| Ok(writer.stage()?));
    bar.finish_and_clear();
    let staged = staged.map_err(Failure::Work)?;
    let complete = || -> Result<()> {
        if let Some(kind) = args.gguf {
            write_gguf(staged.path(), kind)?;
        }
        let answered = first_answers(asked, staged.path(), &runtime, !chosen.run.changes.is_empty())?;
        let provenance = provenance(&chosen, &parents, staged.path(), answered)?;
        let text = serde_json::to_string_pretty(&provenance)? + "\n";
        let file = staged.path().join("provenance.json");
        fs::write(&file, text).with_context(|| format!("cannot write {}", out.join("provenance.json").display()))?;
        // Somebody may have put something there while the merge was written.
        match args.overwrite {
            true => overwrite::refuse_foreign(&out),
            false => Ok(()),
        }
    };
    complete().map_err(Failure::Work)?;
    staged.publish().map_err(Failure::work)?;
    print(out.display());
    Ok(())
}

/// The recipe alone, to a file of that name or into a directory.
fn write_recipe(out: &Path, yaml: &str, overwrite: bool) -> Outcome {
    let is_file = super::models::is_recipe(&out.display().to_string());
    let file = if is_file {
        out.to_owned()
    } else {
        out.join("mergekit_config.yml")
    };
    if file.exists() && !overwrite {
        return Err(anyhow::anyhow!("{} exists; --overwrite replaces it", file.display()).into());
    }
    if let Some(parent) = file.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    }
    replace(&file, &marked(yaml))?;
    print(file.display());
    Ok(())
}

/// The licences of the models whose weights or tokenizer the child has, an adapter's with its model's.
fn licenses(chosen: &Chosen, parents: &Parents, plan: &Plan) -> Result<Vec<ParentLicense>> {
    let tokenizer = plan.tokenizer().donor;
    let takes_part = |name: &str| chosen.recipe.models().contains(&name) || tokenizer == name;
    let mut licenses: Vec<ParentLicense> = Vec::new();
    for (name, word) in chosen.space.models.iter().filter(|(name, _)| takes_part(name)) {
        let checkpoint = parents.checkpoint(name).context("a parent is not open")?;
        let (model, adapter) = checkpoint::split_adapter(word);
        for (word, texts) in std::iter::once(model).chain(adapter).zip(checkpoint.license_texts()?) {
            // Adapters over one model have it in common.
            if licenses.iter().all(|known| known.model != word) {
                licenses.push(ParentLicense {
                    model: word.into(),
                    license: license::read(texts.readme.as_deref(), texts.license.as_deref()),
                });
            }
        }
    }
    Ok(licenses)
}

/// The exported files once more as one GGUF file, read back and compared; where that cannot be done, the error says how
/// llama.cpp does it.
fn write_gguf(out: &Path, kind: GgufArg) -> Result<()> {
    let (kind, name) = match kind {
        GgufArg::F16 => (GgufKind::F16, "f16"),
        GgufArg::Q8_0 => (GgufKind::Q8_0, "q8_0"),
    };
    let child = Checkpoint::open(out)?;
    let file = out.join(format!("model-{name}.gguf"));
    let bar = environment::progress_bar(0, "gguf");
    let written = checkpoint::write_gguf(&child, &file, kind, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    match written {
        Ok(()) => compare_gguf(&child, &file, kind),
        Err(e @ (checkpoint::Error::GgufFamily { .. } | checkpoint::Error::GgufWrite { .. })) => bail!(
            "{e} Nothing was exported. Export without --gguf; llama.cpp's own converter may then know it: python \
             convert_hf_to_gguf.py OUT --outtype {name}"
        ),
        Err(e) => Err(e.into()),
    }
}

/// A GGUF file that is read back must hold the child's weights, but for the rounding that was asked for.
fn compare_gguf(child: &Checkpoint, file: &Path, kind: GgufKind) -> Result<()> {
    let back = Checkpoint::open(file)?;
    for (name, info) in child.tensors() {
        let (mut ours, theirs) = (child.read_f32(name)?, back.read_f32(name)?);
        if kind == GgufKind::F16 && info.shape.len() > 1 {
            checkpoint::round_in_place(checkpoint::DType::F16, &mut ours);
        }
        let blocks = ours.chunks(32).zip(theirs.chunks(32));
        let near = |(a, b): (&[f32], &[f32])| {
            let largest = a.iter().fold(0f32, |max, x| max.max(x.abs()));
            // Q8_0: half a step of 1/127, and as much again for the scale's own rounding.
            let most = if kind == GgufKind::Q8_0 && info.shape.len() > 1 {
                largest / 127.0
            } else {
                0.0
            };
            a.iter().zip(b).all(|(a, b)| (a - b).abs() <= most)
        };
        if ours.len() != theirs.len() || !blocks.into_iter().all(near) {
            bail!(
                "{}: `{name}` does not read back as it was written; please report this",
                file.display()
            );
        }
    }
    Ok(())
}

/// A recipe as mergekit wants it: it names models of the Hub without a prefix.
pub fn for_mergekit(recipe: &Recipe, space: &Space) -> String {
    let named = with_model_words(recipe, space);
    write::to_yaml(&named.with_models(|word| word.trim_start_matches("hf:").to_string()))
}

/// A recipe without the paths of this machine, for a card that is published.
fn for_everybody(named: &Recipe) -> String {
    let name = |word: &str| word.split('+').map(hub_name).collect::<Vec<_>>().join("+");
    write::to_yaml(&named.with_models(name))
}

/// A parent that changed since the run would give another child than the one that was scored.
fn refuse_changed_parents(chosen: &Chosen, parents: &Parents) -> Result<()> {
    // With what somebody accepted on the way.
    let started = chosen.run.started.as_ref();
    for model in started.map_or(&[][..], |s| &s.models) {
        let now = parents
            .checkpoint(&model.name)
            .context("a parent is not open")?
            .digest()?;
        if now != model.digest {
            bail!(
                "{}: the model has changed since the run (it was {}, it is {now}); the scored child cannot be made from it",
                model.model,
                model.digest
            );
        }
        if !model.tokenizer_digest.is_empty() && parents.tokenizer_digest(&model.name) != model.tokenizer_digest {
            bail!(
                "{}: its tokenizer, chat template or generation config has changed since the run; the scored child cannot be \
                 made from it",
                model.model
            );
        }
    }
    Ok(())
}

/// The exported files have to lie at `staged`, with everything but the provenance itself.
fn provenance(
    chosen: &Chosen,
    parents: &Parents,
    staged: &Path,
    (computed, first_answers): (Computed, Vec<FirstAnswer>),
) -> Result<Provenance> {
    let started = chosen.run.started.as_ref();
    let (mut test, mut held_out) = (None, None);
    for record in &chosen.records {
        match &record.event {
            Event::TestRead(reading) => test = Some(reading.clone()),
            Event::HeldOutRead(reading) => held_out = Some(reading.clone()),
            _ => {}
        }
    }
    let started = started.context("the journal does not begin with a run")?;
    let mut parent_files = Vec::new();
    for model in &started.models {
        let checkpoint = parents.checkpoint(&model.name).context("a parent is not open")?;
        let files = checkpoint.source_files();
        parent_files.push(ParentProvenance {
            name: model.name.clone(),
            model: model.model.clone(),
            digest: model.digest.clone(),
            files: files.iter().map(|file| hash(file)).collect::<Result<_>>()?,
        });
    }
    let mut files: Vec<PathBuf> = fs::read_dir(staged)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    Ok(Provenance {
        schema_version: event::SCHEMA_VERSION,
        run: started.name.clone(),
        candidate: chosen.candidate.id.clone(),
        engine_version: ENGINE_VERSION.into(),
        seed: started.seed,
        space_digest: started.space_digest.clone(),
        recipe_digest: chosen.candidate.recipe_digest.clone(),
        parents: parent_files,
        tasks: started.tasks.clone(),
        changes: chosen.run.changes.clone(),
        evals: chosen.run.evals,
        questions: chosen.run.questions.clone(),
        test,
        held_out,
        outputs: files.iter().map(|file| hash(file)).collect::<Result<_>>()?,
        computed: Some(computed),
        first_answers,
    })
}

fn hash(file: &Path) -> Result<FileHash> {
    let read = || -> std::io::Result<(u64, String)> {
        let (mut hasher, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
        let mut reader = checkpoint::open_regular(file)?;
        loop {
            let n = reader.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            size += n as u64;
        }
        let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((size, hex))
    };
    let (size_bytes, sha256) = read().with_context(|| file.display().to_string())?;
    let name = file.file_name().unwrap_or(file.as_os_str());
    Ok(FileHash {
        file: name.to_string_lossy().into_owned(),
        size_bytes,
        sha256,
    })
}

/// How the run computed.
fn computed(chosen: &Chosen) -> Result<Computed> {
    let started = chosen.run.started.as_ref();
    Ok(Computed::of_run(
        started.context("the journal does not begin with a run")?,
    ))
}

/// Some questions that the candidate has answered, with what the journal says that it wrote.
fn first_questions(chosen: &Chosen) -> Result<Vec<FirstAnswer>> {
    let mut asked: Vec<FirstAnswer> = Vec::new();
    for reference in &chosen.space.fitness.tasks {
        for task in super::search::fitness_tasks(reference)? {
            let questions = task.task.questions(task.split)?;
            let journalled = chosen.records.iter().find_map(|record| match &record.event {
                Event::Answers(a)
                    if a.id == chosen.candidate.id && a.task == task.task.name() && a.lang == task.task.lang() =>
                {
                    Some(&a.answers)
                }
                _ => None,
            });
            let Some(answers) = journalled else { continue };
            for answer in answers.iter().filter(|a| !a.finish.is_empty()).take(FIRST_ANSWERS) {
                let Some(question) = questions.iter().find(|q| q.id == answer.q) else {
                    continue;
                };
                asked.push(FirstAnswer {
                    question: answer.q.clone(),
                    prompt: question.prompt.text(),
                    max_new_tokens: task.task.max_new_tokens,
                    stop: task.task.stop.to_vec(),
                    output: answer.out.clone(),
                    token_ids: Vec::new(),
                });
            }
        }
    }
    Ok(asked)
}

/// Asks the exported files those questions; they must say the same.
///
/// `changes`: the run went on with something changed.
fn first_answers(
    asked: Vec<FirstAnswer>,
    model: &Path,
    runtime: &Runtime,
    changes: bool,
) -> Result<(Computed, Vec<FirstAnswer>)> {
    let given = answer_again(model, &asked, runtime)?;
    if let Some(other) = given.iter().find_map(|again| again.other.as_ref()) {
        let why = match changes {
            true => {
                "the run went on although something of it had changed, and this was answered before; export a candidate \
                     that was scored since"
            }
            false => "please report this",
        };
        bail!("the exported child is not the run's, so nothing was exported: {other}; {why}");
    }
    let answers = asked.into_iter().zip(given).map(|(question, again)| FirstAnswer {
        output: again.given.text,
        token_ids: again.given.token_ids,
        ..question
    });
    Ok((runtime.computed(), answers.collect()))
}

/// An answer given a second time.
struct Again {
    given: Generation,
    /// How it differs from the first one by more than rounding, if it does.
    other: Option<String>,
}

fn answer_again(model: &Path, asked: &[FirstAnswer], runtime: &Runtime) -> Result<Vec<Again>> {
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let mut engine = Opened::open(&model.display().to_string())?.engine_on(runtime)?;
    let mut requests = Vec::new();
    for question in asked {
        requests.push(Request {
            prompt: engine.tokenizer().encode(&question.prompt, true)?,
            // Tokens after those that are known would be compared with nothing.
            max_new_tokens: match question.token_ids.len() {
                0 => question.max_new_tokens,
                known => known.min(question.max_new_tokens),
            },
            stop: Arc::from(question.stop.clone()),
            stop_when: None,
            loop_guard: false,
        });
    }
    let given = engine.generate(&requests, &mut |_| {})?;
    let most = tie(&runtime.computed().dtype);
    let mut all = Vec::new();
    for ((question, request), given) in asked.iter().zip(&requests).zip(given) {
        let lead = lead(&mut engine, question, &request.prompt, &given)?;
        let other = lead.filter(|lead| *lead > most).map(|lead| {
            format!(
                "{}: it writes {:?}, not {:?}; where they part its own token is {lead:.3} nats the likelier, and rounding \
                 makes at most {most}",
                question.question, given.text, question.output
            )
        });
        all.push(Again { given, other });
    }
    Ok(all)
}

/// How much likelier, in nats, the first token that differs from the known answer is than the one that stood there; `None`
/// if none differs. Of an answer whose text alone is known more may be written now: the search ends one as soon as it stands.
fn lead(engine: &mut Engine, known: &FirstAnswer, prompt: &[u32], given: &Generation) -> Result<Option<f64>> {
    let first = match known.token_ids.as_slice() {
        [] if given.text.starts_with(known.output.trim_end()) => return Ok(None),
        [] => {
            let whole = engine
                .tokenizer()
                .encode(&format!("{}{}", known.prompt, known.output), true)?;
            match whole.strip_prefix(prompt) {
                Some(first) => first.to_vec(),
                None => engine.tokenizer().encode(&known.output, false)?,
            }
        }
        ids => ids.to_vec(),
    };
    let mut pairs = first.iter().zip(&given.token_ids);
    let Some(at) = pairs.position(|(first, now)| first != now) else {
        return Ok(None);
    };
    let after = |token: u32| {
        let tokens = [prompt, &given.token_ids[..at], &[token]].concat();
        ScoreRequest {
            from: tokens.len() - 1,
            tokens,
        }
    };
    let scores = engine.score(&[after(given.token_ids[at]), after(first[at])])?;
    Ok(Some(scores[0].log_likelihood - scores[1].log_likelihood))
}

#[derive(Serialize)]
struct Verified {
    ok: bool,
    checked: usize,
    problems: Vec<String>,
}

pub fn verify(args: VerifyArgs) -> Outcome {
    let file = args.out.join("provenance.json");
    let text = checkpoint::read_regular_text(&file, LONGEST_DOCUMENT)
        .with_context(|| format!("{} is no export: cannot read {}", args.out.display(), file.display()))?;
    let provenance = read_provenance(&text).with_context(|| file.display().to_string())?;
    let mut problems = strangers(&args.out, &provenance)?;
    for output in &provenance.outputs {
        match hash(&args.out.join(&output.file)) {
            Err(e) => problems.push(super::in_words(&e)),
            Ok(now) if now.sha256 != output.sha256 => {
                problems.push(format!(
                    "{}: its SHA-256 is {}, not {}",
                    output.file, now.sha256, output.sha256
                ));
            }
            Ok(_) => {}
        }
    }
    let mut checked = provenance.outputs.len();
    if problems.is_empty() {
        let computed = provenance.computed.unwrap_or_else(|| Computed {
            device: "cpu".into(),
            dtype: "f32".into(),
        });
        let runtime = Runtime::new(&computed.again(&args.engine))?;
        let given = answer_again(&args.out, &provenance.first_answers, &runtime).map_err(Failure::Work)?;
        checked += given.len();
        problems.extend(given.into_iter().filter_map(|again| again.other));
    }
    let ok = problems.is_empty();
    if args.json {
        print_json(&Verified { ok, checked, problems });
    } else if ok {
        print(format_args!(
            "{} files and {} answers are as they were exported",
            provenance.outputs.len(),
            provenance.first_answers.len()
        ));
    } else {
        problems.iter().for_each(print);
    }
    if ok {
        Ok(())
    } else {
        Err(Failure::work(anyhow::anyhow!(
            "{} is not as it was exported",
            args.out.display()
        )))
    }
}

/// A provenance that asks for no more than one that was written here can: files of its own directory, and few and short
/// answers.
pub(super) fn read_provenance(text: &str) -> Result<Provenance> {
    #[derive(Deserialize)]
    struct Versioned {
        schema_version: u32,
    }
    // First of all: what a newer one says may have another form, or another meaning.
    let Versioned { schema_version } = serde_json::from_str(text)?;
    if schema_version > event::SCHEMA_VERSION {
        bail!(
            "it is of schema version {schema_version}, and this heterosis ({ENGINE_VERSION}) reads versions up to {}; a newer \
             heterosis wrote it, and can verify it",
            event::SCHEMA_VERSION
        );
    }
    let provenance: Provenance = serde_json::from_str(text)?;
    if let Some(output) = provenance
        .outputs
        .iter()
        .find(|o| Path::new(&o.file).file_name() != Some(o.file.as_ref()))
    {
        bail!("'{}' is no name of a file beside it", output.file);
    }
    if provenance.first_answers.len() > MOST_ANSWERS {
        bail!(
            "it has {} answers; at most {MOST_ANSWERS} are given again",
            provenance.first_answers.len()
        );
    }
    match provenance
        .first_answers
        .iter()
        .find(|a| a.max_new_tokens > MOST_NEW_TOKENS)
    {
        Some(answer) => bail!(
            "the answer to {} may have {} tokens; at most {MOST_NEW_TOKENS} are given again",
            answer.question,
            answer.max_new_tokens
        ),
        None => Ok(provenance),
    }
}

/// Files that lie in the export and are none of it: code that a loader would run, weights that it would take.
fn strangers(out: &Path, provenance: &Provenance) -> Result<Vec<String>> {
    let listed: BTreeSet<&str> = provenance.outputs.iter().map(|o| o.file.as_str()).collect();
    let mut names = Vec::new();
    for entry in fs::read_dir(out).with_context(|| out.display().to_string())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    names.retain(|name| name != "provenance.json" && !listed.contains(name.as_str()));
    let told = names
        .into_iter()
        .map(|name| format!("{name}: it was not exported, and provenance.json does not list it"));
    Ok(told.collect())
}
