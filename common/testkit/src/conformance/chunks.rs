//! What a chunk service promises.

use super::{checks, refused};
use bytes::Bytes;
use dfs_common::capability::{CapabilityKey, ChunkAccess, ChunkCapability};
use dfs_common::checksum::content_sha256;
use dfs_common::chunk::ChunkDescription;
use dfs_common::limits::{CHUNK_STATS_MAX, FRAME_BYTES, WIRE_FRAME_BYTES};
use dfs_common::piece::{self, Piece};
use dfs_common::service::{ChunkService, ChunkWritten, ContentHash, VouchedHash, WriteChunk};
use dfs_common::{ChunkId, ErrorKind, FsResult, Ino, PgId, SessionEpoch, SessionId};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::sync::Arc;
use tokio::sync::oneshot;

/// A chunk service under test.
#[derive(Clone)]
pub struct ChunkSubject {
    /// The service.
    pub service: Arc<dyn ChunkService>,
    /// The key that it checks capabilities with.
    pub key: CapabilityKey,
    /// Time by its clock, in milliseconds since 1970.
    pub now_unix_ms: u64,
    /// Other datanodes that it can forward to, with their services.
    pub peers: Vec<(String, Arc<dyn ChunkService>)>,
    /// An address at which nothing answers.
    pub nowhere: String,
}

type Check = (&'static str, fn(Chunk) -> BoxFuture<'static, ()>);

const CHECKS: &[Check] = checks![Chunk:
    written_content_is_read_back_whole_and_in_ranges,
    ranges_behind_the_end_are_refused,
    writing_again_is_no_error,
    other_bytes_under_the_same_id_are_refused,
    concurrent_writers_agree_on_one_content,
    content_that_does_not_match_is_refused,
    hash_is_computed_for_a_writer_that_does_not_know_it,
    hash_known_or_not_the_bytes_decide,
    vouched_hash_that_follows_the_content_is_kept,
    content_whose_hash_does_not_follow_is_not_stored,
    wrong_vouchers_are_refused,
    pieces_that_are_not_whole_frames_are_refused,
    interrupted_writes_leave_nothing,
    missing_chunks_are_not_found,
    deleting_is_repeatable,
    only_the_coordinator_deletes,
    capabilities_are_for_one_access_and_one_chunk,
    many_are_described_at_once_each_for_itself,
    capabilities_expire_and_are_not_forged,
    replicas_are_forwarded_and_failures_reported,
];

/// Checks one chunk service.
///
/// # Panics
/// At the first promise that is not kept.
pub async fn chunks(subject: ChunkSubject) {
    for (name, check) in CHECKS {
        println!("conformance of chunks: {name}");
        check(Chunk::new(subject.clone())).await;
    }
}

/// A chunk that does not exist yet, and calls on it.
struct Chunk {
    subject: ChunkSubject,
    id: ChunkId,
}

fn content(length: usize, seed: u8) -> Bytes {
    (0..length)
        .map(|i| (i % 251) as u8 ^ (i >> 8) as u8 ^ seed)
        .collect()
}

impl Chunk {
    fn new(subject: ChunkSubject) -> Chunk {
        let session = SessionId(rand::random::<u64>() & SessionId::MAX);
        Chunk {
            subject,
            id: ChunkId::new(session, rand::random::<u64>() & SessionId::MAX, PgId(1)),
        }
    }

    fn service(&self) -> &dyn ChunkService {
        &*self.subject.service
    }

    fn capability(&self, access: ChunkAccess) -> ChunkCapability {
        // Deleting is the coordinator's own business.
        let session = match access {
            ChunkAccess::Delete => SessionId(0),
            _ => self.id.session(),
        };
        self.subject
            .key
            .sign(session, self.id, access, self.subject.now_unix_ms + 3_600_000)
    }

    fn description(&self, content: &Bytes) -> ChunkDescription {
        ChunkDescription {
            chunk: self.id,
            ino: Ino(42),
            file_offset: 4096,
            length: content.len() as u64,
            epoch: SessionEpoch(1),
            sha256: content_sha256([&content[..]]),
        }
    }

    fn request(&self, description: ChunkDescription, pieces: Vec<FsResult<Bytes>>) -> WriteChunk {
        WriteChunk {
            label: description.label(),
            hash: ContentHash::Known(description.sha256),
            capability: self.capability(ChunkAccess::Write),
            forward: Vec::new(),
            content: piece::pieces(stream::iter(pieces).boxed()),
        }
    }

