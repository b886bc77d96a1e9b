//! The kernels, compiled for the card at hand when the program runs, and kept for the next program.
//!
//! NVRTC makes machine code (a CUBIN) and not PTX: a PTX that is newer than the driver is refused by it. A card that is newer
//! than NVRTC gets PTX of the newest kind that NVRTC knows, which the driver translates.
#![allow(unsafe_code)] // foreign calls; see SAFETY at each

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction};
use cudarc::nvrtc::{Ptx, result, sys};
use heterosis_isa::DType;

use super::super::device::kernels_folder;
use super::super::{BUILD, Error};
use super::gpu::During;

/// The kernels that are always there.
const KERNELS: [&str; 20] = [
    "embed",
    "scale_stream",
    "norm_rows",
    "add_bias",
    "add_bias_to_logits",
    "add_branch",
    "norm_width",
    "heads",
    "attend",
    "combine",
    "gated",
    "activated",
    "keep_stream",
    "keep_elements",
    "pick",
    "log_probability",
    "widen",
    "gate_heads",
    "embed_in_layer",
    "multiply_by",
];
/// Attention for one head size, where the device and the element type allow it.
pub const ON_TENSOR_CORES: &str = "attend_on_tensor_cores";
/// Those of a mixture of experts.
const OF_EXPERTS: [&str; 5] = ["route", "sort_by_expert", "plain_gated", "plain_down", "add_experts"];
/// Those of layers that remember.
const OF_MIXERS: [&str; 8] = [
    "convolve",
    "keep_inputs",
    "unit_length",
    "strengths",
    "recur",
    "finish_delta",
    "finish_mamba",
    "finish_conv",
];
/// Dimensions of a head that they have room for; where no head has more than the first, they are compiled for that.
const LARGEST_HEADS: [usize; 2] = [256, 512];
/// Numbers of a key of a layer that remembers.
const LARGEST_KEY: usize = 1024;
/// The products of its experts, where the device and the element type allow them: for few tokens and for many.
pub const ON_MMA: [[&str; 2]; 2] = [["few_gated_mma", "few_down_mma"], ["many_gated_mma", "many_down_mma"]];
/// Experts of a layer that the kernels have room for.
const MOST_EXPERTS: usize = 1024;

const COMPILING: &str = "compiling the kernels";

/// Compute capabilities whose PTX may stand in for that of a newer card, the newest first.
const KNOWN: [u32; 8] = [121, 120, 103, 100, 90, 89, 86, 80];

/// What kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    pub dtype: DType,
    /// Of most layers: tensor cores are used for these.
    pub head_dim: usize,
    /// Of any layer.
    pub largest_head: usize,
    /// Numbers of a key of the layers that remember; `None`: there are none.
    pub mixer_key: Option<usize>,
    /// Attention scores are capped.
    pub softcap: bool,
    /// Of a layer; 0: none.
    pub experts: usize,
}

/// Machine code, or PTX for a card that NVRTC does not know.
enum Image {
    Cubin(Vec<u8>),
    Ptx(Vec<u8>),
}

impl Wanted {
    fn element(self) -> u32 {
        match self.dtype {
            DType::F32 => 0,
            DType::Bf16 => 1,
            DType::F16 => 2,
        }
    }

    /// 16-bit products of the shape in use came with compute capability 8.0.
    fn on_mma(self, capability: u32) -> bool {
        self.element() != 0 && capability >= 80
    }

    fn on_tensor_cores(self, capability: u32) -> bool {
        self.on_mma(capability) && self.head_dim.is_multiple_of(32)
    }

    fn options(self, capability: u32) -> Vec<String> {
        vec![
            format!("-DELEMENT={}", self.element()),
            format!("-DMMA={}", u32::from(self.on_mma(capability))),
            format!("-DTENSOR_CORES={}", u32::from(self.on_tensor_cores(capability))),
            format!("-DDIM={}", self.head_dim),
            format!("-DLARGEST_HEAD={}", self.room_for_heads()),
            format!("-DSOFTCAP={}", u32::from(self.softcap)),
            format!("-DEXPERTS={}", self.experts),
        ]
    }

    /// The dimensions of a head that kernels have room for.
    fn room_for_heads(self) -> usize {
        let fits = |room: &usize| self.largest_head <= *room;
        LARGEST_HEADS.into_iter().find(fits).unwrap_or(self.largest_head)
    }

