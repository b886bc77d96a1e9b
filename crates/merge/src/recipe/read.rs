//! mergekit YAML → [`Recipe`]: strict, with file, line and the nearest valid word in every error.
//!
//! Reads `models | slices | modules`, parameters with filter lists and gradients, tokenizer settings, and
//! several documents as stages. A parameter that another method has is reported and dropped, as mergekit drops it in
//! silence; a parameter that no method has is an error.

use std::{collections::BTreeMap, path::Path};

use super::{
    Body, DType, Error, Filtered, Kind as ParameterKind, MODULES, Method, MethodInfo, Module, ParamValue,
    ParameterInfo, Parameters, Recipe, Slice, Source, Stage, TokenRule, TokenSource, Tokenizer, methods,
};
use heterosis_yaml::{self as yaml, Kind, Map, Node, Value};

/// Reads a recipe of one or several stages.
///
/// ```
/// use heterosis_merge::recipe::{read, write};
///
/// let text = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.3}\n";
/// let recipe = read::parse("recipe.yaml".as_ref(), text)?;
/// assert_eq!(recipe.models(), ["a", "b"]);
/// assert_eq!(read::parse("again.yaml".as_ref(), &write::to_yaml(&recipe))?.digest(), recipe.digest());
///
/// let refused = read::parse("recipe.yaml".as_ref(), "merge_method: slurp\n").unwrap_err();
/// assert!(refused.to_string().starts_with("recipe.yaml:1: merge_method: 'slurp' is not known here; did you mean 'slerp'?"));
/// # Ok::<(), heterosis_merge::recipe::Error>(())
/// ```
///
/// # Errors
/// What is not YAML, not known, out of range or does not fit together, with its line.
pub fn parse(file: &Path, text: &str) -> Result<Recipe, Error> {
    let documents = yaml::parse(file, text)?;
    let documents: Vec<&Node> = documents.iter().filter(|d| !d.is_null()).collect();
    if documents.is_empty() {
        return Err(Error::Empty {
            file: file.to_path_buf(),
        });
    }
    let stages = documents.iter().map(|d| stage(d)).collect::<Result<Vec<_>, _>>()?;
    check_names(&documents, &stages)?;
    Ok(Recipe {
        stages: in_order(&documents, stages)?,
    })
}

fn stage(document: &Node) -> Result<Stage, yaml::Error> {
    Kind::Recipe.expect(document)?;
    let map = document.map()?;
    let name = map.optional("name").map(Node::text).transpose()?;
    let method_node = map.required("merge_method")?;
    let names: Vec<&str> = methods().iter().map(|m| m.name).collect();
    let method = &methods()[method_node.one_of(&names)?];
    let base_model = map.optional("base_model").map(model).transpose()?;
    let tokenizer_node = map.optional("tokenizer");
    let Content {
        body,
        parameters,
        modules,
    } = content(&map, method)?;
    let stage = Stage {
        name,
        merge_method: method.method,
        base_model,
        body,
        modules,
        parameters,
        dtype: dtype(&map, "dtype")?,
        out_dtype: dtype(&map, "out_dtype")?,
        tokenizer_source: map.optional("tokenizer_source").map(model).transpose()?,
        tokenizer: tokenizer_node.map(tokenizer).transpose()?,
        chat_template: map.optional("chat_template").map(Node::text).transpose()?,
        seed: seed(&map)?,
    };
    if let (Some(_), Some(node)) = (&stage.tokenizer_source, tokenizer_node) {
        return Err(node.error("give 'tokenizer_source' or 'tokenizer', not both"));
    }
    map.finish()?;
    check_models(&stage, method, &map)?;
    Ok(stage)
}

/// `seed`, or as scripts around mergekit write it, `random_seed`.
fn seed(map: &Map<'_>) -> Result<Option<u64>, yaml::Error> {
    match (map.optional("seed"), map.optional("random_seed")) {
        (Some(_), Some(node)) => Err(node.error("give 'seed' or 'random_seed', not both")),
        (seed, random_seed) => seed.or(random_seed).map(Node::u64).transpose(),
    }
}

/// `inner`, and where it says nothing, `outer`.
fn or_else(inner: ParamValue, outer: ParamValue) -> ParamValue {
    let ParamValue::Filtered(mut entries) = inner else {
        return inner;
    };
    match outer {
        ParamValue::Filtered(more) => entries.extend(more),
        value => entries.push(Filtered {
            filter: None,
            value: Box::new(value),
        }),
    }
    ParamValue::Filtered(entries)
}

