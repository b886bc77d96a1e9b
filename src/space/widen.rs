//! Staged widening of a parameter space: few genes first, more where they have shown an effect.
//!
//! A narrow codec moves several genes of the whole space as one. It begins with one gene for each parameter and model
//! ([`Codec::narrowed`]); [`Codec::widened`] tells modules apart, then layer groups, and only for the genes that it is
//! told to split; [`Codec::carry`] takes what was learnt along. A narrow genotype is a point of the whole space, so that
//! recipes, and with them every answer, stay what they are.

use super::{
    Codec, Start,
    codec::GeneSpec,
    parameters::{Coordinates, ParameterCodec},
};

/// Which genes of the whole space move as one: a partition of them, in the order of their first members.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ties(Vec<Vec<usize>>);

/// A gene's effect must exceed its standard error by this factor: about one false alarm in twenty.
const SIGNIFICANT: f64 = 2.0;

impl Ties {
    /// Everything that differs only in group and module is one.
    fn narrowest(coordinates: &[Coordinates]) -> Self {
        let all: Vec<usize> = (0..coordinates.len()).collect();
        Self(split(&all, |gene| {
            (coordinates[gene].parameter, coordinates[gene].model)
        }))
    }

    pub fn genes(&self, full: &[GeneSpec], coordinates: &[Coordinates]) -> Vec<GeneSpec> {
        let gene = |tied: &Vec<usize>| GeneSpec {
            name: name(tied, full, coordinates),
            kind: full[tied[0]].kind,
        };
        self.0.iter().map(gene).collect()
    }

    /// The point of the whole space.
    pub fn expand(&self, narrow: &[f64]) -> Vec<f64> {
        let mut full = vec![0.0; self.0.iter().map(Vec::len).sum()];
        for (value, tied) in narrow.iter().zip(&self.0) {
            tied.iter().for_each(|&gene| full[gene] = *value);
        }
        full
    }

    /// Means over what is tied.
    pub fn contract(&self, full: &[f64]) -> Vec<f64> {
        let mean = |tied: &Vec<usize>| tied.iter().map(|&gene| full[gene]).sum::<f64>() / tied.len() as f64;
        self.0.iter().map(mean).collect()
    }

    pub fn any(&self, full: &[bool]) -> Vec<bool> {
        self.0.iter().map(|tied| tied.iter().any(|&gene| full[gene])).collect()
    }

    /// What all that is tied has in common, if it has.
    pub fn common(&self, full: &[Option<usize>]) -> Vec<Option<usize>> {
        let same = |tied: &Vec<usize>| full[tied[0]].filter(|_| tied.iter().all(|&gene| full[gene] == full[tied[0]]));
        self.0.iter().map(same).collect()
    }

    fn widened(&self, wanted: &[bool], coordinates: &[Coordinates]) -> Self {
        let parts = self.0.iter().zip(wanted).flat_map(|(tied, wanted)| {
            if !wanted {
                return vec![tied.clone()];
            }
            let by_module = split(tied, |gene| coordinates[gene].module);
            if by_module.len() > 1 {
                by_module
            } else {
                split(tied, |gene| coordinates[gene].group)
            }
        });
        let mut parts: Vec<Vec<usize>> = parts.collect();
        parts.sort();
        Self(parts)
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
        (ties.0.len() < ps.genes().len()).then(|| self.tied(ps, ties))
    }

    /// The next wider codec: each gene for which `split` is true becomes one for each module, or where modules are apart
    /// already one for each layer group. `None` if no gene can be split any further; so a codec that is not narrow has
    /// no wider one.
    pub fn widened(&self, split: &[bool]) -> Option<Self> {
        let (ps, ties) = (self.parameters.as_ref()?, self.ties.as_ref()?);
        let wider = ties.widened(split, &ps.coordinates());
        (wider.0.len() > ties.0.len()).then(|| self.tied(ps, wider))
    }

    fn tied(&self, ps: &ParameterCodec, ties: Ties) -> Self {
        let mut codec = self.clone();
        codec.genes = ties.genes(ps.genes(), &ps.coordinates());
        codec.ties = Some(ties);
        codec
    }

    /// What a narrower codec's distribution is in this one's genes: each takes the mean and the standard deviation of the
    /// gene that it was a part of.
    pub fn carry(&self, narrower: &Codec, start: &Start) -> Start {
        Start {
            mean: self.contract_mean(&narrower.expand(&start.mean)),
            stds: self.contract_mean(&narrower.expand(&start.stds)),
        }
    }
}

/// Which genes have shown more effect on the fitness than noise would: those whose linear regression over the points is
/// significant. Too few points show nothing.
pub fn effects(points: &[(&[f64], f64)]) -> Vec<bool> {
    let genes = points.first().map_or(0, |(genotype, _)| genotype.len());
    let n = points.len() as f64;
    let mean = |values: &dyn Fn(usize) -> f64| (0..points.len()).map(values).sum::<f64>() / n;
    let fitness = |k: usize| points[k].1;
    let fitness_mean = mean(&fitness);
    let effect = |gene: usize| {
        let value = |k: usize| points[k].0[gene];
        let value_mean = mean(&value);
        let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
        for k in 0..points.len() {
            let (x, y) = (value(k) - value_mean, fitness(k) - fitness_mean);
            (xx, yy, xy) = (xx + x * x, yy + y * y, xy + x * y);
        }
        let explained = xy * xy / (xx * yy);
        // t² = r² (n − 2) / (1 − r²); NaN, where nothing varies, is no effect.
        explained * (n - 2.0) > SIGNIFICANT * SIGNIFICANT * (1.0 - explained) && n > 4.0
    };
    (0..genes).map(effect).collect()
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
                "density.maths.g0",
                "density.maths.g1",
                "density.spanish",
                "lambda"
            ]
        );
        let mut widest = wider;
        while let Some(next) = widest.widened(&vec![true; widest.genes().len()]) {
            widest = next;
        }
        assert_eq!(names(&widest), names(&full));
        assert!(full.widened(&[true; 18]).is_none());
        assert!(narrow.widened(&[false; 6]).is_none());
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
        };
        let carried = wider.carry(&narrow, &start);
        assert_eq!(wider.decode(&carried.mean), narrow.decode(&genotype));
        assert_eq!(carried.stds[1..7], [0.1, 0.1, 0.1, 0.2, 0.2, 0.2]);
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
        assert_eq!(effects(&points[..4]), [false; 3], "four points show nothing");
        assert_eq!(effects(&[]), [false; 0]);
    }
}
