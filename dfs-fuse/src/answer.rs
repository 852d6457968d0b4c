//! From a request's future to its reply.
//!
//! A future is polled once on the thread that took the request; most are ready then, which saves a change of threads. One
//! that must wait is left alone until it is woken, and becomes a task then, so that no request waits behind another's.
//! Invariant: every request is answered exactly
//! once, also when its handler panics (EIO) or when the mount has ended (ENOTCONN).

use crate::convert::{OpenFile, Totals, attr, errno, no_attributes};
use crate::kernel::view::Seen;
use crate::locking::InTheWay;
use bytes::Bytes;
use dfs_common::attr::{Attr, FileKind};
use dfs_common::cluster::StatFs;
use dfs_common::{FsError, FsResult, Ino};
use fuser::{
    Errno, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry, ReplyLock,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use nix::libc;
use parking_lot::Mutex;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// A reply of the kernel interface that takes a `T`.
pub trait Reply<T>: Send + 'static {
    /// The operation's result.
    fn success(self, value: T);
    /// Its error.
    fn failure(self, errno: Errno);
}

/// Runs the futures of requests.
#[derive(Clone, Debug)]
pub struct Answers {
    runtime: Handle,
    tasks: TaskTracker,
    closed: Arc<AtomicBool>,
}

impl Answers {
    /// Tasks run on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Answers {
            runtime,
            tasks: TaskTracker::new(),
            closed: Arc::default(),
        }
    }

    /// From now on only what saves or closes files is begun.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.tasks.close();
    }

    /// After [`Answers::close`]: until every request that was begun is answered.
    pub async fn finished(&self) {
        self.tasks.wait().await;
    }

    /// Whether requests are refused; gives the error that they get.
    ///
    /// # Errors
    /// ENOTCONN if the mount has ended.
    pub fn admit(&self) -> Result<(), Errno> {
        match self.closed.load(Ordering::SeqCst) {
            true => Err(Errno::from_i32(libc::ENOTCONN)),
            false => Ok(()),
        }
    }

    /// Answers with the outcome of `work`.
    pub fn answer<T, R: Reply<T>>(
        &self,
        operation: &'static str,
        reply: R,
        work: impl Future<Output = FsResult<T>> + Send + 'static,
    ) {
        match self.admit() {
            Ok(()) => self.answer_always(operation, reply, work),
            Err(errno) => reply.failure(errno),
        }
    }

    /// As [`Answers::answer`], also after the end: for what saves or closes files.
    pub fn answer_always<T, R: Reply<T>>(
        &self,
        operation: &'static str,
        reply: R,
        work: impl Future<Output = FsResult<T>> + Send + 'static,
    ) {
        self.run(operation, async move {
            send(operation, reply, work.await);
        });
    }

    /// Runs what replies by itself.
    pub fn run(&self, operation: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let guarded = AssertUnwindSafe(task).catch_unwind().map(move |outcome| {
            if outcome.is_err() {
                // The reply went down with the handler: that sends EIO.
                tracing::error!(operation, "a request failed by a panic");
            }
        });
        let mut task = self.tasks.track_future(guarded).boxed();
        let parked = Arc::new(Parked {
            runtime: self.runtime.clone(),
            place: Mutex::new(Place::BeingPolled),
        });
        let waker = Waker::from(parked.clone());
        let _inside = self.runtime.enter();
        if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            parked.park(task);
        }
    }

    /// The result of `work` if it need not wait. It may borrow from the request; if it has to wait it is dropped.
    ///
    /// # Errors
    /// `Err` if it panicked.
    pub fn try_at_once<T>(&self, work: impl Future<Output = T>) -> std::thread::Result<Option<T>> {
        let poll = || {
            let _inside = self.runtime.enter();
            // Nobody need be woken: it is dropped.
            pin!(work).poll(&mut Context::from_waker(Waker::noop()))
        };
        match std::panic::catch_unwind(AssertUnwindSafe(poll))? {
            Poll::Ready(value) => Ok(Some(value)),
            Poll::Pending => Ok(None),
        }
    }
}

/// A request that waits: its first wake makes it a task. To make it one at once would cost a thread's wake and a poll that
/// only says again that it waits.
struct Parked {
    runtime: Handle,
    place: Mutex<Place>,
}

