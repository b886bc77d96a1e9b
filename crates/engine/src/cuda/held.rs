//! Tensors that lie on the device beside the weights, and programs of the caller's that compute with both.

use std::collections::HashMap;

use cudarc::driver::{CudaFunction, CudaSlice};

use super::super::Error;
use super::super::decoder::Program;
use super::gpu::{Address, During, Gpu};
use super::kernels::{self, Source};

/// What lies there, and how much may.
#[derive(Default)]
pub struct Held {
    limit_bytes: u64,
    bytes: u64,
    tensors: HashMap<String, CudaSlice<u8>>,
    /// By what it is used for.
    scratch: HashMap<String, CudaSlice<u8>>,
    /// By their names and options.
    programs: HashMap<String, HashMap<&'static str, CudaFunction>>,
    report: Option<CudaSlice<u8>>,
}

impl Held {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn set_limit(&mut self, bytes: u64) {
        self.limit_bytes = bytes;
    }

    /// Gives back all of it, and takes nothing any more. Whether there was something.
    pub fn give_up(&mut self) -> bool {
        (self.limit_bytes, self.bytes) = (0, 0);
        let had_some = !self.tensors.is_empty();
        self.tensors.clear();
        self.scratch.clear();
        had_some
    }

    /// Whether all of these tensors lie there.
    pub fn has(&self, tensors: &[(String, &[u8])]) -> bool {
        tensors.iter().all(|(name, _)| self.tensors.contains_key(name))
    }

    /// Where these tensors lie, of which the device takes over those that it does not have; `None`: they are too many.
    pub fn hold(&mut self, gpu: &Gpu, tensors: &[(String, &[u8])]) -> Result<Option<Vec<Address>>, Error> {
        let missing = tensors.iter().filter(|(name, _)| !self.tensors.contains_key(name));
        let needed: u64 = missing.map(|(_, bytes)| bytes.len() as u64).sum();
        if self.bytes + needed > self.limit_bytes {
            return Ok(None);
        }
        for (name, bytes) in tensors {
            if self.tensors.contains_key(name) {
                continue;
            }
            let Some(memory) = self.take(gpu, bytes.len())? else {
                return Ok(None);
            };
            gpu.write(&memory, 0, bytes)?;
            self.tensors.insert(name.clone(), memory);
        }
        let addresses = tensors.iter().map(|(name, _)| gpu.address(&self.tensors[name]));
        Ok(Some(addresses.collect()))
    }

    /// Memory within the limit; `None`: there is none.
    fn take(&mut self, gpu: &Gpu, bytes: usize) -> Result<Option<CudaSlice<u8>>, Error> {
        if self.bytes + bytes as u64 > self.limit_bytes {
            return Ok(None);
        }
        match gpu.alloc(bytes) {
            // Somebody else took it.
            Err(Error::GpuMemory { .. }) => {
                self.limit_bytes = self.bytes;
                Ok(None)
            }
            memory => {
                self.bytes += bytes as u64;
                memory.map(Some)
            }
        }
    }

    /// Whether that much lies there for a use.
    pub fn has_scratch(&self, use_of_it: &str, bytes: usize) -> bool {
        let here = self.scratch.get(use_of_it);
        here.is_some_and(|memory| memory.len() >= bytes)
    }

    /// Where at least so many bytes lie for a use, whatever they hold; they may move when more are asked for. `None`: there is no room.
    pub fn scratch(&mut self, gpu: &Gpu, use_of_it: &str, bytes: usize) -> Result<Option<Address>, Error> {
        if !self.has_scratch(use_of_it, bytes) {
            // Freed in the order of the stream, after what uses it.
            if let Some(smaller) = self.scratch.remove(use_of_it) {
                self.bytes -= smaller.len() as u64;
            }
            let Some(memory) = self.take(gpu, bytes)? else {
                return Ok(None);
            };
            self.scratch.insert(use_of_it.into(), memory);
        }
        Ok(self.scratch.get(use_of_it).map(|memory| gpu.address(memory)))
    }

    /// Runs a kernel of a program on at least so many threads, in blocks of 256: `job` is its first argument, where `report` lies its
    /// second. Waits for it where there is something to report.
    pub fn run(
        &mut self,
        gpu: &Gpu,
        program: &Program,
        (kernel, threads): (&str, usize),
        job: &[u8],
        report: &mut [u8],
    ) -> Result<(), Error> {
        let running = "a merge on the device";
        let key = format!("{}{}", program.name, program.options.concat());
        if !self.programs.contains_key(&key) {
            let source = Source {
                text: program.source.into(),
                options: program.options.clone(),
                name: key.clone(),
                kernels: program.kernels.to_vec(),
            };
            self.programs
                .insert(key.clone(), kernels::load(gpu.context(), &source)?);
        }
        let Some(function) = self.programs[&key].get(kernel) else {
            return Err(format!("no kernel {kernel}")).during(running);
        };
        if self.report.as_ref().is_none_or(|memory| memory.len() < report.len()) {
            self.report = None;
            self.report = Some(gpu.alloc(report.len().next_power_of_two())?);
        }
        let Some(memory) = &self.report else { return Ok(()) };
        let address = gpu.address(memory);
        gpu.zero(address, report.len())?;
        gpu.launch_job(function, threads.div_ceil(256), job, address)?;
        if !report.is_empty() {
            report.copy_from_slice(&gpu.download::<u8>(address, report.len())?);
        }
        Ok(())
    }
}
