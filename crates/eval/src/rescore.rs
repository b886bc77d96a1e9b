//! Stored outputs, judged again without a model.
//!
//! One JSON object a line: `output` and `gold`, and `task` and `lang` where the file holds several. What `eval
//! --answers` writes can be read here.

use std::collections::BTreeMap;

use super::{Answer, DataDirs, Error, Extracted, Profile, Samples, Task, TaskOptions, TaskScore, Think, expand};

/// A stored output. Fields that are not listed are kept out of the way.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Stored {
    /// Whose question it answers; the first task that is asked for judges it where this is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// ISO 639-1; the task's own where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lang: Option<String>,
    /// What the model wrote, of several samples a JSON list.
    pub output: String,
    /// What would have been right.
    pub gold: String,
    /// How it was judged, where that is not the task's own way in the profile `parity`.
    #[serde(default, skip_serializing_if = "Judged::is_usual")]
    pub judged: Judged,
}

/// What of [`TaskOptions`] makes another verdict of the same output.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Judged {
    /// `parity` where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// How many answers the output holds, if not one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<Samples>,
    /// What marks thoughts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think: Option<Think>,
    /// The score that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
}

impl Judged {
    /// As a task that was loaded with these options judges.
    pub fn by(options: &TaskOptions) -> Self {
        Judged {
            profile: Some(options.profile).filter(|profile| *profile != Profile::default()),
            samples: options.samples,
            think: options.think.clone(),
            score: options.score.clone(),
        }
    }

    /// Whether nothing need be said of it.
    pub fn is_usual(&self) -> bool {
        *self == Judged::default()
    }

    /// These options, and where they say nothing the way that was taken before.
    fn again(&self, options: &TaskOptions) -> TaskOptions {
        let options = options.clone();
        TaskOptions {
            profile: self.profile.unwrap_or(options.profile),
            samples: options.samples.or(self.samples),
            think: options.think.or(self.think.clone()),
            score: options.score.or(self.score.clone()),
            ..options
        }
    }
}

/// A stored output and what each filter makes of it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Rescored {
    /// As it was stored; the fields stand in the same object.
    #[serde(flatten)]
    pub stored: Stored,
    /// By filter.
    pub filters: BTreeMap<String, Extracted>,
    /// True where the task has no language gate.
    pub language_ok: bool,
}

/// All lines judged, and the scores of each task and language, in the order of their first line.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// In the order of the file.
    pub lines: Vec<Rescored>,
    /// One for each task and language.
    pub scores: Vec<TaskScore>,
    /// Lines that name a task or language that was not asked for.
    pub left_out: usize,
}

/// Reads stored outputs; blank lines are skipped.
///
/// # Errors
/// A line that is not a JSON object with `output` and `gold`.
pub fn parse(text: &str) -> Result<Vec<Stored>, Error> {
    let lines = text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|error| Error::Answers {
                line: i + 1,
                message: format!("an object with \"output\" and \"gold\" is expected: {error}"),
            })
        })
        .collect()
}

