//! Timers for threads without a runtime.
//!
//! A worker waits for its sockets and for nothing else: timers would cost it a reading of the clock and a look at them whenever
//! it waits, which is up to once for each command. The few connections that wait for a moment (WAIT, a pause, a write that its
//! quorum has not acknowledged yet) use the timers of another thread.

use std::cell::OnceCell;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Sleep, Timeout};

thread_local! {
    static LENT: OnceCell<Handle> = const { OnceCell::new() };
}

/// Timers of this thread are those of another runtime from now on, which must not end.
pub(crate) fn use_those_of(runtime: Handle) {
    LENT.with(|lent| _ = lent.set(runtime));
}

/// As [`tokio::time::sleep`].
#[expect(clippy::disallowed_methods, reason = "here is a runtime")]
pub(crate) fn sleep(duration: Duration) -> Sleep {
    with_timers(|| tokio::time::sleep(duration))
}

/// As [`tokio::time::timeout`].
#[expect(clippy::disallowed_methods, reason = "here is a runtime")]
pub(crate) fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    with_timers(|| tokio::time::timeout(duration, future))
}

/// A timer stays with the runtime in which it was made.
fn with_timers<T>(make: impl FnOnce() -> T) -> T {
    LENT.with(|lent| {
        let _entered = lent.get().map(Handle::enter);
        make()
    })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Wake, Waker};
    use std::thread::Thread;
    use std::time::Instant;

    use super::*;

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    fn block_on(future: impl Future<Output = ()>) {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut future = pin!(future);
        while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            std::thread::park();
        }
    }

    #[test]
    fn a_thread_without_a_runtime_waits_by_the_timers_of_another() {
        let (sender, handles) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            sender.send(runtime.handle().clone()).unwrap();
            runtime.block_on(std::future::pending::<()>());
        });
        use_those_of(handles.recv().unwrap());
        let begun = Instant::now();
        block_on(async {
            sleep(Duration::from_millis(5)).await;
            assert!(timeout(Duration::from_millis(5), std::future::pending::<()>()).await.is_err());
            assert_eq!(timeout(Duration::from_secs(60), std::future::ready(7)).await, Ok(7));
        });
        assert!(begun.elapsed() >= Duration::from_millis(10));
    }
}
