//! Every type survives the wire: value → message → bytes → message → value.

#![allow(clippy::unwrap_used)] // a test may fail

mod strategies;

use dfs_common::ErrorKind;
use dfs_common::FsError;
use dfs_common::capability::Voucher;
use dfs_common::limits::ERROR_MESSAGE_BYTES_MAX;
use dfs_common::piece::Piece;
use dfs_common::service::VouchedHash;
use dfs_proto::convert::*;
use dfs_proto::{status, v1};
use proptest::prelude::*;
use prost::Message;
use strategies as any_of;

/// What the peer decodes of what is sent.
fn sent<M: Message + Default>(message: &M) -> M {
    M::decode(&message.encode_to_vec()[..]).expect("a message decodes its own bytes")
}

macro_rules! round_trips {
    ($($test:ident: $strategy:expr => $to:ident, $from:ident;)+) => {
        proptest! {
            #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]
            $(#[test]
            fn $test(value in $strategy) {
                prop_assert_eq!($from(sent(&$to(&value))).expect("it was within its bounds"), value);
            })+
        }
    };
}

round_trips! {
    timestamp: any_of::timestamp() => timestamp_to_wire, timestamp_from_wire;
    attr: any_of::attr() => attr_to_wire, attr_from_wire;
    entry: any_of::entry() => entry_to_wire, entry_from_wire;
    dir_entry: any_of::dir_entry() => dir_entry_to_wire, dir_entry_from_wire;
    dir_page: any_of::dir_page() => dir_page_to_wire, dir_page_from_wire;
    tree_usage: any_of::tree_usage() => tree_usage_to_wire, tree_usage_from_wire;
    quota_entry: any_of::quota_entry() => quota_entry_to_wire, quota_entry_from_wire;
    statfs: any_of::statfs() => statfs_to_wire, statfs_from_wire;
    extent: any_of::extent_from(7) => extent_to_wire, extent_from_wire;
    extent_page: any_of::extent_page() => extent_page_to_wire, extent_page_from_wire;
    extents_asked_for: any_of::extents_asked_for() => extents_to_wire, extents_from_wire;
    opened: any_of::opened() => opened_to_wire, opened_from_wire;
    receipt: any_of::receipt() => receipt_to_wire, receipt_from_wire;
    committed_chunk: any_of::committed_chunk() => committed_chunk_to_wire, committed_chunk_from_wire;
    chunk_capability: any_of::capability() => chunk_capability_to_wire, chunk_capability_from_wire;
    chunk_description: any_of::description() => chunk_description_to_wire, chunk_description_from_wire;
    chunk_written: any_of::chunk_written() => chunk_written_to_wire, chunk_written_from_wire;
    node_info: any_of::node_info() => node_info_to_wire, node_info_from_wire;
    placement_group: any_of::placement_group() => placement_group_to_wire, placement_group_from_wire;
    cluster_update: any_of::cluster_update() => cluster_update_to_wire, cluster_update_from_wire;
    identity: any_of::identity() => identity_to_wire, identity_from_wire;
    caller: any_of::caller() => caller_to_wire, caller_from_wire;
    open_session: any_of::open_session() => open_session_to_wire, open_session_from_wire;
    session_grant: any_of::session_grant() => session_grant_to_wire, session_grant_from_wire;
    mutation_batch: any_of::mutation_batch() => mutation_batch_to_wire, mutation_batch_from_wire;
    found: any_of::found() => found_to_wire, found_from_wire;
    mutated: any_of::mutated() => mutated_to_wire, mutated_from_wire;
    recall_page: any_of::recall_page() => recall_page_to_wire, recall_page_from_wire;
    lock: any_of::lock_spec() => lock_to_wire, lock_from_wire;
    lock_ticket: any_of::lock_ticket() => lock_ticket_to_wire, lock_ticket_from_wire;
    held_lock: any_of::held_lock() => held_lock_to_wire, held_lock_from_wire;
    op_result: any_of::op_result() => op_result_to_wire, op_result_from_wire;
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn created((entry, existed) in (any_of::entry(), any::<bool>())) {
        let received = created_from_wire(sent(&created_to_wire(&entry, existed))).expect("it was within its bounds");
        prop_assert_eq!(received, (entry, existed));
    }

    #[test]
    fn error_in_a_reply_and_as_status(error in any_of::error()) {
        prop_assert_eq!(&error_from_wire(sent(&error_to_wire(&error))), &error);
        prop_assert_eq!(&status::from_status(&status::to_status(&error)), &error);
    }

    #[test]
    fn write_chunk_head(
        (description, capability, forward, hash) in
            (any_of::description(), any_of::capability(), prop::collection::vec(any_of::address(), 0..=8), 0..3)
    ) {
        let hash = [HeadHash::Computed, HeadHash::Known(description.sha256), HeadHash::Follows][hash as usize];
        let forward = if hash == HeadHash::Follows { vec![] } else { forward };
        let head = WriteChunkHead { label: description.label(), hash, capability, forward };
        let received = write_chunk_head_from_wire(sent(&write_chunk_head_to_wire(&head)));
        prop_assert_eq!(received.expect("it was within its bounds"), head);
    }

    #[test]
    fn write_chunk_end((sha256, voucher) in any::<([u8; 32], [u8; 16])>()) {
        let vouched = VouchedHash { sha256, voucher: Voucher(voucher) };
        let received = vouched_hash_from_wire(sent(&vouched_hash_to_wire(&vouched)));
        prop_assert_eq!(received.expect("it was within its bounds"), vouched);
    }

    #[test]
    fn piece(content in prop::collection::vec(any::<u8>(), 1..10_000)) {
        let piece = Piece::new(content.into());
        let received = piece_from_wire(sent(&piece_to_wire(&piece)));
        prop_assert_eq!(received.expect("it was whole"), piece);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = v1::MutateRequest::decode(&bytes[..]).map(mutation_batch_from_wire);
        let _ = v1::MutateReply::decode(&bytes[..]).map(mutated_from_wire);
        let _ = v1::RecallsReply::decode(&bytes[..]).map(recall_page_from_wire);
        let _ = v1::ClusterUpdate::decode(&bytes[..]).map(cluster_update_from_wire);
        let _ = v1::OpenReply::decode(&bytes[..]).map(opened_from_wire);
        let _ = v1::ReaddirReply::decode(&bytes[..]).map(dir_page_from_wire);
        let _ = v1::WriteChunkHeader::decode(&bytes[..]).map(write_chunk_head_from_wire);
        let _ = v1::WriteChunkEnd::decode(&bytes[..]).map(vouched_hash_from_wire);
        let _ = v1::WriteChunkReply::decode(&bytes[..]).map(chunk_written_from_wire);
        let _ = v1::OpenSessionRequest::decode(&bytes[..]).map(open_session_from_wire);
        let _ = v1::LockRequest::decode(&bytes[..]).map(|request| request.lock.map(lock_from_wire));
        let _ = v1::LockTicket::decode(&bytes[..]).map(lock_ticket_from_wire);
        let _ = v1::TestLockReply::decode(&bytes[..]).map(|reply| reply.held.map(held_lock_from_wire));
        let _ = v1::OpenSessionReply::decode(&bytes[..]).map(session_grant_from_wire);
    }
}

