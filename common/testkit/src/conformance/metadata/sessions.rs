//! Sessions: exactly-once operations, fencing, resuming; and the cluster state that sessions follow.

use super::kit::{Kit, batch, fresh_session, mutate, name, numbered, user};
use crate::conformance::refused;
use dfs_common::cluster::ClusterUpdate;
use dfs_common::op::{MutationBatch, OpReply, Operation};
use dfs_common::session::{Caller, Identity, OpenSession, SessionSecret};
use dfs_common::{ErrorKind, Ino, OpNumber, SessionEpoch, SessionId, limits};

fn mkdir(parent: Ino, text: &str) -> Operation {
    Operation::Mkdir {
        parent,
        name: name(text),
        mode: 0o755,
    }
}

pub(super) async fn operations_are_applied_once(kit: Kit) {
    let Kit {
        service,
        session,
        dir,
    } = &kit;
    let root = Caller::root();
    let number = session.next_number();
    let unlink = Operation::Unlink {
        parent: *dir,
        name: name("missing"),
    };
    let ops = vec![
        numbered(number, &root, mkdir(*dir, "d")),
        numbered(number + 1, &root, unlink),
        numbered(number + 2, &root, Operation::GrantChunks { count: 2 }),
    ];
    let first = mutate(&**service, session.identity(), batch(ops.clone()))
        .await
        .unwrap();
    let made = match &first[0] {
        Ok(OpReply::Entry(entry)) => entry.attr.clone(),
        other => panic!("not the reply of a mkdir: {other:?}"),
    };
    refused(first[1].clone(), ErrorKind::NotFound);
    // What happened since does not show in the replies of a retry.
    let later = vec![numbered(number + 5, &root, mkdir(made.ino, "below"))];
    mutate(&**service, session.identity(), batch(later))
        .await
        .unwrap()[0]
        .clone()
        .unwrap();
    assert_ne!(session.getattr(made.ino).await.unwrap(), made);
    let again = mutate(&**service, session.identity(), batch(ops[..1].to_vec()))
        .await
        .unwrap();
    assert_eq!(again, first[..1]);
    let again = mutate(&**service, session.identity(), batch(ops)).await.unwrap();
    assert_eq!(again[0], first[0]);
    refused(again[1].clone(), ErrorKind::NotFound);
    assert_eq!(again[2], first[2], "a grant is repeated, not made anew");
    assert_eq!(session.getattr(*dir).await.unwrap().size, 1);
}

pub(super) async fn concurrent_retries_are_applied_once(kit: Kit) {
    let Kit {
        service,
        session,
        dir,
    } = &kit;
    let first = session.next_number();
    let ops: Vec<_> = (0..20)
        .map(|i| numbered(first + i, &Caller::root(), mkdir(*dir, &format!("d{i}"))))
        .collect();
    let calls = (0..8).map(|_| mutate(&**service, session.identity(), batch(ops.clone())));
    let results = futures::future::join_all(calls).await;
    let expected = results[0].as_ref().unwrap();
    assert!(expected.iter().all(Result::is_ok));
    assert!(results.iter().all(|result| result.as_ref().unwrap() == expected));
    assert_eq!(session.getattr(*dir).await.unwrap().size, 20);
}

pub(super) async fn acknowledged_operations_are_refused(kit: Kit) {
    let Kit {
        service,
        session,
        dir,
    } = &kit;
    let root = Caller::root();
    let number = session.next_number();
    let op = numbered(number, &root, mkdir(*dir, "d"));
    mutate(&**service, session.identity(), batch(vec![op.clone()]))
        .await
        .unwrap()[0]
        .clone()
        .unwrap();
    session.rmdir(&root, *dir, "d").await.unwrap();
    let late = mutate(&**service, session.identity(), batch(vec![op]))
        .await
        .unwrap();
    refused(late[0].clone(), ErrorKind::StaleOperation);
    refused(session.lookup(&root, *dir, "d").await, ErrorKind::NotFound);
    // Nor is one applied that was never sent before it was acknowledged.
    let acknowledged_below = OpNumber(number + 100);
    let ops = vec![numbered(number + 100, &root, mkdir(*dir, "e"))];
    let results = mutate(
        &**service,
        session.identity(),
        MutationBatch {
            acknowledged_below,
            ..batch(ops)
        },
    )
    .await;
    results.unwrap()[0].clone().unwrap();
    let ops = vec![numbered(number + 50, &root, mkdir(*dir, "f"))];
    refused(
        mutate(&**service, session.identity(), batch(ops)).await.unwrap()[0].clone(),
        ErrorKind::StaleOperation,
    );
}

