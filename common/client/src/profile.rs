//! The profile: which coordinator programs of this user talk to when they are not told.
//!
//! Owns the file `profile.json` below `$XDG_CONFIG_HOME/dfs`, or `~/.config/dfs` without it, and the order in which a
//! coordinator is looked up. Invariant: the file is replaced whole, so that a reader sees the old or the new profile; one
//! that cannot be understood is an error, never taken for none.

use dfs_common::{ErrorKind, FsError, FsResult, durable};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};

/// Environment variable that names the coordinator; it is stronger than the profile.
pub const COORDINATOR_VARIABLE: &str = "DFS_COORDINATOR";
/// A larger file is not a profile.
const PROFILE_BYTES_MAX: u64 = 64 << 10;

/// What is remembered. Fields of later versions are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// `host:port` of the coordinator.
    pub coordinator: String,
    /// Id of the cluster that answered there; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// Where the profile is; `None` if this user has neither a configuration nor a home directory.
pub fn path() -> Option<PathBuf> {
    path_from(std::env::var_os("XDG_CONFIG_HOME"), std::env::var_os("HOME"))
}

/// Relative directories are passed over, as the XDG base directory specification has it.
fn path_from(config: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |dir: Option<OsString>| dir.map(PathBuf::from).filter(|dir| dir.is_absolute());
    let base = absolute(config).or_else(|| Some(absolute(home)?.join(".config")))?;
    Some(base.join("dfs/profile.json"))
}

/// The profile of this user; `None` if there is none.
///
/// # Errors
/// `Invalid` if the file is not a profile; `Io` and others if it cannot be read.
pub fn load() -> FsResult<Option<Profile>> {
    path().map_or(Ok(None), |path| load_from(&path))
}

/// Remembers `profile` for this user, durably; answers where.
///
/// # Errors
/// `Invalid` if its coordinator is not `host:port` or the user has no home; `Io` and others if it cannot be written.
pub fn save(profile: &Profile) -> FsResult<PathBuf> {
    let path = path().ok_or_else(|| {
        FsError::new(
            ErrorKind::Invalid,
            "neither HOME nor XDG_CONFIG_HOME is an absolute path: set one",
        )
    })?;
    save_to(&path, profile)?;
    Ok(path)
}

/// The coordinator to use: `given` (a command line's), else `DFS_COORDINATOR`, else the profile's.
///
/// # Errors
/// `NotFound` if none of them says one; `Invalid` if the one that counts is not `host:port`.
pub fn coordinator(given: Option<&str>) -> FsResult<String> {
    let variable = std::env::var_os(COORDINATOR_VARIABLE).filter(|value| !value.is_empty());
    choose(given, variable, load)
}

fn choose(
    given: Option<&str>,
    variable: Option<OsString>,
    profile: impl FnOnce() -> FsResult<Option<Profile>>,
) -> FsResult<String> {
    if let Some(given) = given {
        check_address(given)?;
        return Ok(given.to_owned());
    }
    if let Some(value) = variable {
        let value = value.to_string_lossy().into_owned();
        check_address(&value).map_err(|error| error.context(COORDINATOR_VARIABLE))?;
        return Ok(value);
    }
    match profile()? {
        Some(profile) => Ok(profile.coordinator),
        None => Err(FsError::new(
            ErrorKind::NotFound,
            "no coordinator is known: run `dfs connect HOST:PORT`, or set --coordinator or DFS_COORDINATOR",
        )),
    }
}

/// Whether `address` has the form `host:port` with a port that can be connected to.
///
/// # Errors
/// `Invalid` if not.
pub fn check_address(address: &str) -> FsResult<()> {
    let port = address
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty() && !host.contains(['/', ' ', '@']))
        .and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(1..) if address.len() <= dfs_common::limits::ADDRESS_BYTES_MAX => Ok(()),
        _ => Err(FsError::new(
            ErrorKind::Invalid,
            format!(
                "{:?} is no address: HOST:PORT is needed, for example 127.0.0.1:7400",
                address.chars().take(80).collect::<String>()
            ),
        )),
    }
}

