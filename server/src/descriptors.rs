//! File descriptors for `maxclients` connections: the soft limit that a process is started with is often 1,024.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For files, listeners and the links of replication.
const RESERVED: u64 = 64;

/// Makes room for so many connections. The error is the number for which there is room.
pub fn allow(connections: u64) -> Result<(), u64> {
    let wanted = connections.saturating_add(RESERVED);
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|soft| soft >= wanted) {
        return Ok(());
    }
    // The hard limit is for the administrator to raise; without one anything goes.
    let maximum = now.maximum.map_or(wanted, |hard| hard.max(now.current.unwrap_or(0)));
    let possible = wanted.min(maximum);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum: now.maximum });
    let have = if raised.is_ok() { possible } else { now.current.unwrap_or(0) };
    if have >= wanted { Ok(()) } else { Err(have.saturating_sub(RESERVED)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_up_to_the_hard_limit_and_no_further() {
        let hard = getrlimit(Resource::Nofile).maximum;
        assert_eq!(allow(100), Ok(()));
        if let Some(hard) = hard.filter(|hard| *hard > RESERVED) {
            assert_eq!(allow(hard), Err(hard - RESERVED));
            assert_eq!(getrlimit(Resource::Nofile).current, Some(hard), "all that there is");
        }
    }
}
