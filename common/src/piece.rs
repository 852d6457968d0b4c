//! Pieces: chunk content on its way, with the CRC-32C of each of its frames beside it.
//!
//! The checksums are computed once, where content enters the system, and go along to the disk, and back. Invariant: a piece is made from
//! bytes whose checksums are computed then, or from bytes and checksums that were found to agree then; whoever has a piece needs no other
//! check, and whoever hands it on hands the same checksums on.

use crate::checksum::{frame_crc, frames_crc};
use crate::error::{ErrorKind, FsError, FsResult};
use crate::limits::{FRAME_BYTES, WIRE_FRAME_BYTES};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream};

/// Frames of the largest piece.
const FRAMES_MAX: usize = WIRE_FRAME_BYTES / FRAME_BYTES;

/// 1 to [`WIRE_FRAME_BYTES`] bytes of a chunk's content and the checksum of each 64 KiB of it, counted from its start; the last frame may
/// be short.
///
/// Pieces of a write are aligned: each but the last is whole frames, so that its frames are those of the chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    content: Bytes,
    checksums: [u32; FRAMES_MAX],
}

impl Piece {
    /// A piece of bytes that have no checksums yet.
    ///
    /// # Panics
    /// If they are none, or more than [`WIRE_FRAME_BYTES`].
    pub fn new(content: Bytes) -> Self {
        assert!(
            (1..=WIRE_FRAME_BYTES).contains(&content.len()),
            "a piece of a chunk has 1 to {WIRE_FRAME_BYTES} bytes"
        );
        let mut checksums = [0; FRAMES_MAX];
        for (checksum, frame) in checksums.iter_mut().zip(content.chunks(FRAME_BYTES)) {
            *checksum = frame_crc(frame);
        }
        Piece { content, checksums }
    }

    /// A piece of bytes that came with their checksums, one per frame; they are compared.
    ///
    /// # Errors
    /// `Invalid` for no bytes, for more than [`WIRE_FRAME_BYTES`], and for another number of checksums than of frames. `Corrupt` if a
    /// frame has another checksum: the message says which, from 0.
    pub fn verified(content: Bytes, checksums: &[u32]) -> FsResult<Self> {
        check_length(content.len())?;
        if checksums.len() != content.len().div_ceil(FRAME_BYTES) {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!(
                    "{} bytes of a chunk have one checksum per {FRAME_BYTES}, not {}",
                    content.len(),
                    checksums.len()
                ),
            ));
        }
        let piece = Piece::new(content);
        let damaged = piece.checksums().iter().zip(checksums).position(|(a, b)| a != b);
        match damaged {
            None => Ok(piece),
            Some(frame) => Err(FsError::new(
                ErrorKind::Corrupt,
                format!("frame {frame} of a piece has another checksum than was computed for it"),
            )),
        }
    }

    /// A piece of bytes that came with one checksum for all.
    ///
    /// # Errors
    /// As [`Piece::verified`].
    pub fn verified_whole(content: Bytes, checksum: u32) -> FsResult<Self> {
        check_length(content.len())?;
        let piece = Piece::new(content);
        match piece.checksum() == checksum {
            true => Ok(piece),
            false => Err(FsError::new(
                ErrorKind::Corrupt,
                "a piece has another checksum than was computed for it",
            )),
        }
    }

    /// The bytes.
    pub fn content(&self) -> &Bytes {
        &self.content
    }

    /// The bytes, without their checksums.
    pub fn into_content(self) -> Bytes {
        self.content
    }

    /// Number of bytes: 1 to [`WIRE_FRAME_BYTES`].
    #[allow(clippy::len_without_is_empty)] // it never is
    pub fn len(&self) -> usize {
        self.content.len()
    }

    /// The CRC-32C of each frame.
    pub fn checksums(&self) -> &[u32] {
        &self.checksums[..self.content.len().div_ceil(FRAME_BYTES)]
    }

    /// The CRC-32C of all bytes, from those of the frames: the content is not looked at.
    pub fn checksum(&self) -> u32 {
        frames_crc(self.checksums(), self.content.len())
    }

    /// More aligned pieces may follow: the last frame is whole.
    pub fn is_whole_frames(&self) -> bool {
        self.content.len().is_multiple_of(FRAME_BYTES)
    }

    /// The part from `from` to before `to`. Frames that are in it as they are keep their checksums.
    ///
    /// # Panics
    /// If there is no such part, or it is empty.
    pub fn slice(&self, from: usize, to: usize) -> Self {
        if (from, to) == (0, self.content.len()) {
            return self.clone();
        }
        let content = self.content.slice(from..to);
        if !from.is_multiple_of(FRAME_BYTES) || content.is_empty() {
            return Piece::new(content);
        }
        let mut checksums = [0; FRAMES_MAX];
        let kept = content.len().div_ceil(FRAME_BYTES);
        checksums[..kept].copy_from_slice(&self.checksums[from / FRAME_BYTES..][..kept]);
        let last = (kept - 1) * FRAME_BYTES;
        if !content.len().is_multiple_of(FRAME_BYTES) && to < self.content.len() {
            checksums[kept - 1] = frame_crc(&content[last..]);
        }
        Piece { content, checksums }
    }
}

