//! A mixture of experts on the device: rows are sent to experts, sorted by them and multiplied there, without the host seeing where
//! any goes. So a recorded step holds for all tokens.
//!
//! The numbers of blocks follow from how many rows there are: of tiles, which are pairs of a row and an expert that it goes to, there
//! is room for as many as there can be, and those that are not needed leave at once.

use heterosis_isa::DType;

use super::super::Error;
use super::super::arithmetic::{Arithmetic, Mixture, Mlp};
use super::super::spec::{Activation, Experts, Router};
use super::gpu::{self, Address, Buffer, Gpu, Routing, launch};
use super::kernels::ON_MMA;
use super::{Cuda, Kind, Matrix, activation_of};

/// Bytes of a `Tile` of `experts.cu`.
const TILE: usize = 12;
/// Pairs for each expert, on average, up to which there are few.
const FEW: usize = 8;

/// The buffers of a mixture.
#[derive(Default)]
pub struct Mixing {
    logits: Buffer,
    /// By pair: its expert, and how much that counts.
    chosen: Buffer,
    weights: Buffer,
    /// The pairs by expert, and cut into tiles.
    order: Buffer,
    tiles: Buffer,
    inner: Buffer,
    results: Buffer,
    shared: Shared,
}

/// Of the expert that every row goes to.
#[derive(Default)]
struct Shared {
    gate_up: Matrix,
    inner: Matrix,
    result: Matrix,
    gate: Buffer,
}

/// How the products of experts are shared out.
#[derive(Clone, Copy)]
struct Tiling {
    /// The first product's kernel, and the second's.
    kernels: [&'static str; 2],
    /// Pairs in a tile.
    pairs: usize,
    /// Outputs of a block of the first product; one of the second has twice as many.
    outputs: usize,
    threads: u32,
}

impl Tiling {
    fn of(gpu: &Gpu, pairs: usize, experts: usize) -> Self {
        let [few, many] = ON_MMA;
        let (kernels, pairs, outputs, threads) = match gpu.has_mma() {
            false => (["plain_gated", "plain_down"], 8, 8, 256),
            true if pairs <= FEW * experts => (few, 8, 16, 128),
            true => (many, 64, 64, 128),
        };
        Tiling {
            kernels,
            pairs,
            outputs,
            threads,
        }
    }

    /// The most tiles that so many pairs can make.
    fn most(self, pairs: usize, experts: usize) -> usize {
        pairs / self.pairs + experts.min(pairs)
    }
}

#[cfg(test)]
impl Mixing {
    fn bytes(&self) -> usize {
        let buffers = [&self.logits, &self.chosen, &self.weights, &self.order, &self.tiles];
        let matrices = [&self.shared.gate_up, &self.shared.inner, &self.shared.result];
        let more = [&self.inner, &self.results, &self.shared.gate];
        let buffers = buffers.into_iter().chain(more);
        buffers
            .chain(matrices.map(|matrix| &matrix.buffer))
            .map(Buffer::bytes)
            .sum()
    }
}

/// Bytes that a row takes in the buffers of [`Mixing`].
pub fn row_bytes(experts: &Experts, hidden: usize, dtype: DType) -> usize {
    let in_pair = (experts.width + hidden) * dtype.size_bytes() + 3 * size_of::<u32>() + TILE;
    let shared = match experts.shared {
        0 => 0,
        width => (3 * width + hidden) * dtype.size_bytes(),
    };
    experts.per_token * in_pair + experts.count * size_of::<f32>() + shared
}

impl Cuda {
    /// `Σ weight · expert(x)` for each row, and the shared expert, as floats; by what the router reads.
    pub(super) fn mix(
        &mut self,
        mixing: &mut Mixing,
        (experts, mixture, activation): (&Experts, &Mixture<Cuda>, Activation),
        (x, routed): (&Matrix, &Matrix),
    ) -> Result<Address, Error> {
        let rows = x.rows;
        self.send_to_experts(mixing, (experts, mixture), routed)?;
        self.multiply_by_experts(mixing, (experts, &mixture.experts[0], activation), x)?;
        let (shared, gate) = self.shared(&mut mixing.shared, (mixture, activation), x)?;
        let gpu = self.gpu.clone();
        let branch = self.branch.reshape(&gpu, rows, x.cols, Kind::Float)?;
        launch!(
            gpu,
            "add_experts",
            (rows, 1),
            256,
            mixing.chosen.address(&gpu),
            mixing.weights.address(&gpu),
            mixing.results.address(&gpu),
            experts.per_token as u32,
            shared,
            gate,
            x.cols as u32,
            branch
        )?;
        Ok(branch)
    }

