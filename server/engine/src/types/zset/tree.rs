//! The order of a large sorted set: a counted B+ tree of (score, member number).
//!
//! Scores stand in the nodes, so a search compares members only where scores are equal. An inner node keeps, per child,
//! the child's first entry and its number of entries: a rank is a sum over one node a level, and a range by rank is
//! found as fast as one by score.
//!
//! Invariants: no node but the root of an empty tree is empty; `firsts[i]` is the first entry of child `i` and
//! `counts[i]` its number of entries; all leaves are equally deep. A node with few entries is merged with a neighbour
//! when both fit with room to spare; nodes are not otherwise balanced after a removal.

use std::ops::Range;

use smallvec::SmallVec;

use super::slab::Slab;

/// Entries of a leaf and children of an inner node: 760 and 2,040 bytes, which fill an allocator's 768 and 2,048.
const CAPACITY: usize = 63;
/// A node of fewer entries looks for a neighbour to merge with, …
const FEW: usize = CAPACITY / 4;
/// … which must leave room for some insertions.
const MERGED_MAX: usize = CAPACITY * 3 / 4;

/// Entries in order; the scores and the numbers of members each side by side.
#[derive(Debug, Clone)]
struct Run {
    len: u32,
    ids: [u32; CAPACITY],
    scores: [f64; CAPACITY],
}

#[derive(Debug, Clone)]
struct Inner {
    firsts: Run,
    counts: [u32; CAPACITY],
    children: SmallVec<[Node; CAPACITY]>,
}

#[derive(Debug, Clone)]
enum Node {
    Leaf(Box<Run>),
    Inner(Box<Inner>),
}

/// See the head of this file.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    root: Node,
    len: usize,
}

/// An entry that is looked for, with the members that numbers stand for.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    pub score: f64,
    pub name: &'a [u8],
    pub members: &'a Slab,
}

/// Which child leads to a place, and where it is in its leaf.
trait Seek {
    fn child(&mut self, inner: &Inner) -> usize;
    fn spot(&self, leaf: &Run) -> usize;
}

impl Seek for Key<'_> {
    fn child(&mut self, inner: &Inner) -> usize {
        inner.child_for(self)
    }

    fn spot(&self, leaf: &Run) -> usize {
        leaf.before(self)
    }
}

/// By rank, counted down from level to level.
struct Rank(usize);

impl Seek for Rank {
    fn child(&mut self, inner: &Inner) -> usize {
        let counts = &inner.counts[..inner.children.len()];
        let last = counts.len() - 1;
        for (i, &count) in counts[..last].iter().enumerate() {
            if self.0 < count as usize {
                return i;
            }
            self.0 -= count as usize;
        }
        last
    }

    fn spot(&self, _: &Run) -> usize {
        self.0
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Node::Leaf(Box::default()), len: 0 }
    }
}

impl Tree {
    /// Adds the entry (`key`, `id`), which must not be there.
    pub(super) fn insert(&mut self, key: Key<'_>, id: u32) {
        let edges = Edges { first: true, last: true };
        if let Some(right) = self.root.insert(&key, id, edges) {
            let left = std::mem::replace(&mut self.root, Node::Leaf(Box::default()));
            self.root = Node::Inner(Box::new(Inner::of([left, right])));
        }
        self.len += 1;
    }

    /// Removes the entry of `key`, which must be there.
    pub(super) fn remove(&mut self, mut key: Key<'_>) {
        self.cut(&mut key, &mut |leaf, at| leaf.remove(at..at + 1));
    }

    /// Removes the entries of a range of ranks and gives their numbers to `f`.
    pub(super) fn remove_ranks(&mut self, ranks: Range<usize>, mut f: impl FnMut(u32)) {
        let mut left = ranks.end.min(self.len).saturating_sub(ranks.start);
        while left > 0 {
            left -= self.cut(&mut Rank(ranks.start), &mut |leaf, at| {
                let part = at..at.saturating_add(left).min(leaf.len());
                leaf.ids[part.clone()].iter().for_each(|&id| f(id));
                leaf.remove(part)
            });
        }
    }

