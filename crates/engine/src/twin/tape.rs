//! The CPU's way to derivatives: what a layer computes is written down, and read backwards.
//!
//! Products and sums are computed when somebody reads them. A layer that is computed again for its derivatives alone has a last
//! product and a last sum that nobody reads: a quarter of a layer's work.

use std::{cell::OnceCell, collections::HashMap};

use heterosis_isa::Isa;

use super::{Error, batch::Batch, fused, layer::Algebra, memory};
use crate::kernels;
use crate::mixer::Mixer;
use crate::routing::Route;
use crate::spec::{Activation, DecoderSpec, Experts, LayerSpec, NormKind, QueryGrowth, Xielu};

/// A value on the tape.
pub(super) type Place = usize;

struct Node {
    made: Made,
    rows: usize,
    cols: usize,
    /// Empty until somebody reads them.
    numbers: OnceCell<Vec<f32>>,
}

/// How a value came about, with the names of the tensors within the layer.
enum Made {
    Given,
    Linear {
        x: Place,
        name: String,
    },
    Norm {
        x: Place,
        name: String,
        kind: NormKind,
    },
    NormEach {
        x: Place,
        names: Vec<String>,
        kind: NormKind,
        d: usize,
    },
    TokenRows {
        name: String,
    },
    Scaled {
        x: Place,
        factor: f32,
    },
    ScaledBy {
        x: Place,
        name: String,
    },
    ScaledColumns {
        x: Place,
        name: String,
    },
    Hold {
        x: Place,
        limit: f32,
    },
    Grow {
        x: Place,
        growth: QueryGrowth,
    },
    Part {
        x: Place,
        from: usize,
    },
    Rotate {
        x: Place,
        rope: usize,
        d: usize,
    },
    Attend {
        q: Place,
        k: Place,
        v: Place,
        attend: fused::Attend,
        sinks: Option<String>,
    },
    Gate {
        gate: Place,
        up: Option<Place>,
    },
    Xielu {
        x: Place,
        name: String,
    },
    Route {
        logits: Place,
        routes: Vec<Vec<Route>>,
    },
    Rows {
        x: Place,
        rows: Vec<u32>,
    },
    Mix {
        weights: Place,
        parts: Vec<(usize, Vec<u32>, Place)>,
    },
    Weigh {
        x: Place,
        number: Place,
    },
    Convolve {
        x: Place,
        name: String,
    },
    Remember {
        mixed: Place,
        strengths: Option<Place>,
        steps: Place,
        name: String,
    },
    Times {
        a: Place,
        b: Place,
    },
    Sigmoid {
        x: Place,
    },
    Plus {
        a: Place,
        b: Place,
    },
    Add {
        h: Place,
        branch: Place,
    },
}

/// What a tape holds, for another time.
pub(super) struct Notes(Vec<Node>);

/// The tensors of a layer, by their names within it.
pub(super) type Weights<'a> = HashMap<&'a str, &'a [f32]>;

/// A layer's computation for one batch.
pub(super) struct Tape<'a> {
    spec: &'a DecoderSpec,
    batch: &'a Batch,
    weights: &'a Weights<'a>,
    nodes: Vec<Node>,
}

impl<'a> Tape<'a> {
    pub fn new(spec: &'a DecoderSpec, batch: &'a Batch, weights: &'a Weights<'a>) -> Self {
        Tape {
            spec,
            batch,
            weights,
            nodes: Vec::new(),
        }
    }

    /// Goes on with what was noted.
    pub fn again(spec: &'a DecoderSpec, batch: &'a Batch, weights: &'a Weights<'a>, notes: Notes) -> Self {
        Tape {
            spec,
            batch,
            weights,
            nodes: notes.0,
        }
    }

    /// What is needed to go back, and the numbers of the last value. Those of a product that was added to the stream go: nobody
    /// reads them again.
    pub fn into_notes(mut self, last: Place) -> (Notes, Vec<f32>) {
        self.numbers(last);
        let out = self.nodes[last].numbers.take().unwrap_or_default();
        for place in 0..self.nodes.len() {
            if let Made::Add { branch, .. } = self.nodes[place].made
                && matches!(self.nodes[branch].made, Made::Linear { .. })
            {
                self.nodes[branch].numbers.take();
            }
        }
        (Notes(self.nodes), out)
    }

