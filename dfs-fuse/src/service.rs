//! The life of a mount: connect, mount, say that it is usable, serve, save, unmount.
//!
//! Invariant: whatever ends the mount (umount, a signal, an error), everything unsaved is saved first, within the patience
//! given for it, unless a second signal says otherwise; and no mount point stays behind.

use crate::adapter::Adapter;
use crate::answer::Answers;
use crate::args::Settings;
use crate::daemon::Ready;
use crate::kernel::below::{Below, LOOKS};
use crate::kernel::device::Device;
use crate::kernel::place::{MountPoint, Unmounted};
use crate::kernel::view::KernelView;
use crate::kernel::{invalidation, mount, trial, tuning};
use crate::{EXIT_FAILED, sentence};
use dfs_client::{Client, ClientConfig};
use dfs_common::{ErrorKind, FsError, FsResult, Ino};
use fuser::{Config, Session, SessionACL};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Threads that take requests from the kernel; each has a buffer of one request.
const REQUEST_THREADS: std::ops::RangeInclusive<usize> = 2..=8;
const WORKER_THREADS: std::ops::RangeInclusive<usize> = 2..=16;
/// Blocking work of the client and of unmounting.
const BLOCKING_THREADS_MAX: usize = 512;
/// For the kernel to let go after an unmount, and for tasks to end.
const END: Duration = Duration::from_secs(5);

/// Runs the mount to its end; gives the exit code.
pub fn run(settings: &Settings, mountpoint: &Path, ready: Ready) -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return ready.failed(&error.context("starting threads")),
    };
    let mut service = match runtime.block_on(Service::start(settings, mountpoint)) {
        Ok(service) => service,
        Err(error) => return ready.failed(&error),
    };
    let outcome = match ready.usable() {
        Ok(()) => runtime.block_on(service.serve(settings.drain)),
        Err(_) => {
            tracing::error!("the command that started this mount is gone: unmounting");
            runtime.block_on(service.end(Duration::ZERO))
        }
    };
    drop(service);
    runtime.shutdown_timeout(END);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", sentence(&error));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn runtime() -> FsResult<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors(&WORKER_THREADS))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("dfs-mount")
        .enable_all()
        .build()?)
}

fn processors(bounds: &std::ops::RangeInclusive<usize>) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    processors.clamp(*bounds.start(), *bounds.end())
}

/// A mount that is served.
struct Service {
    client: Client,
    answers: Answers,
    mount: MountPoint,
    /// Ends the task of invalidations.
    stop: CancellationToken,
    /// The kernel has closed the connection, or it failed.
    ended: oneshot::Receiver<std::io::Result<()>>,
    signals: [Signal; 3],
}

impl Service {
    /// Connects and mounts. When it returns the root directory answers.
    async fn start(settings: &Settings, mountpoint: &Path) -> FsResult<Service> {
        // From here on a signal does not leave a mount behind.
        let mut signals = new_signals()?;
        let client = tokio::select! {
            client = connect(settings) => client?,
            () = any_signal(&mut signals) => {
                return Err(FsError::new(ErrorKind::Interrupted, "ended by a signal before anything was mounted"));
            }
        };
        tuning::raise_request_pages();
        let device = mount::mount(mountpoint, &settings.fsname, &settings.options)?;
        let point = match MountPoint::new(mountpoint) {
            Ok(point) => point,
            Err(error) => {
                let _ = client.shutdown(Duration::ZERO).await;
                return Err(error);
            }
        };
        let started = Self::serve_device(settings, client.clone(), device, point.clone(), signals).await;
        if let Err(error) = &started {
            tracing::debug!(%error, "taking the mount away again");
            point.detach();
            let _ = client.shutdown(Duration::ZERO).await;
        }
        started
    }

