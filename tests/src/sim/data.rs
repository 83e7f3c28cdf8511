//! What an instance holds: the writes in the order in which they were made, and its form on the disk and on the wire.

use replication::ReplId;

/// A write. Its number is given by the world and only rises, so the writes of one history are in the order of their
/// numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub write: u64,
    /// End of its record in the log.
    pub end: u64,
    /// Of this entry and all before it.
    hash: u64,
}

/// A data set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data(Vec<Entry>);

impl Data {
    pub fn push(&mut self, write: u64, end: u64) {
        let before = self.0.last().map_or(0, |last| last.hash);
        let hash = (before ^ write.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ end).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        self.0.push(Entry { write, end, hash: hash ^ (hash >> 32) });
    }

    pub fn keys(&self) -> u64 {
        self.0.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn last(&self) -> Option<Entry> {
        self.0.last().copied()
    }

    pub fn contains(&self, write: u64) -> bool {
        self.0.binary_search_by_key(&write, |entry| entry.write).is_ok()
    }

    /// True if `other` goes on where this ends. The last entry stands for all before it.
    pub fn is_prefix_of(&self, other: &Data) -> bool {
        self.0.is_empty() || other.0.get(self.0.len() - 1) == self.0.last()
    }
}

/// An RDB file: what is loaded after a crash, and what a full resync carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub data: Data,
    pub id: ReplId,
    pub offset: u64,
    pub epoch: u64,
}

impl Snapshot {
    /// Id and offset travel in `+FULLRESYNC`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.data.0.len() * 16);
        out.extend(self.epoch.to_le_bytes());
        for entry in &self.data.0 {
            out.extend(entry.write.to_le_bytes());
            out.extend(entry.end.to_le_bytes());
        }
        out
    }

    pub fn decode(bytes: &[u8], id: ReplId, offset: u64) -> Self {
        let mut words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
        let epoch = words.next().expect("an RDB names its epoch");
        let mut data = Data::default();
        while let (Some(write), Some(end)) = (words.next(), words.next()) {
            data.push(write, end);
        }
        Self { data, id, offset, epoch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_reads_back_and_prefixes_are_told_from_others() {
        let mut data = Data::default();
        (1..10).for_each(|n| data.push(n, n * 30));
        let snapshot = Snapshot { data: data.clone(), id: ReplId::ZERO, offset: 270, epoch: 3 };
        assert_eq!(Snapshot::decode(&snapshot.encode(), ReplId::ZERO, 270), snapshot);
        let mut longer = data.clone();
        longer.push(10, 300);
        assert!(data.is_prefix_of(&longer) && !longer.is_prefix_of(&data) && Data::default().is_prefix_of(&data));
        let mut other = Data::default();
        (2..12).for_each(|n| other.push(n, n * 30));
        assert!(!data.is_prefix_of(&other) && other.contains(3) && !other.contains(1));
    }
}