/// What a recipe is made of, and by which parameters.
struct Content {
    body: Body,
    parameters: Parameters,
    modules: BTreeMap<String, Module>,
}

/// What mergekit calls the language model of a model with other senses.
const TEXT: &str = "text_decoder";

fn content(map: &Map<'_>, method: &MethodInfo) -> Result<Content, yaml::Error> {
    let given: Vec<&Node> = ["models", "slices", "modules"]
        .iter()
        .filter_map(|key| map.optional(key))
        .collect();
    let [node] = given[..] else {
        let message = "a recipe has exactly one of 'models', 'slices' and 'modules'";
        return Err(given.last().copied().unwrap_or(map.node()).error(message));
    };
    let common = parameters_of(map, method)?;
    if !node.path.ends_with("modules") {
        return Ok(Content {
            body: body(node, method)?,
            parameters: common,
            modules: BTreeMap::new(),
        });
    }
    let entries = node.map()?;
    let text: &str = match entries.entries() {
        [(name, _)] => name,
        several => {
            let text = several.iter().find(|(name, _)| name == TEXT);
            let missing = || node.error(format!("of several modules one is the language model, '{TEXT}'"));
            &text.ok_or_else(missing)?.0
        }
    };
    let (mut of_text, mut modules) = (None, BTreeMap::new());
    for (name, node) in entries.entries() {
        let (body, parameters) = module(node, method, &common)?;
        if name == text {
            of_text = Some((body, parameters));
            continue;
        }
        let name = match name.as_str() {
            "vision_model" => MODULES[0],
            name => name,
        };
        if !MODULES.contains(&name) {
            let known = MODULES.join(", ");
            return Err(node.error(format!("unknown module '{name}'; known are {TEXT}, {known}")));
        }
        let Body::Models(models) = body else {
            let message = format!("only the layers of '{TEXT}' are stacked; give 'models' here");
            return Err(node.error(message));
        };
        modules.insert(name.to_string(), Module { models, parameters });
    }
    let (body, parameters) = of_text.ok_or_else(|| node.error("there is no module here"))?;
    Ok(Content {
        body,
        parameters,
        modules,
    })
}

/// One module, with its parameters before the recipe's.
fn module(node: &Node, method: &MethodInfo, common: &Parameters) -> Result<(Body, Parameters), yaml::Error> {
    let map = node.map()?;
    let given = match (map.optional("models"), map.optional("slices")) {
        (Some(one), None) | (None, Some(one)) => one,
        _ => return Err(node.error("a module has exactly one of 'models' and 'slices'")),
    };
    let body = body(given, method)?;
    let mut parameters = parameters_of(&map, method)?;
    for (key, value) in common {
        parameters
            .entry(key.clone())
            .and_modify(|inner| *inner = or_else(inner.clone(), value.clone()))
            .or_insert_with(|| value.clone());
    }
    map.finish()?;
    Ok((body, parameters))
}

fn body(node: &Node, method: &MethodInfo) -> Result<Body, yaml::Error> {
    let items = node.list()?;
    if items.is_empty() {
        return Err(node.error("the list is empty"));
    }
    Ok(if node.path.ends_with("models") {
        let sources = items.iter().map(|n| source(n, method, false));
        Body::Models(sources.collect::<Result<_, _>>()?)
    } else {
        Body::Slices(items.iter().map(|n| slice(n, method)).collect::<Result<_, _>>()?)
    })
}

fn slice(node: &Node, method: &MethodInfo) -> Result<Slice, yaml::Error> {
    let map = node.map()?;
    let sources_node = map.required("sources")?;
    let sources = sources_node
        .list()?
        .iter()
        .map(|n| source(n, method, true))
        .collect::<Result<Vec<_>, _>>()?;
    let Some(first) = sources.first() else {
        return Err(sources_node.error("a slice needs a source"));
    };
    let length = |s: &Source| s.layer_range.map(|[start, end]| end - start);
    if let Some(i) = sources.iter().position(|s| length(s) != length(first)) {
        return Err(sources_node.list()?[i].error(format!(
            "all sources of a slice need equally many layers; '{}' has {}, '{}' has {}",
            first.model,
            length(first).unwrap_or(0),
            sources[i].model,
            length(&sources[i]).unwrap_or(0)
        )));
    }
    if let Some(weight) = map.optional("residual_weight") {
        tracing::warn!(
            "{}",
            weight.error("residual_weight has no effect (nor has it in mergekit)")
        );
    }
    let slice = Slice {
        sources,
        base_model: map.optional("base_model").map(model).transpose()?,
        parameters: parameters_of(&map, method)?,
    };
    map.finish()?;
    Ok(slice)
}