#[test]
fn every_error_kind_survives_both_ways() {
    for kind in ErrorKind::ALL {
        let error = FsError::new(*kind, "näheres: say what to do");
        assert_eq!(status::from_status(&status::to_status(&error)), error);
        assert_eq!(error_from_wire(error_to_wire(&error)), error);
    }
}

#[test]
fn long_error_text_is_cut_between_characters() {
    let error = FsError::new(ErrorKind::NoSpace, "ä€".repeat(2 * ERROR_MESSAGE_BYTES_MAX));
    for received in [
        error_from_wire(error_to_wire(&error)),
        status::from_status(&status::to_status(&error)),
        error_from_wire(v1::Error {
            kind: ErrorKind::NoSpace as u32,
            message: error.message().to_string(),
        }),
    ] {
        assert_eq!(received.kind(), ErrorKind::NoSpace);
        let length = received.message().len();
        assert!((ERROR_MESSAGE_BYTES_MAX - 3..=ERROR_MESSAGE_BYTES_MAX).contains(&length));
        assert!(error.message().starts_with(received.message()));
    }
}

#[test]
fn error_kind_of_a_newer_release_is_an_io_error() {
    let received = error_from_wire(v1::Error {
        kind: 4711,
        message: "news".to_string(),
    });
    assert_eq!((received.kind(), received.message()), (ErrorKind::Io, "news"));
}
