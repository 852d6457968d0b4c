//! What the thread that waits for an answer is doing: which call it is in, and whether a signal wants it out of there.
//!
//! fuser 0.18 drops the flag that tells `flock` from `fcntl`, and answers FUSE_INTERRUPT by itself, so both are read from
//! `/proc`. The thread cannot leave its call before it is answered, so what is read is of this call.

use nix::libc::{self, c_long};
use std::io;

/// The interface of a lock call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockCall {
    /// `flock`.
    Flock,
    /// `fcntl`, locks of the process.
    Process,
    /// `fcntl`, locks of the open file description (`F_OFD_*`).
    OpenFile,
    /// It has not gone to sleep in its call yet: look again.
    NotYet,
    /// Not to be found out: another process namespace, or no permission to look.
    Unknown,
}

/// `flock` as 32-bit programs number it on 64-bit systems. No 64-bit call of that number asks for locks.
const FLOCK_32: c_long = 143;
/// `fcntl` and `fcntl64`, likewise.
const FCNTL_32: [c_long; 2] = [55, 221];
/// `F_OFD_GETLK`, `F_OFD_SETLK`, `F_OFD_SETLKW`.
const OPEN_FILE_COMMANDS: std::ops::RangeInclusive<u64> =
    libc::F_OFD_GETLK as u64..=libc::F_OFD_SETLKW as u64;

/// The lock call that a thread is in.
pub fn lock_call(thread: u32) -> LockCall {
    if thread == 0 {
        return LockCall::Unknown;
    }
    match std::fs::read_to_string(format!("/proc/{thread}/syscall")) {
        Ok(line) => parse_call(&line),
        Err(_) => LockCall::Unknown,
    }
}

/// A line of `/proc/TID/syscall`: the call's number and its arguments, in hexadecimal from the second on.
fn parse_call(line: &str) -> LockCall {
    if line.starts_with("running") {
        return LockCall::NotYet;
    }
    let mut words = line.split_ascii_whitespace();
    let number = words.next().and_then(|word| word.parse::<c_long>().ok());
    let command = words
        .nth(1)
        .and_then(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    match (number, command) {
        (Some(number), _) if number == libc::SYS_flock || number == FLOCK_32 => LockCall::Flock,
        (Some(number), Some(command)) if number == libc::SYS_fcntl || FCNTL_32.contains(&number) => {
            // A C int: the upper half of the register may be anything.
            match OPEN_FILE_COMMANDS.contains(&(command & 0xffff_ffff)) {
                true => LockCall::OpenFile,
                false => LockCall::Process,
            }
        }
        _ => LockCall::Unknown,
    }
}

/// Signals that a thread will take as soon as it leaves its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// None.
    None,
    /// One that no other thread can take.
    Certain,
    /// One that was sent to the whole process, which has other threads that may take it.
    Shared,
}

/// See [`Pending`].
///
/// # Errors
/// If the thread's status cannot be read.
pub fn pending_signals(thread: u32) -> io::Result<Pending> {
    let status = std::fs::read(format!("/proc/{thread}/status"))?;
    Ok(parse_pending(&String::from_utf8_lossy(&status)))
}

fn parse_pending(status: &str) -> Pending {
    let field = |name: &str| {
        let mut lines = status.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    let mask = |name| {
        field(name)
            .and_then(|mask| u64::from_str_radix(mask, 16).ok())
            .unwrap_or(0)
    };
    // One that is ignored is not made pending, unless it is blocked.
    let taken = !mask("SigBlk");
    match (mask("SigPnd") & taken, mask("ShdPnd") & taken) {
        (0, 0) => Pending::None,
        (0, _) if field("Threads") != Some("1") => Pending::Shared,
        _ => Pending::Certain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart_by_number_and_command() {
        let line =
            |number: c_long, command: u64| format!("{number} 0x3 {command:#x} 0x0 0x0 0x0 0x0 0x7ffe 0x7f");
        let (flock, fcntl) = (libc::SYS_flock, libc::SYS_fcntl);
        assert_eq!(parse_call(&line(flock, libc::LOCK_EX as u64)), LockCall::Flock);
        assert_eq!(parse_call(&line(FLOCK_32, 2)), LockCall::Flock);
        for command in [libc::F_SETLK, libc::F_SETLKW, libc::F_GETLK] {
            assert_eq!(parse_call(&line(fcntl, command as u64)), LockCall::Process);
        }
        for command in [libc::F_OFD_GETLK, libc::F_OFD_SETLK, libc::F_OFD_SETLKW] {
            assert_eq!(parse_call(&line(fcntl, command as u64)), LockCall::OpenFile);
            assert_eq!(parse_call(&line(FCNTL_32[1], command as u64)), LockCall::OpenFile);
            assert_eq!(
                parse_call(&line(fcntl, command as u64 | 0xdead << 32)),
                LockCall::OpenFile
            );
        }
    }

    #[test]
    fn what_is_no_lock_call_is_unknown_and_a_running_thread_is_not_yet_there() {
        assert_eq!(parse_call("running\n"), LockCall::NotYet);
        for line in ["", "0 0x3", "-1 0x7ffe 0x7f", "x y z", "72", "72 0x3 7"] {
            assert_eq!(parse_call(line), LockCall::Unknown, "{line}");
        }
        assert_eq!(lock_call(0), LockCall::Unknown);
    }

    #[test]
    fn pending_signals_are_those_that_are_not_blocked() {
        let status = |threads: u32, own: &str, shared: &str, blocked: &str| {
            parse_pending(&format!(
                "Name:\tx\nThreads:\t{threads}\nSigQ:\t1/5\nSigPnd:\t{own}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\n"
            ))
        };
        let (none, int) = ("0000000000000000", "0000000000000002");
        assert_eq!(status(1, none, none, none), Pending::None);
        assert_eq!(status(4, int, none, none), Pending::Certain);
        assert_eq!(status(1, none, int, none), Pending::Certain);
        assert_eq!(status(4, none, int, none), Pending::Shared);
        assert_eq!(status(1, int, int, int), Pending::None);
        assert_eq!(parse_pending(""), Pending::None);
    }
}
