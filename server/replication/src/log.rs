//! The replication log: an ordered sequence of bytes addressed by the Redis replication offset.
//!
//! The offset of the log's end is the number of bytes that this history has ever had. The last
//! `backlog_size` bytes are kept, and more as long as an attached reader still needs them - up to a limit, at which
//! the reader is cut off rather than the memory filled. Bytes lie in blocks, so that appending is one copy and an idle
//! server holds almost nothing.

use std::collections::{BTreeMap, VecDeque};

const BLOCK: usize = 64 * 1024;

#[derive(Debug)]
struct Block {
    /// Offset of `bytes[0]`.
    start: u64,
    bytes: Vec<u8>,
}

/// Names an attached reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReaderId(u64);

/// A reader that fell too far behind, or asked for bytes that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader is {behind} bytes behind, more than the {limit} that are kept for it")]
pub struct CutOff {
    pub behind: u64,
    pub limit: u64,
}

#[derive(Debug)]
pub struct Log {
    blocks: VecDeque<Block>,
    end: u64,
    /// Offset of the first byte that is still here.
    first: u64,
    backlog_size: u64,
    /// Bytes that are kept for a slow reader.
    reader_limit: u64,
    /// Where each attached reader is; `None` after it was cut off.
    readers: BTreeMap<ReaderId, Option<u64>>,
    next_reader: u64,
}

impl Log {
    /// An empty log whose next byte has offset `end`.
    pub fn new(end: u64, backlog_size: u64, reader_limit: u64) -> Self {
        Self {
            blocks: VecDeque::new(),
            end,
            first: end,
            backlog_size,
            reader_limit,
            readers: BTreeMap::new(),
            next_reader: 0,
        }
    }

    /// Offset behind the last byte: Redis's `master_repl_offset`.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Offset of the first byte of the backlog.
    pub fn first(&self) -> u64 {
        self.first.max(self.end.saturating_sub(self.backlog_size))
    }

    pub fn backlog_size(&self) -> u64 {
        self.backlog_size
    }

    /// Bytes held, those for slow readers included.
    pub fn held(&self) -> u64 {
        self.end - self.first
    }

    pub fn resize(&mut self, backlog_size: u64, reader_limit: u64) {
        self.backlog_size = backlog_size;
        self.reader_limit = reader_limit;
        self.trim();
    }

    /// Appends; called with the keys of the write still locked, so that log order is an execution order.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) {
        match self.blocks.back_mut() {
            Some(block) if block.bytes.len() + bytes.len() <= BLOCK => block.bytes.extend_from_slice(bytes),
            _ => self.append_block(bytes),
        }
        self.end += bytes.len() as u64;
    }

    #[cold]
    fn append_block(&mut self, bytes: &[u8]) {
        // The first block grows as it is needed, the others are full size at once.
        let capacity = if self.blocks.is_empty() { bytes.len().max(512) } else { BLOCK.max(bytes.len()) };
        let mut block = Vec::with_capacity(capacity);
        block.extend_from_slice(bytes);
        self.blocks.push_back(Block { start: self.end, bytes: block });
        self.trim();
    }

    /// Drops what neither the backlog nor a reader needs, and cuts off readers that need too much.
    fn trim(&mut self) {
        let mut keep = self.end.saturating_sub(self.backlog_size);
        for at in self.readers.values_mut() {
            if at.is_some_and(|at| self.end - at > self.reader_limit.max(self.backlog_size)) {
                *at = None;
            }
            keep = keep.min(at.unwrap_or(u64::MAX));
        }
        while self.blocks.len() > 1 && self.blocks[1].start <= keep {
            self.blocks.pop_front();
        }
        self.first = self.blocks.front().map_or(self.end, |block| block.start);
    }

    /// Begins anew at another offset: after a full resync. All readers are cut off.
    pub fn reset(&mut self, end: u64) {
        self.blocks.clear();
        (self.end, self.first) = (end, end);
        self.readers.values_mut().for_each(|at| *at = None);
    }

    /// True if a reader can start at `offset`.
    pub fn contains(&self, offset: u64) -> bool {
        (self.first()..=self.end).contains(&offset)
    }

    /// Keeps everything from `offset` on for a new reader; `None` if it is gone.
    pub fn attach(&mut self, offset: u64) -> Option<ReaderId> {
        if !(self.first..=self.end).contains(&offset) {
            return None;
        }
        let id = ReaderId(self.next_reader);
        self.next_reader += 1;
        self.readers.insert(id, Some(offset));
        Some(id)
    }

    pub fn detach(&mut self, id: ReaderId) {
        self.readers.remove(&id);
    }

    /// Copies up to `max` bytes behind the reader's place to `out` and moves the reader on.
    pub fn read(&mut self, id: ReaderId, max: usize, out: &mut Vec<u8>) -> Result<usize, CutOff> {
        let at = self.readers.get(&id).copied().flatten();
        let cut = CutOff { behind: self.end - at.unwrap_or(self.first), limit: self.reader_limit };
        let at = at.ok_or(cut)?;
        let mut left = max;
        let mut next = at;
        let from = self.blocks.partition_point(|block| block.start + block.bytes.len() as u64 <= at);
        for block in self.blocks.range(from..) {
            let skip = (next - block.start) as usize;
            let n = left.min(block.bytes.len() - skip);
            out.extend_from_slice(&block.bytes[skip..skip + n]);
            next += n as u64;
            left -= n;
            if left == 0 {
                break;
            }
        }
        self.readers.insert(id, Some(next));
        Ok((next - at) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn readers_see_every_byte_in_order(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..30_000), 1..40),
            start in 0u64..1000,
            reads in prop::collection::vec(1usize..40_000, 1..40),
        ) {
            let mut log = Log::new(start, 100_000, 10_000_000);
            let id = log.attach(start).unwrap();
            let (mut all, mut got, mut reads) = (Vec::new(), Vec::new(), reads.into_iter().cycle());
            for chunk in &chunks {
                log.append(chunk);
                all.extend_from_slice(chunk);
                prop_assert_eq!(log.end(), start + all.len() as u64);
                log.read(id, reads.next().unwrap(), &mut got).unwrap();
                prop_assert!(log.held() >= log.end() - start - got.len() as u64);
            }
            while log.read(id, 5000, &mut got).unwrap() > 0 {}
            prop_assert_eq!(&got, &all);
            // A later reader finds the whole backlog.
            let first = log.first();
            let id = log.attach(first).unwrap();
            let mut tail = Vec::new();
            log.read(id, usize::MAX, &mut tail).unwrap();
            prop_assert!(all.ends_with(&tail));
            prop_assert_eq!(tail.len() as u64, all.len().min(100_000) as u64);
        }
    }

    #[test]
    fn a_reader_that_falls_too_far_behind_is_cut_off_and_memory_stays_bounded() {
        let mut log = Log::new(0, 1 << 20, 4 << 20);
        let id = log.attach(0).unwrap();
        for _ in 0..100 {
            log.append(&[0; 100_000]);
        }
        assert!(log.read(id, 1, &mut Vec::new()).is_err());
        assert!(log.held() < 2 << 20, "{} bytes are held", log.held());
        assert!(!log.contains(0) && log.contains(log.end()) && log.contains(log.end() - (1 << 20)));
    }
}
