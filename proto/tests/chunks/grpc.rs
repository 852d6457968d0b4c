//! What gRPC peers that are broken, hostile or of an earlier release send.

use crate::kit::*;
use crate::loopback::{PATIENCE, Server};
use bytes::Bytes;
use dfs_common::capability::ChunkAccess;
use dfs_common::checksum::frame_crc;
use dfs_common::limits::{CHUNK_BYTES_MAX, FRAME_BYTES, WIRE_FRAME_BYTES};
use dfs_common::piece::Piece;
use dfs_common::service::ChunkService;
use dfs_common::{ErrorKind, FsError};
use dfs_proto::convert::{
    HeadHash, WriteChunkHead, chunk_capability_to_wire, piece_to_wire, vouched_hash_to_wire,
    write_chunk_head_to_wire,
};
use dfs_proto::grpc::{ChunkGrpcClient, channel_lazy};
use dfs_proto::v1::chunk_client::ChunkClient;
use dfs_proto::v1::chunk_server::{Chunk, ChunkServer};
use dfs_proto::v1::write_chunk_request::Part;
use dfs_proto::{status, v1};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::net::SocketAddr;
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};

/// Sends these messages with the generated client: a peer that is not ours, or broken.
async fn send(address: SocketAddr, parts: Vec<Part>) -> FsError {
    let mut raw = ChunkClient::new(channel_lazy(&address.to_string(), PATIENCE).unwrap());
    let messages = parts
        .into_iter()
        .map(|part| v1::WriteChunkRequest { part: Some(part) });
    let refused = raw.write_chunk(stream::iter(messages)).await.unwrap_err();
    status::from_status(&refused)
}

fn head_with(id: u64, content: &[u8], hash: HeadHash) -> Part {
    Part::Header(write_chunk_head_to_wire(&WriteChunkHead {
        label: describe(id, content).label(),
        hash,
        capability: permit(id, ChunkAccess::Write),
        forward: vec![],
    }))
}

fn head(id: u64, content: &[u8]) -> Part {
    head_with(id, content, HeadHash::Computed)
}

fn end() -> Part {
    Part::End(vouched_hash_to_wire(&VOUCHED))
}

fn piece(content: &[u8]) -> Part {
    Part::Piece(v1::Piece {
        content: Bytes::copy_from_slice(content),
        crc32c: frame_crc(content),
        frame_crc32c: content.chunks(FRAME_BYTES).map(frame_crc).collect(),
    })
}

#[tokio::test]
async fn malformed_uploads_are_refused_and_never_look_whole() {
    let store = Store::shared();
    let server = serve(&store).await;
    let content = noise(WIRE_FRAME_BYTES + 1000);
    let (first, second) = content.split_at(WIRE_FRAME_BYTES);
    let damaged = Part::Piece(v1::Piece {
        content: Bytes::copy_from_slice(second),
        crc32c: frame_crc(second),
        frame_crc32c: vec![frame_crc(second) ^ 1],
    });
    let follows = || head_with(1, &content, HeadHash::Follows);
    let cases = [
        ("no messages", vec![], ErrorKind::Invalid, false),
        ("no header", vec![piece(first)], ErrorKind::Invalid, false),
        (
            "a damaged piece",
            vec![head(1, &content), piece(first), damaged],
            ErrorKind::Corrupt,
            true,
        ),
        (
            "a large piece",
            vec![head(1, &content), piece(&content)],
            ErrorKind::Invalid,
            true,
        ),
        (
            "an empty piece",
            vec![head(1, &content), piece(b"")],
            ErrorKind::Invalid,
            true,
        ),
        (
            "two headers",
            vec![head(1, &content), head(1, &content)],
            ErrorKind::Invalid,
            true,
        ),
        (
            "too little",
            vec![head(1, &content), piece(first)],
            ErrorKind::Corrupt,
            true,
        ),
        (
            "too much",
            vec![head(1, &content), piece(first), piece(second), piece(b"x")],
            ErrorKind::Corrupt,
            true,
        ),
        (
            "no end where one was promised",
            vec![follows(), piece(first), piece(second)],
            ErrorKind::Corrupt,
            true,
        ),
        (
            "an end before the content is whole",
            vec![follows(), piece(first), end()],
            ErrorKind::Corrupt,
            true,
        ),
        (
            "two ends",
            vec![follows(), piece(first), piece(second), end(), end()],
            ErrorKind::Invalid,
            true,
        ),
        (
            "content behind the end",
            vec![follows(), piece(first), piece(second), end(), piece(b"x")],
            ErrorKind::Invalid,
            true,
        ),
        (
            "an end that was not promised",
            vec![head(1, &content), piece(first), piece(second), end()],
            ErrorKind::Invalid,
            true,
        ),
    ];
    for (case, parts, kind, seen) in cases {
        *store.upload.lock().unwrap() = None;
        let refused = send(server.address, parts).await;
        assert_eq!(refused.kind(), kind, "{case}: {refused}");
        match store.upload() {
            Some(outcome) => assert_eq!(outcome.unwrap_err().kind(), kind, "{case}"),
            None => assert!(!seen, "{case} did not reach the service"),
        }
    }
    assert!(store.content(1).is_none());
    server.stop().await;
}

