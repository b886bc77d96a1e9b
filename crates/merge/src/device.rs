//! Merging where the parents lie on a device: what it is asked to compute, and what is left to the host.
//!
//! The device gets the numbers of one tensor's merge and does to each element what the CPU does, in `device.cu`: the bits are the
//! same. An [`Index`](super::magnitude::Index) leaves a few entries of a cut open; the device reports them, the host makes the cut
//! exact and has their elements written anew. Nothing here waits: the [`Reports`] of many tensors are read at once. What the kernels are
//! not made for is the host's to merge.

use std::cmp::Reverse;

use bytemuck::{Pod, Zeroable};

use super::{
    breadcrumbs, della, linear,
    magnitude::{Bracket, Cut, Place},
    operation::Operation,
    parents::Parents,
    plan::OutputTensor,
    random::{Key, threshold},
    reports::{Report, Reports, Slot},
    slerp,
    task_sum::{self, Keep, Pass, Rescale, TaskSum, Term, Trim},
    ties,
    view::{CHUNK, all_finite, isa},
};
use crate::recipe::DType;

/// The kernels, in CUDA C, for parents of one type and weights of one: see [`kernel_options`].
pub const KERNELS: &str = include_str!("device.cu");
/// Their names.
pub const KERNEL_NAMES: [&str; 10] = [
    "sum", "sum_many", "patch", "length", "restore", "mix", "clear", "fetch", "rank", "divide",
];

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
    /// Where so many bytes lie that kernels leave each other or report, at a multiple of 16. Those of another use are others; for the same
    /// one the next call may give the same again. `None`: it has no room for them.
    ///
    /// # Errors
    /// Whatever the device refuses.
    fn scratch(&mut self, use_of_it: &str, bytes: usize) -> Result<Option<u64>, Self::Error>;
    /// Bytes of the reports that are read at once.
    fn report_bytes(&self) -> usize {
        1 << 20
    }
    /// Bytes that kernels leave each other at a time, where they can do with fewer than for a whole tensor.
    fn scratch_bytes(&self) -> usize {
        128 << 20
    }
    /// Where an output's elements are to be written, in their order. `None`: nowhere as they are.
    fn place(&mut self, output: &str) -> Option<u64>;
    /// Has a kernel run after those before it, made for parents of this type, on at least so many threads, in blocks of 256. `job` is its
    /// first argument; the second is where `report` lies, which is zero before and comes back. Waits for that where it is not empty.
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

/// What became of a tensor's kernels.
pub(crate) enum Start {
    Launched(Launched),
    /// It is the host's to merge, or to say why it cannot be.
    Host,
    /// Reports are to be read first.
    Full,
}

/// A tensor whose kernels are on their way, and where they report.
pub(crate) struct Launched {
    step: Step,
    slot: Slot,
}

enum Step {
    Mix,
    /// What is open is looked for: what is kept must be known exactly before its length is.
    Opens(Vec<Trimmed>),
    /// With the scales where the host knows all of them.
    Sum(Vec<Trimmed>, Option<Vec<f32>>),
}

/// What a report says of a tensor.
pub(crate) enum Outcome {
    Done,
    Host,
    /// To be started again, with exact cuts.
    Again(Vec<Trimmed>),
    /// Elements that were open are to be written anew.
    Patch(Patched),
}

/// What is written anew.
pub(crate) struct Patched {
    trims: Vec<Trimmed>,
    scales: Vec<f32>,
    places: Vec<u32>,
}

impl Launched {
    /// `reports` are what [`Reports::read`] gave.
    pub fn outcome(self, reports: &[u32]) -> Outcome {
        let report = Report::of(reports, self.slot);
        let is_complete = report.is_complete;
        match self.step {
            Step::Opens(mut trims) if is_complete => {
                close(&mut trims, &report);
                Outcome::Again(trims)
            }
            Step::Mix | Step::Sum(..) if report.is_finite && report.open.is_empty() => Outcome::Done,
            Step::Sum(mut trims, Some(scales)) if report.is_finite && is_complete => {
                close(&mut trims, &report);
                Outcome::Patch(Patched {
                    trims,
                    scales,
                    places: report.open.iter().map(|[_, index, _]| *index).collect(),
                })
            }
            _ => Outcome::Host,
        }
    }
}