    /// Chooses and weighs the experts of each row.
    fn send_to_experts(
        &self,
        mixing: &mut Mixing,
        (experts, mixture): (&Experts, &Mixture<Cuda>),
        x: &Matrix,
    ) -> Result<(), Error> {
        let (gpu, router, pairs) = (&self.gpu, &mixture.router, x.rows * experts.per_token);
        let logits = mixing.logits.reserve(gpu, x.rows * experts.count * size_of::<f32>())?;
        let (sizes, weight) = ((router.outputs, router.inputs), gpu.address(&router.weight));
        gpu.product(sizes, x.rows, weight, x.address(), (1.0, 0.0), logits, true)?;
        let chosen = mixing.chosen.reserve(gpu, 4 * pairs)?;
        let weights = mixing.weights.reserve(gpu, 4 * pairs)?;
        // Rows that fill up a step have no block, and go nowhere: their experts' weights need not be read.
        let blocks = match self.layout.is_step {
            true => self.word(self.layout.row_blocks),
            false => 0,
        };
        launch!(
            gpu,
            "route",
            (x.rows, 1),
            32,
            logits,
            router.bias.as_ref().map_or(0, |bias| gpu.address(bias)),
            mixture.correction.address(gpu),
            mixture.scales.address(gpu),
            blocks,
            routing(experts),
            chosen,
            weights
        )
    }

    /// What each row's experts make of it, by pair.
    fn multiply_by_experts(
        &self,
        mixing: &mut Mixing,
        (experts, mlp, activation): (&Experts, &Mlp<Cuda>, Activation),
        x: &Matrix,
    ) -> Result<(), Error> {
        let (gpu, pairs) = (&self.gpu, x.rows * experts.per_token);
        let tiling = Tiling::of(gpu, pairs, experts.count);
        let most = tiling.most(pairs, experts.count);
        let order = mixing.order.reserve(gpu, 4 * pairs)?;
        let tiles = mixing.tiles.reserve(gpu, TILE * most)?;
        launch!(
            gpu,
            "sort_by_expert",
            (experts.count, 1),
            256,
            mixing.chosen.address(gpu),
            pairs as u32,
            tiling.pairs as u32,
            most as u32,
            order,
            tiles
        )?;
        let bias = |linear: &super::Linear| linear.bias.as_ref().map_or(0, |bias| gpu.address(bias));
        let gated = gpu::Product {
            x: x.address(),
            tiles,
            order,
            weight: gpu.address(&mlp.gate_up.weight),
            bias: bias(&mlp.gate_up),
            out: mixing.inner.reserve(gpu, pairs * experts.width * gpu.element_bytes())?,
            per_token: experts.per_token as u32,
            inputs: x.cols as u32,
            outputs: experts.width as u32,
            activation: activation_of(activation),
        };
        let down = gpu::Product {
            x: gated.out,
            weight: gpu.address(&mlp.down.weight),
            bias: bias(&mlp.down),
            out: mixing.results.reserve(gpu, pairs * x.cols * gpu.element_bytes())?,
            inputs: gated.outputs,
            outputs: gated.inputs,
            ..gated
        };
        let grid = |outputs: usize, in_block: usize| (most, outputs.div_ceil(in_block));
        let of_gated = grid(experts.width, tiling.outputs);
        launch!(gpu, tiling.kernels[0], of_gated, tiling.threads, gated)?;
        let of_down = grid(x.cols, 2 * tiling.outputs);
        launch!(gpu, tiling.kernels[1], of_down, tiling.threads, down)
    }