fn check_length(length: usize) -> FsResult<()> {
    match (1..=WIRE_FRAME_BYTES).contains(&length) {
        true => Ok(()),
        false => Err(FsError::new(
            ErrorKind::Invalid,
            format!("a piece of a chunk has 1 to {WIRE_FRAME_BYTES} bytes, not {length}"),
        )),
    }
}

/// Makes aligned pieces of bytes that come in parts of any size. Whole frames are not copied; what is between them is, up to a frame.
#[derive(Default)]
pub struct PieceCutter {
    /// The start of a frame, shorter than one.
    start: BytesMut,
    rest: Bytes,
}

impl PieceCutter {
    /// Nothing waits for the next part.
    pub fn is_empty(&self) -> bool {
        self.start.is_empty() && self.rest.is_empty()
    }

    /// Takes the next part. All pieces of the last one must have been taken before.
    pub fn push(&mut self, part: Bytes) {
        debug_assert!(self.rest.is_empty(), "the last part was taken");
        self.rest = part;
    }

    /// The next piece of whole frames; `None` if more content is needed for one.
    pub fn next_piece(&mut self) -> Option<Piece> {
        if self.start.is_empty() && self.rest.len() >= FRAME_BYTES {
            let bytes = self.rest.len().min(WIRE_FRAME_BYTES);
            return Some(Piece::new(self.rest.split_to(bytes - bytes % FRAME_BYTES)));
        }
        if self.is_empty() {
            return None;
        }
        self.start.reserve(FRAME_BYTES - self.start.len());
        let missing = self.rest.len().min(FRAME_BYTES - self.start.len());
        self.start.extend_from_slice(&self.rest.split_to(missing));
        match self.start.len() == FRAME_BYTES {
            true => Some(Piece::new(self.start.split().freeze())),
            false => None,
        }
    }

    /// The last piece, of what fills no frame; `None` if nothing is left.
    pub fn finish(&mut self) -> Option<Piece> {
        match self.start.is_empty() {
            true => None,
            false => Some(Piece::new(self.start.split().freeze())),
        }
    }
}

