//! Tables of names: which tensors of one side correspond to which of the other, and how.
//!
//! Two programs' names for a model are two sides of a table. The *joined* side is the one that keeps several matrices
//! in one where they differ (`attn.qkv`), the *split* side the one that keeps them apart (`to_q`, `to_k`, `to_v`).
//! Which of them is stored and which is internal differs by family; the table serves both directions.
//!
//! A pattern is a name with places: `#` stands for a block's number, `$` for the number of the last block, `*` for
//! `weight` or `bias`.

use std::collections::HashMap;

use super::mapped::{Given, Mapped, flat};
use crate::weights::recipe::{Recipe, Source};

/// How the two sides of a rule correspond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// The same values; there is one name on each side.
    Same,
    /// The same values; a convolution is taken as a matrix over its patch.
    Flat,
    /// The halves of the rows are exchanged.
    Swapped,
    /// Rows and columns are exchanged.
    Transposed,
    /// Every split name is a copy.
    Tied,
    /// The split tensors' rows one after the other, equally many of each.
    Equal,
    /// The same, but the first `count` have as many rows as the tensor `like` of the joined side; the others share
    /// what is left.
    Like {
        /// Pattern on the joined side.
        like: &'static str,
        /// How many have its rows.
        count: usize,
    },
}

/// A pattern of one side and those of the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub joined: &'static str,
    pub split: &'static [&'static str],
    pub how: How,
}

