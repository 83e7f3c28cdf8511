//! The replication log: an ordered sequence of bytes addressed by the Redis replication offset.
//!
//! The offset of the log's end is the number of bytes that this history has ever had. The last
//! `backlog_size` bytes are kept, and more as long as an attached reader still needs them - up to a limit, at which
//! the reader is cut off rather than the memory filled. Bytes lie in blocks, so that appending is one copy and an idle
//! server holds almost nothing.
//!
//! What is never true: a reader that misses a byte, a reader that sees bytes of two histories, memory above
//! `max(backlog_size, reader_limit)` by more than two blocks (a record that is larger than a block has one of its own).

use std::collections::{BTreeMap, VecDeque};

/// Big enough that the work per block vanishes, small enough that a backlog is kept to a few per cent of its size.
const BLOCK: usize = 64 * 1024;

#[derive(Debug)]
struct Block {
    /// Offset of `bytes[0]`.
    start: u64,
    /// Never empty.
    bytes: Vec<u8>,
}

impl Block {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// Names an attached reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReaderId(u64);

/// A reader that fell too far behind, or whose history ended under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is more than the {limit} bytes behind that are kept for it")]
pub struct CutOff {
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
    /// A block that was given back: a busy log goes round in the same memory.
    spare: Option<Vec<u8>>,
}

impl Log {
    /// An empty log whose next byte has offset `end`. `reader_limit` is the hard limit of
    /// `client-output-buffer-limit replica`, `u64::MAX` for none; below the backlog's size it has no effect, as in Redis.
    pub fn new(end: u64, backlog_size: u64, reader_limit: u64) -> Self {
        Self {
            blocks: VecDeque::new(),
            end,
            first: end,
            backlog_size,
            reader_limit,
            readers: BTreeMap::new(),
            next_reader: 0,
            spare: None,
        }
    }

    /// Offset behind the last byte: Redis's `master_repl_offset`.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Offset of the first byte of the backlog. INFO's `repl_backlog_first_byte_offset` counts from 1: one more.
    pub fn first(&self) -> u64 {
        self.first.max(self.end.saturating_sub(self.backlog_size))
    }

    /// Bytes of the backlog: INFO's `repl_backlog_histlen`.
    pub fn histlen(&self) -> u64 {
        self.end - self.first()
    }

    pub fn backlog_size(&self) -> u64 {
        self.backlog_size
    }

    /// Bytes held, those for slow readers included.
    pub fn held(&self) -> u64 {
        self.end - self.first
    }

    /// Other sizes from now on: `CONFIG SET repl-backlog-size`, `client-output-buffer-limit`.
    pub fn resize(&mut self, backlog_size: u64, reader_limit: u64) {
        self.backlog_size = backlog_size;
        self.reader_limit = reader_limit;
        self.trim();
    }

    /// Appends; called with the keys of the write still locked, so that log order is an execution order.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) {
        match self.blocks.back_mut() {
            Some(block) if block.bytes.len() + bytes.len() <= BLOCK => {
                block.bytes.extend_from_slice(bytes);
                self.end += bytes.len() as u64;
            }
            _ => self.append_block(bytes),
        }
    }

