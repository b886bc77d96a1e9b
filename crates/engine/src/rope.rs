//! Rotary position embedding: inverse frequencies for every scaling in use, and tables of cos and sin, always in f32.
//!
//! Tables in half precision would make positions above 256 collide; ours never leave f32. The two scalings whose
//! frequencies depend on the length of the sequence (dynamic NTK, LongRoPE) take that length as an argument, so that a
//! row's angles depend on the row alone and not on what else is in the batch.

use serde_json::Value;

use super::Error;
use super::families::Rope;
use super::spec::{Config, QueryGrowth};

/// How frequencies are stretched beyond the length seen in training.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    None,
    /// Position interpolation (kaiokendev; Chen et al., arXiv 2306.15595).
    Linear {
        factor: f64,
    },
    /// Dynamic NTK: the base grows once the sequence is longer than `max_position_embeddings`.
    Dynamic {
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, a smooth ramp between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original: f64,
    },
    /// YaRN (Peng et al., arXiv 2309.00071), equations 17, 18 and 22.
    Yarn {
        factor: f64,
        original: f64,
        beta_fast: f64,
        beta_slow: f64,
        truncate: bool,
    },
    /// Only the first `pairs` turn, with the frequencies that they have where all do (Gemma 4).
    Proportional {
        pairs: usize,
        factor: f64,
    },
    /// LongRoPE (Ding et al., arXiv 2402.13753): one factor for each frequency; another set beyond `original`.
    Long {
        short: Vec<f32>,
        long: Vec<f32>,
        original: usize,
    },
}

/// One kind of rotation; a decoder has one, or two where window layers rotate differently.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    pub theta: f64,
    /// Dimensions of a head that rotate, counted from the first; the others pass.
    pub dim: usize,
    pub scaling: Scaling,
    /// cos and sin are multiplied by this (YaRN, LongRoPE).
    pub attention_factor: f32,
    /// The same in a sequence that takes the long factors.
    pub long_attention_factor: f32,
    pub max_positions: usize,
}

/// Reads the rope keys of a config.
pub(super) struct RopeScaling;

/// The lengths that decide on a rotation.
#[derive(Clone, Copy)]
struct Lengths {
    /// Dimensions of a head that rotate.
    dim: usize,
    original: usize,
    max_positions: usize,
}

impl RopeScaling {
    /// One rotation for all layers: `rope_scaling` (v4) before `rope_parameters` (v5), `rope_theta` inside or beside it.
    pub fn read_flat(c: &Config, family: &Rope, head_dim: usize, max_positions: usize) -> Result<RopeSpec, Error> {
        let given = given(c, family);
        let rope = Config::part(&given);
        let theta = match rope.number("rope_theta")? {
            Some(theta) => theta,
            None => c.number_or("rope_theta", family.theta)?,
        };
        let original = match c.optional_size("original_max_position_embeddings")? {
            Some(n) => n,
            None if family.phi3 => 4096,
            None => rope.size_or("original_max_position_embeddings", max_positions)?,
        };
        let lengths = Lengths {
            dim: rotary_dim(c, &rope, family, head_dim)?,
            original,
            max_positions,
        };
        Self::read(&rope, family, theta, lengths)
    }

    /// The rotation of one layer type (Gemma 3): `rope_parameters.TYPE`, or the v4 keys. `layer_type` is its name, the key of
    /// its base in old configs, and its default.
    pub fn read_nested(
        c: &Config,
        family: &Rope,
        (layer_type, theta_key, default_theta): (&str, Option<&str>, f64),
        head_dim: usize,
        max_positions: usize,
    ) -> Result<RopeSpec, Error> {
        let empty = Value::Object(Default::default());
        let absent = family.absent.and_then(|text| serde_json::from_str::<Value>(text).ok());
        let parameters = c.get("rope_parameters").filter(|v| v.is_object());
        let of_type = parameters.or(absent.as_ref()).and_then(|v| v.get(layer_type));
        let nested = of_type.filter(|v| v.is_object());
        // v4's rope_scaling stretches the full-attention layers only.
        let v4 = c
            .get("rope_scaling")
            .filter(|v| v.is_object() && layer_type == "full_attention");
        let rope = Config::part(v4.or(nested).unwrap_or(&empty));
        let theta = match (
            rope.number("rope_theta")?,
            nested.and_then(|v| v.get("rope_theta")).and_then(Value::as_f64),
            theta_key,
        ) {
            (Some(theta), ..) | (None, Some(theta), _) => theta,
            (None, None, Some(key)) => c.number_or(key, default_theta)?,
            (None, None, None) => default_theta,
        };
        let lengths = Lengths {
            dim: head_dim,
            original: rope.size_or("original_max_position_embeddings", max_positions)?,
            max_positions,
        };
        Self::read(&rope, family, theta, lengths)
    }