    /// Gives the entry of `key`, number `id`, a new score.
    pub(super) fn rescore(&mut self, mut key: Key<'_>, score: f64, id: u32) {
        let new = Key { score, ..key };
        let moved = self.cut(&mut key, &mut |leaf, at| {
            // An entry at a leaf's end has its neighbour elsewhere.
            if at > 0 && at + 1 < leaf.len() && new.is_behind(leaf, at - 1) && !new.is_behind(leaf, at + 1) {
                leaf.scores[at] = score;
                return 0;
            }
            leaf.remove(at..at + 1)
        });
        if moved > 0 {
            self.insert(new, id);
        }
    }

    /// Leads `change` to the leaf and the place in it that are sought; it returns how many entries it removed there.
    fn cut(&mut self, seek: &mut impl Seek, change: &mut impl FnMut(&mut Run, usize) -> usize) -> usize {
        let removed = self.root.cut(seek, change);
        self.len -= removed;
        while let Node::Inner(inner) = &mut self.root
            && inner.children.len() <= 1
        {
            self.root = inner.children.pop().unwrap_or_else(|| Node::Leaf(Box::default()));
        }
        removed
    }

    /// Number of entries before `key`.
    pub(super) fn rank(&self, key: Key<'_>) -> usize {
        let (mut node, mut rank) = (&self.root, 0);
        loop {
            match node {
                Node::Inner(inner) => {
                    let at = inner.child_for(&key);
                    rank += inner.count(0..at);
                    node = &inner.children[at];
                }
                Node::Leaf(leaf) => return rank + leaf.before(&key),
            }
        }
    }

    /// Number of leading entries for which `before(score, number)` holds: it must hold for a prefix of the order.
    pub(super) fn partition_point(&self, before: impl Fn(f64, u32) -> bool) -> usize {
        let (mut node, mut rank) = (&self.root, 0);
        loop {
            match node {
                Node::Inner(inner) => {
                    let at = inner.firsts.partition_point(&before).saturating_sub(1);
                    rank += inner.count(0..at);
                    node = &inner.children[at];
                }
                Node::Leaf(leaf) => return rank + leaf.partition_point(&before),
            }
        }
    }

    /// Calls `f` for the entries of a range of ranks, in order.
    pub(super) fn for_each(&self, ranks: Range<usize>, mut f: impl FnMut(f64, u32)) {
        self.root.for_each(ranks, &mut f);
    }

    /// The same from the last to the first.
    pub(super) fn for_each_rev(&self, ranks: Range<usize>, mut f: impl FnMut(f64, u32)) {
        self.root.for_each_rev(ranks, &mut f);
    }

    /// Says that the entry of `key` has another number now.
    pub(super) fn renumber(&mut self, key: Key<'_>, old: u32, new: u32) {
        let mut node = &mut self.root;
        loop {
            match node {
                Node::Inner(inner) => {
                    let at = inner.child_for(&key);
                    if inner.firsts.ids[at] == old {
                        inner.firsts.ids[at] = new;
                    }
                    node = &mut inner.children[at];
                }
                Node::Leaf(leaf) => {
                    let at = leaf.before(&key);
                    leaf.ids[at] = new;
                    return;
                }
            }
        }
    }
}

impl Key<'_> {
    /// True if the key's place is behind entry number `at` of `run`.
    fn is_behind(&self, run: &Run, at: usize) -> bool {
        let score = run.scores[at];
        score < self.score || (score == self.score && self.members.name(run.ids[at]) < self.name)
    }
}

impl Default for Run {
    fn default() -> Self {
        Self { len: 0, ids: [0; CAPACITY], scores: [0.0; CAPACITY] }
    }
}

impl Run {
    fn len(&self) -> usize {
        self.len as usize
    }

    fn scores(&self) -> &[f64] {
        &self.scores[..self.len()]
    }

    fn ids(&self) -> &[u32] {
        &self.ids[..self.len()]
    }

