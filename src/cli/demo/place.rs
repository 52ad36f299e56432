//! Threads that live in a network namespace of the demo, each with an async runtime that takes jobs.
//!
//! A thread that is started from a job, and a socket that a job opens, is in the same namespace. A namespace ends with
//! its last thread and socket.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use futures_util::future::{FutureExt, LocalBoxFuture};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::DemoError;

/// Bounds the jobs that wait to be started; a thread starts one at once.
const JOBS_MAX: usize = 4;

type Job = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

/// Is a thread in a network namespace; its jobs end when it is dropped.
pub(super) struct Place {
    thread: &'static str,
    jobs: mpsc::Sender<Job>,
    namespace: Arc<File>,
}

impl Place {
    /// Starts a thread in a new network namespace, without any interface up.
    ///
    /// # Errors
    /// The machine does not let this user.
    pub(super) async fn new(thread: &'static str) -> Result<Self, DemoError> {
        Self::start(thread, || {
            let refused = |errno| DemoError::refused("make a network namespace", errno);
            unshare(CloneFlags::CLONE_NEWNET).map_err(refused)?;
            let opened = File::open("/proc/thread-self/ns/net").map(Arc::new);
            opened.map_err(|source| DemoError::System { what: "a network namespace", source })
        })
        .await
    }

    /// Starts another thread in the same network namespace.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) async fn beside(&self, thread: &'static str) -> Result<Self, DemoError> {
        let namespace = Arc::clone(&self.namespace);
        Self::start(thread, move || {
            let refused = |errno| DemoError::refused("enter a network namespace", errno);
            setns(namespace.as_ref(), CloneFlags::CLONE_NEWNET).map_err(refused)?;
            Ok(namespace)
        })
        .await
    }

    async fn start(
        thread: &'static str,
        enter: impl FnOnce() -> Result<Arc<File>, DemoError> + Send + 'static,
    ) -> Result<Self, DemoError> {
        let (jobs, todo) = mpsc::channel(JOBS_MAX);
        let (entered, namespace) = oneshot::channel();
        let body = move || match enter().and_then(|namespace| Ok((namespace, runtime()?))) {
            Ok((namespace, runtime)) => {
                entered.send(Ok(namespace)).ok();
                LocalSet::new().block_on(&runtime, work(todo));
                runtime.shutdown_background();
            }
            Err(error) => {
                entered.send(Err(error)).ok();
            }
        };
        let spawned = std::thread::Builder::new().name(thread.to_owned()).spawn(body);
        spawned.map_err(|source| DemoError::System { what: "a thread", source })?;
        let namespace = namespace.await.map_err(|_| DemoError::ThreadEnded { thread })??;
        Ok(Self { thread, jobs, namespace })
    }

    /// Runs a job there and returns its result. A job whose caller goes away goes on.
    ///
    /// # Errors
    /// The thread, or the job, ended by a panic.
    pub(super) async fn run<T, F, Fut>(&self, job: F) -> Result<T, DemoError>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let (done, result) = oneshot::channel();
        let job = || {
            async move {
                done.send(job().await).ok();
            }
            .boxed_local()
        };
        let ended = DemoError::ThreadEnded { thread: self.thread };
        if self.jobs.send(Box::new(job)).await.is_err() {
            return Err(ended);
        }
        result.await.map_err(|_| ended)
    }

    /// Returns the namespace's file descriptor, for netlink; valid as long as this place.
    pub(super) fn namespace_fd(&self) -> RawFd {
        self.namespace.as_raw_fd()
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, DemoError> {
    let built: io::Result<_> = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|source| DemoError::System { what: "a runtime", source })
}

async fn work(mut todo: mpsc::Receiver<Job>) {
    while let Some(job) = todo.recv().await {
        tokio::task::spawn_local(job());
    }
}
