//! Whole files in and out.

use super::PathApi;
use super::walk::Place;
use crate::client::Client;
use crate::types::{FileHandle, OpenFlags};
use bytes::Bytes;
use dfs_common::attr::{Attr, FileKind};
use dfs_common::name::Name;
use dfs_common::op::RenameMode;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};

/// Reads one file.
pub struct FileReader {
    client: Client,
    handle: FileHandle,
    attr: Attr,
}

/// Writes a new file under a temporary name; [`FileWriter::finish`] gives it its name. Dropped before that, it is removed in
/// the background.
pub struct FileWriter {
    client: Client,
    caller: Caller,
    handle: FileHandle,
    parent: Ino,
    temporary: Name,
    name: Name,
    mode: RenameMode,
    offset: u64,
    done: bool,
}

impl PathApi {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// `IsDirectory`; `Invalid` for anything else that is no file.
    pub async fn reader(&self, path: &[u8]) -> FsResult<FileReader> {
        let found = self.find(path, true).await?;
        match found.attr.kind {
            FileKind::File => {}
            FileKind::Directory => {
                return Err(FsError::new(
                    ErrorKind::IsDirectory,
                    format!("{} is a directory", path.escape_ascii()),
                ));
            }
            _ => {
                return Err(FsError::new(
                    ErrorKind::Invalid,
                    format!("{} is not a regular file", path.escape_ascii()),
                ));
            }
        }
        let flags = OpenFlags {
            read: true,
            ..OpenFlags::default()
        };
        let opened = self.client.open(&self.caller, found.attr.ino, flags).await?;
        Ok(FileReader {
            client: self.client.clone(),
            handle: opened.handle,
            attr: opened.attr,
        })
    }

    /// A new file under a temporary name beside `path`. Finishing makes it durable and renames it over `path`, or fails
    /// with `Exists` if there is something and not `overwrite`.
    pub async fn writer(&self, path: &[u8], mode: u32, overwrite: bool) -> FsResult<FileWriter> {
        let place: Place = self.place(path).await?;
        let (parent, name) = place.named(ErrorKind::IsDirectory)?;
        if place.directory {
            return Err(FsError::new(
                ErrorKind::IsDirectory,
                format!("{}: name a file, not a directory", path.escape_ascii()),
            ));
        }
        match self.client.lookup(&self.caller, parent, name).await {
            Ok(found) if found.attr.kind == FileKind::Directory => {
                return Err(FsError::new(
                    ErrorKind::IsDirectory,
                    format!("{} is a directory", path.escape_ascii()),
                ));
            }
            Ok(_) if !overwrite => return Err(exists(name)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let temporary = Name::new(format!(".dfs-{:032x}.tmp", rand::random::<u128>()).into_bytes())?;
        let flags = OpenFlags {
            write: true,
            ..OpenFlags::default()
        };
        let created = self
            .client
            .create(&self.caller, parent, &temporary, mode, true, flags)
            .await?;
        Ok(FileWriter {
            client: self.client.clone(),
            caller: self.caller.clone(),
            handle: created.handle,
            parent,
            temporary,
            name: name.clone(),
            mode: match overwrite {
                true => RenameMode::Replace,
                false => RenameMode::NoReplace,
            },
            offset: 0,
            done: false,
        })
    }
}

fn exists(name: &Name) -> FsError {
    FsError::new(ErrorKind::Exists, format!("{name} exists already"))
}

impl FileReader {
    /// Attributes when it was opened.
    pub fn attr(&self) -> &Attr {
        &self.attr
    }

    /// As [`Client::read`].
    pub async fn read(&self, offset: u64, length: u32) -> FsResult<Bytes> {
        self.client.read(self.handle, offset, length).await
    }

    /// Closes the file; dropping does it too, in the background.
    pub async fn close(self) {}
}

impl Drop for FileReader {
    fn drop(&mut self) {
        let (client, handle) = (self.client.clone(), self.handle);
        self.client
            .inner()
            .spawn_if_running(async move { client.release(handle).await });
    }
}

impl FileWriter {
    /// Writes behind what was written before.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub async fn write(&mut self, data: &[u8]) -> FsResult<()> {
        let written = self
            .client
            .write(&self.caller, self.handle, self.offset, data)
            .await?;
        self.offset += u64::from(written);
        Ok(())
    }

    /// Makes the file durable and gives it its name; on failure it is removed.
    ///
    /// # Errors
    /// `Exists`; those of [`Client::fsync`] and [`Client::rename`].
    pub async fn finish(mut self) -> FsResult<Attr> {
        let outcome = self.give_name().await;
        self.done = outcome.is_ok();
        if self.done {
            self.client.release(self.handle).await;
        } else {
            self.remove().await;
        }
        outcome
    }

    async fn give_name(&self) -> FsResult<Attr> {
        self.client.fsync(self.handle).await?;
        self.client
            .rename(
                &self.caller,
                self.parent,
                &self.temporary,
                self.parent,
                &self.name,
                self.mode,
            )
            .await?;
        let ino = self.client.inner().table.get(self.handle)?.file.ino;
        Ok(self.client.getattr(ino).await?.attr)
    }

    /// Removes what was written.
    pub async fn abort(mut self) {
        self.remove().await;
    }

    async fn remove(&mut self) {
        self.done = true;
        remove(
            &self.client,
            &self.caller,
            self.parent,
            &self.temporary,
            self.handle,
        )
        .await;
    }
}

async fn remove(client: &Client, caller: &Caller, parent: Ino, temporary: &Name, handle: FileHandle) {
    client.discard(handle);
    if let Err(error) = client.unlink(caller, parent, temporary).await
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(%temporary, %error, "a temporary file could not be removed");
    }
    client.release(handle).await;
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let (client, caller) = (self.client.clone(), self.caller.clone());
        let (parent, temporary, handle) = (self.parent, self.temporary.clone(), self.handle);
        self.client
            .inner()
            .spawn_if_running(async move { remove(&client, &caller, parent, &temporary, handle).await });
    }
}
