use super::*;
use dfs_common::FileKind;
use dfs_common::attr::Timestamp;

const DIR: Ino = Ino(1);

fn attr(ino: u64, mode: u32) -> Attr {
    Attr {
        ino: Ino(ino),
        generation: 0,
        kind: FileKind::File,
        mode,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        allocated_bytes: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        btime: Timestamp::default(),
        map_version: 0,
    }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes().to_vec()).unwrap()
}

fn cache() -> Arc<LeasedCache> {
    let cache = Arc::new(LeasedCache::default());
    cache.attached(Instant::now() + Duration::from_secs(3600));
    cache
}

fn answer(cache: &LeasedCache, text: &str) -> Option<Option<u64>> {
    match cache.lookup(DIR, &name(text), |_| true) {
        Answer::Unknown => None,
        Answer::Absent => Some(None),
        Answer::Found(attr) => Some(Some(attr.ino.0)),
    }
}

/// A directory with the one name `a`, inode 7.
fn filled() -> Arc<LeasedCache> {
    let cache = cache();
    let stamp = cache.stamp();
    cache.put_attr(stamp, &attr(1, 0o755));
    cache.put_attr(stamp, &attr(7, 0o644));
    cache.put_name(stamp, DIR, &name("a"), Some(Ino(7)));
    cache
}

#[test]
fn known_names_and_attributes_are_answered_while_the_lease_runs() {
    let cache = filled();
    assert_eq!(answer(&cache, "a"), Some(Some(7)));
    assert_eq!(answer(&cache, "b"), None);
    cache.put_name(cache.stamp(), DIR, &name("b"), None);
    assert_eq!(answer(&cache, "b"), Some(None));
    assert!(matches!(
        cache.lookup(DIR, &name("a"), |_| false),
        Answer::Unknown
    ));
    cache.lost();
    assert_eq!(answer(&cache, "a"), None);
    cache.put_attr(cache.stamp(), &attr(7, 0o644));
    assert!(cache.attr(Ino(7)).is_none(), "no stream, no lease");
    let expired = LeasedCache::default();
    expired.attached(Instant::now());
    expired.put_attr(expired.stamp(), &attr(7, 0o644));
    assert!(expired.attr(Ino(7)).is_none());
    expired.extend(Instant::now() + Duration::from_secs(60));
    assert!(expired.attr(Ino(7)).is_some());
}

#[test]
fn kernel_may_answer_what_is_true_now_until_shortly_before_the_lease_ends() {
    let cache = LeasedCache::default();
    let (name, held) = (name("a"), attr(7, 0o644));
    let fill = |cache: &LeasedCache| {
        cache.put_attr(cache.stamp(), &held);
        cache.put_name(cache.stamp(), DIR, &name, Some(Ino(7)));
    };
    let holds = |cache: &LeasedCache| {
        let attr = cache.attr_holds(&held, |_| {});
        (attr, cache.name_holds(DIR, &name, Some(Ino(7))))
    };
    let lease = Duration::from_secs(20);
    cache.attached(Instant::now() + lease);
    assert_eq!(
        holds(&cache),
        (Duration::ZERO, Duration::ZERO),
        "nothing is leased yet"
    );
    fill(&cache);
    let (attr_for, name_for) = holds(&cache);
    assert!(attr_for > Duration::from_secs(10) && attr_for <= lease - KERNEL_MARGIN);
    assert!(name_for > Duration::from_secs(10) && name_for <= lease - KERNEL_MARGIN);
    assert!(
        cache.attr_holds(&attr(7, 0o600), |_| {}).is_zero(),
        "an old answer"
    );
    assert!(
        cache.attr_holds(&held, |attr| attr.size = 1).is_zero(),
        "unsaved writes"
    );
    assert!(cache.name_holds(DIR, &name, None).is_zero());
    cache.recall(&[DIR, Ino(7)]);
    assert_eq!(holds(&cache), (Duration::ZERO, Duration::ZERO));
    fill(&cache);
    cache.lost();
    assert_eq!(holds(&cache), (Duration::ZERO, Duration::ZERO));
    cache.attached(Instant::now() + KERNEL_MARGIN / 2);
    fill(&cache);
    assert_eq!(
        holds(&cache),
        (Duration::ZERO, Duration::ZERO),
        "the lease is about to end"
    );
}

#[test]
fn absence_is_remembered_of_a_directory_leased_before_it_was_asked() {
    let cache = cache();
    let (_, leased) = cache.stamp_leased(DIR);
    assert!(!leased);
    cache.put_attr(cache.stamp(), &attr(1, 0o755));
    let (stamp, leased) = cache.stamp_leased(DIR);
    assert!(leased);
    cache.put_absent(stamp, DIR, &name("a"));
    assert_eq!(answer(&cache, "a"), Some(None));
    cache.recall(&[DIR]);
    cache.put_attr(cache.stamp(), &attr(1, 0o755));
    cache.put_absent(stamp, DIR, &name("a"));
    assert_eq!(answer(&cache, "a"), None, "a recall overtook it");
}

