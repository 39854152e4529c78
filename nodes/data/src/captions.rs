//! What a caption becomes each time its image is used: prefix, dropout, wildcards, shuffling, warm-up.
//!
//! A pure function of caption, options, random numbers, step and epoch. The order of the stages and their rules are those
//! of kohya's trainer, so that a data set made for it trains alike.

/// Random numbers from outside. Any `FnMut() -> u64` of uniform 64-bit values will do.
pub trait Random {
    /// A uniform 64-bit value.
    fn bits(&mut self) -> u64;

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform among `0..n`; 0 when `n` is 0.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }
}

impl<F: FnMut() -> u64> Random for F {
    fn bits(&mut self) -> u64 {
        self()
    }
}

/// Tags that come in one after another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenWarmup {
    /// Flexible tags at the first step.
    pub min: usize,
    /// Step from which all are used.
    pub steps: u64,
}

impl TokenWarmup {
    /// Warm-up over `steps`, a fraction of `max_steps` when below one; nothing when zero.
    pub fn new(min: usize, steps: f64, max_steps: u64) -> Option<TokenWarmup> {
        let steps = if steps < 1.0 { (steps * max_steps as f64).floor() } else { steps };
        (steps >= 1.0).then_some(TokenWarmup { min, steps: steps as u64 })
    }

    /// Flexible tags in use at a step, of `all`.
    fn tags(&self, all: usize, step: u64) -> usize {
        if step >= self.steps {
            return all;
        }
        let more = all as i128 - self.min as i128;
        let count = (step as i128 * more).div_euclid(self.steps.max(1) as i128) + self.min as i128;
        usize::try_from(count).unwrap_or(0).min(all)
    }
}

/// How captions are processed.
#[derive(Clone, Debug, PartialEq)]
pub struct CaptionOptions {
    /// Put in front, with a space; empty for none.
    pub prefix: String,
    /// Put at the end, with a space; empty for none.
    pub suffix: String,
    /// Probability of an empty caption.
    pub dropout: f64,
    /// Empty captions in every epoch that is a multiple of this, counted from 1.
    pub dropout_every_epochs: Option<u64>,
    /// One of several lines, and `{a|b}`, chosen at random.
    pub wildcards: bool,
    /// What separates tags.
    pub separator: String,
    /// Tags at the start that stay.
    pub keep_tokens: usize,
    /// Ends the fixed head, and when it occurs again starts the fixed tail; empty for none.
    pub keep_tokens_separator: String,
    /// Joins tags to a group that moves as one; becomes the separator at the end. Empty for none.
    pub secondary_separator: String,
    /// Flexible tags in random order.
    pub shuffle: bool,
    /// Probability that a flexible tag is left out.
    pub tag_dropout: f64,
    /// Flexible tags come in one after another.
    pub warmup: Option<TokenWarmup>,
    /// Texts to replace at the end, each by one of several; an empty text stands for the whole caption.
    pub replacements: Vec<(String, Vec<String>)>,
}

impl Default for CaptionOptions {
    fn default() -> Self {
        CaptionOptions {
            prefix: String::new(),
            suffix: String::new(),
            dropout: 0.0,
            dropout_every_epochs: None,
            wildcards: false,
            separator: ",".into(),
            keep_tokens: 0,
            keep_tokens_separator: String::new(),
            secondary_separator: String::new(),
            shuffle: false,
            tag_dropout: 0.0,
            warmup: None,
            replacements: Vec::new(),
        }
    }
}

impl CaptionOptions {
    /// Whether every use of a caption gives the same text, so that its embedding can be cached.
    pub fn is_constant(&self) -> bool {
        self.dropout <= 0.0
            && self.dropout_every_epochs.is_none()
            && !self.wildcards
            && !self.changes_tags()
            && self.replacements.iter().all(|(_, to)| to.len() <= 1)
    }

    /// Whether captions are cut into tags, which are moved or left out.
    pub fn changes_tags(&self) -> bool {
        self.shuffle || self.warmup.is_some() || self.tag_dropout > 0.0
    }
}

/// The caption for one use of an image. `epoch` counts from 1.
pub fn process(caption: &str, options: &CaptionOptions, rng: &mut impl Random, step: u64, epoch: u64) -> String {
    let epoch_drops = options.dropout_every_epochs.is_some_and(|n| n > 0 && epoch.is_multiple_of(n));
    if epoch_drops || options.dropout > 0.0 && rng.unit() < options.dropout {
        return String::new();
    }
    kept(caption, options, options.changes_tags(), rng, step)
}

/// The caption with nothing left out and its tags in their own order, for measurements that are to be alike: of several
/// lines and alternatives one is still drawn.
pub fn whole(caption: &str, options: &CaptionOptions, rng: &mut impl Random) -> String {
    let rejoin = options.changes_tags();
    let ordered = CaptionOptions { shuffle: false, warmup: None, tag_dropout: 0.0, ..options.clone() };
    kept(caption, &ordered, rejoin, rng, 0)
}

