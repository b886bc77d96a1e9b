//! The tasks that a search space names, loaded.

use super::Error;
use crate::{
    eval::{self, Chat, DataDirs, Profile, Split, Task, TaskOptions},
    search::FitnessTask,
    space::{Space, TaskRef},
};

/// A task of a search space, in each of its languages; they share its weight.
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
            chat: reference.apply_chat_template.then(|| Chat {
                system: reference.system_instruction.clone(),
                one_message: false,
            }),
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

/// The tasks of the fitness, one for each language.
pub(super) fn of_fitness(space: &Space, data: &DataDirs) -> Result<Vec<FitnessTask>, Error> {
    let mut tasks = Vec::new();
    for (i, reference) in space.fitness.tasks.iter().enumerate() {
        tasks.extend(fitness_tasks(reference, data).map_err(Error::at(format!("fitness.tasks[{i}]")))?);
    }
    Ok(tasks)
}

/// The tasks that only the final asks: others than those of the fitness.
pub(super) fn held_out(space: &Space, tasks: &[FitnessTask], data: &DataDirs) -> Result<Vec<FitnessTask>, Error> {
    let name = |task: &FitnessTask| (task.task.name().to_string(), task.task.lang().to_string());
    let mut names: Vec<_> = tasks.iter().map(name).collect();
    let mut held_out = Vec::new();
    for (index, reference) in space.finale.held_out.iter().enumerate() {
        let loaded = fitness_tasks(reference, data).map_err(Error::at(format!("final.held_out[{index}]")))?;
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