/// A rule between one name and another.
pub(super) const fn same(joined: &'static str, split: &'static [&'static str]) -> Rule {
    Rule { joined, split, how: How::Same }
}

/// A rule between a tensor and its parts.
pub(super) const fn join(joined: &'static str, split: &'static [&'static str], how: How) -> Rule {
    Rule { joined, split, how }
}

/// The rules of a model.
pub(super) struct Table {
    /// Groups of rules; the first that fits holds.
    pub rules: &'static [&'static [Rule]],
    /// Number of the last block.
    pub last: Option<u32>,
}

impl Table {
    /// The rules, with the last block found from names such as `heads.NUMBER.…`.
    pub fn new<'a>(
        rules: &'static [&'static [Rule]],
        heads: [&str; 2],
        names: impl IntoIterator<Item = &'a str>,
    ) -> Table {
        let block = |name: &str| heads.iter().find_map(|head| Some(super::number(super::after(name, head)?)?.0));
        Table { rules, last: names.into_iter().filter_map(block).max() }
    }

    fn all(&self) -> impl Iterator<Item = &'static Rule> {
        self.rules.iter().copied().flatten()
    }

    /// The same names, checked against the joined side.
    pub fn keep(&self, given: &[Given]) -> Mapped {
        let mut mapped = Mapped::default();
        for tensor in given {
            match self.all().find(|rule| self.capture(rule.joined, tensor.name).is_some()) {
                Some(rule) => {
                    let shape = if rule.how == How::Flat { flat(tensor.shape) } else { tensor.shape.to_vec() };
                    mapped.add(tensor.name.to_owned(), Recipe::whole(tensor.source, shape), tensor);
                }
                None => mapped.unknown.push(tensor.source.to_owned()),
            }
        }
        mapped
    }

    /// The tensors of the split side that these of the joined side make.
    pub fn split(&self, given: &[Given]) -> Mapped {
        let shapes: HashMap<&str, &[usize]> = given.iter().map(|tensor| (tensor.name, tensor.shape)).collect();
        let mut mapped = Mapped::default();
        for tensor in given {
            let found = self.all().find_map(|rule| Some((rule, self.capture(rule.joined, tensor.name)?)));
            let Some((rule, holes)) = found else {
                mapped.unknown.push(tensor.source.to_owned());
                continue;
            };
            let whole = || Source::Whole(tensor.source.to_owned());
            let first = holes.fill(rule.split[0]);
            let rows = match rule.how {
                How::Same => {
                    mapped.add(first, Recipe { source: whole(), shape: tensor.shape.to_vec() }, tensor);
                    continue;
                }
                How::Flat => {
                    mapped.add(first, Recipe { source: whole(), shape: flat(tensor.shape) }, tensor);
                    continue;
                }
                How::Tied => {
                    for name in rule.split {
                        let recipe = Recipe { source: whole(), shape: tensor.shape.to_vec() };
                        mapped.add(holes.fill(name), recipe, tensor);
                    }
                    continue;
                }
                How::Swapped | How::Transposed => {
                    mapped.turn(first, rule.how, tensor);
                    continue;
                }
                How::Equal => equal_rows(tensor.shape, 0, 0, rule.split.len()),
                How::Like { like, count } => {
                    let like = shapes.get(holes.fill(like).as_str()).and_then(|shape| shape.first());
                    like.and_then(|&rows| equal_rows(tensor.shape, rows, count, rule.split.len()))
                }
            };
            let Some(rows) = rows else {
                mapped.misfit(tensor, "rows for each of its parts are");
                continue;
            };
            let mut start = 0;
            for (name, rows) in rule.split.iter().zip(rows) {
                let source = Source::Rows { of: tensor.source.to_owned(), start, end: start + rows };
                let mut shape = tensor.shape.to_vec();
                shape[0] = rows;
                mapped.add(holes.fill(name), Recipe { source, shape }, tensor);
                start += rows;
            }
        }
        mapped
    }

    /// The tensors of the joined side that these of the split side make.
    pub fn join(&self, given: &[Given]) -> Mapped {
        let by_name: HashMap<&str, &Given> = given.iter().map(|tensor| (tensor.name, tensor)).collect();
        let mut mapped = Mapped::default();
        for tensor in given {
            let found = self.all().find_map(|rule| {
                let (place, holes) = rule
                    .split
                    .iter()
                    .enumerate()
                    .find_map(|(place, pattern)| Some((place, self.capture(pattern, tensor.name)?)))?;
                Some((rule, place, holes))
            });
            let Some((rule, place, holes)) = found else {
                mapped.unknown.push(tensor.source.to_owned());
                continue;
            };
            let name = holes.fill(rule.joined);
            let source = Source::Whole(tensor.source.to_owned());
            match rule.how {
                How::Same | How::Tied => {
                    let recipe = Recipe { source, shape: tensor.shape.to_vec() };
                    if rule.how == How::Tied && mapped.tensors.contains_key(&name) {
                        mapped.tied.push((name.clone(), recipe.clone()));
                    }
                    mapped.add(name, recipe, tensor);
                }
                How::Flat => mapped.add(name, Recipe { source, shape: flat(tensor.shape) }, tensor),
                How::Swapped | How::Transposed => mapped.turn(name, rule.how, tensor),
                How::Equal | How::Like { .. } => {
                    let names: Vec<String> = rule.split.iter().map(|part| holes.fill(part)).collect();
                    let parts: Vec<Option<&Given>> = names.iter().map(|n| by_name.get(n.as_str()).copied()).collect();
                    // The first part that is there speaks for all.
                    if parts.iter().position(Option::is_some) != Some(place) {
                        continue;
                    }
                    mapped.gather(name, tensor, &names, &parts);
                }
            }
        }
        mapped
    }

    /// The names on the split side of a name of the joined side, or the other way round; none when no rule fits.
    pub fn rename(&self, name: &str, to_split: bool) -> Vec<String> {
        let fits = |rule: &'static Rule| {
            if to_split {
                let holes = self.capture(rule.joined, name)?;
                return Some(rule.split.iter().map(|part| holes.fill(part)).collect());
            }
            rule.split.iter().find_map(|part| Some(vec![self.capture(part, name)?.fill(rule.joined)]))
        };
        self.all().find_map(fits).unwrap_or_default()
    }

    /// What the places of a pattern stand for in a name; nothing when it does not fit.
    fn capture<'n>(&self, pattern: &str, name: &'n str) -> Option<Holes<'n>> {
        let mut holes = Holes { block: None, leaf: "" };
        let mut parts = name.split('.');
        for wanted in pattern.split('.') {
            let part = parts.next()?;
            match wanted {
                "#" | "$" => {
                    let block = index(part)?;
                    if wanted == "$" && Some(block) != self.last {
                        return None;
                    }
                    holes.block = Some(block);
                }
                "*" if matches!(part, "weight" | "bias") => holes.leaf = part,
                _ if wanted != part => return None,
                _ => {}
            }
        }
        parts.next().is_none().then_some(holes)
    }
}

/// What the places of a pattern stand for.
struct Holes<'n> {
    block: Option<u32>,
    leaf: &'n str,
}

impl Holes<'_> {
    /// The name a pattern is with these in its places.
    fn fill(&self, pattern: &str) -> String {
        let mut name = String::with_capacity(pattern.len() + 4);
        for part in pattern.split('.') {
            if !name.is_empty() {
                name.push('.');
            }
            match (part, self.block) {
                ("#" | "$", Some(block)) => name.push_str(&block.to_string()),
                ("*", _) => name.push_str(self.leaf),
                _ => name.push_str(part),
            }
        }
        name
    }
}

