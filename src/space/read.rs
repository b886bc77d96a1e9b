//! Reads a search space from YAML: every key is understood or refused, with its line and the nearest word.

use std::path::Path;

use super::{
    Axis, BareGene, ChatTemplate, Command, DataFlowSpace, EngineCommand, Error, Finale, Fitness, Gene, Guard, Guide,
    Hybrid, LayerGroups, Learning, Limit, MERGED, Mating, Module, Objectives, Optimizer, PATIENCE_S, PS_CHILD,
    ParameterSpace, Pin, Racing, Range, Scale, Search, Space, SplitRef, TaskRef, Teachers,
};
use crate::eval::{Samples, Think};
use crate::recipe::{BaseRule, DType, Kind, Method, ParamValue, ParameterInfo, Scope, methods as known_methods};
use crate::yaml::{self, Map, Node, Places, Value};

/// Seconds that a command has for an answer unless the space says otherwise.
const TIMEOUT: f64 = 3600.0;

/// Seconds that an engine may say nothing unless the space says otherwise: some take minutes to begin.
pub const SILENCE: f64 = 900.0;

/// The longest that a command may have.
const MOST_SECONDS: f64 = 31_536_000.0;

/// Candidates of a generation, and of a search: beyond these a slip of the keyboard fills the memory.
const MOST_CANDIDATES: usize = 100_000;
pub const MOST_EVALS: u64 = 1_000_000_000;

/// Rungs of a race: each halves the field.
const MOST_RUNGS: usize = 16;

/// Far beyond what a machine runs at a time; keeps a slip of the keyboard from starting a million programs.
const MOST_WORKERS: usize = 1024;

/// Unsearched merges and paths that a search may start from, by the names of [`Codec::baselines`](super::Codec::baselines).
const WARM_STARTS: [&str; 7] = [
    "linear",
    "ties",
    "dare_ties",
    "layer_swap",
    "task_arithmetic",
    "self_stack",
    "frankenmerge",
];

impl Space {
    /// Reads and checks a search space; no model or task is opened.
    ///
    /// # Errors
    /// Names the file, the line, the field and, for a misspelt word, the nearest valid one.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let text = yaml::read_text(file).map_err(|source| Error::Unreadable {
            file: file.to_path_buf(),
            source,
        })?;
        Self::parse(file, &text)
    }

    /// As [`Space::read`], from text; `file` is for messages.
    ///
    /// # Errors
    /// As [`Space::read`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        let root = yaml::parse_one(file, text)?;
        yaml::Kind::SearchSpace.expect(&root)?;
        Ok(Self {
            places: Places::of(&root),
            ..space(&root)?
        })
    }
}

fn space(root: &Node) -> Result<Space, yaml::Error> {
    let map = root.map()?;
    let name = map.required("name")?.text()?;
    if let Some(genes) = map.optional("genes") {
        return bare(&map, name, genes);
    }
    let models = map.required("models").map_err(|mut e| {
        if fitness_is_a_commands(&map) {
            e.message += "; numbers that a command scores, without models, stand under 'genes'";
        }
        e
    })?;
    let models = self::models(models)?;
    let base = match map.optional("base") {
        Some(node) => Some(model_name(node, &models)?),
        None => None,
    };
    let tokenizer = match map.optional("tokenizer") {
        Some(node) => model_name(node, &models)?,
        None => base.clone().unwrap_or_else(|| models[0].0.clone()),
    };
    let hybrid = hybrid(&map, &models)?;
    let data_flow_space = match map.optional("data_flow_space") {
        Some(node) => Some(data_flow_space(node, &models, hybrid)?),
        None => None,
    };
    let vision = match map.optional("vision") {
        Some(node) if node.str().is_ok_and(|word| word == MERGED) => match data_flow_space {
            None => Some(MERGED.to_string()),
            Some(_) => {
                return Err(node.error(
                    "a path of layers is the language model's: name the model whose vision tower the child takes",
                ));
            }
        },
        Some(node) => Some(model_name(node, &models)?),
        None => None,
    };
    let parameter_space = match map.optional("parameter_space") {
        None if data_flow_space.is_some() => None,
        _ => Some(parameter_space(map.required("parameter_space")?, &base)?),
    };
    let fitness = fitness(map.required("fitness")?)?;
    let first = match data_flow_space.is_some() && hybrid != Some(Hybrid::PsThenDfs) {
        true => First::Paths,
        false => First::Weights,
    };
    let search = search(map.optional("search"), &fitness, first)?;
    let finale = finale(map.optional("final"), &fitness)?;
    map.finish()?;
    Ok(Space {
        name,
        models,
        base,
        tokenizer,
        vision,
        parameter_space,
        data_flow_space,
        hybrid,
        genes: Vec::new(),
        fitness,
        search,
        finale,
        places: Places::default(),
        given: Vec::new(),
    })
}

/// How the two spaces go together: said exactly when both are there.
fn hybrid(map: &Map<'_>, models: &[(String, String)]) -> Result<Option<Hybrid>, yaml::Error> {
    let (ps, dfs) = (map.optional("parameter_space"), map.optional("data_flow_space"));
    let Some(node) = map.optional("hybrid") else {
        return match (ps, dfs) {
            (Some(_), Some(dfs)) => {
                Err(dfs.error("with two spaces, say how they go together: 'hybrid: ps_then_dfs' or 'hybrid: joint'"))
            }
            _ => Ok(None),
        };
    };
    let words = ["ps_then_dfs", "joint"];
    let hybrid = [Hybrid::PsThenDfs, Hybrid::Joint][node.one_of(&words)?];
    if ps.is_none() || dfs.is_none() {
        let missing = if ps.is_none() {
            "parameter_space"
        } else {
            "data_flow_space"
        };
        return Err(node.error(format!(
            "a hybrid needs both spaces, and {missing} is missing; add it, or leave 'hybrid' out"
        )));
    }
    if models.iter().any(|(name, _)| name == PS_CHILD) {
        return Err(node.error(format!(
            "in a hybrid '{PS_CHILD}' is the child of the parameter space; give the model '{PS_CHILD}' another name"
        )));
    }
    Ok(Some(hybrid))
}

/// Far beyond anything that works; keeps a slip of the keyboard from filling the memory with genes.
const MOST_REPEATS: usize = 64;

fn data_flow_space(
    node: &Node,
    models: &[(String, String)],
    hybrid: Option<Hybrid>,
) -> Result<DataFlowSpace, yaml::Error> {
    let map = node.map()?;
    let child = hybrid.map(|_| PS_CHILD);
    let known: Vec<&str> = child
        .into_iter()
        .chain(models.iter().map(|(name, _)| name.as_str()))
        .collect();
    let sources_node = map.required("sources")?;
    let mut sources: Vec<String> = Vec::new();
    for item in sources_node.list()? {
        let source = known[item.one_of(&known)?].to_string();
        if sources.contains(&source) {
            return Err(item.error(format!(
                "'{source}' stands here twice; 'repeats' says how often its layers may run"
            )));
        }
        sources.push(source);
    }
    if sources.is_empty() {
        return Err(sources_node.error("name at least one source"));
    }
    if let Some(child) = child
        && !sources.iter().any(|s| s == child)
    {
        sources.insert(0, child.into());
    }
    let repeats = match map.optional("repeats") {
        Some(node) => match node.usize()? {
            n @ 1..=MOST_REPEATS => n,
            n => return Err(node.error(format!("{n} is not between 1 and {MOST_REPEATS}"))),
        },
        None => 1,
    };
    let scales = match map.optional("scales") {
        Some(node) => {
            let (low, high) = node.range()?;
            if low <= 0.0 {
                return Err(node.error(format!(
                    "a factor of {low} or less leaves nothing of the input; begin above 0"
                )));
            }
            if !(low..=high).contains(&1.0) {
                return Err(node.error("the range must hold 1, where every layer's factor begins"));
            }
            Some([low, high])
        }
        None => None,
    };
    let pin = match map.optional("pin") {
        Some(node) => pin(node, &sources)?,
        None => Pin::default(),
    };
    let max_node = map.required("max_layers")?;
    let max_layers = max_node.usize()?;
    let pinned = pin.first.iter().chain(&pin.last).count();
    if max_layers < pinned.max(1) {
        return Err(max_node.error(match pinned {
            0 => "a child needs at least 1 layer".to_string(),
            n => format!("{n} of its layers always run ('pin'), so a child has at least as many"),
        }));
    }
    map.finish()?;
    Ok(DataFlowSpace {
        sources,
        repeats,
        max_layers,
        scales,
        pin,
    })
}

