//! Staged widening of a parameter space: few genes first, more where they have shown an effect.
//!
//! A narrow codec moves several genes of the whole space as one. It begins with one gene for each parameter and model
//! ([`Codec::narrowed`]); [`Codec::widened`] tells modules apart, then layer groups, and only for the genes that it is
//! told to split; [`Codec::carry`] takes what was learnt along, the covariance too. A narrow genotype is a point of the
//! whole space, so that recipes, and with them every answer, stay what they are. In the same way a search that begins
//! without some experts ([`Codec::around_soup`]) spends few genes on them.

use super::{
    Codec, GeneKind, Stage, Start,
    codec::GeneSpec,
    parameters::{Coordinates, ParameterCodec},
};

/// Which genes of the whole space move as one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ties {
    /// A partition of the genes, in the order of their first members.
    tied: Vec<Vec<usize>>,
    stage: Stage,
}

/// The chance of taking noise for an effect.
pub const SIGNIFICANT: f64 = 0.05;

/// The correlation with which the parts of a split gene begin: they were one, and are to become independent.
const SIBLINGS: f64 = 0.5;

/// The parts of a split gene begin with at least this part of their range as standard deviation: the search of what they
/// have in common may have converged, that of their differences has not begun.
const LEAST_SPREAD: f64 = 1.0 / 12.0;

/// How far the genes of experts that a search begins without spread, relative to others'.
const OTHERS_SPREAD: f64 = 0.3;

impl Ties {
    /// Everything that differs only in group and module is one.
    fn narrowest(coordinates: &[Coordinates]) -> Self {
        let all: Vec<usize> = (0..coordinates.len()).collect();
        Self {
            tied: split(&all, |gene| (coordinates[gene].parameter, coordinates[gene].model)),
            stage: Stage::Global,
        }
    }

    /// Some genes are one for each parameter and model, the rest stand alone.
    fn of_some(tied: &[bool], coordinates: &[Coordinates]) -> Self {
        let all: Vec<usize> = (0..coordinates.len()).collect();
        let alone = |gene: usize| (!tied[gene]).then_some(gene);
        Self {
            tied: split(&all, |gene| {
                (alone(gene), coordinates[gene].parameter, coordinates[gene].model)
            }),
            stage: Stage::ParameterSpace,
        }
    }

    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The stage after this one: modules are told apart first, if both they and layer groups are tied.
    fn next(&self, coordinates: &[Coordinates]) -> Option<Stage> {
        let differ = |key: &dyn Fn(usize) -> usize| {
            let is_one = |tied: &Vec<usize>| split(tied, key).len() == 1;
            !self.tied.iter().all(is_one)
        };
        match self.stage {
            Stage::Global if differ(&|g| coordinates[g].module) && differ(&|g| coordinates[g].group) => {
                Some(Stage::Modules)
            }
            Stage::Global | Stage::Modules => Some(Stage::ParameterSpace),
            Stage::ParameterSpace | Stage::DataFlowSpace | Stage::Joint | Stage::Genes => None,
        }
    }

    pub fn genes(&self, full: &[GeneSpec], coordinates: &[Coordinates]) -> Vec<GeneSpec> {
        let gene = |tied: &Vec<usize>| GeneSpec {
            name: name(tied, full, coordinates),
            kind: full[tied[0]].kind,
        };
        self.tied.iter().map(gene).collect()
    }

    /// The point of the whole space.
    pub fn expand(&self, narrow: &[f64]) -> Vec<f64> {
        let mut full = vec![0.0; self.tied.iter().map(Vec::len).sum()];
        for (value, tied) in narrow.iter().zip(&self.tied) {
            tied.iter().for_each(|&gene| full[gene] = *value);
        }
        full
    }

    /// Means over what is tied.
    pub fn contract(&self, full: &[f64]) -> Vec<f64> {
        let mean = |tied: &Vec<usize>| tied.iter().map(|&gene| full[gene]).sum::<f64>() / tied.len() as f64;
        self.tied.iter().map(mean).collect()
    }

    pub fn any(&self, full: &[bool]) -> Vec<bool> {
        self.tied
            .iter()
            .map(|tied| tied.iter().any(|&gene| full[gene]))
            .collect()
    }

