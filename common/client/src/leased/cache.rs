//! The cache of leased attributes and names, and the stamps that keep late replies out of it.
//!
//! A reply and a recall travel on different ways and may overtake each other. So a [`Stamp`] is taken before a call is sent,
//! and its reply is remembered only if nothing has happened to the inode since: no recall, no change of our own, no loss of
//! the stream. Bounded by [`INODES_MAX`] and [`NAMES_MAX`]; what was dropped is asked for again.

use super::names::Names;
use dfs_common::{Attr, Ino, Name};
use lru::LruCache;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Inodes remembered.
const INODES_MAX: usize = 100_000;
/// Names remembered, of all directories together.
const NAMES_MAX: usize = 1_000_000;
/// A kernel stops to answer from what it was given this long before the lease ends.
const KERNEL_MARGIN: Duration = Duration::from_secs(2);

/// A moment before a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp(u64);

/// What the cache says of a name.
#[derive(Debug)]
pub(super) enum Answer {
    /// The coordinator must be asked.
    Unknown,
    /// There is no such name.
    Absent,
    /// The name's inode.
    Found(Attr),
}

#[derive(Default)]
struct Known {
    /// Clock of the last event that concerned the inode.
    changed: u64,
    /// And of the last recall.
    recalled: u64,
    attr: Option<Attr>,
    /// The attributes are those of now. Else a change of our own made times or counts old, but not who may do what.
    current: bool,
    names: Option<Names>,
}

/// What an event does to what is known of an inode.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The lease is gone.
    Recall,
    /// Attributes change, permission bits and owners among them.
    Attributes,
    /// Times, sizes or counts change.
    Contents,
}

struct Inner {
    inodes: LruCache<Ino, Known>,
    names: usize,
    clock: u64,
    /// Replies to calls from before this are not remembered: the events since then are forgotten.
    floor: u64,
    /// Leases hold until then; `None` without a recall stream.
    until: Option<Instant>,
    /// The service grants none, and takes none away.
    unsupported: bool,
}

impl Inner {
    fn is_valid(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    fn kernel_validity(&self) -> Duration {
        let until = self.until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        });
        until.saturating_sub(KERNEL_MARGIN)
    }

    fn known(&self, ino: Ino) -> Option<&Known> {
        self.inodes.peek(&ino).filter(|_| self.is_valid())
    }

    fn entry(&mut self, ino: Ino) -> &mut Known {
        if !self.inodes.contains(&ino) {
            self.make_room();
        }
        self.inodes.get_or_insert_mut(ino, Known::default)
    }

    /// The entry of an inode, if a reply to a call of `stamp` may still be remembered.
    fn fresh(&mut self, stamp: Stamp, ino: Ino) -> Option<&mut Known> {
        if self.until.is_none() || stamp.0 < self.floor {
            return None;
        }
        Some(self.entry(ino)).filter(|known| known.changed <= stamp.0)
    }

    fn make_room(&mut self) {
        while self.inodes.len() >= INODES_MAX || self.names > NAMES_MAX {
            let Some((_, dropped)) = self.inodes.pop_lru() else {
                return;
            };
            self.names -= dropped.names.as_ref().map_or(0, Names::count);
            self.floor = self.floor.max(dropped.changed);
        }
    }

    /// Something happens to `ino`: what is on its way is not remembered, and what is not true any more is dropped.
    fn event(&mut self, ino: Ino, event: Event) -> u64 {
        self.clock += 1;
        let clock = self.clock;
        let known = self.entry(ino);
        known.changed = clock;
        known.current = false;
        if event != Event::Contents {
            known.attr = None;
        }
        if event == Event::Recall {
            known.recalled = clock;
            let names = known.names.take();
            self.names -= names.as_ref().map_or(0, Names::count);
        }
        clock
    }

    fn with_names(&mut self, ino: Ino, change: impl FnOnce(&mut Names)) {
        if let Some(names) = self.inodes.peek_mut(&ino).and_then(|known| known.names.as_mut()) {
            let before = names.count();
            change(names);
            self.names = self.names + names.count() - before;
        }
    }

    fn forget_everything(&mut self, until: Option<Instant>) {
        self.clock += 1;
        self.floor = self.clock;
        self.inodes.clear();
        self.names = 0;
        self.until = until;
    }
}