fn pin(node: &Node, sources: &[String]) -> Result<Pin, yaml::Error> {
    let map = node.map()?;
    let known: Vec<&str> = sources.iter().map(String::as_str).collect();
    let end = |key: &str| -> Result<Option<String>, yaml::Error> {
        let source = map.optional(key).map(|node| node.one_of(&known)).transpose()?;
        Ok(source.map(|i| sources[i].clone()))
    };
    let pin = Pin {
        first: end("first")?,
        last: end("last")?,
    };
    map.finish()?;
    Ok(pin)
}

fn fitness_is_a_commands(map: &Map<'_>) -> bool {
    let fitness = map.optional("fitness").and_then(|fitness| fitness.map().ok());
    fitness.is_some_and(|fitness| fitness.optional("command").is_some())
}

/// A space of bare genes: numbers that a command scores, and no model.
fn bare(map: &Map<'_>, name: String, genes_node: &Node) -> Result<Space, yaml::Error> {
    for key in [
        "models",
        "base",
        "tokenizer",
        "vision",
        "parameter_space",
        "data_flow_space",
        "hybrid",
    ] {
        if let Some(node) = map.optional(key) {
            return Err(node.error(format!(
                "bare genes and {key} do not go together: with models, genes stand under parameter_space"
            )));
        }
    }
    let mut genes = Vec::new();
    for (name, node) in genes_node.map()?.entries() {
        genes.push((name.clone(), bare_gene(node)?));
    }
    if genes.is_empty() {
        return Err(genes_node.error("nothing is searched: give at least one gene, such as x: [-5, 5]"));
    }
    let fitness_node = map.required("fitness")?;
    let fitness = fitness(fitness_node)?;
    match &fitness.command {
        None => return Err(fitness_node.error("bare genes have no model to ask; give a 'command' that scores them")),
        Some(command) if command.materialize || command.serve => {
            return Err(fitness_node.error(
                "bare genes have no model that could be written or served; leave 'materialize' and 'serve' out",
            ));
        }
        Some(_) => {}
    }
    let search = search(map.optional("search"), &fitness, First::Numbers)?;
    let finale = finale(map.optional("final"), &fitness)?;
    map.finish()?;
    Ok(Space {
        name,
        models: Vec::new(),
        base: None,
        tokenizer: String::new(),
        vision: None,
        parameter_space: None,
        data_flow_space: None,
        hybrid: None,
        genes,
        fitness,
        search,
        finale,
        places: Places::default(),
        given: Vec::new(),
    })
}

fn bare_gene(node: &Node) -> Result<BareGene, yaml::Error> {
    if matches!(node.value, Value::List(_)) {
        let (low, high) = node.range()?;
        return Ok(BareGene::Real([low, high]));
    }
    let map = node.map()?;
    let gene = match (map.optional("int"), map.optional("choice")) {
        (Some(int), None) => BareGene::Int { int: int_range(int)? },
        (None, Some(choice)) => {
            let words = choice.list()?.iter().map(Node::text).collect::<Result<Vec<_>, _>>()?;
            if words.len() < 2 {
                return Err(choice.error("a choice needs at least two things to choose from"));
            }
            BareGene::Choice { choice: words }
        }
        _ => {
            return Err(node.error("a gene is [low, high], {int: [low, high]} or {choice: [a, b]}"));
        }
    };
    map.finish()?;
    Ok(gene)
}

fn models(node: &Node) -> Result<Vec<(String, String)>, yaml::Error> {
    let mut models: Vec<(String, String)> = Vec::new();
    for (name, model) in node.map()?.entries() {
        if name.is_empty() || name.contains(['/', ' ', '.']) {
            return Err(model.error(format!(
                "'{name}' cannot be a short name: use letters, digits, '-' and '_'"
            )));
        }
        models.push((name.clone(), model.str()?.to_string()));
    }
    if models.len() < 2 {
        return Err(node.error("a search needs at least two models"));
    }
    Ok(models)
}

fn model_name(node: &Node, models: &[(String, String)]) -> Result<String, yaml::Error> {
    let names: Vec<&str> = models.iter().map(|(name, _)| name.as_str()).collect();
    Ok(names[node.one_of(&names)?].to_string())
}

fn parameter_space(node: &Node, base: &Option<String>) -> Result<ParameterSpace, yaml::Error> {
    let map = node.map()?;
    let method_node = map.required("method")?;
    let names: Vec<&str> = known_methods().iter().map(|m| m.name).collect();
    let mut methods: Vec<Method> = Vec::new();
    for item in method_node.one_or_more() {
        let info = &known_methods()[item.one_of(&names)?];
        if info.base == BaseRule::Required && base.is_none() && info.method != Method::Slerp {
            return Err(item.error(format!(
                "{} works on differences from a base; name it with the key 'base'",
                info.name
            )));
        }
        if info.method == Method::Passthrough {
            return Err(item.error("passthrough has nothing to mix; it belongs in a recipe"));
        }
        let measured = match info.method {
            Method::Fisher => Some("Fisher information"),
            Method::Regmean => Some("Gram matrices"),
            _ => None,
        };
        if let Some(what) = measured {
            return Err(item.error(format!(
                "{} reads {what} of each model, which a space has no word for; it belongs in a recipe",
                info.name
            )));
        }
        if methods.contains(&info.method) {
            return Err(item.error(format!("{} stands here twice", info.name)));
        }
        methods.push(info.method);
    }
    if methods.is_empty() {
        return Err(method_node.error("name at least one method"));
    }
    let layer_groups = match map.optional("layer_groups") {
        Some(node) => layer_groups(node)?,
        None => LayerGroups::Count(1),
    };
    let modules = match map.optional("modules") {
        Some(node) => modules(node)?,
        None => Vec::new(),
    };
    let expert_groups = match map.optional("expert_groups") {
        None => 1,
        Some(node) => match node.usize()? {
            0 => return Err(node.error("at least one group of experts is needed")),
            n if n > 1 && !modules.contains(&Module::Experts) => {
                return Err(node.error("experts are told apart where 'experts' is among the modules"));
            }
            n => n,
        },
    };
    let genes_node = map.required("genes")?;
    let mut genes = Vec::new();
    for (name, node) in genes_node.map()?.entries() {
        genes.push((name.clone(), gene(name, node, &methods)?));
    }
    if !genes.iter().any(|(_, g)| matches!(g, Gene::Searched { .. })) && methods.len() < 2 {
        return Err(genes_node.error("nothing is searched: give at least one gene a range, such as weight: [0.0, 1.5]"));
    }
    map.finish()?;
    Ok(ParameterSpace {
        method: methods,
        layer_groups,
        modules,
        expert_groups,
        genes,
    })
}

fn layer_groups(node: &Node) -> Result<LayerGroups, yaml::Error> {
    let Value::List(items) = &node.value else {
        let n = node.usize()?;
        return if n == 0 {
            Err(node.error("at least one layer group is needed"))
        } else {
            Ok(LayerGroups::Count(n))
        };
    };
    let mut ranges = Vec::new();
    for item in items {
        let [start, end] = item.list()? else {
            return Err(item.error("a range of layers has two numbers, [first, one past the last]"));
        };
        let (start, end) = (start.usize()?, end.usize()?);
        if start >= end {
            return Err(item.error(format!("the range [{start}, {end}] is upside down or empty")));
        }
        ranges.push([start, end]);
    }
    Ok(LayerGroups::Ranges(ranges))
}