#[tokio::test]
async fn upload_of_an_earlier_release_is_taken() {
    let store = Store::shared();
    let server = serve(&store).await;
    let content = noise(700_003);
    // Its pieces have one checksum each and end anywhere; its hash is known.
    for (id, step) in [(1, 1000), (2, 100_000), (3, WIRE_FRAME_BYTES)] {
        let known = HeadHash::Known(describe(id, &content).sha256);
        let pieces = content.chunks(step).map(|part| {
            Part::Piece(v1::Piece {
                content: Bytes::copy_from_slice(part),
                crc32c: frame_crc(part),
                frame_crc32c: vec![],
            })
        });
        let parts: Vec<Part> = [head_with(id, &content, known)]
            .into_iter()
            .chain(pieces)
            .collect();
        let messages = parts
            .into_iter()
            .map(|part| v1::WriteChunkRequest { part: Some(part) });
        let mut raw = ChunkClient::new(channel_lazy(&server.address.to_string(), PATIENCE).unwrap());
        raw.write_chunk(stream::iter(messages)).await.unwrap();
        assert!(store.content(id).unwrap() == content, "in steps of {step}");
    }
    server.stop().await;
}

/// A datanode that sends what it is told to.
struct Liar {
    pieces: Vec<Result<v1::Piece, FsError>>,
    ends: bool,
}

#[tonic::async_trait]
impl Chunk for Liar {
    type ReadChunkStream = BoxStream<'static, Result<v1::ReadChunkReply, Status>>;
    async fn write_chunk(
        &self,
        _request: Request<Streaming<v1::WriteChunkRequest>>,
    ) -> Result<Response<v1::WriteChunkReply>, Status> {
        Ok(Response::new(v1::WriteChunkReply {
            receipts: vec![v1::Receipt::default()],
            failures: vec![],
        }))
    }
    async fn read_chunk(
        &self,
        _request: Request<v1::ReadChunkRequest>,
    ) -> Result<Response<Self::ReadChunkStream>, Status> {
        let replies: Vec<_> = self
            .pieces
            .iter()
            .map(|piece| match piece {
                Ok(piece) => Ok(v1::ReadChunkReply {
                    piece: Some(piece.clone()),
                }),
                Err(error) => Err(status::to_status(error)),
            })
            .collect();
        let replies = stream::iter(replies);
        Ok(Response::new(if self.ends {
            replies.boxed()
        } else {
            replies.chain(stream::pending()).boxed()
        }))
    }
    async fn stat_chunk(
        &self,
        _: Request<v1::ChunkRequest>,
    ) -> Result<Response<v1::ChunkDescription>, Status> {
        Ok(Response::new(v1::ChunkDescription::default()))
    }
    async fn stat_chunks(
        &self,
        request: Request<v1::StatChunksRequest>,
    ) -> Result<Response<v1::StatChunksReply>, Status> {
        // One answer, whatever was asked for, about another chunk.
        let asked = request.into_inner().capabilities.remove(0);
        let description = v1::ChunkDescription {
            chunk: vec![7; asked.chunk.len()].into(),
            length: 1,
            sha256: vec![0; 32].into(),
            ..v1::ChunkDescription::default()
        };
        let outcome = Some(v1::chunk_stat::Outcome::Description(description));
        Ok(Response::new(v1::StatChunksReply {
            chunks: vec![v1::ChunkStat { outcome }],
        }))
    }
    async fn delete_chunk(&self, _: Request<v1::ChunkRequest>) -> Result<Response<v1::Empty>, Status> {
        Err(Status::unknown("some proxy's text"))
    }
}