    /// How queries grow with their position, where the family's do.
    pub fn query_growth(c: &Config, family: &Rope) -> Result<Option<QueryGrowth>, Error> {
        if !family.grows_queries {
            return Ok(None);
        }
        let given = given(c, family);
        let rope = Config::part(&given);
        let required = |key: &str| rope.number(key)?.ok_or_else(|| rope.error(key, "is missing".into()));
        Ok(Some(QueryGrowth {
            beta: required("llama_4_scaling_beta")? as f32,
            original: rope
                .optional_size("original_max_position_embeddings")?
                .ok_or_else(|| rope.error("original_max_position_embeddings", "is missing".into()))?,
        }))
    }

    fn read(rope: &Config, family: &Rope, mut theta: f64, lengths: Lengths) -> Result<RopeSpec, Error> {
        let Lengths {
            dim,
            original,
            max_positions,
        } = lengths;
        let kind = ["rope_type", "type"]
            .iter()
            .find_map(|key| rope.get(key).and_then(Value::as_str))
            .unwrap_or("default");
        let factor = |default: Option<f64>| -> Result<f64, Error> {
            rope.number("factor")?
                .or(default)
                .ok_or_else(|| rope.error("rope factor", "is missing".into()))
        };
        let required = |key: &str| rope.number(key)?.ok_or_else(|| rope.error(key, "is missing".into()));
        let ratio = max_positions as f64 / original as f64;
        let mut attention_factor = 1.0;
        let mut long_attention_factor = None;
        let alpha = rope.number("alpha")?.filter(|alpha| family.alpha && *alpha != 0.0);
        let scaling = match (kind, alpha) {
            ("default", _) => Scaling::None,
            ("mrope", _) if family.sections => Scaling::None,
            // transformers lets Phi-MoE rotate by the short factors however long the text, and by the longer scale.
            ("longrope", _) if family.mscales => {
                attention_factor = required("short_mscale")?;
                long_attention_factor = Some(required("long_mscale")?);
                let short = factors(rope, "short_factor")?;
                Scaling::Long {
                    long: short.clone(),
                    short,
                    original,
                }
            }
            (other, _) if family.mscales => {
                let problem = format!("\"{other}\": the decoder knows this family with default and longrope only");
                return Err(rope.error("rope_type", problem));
            }
            ("proportional", _) if family.proportional => {
                let partial = rope.number("partial_rotary_factor")?.unwrap_or(1.0);
                if !(0.0..=1.0).contains(&partial) {
                    let problem = format!("{partial} is not between 0 and 1");
                    return Err(rope.error("partial_rotary_factor", problem));
                }
                Scaling::Proportional {
                    pairs: (partial * dim as f64 / 2.0) as usize,
                    factor: factor(Some(1.0))?,
                }
            }
            ("linear", _) => Scaling::Linear { factor: factor(None)? },
            ("dynamic", Some(alpha)) => {
                theta *= alpha.powf(dim as f64 / (dim as f64 - 2.0));
                Scaling::None
            }
            ("dynamic", None) => Scaling::Dynamic { factor: factor(None)? },
            ("llama3", _) => Scaling::Llama3 {
                factor: factor(None)?,
                low_freq_factor: required("low_freq_factor")?,
                high_freq_factor: required("high_freq_factor")?,
                original: original as f64,
            },
            ("yarn", _) if !family.phi3 => {
                let factor = factor(Some(ratio))?;
                attention_factor = yarn_attention_factor(rope, factor)?;
                let positive = |x: Option<f64>, default: f64| x.filter(|x| *x != 0.0).unwrap_or(default);
                Scaling::Yarn {
                    factor,
                    original: original as f64,
                    beta_fast: positive(rope.number("beta_fast")?, 32.0),
                    beta_slow: positive(rope.number("beta_slow")?, 1.0),
                    truncate: rope.get("truncate").and_then(Value::as_bool).unwrap_or(true),
                }
            }
            // "su" and "yarn" are old names of LongRoPE in Phi-3's configs.
            ("longrope" | "su" | "yarn", _) => {
                let factor = factor(Some(ratio))?;
                attention_factor = match rope.number("attention_factor")? {
                    Some(given) => given,
                    None if factor <= 1.0 => 1.0,
                    None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
                };
                Scaling::Long {
                    short: factors(rope, "short_factor")?,
                    long: factors(rope, "long_factor")?,
                    original,
                }
            }
            (other, _) => {
                let known = "default, linear, dynamic, llama3, yarn, longrope";
                return Err(rope.error("rope_type", format!("\"{other}\" is not one of {known}")));
            }
        };
        if theta <= 0.0 {
            return Err(rope.error("rope_theta", format!("theta {theta}")));
        }
        Ok(RopeSpec {
            theta,
            dim,
            scaling,
            attention_factor: attention_factor as f32,
            long_attention_factor: long_attention_factor.unwrap_or(attention_factor) as f32,
            max_positions,
        })
    }
}