    /// The linear maps that were written down, each with the place of what it reads.
    pub fn linear_maps(&self) -> impl Iterator<Item = (&str, Place)> {
        self.nodes.iter().filter_map(|node| match &node.made {
            Made::Linear { x, name } => Some((name.as_str(), *x)),
            _ => None,
        })
    }

    /// A value, row by row, and its columns.
    pub fn value(&self, place: Place) -> (&[f32], usize) {
        (self.numbers(place), self.nodes[place].cols)
    }

    /// What goes into the layer.
    pub fn given(&mut self, numbers: Vec<f32>, cols: usize) -> Place {
        self.nodes.push(Node {
            made: Made::Given,
            rows: numbers.len() / cols,
            cols,
            numbers: numbers.into(),
        });
        self.nodes.len() - 1
    }

    pub fn into_value(mut self, place: Place) -> Vec<f32> {
        self.numbers(place);
        self.nodes.swap_remove(place).numbers.into_inner().unwrap_or_default()
    }

    pub fn numbers(&self, place: Place) -> &[f32] {
        let node = &self.nodes[place];
        node.numbers.get_or_init(|| match &node.made {
            Made::Linear { x, name } => self.product(*x, name, node.cols),
            Made::Add { h, branch } => {
                let mut out = self.numbers(*h).to_vec();
                fused::add(&mut out, self.numbers(*branch), self.spec.residual_scale);
                out
            }
            _ => unreachable!("everything else is computed when it is written down"),
        })
    }

    fn product(&self, x: Place, name: &str, outputs: usize) -> Vec<f32> {
        let weight = self.weights[format!("{name}.weight").as_str()];
        let mut out = fused::product_transposed(self.numbers(x), weight, self.nodes[x].cols, outputs);
        if let Some(bias) = self.bias(name) {
            out.chunks_mut(outputs).for_each(|row| fused::add(row, bias, 1.0));
        }
        out
    }

