//! A vector whose growth never costs more than a piece of it: beyond the first piece nothing is moved, a piece is added.

use std::ops::{Index, IndexMut};

/// Elements of a piece; a power of two.
const PIECE: usize = 512;

/// See the head of this file. As long as one piece is enough it is an ordinary vector.
#[derive(Debug)]
pub(super) struct Pieces<T> {
    /// All but the last one are full.
    pieces: Vec<Vec<T>>,
}

impl<T> Default for Pieces<T> {
    fn default() -> Self {
        Self { pieces: Vec::new() }
    }
}

impl<T> Pieces<T> {
    pub(super) fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len())
    }

    /// Bytes that are held.
    pub(super) fn bytes(&self) -> usize {
        let elements: usize = self.pieces.iter().map(Vec::capacity).sum();
        elements * size_of::<T>() + self.pieces.capacity() * size_of::<Vec<T>>()
    }

    pub(super) fn push(&mut self, value: T) {
        match self.pieces.last_mut().filter(|last| last.len() < PIECE) {
            Some(last) => last.push(value),
            None => {
                let mut piece = Vec::with_capacity(if self.pieces.is_empty() { 1 } else { PIECE });
                piece.push(value);
                self.pieces.push(piece);
            }
        }
    }

    /// Removes an element; the last one takes its place.
    pub(super) fn swap_remove(&mut self, at: usize) -> T {
        let piece = self.pieces.last_mut().expect("there is an element to remove");
        let last = piece.pop().expect("no piece is empty");
        if piece.is_empty() {
            self.pieces.pop();
        } else if piece.capacity() > 4 * piece.len() + 8 && self.pieces.len() == 1 {
            let piece = &mut self.pieces[0];
            piece.shrink_to(2 * piece.len());
        }
        if at == self.len() { last } else { std::mem::replace(&mut self[at], last) }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }
}

impl<T> Index<usize> for Pieces<T> {
    type Output = T;

    #[inline]
    fn index(&self, at: usize) -> &T {
        &self.pieces[at / PIECE][at % PIECE]
    }
}

impl<T> IndexMut<usize> for Pieces<T> {
    #[inline]
    fn index_mut(&mut self, at: usize) -> &mut T {
        &mut self.pieces[at / PIECE][at % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_behaves_like_a_vector() {
        let (mut pieces, mut model, mut rng) = (Pieces::default(), Vec::new(), crate::Rng::new(1));
        for step in 0..20_000usize {
            // It grows to a few thousand, then shrinks to nothing.
            if model.is_empty() || rng.below(20_000) > step {
                pieces.push(step);
                model.push(step);
            } else {
                let at = rng.below(model.len());
                assert_eq!(pieces.swap_remove(at), model.swap_remove(at), "{step}");
            }
            assert_eq!(pieces.len(), model.len(), "{step}");
            if let Some(&last) = model.last() {
                let at = rng.below(model.len());
                assert_eq!((pieces[at], pieces[model.len() - 1]), (model[at], last), "{step}");
            }
        }
        assert!(pieces.iter().eq(&model));
        while !model.is_empty() {
            assert_eq!(pieces.swap_remove(0), model.swap_remove(0));
        }
        assert_eq!((pieces.len(), pieces.iter().next()), (0, None));
    }

    #[test]
    fn nothing_moves_when_it_grows_and_little_is_held() {
        let mut pieces = Pieces::default();
        (0..PIECE as u64).for_each(|n| pieces.push(n));
        let first = &raw const pieces[0];
        (0..10 * PIECE as u64).for_each(|n| pieces.push(n));
        assert_eq!(&raw const pieces[0], first);
        assert!(pieces.bytes() < 8 * (11 * PIECE + PIECE / 2));
        while pieces.len() > 3 {
            pieces.swap_remove(0);
        }
        assert!(pieces.bytes() < 1000, "{} bytes", pieces.bytes());
    }
}
