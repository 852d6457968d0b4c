//! The frame: what travels on a framed connection, and how it is cut out of a byte stream.
//!
//! ```text
//! u32 length of the rest | u64 call | u16 method | u8 kind | payload
//! ```
//!
//! Numbers are little-endian. The payload of a request or a reply is the message that gRPC would carry, of an error a
//! `dfs.v1.Error`, of a piece of content its checksums (u32 for each 64 KiB) and its bytes. Each side first sends its [`preface`]. Nothing
//! is allocated before its length is known to be within [`MESSAGE_BYTES_MAX`].

use bytes::{Buf, Bytes, BytesMut};
use dfs_common::limits::MESSAGE_BYTES_MAX;
use dfs_common::{ErrorKind, FsError, FsResult};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Calls, many at a time.
    Metadata = 0,
    /// Transfers of chunks, one at a time.
    Chunks = 1,
    /// Nothing but its own end, which says that a client's process is gone.
    Lifeline = 2,
}

/// Length of a [`preface`].
pub const PREFACE_BYTES: usize = 8;

/// First bytes of each direction: `DFS`, the version of the framing, what the connection is for, three bytes for later use.
pub const fn preface(service: Service) -> [u8; PREFACE_BYTES] {
    [b'D', b'F', b'S', 1, service as u8, 0, 0, 0]
}

/// Length field and header.
pub const HEADER_BYTES: usize = 4 + HEADER_REST_BYTES;
/// What the length field counts beside the payload.
const HEADER_REST_BYTES: usize = 8 + 2 + 1;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Asks for a method.
    Request,
    /// Its reply.
    Reply,
    /// Its failure.
    Error,
    /// Are you there?
    Ping,
    /// Yes.
    Pong,
    /// A piece of content.
    Data,
    /// The end of content.
    End,
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            FrameKind::Request => 1,
            FrameKind::Reply => 2,
            FrameKind::Error => 3,
            FrameKind::Ping => 4,
            FrameKind::Pong => 5,
            FrameKind::Data => 6,
            FrameKind::End => 7,
        }
    }
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => FrameKind::Request,
            2 => FrameKind::Reply,
            3 => FrameKind::Error,
            4 => FrameKind::Ping,
            5 => FrameKind::Pong,
            6 => FrameKind::Data,
            7 => FrameKind::End,
            _ => return None,
        })
    }
}

/// What stands before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the call on its connection; a reply has its request's.
    pub call: u64,
    /// Number of the method; a reply repeats it.
    pub method: u16,
    /// What the frame is.
    pub kind: FrameKind,
    /// Length of the payload; at most [`MESSAGE_BYTES_MAX`].
    pub payload: usize,
}

impl Header {
    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let length = (HEADER_REST_BYTES + self.payload) as u32;
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..12].copy_from_slice(&self.call.to_le_bytes());
        header[12..14].copy_from_slice(&self.method.to_le_bytes());
        header[14] = self.kind.code();
        header
    }

    /// The inverse.
    ///
    /// # Errors
    /// `Invalid` if the bytes are no header: the connection is of no further use.
    pub fn decode(header: &[u8; HEADER_BYTES]) -> FsResult<Self> {
        let (length, mut rest) = header.split_at(4);
        let length = u32::from_le_bytes(length.try_into().expect("4 bytes")) as usize;
        let payload = payload_bytes(length)?;
        let call = rest.get_u64_le();
        let method = rest.get_u16_le();
        let kind = rest.get_u8();
        let kind = FrameKind::from_code(kind)
            .ok_or_else(|| FsError::new(ErrorKind::Invalid, format!("frame kind {kind} is unknown")))?;
        Ok(Header {
            call,
            method,
            kind,
            payload,
        })
    }
}

/// What a length field leaves for the payload.
fn payload_bytes(length: usize) -> FsResult<usize> {
    match length.checked_sub(HEADER_REST_BYTES) {
        Some(payload) if payload <= MESSAGE_BYTES_MAX => Ok(payload),
        _ => Err(FsError::new(
            ErrorKind::Invalid,
            format!("a frame of {length} bytes is out of bounds: the peer speaks another protocol"),
        )),
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Number of the call on its connection; a reply has its request's.
    pub call: u64,
    /// Number of the method; a reply repeats it.
    pub method: u16,
    /// What it is.
    pub kind: FrameKind,
    /// At most [`MESSAGE_BYTES_MAX`].
    pub payload: Bytes,
}

impl Frame {
    /// A frame without a payload.
    pub fn signal(kind: FrameKind) -> Self {
        Frame {
            call: 0,
            method: 0,
            kind,
            payload: Bytes::new(),
        }
    }

    /// Everything before the payload.
    ///
    /// # Errors
    /// `TooBig` if the payload is above [`MESSAGE_BYTES_MAX`].
    pub fn header(&self) -> FsResult<[u8; HEADER_BYTES]> {
        if self.payload.len() > MESSAGE_BYTES_MAX {
            return Err(FsError::new(
                ErrorKind::TooBig,
                format!(
                    "a message has {} bytes, at most {MESSAGE_BYTES_MAX} travel at once: send less",
                    self.payload.len()
                ),
            ));
        }
        Ok(Header {
            call: self.call,
            method: self.method,
            kind: self.kind,
            payload: self.payload.len(),
        }
        .encode())
    }

    /// Takes the first whole frame out of `buffer`; `None` if more bytes are needed.
    ///
    /// # Errors
    /// `Invalid` if the bytes are no frame: the connection is of no further use.
    pub fn take(buffer: &mut BytesMut) -> FsResult<Option<Frame>> {
        let Some(length) = buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let bytes = HEADER_BYTES + payload_bytes(u32::from_le_bytes(*length) as usize)?;
        if buffer.len() < bytes {
            buffer.reserve(bytes - buffer.len());
            return Ok(None);
        }
        let mut payload = buffer.split_to(bytes);
        let header = payload.split_to(HEADER_BYTES);
        let header = Header::decode(header[..].try_into().expect("a header's bytes"))?;
        Ok(Some(Frame {
            call: header.call,
            method: header.method,
            kind: header.kind,
            payload: payload.freeze(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(frame: &Frame) -> Vec<u8> {
        [&frame.header().unwrap()[..], &frame.payload].concat()
    }

    #[test]
    fn frame_is_cut_out_at_any_split() {
        let frames = [
            Frame {
                call: u64::MAX,
                method: 9,
                kind: FrameKind::Request,
                payload: Bytes::from_static(b"abc"),
            },
            Frame::signal(FrameKind::Ping),
            Frame {
                call: 7,
                method: 1,
                kind: FrameKind::Error,
                payload: Bytes::from(vec![5; 70_000]),
            },
        ];
        let stream: Vec<u8> = frames.iter().flat_map(bytes).collect();
        for split in [1, 2, 14, 15, 16, 1000, stream.len()] {
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for piece in stream.chunks(split) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = Frame::take(&mut buffer).unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn nonsense_is_refused_before_memory_is_taken() {
        for bad in [
            &[0, 0, 0, 0][..],
            &[10, 0, 0, 0],
            &[255, 255, 255, 255],
            b"GET / HTTP/1.1\r\n",
            &[11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 77],
        ] {
            let mut buffer = BytesMut::from(bad);
            assert_eq!(Frame::take(&mut buffer).unwrap_err().kind(), ErrorKind::Invalid);
            assert!(buffer.capacity() < 1 << 16);
        }
        let huge = Frame {
            payload: Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]),
            ..Frame::signal(FrameKind::Request)
        };
        assert_eq!(huge.header().unwrap_err().kind(), ErrorKind::TooBig);
    }
}