/// Leased metadata.
pub(crate) struct LeasedCache {
    inner: Mutex<Inner>,
    /// Counts losses of the session: the recall stream is of no use then.
    pub(super) losses: watch::Sender<u64>,
    attached: Notify,
}

impl Default for LeasedCache {
    fn default() -> Self {
        LeasedCache {
            inner: Mutex::new(Inner {
                inodes: LruCache::unbounded(),
                names: 0,
                clock: 0,
                floor: 0,
                until: None,
                unsupported: false,
            }),
            losses: watch::Sender::new(0),
            attached: Notify::new(),
        }
    }
}

impl LeasedCache {
    /// A recall stream was opened: from now on replies may be remembered, until `until`.
    pub(crate) fn attached(&self, until: Instant) {
        self.inner.lock().forget_everything(Some(until));
        self.attached.notify_waiters();
    }

    /// The service grants no leases.
    pub(crate) fn unsupported(&self) {
        self.inner.lock().unsupported = true;
        self.attached.notify_waiters();
    }

    /// The service grants leases, as far as is known.
    pub(crate) fn is_supported(&self) -> bool {
        !self.inner.lock().unsupported
    }

    /// What was granted may be relied on.
    pub(crate) fn holds(&self) -> bool {
        let inner = self.inner.lock();
        inner.unsupported || inner.is_valid()
    }

    /// Waits for a recall stream, at most for `patience`.
    pub(crate) async fn wait_for_stream(&self, patience: Duration) {
        let mut attached = std::pin::pin!(self.attached.notified());
        attached.as_mut().enable();
        if !self.holds() {
            // Nobody comes to harm if there is none: it is asked again.
            let _ = tokio::time::timeout(patience, attached).await;
        }
    }

    /// The session's lease was renewed to `until`. Ignored without a recall stream.
    pub(crate) fn extend(&self, until: Instant) {
        if let Some(old) = &mut self.inner.lock().until {
            *old = until.max(*old);
        }
    }

    /// The stream was lost.
    pub(super) fn detached(&self) {
        self.inner.lock().forget_everything(None);
    }

    /// The session was resumed or lost.
    pub(crate) fn lost(&self) {
        self.detached();
        self.losses.send_modify(|losses| *losses += 1);
    }

