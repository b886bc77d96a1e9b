//! `heterosis tasks`, `heterosis methods` and `heterosis families`: what is known.

use serde::Serialize;

use super::{Outcome, print, print_json};
use crate::{
    cli::ListArgs,
    eval, model,
    recipe::{self, BaseRule, DefaultValue, Kind, Scope},
};

#[derive(Serialize)]
struct Tasks {
    tasks: Vec<eval::TaskSummary>,
}

pub fn tasks(args: ListArgs) -> Outcome {
    let tasks = eval::tasks()?;
    if args.json {
        print_json(&Tasks { tasks });
        return Ok(());
    }
    for task in tasks {
        let langs = match task.langs.as_slice() {
            several @ [first, .., last] if several.len() > 16 => {
                format!("{} languages, {first} to {last}", several.len())
            }
            langs => langs.join(" "),
        };
        let subjects = match task.subjects.len() {
            0 => String::new(),
            n => format!("; {n} subjects, each a task {}_SUBJECT", task.task),
        };
        print(format_args!("{}  ({langs}{subjects})", task.task));
        print(format_args!("    {}", task.description));
    }
    Ok(())
}

#[derive(Serialize)]
struct Families {
    /// Whose logits and greedy tokens theirs are checked against, on the CPU.
    checked_against: &'static str,
    families: Vec<Family>,
    /// Models with other senses whose language half is one of these: their `model_type`.
    around_them: Vec<&'static str>,
}

#[derive(Serialize)]
struct Family {
    model_type: &'static str,
    devices: [&'static str; 2],
}

pub fn families(args: ListArgs) -> Outcome {
    let families = model::Family::all().iter().map(|family| Family {
        model_type: family.name(),
        devices: ["cpu", "cuda"],
    });
    let known = Families {
        checked_against: "transformers 5.24.0",
        families: families.collect(),
        around_them: model::Wrapper::all().iter().map(model::Wrapper::name).collect(),
    };
    if args.json {
        print_json(&known);
        return Ok(());
    }
    for family in &known.families {
        print(format_args!("{:18}{}", family.model_type, family.devices.join(", ")));
    }
    print(format_args!(
        "\nWith a vision tower around one of them, in texts: {}.",
        known.around_them.join(", ")
    ));
    print(format_args!(
        "Scored and learned by the decoder; logits and greedy tokens equal those of {} (docs/families.md).\n\
         Models of any other architecture can be merged, and scored by a command or another engine.",
        known.checked_against
    ));
    Ok(())
}

#[derive(Serialize)]
struct Methods {
    methods: Vec<Method>,
}

#[derive(Serialize)]
struct Method {
    name: &'static str,
    summary: &'static str,
    source: &'static str,
    base: &'static str,
    cost: &'static str,
    in_mergekit: bool,
    parameters: Vec<Parameter>,
}

#[derive(Serialize)]
struct Parameter {
    name: &'static str,
    per_model: bool,
    /// Whether it can be learned by gradient, with `heterosis learn` and in a search.
    learned: bool,
    range: String,
    default: Option<f64>,
    summary: &'static str,
}

pub fn methods(args: ListArgs) -> Outcome {
    let methods: Vec<Method> = recipe::methods().iter().map(describe).collect();
    if args.json {
        print_json(&Methods { methods });
        return Ok(());
    }
    for method in methods {
        print(format_args!("{}  {}", method.name, method.summary));
        print(format_args!(
            "    base model: {}; cost: {}; source: {}{}",
            method.base,
            method.cost,
            method.source,
            if method.in_mergekit {
                ""
            } else {
                "; mergekit has no such method"
            }
        ));
        for p in method.parameters {
            let whose = if p.per_model { "each model's" } else { "the recipe's" };
            let default = p.default.map_or(String::new(), |d| format!(", default {d}"));
            let learned = if p.learned { "; can be learned" } else { "" };
            print(format_args!(
                "    {} ({whose}, {}{default}): {}{learned}",
                p.name, p.range, p.summary
            ));
        }
    }
    Ok(())
}

fn describe(info: &recipe::MethodInfo) -> Method {
    let parameters = info.parameters.iter().map(|p| Parameter {
        name: p.name,
        per_model: p.scope != Scope::Shared,
        learned: info.learned.contains(&p.name),
        range: range(p.kind),
        default: match p.default {
            DefaultValue::Value(value) => Some(value),
            DefaultValue::Required | DefaultValue::Method => None,
        },
        summary: p.summary,
    });
    Method {
        name: info.name,
        summary: info.summary,
        source: info.source,
        base: match info.base {
            BaseRule::Ignored => "a model like the others",
            BaseRule::Optional => "optional",
            BaseRule::Required => "required",
        },
        cost: info.cost,
        in_mergekit: info.in_mergekit,
        parameters: parameters.collect(),
    }
}

fn range(kind: Kind) -> String {
    match kind {
        Kind::Number { low, high, .. } if low == f64::NEG_INFINITY && high == f64::INFINITY => "any number".into(),
        Kind::Number { low, high, open_low } => {
            let from = if open_low { "above" } else { "from" };
            match high == f64::INFINITY {
                true => format!("{from} {low}"),
                false => format!("{from} {low} to {high}"),
            }
        }
        Kind::Integer { low, .. } => format!("whole number from {low}"),
        Kind::Switch => "true or false".into(),
        Kind::Choice(words) => words.join(" | "),
    }
}