    /// Writes as a client does at first: without the hash.
    async fn write(&self, content: &Bytes) -> FsResult<ChunkWritten> {
        self.write_with(content, ContentHash::Computed).await
    }

    async fn write_with(&self, content: &Bytes, hash: ContentHash) -> FsResult<ChunkWritten> {
        let request = self.request(self.description(content), pieces(content, WIRE_FRAME_BYTES));
        self.service().write_chunk(WriteChunk { hash, ..request }).await
    }

    /// The hash of `content`, vouched for with `key`, as a datanode that forwards says it behind the content.
    fn vouched(&self, content: &Bytes, key: CapabilityKey) -> ContentHash {
        let description = self.description(content);
        let voucher = key.vouch(&self.capability(ChunkAccess::Write), &description);
        let (end, hash) = oneshot::channel();
        let sha256 = description.sha256;
        end.send(VouchedHash { sha256, voucher })
            .expect("the receiver is there");
        ContentHash::Follows(hash)
    }

    async fn read(&self, offset: u64, length: u64) -> FsResult<Bytes> {
        read(self.service(), self.capability(ChunkAccess::Read), offset, length).await
    }

    async fn stat(&self) -> FsResult<ChunkDescription> {
        self.service()
            .stat_chunk(self.capability(ChunkAccess::Read))
            .await
    }
}

fn pieces(content: &Bytes, size: usize) -> Vec<FsResult<Bytes>> {
    (0..content.len())
        .step_by(size)
        .map(|at| Ok(content.slice(at..content.len().min(at + size))))
        .collect()
}

/// The whole of a read's stream; the error may come with the call or within the stream.
async fn read(
    service: &dyn ChunkService,
    capability: ChunkCapability,
    offset: u64,
    length: u64,
) -> FsResult<Bytes> {
    let pieces: Vec<Piece> = service
        .read_chunk(capability, offset, length)
        .await?
        .try_collect()
        .await?;
    for piece in &pieces {
        let right = Piece::new(piece.content().clone());
        assert_eq!(piece.checksums(), right.checksums());
    }
    let pieces: Vec<Bytes> = pieces.into_iter().map(Piece::into_content).collect();
    Ok(pieces.concat().into())
}

async fn written_content_is_read_back_whole_and_in_ranges(chunk: Chunk) {
    for (length, size) in [
        (1, 1),
        (FRAME_BYTES, 1000),
        (FRAME_BYTES + 1, WIRE_FRAME_BYTES),
        (1_500_000, 65_537),
    ] {
        let chunk = Chunk::new(chunk.subject.clone());
        let whole = content(length, 1);
        let description = chunk.description(&whole);
        let request = chunk.request(description.clone(), pieces(&whole, size));
        let written = chunk.service().write_chunk(request).await.unwrap();
        assert_eq!((written.receipts.len(), written.failures.len()), (1, 0));
        let receipt = &written.receipts[0];
        assert_eq!(
            (receipt.length, receipt.sha256),
            (length as u64, description.sha256)
        );
        assert!(receipt.node.0 > 0);
        assert_eq!(chunk.stat().await.unwrap(), description);
        let frame = FRAME_BYTES as u64;
        let end = length as u64;
        let ranges = [
            (0, end),
            (0, 1),
            (end - 1, 1),
            (end / 2, end / 3),
            (frame - 1, 2),
            (frame, frame),
            (17, 300_000),
        ];
        for (offset, count) in ranges
            .into_iter()
            .filter(|(offset, count)| offset + count <= end && *count > 0)
        {
            let expected = whole.slice(offset as usize..(offset + count) as usize);
            assert!(
                chunk.read(offset, count).await.unwrap() == expected,
                "{count} bytes from {offset} of {length}"
            );
        }
    }
}

async fn ranges_behind_the_end_are_refused(chunk: Chunk) {
    chunk.write(&content(1000, 2)).await.unwrap();
    for (offset, length) in [(0, 1001), (1000, 1), (999, 2), (u64::MAX, 1), (1, u64::MAX)] {
        refused(chunk.read(offset, length).await, ErrorKind::Invalid);
    }
    assert_eq!(chunk.read(0, 1000).await.unwrap(), content(1000, 2));
}

async fn writing_again_is_no_error(chunk: Chunk) {
    let whole = content(200_000, 3);
    let first = chunk.write(&whole).await.unwrap();
    let second = chunk.write(&whole).await.unwrap();
    assert_eq!(first.receipts, second.receipts);
    assert_eq!(chunk.read(0, 200_000).await.unwrap(), whole);
}