/// `rope_scaling` (v4) or `rope_parameters` (v5), that of full attention where there are several; what a config without either
/// means in its family.
fn given(c: &Config, family: &Rope) -> Value {
    let given = ["rope_scaling", "rope_parameters"];
    let given = given.iter().find_map(|key| c.get(key).filter(|v| v.is_object()));
    match given {
        Some(v) => v
            .get("full_attention")
            .filter(|inner| inner.is_object())
            .unwrap_or(v)
            .clone(),
        None => family
            .absent
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_else(|| Value::Object(Default::default())),
    }
}

/// Dimensions of a head that rotate.
fn rotary_dim(c: &Config, rope: &Config, family: &Rope, head_dim: usize) -> Result<usize, Error> {
    if let Some((key, default)) = family.dim {
        return Ok(c.size_or(key, default)?.min(head_dim));
    }
    // Other families rotate whole heads, whatever their configs say.
    let Some(default) = family.partial else {
        return Ok(head_dim);
    };
    let partial = match rope.number("partial_rotary_factor")? {
        Some(partial) => partial,
        None => c.number_or("partial_rotary_factor", default)?,
    };
    if !(0.0..=1.0).contains(&partial) {
        return Err(c.error("partial_rotary_factor", format!("{partial} is not between 0 and 1")));
    }
    Ok((head_dim as f64 * partial) as usize)
}

fn yarn_attention_factor(rope: &Config, factor: f64) -> Result<f64, Error> {
    let mscale = |scale: f64, m: f64| {
        if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 }
    };
    if let Some(given) = rope.number("attention_factor")? {
        return Ok(given);
    }
    match (rope.number("mscale")?, rope.number("mscale_all_dim")?) {
        (Some(m), Some(all)) if m != 0.0 && all != 0.0 => Ok(mscale(factor, m) / mscale(factor, all)),
        _ => Ok(mscale(factor, 1.0)),
    }
}

fn factors(rope: &Config, key: &str) -> Result<Vec<f32>, Error> {
    let list = rope
        .get(key)
        .and_then(Value::as_array)
        .ok_or_else(|| rope.error(key, "is missing".into()))?;
    let number = |v: &Value| {
        v.as_f64()
            .map(|x| x as f32)
            .ok_or_else(|| rope.error(key, format!("{v} is not a number")))
    };
    list.iter().map(number).collect()
}

impl RopeSpec {
    /// Dimensions that rotate, an even number.
    pub fn rotary_dim(&self) -> usize {
        2 * self.dim.div_ceil(2)
    }

    /// Refuses a factor list that does not fit the head.
    pub fn validate(&self, head_dim: usize) -> Result<(), Error> {
        let field = |field: &str, problem: String| Error::Config {
            field: field.to_string(),
            problem,
        };
        if self.rotary_dim() > head_dim {
            return Err(field(
                "head_dim",
                format!("RoPE needs an even number of dimensions, got {head_dim}"),
            ));
        }
        if let Scaling::Long { short, long, .. } = &self.scaling {
            for (key, list) in [("short_factor", short), ("long_factor", long)] {
                if list.len() != self.rotary_dim() / 2 {
                    return Err(field(
                        key,
                        format!("has {} entries, expected {}", list.len(), self.rotary_dim() / 2),
                    ));
                }
            }
        }
        Ok(())
    }