    /// What all that is tied has in common, if it has.
    pub fn common(&self, full: &[Option<usize>]) -> Vec<Option<usize>> {
        let same = |tied: &Vec<usize>| full[tied[0]].filter(|_| tied.iter().all(|&gene| full[gene] == full[tied[0]]));
        self.tied.iter().map(same).collect()
    }

    /// For each tie the narrower one that it was a part of.
    fn origins(&self, narrower: &Ties) -> Vec<usize> {
        let holds = |gene: usize| narrower.tied.iter().position(|tied| tied.contains(&gene));
        let origin = |tied: &Vec<usize>| holds(tied[0]).expect("both are partitions of the same genes");
        self.tied.iter().map(origin).collect()
    }

    fn widened(&self, wanted: &[bool], coordinates: &[Coordinates]) -> Option<Self> {
        let stage = self.next(coordinates)?;
        let parts = self.tied.iter().zip(wanted).flat_map(|(tied, wanted)| match stage {
            _ if !wanted => vec![tied.clone()],
            Stage::Modules => split(tied, |gene| coordinates[gene].module),
            // After a stage that told modules apart, those that it left together stay together.
            _ if self.stage == Stage::Modules => split(tied, |gene| coordinates[gene].group),
            _ => split(tied, |gene| (coordinates[gene].group, coordinates[gene].module)),
        });
        let mut tied: Vec<Vec<usize>> = parts.collect();
        tied.sort();
        Some(Self { tied, stage })
    }
}

/// Cuts a set of genes by a property, in the order of first members.
fn split<K: PartialEq>(genes: &[usize], key: impl Fn(usize) -> K) -> Vec<Vec<usize>> {
    let mut parts: Vec<(K, Vec<usize>)> = Vec::new();
    for &gene in genes {
        let key = key(gene);
        match parts.iter_mut().find(|(known, _)| *known == key) {
            Some((_, part)) => part.push(gene),
            None => parts.push((key, vec![gene])),
        }
    }
    parts.into_iter().map(|(_, part)| part).collect()
}

/// The first gene's name without the coordinates in which the tied genes differ.
fn name(tied: &[usize], full: &[GeneSpec], coordinates: &[Coordinates]) -> String {
    let first = &coordinates[tied[0]];
    let differs = |same: &dyn Fn(&Coordinates) -> bool| !tied.iter().all(|&gene| same(&coordinates[gene]));
    let mut parts: Vec<&str> = full[tied[0]].name.split('.').collect();
    if differs(&|c| c.module == first.module) {
        parts.pop();
    }
    if differs(&|c| c.group == first.group) {
        let group = format!("g{}", first.group);
        if let Some(at) = parts.iter().rposition(|part| *part == group) {
            parts.remove(at);
        }
    }
    parts.join(".")
}

impl Codec {
    /// The same parameter space with one gene for each parameter and model, whatever the layer group and module; `None`
    /// if there is nothing to tie, or a data-flow space beside it.
    pub fn narrowed(&self) -> Option<Self> {
        let ps = self.parameters.as_ref().filter(|_| self.flow.is_none())?;
        let ties = Ties::narrowest(&ps.coordinates());
        (ties.tied.len() < ps.genes().len()).then(|| self.tied(ps, ties))
    }

    /// A search that begins with [`Codec::soup`]: each of the other experts has one gene for each parameter, which spreads
    /// less than the rest. So it can still be taken in, but costs the search of the members hardly anything.
    pub fn around_soup(&self, members: &[&str]) -> Option<(Self, Start)> {
        let (ps, mean) = (self.parameters.as_ref()?, self.soup(members)?);
        let others = ps.of_others(members);
        let ties = match &self.ties {
            Some(ties) => ties.clone(),
            None => Ties::of_some(&others, &ps.coordinates()),
        };
        let others = ties.any(&others);
        let codec = self.tied(ps, ties);
        let mut start = codec.start(&codec.contract(&self.expand(&mean)));
        for (std, _) in start.stds.iter_mut().zip(others).filter(|(_, is_others)| *is_others) {
            *std *= OTHERS_SPREAD;
        }
        Some((codec, start))
    }

    /// The codec of the next stage: each gene for which `split` is true becomes one for each module, and in the stage
    /// after that one for each layer group. `None` of a codec that is not narrow.
    pub fn widened(&self, split: &[bool]) -> Option<Self> {
        let (ps, ties) = (self.parameters.as_ref()?, self.ties.as_ref()?);
        Some(self.tied(ps, ties.widened(split, &ps.coordinates())?))
    }