async fn other_bytes_under_the_same_id_are_refused(chunk: Chunk) {
    let whole = content(100_000, 4);
    chunk.write(&whole).await.unwrap();
    refused(chunk.write(&content(100_000, 5)).await, ErrorKind::ChunkConflict);
    refused(chunk.write(&content(99_999, 4)).await, ErrorKind::ChunkConflict);
    assert_eq!(chunk.read(0, 100_000).await.unwrap(), whole);
}

async fn concurrent_writers_agree_on_one_content(chunk: Chunk) {
    let contents: Vec<Bytes> = (0..6).map(|seed| content(300_000, seed % 2)).collect();
    let results = futures::future::join_all(contents.iter().map(|content| chunk.write(content))).await;
    let stored = chunk.read(0, 300_000).await.unwrap();
    assert!(results.iter().any(Result::is_ok));
    for (content, result) in contents.iter().zip(results) {
        match result {
            Ok(_) => assert!(*content == stored, "an acknowledged write is what is stored"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ChunkConflict);
                assert!(*content != stored);
            }
        }
    }
}

async fn content_that_does_not_match_is_refused(chunk: Chunk) {
    let whole = content(150_000, 6);
    let description = chunk.description(&whole);
    let mut damaged = whole.to_vec();
    damaged[149_999] ^= 1;
    let longer = Bytes::from([&whole[..], b"x"].concat());
    for sent in [Bytes::from(damaged), whole.slice(..149_999), longer] {
        let request = chunk.request(description.clone(), pieces(&sent, WIRE_FRAME_BYTES));
        refused(chunk.service().write_chunk(request).await, ErrorKind::Corrupt);
        refused(chunk.stat().await, ErrorKind::NotFound);
    }
    chunk.write(&whole).await.unwrap();
}

async fn hash_is_computed_for_a_writer_that_does_not_know_it(chunk: Chunk) {
    for length in [1, 100_000, 1_500_000] {
        let chunk = Chunk::new(chunk.subject.clone());
        let whole = content(length, 20);
        let written = chunk.write(&whole).await.unwrap();
        assert_eq!(written.receipts[0].sha256, content_sha256([&whole[..]]));
        assert_eq!(chunk.stat().await.unwrap(), chunk.description(&whole));
    }
}

async fn hash_known_or_not_the_bytes_decide(chunk: Chunk) {
    let (whole, other) = (content(700_000, 21), content(700_000, 22));
    let first = chunk.write(&whole).await.unwrap();
    let known = |content: &Bytes| ContentHash::Known(content_sha256([&content[..]]));
    let vouched = |content: &Bytes| chunk.vouched(content, chunk.subject.key);
    for (same, different) in [
        (ContentHash::Computed, ContentHash::Computed),
        (known(&whole), known(&other)),
        (vouched(&whole), vouched(&other)),
    ] {
        let again = chunk.write_with(&whole, same).await.unwrap();
        assert_eq!(again.receipts, first.receipts);
        refused(
            chunk.write_with(&other, different).await,
            ErrorKind::ChunkConflict,
        );
    }
    // The hash of what is there, but not its bytes.
    refused(chunk.write_with(&other, known(&whole)).await, ErrorKind::Corrupt);
    assert_eq!(chunk.read(0, 700_000).await.unwrap(), whole);
}

async fn vouched_hash_that_follows_the_content_is_kept(chunk: Chunk) {
    let whole = content(700_000, 23);
    let hash = chunk.vouched(&whole, chunk.subject.key);
    let written = chunk.write_with(&whole, hash).await.unwrap();
    assert_eq!(written.receipts[0].sha256, content_sha256([&whole[..]]));
    assert_eq!(chunk.stat().await.unwrap(), chunk.description(&whole));
    assert_eq!(chunk.read(0, 700_000).await.unwrap(), whole);
}

async fn content_whose_hash_does_not_follow_is_not_stored(chunk: Chunk) {
    let whole = content(700_000, 24);
    let (end, hash) = oneshot::channel();
    drop(end);
    let written = chunk.write_with(&whole, ContentHash::Follows(hash)).await;
    assert!(written.is_err(), "{written:?}");
    refused(chunk.stat().await, ErrorKind::NotFound);
    chunk.write(&whole).await.unwrap();
}

