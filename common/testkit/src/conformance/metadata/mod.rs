//! What a metadata service promises.

mod attributes;
mod commits;
mod kit;
mod listing;
mod locks;
mod names;
mod open_files;
mod permissions;
mod quotas;
mod renames;
mod sessions;
mod usage;
mod xattrs;

use super::checks;
use dfs_common::service::MetadataService;
use futures::future::BoxFuture;
use kit::Kit;
pub use quotas::{QuotaSetter, quotas};
use std::sync::Arc;

type Check = (&'static str, fn(Kit) -> BoxFuture<'static, ()>);

const CHECKS: &[Check] = checks![Kit:
    attributes::totals_follow_what_is_stored,
    names::made_things_are_found_with_their_attributes,
    names::missing_names_and_wrong_parents_are_told_apart,
    names::existing_names_are_not_made_again,
    names::removing_needs_the_right_call,
    names::hard_links_are_counted,
    names::names_are_any_bytes,
    names::parents_change_with_their_entries,
    renames::rename_replaces_what_is_there,
    renames::rename_refuses_what_does_not_fit,
    renames::exchange_and_noreplace,
    renames::directories_do_not_move_below_themselves,
    renames::two_names_of_one_file_stay,
    attributes::attributes_are_set_one_by_one,
    attributes::owner_changes_drop_set_id_bits,
    attributes::sizes_are_set_by_those_who_may_write,
    permissions::bits_are_enforced_for_every_class,
    permissions::only_owners_change_attributes,
    permissions::sticky_directories_protect_names,
    permissions::set_group_id_directories_give_their_group,
    permissions::opens_are_checked,
    listing::pages_show_each_entry_once_while_the_directory_changes,
    listing::pages_carry_attributes_and_the_parent,
    open_files::removed_files_live_until_the_last_release,
    open_files::replaced_files_can_be_opened_for_a_while,
    open_files::removed_files_are_open_only_to_those_who_had_them,
    open_files::ended_sessions_release_everything,
    open_files::releases_are_counted_and_bounded,
    sessions::operations_are_applied_once,
    sessions::concurrent_retries_are_applied_once,
    sessions::acknowledged_operations_are_refused,
    sessions::batches_are_checked_and_stop_where_told,
    sessions::strangers_are_fenced,
    sessions::closed_sessions_stay_closed,
    sessions::sessions_resume_with_their_identity,
    sessions::cluster_state_comes_whole_and_then_as_changes,
    commits::inline_extents_are_spliced,
    commits::holes_are_not_described_and_truncation_is_final,
    commits::appends_land_at_the_end,
    commits::commits_need_an_open_for_writing,
    commits::malformed_commits_are_refused_whole,
    commits::inline_bytes_are_bounded,
    commits::grants_are_unique_and_signed,
    commits::chunks_need_receipts_of_enough_members,
    commits::chunks_belong_to_one_session_and_one_file,
    commits::freed_chunks_never_come_back,
    commits::long_maps_come_in_pages,
    commits::commits_may_clear_set_id_bits,
    xattrs::attributes_are_set_read_listed_and_removed,
    xattrs::namespaces_have_their_rules,
    xattrs::limits_are_kept,
    locks::exclusive_locks_exclude_and_shared_ones_share,
    locks::styles_know_of_each_other_as_on_linux,
    locks::flock_of_another_kind_gives_up_the_old_one,
    locks::ranges_split_merge_and_are_told,
    locks::waits_are_served_in_order_and_keep_their_place,
    locks::a_poll_ends_with_its_request,
    locks::lock_requests_may_be_sent_again_and_late,
    locks::waits_are_cancelled_whenever_they_arrive,
    locks::deadlocks_are_found_across_files,
    locks::locks_end_with_their_session,
    locks::locks_need_an_open_file_and_outlive_its_release,
    locks::a_session_that_resumes_is_told_what_it_holds,
    locks::lost_messages_neither_leave_nor_take_locks,
    usage::directories_know_what_lies_below_them,
    usage::files_with_several_names_are_counted_once,
];

/// Checks `service`, which has at least as many datanodes as it wants replicas, all up. It may hold other files; the
/// checks work in directories of their own below the root and do not disturb each other.
///
/// # Panics
/// At the first promise that is not kept.
pub async fn metadata(service: Arc<dyn MetadataService>) {
    for (name, check) in CHECKS {
        println!("conformance of metadata: {name}");
        check(Kit::new(service.clone(), name).await).await;
    }
}