    /// Entries of lower score, and entries of lower or equal score. Counting all without a branch is faster at this
    /// size than a binary search, which is mispredicted at every step.
    fn bounds(&self, score: f64) -> (usize, usize) {
        let lower = self.scores().iter().map(|&s| usize::from(s < score)).sum();
        if self.scores().get(lower).is_none_or(|&s| s > score) {
            return (lower, lower);
        }
        (lower, self.scores().iter().map(|&s| usize::from(s <= score)).sum())
    }

    /// Number of entries below the key.
    fn before(&self, key: &Key<'_>) -> usize {
        let (lower, up_to) = self.bounds(key.score);
        lower + self.ids[lower..up_to].partition_point(|&id| key.members.name(id) < key.name)
    }

    /// Number of entries below or at the key.
    fn up_to(&self, key: &Key<'_>) -> usize {
        let (lower, up_to) = self.bounds(key.score);
        lower + self.ids[lower..up_to].partition_point(|&id| key.members.name(id) <= key.name)
    }

    fn partition_point(&self, before: impl Fn(f64, u32) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            if before(self.scores[middle], self.ids[middle]) { low = middle + 1 } else { high = middle }
        }
        low
    }

    fn insert(&mut self, at: usize, score: f64, id: u32) {
        let len = self.len();
        self.scores.copy_within(at..len, at + 1);
        self.ids.copy_within(at..len, at + 1);
        self.scores[at] = score;
        self.ids[at] = id;
        self.len += 1;
    }

    /// Removes the entries of a range; returns how many.
    fn remove(&mut self, range: Range<usize>) -> usize {
        let len = self.len();
        self.scores.copy_within(range.end..len, range.start);
        self.ids.copy_within(range.end..len, range.start);
        self.len -= range.len() as u32;
        range.len()
    }

    /// Moves the entries from `at` on into a new run.
    fn split_off(&mut self, at: usize) -> Self {
        let mut right = Self::default();
        let n = self.len() - at;
        right.scores[..n].copy_from_slice(&self.scores()[at..]);
        right.ids[..n].copy_from_slice(&self.ids()[at..]);
        right.len = n as u32;
        self.len = at as u32;
        right
    }

    fn append(&mut self, right: &Self) {
        let (len, n) = (self.len(), right.len());
        self.scores[len..len + n].copy_from_slice(right.scores());
        self.ids[len..len + n].copy_from_slice(right.ids());
        self.len += right.len;
    }
}

/// Whether a node is the first or last of its level.
#[derive(Clone, Copy)]
struct Edges {
    first: bool,
    last: bool,
}

impl Edges {
    fn of_child(self, at: usize, inner: &Inner) -> Self {
        Self { first: self.first && at == 0, last: self.last && at + 1 == inner.children.len() }
    }

    /// How many entries a full node keeps that is split for a new entry at `at`. Members that come in rising or falling
    /// order of score leave full nodes behind them; others leave halves.
    fn keep(self, at: usize) -> usize {
        match at {
            CAPACITY if self.last => CAPACITY,
            0 if self.first => 0,
            _ => CAPACITY / 2,
        }
    }
}

/// True if the new entry at `at` belongs to the left one of two nodes that are split so.
fn goes_left(at: usize, keep: usize) -> bool {
    at < keep || keep == 0
}

impl Inner {
    fn of(children: [Node; 2]) -> Self {
        let mut inner = Self { firsts: Run::default(), counts: [0; CAPACITY], children: SmallVec::new() };
        children.into_iter().enumerate().for_each(|(at, child)| inner.insert(at, child));
        inner
    }

    /// The child that holds the key, or that it belongs in.
    fn child_for(&self, key: &Key<'_>) -> usize {
        self.firsts.up_to(key).saturating_sub(1)
    }

    fn count(&self, children: Range<usize>) -> usize {
        self.counts[children].iter().map(|&n| n as usize).sum()
    }

