//! Mixers that stand in attention's place in some layers of hybrids: what a row of `families` says of them, what a config
//! makes of that, and which tensors they are made of.
//!
//! Attention keeps keys and values of every token. These keep a state of one size, whatever the length of the text: the last
//! inputs of a convolution, and for each head a matrix that every token decays and writes to. What they compute is in
//! `recurrence`, and with derivatives in `twin`.

use super::Error;
use super::families::Flag;
use super::spec::{Config, MOST};
use super::tensors::{List, Slot};

/// What a mixer computes. Each begins with a product of the stream and a causal convolution of single channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MixerKind {
    /// `S = λ·S + k ⊗ β·(v − λ·Sᵀk)` and `Sᵀq`, normed by head and gated: Gated DeltaNet.
    ///
    /// **Source** Yang et al. 2024, arXiv 2412.06464, equation 10.
    DeltaNet,
    /// `S = λ·S + B ⊗ Δ·x` and `SᵀC + D·x`, gated and normed: Mamba-2.
    ///
    /// **Source** Dao and Gu 2024, arXiv 2405.21060, section 6.
    Mamba2,
    /// `C · conv(B · x)` and no matrix: LFM2.
    ShortConv,
}

/// A mixer as a family's row has it.
#[derive(Debug, PartialEq)]
pub(super) struct MixerRow {
    pub kind: MixerKind,
    /// What its tensors' names begin with in a layer.
    pub name: &'static str,
    /// The convolution's name behind that.
    pub conv: &'static str,
    /// The product back to the stream, by its whole name.
    pub output: &'static str,
    /// What it reads the stream with. One for all, or DeltaNet's in parts.
    pub inputs: Inputs,
    pub layers: Layers,
}

/// How a file has the rows that read the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// One tensor for all of them.
    One,
    /// `in_proj_qkvz` and `in_proj_ba`: key head by key head.
    ByHead,
    /// `in_proj_qkv`, `in_proj_z`, `in_proj_b` and `in_proj_a`.
    Apart,
}

/// Which layers attend where `layer_types` does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Layers {
    /// Each n-th, by this key and default.
    Nth(&'static str, usize),
    /// Those that this list names; all without one.
    Listed(&'static str),
    /// None.
    None,
}

/// The mixer of a model's layers that do not attend.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixer {
    /// What it computes.
    pub kind: MixerKind,
    pub(super) name: &'static str,
    pub(super) conv: &'static str,
    /// How a file has the rows that read the stream.
    pub inputs: Inputs,
    /// Heads of queries and keys, each of which serves as many heads of values; Mamba's groups.
    pub key_heads: usize,
    /// Heads of values.
    pub heads: usize,
    /// Numbers of a query or key, rows of a head's matrix; Mamba's state size. 0 where there is no matrix.
    pub key_dim: usize,
    /// Numbers of a value.
    pub value_dim: usize,
    /// Tokens that a convolution sees, the last of them its own.
    pub kernel: usize,
    /// The convolution adds a bias to each channel.
    pub conv_bias: bool,
    /// Of the products with the stream and back to it.
    pub bias: bool,
}

/// What a tensor of a mixer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MixerPart {
    /// Rows that read the stream, from this one on.
    Input(usize),
    Output,
    /// `[channels, 1, kernel]`.
    Conv,
    /// By head the logarithm of what a step is decayed by.
    Decay,
    /// By head what is added to a step before its softplus.
    Step,
    /// By head how much of a value passes by the matrix (Mamba's D).
    Skip,
    /// Of the output.
    Norm,
}

/// Values of a head's matrix that stand side by side.
pub(super) const PANEL: usize = 16;

/// The largest of what published mixers have is a sixteenth of each.
const MOST_KERNEL: usize = 64;
const MOST_STATE: usize = 1 << 26;

