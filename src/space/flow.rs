//! The data-flow space: which layer comes after which.
//!
//! All layers of all sources are laid out in order, `repeats` times: these are the slots. A gene for each slot says
//! whether its layer runs, another one by what its input is multiplied. The pinned layers stand before and after the
//! slots and always run. A path that is longer than `max_layers` loses layers from its middle, so that both ends stay;
//! a path without any layer becomes the first source as it is.
//!
//! A path is written as mergekit's `passthrough` slices. The first slice's source gives the embeddings, the last one's
//! the final norm and the head; the config and the tokenizer are the space's `tokenizer` model's, written as
//! `base_model`. Scales are folded into the weights, so that the child runs anywhere: the stream of hidden states,
//! multiplied at each layer's input, is g (the product of the scales so far) times a stream whose layers add 1/g of what
//! they add here, and norms do not see the difference (but for their epsilon).
//!
//! **Source**: Akiba et al. 2024, arXiv:2403.13187 (the encoding). Deviations: a scale belongs to a slot and not to a pair
//! of layers, and layers at the ends are pinned outside of the slots.

use super::{DataFlowSpace, Error, Fold, GeneKind, GeneSpec, PS_CHILD, Shape, parameters::round, unsearched::Swap};
use crate::recipe::{Body, DType, Filtered, Method, ParamValue, Parameters, Recipe, Slice, Source, Stage};

/// One place of the path where a layer may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Position of the gene that says whether the layer runs.
    pub run: usize,
    /// Position of the gene that scales its input.
    pub scale: Option<usize>,
    pub source: usize,
    pub layer: usize,
    pub repeat: usize,
}

/// Decodes genotypes of one data-flow space for models of one shape.
#[derive(Clone, Debug)]
pub(super) struct FlowCodec {
    sources: Vec<String>,
    shape: Shape,
    tokenizer: String,
    repeats: usize,
    max_layers: usize,
    scales: Option<[f64; 2]>,
    first: Option<Pinned>,
    last: Option<Pinned>,
    slots: Vec<Slot>,
    genes: Vec<GeneSpec>,
    /// By source; empty where it was not measured.
    influence: Vec<Vec<f64>>,
}

/// A layer that always runs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pinned {
    source: usize,
    layer: usize,
    scale: Option<usize>,
}

/// One stop of a path.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    source: usize,
    layer: usize,
    /// Factor of its input.
    scale: f64,
    /// Position of the gene that the scale comes from.
    gene: Option<usize>,
}

impl FlowCodec {
    pub fn new(dfs: &DataFlowSpace, tokenizer: &str, shape: Shape) -> Self {
        let position = |name: &String| dfs.sources.iter().position(|s| s == name);
        let pinned = |source: Option<usize>, layer| {
            source.map(|source| Pinned {
                source,
                layer,
                scale: None,
            })
        };
        let mut codec = Self {
            sources: dfs.sources.clone(),
            shape,
            tokenizer: tokenizer.into(),
            repeats: dfs.repeats,
            max_layers: dfs.max_layers,
            scales: dfs.scales,
            first: pinned(dfs.pin.first.as_ref().and_then(position), 0),
            last: pinned(dfs.pin.last.as_ref().and_then(position), shape.layers.saturating_sub(1)),
            slots: Vec::new(),
            genes: Vec::new(),
            influence: vec![Vec::new(); dfs.sources.len()],
        };
        codec.lay_out_slots();
        codec.add_scales();
        codec
    }

    fn lay_out_slots(&mut self) {
        for repeat in 0..self.repeats {
            for source in 0..self.sources.len() {
                for layer in 0..self.shape.layers {
                    if self.is_pinned_at(source, layer, repeat) {
                        continue;
                    }
                    self.slots.push(Slot {
                        run: self.genes.len(),
                        scale: None,
                        source,
                        layer,
                        repeat,
                    });
                    self.genes.push(GeneSpec {
                        name: format!("run.{}.l{layer}.r{repeat}", self.sources[source]),
                        kind: GeneKind::Choice { n: 2 },
                    });
                }
            }
        }
    }

    /// A pinned layer takes the place of its own slot at that end.
    fn is_pinned_at(&self, source: usize, layer: usize, repeat: usize) -> bool {
        let is = |pinned: &Pinned| (pinned.source, pinned.layer) == (source, layer);
        (repeat == 0 && self.first.as_ref().is_some_and(is))
            || (repeat + 1 == self.repeats && self.last.as_ref().is_some_and(is))
    }

