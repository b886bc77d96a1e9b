//! Merging where the parents lie on a device: what it is asked to compute, and what is left to the host.
//!
//! The device gets the numbers of one tensor's merge and does to each element what the CPU does, in `device.cu`: the bits are the
//! same. An [`Index`](super::magnitude::Index) leaves a few entries of a cut open; the device reports them, the host makes the cut
//! exact and has their elements written anew. What the kernels are not made for is the host's to merge.

use std::cmp::Reverse;

use bytemuck::{Pod, Zeroable};

use super::{
    breadcrumbs, della, linear,
    magnitude::{Bracket, Cut, Place},
    operation::Operation,
    parents::Parents,
    plan::OutputTensor,
    random::{Key, threshold},
    slerp,
    task_sum::{self, Keep, Pass, Rescale, TaskSum, Term, Trim},
    ties,
    view::{CHUNK, all_finite, isa},
};
use crate::recipe::DType;

/// The kernels, in CUDA C, for parents of one type and weights of one: see [`kernel_options`].
pub const KERNELS: &str = include_str!("device.cu");
/// Their names.
pub const KERNEL_NAMES: [&str; 7] = ["sum", "sum_many", "patch", "length", "mix", "clear", "rank"];

/// What NVRTC is told, besides the architecture.
pub fn kernel_options(parents: DType, weights: DType) -> Vec<String> {
    let (parents, weights) = (number(parents), number(weights));
    vec![
        format!("-DPARENT={parents}"),
        format!("-DELEMENT={weights}"),
        "--fmad=false".into(),
    ]
}