    fn bias(&self, name: &str) -> Option<&'a [f32]> {
        self.weights.get(format!("{name}.bias").as_str()).copied()
    }

    /// From the derivatives of some values to those of what was given, by place; the weights' are added to `gradients`.
    pub fn back(
        self,
        upstream: Vec<(Place, Vec<f32>)>,
        gradients: &mut HashMap<String, Vec<f32>>,
    ) -> Result<Vec<Option<Vec<f32>>>, Error> {
        let mut slopes: Vec<Option<Vec<f32>>> = self.nodes.iter().map(|_| None).collect();
        upstream
            .into_iter()
            .for_each(|(place, slope)| give(&mut slopes[place], slope));
        for place in (0..self.nodes.len()).rev() {
            if matches!(self.nodes[place].made, Made::Given) {
                continue;
            }
            if let Some(slope) = slopes[place].take() {
                self.step_back(place, slope, &mut slopes, gradients)?;
            }
        }
        Ok(slopes)
    }

    fn step_back(
        &self,
        place: Place,
        slope: Vec<f32>,
        slopes: &mut [Option<Vec<f32>>],
        gradients: &mut HashMap<String, Vec<f32>>,
    ) -> Result<(), Error> {
        let node = &self.nodes[place];
        let numbers = |place: Place| self.numbers(place);
        let zeros = |place: Place| vec![0.0; self.nodes[place].rows * self.nodes[place].cols];
        match &node.made {
            Made::Given => {}
            Made::Linear { x, name } => {
                let (inputs, outputs) = (self.nodes[*x].cols, node.cols);
                let weight = format!("{name}.weight");
                let of_weight = gradient(gradients, &weight, inputs * outputs);
                fused::add_outer(&slope, numbers(*x), inputs, outputs, of_weight);
                if self.bias(name).is_some() {
                    fused::add_rows(&slope, gradient(gradients, &format!("{name}.bias"), outputs));
                }
                let of_x = slopes[*x].get_or_insert_with(|| zeros(*x));
                fused::add_product(&slope, self.weight(&weight)?, inputs, outputs, of_x);
            }
            Made::Norm { x, name, kind } => {
                let norm = self.norm_of(name, *kind)?;
                if norm.bias.is_some() {
                    fused::add_rows(&slope, gradient(gradients, &format!("{name}.bias"), norm.weight.len()));
                }
                let mut nobodys = Vec::new();
                let of_weight = match has_weight(*kind) {
                    true => gradient(gradients, &format!("{name}.weight"), norm.weight.len()),
                    false => {
                        nobodys.resize(norm.weight.len(), 0.0);
                        &mut nobodys
                    }
                };
                let of_x = norm.back(numbers(*x), &slope, of_weight);
                give(&mut slopes[*x], of_x);
            }
            Made::NormEach { x, names, kind, d } => {
                let (cols, d) = (node.cols, *d);
                let norms = self.norms_of(names, *kind, d, cols / d)?;
                let (mut of_x, mut of_weights) = (zeros(*x), Vec::new());
                for (head, norm) in norms.iter().enumerate() {
                    let columns = |x: &[f32]| fused::columns(x, cols, head * d, d);
                    let mut of_weight = vec![0.0; d];
                    let of_head = norm.back(&columns(numbers(*x)), &columns(&slope), &mut of_weight);
                    fused::set_columns(&mut of_x, cols, head * d, &of_head, d);
                    of_weights.extend(of_weight);
                }
                let of_each = of_weights.len() / names.len().max(1);
                for (name, of_weight) in names.iter().zip(of_weights.chunks(of_each)) {
                    let known = gradient(gradients, &format!("{name}.weight"), of_weight.len());
                    fused::add(known, of_weight, 1.0);
                }
                give(&mut slopes[*x], of_x);
            }
            Made::Hold { x, limit } => {
                let mut slope = slope;
                let held = slope.iter_mut().zip(numbers(*x)).filter(|(_, x)| x.abs() > *limit);
                held.for_each(|(slope, _)| *slope = 0.0);
                give(&mut slopes[*x], slope);
            }
            Made::Grow { x, growth } => {
                let mut slope = slope;
                let factor = |place: usize| growth.at(place);
                fused::scale_by_place(&mut slope, node.cols, self.batch.width, factor);
                give(&mut slopes[*x], slope);
            }
            Made::Part { x, from } => {
                let cols = self.nodes[*x].cols;
                let of_x = slopes[*x].get_or_insert_with(|| zeros(*x));
                for (to, slope) in of_x.chunks_mut(cols).zip(slope.chunks(node.cols)) {
                    fused::add(&mut to[*from..][..node.cols], slope, 1.0);
                }
            }
            Made::TokenRows { name } => {
                let weight = format!("{name}.weight");
                let of_table = gradient(gradients, &weight, self.weight(&weight)?.len());
                for (id, slope) in self.batch.ids.iter().zip(slope.chunks(node.cols)) {
                    fused::add(&mut of_table[*id as usize * node.cols..][..node.cols], slope, 1.0);
                }
            }
            Made::Scaled { x, factor } => {
                let mut slope = slope;
                fused::scale(&mut slope, *factor);
                give(&mut slopes[*x], slope);
            }
            Made::ScaledBy { x, name } => {
                let products = slope
                    .iter()
                    .zip(numbers(*x))
                    .map(|(s, x)| f64::from(*s) * f64::from(*x));
                gradient(gradients, name, 1)[0] += products.sum::<f64>() as f32;
                let mut slope = slope;
                fused::scale(&mut slope, self.weight(name)?[0]);
                give(&mut slopes[*x], slope);
            }
            Made::ScaledColumns { x, name } => {
                let factors = self.weight(name)?;
                let of_factors = gradient(gradients, name, factors.len());
                for (slope, x) in slope.chunks(node.cols).zip(numbers(*x).chunks(node.cols)) {
                    fused::add(of_factors, &fused::times(slope, x), 1.0);
                }
                let of_x = slope.chunks(node.cols).flat_map(|slope| fused::times(slope, factors));
                give(&mut slopes[*x], of_x.collect());
            }
            Made::Rotate { x, rope, d } => {
                let mut slope = slope;
                fused::rotate(&mut slope, *d, &self.batch.rotations[*rope], self.batch.tokens(), true);
                give(&mut slopes[*x], slope);
            }
            Made::Attend { q, k, v, attend, sinks } => {
                let known = self.sinks(sinks.as_deref())?;
                let inputs = [numbers(*q), numbers(*k), numbers(*v), &slope];
                let ([of_q, of_k, of_v], of_sinks) = attend.back(inputs, known);
                if let Some(name) = sinks {
                    fused::add(gradient(gradients, name, of_sinks.len()), &of_sinks, 1.0);
                }
                give(&mut slopes[*q], of_q);
                give(&mut slopes[*k], of_k);
                give(&mut slopes[*v], of_v);
            }
            Made::Gate { gate, up: None } => {
                let mut slope = slope;
                fused::activated_back(self.spec.activation, numbers(*gate), &mut slope);
                give(&mut slopes[*gate], slope);
            }
            Made::Gate { gate, up: Some(up) } => {
                let (of_gate, of_up) = fused::gate_back(self.spec.activation, numbers(*gate), numbers(*up), &slope);
                give(&mut slopes[*gate], of_gate);
                give(&mut slopes[*up], of_up);
            }
            Made::Xielu { x, name } => {
                let mut slope = slope;
                let of_numbers = fused::xielu_back(self.xielu_of(name)?, numbers(*x), &mut slope);
                for (number, of) in XIELU.into_iter().zip(of_numbers) {
                    gradient(gradients, &format!("{name}.{number}"), 1)[0] += of;
                }
                give(&mut slopes[*x], slope);
            }
            Made::Route { logits, routes } => {
                if let Some(experts) = &self.spec.experts {
                    let isa = Isa::best();
                    let rows = numbers(*logits)
                        .chunks(node.cols)
                        .zip(slope.chunks(node.cols))
                        .zip(routes);
                    let of_row = |((logits, slope), routes): ((&[f32], &[f32]), &Vec<Route>)| {
                        let slopes: Vec<f32> = routes.iter().map(|route| slope[route.expert]).collect();
                        experts.routes_back(isa, logits, routes, &slopes)
                    };
                    let of_logits = rows.flat_map(of_row).collect();
                    give(&mut slopes[*logits], of_logits);
                }
            }
            Made::Rows { x, rows } => {
                let of_x = slopes[*x].get_or_insert_with(|| zeros(*x));
                for (row, slope) in rows.iter().zip(slope.chunks(node.cols)) {
                    fused::add(&mut of_x[*row as usize * node.cols..][..node.cols], slope, 1.0);
                }
            }
            Made::Mix { weights, parts } => {
                let count = self.nodes[*weights].cols;
                let mut of_weights = vec![0.0; numbers(*weights).len()];
                for (expert, rows, part) in parts {
                    let mut of_part = vec![0.0; numbers(*part).len()];
                    let made = of_part.chunks_mut(node.cols).zip(numbers(*part).chunks(node.cols));
                    for (row, (of_part, part)) in rows.iter().zip(made) {
                        let slope = &slope[*row as usize * node.cols..][..node.cols];
                        let weight = *row as usize * count + expert;
                        fused::add(of_part, slope, numbers(*weights)[weight]);
                        of_weights[weight] = fused::product(slope, part);
                    }
                    give(&mut slopes[*part], of_part);
                }
                give(&mut slopes[*weights], of_weights);
            }
            Made::Weigh { x, number } => {
                let rows = numbers(*x).chunks(node.cols).zip(slope.chunks(node.cols));
                let (mut of_x, mut of_number) = (vec![0.0; slope.len()], Vec::new());
                for (((x, slope), of_x), number) in rows.zip(of_x.chunks_mut(node.cols)).zip(numbers(*number)) {
                    let weight = kernels::sigmoid(*number);
                    fused::add(of_x, slope, weight);
                    of_number.push(fused::product(x, slope) * weight * (1.0 - weight));
                }
                give(&mut slopes[*x], of_x);
                give(&mut slopes[*number], of_number);
            }
            Made::Convolve { x, name } => {
                let convolution = self.convolution(name, node.cols)?;
                if convolution.bias.is_some() {
                    fused::add_rows(&slope, gradient(gradients, &format!("{name}.bias"), node.cols));
                }
                let len = convolution.weight.len();
                let of_weight = gradient(gradients, &format!("{name}.weight"), len);
                let of_x = convolution.back(numbers(*x), &slope, of_weight);
                give(&mut slopes[*x], of_x);
            }
            Made::Remember {
                mixed,
                strengths,
                steps,
                name,
            } => {
                if let Some(mixer) = &self.spec.mixer {
                    let inputs = self.remembered(*mixed, *strengths, *steps);
                    let (of, of_numbers) = memory::back(mixer, inputs, self.head_numbers(name)?, &slope);
                    let of_numbers = [
                        ("A_log", of_numbers.decay),
                        ("dt_bias", of_numbers.step),
                        ("D", of_numbers.skip),
                    ];
                    for (number, of) in of_numbers.into_iter().filter(|(_, of)| !of.is_empty()) {
                        fused::add(gradient(gradients, &format!("{name}.{number}"), of.len()), &of, 1.0);
                    }
                    give(&mut slopes[*mixed], of.mixed);
                    give(&mut slopes[*steps], of.steps);
                    if let Some(strengths) = strengths {
                        give(&mut slopes[*strengths], of.strengths);
                    }
                }
            }
            Made::Times { a, b } => {
                give(&mut slopes[*a], fused::times(&slope, numbers(*b)));
                give(&mut slopes[*b], fused::times(&slope, numbers(*a)));
            }
            Made::Sigmoid { x } => {
                let mut slope = slope;
                let weights = numbers(place);
                slope.iter_mut().zip(weights).for_each(|(s, w)| *s *= w * (1.0 - w));
                give(&mut slopes[*x], slope);
            }
            Made::Plus { a, b } => {
                give(&mut slopes[*a], slope.clone());
                give(&mut slopes[*b], slope);
            }
            Made::Add { h, branch } => {
                match &mut slopes[*branch] {
                    Some(known) => fused::add(known, &slope, self.spec.residual_scale),
                    none => {
                        let mut of_branch = slope.clone();
                        fused::scale(&mut of_branch, self.spec.residual_scale);
                        *none = Some(of_branch);
                    }
                }
                give(&mut slopes[*h], slope);
            }
        }
        Ok(())
    }

    fn weight(&self, name: &str) -> Result<&'a [f32], Error> {
        self.weights.get(name).copied().ok_or_else(|| Error::Read {
            tensor: name.into(),
            reason: "the layer has no such tensor".into(),
        })
    }

    /// The heads' own scores; none where they have none.
    fn sinks(&self, name: Option<&str>) -> Result<&'a [f32], Error> {
        name.map_or(Ok(&[]), |name| self.weight(name))
    }

    fn xielu_of(&self, name: &str) -> Result<Xielu, Error> {
        let number = |i: usize| Ok::<_, Error>(self.weight(&format!("{name}.{}", XIELU[i]))?[0]);
        Ok(Xielu {
            alpha_p: number(0)?,
            alpha_n: number(1)?,
            beta: number(2)?,
            eps: number(3)?,
        })
    }

    fn convolution(&self, name: &str, channels: usize) -> Result<memory::Convolution<'a>, Error> {
        Ok(memory::Convolution {
            width: self.batch.width,
            channels,
            weight: self.weight(&format!("{name}.weight"))?,
            bias: self.bias(name),
        })
    }

    fn remembered(&self, mixed: Place, strengths: Option<Place>, steps: Place) -> memory::Inputs<'_> {
        memory::Inputs {
            width: self.batch.width,
            mixed: self.numbers(mixed),
            strengths: strengths.map(|strengths| self.numbers(strengths)),
            steps: self.numbers(steps),
        }
    }

    fn head_numbers(&self, name: &str) -> Result<memory::HeadNumbers<'a>, Error> {
        Ok(memory::HeadNumbers {
            decay: self.weight(&format!("{name}.A_log"))?,
            step: self.weight(&format!("{name}.dt_bias"))?,
            skip: self.weights.get(format!("{name}.D").as_str()).copied().unwrap_or(&[]),
        })
    }

    fn norm_of(&self, name: &str, kind: NormKind) -> Result<fused::Norm<'a>, Error> {
        norm(self.spec, name, kind, &|name| self.weight(name))
    }

    /// A norm for each of so many heads of d dimensions, without biases; without names, by no weight.
    fn norms_of(
        &self,
        names: &[String],
        kind: NormKind,
        d: usize,
        heads: usize,
    ) -> Result<Vec<fused::Norm<'a>>, Error> {
        let norm = |weight: Vec<f32>| fused::Norm {
            weight,
            bias: None,
            about_mean: matches!(kind, NormKind::Layer { .. }),
            eps: self.spec.norm_eps,
        };
        if names.is_empty() {
            return Ok((0..heads).map(|_| norm(vec![1.0; d])).collect());
        }
        let mut norms = Vec::new();
        for name in names {
            let weights = self.weight(&format!("{name}.weight"))?.chunks_exact(d);
            norms.extend(weights.map(|weight| norm(weight.to_vec())));
        }
        Ok(norms)
    }

    fn push(&mut self, made: Made, cols: usize, numbers: Vec<f32>) -> Result<Place, Error> {
        let rows = numbers.len() / cols;
        self.note(made, (rows, cols), numbers.into())
    }

    fn note(&mut self, made: Made, (rows, cols): (usize, usize), numbers: OnceCell<Vec<f32>>) -> Result<Place, Error> {
        self.nodes.push(Node {
            made,
            rows,
            cols,
            numbers,
        });
        Ok(self.nodes.len() - 1)
    }
}