fn modules(node: &Node) -> Result<Vec<Module>, yaml::Error> {
    let mut modules = Vec::new();
    for item in node.list()? {
        let module = Module::ALL[item.one_of(&Module::ALL.map(Module::name))?];
        if modules.contains(&module) {
            return Err(item.error("this module stands here twice"));
        }
        modules.push(module);
    }
    let may_be_missing = |module| match module {
        Module::Mixer | Module::Router | Module::Experts | Module::Shared => true,
        // All layers of many mixtures are made of experts.
        Module::Mlp => modules.contains(&Module::Experts),
        Module::Attn | Module::Other => false,
    };
    let missing: Vec<&str> = Module::ALL
        .into_iter()
        .filter(|module| !modules.contains(module) && !may_be_missing(*module))
        .map(Module::name)
        .collect();
    if !missing.is_empty() {
        return Err(node.error(format!(
            "every tensor needs a module: {} is missing ('other' = embeddings, norms, head); or leave 'modules' out, and one set of genes serves all",
            missing.join(", ")
        )));
    }
    Ok(Module::ALL.into_iter().filter(|m| modules.contains(m)).collect())
}

fn gene(name: &str, node: &Node, methods: &[Method]) -> Result<Gene, yaml::Error> {
    let infos: Vec<&ParameterInfo> = methods
        .iter()
        .filter_map(|m| m.info().parameters.iter().find(|p| p.name == name))
        .collect();
    let Some(info) = infos.first() else {
        let known: Vec<&str> = methods
            .iter()
            .flat_map(|m| m.info().parameters.iter().map(|p| p.name))
            .collect();
        return Err(node.error(format!(
            "{} has no parameter '{name}'{}; known here: {}",
            methods.iter().map(|m| m.info().name).collect::<Vec<_>>().join(", "),
            yaml::did_you_mean(name, &known),
            known.join(", ")
        )));
    };
    let default_axes = match info.scope {
        // A number of layers means something for the whole stack only.
        Scope::Shared if matches!(info.kind, Kind::Integer { .. }) => vec![],
        Scope::Shared => vec![Axis::Group, Axis::Module],
        Scope::Model | Scope::TaskVector => vec![Axis::Model, Axis::Group, Axis::Module],
    };
    let (range, per) = match &node.value {
        Value::List(_) => (Range::Real(real_range(node, info)?), default_axes),
        Value::Map(_) => {
            let map = node.map()?;
            let range = match (map.optional("range"), map.optional("int")) {
                (Some(range), None) => Range::Real(real_range(range, info)?),
                (None, Some(int)) => Range::Int(int_range(int)?),
                _ => return Err(node.error("a gene has either 'range: [low, high]' or 'int: [low, high]'")),
            };
            let per = match map.optional("per") {
                Some(per) => axes(per, info.scope)?,
                None => default_axes,
            };
            map.finish()?;
            (range, per)
        }
        Value::Bool(b) => return Ok(Gene::Fixed(ParamValue::Bool(*b))),
        Value::Str(s) => return Ok(Gene::Fixed(ParamValue::Text(s.clone()))),
        _ => return Ok(Gene::Fixed(ParamValue::Number(node.f64()?))),
    };
    Ok(Gene::Searched { range, per })
}

fn real_range(node: &Node, info: &ParameterInfo) -> Result<[f64; 2], yaml::Error> {
    let (low, high) = node.range()?;
    let (least, most, open_low) = match info.kind {
        Kind::Number { low, high, open_low } => (low, high, open_low),
        Kind::Integer { .. } => {
            return Err(node.error(format!("'{}' is a whole number; write int: [low, high]", info.name)));
        }
        Kind::Switch | Kind::Choice(_) => {
            return Err(node.error(format!(
                "'{}' is no number and has no range; write its value",
                info.name
            )));
        }
    };
    if low < least || high > most || (open_low && low == least) {
        let above = if open_low { "above " } else { "" };
        return Err(node.error(format!(
            "the range [{low}, {high}] leaves what '{}' can be: {above}{least} to {most}",
            info.name
        )));
    }
    Ok([low, high])
}

fn int_range(node: &Node) -> Result<[i64; 2], yaml::Error> {
    match node.list()? {
        [low, high] => {
            let (low, high) = (low.i64()?, high.i64()?);
            if low < high {
                Ok([low, high])
            } else {
                Err(node.error(format!("the range [{low}, {high}] is upside down or empty")))
            }
        }
        _ => Err(node.error("a range has two numbers, [low, high]")),
    }
}

fn axes(node: &Node, scope: Scope) -> Result<Vec<Axis>, yaml::Error> {
    const AXES: [&str; 5] = ["recipe", "model", "group", "module", "tensor"];
    let mut axes = Vec::new();
    for item in node.one_or_more() {
        let axis = match item.one_of(&AXES)? {
            0 => continue,
            1 if scope == Scope::Shared => {
                return Err(item.error("this parameter belongs to the recipe, not to a model"));
            }
            1 => Axis::Model,
            2 => Axis::Group,
            3 => Axis::Module,
            _ => Axis::Tensor,
        };
        if !axes.contains(&axis) {
            axes.push(axis);
        }
    }
    if axes.contains(&Axis::Tensor) && (axes.contains(&Axis::Group) || axes.contains(&Axis::Module)) {
        return Err(node.error("a tensor belongs to one group and one module already; write 'per: [model, tensor]'"));
    }
    Ok(axes)
}

fn fitness(node: &Node) -> Result<Fitness, yaml::Error> {
    let map = node.map()?;
    let mut tasks = Vec::new();
    let command = command(&map)?;
    let tasks_node = match &command {
        Some(_) => map.optional("tasks"),
        None => Some(map.required("tasks")?),
    };
    match (tasks_node, &command) {
        (Some(node), Some(_)) => {
            return Err(node.error("either tasks or a command scores candidates; leave one of them out"));
        }
        (Some(node), None) => {
            for item in node.list()? {
                tasks.push(task(item, "search")?);
            }
            if tasks.is_empty() {
                return Err(node.error("name at least one task"));
            }
        }
        (None, _) => {}
    }
    let engine = engine(&map, command.is_some())?;
    let mut weights = Vec::new();
    if let Some(node) = map.optional("weights") {
        if command.is_none() {
            return Err(node.error("'weights' is for the scores of a command; a task has its own 'weight'"));
        }
        for (name, weight) in node.map()?.entries() {
            weights.push((name.clone(), weight.f64()?));
        }
        if weights.is_empty() {
            return Err(node.error("it names no score; write {NAME: 1}, or leave 'weights' out"));
        }
        if weights.iter().all(|(_, weight)| *weight == 0.0) {
            return Err(
                node.error("every weight is 0, so nothing is maximised; give at least one score another weight")
            );
        }
    }
    let tokens = match map.optional("tokens") {
        Some(node) if command.is_some() => {
            return Err(node.error("what a command's candidates write is not counted here; let it give a score of it"));
        }
        Some(node) => node.bool()?,
        None => false,
    };
    let objectives = match map.optional("objectives") {
        Some(node) if node.one_of(&["scalar", "pareto"])? == 1 => {
            if tasks.len() == 1 && !tokens {
                return Err(node.error(
                    "'pareto' needs two tasks or more, or 'tokens: true', the length of answers as an objective",
                ));
            }
            let keeps_its_questions = command.as_ref().is_some_and(|command| command.questions.is_none());
            if keeps_its_questions && weights.iter().filter(|(_, weight)| *weight != 0.0).count() < 2 {
                return Err(node.error(
                    "'pareto' with a command needs to know two of its scores or more: weights: {NAME: 1, NAME: -1}; a \
                     negative weight means that less is better, and 0 that a score is only shown",
                ));
            }
            Objectives::Pareto
        }
        _ => Objectives::Scalar,
    };
    let scale = match map.optional("scale") {
        Some(node) if node.one_of(&["none", "standard_error"])? == 1 => {
            if command.is_some() {
                return Err(
                    node.error("a command's scores have no standard error; scale them in the command, or by 'weights'")
                );
            }
            Scale::StandardError
        }
        _ => Scale::None,
    };
    let guard = match map.optional("guard") {
        Some(node) => {
            let map = node.map()?;
            let ratio = map.required("perplexity_ratio")?;
            map.finish()?;
            let perplexity_ratio = ratio.f64()?;
            if perplexity_ratio < 1.0 {
                return Err(ratio.error("below 1 even the worst parent would be turned away; write 1 or more"));
            }
            Some(Guard { perplexity_ratio })
        }
        None => None,
    };
    let asks = |key| match (map.optional(key), &command) {
        (Some(node), Some(_)) => Err(node.error("a command asks its questions itself")),
        (node, _) => Ok(node),
    };
    asks("chat_template")?;
    let system = asks("system")?.map(Node::text).transpose()?;
    let chat_template = chat_template(&map)?;
    let think = asks("think")?.map(Think::read).transpose()?.flatten();
    asks("chat_template_kwargs")?;
    let chat_template_kwargs = variables(&map)?.unwrap_or_default();
    if let Some(node) = map
        .optional("tokens")
        .filter(|_| tokens && objectives != Objectives::Pareto)
    {
        return Err(node.error("the length of answers is an objective beside others: write 'objectives: pareto' too"));
    }
    map.finish()?;
    Ok(Fitness {
        tasks,
        engine,
        command,
        weights,
        objectives,
        tokens,
        scale,
        guard,
        chat_template,
        system,
        chat_template_kwargs,
        think,
    })
}

