//! The tasks that a search space names, loaded.

use super::Error;
use crate::{
    eval::{self, Chat, DataDirs, Kind, Profile, Split, Task, TaskOptions},
    models::Parents,
    search::FitnessTask,
    space::{ChatTemplate, Space, TaskRef},
};

/// A task of a search space, in each of its languages; they share its weight. Asked as plain text.
///
/// # Errors
/// There is no such task, split or language, or its data are missing.
pub fn fitness_tasks(reference: &TaskRef, data: &DataDirs) -> Result<Vec<FitnessTask>, Error> {
    let split = Split::from_name(&reference.split).ok_or_else(|| Error::UnknownSplit {
        split: reference.split.clone(),
        known: Split::ALL.map(Split::name).join(", "),
    })?;
    let names = eval::expand(&reference.task, reference.lang.as_deref())?;
    let count = names.len() as f64;
    let mut tasks = Vec::new();
    for (name, lang) in names {
        let options = TaskOptions {
            lang: Some(lang),
            shots: reference.shots,
            profile: match reference.profile.as_deref() {
                Some("parity") => Profile::Parity,
                _ => Profile::Fitness,
            },
            max_new_tokens: reference.max_new_tokens,
            samples: reference.samples,
            score: reference.score.clone(),
            think: reference.think.clone(),
            ..TaskOptions::default()
        };
        tasks.push(FitnessTask {
            task: Task::load(&name, &options, data)?,
            weight: reference.weight / count,
            limit: reference.limit,
            split,
        });
    }
    Ok(tasks)
}

/// How the tasks of a space are put to its models.
pub(super) struct Asking<'a> {
    pub space: &'a Space,
    pub parents: &'a Parents,
    pub data: &'a DataDirs,
}

/// The models that bring no chat template. Reads their tokenizers, once.
pub(super) fn without_chat_template(parents: &Parents) -> Vec<String> {
    let names = parents.iter().map(|(name, _)| name);
    let brings_none = |name: &&str| !parents.spoken(name).is_some_and(|spoken| spoken.has_chat_template);
    names.filter(brings_none).map(String::from).collect()
}

impl Asking<'_> {
    fn load(&self, reference: &TaskRef) -> Result<Vec<FitnessTask>, Error> {
        let fitness = &self.space.fitness;
        let wanted = reference.chat_template.or(fitness.chat_template).unwrap_or_default();
        let system = reference.system.as_ref().or(fitness.system.as_ref());
        if wanted == ChatTemplate::On && without_chat_template(self.parents).len() == self.space.models.len() {
            return Err(Error::NoChatTemplate);
        }
        let reference = &TaskRef {
            think: reference.think.clone().or_else(|| fitness.think.clone()),
            ..reference.clone()
        };
        let variables = reference
            .chat_template_kwargs
            .as_ref()
            .unwrap_or(&fitness.chat_template_kwargs);
        let tasks = fitness_tasks(reference, self.data)?;
        let asked = |task: FitnessTask| match self.is_chat(wanted, &task.task) {
            false => task,
            true => FitnessTask {
                task: task.task.through_chat_template(Chat {
                    system: system.cloned(),
                    variables: variables.clone(),
                    ..Chat::default()
                }),
                ..task
            },
        };
        let tasks: Vec<FitnessTask> = tasks.into_iter().map(asked).collect();
        match tasks.iter().all(|task| task.task.chat().is_none()) && reference.system.is_some() {
            true => Err(Error::SystemUnsaid),
            false => Ok(tasks),
        }
    }

    /// What a text is likely to be says more of a base model, and is read as it stands, unless somebody wants it otherwise.
    fn is_chat(&self, wanted: ChatTemplate, task: &Task) -> bool {
        match wanted {
            ChatTemplate::On => true,
            ChatTemplate::Off => false,
            ChatTemplate::Auto => task.kind() == Kind::Generate && without_chat_template(self.parents).is_empty(),
        }
    }
}

/// The tasks of the fitness, one for each language.
pub(super) fn of_fitness(asking: &Asking<'_>) -> Result<Vec<FitnessTask>, Error> {
    let mut tasks = Vec::new();
    for (i, reference) in asking.space.fitness.tasks.iter().enumerate() {
        tasks.extend(
            asking
                .load(reference)
                .map_err(Error::at(format!("fitness.tasks[{i}]")))?,
        );
    }
    Ok(tasks)
}

/// The tasks that only the final asks: others than those of the fitness.
pub(super) fn held_out(asking: &Asking<'_>, tasks: &[FitnessTask]) -> Result<Vec<FitnessTask>, Error> {
    let name = |task: &FitnessTask| (task.task.name().to_string(), task.task.lang().to_string());
    let mut names: Vec<_> = tasks.iter().map(name).collect();
    let mut held_out = Vec::new();
    for (index, reference) in asking.space.finale.held_out.iter().enumerate() {
        let loaded = asking
            .load(reference)
            .map_err(Error::at(format!("final.held_out[{index}]")))?;
        for task in loaded {
            let name = name(&task);
            if names.contains(&name) {
                let (task, lang) = name;
                return Err(Error::HeldOutTwice { index, task, lang });
            }
            names.push(name);
            held_out.push(task);
        }
    }
    Ok(held_out)
}
