//! What framed peers that are broken or hostile send. Frames are put together here by hand: their layout is a contract.

use crate::kit::*;
use crate::loopback::{PATIENCE, until};
use dfs_common::capability::ChunkAccess;
use dfs_common::checksum::frame_crc;
use dfs_common::limits::{CHUNK_BYTES_MAX, FRAME_BYTES, WIRE_FRAME_BYTES};
use dfs_common::piece::Piece;
use dfs_common::{ErrorKind, FsError};
use dfs_proto::Transport;
use dfs_proto::convert::{
    HeadHash, WriteChunkHead, chunk_capability_to_wire, error_from_wire, error_to_wire, vouched_hash_to_wire,
    write_chunk_head_to_wire,
};
use dfs_proto::v1;
use futures::StreamExt;
use prost::Message;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PREFACE: &[u8; 8] = b"DFS\x01\x01\0\0\0";
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ERROR: u8 = 3;
const PING: u8 = 4;
const DATA: u8 = 6;
const END: u8 = 7;
const WRITE: u16 = 1;
const READ: u16 = 2;
const DELETE: u16 = 4;

fn frame(kind: u8, method: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = ((payload.len() + 11) as u32).to_le_bytes().to_vec();
    frame.extend([0; 8]);
    frame.extend(method.to_le_bytes());
    frame.push(kind);
    frame.extend(payload);
    frame
}

fn head(id: u64, content: &[u8], hash: HeadHash) -> Vec<u8> {
    let head = WriteChunkHead {
        label: describe(id, content).label(),
        hash,
        capability: permit(id, ChunkAccess::Write),
        forward: vec![],
    };
    frame(REQUEST, WRITE, &write_chunk_head_to_wire(&head).encode_to_vec())
}

fn data(content: &[u8]) -> Vec<u8> {
    let mut payload: Vec<u8> = content
        .chunks(FRAME_BYTES)
        .flat_map(|part| frame_crc(part).to_le_bytes())
        .collect();
    payload.extend(content);
    frame(DATA, 0, &payload)
}

/// One frame's kind and payload; `None` if the peer closed.
async fn receive(socket: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 15];
    let receiving = async {
        socket.read_exact(&mut header).await.ok()?;
        let length = u32::from_le_bytes(header[..4].try_into().unwrap()) as usize;
        let mut payload = vec![0; length - 11];
        socket.read_exact(&mut payload).await.ok()?;
        Some((header[14], payload))
    };
    tokio::time::timeout(PATIENCE, receiving).await.unwrap()
}

async fn connect(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(PREFACE).await.unwrap();
    let mut preface = [0; 8];
    socket.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, PREFACE);
    socket
}

fn error(answer: Option<(u8, Vec<u8>)>) -> FsError {
    let (kind, payload) = answer.expect("an error is told");
    assert_eq!(kind, ERROR);
    error_from_wire(v1::Error::decode(&payload[..]).unwrap())
}

/// Waits for the peer to close.
async fn closed(socket: &mut TcpStream) {
    while receive(socket).await.is_some() {}
}