/// The keys `command`, `questions`, `materialize`, `serve`, `timeout`, `patience` and `workers`.
fn command(map: &Map<'_>) -> Result<Option<Command>, yaml::Error> {
    let (materialize, timeout) = (map.optional("materialize"), map.optional("timeout"));
    let (workers, questions) = (map.optional("workers"), map.optional("questions"));
    let (serve, patience) = (map.optional("serve"), map.optional("patience"));
    let Some(node) = map.optional("command") else {
        return match materialize.or(serve).or(timeout).or(patience).or(workers).or(questions) {
            Some(node) => Err(node.error("this belongs to a 'command'")),
            None => Ok(None),
        };
    };
    let command = program(node, "score.py")?;
    let timeout = seconds(timeout, TIMEOUT)?;
    let materialize = materialize.map_or(Ok(false), Node::bool)?;
    let is_served = serve.map_or(Ok(false), Node::bool)?;
    if let Some(node) = serve.filter(|_| materialize && is_served) {
        return Err(node.error(
            "'materialize' writes the model into a directory, 'serve' has it answer at an address: choose one",
        ));
    }
    Ok(Some(Command {
        command,
        questions: questions.map(Node::text).transpose()?,
        materialize,
        serve: is_served,
        timeout,
        patience: seconds(patience, PATIENCE_S)?,
        workers: copies(workers)?,
    }))
}

/// Copies of a program; one where nothing is said.
fn copies(node: Option<&Node>) -> Result<usize, yaml::Error> {
    let Some(node) = node else { return Ok(1) };
    match node.usize()? {
        n @ 1..=MOST_WORKERS => Ok(n),
        n => Err(node.error(format!("{n} is not between 1 and {MOST_WORKERS}"))),
    }
}

/// A program and its arguments.
fn program(node: &Node, example: &str) -> Result<Vec<String>, yaml::Error> {
    let words = node.one_or_more();
    let command = words.iter().map(|w| w.text()).collect::<Result<Vec<_>, _>>()?;
    match command.is_empty() {
        true => Err(node.error(format!(
            "name a program and its arguments: command: [python, {example}]"
        ))),
        false => Ok(command),
    }
}

fn seconds(node: Option<&Node>, usual: f64) -> Result<f64, yaml::Error> {
    let Some(node) = node else { return Ok(usual) };
    match node.f64()? {
        seconds if seconds > 0.0 && seconds <= MOST_SECONDS => Ok(seconds),
        _ => Err(node.error(format!(
            "this is a number of seconds above 0, and at most {MOST_SECONDS} (a year)"
        ))),
    }
}

/// The key `engine`: a program that decodes.
fn engine(map: &Map<'_>, has_command: bool) -> Result<Option<EngineCommand>, yaml::Error> {
    let Some(node) = map.optional("engine") else {
        return Ok(None);
    };
    if has_command {
        return Err(
            node.error("an engine answers tasks, and a command scores candidates by itself; leave one of them out")
        );
    }
    let map = node.map()?;
    let word = |node: &Node| Ok(DType::ALL[node.one_of(&DType::ALL.map(DType::name))?]);
    let engine = EngineCommand {
        command: program(map.required("command")?, "engines/vllm_engine.py")?,
        timeout: seconds(map.optional("timeout"), SILENCE)?,
        patience: seconds(map.optional("patience"), PATIENCE_S)?,
        dtype: map.optional("dtype").map(word).transpose()?,
        workers: copies(map.optional("workers"))?,
    };
    map.finish()?;
    Ok(Some(engine))
}

fn task(node: &Node, split: &str) -> Result<TaskRef, yaml::Error> {
    if matches!(node.value, Value::Str(_)) {
        return Ok(TaskRef::named(node.text()?, split));
    }
    let map = node.map()?;
    let weight = match map.optional("weight") {
        Some(node) => match node.f64()? {
            w if w > 0.0 => w,
            _ => return Err(node.error("a task's weight must be above 0")),
        },
        None => 1.0,
    };
    let task = TaskRef {
        task: map.required("task")?.text()?,
        lang: map.optional("lang").map(Node::text).transpose()?,
        weight,
        split: map.optional("split").map_or(Ok(split.into()), Node::text)?,
        limit: limit(&map)?,
        shots: map.optional("shots").map(Node::usize).transpose()?,
        profile: match map.optional("profile") {
            Some(node) => Some(["fitness", "parity"][node.one_of(&["fitness", "parity"])?].to_string()),
            None => None,
        },
        max_new_tokens: match map.optional("max_new_tokens") {
            Some(node) => match node.usize()? {
                0 => return Err(node.error("answers of no tokens cannot be right")),
                n => Some(n),
            },
            None => None,
        },
        chat_template: chat_template(&map)?,
        system: map.optional("system").map(Node::text).transpose()?,
        chat_template_kwargs: variables(&map)?,
        samples: Samples::read(&map)?,
        score: map.optional("score").map(Node::text).transpose()?,
        think: map.optional("think").map(Think::read).transpose()?.flatten(),
    };
    map.finish()?;
    Ok(task)
}

fn chat_template(map: &Map<'_>) -> Result<Option<ChatTemplate>, yaml::Error> {
    let word = |node: &Node| Ok(ChatTemplate::ALL[node.one_of(&ChatTemplate::WORDS)?]);
    map.optional("chat_template").map(word).transpose()
}

/// What a chat template is told: names and scalars.
fn variables(map: &Map<'_>) -> Result<Option<serde_json::Map<String, serde_json::Value>>, yaml::Error> {
    let Some(node) = map.optional("chat_template_kwargs") else {
        return Ok(None);
    };
    let variable = |(name, node): &(String, Node)| {
        let value = match &node.value {
            Value::Bool(b) => (*b).into(),
            Value::Int(i) => serde_json::Number::from_i128(*i).into(),
            Value::Float(x) => (*x).into(),
            Value::Str(text) => text.as_str().into(),
            _ => return Err(node.error("a word, a number, true or false is expected here")),
        };
        Ok((name.clone(), value))
    };
    node.map()?
        .entries()
        .iter()
        .map(variable)
        .collect::<Result<_, _>>()
        .map(Some)
}

/// A number, or `all`.
fn final_limit(map: &Map<'_>) -> Result<Option<Limit>, yaml::Error> {
    match map.optional("limit") {
        Some(node) if matches!(&node.value, Value::Str(word) if word == "all") => Ok(Some(Limit::All)),
        _ => Ok(limit(map)?.map(Limit::Most)),
    }
}

fn limit(map: &Map<'_>) -> Result<Option<usize>, yaml::Error> {
    let Some(node) = map.optional("limit") else {
        return Ok(None);
    };
    match node.usize()? {
        0 => Err(node.error("a limit of 0 leaves no questions")),
        n => Ok(Some(n)),
    }
}

/// What the genes of the first search are.
#[derive(Clone, Copy, PartialEq)]
enum First {
    /// Of a merge's parameters alone.
    Weights,
    /// Among them those that say whether a layer runs.
    Paths,
    /// Bare.
    Numbers,
}