pub(super) async fn batches_are_checked_and_stop_where_told(kit: Kit) {
    let Kit {
        service,
        session,
        dir,
    } = &kit;
    let root = Caller::root();
    let identity = session.identity();
    refused(
        mutate(&**service, identity, batch(Vec::new())).await,
        ErrorKind::Invalid,
    );
    let twice = vec![
        numbered(9, &root, mkdir(*dir, "a")),
        numbered(9, &root, mkdir(*dir, "b")),
    ];
    refused(
        mutate(&**service, identity, batch(twice)).await,
        ErrorKind::Invalid,
    );
    let back = vec![
        numbered(9, &root, mkdir(*dir, "a")),
        numbered(8, &root, mkdir(*dir, "b")),
    ];
    refused(
        mutate(&**service, identity, batch(back)).await,
        ErrorKind::Invalid,
    );
    let many =
        (0..=limits::BATCH_OPS_MAX as u64).map(|i| numbered(100 + i, &root, mkdir(*dir, &format!("m{i}"))));
    refused(
        mutate(&**service, identity, batch(many.collect())).await,
        ErrorKind::Invalid,
    );
    assert_eq!(
        session.getattr(*dir).await.unwrap().size,
        0,
        "nothing of a refused batch is applied"
    );

    let ops = |from: u64| {
        let texts = ["a", "a", "b"];
        (from..)
            .zip(texts)
            .map(|(number, text)| numbered(number, &Caller::root(), mkdir(*dir, text)))
            .collect()
    };
    let stopping = MutationBatch {
        stop_on_error: true,
        durable: false,
        ..batch(ops(1000))
    };
    let results = mutate(&**service, identity, stopping).await.unwrap();
    assert!(results[0].is_ok());
    refused(results[1].clone(), ErrorKind::Exists);
    refused(results[2].clone(), ErrorKind::BatchAborted);
    let results = mutate(&**service, identity, batch(ops(2000))).await.unwrap();
    refused(results[0].clone(), ErrorKind::Exists);
    refused(results[1].clone(), ErrorKind::Exists);
    assert!(results[2].is_ok());
    // What was not tried has no reply: the number is still free.
    let retry = vec![numbered(1002, &root, mkdir(*dir, "c"))];
    mutate(&**service, identity, batch(retry)).await.unwrap()[0]
        .clone()
        .unwrap();
    // Later operations of a batch see the earlier ones.
    let callers = [root.clone(), user(1001, 1001, &[])];
    let ops = vec![
        numbered(3000, &callers[0], mkdir(*dir, "x")),
        numbered(
            3001,
            &callers[0],
            Operation::Rmdir {
                parent: *dir,
                name: name("x"),
            },
        ),
        numbered(3002, &callers[1], mkdir(*dir, "x")),
    ];
    let results = mutate(&**service, identity, batch(ops)).await.unwrap();
    match &results[2] {
        Ok(OpReply::Entry(entry)) => assert_eq!(entry.attr.uid, 1001, "each operation has its own caller"),
        other => panic!("not the reply of a mkdir: {other:?}"),
    }
}

pub(super) async fn strangers_are_fenced(kit: Kit) {
    let Kit {
        service,
        session,
        dir,
    } = &kit;
    let own = session.identity();
    let mut secret = own.secret;
    secret.0[15] ^= 1;
    let strangers = [
        Identity { secret, ..own },
        Identity {
            secret: SessionSecret([0; 16]),
            ..own
        },
        Identity {
            epoch: SessionEpoch(own.epoch.0.wrapping_sub(1)),
            ..own
        },
        Identity {
            epoch: SessionEpoch(own.epoch.0 + 1),
            ..own
        },
        Identity {
            session: SessionId(own.session.0 + 100_000),
            ..own
        },
    ];
    let root = Caller::root;
    for identity in strangers {
        let ops = vec![numbered(1 << 40, &root(), mkdir(*dir, "x"))];
        refused(
            mutate(&**service, identity, batch(ops)).await,
            ErrorKind::SessionFenced,
        );
        refused(service.keep_alive(identity).await, ErrorKind::SessionFenced);
        refused(service.close_session(identity).await, ErrorKind::SessionFenced);
        refused(
            service.lookup(identity, root(), *dir, name("x")).await,
            ErrorKind::SessionFenced,
        );
        refused(service.getattr(identity, *dir).await, ErrorKind::SessionFenced);
        refused(
            service.readdir(identity, root(), *dir, 0, 1, false).await,
            ErrorKind::SessionFenced,
        );
        refused(
            service.open(identity, root(), *dir, true, false).await,
            ErrorKind::SessionFenced,
        );
        refused(
            service.release(identity, vec![*dir]).await,
            ErrorKind::SessionFenced,
        );
        refused(
            service.read_extents(identity, *dir, 0, 1, true).await,
            ErrorKind::SessionFenced,
        );
        refused(service.statfs(identity).await, ErrorKind::SessionFenced);
        refused(service.cluster_state(identity, 0).await, ErrorKind::SessionFenced);
        let resume = OpenSession {
            resume: Some(identity),
            ..fresh_session("stranger")
        };
        refused(service.open_session(resume).await, ErrorKind::SessionFenced);
    }
    refused(session.lookup(&root(), *dir, "x").await, ErrorKind::NotFound);
    assert!(!service.keep_alive(own).await.unwrap().is_zero());
}