#[tokio::test]
async fn malformed_uploads_are_refused_and_never_look_whole() {
    let store = Store::shared();
    let server = serve(&store).await;
    let content = noise(100_000);
    let whole = || data(&content);
    let computed = || head(1, &content, HeadHash::Computed);
    let follows = || head(1, &content, HeadHash::Follows);
    let end = || frame(END, WRITE, &[]);
    let hash = || frame(END, WRITE, &vouched_hash_to_wire(&VOUCHED).encode_to_vec());
    let mut damaged = whole();
    damaged[15 + 8 + 77] ^= 1;
    let mut other_checksum = whole();
    other_checksum[15] ^= 1;
    let cases: Vec<(&str, Vec<Vec<u8>>, ErrorKind)> = vec![
        (
            "no head",
            vec![frame(REQUEST, WRITE, b"\xff\xff"), whole(), end()],
            ErrorKind::Invalid,
        ),
        (
            "an empty head",
            vec![frame(REQUEST, WRITE, &[]), whole(), end()],
            ErrorKind::Invalid,
        ),
        ("two heads", vec![computed(), computed()], ErrorKind::Invalid),
        (
            "a ping",
            vec![computed(), frame(PING, 0, &[])],
            ErrorKind::Invalid,
        ),
        (
            "a flipped bit",
            vec![computed(), damaged, end()],
            ErrorKind::Corrupt,
        ),
        (
            "another checksum",
            vec![computed(), other_checksum, end()],
            ErrorKind::Corrupt,
        ),
        (
            "less",
            vec![computed(), data(&content[..FRAME_BYTES]), end()],
            ErrorKind::Corrupt,
        ),
        ("nothing", vec![computed(), end()], ErrorKind::Corrupt),
        (
            "more",
            vec![computed(), whole(), data(b"x"), end()],
            ErrorKind::Corrupt,
        ),
        (
            "parts of frames",
            vec![computed(), data(&content[..10]), data(&content[10..]), end()],
            ErrorKind::Invalid,
        ),
        (
            "no content in a piece",
            vec![computed(), frame(DATA, 0, &[])],
            ErrorKind::Invalid,
        ),
        (
            "checksums without content",
            vec![computed(), frame(DATA, 0, &[0; 4])],
            ErrorKind::Invalid,
        ),
        (
            "a piece that is too large",
            vec![computed(), frame(DATA, 0, &vec![0; WIRE_FRAME_BYTES + 21])],
            ErrorKind::Invalid,
        ),
        (
            "a message that is too large",
            vec![computed(), frame(END, 0, &vec![0; (64 << 10) + 1])],
            ErrorKind::Invalid,
        ),
        (
            "a length out of bounds",
            vec![computed(), vec![255; 15]],
            ErrorKind::Invalid,
        ),
        ("no hash", vec![follows(), whole(), end()], ErrorKind::Corrupt),
        (
            "a hash too many",
            vec![computed(), whole(), hash()],
            ErrorKind::Invalid,
        ),
        (
            "half a hash",
            vec![follows(), whole(), frame(END, WRITE, &[10, 1, 7])],
            ErrorKind::Invalid,
        ),
    ];
    for (case, frames, kind) in cases {
        *store.upload.lock().unwrap() = None;
        let mut socket = connect(server.address).await;
        for frame in frames {
            // It may be refused before all was sent.
            if socket.write_all(&frame).await.is_err() {
                break;
            }
        }
        let refused = error(receive(&mut socket).await);
        assert_eq!(refused.kind(), kind, "{case}: {refused}");
        drop(socket);
        assert!(store.content(1).is_none(), "{case} looked whole");
    }
    // What was cut short says nothing, and is not whole either.
    let mut half = whole();
    half.truncate(50_000);
    for frames in [
        vec![computed()],
        vec![computed(), half],
        vec![computed(), whole()],
        vec![follows(), whole()],
    ] {
        *store.upload.lock().unwrap() = None;
        let mut socket = connect(server.address).await;
        for frame in frames {
            socket.write_all(&frame).await.unwrap();
        }
        drop(socket);
        until("the service sees the upload fail", || store.upload().is_some()).await;
        assert!(store.upload().unwrap().is_err());
        assert!(store.content(1).is_none());
    }
    // The same connection, again and again, as long as everything is in order.
    let mut socket = connect(server.address).await;
    for _ in 0..3 {
        for frame in [follows(), whole(), hash()] {
            socket.write_all(&frame).await.unwrap();
        }
        let (kind, _) = receive(&mut socket).await.unwrap();
        assert_eq!(kind, REPLY);
        assert!(store.content(1).unwrap() == content);
    }
    drop(socket);
    server.stop().await;
}

#[tokio::test]
async fn strangers_and_bad_requests_are_turned_away() {
    let store = Store::shared();
    store.put(1, noise(10));
    let server = serve(&store).await;
    for greeting in [
        &b"DFS\x01\0\0\0\0"[..],
        b"DFS\x02\x01\0\0\0",
        b"DELETE / HTTP/1.1\r\n",
    ] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(greeting).await.unwrap();
        closed(&mut socket).await;
    }
    for first in [
        frame(PING, 0, &[]),
        data(b"content"),
        frame(END, WRITE, &[]),
        vec![1; 15],
    ] {
        let mut socket = connect(server.address).await;
        socket.write_all(&first).await.unwrap();
        closed(&mut socket).await;
    }
    let far = v1::ReadChunkRequest {
        capability: Some(chunk_capability_to_wire(&permit(1, ChunkAccess::Read))),
        offset: 1,
        length: CHUNK_BYTES_MAX,
    };
    let mut socket = connect(server.address).await;
    for (method, payload, kind) in [
        (99, vec![], ErrorKind::UnknownVersion),
        (
            READ,
            v1::ReadChunkRequest::default().encode_to_vec(),
            ErrorKind::Invalid,
        ),
        (READ, far.encode_to_vec(), ErrorKind::Invalid),
        (READ, vec![255; 9], ErrorKind::Invalid),
        (DELETE, vec![], ErrorKind::Invalid),
    ] {
        socket.write_all(&frame(REQUEST, method, &payload)).await.unwrap();
        let refused = error(receive(&mut socket).await);
        assert_eq!(refused.kind(), kind, "{refused}");
    }
    drop(socket);
    assert!(store.content(1).is_some());
    server.stop().await;
}

