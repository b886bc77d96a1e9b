//! The training loop: batches drawn from a diet, AdamW with warm-up and a cosine, clipped gradients, and a state on
//! disk from which an interrupted run goes on exactly where it was.

use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Error, Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokenizers::Tokenizer;

use crate::decoder::{Batch, Tuned, Weights};
use crate::problems::{Diet, Text};

/// What a model reads, how long, and what of it is moved by that.
#[derive(Clone, Debug)]
pub struct Course {
    pub diet: Diet,
    pub schedule: Schedule,
    pub tuned: Tuned,
    /// None: every layer runs once.
    pub back: Option<Back>,
}

/// In half of the steps the path goes back once, so that the layers learn to go on from what the layers above them have made.
#[derive(Clone, Debug)]
pub struct Back {
    /// How many layers have run by then.
    pub ends: Range<usize>,
    /// How many of them run again.
    pub by: usize,
}

impl Course {
    /// Everything is tuned, every layer runs once.
    pub fn plain(diet: Diet, schedule: Schedule, layers: usize) -> Self {
        Self {
            diet,
            schedule,
            tuned: Tuned::all(layers),
            back: None,
        }
    }

    /// The layers that run in a step: the same whenever it is asked for.
    fn path(&self, step: usize, layers: usize) -> Vec<usize> {
        let Some(Back { ends, by }) = &self.back else {
            return (0..layers).collect();
        };
        let mut rng = ChaCha8Rng::seed_from_u64(!self.schedule.seed); // not the texts' numbers
        rng.set_stream(step as u64);
        if rng.random_bool(0.5) {
            return (0..layers).collect();
        }
        let end = rng.random_range(ends.clone());
        (0..end).chain(end - by..layers).collect()
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub steps: usize,
    pub batch_tokens: usize,
    pub learning_rate: f64,
    pub warmup: usize,
    pub seed: u64,
}

impl Schedule {
    /// Linear warm-up, then a cosine down to a twentieth.
    fn rate(&self, step: usize) -> f64 {
        let warm = (step + 1) as f64 / self.warmup as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / self.steps as f64).cos());
        self.learning_rate * warm.min(1.0) * (0.05 + 0.95 * cosine)
    }
}

/// How much a question's own tokens count, beside 1 for its answer's.
const QUESTION_WEIGHT: f32 = 0.1;
const CLIP: f64 = 1.0;
const BETAS: (f64, f64) = (0.9, 0.98);
const EPSILON: f64 = 1e-8;
const WEIGHT_DECAY: f64 = 0.02;

/// Batch number `step` of a diet: the same whenever it is asked for.
pub fn batch(diet: Diet, schedule: &Schedule, step: usize, tokenizer: &Tokenizer, eos: u32) -> Result<Batch> {
    let mut rng = ChaCha8Rng::seed_from_u64(schedule.seed);
    rng.set_stream(step as u64);
    let (mut inputs, mut targets, mut weights, mut texts) = (vec![], vec![], vec![], vec![]);
    while inputs.len() < schedule.batch_tokens {
        let Text { prompt, continuation } = diet.draw(&mut rng);
        let encode = |text: &str| tokenizer.encode(text, false).map_err(Error::msg);
        let mut ids = if prompt.is_empty() {
            vec![]
        } else {
            encode(&prompt)?.get_ids().to_vec()
        };
        let given = ids.len();
        ids.extend(encode(&continuation)?.get_ids());
        ids.push(eos);
        let start = inputs.len();
        inputs.extend(&ids[..ids.len() - 1]);
        targets.extend(&ids[1..]);
        weights.extend((1..ids.len()).map(|i| if i < given { QUESTION_WEIGHT } else { 1.0 }));
        texts.push(start..inputs.len());
    }
    Ok(Batch {
        inputs,
        targets: Arc::new(targets),
        weights: Arc::new(weights),
        texts: Arc::new(texts),
    })
}

/// AdamW with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), whose state can be saved.
struct AdamW {
    first: Vec<Vec<f32>>,
    second: Vec<Vec<f32>>,
}

impl AdamW {
    fn new(weights: &Weights) -> Self {
        let zeros: Vec<Vec<f32>> = weights
            .vars
            .iter()
            .map(|(_, var)| vec![0.0; var.elem_count()])
            .collect();
        Self {
            first: zeros.clone(),
            second: zeros,
        }
    }

    /// One update; returns the gradient's norm before clipping.
    fn step(&mut self, weights: &Weights, tuned: &Tuned, grads: &GradStore, step: usize, rate: f64) -> Result<f64> {
        let mut gradients = Vec::with_capacity(weights.vars.len());
        for (name, var) in &weights.vars {
            gradients.push(match grads.get(var) {
                Some(grad) => grad.flatten_all()?.to_vec1::<f32>()?,
                None => {
                    ensure!(!tuned.holds(name), "{name} has no gradient");
                    Vec::new()
                }
            });
        }
        let norm = gradients
            .iter()
            .flatten()
            .map(|g| f64::from(*g) * f64::from(*g))
            .sum::<f64>()
            .sqrt();
        let clip = (CLIP / (norm + 1e-6)).min(1.0) as f32;
        let (b1, b2) = (BETAS.0 as f32, BETAS.1 as f32);
        let correct1 = (1.0 - BETAS.0.powi(step as i32 + 1)) as f32;
        let correct2 = (1.0 - BETAS.1.powi(step as i32 + 1)) as f32;
        let rate = rate as f32;
        for (i, (name, var)) in weights.vars.iter().enumerate() {
            if !tuned.holds(name) {
                continue;
            }
            let decay = if name.ends_with("norm.weight") {
                0.0
            } else {
                rate * WEIGHT_DECAY as f32
            };
            let mut values = var.flatten_all()?.to_vec1::<f32>()?;
            let moments = self.first[i].iter_mut().zip(&mut self.second[i]);
            for ((w, g), (m, v)) in values.iter_mut().zip(&gradients[i]).zip(moments) {
                let g = g * clip;
                *m = b1 * *m + (1.0 - b1) * g;
                *v = b2 * *v + (1.0 - b2) * g * g;
                *w -= decay * *w + rate * (*m / correct1) / ((*v / correct2).sqrt() + EPSILON as f32);
            }
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
        }
        Ok(norm)
    }
}

