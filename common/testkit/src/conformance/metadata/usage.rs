//! What lies below directories.

use super::kit::Kit;
use dfs_common::op::RenameMode;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, Ino, TreeUsage};

impl Kit {
    /// Bytes, files and directories; nothing is limited here.
    async fn below(&self, ino: Ino) -> (u64, u64, u64) {
        let usage = self.service.usage(self.session.identity(), ino).await.unwrap();
        let TreeUsage {
            bytes,
            files,
            directories,
            ..
        } = usage;
        (bytes, files, directories)
    }
}

pub(super) async fn directories_know_what_lies_below_them(kit: Kit) {
    let (root, session) = (Caller::root(), &kit.session);
    let mkdir = async |parent, text| session.mkdir(&root, parent, text, 0o755).await.unwrap().ino;
    assert_eq!(kit.below(kit.dir).await, (0, 0, 0));
    let a = mkdir(kit.dir, "a").await;
    let b = mkdir(kit.dir, "b").await;
    let inner = mkdir(a, "inner").await;
    let f = session.create(&root, inner, "f", 0o644).await.unwrap().ino;
    session.put(f, 1000, &[1; 300]).await.unwrap();
    session.symlink(&root, a, "l", "target").await.unwrap();
    assert_eq!(kit.below(f).await, (300, 1, 0), "of a file itself");
    assert_eq!(kit.below(inner).await, (300, 1, 0), "holes are not counted");
    assert_eq!(kit.below(a).await, (300, 2, 1));
    session
        .rename(&root, (a, "inner"), (b, "inner"), RenameMode::Replace)
        .await
        .unwrap();
    assert_eq!((kit.below(a).await, kit.below(b).await), ((0, 1, 0), (300, 1, 1)));
    session.truncate(&root, f, 1100).await.unwrap();
    assert_eq!(kit.below(b).await, (100, 1, 1));
    session.unlink(&root, inner, "f").await.unwrap();
    assert_eq!(
        kit.below(kit.dir).await,
        (0, 1, 3),
        "an open file without a name is in no tree"
    );
    session.put(f, 0, &[1; 10]).await.unwrap();
    assert_eq!(kit.below(b).await, (0, 0, 1));
    let gone = kit.service.usage(session.identity(), Ino(u64::MAX)).await;
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::Stale);
}

pub(super) async fn files_with_several_names_are_counted_once(kit: Kit) {
    let (root, session) = (Caller::root(), &kit.session);
    let mkdir = async |text| session.mkdir(&root, kit.dir, text, 0o755).await.unwrap().ino;
    let (a, b) = (mkdir("a").await, mkdir("b").await);
    let f = session.create(&root, a, "f", 0o644).await.unwrap().ino;
    session.put(f, 0, &[1; 50]).await.unwrap();
    session.link(&root, f, b, "g").await.unwrap();
    assert_eq!((kit.below(a).await, kit.below(b).await), ((50, 1, 0), (0, 0, 0)));
    assert_eq!(kit.below(kit.dir).await, (50, 1, 2));
    session.unlink(&root, a, "f").await.unwrap();
    assert_eq!((kit.below(a).await, kit.below(b).await), ((0, 0, 0), (50, 1, 0)));
    session.put(f, 50, &[1; 5]).await.unwrap();
    assert_eq!(kit.below(b).await, (55, 1, 0));
    session
        .rename(&root, (b, "g"), (a, "h"), RenameMode::Replace)
        .await
        .unwrap();
    assert_eq!((kit.below(a).await, kit.below(b).await), ((55, 1, 0), (0, 0, 0)));
}