    /// Leases were recalled.
    pub(crate) fn recall<'a>(&self, inos: impl IntoIterator<Item = &'a Ino>) {
        let mut inner = self.inner.lock();
        for ino in inos {
            inner.event(*ino, Event::Recall);
        }
    }

    /// Taken before a call is sent.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp(self.inner.lock().clock)
    }

    /// Leases hold: there is a recall stream, and the session's lease has not ended.
    pub(crate) fn is_valid(&self) -> bool {
        self.inner.lock().is_valid()
    }

    /// Nothing has happened to `ino` since `stamp`: no recall, no loss of the stream. Not whether leases hold.
    pub(crate) fn unchanged(&self, stamp: Stamp, ino: Ino) -> bool {
        let inner = self.inner.lock();
        let changed = inner.inodes.peek(&ino).map_or(0, |known| known.changed);
        stamp.0 >= inner.floor && stamp.0 >= changed
    }

    /// No lease on `ino` was recalled since `stamp`, nor the stream lost.
    pub(crate) fn unrecalled(&self, stamp: Stamp, ino: Ino) -> bool {
        let inner = self.inner.lock();
        let recalled = inner.inodes.peek(&ino).map_or(0, |known| known.recalled);
        stamp.0 >= inner.floor && stamp.0 >= recalled
    }

    /// For how long a kernel may answer by itself from `attr`, which `seen` makes of what is leased: not at all if that is not what is true now.
    pub(crate) fn attr_holds(&self, attr: &Attr, seen: impl FnOnce(&mut Attr)) -> Duration {
        let leased = {
            let inner = self.inner.lock();
            let known = inner.known(attr.ino).filter(|known| known.current);
            known
                .and_then(|known| known.attr.clone())
                .map(|leased| (leased, inner.kernel_validity()))
        };
        let Some((mut leased, validity)) = leased else {
            return Duration::ZERO;
        };
        seen(&mut leased);
        match leased == *attr {
            true => validity,
            false => Duration::ZERO,
        }
    }

    /// For how long a kernel may answer by itself that `name` is `ino`, or not there: not at all if that is not what is true now.
    pub(crate) fn name_holds(&self, directory: Ino, name: &Name, ino: Option<Ino>) -> Duration {
        let inner = self.inner.lock();
        let names = inner.known(directory).and_then(|known| known.names.as_ref());
        match names.and_then(|names| names.find(name)) {
            Some(found) if found == ino => inner.kernel_validity(),
            _ => Duration::ZERO,
        }
    }

    /// Attributes.
    pub(crate) fn attr(&self, ino: Ino) -> Option<Attr> {
        let inner = self.inner.lock();
        let known = inner.known(ino).filter(|known| known.current)?;
        known.attr.clone()
    }

    /// What `name` is in `parent`, if `permitted` says of the parent's attributes that the caller may know.
    pub(super) fn lookup(&self, parent: Ino, name: &Name, permitted: impl FnOnce(&Attr) -> bool) -> Answer {
        let mut inner = self.inner.lock();
        let Some(Known {
            attr: Some(directory),
            names: Some(names),
            ..
        }) = inner.known(parent)
        else {
            return Answer::Unknown;
        };
        if !permitted(directory) {
            return Answer::Unknown;
        }
        let answer = match names.find(name) {
            None => Answer::Unknown,
            Some(None) => Answer::Absent,
            Some(Some(ino)) => match inner.known(ino) {
                Some(Known {
                    attr: Some(attr),
                    current: true,
                    ..
                }) => {
                    let attr = attr.clone();
                    inner.inodes.promote(&ino);
                    Answer::Found(attr)
                }
                _ => Answer::Unknown,
            },
        };
        inner.inodes.promote(&parent);
        answer
    }

    /// Remembers leased attributes.
    pub(crate) fn put_attr(&self, stamp: Stamp, attr: &Attr) {
        if let Some(known) = self.inner.lock().fresh(stamp, attr.ino) {
            known.attr = Some(attr.clone());
            known.current = true;
        }
    }

    /// Remembers what a name is in a leased directory.
    pub(crate) fn put_name(&self, stamp: Stamp, parent: Ino, name: &Name, ino: Option<Ino>) {
        let mut inner = self.inner.lock();
        if let Some(known) = inner.fresh(stamp, parent) {
            known.names.get_or_insert_default();
            inner.with_names(parent, |names| names.note(name, ino));
        }
    }

    /// A moment before a call, and whether a lease on `ino` is held then.
    pub(super) fn stamp_leased(&self, ino: Ino) -> (Stamp, bool) {
        let inner = self.inner.lock();
        // Both go with the lease.
        let held = |known: &Known| known.attr.is_some() || known.names.is_some();
        (Stamp(inner.clock), inner.known(ino).is_some_and(held))
    }

    /// Remembers that a name is not there, of a directory that was leased at `stamp`.
    pub(super) fn put_absent(&self, stamp: Stamp, parent: Ino, name: &Name) {
        self.put_name(stamp, parent, name, None);
    }

    /// Every name of a leased directory was put since `stamp`.
    pub(crate) fn put_complete(&self, stamp: Stamp, directory: Ino) {
        let mut inner = self.inner.lock();
        if let Some(known) = inner.fresh(stamp, directory) {
            known.names.get_or_insert_default();
            inner.with_names(directory, Names::completed);
        }
    }

    /// A change of our own begins, of the inodes `inos` and of `names` in their directories. Until it ends, what it may
    /// change is asked for. `access`: permission bits or owners may change, not only times, sizes and counts.
    pub(super) fn begin_change(
        self: &Arc<Self>,
        inos: &[Ino],
        names: &[(Ino, &Name)],
        access: bool,
    ) -> OwnChange {
        let event = if access {
            Event::Attributes
        } else {
            Event::Contents
        };
        let mut inner = self.inner.lock();
        for (parent, name) in names {
            inner.with_names(*parent, |known| known.open(name));
        }
        let start = inner.clock;
        let marks = inos.iter().map(|ino| (*ino, inner.event(*ino, event))).collect();
        OwnChange {
            cache: self.clone(),
            start,
            marks,
            names: names
                .iter()
                .map(|(parent, name)| (*parent, (*name).clone()))
                .collect(),
        }
    }
}