    /// Names all that the machine code depends on, besides the device and NVRTC.
    fn name(self) -> String {
        let Self {
            dtype,
            head_dim,
            largest_head: _,
            mixer_key,
            softcap,
            experts,
        } = self;
        let room = match self.room_for_heads() {
            room if room == LARGEST_HEADS[0] => String::new(),
            room => format!("-upto{room}"),
        };
        let remembers = if mixer_key.is_some() { "-mixer" } else { "" };
        let capped = if softcap { "-capped" } else { "" };
        let of_experts = match experts {
            0 => String::new(),
            experts => format!("-experts{experts}"),
        };
        format!(
            "{BUILD}-{}-{head_dim}{room}{remembers}{capped}{of_experts}",
            dtype.name()
        )
    }

    fn source(self, capability: u32) -> Source<'static> {
        let on_tensor_cores = self.on_tensor_cores(capability).then_some(ON_TENSOR_CORES);
        let mut kernels: Vec<&str> = KERNELS.into_iter().chain(on_tensor_cores).collect();
        if self.experts > 0 {
            kernels.extend(OF_EXPERTS);
            kernels.extend(ON_MMA.into_iter().flatten().filter(|_| self.on_mma(capability)));
        }
        let mut text = String::from(include_str!("kernels.cu"));
        if self.experts > 0 {
            text += include_str!("experts.cu");
        }
        if self.mixer_key.is_some() {
            kernels.extend(OF_MIXERS);
            text += include_str!("recurrence.cu");
        }
        Source {
            text: text.into(),
            options: self.options(capability),
            name: self.name(),
            kernels,
        }
    }
}

/// What is compiled.
pub struct Source<'a> {
    pub text: Cow<'a, str>,
    pub options: Vec<String>,
    /// Another text, or other options, have another one.
    pub name: String,
    pub kernels: Vec<&'static str>,
}

impl Source<'_> {
    /// Names all that the machine code depends on.
    fn file_name(&self, capability: u32, nvrtc: (i32, i32)) -> String {
        let (major, minor) = nvrtc;
        format!("{}-nvrtc{major}.{minor}-sm_{capability}.cubin", self.name)
    }
}

/// The kernels that a model needs, on the device that is there.
pub fn load_wanted(context: &Arc<CudaContext>, wanted: Wanted) -> Result<HashMap<&'static str, CudaFunction>, Error> {
    let limits = [
        ("a head of", wanted.largest_head, "dimensions", LARGEST_HEADS[1]),
        (
            "a layer that remembers, with keys of",
            wanted.mixer_key.unwrap_or(0),
            "numbers",
            LARGEST_KEY,
        ),
        ("a layer of", wanted.experts, "experts", MOST_EXPERTS),
    ];
    if let Some((of, count, what, most)) = limits.into_iter().find(|(_, count, _, most)| count > most) {
        return Err(Error::Device {
            what: format!("{of} {count} {what} (at most {most})"),
            device: "cuda".into(),
        });
    }
    load(context, &wanted.source(capability(context)?))
}

fn capability(context: &Arc<CudaContext>) -> Result<u32, Error> {
    let (major, minor) = context.compute_capability().during(COMPILING)?;
    Ok((major * 10 + minor) as u32)
}

/// Compiles kernels for the device that is there, or takes what an earlier program compiled.
pub fn load(context: &Arc<CudaContext>, source: &Source<'_>) -> Result<HashMap<&'static str, CudaFunction>, Error> {
    let capability = capability(context)?;
    let kept = kernels_folder().map(|folder| folder.join(source.file_name(capability, nvrtc_version())));
    if let Some(file) = &kept
        && let Ok(cubin) = fs::read(file)
        && let Ok(functions) = functions(context, Ptx::from_binary(cubin), source)
    {
        return Ok(functions);
    }
    match compile(source, capability)? {
        Image::Cubin(cubin) => {
            let functions = functions(context, Ptx::from_binary(cubin.clone()), source)?;
            if let Some(file) = kept {
                // A folder that cannot be written costs the next program some seconds.
                let _ = keep(&file, &cubin);
            }
            Ok(functions)
        }
        Image::Ptx(ptx) => {
            let text = String::from_utf8_lossy(&ptx);
            functions(context, Ptx::from_src(text.trim_end_matches('\0')), source)
        }
    }
}

fn functions(
    context: &Arc<CudaContext>,
    image: Ptx,
    source: &Source<'_>,
) -> Result<HashMap<&'static str, CudaFunction>, Error> {
    let module = context.load_module(image).during(COMPILING)?;
    let names = source.kernels.iter();
    names
        .map(|name| Ok((*name, module.load_function(name).during(COMPILING)?)))
        .collect()
}

