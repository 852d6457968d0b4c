//! The client library as a target: what the kernel does above it (walking paths, flags of open), and nothing more.
//!
//! Permissions are the coordinator's business here: no call is refused by this target that the library would have done, but
//! for what the kernel itself refuses before it asks a file system.

use crate::call::{Call, FsPath, OpenHow, Outcome, Slot, Stat, Target, Time, pattern_bytes};
use bytes::Bytes;
use dfs_client::{Client, FileHandle, OpenFlags};
use dfs_common::attr::{Attr, FileKind, SetAttr};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsResult, Ino, Name, Quota};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::runtime::Handle;

/// Entries asked for at a time: few, so that small directories have several pages.
const PAGE_ENTRIES: u32 = 5;
/// Patience of the client's end.
const SHUTDOWN: Duration = Duration::from_secs(20);

struct OpenFile {
    handle: FileHandle,
    ino: Ino,
    write: bool,
}

/// Makes a client of the same cluster.
type Connect = Box<dyn FnMut() -> Client>;
/// Sets a directory's quota, as an administrator does.
type SetQuota = Box<dyn Fn(Ino, Quota) -> FsResult<()>>;

/// A directory seen through a client. Its calls block: they must not be made on a thread of the runtime.
pub struct ClientTarget {
    /// None between its death and the renewal.
    client: Option<Client>,
    /// Makes the client that a renewal puts in place of this one.
    connect: Option<Connect>,
    /// Only of a target that is asked to set quotas.
    set_quota: Option<SetQuota>,
    /// The client came from `connect`: it ends with the target.
    renewed: bool,
    runtime: Handle,
    root: Ino,
    slots: BTreeMap<Slot, OpenFile>,
}

impl ClientTarget {
    /// A fresh directory of mode 0777 below the file system's root. `runtime` is the one that the client was made in.
    pub fn fresh(client: Client, runtime: Handle) -> Self {
        let name = name(format!("random {:016x}", rand::random::<u64>()).as_bytes()).expect("a short name");
        let root = Caller::root();
        let made = runtime.block_on(async {
            let made = client.mkdir(&root, Ino::ROOT, &name, 0o777).await?;
            let set = SetAttr {
                mode: Some(0o777),
                ..SetAttr::default()
            };
            client.setattr(&root, made.attr.ino, set, None).await
        });
        let ino = made.expect("a directory for the target can be made").attr.ino;
        Self::below(client, runtime, ino)
    }

    /// An existing directory.
    pub fn below(client: Client, runtime: Handle, root: Ino) -> Self {
        ClientTarget {
            client: Some(client),
            connect: None,
            set_quota: None,
            renewed: false,
            runtime,
            root,
            slots: BTreeMap::new(),
        }
    }

    /// Renewed, the target goes on with the client that `connect` makes; the old one is let go as if its process had died.
    pub fn renewed_by(mut self, connect: impl FnMut() -> Client + 'static) -> Self {
        self.connect = Some(Box::new(connect));
        self
    }

    /// Quotas are set by `set_quota`, which blocks. What this client acknowledged and has not saved counts against no quota yet: it is saved
    /// before one is set and before a file moves, and closed files are let go at once, so that the model, which knows no unsaved data and no
    /// file that is open a little longer, refuses the same.
    pub fn with_quotas(mut self, set_quota: impl Fn(Ino, Quota) -> FsResult<()> + 'static) -> Self {
        self.set_quota = Some(Box::new(set_quota));
        self
    }

    /// The client dies: what it had in memory is lost. Until the target is renewed it answers nothing.
    pub fn kill_client(&mut self) {
        self.client = None;
    }

    fn client(&self) -> &Client {
        self.client
            .as_ref()
            .expect("a target whose client died is renewed first")
    }

    /// Its directory.
    pub fn root(&self) -> Ino {
        self.root
    }
}

impl Drop for ClientTarget {
    fn drop(&mut self) {
        // A session that is left to its lease would make restarted coordinators wait for it.
        if let Some(client) = self.client.take().filter(|_| self.renewed)
            && let Err(error) = self.runtime.block_on(client.shutdown(SHUTDOWN))
        {
            eprintln!("a renewed client did not end in order: {error}");
        }
    }
}