enum Place {
    /// With the thread that took the request.
    BeingPolled,
    /// Woken while it was.
    Woken,
    /// Here.
    Waiting(BoxFuture<'static, ()>),
    /// With the runtime.
    Gone,
}

impl Parked {
    /// Keeps `task` until it is woken.
    fn park(&self, task: BoxFuture<'static, ()>) {
        let mut place = self.place.lock();
        if let Place::Woken = *place {
            *place = Place::Gone;
            drop(place);
            self.runtime.spawn(task);
        } else {
            *place = Place::Waiting(task);
        }
    }
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut place = self.place.lock();
        match std::mem::replace(&mut *place, Place::Gone) {
            Place::BeingPolled | Place::Woken => *place = Place::Woken,
            Place::Waiting(task) => {
                drop(place);
                self.runtime.spawn(task);
            }
            Place::Gone => {}
        }
    }
}

/// Sends an outcome.
pub fn send<T, R: Reply<T>>(operation: &'static str, reply: R, outcome: FsResult<T>) {
    match outcome {
        Ok(value) => reply.success(value),
        Err(error) => reply.failure(refused(operation, &error)),
    }
}

/// Logs an error that a program gets, and gives it.
pub fn refused(operation: &'static str, error: &FsError) -> Errno {
    match error.errno() {
        libc::EIO => tracing::warn!(operation, %error, "a request failed"),
        _ => tracing::debug!(operation, %error, "a request was refused"),
    }
    errno(error)
}

macro_rules! reply {
    ($reply:ty, $value:ty, |$self:ident, $name:ident| $success:expr) => {
        impl Reply<$value> for $reply {
            fn success($self, $name: $value) {
                $success
            }
            fn failure(self, errno: Errno) {
                self.error(errno);
            }
        }
    };
}

/// What a name is, for [`ReplyEntry`].
pub enum Looked {
    /// This.
    Found(Seen),
    /// There is none, and that holds for this long.
    Absent(Duration),
}

/// A file made and opened, for [`ReplyCreate`].
pub struct CreatedFile {
    /// The file.
    pub seen: Seen,
    /// The open file.
    pub file: OpenFile,
    /// What the kernel is told of it.
    pub flags: FopenFlags,
}

/// The value of an extended attribute, or a list of names, and the size of the caller's buffer; 0 asks for the length.
pub struct XattrValue(pub Bytes, pub u32);

reply!(ReplyEmpty, (), |self, _done| self.ok());
reply!(ReplyData, Bytes, |self, data| self.data(&data));
reply!(ReplyWrite, u32, |self, written| self.written(written));
reply!(ReplyLock, InTheWay, |self, lock| self
    .locked(lock.start, lock.end, lock.kind, lock.pid));
reply!(ReplyEntry, Seen, |self, seen| {
    let generation = Generation(seen.attr.generation);
    self.entry_with_ttls(&seen.attr_valid, &seen.name_valid, &attr(&seen.attr), generation);
});
reply!(ReplyEntry, Looked, |self, looked| match looked {
    Looked::Found(seen) => self.success(seen),
    Looked::Absent(validity) => {
        // Inode 0: there is no such name.
        self.entry(&validity, &no_attributes(Ino(0), FileKind::File), Generation(0));
    }
});
reply!(ReplyAttr, (Attr, Duration), |self, answer| self
    .attr(&answer.1, &attr(&answer.0)));