impl Mixer {
    /// The mixer of a config, and for each layer, whether it has it.
    pub(super) fn read(c: &Config, row: &MixerRow, hidden: usize, layers: usize) -> Result<(Self, Vec<bool>), Error> {
        let size = |key: &str, default| c.size_or(key, default);
        let flag = |key, default| c.is(Flag::Key(key, default));
        let plain = Mixer {
            kind: row.kind,
            name: row.name,
            conv: row.conv,
            inputs: row.inputs,
            key_heads: 1,
            heads: 1,
            key_dim: 0,
            value_dim: hidden,
            kernel: 0,
            conv_bias: false,
            bias: false,
        };
        let (mixer, kernel) = match row.kind {
            MixerKind::DeltaNet => (
                Mixer {
                    key_heads: size("linear_num_key_heads", 16)?,
                    heads: size("linear_num_value_heads", 32)?,
                    key_dim: size("linear_key_head_dim", 128)?,
                    value_dim: size("linear_value_head_dim", 128)?,
                    kernel: size("linear_conv_kernel_dim", 4)?,
                    ..plain
                },
                "linear_conv_kernel_dim",
            ),
            MixerKind::Mamba2 => (
                Mixer {
                    key_heads: one_group(c)?,
                    heads: size("mamba_n_heads", 128)?,
                    key_dim: size("mamba_d_state", 256)?,
                    value_dim: mamba_head(c, hidden)?,
                    kernel: size("mamba_d_conv", 4)?,
                    conv_bias: flag("mamba_conv_bias", true)?,
                    bias: flag("mamba_proj_bias", false)?,
                    ..plain
                },
                "mamba_d_conv",
            ),
            MixerKind::ShortConv => (
                Mixer {
                    kernel: size("conv_L_cache", 3)?,
                    conv_bias: flag("conv_bias", false)?,
                    bias: flag("conv_bias", false)?,
                    ..plain
                },
                "conv_L_cache",
            ),
        };
        mixer.check(c, kernel)?;
        if mixer.kind == MixerKind::Mamba2 {
            check_step_limit(c)?;
        }
        Ok((mixer, recurrent_layers(c, row, layers)?))
    }

    /// Refuses sizes that no model has: memory is asked for by their products.
    fn check(&self, c: &Config, kernel: &str) -> Result<(), Error> {
        if self.kernel > MOST_KERNEL {
            return Err(c.error(kernel, format!("{} is more than {MOST_KERNEL}", self.kernel)));
        }
        let product = |sizes: &[usize]| sizes.iter().fold(1usize, |all, size| all.saturating_mul(*size));
        let (field, heads) = match self.kind {
            MixerKind::DeltaNet => ("linear_num_value_heads", "linear_num_key_heads"),
            _ => ("mamba_n_heads", "mamba_n_groups"),
        };
        let is_too_large = product(&[self.heads, self.value_dim]) > MOST
            || product(&[self.key_heads, self.key_dim]) > MOST
            || product(&[self.heads, self.value_dim.saturating_add(PANEL), self.key_dim]) > MOST_STATE;
        if is_too_large {
            let problem = format!(
                "{} heads of {} by {} are more than any model's",
                self.heads, self.key_dim, self.value_dim
            );
            return Err(c.error(field, problem));
        }
        if !self.heads.is_multiple_of(self.key_heads) {
            let problem = format!("{} does not divide {field} = {}", self.key_heads, self.heads);
            return Err(c.error(heads, problem));
        }
        Ok(())
    }

    /// Columns of what it gives, before they go back to the stream.
    pub fn width(&self) -> usize {
        self.heads * self.value_dim
    }

    /// Columns that are convolved: queries, keys and values; x, B and C; or B · x.
    pub fn channels(&self) -> usize {
        self.width() + 2 * self.key_heads * self.key_dim
    }

