//! `heterosis tasks` and `heterosis methods`: what is known.

use serde::Serialize;

use super::{Outcome, print, print_json};
use crate::{
    cli::ListArgs,
    eval,
    merge::cost_in_words,
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
        print(format_args!("{}  ({})", task.task, task.langs.join(" ")));
        print(format_args!("    {}", task.description));
    }
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
        learned: info.method.learned().contains(&p.name),
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
        cost: cost_in_words(info.method),
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
