//! The frame: what travels on a framed connection, and how it is cut out of a byte stream.
//!
//! ```text
//! u32 length of the rest | u64 call | u16 method | u8 kind | payload (a protobuf message)
//! ```
//!
//! Numbers are little-endian. The payload of a request or a reply is the message that gRPC would carry, of an error a
//! `dfs.v1.Error`. Each side first sends [`PREFACE`]. Nothing is allocated before its length is known to be within
//! [`MESSAGE_BYTES_MAX`].

use bytes::{Buf, Bytes, BytesMut};
use dfs_common::limits::MESSAGE_BYTES_MAX;
use dfs_common::{ErrorKind, FsError, FsResult};

/// First bytes of each direction: `DFS`, the version of the framing, four bytes for later use.
pub const PREFACE: [u8; 8] = *b"DFS\x01\0\0\0\0";
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
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            FrameKind::Request => 1,
            FrameKind::Reply => 2,
            FrameKind::Error => 3,
            FrameKind::Ping => 4,
            FrameKind::Pong => 5,
        }
    }
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => FrameKind::Request,
            2 => FrameKind::Reply,
            3 => FrameKind::Error,
            4 => FrameKind::Ping,
            5 => FrameKind::Pong,
            _ => return None,
        })
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
    /// Encoded message; at most [`MESSAGE_BYTES_MAX`].
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
        let length = (HEADER_REST_BYTES + self.payload.len()) as u32;
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..12].copy_from_slice(&self.call.to_le_bytes());
        header[12..14].copy_from_slice(&self.method.to_le_bytes());
        header[14] = self.kind.code();
        Ok(header)
    }

    /// Takes the first whole frame out of `buffer`; `None` if more bytes are needed.
    ///
    /// # Errors
    /// `Invalid` if the bytes are no frame: the connection is of no further use.
    pub fn take(buffer: &mut BytesMut) -> FsResult<Option<Frame>> {
        let Some(length) = buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if !(HEADER_REST_BYTES..=HEADER_REST_BYTES + MESSAGE_BYTES_MAX).contains(&length) {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!("a frame of {length} bytes is out of bounds: the peer speaks another protocol"),
            ));
        }
        if buffer.len() < 4 + length {
            buffer.reserve(4 + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(4);
        let mut frame = buffer.split_to(length);
        let call = frame.get_u64_le();
        let method = frame.get_u16_le();
        let kind = frame.get_u8();
        let kind = FrameKind::from_code(kind)
            .ok_or_else(|| FsError::new(ErrorKind::Invalid, format!("frame kind {kind} is unknown")))?;
        Ok(Some(Frame {
            call,
            method,
            kind,
            payload: frame.freeze(),
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