impl Target for ClientTarget {
    fn name(&self) -> String {
        "client".into()
    }
    fn call(&mut self, who: &Caller, call: &Call) -> Outcome {
        let runtime = self.runtime.clone();
        let answer = match call {
            Call::Quota { path, quota } => self.quota(path, *quota),
            _ => runtime.block_on(self.answer(who, call)),
        };
        match answer {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(error.errno()),
        }
    }
    fn usage(&mut self, path: &FsPath) -> Option<(u64, u64, u64)> {
        let runtime = self.runtime.clone();
        let usage = runtime.block_on(async {
            let ino = self.resolve(&Caller::root(), path).await?.ino;
            self.client().usage(ino).await
        });
        let usage = usage.expect("a directory that is there has a usage");
        Some((usage.bytes, usage.files, usage.directories))
    }
    fn renew(&mut self) {
        if let Some(connect) = &mut self.connect {
            self.client = None;
            self.client = Some(connect());
            self.renewed = true;
        }
    }
}

type Answer = FsResult<Outcome>;

fn fail<T>(kind: ErrorKind) -> FsResult<T> {
    Err(kind.into())
}

fn name(bytes: &[u8]) -> FsResult<Name> {
    Name::new(Bytes::copy_from_slice(bytes))
}

fn stat_of(attr: &Attr) -> Stat {
    Stat {
        ino: attr.ino.0,
        kind: attr.kind,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        size: if attr.kind == FileKind::Directory {
            0
        } else {
            attr.size
        },
        atime: Time::At(attr.atime),
        mtime: Time::At(attr.mtime),
        ctime: Time::At(attr.ctime),
    }
}

impl ClientTarget {
    fn quota(&self, path: &FsPath, quota: Quota) -> Answer {
        let set_quota = self.set_quota.as_ref().expect("the target sets quotas");
        let directory = self.runtime.block_on(async {
            self.save().await?;
            self.resolve(&Caller::root(), path).await
        })?;
        set_quota(directory.ino, quota).map(|()| Outcome::Done)
    }

    /// Saves what was written to open files.
    async fn save(&self) -> FsResult<()> {
        for file in self.slots.values() {
            self.client().fsync(file.handle).await?;
        }
        Ok(())
    }

