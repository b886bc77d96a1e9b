//! A whole merge as a stream: blocks of a tensor are handed on while the next are computed, so memory stays at a few
//! blocks, and at the parents' tensors that are being read.

use std::sync::mpsc;

use super::{Error, OutputTensor, Plan, TensorSource};

/// How far a merge has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Tensors whose last byte the sink has taken.
    pub tensors_done: usize,
    /// Tensors of the child.
    pub tensors: usize,
    /// Bytes that the sink has taken.
    pub bytes_done: u64,
    /// Bytes of all tensors.
    pub bytes: u64,
}

/// The next bytes of a merged tensor.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Which tensor they belong to.
    pub output: &'a OutputTensor,
    /// How many of the tensor's bytes came before.
    pub offset: usize,
    /// Little-endian, in the tensor's dtype.
    pub bytes: &'a [u8],
}

/// What takes a merged tensor's bytes.
pub type Sink<'a, E> = dyn FnMut(Piece<'_>) -> Result<(), E> + 'a;

/// Pieces that may wait to be written.
const WAITING: usize = 2;

/// Computes every tensor in order and gives its bytes (little-endian, in its dtype) to `sink`, a few megabytes at a time.
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
        // While one block is computed the ones before it are written. Buffers come back to be used again.
        let (ready, next) = mpsc::sync_channel::<Result<Vec<u8>, Error>>(WAITING);
        let (give_back, spare) = mpsc::channel::<Vec<u8>>();
        scope.spawn(move || {
            // The receiver is gone only after an error.
            for i in 0..outputs.len() {
                let mut send = |block: &[u8]| {
                    let mut buffer = spare.try_recv().unwrap_or_default();
                    buffer.clear();
                    buffer.extend_from_slice(block);
                    ready.send(Ok(buffer)).is_ok()
                };
                if let Err(error) = plan.stream(i, source, &mut send) {
                    let _ = ready.send(Err(error));
                    return;
                }
            }
        });
        for output in outputs {
            let mut offset = 0;
            while offset < output.size_bytes() {
                let Ok(computed) = next.recv() else { break };
                let buffer = computed?;
                sink(Piece {
                    output,
                    offset,
                    bytes: &buffer,
                })?;
                offset += buffer.len();
                done.bytes_done += buffer.len() as u64;
                progress(done);
                let _ = give_back.send(buffer);
            }
            done.tensors_done += 1;
            progress(done);
        }
        Ok(())
    })
}