fn search(node: Option<&Node>, fitness: &Fitness, first: First) -> Result<Search, yaml::Error> {
    let has_paths = first == First::Paths;
    let mut search = Search {
        optimizer: match (fitness.is_pareto(), has_paths) {
            (true, _) => Optimizer::Nsga2,
            (false, true) => Optimizer::CmaEsMargin,
            (false, false) => Optimizer::CmaEs,
        },
        population: None,
        evals: 400,
        racing: None,
        learn: None,
        warm_start: Vec::new(),
        guide: None,
        mating: None,
        widening: false,
        greedy_soup: true,
        asynchronous: false,
        mixed_workers: false,
        seed: 0,
    };
    let Some(node) = node else { return Ok(search) };
    let map = node.map()?;
    if let Some(node) = map.optional("optimizer") {
        search.optimizer = Optimizer::ALL[node.one_of(&Optimizer::ALL.map(Optimizer::name))?];
        if (search.optimizer == Optimizer::Nsga2) != fitness.is_pareto() {
            return Err(node.error("nsga2 and 'objectives: pareto' go together: one needs the other"));
        }
        if has_paths && search.optimizer == Optimizer::CmaEs {
            return Err(node.error(
                "cma-es moves real numbers only, and a layer runs or it does not; write cma-es-margin or genetic",
            ));
        }
    }
    if let Some(node) = map.optional("population")
        && !matches!(&node.value, Value::Str(s) if s == "auto")
    {
        match node.usize()? {
            n @ 2..=MOST_CANDIDATES => search.population = Some(n),
            _ => {
                return Err(node.error(format!(
                    "a population has 2 to {MOST_CANDIDATES} candidates; write a number or auto"
                )));
            }
        }
    }
    if let Some(node) = map.optional("evals") {
        match node.u64()? {
            n @ 1..=MOST_EVALS => search.evals = n,
            _ => return Err(node.error(format!("a search has 1 to {MOST_EVALS} evaluations"))),
        }
    }
    if let Some(node) = map.optional("racing") {
        search.racing = racing(node)?;
        if search.racing.is_some() && fitness.keeps_its_questions() {
            return Err(node.error(
                "a command chooses its own questions, so there is nothing to race over, unless 'fitness.questions' names them",
            ));
        }
    }
    if let Some(node) = map.optional("learn") {
        search.learn = learning(node, fitness, first)?;
    }
    if let Some(node) = map.optional("warm_start") {
        for item in node.list()? {
            let word = item.text()?;
            let is_file = word.ends_with(".yaml") || word.ends_with(".yml");
            if !is_file {
                item.one_of(&WARM_STARTS)?;
            }
            search.warm_start.push(word);
        }
    }
    if let Some(node) = map.optional("guide") {
        search.guide = Some(guide(node)?);
    }
    if search.optimizer == Optimizer::Evollm && search.guide.is_none() {
        return Err(map.node().error(
            "evollm asks a language model for the next mean; write which one: 'guide: {model: MODEL}', or 'guide: {endpoint: \
             http://…/v1, model: NAME}'",
        ));
    }
    if let Some(node) = map.optional("mating") {
        search.mating = mating(node)?;
        if search.mating.is_some() && search.optimizer != Optimizer::Genetic {
            return Err(
                node.error("only the genetic algorithm mates; write 'optimizer: genetic', or leave 'mating' out")
            );
        }
        if search.mating.is_some() && fitness.keeps_its_questions() && fitness.weights.len() < 2 {
            return Err(node.error(
                "attraction goes by what each candidate gets right, and a command keeps its questions to itself: name \
                 two of its scores or more, fitness.weights: {NAME: 1, NAME: 1}, or write 'mating: tournament'",
            ));
        }
    }
    if let Some(node) = map.optional("widening") {
        search.widening = node.bool()?;
        if search.widening && first != First::Weights {
            return Err(node.error(
                "widening tells apart what a parameter space mixes layer by layer; it goes with a parameter_space alone or \
                 with 'hybrid: ps_then_dfs'",
            ));
        }
        if search.widening && !matches!(search.optimizer, Optimizer::CmaEs | Optimizer::CmaEsMargin) {
            return Err(node.error(
                "widening hands a distribution on from stage to stage, and this optimizer has none; write cma-es or \
                 cma-es-margin, or leave 'widening' out",
            ));
        }
    }
    if let Some(node) = map.optional("greedy_soup") {
        search.greedy_soup = node.bool()?;
    }
    if let Some(node) = map.optional("asynchronous") {
        search.asynchronous = node.bool()?;
        let workers = fitness.command.as_ref().map(|command| command.workers);
        if search.asynchronous && workers.is_some_and(|workers| workers < 2) {
            return Err(node.error("answers arrive in their order unless a command has two 'workers' or more"));
        }
    }
    if let Some(node) = map.optional("mixed_workers") {
        search.mixed_workers = node.bool()?;
        if search.mixed_workers && fitness.program().is_some() {
            return Err(node.error(
                "a command's workers are copies of it on this machine, and an engine is asked by this process alone; leave \
                 'mixed_workers' out",
            ));
        }
    }
    if let Some(node) = map.optional("seed") {
        search.seed = node.u64()?;
    }
    map.finish()?;
    Ok(search)
}

/// `{model: MODEL}`, or `{endpoint: URL, model: NAME, key: VARIABLE}`.
fn guide(node: &Node) -> Result<Guide, yaml::Error> {
    let map = node.map()?;
    let mut guide = Guide {
        model: map.required("model")?.text()?,
        endpoint: None,
        key: None,
        every: 1,
        tokens: 1024,
    };
    if let Some(node) = map.optional("endpoint") {
        let url = node.str()?.trim_end_matches('/');
        let host = url.strip_prefix("http://").or(url.strip_prefix("https://"));
        if host.is_none_or(|host| host.is_empty() || host.contains(['@', '?', '#', ' '])) {
            return Err(node.error(
                "an OpenAI-compatible address is written as http://HOST:PORT/v1 or https://HOST/v1; a key stands in a variable of the \
                 environment, whose name is 'key'",
            ));
        }
        guide.endpoint = Some(url.into());
    }
    if let Some(node) = map.optional("key") {
        let name = node.str()?;
        if guide.endpoint.is_none() {
            return Err(node.error("a model of this machine needs no key; leave 'key' out"));
        }
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            return Err(node.error(
                "this is the name of the environment's variable that holds the key, such as OPENAI_API_KEY, not the key itself: a run \
                 keeps its search space",
            ));
        }
        guide.key = Some(name.into());
    }
    if let Some(node) = map.optional("every") {
        guide.every = node.u64()?;
        if guide.every == 0 {
            return Err(node.error("a proposal comes after every generation (1) or more of them"));
        }
    }
    if let Some(node) = map.optional("tokens") {
        guide.tokens = node.usize()?;
        if guide.tokens == 0 {
            return Err(node.error("a reply has at least one token"));
        }
    }
    map.finish()?;
    Ok(guide)
}

/// `tournament`, `attraction`, or `{attraction: ALPHA}`.
fn mating(node: &Node) -> Result<Option<Mating>, yaml::Error> {
    if !matches!(node.value, Value::Map(_)) {
        let is_attraction = node.one_of(&["tournament", "attraction"])? == 1;
        return Ok(is_attraction.then_some(Mating { attraction: 1.0 }));
    }
    let map = node.map()?;
    let alpha = map.required("attraction")?;
    map.finish()?;
    match alpha.f64()? {
        attraction if attraction.is_finite() && attraction >= 0.0 => Ok(Some(Mating { attraction })),
        _ => Err(alpha.error("competition for questions is a number from 0, none, upwards; 1 shares them evenly")),
    }
}

