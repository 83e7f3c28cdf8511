//! Lists: a deque of listpacks of bounded size.

use std::collections::VecDeque;

use super::Kind;
use super::listpack::{Item, Listpack};
use crate::Limits;

/// Redis's quicklist: pushes and pops at both ends touch one node.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// No node is empty.
    nodes: VecDeque<Listpack>,
    len: usize,
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

    /// As Redis 7.2: one node is a `listpack`, more are a `quicklist` (7.0 says `quicklist` always).
    fn encoding(&self) -> &'static str {
        if self.nodes.len() <= 1 { "listpack" } else { "quicklist" }
    }

    crate::kind_of_object!(List);
}

/// True if a node may take one more value of this length.
fn has_room(node: &Listpack, value: &[u8], limits: &Limits) -> bool {
    // Longest overhead of an entry: 5 bytes of encoding and 5 of back-length.
    let bytes = node.as_bytes().len() + value.len() + 10;
    match limits.list_max_listpack_size {
        n @ 0.. => node.len() < n.max(1) as usize && bytes <= 8192.max(value.len()),
        n => bytes <= 4096 << (-n - 1).min(4),
    }
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

    /// Adds a whole node that was read from an RDB file.
    pub fn push_node(&mut self, node: Listpack) {
        if !node.is_empty() {
            self.len += node.len();
            self.nodes.push_back(node);
        }
    }

    pub fn push(&mut self, end: End, value: &[u8], limits: &Limits) {
        self.len += 1;
        let node = match end {
            End::Left => self.nodes.front_mut(),
            End::Right => self.nodes.back_mut(),
        };
        match (node, end) {
            (Some(node), End::Left) if has_room(node, value, limits) => node.push_front(value),
            (Some(node), End::Right) if has_room(node, value, limits) => node.push_back(value),
            (_, end) => {
                let mut node = Listpack::default();
                node.push_back(value);
                match end {
                    End::Left => self.nodes.push_front(node),
                    End::Right => self.nodes.push_back(node),
                }
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

    pub fn set(&mut self, index: usize, value: &[u8]) -> bool {
        let Some((node, pos)) = self.spot(index) else { return false };
        self.nodes[node].replace(pos, value);
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
        let Some((number, pos)) = self.spot(index) else { return };
        let node = &mut self.nodes[number];
        if !has_room(node, value, limits) {
            // Split at the spot; the value goes to the end of the first half.
            let mut tail = Listpack::default();
            let mut at = Some(pos);
            while let Some(p) = at {
                tail.push_back(&node.get(p).bytes());
                at = node.next(p);
            }
            node.remove(pos, usize::MAX);
            let mut middle = Listpack::default();
            middle.push_back(value);
            self.nodes.insert(number + 1, middle);
            self.nodes.insert(number + 2, tail);
            if self.nodes[number].is_empty() {
                self.nodes.remove(number);
            }
        } else {
            node.insert(pos, value);
        }
        self.len += 1;
    }

    /// Removes the elements of a range of numbers.
    pub fn remove_range(&mut self, range: std::ops::Range<usize>) {
        let mut left = range.len().min(self.len.saturating_sub(range.start));
        while left > 0 {
            let Some((number, pos)) = self.spot(range.start) else { return };
            let node = &mut self.nodes[number];
            let before = node.len();
            node.remove(pos, left);
            let removed = before - node.len();
            left -= removed;
            self.len -= removed;
            if node.is_empty() {
                self.nodes.remove(number);
            }
        }
    }

    /// Removes up to `max` elements equal to `value`, from `end` on; returns how many.
    pub fn remove_value(&mut self, end: End, value: &[u8], max: usize) -> usize {
        let mut removed = 0;
        let order: Vec<usize> = match end {
            End::Left => (0..self.nodes.len()).collect(),
            End::Right => (0..self.nodes.len()).rev().collect(),
        };
        for number in order {
            let node = &mut self.nodes[number];
            let mut at = if end == End::Left { node.first() } else { node.last() };
            while let Some(pos) = at.filter(|_| removed < max) {
                if node.get(pos).is(value) {
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

    proptest! {
        #[test]
        fn a_list_is_a_deque(ops in prop::collection::vec((0u8..8, any::<prop::sample::Index>(), 0u8..20, 1usize..3000), 1..80)) {
            let limits = Limits::default();
            let (mut list, mut model) = (List::default(), VecDeque::<Vec<u8>>::new());
            for (op, index, byte, len) in ops {
                let value = vec![b'a' + byte; len];
                let at = index.index(model.len() + 1);
                match op {
                    0 => { list.push(End::Left, &value, &limits); model.push_front(value); }
                    1 | 2 => { list.push(End::Right, &value, &limits); model.push_back(value); }
                    3 => { prop_assert_eq!(list.pop(End::Left, <[u8]>::to_vec), model.pop_front()); }
                    4 => { list.insert(at, &value, &limits); model.insert(at, value); }
                    5 => { list.remove_range(at..at + 2); model.drain(at..(at + 2).min(model.len())); }
                    6 => {
                        let want = model.get(at).cloned();
                        prop_assert_eq!(list.get(at).map(|i| i.bytes().into_owned()), want.clone());
                        if let Some(value) = want {
                            prop_assert_eq!(list.remove_value(End::Right, &value, 1), 1);
                            let last = model.iter().rposition(|v| *v == value).expect("it was read there");
                            model.remove(last);
                        }
                    }
                    _ => { prop_assert_eq!(list.set(at, &value), at < model.len()); if at < model.len() { model[at] = value; } }
                }
                prop_assert_eq!(list.len(), model.len());
                let mut got = Vec::new();
                list.for_each_from(0, |_, item| { got.push(item.bytes().into_owned()); true });
                prop_assert!(got.iter().eq(model.iter()));
            }
        }
    }
}