fn source(node: &Node, method: &MethodInfo, in_slice: bool) -> Result<Source, yaml::Error> {
    let map = node.map()?;
    let model = model(map.required("model")?)?;
    let layer_range = if in_slice {
        Some(layer_range(map.required("layer_range")?)?)
    } else {
        None
    };
    let source = Source {
        model,
        layer_range,
        fisher: measured(&map, method, &FISHER)?,
        grams: measured(&map, method, &GRAMS)?,
        parameters: parameters_of(&map, method)?,
    };
    map.finish()?;
    Ok(source)
}

/// What one method reads of each model, and a command measures.
struct Measured {
    /// Beside `model`, and the command's name.
    key: &'static str,
    method: Method,
    what: &'static str,
}

const FISHER: Measured = Measured {
    key: "fisher",
    method: Method::Fisher,
    what: "Fisher information",
};
const GRAMS: Measured = Measured {
    key: "grams",
    method: Method::Regmean,
    what: "Gram matrices",
};

/// Where what was measured of a model is; there is none for other methods.
fn measured(map: &Map<'_>, method: &MethodInfo, of: &Measured) -> Result<Option<String>, yaml::Error> {
    let (key, what, reads) = (of.key, of.what, of.method.name());
    match (map.optional(key), method.method == of.method) {
        (Some(node), true) => model(node).map(Some),
        (Some(node), false) => Err(node.error(format!(
            "'{}' reads no {what}; such a directory belongs to 'merge_method: {reads}'",
            method.name
        ))),
        (None, true) => Err(map.node().error(format!(
            "'{reads}' weighs each model by its {what}: name the directory with '{key}: DIR' beside 'model', as `heterosis \
             {key} MODEL DIR --task TASK` writes it"
        ))),
        (None, false) => Ok(None),
    }
}

fn layer_range(node: &Node) -> Result<[usize; 2], yaml::Error> {
    match node.list()? {
        [start, end] => {
            let (s, e) = (start.usize()?, end.usize()?);
            if s < e {
                Ok([s, e])
            } else {
                Err(node.error(format!("the layer range [{s}, {e}] is empty; write [first, last + 1]")))
            }
        }
        _ => Err(node.error("a layer range has two numbers, [first, last + 1]")),
    }
}

/// A model word, or mergekit's long form `{model: {path, revision}, lora: {path, revision}}`.
fn model(node: &Node) -> Result<String, yaml::Error> {
    if !matches!(node.value, Value::Map(_)) {
        return node.text();
    }
    let map = node.map()?;
    let mut word = path(map.required("model")?)?;
    if let Some(lora) = map.optional("lora") {
        word = format!("{word}+{}", path(lora)?);
    }
    map.optional("override_architecture");
    map.finish()?;
    Ok(word)
}

fn path(node: &Node) -> Result<String, yaml::Error> {
    if !matches!(node.value, Value::Map(_)) {
        return node.text();
    }
    let map = node.map()?;
    let path = map.required("path")?.text()?;
    let revision = map.optional("revision").map(Node::text).transpose()?;
    map.finish()?;
    Ok(match revision {
        Some(revision) => format!("{path}@{revision}"),
        None => path,
    })
}

fn dtype(map: &Map<'_>, key: &str) -> Result<Option<DType>, yaml::Error> {
    let Some(node) = map.optional(key) else {
        return Ok(None);
    };
    let names = DType::ALL.map(DType::torch_name);
    Ok(Some(DType::ALL[node.one_of(&names)?]))
}

fn tokenizer(node: &Node) -> Result<Tokenizer, yaml::Error> {
    let map = node.map()?;
    let source = map.optional("source").map(model).transpose()?;
    let mut tokenizer = Tokenizer {
        source: source.unwrap_or_else(|| "union".into()),
        tokens: Default::default(),
        pad_to_multiple_of: map.optional("pad_to_multiple_of").map(Node::usize).transpose()?,
    };
    if let Some(tokens) = map.optional("tokens") {
        for (token, rule) in tokens.map()?.entries() {
            tokenizer.tokens.insert(token.clone(), token_rule(rule)?);
        }
    }
    map.finish()?;
    if tokenizer.pad_to_multiple_of == Some(0) {
        return Err(node.error("pad_to_multiple_of must be 1 or more"));
    }
    Ok(tokenizer)
}