    fn add_scales(&mut self) {
        let Some([low, high]) = self.scales else { return };
        let genes = &mut self.genes;
        let mut add = |name: String| {
            let kind = GeneKind::Real { low, high };
            genes.push(GeneSpec { name, kind });
            Some(genes.len() - 1)
        };
        if let Some(first) = &mut self.first {
            first.scale = add("scale.first".into());
        }
        for slot in &mut self.slots {
            let Slot { layer, repeat, .. } = slot;
            slot.scale = add(format!("scale.{}.l{layer}.r{repeat}", self.sources[slot.source]));
        }
        if let Some(last) = &mut self.last {
            last.scale = add("scale.last".into());
        }
    }

    pub fn genes(&self) -> &[GeneSpec] {
        &self.genes
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub fn scale_genes(&self) -> impl Iterator<Item = usize> {
        let ends = self.first.iter().chain(&self.last).filter_map(|pinned| pinned.scale);
        ends.chain(self.slots.iter().filter_map(|slot| slot.scale))
    }

    // ---- genotype → recipe ----

    /// `child` is the recipe behind [`PS_CHILD`].
    pub fn decode(&self, genotype: &[f64], child: Option<&Recipe>) -> Recipe {
        let steps = self.path(genotype);
        let visits = steps.iter().any(|step| self.sources[step.source] == PS_CHILD);
        let mut stages = match child {
            Some(child) if visits => child.stages.clone(),
            _ => Vec::new(),
        };
        if let Some(mixed) = stages.last_mut() {
            mixed.name = Some(PS_CHILD.into());
        }
        stages.push(self.stage(&steps));
        Recipe { stages }
    }

    pub fn visits_child(&self, genotype: &[f64]) -> bool {
        let path = self.path(genotype);
        path.iter().any(|step| self.sources[step.source] == PS_CHILD)
    }

    pub fn live(&self, genotype: &[f64]) -> Vec<bool> {
        let mut live = vec![false; self.genes.len()];
        self.slots.iter().for_each(|slot| live[slot.run] = true);
        for gene in self.path(genotype).iter().filter_map(|step| step.gene) {
            live[gene] = true;
        }
        live
    }

    fn path(&self, genotype: &[f64]) -> Vec<Step> {
        let step = |source, layer, gene: Option<usize>| Step {
            source,
            layer,
            scale: gene.map_or(1.0, |gene| self.scale(genotype[gene])),
            gene,
        };
        let pinned = |pinned: &Option<Pinned>| pinned.map(|p| step(p.source, p.layer, p.scale));
        let running = self.slots.iter().filter(|slot| genotype[slot.run] >= 0.5);
        let mut free: Vec<Step> = running.map(|slot| step(slot.source, slot.layer, slot.scale)).collect();
        if free.is_empty() && self.first.is_none() && self.last.is_none() {
            free = self.as_it_is(0);
        }
        let room = self.max_layers - self.first.iter().chain(&self.last).count();
        cut_middle(&mut free, room);
        pinned(&self.first)
            .into_iter()
            .chain(free)
            .chain(pinned(&self.last))
            .collect()
    }

    /// Four decimals, within bounds.
    fn scale(&self, value: f64) -> f64 {
        let [low, high] = self.scales.unwrap_or([1.0, 1.0]);
        round(value.clamp(low, high)).clamp(low, high)
    }

    fn stage(&self, steps: &[Step]) -> Stage {
        let mut slices: Vec<Slice> = Vec::new();
        let mut g = 1.0;
        let mut before: Option<&Step> = None;
        for step in steps {
            g *= step.scale;
            let follows = |before: &&Step| (before.source, before.layer + 1) == (step.source, step.layer);
            if let Some(slice) = slices.last_mut()
                && step.scale == 1.0
                && before.as_ref().is_some_and(follows)
            {
                slice.sources[0].layer_range = slice.sources[0].layer_range.map(|[start, end]| [start, end + 1]);
            } else {
                slices.push(Slice {
                    sources: vec![Source {
                        model: self.sources[step.source].clone(),
                        layer_range: Some([step.layer, step.layer + 1]),
                        fisher: None,
                        grams: None,
                        parameters: folded(self.shape.fold, g),
                    }],
                    base_model: None,
                    parameters: Parameters::new(),
                });
            }
            before = Some(step);
        }
        Stage {
            name: None,
            modules: Default::default(),
            merge_method: Method::Passthrough,
            base_model: Some(self.tokenizer.clone()),
            body: Body::Slices(slices),
            parameters: Parameters::new(),
            dtype: Some(DType::F32),
            out_dtype: Some(self.shape.out_dtype),
            // Of `base_model`: rows of embeddings and head are matched by token where sources differ.
            tokenizer_source: Some("base".into()),
            tokenizer: None,
            chat_template: None,
            seed: None,
        }
    }

    // ---- recipe → genotype ----

    /// # Errors
    /// A stage that is no path, of other sources, or in an order that the slots do not have.
    pub fn encode(&self, stage: &Stage) -> Result<Vec<f64>, Error> {
        let steps = self.steps_of(stage)?;
        self.place(&steps)
    }

    fn steps_of(&self, stage: &Stage) -> Result<Vec<Step>, Error> {
        let no = |reason: String| Error::NotEncodable { reason };
        let source = |name: &str| {
            let position = self.sources.iter().position(|s| s == name);
            position.ok_or_else(|| no(format!("'{name}' is not among the data-flow space's sources")))
        };
        if let Some(swap) = Swap::of(stage, self.shape.layers) {
            let (inner, outer) = (source(swap.inner)?, source(swap.outer)?);
            let of = |(layer, share): (usize, &f64)| plain(if *share > 0.5 { inner } else { outer }, layer);
            return Ok(swap.shares.iter().enumerate().map(of).collect());
        }
        let method = stage.merge_method.info().name;
        if stage.merge_method != Method::Passthrough {
            return Err(no(format!(
                "its method, {method}, mixes weights and is no path of layers"
            )));
        }
        let sources: Vec<&Source> = match &stage.body {
            Body::Models(models) => models.iter().collect(),
            Body::Slices(slices) => slices.iter().filter_map(|slice| slice.sources.first()).collect(),
        };
        let (mut steps, mut before) = (Vec::new(), 1.0);
        for slice in sources {
            let index = source(&slice.model)?;
            let [start, end] = slice.layer_range.unwrap_or([0, self.shape.layers]);
            let g = unfolded(self.shape.fold, &slice.parameters).ok_or_else(|| {
                no(format!(
                    "what it scales in '{}' is no scale of a layer's input",
                    slice.model
                ))
            })?;
            steps.extend((start..end).map(|layer| plain(index, layer)));
            let added = steps.len() - (end - start);
            if let Some(first) = steps.get_mut(added) {
                first.scale = g / before;
            }
            before = g;
        }
        Ok(steps)
    }

    /// The genotype of a path. Where an end is pinned, the path's own end gives way to it.
    fn place(&self, steps: &[Step]) -> Result<Vec<f64>, Error> {
        let mut genotype: Vec<f64> = self
            .genes
            .iter()
            .map(|gene| {
                if matches!(gene.kind, GeneKind::Choice { .. }) {
                    0.0
                } else {
                    1.0
                }
            })
            .collect();
        let mut steps = steps;
        let mut set = |gene: Option<usize>, scale: f64| {
            if let Some(gene) = gene {
                genotype[gene] = self.scale(scale);
            }
        };
        if let (Some(pinned), [step, rest @ ..]) = (&self.first, steps)
            && step.layer == pinned.layer
        {
            set(pinned.scale, step.scale);
            steps = rest;
        }
        if let (Some(pinned), [rest @ .., step]) = (&self.last, steps)
            && step.layer == pinned.layer
        {
            set(pinned.scale, step.scale);
            steps = rest;
        }
        let mut slots = self.slots.iter();
        for step in steps {
            let slot = slots.find(|slot| (slot.source, slot.layer) == (step.source, step.layer));
            let Some(slot) = slot else {
                return Err(Error::NotEncodable {
                    reason: format!(
                        "its layers do not come in the order of the sources within {} repeat(s): layer {} of '{}' has no \
                         slot left; raise 'repeats'",
                        self.repeats, step.layer, self.sources[step.source]
                    ),
                });
            };
            genotype[slot.run] = 1.0;
            if let Some(gene) = slot.scale {
                genotype[gene] = self.scale(step.scale);
            }
        }
        Ok(genotype)
    }

    // ---- where to begin ----

    fn as_it_is(&self, source: usize) -> Vec<Step> {
        (0..self.shape.layers).map(|layer| plain(source, layer)).collect()
    }

    /// The first source as it is.
    pub fn origin(&self) -> Vec<f64> {
        let whole = self.as_it_is(0);
        self.place(&whole).expect("one source in order has its slots")
    }

    pub fn set_block_influence(&mut self, source: &str, influence: &[f64]) {
        if let Some(index) = self.sources.iter().position(|s| s == source)
            && influence.len() == self.shape.layers
        {
            self.influence[index] = influence.to_vec();
        }
    }

    /// Named genotypes, the origin first.
    pub fn seeds(&self) -> Vec<(String, Vec<f64>)> {
        let mut paths: Vec<(String, Vec<Step>)> = Vec::new();
        let names = || self.sources.iter().enumerate();
        paths.extend(names().map(|(i, name)| (name.clone(), self.as_it_is(i))));
        if let [a, b, ..] = self.real_sources()[..] {
            paths.extend(self.franken(a, b).map(|path| ("frankenmerge".into(), path)));
            paths.extend(self.swap(a, b).map(|path| ("layer_swap".into(), path)));
        }
        for (i, name) in names() {
            paths.extend(self.stack(i).map(|path| (format!("self_stack.{name}"), path)));
        }
        for (i, name) in names() {
            paths.extend(self.pruned(i).map(|path| (format!("pruned.{name}"), path)));
        }
        let placed = |(name, path): (String, Vec<Step>)| Some((name, self.place(&path).ok()?));
        paths.into_iter().filter_map(placed).collect()
    }

    /// Paths over models that are there before any search.
    pub fn baselines(&self) -> Vec<(String, Recipe)> {
        let real = self.real_sources();
        let mut paths = Vec::new();
        if let [a, ..] = real[..] {
            paths.extend(self.stack(a).map(|path| ("self_stack".to_string(), path)));
        }
        if let [a, b, ..] = real[..] {
            paths.extend(self.franken(a, b).map(|path| ("frankenmerge".to_string(), path)));
        }
        let recipe = |path: Vec<Step>| Recipe {
            stages: vec![self.stage(&path)],
        };
        paths.into_iter().map(|(name, path)| (name, recipe(path))).collect()
    }

    /// The sources that are models, and not a child yet to be found.
    fn real_sources(&self) -> Vec<usize> {
        (0..self.sources.len())
            .filter(|i| self.sources[*i] != PS_CHILD)
            .collect()
    }

    /// A source on top of itself, up to the depth that is allowed: twice over (Du et al. 2024, arXiv:2405.15319), or with
    /// its ends left out where they meet (SOLAR, Kim et al. 2024, arXiv:2312.15166).
    fn stack(&self, source: usize) -> Option<Vec<Step>> {
        let layers = self.shape.layers;
        let depth = self.max_layers.min(2 * layers);
        let (bottom, top) = (depth.div_ceil(2), depth / 2);
        let stacked = (0..bottom).chain(layers - top.min(layers)..layers);
        (depth > layers).then(|| stacked.map(|layer| plain(source, layer)).collect())
    }

    /// Overlapping thirds of two sources: the middle of `b` between the ends of `a`. With a single repeat there is room
    /// for two halves only.
    fn franken(&self, a: usize, b: usize) -> Option<Vec<Step>> {
        let layers = self.shape.layers;
        let spare = self.max_layers.checked_sub(layers)?;
        let parts: &[usize] = if self.repeats > 1 {
            &[a, b, a]
        } else {
            &[a.min(b), a.max(b)]
        };
        let n = parts.len();
        // Each seam adds twice the overlap.
        let overlap = (layers / (2 * n)).min(spare / (2 * (n - 1)));
        let mut path = Vec::new();
        for (i, source) in parts.iter().enumerate() {
            let start = (i * layers / n).saturating_sub(if i > 0 { overlap } else { 0 });
            let end = ((i + 1) * layers / n + if i + 1 < n { overlap } else { 0 }).min(layers);
            path.extend((start..end).map(|layer| plain(*source, layer)));
        }
        Some(path)
    }

    /// Layer swapping without a blended layer: the ends of `b` around `a`.
    fn swap(&self, a: usize, b: usize) -> Option<Vec<Step>> {
        let layers = self.shape.layers;
        let [bottom, top] = super::unsearched::swapped_layers(layers);
        let inner = bottom..layers.checked_sub(top)?;
        (bottom + top <= layers && layers <= self.max_layers).then(|| {
            let source = |layer| if inner.contains(&layer) { a } else { b };
            (0..layers).map(|layer| plain(source(layer), layer)).collect()
        })
    }

    /// A source without the quarter of its layers that change the stream least (block influence: Men et al. 2024,
    /// arXiv:2403.03853; Muralidharan et al. 2024, arXiv:2407.14679).
    fn pruned(&self, source: usize) -> Option<Vec<Step>> {
        let influence = &self.influence[source];
        let mut order: Vec<usize> = (0..influence.len()).collect();
        order.sort_by(|&i, &j| influence[i].total_cmp(&influence[j]));
        let dropped = &order[..(order.len() / 4).max(1).min(order.len())];
        let kept = self
            .as_it_is(source)
            .into_iter()
            .filter(|step| !dropped.contains(&step.layer));
        (order.len() > 1).then(|| kept.collect())
    }
}

fn plain(source: usize, layer: usize) -> Step {
    Step {
        source,
        layer,
        scale: 1.0,
        gene: None,
    }
}

/// Keeps `room` elements: the surplus falls out of the middle.
fn cut_middle(steps: &mut Vec<Step>, room: usize) {
    if let Some(surplus @ 1..) = steps.len().checked_sub(room) {
        let from = room.div_ceil(2);
        steps.drain(from..from + surplus);
    }
}

/// What a layer whose stream is g times smaller has to add, as parameters that mergekit reads.
fn folded(fold: Fold, g: f64) -> Parameters {
    if g == 1.0 {
        return Parameters::new();
    }
    let (name, filters): (&str, Vec<(&str, f64)>) = match fold {
        Fold::Projections => ("scale", vec![("o_proj", 1.0 / g), ("down_proj", 1.0 / g)]),
        Fold::Ends(ends, mixer) => {
            let ends = ends.into_iter().chain(mixer);
            ("scale", ends.map(|end| (end, 1.0 / g)).collect())
        }
        // What reads the stream itself has to see it g times larger; a bias adds to what was read.
        Fold::PostNorms => (
            "scale",
            vec![
                ("post_attention_layernorm", 1.0 / g),
                ("post_feedforward_layernorm", 1.0 / g),
                ("q_proj.weight", g),
                ("k_proj.weight", g),
                ("v_proj.weight", g),
                ("gate_proj.weight", g),
                ("up_proj.weight", g),
            ],
        ),
        Fold::ShiftedPostNorms => (
            "gain",
            vec![
                ("post_attention_layernorm", 1.0 / g),
                ("post_feedforward_layernorm", 1.0 / g),
            ],
        ),
    };
    let entry = |filter: Option<&str>, value: f64| Filtered {
        filter: filter.map(String::from),
        value: Box::new(ParamValue::Number(value)),
    };
    let filters = filters.into_iter().map(|(filter, value)| entry(Some(filter), value));
    let list = filters.chain([entry(None, 1.0)]).collect();
    Parameters::from([(name.to_string(), ParamValue::Filtered(list))])
}

/// The g of [`folded`] parameters; `None` for any others.
fn unfolded(fold: Fold, parameters: &Parameters) -> Option<f64> {
    let Some((_, value)) = parameters.first_key_value() else {
        return Some(1.0);
    };
    let ParamValue::Filtered(entries) = value else {
        return None;
    };
    let ParamValue::Number(factor) = *entries.first()?.value else {
        return None;
    };
    let g = 1.0 / factor;
    let near = |a: &Parameters| {
        let numbers = |p: &Parameters| -> Option<Vec<(Option<String>, f64)>> {
            let Some((_, ParamValue::Filtered(entries))) = p.first_key_value() else {
                return None;
            };
            let number = |e: &Filtered| match *e.value {
                ParamValue::Number(n) => Some((e.filter.clone(), n)),
                _ => None,
            };
            entries.iter().map(number).collect()
        };
        type Entry = (Option<String>, f64);
        let (a, b) = (numbers(a)?, numbers(parameters)?);
        let same = |(x, y): (&Entry, &Entry)| x.0 == y.0 && (x.1 - y.1).abs() <= 1e-9 * y.1.abs();
        Some(a.len() == b.len() && a.iter().zip(&b).all(same))
    };
    (near(&folded(fold, g)) == Some(true)).then_some(g)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Codec, Space};
    use super::*;
    use crate::recipe::{read, write};

