//! Keeping the session alive, resuming it, and going on without it.
//!
//! All callers that find the session fenced share one recovery. Resuming declares every open file. If the session is gone
//! for good, its grants and numbers are worthless: unsaved data is given up (its commit would be refused, and others may
//! have written since) and reported at the next fsync or close; open files are opened again in the new session.

use super::Live;
use crate::client::Inner;
use crate::types::Change;
use crate::waiting::{What, within};
use dfs_common::limits::{CALL_DEADLINE, CLIENT_NAME_BYTES_MAX, SESSION_KEEPALIVE};
use dfs_common::lock::LockDeclarations;
use dfs_common::session::{Identity, OpenDeclaration, OpenSession, SessionGrant};
use dfs_common::{CommitPoint, ErrorKind, FsError, FsResult};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// After a failed keep-alive the next one follows sooner.
const KEEPALIVE_AGAIN: Duration = Duration::from_secs(1);
/// Between two warnings that the lease ran out.
const WARN_AGAIN: Duration = Duration::from_secs(60);
/// Resumes that one answer may cause: the coordinator may be restarted meanwhile.
const CATCH_UP_MAX: u32 = 8;

/// `name` cut to what a session may be called.
pub(crate) fn client_name(name: &str) -> String {
    let mut end = name.len().min(CLIENT_NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_string()
}

/// What a coordinator knew of open files when another one was about to be opened.
pub(crate) struct OpensKnown {
    listed: u64,
    coordinator_epoch: u64,
    generation: u64,
}

impl Inner {
    /// Calls until there is an answer, or an error that does not pass by itself, or the patience ends; whether the session is
    /// the right one is the caller's to know.
    async fn until_answered<T, F>(&self, what: What, call: impl Fn() -> F) -> FsResult<T>
    where
        F: Future<Output = FsResult<T>>,
    {
        let mut attempts = self.attempts(what);
        loop {
            match within(CALL_DEADLINE, call()).await {
                Err(error) => attempts.pause(error).await?,
                answer => return answer,
            }
        }
    }

    async fn request(
        &self,
        resume: Option<Identity>,
        opened: Vec<OpenDeclaration>,
        locks: LockDeclarations,
    ) -> FsResult<(SessionGrant, Instant)> {
        let sent = Instant::now();
        let request = OpenSession {
            client_name: client_name(&self.config.client_name),
            resume,
            opened,
            unsynced: Some(self.session.unsynced.last()),
            locks,
            leases: resume.is_some(),
        };
        Ok((self.metadata.open_session(request).await?, sent))
    }

    /// Declares what is open and locked, in as many requests as that takes.
    async fn resume(&self, identity: Identity) -> FsResult<(SessionGrant, Instant)> {
        self.until_answered(What::new("resuming the session"), async || {
            let mut opened = self.table.declarations(&self.releases);
            let mut lost = Vec::new();
            let mut epoch = None;
            for locks in self.locks.declarations() {
                let last = !locks.more;
                let opened = if last {
                    std::mem::take(&mut opened)
                } else {
                    Vec::new()
                };
                let (mut grant, sent) = self.request(Some(identity), opened, locks).await?;
                lost.append(&mut grant.lost_locks);
                if epoch.is_some_and(|epoch| epoch != grant.coordinator_epoch) {
                    return Err(FsError::new(
                        ErrorKind::Unavailable,
                        "the coordinator was restarted while locks were declared",
                    ));
                }
                epoch = Some(grant.coordinator_epoch);
                if last {
                    grant.lost_locks = lost;
                    return Ok((grant, sent));
                }
            }
            Err(FsError::new(ErrorKind::Io, "there is a last declaration always"))
        })
        .await
    }

    /// Makes the session usable again after a call under `stamp` found it fenced. Cancel-safe.
    ///
    /// # Errors
    /// Those of opening a session, when the patience ends; `Unavailable` after shutdown.
    pub(crate) async fn recover(&self, stamp: u64) -> FsResult<()> {
        let _one = self.session.recovering.lock().await;
        let live = self.session.live();
        match live.stamp == stamp {
            true => self.resume_or_begin_again(&live).await,
            false => Ok(()),
        }
    }

    /// To be called after a file that was opened came into the table. Declares what is open once more, if it was listed for a session since
    /// `before`, for another start of the coordinator or another session: that one may not have been on the list. For the same ones nothing
    /// is lost by a list that it is not on.
    ///
    /// # Errors
    /// As [`Inner::recover`].
    pub(crate) async fn declare_since(&self, before: &OpensKnown) -> FsResult<()> {
        let now = self.table.listed();
        if now == before.listed {
            return Ok(());
        }
        let _one = self.session.recovering.lock().await;
        let live = self.session.live();
        let same = (live.coordinator_epoch, live.generation) == (before.coordinator_epoch, before.generation);
        match same || self.table.is_known_since(now) {
            true => Ok(()),
            false => self.resume_or_begin_again(&live).await,
        }
    }

    /// To be called before a file is opened: who counts it, and what was listed by then.
    pub(crate) fn opens_known(&self) -> OpensKnown {
        // The list first: one that is made for a new coordinator meanwhile is noticed.
        let listed = self.table.listed();
        let live = self.session.live();
        OpensKnown {
            listed,
            coordinator_epoch: live.coordinator_epoch,
            generation: live.generation,
        }
    }

    /// Resumes the session, or begins another one. By one task at a time.
    async fn resume_or_begin_again(&self, live: &Live) -> FsResult<()> {
        let done = self.resume_or_begin(live).await;
        if done.is_ok() {
            self.table.list_is_known();
        }
        done
    }

    async fn resume_or_begin(&self, live: &Live) -> FsResult<()> {
        if self.ended.load(Ordering::SeqCst) {
            return Err(FsError::new(ErrorKind::Unavailable, "the client was shut down"));
        }
        let _declaring = self.locks.declaring();
        let _no_release = self.releases.pause().await;
        match self.resume(live.identity).await {
            Ok((grant, sent)) => {
                let failed = self.locks.lose(live.identity.session, &grant.lost_locks);
                self.table.fail_locks(&failed, true);
                tracing::info!(session = %live.identity.session, "session resumed");
                self.leased.lost();
                self.look_back(live, &grant).await?;
                *self.session.live.write() = Live::new(&grant, sent, live.generation, live.stamp + 1);
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::SessionFenced => {
                tracing::warn!(session = %live.identity.session, %error, "the session is gone: opening a new one");
            }
            Err(error) => return Err(error),
        }
        // A new session may be lost again while files are opened in it.
        for _ in 0..CATCH_UP_MAX {
            match self.begin_again(live).await {
                Err(error) if error.kind() == ErrorKind::SessionFenced => {
                    tracing::warn!(%error, "the new session is gone already: opening another one");
                }
                done => return done,
            }
        }
        Err(FsError::new(
            ErrorKind::Unavailable,
            "the coordinator keeps ending new sessions",
        ))
    }

    /// Opens a new session in the place of `live`, and in it every open file.
    async fn begin_again(&self, live: &Live) -> FsResult<()> {
        let open = async || self.request(None, Vec::new(), LockDeclarations::default()).await;
        let (grant, sent) = self.until_answered(What::new("opening a session"), open).await?;
        if grant.cluster != live.cluster {
            return Err(FsError::new(
                ErrorKind::Unauthenticated,
                format!(
                    "the coordinator serves cluster {} now, not {}: mount again",
                    grant.cluster, live.cluster
                ),
            ));
        }
        let new = Live::new(&grant, sent, live.generation + 1, live.stamp + 1);
        self.leased.lost();
        for file in self.table.files() {
            file.state.lock().content.lost();
        }
        self.look_back(live, &grant).await?;
        self.give_up_unsaved();
        self.table.fail_locks(&self.locks.restart(new.generation), true);
        self.grants.clear();
        // Before anybody else calls in the new session, where nothing is open yet.
        self.open_again(new.identity).await?;
        let mut now = self.session.live.write();
        self.session.numbers.restart(new.generation);
        *now = new;
        Ok(())
    }

    /// An answer may come from a coordinator that this client has not resumed its session at: for the coordinator it has, once another task's
    /// request arrived. Before the answer is used the client looks back, for what it knows may be lost.
    ///
    /// # Errors
    /// Those of resuming, when the patience ends.
    pub(crate) async fn catch_up(&self, point: &CommitPoint) -> FsResult<()> {
        for _ in 0..CATCH_UP_MAX {
            let live = self.session.live();
            if point.last.epoch <= live.coordinator_epoch || self.ended.load(Ordering::SeqCst) {
                return Ok(());
            }
            self.recover(live.stamp).await?;
        }
        Err(FsError::new(
            ErrorKind::Io,
            "the coordinator's answers are of another start than it says",
        ))
    }

    /// The coordinator was another one before: what did it lose?
    ///
    /// # Errors
    /// If that cannot be found out now. The session counts as not resumed then, so that it is tried again.
    async fn look_back(&self, before: &Live, grant: &SessionGrant) -> FsResult<()> {
        let lost = self
            .session
            .unsynced
            .resumed(grant.coordinator_epoch, grant.kept_commits);
        if lost > 0 {
            tracing::error!(
                inodes = lost,
                "the coordinator lost acknowledged changes that were not synced"
            );
        }
        match grant.rollback_epoch > before.coordinator_epoch {
            true => self.forget_attributes(grant.identity).await,
            false => Ok(()),
        }
    }

    /// What is known of files, open or not, may never have been: it is asked for again.
    async fn forget_attributes(&self, identity: Identity) -> FsResult<()> {
        self.pages.clear();
        for file in self.table.files() {
            let ino = file.ino;
            let what = What::of("looking again at", ino);
            let ask = || self.metadata.getattr(identity, ino);
            match self.until_answered(what, ask).await {
                Ok(found) => file.replace(found.attr),
                Err(error) if !matches!(error.kind(), ErrorKind::Stale | ErrorKind::NotFound) => {
                    return Err(error);
                }
                Err(_) => {
                    tracing::warn!(%ino, "an open file is gone");
                    let handles = self.table.handles();
                    for handle in handles.iter().filter(|handle| Arc::ptr_eq(&handle.file, &file)) {
                        handle.stale.store(true, Ordering::SeqCst);
                    }
                }
            }
            self.invalidate(Change::Inode { ino });
        }
        Ok(())
    }

    /// Unsaved data of the ended session is lost: every open file that had some reports it.
    fn give_up_unsaved(&self) {
        for file in self.table.files() {
            let error = FsError::new(
                ErrorKind::Io,
                "the session ended before the data was saved: unsaved writes are lost",
            );
            if file.give_up(&self.dirty, Some(error)) {
                tracing::error!(ino = %file.ino, "unsaved writes are lost: the session ended before they were saved");
            }
        }
    }

    /// Opens every handle again, by its inode number. What the kernel has of them is dropped.
    ///
    /// # Errors
    /// `SessionFenced` if the session is gone.
    async fn open_again(&self, identity: Identity) -> FsResult<()> {
        for handle in self.table.handles_to_open(&self.releases) {
            let ino = handle.file.ino;
            let what = What::of("opening again", ino);
            let open = || {
                self.metadata
                    .open(identity, handle.caller.clone(), ino, handle.read, handle.write)
            };
            match self.until_answered(what, open).await {
                Ok(opened) => {
                    handle.file.refresh(&opened);
                    if handle.write && handle.pages && !opened.access.pages {
                        tracing::error!(%ino, "an open file fails: its session was lost, and somebody else writes to the file now");
                        handle.stale.store(true, Ordering::SeqCst);
                    }
                }
                Err(error) if error.kind() == ErrorKind::SessionFenced => return Err(error),
                Err(error) => {
                    tracing::warn!(%ino, %error, "an open file could not be opened again");
                    handle.stale.store(true, Ordering::SeqCst);
                }
            }
            // Others may have written without asking this client.
            self.invalidate(Change::Inode { ino });
        }
        Ok(())
    }

    /// Renews the lease until the client stops.
    pub(crate) async fn keep_alive(self: Arc<Self>) {
        let mut interval = SESSION_KEEPALIVE;
        let mut warned: Option<Instant> = None;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
            let live = self.session.live();
            let sent = Instant::now();
            let call = within(SESSION_KEEPALIVE, self.metadata.keep_alive(live.identity));
            let answer = tokio::select! {
                () = self.stop.cancelled() => return,
                answer = call => answer,
            };
            interval = SESSION_KEEPALIVE;
            match answer {
                Ok(lease) => {
                    warned = None;
                    let mut now = self.session.live.write();
                    if now.stamp == live.stamp {
                        now.lease_until = now.lease_until.max(sent + lease);
                        self.leased.extend(now.lease_until);
                    }
                }
                Err(error) if error.kind() == ErrorKind::SessionFenced => {
                    let recovery = async { self.recover(live.stamp).await };
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        outcome = recovery => if let Err(error) = outcome {
                            tracing::error!(%error, "the session could not be recovered");
                        }
                    }
                }
                Err(error) => {
                    interval = KEEPALIVE_AGAIN;
                    let over = Instant::now()
                        .saturating_duration_since(live.lease_until)
                        .as_secs();
                    if over > 0 && warned.is_none_or(|at| at.elapsed() >= WARN_AGAIN) {
                        warned = Some(Instant::now());
                        tracing::warn!(%error, over, "the session's lease ran out: it may be lost");
                    } else {
                        tracing::debug!(%error, "keep-alive failed");
                    }
                }
            }
        }
    }
}