/// In one step: another program may read it meanwhile.
fn keep(file: &Path, cubin: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let fresh: PathBuf = file.with_extension(format!("{}", std::process::id()));
    let written = fs::File::create(&fresh).and_then(|mut to| to.write_all(cubin));
    written.and_then(|()| fs::rename(&fresh, file)).inspect_err(|_| {
        let _ = fs::remove_file(&fresh);
    })
}

fn nvrtc_version() -> (i32, i32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two numbers, which it writes.
    unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    (major, minor)
}

/// Machine code for the card; where NVRTC does not know it, PTX of the newest older kind that it knows.
fn compile(source: &Source<'_>, capability: u32) -> Result<Image, Error> {
    let refused = match program(source, &format!("sm_{capability}")) {
        Ok(program) => return program.cubin().map(Image::Cubin),
        Err(refused) => refused,
    };
    let older = KNOWN.into_iter().filter(|known| *known < capability);
    let mut compiled = older.map(|known| program(source, &format!("compute_{known}")));
    match compiled.find_map(Result::ok) {
        Some(program) => program.ptx().map(Image::Ptx),
        // What was wrong with the first try is what is wrong.
        None => Err(refused),
    }
}

/// A compiled program of NVRTC.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by `program`, and destroyed once.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

fn program(source: &Source<'_>, architecture: &str) -> Result<Program, Error> {
    let text = std::ffi::CString::new(source.text.as_bytes()).during(COMPILING)?;
    let program = Program(result::create_program(&text, None).during(COMPILING)?);
    let mut options = source.options.clone();
    options.push(format!("--gpu-architecture={architecture}"));
    // SAFETY: the program lives.
    let compiled = unsafe { result::compile_program(program.0, &options) };
    match compiled {
        Ok(()) => Ok(program),
        Err(e) => {
            // SAFETY: the program lives; what it says of itself ends with 0.
            let log = unsafe { result::get_program_log(program.0) }.unwrap_or_default();
            let log: Vec<u8> = log.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
            Err(Error::Gpu {
                doing: COMPILING.into(),
                reason: format!("{e:?} for {architecture}: {}", String::from_utf8_lossy(&log).trim()),
            })
        }
    }
}

impl Program {
    fn cubin(&self) -> Result<Vec<u8>, Error> {
        let mut size = 0;
        // SAFETY: the program is compiled; the second call writes as many bytes as the first one said.
        unsafe {
            sys::nvrtcGetCUBINSize(self.0, &raw mut size)
                .result()
                .during(COMPILING)?;
            let mut cubin = vec![0u8; size];
            sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast())
                .result()
                .during(COMPILING)?;
            Ok(cubin)
        }
    }

    fn ptx(&self) -> Result<Vec<u8>, Error> {
        // SAFETY: the program is compiled.
        let ptx = unsafe { result::get_ptx(self.0) }.during(COMPILING)?;
        Ok(ptx.into_iter().map(|c| c as u8).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cap of another model must not be compiled out, nor one card's code given to another.
    #[test]
    fn what_machine_code_depends_on_is_in_its_name() {
        let wanted = Wanted {
            dtype: DType::Bf16,
            head_dim: 128,
            largest_head: 128,
            mixer_key: None,
            softcap: false,
            experts: 0,
        };
        let others = [
            Wanted {
                softcap: true,
                ..wanted
            },
            Wanted { head_dim: 64, ..wanted },
            Wanted { experts: 8, ..wanted },
            Wanted {
                largest_head: 512,
                ..wanted
            },
            Wanted {
                dtype: DType::F16,
                ..wanted
            },
        ];
        let file = |wanted: Wanted, capability, nvrtc| wanted.source(capability).file_name(capability, nvrtc);
        let name = file(wanted, 90, (13, 0));
        for other in others {
            assert_ne!(file(other, 90, (13, 0)), name);
            assert_ne!(other.options(90), wanted.options(90));
        }
        let remembers = Wanted {
            mixer_key: Some(128),
            ..wanted
        };
        assert_ne!(file(remembers, 90, (13, 0)), name);
        assert_ne!(file(wanted, 89, (13, 0)), name);
        assert_ne!(file(wanted, 90, (12, 8)), name);
        assert!(!wanted.on_tensor_cores(75) && wanted.on_tensor_cores(80));
    }
}