    const SPACE: &str = "
name: t
models: {base: b, maths: m, spanish: s}
base: base
data_flow_space:
  sources: [maths, spanish]
  repeats: 2
  max_layers: 6
  scales: [0.5, 2.0]
  pin: {first: maths, last: maths}
fitness:
  tasks: [gsm8k]
";

    fn codec_for(text: &str, fold: Fold) -> Codec {
        let space = Space::parse(Path::new("s.yaml"), text).unwrap();
        let shape = Shape {
            layers: 4,
            out_dtype: DType::F32,
            fold,
        };
        Codec::new(&space, shape).unwrap()
    }

    fn codec(text: &str) -> Codec {
        codec_for(text, Fold::Projections)
    }

    fn gene(codec: &Codec, name: &str) -> usize {
        let position = codec.genes().iter().position(|gene| gene.name == name);
        position.unwrap_or_else(|| panic!("no gene {name}"))
    }

    fn with(codec: &Codec, pairs: &[(&str, f64)]) -> Vec<f64> {
        let choice = |g: &GeneSpec| matches!(g.kind, GeneKind::Choice { .. });
        let mut genotype: Vec<f64> = codec
            .genes()
            .iter()
            .map(|g| if choice(g) { 0.0 } else { 1.0 })
            .collect();
        pairs
            .iter()
            .for_each(|(name, value)| genotype[gene(codec, name)] = *value);
        genotype
    }