    /// The codec of the next stage with every gene split, and the place of the gene that each of its genes is a part of. `None` of a
    /// codec that is not narrow.
    pub fn parts(&self) -> Option<(Self, Vec<usize>)> {
        let wider = self.widened(&vec![true; self.genes.len()])?;
        let of = wider.ties.as_ref()?.origins(self.ties.as_ref()?);
        Some((wider, of))
    }

    pub(super) fn wider_stage(&self) -> Option<Stage> {
        let (ps, ties) = (self.parameters.as_ref()?, self.ties.as_ref()?);
        ties.next(&ps.coordinates())
    }

    fn tied(&self, ps: &ParameterCodec, ties: Ties) -> Self {
        let mut codec = self.clone();
        codec.genes = ties.genes(ps.genes(), &ps.coordinates());
        codec.ties = Some(ties);
        codec
    }

    /// What a narrower codec's distribution is in this one's genes: each takes the mean and the standard deviation of the
    /// gene that it was a part of, and the correlations with the others; the parts of one gene begin half correlated.
    pub fn carry(&self, narrower: &Codec, start: &Start) -> Start {
        let (Some(ties), Some(before)) = (&self.ties, &narrower.ties) else {
            return start.clone();
        };
        let (origins, n) = (ties.origins(before), narrower.genes.len());
        let is_split = |i: usize| origins.iter().filter(|&&origin| origin == origins[i]).count() > 1;
        let std = |i: usize| match self.genes[i].kind {
            GeneKind::Real { low, high } if is_split(i) => start.stds[origins[i]].max(LEAST_SPREAD * (high - low)),
            _ => start.stds[origins[i]],
        };
        // S P C Pᵀ S off the diagonal, with S² = SIBLINGS where a gene was split: positive definite as C is.
        let share = |i: usize| if is_split(i) { SIBLINGS.sqrt() } else { 1.0 };
        let correlation = |i: usize, j: usize| match i == j {
            true => 1.0,
            false => share(i) * share(j) * start.correlations[origins[i] * n + origins[j]],
        };
        let genes = 0..self.genes.len();
        Start {
            mean: origins.iter().map(|&origin| start.mean[origin]).collect(),
            stds: genes.clone().map(std).collect(),
            correlations: match start.correlations.is_empty() {
                true => Vec::new(),
                false => genes
                    .clone()
                    .flat_map(|i| genes.clone().map(move |j| (i, j)))
                    .map(|(i, j)| correlation(i, j))
                    .collect(),
            },
        }
    }
}

/// Which genes have shown more effect on the fitness than noise would: those whose quadratic regression over the points is
/// significant. Quadratic, because around an optimum nothing but curvature is left of an effect. Too few points show
/// nothing.
///
/// With m = n − 3 degrees of freedom left, the F test of two regressors has P = (1 − R²)^(m/2).
pub fn effects(points: &[(&[f64], f64)]) -> Vec<bool> {
    let genes = points.first().map_or(0, |(genotype, _)| genotype.len());
    let fitness = centred(points.iter().map(|(_, fitness)| *fitness).collect());
    let effect = |gene: usize| {
        let value = centred(points.iter().map(|(genotype, _)| genotype[gene]).collect());
        let mut square = centred(value.iter().map(|x| x * x).collect());
        let slope = dot(&square, &value) / dot(&value, &value);
        square.iter_mut().zip(&value).for_each(|(q, x)| *q -= slope * x);
        let explained = |part: &[f64]| {
            let (xx, xy) = (dot(part, part), dot(part, &fitness));
            // Of a value of two kinds the square says nothing new.
            if xx > 1e-12 * dot(&value, &value).powi(2) {
                xy * xy / xx
            } else {
                0.0
            }
        };
        let left = 1.0 - (explained(&value) + explained(&square)) / dot(&fitness, &fitness);
        // NaN, where nothing varies, is no effect.
        points.len() > 5 && libm::pow(left.clamp(0.0, 1.0), (points.len() - 3) as f64 / 2.0) < SIGNIFICANT
    };
    (0..genes).map(effect).collect()
}

fn centred(mut values: Vec<f64>) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter_mut().for_each(|value| *value -= mean);
    values
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Fold, GeneKind, Shape, Space};
    use super::*;
    use crate::recipe::DType;

    const SPACE: &str = "
