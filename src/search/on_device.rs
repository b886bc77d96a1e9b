//! Merging on the device that decodes: what [`merge`] asks of a device, done by the decoder.

use crate::{
    merge::{self, ParentTensor},
    model::{self, DType, Decoder, Program},
};

/// Bytes that a merge asks for at least for itself.
const LEAST_SCRATCH: usize = 1 << 20;

/// The decoder that a child is merged into.
pub(super) struct OnDevice<'d>(pub &'d mut Decoder);

impl merge::Device for OnDevice<'_> {
    type Error = model::Error;

    fn hold(&mut self, tensors: &[ParentTensor<'_>]) -> Result<Option<Vec<u64>>, model::Error> {
        let named = tensors
            .iter()
            .map(|parent| (format!("{}\0{}", parent.model, parent.tensor), parent.bytes));
        self.0.hold(&named.collect::<Vec<_>>())
    }

    /// Of few sizes, so that it seldom moves.
    fn scratch(&mut self, use_of_it: &str, bytes: usize) -> Result<Option<u64>, model::Error> {
        self.0.scratch(use_of_it, bytes.next_power_of_two().max(LEAST_SCRATCH))
    }

    fn place(&mut self, output: &str) -> Option<u64> {
        self.0.place(output)
    }

    fn run(
        &mut self,
        kernel: &str,
        parents: DType,
        threads: usize,
        job: &[u8],
        report: &mut [u8],
    ) -> Result<(), model::Error> {
        let program = Program {
            name: merge::BUILD,
            source: merge::KERNELS,
            kernels: &merge::KERNEL_NAMES,
            options: merge::kernel_options(parents, self.0.dtype()),
        };
        self.0.run(&program, (kernel, threads), job, report)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        borrow::Cow,
        collections::{BTreeMap, BTreeSet},
        path::Path,
        sync::Arc,
    };

    use super::*;
    use crate::{
        checkpoint::Checkpoint,
        merge::{Plan, Resident, TensorSource, Vocabulary},
        model::{DecoderSpec, Device, EngineOptions},
        models::Parents,
        recipe::read,
    };

    /// A device that merges to where no decoder looks.
    struct Aside {
        decoder: Decoder,
        start: u64,
        /// Of each output, in bytes from `start` on.
        places: BTreeMap<String, usize>,
        report_bytes: usize,
        /// How often the last merge waited for reports, and how often the one did that waited most.
        waits: usize,
        most_waits: usize,
    }

    const ROOM: usize = 4 << 20;
    const REPORT_BYTES: usize = 1 << 20;
    const TAKE: &str = "struct From { unsigned long long address; unsigned bytes; };
extern \"C\" __global__ void take(const From from, unsigned char *to) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < from.bytes) to[i] = ((const unsigned char *)from.address)[i];
}
";

    impl Aside {
        fn new(dtype: DType) -> Self {
            let config = serde_json::json!({
                "model_type": "llama", "vocab_size": 8, "hidden_size": 32, "intermediate_size": 8,
                "num_hidden_layers": 1, "num_attention_heads": 1, "tie_word_embeddings": true,
            });
            let (spec, gpu) = (DecoderSpec::from_config(&config).unwrap(), Device::Cuda(0));
            let decoder = Decoder::zeros(spec, gpu, dtype).unwrap();
            let mut aside = Aside {
                decoder,
                start: 0,
                places: BTreeMap::new(),
                report_bytes: REPORT_BYTES,
                waits: 0,
                most_waits: 0,
            };
            aside.clear();
            aside
        }

        /// Forgets all parents.
        fn clear(&mut self) {
            self.decoder.give_up_held();
            self.decoder.make_room(&EngineOptions::for_device(Device::Cuda(0)));
            let here = self.decoder.hold(&[("aside".into(), &vec![0xff; ROOM])]);
            self.start = here.unwrap().unwrap()[0];
        }

        /// Gives each output of a plan a place.
        fn lay_out(&mut self, plan: &Plan) {
            let (mut end, size) = (0, self.decoder.dtype().size_bytes());
            self.places.clear();
            for output in plan.outputs() {
                self.places.insert(output.name.clone(), end);
                end += (output.elements() * size).next_multiple_of(256);
            }
            assert!(end <= ROOM);
        }

        fn taken(&mut self, output: &str, bytes: usize) -> Vec<u8> {
            let program = Program {
                name: "take",
                source: TAKE,
                kernels: &["take"],
                options: Vec::new(),
            };
            let place = self.start + self.places[output] as u64;
            let mut job = place.to_le_bytes().to_vec();
            job.extend((bytes as u64).to_le_bytes());
            let mut report = vec![0; bytes];
            self.decoder.run(&program, ("take", bytes), &job, &mut report).unwrap();
            report
        }
    }

    impl merge::Device for Aside {
        type Error = model::Error;

        fn hold(&mut self, tensors: &[ParentTensor<'_>]) -> Result<Option<Vec<u64>>, model::Error> {
            OnDevice(&mut self.decoder).hold(tensors)
        }

        fn scratch(&mut self, use_of_it: &str, bytes: usize) -> Result<Option<u64>, model::Error> {
            OnDevice(&mut self.decoder).scratch(use_of_it, bytes)
        }

        fn report_bytes(&self) -> usize {
            self.report_bytes
        }

        /// So that some matrices come in pieces.
        fn scratch_bytes(&self) -> usize {
            30_000
        }

        fn place(&mut self, output: &str) -> Option<u64> {
            Some(self.start + *self.places.get(output)? as u64)
        }

        fn run(&mut self, kernel: &str, p: DType, n: usize, job: &[u8], report: &mut [u8]) -> Result<(), model::Error> {
            self.waits += usize::from(!report.is_empty());
            OnDevice(&mut self.decoder).run(kernel, p, n, job, report)
        }
    }

    /// Merges all outputs on the device, at once, and on the host; how many of them the device merged.
    fn compare(plan: &Plan, source: &dyn TensorSource, models: &[&str], aside: &mut Aside, what: &str) -> usize {
        let mut resident = Resident::new(source, models);
        let (all, dtype) = (Vec::from_iter(0..plan.outputs().len()), aside.decoder.dtype());
        aside.lay_out(plan);
        let mut merged = Vec::new();
        // Twice: the second time all facts are known.
        for _ in 0..2 {
            aside.waits = 0;
            let left = resident.compute_on(aside, plan, &all).unwrap();
            assert_eq!(resident.changed(plan), left);
            aside.most_waits = aside.most_waits.max(aside.waits);
            // For what is open before lengths are known, and for all.
            assert!(aside.waits <= 2 || aside.report_bytes < REPORT_BYTES, "{what}");
            merged = all.iter().filter(|i| !left.contains(i)).copied().collect();
            for i in &merged {
                let output = &plan.outputs()[*i];
                let mut expected = vec![0; output.elements() * dtype.size_bytes()];
                dtype.narrow(&plan.compute(*i, source).unwrap(), &mut expected);
                let got = aside.taken(&output.name, expected.len());
                let size = dtype.size_bytes();
                let wrong = expected.chunks(size).zip(got.chunks(size)).position(|(a, b)| a != b);
                assert_eq!(wrong, None, "{what}, {} as {dtype}: element", output.name);
            }
        }
        merged.len()
    }

    /// What mergekit was held against, on a device: the bits are those of the CPU, whatever the types.
    #[test]
    #[ignore = "needs a GPU, or tests/emulator"]
    fn on_a_gpu_golden_merges_have_the_bits_of_the_cpu() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/merge/tests/data");
        let mut parents = Parents::default();
        for model in std::fs::read_dir(data.join("models")).unwrap() {
            let model = model.unwrap();
            let word = format!("models/{}", model.file_name().display());
            parents.add(&word, Checkpoint::open(&model.path()).unwrap()).unwrap();
        }
        let mut devices = [DType::F32, DType::Bf16, DType::F16].map(Aside::new);
        // Room for a few reports, or for many.
        devices[1].report_bytes = 600;
        let mut covered = BTreeSet::new();
        for case in std::fs::read_dir(data.join("cases")).unwrap() {
            let case = case.unwrap().path();
            let file = case.join("recipe.yaml");
            let recipe = read::parse(&file, &std::fs::read_to_string(&file).unwrap()).unwrap();
            // Without a tokenizer, rows cannot be brought into another order.
            let Ok(plan) = Plan::new(&recipe, &parents) else {
                continue;
            };
            let name = case.file_name().unwrap().display().to_string();
            for aside in &mut devices {
                if compare(&plan, &parents, &recipe.models(), aside, &name) > 0 {
                    covered.insert(name.clone());
                }
            }
        }
        let expected = [
            "breadcrumbs",
            "breadcrumbs_ties",
            "dare_whole",
            "della_whole",
            "filters",
            "linear",
            "linear_slices",
            "linear_to_bf16",
            "linear_to_f16",
            "modules",
            "native_linear",
            "native_slerp",
            "slerp",
            "slerp_far",
            "task_arithmetic",
            "ties",
            "ties_rescaled",
        ];
        let missing: Vec<&str> = expected.into_iter().filter(|name| !covered.contains(*name)).collect();
        assert!(missing.is_empty(), "{missing:?} of {covered:?}");
        assert!(devices[1].most_waits > 2);
    }

    /// Models of one tensor each, in memory: a long norm, or a matrix.
    struct Norms {
        config: serde_json::Value,
        dtype: DType,
        /// Of the matrix, where it is one.
        width: Option<usize>,
        weights: BTreeMap<&'static str, Vec<u8>>,
    }

    const WORDS: [&str; 34] = [
        "base", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t",
        "u", "v", "w", "x", "y", "z", "aa", "bb", "cc", "dd", "ee", "ff", "gg",
    ];

    impl Norms {
        fn new(dtype: DType, n: usize, of: impl Fn(usize, usize) -> f32) -> Self {
            let weights = WORDS.iter().enumerate().map(|(k, word)| {
                let values: Vec<f32> = (0..n).map(|i| of(k, i)).collect();
                let mut bytes = vec![0; n * dtype.size_bytes()];
                dtype.narrow(&values, &mut bytes);
                (*word, bytes)
            });
            Norms {
                config: serde_json::json!({ "model_type": "llama" }),
                dtype,
                width: None,
                weights: weights.collect(),
            }
        }

        /// As rows of that many elements.
        fn of_rows(self, width: usize) -> Self {
            Norms {
                width: Some(width),
                ..self
            }
        }

        fn tensor(&self) -> &'static str {
            match self.width {
                None => "model.norm.weight",
                Some(_) => "model.layers.0.mlp.up_proj.weight",
            }
        }
    }

    impl TensorSource for Norms {
        fn tensor_names(&self, model: &str) -> Vec<String> {
            let tensor = self.weights.get(model).map(|_| self.tensor().into());
            tensor.into_iter().collect()
        }

        fn shape(&self, model: &str, _: &str) -> Option<Vec<usize>> {
            let elements = self.weights.get(model)?.len() / self.dtype.size_bytes();
            Some(match self.width {
                None => vec![elements],
                Some(width) => vec![elements / width, width],
            })
        }

        fn dtype(&self, model: &str, _: &str) -> Option<DType> {
            self.weights.get(model).map(|_| self.dtype)
        }

        fn config(&self, _: &str) -> Option<&serde_json::Value> {
            Some(&self.config)
        }

        fn read_f32(&self, model: &str, _: &str) -> Result<Cow<'_, [f32]>, String> {
            let bytes = &self.weights[model];
            let mut values = vec![0.0; bytes.len() / self.dtype.size_bytes()];
            self.dtype.widen(bytes, &mut values);
            Ok(values.into())
        }

        fn raw(&self, model: &str, _: &str) -> Option<(DType, &[u8])> {
            Some((self.dtype, self.weights.get(model)?))
        }

        fn model_digest(&self, model: &str) -> String {
            model.into()
        }

        fn vocab(&self, _: &str) -> Option<Arc<Vocabulary>> {
            None
        }
    }

    fn plan(text: &str, source: &dyn TensorSource) -> Plan {
        Plan::new(&read::parse("recipe.yaml".as_ref(), text).unwrap(), source).unwrap()
    }

    /// A recipe over the first so many models, with the parameters of each.
    fn recipe(method: &str, shared: &str, each: &[&str]) -> String {
        let models = WORDS[1..]
            .iter()
            .zip(each)
            .map(|(word, own)| format!("- {{model: {word}, parameters: {{{own}}}}}\n"));
        let base = if method == "linear" { "" } else { "base_model: base\n" };
        let models: String = models.collect();
        format!("merge_method: {method}\nseed: 3\n{base}parameters: {{{shared}}}\nmodels:\n{models}")
    }

    fn noise(k: usize, i: usize) -> f32 {
        let x = ((i * 34 + k) as u32).wrapping_mul(2_654_435_761);
        (x ^ x >> 15).wrapping_mul(0x2c1b_3c6d) as f32 / 2.2e9 - 1.0
    }

    /// More elements than a block, an odd number of them; magnitudes of all kinds, of few kinds, and nearly all the same, so that cuts
    /// fall among equals.
    #[test]
    #[ignore = "needs a GPU, or tests/emulator"]
    fn on_a_gpu_long_tensors_have_the_bits_of_the_cpu() {
        let many = |k: usize, i: usize| noise(k, i);
        let few = |k: usize, i: usize| (noise(k, i) * 3.0).round() / 4.0;
        let one = |k: usize, i: usize| {
            if k == 0 {
                1.0
            } else if i % 1000 == 7 {
                noise(k, i)
            } else {
                1.125
            }
        };
        let (p, q, r, s) = (
            "weight: 0.7, density: 0.3",
            "weight: 0.45, density: 0.62",
            "weight: -0.4, density: 0.81",
            "weight: 1.0, density: 1.0",
        );
        let recipes = [
            recipe(
                "task_arithmetic",
                "lambda: 0.9",
                &["weight: 0.3", "weight: 0.6", "weight: -0.2", "weight: 1.1"],
            ),
            recipe("ties", "lambda: 1.1", &[p, q]),
            recipe("ties", "normalize: false, rescale: l1", &[p, q, r]),
            recipe("ties", "rescale: expectation", &[p, q, r, s]),
            recipe(
                "breadcrumbs",
                "",
                &[
                    "weight: 0.7, density: 0.5, gamma: 0.013",
                    "weight: 0.6, density: 0.2, gamma: 0.3",
                ],
            ),
            recipe(
                "breadcrumbs_ties",
                "rescale: l1",
                &["weight: 0.7, density: 0.5, gamma: 0.013"],
            ),
            recipe("dare_linear", "", &[p, q]),
            recipe("dare_ties", "rescale: expectation", &[p, q, s]),
            recipe(
                "linear",
                "normalize: true",
                &[
                    "weight: 0.3",
                    "weight: 0.6",
                    "weight: 0.4",
                    "weight: -0.1",
                    "weight: 1.0",
                ],
            ),
            recipe("linear", "normalize: false", &["weight: -0.3", "weight: 0.0"]),
            recipe("slerp", "t: 0.3", &[""]),
        ];
        for weights in [DType::Bf16, DType::F32] {
            let mut aside = Aside::new(weights);
            for dtype in DType::ALL {
                let sources = [
                    Norms::new(dtype, 70_001, many),
                    Norms::new(dtype, 9_999, few),
                    Norms::new(dtype, 40_007, one),
                    Norms::new(dtype, 5, many),
                ];
                for (which, source) in sources.iter().enumerate() {
                    aside.clear();
                    for text in &recipes {
                        for output in ["", "dtype: float16\n"] {
                            let (plan, what) = (
                                plan(&format!("{output}{text}"), source),
                                format!("{dtype} {which} {output}{text}"),
                            );
                            assert_eq!(compare(&plan, source, &WORDS, &mut aside, &what), 1, "{what}");
                        }
                    }
                }
            }
        }
    }

    /// More models than the registers are made for.
    #[test]
    #[ignore = "needs a GPU, or tests/emulator"]
    fn on_a_gpu_many_models_have_the_bits_of_the_cpu() {
        let many = |k: usize, i: usize| noise(k, i);
        let few = |k: usize, i: usize| (noise(k, i) * 3.0).round() / 4.0;
        let (p, q, r) = (
            "weight: 0.2, density: 0.3",
            "weight: 0.15, density: 0.62",
            "weight: -0.1, density: 1.0",
        );
        let recipes = [
            recipe("linear", "normalize: false", &["weight: 0.1"; 32]),
            recipe("task_arithmetic", "normalize: true", &["weight: 0.1"; 7]),
            recipe("ties", "lambda: 1.1", &[p, q, r, q, q]),
            recipe("ties", "rescale: l1, normalize: false", &[p, q, r, p, p, q, q, p]),
            recipe("breadcrumbs", "", &["weight: 0.02, density: 0.5, gamma: 0.013"; 32]),
            recipe("dare_linear", "normalize: true", &[q; 6]),
            recipe("della", "", &[q; 9]),
        ];
        for dtype in DType::ALL {
            let mut aside = Aside::new(dtype);
            for source in [Norms::new(dtype, 10_001, many), Norms::new(dtype, 4_999, few)] {
                aside.clear();
                for text in &recipes {
                    let (plan, what) = (plan(text, &source), format!("{dtype} {text}"));
                    assert_eq!(compare(&plan, &source, &WORDS, &mut aside, &what), 1, "{what}");
                }
            }
        }
    }

    /// DELLA ranks each row: of one entry, of few, of an odd number, of more than there are bins; magnitudes as above, and zeros.
    #[test]
    #[ignore = "needs a GPU, or tests/emulator"]
    fn on_a_gpu_ranked_rows_have_the_bits_of_the_cpu() {
        let many = |k: usize, i: usize| noise(k, i);
        let few = |k: usize, i: usize| (noise(k, i) * 3.0).round() / 4.0;
        let one = |k: usize, i: usize| match i % 97 {
            3 => noise(k, i),
            _ if k == 0 => 1.0,
            _ => 1.125,
        };
        let dwarfed = |k: usize, i: usize| match i % 53 {
            3 if k > 0 => 1e4,
            _ => noise(k, i) / 64.0,
        };
        let recipes = [
            recipe(
                "della",
                "",
                &["weight: 0.7, density: 0.4", "weight: 0.5, density: 0.6, epsilon: 0.3"],
            ),
            recipe(
                "della_linear",
                "lambda: 1.2",
                &[
                    "weight: 0.7, density: 0.5, epsilon: 0.0",
                    "weight: -0.5, density: 1.0",
                    "weight: 0.2, density: 0.0",
                ],
            ),
            recipe(
                "della",
                "rescale: none, normalize: false",
                &["weight: 0.7, density: 0.3, epsilon: 0.25"; 4],
            ),
            recipe(
                "della",
                "rescale: expectation",
                &[
                    "weight: 0.7, density: 0.4, epsilon: 0.3",
                    "weight: 0.5, density: 1.0",
                    "weight: 0.2, density: 0.6",
                ],
            ),
            recipe(
                "della_linear",
                "rescale: expectation",
                &["weight: 0.2, density: 0.5"; 6],
            ),
        ];
        let mut aside = Aside::new(DType::F32);
        for dtype in DType::ALL {
            let sources = [
                Norms::new(dtype, 20_001, many),
                Norms::new(dtype, 40 * 129, many).of_rows(129),
                Norms::new(dtype, 41 * 33, few).of_rows(33),
                Norms::new(dtype, 3 * 1024, one).of_rows(1024),
                Norms::new(dtype, 2 * 5001, dwarfed).of_rows(5001),
                Norms::new(dtype, 3 * 2500, few).of_rows(2500),
                Norms::new(dtype, 35, many).of_rows(1),
            ];
            for (which, source) in sources.iter().enumerate() {
                aside.clear();
                for text in &recipes {
                    let (plan, what) = (plan(text, source), format!("{dtype} {which} {text}"));
                    assert_eq!(compare(&plan, source, &WORDS, &mut aside, &what), 1, "{what}");
                }
            }
        }
    }

    /// What the kernels are not made for, or have no room for, and what cannot be merged at all, is left to the host.
    #[test]
    #[ignore = "needs a GPU, or tests/emulator"]
    fn on_a_gpu_the_rest_is_left_to_the_host() {
        let mut aside = Aside::new(DType::Bf16);
        let of = |k: usize, i: usize| (k * 31 + i) as f32 / 100.0;
        let source = Norms::new(DType::Bf16, 3000, of);
        let w = "weight: 0.5, density: 0.5";
        let left = [
            recipe("della", "", &["weight: 0.5, density: 0.9, epsilon: 0.1"]),
            recipe("ties", "", &[w; 33]),
            recipe("model_stock", "", &["", ""]),
            recipe("linear", "", &["weight: 1.0", "weight: -1.0"]),
        ];
        for text in &left {
            let read = read::parse("recipe.yaml".as_ref(), text).unwrap();
            let Ok(plan) = Plan::new(&read, &source) else { continue };
            assert_eq!(compare(&plan, &source, &WORDS, &mut aside, text), 0, "{text}");
        }
        let infinite = Norms::new(DType::Bf16, 3000, |k, i| {
            if k == 1 && i == 2999 { f32::INFINITY } else { of(k, i) }
        });
        let text = recipe("ties", "", &[w, w]);
        let merge = |source: &Norms, word: &str, aside: &mut Aside| {
            let mut resident = Resident::new(source, &WORDS);
            let plan = plan(&text.replace("model: a", word), source);
            aside.lay_out(&plan);
            let left = resident.compute_on(aside, &plan, &[0]).unwrap();
            assert_eq!(resident.changed(&plan), left);
            left.is_empty()
        };
        assert!(merge(&source, "model: c", &mut aside));
        aside.clear();
        assert!(!merge(&infinite, "model: a", &mut aside), "it is not finite");
        assert!(merge(&source, "model: d", &mut aside));
        aside.decoder.give_up_held();
        assert!(!merge(&source, "model: d", &mut aside), "there is no room");
    }
}
