//! `/metrics`, in Prometheus's text format.
//!
//! What INFO tells is read from INFO itself and has the names that redis_exporter gives it, so dashboards and alerts made for
//! that exporter work (`from_info`). What only this server has begins with `replicated_redis_` (`own`). Names that
//! Prometheus's own linter refuses (`…_duration_sec`, `total_error_replies`) are left out.

mod families;
mod from_info;
mod own;

use std::collections::HashMap;

use prometheus::{Encoder, TextEncoder};

use self::families::Families;
use crate::info;
use crate::state::Server;

/// The exposition.
pub(crate) fn text(server: &Server) -> Result<String, prometheus::Error> {
    let info = info::text(server, &server.settings(), &mut server.keyspace.figures(), &[]);
    let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let mut families = Families::default();
    from_info::fill(&mut families, &fields);
    from_info::fill_keyspace(&mut families, &info);
    own::fill_commands(&mut families, server);
    own::fill_replicas(&mut families, server);
    own::fill(&mut families, server);
    let mut text = Vec::new();
    TextEncoder::new().encode(&families.into_inner(), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