async fn wrong_vouchers_are_refused(chunk: Chunk) {
    let (whole, other) = (content(700_000, 25), content(700_000, 26));
    let key = chunk.subject.key;
    // For another hash than the one said, and of somebody without the key.
    let voucher = key.vouch(&chunk.capability(ChunkAccess::Write), &chunk.description(&other));
    let (end, of_other_content) = oneshot::channel();
    let sha256 = chunk.description(&whole).sha256;
    end.send(VouchedHash { sha256, voucher })
        .expect("the receiver is there");
    let wrong = [
        ContentHash::Follows(of_other_content),
        chunk.vouched(&whole, CapabilityKey([1; 32])),
    ];
    for hash in wrong {
        refused(chunk.write_with(&whole, hash).await, ErrorKind::Unauthenticated);
        refused(chunk.stat().await, ErrorKind::NotFound);
    }
    // What was forwarded is not forwarded again.
    let mut request = chunk.request(chunk.description(&whole), pieces(&whole, WIRE_FRAME_BYTES));
    request.hash = chunk.vouched(&whole, key);
    request.forward = vec![chunk.subject.nowhere.clone()];
    refused(chunk.service().write_chunk(request).await, ErrorKind::Invalid);
    refused(chunk.stat().await, ErrorKind::NotFound);
}

async fn pieces_that_are_not_whole_frames_are_refused(chunk: Chunk) {
    let whole = content(600_000, 27);
    let cut = FRAME_BYTES + 1;
    let first = [
        whole.slice(..cut),
        whole.slice(cut..300_000),
        whole.slice(300_000..500_000),
    ];
    let parts = first.into_iter().chain([whole.slice(500_000..)]);
    let misaligned: Vec<_> = parts.map(|part| Ok(Piece::new(part))).collect();
    let mut request = chunk.request(chunk.description(&whole), Vec::new());
    request.content = stream::iter(misaligned).boxed();
    refused(chunk.service().write_chunk(request).await, ErrorKind::Invalid);
    refused(chunk.stat().await, ErrorKind::NotFound);
    chunk.write(&whole).await.unwrap();
}

async fn interrupted_writes_leave_nothing(chunk: Chunk) {
    let whole = content(600_000, 7);
    let mut sent = pieces(&whole, WIRE_FRAME_BYTES);
    sent[1] = Err(ErrorKind::Interrupted.into());
    let interrupted = chunk
        .service()
        .write_chunk(chunk.request(chunk.description(&whole), sent))
        .await;
    assert!(interrupted.is_err(), "{interrupted:?}");
    refused(chunk.stat().await, ErrorKind::NotFound);
    chunk.write(&whole).await.unwrap();
    assert_eq!(chunk.read(0, 600_000).await.unwrap(), whole);
}

async fn missing_chunks_are_not_found(chunk: Chunk) {
    refused(chunk.stat().await, ErrorKind::NotFound);
    refused(chunk.read(0, 1).await, ErrorKind::NotFound);
}

async fn deleting_is_repeatable(chunk: Chunk) {
    chunk.write(&content(1000, 8)).await.unwrap();
    for _ in 0..2 {
        chunk
            .service()
            .delete_chunk(chunk.capability(ChunkAccess::Delete))
            .await
            .unwrap();
        refused(chunk.stat().await, ErrorKind::NotFound);
        refused(chunk.read(0, 1).await, ErrorKind::NotFound);
    }
}

async fn only_the_coordinator_deletes(chunk: Chunk) {
    let whole = content(1000, 12);
    chunk.write(&whole).await.unwrap();
    let capability = chunk.capability(ChunkAccess::Delete);
    let expires = capability.expires_unix_ms;
    let of_a_client = chunk
        .subject
        .key
        .sign(chunk.id.session(), chunk.id, ChunkAccess::Delete, expires);
    refused(
        chunk.service().delete_chunk(of_a_client).await,
        ErrorKind::Unauthenticated,
    );
    assert_eq!(chunk.read(0, 1000).await.unwrap(), whole);
    chunk.service().delete_chunk(capability).await.unwrap();
}

async fn capabilities_are_for_one_access_and_one_chunk(chunk: Chunk) {
    use ChunkAccess::{Delete, Read, Write};
    let whole = content(1000, 9);
    chunk.write(&whole).await.unwrap();
    let service = chunk.service();
    for access in [Write, Delete] {
        refused(
            read(service, chunk.capability(access), 0, 1).await,
            ErrorKind::Unauthenticated,
        );
        refused(
            service.stat_chunk(chunk.capability(access)).await,
            ErrorKind::Unauthenticated,
        );
    }
    for access in [Read, Write] {
        refused(
            service.delete_chunk(chunk.capability(access)).await,
            ErrorKind::Unauthenticated,
        );
    }
    let fresh = Chunk::new(chunk.subject.clone());
    for access in [Read, Delete] {
        let mut request = fresh.request(fresh.description(&whole), pieces(&whole, 1000));
        request.capability = fresh.capability(access);
        refused(service.write_chunk(request).await, ErrorKind::Unauthenticated);
    }
    // The permission to write one chunk is none for another.
    let mut request = fresh.request(fresh.description(&whole), pieces(&whole, 1000));
    request.capability = chunk.capability(Write);
    refused(service.write_chunk(request).await, ErrorKind::Unauthenticated);
    refused(fresh.stat().await, ErrorKind::NotFound);
    assert_eq!(chunk.read(0, 1000).await.unwrap(), whole);
}