/// Content in parts of any size as aligned pieces, until the end or the first error.
pub fn pieces(content: BoxStream<'static, FsResult<Bytes>>) -> BoxStream<'static, FsResult<Piece>> {
    stream::unfold(Some((content, PieceCutter::default())), |state| async move {
        let (mut content, mut cutter) = state?;
        loop {
            if let Some(piece) = cutter.next_piece() {
                return Some((Ok(piece), Some((content, cutter))));
            }
            match content.next().await {
                Some(Ok(part)) => cutter.push(part),
                Some(Err(error)) => return Some((Err(error), None)),
                None => return cutter.finish().map(|piece| (Ok(piece), None)),
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(bytes: usize) -> Bytes {
        (0..bytes).map(|at| (at * 31 % 251 + at / 7919) as u8).collect()
    }

    const SIZES: [usize; 8] = [
        1,
        4096,
        FRAME_BYTES - 1,
        FRAME_BYTES,
        FRAME_BYTES + 1,
        3 * FRAME_BYTES,
        WIRE_FRAME_BYTES - 1,
        WIRE_FRAME_BYTES,
    ];

    #[test]
    fn checksums_are_those_of_the_frames_and_of_the_whole() {
        for size in SIZES {
            let piece = Piece::new(content(size));
            let expected: Vec<u32> = content(size).chunks(FRAME_BYTES).map(frame_crc).collect();
            assert_eq!(piece.checksums(), expected);
            assert_eq!(piece.checksum(), frame_crc(&content(size)), "{size} bytes");
            assert_eq!(Piece::verified(content(size), &expected).unwrap(), piece);
            assert_eq!(
                Piece::verified_whole(content(size), piece.checksum()).unwrap(),
                piece
            );
        }
    }

    #[test]
    fn any_flipped_bit_is_found() {
        for size in SIZES {
            let piece = Piece::new(content(size));
            for at in [0, size / 2, size - 1] {
                let mut damaged = content(size).to_vec();
                damaged[at] ^= 0x10;
                let damaged = Bytes::from(damaged);
                for result in [
                    Piece::verified(damaged.clone(), piece.checksums()),
                    Piece::verified_whole(damaged.clone(), piece.checksum()),
                ] {
                    assert_eq!(
                        result.unwrap_err().kind(),
                        ErrorKind::Corrupt,
                        "byte {at} of {size}"
                    );
                }
            }
            for index in 0..piece.checksums().len() {
                let mut checksums = piece.checksums().to_vec();
                checksums[index] ^= 1;
                let error = Piece::verified(content(size), &checksums).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
        }
    }

    #[test]
    fn impossible_sizes_and_numbers_of_checksums_are_refused() {
        let refused = |result: FsResult<Piece>| assert_eq!(result.unwrap_err().kind(), ErrorKind::Invalid);
        refused(Piece::verified(Bytes::new(), &[]));
        refused(Piece::verified(Bytes::new(), &[0]));
        refused(Piece::verified_whole(Bytes::new(), 0));
        refused(Piece::verified(content(WIRE_FRAME_BYTES + 1), &[0; 5]));
        refused(Piece::verified_whole(content(WIRE_FRAME_BYTES + 1), 0));
        refused(Piece::verified(content(100), &[]));
        refused(Piece::verified(content(100), &[0; 2]));
        refused(Piece::verified(content(WIRE_FRAME_BYTES), &[0; 1000]));
    }

    #[test]
    fn slices_have_the_checksums_of_their_bytes() {
        let frame = FRAME_BYTES;
        for size in [frame + 77, WIRE_FRAME_BYTES] {
            let piece = Piece::new(content(size));
            for (from, to) in [
                (0, size),
                (0, 1),
                (0, frame),
                (0, frame + 1),
                (1, size),
                (frame, size),
                (frame, frame + 50),
                (frame - 1, frame + 1),
                (size - 1, size),
            ] {
                let slice = piece.slice(from, to);
                assert_eq!(slice, Piece::new(content(size).slice(from..to)), "{from} to {to}");
            }
        }
    }

    #[tokio::test]
    async fn parts_of_any_size_become_aligned_pieces() {
        let whole = content(5 * FRAME_BYTES + 4097);
        let steps = [
            1000,
            4096,
            50_001,
            FRAME_BYTES,
            2 * FRAME_BYTES + 1,
            WIRE_FRAME_BYTES,
            1 << 20,
        ];
        for step in steps {
            let parts: Vec<_> = whole.chunks(step).map(|part| Ok(whole.slice_ref(part))).collect();
            let cut: Vec<_> = pieces(stream::iter(parts).boxed()).collect().await;
            let cut: Vec<Piece> = cut.into_iter().collect::<FsResult<_>>().unwrap();
            let (last, others) = cut.split_last().unwrap();
            assert!(others.iter().all(Piece::is_whole_frames), "parts of {step}");
            assert_eq!(last.len() % FRAME_BYTES, 4097);
            let joined: Vec<u8> = cut.iter().flat_map(|piece| piece.content().to_vec()).collect();
            assert!(joined == whole, "parts of {step}");
            let checksums: Vec<u32> = cut.iter().flat_map(|piece| piece.checksums().to_vec()).collect();
            let expected: Vec<u32> = whole.chunks(FRAME_BYTES).map(frame_crc).collect();
            assert_eq!(checksums, expected);
        }
        let aligned = content(WIRE_FRAME_BYTES);
        let cut: Vec<_> = pieces(stream::iter([Ok(aligned.clone())]).boxed())
            .collect()
            .await;
        let piece = cut[0].as_ref().unwrap();
        assert_eq!(piece.content().as_ptr(), aligned.as_ptr(), "it is not copied");
        let failing = stream::iter([Ok(content(10)), Err(ErrorKind::Interrupted.into())]).boxed();
        let cut: Vec<_> = pieces(failing).collect().await;
        assert_eq!(cut.len(), 1);
        assert!(cut[0].is_err(), "what was cut short is no piece");
    }
}