    #[cold]
    fn append_block(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut block = self.spare.take().unwrap_or_default();
        // The first block grows as it is needed, the others are full size at once.
        block.reserve_exact(if self.blocks.is_empty() { bytes.len().max(512) } else { BLOCK.max(bytes.len()) });
        block.extend_from_slice(bytes);
        self.blocks.push_back(Block { start: self.end, bytes: block });
        self.end += bytes.len() as u64;
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
            let freed = self.blocks.pop_front().map(|block| block.bytes);
            // A block that one large record made is not kept.
            self.spare = freed.filter(|bytes| bytes.capacity() == BLOCK).or(self.spare.take());
            self.spare.iter_mut().for_each(Vec::clear);
        }
        self.first = self.blocks.front().map_or(self.end, |block| block.start);
    }

    /// Begins anew at another offset: after a full resync. All readers are cut off.
    pub fn reset(&mut self, end: u64) {
        self.blocks.clear();
        self.spare = None;
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

    /// The reader is gone; what only it needed goes too.
    pub fn detach(&mut self, id: ReaderId) {
        if self.readers.remove(&id).is_some() {
            self.trim();
        }
    }

    /// Bytes that the reader has not had yet. `None` if it was cut off.
    pub fn behind(&self, id: ReaderId) -> Option<u64> {
        self.readers.get(&id).copied().flatten().map(|at| self.end - at)
    }

    /// Copies up to `max` bytes behind the reader's place to `out` and moves the reader on.
    pub fn read(&mut self, id: ReaderId, max: usize, out: &mut Vec<u8>) -> Result<usize, CutOff> {
        let cut = CutOff { limit: self.reader_limit.max(self.backlog_size) };
        let at = self.readers.get(&id).copied().flatten().ok_or(cut)?;
        let before = out.len();
        self.copy(at, max, out);
        let n = out.len() - before;
        self.readers.insert(id, Some(at + n as u64));
        Ok(n)
    }

    /// Copies up to `max` bytes from `offset` on to `out`. Nothing, if `offset` is not here.
    pub fn copy(&self, offset: u64, max: usize, out: &mut Vec<u8>) {
        let from = self.blocks.partition_point(|block| block.end() <= offset);
        let (mut next, mut left) = (offset, max);
        for block in self.blocks.range(from..) {
            let Some(skip) = next.checked_sub(block.start) else { return };
            let bytes = &block.bytes[skip as usize..];
            let n = left.min(bytes.len());
            out.extend_from_slice(&bytes[..n]);
            next += n as u64;
            left -= n;
            if left == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Append(usize),
        Attach { back: u64 },
        Read { reader: usize, max: usize },
        Detach { reader: usize },
        Resize { backlog: u64, limit: u64 },
        Reset { end: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => prop_oneof![0usize..300, 1000usize..30_000, 60_000usize..150_000].prop_map(Step::Append),
            2 => (0u64..200_000).prop_map(|back| Step::Attach { back }),
            4 => (0usize..4, 0usize..90_000).prop_map(|(reader, max)| Step::Read { reader, max }),
            1 => (0usize..4).prop_map(|reader| Step::Detach { reader }),
            1 => (0u64..200_000, 0u64..400_000).prop_map(|(backlog, limit)| Step::Resize { backlog, limit }),
            1 => (0u64..1000).prop_map(|end| Step::Reset { end }),
        ]
    }

    /// The byte at an offset, so that the model needs no copy of the log.
    fn byte(offset: u64) -> u8 {
        (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
    }

    /// A log beside the simplest thing that could be right: offsets, with every byte a function of its own.
    struct Model {
        log: Log,
        backlog: u64,
        limit: u64,
        /// First offset since the last reset.
        born: u64,
        /// With the place of each and the least that was kept for it so far.
        readers: Vec<(ReaderId, u64, u64)>,
    }

    impl Model {
        fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
            let end = self.log.end();
            match *step {
                Step::Append(n) => {
                    let bytes: Vec<u8> = (end..end + n as u64).map(byte).collect();
                    self.log.append(&bytes);
                    prop_assert_eq!(self.log.end(), end + n as u64);
                }
                Step::Attach { back } => {
                    let at = end.saturating_sub(back);
                    match self.log.attach(at) {
                        Some(id) => self.readers.push((id, at, self.limit.max(self.backlog))),
                        None => prop_assert!(!self.log.contains(at)),
                    }
                }
                Step::Read { reader, max } => self.read(reader, max)?,
                Step::Detach { reader } if !self.readers.is_empty() => {
                    let (id, ..) = self.readers.remove(reader % self.readers.len());
                    self.log.detach(id);
                    prop_assert_eq!(self.log.behind(id), None);
                }
                Step::Detach { .. } => {}
                Step::Resize { backlog, limit } => {
                    (self.backlog, self.limit) = (backlog, limit);
                    self.log.resize(backlog, limit);
                    self.readers.iter_mut().for_each(|(.., kept)| *kept = (*kept).min(limit.max(backlog)));
                }
                Step::Reset { end } => {
                    self.log.reset(end);
                    self.born = end;
                    for (id, ..) in self.readers.drain(..) {
                        prop_assert!(self.log.read(id, 1, &mut Vec::new()).is_err(), "a reader outlived its history");
                        self.log.detach(id);
                    }
                }
            }
            self.check()
        }

        fn read(&mut self, reader: usize, max: usize) -> Result<(), TestCaseError> {
            if self.readers.is_empty() {
                return Ok(());
            }
            let which = reader % self.readers.len();
            let (id, at, kept) = self.readers[which];
            let mut out = vec![7];
            match self.log.read(id, max, &mut out) {
                Ok(n) => {
                    prop_assert_eq!(n as u64, (max as u64).min(self.log.end() - at), "as much as there is");
                    prop_assert!(out[1..].iter().zip(at..).all(|(got, offset)| *got == byte(offset)));
                    self.readers[which].1 = at + n as u64;
                }
                Err(_) => {
                    prop_assert!(self.log.end() - at > kept, "cut off without need");
                    self.log.detach(id);
                    self.readers.remove(which);
                }
            }
            Ok(())
        }

        fn check(&self) -> Result<(), TestCaseError> {
            let (log, end) = (&self.log, self.log.end());
            prop_assert!(log.first() >= self.born && log.histlen() <= self.backlog.max(1));
            prop_assert!(log.contains(end) && log.contains(log.first()) && !log.contains(end + 1));
            // The longest that is kept, the largest block of which a part is needed, and one that is not full yet.
            prop_assert!(log.held() <= self.backlog.max(self.limit) + 150_000 + BLOCK as u64);
            let mut tail = Vec::new();
            log.copy(log.first(), usize::MAX, &mut tail);
            prop_assert_eq!(tail.len() as u64, log.histlen());
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_log_is_what_its_offsets_say(start in 0u64..1000, steps in prop::collection::vec(step(), 1..60)) {
            let log = Log::new(start, 100_000, 300_000);
            let mut model = Model { log, backlog: 100_000, limit: 300_000, born: start, readers: Vec::new() };
            for step in &steps {
                model.run(step)?;
            }
        }

        #[test]
        fn readers_see_every_byte_in_order(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..30_000), 1..20),
            start in 0u64..1000,
            reads in prop::collection::vec(1usize..40_000, 1..40),
        ) {
            let mut log = Log::new(start, 100_000, 10_000_000);
            let id = log.attach(start).unwrap();
            let (mut all, mut got, mut reads) = (Vec::new(), Vec::new(), reads.into_iter().cycle());
            for chunk in &chunks {
                log.append(chunk);
                all.extend_from_slice(chunk);
                log.read(id, reads.next().unwrap(), &mut got).unwrap();
            }
            while log.read(id, 5000, &mut got).unwrap() > 0 {}
            prop_assert_eq!(&got, &all);
            // A later reader finds the whole backlog.
            let id = log.attach(log.first()).unwrap();
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
        assert_eq!(log.behind(id), None);
        assert!(log.read(id, 1, &mut Vec::new()).is_err());
        assert!(log.held() < 2 << 20, "{} bytes are held", log.held());
        assert!(!log.contains(0) && log.contains(log.end()) && log.contains(log.end() - (1 << 20)));
    }

    #[test]
    fn a_reader_without_a_limit_is_never_cut_off() {
        let mut log = Log::new(0, 1000, u64::MAX);
        let id = log.attach(0).unwrap();
        (0..50).for_each(|_| log.append(&[0; 100_000]));
        assert_eq!(log.behind(id), Some(5_000_000));
        log.detach(id);
        assert!(log.held() <= 100_000, "what only the reader needed goes with it");
    }

    #[test]
    fn an_idle_log_holds_next_to_nothing_and_a_busy_one_goes_round_in_its_memory() {
        let mut log = Log::new(0, 1 << 20, 1 << 20);
        log.append(&[0; 100]);
        assert!(log.blocks.iter().map(|block| block.bytes.capacity()).sum::<usize>() <= 512);
        for _ in 0..10_000 {
            log.append(&[1; 1000]);
        }
        assert!(log.blocks.len() <= 18, "{} blocks for a backlog of 16", log.blocks.len());
        assert!(log.blocks.iter().skip(1).all(|block| block.bytes.capacity() == BLOCK));
    }

    #[test]
    fn a_record_larger_than_the_backlog_is_whole_for_its_readers() {
        let mut log = Log::new(5, 1000, 10 << 20);
        let id = log.attach(5).unwrap();
        log.append(&vec![3; 1 << 20]);
        let mut out = Vec::new();
        assert_eq!(log.read(id, usize::MAX, &mut out), Ok(1 << 20));
        assert_eq!(log.histlen(), 1000);
    }
}