/// A block's number: digits only, and no second way to write the same number.
fn index(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// Rows of each of `parts`: `like` for the first `count`, equally many for the others.
fn equal_rows(shape: &[usize], like: usize, count: usize, parts: usize) -> Option<Vec<usize>> {
    let left = shape.first()?.checked_sub(like.checked_mul(count)?)?;
    let others = parts - count;
    let rows = left / others;
    let even = left % others == 0 && rows > 0;
    even.then(|| (0..parts).map(|part| if part < count { like } else { rows }).collect())
}

#[cfg(test)]
mod tests {
    use super::super::mapped::Fault;
    use super::*;

    const RULES: &[&[Rule]] = &[&[
        join("b.$.mod.*", &["x.$.mod.*"], How::Swapped),
        same("b.#.mod.*", &["x.#.mod.*"]),
        join("b.#.qkv.*", &["x.#.q.*", "x.#.k.*", "x.#.v.*"], How::Like { like: "b.#.out.*", count: 1 }),
        same("b.#.out.*", &["x.#.out.*"]),
        join("in.weight", &["patch.weight"], How::Flat),
        join("p", &["p.weight"], How::Transposed),
        join("t.weight", &["t1.weight", "t2.weight"], How::Tied),
    ]];

    fn map(f: impl Fn(&Table, &[Given]) -> Mapped, tensors: &[(&str, &[usize])]) -> Mapped {
        let given: Vec<Given> = tensors.iter().map(|(name, shape)| Given { name, source: name, shape }).collect();
        f(&Table::new(RULES, ["b", "x"], tensors.iter().map(|t| t.0)), &given)
    }

    #[test]
    fn both_directions() {
        let joined: &[(&str, &[usize])] = &[
            ("b.0.mod.weight", &[4, 2]),
            ("b.1.mod.weight", &[4, 2]),
            ("b.1.qkv.bias", &[8]),
            ("b.1.out.bias", &[4]),
            ("in.weight", &[3, 2, 2, 2]),
            ("p", &[2, 3]),
            ("t.weight", &[1]),
        ];
        let split = map(Table::split, joined);
        assert!(split.unknown.is_empty() && split.faults.is_empty() && split.copies.is_empty());
        let names = Vec::from_iter(split.tensors.keys().map(String::as_str));
        let wanted = [
            "x.0.mod.weight",
            "x.1.mod.weight",
            "x.1.q.bias",
            "x.1.k.bias",
            "x.1.v.bias",
            "x.1.out.bias",
            "patch.weight",
            "p.weight",
            "t1.weight",
            "t2.weight",
        ];
        assert_eq!(names, wanted);
        assert_eq!(split.tensors["x.0.mod.weight"].source, Source::Whole("b.0.mod.weight".into()));
        assert_eq!(split.tensors["x.1.mod.weight"].source, Source::SwappedHalves("b.1.mod.weight".into()));
        let rows = |start, end| Source::Rows { of: "b.1.qkv.bias".into(), start, end };
        assert_eq!(split.tensors["x.1.k.bias"], Recipe { source: rows(4, 6), shape: vec![2] });
        assert_eq!(split.tensors["patch.weight"].shape, [3, 8]);
        assert_eq!(split.tensors["p.weight"].shape, [3, 2]);

        let shapes: Vec<(&str, &[usize])> =
            split.tensors.iter().map(|(name, recipe)| (name.as_str(), recipe.shape.as_slice())).collect();
        let back = map(Table::join, &shapes);
        assert!(back.unknown.is_empty() && back.faults.is_empty());
        assert_eq!(back.copies, ["t2.weight"]);
        assert_eq!(back.tied, [("t.weight".to_owned(), Recipe::whole("t2.weight", [1]))]);
        assert_eq!(Vec::from_iter(back.tensors.keys()), Vec::from_iter(joined.iter().map(|t| t.0)));
        assert_eq!(back.tensors["b.1.qkv.bias"].names(), ["x.1.q.bias", "x.1.k.bias", "x.1.v.bias"]);
        assert_eq!(back.tensors["b.1.qkv.bias"].shape, [8]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let missing = map(Table::join, &[("x.0.q.weight", &[4, 2]), ("x.0.v.weight", &[4, 2])]);
        assert_eq!(missing.faults, [Fault::Missing { name: "x.0.k.weight".into() }]);
        type Direction = fn(&Table, &[Given]) -> Mapped;
        type Tensors = &'static [(&'static str, &'static [usize])];
        let misfits: [(Direction, Tensors); 6] = [
            (Table::join, &[("x.0.q.weight", &[4, 2]), ("x.0.k.weight", &[4, 3]), ("x.0.v.weight", &[4, 2])]),
            (Table::join, &[("x.0.q.weight", &[]), ("x.0.k.weight", &[]), ("x.0.v.weight", &[])]),
            (Table::split, &[("b.0.mod.weight", &[3, 2])]),
            (Table::split, &[("p", &[3])]),
            (Table::split, &[("b.0.qkv.bias", &[8])]),
            (Table::split, &[("b.0.qkv.bias", &[8]), ("b.0.out.bias", &[9])]),
        ];
        for (f, tensors) in misfits {
            let mapped = map(f, tensors);
            assert!(matches!(*mapped.faults, [Fault::Shape { .. }]), "{tensors:?}");
        }
        let odd = ["b.01.mod.weight", "b.0.mod.scale", "b.0.mod", "b.0.mod.weight.x", "b.x.mod.weight", "p.p", ""];
        for name in odd {
            assert_eq!(map(Table::split, &[(name, &[4])]).unknown, [name]);
            assert!(!map(Table::keep, &[(name, &[4])]).unknown.is_empty());
        }
    }
}
