//! File descriptors: a server may have as many as its hard limit says.
//!
//! Each client has connections, and the default of the soft limit (1,024) is for programs that use `select`.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Enough for the connections of a server ([`dfs_common::limits::CONNECTIONS_MAX`]) and its files.
const WANTED: u64 = 65_536;

/// Raises the soft limit as far as it is needed and allowed. What is not allowed costs a warning.
pub fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let aim = WANTED.min(hard);
        if soft < aim {
            setrlimit(Resource::RLIMIT_NOFILE, aim, hard)?;
        }
        Ok(soft.max(aim))
    });
    match raised {
        Ok(limit) if limit < WANTED => {
            tracing::warn!(
                limit,
                "few file descriptors are allowed: each client takes some (LimitNOFILE)"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of file descriptors stays as it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_raised_as_far_as_it_may_be() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 256, hard).unwrap();
        raise_limit();
        let (soft, after) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!((soft, after), (WANTED.min(hard), hard));
    }
}
