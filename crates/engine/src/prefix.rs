//! A trie over token sequences: which stretches several requests share, and in what order to serve them.

/// A stretch of tokens that at least two requests share.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub parent: Option<usize>,
    /// The request whose tokens to read, and the stretch of them.
    pub request: usize,
    pub start: usize,
    pub end: usize,
    /// Requests below this node.
    pub users: usize,
}

/// One request: its tokens, how many of them may be shared, which group it may share within, and how soon it should start.
pub(super) struct Entry<'a> {
    pub tokens: &'a [u32],
    pub shareable: usize,
    pub regime: usize,
    /// Larger first.
    pub weight: usize,
}

/// Shared stretches and the order of the requests, each with the node its prefix ends at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Trie {
    pub nodes: Vec<Node>,
    pub order: Vec<(usize, Option<usize>)>,
}

/// A stretch becomes a segment when it saves computing at least this many tokens.
const LEAST_SAVED: usize = 32;

impl Trie {
    /// Finds the shared stretches of `entries`. Requests under one node are neighbours in the order, heavier ones first.
    pub fn new(entries: &[Entry]) -> Self {
        let mut sorted: Vec<usize> = (0..entries.len()).collect();
        let key = |i: usize| (entries[i].regime, &entries[i].tokens[..entries[i].shareable]);
        sorted.sort_by(|a, b| key(*a).cmp(&key(*b)).then(a.cmp(b)));
        let mut trie = Trie::default();
        let mut groups: Vec<&[usize]> = sorted
            .chunk_by(|a, b| entries[*a].regime == entries[*b].regime)
            .collect();
        groups.sort_by_key(|group| std::cmp::Reverse(heaviest(entries, group)));
        for group in groups {
            trie.branch(entries, group, 0, 0, None);
        }
        trie
    }

    /// `group`: sorted requests that agree on the first `agreed` tokens, of which `parent` covers the first `covered`.
    fn branch(&mut self, entries: &[Entry], group: &[usize], agreed: usize, covered: usize, parent: Option<usize>) {
        let shareable = |i: usize| &entries[i].tokens[..entries[i].shareable];
        let next = |i: usize| shareable(i).get(agreed);
        // Requests that go on with the same token; one that ends here stands alone.
        let mut parts: Vec<&[usize]> = group
            .chunk_by(|a, b| next(*a).is_some() && next(*a) == next(*b))
            .collect();
        parts.sort_by_key(|part| std::cmp::Reverse(heaviest(entries, part)));
        for part in parts {
            if part.len() == 1 {
                self.order.push((part[0], parent));
                continue;
            }
            // Sorted: what the first and the last share, all share.
            let pairs = shareable(part[0]).iter().zip(shareable(part[part.len() - 1]));
            let shared = pairs.take_while(|(a, b)| a == b).count();
            if (shared - covered) * (part.len() - 1) < LEAST_SAVED {
                self.branch(entries, part, shared, covered, parent);
            } else {
                self.nodes.push(Node {
                    parent,
                    request: part[0],
                    start: covered,
                    end: shared,
                    users: part.len(),
                });
                self.branch(entries, part, shared, shared, Some(self.nodes.len() - 1));
            }
        }
    }
}

fn heaviest(entries: &[Entry], group: &[usize]) -> usize {
    group.iter().map(|i| entries[*i].weight).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trie(prompts: &[Vec<u32>]) -> Trie {
        let entries: Vec<Entry> = prompts
            .iter()
            .map(|tokens| Entry {
                tokens,
                shareable: tokens.len().saturating_sub(1),
                regime: 0,
                weight: tokens.len(),
            })
            .collect();
        Trie::new(&entries)
    }

    #[test]
    fn nothing_in_common_gives_no_node() {
        let trie = trie(&[vec![1; 50], vec![2; 60], vec![3]]);
        assert!(trie.nodes.is_empty());
        assert_eq!(trie.order, [(1, None), (0, None), (2, None)]);
    }

    #[test]
    fn equal_prompts_share_all_but_the_last_token() {
        let trie = trie(&[vec![7; 40], vec![7; 40]]);
        assert_eq!(
            trie.nodes,
            [Node {
                parent: None,
                request: 0,
                start: 0,
                end: 39,
                users: 2
            }]
        );
        assert_eq!(trie.order, [(0, Some(0)), (1, Some(0))]);
    }

    #[test]
    fn branches_nest() {
        let shots: Vec<u32> = (0..100).collect();
        let with = |tail: &[u32]| [&shots[..], tail].concat();
        let long: Vec<u32> = (200..240).collect();
        let trie = trie(&[
            with(&[500, 1]),
            with(&[&long[..], &[1, 2]].concat()),
            with(&[&long[..], &[3, 4]].concat()),
            vec![9, 9],
        ]);
        assert_eq!(trie.nodes.len(), 2);
        assert_eq!(
            (trie.nodes[0].start, trie.nodes[0].end, trie.nodes[0].users),
            (0, 100, 3)
        );
        assert_eq!(
            (trie.nodes[1].start, trie.nodes[1].end, trie.nodes[1].parent),
            (100, 140, Some(0))
        );
        assert_eq!(trie.order, [(1, Some(1)), (2, Some(1)), (0, Some(0)), (3, None)]);
    }

    #[test]
    fn a_short_stretch_is_not_worth_a_segment_unless_many_share_it() {
        let prompts: Vec<Vec<u32>> = (0..40).map(|i| vec![1, 2, 100 + i, 3]).collect();
        assert!(trie(&prompts[..10]).nodes.is_empty());
        assert_eq!(trie(&prompts).nodes.len(), 1);
    }
}