    async fn serve_device(
        settings: &Settings,
        client: Client,
        device: std::os::fd::OwnedFd,
        point: MountPoint,
        signals: [Signal; 3],
    ) -> FsResult<Service> {
        let runtime = tokio::runtime::Handle::current();
        let answers = Answers::new(runtime.clone());
        let beside = Device::new(&device)?;
        let kernel = Arc::new(KernelView::new(
            client.clone(),
            beside,
            Below::new(point.device()),
        ));
        let adapter = Adapter::new(client.clone(), answers.clone(), kernel.clone());
        let mut config = Config::default();
        config.n_threads = Some(processors(&REQUEST_THREADS));
        config.clone_fd = true;
        // Who may enter is the kernel's to say.
        let session = Session::from_fd(adapter, device, SessionACL::All, config)
            .map_err(|error| FsError::from(error).context("agreeing with the kernel on FUSE"))?;
        let stop = CancellationToken::new();
        if let Some(changes) = client.invalidations() {
            runtime.spawn(invalidation::pass_on(
                changes,
                session.notifier(),
                kernel.clone(),
                stop.clone(),
            ));
        }
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("session".to_owned())
            .spawn(move || {
                // Nobody waits any more if this fails.
                let _ = end.send(session.run());
            })?;
        let root = point.path().to_owned();
        let tried = kernel.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let looked = std::fs::metadata(&root);
            trial::run(&tried, &root);
            looked
        });
        match tokio::time::timeout(settings.wait, looked).await {
            Ok(Ok(looked)) => {
                looked.map_err(|error| FsError::from(error).context("looking at the mount"))?;
            }
            _ => return Err(FsError::new(ErrorKind::TimedOut, "the mount does not answer")),
        }
        tokio::spawn(watch_below(kernel, stop.clone()));
        tuning::raise_read_ahead(&point);
        tracing::info!(mountpoint = %point.path().display(), coordinator = settings.coordinator, cluster = %client.cluster(), "mounted");
        Ok(Service {
            client,
            answers,
            mount: point,
            stop,
            ended,
            signals,
        })
    }

    /// Serves until the mount ends, then saves for at most `patience`.
    ///
    /// # Errors
    /// What could not be saved, or why serving failed.
    async fn serve(&mut self, patience: Duration) -> FsResult<()> {
        tokio::select! {
            ended = &mut self.ended => {
                let served = ended.unwrap_or_else(|_| Err(std::io::Error::other("the threads of requests are gone")));
                tracing::info!("unmounted: saving what is left");
                if served.is_err() {
                    self.detach().await;
                }
                self.save(patience).await?;
                Ok(served.map_err(|error| FsError::from(error).context("taking requests from the kernel"))?)
            }
            () = any_signal(&mut self.signals) => {
                tracing::info!("signal: unmounting");
                self.end(patience).await
            }
        }
    }

    /// Unmounts and saves for at most `patience`, or until the next signal.
    async fn end(&mut self, patience: Duration) -> FsResult<()> {
        let deadline = Instant::now() + patience;
        let mut signals = new_signals()?;
        let outcome = tokio::select! {
            biased;
            () = any_signal(&mut signals) => None,
            outcome = self.unmount_and_save(deadline) => Some(outcome),
        };
        match outcome {
            Some(outcome) => outcome,
            None => {
                self.detach().await;
                Err(FsError::new(
                    ErrorKind::Interrupted,
                    "ended at once by a second signal: what was not saved yet is lost",
                ))
            }
        }
    }

    async fn unmount_and_save(&mut self, deadline: Instant) -> FsResult<()> {
        let point = self.mount.clone();
        let unmount = tokio::task::spawn_blocking(move || point.unmount());
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left(deadline).max(END), unmount).await {
            // The kernel lets the last references go by itself.
            Ok(Ok(Unmounted::Done)) => drop(tokio::time::timeout(END, &mut self.ended).await),
            outcome => {
                match outcome {
                    Ok(Ok(Unmounted::Busy)) => tracing::warn!(
                        "the mount is in use: it is taken away all the same, open files there get errors from now on"
                    ),
                    Ok(Ok(Unmounted::Failed(reason))) => tracing::warn!(reason, "cannot unmount: detaching"),
                    _ => tracing::warn!("the kernel does not finish the unmount: detaching"),
                }
                self.answers.close();
                self.detach().await;
            }
        }
        self.save(left(deadline)).await
    }

    async fn save(&self, patience: Duration) -> FsResult<()> {
        self.answers.close();
        self.stop.cancel();
        let saved = self.client.shutdown(patience).await;
        // Requests that still wait for servers are not waited for.
        let _ = tokio::time::timeout(END, self.answers.finished()).await;
        saved
    }

    async fn detach(&self) {
        let point = self.mount.clone();
        let detach = tokio::task::spawn_blocking(move || point.detach());
        if let Ok(Ok(Unmounted::Failed(reason))) = tokio::time::timeout(END, detach).await {
            tracing::error!(reason, "the mount point stays: run `umount -l` there");
        }
    }
}

/// Looks for mounts below ours as long as names are given.
async fn watch_below(kernel: Arc<KernelView>, stop: CancellationToken) {
    let mut looks = tokio::time::interval(LOOKS);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        let kernel = kernel.clone();
        let _ = tokio::task::spawn_blocking(move || kernel.below().look_if_wanted()).await;
    }
}

/// Opens the session, and has the root directory answer once.
async fn connect(settings: &Settings) -> FsResult<Client> {
    let mut config = ClientConfig::new(&settings.coordinator);
    config.local_sockets = settings.options.local_sockets;
    config.transport = settings.options.transport;
    config.cache_bytes = settings.cache_bytes;
    config.connect_timeout = settings.wait;
    let client = Client::connect(config).await?;
    let root = tokio::time::timeout(settings.wait, client.getattr(Ino::ROOT)).await;
    match root.unwrap_or_else(|_| {
        Err(FsError::new(
            ErrorKind::TimedOut,
            "the root directory does not answer",
        ))
    }) {
        Ok(_) => Ok(client),
        Err(error) => {
            let _ = client.shutdown(Duration::ZERO).await;
            Err(error.context(format_args!("coordinator {}", settings.coordinator)))
        }
    }
}

fn new_signals() -> FsResult<[Signal; 3]> {
    Ok([
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ])
}

/// Until one of them comes.
async fn any_signal(signals: &mut [Signal; 3]) {
    let [terminate, interrupt, hangup] = signals;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
}
