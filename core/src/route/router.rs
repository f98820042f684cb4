//! The index: a trie over the segments of type names.

use std::collections::HashMap;

use super::Pattern;
use crate::event::EventType;

/// Finds who asks for an event of a given type.
///
/// Targets are small numbers (places in the caller's list). Exact names are found by one hash
/// look-up; patterns by walking at most `2^stars` paths of a trie as deep as the name has segments.
/// Endpoints that do not match cost nothing.
#[derive(Debug, Default)]
pub struct Router {
    exact: HashMap<Box<str>, Vec<u32>>,
    all: Vec<u32>,
    tree: Node,
}

#[derive(Debug, Default)]
struct Node {
    /// By the next segment; `*` is kept apart in `any`.
    next: HashMap<Box<str>, Node>,
    any: Option<Box<Node>>,
    /// Patterns that end here.
    here: Vec<u32>,
    /// Patterns that end in `**` here: any one or more segments follow.
    below: Vec<u32>,
}

impl Router {
    /// An index over the patterns of targets 0, 1, 2, …
    pub fn new<'a, P>(targets: impl IntoIterator<Item = P>) -> Self
    where
        P: IntoIterator<Item = &'a Pattern>,
    {
        let mut router = Self::default();
        for (target, patterns) in (0_u32..).zip(targets) {
            for pattern in patterns {
                router.add(pattern, target);
            }
        }
        router
    }

    fn add(&mut self, pattern: &Pattern, target: u32) {
        let text = pattern.as_str();
        let add = |targets: &mut Vec<u32>| {
            // Targets come in rising order, so a pattern given twice meets itself here.
            if targets.last() != Some(&target) {
                targets.push(target);
            }
        };
        if text == "*" {
            add(&mut self.all);
        } else if pattern.is_exact() {
            add(self.exact.entry(text.into()).or_default());
        } else {
            let mut node = &mut self.tree;
            for segment in text.split('.') {
                node = match segment {
                    "**" => {
                        node.below.push(target);
                        return;
                    }
                    "*" => node.any.get_or_insert_default(),
                    segment => node.next.entry(segment.into()).or_default(),
                };
            }
            node.here.push(target);
        }
    }

    /// The targets that ask for `kind`, each once, in rising order: a list of the index itself where
    /// one holds them all, else collected in `buffer`, whose content does not matter.
    pub fn find<'a>(&'a self, kind: &EventType, buffer: &'a mut Vec<u32>) -> &'a [u32] {
        buffer.clear();
        let name = kind.as_str();
        let exact = self.exact.get(name).map_or(&[][..], Vec::as_slice);
        let mut all = &*self.all;
        if kind.is_reserved() {
            // `*` does not stand for the bus's own events, in any place.
            all = &[];
            if let Some(node) = self.tree.next.get("postrider")
                && let Some((_, rest)) = name.split_once('.')
            {
                node.find(rest, buffer);
            }
        } else if !self.tree.is_leaf() {
            self.tree.find(name, buffer);
        }
        match (exact, all, buffer.is_empty()) {
            (targets, [], true) | ([], targets, true) => targets,
            (exact, all, _) => {
                buffer.extend_from_slice(exact);
                buffer.extend_from_slice(all);
                buffer.sort_unstable();
                buffer.dedup();
                buffer
            }
        }
    }
}

impl Node {
    fn is_leaf(&self) -> bool {
        self.next.is_empty() && self.any.is_none()
    }

    /// Adds what matches `rest`, the segments from here on (at least one).
    fn find(&self, rest: &str, found: &mut Vec<u32>) {
        found.extend_from_slice(&self.below);
        let (segment, rest) = match rest.split_once('.') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (rest, None),
        };
        for node in self.next.get(segment).into_iter().chain(self.any.as_deref()) {
            match rest {
                Some(rest) => node.find(rest, found),
                None => found.extend_from_slice(&node.here),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            8 => prop::collection::vec("[abc]", 1..5).prop_map(|segments| segments.join(".")),
            1 => Just("postrider.a".to_owned()),
            1 => Just("postrider".to_owned()),
        ]
    }

    fn pattern() -> impl Strategy<Value = Pattern> {
        let segments =
            prop::collection::vec(prop_oneof![3 => "[abc]", 1 => Just("*".to_owned())], 1..5);
        (prop::bool::weighted(0.1), segments, any::<bool>()).prop_map(
            |(own, mut segments, deep)| {
                if own {
                    segments[0] = "postrider".to_owned();
                }
                if deep {
                    segments.push("**".to_owned());
                }
                segments.join(".").parse().unwrap()
            },
        )
    }

    proptest! {
        /// The index finds what asking every pattern in turn finds.
        #[test]
        fn agrees_with_a_scan(
            targets in prop::collection::vec(prop::collection::vec(pattern(), 0..4), 0..12),
            names in prop::collection::vec(name(), 1..20),
        ) {
            let router = Router::new(&targets);
            let mut buffer = vec![99];
            for name in names {
                let kind: EventType = name.parse().unwrap();
                let found = router.find(&kind, &mut buffer);
                let expect: Vec<u32> = (0_u32..)
                    .zip(&targets)
                    .filter(|(_, patterns)| patterns.iter().any(|pattern| pattern.matches(&kind)))
                    .map(|(target, _)| target)
                    .collect();
                prop_assert_eq!(found, &expect, "{} over {:?}", name, targets);
            }
        }
    }
}