/// What a layer's xIELU is made of.
pub(super) const XIELU: [&str; 4] = ["alpha_p", "alpha_n", "beta", "eps"];

/// Whether a norm has a weight in the file.
pub(super) fn has_weight(kind: NormKind) -> bool {
    !matches!(kind, NormKind::Layer { weight: false, .. })
}

/// A norm by its name, from weights by theirs.
pub(super) fn norm<'a>(
    spec: &DecoderSpec,
    name: &str,
    kind: NormKind,
    weight: &dyn Fn(&str) -> Result<&'a [f32], Error>,
) -> Result<fused::Norm<'a>, Error> {
    let one = f32::from(u8::from(spec.norm_plus_one && kind != NormKind::RmsAsStored));
    let has_bias = matches!(kind, NormKind::Layer { bias: true, .. });
    Ok(fused::Norm {
        weight: match has_weight(kind) {
            true => weight(&format!("{name}.weight"))?.iter().map(|w| w + one).collect(),
            false => vec![1.0; spec.hidden],
        },
        bias: has_bias.then(|| weight(&format!("{name}.bias"))).transpose()?,
        about_mean: matches!(kind, NormKind::Layer { .. }),
        eps: spec.norm_eps,
    })
}

/// Adds to what a value's derivative is so far.
pub(super) fn give(so_far: &mut Option<Vec<f32>>, slope: Vec<f32>) {
    match so_far {
        Some(known) => fused::add(known, &slope, 1.0),
        none => *none = Some(slope),
    }
}