/// Passes connections on and counts them.
async fn counted(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counting = count.clone();
    tokio::spawn(async move {
        loop {
            let (mut from, _) = listener.accept().await.unwrap();
            counting.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut to = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    (address, count)
}

#[tokio::test]
async fn transfers_one_after_the_other_share_a_connection() {
    let store = Store::shared();
    let content = noise(700_000);
    store.put(1, content.clone());
    let server = serve(&store).await;
    let (address, connections) = counted(server.address).await;
    let client = client(Transport::Framed, address, PATIENCE);
    for _ in 0..10 {
        client.write_chunk(write(2, &content, 100_000)).await.unwrap();
        client.stat_chunk(permit(1, ChunkAccess::Read)).await.unwrap();
        let missing = client
            .stat_chunk(permit(99, ChunkAccess::Read))
            .await
            .unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        // A reader that has all its bytes does not ask for more.
        let mut pieces = client
            .read_chunk(permit(1, ChunkAccess::Read), 0, 700_000)
            .await
            .unwrap();
        let mut received = 0;
        while received < content.len() {
            received += pieces.next().await.unwrap().unwrap().len();
        }
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    // One that leaves early takes the connection with it.
    drop(
        client
            .read_chunk(permit(1, ChunkAccess::Read), 0, 700_000)
            .await
            .unwrap(),
    );
    client.stat_chunk(permit(1, ChunkAccess::Read)).await.unwrap();
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    drop(client);
}

/// Answers each connection's request with these bytes, and then closes it or is silent.
async fn liar(answer: Vec<u8>, closes: bool) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut silent = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut preface = [0; 8];
            socket.read_exact(&mut preface).await.unwrap();
            socket.write_all(PREFACE).await.unwrap();
            receive(&mut socket).await;
            socket.write_all(&answer).await.unwrap();
            if closes {
                let _ = socket.shutdown().await;
                closed(&mut socket).await;
            } else {
                silent.push(socket);
            }
        }
    });
    (address, task)
}

#[tokio::test]
async fn what_a_broken_datanode_sends_is_never_taken_for_content() {
    let whole = || data(b"0123456789");
    let end = || frame(END, READ, &[]);
    let fails = || {
        let error = FsError::new(ErrorKind::Io, "the disk broke");
        frame(ERROR, READ, &error_to_wire(&error).encode_to_vec())
    };
    let mut damaged = whole();
    *damaged.last_mut().unwrap() ^= 1;
    let cases = [
        (vec![damaged], true, ErrorKind::Corrupt),
        (
            vec![frame(DATA, 0, &[0; WIRE_FRAME_BYTES + 21])],
            true,
            ErrorKind::Invalid,
        ),
        (vec![whole(), frame(DATA, 0, &[])], true, ErrorKind::Invalid),
        (vec![whole(), end()], true, ErrorKind::Corrupt),
        (vec![whole(), whole(), whole()], true, ErrorKind::Corrupt),
        (vec![whole()], false, ErrorKind::TimedOut),
        (vec![whole()], true, ErrorKind::Unavailable),
        (vec![whole(), whole()], true, ErrorKind::Unavailable),
        (vec![whole(), fails()], true, ErrorKind::Io),
        (vec![whole(), frame(REPLY, READ, &[])], true, ErrorKind::Invalid),
        (
            vec![whole(), frame(ERROR, READ, &[255; 3])],
            true,
            ErrorKind::Invalid,
        ),
        (vec![whole(), vec![255; 15]], true, ErrorKind::Invalid),
    ];
    for (number, (frames, closes, kind)) in cases.into_iter().enumerate() {
        let (address, task) = liar(frames.concat(), closes).await;
        let client = client(Transport::Framed, address, Duration::from_millis(500));
        let received: Vec<_> = match client.read_chunk(permit(1, ChunkAccess::Read), 0, 20).await {
            Ok(stream) => stream.collect().await,
            Err(error) => vec![Err(error)],
        };
        let error = received.last().unwrap().as_ref().unwrap_err();
        assert_eq!(error.kind(), kind, "case {number}: {error}");
        let content: usize = received.iter().flatten().map(Piece::len).sum();
        assert!(content <= 20, "case {number}");
        task.abort();
    }
    for (answer, kind) in [
        (
            frame(REPLY, WRITE, &v1::WriteChunkReply::default().encode_to_vec()),
            ErrorKind::Invalid,
        ),
        (whole(), ErrorKind::Invalid),
        (fails(), ErrorKind::Io),
        (vec![], ErrorKind::Unavailable),
    ] {
        let (address, task) = liar(answer, true).await;
        let client = client(Transport::Framed, address, Duration::from_millis(500));
        // Answered before the content was sent: nothing but an error can be meant.
        let error = client
            .write_chunk(write(1, &noise(20 << 20), WIRE_FRAME_BYTES))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let error = client.stat_chunk(permit(1, ChunkAccess::Read)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        task.abort();
    }
}
