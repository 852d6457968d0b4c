//! `dfs ls`: lists directories.
//!
//! Invariant: memory is bounded for any directory. Up to [`SORTED_MAX`] names are sorted; a larger directory is shown as it
//! arrives, in an order that does not change while it is listed.

use crate::args::LsArgs;
use crate::context::{Cluster, Context};
use crate::format::{Owners, attr_object, long_line};
use crate::output::insert_bytes;
use crate::path::{DfsPath, printable};
use dfs_common::attr::{Attr, FileKind};
use dfs_common::limits::READDIR_ENTRIES_MAX;
use dfs_common::service::DirEntry;
use dfs_common::{ErrorKind, FsResult};
use serde_json::Value;

/// Names that are held in memory in order to be sorted: some 30 MiB with their attributes.
const SORTED_MAX: usize = 100_000;

/// Runs the command.
///
/// # Errors
/// What ended it early.
pub async fn run(context: &Context, mut args: LsArgs) -> FsResult<()> {
    if args.paths.is_empty() {
        args.paths.push(DfsPath::root());
    }
    let work = |cluster| {
        let listing = Listing {
            context,
            args,
            cluster,
            owners: Owners::default(),
        };
        context.stoppable(listing.all())
    };
    context.with_cluster(work).await
}

struct Listing<'a> {
    context: &'a Context,
    args: LsArgs,
    cluster: Cluster,
    owners: Owners,
}

impl Listing<'_> {
    /// Files first, then directories, as ls(1).
    async fn all(mut self) -> FsResult<()> {
        let paths = std::mem::take(&mut self.args.paths);
        let many = paths.len() > 1;
        let mut directories = Vec::new();
        let mut shown = false;
        for path in paths {
            match self.stat(&path).await {
                Ok(attr) if attr.kind == FileKind::Directory && !self.args.directory => {
                    directories.push(path)
                }
                Ok(attr) => {
                    shown = true;
                    self.show(path.as_bytes(), &path, &attr).await?;
                }
                Err(error) => self.context.failed(path.as_bytes(), error)?,
            }
        }
        for path in directories {
            if many && !self.context.output.is_json() {
                let blank = if std::mem::replace(&mut shown, true) {
                    "\n"
                } else {
                    ""
                };
                self.context
                    .output
                    .result(|| format!("{blank}{path}:"), || Value::Null)?;
            }
            match self.directory(&path).await {
                Ok(()) => {}
                Err(error) => self.context.failed(path.as_bytes(), error)?,
            }
        }
        Ok(())
    }

    /// A link counts as what it points to, unless it is shown itself or points nowhere.
    async fn stat(&self, path: &DfsPath) -> FsResult<Attr> {
        let paths = &self.cluster.paths;
        if path.wants_directory() {
            let attr = paths.stat(path.as_bytes(), true).await?;
            return match attr.kind {
                FileKind::Directory => Ok(attr),
                _ => Err(ErrorKind::NotDirectory.into()),
            };
        }
        let own = paths.stat(path.as_bytes(), false).await?;
        if own.kind != FileKind::Symlink || self.args.long || self.args.directory {
            return Ok(own);
        }
        Ok(paths.stat(path.as_bytes(), true).await.unwrap_or(own))
    }

    async fn directory(&mut self, path: &DfsPath) -> FsResult<()> {
        let mut sorting = (!self.args.stream).then(Vec::new);
        let mut cursor = 0;
        loop {
            let page = self
                .cluster
                .paths
                .list(path.as_bytes(), cursor, READDIR_ENTRIES_MAX)
                .await?;
            let (last, end) = (page.entries.last().map(|entry| entry.cursor), page.end);
            for entry in page.entries {
                if !self.args.all && entry.name.as_bytes().starts_with(b".") {
                    continue;
                }
                match &mut sorting {
                    Some(entries) => entries.push(entry),
                    None => self.entry(path, entry).await?,
                }
            }
            if sorting.as_ref().is_some_and(|entries| entries.len() > SORTED_MAX) {
                self.context.output.note(&format!(
                    "{path} has more than {SORTED_MAX} names: they are not sorted"
                ));
                for entry in sorting.take().into_iter().flatten() {
                    self.entry(path, entry).await?;
                }
            }
            match last {
                Some(last) if !end => cursor = last,
                _ => break,
            }
        }
        let mut entries = sorting.unwrap_or_default();
        entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        for entry in entries {
            self.entry(path, entry).await?;
        }
        Ok(())
    }

    async fn entry(&mut self, directory: &DfsPath, entry: DirEntry) -> FsResult<()> {
        let name = entry.name.as_bytes();
        if !self.args.long && !self.context.output.is_json() {
            // Nothing but the name is shown.
            return self.context.output.result(|| printable(name), || Value::Null);
        }
        let path = directory.join(name);
        let attr = match entry.attr {
            Some(attr) => attr,
            None => match self.cluster.paths.stat(path.as_bytes(), false).await {
                Ok(attr) => attr,
                // Removed since.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => return self.context.failed(path.as_bytes(), error),
            },
        };
        self.show(name, &path, &attr).await
    }

    async fn show(&mut self, name: &[u8], path: &DfsPath, attr: &Attr) -> FsResult<()> {
        let target = match attr.kind {
            FileKind::Symlink if self.args.long => self.cluster.paths.readlink(path.as_bytes()).await.ok(),
            _ => None,
        };
        let (args, owners) = (&self.args, &mut self.owners);
        self.context.output.result(
            || match args.long {
                true => long_line(attr, name, target.as_deref(), owners, args.human_readable),
                false => printable(name),
            },
            || {
                let mut object = attr_object(attr, target.as_deref());
                insert_bytes(&mut object, "name", path.name().unwrap_or(name));
                insert_bytes(&mut object, "path", path.as_bytes());
                Value::from(object)
            },
        )
    }
}