    /// Directory and last name of a path that is not the root.
    async fn parent<'p>(&self, who: &Caller, path: &'p FsPath) -> FsResult<(Ino, &'p [u8])> {
        let Some((last, above)) = path.0.split_last() else {
            return fail(ErrorKind::Busy);
        };
        let mut at = self.root;
        for step in above {
            at = self.find(who, at, step).await?.ino;
        }
        Ok((at, last))
    }

    async fn find(&self, who: &Caller, directory: Ino, bytes: &[u8]) -> FsResult<Attr> {
        let name = self.checked(who, directory, bytes).await?;
        Ok(self.client().lookup(who, directory, &name).await?.attr)
    }

    /// That `directory` is one and may be searched.
    async fn searchable(&self, who: &Caller, directory: Ino) -> FsResult<()> {
        match self.client().lookup(who, directory, &name(b"-")?).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A name to be used in `directory`. One that is too long is found so after the directory may be searched.
    async fn checked(&self, who: &Caller, directory: Ino, bytes: &[u8]) -> FsResult<Name> {
        let checked = name(bytes);
        if checked.is_err() {
            self.searchable(who, directory).await?;
        }
        checked
    }

    async fn place(&self, who: &Caller, path: &FsPath) -> FsResult<(Ino, Name)> {
        let (parent, last) = self.parent(who, path).await?;
        Ok((parent, self.checked(who, parent, last).await?))
    }

    async fn resolve(&self, who: &Caller, path: &FsPath) -> FsResult<Attr> {
        if path.0.is_empty() {
            return Ok(self.client().getattr(self.root).await?.attr);
        }
        let (parent, last) = self.parent(who, path).await?;
        self.find(who, parent, last).await
    }

    fn open_file(&self, slot: Slot) -> FsResult<&OpenFile> {
        self.slots.get(&slot).ok_or_else(|| ErrorKind::BadHandle.into())
    }

    async fn set(&self, who: &Caller, path: &FsPath, set: SetAttr) -> Answer {
        let ino = self.resolve(who, path).await?.ino;
        self.client()
            .setattr(who, ino, set, None)
            .await
            .map(|_| Outcome::Done)
    }

    async fn answer(&mut self, who: &Caller, call: &Call) -> Answer {
        let client = self.client().clone();
        match call {
            Call::Mkdir { path, mode } => {
                let (parent, name) = self.place(who, path).await?;
                client.mkdir(who, parent, &name, *mode).await?;
            }
            Call::Mknod {
                path,
                kind,
                mode,
                rdev,
            } => {
                let (parent, name) = self.place(who, path).await?;
                client.mknod(who, parent, &name, *kind, *mode, *rdev).await?;
            }
            Call::Symlink { path, target } => {
                let (parent, name) = self.place(who, path).await?;
                client
                    .symlink(who, parent, &name, Bytes::copy_from_slice(target))
                    .await?;
            }
            Call::Link { from, to } => {
                let ino = self.resolve(who, from).await?.ino;
                let (parent, name) = self.place(who, to).await?;
                client.link(who, ino, parent, &name).await?;
            }
            Call::Unlink { path } => {
                let (parent, name) = self.place(who, path).await?;
                client.unlink(who, parent, &name).await?;
            }
            Call::Rmdir { path } => {
                let (parent, name) = self.place(who, path).await?;
                client.rmdir(who, parent, &name).await?;
            }
            Call::Rename { from, to, mode } => {
                if self.set_quota.is_some() {
                    self.save().await?;
                }
                let (parent, last) = self.parent(who, from).await?;
                self.searchable(who, parent).await?;
                let (new_parent, new_last) = self.parent(who, to).await?;
                if last.len().max(new_last.len()) > 255 {
                    // Both directories are walked to before a name is looked up.
                    self.searchable(who, new_parent).await?;
                }
                let source = self.checked(who, parent, last).await?;
                if new_last.len() > 255 {
                    self.find(who, parent, last).await?;
                }
                let target = self.checked(who, new_parent, new_last).await?;
                client
                    .rename(who, parent, &source, new_parent, &target, *mode)
                    .await?;
            }
            Call::Open {
                slot,
                path,
                how,
                mode,
            } => return self.open(who, *slot, path, *how, *mode).await,
            Call::Stat { path } => return Ok(Outcome::Stat(stat_of(&self.resolve(who, path).await?))),
            Call::Readlink { path } => {
                let ino = self.resolve(who, path).await?.ino;
                return Ok(Outcome::Bytes(client.readlink(ino).await?.to_vec()));
            }
            Call::Readdir { path } => return self.readdir(who, path).await,
            Call::Chmod { path, mode } => {
                return self
                    .set(
                        who,
                        path,
                        SetAttr {
                            mode: Some(*mode),
                            ..SetAttr::default()
                        },
                    )
                    .await;
            }
            Call::Chown { path, uid, gid } => {
                return self
                    .set(
                        who,
                        path,
                        SetAttr {
                            uid: *uid,
                            gid: *gid,
                            ..SetAttr::default()
                        },
                    )
                    .await;
            }
            Call::Truncate { path, size } => {
                return self
                    .set(
                        who,
                        path,
                        SetAttr {
                            size: Some(*size),
                            ..SetAttr::default()
                        },
                    )
                    .await;
            }
            Call::Utimens { path, atime, mtime } => {
                return self
                    .set(
                        who,
                        path,
                        SetAttr {
                            atime: *atime,
                            mtime: *mtime,
                            ..SetAttr::default()
                        },
                    )
                    .await;
            }
            Call::Setxattr {
                path,
                name,
                value,
                mode,
            } => {
                let ino = self.resolve(who, path).await?.ino;
                client
                    .setxattr(who, ino, name, Bytes::copy_from_slice(value), *mode)
                    .await?;
            }
            Call::Removexattr { path, name } => {
                let ino = self.resolve(who, path).await?.ino;
                client.removexattr(who, ino, name).await?;
            }
            Call::Getxattr { path, name } => {
                let ino = self.resolve(who, path).await?.ino;
                return Ok(Outcome::Bytes(client.getxattr(who, ino, name).await?.to_vec()));
            }
            Call::Listxattr { path } => {
                let ino = self.resolve(who, path).await?.ino;
                let names = client.listxattr(who, ino).await?;
                let ours = |name: &Bytes| name.starts_with(b"user.") || name.starts_with(b"trusted.");
                return Ok(Outcome::Names(
                    names
                        .iter()
                        .filter(|name| ours(name))
                        .map(|name| name.to_vec())
                        .collect(),
                ));
            }
            Call::Close { .. }
            | Call::Read { .. }
            | Call::Write { .. }
            | Call::Fsync { .. }
            | Call::Ftruncate { .. }
            | Call::Fstat { .. } => return self.on_open_file(who, call).await,
            Call::Quota { .. } => unreachable!("it blocks"),
        }
        Ok(Outcome::Done)
    }

    async fn on_open_file(&mut self, who: &Caller, call: &Call) -> Answer {
        let client = self.client().clone();
        match call {
            Call::Close { slot } => {
                let OpenFile { handle, .. } = *self.open_file(*slot)?;
                self.slots.remove(slot);
                let flushed = client.flush(handle).await;
                client.release(handle).await;
                if self.set_quota.is_some() {
                    client.send_releases().await;
                }
                flushed?;
            }
            Call::Read { slot, offset, length } => {
                let OpenFile { handle, .. } = *self.open_file(*slot)?;
                return Ok(Outcome::Bytes(
                    client.read(handle, *offset, *length).await?.to_vec(),
                ));
            }
            Call::Write {
                slot,
                offset,
                length,
                pattern,
            } => {
                let OpenFile { handle, .. } = *self.open_file(*slot)?;
                let bytes = pattern_bytes(*pattern, *offset, *length);
                let written = client.write(who, handle, *offset, &bytes).await?;
                return Ok(Outcome::Count(written as usize));
            }
            Call::Fsync { slot } => client.fsync(self.open_file(*slot)?.handle).await?,
            Call::Ftruncate { slot, size } => {
                let OpenFile { handle, ino, write } = *self.open_file(*slot)?;
                if !write {
                    return fail(ErrorKind::Invalid);
                }
                let set = SetAttr {
                    size: Some(*size),
                    ..SetAttr::default()
                };
                client.setattr(who, ino, set, Some(handle)).await?;
            }
            Call::Fstat { slot } => {
                let OpenFile { ino, .. } = *self.open_file(*slot)?;
                return Ok(Outcome::Stat(stat_of(&client.getattr(ino).await?.attr)));
            }
            _ => unreachable!("only calls on open files"),
        }
        Ok(Outcome::Done)
    }

    async fn open(&mut self, who: &Caller, slot: Slot, path: &FsPath, how: OpenHow, mode: u32) -> Answer {
        let OpenHow {
            read,
            write,
            append,
            truncate,
            ..
        } = how;
        let flags = OpenFlags {
            read,
            write,
            append,
            truncate,
        };
        if path.0.is_empty() {
            return fail(if how.create && how.exclusive {
                ErrorKind::Exists
            } else {
                ErrorKind::IsDirectory
            });
        }
        let (parent, name) = self.place(who, path).await?;
        let found = match self.client().lookup(who, parent, &name).await {
            Ok(entry) => Some(entry.attr),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        // A kernel that knows the file opens it; one that does not know makes it, though another may have been faster.
        let make = match &found {
            None if !how.create => return fail(ErrorKind::NotFound),
            None => true,
            Some(_) if how.create && how.exclusive => return fail(ErrorKind::Exists),
            Some(attr) => match attr.kind {
                FileKind::Directory => return fail(ErrorKind::IsDirectory),
                FileKind::Symlink => return fail(ErrorKind::Loop),
                _ => how.create && slot.is_multiple_of(2),
            },
        };
        let (handle, ino) = match found {
            Some(attr) if !make => (self.client().open(who, attr.ino, flags).await?.handle, attr.ino),
            found => {
                let created = self
                    .client()
                    .create(who, parent, &name, mode, how.exclusive, flags)
                    .await?;
                assert_eq!(
                    created.existed,
                    found.is_some(),
                    "create tells whether the file was there"
                );
                (created.handle, created.entry.attr.ino)
            }
        };
        self.slots.insert(slot, OpenFile { handle, ino, write });
        Ok(Outcome::Done)
    }

    async fn readdir(&self, who: &Caller, path: &FsPath) -> Answer {
        let ino = self.resolve(who, path).await?.ino;
        let mut entries = BTreeMap::new();
        let mut cursor = 0;
        loop {
            // With attributes and without, by turns.
            let page = self
                .client()
                .readdir(who, ino, cursor, PAGE_ENTRIES, entries.len() % 2 == 0)
                .await?;
            for entry in page.entries {
                cursor = entry.cursor;
                let name = entry.name.as_bytes().to_vec();
                assert!(
                    entries.insert(name, entry.kind).is_none(),
                    "{:?} was listed twice",
                    entry.name
                );
            }
            if page.end {
                return Ok(Outcome::Entries(entries));
            }
        }
    }
}