fn token_rule(node: &Node) -> Result<TokenRule, yaml::Error> {
    let map = node.map()?;
    let force = map.optional("force").map(Node::bool).transpose()?;
    let source = map.optional("source").map(token_source).transpose()?;
    map.finish()?;
    Ok(TokenRule {
        source,
        force: force.unwrap_or(false),
    })
}

fn token_source(node: &Node) -> Result<TokenSource, yaml::Error> {
    let Value::Map(_) = node.value else {
        return node.text().map(TokenSource::Model);
    };
    let map = node.map()?;
    let Some(kind) = map.optional("kind") else {
        return model(node).map(TokenSource::Model);
    };
    let source = match kind.one_of(&["zero", "model_token"])? {
        0 => TokenSource::Zero,
        _ => {
            let model = model(map.required("model")?)?;
            match (map.optional("token"), map.optional("token_id")) {
                (Some(token), None) => TokenSource::ModelToken {
                    model,
                    token: token.text()?,
                },
                (None, Some(id)) => TokenSource::ModelTokenId {
                    model,
                    token_id: u32::try_from(id.u64()?).map_err(|_| id.error("no vocabulary is that large"))?,
                },
                _ => return Err(node.error("give exactly one of 'token' and 'token_id'")),
            }
        }
    };
    map.finish()?;
    Ok(source)
}

fn parameters_of(map: &Map<'_>, method: &MethodInfo) -> Result<Parameters, yaml::Error> {
    let mut parameters = Parameters::new();
    let Some(node) = map.optional("parameters") else {
        return Ok(parameters);
    };
    for (name, value) in node.map()?.entries() {
        if let Some(info) = method.parameter(name) {
            if !value.is_null() {
                parameters.insert(name.clone(), setting(value, info)?);
            }
        } else {
            unused(name, value, method)?;
        }
    }
    Ok(parameters)
}

/// A parameter of some other method is only worth a warning; any other word is a mistake.
fn unused(name: &str, value: &Node, method: &MethodInfo) -> Result<(), yaml::Error> {
    let elsewhere = methods().iter().any(|m| m.parameter(name).is_some());
    let known: Vec<&str> = method.parameters.iter().map(|p| p.name).collect();
    if elsewhere {
        let message = format!("'{}' has no parameter '{name}'; it is ignored", method.name);
        tracing::warn!("{}", value.error(message));
        return Ok(());
    }
    Err(value.error(format!(
        "unknown parameter '{name}'{}; '{}' knows {}",
        yaml::did_you_mean(name, &known),
        method.name,
        if known.is_empty() {
            "none".into()
        } else {
            known.join(", ")
        }
    )))
}

fn setting(node: &Node, info: &ParameterInfo) -> Result<ParamValue, yaml::Error> {
    match &node.value {
        Value::Map(_) => Ok(ParamValue::Filtered(vec![filtered(node, info)?])),
        Value::List(items) if items.iter().any(|i| matches!(i.value, Value::Map(_))) => {
            let entries = items.iter().map(|i| filtered(i, info));
            Ok(ParamValue::Filtered(entries.collect::<Result<_, _>>()?))
        }
        _ => plain(node, info),
    }
}

fn filtered(node: &Node, info: &ParameterInfo) -> Result<Filtered, yaml::Error> {
    let map = node.map()?;
    let filter = map.optional("filter").map(Node::text).transpose()?;
    let value = plain(map.required("value")?, info)?;
    map.finish()?;
    Ok(Filtered {
        filter,
        value: Box::new(value),
    })
}

/// A scalar, or a gradient of scalars.
fn plain(node: &Node, info: &ParameterInfo) -> Result<ParamValue, yaml::Error> {
    if let Value::List(items) = &node.value {
        let numbers = items.iter().map(|item| {
            let value = scalar(item)?;
            info.scalar(&value)
                .map_err(|e| item.error(format!("{}: {e}", info.name)))
        });
        return Ok(ParamValue::Gradient(numbers.collect::<Result<_, _>>()?));
    }
    let value = scalar(node)?;
    let number = info
        .scalar(&value)
        .map_err(|e| node.error(format!("{}: {e}", info.name)))?;
    Ok(match (info.kind, value) {
        (ParameterKind::Switch, _) => ParamValue::Bool(number != 0.0),
        (ParameterKind::Choice(words), _) => ParamValue::Text(words[number as usize].into()),
        _ => ParamValue::Number(number),
    })
}