/// A change of our own that is on its way to the coordinator. Dropped, its outcome is unknown: what it may have changed is
/// forgotten.
#[must_use]
pub(crate) struct OwnChange {
    cache: Arc<LeasedCache>,
    start: u64,
    marks: Vec<(Ino, u64)>,
    names: Vec<(Ino, Name)>,
}

/// What a change of our own did.
#[derive(Default)]
pub(super) struct Outcome<'a> {
    /// What each of the change's names is now, in their order; empty if the change was refused.
    pub(crate) names: Vec<Option<Ino>>,
    /// A directory that it made, still empty.
    pub(crate) new_directory: Option<Ino>,
    /// Further inodes whose attributes it changed.
    pub(crate) changed: Vec<Ino>,
    /// Leases that its reply granted, and the attributes after it.
    pub(crate) leased: &'a [Attr],
}

impl OwnChange {
    /// The change was applied, or refused without an effect.
    pub(super) fn finish(mut self, outcome: Outcome<'_>) {
        let marks = std::mem::take(&mut self.marks);
        let names = std::mem::take(&mut self.names);
        let mut inner = self.cache.inner.lock();
        let kept = inner.until.is_some() && self.start >= inner.floor;
        // Whatever else happened to an inode meanwhile, a recall or another change, makes its order with ours unknown.
        let alone = |inner: &Inner, ino: Ino| {
            kept && match marks.iter().find(|(marked, _)| *marked == ino) {
                Some((_, mark)) => inner
                    .inodes
                    .peek(&ino)
                    .is_some_and(|known| known.changed == *mark),
                None => inner
                    .inodes
                    .peek(&ino)
                    .is_none_or(|known| known.changed <= self.start),
            }
        };
        let leased = |ino: &Ino| outcome.leased.iter().any(|attr| attr.ino == *ino);
        for (index, (parent, name)) in names.iter().enumerate() {
            let alone = alone(&inner, *parent);
            if alone && leased(parent) {
                inner.entry(*parent).names.get_or_insert_default();
            }
            inner.with_names(*parent, |known| {
                known.close(name);
                match outcome.names.get(index) {
                    Some(ino) if alone => known.note(name, *ino),
                    None if outcome.names.is_empty() => {}
                    _ => known.forget(name),
                }
            });
        }
        let current: Vec<&Attr> = outcome
            .leased
            .iter()
            .filter(|attr| alone(&inner, attr.ino))
            .collect();
        let directory = outcome
            .new_directory
            .filter(|ino| alone(&inner, *ino) && leased(ino));
        for (ino, _) in &marks {
            inner.event(*ino, Event::Contents);
        }
        for ino in &outcome.changed {
            inner.event(*ino, Event::Attributes);
        }
        for attr in current {
            let known = inner.entry(attr.ino);
            known.attr = Some(attr.clone());
            known.current = true;
        }
        if let Some(ino) = directory {
            inner.entry(ino).names = Some(Names::of_new_directory());
        }
    }
}

impl Drop for OwnChange {
    fn drop(&mut self) {
        if self.marks.is_empty() && self.names.is_empty() {
            return;
        }
        let mut inner = self.cache.inner.lock();
        for (parent, name) in &self.names {
            inner.with_names(*parent, |known| {
                known.close(name);
                known.forget(name);
            });
        }
        for (ino, _) in &self.marks {
            inner.event(*ino, Event::Attributes);
        }
    }
}

#[cfg(test)]
mod tests;