pub(super) async fn closed_sessions_stay_closed(kit: Kit) {
    let Kit {
        service,
        session,
        dir,
    } = &kit;
    let other = kit.another_session().await;
    let chunk = other.chunk(10).await;
    other.mkdir(&Caller::root(), *dir, "kept", 0o755).await.unwrap();
    service.close_session(other.identity()).await.unwrap();
    refused(
        other.mkdir(&Caller::root(), *dir, "late", 0o755).await,
        ErrorKind::SessionFenced,
    );
    refused(other.getattr(*dir).await, ErrorKind::SessionFenced);
    let resume = OpenSession {
        resume: Some(other.identity()),
        ..fresh_session("late")
    };
    refused(service.open_session(resume).await, ErrorKind::SessionFenced);
    session.lookup(&Caller::root(), *dir, "kept").await.unwrap();
    // Its numbers and its chunks are nobody else's.
    let third = kit.another_session().await;
    assert_ne!(third.identity().session, other.identity().session);
    assert_ne!(third.chunk(10).await.chunk, chunk.chunk);
}

pub(super) async fn sessions_resume_with_their_identity(kit: Kit) {
    let Kit {
        service,
        session,
        dir,
    } = &kit;
    let root = Caller::root();
    let number = session.next_number();
    let op = numbered(number, &root, mkdir(*dir, "d"));
    let first = mutate(&**service, session.identity(), batch(vec![op.clone()]))
        .await
        .unwrap();
    let resume = OpenSession {
        resume: Some(session.identity()),
        ..fresh_session("again")
    };
    let grant = service.open_session(resume).await.unwrap();
    assert_eq!(grant.identity.session, session.identity().session);
    assert_eq!(grant.cluster, session.grant.cluster);
    assert_eq!(grant.chunk_bytes, session.grant.chunk_bytes);
    assert!(grant.replication_floor >= 1 && grant.replication >= grant.replication_floor);
    let again = mutate(&**service, grant.identity, batch(vec![op])).await.unwrap();
    assert_eq!(again, first, "replies outlive a lost connection");
    let long = "n".repeat(256);
    refused(
        service.open_session(fresh_session(&long)).await,
        ErrorKind::Invalid,
    );
}

pub(super) async fn cluster_state_comes_whole_and_then_as_changes(kit: Kit) {
    let Kit { service, session, .. } = &kit;
    let whole = service.cluster_state(session.identity(), 0).await.unwrap();
    assert!(whole.full && whole.version > 0);
    let replicas = session.grant.replication as usize;
    assert!(
        whole.nodes.len() >= replicas && !whole.groups.is_empty(),
        "{whole:?}"
    );
    for group in &whole.groups {
        let members: std::collections::BTreeSet<_> = group.members.iter().collect();
        assert_eq!(members.len(), group.members.len());
        assert!(
            members
                .iter()
                .all(|id| whole.nodes.iter().any(|node| node.id == **id))
        );
    }
    assert!(whole.nodes.iter().all(|node| node.id.0 > 0));
    let ClusterUpdate {
        version,
        full,
        groups,
        ..
    } = service
        .cluster_state(session.identity(), whole.version)
        .await
        .unwrap();
    assert!(version >= whole.version && (!full || version > whole.version));
    assert!(full || groups.is_empty());
    let future = service.cluster_state(session.identity(), u64::MAX).await.unwrap();
    assert!(future.full, "a version that was never given out gets everything");
}