    /// Adds a child where there is room.
    fn insert(&mut self, at: usize, child: Node) {
        let (score, id) = child.first();
        self.counts.copy_within(at..self.children.len(), at + 1);
        self.counts[at] = child.count() as u32;
        self.firsts.insert(at, score, id);
        self.children.insert(at, child);
    }

    fn remove(&mut self, at: usize) -> Node {
        self.counts.copy_within(at + 1..self.children.len(), at);
        self.firsts.remove(at..at + 1);
        self.children.remove(at)
    }

    /// Notes what child `at` begins with.
    fn refresh_first(&mut self, at: usize) {
        (self.firsts.scores[at], self.firsts.ids[at]) = self.children[at].first();
    }

    fn split_off(&mut self, at: usize) -> Self {
        let mut counts = [0; CAPACITY];
        let n = self.children.len() - at;
        counts[..n].copy_from_slice(&self.counts[at..at + n]);
        Self { firsts: self.firsts.split_off(at), counts, children: self.children.drain(at..).collect() }
    }

    fn append(&mut self, right: Self) {
        let (len, n) = (self.children.len(), right.children.len());
        self.counts[len..len + n].copy_from_slice(&right.counts[..n]);
        self.firsts.append(&right.firsts);
        self.children.extend(right.children);
    }

    /// After entries of child `at` were removed: drops it if it is empty, merges it if it has few.
    fn tidy(&mut self, at: usize) {
        let len = self.children[at].len();
        if len == 0 {
            self.remove(at);
            return;
        }
        self.refresh_first(at);
        if len >= FEW {
            return;
        }
        let fits = |other: usize| self.children.get(other).is_some_and(|node| node.len() + len <= MERGED_MAX);
        let left = if at > 0 && fits(at - 1) {
            at - 1
        } else if fits(at + 1) {
            at
        } else {
            return;
        };
        let (count, right) = (self.counts[left + 1], self.remove(left + 1));
        self.children[left].append(right);
        self.counts[left] += count;
    }
}