reply!(ReplyOpen, (OpenFile, FopenFlags), |self, opened| {
    self.opened(opened.0.into(), opened.1);
});
reply!(ReplyCreate, CreatedFile, |self, created| {
    let seen = &created.seen;
    let generation = Generation(seen.attr.generation);
    self.created(
        &seen.attr_valid.min(seen.name_valid),
        &attr(&seen.attr),
        generation,
        created.file.into(),
        created.flags,
    );
});
reply!(ReplyStatfs, StatFs, |self, totals| {
    use crate::convert::BLOCK_BYTES;
    let totals = Totals::from(totals);
    self.statfs(
        totals.blocks,
        totals.free,
        totals.free,
        totals.files,
        totals.files_free,
        BLOCK_BYTES,
        dfs_common::limits::NAME_BYTES_MAX as u32,
        BLOCK_BYTES,
    );
});
reply!(ReplyXattr, XattrValue, |self, value| {
    let XattrValue(bytes, size) = value;
    match u32::try_from(bytes.len()) {
        Ok(length) if size == 0 => self.size(length),
        Ok(length) if length <= size => self.data(&bytes),
        _ => self.error(Errno::ERANGE),
    }
});

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_common::ErrorKind;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    struct Sent(Sender<Result<u32, i32>>);

    impl Reply<u32> for Sent {
        fn success(self, value: u32) {
            self.0.send(Ok(value)).unwrap();
        }
        fn failure(self, errno: Errno) {
            self.0.send(Err(errno.into())).unwrap();
        }
    }

    fn reply() -> (Sent, Receiver<Result<u32, i32>>) {
        let (sender, receiver) = channel();
        (Sent(sender), receiver)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    }

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn ready_work_is_answered_on_the_thread_of_the_request() {
        let runtime = runtime();
        let answers = Answers::new(runtime.handle().clone());
        let (reply, sent) = reply();
        answers.answer("test", reply, async { Ok(7) });
        assert_eq!(sent.try_recv(), Ok(Ok(7)));
    }

    #[test]
    fn waiting_work_is_answered_when_it_is_done() {
        let runtime = runtime();
        let answers = Answers::new(runtime.handle().clone());
        let (reply, sent) = reply();
        let (go, wait) = tokio::sync::oneshot::channel();
        answers.answer("test", reply, async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            wait.await.map_err(|_| FsError::from(ErrorKind::Io))
        });
        assert!(sent.try_recv().is_err());
        go.send(8).unwrap();
        assert_eq!(sent.recv_timeout(SOON), Ok(Ok(8)));
    }

    #[test]
    fn work_that_is_woken_while_it_is_polled_goes_on() {
        let runtime = runtime();
        let answers = Answers::new(runtime.handle().clone());
        let (reply, sent) = reply();
        answers.answer("test", reply, async {
            for _ in 0..10 {
                let mut first = true;
                std::future::poll_fn(|context| {
                    context.waker().wake_by_ref();
                    match std::mem::take(&mut first) {
                        true => Poll::Pending,
                        false => Poll::Ready(()),
                    }
                })
                .await;
            }
            Ok(9)
        });
        assert_eq!(sent.recv_timeout(SOON), Ok(Ok(9)));
    }

    #[test]
    fn work_that_waits_is_dropped_with_what_it_waits_for() {
        let runtime = runtime();
        let answers = Answers::new(runtime.handle().clone());
        let (reply, sent) = reply();
        let (go, wait) = tokio::sync::oneshot::channel::<u32>();
        answers.answer("test", reply, async move {
            wait.await.map_err(|_| FsError::from(ErrorKind::Io))
        });
        drop(go);
        assert_eq!(sent.recv_timeout(SOON), Ok(Err(libc::EIO)));
        answers.close();
        runtime.block_on(answers.finished());
    }

    #[test]
    fn panic_is_not_the_end_and_drops_the_reply() {
        let runtime = runtime();
        let answers = Answers::new(runtime.handle().clone());
        for waits in [false, true] {
            let (reply, sent) = reply();
            answers.answer("test", reply, async move {
                if waits {
                    tokio::task::yield_now().await;
                }
                panic!("on purpose")
            });
            // A reply of fuser answers EIO when it is dropped.
            assert!(sent.recv_timeout(SOON).is_err());
        }
        assert!(answers.try_at_once(async { panic!("on purpose") }).is_err());
    }

    #[test]
    fn after_the_end_only_saving_is_begun() {
        let runtime = runtime();
        let answers = Answers::new(runtime.handle().clone());
        let (go, wait) = tokio::sync::oneshot::channel();
        let (begun, begun_sent) = reply();
        answers.answer("test", begun, async move {
            wait.await.map_err(|_| FsError::from(ErrorKind::Io))
        });
        answers.close();
        let (refused, refused_sent) = reply();
        answers.answer("test", refused, async { Ok(1) });
        assert_eq!(refused_sent.try_recv(), Ok(Err(libc::ENOTCONN)));
        let (saving, saving_sent) = reply();
        answers.answer_always("test", saving, async { Ok(2) });
        assert_eq!(saving_sent.try_recv(), Ok(Ok(2)));
        go.send(3).unwrap();
        runtime.block_on(answers.finished());
        assert_eq!(begun_sent.try_recv(), Ok(Ok(3)));
    }

    #[test]
    fn work_that_borrows_is_dropped_when_it_must_wait() {
        let runtime = runtime();
        let answers = Answers::new(runtime.handle().clone());
        let data = [1, 2, 3];
        assert_eq!(answers.try_at_once(async { data.len() }).unwrap(), Some(3));
        assert_eq!(answers.try_at_once(std::future::pending::<u32>()).unwrap(), None);
    }
}