fn scalar(node: &Node) -> Result<ParamValue, yaml::Error> {
    match &node.value {
        Value::Bool(b) => Ok(ParamValue::Bool(*b)),
        Value::Int(i) => Ok(ParamValue::Number(*i as f64)),
        Value::Float(f) => Ok(ParamValue::Number(*f)),
        Value::Str(s) => Ok(ParamValue::Text(s.clone())),
        Value::Null | Value::List(_) | Value::Map(_) => {
            Err(node.error("a number, a switch, a list of numbers or a list of filters is expected here"))
        }
    }
}

/// The method's demands on its models, as far as they show before any checkpoint is open.
fn check_models(stage: &Stage, method: &MethodInfo, map: &Map<'_>) -> Result<(), yaml::Error> {
    let base = stage.base_model.as_deref();
    let node = |key| map.optional(key).unwrap_or(map.node());
    match &stage.body {
        Body::Models(models) => {
            let mut names: Vec<&str> = models.iter().map(|m| m.model.as_str()).collect();
            if let Some(base) = base.filter(|b| method.adds_base() && !names.contains(b)) {
                names.push(base);
            }
            method.check_inputs(&names, base).map_err(|e| node("models").error(e))?;
        }
        Body::Slices(slices) => {
            for (slice, node) in slices.iter().zip(node("slices").one_or_more()) {
                let names: Vec<&str> = slice.sources.iter().map(|s| s.model.as_str()).collect();
                method
                    .check_inputs(&names, slice.base_model.as_deref().or(base))
                    .map_err(|e| node.error(e))?;
            }
            if method.method == Method::LayerSwap {
                return Err(node("slices").error("'layer_swap' makes its own slices; give 'models'"));
            }
        }
    }
    Ok(())
}

fn check_names(documents: &[&Node], stages: &[Stage]) -> Result<(), yaml::Error> {
    for (i, stage) in stages.iter().enumerate() {
        if stages[..i].iter().any(|s| s.name == stage.name) {
            return Err(documents[i].error(match &stage.name {
                Some(name) => format!("two stages are called '{name}'"),
                None => "only one stage, the result, may go without a 'name'".into(),
            }));
        }
    }
    Ok(())
}

/// Puts each stage after those that it names, and the result (the nameless one, else the last) at the end.
fn in_order(documents: &[&Node], stages: Vec<Stage>) -> Result<Vec<Stage>, yaml::Error> {
    let result = stages.iter().position(|s| s.name.is_none()).unwrap_or(stages.len() - 1);
    let mut order = Vec::new();
    visit(result, &stages, &mut Vec::new(), &mut order).map_err(|i| {
        let name = stages[i].name.as_deref().unwrap_or("the result");
        documents[i].error(format!("the stage '{name}' needs itself, by way of its models"))
    })?;
    for (i, stage) in stages.iter().enumerate() {
        if !order.contains(&i) {
            let name = stage.name.as_deref().unwrap_or_default();
            tracing::warn!("{}", documents[i].error(format!("nothing uses the stage '{name}'")));
        }
    }
    let mut stages: Vec<Option<Stage>> = stages.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|i| stages[i].take()).collect())
}

