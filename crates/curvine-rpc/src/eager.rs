//! Work that needs a task of its own only if it has to wait.
//!
//! Always: what was begun goes on to its end, whether or not somebody waits for it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::task::{JoinError, JoinHandle};

/// Work that was begun.
pub enum Begun<T> {
    /// It had nothing to wait for.
    Done(T),
    /// It goes on in a task.
    Going(JoinHandle<T>),
}

/// Does at once what needs no waiting, and leaves the rest to a task: a request is on its way before another thread is woken, and
/// what is answered from memory wakes none. Must be within the tokio runtime.
pub fn begin<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Begun<T> {
    let mut work = Box::pin(work);
    match poll_once(work.as_mut()) {
        Poll::Ready(done) => Begun::Done(done),
        Poll::Pending => Begun::Going(tokio::spawn(work)),
    }
}

/// As [`begin`], and waits for it; what is returned is small, whatever the work is. `JoinError`: it panicked in its task, or the
/// runtime ended.
pub fn detached<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = Result<T, JoinError>> + Send {
    let begun = begin(work);
    async move {
        match begun {
            Begun::Done(done) => Ok(done),
            Begun::Going(task) => task.await,
        }
    }
}

/// The future must be polled again by somebody who can be woken.
pub(crate) fn poll_once<F: Future + ?Sized>(work: Pin<&mut F>) -> Poll<F::Output> {
    work.poll(&mut Context::from_waker(Waker::noop()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_needs_no_waiting_is_done_at_once_and_the_rest_goes_on_by_itself() {
        assert!(matches!(begin(async { 7 }), Begun::Done(7)));
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (told, heard) = tokio::sync::oneshot::channel();
        let Begun::Going(task) = begin(async move { told.send(receiver.await).ok() }) else { panic!("it must wait") };
        drop(task);
        sender.send(5).unwrap();
        assert_eq!(heard.await.unwrap(), Ok(5));
    }
}
