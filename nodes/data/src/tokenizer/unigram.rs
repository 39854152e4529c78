//! Cutting text into the most probable pieces (T. Kudo: Subword Regularization, ACL 2018, arXiv:1804.10959).

use super::trie::Trie;

/// Pieces with their log probabilities.
#[derive(Debug)]
pub(super) struct Unigram {
    pieces: Trie,
    /// Log probability of each id.
    scores: Vec<f64>,
    unknown: u32,
    /// What a character counts that no piece begins with: ten below the least probable piece.
    unknown_score: f64,
}

/// The best way to reach a place in the text.
#[derive(Clone, Copy)]
struct Step {
    score: f64,
    from: usize,
    id: u32,
}

impl Unigram {
    /// A model of `pieces` (text, id, log probability) and the id of what none of them covers.
    pub fn new<'a>(pieces: impl Iterator<Item = (&'a str, u32, f64)>, unknown: u32) -> Unigram {
        let mut model = Unigram { pieces: Trie::default(), scores: Vec::new(), unknown, unknown_score: 0.0 };
        let mut least = f64::MAX;
        for (text, id, score) in pieces {
            model.pieces.insert(text, id);
            let needed = id as usize + 1;
            if model.scores.len() < needed {
                model.scores.resize(needed, 0.0);
            }
            model.scores[id as usize] = score;
            least = least.min(score);
        }
        model.unknown_score = if least == f64::MAX { 0.0 } else { least - 10.0 };
        model
    }

    /// Appends the ids of the cut with the greatest sum of log probabilities. A run of unknown characters gives one id.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let nowhere = Step { score: f64::NEG_INFINITY, from: usize::MAX, id: 0 };
        let mut best = vec![nowhere; text.len() + 1];
        best[0].score = 0.0;
        for (at, next) in text.char_indices() {
            let here = best[at].score;
            let mut reach = |len: usize, id: u32, score: f64| {
                let there = &mut best[at + len];
                if there.from == usize::MAX || score > there.score {
                    *there = Step { score, from: at, id };
                }
            };
            let mut alone = false;
            for (len, id) in self.pieces.prefixes(&text.as_bytes()[at..]) {
                reach(len, id, here + self.scores[id as usize]);
                alone |= len == next.len_utf8();
            }
            if !alone {
                reach(next.len_utf8(), self.unknown, here + self.unknown_score);
            }
        }
        let first = ids.len();
        let mut at = text.len();
        while at > 0 {
            let step = best[at];
            if step.id != self.unknown || ids[first..].last() != Some(&self.unknown) {
                ids.push(step.id);
            }
            at = step.from;
        }
        ids[first..].reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_cut_wins() {
        let pieces = [("a", 1, -1.0), ("b", 2, -1.0), ("ab", 3, -1.5), ("abb", 4, -3.0), ("é", 5, -4.0)];
        let model = Unigram::new(pieces.into_iter(), 0);
        let encode = |text: &str| {
            let mut ids = vec![9];
            model.encode(text, &mut ids);
            ids[1..].to_vec()
        };
        assert_eq!(encode("abb"), [3, 2]);
        assert_eq!(encode("aab"), [1, 3]);
        assert_eq!(encode("é猫?é猫"), [5, 0, 5, 0]);
        assert!(encode("").is_empty());
        assert_eq!(Unigram::new(std::iter::empty(), 7).encode_alone("ab"), [7]);
    }

    impl Unigram {
        fn encode_alone(&self, text: &str) -> Vec<u32> {
            let mut ids = Vec::new();
            self.encode(text, &mut ids);
            ids
        }
    }
}