/// `true`, `false`, or the questions on each rung.
/// `auto` learns where it can; what is written out in full must be possible.
fn learning(node: &Node, fitness: &Fitness, first: First) -> Result<Option<Learning>, yaml::Error> {
    let can = fitness.command.is_none() && first != First::Numbers;
    if !matches!(node.value, Value::Map(_)) {
        let wants = match node.value {
            Value::Bool(on) => on,
            _ => node.one_of(&["auto", "off"])? == 0,
        };
        return Ok((wants && can).then(Learning::default));
    }
    if !can {
        return Err(node.error(
            "learning moves weights and scales along the gradient of the tasks' right answers; a command keeps its answers to \
             itself. Leave 'learn' out",
        ));
    }
    let map = node.map()?;
    let mut learning = Learning::default();
    for (key, place) in [
        ("steps", &mut learning.steps),
        ("batch", &mut learning.batch),
        ("questions", &mut learning.questions),
        ("rounds", &mut learning.rounds),
    ] {
        if let Some(node) = map.optional(key) {
            *place = node.usize()?;
            if *place == 0 {
                return Err(node.error(format!("'{key}' is at least 1; write 'learn: off' to learn nothing")));
            }
        }
    }
    if let Some(node) = map.optional("teachers") {
        let known = [
            Teachers::Auto,
            Teachers::Solutions,
            Teachers::Answers,
            Teachers::Best,
            Teachers::Vote,
            Teachers::Distil,
        ];
        learning.teachers = known[node.one_of(&["auto", "solutions", "answers", "best", "vote", "distil"])?];
    }
    if let Some(node) = map.optional("wrong") {
        learning.wrong = node.f64()?;
        if !(0.0..=1.0).contains(&learning.wrong) {
            return Err(node.error("wrong answers count 0, not at all, to 1, as much as right ones"));
        }
    }
    if let Some(node) = map.optional("after") {
        learning.after = node.bool()?;
    }
    map.finish()?;
    Ok(Some(learning))
}

fn racing(node: &Node) -> Result<Option<Racing>, yaml::Error> {
    if !matches!(node.value, Value::Map(_)) {
        return Ok(node.bool()?.then(Racing::default));
    }
    let map = node.map()?;
    let list = map.required("rungs")?;
    let rungs = list.list()?.iter().map(Node::usize).collect::<Result<Vec<_>, _>>()?;
    if !(1..=MOST_RUNGS).contains(&rungs.len()) || rungs[0] == 0 || !rungs.is_sorted_by(|a, b| a < b) {
        return Err(list.error(format!(
            "rungs are numbers of questions that grow, at most {MOST_RUNGS} of them, such as [24, 48, 96]"
        )));
    }
    map.finish()?;
    Ok(Some(Racing { rungs }))
}

fn finale(node: Option<&Node>, fitness: &Fitness) -> Result<Finale, yaml::Error> {
    let split = |split: &str| SplitRef {
        split: split.into(),
        limit: None,
    };
    let mut finale = Finale {
        finalists: 8,
        selection: split("selection"),
        test: split("test"),
        held_out: Vec::new(),
        allow_overlap: false,
    };
    let Some(node) = node else { return Ok(finale) };
    let map = node.map()?;
    if let Some(node) = map.optional("finalists") {
        match node.usize()? {
            0 => return Err(node.error("at least one finalist is needed")),
            n => finale.finalists = n,
        }
    }
    for (key, split) in [("selection", &mut finale.selection), ("test", &mut finale.test)] {
        if let Some(node) = map.optional(key) {
            let map = node.map()?;
            if let Some(node) = map.optional("split") {
                split.split = node.text()?;
            }
            split.limit = final_limit(&map)?;
            map.finish()?;
        }
    }
    if let Some(node) = map.optional("allow_overlap") {
        finale.allow_overlap = node.bool()?;
    }
    if let Some(node) = map.optional("held_out") {
        if fitness.command.is_some() {
            return Err(node.error("a command asks its own questions; held-out tasks go with fitness.tasks"));
        }
        for item in node.list()? {
            finale.held_out.push(held_out(item, fitness)?);
        }
    }
    map.finish()?;
    Ok(finale)
}