name: t
models: {base: b, maths: m, spanish: s}
base: base
parameter_space:
  method: [ties, linear]
  layer_groups: 2
  modules: [attn, mlp, other]
  genes:
    weight: [0.0, 1.5]
    density: {range: [0.1, 1.0], per: [model, group]}
    lambda: {range: [0.5, 1.5], per: recipe}
fitness:
  tasks: [gsm8k]
";

    fn codec(text: &str) -> Codec {
        let space = Space::parse(Path::new("s.yaml"), text).unwrap();
        let shape = Shape {
            layers: 4,
            out_dtype: DType::F32,
            fold: Fold::Projections,
        };
        Codec::new(&space, shape).unwrap()
    }

    fn names(codec: &Codec) -> Vec<&str> {
        codec.genes().iter().map(|gene| gene.name.as_str()).collect()
    }

    #[test]
    fn experts_that_a_search_begins_without_have_one_gene_for_each_parameter() {
        let plain = codec(&SPACE.replace("[ties, linear]", "ties"));
        let (soup, start) = plain.around_soup(&["spanish"]).unwrap();
        let expected = ["weight.maths", "weight.spanish.g0.attn", "weight.spanish.g0.mlp"];
        assert_eq!(names(&soup)[..3], expected);
        assert_eq!(soup.genes().len(), 1 + 6 + 1 + 2 + 1);
        assert_eq!(start.mean, [[0.0].as_slice(), &[1.0; 10]].concat());
        assert!(start.stds[0] < start.stds[1] / 3.0);
        assert_eq!((soup.stage(), soup.next_stage()), (Stage::ParameterSpace, None));
        let members = plain.soup(&["spanish"]).unwrap();
        assert_eq!(soup.decode(&start.mean).digest(), plain.decode(&members).digest());

        let narrow = plain.narrowed().unwrap();
        let (soup, start) = narrow.around_soup(&["spanish"]).unwrap();
        assert_eq!(names(&soup), names(&narrow));
        assert_eq!(start.mean[..2], [0.0, 1.0]);
        assert!(start.stds[0] < start.stds[1] / 3.0);
        assert_eq!(soup.next_stage(), narrow.next_stage());
    }

    #[test]
    fn genes_split_by_module_and_then_by_group() {
        let full = codec(SPACE);
        assert_eq!(full.genes().len(), 1 + 12 + 4 + 1);
        let narrow = full.narrowed().unwrap();
        assert_eq!(
            names(&narrow),
            [
                "method",
                "weight.maths",
                "weight.spanish",
                "density.maths",
                "density.spanish",
                "lambda"
            ]
        );
        assert_eq!(narrow.genes()[0].kind, GeneKind::Choice { n: 2 });
        let split = [true, true, false, true, false, true];
        let wider = narrow.widened(&split).unwrap();
        assert_eq!(
            names(&wider),
            [
                "method",
                "weight.maths.attn",
                "weight.maths.mlp",
                "weight.maths.other",
                "weight.spanish",
                "density.maths",
                "density.spanish",
                "lambda"
            ]
        );
        let widest = wider
            .widened(&[false, true, false, false, true, false, false, true])
            .unwrap();
        assert_eq!(
            names(&widest),
            [
                "method",
                "weight.maths.g0.attn",
                "weight.maths.mlp",
                "weight.maths.other",
                "weight.maths.g1.attn",
                "weight.spanish.g0",
                "weight.spanish.g1",
                "density.maths",
                "density.spanish",
                "lambda"
            ]
        );
        let mut widest = narrow.clone();
        let mut stages = vec![narrow.stage()];
        while let Some(next) = widest.widened(&vec![true; widest.genes().len()]) {
            assert_eq!(widest.next_stage(), Some(next.stage()));
            widest = next;
            stages.push(widest.stage());
        }
        assert_eq!(stages, [Stage::Global, Stage::Modules, Stage::ParameterSpace]);
        assert_eq!(names(&widest), names(&full));
        assert!(full.widened(&[true; 18]).is_none());
        // Where nothing has shown an effect the stage goes on as it is, and is the last one in the end.
        let same = narrow.widened(&[false; 6]).unwrap();
        assert_eq!((names(&same), same.stage()), (names(&narrow), Stage::Modules));
        let grouped = codec(&SPACE.replace("  modules: [attn, mlp, other]\n", ""));
        let grouped = grouped.narrowed().unwrap();
        assert_eq!(grouped.next_stage(), Some(Stage::ParameterSpace));
        let plain = SPACE.replace("  layer_groups: 2\n  modules: [attn, mlp, other]\n", "");
        assert!(codec(&plain).narrowed().is_none());
    }

    #[test]
    fn a_narrow_genotype_is_a_point_of_the_whole_space() {
        let full = codec(SPACE);
        let narrow = full.narrowed().unwrap();
        let genotype = [0.0, 1.25, 0.5, 0.8, 0.4, 1.2];
        let mut whole = vec![0.0];
        whole.extend([1.25; 6].into_iter().chain([0.5; 6]));
        whole.extend([0.8, 0.8, 0.4, 0.4, 1.2]);
        assert_eq!(narrow.decode(&genotype), full.decode(&whole));
        assert_eq!(narrow.encode(&full.decode(&whole)).unwrap(), genotype);
        assert_eq!(
            narrow.live(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
            [true, true, true, false, false, false]
        );

        let wider = narrow.widened(&[true; 6]).unwrap();
        let start = Start {
            mean: genotype.to_vec(),
            stds: vec![1.0, 0.1, 0.2, 0.3, 0.4, 0.5],
            correlations: vec![],
        };
        let carried = wider.carry(&narrow, &start);
        assert_eq!(wider.decode(&carried.mean), narrow.decode(&genotype));
        // The first weight had converged below a twelfth of its range.
        assert_eq!(carried.stds[1..7], [0.125, 0.125, 0.125, 0.2, 0.2, 0.2]);
        assert!(carried.correlations.is_empty());
    }

    #[test]
    fn the_covariance_is_carried_over() {
        let narrow = codec(SPACE).narrowed().unwrap();
        // The first weight and the density of its model go together: 0.6.
        let mut correlations = vec![0.0; 36];
        (0..6).for_each(|i| correlations[i * 6 + i] = 1.0);
        (correlations[6 + 3], correlations[3 * 6 + 1]) = (0.6, 0.6);
        let start = Start {
            mean: vec![0.0, 1.25, 0.5, 0.8, 0.4, 1.2],
            stds: vec![0.3; 6],
            correlations,
        };
        let wider = narrow.widened(&[false, true, false, false, false, false]).unwrap();
        let carried = wider.carry(&narrow, &start);
        let of = |a: &str, b: &str| {
            let at = |name: &str| names(&wider).iter().position(|n| *n == name).unwrap();
            carried.correlations[at(a) * 8 + at(b)]
        };
        assert_eq!(of("weight.maths.attn", "weight.maths.attn"), 1.0);
        assert!((of("weight.maths.attn", "weight.maths.mlp") - 0.5).abs() < 1e-15);
        assert!((of("weight.maths.mlp", "density.maths") - 0.6 * 0.5f64.sqrt()).abs() < 1e-15);
        assert_eq!(of("weight.spanish", "density.maths"), 0.0);
    }

    #[test]
    fn an_effect_stands_out_of_the_noise() {
        // Fitness follows the first gene, ignores the second, and the third never moves.
        let points: Vec<(Vec<f64>, f64)> = (0..20)
            .map(|k| {
                let (x, other) = (f64::from(k) / 20.0, f64::from(k * 7 % 20) / 20.0);
                let noise = f64::from(k * 13 % 7) / 70.0;
                (vec![x, other, 0.5], 0.3 + 0.4 * x + noise)
            })
            .collect();
        let points: Vec<(&[f64], f64)> = points.iter().map(|(x, f)| (x.as_slice(), *f)).collect();
        assert_eq!(effects(&points), [true, false, false]);
        // Symmetric around an optimum.
        let hill: Vec<(&[f64], f64)> = points
            .iter()
            .map(|(x, f)| (*x, *f - 0.4 * x[0] - 3.0 * (x[0] - 0.475).powi(2)))
            .collect();
        assert_eq!(effects(&hill), [true, false, false]);
        let flat: Vec<(&[f64], f64)> = points.iter().map(|(x, _)| (*x, 0.3)).collect();
        assert_eq!(effects(&flat), [false; 3]);
        assert_eq!(effects(&points[..4]), [false; 3], "four points show nothing");
        assert_eq!(effects(&[]), [false; 0]);
    }
}