    /// Source and layer range of each slice.
    fn slices(recipe: &Recipe) -> Vec<(String, [usize; 2])> {
        let Body::Slices(slices) = &recipe.result().body else {
            panic!("slices")
        };
        let of = |slice: &Slice| (slice.sources[0].model.clone(), slice.sources[0].layer_range.unwrap());
        slices.iter().map(of).collect()
    }

    fn named(slices: &[(&str, [usize; 2])]) -> Vec<(String, [usize; 2])> {
        slices.iter().map(|(name, range)| (name.to_string(), *range)).collect()
    }

    #[test]
    fn slots_are_all_layers_but_the_pinned_ones() {
        let codec = codec(SPACE);
        // 2 repeats · 2 sources · 4 layers, less the two pinned; a scale for each and for the pinned.
        assert_eq!((codec.slots().len(), codec.genes().len()), (14, 14 + 14 + 2));
        assert_eq!(codec.genes()[0].name, "run.maths.l1.r0");
        assert_eq!(codec.genes()[13].name, "run.spanish.l3.r1");
        assert_eq!(codec.genes()[14].name, "scale.first");
        assert_eq!(codec.genes()[29].name, "scale.last");
    }

    #[test]
    fn a_path_becomes_slices_and_its_scales_fold() {
        let codec = codec(SPACE);
        let genotype = with(
            &codec,
            &[
                ("run.maths.l1.r0", 1.0),
                ("run.spanish.l2.r0", 1.0),
                ("scale.spanish.l2.r0", 0.5),
                ("scale.last", 1.6),
                ("scale.maths.l2.r1", 0.7), // does not run
            ],
        );
        let recipe = codec.decode(&genotype);
        assert_eq!(
            slices(&recipe),
            named(&[("maths", [0, 2]), ("spanish", [2, 3]), ("maths", [3, 4])])
        );
        let Body::Slices(body) = &recipe.result().body else {
            panic!("slices")
        };
        let g: Vec<f64> = body
            .iter()
            .map(|slice| unfolded(Fold::Projections, &slice.sources[0].parameters).unwrap())
            .collect();
        assert_eq!(g, [1.0, 0.5, 0.8]);
        assert_eq!(recipe.result().donor(), "base");
        let mut other = genotype.clone();
        other[gene(&codec, "scale.maths.l2.r1")] = 1.9;
        assert_eq!(codec.decode(&other).digest(), recipe.digest());
        let live = codec.live(&genotype);
        assert!(live[gene(&codec, "scale.last")] && live[gene(&codec, "run.maths.l2.r1")]);
        assert!(!live[gene(&codec, "scale.maths.l2.r1")]);
        let back = codec.encode(&recipe).unwrap();
        assert_eq!(codec.decode(&back), recipe);
        let text = write::to_yaml(&recipe);
        assert_eq!(read::parse(Path::new("r.yaml"), &text).unwrap(), recipe, "{text}");
    }