impl Node {
    /// Entries of a leaf, children of an inner node.
    fn len(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.len(),
            Node::Inner(inner) => inner.children.len(),
        }
    }

    /// Entries in it and below it.
    fn count(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.len(),
            Node::Inner(inner) => inner.count(0..inner.children.len()),
        }
    }

    fn first(&self) -> (f64, u32) {
        let run = match self {
            Node::Leaf(leaf) => leaf,
            Node::Inner(inner) => &inner.firsts,
        };
        (run.scores[0], run.ids[0])
    }

    /// Adds an entry; what did not fit comes back as a right neighbour.
    fn insert(&mut self, key: &Key<'_>, id: u32, edges: Edges) -> Option<Node> {
        match self {
            Node::Leaf(leaf) => {
                let at = leaf.before(key);
                if leaf.len() < CAPACITY {
                    leaf.insert(at, key.score, id);
                    return None;
                }
                let keep = edges.keep(at);
                let mut right = Box::new(leaf.split_off(keep));
                if goes_left(at, keep) {
                    leaf.insert(at, key.score, id);
                } else {
                    right.insert(at - keep, key.score, id);
                }
                Some(Node::Leaf(right))
            }
            Node::Inner(inner) => {
                let at = inner.child_for(key);
                let edges_below = edges.of_child(at, inner);
                let new = inner.children[at].insert(key, id, edges_below);
                inner.refresh_first(at);
                let Some(new) = new else {
                    inner.counts[at] += 1;
                    return None;
                };
                inner.counts[at] = inner.children[at].count() as u32;
                let at = at + 1;
                if inner.children.len() < CAPACITY {
                    inner.insert(at, new);
                    return None;
                }
                // The new child is never the first one, so the left node is not left empty.
                let keep = edges.keep(at);
                let mut right = Box::new(inner.split_off(keep));
                if goes_left(at, keep) {
                    inner.insert(at, new)
                } else {
                    right.insert(at - keep, new)
                }
                Some(Node::Inner(right))
            }
        }
    }

    fn cut(&mut self, seek: &mut impl Seek, change: &mut impl FnMut(&mut Run, usize) -> usize) -> usize {
        match self {
            Node::Leaf(leaf) => {
                let at = seek.spot(leaf);
                change(leaf, at)
            }
            Node::Inner(inner) => {
                let at = seek.child(inner);
                let removed = inner.children[at].cut(seek, change);
                if removed > 0 {
                    inner.counts[at] -= removed as u32;
                    inner.tidy(at);
                }
                removed
            }
        }
    }

    /// Takes in its right neighbour, of the same level.
    fn append(&mut self, right: Node) {
        match (self, right) {
            (Node::Leaf(left), Node::Leaf(right)) => left.append(&right),
            (Node::Inner(left), Node::Inner(right)) => left.append(*right),
            _ => unreachable!("all leaves are equally deep"),
        }
    }

    fn for_each(&self, ranks: Range<usize>, f: &mut impl FnMut(f64, u32)) {
        match self {
            Node::Leaf(leaf) => {
                let ranks = ranks.start.min(leaf.len())..ranks.end.min(leaf.len());
                leaf.scores[ranks.clone()].iter().zip(&leaf.ids[ranks]).for_each(|(&score, &id)| f(score, id));
            }
            Node::Inner(inner) => inner.overlapping(ranks).for_each(|(child, ranks)| child.for_each(ranks, f)),
        }
    }

    fn for_each_rev(&self, ranks: Range<usize>, f: &mut impl FnMut(f64, u32)) {
        match self {
            Node::Leaf(leaf) => {
                let ranks = ranks.start.min(leaf.len())..ranks.end.min(leaf.len());
                leaf.scores[ranks.clone()].iter().zip(&leaf.ids[ranks]).rev().for_each(|(&score, &id)| f(score, id));
            }
            Node::Inner(inner) => {
                let children: SmallVec<[_; CAPACITY]> = inner.overlapping(ranks).collect();
                children.into_iter().rev().for_each(|(child, ranks)| child.for_each_rev(ranks, f));
            }
        }
    }
}

impl Inner {
    /// Children that hold entries of a range of ranks, each with its part of the range in ranks of its own.
    fn overlapping(&self, ranks: Range<usize>) -> impl Iterator<Item = (&Node, Range<usize>)> {
        let mut before = 0;
        self.children.iter().zip(&self.counts).filter_map(move |(child, &count)| {
            let count = count as usize;
            let own = ranks.start.saturating_sub(before)..ranks.end.saturating_sub(before).min(count);
            before += count;
            (own.start < own.end).then_some((child, own))
        })
    }
}

#[cfg(test)]
impl Tree {
    /// Panics where an invariant does not hold.
    pub(super) fn check(&self) {
        fn check(node: &Node, root: bool) -> (usize, usize) {
            assert!(root || node.len() > 0, "no empty nodes");
            match node {
                Node::Leaf(leaf) => (leaf.len(), 1),
                Node::Inner(inner) => {
                    let mut depth = None;
                    assert_eq!(inner.children.len(), inner.firsts.len());
                    for (i, child) in inner.children.iter().enumerate() {
                        let (count, below) = check(child, false);
                        assert_eq!(inner.counts[i] as usize, count, "counts are those of the children");
                        assert_eq!((inner.firsts.scores[i], inner.firsts.ids[i]), child.first(), "firsts too");
                        assert_eq!(*depth.get_or_insert(below), below, "leaves are equally deep");
                    }
                    (node.count(), depth.expect("no empty nodes") + 1)
                }
            }
        }
        assert_eq!(check(&self.root, true).0, self.len);
    }

    /// Mean number of entries of a leaf.
    pub(super) fn fill(&self) -> f64 {
        fn leaves(node: &Node) -> usize {
            match node {
                Node::Leaf(_) => 1,
                Node::Inner(inner) => inner.children.iter().map(leaves).sum(),
            }
        }
        self.len as f64 / leaves(&self.root) as f64
    }
}
