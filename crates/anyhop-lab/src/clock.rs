//! Virtual time: whole networks of nodes run on one thread under tokio's paused clock,
//! which jumps to the next timer whenever nothing else is to do.

use std::{future::Future, io};

/// Runs a future in virtual time on the calling thread, which must not be one of a tokio
/// runtime.
///
/// # Errors
/// If no runtime can be made.
pub fn run_virtual<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    Ok(runtime.block_on(future))
}