async fn many_are_described_at_once_each_for_itself(chunk: Chunk) {
    let whole = content(1000, 21);
    chunk.write(&whole).await.unwrap();
    let missing = Chunk::new(chunk.subject.clone());
    let asked = vec![
        missing.capability(ChunkAccess::Read),
        chunk.capability(ChunkAccess::Read),
        chunk.capability(ChunkAccess::Write),
        chunk.capability(ChunkAccess::Read),
    ];
    let described = chunk.service().stat_chunks(asked).await.unwrap();
    let [absent, found, refusal, again] = &described[..] else {
        panic!("{described:?}");
    };
    refused(absent.clone(), ErrorKind::NotFound);
    refused(refusal.clone(), ErrorKind::Unauthenticated);
    assert_eq!(found, again);
    assert_eq!(found.clone().unwrap(), chunk.stat().await.unwrap());
    let many = vec![missing.capability(ChunkAccess::Read); CHUNK_STATS_MAX];
    let described = chunk.service().stat_chunks(many).await.unwrap();
    assert_eq!(described.len(), CHUNK_STATS_MAX);
}

async fn capabilities_expire_and_are_not_forged(chunk: Chunk) {
    let whole = content(1000, 10);
    chunk.write(&whole).await.unwrap();
    let (key, session, now) = (chunk.subject.key, chunk.id.session(), chunk.subject.now_unix_ms);
    let good = chunk.capability(ChunkAccess::Read);
    let mut flipped = good.clone();
    flipped.mac[0] ^= 1;
    let wrong = [
        key.sign(session, chunk.id, ChunkAccess::Read, now.saturating_sub(60_000)),
        CapabilityKey([1; 32]).sign(session, chunk.id, ChunkAccess::Read, good.expires_unix_ms),
        ChunkCapability {
            expires_unix_ms: good.expires_unix_ms + 1,
            ..good.clone()
        },
        ChunkCapability {
            session: SessionId(good.session.0 ^ 1),
            ..good.clone()
        },
        flipped,
    ];
    for capability in wrong {
        refused(
            read(chunk.service(), capability.clone(), 0, 1).await,
            ErrorKind::Unauthenticated,
        );
        refused(
            chunk.service().stat_chunk(capability).await,
            ErrorKind::Unauthenticated,
        );
    }
    read(chunk.service(), good, 0, 1).await.unwrap();
}

async fn replicas_are_forwarded_and_failures_reported(chunk: Chunk) {
    let whole = content(700_000, 11);
    let mut request = chunk.request(chunk.description(&whole), pieces(&whole, WIRE_FRAME_BYTES));
    request.forward = chunk
        .subject
        .peers
        .iter()
        .map(|(address, _)| address.clone())
        .collect();
    request.forward.push(chunk.subject.nowhere.clone());
    request.hash = ContentHash::Computed;
    let written = chunk.service().write_chunk(request).await.unwrap();
    assert_eq!(
        written.receipts.len(),
        1 + chunk.subject.peers.len(),
        "{written:?}"
    );
    let nodes: std::collections::BTreeSet<_> = written.receipts.iter().map(|receipt| receipt.node).collect();
    assert_eq!(nodes.len(), written.receipts.len());
    assert!(
        written
            .receipts
            .iter()
            .all(|receipt| receipt.sha256 == written.receipts[0].sha256)
    );
    let failed: Vec<&str> = written.failures.iter().map(|(address, _)| &address[..]).collect();
    assert_eq!(failed, [&chunk.subject.nowhere[..]]);
    for (address, peer) in &chunk.subject.peers {
        let described = peer
            .stat_chunk(chunk.capability(ChunkAccess::Read))
            .await
            .unwrap();
        assert_eq!(described, chunk.description(&whole), "the header on {address}");
        let copy = read(&**peer, chunk.capability(ChunkAccess::Read), 0, 700_000)
            .await
            .unwrap();
        assert!(copy == whole, "the copy on {address}");
    }
}
