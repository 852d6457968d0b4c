//! `dfs admin locks`: who holds advisory locks, and who waits for them.

use crate::args::LocksArgs;
use crate::context::Context;
use crate::format::table;
use crate::output::insert_bytes;
use crate::path::printable;
use dfs_client::AdminClient;
use dfs_common::lock::{ListedLock, LockKind, LockRange, LockStyle, LockedInode};
use dfs_common::{FsResult, Ino};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Columns of numbers.
const RIGHT: u32 = 0b1_0110;

/// Runs the command.
///
/// # Errors
/// What ended it early.
pub async fn run(context: &Context, args: LocksArgs) -> FsResult<()> {
    let admin = context.admin()?;
    let Some(path) = args.path else {
        return context.stoppable(list(context, &admin)).await;
    };
    let found = context.with_cluster(async |cluster| {
        let stat = cluster.paths.stat(path.as_bytes(), true);
        context.stoppable(stat).await.map(|attr| attr.ino)
    });
    match found.await {
        Ok(ino) => context.stoppable(of_one(context, &admin, ino)).await,
        Err(error) => context.failed(path.as_bytes(), error),
    }
}

async fn list(context: &Context, admin: &AdminClient) -> FsResult<()> {
    let mut after = Ino(0);
    loop {
        let page = page(context, admin, after, None).await?;
        // One that goes backwards would never end.
        let Some(last) = page.last().map(|inode| inode.ino).filter(|last| *last > after) else {
            return match after {
                Ino(0) => nothing(context),
                _ => Ok(()),
            };
        };
        show(context, &page)?;
        after = last;
    }
}

async fn of_one(context: &Context, admin: &AdminClient, ino: Ino) -> FsResult<()> {
    let page = page(context, admin, Ino(0), Some(ino)).await?;
    match page.is_empty() {
        true => nothing(context),
        false => show(context, &page),
    }
}

async fn page(
    context: &Context,
    admin: &AdminClient,
    after: Ino,
    only: Option<Ino>,
) -> FsResult<Vec<LockedInode>> {
    let page = admin.locks(after, only).await;
    page.map_err(|error| context.unreachable(error))
}

fn nothing(context: &Context) -> FsResult<()> {
    match context.output.is_json() {
        true => Ok(()),
        false => context
            .output
            .result(|| "no locks are held".to_owned(), || Value::Null),
    }
}

fn show(context: &Context, page: &[LockedInode]) -> FsResult<()> {
    if context.output.is_json() {
        for inode in page {
            for (state, listed) in entries(inode) {
                context
                    .output
                    .result(String::new, || object(inode, state, listed))?;
            }
        }
    } else {
        context.output.result(|| lock_table(page), || Value::Null)?;
    }
    for inode in page.iter().filter(|inode| inode.more > 0) {
        context.output.note(&format!(
            "{}: {} more locks and waits are not shown",
            place(inode),
            inode.more
        ));
    }
    Ok(())
}

/// Locks first, then who waits, in the order in which they are served.
fn entries(inode: &LockedInode) -> impl Iterator<Item = (&'static str, &ListedLock)> {
    let held = inode.held.iter().map(|listed| ("held", listed));
    held.chain(inode.waiting.iter().map(|listed| ("waits", listed)))
}

fn lock_table(page: &[LockedInode]) -> String {
    let heading = [
        "STATE", "FOR", "SESSION", "CLIENT", "PID", "STYLE", "KIND", "BYTES", "PATH",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for inode in page {
        for (state, listed) in entries(inode) {
            let lock = &listed.lock;
            rows.push(vec![
                state.to_owned(),
                age_text(listed.age),
                listed.session.to_string(),
                printable(listed.client.as_bytes()),
                lock.pid.to_string(),
                style_text(lock.owner.style).to_owned(),
                kind_text(lock.kind).to_owned(),
                range_text(lock.range),
                place(inode),
            ]);
        }
    }
    table(&rows, RIGHT)
}

fn place(inode: &LockedInode) -> String {
    match &inode.path {
        Some(path) => printable(path),
        None => format!("(inode {})", inode.ino),
    }
}

fn style_text(style: LockStyle) -> &'static str {
    match style {
        LockStyle::Flock => "flock",
        LockStyle::Process => "fcntl",
        LockStyle::OpenFile => "ofd",
    }
}

fn kind_text(kind: LockKind) -> &'static str {
    match kind {
        LockKind::Shared => "shared",
        LockKind::Exclusive => "exclusive",
    }
}

fn range_text(range: LockRange) -> String {
    match (range.first(), range.last()) {
        (0, u64::MAX) => "all".to_owned(),
        (first, u64::MAX) => format!("{first}-"),
        (first, last) => format!("{first}-{last}"),
    }
}

/// Two units at most: `3.2 s`, `4 min 5 s`, `2 h 0 min`, `3 d 1 h`.
fn age_text(age: Duration) -> String {
    let secs = age.as_secs();
    match secs {
        0..60 => format!("{:.1} s", age.as_secs_f64()),
        60..3600 => format!("{} min {} s", secs / 60, secs % 60),
        3600..86_400 => format!("{} h {} min", secs / 3600, secs / 60 % 60),
        _ => format!("{} d {} h", secs / 86_400, secs / 3600 % 24),
    }
}

fn object(inode: &LockedInode, state: &str, listed: &ListedLock) -> Value {
    let mut object = Map::new();
    if let Some(path) = &inode.path {
        insert_bytes(&mut object, "path", path);
    }
    let lock = &listed.lock;
    let last = Some(lock.range.last()).filter(|last| *last != u64::MAX);
    let age_ms = u64::try_from(listed.age.as_millis()).unwrap_or(u64::MAX);
    for (name, value) in [
        ("ino", json!(inode.ino.0)),
        ("state", json!(state)),
        ("age_ms", json!(age_ms)),
        ("session", json!(listed.session.0)),
        ("client", json!(listed.client)),
        ("pid", json!(lock.pid)),
        ("style", json!(style_text(lock.owner.style))),
        ("owner", json!(lock.owner.number)),
        ("kind", json!(kind_text(lock.kind))),
        ("first", json!(lock.range.first())),
        ("last", json!(last)),
    ] {
        object.insert(name.to_owned(), value);
    }
    Value::from(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_ages_are_short() {
        let range = |first, last| range_text(LockRange::new(first, last).unwrap());
        assert_eq!(range(0, u64::MAX), "all");
        assert_eq!(range(5, u64::MAX), "5-");
        assert_eq!(range(5, 5), "5-5");
        let age = |millis| age_text(Duration::from_millis(millis));
        assert_eq!(age(3210), "3.2 s");
        assert_eq!(age(245_000), "4 min 5 s");
        assert_eq!(age(7_200_000), "2 h 0 min");
        assert_eq!(age(262_800_000), "3 d 1 h");
    }
}
