//! Chunk capabilities: what a datanode checks before it serves a chunk.
//!
//! The coordinator signs, with a key that it shares with the datanodes of its cluster, who may do what with one chunk
//! until when. HMAC-SHA-256 (RFC 2104) over the fields in the order of [`ChunkCapability::mac_input`].
//!
//! With the same key a datanode that forwards a chunk vouches for its content to the next one ([`CapabilityKey::vouch`]).

use crate::chunk::ChunkDescription;
use crate::error::{ErrorKind, FsError, FsResult};
use crate::ids::{ChunkId, SessionId};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

/// Kind of access that a capability permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkAccess {
    /// Read or stat the chunk.
    Read,
    /// Write the chunk.
    Write,
    /// Delete the chunk: signed by the coordinator for itself (session 0) only.
    Delete,
}

impl ChunkAccess {
    /// Wire code 1 to 3.
    pub fn code(self) -> u32 {
        match self {
            ChunkAccess::Read => 1,
            ChunkAccess::Write => 2,
            ChunkAccess::Delete => 3,
        }
    }
    /// The inverse of [`ChunkAccess::code`].
    pub fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(ChunkAccess::Read),
            2 => Some(ChunkAccess::Write),
            3 => Some(ChunkAccess::Delete),
            _ => None,
        }
    }
}

/// Permission for one session, one chunk and one kind of access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkCapability {
    /// Session that it was signed for.
    pub session: SessionId,
    /// Chunk.
    pub chunk: ChunkId,
    /// Kind of access.
    pub access: ChunkAccess,
    /// End of validity, milliseconds since 1970 by the coordinator's clock.
    pub expires_unix_ms: u64,
    /// HMAC-SHA-256, truncated to 16 bytes.
    pub mac: [u8; 16],
}

/// A datanode's word to another that it found the whole content of a chunk to have the SHA-256 that it says.
/// HMAC-SHA-256, truncated to 16 bytes. Clients lack the key, so none of them can make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voucher(pub [u8; 16]);

/// Begins what a voucher signs, so that it is never what a capability signs.
const VOUCHER_LABEL: &[u8] = b"dfs chunk voucher 1";

/// Key that coordinator and datanodes share; never leaves the servers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CapabilityKey(pub [u8; 32]);

impl fmt::Debug for CapabilityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CapabilityKey(..)")
    }
}

impl CapabilityKey {
    /// Signs a capability.
    pub fn sign(
        &self,
        session: SessionId,
        chunk: ChunkId,
        access: ChunkAccess,
        expires_unix_ms: u64,
    ) -> ChunkCapability {
        let mut capability = ChunkCapability {
            session,
            chunk,
            access,
            expires_unix_ms,
            mac: [0; 16],
        };
        capability.mac = first_16_bytes(self.mac(&capability));
        capability
    }

    /// Checks that `capability` permits `access` to `chunk` at `now_unix_ms`.
    ///
    /// # Errors
    /// `Unauthenticated` with the reason: other chunk, other access, expired, or a wrong signature.
    pub fn verify(
        &self,
        capability: &ChunkCapability,
        chunk: ChunkId,
        access: ChunkAccess,
        now_unix_ms: u64,
    ) -> FsResult<()> {
        let refuse = |why: &'static str| Err(FsError::new(ErrorKind::Unauthenticated, why));
        if capability.chunk != chunk || capability.access != access {
            return refuse("chunk capability is for another chunk or access");
        }
        if capability.expires_unix_ms < now_unix_ms {
            return refuse("chunk capability expired: ask the coordinator for a new one");
        }
        if self
            .mac(capability)
            .verify_truncated_left(&capability.mac)
            .is_err()
        {
            return refuse("chunk capability has a wrong signature");
        }
        Ok(())
    }

    /// Vouches for the content of the described chunk, in a write that `capability` permits and no other.
    pub fn vouch(&self, capability: &ChunkCapability, description: &ChunkDescription) -> Voucher {
        Voucher(first_16_bytes(self.voucher_mac(capability, description)))
    }