/// A device with memory of its own, which runs [`KERNELS`].
pub trait Device {
    /// What can go wrong there.
    type Error;
    /// Where these tensors lie on the device, each at a multiple of 16 bytes; it takes over those that it does not have. `None`: it has
    /// no room for all of them.
    ///
    /// # Errors
    /// Whatever the device refuses.
    fn hold(&mut self, tensors: &[ParentTensor<'_>]) -> Result<Option<Vec<u64>>, Self::Error>;
    /// Where so many bytes lie that one tensor's kernels leave each other, at a multiple of 16; those of the next tensor may get the same
    /// ones. `None`: it has no room for them.
    ///
    /// # Errors
    /// Whatever the device refuses.
    fn scratch(&mut self, bytes: usize) -> Result<Option<u64>, Self::Error>;
    /// Where an output's elements are to be written, in their order. `None`: nowhere as they are.
    fn place(&mut self, output: &str) -> Option<u64>;
    /// Runs a kernel, made for parents of this type, on at least so many threads, in blocks of 256. `job` is its first argument; the
    /// second is where `report` lies, which is zero before and comes back.
    ///
    /// # Errors
    /// Whatever the device refuses.
    fn run(
        &mut self,
        kernel: &str,
        parents: DType,
        threads: usize,
        job: &[u8],
        report: &mut [u8],
    ) -> Result<(), Self::Error>;
}

/// A parent's tensor as it lies in the host's memory.
#[derive(Clone, Copy, Debug)]
pub struct ParentTensor<'a> {
    /// Its model, by the recipe's word.
    pub model: &'a str,
    /// Its name there.
    pub tensor: &'a str,
    /// Of its elements.
    pub dtype: DType,
    /// Little-endian elements.
    pub bytes: &'a [u8],
}

/// As in `device.cu`.
const GROUP: usize = 8;
const MOST: usize = 4;
const MOST_MANY: usize = 32;
const MOST_MIXED: usize = 32;
const PATCHED: usize = 128;
const LANES: usize = 16;
const THREADS: usize = 256;

/// Merges one tensor on a device; false where it is the host's to merge, or to say why it cannot be.
pub(crate) fn merge<D: Device>(
    operation: &Operation,
    parents: &Parents<'_>,
    tensors: &[ParentTensor<'_>],
    (output, address): (&OutputTensor, u64),
    device: &mut D,
) -> Result<bool, D::Error> {
    let dtype = tensors[0].dtype;
    // Kernels count in 32 bits.
    let is_small = parents.len() <= 1 << 31;
    if !is_small || !is_covered(operation, parents) || tensors.iter().any(|tensor| tensor.dtype != dtype) {
        return Ok(false);
    }
    let Some(addresses) = device.hold(tensors)? else {
        return Ok(false);
    };
    let site = Site {
        parents,
        addresses,
        dtype,
        out: Output {
            address,
            count: parents.len() as u32,
            dtype: number(output.dtype),
        },
        rounded: output.dtype,
    };
    match Work::of(operation, parents) {
        Some(Work::Mix(mix)) => site.mix(&mix, device),
        Some(Work::Sum(sum, trims)) => site.sum(sum, trims, device),
        None => Ok(false),
    }
}

/// Whether the kernels are made for it.
fn is_covered(operation: &Operation, parents: &Parents<'_>) -> bool {
    match operation {
        Operation::Linear { weights, .. } => weights.len() <= MOST_MIXED,
        Operation::Slerp { .. } => true,
        Operation::TaskSum(sum) => {
            parents.base.is_some() && (1..=MOST_MANY).contains(&sum.terms.len()) && !has_factors(sum)
        }
        _ => false,
    }
}

/// Whether each entry that stays is divided by a probability of its own, which takes all ranks.
fn has_factors(sum: &TaskSum) -> bool {
    let is_ranked = |term: &Term| matches!(term.trim, Trim::Ranked { density, .. } if density > 0.0 && density < 1.0);
    sum.rescale == Rescale::Expectation && sum.terms.iter().any(is_ranked)
}

/// What the kernels do, in numbers.
enum Work<'a> {
    Mix(Mixed),
    Sum(&'a TaskSum, Vec<Trimmed>),
}

/// Σ wₖ xₖ, divided by something.
struct Mixed {
    weights: Vec<f32>,
    total: Option<f32>,
    from_zero: bool,
}

impl<'a> Work<'a> {
    /// `None`: weights that cancel out, or an index that cannot be kept.
    fn of(operation: &'a Operation, parents: &Parents<'_>) -> Option<Self> {
        match operation {
            Operation::Linear { weights, normalize } => Some(Work::Mix(Mixed {
                weights: weights.clone(),
                total: match normalize {
                    true => Some(linear::divisor(weights).ok()?),
                    false => None,
                },
                from_zero: true,
            })),
            Operation::Slerp { base, t } => Some(Work::Mix(Mixed {
                weights: slerp::weights(parents, *base, *t).to_vec(),
                total: None,
                from_zero: false,
            })),
            Operation::TaskSum(sum) => {
                let models = parents.models();
                let trims = models
                    .iter()
                    .zip(&sum.terms)
                    .map(|(k, term)| Trimmed::of(parents, *k, term));
                Some(Work::Sum(sum, trims.collect::<Option<_>>()?))
            }
            _ => None,
        }
    }
}

/// Which entries of one task vector stay: those inside `outer` and outside `inner` that a random number lets stay.
struct Trimmed {
    outer: Bracket,
    inner: Bracket,
    mask: Option<Mask>,
}

/// Whose random numbers let an entry stay.
#[derive(Clone, Copy)]
enum Mask {
    /// Below a threshold (DARE).
    Random { key: Key, threshold: u64 },
    /// Below that of the entry's rank in its row (DELLA); `marks` is where the device notes it, once it has decided.
    Ranked {
        key: Key,
        density: f64,
        epsilon: f64,
        marks: u64,
    },
}

impl Trimmed {
    /// `None` where no index can be kept, or a probability is none.
    fn of(parents: &Parents<'_>, k: usize, term: &Term) -> Option<Self> {
        let whole = Trimmed {
            outer: Bracket::exact(Cut::Everything),
            inner: Bracket::exact(Cut::Nothing),
            mask: None,
        };
        let n = parents.len();
        Some(match term.trim {
            Trim::Nothing => whole,
            Trim::Smallest { density }
            | Trim::Outliers { density, .. }
            | Trim::Random { density, .. }
            | Trim::Ranked { density, .. }
                if density >= 1.0 =>
            {
                whole
            }
            Trim::Smallest { density } => Trimmed {
                outer: parents.bracket(k, ties::kept(density, n))?,
                ..whole
            },
            Trim::Outliers { density, gamma } => {
                let (outliers, kept) = breadcrumbs::counts(density, gamma, n);
                Trimmed {
                    outer: parents.bracket(k, outliers + kept)?,
                    inner: parents.bracket(k, outliers)?,
                    ..whole
                }
            }
            Trim::Random { density, key } => Trimmed {
                mask: Some(Mask::Random {
                    key: Key(key),
                    threshold: threshold(density),
                }),
                ..whole
            },
            Trim::Ranked { density, .. } if density <= 0.0 => Trimmed {
                outer: Bracket::exact(Cut::Nothing),
                ..whole
            },
            Trim::Ranked { density, epsilon, key } => {
                della::check(density, epsilon).ok()?;
                Trimmed {
                    mask: Some(Mask::Ranked {
                        key: Key(key),
                        density,
                        epsilon,
                        marks: 0,
                    }),
                    ..whole
                }
            }
        })
    }

    /// Entries that may be open.
    fn most_open(&self) -> usize {
        self.outer.most_open() + self.inner.most_open()
    }

    fn is_exact(&self) -> bool {
        self.outer.is_exact() && self.inner.is_exact()
    }

    /// Makes both cuts exact, once all their open entries are found.
    fn close(&mut self, found: &[Place]) {
        for bracket in [&mut self.outer, &mut self.inner] {
            let is_open = |(Reverse(bits), index): &&Place| {
                let (low, high) = bracket.open_bits(*index);
                (low..high).contains(bits)
            };
            let mut open: Vec<Place> = found.iter().filter(is_open).copied().collect();
            *bracket = Bracket::exact(bracket.resolve(&mut open));
        }
    }

    /// The same for the host, once it is exact; `None`: the host has not ranked its entries.
    fn keep(&self) -> Option<Keep> {
        Some(match (self.mask, self.inner.sure) {
            (Some(Mask::Random { key, threshold }), _) => Keep::Random { key, threshold },
            (Some(Mask::Ranked { .. }), _) => return None,
            (None, Cut::Nothing) => Keep::Cut(self.outer.sure),
            (None, inner) => Keep::Band {
                outer: self.outer.sure,
                inner,
            },
        })
    }

    fn part(&self, address: u64, scale: f32, weight: f32) -> Part {
        let (Key(key), threshold, marks) = match self.mask {
            Some(Mask::Random { key, threshold }) => (key, threshold, 0),
            Some(Mask::Ranked { key, marks, .. }) => (key, 0, marks),
            None => (Key(0), 1 << 32, 0),
        };
        Part {
            address,
            key,
            threshold,
            marks,
            outer: self.outer.into(),
            inner: self.inner.into(),
            scale,
            weight,
        }
    }
}

/// The tensor that is merged, and where all of it lies.
struct Site<'a> {
    parents: &'a Parents<'a>,
    addresses: Vec<u64>,
    dtype: DType,
    out: Output,
    /// To which the result is rounded.
    rounded: DType,
}

impl Site<'_> {
    fn mix<D: Device>(&self, mixed: &Mixed, device: &mut D) -> Result<bool, D::Error> {
        let mut mix = Mix {
            out: self.out,
            count: mixed.weights.len() as u32,
            from_zero: u32::from(mixed.from_zero),
            divides: u32::from(mixed.total.is_some()),
            total: mixed.total.unwrap_or(1.0),
            ..Mix::zeroed()
        };
        mix.models[..self.addresses.len()].copy_from_slice(&self.addresses);
        mix.weights[..mixed.weights.len()].copy_from_slice(&mixed.weights);
        Ok(self.launch("mix", bytemuck::bytes_of(&mix), 0, device)?.is_finite)
    }

