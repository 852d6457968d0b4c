//! On whose behalf a request is made.
//!
//! The kernel names user and group; supplementary groups are read from `/proc` while the calling thread waits for the
//! answer, each time anew, so that they are right after setgroups(2).

use dfs_common::limits::GROUPS_MAX;
use dfs_common::session::Caller;
use fuser::Request;

/// The identity in a request.
#[derive(Clone, Copy, Debug)]
pub struct Requester {
    uid: u32,
    gid: u32,
    /// Thread; 0 if it is in a process namespace that this program does not see.
    thread: u32,
}

impl From<&Request> for Requester {
    fn from(request: &Request) -> Self {
        Requester {
            uid: request.uid(),
            gid: request.gid(),
            thread: request.pid(),
        }
    }
}

impl Requester {
    /// Without supplementary groups: for operations on what is already open.
    pub fn alone(self) -> Caller {
        Caller {
            uid: self.uid,
            gid: self.gid,
            groups: Vec::new(),
        }
    }

    /// With supplementary groups. Root needs none: nothing is refused to it.
    pub fn with_groups(self) -> Caller {
        let mut caller = self.alone();
        if self.uid != 0 && self.thread != 0 {
            // A thread that is gone gets no answer either.
            let status = std::fs::read(format!("/proc/{}/status", self.thread)).unwrap_or_default();
            caller.groups = groups(&status);
        }
        caller
    }
}

/// The line `Groups:` of a process's status.
fn groups(status: &[u8]) -> Vec<u32> {
    let line = status
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"Groups:"))
        .unwrap_or_default();
    line.split(u8::is_ascii_whitespace)
        .filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
        .take(GROUPS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_read_from_a_status() {
        assert_eq!(
            groups(b"Name:\tx\nGroups:\t4 24 4000000000 \nFoo:\t1\n"),
            [4, 24, 4_000_000_000]
        );
        assert_eq!(groups(b"Groups:\t \n"), [0; 0]);
        assert_eq!(groups(b""), [0; 0]);
    }

    #[test]
    fn own_groups_are_those_of_the_system() {
        let own = nix::unistd::getgroups().unwrap();
        let read = groups(&std::fs::read("/proc/thread-self/status").unwrap());
        assert_eq!(read, own.iter().map(|group| group.as_raw()).collect::<Vec<_>>());
    }
}