#[tokio::test]
async fn what_a_broken_datanode_sends_is_never_taken_for_content() {
    let whole = piece_to_wire(&Piece::new("0123456789".into()));
    let damaged = v1::Piece {
        crc32c: whole.crc32c ^ 1,
        ..whole.clone()
    };
    let large = v1::Piece {
        content: vec![0; WIRE_FRAME_BYTES + 1].into(),
        ..v1::Piece::default()
    };
    let empty = v1::Piece::default();
    let fails = FsError::new(ErrorKind::Io, "the disk broke");
    let (w, cases) = (Ok(whole.clone()), 7);
    let case = |number: i32| match number {
        0 => (vec![Ok(damaged.clone())], true, ErrorKind::Corrupt),
        1 => (vec![Ok(large.clone())], true, ErrorKind::Invalid),
        2 => (vec![w.clone(), Ok(empty.clone())], true, ErrorKind::Invalid),
        3 => (vec![w.clone()], true, ErrorKind::Corrupt),
        4 => (vec![w.clone(), w.clone(), w.clone()], true, ErrorKind::Corrupt),
        5 => (vec![w.clone()], false, ErrorKind::TimedOut),
        _ => (vec![w.clone(), Err(fails.clone())], true, ErrorKind::Io),
    };
    for number in 0..cases {
        let (pieces, ends, kind) = case(number);
        let service = ChunkServer::new(Liar { pieces, ends });
        let server = Server::start(|routes| {
            routes.add_service(service);
        })
        .await;
        let deadline = Duration::from_millis(200);
        let client = ChunkGrpcClient::connect_lazy(&server.address.to_string(), deadline).unwrap();
        let stream = client
            .read_chunk(permit(1, ChunkAccess::Read), 0, 20)
            .await
            .unwrap();
        let received: Vec<_> = stream.collect().await;
        let error = received.last().unwrap().as_ref().unwrap_err();
        assert_eq!(error.kind(), kind, "case {number}: {error}");
        let content: usize = received.iter().flatten().map(Piece::len).sum();
        assert!(content <= 20, "case {number}");

        let written = client.write_chunk(write(1, &noise(10), 10)).await.unwrap_err();
        assert_eq!(written.kind(), ErrorKind::Invalid, "{written}");
        let described = client.stat_chunk(permit(1, ChunkAccess::Read)).await.unwrap_err();
        assert_eq!(described.kind(), ErrorKind::Invalid, "{described}");
        for (asked, why) in [(1, "another chunk"), (2, "not every chunk")] {
            let asked = vec![permit(1, ChunkAccess::Read); asked];
            let described = client.stat_chunks(asked).await.unwrap_err();
            assert_eq!(described.kind(), ErrorKind::Invalid, "{described}");
            assert!(described.message().contains(why), "{described}");
        }
        let deleted = client
            .delete_chunk(permit(1, ChunkAccess::Delete))
            .await
            .unwrap_err();
        assert_eq!(deleted.kind(), ErrorKind::Io, "{deleted}");
        drop(client);
        server.stop().await;
    }
}

#[tokio::test]
async fn reads_without_capability_are_refused() {
    let store = Store::shared();
    let server = serve(&store).await;
    let mut raw = ChunkClient::new(channel_lazy(&server.address.to_string(), PATIENCE).unwrap());
    let nothing = v1::ReadChunkRequest::default();
    let refused = status::from_status(&raw.read_chunk(nothing).await.unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let far = v1::ReadChunkRequest {
        capability: Some(chunk_capability_to_wire(&permit(1, ChunkAccess::Read))),
        offset: 1,
        length: CHUNK_BYTES_MAX,
    };
    let refused = status::from_status(&raw.read_chunk(far).await.unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let refused = raw.delete_chunk(v1::ChunkRequest { capability: None }).await;
    assert_eq!(
        status::from_status(&refused.unwrap_err()).kind(),
        ErrorKind::Invalid
    );
    drop(raw);
    server.stop().await;
}
