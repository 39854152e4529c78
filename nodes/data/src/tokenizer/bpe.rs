//! Byte-pair merging: joins neighbouring symbols, the most frequent pair of the training text first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// A map with a quick hash: the vocabulary is made anew in every process, and its keys come from no stranger.
pub(super) type QuickMap<K, V> = HashMap<K, V, BuildHasherDefault<QuickHasher>>;

/// Multiplies and rotates; for numbers.
#[derive(Clone, Copy, Default)]
pub(super) struct QuickHasher(u64);

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u32(&mut self, x: u32) {
        self.write_u64(x.into());
    }

    fn write_u64(&mut self, x: u64) {
        self.0 = (self.0.rotate_left(5) ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // The high bits are mixed best, the table wants them low too.
        self.0 ^ (self.0 >> 32)
    }
}

/// Merge rules: a pair of symbols → its rank and the symbol it becomes.
#[derive(Debug, Default)]
pub(super) struct Merges(QuickMap<(u32, u32), (u32, u32)>);

/// A symbol in the list being merged; neighbours by index.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    before: usize,
    after: usize,
}

const NONE: usize = usize::MAX;

impl Merges {
    pub fn with_capacity(n: usize) -> Self {
        Merges(QuickMap::with_capacity_and_hasher(n, Default::default()))
    }

    /// Adds a rule; the first of a pair counts.
    pub fn add(&mut self, left: u32, right: u32, rank: u32, becomes: u32) {
        self.0.entry((left, right)).or_insert((rank, becomes));
    }

    /// Applies the rules to `ids` until none fits, in time n·log n.
    pub fn apply(&self, ids: &[u32]) -> Vec<u32> {
        let last = ids.len().wrapping_sub(1);
        let link = |i: usize, id: u32| Symbol {
            id,
            before: if i == 0 { NONE } else { i - 1 },
            after: if i == last { NONE } else { i + 1 },
        };
        let mut list: Vec<Symbol> = ids.iter().enumerate().map(|(i, &id)| link(i, id)).collect();
        let mut queue = BinaryHeap::new();
        let rule = |left: u32, right: u32| self.0.get(&(left, right)).copied();
        for i in 0..last.min(ids.len()) {
            if let Some((rank, _)) = rule(ids[i], ids[i + 1]) {
                queue.push(Reverse((rank, i, ids[i], ids[i + 1])));
            }
        }
        while let Some(Reverse((_, i, left, right))) = queue.pop() {
            let next = list[i].after;
            // Skip pairs that a merge has changed since.
            if list[i].id != left || next == NONE || list[next].id != right {
                continue;
            }
            let Some((_, becomes)) = rule(left, right) else { continue };
            let (before, after) = (list[i].before, list[next].after);
            list[i] = Symbol { id: becomes, before, after };
            list[next].id = u32::MAX;
            if after != NONE {
                list[after].before = i;
                if let Some((rank, _)) = rule(becomes, list[after].id) {
                    queue.push(Reverse((rank, i, becomes, list[after].id)));
                }
            }
            if before != NONE
                && let Some((rank, _)) = rule(list[before].id, becomes)
            {
                queue.push(Reverse((rank, before, list[before].id, becomes)));
            }
        }
        list.iter().filter(|symbol| symbol.id != u32::MAX).map(|symbol| symbol.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_ranks_go_first_and_from_the_left() {
        let mut merges = Merges::default();
        merges.add(1, 1, 0, 10);
        merges.add(10, 1, 1, 11);
        merges.add(2, 1, 2, 12);
        assert_eq!(merges.apply(&[1, 1, 1]), [11]);
        assert_eq!(merges.apply(&[2, 1, 1, 1, 1]), [2, 10, 10]);
        assert_eq!(merges.apply(&[2, 1, 3]), [12, 3]);
        assert_eq!(merges.apply(&[1; 5]), [10, 11]);
        assert!(merges.apply(&[]).is_empty());
        assert_eq!(merges.apply(&[7]), [7]);
    }
}