/// Makes all cuts exact.
fn close(trims: &mut [Trimmed], report: &Report) {
    for (model, trim) in trims.iter_mut().enumerate() {
        let of_model = report.open.iter().filter(|[part, ..]| *part as usize == model);
        let places: Vec<Place> = of_model
            .map(|[_, index, bits]| (Reverse(*bits), *index as usize))
            .collect();
        trim.close(&places);
    }
}

/// Whether the kernels are made for it.
fn is_covered(operation: &Operation, parents: &Parents<'_>) -> bool {
    match operation {
        Operation::Linear { weights, .. } => weights.len() <= MOST_MIXED,
        Operation::Slerp { .. } => true,
        Operation::TaskSum(sum) => parents.base.is_some() && (1..=MOST_MANY).contains(&sum.terms.len()),
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
    fn of(operation: &'a Operation, parents: &Parents<'_>, exact: Option<Vec<Trimmed>>) -> Option<Self> {
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
                if let Some(trims) = exact {
                    return Some(Work::Sum(sum, trims));
                }
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

impl Work<'_> {
    fn most_open(&self) -> usize {
        match self {
            Work::Mix(_) => 0,
            Work::Sum(_, trims) => trims.iter().map(Trimmed::most_open).sum(),
        }
    }
}

/// Which entries of one task vector stay: those inside `outer` and outside `inner` that a random number lets stay.
#[derive(Clone)]
pub(crate) struct Trimmed {
    outer: Bracket,
    inner: Bracket,
    mask: Option<Mask>,
}

/// Whose random numbers let an entry stay.
#[derive(Clone, Copy)]
enum Mask {
    /// Below a threshold (DARE).
    Random { key: Key, threshold: u64 },
    /// Below that of the entry's rank in its row (DELLA), which the device notes.
    Ranked {
        key: Key,
        density: f64,
        epsilon: f64,
        noted: Noted,
    },
}

/// Where the device notes which entries stay, once it has decided.
#[derive(Clone, Copy)]
enum Noted {
    /// A bit for each.
    Marks(u64),
    /// One over its probability, or 0.
    Factors(u64),
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
                        noted: Noted::Marks(0),
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

    fn is_ranked(&self) -> bool {
        matches!(self.mask, Some(Mask::Ranked { .. }))
    }

    /// Where the device notes which of its ranked entries stay.
    fn note(&mut self, at: Noted) {
        if let Some(Mask::Ranked { noted, .. }) = &mut self.mask {
            *noted = at;
        }
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

    fn part(&self, address: u64, scale: Scale, weight: f32) -> Part {
        let (scale, scale_at) = match scale {
            Scale::Known(scale) => (scale, 0),
            Scale::At(address) => (1.0, address),
        };
        let (Key(key), threshold) = match self.mask {
            Some(Mask::Random { key, threshold }) => (key, threshold),
            Some(Mask::Ranked { .. }) | None => (Key(0), 1 << 32),
        };
        let (marks, factors) = match self.mask {
            Some(Mask::Ranked { noted, .. }) => match noted {
                Noted::Marks(marks) => (marks, 0),
                Noted::Factors(factors) => (0, factors),
            },
            _ => (0, 0),
        };
        Part {
            address,
            key,
            threshold,
            marks,
            factors,
            outer: self.outer.into(),
            inner: self.inner.into(),
            scale_at,
            scale,
            weight,
        }
    }
}

/// The tensor that is merged, and where all of it lies.
pub(crate) struct Site<'a> {
    operation: &'a Operation,
    parents: &'a Parents<'a>,
    addresses: Vec<u64>,
    dtype: DType,
    out: Output,
    /// To which the result is rounded.
    rounded: DType,
}

impl<'a> Site<'a> {
    /// `None`: the kernels are not made for it, or the device has no room.
    pub fn new<D: Device>(
        operation: &'a Operation,
        parents: &'a Parents<'a>,
        tensors: &[ParentTensor<'_>],
        (output, address): (&OutputTensor, u64),
        device: &mut D,
    ) -> Result<Option<Self>, D::Error> {
        let dtype = tensors[0].dtype;
        // Kernels count in 32 bits.
        let is_small = parents.len() <= 1 << 31;
        if !is_small || !is_covered(operation, parents) || tensors.iter().any(|tensor| tensor.dtype != dtype) {
            return Ok(None);
        }
        Ok(device.hold(tensors)?.map(|addresses| Site {
            operation,
            parents,
            addresses,
            dtype,
            out: Output {
                address,
                report: 0,
                count: parents.len() as u32,
                dtype: number(output.dtype),
                first: 0,
                padding: 0,
            },
            rounded: output.dtype,
        }))
    }

    /// Launches the kernels that merge it, or look for what is open; `exact` are its trims where these are known.
    pub fn start<D: Device>(
        &self,
        exact: Option<Vec<Trimmed>>,
        reports: &mut Option<Reports>,
        device: &mut D,
    ) -> Result<Start, D::Error> {
        let Some(work) = Work::of(self.operation, self.parents, exact) else {
            return Ok(Start::Host);
        };
        let is_first = reports.is_none();
        if is_first {
            *reports = Reports::new(self.dtype, device)?;
        }
        let Some(slot) = (match reports {
            Some(reports) => reports.take(work.most_open()),
            None => return Ok(Start::Host),
        }) else {
            return Ok(if is_first { Start::Host } else { Start::Full });
        };
        let out = Output {
            report: slot.address,
            ..self.out
        };
        let step = match work {
            Work::Mix(mixed) => self.mix(out, &mixed, device)?,
            Work::Sum(sum, trims) => match self.sum(out, sum, trims, device)? {
                Some(step) => step,
                None => return Ok(Start::Host),
            },
        };
        Ok(Start::Launched(Launched { step, slot }))
    }

    fn mix<D: Device>(&self, out: Output, mixed: &Mixed, device: &mut D) -> Result<Step, D::Error> {
        let mut mix = Mix {
            out,
            count: mixed.weights.len() as u32,
            from_zero: u32::from(mixed.from_zero),
            divides: u32::from(mixed.total.is_some()),
            total: mixed.total.unwrap_or(1.0),
            ..Mix::zeroed()
        };
        mix.models[..self.addresses.len()].copy_from_slice(&self.addresses);
        mix.weights[..mixed.weights.len()].copy_from_slice(&mixed.weights);
        self.run("mix", self.groups(), &mix, device)?;
        Ok(Step::Mix)
    }

    /// `None`: the device has no room for what the kernels leave each other.
    fn sum<D: Device>(
        &self,
        out: Output,
        sum: &TaskSum,
        mut trims: Vec<Trimmed>,
        device: &mut D,
    ) -> Result<Option<Step>, D::Error> {
        let known = |term: &Term| task_sum::known_scale(term, sum.rescale);
        let scales: Option<Vec<f32>> = sum.terms.iter().map(known).collect();
        if let Some(scales) = &scales
            && !trims.iter().any(Trimmed::is_ranked)
        {
            let scales: Vec<Scale> = scales.iter().map(|scale| Scale::Known(*scale)).collect();
            self.launch_sum(out, sum, &trims, &scales, device)?;
        } else if !trims.iter().all(Trimmed::is_exact) {
            let ones: Vec<Scale> = trims.iter().map(|_| Scale::Known(1.0)).collect();
            self.launch_sum(out, sum, &trims, &ones, device)?;
            return Ok(Some(Step::Opens(trims)));
        } else if has_factors(sum) {
            return self.divided(out, sum, trims, device);
        } else {
            let of = Between::new(self.parents.len(), &trims, sum);
            let Some(start) = device.scratch("between kernels", of.bytes())? else {
                return Ok(None);
            };
            self.rank(&of, start, &mut trims, device)?;
            let scales = self.scales(&of, start, sum, &trims, device)?;
            self.launch_sum(out, sum, &trims, &scales, device)?;
        }
        Ok(Some(Step::Sum(trims, scales)))
    }

    fn launch_sum<D: Device>(
        &self,
        out: Output,
        sum: &TaskSum,
        trims: &[Trimmed],
        scales: &[Scale],
        device: &mut D,
    ) -> Result<(), D::Error> {
        let models = self.parents.models();
        let head = Sum {
            out,
            base: self.base(),
            models: models.len() as u32,
            elect: u32::from(sum.elect),
            normalize: u32::from(sum.normalize),
            total: task_sum::total(sum),
            lambda: sum.lambda,
            is_masked: u32::from(trims.iter().any(|trim| trim.mask.is_some())),
            room: trims.iter().map(Trimmed::most_open).sum::<usize>() as u32,
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
        device.run(kernel, self.dtype, self.groups(), &job, &mut [])
    }

    /// Threads of a kernel that has one for each group of elements.
    fn groups(&self) -> usize {
        (self.out.count as usize).div_ceil(GROUP)
    }

    fn run<D: Device>(&self, kernel: &str, threads: usize, job: &impl Pod, device: &mut D) -> Result<(), D::Error> {
        device.run(kernel, self.dtype, threads, bytemuck::bytes_of(job), &mut [])
    }

    fn base(&self) -> u64 {
        self.parents.base.map_or(0, |base| self.addresses[base])
    }

    /// Has the device note which entries stay by their ranks.
    fn rank<D: Device>(&self, of: &Between, start: u64, trims: &mut [Trimmed], device: &mut D) -> Result<(), D::Error> {
        let words = of.marks_bytes / 4 * of.ranked;
        self.run("clear", words, &Clear::new(start, words), device)?;
        let (rows, _) = self.parents.rows();
        let mut addresses = (start..).step_by(of.marks_bytes);
        for (trim, k) in trims.iter_mut().zip(self.parents.models()) {
            let Some(ranks) = self.ranks(trim, k) else { continue };
            let marks = addresses.next().unwrap_or(start);
            trim.note(Noted::Marks(marks));
            self.run("rank", rows * THREADS, &Ranks { marks, ..ranks }, device)?;
        }
        Ok(())
    }

    /// What the device is told of the entries of model `k`, where they stay by their ranks.
    fn ranks(&self, trim: &Trimmed, k: usize) -> Option<Ranks> {
        let Some(Mask::Ranked {
            key: Key(key),
            density,
            epsilon,
            ..
        }) = trim.mask
        else {
            return None;
        };
        let (_, width) = self.parents.rows();
        Some(Ranks {
            base: self.base(),
            model: self.addresses[k],
            key,
            density,
            epsilon,
            width: width as u32,
            first: self.out.first,
            ..Ranks::zeroed()
        })
    }

    /// Where what stays is divided by its probability: as many rows at a time as there is room for factors of; `None`: for none.
    fn divided<D: Device>(
        &self,
        out: Output,
        sum: &TaskSum,
        mut trims: Vec<Trimmed>,
        device: &mut D,
    ) -> Result<Option<Step>, D::Error> {
        let (rows, width) = self.parents.rows();
        // An order, and factors of each model.
        let numbers = 1 + trims.iter().filter(|trim| trim.is_ranked()).count();
        let at_once = match device.scratch_bytes() / (4 * width * numbers) {
            enough if enough >= rows => rows,
            // Eight of them begin at a multiple of 16 bytes, whatever their width.
            some => some.max(1).next_multiple_of(8),
        };
        let bytes = 4 * width * at_once;
        let Some(order) = device.scratch("between kernels", bytes * numbers)? else {
            return Ok(None);
        };
        for first in (0..rows).step_by(at_once) {
            let some = self.some_rows(out, first * width, (rows - first).min(at_once) * width);
            let mut addresses = (order..).step_by(bytes).skip(1);
            for (trim, k) in trims.iter_mut().zip(self.parents.models()) {
                let Some(ranks) = some.ranks(trim, k) else { continue };
                let factors = addresses.next().unwrap_or(order);
                trim.note(Noted::Factors(factors));
                let ranks = Ranks {
                    factors,
                    order,
                    ..ranks
                };
                self.run("divide", some.out.count as usize / width * THREADS, &ranks, device)?;
            }
            let ones: Vec<Scale> = trims.iter().map(|_| Scale::Known(1.0)).collect();
            some.launch_sum(some.out, sum, &trims, &ones, device)?;
        }
        Ok(Some(Step::Sum(trims, None)))
    }

    /// Some of the tensor's elements.
    fn some_rows(&self, out: Output, first: usize, count: usize) -> Site<'a> {
        let offset = (first * self.dtype.size_bytes()) as u64;
        Site {
            addresses: self.addresses.iter().map(|address| address + offset).collect(),
            out: Output {
                first: first as u32,
                count: count as u32,
                ..out
            },
            ..*self
        }
    }

    /// Of each model; where it gives ‖kept τ‖₁ its ‖τ‖₁ again, the device finds it.
    fn scales<D: Device>(
        &self,
        of: &Between,
        start: u64,
        sum: &TaskSum,
        trims: &[Trimmed],
        device: &mut D,
    ) -> Result<Vec<Scale>, D::Error> {
        let first = start + (of.marks_bytes * of.ranked) as u64;
        let mut addresses = (first..).step_by(of.sums_bytes + SCALE_BYTES);
        let (mut scales, chunks) = (Vec::new(), self.parents.len().div_ceil(CHUNK));
        for ((term, trim), k) in sum.terms.iter().zip(trims).zip(self.parents.models()) {
            if let Some(scale) = task_sum::known_scale(term, sum.rescale) {
                scales.push(Scale::Known(scale));
                continue;
            }
            let scale = addresses.next().unwrap_or(first);
            let length = Length {
                base: self.base(),
                sums: scale + SCALE_BYTES as u64,
                part: trim.part(self.addresses[k], Scale::Known(1.0), 1.0),
                count: self.out.count,
                is_masked: u32::from(trim.mask.is_some()),
            };
            self.run("length", chunks * LANES, &length, device)?;
            let restore = Restore {
                sums: length.sums,
                scale,
                before: self.parents.l1(k),
                count: chunks as u32,
                padding: 0,
            };
            self.run("restore", 1, &restore, device)?;
            scales.push(Scale::At(scale));
        }
        Ok(scales)
    }

    /// Writes the elements at some places anew, now that the cuts are exact.
    /// False: not all of them are finite.
    pub fn patch<D: Device>(
        &self,
        Patched {
            trims,
            scales,
            mut places,
        }: Patched,
        device: &mut D,
    ) -> Result<bool, D::Error> {
        let Operation::TaskSum(sum) = self.operation else {
            return Ok(false);
        };
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
            self.run("patch", places.len(), &patch, device)?;
        }
        Ok(all_finite(&values))
    }
}

/// What the kernels of one sum leave each other, in bytes: marks of each ranked model, then a scale with sums of each that is restored.
struct Between {
    ranked: usize,
    restored: usize,
    /// A bit for each entry.
    marks_bytes: usize,
    /// A sum for each chunk.
    sums_bytes: usize,
}

const SCALE_BYTES: usize = 16;

impl Between {
    fn new(len: usize, trims: &[Trimmed], sum: &TaskSum) -> Self {
        let is_restored = |term: &&Term| task_sum::known_scale(term, sum.rescale).is_none();
        Between {
            ranked: trims.iter().filter(|trim| trim.is_ranked()).count(),
            restored: sum.terms.iter().filter(is_restored).count(),
            marks_bytes: len.div_ceil(128) * 16,
            sums_bytes: len.div_ceil(CHUNK).next_multiple_of(2) * 8,
        }
    }

    fn bytes(&self) -> usize {
        self.ranked * self.marks_bytes + self.restored * (SCALE_BYTES + self.sums_bytes)
    }
}

/// What a model's kept entries are multiplied with: a number, or what the device will have found by then.
#[derive(Clone, Copy)]
enum Scale {
    Known(f32),
    At(u64),
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
    report: u64,
    count: u32,
    dtype: u32,
    first: u32,
    padding: u32,
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
    factors: u64,
    outer: Brackets,
    inner: Brackets,
    scale_at: u64,
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
    sums: u64,
    part: Part,
    count: u32,
    is_masked: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Restore {
    sums: u64,
    scale: u64,
    before: f64,
    count: u32,
    padding: u32,
}

/// Also that of `fetch`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Clear {
    address: u64,
    words: u32,
    padding: u32,
}

impl Clear {
    pub fn new(address: u64, words: usize) -> Self {
        Clear {
            address,
            words: words as u32,
            padding: 0,
        }
    }
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
    first: u32,
    factors: u64,
    order: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Patch {
    out: Output,
    places: [u32; PATCHED],
    values: [f32; PATCHED],
}