    /// Whether `voucher` was made with this key for this write.
    pub fn is_vouched(
        &self,
        voucher: &Voucher,
        capability: &ChunkCapability,
        description: &ChunkDescription,
    ) -> bool {
        self.voucher_mac(capability, description)
            .verify_truncated_left(&voucher.0)
            .is_ok()
    }

    fn mac(&self, capability: &ChunkCapability) -> Hmac<Sha256> {
        let mut mac = self.keyed();
        mac.update(&capability.mac_input());
        mac
    }

    fn voucher_mac(&self, capability: &ChunkCapability, description: &ChunkDescription) -> Hmac<Sha256> {
        let mut mac = self.keyed();
        mac.update(VOUCHER_LABEL);
        mac.update(&capability.mac);
        mac.update(&description.chunk.to_bytes());
        mac.update(&description.length.to_be_bytes());
        mac.update(&description.sha256);
        mac
    }

    fn keyed(&self) -> Hmac<Sha256> {
        <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0).expect("HMAC takes a key of any length")
    }
}

/// What is kept of a signature; `verify_truncated_left` compares just that.
fn first_16_bytes(mac: Hmac<Sha256>) -> [u8; 16] {
    let mut first = [0; 16];
    first.copy_from_slice(&mac.finalize().into_bytes()[..16]);
    first
}

impl ChunkCapability {
    fn mac_input(&self) -> [u8; 36] {
        let mut input = [0; 36];
        input[..8].copy_from_slice(&self.session.0.to_be_bytes());
        input[8..24].copy_from_slice(&self.chunk.to_bytes());
        input[24..28].copy_from_slice(&self.access.code().to_be_bytes());
        input[28..].copy_from_slice(&self.expires_unix_ms.to_be_bytes());
        input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_holds_for_exactly_what_was_signed() {
        let key = CapabilityKey([7; 32]);
        let chunk = ChunkId(42);
        let good = key.sign(SessionId(3), chunk, ChunkAccess::Read, 1000);
        assert!(key.verify(&good, chunk, ChunkAccess::Read, 1000).is_ok());
        assert!(key.verify(&good, chunk, ChunkAccess::Read, 1001).is_err());
        assert!(key.verify(&good, chunk, ChunkAccess::Write, 1).is_err());
        assert!(key.verify(&good, ChunkId(43), ChunkAccess::Read, 1).is_err());
        assert!(
            CapabilityKey([8; 32])
                .verify(&good, chunk, ChunkAccess::Read, 1)
                .is_err()
        );
        let forged = ChunkCapability {
            expires_unix_ms: 9999,
            ..good
        };
        assert!(key.verify(&forged, chunk, ChunkAccess::Read, 1).is_err());
    }

    #[test]
    fn voucher_holds_for_exactly_one_content_and_one_key() {
        let key = CapabilityKey([7; 32]);
        let chunk = ChunkId(42);
        let capability = key.sign(SessionId(3), chunk, ChunkAccess::Write, 1000);
        let description = ChunkDescription {
            chunk,
            ino: crate::Ino(1),
            file_offset: 0,
            length: 10,
            epoch: crate::SessionEpoch(1),
            sha256: [3; 32],
        };
        let voucher = key.vouch(&capability, &description);
        assert!(key.is_vouched(&voucher, &capability, &description));
        assert_ne!(voucher.0, capability.mac);
        let other = CapabilityKey([8; 32]);
        assert!(!other.is_vouched(&voucher, &capability, &description));
        let later = key.sign(SessionId(3), chunk, ChunkAccess::Write, 1001);
        assert!(!key.is_vouched(&voucher, &later, &description));
        for other in [
            ChunkDescription {
                chunk: ChunkId(43),
                ..description.clone()
            },
            ChunkDescription {
                length: 11,
                ..description.clone()
            },
            ChunkDescription {
                sha256: [4; 32],
                ..description.clone()
            },
        ] {
            assert!(!key.is_vouched(&voucher, &capability, &other), "{other:?}");
        }
    }
}
