//! Random operations with quotas set, changed and cleared between them: the coordinator and the twin admit and refuse the same, and what
//! quotas leave is the same after each.

#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use bytes::Bytes;
use dfs_common::extent::{Extent, ExtentData};
use dfs_common::lock::LockDeclarations;
use dfs_common::op::{CommitWrite, MutationBatch, NumberedOp, OpReply, Operation, RenameMode};
use dfs_common::service::MetadataService;
use dfs_common::session::{Caller, Identity, OpenSession};
use dfs_common::{Allowance, FsResult, Ino, Name, OpNumber, Quota, SetAttr, Timestamp};
use dfs_testkit::cluster::InProcessCluster;
use dfs_testkit::twin::{TwinCluster, TwinMetadata};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEEDS: u64 = 12;
const STEPS: usize = 160;
/// What a rename replaced is looked at anew after five seconds, by each side in its own time: a machine so slow compares no further.
const SEED_TIME_MAX: Duration = Duration::from_secs(4);

/// One of the two, and how its quotas are set.
struct Side<'c> {
    service: Arc<dyn MetadataService>,
    identity: Identity,
    next: u64,
    quotas: Quotas<'c>,
}

enum Quotas<'c> {
    Real(&'c InProcessCluster),
    Twin(Arc<TwinMetadata>),
}

impl Side<'_> {
    async fn new(service: Arc<dyn MetadataService>, quotas: Quotas<'_>) -> Side<'_> {
        let request = OpenSession {
            client_name: "quotas agree".to_string(),
            resume: None,
            opened: Vec::new(),
            unsynced: None,
            locks: LockDeclarations::default(),
            leases: false,
        };
        let identity = service.open_session(request).await.unwrap().identity;
        Side {
            service,
            identity,
            next: 1,
            quotas,
        }
    }

    async fn apply(&mut self, op: Operation) -> FsResult<OpReply> {
        let number = OpNumber(self.next);
        self.next += 1;
        let batch = MutationBatch {
            ops: vec![NumberedOp {
                number,
                caller: Caller::root(),
                op,
            }],
            acknowledged_below: number,
            stop_on_error: true,
            durable: false,
        };
        let mut mutated = self.service.mutate(self.identity, batch).await.unwrap();
        mutated.results.remove(0)
    }

    async fn set_quota(&self, directory: Ino, quota: Quota) -> FsResult<()> {
        match &self.quotas {
            Quotas::Real(cluster) => cluster.set_quota(directory, quota).await,
            Quotas::Twin(twin) => twin.set_quota(directory, quota),
        }
    }

    /// What quotas leave to a directory; `None` if it was removed.
    async fn left(&self, ino: Ino) -> Option<[Option<u64>; 2]> {
        let found = self.service.getattr(self.identity, ino).await;
        found.ok().filter(|found| found.attr.nlink > 0)?;
        let usage = self.service.usage(self.identity, ino).await.unwrap();
        let left = |allowed: Option<Allowance>| allowed.map(|allowed| allowed.left());
        Some([left(usage.bytes_allowed), left(usage.inodes_allowed)])
    }
}

/// Number of an inode that the sequence has made; each side has its own inode number.
type Number = usize;

#[derive(Clone, Debug)]
enum Step {
    Mkdir(Number, u8),
    Create(Number, u8),
    Write(Number, u64, usize),
    Truncate(Number, u64),
    Link(Number, Number, u8),
    Unlink(Number, u8),
    Rmdir(Number, u8),
    Rename((Number, u8), (Number, u8), bool),
    Open(Number),
    Release(Number),
    Quota(Number, Option<u64>, Option<u64>),
}

fn name(letter: u8) -> Name {
    Name::new(Bytes::copy_from_slice(&[b'a' + letter])).unwrap()
}

/// A sequence's inodes: number on each side, and whether it is a directory; how often each file is open.
struct Known {
    inodes: Vec<([Ino; 2], bool)>,
    opens: BTreeMap<Number, u32>,
}

impl Known {
    fn pick(&self, rng: &mut StdRng, directory: bool) -> Option<Number> {
        let fitting: Vec<Number> = (0..self.inodes.len())
            .filter(|number| self.inodes[*number].1 == directory)
            .collect();
        (!fitting.is_empty()).then(|| fitting[rng.random_range(0..fitting.len())])
    }

    fn step(&self, rng: &mut StdRng) -> Option<Step> {
        let directory = self.pick(rng, true)?;
        let letter = rng.random_range(0..4);
        let file = self.pick(rng, false);
        Some(match rng.random_range(0..100) {
            0..10 => Step::Mkdir(directory, letter),
            10..26 => Step::Create(directory, letter),
            26..46 => Step::Write(file?, rng.random_range(0..80), rng.random_range(1..60)),
            46..50 => Step::Truncate(file?, rng.random_range(0..100)),
            50..56 => Step::Link(file?, directory, letter),
            56..66 => Step::Unlink(directory, letter),
            66..69 => Step::Rmdir(directory, letter),
            69..80 => {
                let to = (self.pick(rng, true)?, rng.random_range(0..4));
                Step::Rename((directory, letter), to, rng.random_bool(0.2))
            }
            80..84 => Step::Open(file?),
            84..90 => Step::Release(file.filter(|file| self.opens.contains_key(file))?),
            _ => {
                let limit = |rng: &mut StdRng, most| rng.random_bool(0.7).then(|| rng.random_range(0..most));
                Step::Quota(directory, limit(rng, 200), limit(rng, 9))
            }
        })
    }