/// Judges stored outputs by the tasks named.
///
/// A line that names its task is judged by that one if it was asked for, else left out; a line that names none is
/// judged by the first. A line that says how it was judged is judged so again. With one task asked for and no line of its name, all lines are judged by it: another task's
/// outputs, judged its way. `options.lang` leaves out the lines of other languages.
///
/// ```
/// use heterosis_eval::{DataDirs, TaskOptions, rescore};
///
/// let stored = rescore::parse(
///     r#####"{"output": "6 times 7 is 42. #### 42", "gold": "#### 42"}
///         {"output": "I think it is 41.", "gold": "#### 42"}"#####,
/// )?;
/// let outcome = rescore::rescore(stored, &["gsm8k".into()], &TaskOptions::default(), &DataDirs::default())?;
/// assert_eq!(outcome.lines[1].filters["flexible-extract"].extracted, "41.");
/// assert_eq!(outcome.scores[0].scores["strict-match"].value, 0.5);
/// # Ok::<(), heterosis_eval::Error>(())
/// ```
///
/// # Errors
/// As [`Task::load`]; a task of log-likelihoods.
pub fn rescore(
    stored: Vec<Stored>,
    tasks: &[String],
    options: &TaskOptions,
    data_dirs: &DataDirs,
) -> Result<Outcome, Error> {
    let mut judges = Judges::new(tasks, options, data_dirs)?;
    let adopt = tasks.len() == 1 && !stored.iter().any(|line| judges.asks_for(line));
    let mut outcome = Outcome {
        lines: Vec::with_capacity(stored.len()),
        scores: Vec::new(),
        left_out: 0,
    };
    let mut answers: Vec<Vec<Answer>> = Vec::new();
    for line in stored {
        let Some(judge) = judges.of(&line, adopt)? else {
            outcome.left_out += 1;
            continue;
        };
        let answer = Answer::judged(&judges.loaded[judge].1, line.output.clone(), &line.gold)?;
        outcome.lines.push(Rescored {
            filters: answer.filters.clone(),
            language_ok: answer.language_ok,
            stored: line,
        });
        answers.resize_with(judges.loaded.len(), Vec::new);
        answers[judge].push(answer);
    }
    let judged = judges.loaded.iter().zip(&answers);
    outcome.scores = judged
        .map(|((_, task), answers)| TaskScore::of(task, answers))
        .collect();
    Ok(outcome)
}

/// The tasks that were asked for, each loaded when a line first needs it.
struct Judges<'a> {
    /// Task and language, as lines name them, with the name to load it by.
    asked: Vec<(String, String, String)>,
    options: &'a TaskOptions,
    data_dirs: &'a DataDirs,
    loaded: Vec<((String, String, Judged), Task)>,
}

impl<'a> Judges<'a> {
    fn new(tasks: &[String], options: &'a TaskOptions, data_dirs: &'a DataDirs) -> Result<Self, Error> {
        let mut asked = Vec::new();
        for task in tasks {
            for (name, lang) in expand(task, options.lang.as_deref())? {
                let (file, _) = super::find(&name)?;
                asked.push((file.name, lang, name));
            }
        }
        Ok(Judges {
            asked,
            options,
            data_dirs,
            loaded: Vec::new(),
        })
    }

    /// A line may call a task by its name or, as lm-eval does, by its name and language: `mgsm_direct_es`.
    fn matches(line: &Stored, (task, lang, _): &(String, String, String)) -> bool {
        let same_task =
            |named: &String| named == task || named.strip_prefix(task.as_str()) == Some(&format!("_{lang}"));
        line.task.as_ref().is_none_or(same_task) && line.lang.as_ref().is_none_or(|named| named == lang)
    }

    fn asks_for(&self, line: &Stored) -> bool {
        self.asked.iter().any(|asked| Judges::matches(line, asked))
    }

    /// The position of the task that judges the line.
    fn of(&mut self, line: &Stored, adopt: bool) -> Result<Option<usize>, Error> {
        let found = self.asked.iter().find(|asked| Judges::matches(line, asked));
        let same_lang = |asked: &&(String, String, String)| line.lang.as_ref().is_none_or(|lang| *lang == asked.1);
        let adopted = || self.asked.iter().find(same_lang).or(self.asked.first());
        let Some((task, lang, name)) = found.or_else(|| adopted().filter(|_| adopt)) else {
            return Ok(None);
        };
        let judged = Judged {
            // Another task has other scores.
            score: line.judged.score.clone().filter(|_| found.is_some()),
            ..line.judged.clone()
        };
        let key = (task.clone(), lang.clone(), judged);
        if let Some(position) = self.loaded.iter().position(|(k, _)| *k == key) {
            return Ok(Some(position));
        }
        let options = TaskOptions {
            lang: Some(lang.clone()),
            ..key.2.again(self.options)
        };
        let task = Task::load(name, &options, self.data_dirs)?;
        if task.kind().is_measured() {
            return Err(Error::NotGenerated {
                task: task.name().into(),
            });
        }
        self.loaded.push((key, task));
        Ok(Some(self.loaded.len() - 1))
    }
}
