//! A whole merge as a stream: one tensor is handed on while the next is computed, so memory stays at a few tensors.

use std::sync::mpsc;

use super::{Error, OutputTensor, Plan, TensorSource};

/// How far a merge has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub tensors_done: usize,
    pub tensors: usize,
    pub bytes_done: u64,
    pub bytes: u64,
}

/// What takes a merged tensor's bytes.
pub type Sink<'a, E> = dyn FnMut(&OutputTensor, &[u8]) -> Result<(), E> + 'a;

/// Computes every tensor in order and gives its bytes (little-endian, in its dtype) to `sink`.
///
/// # Errors
/// The first error of the merge (through `E`), or of the sink, which ends the merge.
pub fn run<E: From<Error>>(
    plan: &Plan,
    source: &dyn TensorSource,
    sink: &mut Sink<'_, E>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), E> {
    let outputs = plan.outputs();
    let bytes = outputs.iter().map(|o| o.size_bytes() as u64).sum();
    let mut done = Progress {
        tensors_done: 0,
        tensors: outputs.len(),
        bytes_done: 0,
        bytes,
    };
    progress(done);
    std::thread::scope(|scope| {
        // One tensor waits while one is computed and one is written. Buffers come back to be used again.
        let (ready, next) = mpsc::sync_channel::<Result<Vec<u8>, Error>>(1);
        let (give_back, spare) = mpsc::channel::<Vec<u8>>();
        scope.spawn(move || {
            for (i, output) in outputs.iter().enumerate() {
                let mut buffer = spare.try_recv().unwrap_or_default();
                buffer.resize(output.size_bytes(), 0);
                let computed = plan.compute_bytes(i, source, &mut buffer);
                // The receiver is gone only after an error.
                if ready.send(computed.map(|()| buffer)).is_err() {
                    return;
                }
            }
        });
        for (output, computed) in outputs.iter().zip(next) {
            let buffer = computed?;
            sink(output, &buffer)?;
            done.tensors_done += 1;
            done.bytes_done += buffer.len() as u64;
            progress(done);
            let _ = give_back.send(buffer);
        }
        Ok(())
    })
}