    /// Makes a step on one side.
    async fn make(&self, side: &mut Side<'_>, which: usize, step: &Step) -> FsResult<Option<Ino>> {
        let ino = |number: &Number| self.inodes[*number].0[which];
        let op = match step {
            Step::Mkdir(at, letter) => Operation::Mkdir {
                parent: ino(at),
                name: name(*letter),
                mode: 0o755,
            },
            Step::Create(at, letter) => Operation::Create {
                parent: ino(at),
                name: name(*letter),
                mode: 0o644,
                exclusive: true,
                read: true,
                write: true,
            },
            Step::Write(file, offset, length) => Operation::CommitWrite(CommitWrite {
                ino: ino(file),
                append: false,
                extents: vec![Extent {
                    offset: *offset,
                    length: *length as u64,
                    data: ExtentData::Inline(Bytes::from(vec![7; *length])),
                }],
                chunks: Vec::new(),
                mtime: Timestamp::default(),
                clear_setid: false,
            }),
            Step::Truncate(file, size) => Operation::Setattr {
                ino: ino(file),
                set: SetAttr {
                    size: Some(*size),
                    ..SetAttr::default()
                },
                by_handle: false,
            },
            Step::Link(file, at, letter) => Operation::Link {
                ino: ino(file),
                parent: ino(at),
                name: name(*letter),
            },
            Step::Unlink(at, letter) => Operation::Unlink {
                parent: ino(at),
                name: name(*letter),
            },
            Step::Rmdir(at, letter) => Operation::Rmdir {
                parent: ino(at),
                name: name(*letter),
            },
            Step::Rename(from, to, exchange) => Operation::Rename {
                parent: ino(&from.0),
                name: name(from.1),
                new_parent: ino(&to.0),
                new_name: name(to.1),
                mode: match exchange {
                    true => RenameMode::Exchange,
                    false => RenameMode::Replace,
                },
            },
            Step::Open(file) => {
                let opening = side
                    .service
                    .open(side.identity, Caller::root(), ino(file), true, true);
                return opening.await.map(|_| None);
            }
            Step::Release(file) => {
                let releasing = side.service.release(side.identity, vec![ino(file)]);
                return releasing.await.map(|()| None);
            }
            Step::Quota(at, bytes, inodes) => {
                let (bytes, inodes) = (*bytes, *inodes);
                let setting = side.set_quota(ino(at), Quota { bytes, inodes });
                return setting.await.map(|()| None);
            }
        };
        Ok(match side.apply(op).await? {
            OpReply::Entry(entry) => Some(entry.attr.ino),
            OpReply::Created { entry, .. } => Some(entry.attr.ino),
            _ => None,
        })
    }
}

async fn agree(cluster: &InProcessCluster, seed: u64) {
    let twin = TwinCluster::default().metadata;
    let mut sides = [
        Side::new(cluster.metadata(), Quotas::Real(cluster)).await,
        Side::new(twin.clone(), Quotas::Twin(twin)).await,
    ];
    let mut top = [Ino::ROOT; 2];
    for (side, top) in sides.iter_mut().zip(&mut top) {
        let op = Operation::Mkdir {
            parent: Ino::ROOT,
            name: Name::new(Bytes::from(format!("seed {seed}"))).unwrap(),
            mode: 0o755,
        };
        let OpReply::Entry(entry) = side.apply(op).await.unwrap() else {
            panic!("no directory");
        };
        *top = entry.attr.ino;
    }
    let mut known = Known {
        inodes: vec![(top, true)],
        opens: BTreeMap::new(),
    };
    let mut rng = StdRng::seed_from_u64(seed);
    let begun = Instant::now();
    let mut steps = Vec::new();
    while steps.len() < STEPS && begun.elapsed() < SEED_TIME_MAX {
        let Some(step) = known.step(&mut rng) else {
            continue;
        };
        steps.push(step.clone());
        let real = known.make(&mut sides[0], 0, &step).await;
        let twin = known.make(&mut sides[1], 1, &step).await;
        let kind = |result: &FsResult<Option<Ino>>| result.as_ref().err().map(|error| error.kind());
        assert_eq!(
            kind(&real),
            kind(&twin),
            "seed {seed}, {real:?}, {twin:?} after {steps:#?}"
        );
        if real.is_ok() {
            match step {
                Step::Open(file) => *known.opens.entry(file).or_default() += 1,
                Step::Release(file) => {
                    let count = known.opens.get_mut(&file).unwrap();
                    *count -= 1;
                    if *count == 0 {
                        known.opens.remove(&file);
                    }
                }
                _ => {}
            }
        }
        if let (Ok(Some(real)), Ok(Some(twin))) = (real, twin)
            && !matches!(step, Step::Link(..))
        {
            known.inodes.push(([real, twin], matches!(step, Step::Mkdir(..))));
            if matches!(step, Step::Create(..)) {
                known.opens.insert(known.inodes.len() - 1, 1);
            }
        }
        for ([real, twin], is_directory) in &known.inodes {
            if *is_directory {
                let left = (sides[0].left(*real).await, sides[1].left(*twin).await);
                assert_eq!(left.0, left.1, "seed {seed} after {steps:#?}");
            }
        }
    }
    for ([real, _], is_directory) in &known.inodes {
        if *is_directory {
            // One that is gone took its quota with it.
            let _ = sides[0].set_quota(*real, Quota::default()).await;
        }
    }
}

#[tokio::test]
async fn coordinator_and_twin_admit_and_refuse_the_same() {
    let cluster = InProcessCluster::start(3).await;
    for seed in 0..SEEDS {
        agree(&cluster, seed).await;
    }
}
