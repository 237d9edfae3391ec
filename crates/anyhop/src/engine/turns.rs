//! When the engine's tasks run.
//!
//! A write to a stream wakes its connection's task. Tokio's multi-thread scheduler runs what a
//! task woke right after that task, before all others that are ready: with many streams at
//! work each write would leave in a packet and a system call of its own. So a task of the
//! engine that was woken waits once for its turn behind the others that are ready; then it
//! finds what all of them wrote. With nobody else ready that costs one more poll.
//!
//! The endpoint's own task, the first that the engine starts, waits for nobody: it is woken by
//! what comes in, and hands sealed packets and circuits' datagrams on without any other task.
//!
//! The current-thread scheduler keeps the order of wakes by itself.

use std::{
    io,
    net::UdpSocket,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
    time::Instant,
};

use noq::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::runtime::{Handle, RuntimeFlavor};

/// Tokio, with turns; of one endpoint.
#[derive(Debug, Default)]
pub(super) struct TurnsRuntime {
    /// Whether the endpoint's task has started.
    started: AtomicBool,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Runtime for TurnsRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Task) {
        let is_endpoint = !self.started.swap(true, Ordering::Relaxed);
        match Handle::current().runtime_flavor() {
            _ if is_endpoint => tokio::spawn(task),
            RuntimeFlavor::CurrentThread => tokio::spawn(task),
            _ => tokio::spawn(InTurn {
                task,
                waited: false,
            }),
        };
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Box<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

/// A task that lets those that are ready go first.
struct InTurn {
    task: Task,
    waited: bool,
}

impl Future for InTurn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.waited = !self.waited;
        if self.waited {
            // Woken while it runs, a task goes to the end of the queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.task.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{Arc, Mutex},
        task::Waker,
    };

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn a_task_that_others_wake_runs_once_for_all_of_them() {
        const OTHERS: usize = 8;
        // One worker, so that all of them are in one queue.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let runs = runtime.block_on(async {
            let written = Arc::new(Mutex::new((0, None::<Waker>)));
            let (told, runs) = oneshot::channel();
            let (seen, mut told) = (Arc::clone(&written), Some(told));
            let mut runs_so_far = 0;
            let driver = poll_fn(move |cx| {
                let mut written = seen.lock().unwrap();
                written.1 = Some(cx.waker().clone());
                if written.0 > 0 {
                    runs_so_far += 1;
                }
                if written.0 == OTHERS {
                    told.take().unwrap().send(runs_so_far).unwrap();
                    return Poll::Ready(());
                }
                Poll::Pending
            });
            // From a task of the worker, so that all others are queued behind it.
            tokio::spawn(async move {
                let engine = TurnsRuntime::default();
                engine.spawn(Box::pin(async {}));
                engine.spawn(Box::pin(driver));
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
                for _ in 0..OTHERS {
                    let written = Arc::clone(&written);
                    tokio::spawn(async move {
                        let mut written = written.lock().unwrap();
                        written.0 += 1;
                        if let Some(waker) = &written.1 {
                            waker.wake_by_ref();
                        }
                    });
                }
            });
            runs.await.unwrap()
        });
        assert_eq!(runs, 1);
    }
}