/// A task that the search never asks, from its test split unless the file says otherwise.
fn held_out(node: &Node, fitness: &Fitness) -> Result<TaskRef, yaml::Error> {
    if let Ok(map) = node.map()
        && let Some(weight) = map.optional("weight")
    {
        return Err(weight.error("nothing is chosen by a held-out task, so it has no weight"));
    }
    let task = task(node, "test")?;
    if fitness
        .tasks
        .iter()
        .any(|t| (&t.task, &t.lang) == (&task.task, &task.lang))
    {
        return Err(node.error(format!(
            "'{}' is a task of the fitness; a held-out task is one that the search never asks",
            task.task
        )));
    }
    Ok(task)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn how_answers_are_drawn_thought_and_counted() {
        let text = |fitness: &str| {
            format!(
                "name: t\nmodels: {{base: b, x: m, y: n}}\nbase: base\nparameter_space: {{method: ties, genes: {{weight: [0, 1]}}}}\n\
                 fitness:\n  {fitness}\n"
            )
        };
        let read = |fitness: &str| Space::parse(Path::new("t.yaml"), &text(fitness));
        let space = read(
            "objectives: pareto\n  tokens: true\n  think: true\n  chat_template_kwargs: {enable_thinking: false, depth: 2}\n  \
             tasks: [{task: gsm8k, samples: 4, sampling: {temperature: 1, seed: 9}, score: pass@2, think: {open: A, close: B, budget: 7}}]",
        )
        .unwrap();
        let fitness = &space.fitness;
        assert!(fitness.tokens && fitness.think.as_ref().unwrap().close == "</think>");
        assert_eq!(fitness.chat_template_kwargs["depth"], 2);
        let task = &fitness.tasks[0];
        let samples = task.samples.unwrap();
        assert_eq!(
            (samples.n, samples.temperature, samples.seed, task.score.as_deref()),
            (4, 1.0, 9, Some("pass@2"))
        );
        assert_eq!(task.think.as_ref().unwrap().budget, Some(7));
        for (fitness, expected) in [
            ("tokens: true\n  tasks: [gsm8k]", "objectives: pareto"),
            ("objectives: pareto\n  tasks: [gsm8k]", "tokens: true"),
            (
                "tasks: [{task: gsm8k, sampling: {top_p: 0.5}}]",
                "goes with 'samples: N'",
            ),
            (
                "tasks: [{task: gsm8k, samples: 4, sampling: {temperature: 0}}]",
                "all 4 samples are the same",
            ),
            ("tasks: [{task: gsm8k, samples: 0}]", "between 1 and"),
            ("chat_template_kwargs: {a: [1]}\n  tasks: [gsm8k]", "a word, a number"),
            ("think: {budget: 0}\n  tasks: [gsm8k]", "1 or more"),
        ] {
            let message = read(fitness).unwrap_err().to_string();
            assert!(message.contains(expected), "{fitness}: {message}");
        }
    }

    const GOOD: &str = "
name: t
models:
  base: b
  maths: m
  spanish: s
base: base
parameter_space:
  method: ties
  genes:
    weight: [0.0, 1.5]
fitness:
  tasks:
    - {task: gsm8k, weight: 0.5, limit: 100}
search:
  evals: 20
";

    fn error(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from));
        Space::parse(Path::new("s.yaml"), &GOOD.replace(from, to))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn defaults_are_filled_in_and_read_back() {
        let space = Space::parse(Path::new("s.yaml"), GOOD).unwrap();
        assert_eq!((space.tokenizer.as_str(), space.finale.finalists), ("base", 8));
        let text = space.to_yaml();
        assert_eq!(Space::parse(Path::new("s.yaml"), &text).unwrap(), space, "{text}");
    }

    /// A run reads the space that it wrote itself whenever it is resumed or exported: one whose task drew several samples, or
    /// whose seed was 2^63 or more, was searched to its end and could never be opened again.
    #[test]
    fn every_key_is_read_back() {
        const WEIGHTS: &str = r#"
name: t
models: {base: b, 'no': m, '7': s}
base: base
tokenizer: 'no'
vision: '7'
hybrid: ps_then_dfs
parameter_space:
  method: [dare_ties, breadcrumbs]
  layer_groups: [[0, 2], [2, 8]]
  modules: [attn, experts, other]
  expert_groups: 3
  genes:
    weight: {range: [-0.5, 1.5], per: [model, group]}
    density: {range: [0.25, 1e-0], per: recipe}
    rescale: false
data_flow_space: {sources: [ps, '7'], repeats: 2, max_layers: 9, scales: [0.5, 1.5], pin: {first: ps, last: '7'}}
fitness:
  tasks:
    - {task: a, lang: 'no', weight: 1e-7, split: train, limit: 7, shots: 0, profile: parity, max_new_tokens: 9,
       chat_template: off, system: "a: b # c", chat_template_kwargs: {n: 1, big: 18446744073709551615, less: -3, x: .5, on: true, s: 'true'},
       samples: 4, sampling: {temperature: 0.3, top_k: 5, top_p: 0.9, min_p: 0.05, seed: 18446744073709551615},
       score: maj@4, think: {open: '<t>', close: '</t>', budget: 3}}
    - b
  engine: {command: [e, -x], timeout: 1.5, patience: 2, dtype: bf16, workers: 3}
  objectives: scalar
  scale: standard_error
  guard: {perplexity_ratio: 1.5}
  chat_template: auto
  system: |
    two
    lines
  chat_template_kwargs: {y: 'n'}
  think: true
search:
  optimizer: cma-es
  population: 6
  evals: 40
  racing: {rungs: [4, 8]}
  learn: {steps: 3, batch: 2, questions: 5, rounds: 2, teachers: best, wrong: 0.1, after: true}
  warm_start: [ties, w.yaml]
  guide: {endpoint: 'http://h:1/v1', model: m, key: K, every: 2, tokens: 5}
  widening: true
  greedy_soup: false
  mixed_workers: false
  asynchronous: true
  seed: 18446744073709551615
final:
  finalists: 3
  selection: {split: x, limit: all}
  test: {split: y, limit: 5}
  held_out: [{task: c, samples: 2}, d]
  allow_overlap: true
"#;
        const FRONT: &str = "
name: t
models: {a: b, c: d}
vision: merged
parameter_space: {method: slerp, genes: {t: {range: [0, 1], per: [module, group]}}}
fitness: {tasks: [a, b], objectives: pareto, tokens: true}
search: {population: auto, learn: off, racing: false}
";
        const NUMBERS: &str = "
name: '1e3'
genes: {x: [-5, 5], 'y': {int: [-2, 9]}, m: {choice: ['1', 'true', '~', a]}}
fitness: {command: [p, '1', ''], questions: q.jsonl, timeout: 9, patience: 3, workers: 2, weights: {a: -1, 'no': 0.5}}
search: {optimizer: genetic, mating: {attraction: 0.25}, racing: true, asynchronous: true}
";
        const SERVED: &str = "
name: t
models: {a: b, c: d}
parameter_space: {method: linear, layer_groups: 2, genes: {weight: [0, 1]}}
fitness: {command: p, SERVED: true}
";
        let (served, written) = (
            SERVED.replace("SERVED", "serve"),
            SERVED.replace("SERVED", "materialize"),
        );
        let all = [WEIGHTS, FRONT, NUMBERS, &served, &written];
        for text in all {
            let space = Space::parse(Path::new("s.yaml"), text).unwrap();
            let again = space.to_yaml();
            assert_eq!(Space::parse(Path::new("s.yaml"), &again).unwrap(), space, "{again}");
        }
        // A key that is new in this file is new in this test.
        let this = include_str!("read.rs").split("#[cfg(test)]").next().unwrap();
        for asks in ["optional(\"", "required(\""] {
            for (at, _) in this.match_indices(asks) {
                let key = this[at + asks.len()..].split('"').next().unwrap();
                assert!(all.iter().any(|text| text.contains(&format!("{key}:"))), "{key}");
            }
        }
        // As runs were written before.
        let old = WEIGHTS.replace("samples: 4, sampling: {", "samples: {n: 4, ");
        assert_eq!(
            Space::parse(Path::new("s.yaml"), &old).unwrap(),
            Space::parse(Path::new("s.yaml"), WEIGHTS).unwrap()
        );
        let refused = |seed: &str| error("  evals: 20", &format!("  seed: {seed}"));
        assert!(refused("18446744073709551616").contains("search.seed: a whole number is expected here"));
        assert!(refused("-1").contains("a whole number of 0 or more"));
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        assert!(
            error("  evals: 20", "  eval: 20")
                .starts_with("s.yaml:16: search.eval: unknown key 'eval'; did you mean 'evals'?")
        );
        assert!(
            error("method: ties", "method: tie")
                .contains("s.yaml:9: parameter_space.method: 'tie' is not known here; did you mean 'ties'?")
        );
        assert!(error("weight: [0.0, 1.5]", "weigth: [0.0, 1.5]").contains("did you mean 'weight'?"));
        assert!(error("weight: [0.0, 1.5]", "weight: [1.5, 0]").contains("upside down"));
        assert!(error("weight: [0.0, 1.5]", "density: [0.5, 1.5]").contains("leaves what 'density' can be"));
        assert!(error("base: base\n", "base: bas\n").contains("did you mean 'base'?"));
        assert!(error("base: base\n", "").contains("name it with the key 'base'"));
        assert!(
            error("search:\n", "genes: {x: [0, 1]}\nsearch:\n").contains("bare genes and models do not go together")
        );
        assert!(error("  evals: 20", "  racing: {rungs: [8, 4]}").contains("numbers of questions that grow"));
        assert!(error("weight: 0.5", "weight: -1").contains("above 0"));
        assert!(error("  evals: 20", "  mating: attraction").contains("write 'optimizer: genetic'"));
        assert!(
            error("  evals: 20", "  optimizer: genetic\n  mating: atraction").contains("did you mean 'attraction'?")
        );
        assert!(error("fitness:\n", "fitness:\n  workers: 2\n").contains("'command'"));
    }

    #[test]
    fn a_soup_is_tried_unless_the_space_says_no() {
        assert!(Space::parse(Path::new("s.yaml"), GOOD).unwrap().search.greedy_soup);
        let text = GOOD.replace("  evals: 20", "  evals: 20\n  greedy_soup: false");
        let space = Space::parse(Path::new("s.yaml"), &text).unwrap();
        assert!(!space.search.greedy_soup);
        assert_eq!(Space::parse(Path::new("again.yaml"), &space.to_yaml()).unwrap(), space);
    }

    #[test]
    fn widening_needs_weights_to_tell_apart_and_a_distribution() {
        let text = GOOD.replace("  evals: 20", "  evals: 20\n  widening: true");
        let space = Space::parse(Path::new("s.yaml"), &text).unwrap();
        assert!(space.search.widening);
        let again = serde_yaml_ng::to_string(&space).unwrap();
        assert_eq!(Space::parse(Path::new("s.yaml"), &again).unwrap(), space);
        assert!(error("  evals: 20", "  widening: true\n  optimizer: genetic").contains("write cma-es or"));
        let bare = "name: t\ngenes: {x: [0, 1]}\nfitness: {command: [a]}\nsearch: {widening: true}\n";
        let refused = Space::parse(Path::new("s.yaml"), bare).unwrap_err().to_string();
        assert!(refused.contains("goes with a parameter_space"), "{refused}");
    }

    #[test]
    fn mating_and_workers_are_read_back() {
        for mating in ["attraction", "{attraction: 0.5}", "tournament"] {
            let text = GOOD.replace("  evals: 20", &format!("  optimizer: genetic\n  mating: {mating}"));
            let space = Space::parse(Path::new("s.yaml"), &text).unwrap();
            assert_eq!(space.search.mating.is_some(), mating != "tournament");
            assert_eq!(Space::parse(Path::new("s.yaml"), &space.to_yaml()).unwrap(), space);
        }
        let bare = "name: t\ngenes: {x: [0, 1]}\nfitness: {command: score, workers: 3}\n";
        let space = Space::parse(Path::new("s.yaml"), bare).unwrap();
        assert_eq!(space.fitness.command.as_ref().unwrap().workers, 3);
        assert_eq!(Space::parse(Path::new("s.yaml"), &space.to_yaml()).unwrap(), space);
        for wrong in ["0", "100000"] {
            let text = bare.replace('3', wrong);
            let message = Space::parse(Path::new("s.yaml"), &text).unwrap_err().to_string();
            assert!(message.contains("not between 1 and 1024"), "{message}");
        }
        let text = format!("{bare}search: {{optimizer: genetic, mating: attraction}}\n");
        let message = Space::parse(Path::new("s.yaml"), &text).unwrap_err().to_string();
        assert!(message.contains("fitness.weights"), "{message}");
    }

    #[test]
    fn what_belongs_to_a_command_is_read_back() {
        let text = "name: t\ngenes: {x: [0, 1]}\nfitness: {command: score, questions: q.jsonl, workers: 2, timeout: 2.5, \
                    weights: {a: -1, b: 0}}\nsearch: {racing: true, asynchronous: true}\n";
        let space = Space::parse(Path::new("s.yaml"), text).unwrap();
        assert!(space.search.asynchronous && space.search.racing.is_some() && !space.fitness.keeps_its_questions());
        assert_eq!(Space::parse(Path::new("s.yaml"), &space.to_yaml()).unwrap(), space);
        let refused = |from: &str, to: &str| {
            let message = Space::parse(Path::new("s.yaml"), &text.replace(from, to)).unwrap_err();
            message.to_string()
        };
        assert!(refused(", questions: q.jsonl", "").contains("'fitness.questions' names them"));
        assert!(refused("weights: {a: -1, b: 0}", "weights: {a: 0}").contains("nothing is maximised"));
        // The first of them was a search that ended in a panic, which check had called fit.
        for never in ["1e20", "1e300", ".inf", ".nan", "0", "-1"] {
            let message = refused("timeout: 2.5", &format!("timeout: {never}"));
            assert!(message.contains("s.yaml:3: fitness.timeout"), "{never}: {message}");
        }
        // Spaces from before there was a patience are what they were.
        assert!(!space.to_yaml().contains("patience"));
        let patient = Space::parse(
            Path::new("s.yaml"),
            &text.replace("timeout:", "patience: 3600, timeout:"),
        )
        .unwrap();
        assert_eq!(patient.fitness.patience(), Duration::from_secs(3600));
        assert_eq!(Space::parse(Path::new("s.yaml"), &patient.to_yaml()).unwrap(), patient);
        assert!(refused("timeout:", "patience: 0, timeout:").contains("fitness.patience"));
        assert!(refused("workers: 2, ", "").contains("two 'workers' or more"));
        assert!(refused("weights:", "scale: standard_error, weights:").contains("have no standard error"));
    }

    #[test]
    fn held_out_tasks_are_read_back_and_are_no_tasks_of_the_fitness() {
        let with = |tasks: &str| {
            let text = format!("{GOOD}final: {{held_out: [{tasks}]}}\n");
            Space::parse(Path::new("s.yaml"), &text)
        };
        let space = with("mgsm_direct, {task: evals/a.yaml, lang: en, limit: 50, shots: 2, split: search}").unwrap();
        let [first, second] = space.finale.held_out.as_slice() else {
            panic!("two tasks")
        };
        assert_eq!(
            (first.split.as_str(), second.split.as_str(), second.limit),
            ("test", "search", Some(50))
        );
        let text = space.to_yaml();
        assert_eq!(Space::parse(Path::new("s.yaml"), &text).unwrap(), space, "{text}");
        let error = |tasks: &str| with(tasks).unwrap_err().to_string();
        assert!(error("{task: a, weight: 2}").starts_with("s.yaml:17: final.held_out[0].weight: nothing is chosen by"));
        assert!(error("a, gsm8k").contains("final.held_out[1]: 'gsm8k' is a task of the fitness"));
        assert!(error("{task: a, splitt: test}").contains("did you mean 'split'?"));
        let command = GOOD.replace(
            "  tasks:\n    - {task: gsm8k, weight: 0.5, limit: 100}",
            "  command: [x]",
        );
        let message = Space::parse(Path::new("s.yaml"), &format!("{command}final: {{held_out: [a]}}\n"));
        assert!(
            message
                .unwrap_err()
                .to_string()
                .contains("a command asks its own questions")
        );
    }

    const FLOW: &str = "
