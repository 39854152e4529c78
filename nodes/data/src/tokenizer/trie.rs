//! A tree of byte strings: finds those that a text starts with.

use super::bpe::QuickMap;

/// Byte strings, each with a number.
#[derive(Debug, Default)]
pub(super) struct Trie {
    /// Node and byte → the node below. Node 0 is the root.
    edges: QuickMap<(u32, u8), u32>,
    /// Number of the string that ends at a node.
    ends: Vec<Option<u32>>,
}

impl Trie {
    /// Adds a string that is not empty; the last of two equal ones counts.
    pub fn insert(&mut self, text: &str, number: u32) {
        if self.ends.is_empty() {
            self.ends.push(None);
        }
        let mut node = 0;
        for byte in text.bytes() {
            let next = self.ends.len() as u32;
            node = *self.edges.entry((node, byte)).or_insert(next);
            if node == next {
                self.ends.push(None);
            }
        }
        if node != 0 {
            self.ends[node as usize] = Some(number);
        }
    }

    /// Each string that `text` starts with, shortest first: its length and number.
    pub fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut node = 0;
        let nodes = text.iter().map_while(move |&byte| {
            node = *self.edges.get(&(node, byte))?;
            Some(node)
        });
        nodes.enumerate().filter_map(|(i, node)| Some((i + 1, self.ends[node as usize]?)))
    }

    /// Cuts a text at every string of this tree, the leftmost first and of those the longest.
    pub fn split<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let (mut from, mut at) = (0, 0);
        while at < text.len() {
            let Some((len, number)) = self.prefixes(&text.as_bytes()[at..]).last() else {
                at += 1;
                continue;
            };
            if from < at {
                parts.push(Part::Text(&text[from..at]));
            }
            parts.push(Part::Found(number));
            at += len;
            from = at;
        }
        if from < at {
            parts.push(Part::Text(&text[from..at]));
        }
        parts
    }
}

/// A part of a text cut by [`Trie::split`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Part<'t> {
    /// Text between; not empty.
    Text(&'t str),
    /// The number of a string of the tree.
    Found(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trie(texts: &[&str]) -> Trie {
        let mut trie = Trie::default();
        texts.iter().zip(0..).for_each(|(text, number)| trie.insert(text, number));
        trie
    }

    #[test]
    fn prefixes_come_shortest_first() {
        let trie = trie(&["a", "abc", "b", "", "é"]);
        assert_eq!(trie.prefixes(b"abcd").collect::<Vec<_>>(), [(1, 0), (3, 1)]);
        assert_eq!(trie.prefixes("éa".as_bytes()).collect::<Vec<_>>(), [(2, 4)]);
        assert_eq!(
            trie.prefixes(b"").count() + trie.prefixes(b"x").count() + Trie::default().prefixes(b"x").count(),
            0
        );
    }

    #[test]
    fn texts_are_cut_at_the_longest() {
        use Part::{Found, Text};
        let trie = trie(&["<a>", "<a><b>", "\n\n"]);
        assert_eq!(trie.split("é<a><b>x<a>"), [Text("é"), Found(1), Text("x"), Found(0)]);
        assert_eq!(trie.split("<a>\n\n\n"), [Found(0), Found(2), Text("\n")]);
        assert_eq!(trie.split("<a"), [Text("<a")]);
        assert!(trie.split("").is_empty());
    }
}