    #[test]
    fn every_fold_reads_back() {
        let ends = Fold::Ends(["attn.c_proj", "mlp.c_proj"], None);
        let hybrid = Fold::Ends(["self_attn.o_proj", "mlp.down_proj"], Some("linear_attn.out_proj"));
        for fold in [Fold::Projections, Fold::PostNorms, Fold::ShiftedPostNorms, ends, hybrid] {
            let codec = codec_for(SPACE, fold);
            let genotype = with(
                &codec,
                &[
                    ("run.spanish.l1.r0", 1.0),
                    ("scale.spanish.l1.r0", 1.3),
                    ("scale.first", 0.9),
                ],
            );
            let recipe = codec.decode(&genotype);
            assert_eq!(codec.encode(&recipe).unwrap(), genotype, "{fold:?}");
            let text = write::to_yaml(&recipe);
            assert_eq!(read::parse(Path::new("r.yaml"), &text).unwrap(), recipe, "{text}");
            assert_eq!(
                text.starts_with("# mergekit knows no `gain`"),
                fold == Fold::ShiftedPostNorms
            );
        }
    }

    #[test]
    fn too_long_a_path_loses_its_middle_and_an_empty_one_is_a_source() {
        let all_on = codec(SPACE);
        let mut genotype = with(&all_on, &[]);
        all_on.slots().iter().for_each(|slot| genotype[slot.run] = 1.0);
        let recipe = all_on.decode(&genotype);
        assert_eq!(
            slices(&recipe),
            named(&[("maths", [0, 3]), ("spanish", [2, 4]), ("maths", [3, 4])])
        );
        assert_eq!(all_on.live(&genotype).iter().filter(|live| **live).count(), 14 + 6);
        assert_eq!(
            slices(&all_on.decode(&with(&all_on, &[]))),
            named(&[("maths", [0, 1]), ("maths", [3, 4])])
        );

        let free = codec(&SPACE.replace("  pin: {first: maths, last: maths}\n", ""));
        assert_eq!(slices(&free.decode(&with(&free, &[]))), named(&[("maths", [0, 4])]));
    }