name: t
models: {base: b, maths: m, spanish: s}
base: base
data_flow_space:
  sources: [maths, spanish]
  max_layers: 12
  scales: [0.5, 1.5]
  pin: {first: maths}
fitness:
  tasks: [gsm8k]
search: {evals: 20}
";

    fn flow(from: &str, to: &str) -> Result<Space, String> {
        assert!(FLOW.contains(from));
        Space::parse(Path::new("s.yaml"), &FLOW.replace(from, to)).map_err(|e| e.to_string())
    }

    #[test]
    fn a_data_flow_space_stands_alone_or_beside_a_parameter_space() {
        let alone = flow("", "").unwrap();
        let dfs = alone.data_flow_space.as_ref().unwrap();
        assert_eq!((dfs.repeats, dfs.scales, &dfs.pin.last), (1, Some([0.5, 1.5]), &None));
        assert_eq!(alone.search.optimizer, Optimizer::CmaEsMargin);
        let both = "parameter_space: {method: ties, genes: {weight: [0, 1]}}\nhybrid: joint\nfitness:";
        let joint = flow("fitness:", both).unwrap();
        assert_eq!(
            joint.data_flow_space.as_ref().unwrap().sources,
            ["ps", "maths", "spanish"]
        );
        let then = flow("fitness:", &both.replace("joint", "ps_then_dfs")).unwrap();
        assert_eq!(then.search.optimizer, Optimizer::CmaEs);
        let bare = flow("  scales: [0.5, 1.5]\n  pin: {first: maths}\n", "").unwrap();
        for space in [alone, joint, then, bare] {
            let text = space.to_yaml();
            assert_eq!(Space::parse(Path::new("s.yaml"), &text).unwrap(), space, "{text}");
        }
    }

    #[test]
    fn mistakes_in_a_data_flow_space_are_named() {
        let error = |from: &str, to: &str| flow(from, to).unwrap_err();
        assert!(error("[maths, spanish]", "[maths, spanisch]").starts_with(
            "s.yaml:6: data_flow_space.sources[1]: 'spanisch' is not known here; did you mean 'spanish'?"
        ));
        assert!(error("spanish]", "maths]").contains("'maths' stands here twice"));
        assert!(
            error("spanish]", "ps]").contains("s.yaml:6"),
            "there is no child of a parameter space"
        );
        assert!(error("  max_layers: 12\n", "").contains("max_layers"));
        assert!(error("max_layers: 12", "max_layers: 0").contains("1 of its layers always run"));
        assert!(error("max_layers: 12", "max_layer: 12").contains("'max_layer"));
        assert!(error("max_layers: 12", "max_layers: 12\n  repeats: 0").contains("not between 1 and 64"));
        // "capacity overflow", and 2 TB asked for at once.
        assert!(error("evals: 20", "evals: 1000000000000").contains("a search has 1 to 1000000000 evaluations"));
        let population = error("evals: 20", "optimizer: genetic, population: 9223372036854775807");
        assert!(
            population.contains("a population has 2 to 100000 candidates"),
            "{population}"
        );
        assert!(error("[0.5, 1.5]", "[0.0, 1.5]").contains("begin above 0"));
        assert!(error("[0.5, 1.5]", "[1.5, 0.5]").contains("upside down"));
        assert!(error("[0.5, 1.5]", "[1.2, 1.5]").contains("must hold 1"));
        assert!(error("{first: maths}", "{first: base}").contains("s.yaml:9: data_flow_space.pin.first"));
        assert!(error("{evals: 20}", "{optimizer: cma-es}").contains("cma-es-margin or genetic"));
        let ps = "parameter_space: {method: ties, genes: {weight: [0, 1]}}\nfitness:";
        assert!(error("fitness:", ps).contains("'hybrid: ps_then_dfs' or 'hybrid: joint'"));
        assert!(error("fitness:", "hybrid: joint\nfitness:").contains("parameter_space is missing"));
        let named_ps = FLOW
            .replace("spanish", "ps")
            .replace("fitness:", &ps.replace("fitness", "hybrid: joint\nfitness"));
        let message = Space::parse(Path::new("s.yaml"), &named_ps).unwrap_err().to_string();
        assert!(message.contains("give the model 'ps' another name"), "{message}");
    }
}