fn load_from(path: &Path) -> FsResult<Option<Profile>> {
    let doing = || format!("reading the profile {}", path.display());
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if matches!(error.kind(), IoKind::NotFound | IoKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(FsError::from(error).context(doing())),
    };
    let broken = |why: &dyn std::fmt::Display| {
        FsError::new(
            ErrorKind::Invalid,
            format!("{why}: run `dfs connect HOST:PORT` to write it anew"),
        )
        .context(doing())
    };
    if size > PROFILE_BYTES_MAX {
        return Err(broken(&"too large"));
    }
    let bytes = std::fs::read(path).map_err(|error| FsError::from(error).context(doing()))?;
    let profile: Profile = serde_json::from_slice(&bytes).map_err(|error| broken(&error))?;
    check_address(&profile.coordinator).map_err(|error| broken(&error.message()))?;
    Ok(Some(profile))
}

fn save_to(path: &Path, profile: &Profile) -> FsResult<()> {
    check_address(&profile.coordinator)?;
    let mut bytes = serde_json::to_vec_pretty(profile).expect("strings can be written as JSON");
    bytes.push(b'\n');
    let dir = path.parent().unwrap_or(Path::new("."));
    durable::create_dir_all(dir)
        .and_then(|()| durable::replace_file(path, &bytes))
        .map_err(|error| FsError::from(error).context(format_args!("writing the profile {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(coordinator: &str) -> Profile {
        Profile {
            coordinator: coordinator.to_owned(),
            cluster: None,
        }
    }

    #[test]
    fn profile_is_below_the_configuration_directory_or_home() {
        let dir = |text: &str| Some(OsString::from(text));
        let is = |path: Option<PathBuf>, text: &str| assert_eq!(path.as_deref(), Some(Path::new(text)));
        is(path_from(dir("/c"), dir("/h")), "/c/dfs/profile.json");
        is(path_from(None, dir("/h")), "/h/.config/dfs/profile.json");
        is(path_from(dir("c"), dir("/h")), "/h/.config/dfs/profile.json");
        is(path_from(dir(""), dir("/h")), "/h/.config/dfs/profile.json");
        assert_eq!(path_from(None, None), None);
    }

    #[test]
    fn saved_profile_is_loaded_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/profile.json");
        assert_eq!(load_from(&path), Ok(None));
        for coordinator in ["host:1", "[::1]:7400"] {
            save_to(&path, &profile(coordinator)).unwrap();
            assert_eq!(load_from(&path), Ok(Some(profile(coordinator))));
        }
    }

    #[test]
    fn damaged_profile_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.json");
        let huge = vec![b' '; PROFILE_BYTES_MAX as usize + 1];
        for content in [&b"{"[..], b"{}", br#"{"coordinator":"x"}"#, &huge] {
            std::fs::write(&path, content).unwrap();
            let error = load_from(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains("profile.json"), "{error}");
            assert!(error.message().contains("dfs connect"), "{error}");
        }
        std::fs::write(&path, r#"{"coordinator":"h:1","colour":"red"}"#).unwrap();
        assert_eq!(load_from(&path), Ok(Some(profile("h:1"))));
    }

    #[test]
    fn command_line_is_stronger_than_variable_and_variable_than_profile() {
        let saved = || Ok(Some(profile("p:3")));
        assert_eq!(
            choose(Some("c:1"), Some("v:2".into()), saved),
            Ok("c:1".to_owned())
        );
        assert_eq!(choose(None, Some("v:2".into()), saved), Ok("v:2".to_owned()));
        assert_eq!(choose(None, None, saved), Ok("p:3".to_owned()));
        assert_eq!(
            choose(None, None, || Ok(None)).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert_eq!(
            choose(Some("c"), None, saved).unwrap_err().kind(),
            ErrorKind::Invalid
        );
        let error = choose(None, Some("v".into()), saved).unwrap_err();
        assert!(error.message().starts_with(COORDINATOR_VARIABLE), "{error}");
    }

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["h:1", "127.0.0.1:7400", "[::1]:65535", "a.example.org:80"] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        let long = format!("{}:1", "h".repeat(300));
        for bad in [
            "",
            "h",
            "h:",
            ":1",
            "h:0",
            "h:65536",
            "h:-1",
            "http://h:1",
            "a b:1",
            &long,
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }
}