/// What uses of a caption are made of, nothing left out and tags in their own order: each of its lines, with each
/// alternative of its wildcards at least once. One text where nothing is drawn.
pub fn variants(caption: &str, options: &CaptionOptions) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for (line, place) in drawn(caption, options) {
        let text = whole(line, options, &mut Always(place));
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts
}

/// Most tags of a caption, over its lines and alternatives, that can be moved or left out.
pub fn flexible_tags(caption: &str, options: &CaptionOptions) -> usize {
    let plain = CaptionOptions { wildcards: options.wildcards, ..CaptionOptions::default() };
    let count = |(line, place)| parts(&whole(line, &plain, &mut Always(place)), options).1.len();
    drawn(caption, options).into_iter().map(count).max().unwrap_or(0)
}

/// Alternatives of one wildcard that are told apart.
const ALTERNATIVES: usize = 64;

/// Always the alternative of this place, or the last where there are fewer.
struct Always(usize);

impl Random for Always {
    fn bits(&mut self) -> u64 {
        0
    }
    fn below(&mut self, n: usize) -> usize {
        self.0.min(n.saturating_sub(1))
    }
}

/// The lines of a caption, each as often as it has alternatives, and their places.
fn drawn<'c>(caption: &'c str, options: &CaptionOptions) -> Vec<(&'c str, usize)> {
    if !options.wildcards {
        return vec![(caption, 0)];
    }
    let alternatives = |line: &str| {
        let most = if line.contains('{') { line.matches('|').count() + 1 } else { 1 };
        most.min(ALTERNATIVES)
    };
    caption.lines().flat_map(|line| (0..alternatives(line)).map(move |place| (line, place))).collect()
}

/// The stages of a caption that is not dropped; with `rejoin` it is cut into tags.
fn kept(caption: &str, options: &CaptionOptions, rejoin: bool, rng: &mut impl Random, step: u64) -> String {
    let mut caption = caption.to_owned();
    if !options.prefix.is_empty() {
        caption = format!("{} {caption}", options.prefix);
    }
    if !options.suffix.is_empty() {
        caption = format!("{caption} {}", options.suffix);
    }
    if options.wildcards {
        caption = wildcards(&caption, rng);
    } else {
        caption.truncate(caption.find('\n').unwrap_or(caption.len()));
    }
    if rejoin {
        caption = change_tags(&caption, options, rng, step);
    }
    if !options.secondary_separator.is_empty() {
        caption = caption.replace(&options.secondary_separator, &options.separator);
    }
    for (from, to) in &options.replacements {
        let to = to.get(rng.below(to.len())).map_or("", String::as_str);
        caption = if from.is_empty() { to.to_owned() } else { caption.replace(from, to) };
    }
    caption
}

/// One line of several; then one alternative of each `{a|b}`, with `{{` and `}}` for the braces themselves.
fn wildcards(caption: &str, rng: &mut impl Random) -> String {
    let lines: Vec<&str> = caption.lines().collect();
    let line = if lines.len() > 1 { lines[rng.below(lines.len())] } else { caption };
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..at + 1];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push_str(brace);
            rest = after;
        } else if brace == "{"
            && let Some(end) = rest.find(['{', '}'])
            && rest[end..].starts_with('}')
        {
            let alternatives: Vec<&str> = rest[..end].split('|').collect();
            out.push_str(alternatives[rng.below(alternatives.len())]);
            rest = &rest[end + 1..];
        } else {
            out.push_str(brace);
        }
    }
    out + rest
}

/// Tags before those that may be moved or left out, these, and those behind them.
fn parts(caption: &str, options: &CaptionOptions) -> (Vec<String>, Vec<String>, Vec<String>) {
    // An empty separator would cut between letters; the whole is one tag then.
    let split = |text: &str| -> Vec<String> {
        if options.separator.is_empty() {
            return vec![text.trim().to_owned()];
        }
        text.split(&options.separator).map(|tag| tag.trim().to_owned()).collect()
    };
    let split_full = |text: &str| split(text).into_iter().filter(|tag| !tag.is_empty()).collect::<Vec<_>>();
    let mark = options.keep_tokens_separator.as_str();
    match caption.split_once(mark).filter(|_| !mark.is_empty()) {
        Some((head, rest)) => {
            let (flexible, tail) = rest.split_once(mark).unwrap_or((rest, ""));
            (split_full(head), split_full(flexible), split_full(tail))
        }
        None => {
            let mut tags = split(caption.trim());
            let flexible = tags.split_off(options.keep_tokens.min(tags.len()));
            (tags, flexible, Vec::new())
        }
    }
}

fn change_tags(caption: &str, options: &CaptionOptions, rng: &mut impl Random, step: u64) -> String {
    let (head, mut flexible, tail) = parts(caption, options);
    if let Some(warmup) = options.warmup {
        flexible.truncate(warmup.tags(flexible.len(), step));
    }
    if options.shuffle {
        for last in (1..flexible.len()).rev() {
            flexible.swap(last, rng.below(last + 1));
        }
    }
    if options.tag_dropout > 0.0 {
        flexible.retain(|_| rng.unit() >= options.tag_dropout);
    }
    [head, flexible, tail].concat().join(", ")
}