    fn factor_of(&self, regime: usize) -> f32 {
        match regime {
            0 => self.attention_factor,
            _ => self.long_attention_factor,
        }
    }

    /// Inverse frequencies for a sequence of `length` tokens, in the precision and order of operations of the reference
    /// (f32), so that angles at far positions agree with it.
    fn inverse_frequencies(&self, length: usize) -> Vec<f32> {
        let dim = self.dim as f32;
        let plain = |theta: f64| -> Vec<f32> {
            (0..self.dim)
                .step_by(2)
                .map(|i| 1.0 / theta.powf(f64::from(i as f32 / dim)) as f32)
                .collect()
        };
        match &self.scaling {
            Scaling::None => plain(self.theta),
            Scaling::Proportional { pairs, factor } => {
                let mut frequencies = plain(self.theta);
                frequencies.iter_mut().for_each(|f| *f /= *factor as f32);
                frequencies[*pairs..].fill(0.0);
                frequencies
            }
            Scaling::Linear { factor } => plain(self.theta).into_iter().map(|f| f / *factor as f32).collect(),
            Scaling::Dynamic { factor } => {
                let (length, max) = (length.max(self.max_positions) as f64, self.max_positions as f64);
                let growth = (factor * length / max - (factor - 1.0)).powf(self.dim as f64 / (self.dim as f64 - 2.0));
                plain(self.theta * growth)
            }
            Scaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original,
            } => {
                let (factor, low, high) = (*factor as f32, *low_freq_factor as f32, *high_freq_factor as f32);
                let old = *original as f32;
                let stretch = |f: f32| {
                    let wavelength = std::f32::consts::TAU / f;
                    if wavelength < old / high {
                        f
                    } else if wavelength > old / low {
                        f / factor
                    } else {
                        let smooth = (old / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                plain(self.theta).into_iter().map(stretch).collect()
            }
            Scaling::Yarn {
                factor,
                original,
                beta_fast,
                beta_slow,
                truncate,
            } => {
                let d = self.dim as f64;
                let correction =
                    |turns: f64| d * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln());
                let (mut low, mut high) = (correction(*beta_fast), correction(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(d - 1.0));
                if low == high {
                    high += 0.001;
                }
                let frequency = |(i, f): (usize, f32)| {
                    let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    let keep = 1.0 - ramp;
                    let interpolated = 1.0 / (*factor as f32 * (1.0 / f));
                    interpolated * (1.0 - keep) + f * keep
                };
                plain(self.theta).into_iter().enumerate().map(frequency).collect()
            }
            Scaling::Long { short, long, original } => {
                let stretch = if length > *original { long } else { short };
                let power = |i: usize| self.theta.powf(f64::from((2 * i) as f32 / dim)) as f32;
                stretch
                    .iter()
                    .enumerate()
                    .map(|(i, factor)| 1.0 / (factor * power(i)))
                    .collect()
            }
        }
    }

    /// Sequences of one regime share angles at equal positions; a prefix may only be shared within a regime.
    pub fn regime(&self, length: usize) -> usize {
        match &self.scaling {
            Scaling::Dynamic { .. } if length > self.max_positions => length,
            Scaling::Long { original, .. } if length > *original => 1,
            _ => 0,
        }
    }
}

/// cos and sin by position, computed once and kept.
pub(super) struct RopeTable {
    spec: RopeSpec,
    /// By regime 0 and 1: `[position][cos × half, sin × half]`.
    rows: [Vec<f32>; 2],
    frequencies: [Vec<f32>; 2],
}

impl RopeTable {
    pub fn new(spec: RopeSpec) -> Self {
        let short = spec.inverse_frequencies(0);
        let long = match spec.scaling {
            Scaling::Long { .. } => spec.inverse_frequencies(usize::MAX),
            _ => Vec::new(),
        };
        RopeTable {
            spec,
            rows: [Vec::new(), Vec::new()],
            frequencies: [short, long],
        }
    }

    pub fn regime(&self, length: usize) -> usize {
        self.spec.regime(length)
    }

    /// Makes the table long enough for `positions`.
    pub fn extend(&mut self, positions: usize) {
        let width = self.spec.rotary_dim();
        for (regime, (rows, frequencies)) in self.rows.iter_mut().zip(&self.frequencies).enumerate() {
            if frequencies.is_empty() || width == 0 {
                continue;
            }
            for position in rows.len() / width..positions {
                angles(frequencies, self.spec.factor_of(regime), position, rows);
            }
        }
    }

    /// Appends `[cos × half, sin × half]` of a position in a sequence of `length` tokens.
    pub fn append(&self, position: usize, length: usize, out: &mut Vec<f32>) {
        let width = self.spec.rotary_dim();
        let regime = self.spec.regime(length);
        if regime > 1 {
            angles(
                &self.spec.inverse_frequencies(length),
                self.spec.attention_factor,
                position,
                out,
            );
            return;
        }
        match self.rows[regime].get(position * width..(position + 1) * width) {
            Some(row) => out.extend_from_slice(row),
            None => angles(&self.frequencies[regime], self.spec.factor_of(regime), position, out),
        }
    }
}

fn angles(frequencies: &[f32], factor: f32, position: usize, out: &mut Vec<f32>) {
    // The angle is rounded to f32, as the reference rounds it; its cosine is then exact to the last bit.
    let angle = |f: &f32| f64::from(position as f32 * f);
    out.extend(frequencies.iter().map(|f| angle(f).cos() as f32 * factor));
    out.extend(frequencies.iter().map(|f| angle(f).sin() as f32 * factor));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(scaling: Scaling) -> RopeSpec {
        RopeSpec {
            theta: 10_000.0,
            dim: 8,
            scaling,
            attention_factor: 1.0,
            long_attention_factor: 1.0,
            max_positions: 64,
        }
    }

    /// The table in half precision that this replaces has 641 distinct rows in the first 2048; ours has them all.
    #[test]
    fn positions_stay_apart_far_out() {
        let mut table = RopeTable::new(spec(Scaling::None));
        table.extend(2048);
        let mut rows = std::collections::HashSet::new();
        for position in 0..2048 {
            let mut row = Vec::new();
            table.append(position, 2048, &mut row);
            let exact = |i: usize| position as f64 * 10_000f64.powf(-(i as f64) / 4.0);
            for i in 0..4 {
                assert!((f64::from(row[i]) - exact(i).cos()).abs() < 1e-4, "{position} {i}");
                assert!((f64::from(row[4 + i]) - exact(i).sin()).abs() < 1e-4, "{position} {i}");
            }
            rows.insert(row.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        }
        assert_eq!(rows.len(), 2048);
    }

    #[test]
    fn linear_scaling_divides_positions() {
        let (mut scaled, mut plain) = (Vec::new(), Vec::new());
        RopeTable::new(spec(Scaling::Linear { factor: 4.0 })).append(40, 41, &mut scaled);
        RopeTable::new(spec(Scaling::None)).append(10, 11, &mut plain);
        assert_eq!(scaled, plain);
    }

    #[test]
    fn lengths_decide_only_where_they_must() {
        let dynamic = spec(Scaling::Dynamic { factor: 2.0 });
        assert_eq!([1, 64, 65, 100].map(|n| dynamic.regime(n)), [0, 0, 65, 100]);
        let long = spec(Scaling::Long {
            short: vec![1.0; 4],
            long: vec![2.0; 4],
            original: 32,
        });
        assert_eq!([1, 32, 33].map(|n| long.regime(n)), [0, 0, 1]);
        assert_eq!(spec(Scaling::None).regime(1_000_000), 0);
        let table = RopeTable::new(long);
        let (mut short_row, mut long_row) = (Vec::new(), Vec::new());
        table.append(20, 32, &mut short_row);
        table.append(20, 33, &mut long_row);
        assert_ne!(short_row, long_row);
    }

    #[test]
    fn a_factor_list_of_the_wrong_length_is_refused() {
        let long = spec(Scaling::Long {
            short: vec![1.0; 4],
            long: vec![2.0; 3],
            original: 32,
        });
        let error = long.validate(8).unwrap_err();
        assert!(
            error.to_string().contains("long_factor: has 3 entries, expected 4"),
            "{error}"
        );
        assert!(spec(Scaling::None).validate(7).is_err());
    }
}
