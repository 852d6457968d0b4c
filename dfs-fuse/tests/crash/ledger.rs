//! What the file system owes to a writer: for every name, the contents it may have after a crash.
//!
//! Invariant: a promise is written down after the call that gave it returned, an intention before the call is made, so that
//! at any moment the ledger allows exactly what is right at that moment.

use dfs_testkit::process::Content;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

/// What a name may be after a crash.
#[derive(Clone, Debug, Default)]
struct Owed {
    /// These contents, whole.
    whole: Vec<Content>,
    /// The beginning of this content, or all of it.
    beginning: Option<Content>,
    /// At least this many bytes of `beginning`.
    length_min: usize,
    /// Nothing.
    absent: bool,
}

/// The ledger of one directory.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    files: BTreeMap<String, Owed>,
    /// Directories and whether they are there for certain.
    directories: BTreeMap<String, bool>,
}

impl Ledger {
    /// `name` is created and written under its final name: its beginning may be there, or nothing.
    pub fn write_starts(&mut self, name: &str, content: Content) {
        let owed = Owed {
            beginning: Some(content),
            absent: true,
            ..Owed::default()
        };
        self.files.insert(name.to_owned(), owed);
    }

    /// The first `length` bytes of what is written to `name` were acknowledged as durable.
    pub fn durable(&mut self, name: &str, length: usize) {
        let owed = self.files.entry(name.to_owned()).or_default();
        owed.length_min = length;
        owed.absent = false;
    }

    /// A whole file is about to be renamed to `name`, over what is there.
    pub fn replace_starts(&mut self, name: &str, content: Content) {
        let owed = self.files.entry(name.to_owned()).or_insert(Owed {
            absent: true,
            ..Owed::default()
        });
        owed.whole.push(content);
    }

    /// That rename was acknowledged.
    pub fn replaced(&mut self, name: &str, content: Content) {
        self.files.insert(
            name.to_owned(),
            Owed {
                whole: vec![content],
                ..Owed::default()
            },
        );
    }

    /// `name` is about to be removed.
    pub fn remove_starts(&mut self, name: &str) {
        self.files.entry(name.to_owned()).or_default().absent = true;
    }

    /// Its removal was acknowledged.
    pub fn removed(&mut self, name: &str) {
        self.files.insert(
            name.to_owned(),
            Owed {
                absent: true,
                ..Owed::default()
            },
        );
    }

    /// A directory is about to be made, or was made.
    pub fn directory(&mut self, name: &str, acknowledged: bool) {
        self.directories.insert(name.to_owned(), acknowledged);
    }

    /// Everything in `dir` that is not as owed, one sentence each.
    pub fn problems(&self, dir: &Path) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, owed) in &self.files {
            let found = match std::fs::read(dir.join(name)) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => {
                    problems.push(format!("{}/{name}: {error}", dir.display()));
                    continue;
                }
            };
            if !owed.allows(found.as_deref()) {
                let found = found.map_or("nothing".to_owned(), |bytes| format!("{} bytes", bytes.len()));
                problems.push(format!("{}/{name}: {found}, but owed: {owed:?}", dir.display()));
            }
        }
        for (name, acknowledged) in &self.directories {
            if *acknowledged && !dir.join(name).is_dir() {
                problems.push(format!("{}/{name}: the directory is not there", dir.display()));
            }
        }
        problems.extend(self.strangers(dir));
        problems
    }

    /// Names that nobody made.
    fn strangers(&self, dir: &Path) -> Vec<String> {
        let entries = match std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(entries) => entries,
            Err(error) => return vec![format!("{}: {error}", dir.display())],
        };
        let names = entries
            .iter()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        names
            .filter(|name| !self.files.contains_key(name) && !self.directories.contains_key(name))
            // What a writer has under a temporary name may be anything.
            .filter(|name| !name.starts_with(".new-"))
            .map(|name| format!("{}/{name}: nobody made this", dir.display()))
            .collect()
    }
}

impl Owed {
    fn allows(&self, found: Option<&[u8]>) -> bool {
        let Some(found) = found else { return self.absent };
        let begins = |content: &Content| content.starts_with(found) && found.len() >= self.length_min;
        self.beginning.as_ref().is_some_and(begins) || self.whole.iter().any(|content| content.is(found))
    }
}

/// The check must fail when its subject is broken.
#[test]
fn damage_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    let (old, new) = (Content::new(1, 5000), Content::new(2, 5000));
    let mut ledger = Ledger::default();
    ledger.write_starts("synced", old);
    ledger.durable("synced", 4000);
    ledger.write_starts("started", old);
    ledger.replaced("replaced", old);
    ledger.replace_starts("replaced", new);
    ledger.replaced("gone", old);
    ledger.removed("gone");
    ledger.directory("directory", true);
    std::fs::create_dir(dir.path().join("directory")).unwrap();
    write("synced", &old.bytes()[..4500]);
    write("replaced", &new.bytes());
    assert_eq!(ledger.problems(dir.path()), Vec::<String>::new());
    write("started", &old.bytes()[..1]);
    write("replaced", &old.bytes());
    assert_eq!(ledger.problems(dir.path()), Vec::<String>::new());

    let mixed = [&new.bytes()[..2500], &old.bytes()[2500..]].concat();
    let holed = [&old.bytes()[..100], &[0; 4900]].concat();
    let damages: [(&str, Option<&[u8]>); 9] = [
        ("synced", None),
        ("synced", Some(&old.bytes()[..3999])),
        ("synced", Some(&holed)),
        ("started", Some(&new.bytes()[..10])),
        ("replaced", None),
        ("replaced", Some(&mixed)),
        ("replaced", Some(&new.bytes()[..4999])),
        ("gone", Some(&old.bytes())),
        ("stranger", Some(b"")),
    ];
    for (name, damage) in damages {
        let before = std::fs::read(dir.path().join(name)).ok();
        match damage {
            Some(bytes) => write(name, bytes),
            None => std::fs::remove_file(dir.path().join(name)).unwrap(),
        }
        assert_eq!(ledger.problems(dir.path()).len(), 1, "{name}");
        match before {
            Some(bytes) => write(name, &bytes),
            None => std::fs::remove_file(dir.path().join(name)).unwrap(),
        }
    }
    std::fs::remove_dir(dir.path().join("directory")).unwrap();
    assert_eq!(ledger.problems(dir.path()).len(), 1);
}
