//! One session's leases, and the recalls on their way to it.

use dfs_common::lease::{Lease, Obeyed, Part, Recall};
use dfs_common::limits::{LEASES_RECALLED_AT_ONCE, RECALLS_PENDING_MAX, SESSION_LEASES_MAX};
use lru::LruCache;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Notify, oneshot};

/// Resolves (with or without a value) when a recalled session has given its leases up.
pub(super) type GivenUp = oneshot::Receiver<()>;

/// A recall that was not obeyed yet.
struct Pending {
    since: Instant,
    leases: Vec<Lease>,
    /// Dropping them tells who waits.
    waiting: Vec<oneshot::Sender<()>>,
}

/// A session with a recall stream, or one whose stream broke and that may still use what it was granted.
pub(super) struct Holder {
    /// From the one that was asked for longest ago on.
    leases: LruCache<Lease, ()>,
    /// Recalled, by that recall: respected, and not granted again, until it is obeyed.
    leaving: HashMap<Lease, u64>,
    /// Tells streams of one session apart; 0 before there is one.
    pub(super) stream: u64,
    /// Recalls that it has not received.
    queue: VecDeque<Recall>,
    pub(super) arrived: Arc<Notify>,
    /// Counts calls for recalls: the last one is answered.
    pub(super) polls: u64,
    /// It missed a recall: it is granted nothing more, and must open a new stream.
    pub(super) broken: bool,
    next_sequence: u64,
    pending: BTreeMap<u64, Pending>,
    /// The recall that makes room.
    making_room: Option<u64>,
}

impl Holder {
    pub(super) fn new(stream: u64) -> Self {
        Holder {
            leases: LruCache::unbounded(),
            leaving: HashMap::new(),
            stream,
            queue: VecDeque::new(),
            arrived: Arc::new(Notify::new()),
            polls: 0,
            broken: false,
            next_sequence: 1,
            pending: BTreeMap::new(),
            making_room: None,
        }
    }

    /// May use it, as far as the coordinator knows, and was not asked to give it up.
    pub(super) fn has(&mut self, lease: Lease) -> bool {
        self.leases.get(&lease).is_some()
    }

    pub(super) fn is_leaving(&self, lease: Lease) -> bool {
        self.leaving.contains_key(&lease)
    }

    pub(super) fn put(&mut self, lease: Lease) {
        self.leases.put(lease, ());
    }

    /// Given up without a recall.
    pub(super) fn remove(&mut self, lease: Lease) -> bool {
        self.leases.pop(&lease).is_some()
    }

    /// Leases, without those that were recalled.
    pub(super) fn count(&self) -> usize {
        self.leases.len()
    }

    /// Asks for these leases back. Answers the recall's number.
    fn recall(&mut self, leases: Vec<Lease>, waiting: Vec<oneshot::Sender<()>>) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        for lease in &leases {
            self.leases.pop(lease);
            self.leaving.insert(*lease, sequence);
        }
        // One that does not ask for its recalls gives up everything when it attaches again or ends.
        if self.queue.len() < RECALLS_PENDING_MAX {
            self.queue.push_back(Recall::of(sequence, leases.iter().copied()));
        } else {
            self.broken = true;
            self.queue.clear();
        }
        self.arrived.notify_one();
        let pending = Pending {
            since: Instant::now(),
            leases,
            waiting,
        };
        self.pending.insert(sequence, pending);
        sequence
    }

    /// Takes these leases away; adds to `waits` what is to be waited for, also of those that are leaving already.
    pub(super) fn take(&mut self, leases: Vec<Lease>, waits: &mut Vec<GivenUp>) {
        let (leaving, held): (Vec<Lease>, Vec<Lease>) =
            leases.into_iter().partition(|lease| self.is_leaving(*lease));
        let mut recalls: Vec<u64> = leaving.iter().map(|lease| self.leaving[lease]).collect();
        recalls.sort_unstable();
        recalls.dedup();
        for sequence in recalls {
            if let Some(pending) = self.pending.get_mut(&sequence) {
                let (sender, given_up) = oneshot::channel();
                pending.waiting.push(sender);
                waits.push(given_up);
            }
        }
        if !held.is_empty() {
            let (sender, given_up) = oneshot::channel();
            self.recall(held, vec![sender]);
            waits.push(given_up);
        }
    }

    /// Makes room for one lease more, sooner or later; false if there is none now.
    pub(super) fn make_room(&mut self) -> bool {
        if self.leases.len() < SESSION_LEASES_MAX {
            return true;
        }
        if self.making_room.is_some() {
            return false;
        }
        let oldest: Vec<Lease> = self
            .leases
            .iter()
            .rev()
            .map(|(lease, ())| *lease)
            .take(LEASES_RECALLED_AT_ONCE)
            .collect();
        self.making_room = Some(self.recall(oldest, Vec::new()));
        true
    }

    /// The client has done this; answers what it has given up.
    pub(super) fn obeyed(&mut self, obeyed: &Obeyed) -> Vec<Lease> {
        self.queue.retain(|recall| recall.sequence > obeyed.received);
        let above = self.pending.split_off(&obeyed.below.saturating_add(1));
        let mut done: Vec<(u64, Pending)> = std::mem::replace(&mut self.pending, above).into_iter().collect();
        for sequence in &obeyed.beside {
            done.extend(self.pending.remove(sequence).map(|pending| (*sequence, pending)));
        }
        let mut given_up = Vec::new();
        for (sequence, pending) in done {
            self.making_room.take_if(|making| *making == sequence);
            for lease in pending.leases {
                self.leaving.remove(&lease);
                given_up.push(lease);
            }
        }
        given_up
    }

    /// Recalls that were not received.
    pub(super) fn unreceived(&self) -> Vec<Recall> {
        self.queue.iter().cloned().collect()
    }

    /// When the oldest recall that was not obeyed was made.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.pending.values().next().map(|pending| pending.since)
    }

    /// Everything that it was granted and has not given up.
    pub(super) fn all(&self) -> Vec<Lease> {
        let held = self.leases.iter().map(|(lease, ())| *lease);
        held.chain(self.leaving.keys().copied()).collect()
    }

    /// Its successor with a new stream, and what it has given up with the old one: everything but what it buffers. Recalls of that are
    /// made again.
    pub(super) fn attach(mut self, stream: u64) -> (Self, Vec<Lease>) {
        let mut next = Holder::new(stream);
        let is_buffer = |lease: &Lease| lease.part == Part::Buffer;
        let given_up = self.all().into_iter().filter(|lease| !is_buffer(lease)).collect();
        for (lease, ()) in self.leases.iter().rev().filter(|(lease, ())| is_buffer(lease)) {
            next.put(*lease);
        }
        for pending in std::mem::take(&mut self.pending).into_values() {
            let buffers: Vec<Lease> = pending.leases.into_iter().filter(is_buffer).collect();
            if !buffers.is_empty() {
                next.recall(buffers, pending.waiting);
            }
        }
        self.arrived.notify_one();
        (next, given_up)
    }
}