    fn sum<D: Device>(&self, sum: &TaskSum, mut trims: Vec<Trimmed>, device: &mut D) -> Result<bool, D::Error> {
        let known = |term: &Term| task_sum::known_scale(term, sum.rescale);
        if !self.rank(&mut trims, device)? {
            return Ok(false);
        }
        let mut scales: Vec<Option<f32>> = sum.terms.iter().map(known).collect();
        if scales.contains(&None) {
            // What is kept must be known exactly before its length is.
            if !trims.iter().all(Trimmed::is_exact) {
                let ones = vec![1.0; trims.len()];
                let report = self.launch_sum(sum, &trims, &ones, device)?;
                if !report.is_complete {
                    return Ok(false);
                }
                report.close(&mut trims);
            }
            let models = self.parents.models();
            for ((scale, trim), k) in scales.iter_mut().zip(&trims).zip(models) {
                if scale.is_none() {
                    let kept = self.length(trim, k, device)?;
                    *scale = Some(task_sum::restoring_scale(self.parents.l1(k), kept));
                }
            }
        }
        let scales: Vec<f32> = scales.into_iter().flatten().collect();
        let report = self.launch_sum(sum, &trims, &scales, device)?;
        if !report.is_finite || !report.is_complete {
            return Ok(false);
        }
        if report.open.is_empty() {
            return Ok(true);
        }
        report.close(&mut trims);
        self.patch(sum, &trims, scales, report.places(), device)
    }