    /// What the shared expert makes of each row, as elements, and the number whose sigmoid it counts by; 0 where there is none.
    fn shared(
        &mut self,
        buffers: &mut Shared,
        (mixture, activation): (&Mixture<Cuda>, Activation),
        x: &Matrix,
    ) -> Result<(Address, Address), Error> {
        let Some(mlp) = &mixture.shared else {
            return Ok((0, 0));
        };
        self.product(&mlp.gate_up, x, &mut buffers.gate_up)?;
        self.gated(&buffers.gate_up, activation, &mut buffers.inner)?;
        self.product(&mlp.down, &buffers.inner, &mut buffers.result)?;
        let result = buffers.result.address();
        let Some(gate) = &mixture.shared_gate else {
            return Ok((result, 0));
        };
        let numbers = buffers.gate.reserve(&self.gpu, x.rows * size_of::<f32>())?;
        let weight = self.gpu.address(&gate.weight);
        self.gpu
            .product((1, gate.inputs), x.rows, weight, x.address(), (1.0, 0.0), numbers, true)?;
        Ok((result, numbers))
    }
}

fn routing(experts: &Experts) -> Routing {
    let (router, [groups, best], jitter) = match experts.router {
        Router::Softmax => (0, [1, 1], 0.0),
        Router::Sigmoid { groups, best } => (1, [groups, best], 0.0),
        Router::SparseMixer { jitter } => (2, [1, 1], jitter),
    };
    Routing {
        per_token: experts.per_token as u32,
        router,
        groups: groups as u32,
        best: best as u32,
        normalised: u32::from(experts.normalised),
        floor: experts.floor,
        scale: experts.scale,
        jitter,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use heterosis_isa::Isa;
    use serde_json::{Value, json};

    use super::super::super::cpu::Cpu;
    use super::super::super::kernels::{self as host, Threads};
    use super::super::super::spec::{DecoderSpec, NormKind};
    use super::super::Wanted;
    use super::*;

    fn spec(more: Value) -> DecoderSpec {
        let mut config = json!({"model_type": "qwen3_moe", "vocab_size": 10, "hidden_size": 40, "intermediate_size": 12,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "num_experts": 5,
            "num_experts_per_tok": 2, "moe_intermediate_size": 24});
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        DecoderSpec::from_config(&config).unwrap()
    }

    fn gpu(spec: &DecoderSpec, dtype: DType) -> Arc<Gpu> {
        let wanted = Wanted {
            dtype,
            head_dim: spec.head_dim,
            largest_head: spec.head_dim,
            mixer_key: None,
            softcap: false,
            experts: spec.experts.as_ref().unwrap().count,
        };
        Gpu::new(0, wanted).unwrap()
    }

    /// Numbers about 0, the same for the same seed.
    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let number = |i: u32| {
            let mut x = i
                .wrapping_mul(2_654_435_761)
                .wrapping_add(seed.wrapping_mul(0x9E37_79B9));
            x ^= x >> 15;
            x = x.wrapping_mul(0x2C1B_3C6D);
            x ^= x >> 13;
            (x >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..len as u32).map(number).collect()
    }

    fn linear<A: Arithmetic>(
        device: &A::Device,
        [outputs, inputs]: [usize; 2],
        dtype: DType,
        seed: Option<u32>,
    ) -> A::Linear {
        let mut made = A::linear(device, inputs, outputs, seed.is_some()).unwrap();
        let mut weight = numbers(inputs * outputs, seed.unwrap_or(outputs as u32));
        dtype.round(&mut weight);
        A::set_rows(device, &mut made, 0, &weight).unwrap();
        A::set_bias(device, &mut made, 0, &numbers(outputs, outputs as u32 + 7)).unwrap();
        made
    }

    /// Experts whose numbers are the same on every device, and a router of the given weights.
    fn mixture<A: Arithmetic>(device: &A::Device, spec: &DecoderSpec, dtype: DType, router: &[f32]) -> Mixture<A> {
        let (h, experts) = (spec.hidden, spec.experts.as_ref().unwrap());
        let mut made = Mixture {
            router: A::linear(device, h, experts.count, experts.biases).unwrap(),
            correction: A::numbers(
                device,
                if experts.names.correction.is_some() {
                    experts.count
                } else {
                    0
                },
            )
            .unwrap(),
            experts: Vec::new(),
            scales: A::numbers(device, experts.count).unwrap(),
            shared: (experts.shared > 0).then(|| Mlp {
                gate_up: linear::<A>(device, [2 * experts.shared, h], dtype, None),
                down: linear::<A>(device, [h, experts.shared], dtype, None),
            }),
            shared_gate: experts
                .shared_is_weighed
                .then(|| linear::<A>(device, [1, h], dtype, None)),
        };
        A::set_rows(device, &mut made.router, 0, router).unwrap();
        A::set_bias(device, &mut made.router, 0, &numbers(experts.count, 3)).unwrap();
        A::set_numbers(device, &mut made.scales, &numbers(experts.count, 5)).unwrap();
        if experts.names.correction.is_some() {
            A::set_numbers(device, &mut made.correction, &numbers(experts.count, 4)).unwrap();
        }
        let (in_each, kept) = if A::EXPERTS_IN_ONE {
            (experts.count, 1)
        } else {
            (1, experts.count)
        };
        let sizes = [[2 * experts.width, h], [h, experts.width]];
        for place in 0..kept {
            let [gate_up, down] = sizes.map(|[outputs, inputs]| {
                let mut made = A::linear(device, inputs, in_each * outputs, experts.biases).unwrap();
                for i in 0..in_each {
                    let seed = (outputs + 100 * (place + i)) as u32;
                    let mut weight = numbers(inputs * outputs, seed);
                    dtype.round(&mut weight);
                    A::set_rows(device, &mut made, i * outputs, &weight).unwrap();
                    A::set_bias(device, &mut made, i * outputs, &numbers(outputs, seed + 1)).unwrap();
                }
                made
            });
            made.experts.push(Mlp { gate_up, down });
        }
        made
    }

    /// A matrix of elements on the device.
    fn elements(gpu: &Arc<Gpu>, x: &host::Matrix) -> Matrix {
        let mut rows = Cuda::linear(gpu, x.cols, x.rows, false).unwrap();
        Cuda::set_rows(gpu, &mut rows, 0, &x.data).unwrap();
        let mut made = Matrix::default();
        let to = made.reshape(gpu, x.rows, x.cols, Kind::Element).unwrap();
        gpu.copy(gpu.address(&rows.weight), to, x.data.len() * gpu.element_bytes())
            .unwrap();
        made
    }

    fn on_device(gpu: &Arc<Gpu>, spec: &DecoderSpec, router: &[f32], x: &host::Matrix) -> Vec<f32> {
        let mixture = mixture::<Cuda>(gpu, spec, gpu.dtype, router);
        let (mut cuda, x) = (Cuda::new(gpu).unwrap(), elements(gpu, x));
        let mut h = Matrix::default();
        let to = h.reshape(gpu, x.rows, x.cols, Kind::Float).unwrap();
        gpu.zero(to, x.rows * x.cols * 4).unwrap();
        let none = Cuda::norm_of(gpu, NormKind::Rms, 0).unwrap();
        cuda.add_mixture(spec, &mixture, (&x, None), (&none, 1e-6), &mut h)
            .unwrap();
        let (taken, counted) = (
            cuda.mixing.bytes(),
            row_bytes(spec.experts.as_ref().unwrap(), spec.hidden, gpu.dtype),
        );
        // No buffer is smaller than 16 bytes.
        assert!(
            taken <= x.rows * counted + 11 * 16,
            "{taken} bytes for {} rows of {counted}",
            x.rows
        );
        h.into_host().unwrap().data
    }

    fn on_host(spec: &DecoderSpec, dtype: DType, router: &[f32], x: &host::Matrix) -> Vec<f32> {
        let isa = Isa::best();
        let mixture = mixture::<Cpu>(&isa, spec, dtype, router);
        let mut cpu = Cpu::new(&isa).unwrap();
        cpu.threads = Threads(1);
        let mut h = host::Matrix {
            rows: x.rows,
            cols: x.cols,
            data: vec![0.0; x.data.len()],
        };
        let none = Cpu::norm_of(&isa, NormKind::Rms, 0).unwrap();
        cpu.add_mixture(spec, &mixture, (x, None), (&none, 1e-6), &mut h)
            .unwrap();
        h.data
    }

    /// Every kind of router and expert, few rows and many, in sizes that fill no tile: what the device adds is what the host adds.
    #[test]
    #[ignore = "needs a GPU, or tests/emulator"]
    fn on_a_gpu_mixtures_are_those_of_the_cpu() {
        let cases = [
            json!({"norm_topk_prob": true}),
            // Depths for several rounds of four warps.
            json!({"num_experts_per_tok": 1, "hidden_size": 552, "moe_intermediate_size": 136}),
            // Every expert gets every row.
            json!({"num_experts_per_tok": 5, "hidden_size": 32, "moe_intermediate_size": 8}),
            // Rows of no multiple of eight.
            json!({"num_experts": 9, "hidden_size": 36, "moe_intermediate_size": 18}),
            json!({"model_type": "mixtral", "num_local_experts": 3, "num_experts": null}),
            json!({"model_type": "qwen2_moe", "shared_expert_intermediate_size": 20}),
            json!({"model_type": "glm4_moe", "num_experts": 12, "n_group": 4, "topk_group": 2, "n_shared_experts": 2,
                "routed_scaling_factor": 1.7, "num_experts_per_tok": 3, "first_k_dense_replace": 0}),
            json!({"model_type": "phimoe", "router_jitter_noise": 0.3, "intermediate_size": 24}),
            json!({"model_type": "gpt_oss", "intermediate_size": 24, "swiglu_limit": 0.3}),
        ];
        for case in cases {
            let spec = spec(case.clone());
            let experts = spec.experts.as_ref().unwrap();
            for (dtype, most) in [(DType::F32, 5e-6), (DType::Bf16, 1.5e-2), (DType::F16, 2e-3)] {
                let gpu = gpu(&spec, dtype);
                let mut router = numbers(experts.count * spec.hidden, 1);
                dtype.round(&mut router);
                for rows in [1, 5, 150] {
                    let mut data = numbers(rows * spec.hidden, rows as u32);
                    dtype.round(&mut data);
                    let x = host::Matrix {
                        rows,
                        cols: spec.hidden,
                        data,
                    };
                    let (got, expected) = (on_device(&gpu, &spec, &router, &x), on_host(&spec, dtype, &router, &x));
                    let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                    let error = got
                        .iter()
                        .zip(&expected)
                        .map(|(a, b)| (a - b).abs())
                        .fold(0.0, |most: f32, e| if e <= most { most } else { e });
                    assert!(
                        error < most * largest,
                        "{case} {dtype} {rows} rows: {error} of {largest}"
                    );
                }
            }
        }
    }

    /// Routers that cannot tell experts apart, send all rows to one, or none to some: the others are not touched.
    #[test]
    #[ignore = "needs a GPU, or tests/emulator"]
    fn on_a_gpu_ties_and_crowds_go_where_the_cpu_sends_them() {
        let spec = spec(json!({"num_experts": 7, "norm_topk_prob": true}));
        let all_alike = vec![0.0; 7 * 40];
        // The first column of x is one.
        let first_column = |of: [f32; 7]| {
            let mut router = vec![0.0; 7 * 40];
            router
                .iter_mut()
                .step_by(40)
                .zip(of)
                .for_each(|(x, number)| *x = number);
            router
        };
        let to_one = first_column([0.0, 0.0, 0.0, 0.0, 0.0, 8.0, 0.0]);
        let never_to_two = first_column([0.0, -8.0, 1.0, 1.0, 1.0, -8.0, 0.5]);
        for dtype in DType::ALL {
            let gpu = gpu(&spec, dtype);
            for router in [&all_alike, &to_one, &never_to_two] {
                for rows in [1, 130] {
                    let mut data = numbers(rows * 40, 9);
                    data.iter_mut().step_by(40).for_each(|x| *x = 1.0);
                    dtype.round(&mut data);
                    let x = host::Matrix { rows, cols: 40, data };
                    let (got, expected) = (on_device(&gpu, &spec, router, &x), on_host(&spec, dtype, router, &x));
                    let worst = got
                        .iter()
                        .zip(&expected)
                        .map(|(a, b)| (a - b).abs())
                        .fold(0.0f32, f32::max);
                    let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                    assert!(
                        worst < 1.5e-2 * largest && got.iter().all(|x| x.is_finite()),
                        "{dtype} {rows}: {worst}"
                    );
                }
            }
        }
    }

    /// The choice itself, by logits that are equal, infinite or no numbers.
    #[test]
    #[ignore = "needs a GPU, or tests/emulator"]
    fn on_a_gpu_experts_are_chosen_as_on_the_cpu() {
        let cases = [
            json!({"num_experts": 70, "num_experts_per_tok": 8}),
            json!({"num_experts": 70, "num_experts_per_tok": 70, "norm_topk_prob": true}),
            json!({"num_experts": 33, "num_experts_per_tok": 1}),
            json!({"model_type": "glm4_moe", "num_experts": 72, "n_group": 36, "topk_group": 5, "num_experts_per_tok": 6}),
            json!({"model_type": "glm4_moe", "num_experts": 6, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.5}),
            json!({"model_type": "phimoe", "num_experts": 40, "router_jitter_noise": 0.4, "intermediate_size": 24}),
        ];
        for case in cases {
            let spec = spec(case.clone());
            let experts = spec.experts.as_ref().unwrap();
            let (count, k) = (experts.count, experts.per_token);
            let mut rows: Vec<Vec<f32>> = (0..20).map(|seed| numbers(count, seed)).collect();
            // Few numbers, so that most are equal to others; and none that differ.
            rows.extend((20..30).map(|seed| numbers(count, seed).iter().map(|x| (x * 6.0).round()).collect()));
            rows.push(vec![0.25; count]);
            rows.push(vec![-0.0; count]);
            let mut odd = numbers(count, 40);
            odd[1] = f32::NEG_INFINITY;
            rows.push(odd);
            let gpu = gpu(&spec, DType::F32);
            let correction = match experts.names.correction {
                Some(_) => numbers(count, 41).iter().map(|x| (x * 4.0).round() / 8.0).collect(),
                None => Vec::new(),
            };
            let mut own = Cuda::numbers(&gpu, correction.len()).unwrap();
            Cuda::set_numbers(&gpu, &mut own, &correction).unwrap();
            let logits = host::Matrix {
                rows: rows.len(),
                cols: count,
                data: rows.concat(),
            };
            let logits = elements(&gpu, &logits);
            let (mut chosen, mut weights) = (Buffer::default(), Buffer::default());
            let chosen = chosen.reserve(&gpu, 4 * rows.len() * k).unwrap();
            let weights = weights.reserve(&gpu, 4 * rows.len() * k).unwrap();
            launch!(
                gpu,
                "route",
                (rows.len(), 1),
                32,
                logits.address(),
                0u64,
                own.address(&gpu),
                0u64,
                0u64,
                routing(experts),
                chosen,
                weights
            )
            .unwrap();
            let chosen: Vec<u32> = gpu.download(chosen, rows.len() * k).unwrap();
            let weights: Vec<f32> = gpu.download(weights, rows.len() * k).unwrap();
            for (i, row) in rows.iter().enumerate() {
                let mut routes = experts.routes(Isa::best(), row, &correction);
                routes.sort_by_key(|route| route.expert);
                let got = chosen[i * k..].iter().zip(&weights[i * k..]);
                for (route, (expert, weight)) in routes.iter().zip(got) {
                    let near = (route.weight - weight).abs() < 1e-6 * route.weight.abs().max(1.0);
                    assert!(
                        route.expert == *expert as usize && near,
                        "{case} {i}: {routes:?} {expert} {weight}"
                    );
                }
            }
        }
    }

    /// Sorted pairs keep their order within an expert, and tiles cover them once.
    #[test]
    #[ignore = "needs a GPU, or tests/emulator"]
    fn on_a_gpu_pairs_are_sorted_and_cut() {
        let spec = spec(json!({"num_experts": 7}));
        let gpu = gpu(&spec, DType::F32);
        let nowhere = u32::MAX;
        let some: Vec<u32> = (0..1000u32)
            .map(|i| i.wrapping_mul(2_654_435_761) >> 16)
            .map(|x| x % 8)
            .collect();
        let some: Vec<u32> = some.iter().map(|x| if *x == 7 { nowhere } else { *x }).collect();
        for chosen in [&some[..], &some[..1], &[nowhere; 5], &[3; 300], &[6, 0, 6, 0, 1]] {
            let as_floats: Vec<f32> = chosen.iter().map(|x| f32::from_bits(*x)).collect();
            let mut given = Cuda::numbers(&gpu, chosen.len()).unwrap();
            Cuda::set_numbers(&gpu, &mut given, &as_floats).unwrap();
            let (tile, most) = (8, chosen.len() / 8 + chosen.len().min(7));
            let (mut order, mut tiles) = (Buffer::default(), Buffer::default());
            let order = order.reserve(&gpu, 4 * chosen.len()).unwrap();
            let tiles = tiles.reserve(&gpu, TILE * most).unwrap();
            let (pairs, room) = (chosen.len() as u32, most as u32);
            let given = given.address(&gpu);
            launch!(
                gpu,
                "sort_by_expert",
                (7, 1),
                256,
                given,
                pairs,
                tile,
                room,
                order,
                tiles
            )
            .unwrap();
            let order: Vec<u32> = gpu.download(order, chosen.len()).unwrap();
            let tiles: Vec<[u32; 3]> = gpu.download(tiles, most).unwrap();
            let of = |expert: u32| (0..pairs).filter(move |pair| chosen[*pair as usize] == expert);
            let expected: Vec<u32> = (0..7).flat_map(of).collect();
            assert_eq!(order[..expected.len()], expected);
            let mut next = 0;
            for [expert, first, count] in tiles.iter().filter(|[_, _, count]| *count > 0) {
                assert!(*first == next && *count <= tile);
                let own = &order[*first as usize..][..*count as usize];
                assert!(own.iter().all(|pair| chosen[*pair as usize] == *expert));
                next += count;
            }
            assert_eq!(next as usize, expected.len());
        }
    }
}