/// Depth first; `Err` holds a stage on a cycle.
fn visit(i: usize, stages: &[Stage], open: &mut Vec<usize>, order: &mut Vec<usize>) -> Result<(), usize> {
    if order.contains(&i) {
        return Ok(());
    }
    if open.contains(&i) {
        return Err(i);
    }
    open.push(i);
    for model in stages[i].models() {
        if let Some(j) = stages.iter().position(|s| s.name.as_deref() == Some(model)) {
            visit(j, stages, open, order)?;
        }
    }
    open.pop();
    order.push(i);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Recipe, String> {
        parse(Path::new("r.yaml"), text).map_err(|e| e.to_string())
    }

    fn fails(text: &str, with: &[&str]) {
        let message = read(text).unwrap_err();
        for word in with {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    }

    #[test]
    fn a_recipe_of_models() {
        let recipe = read(
            "merge_method: ties\nbase_model: base\ndtype: bfloat16\nparameters: {normalize: yes, int8_mask: true}\n\
             models:\n- model: a\n  parameters: {weight: 1, density: [0.1, 0.9]}\n\
             - model: b\n  parameters:\n    weight:\n    - {filter: mlp, value: 2}\n    - value: 0.5\n",
        )
        .unwrap();
        let stage = recipe.result();
        assert_eq!(stage.merge_method, Method::Ties);
        assert_eq!(stage.dtype, Some(DType::Bf16));
        assert_eq!(stage.parameters["normalize"], ParamValue::Bool(true));
        let Body::Models(models) = &stage.body else {
            panic!("models expected")
        };
        assert_eq!(models[0].parameters["density"], ParamValue::Gradient(vec![0.1, 0.9]));
        let ParamValue::Filtered(filters) = &models[1].parameters["weight"] else {
            panic!("filters expected")
        };
        assert_eq!(filters[0].filter.as_deref(), Some("mlp"));
        assert_eq!(recipe.models(), ["base", "a", "b"]);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        fails("merge_method: tyes\nmodels: []\n", &["r.yaml:1", "ties"]);
        fails(
            "merge_method: linear\nmodels:\n- model: a\n  parameters:\n    wieght: 1\n",
            &["r.yaml:5", "unknown parameter 'wieght'", "weight"],
        );
        fails(
            "merge_method: ties\nbase_model: b\nmodels:\n- {model: a, parameters: {weight: 1, density: -1}}\n",
            &["r.yaml:4", "density", "-1"],
        );
        fails(
            "merge_method: ties\nmodels:\n- {model: a, parameters: {weight: 1}}\n",
            &["base_model"],
        );
        fails(
            "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 1}}\n- {model: a, parameters: {weight: 1}}\n",
            &["'a'", "twice"],
        );
        fails("merge_method: linear\nmodel:\n- {model: a}\n", &["exactly one of"]);
        fails(
            "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: .nan}}\n",
            &["NaN"],
        );
        fails(
            "merge_method: passthrough\nslices:\n- sources:\n  - {model: a, layer_range: [3, 3]}\n",
            &["r.yaml:4", "empty"],
        );
        fails("# nothing\n", &["no recipe"]);
    }

    /// What LazyMergekit writes was refused, and the list of known words had one of them twice.
    #[test]
    fn random_seed_is_the_seed() {
        let body = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n";
        assert_eq!(read(&format!("{body}random_seed: 3\n")).unwrap().result().seed, Some(3));
        fails(&format!("{body}seed: 1\nrandom_seed: 3\n"), &["r.yaml:4", "not both"]);
        let message = read(&format!("{body}wrong: 1\n")).unwrap_err();
        assert_eq!(
            message.matches("tokenizer,").count() + message.matches(", tokenizer_source").count(),
            2,
            "{message}"
        );
    }

    /// "the key 'merge_method' is missing" told nobody that a search space was given where a recipe belongs.
    #[test]
    fn another_kind_of_file_is_named() {
        fails(
            "name: x\nmodels: {a: m, b: n}\nfitness: {tasks: [t]}\n",
            &["search space", "heterosis search"],
        );
        fails("task: x\nprompt: p\ndata: {}\n", &["a task", "eval MODEL --task"]);
    }

    #[test]
    fn stages_are_put_in_the_order_of_their_needs() {
        let recipe = read(
            "merge_method: slerp\nbase_model: first\nparameters: {t: 0.5}\nmodels: [{model: first}, {model: c}]\n---\n\
             name: first\nmerge_method: linear\nmodels:\n- {model: a, parameters: {weight: 1}}\n- {model: b, parameters: {weight: 1}}\n",
        )
        .unwrap();
        assert_eq!(recipe.stages[0].name.as_deref(), Some("first"));
        assert_eq!(recipe.models(), ["a", "b", "c"]);
        fails(
            "name: x\nmerge_method: passthrough\nmodels: [{model: y}]\n---\nname: y\nmerge_method: passthrough\nmodels: [{model: x}]\n",
            &["needs itself"],
        );
    }

    #[test]
    fn one_module_is_the_whole_model() {
        let recipe = read(
            "merge_method: linear\nparameters: {weight: 0.5}\nmodules:\n  default:\n    parameters:\n      weight: [{filter: mlp, value: 1}]\n    models: [{model: a}, {model: b}]\n",
        )
        .unwrap();
        let ParamValue::Filtered(filters) = &recipe.result().parameters["weight"] else {
            panic!("filters expected")
        };
        assert_eq!(filters.len(), 2);
        assert_eq!(*filters[1].value, ParamValue::Number(0.5));
    }

    /// mergekit's form for models that also see was refused, though it was read where there is one module.
    #[test]
    fn modules_of_a_model_that_sees() {
        let text = "merge_method: task_arithmetic\nbase_model: b\nparameters: {weight: 0.5}\nmodules:\n\
            \u{20} text_decoder:\n    slices: [{sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]}]\n\
            \u{20}   parameters: {lambda: 2}\n\
            \u{20} vision_model: {models: [{model: v}], parameters: {weight: [{filter: x, value: 1}]}}\n";
        let recipe = read(text).unwrap();
        let stage = recipe.result();
        assert!(matches!(stage.body, Body::Slices(_)));
        assert_eq!(stage.parameters["lambda"], ParamValue::Number(2.0));
        // The tower has what holds for all, and not what holds for the language model.
        let tower = &stage.modules["vision_tower"];
        assert!(!tower.parameters.contains_key("lambda") && tower.models[0].model == "v");
        let ParamValue::Filtered(filters) = &tower.parameters["weight"] else {
            panic!("filters expected")
        };
        assert_eq!(*filters[1].value, ParamValue::Number(0.5));
        assert_eq!(recipe.models(), ["b", "a", "v"]);
        assert_eq!(recipe.with_models(|m| format!("x/{m}")).models(), ["x/b", "x/a", "x/v"]);
        let written = super::super::write::to_yaml(&recipe);
        assert_eq!(read(&written).unwrap(), recipe, "{written}");
        for (modules, words) in [
            (
                "{vision_tower: {models: [{model: a}]}, ear: {models: [{model: a}]}}",
                "text_decoder",
            ),
            (
                "{text_decoder: {models: [{model: a}]}, ear: {models: [{model: a}]}}",
                "unknown module 'ear'",
            ),
            (
                "{text_decoder: {models: [{model: a}]}, vision_tower: {slices: [{sources: [{model: a, layer_range: [0, 1]}]}]}}",
                "give 'models' here",
            ),
            ("{text_decoder: {parameters: {}}}", "exactly one of"),
        ] {
            fails(&format!("merge_method: passthrough\nmodules: {modules}\n"), &[words]);
        }
    }

    /// What mergekit takes since 0.1.5, and recipes have: a filter that stands alone, steps of switches and words, numbers in
    /// quotes, and a density that keeps nothing.
    #[test]
    fn settings_in_mergekits_later_forms() {
        let text = "merge_method: dare_ties\nbase_model: b\nparameters: {rescale: [true, \"false\"], normalize: [true, false]}\n\
            models:\n- {model: a, parameters: {weight: {filter: self_attn, value: 0.5}, density: \"1e-1\"}}\n\
            - {model: c, parameters: {weight: [\"0.25\", 1], density: 0}}\n";
        let recipe = parse(Path::new("r.yaml"), text).unwrap();
        let stage = recipe.result();
        let Body::Models(models) = &stage.body else {
            panic!("models expected")
        };
        let ParamValue::Filtered(filters) = &models[0].parameters["weight"] else {
            panic!("a filter expected")
        };
        assert_eq!((filters.len(), filters[0].filter.as_deref()), (1, Some("self_attn")));
        assert_eq!(models[0].parameters["density"], ParamValue::Number(0.1));
        assert_eq!(models[1].parameters["weight"], ParamValue::Gradient(vec![0.25, 1.0]));
        assert_eq!(models[1].parameters["density"], ParamValue::Number(0.0));
        assert_eq!(stage.parameters["rescale"], ParamValue::Gradient(vec![1.0, 0.0]));
        assert_eq!(stage.parameters["normalize"], ParamValue::Gradient(vec![1.0, 0.0]));
        let step = |t: f64| {
            let info = stage.merge_method.info().parameter("normalize").unwrap();
            super::super::evaluate(info, &[&stage.parameters], super::super::Place { tensor: "x", t }).unwrap()
        };
        assert_eq!([step(0.0), step(0.9), step(1.0)], [Some(1.0), Some(1.0), Some(0.0)]);
    }
}
