//! The CPU's way to derivatives: what a layer computes is written down, and read backwards.
//!
//! Products and sums are computed when somebody reads them. A layer that is computed again for its derivatives alone has a last
//! product and a last sum that nobody reads: a quarter of a layer's work.

use std::{cell::OnceCell, collections::HashMap};

use super::{Error, batch::Batch, fused, layer::Algebra};
use crate::spec::{DecoderSpec, NormKind, QueryGrowth};

/// A value on the tape.
pub(super) type Place = usize;

struct Node {
    made: Made,
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
    },
    Attend {
        q: Place,
        k: Place,
        v: Place,
        attend: fused::Attend,
    },
    Gate {
        gate: Place,
        up: Option<Place>,
    },
    Add {
        h: Place,
        branch: Place,
    },
}

/// The tensors of a layer, by their names within it.
pub(super) type Weights<'a> = HashMap<&'a str, &'a [f32]>;

/// A layer's computation for one batch.
pub(super) struct Tape<'a> {
    spec: &'a DecoderSpec,
    batch: &'a Batch,
    weights: &'a Weights<'a>,
    nodes: Vec<Node>,
    rows: usize,
}

impl<'a> Tape<'a> {
    /// Begins with the layer's input, at place 0.
    pub fn new(spec: &'a DecoderSpec, batch: &'a Batch, weights: &'a Weights<'a>, input: Vec<f32>) -> Self {
        let rows = input.len() / spec.hidden;
        let given = Node {
            made: Made::Given,
            cols: spec.hidden,
            numbers: input.into(),
        };
        Tape {
            spec,
            batch,
            weights,
            nodes: vec![given],
            rows,
        }
    }

    pub fn into_value(mut self, place: Place) -> Vec<f32> {
        self.numbers(place);
        self.nodes.swap_remove(place).numbers.into_inner().unwrap_or_default()
    }

    fn numbers(&self, place: Place) -> &[f32] {
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

    /// From the derivative of the last value to that of the input; the weights' are added to `gradients`.
    pub fn back(self, upstream: Vec<f32>, gradients: &mut HashMap<String, Vec<f32>>) -> Result<Vec<f32>, Error> {
        let mut slopes: Vec<Option<Vec<f32>>> = self.nodes.iter().map(|_| None).collect();
        if let Some(last) = slopes.last_mut() {
            *last = Some(upstream);
        }
        for place in (1..self.nodes.len()).rev() {
            if let Some(slope) = slopes[place].take() {
                self.step_back(place, slope, &mut slopes, gradients)?;
            }
        }
        Ok(slopes.swap_remove(0).unwrap_or_default())
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
        let zeros = |place: Place| vec![0.0; self.rows * self.nodes[place].cols];
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
                give(slopes, *x, of_x);
            }
            Made::Grow { x, growth } => {
                let mut slope = slope;
                let factor = |place: usize| growth.at(place);
                fused::scale_by_place(&mut slope, node.cols, self.batch.width, factor);
                give(slopes, *x, slope);
            }
            Made::Part { x, from } => {
                let cols = self.nodes[*x].cols;
                let of_x = slopes[*x].get_or_insert_with(|| zeros(*x));
                for (to, slope) in of_x.chunks_mut(cols).zip(slope.chunks(node.cols)) {
                    fused::add(&mut to[*from..][..node.cols], slope, 1.0);
                }
            }
            Made::Rotate { x, rope } => {
                let mut slope = slope;
                fused::rotate(
                    &mut slope,
                    self.spec.head_dim,
                    &self.batch.rotations[*rope],
                    self.batch.tokens(),
                    true,
                );
                give(slopes, *x, slope);
            }
            Made::Attend { q, k, v, attend } => {
                let [of_q, of_k, of_v] = attend.back([numbers(*q), numbers(*k), numbers(*v), &slope]);
                give(slopes, *q, of_q);
                give(slopes, *k, of_k);
                give(slopes, *v, of_v);
            }
            Made::Gate { gate, up: None } => {
                let mut slope = slope;
                fused::activated_back(self.spec.activation, numbers(*gate), &mut slope);
                give(slopes, *gate, slope);
            }
            Made::Gate { gate, up: Some(up) } => {
                let (of_gate, of_up) = fused::gate_back(self.spec.activation, numbers(*gate), numbers(*up), &slope);
                give(slopes, *gate, of_gate);
                give(slopes, *up, of_up);
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
                give(slopes, *h, slope);
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

    fn norm_of(&self, name: &str, kind: NormKind) -> Result<fused::Norm<'a>, Error> {
        norm(self.spec, name, kind, &|name| self.weight(name))
    }

    fn push(&mut self, made: Made, cols: usize, numbers: Vec<f32>) -> Result<Place, Error> {
        self.note(made, cols, numbers.into())
    }

    fn note(&mut self, made: Made, cols: usize, numbers: OnceCell<Vec<f32>>) -> Result<Place, Error> {
        self.nodes.push(Node { made, cols, numbers });
        Ok(self.nodes.len() - 1)
    }
}

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
    let one = f32::from(u8::from(spec.norm_plus_one));
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
fn give(slopes: &mut [Option<Vec<f32>>], place: Place, slope: Vec<f32>) {
    match &mut slopes[place] {
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
        self.note(made, outputs, OnceCell::new())
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

    fn part(&mut self, x: &Place, from: usize, len: usize) -> Result<Place, Error> {
        let rows = self.numbers(*x).chunks(self.nodes[*x].cols);
        let out = rows.flat_map(|row| row[from..from + len].iter().copied()).collect();
        self.push(Made::Part { x: *x, from }, len, out)
    }

    fn rotate(&mut self, x: &Place, rope: usize) -> Result<Place, Error> {
        let (cols, mut out) = (self.nodes[*x].cols, self.numbers(*x).to_vec());
        fused::rotate(
            &mut out,
            self.spec.head_dim,
            &self.batch.rotations[rope],
            self.batch.tokens(),
            false,
        );
        self.push(Made::Rotate { x: *x, rope }, cols, out)
    }

    fn grow(&mut self, x: &Place, growth: QueryGrowth) -> Result<Place, Error> {
        let (cols, mut out) = (self.nodes[*x].cols, self.numbers(*x).to_vec());
        fused::scale_by_place(&mut out, cols, self.batch.width, |place| growth.at(place));
        self.push(Made::Grow { x: *x, growth }, cols, out)
    }

    fn attend(&mut self, q: &Place, k: &Place, v: &Place, window: Option<usize>) -> Result<Place, Error> {
        let attend = fused::Attend {
            width: self.batch.width,
            heads: self.spec.heads,
            kv_heads: self.spec.kv_heads,
            head_dim: self.spec.head_dim,
            scale: self.spec.attention_scale,
            softcap: self.spec.attention_softcap,
            window,
        };
        let numbers = |place: Place| self.numbers(place);
        let out = attend.forward(numbers(*q), numbers(*k), numbers(*v));
        let (q, k, v, cols) = (*q, *k, *v, self.nodes[*q].cols);
        self.push(Made::Attend { q, k, v, attend }, cols, out)
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

    fn add(&mut self, h: &Place, branch: &Place) -> Result<Place, Error> {
        let (h, branch) = (*h, *branch);
        self.note(Made::Add { h, branch }, self.spec.hidden, OnceCell::new())
    }
}