#[test]
fn reply_that_a_recall_overtook_is_not_remembered() {
    let cache = filled();
    let stamp = cache.stamp();
    cache.recall(&[DIR, Ino(7)]);
    cache.put_attr(stamp, &attr(7, 0o600));
    cache.put_name(stamp, DIR, &name("a"), Some(Ino(7)));
    cache.put_complete(stamp, DIR);
    assert!(cache.attr(Ino(7)).is_none());
    assert_eq!(answer(&cache, "a"), None);
    let stamp = cache.stamp();
    cache.lost();
    cache.attached(Instant::now() + Duration::from_secs(60));
    cache.put_attr(stamp, &attr(7, 0o600));
    assert!(cache.attr(Ino(7)).is_none(), "the stream was another one");
}

#[test]
fn complete_directory_answers_for_names_never_asked() {
    let cache = filled();
    cache.put_complete(cache.stamp(), DIR);
    assert_eq!(answer(&cache, "never asked"), Some(None));
    let change = cache.begin_change(&[DIR], &[(DIR, &name("new"))], false);
    assert_eq!(answer(&cache, "new"), None, "it is being made");
    assert_eq!(answer(&cache, "other"), Some(None));
    change.finish(Outcome {
        names: vec![Some(Ino(8))],
        leased: &[attr(1, 0o755), attr(8, 0o644)],
        ..Outcome::default()
    });
    assert_eq!(answer(&cache, "new"), Some(Some(8)));
    assert_eq!(answer(&cache, "other"), Some(None));
    assert!(cache.attr(DIR).is_some(), "its new times came with the reply");
    let change = cache.begin_change(&[DIR], &[(DIR, &name("new"))], false);
    drop(change);
    assert_eq!(answer(&cache, "new"), None, "nobody knows what became of it");
    assert_eq!(answer(&cache, "other"), None);
}

#[test]
fn refused_change_leaves_names_as_they_were() {
    let cache = filled();
    cache
        .begin_change(&[DIR], &[(DIR, &name("a"))], false)
        .finish(Outcome::default());
    assert_eq!(answer(&cache, "a"), Some(Some(7)));
}

#[test]
fn change_during_which_a_recall_came_is_not_remembered() {
    let cache = filled();
    cache.put_complete(cache.stamp(), DIR);
    let change = cache.begin_change(&[DIR], &[(DIR, &name("b"))], false);
    cache.recall(&[DIR]);
    let stamp = cache.stamp();
    cache.put_attr(stamp, &attr(1, 0o755));
    change.finish(Outcome {
        names: vec![Some(Ino(8))],
        leased: &[attr(8, 0o644)],
        ..Outcome::default()
    });
    assert_eq!(answer(&cache, "b"), None);
    assert_eq!(answer(&cache, "c"), None);
}

#[test]
fn read_that_began_during_a_change_is_not_remembered() {
    let cache = filled();
    let change = cache.begin_change(&[Ino(7)], &[], true);
    assert!(cache.attr(Ino(7)).is_none());
    let stamp = cache.stamp();
    change.finish(Outcome {
        leased: &[attr(7, 0o600)],
        ..Outcome::default()
    });
    cache.put_attr(stamp, &attr(7, 0o644));
    assert_eq!(cache.attr(Ino(7)).unwrap().mode, 0o600);
}

#[test]
fn new_directory_is_known_to_be_empty() {
    let cache = filled();
    let change = cache.begin_change(&[DIR], &[(DIR, &name("d"))], false);
    change.finish(Outcome {
        names: vec![Some(Ino(9))],
        new_directory: Some(Ino(9)),
        leased: &[attr(1, 0o755), attr(9, 0o755)],
        ..Outcome::default()
    });
    assert!(matches!(
        cache.lookup(Ino(9), &name("x"), |_| true),
        Answer::Absent
    ));
}

#[test]
fn memory_is_bounded_and_what_was_dropped_is_not_answered() {
    let cache = cache();
    let stamp = cache.stamp();
    for ino in 1..=INODES_MAX as u64 + 10 {
        cache.put_attr(stamp, &attr(ino, 0o644));
    }
    assert_eq!(cache.inner.lock().inodes.len(), INODES_MAX);
    assert!(cache.attr(Ino(1)).is_none());
    let stamp = cache.stamp();
    cache.recall(&[Ino(5)]);
    for ino in 1000..=INODES_MAX as u64 + 2000 {
        cache.put_attr(cache.stamp(), &attr(ino, 0o644));
    }
    cache.put_attr(stamp, &attr(5, 0o600));
    assert!(
        cache.attr(Ino(5)).is_none(),
        "its recall is forgotten, but not that there was one"
    );
}