/// Where the log goes, and how often the state is saved.
pub struct Bookkeeping<'a> {
    pub name: &'a str,
    pub state: &'a Path,
    pub log: &'a Path,
    pub save_every: usize,
}

/// Trains the weights in place, from the saved state if there is one.
pub fn train(weights: &Weights, course: &Course, tokenizer: &Tokenizer, eos: u32, books: &Bookkeeping) -> Result<()> {
    let Course {
        diet, schedule, tuned, ..
    } = course;
    let mut adam = AdamW::new(weights);
    let begin = if books.state.exists() {
        restore(books.state, weights, &mut adam)?
    } else {
        0
    };
    let mut log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(books.log)
        .with_context(|| format!("cannot open the log {}", books.log.display()))?;
    if begin == 0 {
        writeln!(log, "# {}: {} parameters, {course:?}", books.name, weights.count())?;
        writeln!(
            log,
            "# step, tokens, loss (mean since the last line), gradient norm, learning rate, tokens/s"
        )?;
    }
    let bar = ProgressBar::new(schedule.steps as u64).with_style(ProgressStyle::with_template(
        "{prefix:>8} {bar:40} {pos}/{len} {elapsed} (left {eta}) {msg}",
    )?);
    bar.set_prefix(books.name.to_string());
    bar.set_position(begin as u64);
    let (mut loss_sum, mut since, mut tokens, started) = (0.0, 0usize, 0usize, Instant::now());
    for step in begin..schedule.steps {
        let batch = batch(*diet, schedule, step, tokenizer, eos)?;
        tokens += batch.inputs.len();
        let path = course.path(step, weights.size.layers);
        let loss = weights.loss(&batch, &path, tuned)?;
        let rate = schedule.rate(step);
        let norm = adam.step(weights, tuned, &loss.backward()?, step, rate)?;
        loss_sum += f64::from(loss.to_scalar::<f32>()?);
        since += 1;
        bar.inc(1);
        if (step + 1) % 50 == 0 || step + 1 == schedule.steps {
            let (mean, speed) = (loss_sum / since as f64, tokens as f64 / started.elapsed().as_secs_f64());
            ensure!(
                mean.is_finite(),
                "the loss of {} is {mean} at step {}",
                books.name,
                step + 1
            );
            bar.set_message(format!("loss {mean:.4}, {speed:.0} tokens/s"));
            let seen = (step + 1) * schedule.batch_tokens;
            writeln!(log, "{} {seen} {mean:.4} {norm:.3} {rate:.2e} {speed:.0}", step + 1)?;
            (loss_sum, since) = (0.0, 0);
        }
        if (step + 1) % books.save_every == 0 || step + 1 == schedule.steps {
            save(books.state, weights, &adam, step + 1)?;
        }
    }
    bar.finish();
    Ok(())
}

/// Weights and both moments in one safetensors file, replaced atomically.
fn save(path: &Path, weights: &Weights, adam: &AdamW, steps: usize) -> Result<()> {
    let mut tensors = HashMap::new();
    for (i, (name, var)) in weights.vars.iter().enumerate() {
        let moment = |data: &[f32]| Tensor::from_slice(data, var.shape(), &Device::Cpu);
        tensors.insert(format!("weight.{name}"), var.as_tensor().clone());
        tensors.insert(format!("first.{name}"), moment(&adam.first[i])?);
        tensors.insert(format!("second.{name}"), moment(&adam.second[i])?);
    }
    tensors.insert("steps".to_string(), Tensor::new(steps as u32, &Device::Cpu)?);
    let partial = path.with_extension("partial");
    candle_core::safetensors::save(&tensors, &partial)?;
    std::fs::rename(&partial, path)?;
    Ok(())
}

fn restore(path: &Path, weights: &Weights, adam: &mut AdamW) -> Result<usize> {
    let tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
    let get = |name: String| {
        tensors
            .get(&name)
            .with_context(|| format!("{} lacks {name}", path.display()))
    };
    for (i, (name, var)) in weights.vars.iter().enumerate() {
        var.set(get(format!("weight.{name}"))?)?;
        adam.first[i] = get(format!("first.{name}"))?.flatten_all()?.to_vec1()?;
        adam.second[i] = get(format!("second.{name}"))?.flatten_all()?.to_vec1()?;
    }
    Ok(get("steps".to_string())?.to_scalar::<u32>()? as usize)
}
