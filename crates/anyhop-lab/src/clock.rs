//! Virtual time: whole networks of nodes run on one thread under tokio's paused clock,
//! which jumps to the next timer whenever nothing else is to do.

use std::{cell::Cell, future::Future, io, time::Duration};

use tokio::time::Instant;

thread_local! {
    /// When the virtual time of this thread began.
    static STARTED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Virtual time since [`run_virtual`] began on this thread; `None` outside of it.
#[must_use]
pub fn virtual_time() -> Option<Duration> {
    STARTED.get().map(|at| at.elapsed())
}

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
    Ok(runtime.block_on(async {
        STARTED.set(Some(Instant::now()));
        let result = future.await;
        STARTED.set(None);
        result
    }))
}
