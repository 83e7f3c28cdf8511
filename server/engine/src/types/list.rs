//! Lists: a deque of listpacks of bounded size, Redis's quicklist.
//!
//! Pushes and pops touch the node at their end, and move nothing there: a node has room at either end. What works by index
//! walks the nodes from the nearer end. A value that is larger than a node may be has a node to itself, so no change ever
//! moves more bytes than a node holds.
//!
//! A small list is a single listpack, as in Redis 7.2 (7.0 has quicklists only), and OBJECT ENCODING tells which it is:
//! it becomes a quicklist before it takes values with which it would be larger than a node may be, and one of a single
//! node becomes a listpack when it is down to half of that.

use std::collections::VecDeque;

use super::Kind;
use super::listpack::{Item, Listpack};
use crate::Limits;

/// See the head of this file.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// No node is empty. A listpack has one.
    nodes: VecDeque<Listpack>,
    len: usize,
    quicklist: bool,
}

/// Where an element is: node number and position in it.
type Spot = (usize, usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Left,
    Right,
}

impl Kind for List {
    const TYPE: &'static str = "list";

    fn new(_: &Limits) -> Self {
        Self::default()
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn encoding(&self) -> &'static str {
        if self.quicklist { "quicklist" } else { "listpack" }
    }

    crate::kind_of_object!(List);
}

/// Bytes of a node by default, and at most where list-max-listpack-size limits the number of elements.
const NODE_BYTES: usize = 8192;
/// A node beside others has room for values of so many bytes from the start: the list goes on growing, probably.
const NEXT_BYTES: usize = 512 - Listpack::EMPTY_BYTES;
/// The longest that a listpack needs beside a value: 5 bytes of encoding, 5 of back-length.
const OVERHEAD: usize = 10;

/// What `list-max-listpack-size` says about a node.
enum NodeMax {
    Elements(usize),
    Bytes(usize),
}

fn node_max(limits: &Limits) -> NodeMax {
    match limits.list_max_listpack_size {
        n @ 0.. => NodeMax::Elements(n.max(1) as usize),
        n => NodeMax::Bytes(4096 << (-n - 1).min(4)),
    }
}

/// True if a node may hold so many bytes and elements.
fn fits(bytes: usize, elements: impl FnOnce() -> usize, limits: &Limits) -> bool {
    match node_max(limits) {
        NodeMax::Elements(max) => bytes <= NODE_BYTES && elements() <= max,
        NodeMax::Bytes(max) => bytes <= max,
    }
}

/// True if a node may take one more value of this length.
fn has_room(node: &Listpack, value: &[u8], limits: &Limits) -> bool {
    fits(node.as_bytes().len() + value.len() + OVERHEAD, || node.len() + 1, limits)
}

fn add(node: &mut Listpack, end: End, value: &[u8]) {
    match end {
        End::Left => node.push_front(value),
        End::Right => node.push_back(value),
    }
}

fn single(value: &[u8]) -> Listpack {
    let mut node = Listpack::default();
    node.push_back(value);
    node
}

#[expect(clippy::len_without_is_empty, reason = "`Kind` has it")]
impl List {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Listpack> {
        self.nodes.iter()
    }

    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// An empty one that becomes what it is to be when it is filled: see [`List::settle`].
    pub fn to_be_filled() -> Self {
        Self { quicklist: true, ..Self::default() }
    }

    /// Bytes that the list takes, or would take, as a single listpack.
    fn bytes(&self) -> usize {
        self.nodes.iter().map(|node| node.as_bytes().len() - Listpack::EMPTY_BYTES).sum::<usize>()
            + Listpack::EMPTY_BYTES
    }

    /// To be called before values of so many bytes are added: with too many of them it is a listpack no more.
    pub fn prepare(&mut self, bytes: usize, values: usize, limits: &Limits) {
        if !self.quicklist && !fits(self.bytes() + bytes, || self.len + values, limits) {
            self.quicklist = true;
        }
    }

    /// To be called when values were removed: makes a listpack of what has shrunk to half of one.
    pub fn shrunk(&mut self, limits: &Limits) {
        self.become_listpack(2, limits);
    }

    /// To be called when the list was filled: makes a listpack of what is one.
    pub fn settle(&mut self, limits: &Limits) {
        self.become_listpack(1, limits);
    }

    fn become_listpack(&mut self, part: usize, limits: &Limits) {
        if !self.quicklist || self.nodes.len() > 1 {
            return;
        }
        self.quicklist = match node_max(limits) {
            NodeMax::Elements(max) => self.len > max / part,
            NodeMax::Bytes(max) => self.bytes() > max / part,
        };
    }