    fn launch_sum<D: Device>(
        &self,
        sum: &TaskSum,
        trims: &[Trimmed],
        scales: &[f32],
        device: &mut D,
    ) -> Result<Report, D::Error> {
        let models = self.parents.models();
        let room = trims.iter().map(Trimmed::most_open).sum();
        let head = Sum {
            out: self.out,
            base: self.base(),
            models: models.len() as u32,
            elect: u32::from(sum.elect),
            normalize: u32::from(sum.normalize),
            total: task_sum::total(sum),
            lambda: sum.lambda,
            is_masked: u32::from(trims.iter().any(|trim| trim.mask.is_some())),
            room: room as u32,
            padding: 0,
        };
        let (kernel, parts) = match models.len() <= MOST {
            true => ("sum", MOST),
            false => ("sum_many", MOST_MANY),
        };
        let mut job = bytemuck::bytes_of(&head).to_vec();
        for (i, k) in models.iter().enumerate() {
            let part = trims[i].part(self.addresses[*k], scales[i], sum.terms[i].weight);
            job.extend_from_slice(bytemuck::bytes_of(&part));
        }
        job.resize(size_of::<Sum>() + parts * size_of::<Part>(), 0);
        self.launch(kernel, &job, room, device)
    }

    fn base(&self) -> u64 {
        self.parents.base.map_or(0, |base| self.addresses[base])
    }

    /// Has the device note which entries stay by their ranks; false: it has no room for that.
    fn rank<D: Device>(&self, trims: &mut [Trimmed], device: &mut D) -> Result<bool, D::Error> {
        let is_ranked = |trim: &&Trimmed| matches!(trim.mask, Some(Mask::Ranked { .. }));
        let ranked = trims.iter().filter(is_ranked).count();
        if ranked == 0 {
            return Ok(true);
        }
        // A bit each, for each model from a multiple of 16 bytes on.
        let words = self.parents.len().div_ceil(128) * 4;
        let Some(scratch) = device.scratch(4 * words * ranked)? else {
            return Ok(false);
        };
        let clear = Clear {
            address: scratch,
            words: (words * ranked) as u32,
            padding: 0,
        };
        device.run("clear", self.dtype, words * ranked, bytemuck::bytes_of(&clear), &mut [])?;
        let (rows, width) = self.parents.rows();
        let mut addresses = (scratch..).step_by(4 * words);
        for (trim, k) in trims.iter_mut().zip(self.parents.models()) {
            if let Some(Mask::Ranked {
                key: Key(key),
                density,
                epsilon,
                marks,
            }) = &mut trim.mask
            {
                *marks = addresses.next().unwrap_or(scratch);
                let ranks = Ranks {
                    base: self.base(),
                    model: self.addresses[k],
                    marks: *marks,
                    key: *key,
                    density: *density,
                    epsilon: *epsilon,
                    width: width as u32,
                    padding: 0,
                };
                device.run("rank", self.dtype, rows * THREADS, bytemuck::bytes_of(&ranks), &mut [])?;
            }
        }
        Ok(true)
    }

    /// ‖kept τ‖₁ of one model, as the host adds it up.
    fn length<D: Device>(&self, trim: &Trimmed, k: usize, device: &mut D) -> Result<f64, D::Error> {
        let job = Length {
            base: self.base(),
            part: trim.part(self.addresses[k], 1.0, 1.0),
            count: self.out.count,
            is_masked: u32::from(trim.mask.is_some()),
        };
        let mut sums = vec![0.0f64; self.parents.len().div_ceil(CHUNK)];
        let (threads, sums_bytes) = (sums.len() * LANES, bytemuck::cast_slice_mut(&mut sums));
        device.run("length", self.dtype, threads, bytemuck::bytes_of(&job), sums_bytes)?;
        Ok(sums.iter().sum())
    }

