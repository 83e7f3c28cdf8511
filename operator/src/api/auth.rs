//! How passwords change.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a changed password replaces the one before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// Seconds for which both passwords are valid: long enough for every client to hear of the new one. 0: the old one ends at
    /// once.
    #[serde(default = "default_overlap")]
    #[schemars(range(min = 0, max = 604_800))]
    pub overlap_seconds: u32,
}

fn default_overlap() -> u32 {
    300
}

impl Default for Rotation {
    fn default() -> Self {
        Self { overlap_seconds: default_overlap() }
    }
}