    /// Columns of what it reads of the stream: DeltaNet's queries, keys and values, gates, strengths and steps; Mamba's gates,
    /// x, B, C, and steps; LFM2's B, C and x.
    pub fn input_columns(&self) -> usize {
        match self.kind {
            MixerKind::DeltaNet => self.channels() + self.width() + 2 * self.heads,
            MixerKind::Mamba2 => self.width() + self.channels() + self.heads,
            MixerKind::ShortConv => 3 * self.width(),
        }
    }

    /// Columns that are normed together, at the end.
    pub(super) fn norm_len(&self) -> usize {
        match self.kind {
            MixerKind::DeltaNet => self.value_dim,
            MixerKind::Mamba2 => self.width(),
            MixerKind::ShortConv => 0,
        }
    }

    /// Numbers of a convolution's state: its last inputs, `[kernel − 1, channels]`.
    pub(super) fn conv_len(&self) -> usize {
        (self.kernel - 1) * self.channels()
    }

    /// Numbers of a head's matrix, `[panels, key_dim, PANEL]`; the padding of the last panel stays zero.
    pub(super) fn matrix_len(&self) -> usize {
        self.key_dim * self.value_dim.next_multiple_of(PANEL)
    }

    /// Numbers that one such layer remembers of a text.
    pub fn state_len(&self) -> usize {
        self.conv_len() + self.heads * self.matrix_len()
    }

    /// The rows of an input that stands key head by key head, in the order in which the decoder has them: all queries, all keys,
    /// all values, all gates; or all strengths, all steps.
    pub(super) fn ungrouped(&self, first: usize) -> Option<Vec<usize>> {
        if self.inputs != Inputs::ByHead {
            return None;
        }
        let shared = self.heads / self.key_heads;
        let parts = match first {
            0 => vec![
                self.key_dim,
                self.key_dim,
                shared * self.value_dim,
                shared * self.value_dim,
            ],
            _ => vec![shared, shared],
        };
        let group: usize = parts.iter().sum();
        let starts = parts.iter().scan(0, |start, len| {
            *start += len;
            Some(*start - len)
        });
        let of_part = |(start, len): (usize, &usize)| {
            let len = *len;
            (0..self.key_heads).flat_map(move |head| head * group + start..head * group + start + len)
        };
        Some(starts.zip(&parts).flat_map(of_part).collect())
    }

    /// Adds the tensors of a layer that has it.
    pub(super) fn tensors(&self, hidden: usize, list: &mut List) {
        let named = |name: &str| format!("{}.{name}", self.name);
        let input = |list: &mut List, name: &str, first: usize, rows: usize| {
            let slot = Slot::Mixer(MixerPart::Input(first));
            list.linear(&named(name), slot, [rows, hidden], self.bias);
        };
        let (channels, width, heads) = (self.channels(), self.width(), self.heads);
        match self.inputs {
            Inputs::One => input(list, "in_proj", 0, self.input_columns()),
            Inputs::ByHead => {
                input(list, "in_proj_qkvz", 0, channels + width);
                input(list, "in_proj_ba", channels + width, 2 * heads);
            }
            Inputs::Apart => {
                input(list, "in_proj_qkv", 0, channels);
                input(list, "in_proj_z", channels, width);
                input(list, "in_proj_b", channels + width, heads);
                input(list, "in_proj_a", channels + width + heads, heads);
            }
        }
        let conv = named(self.conv);
        let slot = Slot::Mixer(MixerPart::Conv);
        list.in_layer(&format!("{conv}.weight"), vec![channels, 1, self.kernel], slot, false);
        if self.conv_bias {
            list.in_layer(&format!("{conv}.bias"), vec![channels], slot, true);
        }
        for (name, part, len) in self.numbers() {
            list.in_layer(&named(name), vec![len], Slot::Mixer(part), false);
        }
        list.linear(
            &named("out_proj"),
            Slot::Mixer(MixerPart::Output),
            [hidden, width],
            self.bias,
        );
    }