    /// Adds a whole node that was read from an RDB file.
    pub fn push_node(&mut self, node: Listpack) {
        if !node.is_empty() {
            self.len += node.len();
            self.nodes.push_back(node);
        }
    }

    pub fn push(&mut self, end: End, value: &[u8], limits: &Limits) {
        self.push_all(end, std::iter::once(value), limits);
    }

    /// Adds one value after the other.
    pub fn push_all<'v>(&mut self, end: End, values: impl Iterator<Item = &'v [u8]> + Clone, limits: &Limits) {
        let (bytes, n) = values.clone().fold((0, 0), |(bytes, n), value| (bytes + value.len(), n + 1));
        self.prepare(bytes, n, limits);
        values.for_each(|value| self.push_one(end, value, limits));
    }

    fn push_one(&mut self, end: End, value: &[u8], limits: &Limits) {
        self.len += 1;
        let whole = !self.quicklist;
        let node = match end {
            End::Left => self.nodes.front_mut(),
            End::Right => self.nodes.back_mut(),
        };
        match node {
            Some(node) if whole || has_room(node, value, limits) => add(node, end, value),
            Some(full) => {
                // What is behind the ends seldom grows any more.
                full.shrink_to_fit();
                let mut node = Listpack::with_capacity(NEXT_BYTES.max(value.len() + OVERHEAD), end == End::Left);
                add(&mut node, end, value);
                match end {
                    End::Left => self.nodes.push_front(node),
                    End::Right => self.nodes.push_back(node),
                }
            }
            None => {
                self.nodes.reserve_exact(1);
                self.nodes.push_back(single(value));
            }
        }
    }

    /// Removes the element at an end and gives it to `f`.
    pub fn pop<R>(&mut self, end: End, f: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (node, pos) = match end {
            End::Left => self.nodes.front_mut().map(|n| (n.first(), n)),
            End::Right => self.nodes.back_mut().map(|n| (n.last(), n)),
        }
        .and_then(|(pos, node)| Some((node, pos?)))?;
        let result = f(&node.get(pos).bytes());
        node.remove(pos, 1);
        if node.is_empty() {
            match end {
                End::Left => self.nodes.pop_front(),
                End::Right => self.nodes.pop_back(),
            };
        }
        self.len -= 1;
        Some(result)
    }

    /// The spot of element number `index`, found from the nearer end.
    fn spot(&self, index: usize) -> Option<Spot> {
        if index >= self.len {
            return None;
        }
        if index <= self.len / 2 {
            let mut rest = index;
            for (i, node) in self.nodes.iter().enumerate() {
                let len = node.len();
                if rest < len {
                    return Some((i, node.nth(rest)?));
                }
                rest -= len;
            }
        } else {
            let mut rest = self.len - 1 - index;
            for (i, node) in self.nodes.iter().enumerate().rev() {
                let len = node.len();
                if rest < len {
                    return Some((i, node.nth(len - 1 - rest)?));
                }
                rest -= len;
            }
        }
        None
    }

    /// Number from an index that may count from the end.
    pub fn index(&self, index: i64) -> Option<usize> {
        let at = if index < 0 { index.checked_add(self.len as i64)? } else { index };
        usize::try_from(at).ok().filter(|&at| at < self.len)
    }

    pub fn get(&self, index: usize) -> Option<Item<'_>> {
        self.spot(index).map(|(node, pos)| self.nodes[node].get(pos))
    }

    /// Gives element number `index` another value; `false` if there is no such element.
    pub fn set(&mut self, index: usize, value: &[u8], limits: &Limits) -> bool {
        self.prepare(value.len(), 1, limits);
        let Some((number, pos)) = self.spot(index) else { return false };
        let whole = !self.quicklist;
        let node = &mut self.nodes[number];
        let shorter = matches!(node.get(pos), Item::Str(old) if value.len() <= old.len());
        if whole || shorter || node.len() == 1 || has_room(node, value, limits) {
            node.replace(pos, value);
        } else {
            self.remove_range(index..index + 1);
            self.insert(index, value, limits);
        }
        true
    }

    /// Calls `f` for the elements from number `start` on, forwards, until it says `false`.
    pub fn for_each_from(&self, start: usize, mut f: impl FnMut(usize, Item<'_>) -> bool) {
        let Some((node, pos)) = self.spot(start) else { return };
        let mut index = start;
        let mut at = Some(pos);
        for list in self.nodes.iter().skip(node) {
            let mut pos = at.take().or_else(|| list.first());
            while let Some(p) = pos {
                if !f(index, list.get(p)) {
                    return;
                }
                index += 1;
                pos = list.next(p);
            }
        }
    }

    /// The same backwards from number `start`.
    pub fn for_each_back_from(&self, start: usize, mut f: impl FnMut(usize, Item<'_>) -> bool) {
        let Some((node, pos)) = self.spot(start) else { return };
        let mut index = start;
        let mut at = Some(pos);
        for list in self.nodes.iter().take(node + 1).rev() {
            let mut pos = at.take().or_else(|| list.last());
            while let Some(p) = pos {
                if !f(index, list.get(p)) {
                    return;
                }
                index = index.wrapping_sub(1);
                pos = list.prev(p);
            }
        }
    }

    /// Inserts before element number `index`.
    pub fn insert(&mut self, index: usize, value: &[u8], limits: &Limits) {
        if index >= self.len {
            return self.push(End::Right, value, limits);
        }
        self.prepare(value.len(), 1, limits);
        let Some((number, pos)) = self.spot(index) else { return };
        self.len += 1;
        let node = &mut self.nodes[number];
        if !self.quicklist || has_room(node, value, limits) {
            return node.insert(pos, value);
        }
        let before = if node.prev(pos).is_some() {
            let tail = node.split_off(pos);
            self.nodes.insert(number + 1, tail);
            Some(number)
        } else {
            number.checked_sub(1)
        };
        // The value now belongs between nodes `before` and `behind`.
        let behind = before.map_or(0, |at| at + 1);
        if let Some(at) = before.filter(|&at| has_room(&self.nodes[at], value, limits)) {
            self.nodes[at].push_back(value);
        } else if has_room(&self.nodes[behind], value, limits) {
            self.nodes[behind].push_front(value);
        } else {
            self.nodes.insert(behind, single(value));
        }
    }

    /// Removes the elements of a range of numbers.
    pub fn remove_range(&mut self, range: std::ops::Range<usize>) {
        let mut left = range.len().min(self.len.saturating_sub(range.start));
        while left > 0 {
            let Some((number, pos)) = self.spot(range.start) else { return };
            let node = &mut self.nodes[number];
            let before = node.len();
            let removed = if before <= left && node.first() == Some(pos) {
                self.nodes.remove(number);
                before
            } else {
                node.remove(pos, left);
                before - node.len()
            };
            left -= removed;
            self.len -= removed;
        }
    }

    /// Removes up to `max` elements equal to `value`, from `end` on; returns how many.
    pub fn remove_value(&mut self, end: End, value: &[u8], max: usize) -> usize {
        let (mut removed, wanted) = (0, Item::of(value));
        let order: Vec<usize> = match end {
            End::Left => (0..self.nodes.len()).collect(),
            End::Right => (0..self.nodes.len()).rev().collect(),
        };
        for number in order {
            let node = &mut self.nodes[number];
            let mut at = if end == End::Left { node.first() } else { node.last() };
            while let Some(pos) = at.filter(|_| removed < max) {
                if node.get(pos) == wanted {
                    let prev = node.prev(pos);
                    node.remove(pos, 1);
                    removed += 1;
                    at = match end {
                        End::Left => Some(pos).filter(|&p| p + 1 < node.as_bytes().len()),
                        End::Right => prev,
                    };
                } else {
                    at = if end == End::Left { node.next(pos) } else { node.prev(pos) };
                }
            }
        }
        self.len -= removed;
        self.nodes.retain(|node| !node.is_empty());
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Op {
        Push(End, Vec<u8>),
        Pop(End),
        Insert(prop::sample::Index, Vec<u8>),
        Set(prop::sample::Index, Vec<u8>),
        RemoveRange(prop::sample::Index, usize),
        RemoveValue(End, prop::sample::Index, usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        let end = || prop_oneof![Just(End::Left), Just(End::Right)];
        let at = any::<prop::sample::Index>;
        let value = || {
            prop_oneof![
                6 => (0i64..40).prop_map(|n| n.to_string().into_bytes()),
                4 => (b'a'..b'e', 1usize..3000).prop_map(|(byte, len)| vec![byte; len]),
                1 => (b'a'..b'c', 8000usize..20_000).prop_map(|(byte, len)| vec![byte; len]),
            ]
        };
        prop_oneof![
            6 => (end(), value()).prop_map(|(end, value)| Op::Push(end, value)),
            2 => end().prop_map(Op::Pop),
            3 => (at(), value()).prop_map(|(at, value)| Op::Insert(at, value)),
            3 => (at(), value()).prop_map(|(at, value)| Op::Set(at, value)),
            1 => (at(), 0usize..12).prop_map(|(at, n)| Op::RemoveRange(at, n)),
            1 => (end(), at(), 1usize..4).prop_map(|(end, at, n)| Op::RemoveValue(end, at, n)),
        ]
    }

    fn run(ops: Vec<Op>, limits: &Limits) -> Result<(), TestCaseError> {
        let (mut list, mut model) = (List::default(), VecDeque::<Vec<u8>>::new());
        for op in ops {
            match op {
                Op::Push(end, value) => {
                    list.push(end, &value, limits);
                    if end == End::Left { model.push_front(value) } else { model.push_back(value) }
                }
                Op::Pop(end) => {
                    let want = if end == End::Left { model.pop_front() } else { model.pop_back() };
                    prop_assert_eq!(list.pop(end, <[u8]>::to_vec), want);
                }
                Op::Insert(at, value) => {
                    let at = at.index(model.len() + 1);
                    list.insert(at, &value, limits);
                    model.insert(at, value);
                }
                Op::Set(at, value) => {
                    let at = at.index(model.len() + 1);
                    prop_assert_eq!(list.set(at, &value, limits), at < model.len());
                    if let Some(element) = model.get_mut(at) {
                        *element = value;
                    }
                }
                Op::RemoveRange(at, n) => {
                    let at = at.index(model.len() + 1);
                    list.remove_range(at..at + n);
                    model.drain(at..(at + n).min(model.len()));
                }
                Op::RemoveValue(end, at, n) => {
                    let Some(value) = model.get(at.index(model.len().max(1))).cloned() else { continue };
                    let mut left = n.min(model.iter().filter(|v| **v == value).count());
                    prop_assert_eq!(list.remove_value(end, &value, n), left);
                    while left > 0 {
                        let same = |v: &Vec<u8>| *v == value;
                        let at =
                            if end == End::Left { model.iter().position(same) } else { model.iter().rposition(same) };
                        model.remove(at.expect("they were counted"));
                        left -= 1;
                    }
                }
            }
            list.shrunk(limits);
            check(&list, &model, limits)?;
        }
        Ok(())
    }

    /// As commands do it.
    fn shrink(list: &mut List, by: impl FnOnce(&mut List), limits: &Limits) -> &'static str {
        by(list);
        list.shrunk(limits);
        list.encoding()
    }

    #[test]
    fn a_list_is_a_listpack_as_long_and_again_as_soon_as_redis_says() {
        let limits = |size| Limits { list_max_listpack_size: size, ..Limits::default() };
        for (size, elements) in [(0, 1), (1, 1), (2, 2), (4, 4), (128, 128)] {
            for end in [End::Left, End::Right] {
                let (limits, mut list) = (limits(size), List::default());
                for i in 0..elements {
                    list.push(end, b"v", &limits);
                    assert_eq!(list.encoding(), "listpack", "{size}: {i}");
                }
                list.push(end, b"v", &limits);
                assert_eq!(list.encoding(), "quicklist", "{size}");
                // Down to half of it; a limit of one element has no half.
                let back = std::iter::from_fn(|| {
                    (list.len() > 1).then(|| shrink(&mut list, |l| _ = l.pop(end, |_| ()), &limits))
                });
                let listpack_at = back.take_while(|encoding| *encoding == "quicklist").count();
                let left = elements + 1 - listpack_at - 1;
                assert_eq!(
                    (list.encoding() == "listpack").then_some(left),
                    (elements > 1).then_some(elements / 2),
                    "{size}"
                );
            }
        }
        for (size, bytes) in [(-1, 4096), (-2, 8192), (-3, 16384), (-4, 32768), (-5, 65536), (-9, 65536)] {
            let (limits, mut list) = (limits(size), List::default());
            list.push(End::Right, &vec![b'x'; bytes - 7], &limits);
            assert_eq!(list.encoding(), "listpack", "{size}");
            list.push(End::Right, b"", &limits);
            assert_eq!(list.encoding(), "quicklist", "{size}");
            let mut list = List::default();
            list.push(End::Left, &vec![b'x'; bytes - 6], &limits);
            assert_eq!(list.encoding(), "quicklist", "{size}");
            // A large value makes place for a small one.
            list.push(End::Right, b"y", &limits);
            let encoding = shrink(&mut list, |l| assert!(l.set(0, b"x", &limits)), &limits);
            assert_eq!((encoding, list.node_count()), ("quicklist", 2), "it has two nodes");
            assert_eq!(shrink(&mut list, |l| _ = l.pop(End::Left, |_| ()), &limits), "listpack", "{size}");
        }
    }

    #[test]
    fn the_limit_of_the_moment_counts() {
        let limits = |size| Limits { list_max_listpack_size: size, ..Limits::default() };
        let mut list = List::default();
        (0..100).for_each(|_| list.push(End::Left, &[b'x'; 20], &limits(-2)));
        assert_eq!(list.encoding(), "listpack");
        list.prepare(0, 0, &limits(3));
        assert_eq!((list.encoding(), list.node_count()), ("quicklist", 1), "what is there stays together");
        list.push(End::Right, b"y", &limits(3));
        assert_eq!(list.node_count(), 2);
        list.remove_range(50..101);
        list.shrunk(&limits(3));
        assert_eq!(list.encoding(), "quicklist");
        list.shrunk(&limits(-2));
        assert_eq!(list.encoding(), "listpack");
        let mut filled = List::to_be_filled();
        (0..3).for_each(|_| filled.push(End::Right, b"z", &limits(3)));
        filled.shrunk(&limits(3));
        assert_eq!(filled.encoding(), "quicklist", "it is more than half of a listpack");
        filled.settle(&limits(3));
        assert_eq!(filled.encoding(), "listpack");
    }

    fn check(list: &List, model: &VecDeque<Vec<u8>>, limits: &Limits) -> Result<(), TestCaseError> {
        prop_assert_eq!(list.len(), model.len());
        let (mut forwards, mut backwards) = (Vec::new(), Vec::new());
        list.for_each_from(0, |i, item| {
            forwards.push((i, item.bytes().into_owned()));
            true
        });
        list.for_each_back_from(list.len().wrapping_sub(1), |i, item| {
            backwards.push((i, item.bytes().into_owned()));
            true
        });
        backwards.reverse();
        prop_assert_eq!(&forwards, &backwards);
        prop_assert!(forwards.into_iter().eq(model.iter().cloned().enumerate()));
        prop_assert!(list.quicklist || list.node_count() <= 1, "{} nodes of a listpack", list.node_count());
        for node in list.nodes() {
            // A listpack takes values by their own length: one of them may be too much.
            let (bytes, elements) = (node.as_bytes().len() - OVERHEAD.min(node.as_bytes().len()), node.len());
            prop_assert!(elements > 0, "no node is empty");
            prop_assert!(elements == 1 || fits(bytes, || elements, limits), "{elements} elements, {bytes} bytes");
        }
        for at in 0..=model.len() {
            prop_assert_eq!(list.get(at).map(|item| item.bytes().into_owned()), model.get(at).cloned());
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_list_is_a_deque(ops in prop::collection::vec(op(), 1..80), size in -5i64..4) {
            run(ops, &Limits { list_max_listpack_size: size, ..Limits::default() })?;
        }
    }

    #[test]
    fn large_values_do_not_make_large_nodes() {
        let limits = Limits::default();
        let mut list = List::default();
        (0..1000).for_each(|i| list.push(End::Right, i.to_string().as_bytes(), &limits));
        assert_eq!((list.node_count(), list.encoding()), (1, "listpack"));
        (0..1000).for_each(|i| assert!(list.set(i, &[b'x'; 5000], &limits)));
        assert_eq!((list.len(), list.node_count(), list.encoding()), (1000, 1000, "quicklist"));
        let mut list = List::default();
        list.push(End::Left, &[b'x'; 100_000], &limits);
        assert_eq!(list.encoding(), "quicklist");
    }

    #[test]
    fn a_list_keeps_little_room_to_spare() {
        let limits = Limits::default();
        let mut list = List::default();
        (0..1000).for_each(|_| list.push(End::Left, &[b'x'; 1000], &limits));
        let (used, room) =
            list.nodes().fold((0, 0), |(used, room), n| (used + n.as_bytes().len(), room + n.capacity()));
        assert!(room < used + used / 50, "{room} bytes of room for {used}");
    }

    #[test]
    fn a_node_for_a_large_value_is_made_at_once_in_its_size() {
        let limits = Limits::default();
        for end in [End::Left, End::Right] {
            let mut list = List::default();
            (0..3).for_each(|_| list.push(end, &[b'x'; 100_000], &limits));
            let node = if end == End::Left { list.nodes().next() } else { list.nodes().last() }.expect("three");
            let used = node.as_bytes().len();
            assert!(node.capacity() <= used + OVERHEAD, "{} bytes for {used}", node.capacity());
        }
    }
}
