//! LZF, the light compression inside RDB files.
//!
//! ```text
//! 000LLLLL            L+1 literal bytes follow
//! LLLOOOOO oooooooo   copy L+2 bytes from offset Oo+1 back (L = 7: a byte with more length comes first)
//! ```

const HASH_BITS: u32 = 13;
const OFFSET_MAX: usize = 1 << 13;
const MATCH_MAX: usize = 255 + 7 + 2;
const LITERALS_MAX: usize = 32;

/// Compresses; `None` if the result would not be smaller than `limit` bytes.
pub fn compress(input: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(limit.min(input.len()));
    let mut table = [0u32; 1 << HASH_BITS];
    let (mut at, mut literals) = (0, 0);
    while at < input.len() {
        let matched = if at + 2 < input.len() {
            let triple = u32::from(input[at]) << 16 | u32::from(input[at + 1]) << 8 | u32::from(input[at + 2]);
            let slot = &mut table[(triple.wrapping_mul(0x9E37_79B1) >> (32 - HASH_BITS)) as usize];
            // Positions are stored plus one, 0 is none.
            let candidate = (*slot as usize).checked_sub(1);
            *slot = at as u32 + 1;
            candidate
                .filter(|&c| at - c <= OFFSET_MAX && input[c..c + 3] == input[at..at + 3])
                .map(|c| (c, input[c..].iter().zip(&input[at..]).take(MATCH_MAX).take_while(|(a, b)| a == b).count()))
        } else {
            None
        };
        match matched {
            Some((from, len)) => {
                push_literals(&input[literals..at], &mut out);
                let (offset, length) = (at - from - 1, len - 2);
                if length < 7 {
                    out.push((length << 5 | offset >> 8) as u8);
                } else {
                    out.extend_from_slice(&[(7 << 5 | offset >> 8) as u8, (length - 7) as u8]);
                }
                out.push(offset as u8);
                at += len;
                literals = at;
            }
            None => at += 1,
        }
        if out.len() + (at - literals) >= limit {
            return None;
        }
    }
    push_literals(&input[literals..], &mut out);
    (out.len() < limit).then_some(out)
}

fn push_literals(bytes: &[u8], out: &mut Vec<u8>) {
    for run in bytes.chunks(LITERALS_MAX) {
        out.push(run.len() as u8 - 1);
        out.extend_from_slice(run);
    }
}

/// Decompresses to exactly `len` bytes; `None`: not LZF, or of another length.
pub fn decompress(input: &[u8], len: usize) -> Option<Vec<u8>> {
    // A copy of three bytes makes at most MATCH_MAX: an announced length beyond that reserves nothing.
    if len > input.len().checked_mul(MATCH_MAX)? {
        return None;
    }
    let mut out = Vec::with_capacity(len);
    let mut rest = input;
    while let [control, tail @ ..] = rest {
        rest = tail;
        if *control < 32 {
            let (run, tail) = rest.split_at_checked(usize::from(*control) + 1)?;
            out.extend_from_slice(run);
            rest = tail;
        } else {
            let mut length = usize::from(control >> 5) + 2;
            if length == 9 {
                let (more, tail) = rest.split_first()?;
                length += usize::from(*more);
                rest = tail;
            }
            let (low, tail) = rest.split_first()?;
            rest = tail;
            let offset = usize::from(control & 0x1F) << 8 | usize::from(*low);
            let start = out.len().checked_sub(offset + 1)?;
            for i in start..start + length {
                out.push(out[i]);
            }
        }
        if out.len() > len {
            return None;
        }
    }
    (out.len() == len).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(parts in prop::collection::vec((any::<u8>(), 1usize..300), 0..20)) {
            let input: Vec<u8> = parts.iter().flat_map(|&(b, n)| (0..n).map(move |i| b.wrapping_add((i % 5) as u8))).collect();
            if let Some(packed) = compress(&input, input.len()) {
                prop_assert!(packed.len() < input.len());
                prop_assert_eq!(decompress(&packed, input.len()), Some(input));
            }
        }

        #[test]
        fn garbage_is_refused_or_of_the_announced_length(input in prop::collection::vec(any::<u8>(), 0..100), len in 0usize..5000) {
            if let Some(out) = decompress(&input, len) {
                prop_assert_eq!(out.len(), len);
            }
        }
    }

    #[test]
    fn repetition_shrinks() {
        assert!(compress(&[b'a'; 1000], 1000).unwrap().len() < 30);
        assert_eq!(decompress(&[0xFF, 0xFF, 0xFF], usize::MAX), None);
    }
}
