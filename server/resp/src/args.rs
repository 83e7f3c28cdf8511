//! A command's arguments as spans of one buffer: nothing is copied between the socket and the command.

use std::ops::Index;

/// Where one argument lies in its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

/// The arguments of one command; `args[0]` is its name. Copying it copies two slices.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    buf: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// `spans` lie within `buf`: a span that does not is a bug of the caller and panics on access.
    pub fn new(buf: &'a [u8], spans: &'a [Span]) -> Self {
        Self { buf, spans }
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The argument, with the lifetime of the buffer rather than of this handle.
    #[inline]
    pub fn at(&self, i: usize) -> &'a [u8] {
        let Span { start, len } = self.spans[i];
        &self.buf[start as usize..start as usize + len as usize]
    }

    pub fn get(&self, i: usize) -> Option<&'a [u8]> {
        (i < self.len()).then(|| self.at(i))
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &'a [u8]> + ExactSizeIterator + Clone + use<'a> {
        let buf = self.buf;
        self.spans.iter().map(move |s| &buf[s.start as usize..s.start as usize + s.len as usize])
    }

    /// The arguments from number `from` on.
    pub fn skip(&self, from: usize) -> Args<'a> {
        Args { buf: self.buf, spans: &self.spans[from.min(self.spans.len())..] }
    }

    pub fn to_owned(&self) -> OwnedArgs {
        OwnedArgs::from_iter(self.iter())
    }
}

impl<'a> Index<usize> for Args<'a> {
    type Output = [u8];

    #[inline]
    fn index(&self, i: usize) -> &[u8] {
        self.at(i)
    }
}

impl std::fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().map(String::from_utf8_lossy)).finish()
    }
}

/// Arguments that outlive the query buffer: MULTI's queue, inline requests, commands made by the server itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnedArgs {
    buf: Vec<u8>,
    spans: Vec<Span>,
}

impl OwnedArgs {
    pub fn push(&mut self, arg: &[u8]) {
        self.spans.push(Span { start: self.buf.len() as u32, len: arg.len() as u32 });
        self.buf.extend_from_slice(arg);
    }

    pub fn as_args(&self) -> Args<'_> {
        Args::new(&self.buf, &self.spans)
    }

    /// Bytes that the arguments take.
    pub fn size(&self) -> usize {
        self.buf.len()
    }
}

impl<'b> FromIterator<&'b [u8]> for OwnedArgs {
    fn from_iter<I: IntoIterator<Item = &'b [u8]>>(iter: I) -> Self {
        let mut owned = Self::default();
        iter.into_iter().for_each(|arg| owned.push(arg));
        owned
    }
}