    #[test]
    fn a_search_begins_with_the_first_source_as_it_is() {
        let codec = codec(SPACE);
        let origin = codec.origin().unwrap();
        assert_eq!(slices(&codec.decode(&origin)), named(&[("maths", [0, 4])]));
        let start = codec.start(&origin);
        assert_eq!(start.mean[gene(&codec, "run.maths.l1.r0")], 0.75);
        assert!((start.mean[gene(&codec, "run.spanish.l1.r0")] - 1.0 / 12.0).abs() < 1e-15);
        assert_eq!(start.mean[gene(&codec, "scale.spanish.l1.r0")], 1.0);
        assert!((start.stds[gene(&codec, "scale.first")] - 1.5 / 20.0).abs() < 1e-15);
    }

    #[test]
    fn seeds_are_paths_of_the_space() {
        let mut codec = codec(SPACE);
        codec.set_block_influence("spanish", &[0.9, 0.1, 0.3, 0.4]);
        let seeds = codec.seeds();
        let names: Vec<&str> = seeds.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "maths",
                "spanish",
                "frankenmerge",
                "self_stack.maths",
                "self_stack.spanish",
                "pruned.spanish"
            ]
        );
        for (name, recipe) in &seeds {
            let genotype = codec.encode(recipe).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(codec.decode(&genotype), *recipe, "{name}");
        }
        // The ends are pinned, so `spanish` lends its middle only, and swapping layers comes to the same.
        assert_eq!(
            slices(&seeds[1].1),
            named(&[("maths", [0, 1]), ("spanish", [1, 3]), ("maths", [3, 4])])
        );
        assert_eq!(slices(&seeds[3].1), named(&[("maths", [0, 3]), ("maths", [1, 4])]));
        assert_eq!(
            slices(&seeds[5].1),
            named(&[("maths", [0, 1]), ("spanish", [2, 3]), ("maths", [3, 4])])
        );
        let baselines = codec.baselines();
        let names: Vec<&str> = baselines.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[5..], ["self_stack", "frankenmerge"]);
        let swap = baselines.iter().find(|(name, _)| name == "layer_swap").unwrap();
        assert!(
            codec.encode(&swap.1).is_ok(),
            "a swap is a path, but for its blended layers"
        );
        assert!(codec.encode(&baselines[0].1).is_err(), "a mixture is not");
    }

    #[test]
    fn the_child_of_the_parameter_space_becomes_a_source() {
        let both = SPACE.replace(
            "data_flow_space:",
            "hybrid: ps_then_dfs\nparameter_space: {method: task_arithmetic, genes: {weight: [0.0, 1.5]}}\ndata_flow_space:",
        );
        let first = codec(&both);
        assert_eq!(first.genes().len(), 2);
        assert_eq!((first.slots().len(), first.origin()), (0, None));
        let child = first.decode(&[0.5, 1.25]);
        let second = first.then_data_flow(&child).unwrap();
        assert_eq!(second.slots().len(), 2 * 3 * 4 - 2);
        let origin = second.origin().unwrap();
        let recipe = second.decode(&origin);
        // Both ends are pinned to `maths`.
        assert_eq!(
            slices(&recipe),
            named(&[("maths", [0, 1]), ("ps", [1, 3]), ("maths", [3, 4])])
        );
        assert_eq!(recipe.stages.len(), 2);
        assert_eq!(recipe.stages[0].name.as_deref(), Some("ps"));
        assert_eq!(recipe.models(), ["base", "maths", "spanish"]);
        assert_eq!(second.encode(&child).unwrap(), origin);
        assert_eq!(second.encode(&recipe).unwrap(), origin);
        assert!(second.then_data_flow(&child).is_none() && codec(SPACE).then_data_flow(&child).is_none());
        let without = second.decode(&with(&second, &[("run.spanish.l1.r0", 1.0)]));
        assert_eq!(
            without.stages.len(),
            1,
            "a path that does not visit the child does not need it"
        );

        let joint = codec(&both.replace("ps_then_dfs", "joint"));
        let mut genotype = vec![0.5, 1.25];
        genotype.extend(&origin);
        assert_eq!(joint.decode(&genotype), recipe);
        assert_eq!(joint.encode(&recipe).unwrap(), genotype);
        assert_eq!(joint.encode(&child).unwrap(), genotype);
        assert_eq!(joint.slots()[0].run, 2);
        assert!(joint.live(&genotype)[0]);
        for slot in joint.slots() {
            genotype[slot.run] = 0.0;
        }
        assert!(!joint.live(&genotype)[0], "nothing of the child is left");
    }

    #[test]
    fn what_is_no_path_of_the_space_is_not_encoded() {
        let codec = codec(&SPACE.replace("repeats: 2", "repeats: 1"));
        let twice = "merge_method: passthrough\nslices:\n- sources: [{model: maths, layer_range: [0, 2]}]\n\
                     - sources: [{model: maths, layer_range: [1, 4]}]\n";
        let error = |text: &str| {
            let recipe = read::parse(Path::new("r.yaml"), text).unwrap();
            codec.encode(&recipe).unwrap_err().to_string()
        };
        assert!(error(twice).contains("raise 'repeats'"), "{}", error(twice));
        assert!(error(&twice.replace("model: maths", "model: base")).contains("'base' is not among"));
        let scaled = twice.replace("[0, 2]}", "[0, 2], parameters: {scale: 0.5}}");
        assert!(error(&scaled).contains("no scale of a layer's input"));
    }

    proptest::proptest! {
        #[test]
        fn every_genotype_is_a_recipe(values in proptest::collection::vec(-3.0f64..3.0, 30)) {
            let codec = codec(SPACE);
            let recipe = codec.decode(&values);
            let layers: usize = slices(&recipe).iter().map(|(_, [start, end])| end - start).sum();
            proptest::prop_assert!((2..=6).contains(&layers));
            let text = write::to_yaml(&recipe);
            proptest::prop_assert_eq!(read::parse(Path::new("r.yaml"), &text).unwrap(), recipe.clone());
            let again = codec.decode(&codec.encode(&recipe).unwrap());
            proptest::prop_assert_eq!(slices(&again), slices(&recipe));
        }
    }
}