fn gradient<'g>(gradients: &'g mut HashMap<String, Vec<f32>>, name: &str, len: usize) -> &'g mut Vec<f32> {
    gradients.entry(name.to_string()).or_insert_with(|| vec![0.0; len])
}

impl Algebra for Tape<'_> {
    type Value = Place;

    fn linear(&mut self, name: &str, x: &Place) -> Result<Place, Error> {
        let outputs = self.weight(&format!("{name}.weight"))?.len() / self.nodes[*x].cols;
        let made = Made::Linear {
            x: *x,
            name: name.into(),
        };
        self.note(made, (self.nodes[*x].rows, outputs), OnceCell::new())
    }

    fn norm(&mut self, name: &str, kind: NormKind, x: &Place) -> Result<Place, Error> {
        let norm = self.norm_of(name, kind)?;
        let (cols, out) = (self.nodes[*x].cols, norm.forward(self.numbers(*x)));
        let made = Made::Norm {
            x: *x,
            name: name.into(),
            kind,
        };
        self.push(made, cols, out)
    }

    fn norm_each(&mut self, names: &[String], kind: NormKind, d: usize, x: &Place) -> Result<Place, Error> {
        let (cols, mut out) = (self.nodes[*x].cols, self.numbers(*x).to_vec());
        for (head, norm) in self.norms_of(names, kind, d, cols / d)?.iter().enumerate() {
            let normed = norm.forward(&fused::columns(&out, cols, head * d, d));
            fused::set_columns(&mut out, cols, head * d, &normed, d);
        }
        let made = Made::NormEach {
            x: *x,
            names: names.to_vec(),
            kind,
            d,
        };
        self.push(made, cols, out)
    }

    fn hold(&mut self, x: &Place, limit: f32) -> Result<Place, Error> {
        let (x, cols) = (*x, self.nodes[*x].cols);
        let out = self.numbers(x).iter().map(|x| x.clamp(-limit, limit)).collect();
        self.push(Made::Hold { x, limit }, cols, out)
    }

    fn part(&mut self, x: &Place, from: usize, len: usize) -> Result<Place, Error> {
        let out = fused::columns(self.numbers(*x), self.nodes[*x].cols, from, len);
        self.push(Made::Part { x: *x, from }, len, out)
    }

    fn token_rows(&mut self, table: &str) -> Result<Place, Error> {
        let weight = self.weight(&format!("{table}.weight"))?;
        let cols = self
            .spec
            .per_layer
            .map_or(self.spec.hidden, |per_layer| per_layer.width);
        let rows = self
            .batch
            .ids
            .iter()
            .flat_map(|id| &weight[*id as usize * cols..][..cols]);
        let out = rows.copied().collect();
        self.push(Made::TokenRows { name: table.into() }, cols, out)
    }

    fn scaled(&mut self, x: &Place, factor: f32) -> Result<Place, Error> {
        let (x, cols, mut out) = (*x, self.nodes[*x].cols, self.numbers(*x).to_vec());
        fused::scale(&mut out, factor);
        self.push(Made::Scaled { x, factor }, cols, out)
    }

    fn scaled_by(&mut self, name: &str, x: &Place) -> Result<Place, Error> {
        let factor = self.weight(name)?[0];
        let (x, cols, mut out) = (*x, self.nodes[*x].cols, self.numbers(*x).to_vec());
        fused::scale(&mut out, factor);
        self.push(Made::ScaledBy { x, name: name.into() }, cols, out)
    }

    fn scaled_columns(&mut self, name: &str, x: &Place) -> Result<Place, Error> {
        let (x, cols, factors) = (*x, self.nodes[*x].cols, self.weight(name)?);
        let rows = self.numbers(x).chunks(cols);
        let out = rows.flat_map(|row| fused::times(row, factors)).collect();
        self.push(Made::ScaledColumns { x, name: name.into() }, cols, out)
    }

    fn rotate(&mut self, x: &Place, rope: usize, d: usize) -> Result<Place, Error> {
        let (cols, mut out) = (self.nodes[*x].cols, self.numbers(*x).to_vec());
        fused::rotate(&mut out, d, &self.batch.rotations[rope], self.batch.tokens(), false);
        self.push(Made::Rotate { x: *x, rope, d }, cols, out)
    }

    fn grow(&mut self, x: &Place, growth: QueryGrowth) -> Result<Place, Error> {
        let (cols, mut out) = (self.nodes[*x].cols, self.numbers(*x).to_vec());
        fused::scale_by_place(&mut out, cols, self.batch.width, |place| growth.at(place));
        self.push(Made::Grow { x: *x, growth }, cols, out)
    }

    fn attend(
        &mut self,
        layer: &LayerSpec,
        q: &Place,
        [k, v]: &[Place; 2],
        sinks: Option<&str>,
    ) -> Result<Place, Error> {
        let attend = fused::Attend {
            width: self.batch.width,
            heads: self.spec.heads,
            kv_heads: layer.kv_heads,
            head_dim: layer.head_dim,
            scale: self.spec.attention_scale,
            softcap: self.spec.attention_softcap,
            window: layer.window,
        };
        let numbers = |place: Place| self.numbers(place);
        let out = attend.forward(numbers(*q), numbers(*k), numbers(*v), self.sinks(sinks)?);
        let (q, k, v, cols) = (*q, *k, *v, self.nodes[*q].cols);
        let sinks = sinks.map(String::from);
        let made = Made::Attend { q, k, v, attend, sinks };
        self.push(made, cols, out)
    }

    fn gate(&mut self, gate: &Place, up: Option<&Place>) -> Result<Place, Error> {
        let (activation, of_gate) = (self.spec.activation, self.numbers(*gate));
        let out = match up {
            Some(up) => fused::gate(activation, of_gate, self.numbers(*up)),
            None => fused::activated(activation, of_gate),
        };
        let cols = self.nodes[*gate].cols;
        let up = up.copied();
        self.push(Made::Gate { gate: *gate, up }, cols, out)
    }

    fn xielu(&mut self, name: &str, x: &Place) -> Result<Place, Error> {
        let numbers = self.xielu_of(name)?;
        let out = fused::activated(Activation::Xielu(numbers), self.numbers(*x));
        let cols = self.nodes[*x].cols;
        let made = Made::Xielu {
            x: *x,
            name: name.into(),
        };
        self.push(made, cols, out)
    }

    fn route(
        &mut self,
        experts: &Experts,
        logits: &Place,
        correction: Option<&str>,
    ) -> Result<(Place, Vec<Vec<u32>>), Error> {
        let correction = self.sinks(correction)?;
        let numbers = self.numbers(*logits);
        let of_row = |row: &[f32]| experts.routes(Isa::best(), row, correction);
        let routes: Vec<Vec<Route>> = numbers.chunks(experts.count).map(of_row).collect();
        let mut weights = vec![0.0; numbers.len()];
        let mut by_expert = vec![Vec::new(); experts.count];
        for (row, routes) in routes.iter().enumerate() {
            for route in routes {
                weights[row * experts.count + route.expert] = route.weight;
                by_expert[route.expert].push(row as u32);
            }
        }
        let logits = *logits;
        let weights = self.push(Made::Route { logits, routes }, experts.count, weights)?;
        Ok((weights, by_expert))
    }

    fn rows(&mut self, x: &Place, rows: &[u32]) -> Result<Place, Error> {
        let (cols, numbers) = (&self.nodes[*x].cols, self.numbers(*x));
        let row = |row: &u32| numbers[*row as usize * cols..][..*cols].iter().copied();
        let (cols, out) = (*cols, rows.iter().flat_map(row).collect());
        let made = Made::Rows {
            x: *x,
            rows: rows.to_vec(),
        };
        self.push(made, cols, out)
    }

    fn mix(&mut self, weights: &Place, parts: Vec<(usize, Vec<u32>, Place)>) -> Result<Place, Error> {
        let (count, numbers) = (self.nodes[*weights].cols, self.numbers(*weights));
        let cols = self.spec.hidden;
        let mut out = vec![0.0; numbers.len() / count * cols];
        for (expert, rows, part) in &parts {
            for (row, part) in rows.iter().zip(self.numbers(*part).chunks(cols)) {
                let row = *row as usize;
                fused::add(&mut out[row * cols..][..cols], part, numbers[row * count + expert]);
            }
        }
        let weights = *weights;
        self.push(Made::Mix { weights, parts }, cols, out)
    }

    fn weigh(&mut self, x: &Place, number: &Place) -> Result<Place, Error> {
        let (cols, mut out) = (self.nodes[*x].cols, self.numbers(*x).to_vec());
        for (row, number) in out.chunks_mut(cols).zip(self.numbers(*number)) {
            fused::scale(row, kernels::sigmoid(*number));
        }
        let (x, number) = (*x, *number);
        self.push(Made::Weigh { x, number }, cols, out)
    }

    fn convolve(&mut self, name: &str, x: &Place) -> Result<Place, Error> {
        let cols = self.nodes[*x].cols;
        let out = self.convolution(name, cols)?.forward(self.numbers(*x));
        let made = Made::Convolve {
            x: *x,
            name: name.into(),
        };
        self.push(made, cols, out)
    }

    fn remember(
        &mut self,
        mixer: &Mixer,
        name: &str,
        mixed: &Place,
        strengths: Option<&Place>,
        steps: &Place,
    ) -> Result<Place, Error> {
        let (mixed, strengths, steps) = (*mixed, strengths.copied(), *steps);
        let inputs = self.remembered(mixed, strengths, steps);
        let out = memory::forward(mixer, inputs, self.head_numbers(name)?);
        let made = Made::Remember {
            mixed,
            strengths,
            steps,
            name: name.into(),
        };
        self.push(made, mixer.width(), out)
    }

    fn times(&mut self, a: &Place, b: &Place) -> Result<Place, Error> {
        let (a, b, cols) = (*a, *b, self.nodes[*a].cols);
        let out = fused::times(self.numbers(a), self.numbers(b));
        self.push(Made::Times { a, b }, cols, out)
    }

    fn sigmoid(&mut self, x: &Place) -> Result<Place, Error> {
        let (x, cols) = (*x, self.nodes[*x].cols);
        let out = self.numbers(x).iter().map(|x| kernels::sigmoid(*x)).collect();
        self.push(Made::Sigmoid { x }, cols, out)
    }

    fn plus(&mut self, a: &Place, b: &Place) -> Result<Place, Error> {
        let mut out = self.numbers(*a).to_vec();
        fused::add(&mut out, self.numbers(*b), 1.0);
        let (a, b, cols) = (*a, *b, self.nodes[*a].cols);
        self.push(Made::Plus { a, b }, cols, out)
    }

    fn add(&mut self, h: &Place, branch: &Place) -> Result<Place, Error> {
        let (h, branch) = (*h, *branch);
        self.note(
            Made::Add { h, branch },
            (self.nodes[h].rows, self.spec.hidden),
            OnceCell::new(),
        )
    }
}
