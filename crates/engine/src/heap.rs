//! Memory that has been let go of, back to the system.

/// Stands last in what holds much for a while: when it is dropped, all before it is free, and the pages go back.
///
/// GNU's allocator keeps them otherwise, scattered over the heaps of all threads: after a round of learning a third to a half of what the
/// round took, beside the keys and values of the answers that come next.
pub(crate) struct GivenBack;

impl Drop for GivenBack {
    fn drop(&mut self) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: it takes a number, and asks nothing of who calls it; glibc's manual has it as thread-safe.
        #[allow(unsafe_code)]
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