    /// The small tensors, with how many numbers each has.
    fn numbers(&self) -> Vec<(&'static str, MixerPart, usize)> {
        let mut numbers = vec![
            ("norm.weight", MixerPart::Norm, self.norm_len()),
            ("A_log", MixerPart::Decay, self.heads),
            ("dt_bias", MixerPart::Step, self.heads),
        ];
        match self.kind {
            MixerKind::ShortConv => numbers.clear(),
            MixerKind::DeltaNet => {}
            MixerKind::Mamba2 => numbers.push(("D", MixerPart::Skip, self.heads)),
        }
        numbers
    }
}

/// For each layer, whether it remembers and does not attend.
fn recurrent_layers(c: &Config, row: &MixerRow, count: usize) -> Result<Vec<bool>, Error> {
    let key = ["layer_types", "layers_block_type"]
        .into_iter()
        .find(|key| c.get(key).is_some_and(serde_json::Value::is_array));
    if let Some(key) = key {
        let list = c.get(key).and_then(serde_json::Value::as_array).into_iter().flatten();
        let recurrent = |word: &serde_json::Value| match word.as_str() {
            Some("linear_attention" | "conv" | "mamba") => Ok(true),
            Some("full_attention" | "attention") => Ok(false),
            _ => {
                let problem = format!("{word} is neither attention nor what this family has in its place");
                Err(c.error(key, problem))
            }
        };
        let list: Vec<bool> = list.map(recurrent).collect::<Result<_, _>>()?;
        return match list.len() == count {
            true => Ok(list),
            false => Err(c.error(key, format!("has {} entries for {count} layers", list.len()))),
        };
    }
    match row.layers {
        Layers::Nth(key, default) => {
            let nth = c.size_or(key, default)?;
            Ok((0..count).map(|layer| !(layer + 1).is_multiple_of(nth)).collect())
        }
        Layers::Listed(key) => {
            let list = c.get(key).and_then(serde_json::Value::as_array);
            let attends =
                |layer: usize| list.is_none_or(|list| list.iter().any(|listed| listed.as_u64() == Some(layer as u64)));
            Ok((0..count).map(|layer| !attends(layer)).collect())
        }
        Layers::None => Ok(vec![true; count]),
    }
}

/// Refuses a limit of Mamba's steps, which no published hybrid has: they are above 0 by themselves.
fn check_step_limit(c: &Config) -> Result<(), Error> {
    let limits = c.get("time_step_limit").and_then(serde_json::Value::as_array);
    match limits
        .into_iter()
        .flatten()
        .find(|limit| limit.as_f64().is_some_and(|limit| limit != 0.0))
    {
        Some(limit) => Err(c.error(
            "time_step_limit",
            format!("{limit}: the decoder knows steps without a limit only"),
        )),
        None => Ok(()),
    }
}

/// Mamba's groups, of which all published hybrids have one: with more the output is normed by group.
fn one_group(c: &Config) -> Result<usize, Error> {
    match c.size_or("mamba_n_groups", 1)? {
        1 => Ok(1),
        more => Err(c.error("mamba_n_groups", format!("{more}: the decoder knows one group only"))),
    }
}

/// The width of Mamba's heads: all of them are `mamba_expand` times as wide as the stream.
fn mamba_head(c: &Config, hidden: usize) -> Result<usize, Error> {
    let (heads, width) = (
        c.size_or("mamba_n_heads", 128)?,
        c.size_or("mamba_expand", 2)?.saturating_mul(hidden),
    );
    if !width.is_multiple_of(heads) {
        return Err(c.error(
            "mamba_n_heads",
            format!("{heads} heads do not divide a width of {width}"),
        ));
    }
    match c.get("mamba_d_head") {
        Some(given) if given.is_u64() && given.as_u64() != Some((width / heads) as u64) => {
            let problem = format!("{given}: {heads} heads of a width of {width} have {}", width / heads);
            Err(c.error("mamba_d_head", problem))
        }
        _ => Ok(width / heads),
    }
}
