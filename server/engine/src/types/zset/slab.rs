//! The members of a large sorted set under 32-bit numbers.
//!
//! A member takes 32 bytes with its score, and up to 22 bytes of it need no allocation of their own. Pages keep their
//! place, so growing copies nothing. Where more than half of the numbers are free the set moves its last members into
//! free places ([`Slab::surplus`]), so a set that shrank gives memory back.

/// Members of a page: 16 KiB.
const PAGE: usize = 512;
const INLINE_MAX: usize = 22;

#[derive(Debug, Clone)]
enum Name {
    Free,
    Inline { len: u8, bytes: [u8; INLINE_MAX] },
    Heap(Box<[u8]>),
}

#[derive(Debug, Clone)]
struct Member {
    score: f64,
    name: Name,
}

/// See the head of this file.
#[derive(Debug, Clone, Default)]
pub(super) struct Slab {
    /// All pages but the last are full; numbers are positions.
    pages: Vec<Vec<Member>>,
    /// Numbers to be used again; those at or above [`Slab::end`] are stale.
    free: Vec<u32>,
    len: usize,
}

impl Name {
    fn new(bytes: &[u8]) -> Self {
        match u8::try_from(bytes.len()) {
            Ok(len) if bytes.len() <= INLINE_MAX => {
                let mut inline = [0; INLINE_MAX];
                inline[..bytes.len()].copy_from_slice(bytes);
                Name::Inline { len, bytes: inline }
            }
            _ => Name::Heap(bytes.into()),
        }
    }

    #[inline]
    fn get(&self) -> Option<&[u8]> {
        match self {
            Name::Inline { len, bytes } => Some(&bytes[..usize::from(*len)]),
            Name::Heap(bytes) => Some(bytes),
            Name::Free => None,
        }
    }
}

impl Slab {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Numbers are below this.
    pub(super) fn end(&self) -> usize {
        match self.pages.split_last() {
            Some((last, full)) => full.len() * PAGE + last.len(),
            None => 0,
        }
    }

    #[inline]
    fn member(&self, id: u32) -> &Member {
        &self.pages[id as usize / PAGE][id as usize % PAGE]
    }

    #[inline]
    pub(super) fn prefetch(&self, id: u32) {
        crate::keyspace::entry::prefetch(std::ptr::from_ref(self.member(id)));
    }

    fn member_mut(&mut self, id: u32) -> &mut Member {
        &mut self.pages[id as usize / PAGE][id as usize % PAGE]
    }

    /// The member of a number that is in use.
    #[inline]
    pub(super) fn name(&self, id: u32) -> &[u8] {
        self.member(id).name.get().expect("only numbers in use are asked for")
    }

    #[inline]
    pub(super) fn score(&self, id: u32) -> f64 {
        self.member(id).score
    }

    pub(super) fn set_score(&mut self, id: u32, score: f64) {
        self.member_mut(id).score = score;
    }

    /// Name and score of a number, if it is in use.
    pub(super) fn get(&self, id: u32) -> Option<(&[u8], f64)> {
        let member = self.member(id);
        Some((member.name.get()?, member.score))
    }

    pub(super) fn insert(&mut self, name: &[u8], score: f64) -> u32 {
        self.len += 1;
        let member = Member { score, name: Name::new(name) };
        match self.take_free() {
            Some(id) => {
                *self.member_mut(id) = member;
                id
            }
            None => self.push(member),
        }
    }

    fn take_free(&mut self) -> Option<u32> {
        let end = self.end();
        std::iter::from_fn(|| self.free.pop()).find(|&id| (id as usize) < end)
    }

    fn push(&mut self, member: Member) -> u32 {
        let id = u32::try_from(self.end()).expect("a sorted set has fewer than 2^32 members");
        match self.pages.last_mut() {
            Some(page) if page.len() < PAGE => page.push(member),
            // The first page grows with the set; later ones are a small part of it.
            Some(_) => {
                let mut page = Vec::with_capacity(PAGE);
                page.push(member);
                self.pages.push(page);
            }
            None => self.pages.push(vec![member]),
        }
        id
    }

    /// Frees a number.
    pub(super) fn remove(&mut self, id: u32) {
        self.member_mut(id).name = Name::Free;
        self.len -= 1;
        self.free.push(id);
        self.drop_free_tail();
    }

    /// The highest number in use and a lower free one, when so much is free that it should move there.
    pub(super) fn surplus(&mut self) -> Option<(u32, u32)> {
        if self.end() < 2 * self.len + PAGE {
            return None;
        }
        let to = self.take_free()?;
        Some((self.end() as u32 - 1, to))
    }

    /// Moves a member to a free number got from [`Slab::surplus`].
    pub(super) fn relocate(&mut self, from: u32, to: u32) {
        let member = std::mem::replace(self.member_mut(from), Member { score: 0.0, name: Name::Free });
        *self.member_mut(to) = member;
        self.drop_free_tail();
    }

    /// Afterwards the highest number is in use.
    fn drop_free_tail(&mut self) {
        while let Some(page) = self.pages.last_mut() {
            while page.pop_if(|member| matches!(member.name, Name::Free)).is_some() {}
            if !page.is_empty() {
                break;
            }
            self.pages.pop();
        }
        // What the tail's numbers left in the list is swept when it is most of the list.
        let end = self.end();
        if self.free.len() > 2 * (end - self.len) + PAGE {
            self.free.retain(|&id| (id as usize) < end);
            self.free.shrink_to(2 * self.free.len());
        }
    }
}