    /// Writes the elements at some places anew, now that the cuts are exact.
    fn patch<D: Device>(
        &self,
        sum: &TaskSum,
        trims: &[Trimmed],
        scales: Vec<f32>,
        mut places: Vec<u32>,
        device: &mut D,
    ) -> Result<bool, D::Error> {
        places.sort_unstable();
        places.dedup();
        let keeps = trims.iter().map(Trimmed::keep).collect::<Option<_>>();
        let Some(pass) = keeps.and_then(|keeps| Pass::exact(self.parents, sum, keeps, scales)) else {
            return Ok(false);
        };
        let mut values = Vec::with_capacity(places.len());
        let starts = places.iter().map(|place| *place as usize);
        self.parents.inputs.pick(starts, 1, |chunks, scratch| {
            let mut value = [0.0f32];
            pass.chunk(places[values.len()] as usize, chunks, scratch, &mut value);
            values.push(value[0]);
        });
        self.rounded.round_with(isa(), &mut values);
        for (places, values) in places.chunks(PATCHED).zip(values.chunks(PATCHED)) {
            let mut patch = Patch {
                out: Output {
                    count: places.len() as u32,
                    ..self.out
                },
                ..Patch::zeroed()
            };
            patch.places[..places.len()].copy_from_slice(places);
            patch.values[..values.len()].copy_from_slice(values);
            device.run("patch", self.dtype, places.len(), bytemuck::bytes_of(&patch), &mut [])?;
        }
        Ok(all_finite(&values))
    }

    /// On a thread for each group of elements, with room for so many open entries.
    fn launch<D: Device>(&self, kernel: &str, job: &[u8], room: usize, device: &mut D) -> Result<Report, D::Error> {
        let mut words = vec![0u32; REPORT_WORDS + OPEN_WORDS * room.max(1)];
        let threads = self.parents.len().div_ceil(GROUP);
        device.run(kernel, self.dtype, threads, job, bytemuck::cast_slice_mut(&mut words))?;
        Ok(Report::of(&words))
    }
}

/// What stands for a type in `device.cu`.
fn number(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::Bf16 => 1,
        DType::F16 => 2,
    }
}

// The records of `device.cu`.

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Output {
    address: u64,
    count: u32,
    dtype: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Brackets {
    sure: [u32; 2],
    maybe: [u32; 2],
}

impl From<Bracket> for Brackets {
    fn from(bracket: Bracket) -> Self {
        // Nothing comes after the last index, and no magnitude has the largest bits.
        let numbers = |cut| match cut {
            Cut::Everything => [0, u32::MAX],
            Cut::Nothing => [u32::MAX, u32::MAX],
            Cut::At { bits, last } => [bits, last as u32],
        };
        Brackets {
            sure: numbers(bracket.sure),
            maybe: numbers(bracket.maybe),
        }
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Part {
    address: u64,
    key: u64,
    threshold: u64,
    marks: u64,
    outer: Brackets,
    inner: Brackets,
    scale: f32,
    weight: f32,
}

/// Its parts follow.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Sum {
    out: Output,
    base: u64,
    models: u32,
    elect: u32,
    normalize: u32,
    total: f32,
    lambda: f32,
    is_masked: u32,
    room: u32,
    padding: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Mix {
    out: Output,
    models: [u64; MOST_MIXED],
    weights: [f32; MOST_MIXED],
    count: u32,
    from_zero: u32,
    divides: u32,
    total: f32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Length {
    base: u64,
    part: Part,
    count: u32,
    is_masked: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Clear {
    address: u64,
    words: u32,
    padding: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Ranks {
    base: u64,
    model: u64,
    marks: u64,
    key: u64,
    density: f64,
    epsilon: f64,
    width: u32,
    padding: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Patch {
    out: Output,
    places: [u32; PATCHED],
    values: [f32; PATCHED],
}

const REPORT_WORDS: usize = 2;
const OPEN_WORDS: usize = 3;

/// What a launch found out.
struct Report {
    is_finite: bool,
    /// Whether there was room for all open entries.
    is_complete: bool,
    /// Model, index and magnitude of each.
    open: Vec<[u32; OPEN_WORDS]>,
}

impl Report {
    fn of(words: &[u32]) -> Self {
        let (found, not_finite) = (words[0] as usize, words[1]);
        let places: &[[u32; OPEN_WORDS]] = bytemuck::cast_slice(&words[REPORT_WORDS..]);
        Report {
            is_finite: not_finite == 0,
            is_complete: found <= places.len(),
            open: places[..found.min(places.len())].to_vec(),
        }
    }

    fn places(&self) -> Vec<u32> {
        self.open.iter().map(|[_, index, _]| *index).collect()
    }

    /// Makes all cuts exact.
    fn close(&self, trims: &mut [Trimmed]) {
        for (model, trim) in trims.iter_mut().enumerate() {
            let of_model = self.open.iter().filter(|[part, ..]| *part as usize == model);
            let places: Vec<Place> = of_model
                .map(|[_, index, bits]| (Reverse(*bits), *index as usize))
                .collect();
            trim.close(&places);
        }
    }
}
