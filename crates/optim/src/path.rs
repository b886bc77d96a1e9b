//! Variation of genomes that hold a path: an ordered run of slots, each with an indicator and perhaps a scale.
//!
//! What a path means is the caller's: here a slot has three plain coordinates, and neighbours along one of them are tried
//! first. Parents are crossed slot by slot, so that a scale stays with its indicator, or cut at one slot and spliced. Then
//! the child is edited: single genes flip as in `variation.rs`, or runs are inserted, deleted, repeated, moved, swapped for
//! another source's, or a place where the source changes is shifted. How many edits a child gets is heavy-tailed.
//!
//! **Source**: Doerr et al. 2017 (1703.03334) for the number of edits; the cut is the split point of M2N2 (Abrantes et al.
//! 2025), without its niches.

use serde::{Deserialize, Serialize};

use super::chance::Stream;
use super::domain::{Domain, Genotype};
use super::variation::Variation;

/// One place of a path, and which genes belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Position of its indicator, a choice of two: 1 is on.
    pub indicator: usize,
    /// Position of its scale, a real gene that matters only while the slot is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<usize>,
    /// Which model the layer comes from.
    pub source: usize,
    /// Which of its layers.
    pub layer: usize,
    /// The how-manieth time that the path passes here, from 0.
    pub repeat: usize,
}

/// What can be done to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edit {
    Insert,
    Delete,
    /// A run of slots that are on is switched on in another repeat too.
    Repeat,
    /// The same, and switched off where it was.
    Move,
    /// A stretch of layers comes from another source.
    Swap,
    /// The place where one source gives way to another moves by one layer.
    Shift,
}

const EDITS: [Edit; 6] = [
    Edit::Insert,
    Edit::Delete,
    Edit::Repeat,
    Edit::Move,
    Edit::Swap,
    Edit::Shift,
];

/// A child of two parents.
pub fn child(
    variation: &Variation,
    domain: &Domain,
    slots: &[Slot],
    a: &[f64],
    b: &[f64],
    stream: &mut Stream,
) -> Genotype {
    let mut child = variation.crossed(domain, a, b, stream);
    if child != a {
        cross_slots(slots, &mut child, a, b, stream);
    }
    edited(variation, domain, slots, child, stream)
}

/// A child of two parents whose other genes have been mixed already.
pub fn child_of(
    variation: &Variation,
    domain: &Domain,
    slots: &[Slot],
    (a, b): (&[f64], &[f64]),
    mut child: Genotype,
    stream: &mut Stream,
) -> Genotype {
    cross_slots(slots, &mut child, a, b, stream);
    edited(variation, domain, slots, child, stream)
}

fn edited(
    variation: &Variation,
    domain: &Domain,
    slots: &[Slot],
    mut child: Genotype,
    stream: &mut Stream,
) -> Genotype {
    if stream.chance(0.5) {
        variation.mutate(domain, &mut child, stream);
        return child;
    }
    let editor = Editor { slots };
    for _ in 0..variation.strength(slots.len(), stream) {
        // An edit that has nothing to work on (no slot is on, no other source) gives its turn to another.
        let first = stream.below(EDITS.len());
        let turns = (0..EDITS.len()).map(|turn| EDITS[(first + turn) % EDITS.len()]);
        for edit in turns {
            if editor.edit(edit, &mut child, stream) {
                break;
            }
        }
    }
    child
}

/// Slot by slot, indicator and scale together; or all slots before a cut from one parent, all after it from the other.
fn cross_slots(slots: &[Slot], child: &mut [f64], a: &[f64], b: &[f64], stream: &mut Stream) {
    let cut = stream.chance(0.5).then(|| stream.below(slots.len() + 1));
    for (i, slot) in slots.iter().enumerate() {
        let from_a = match cut {
            Some(cut) => i < cut,
            None => stream.chance(0.5),
        };
        let parent = if from_a { a } else { b };
        for gene in [Some(slot.indicator), slot.scale].into_iter().flatten() {
            child[gene] = parent[gene];
        }
    }
}

/// The genotype without what its slots that are off say: two paths that agree in it are one.
pub fn essence(slots: &[Slot], genotype: &[f64]) -> Genotype {
    let mut essence = genotype.to_vec();
    for slot in slots.iter().filter(|slot| genotype[slot.indicator] < 0.5) {
        if let Some(scale) = slot.scale {
            essence[scale] = 0.0;
        }
    }
    essence
}

struct Editor<'a> {
    slots: &'a [Slot],
}

impl Editor<'_> {
    /// Makes one edit; false if there is nothing to make it on.
    fn edit(&self, edit: Edit, genotype: &mut [f64], stream: &mut Stream) -> bool {
        match edit {
            Edit::Insert => self.flip(false, genotype, stream),
            Edit::Delete => self.flip(true, genotype, stream),
            Edit::Repeat => self.carry(false, genotype, stream),
            Edit::Move => self.carry(true, genotype, stream),
            Edit::Swap => self.swap(genotype, stream),
            Edit::Shift => self.shift(genotype, stream),
        }
    }

    fn is_on(&self, i: usize, genotype: &[f64]) -> bool {
        genotype[self.slots[i].indicator] >= 0.5
    }

    fn set(&self, i: usize, on: bool, genotype: &mut [f64]) {
        genotype[self.slots[i].indicator] = if on { 1.0 } else { 0.0 };
    }

    /// Positions of the slots that are on (or off), in order.
    fn those(&self, on: bool, genotype: &[f64]) -> Vec<usize> {
        (0..self.slots.len())
            .filter(|&i| self.is_on(i, genotype) == on)
            .collect()
    }

    fn at(&self, source: usize, layer: usize, repeat: usize) -> Option<usize> {
        let here = |slot: &Slot| (slot.source, slot.layer, slot.repeat) == (source, layer, repeat);
        self.slots.iter().position(here)
    }

    fn flip(&self, on: bool, genotype: &mut [f64], stream: &mut Stream) -> bool {
        let candidates = self.those(on, genotype);
        let Some(&i) = draw(&candidates, stream) else {
            return false;
        };
        self.set(i, !on, genotype);
        true
    }

    /// A run of consecutive layers of one source and repeat that are on: half of the time one slot, else more.
    fn run(&self, genotype: &[f64], stream: &mut Stream) -> Vec<usize> {
        let Some(&first) = draw(&self.those(true, genotype), stream) else {
            return Vec::new();
        };
        let mut run = vec![first];
        while stream.chance(0.5) {
            let last = run[run.len() - 1];
            let (end, next) = (self.slots[last], last + 1);
            let goes_on = self
                .slots
                .get(next)
                .is_some_and(|slot| (slot.source, slot.layer, slot.repeat) == (end.source, end.layer + 1, end.repeat));
            if !goes_on || !self.is_on(next, genotype) {
                break;
            }
            run.push(next);
        }
        run
    }

    /// Switches a run on in another repeat, with its scales.
    fn carry(&self, away: bool, genotype: &mut [f64], stream: &mut Stream) -> bool {
        let run = self.run(genotype, stream);
        let Some(&first) = run.first() else { return false };
        let Slot {
            source, layer, repeat, ..
        } = self.slots[first];
        let elsewhere = |slot: &Slot| (slot.source, slot.layer) == (source, layer) && slot.repeat != repeat;
        let repeats: Vec<usize> = self.slots.iter().filter(|s| elsewhere(s)).map(|s| s.repeat).collect();
        let Some(&to) = draw(&repeats, stream) else {
            return false;
        };
        let mut changed = false;
        for from in run {
            let Some(target) = self.at(source, self.slots[from].layer, to) else {
                continue;
            };
            changed |= away || !self.is_on(target, genotype);
            self.copy_scale(from, target, genotype);
            self.set(target, true, genotype);
            if away {
                self.set(from, false, genotype);
            }
        }
        changed
    }

    fn copy_scale(&self, from: usize, to: usize, genotype: &mut [f64]) {
        if let (Some(from), Some(to)) = (self.slots[from].scale, self.slots[to].scale) {
            genotype[to] = genotype[from];
        }
    }

    /// Exchanges a stretch of layers between two sources, in one repeat.
    fn swap(&self, genotype: &mut [f64], stream: &mut Stream) -> bool {
        let Some(&first) = draw(&self.those(true, genotype), stream) else {
            return false;
        };
        let Slot {
            source, layer, repeat, ..
        } = self.slots[first];
        let others = |slot: &&Slot| slot.source != source && (slot.layer, slot.repeat) == (layer, repeat);
        let others: Vec<usize> = self.slots.iter().filter(others).map(|slot| slot.source).collect();
        let Some(&other) = draw(&others, stream) else {
            return false;
        };
        let mut changed = false;
        let mut layer = layer;
        while let (Some(a), Some(b)) = (self.at(source, layer, repeat), self.at(other, layer, repeat)) {
            let (a, b) = (&self.slots[a], &self.slots[b]);
            changed |= genotype[a.indicator] != genotype[b.indicator];
            genotype.swap(a.indicator, b.indicator);
            if let (Some(a), Some(b)) = (a.scale, b.scale) {
                genotype.swap(a, b);
            }
            layer += 1;
            if stream.chance(0.4) {
                break;
            }
        }
        changed
    }

    /// Of two neighbours on the path with different sources, one gains a layer at the seam and the other loses one.
    fn shift(&self, genotype: &mut [f64], stream: &mut Stream) -> bool {
        let path = self.those(true, genotype);
        let source = |i: usize| self.slots[i].source;
        let seams: Vec<(usize, usize)> = path
            .windows(2)
            .filter(|pair| source(pair[0]) != source(pair[1]))
            .map(|pair| (pair[0], pair[1]))
            .collect();
        let Some(&(before, after)) = draw(&seams, stream) else {
            return false;
        };
        let (grows, shrinks, layer) = if stream.chance(0.5) {
            (before, after, self.slots[before].layer.checked_add(1))
        } else {
            (after, before, self.slots[after].layer.checked_sub(1))
        };
        let slot = self.slots[grows];
        let Some(gained) = layer.and_then(|layer| self.at(slot.source, layer, slot.repeat)) else {
            return false;
        };
        self.copy_scale(grows, gained, genotype);
        self.set(gained, true, genotype);
        self.set(shrinks, false, genotype);
        true
    }
}

fn draw<'a, T>(items: &'a [T], stream: &mut Stream) -> Option<&'a T> {
    (!items.is_empty()).then(|| &items[stream.below(items.len())])
}

#[cfg(test)]
mod tests {
    use super::super::chance::Address;
    use super::super::domain::Gene;
    use super::*;

    /// Two sources of four layers, twice; indicators first, then scales.
    fn slots() -> Vec<Slot> {
        let mut slots = Vec::new();
        for repeat in 0..2 {
            for source in 0..2 {
                for layer in 0..4 {
                    let indicator = slots.len();
                    slots.push(Slot {
                        indicator,
                        scale: Some(16 + indicator),
                        source,
                        layer,
                        repeat,
                    });
                }
            }
        }
        slots
    }

    fn domain() -> Domain {
        let mut genes = vec![Gene::Choice { n: 2 }; 16];
        genes.extend([Gene::Real { low: 0.5, high: 1.5 }; 16]);
        Domain::new(genes).unwrap()
    }

    fn stream(index: u64) -> Stream {
        let at = Address {
            restart: 0,
            generation: 0,
            index,
        };
        Stream::at(3, at)
    }

    fn on(positions: &[usize]) -> Genotype {
        let mut genotype = vec![0.0; 16];
        positions.iter().for_each(|&i| genotype[i] = 1.0);
        genotype.extend((0..16).map(|i| 0.5 + f64::from(i) / 16.0));
        genotype
    }

    fn path(genotype: &[f64]) -> Vec<usize> {
        (0..16).filter(|&i| genotype[i] == 1.0).collect()
    }

    /// Every path that an edit can make of another.
    fn outcomes(edit: Edit, from: &[usize]) -> std::collections::BTreeSet<Vec<usize>> {
        let slots = slots();
        let editor = Editor { slots: &slots };
        let edited = (0..300).filter_map(|index| {
            let mut genotype = on(from);
            editor
                .edit(edit, &mut genotype, &mut stream(index))
                .then(|| path(&genotype))
        });
        edited.collect()
    }

    fn set(paths: &[&[usize]]) -> std::collections::BTreeSet<Vec<usize>> {
        paths.iter().map(|path| path.to_vec()).collect()
    }

    #[test]
    fn every_edit_by_hand() {
        // Source 0, layers 0 and 1 (slots 0, 1), then source 1, layer 2 (slot 6), all in the first repeat.
        let from = [0, 1, 6];
        assert_eq!(outcomes(Edit::Insert, &from).len(), 13);
        assert_eq!(outcomes(Edit::Delete, &from), set(&[&[1, 6], &[0, 6], &[0, 1]]));
        // The second repeat's slots lie 8 further.
        assert_eq!(
            outcomes(Edit::Repeat, &from),
            set(&[&[0, 1, 6, 8], &[0, 1, 6, 9], &[0, 1, 6, 8, 9], &[0, 1, 6, 14]])
        );
        assert_eq!(
            outcomes(Edit::Move, &from),
            set(&[&[1, 6, 8], &[0, 6, 9], &[6, 8, 9], &[0, 1, 14]])
        );
        // The seam lies between layer 1 of source 0 and layer 2 of source 1.
        assert_eq!(outcomes(Edit::Shift, &from), set(&[&[0, 1, 2], &[0, 5, 6]]));
        let swapped = outcomes(Edit::Swap, &from);
        assert!(
            swapped.contains(&vec![1, 4, 6]) && swapped.contains(&vec![4, 5, 6]) && swapped.contains(&vec![0, 1, 2])
        );
        assert!(swapped.iter().all(|path| path.len() == 3));
        for edit in [Edit::Delete, Edit::Repeat, Edit::Move, Edit::Swap, Edit::Shift] {
            assert!(outcomes(edit, &[]).is_empty(), "{edit:?} has nothing to work on");
        }
    }

    #[test]
    fn scales_go_with_their_layers() {
        let slots = slots();
        let editor = Editor { slots: &slots };
        let mut genotype = on(&[2]);
        assert!(editor.edit(Edit::Move, &mut genotype, &mut stream(0)));
        assert_eq!(path(&genotype), [10]);
        assert_eq!(genotype[16 + 10], 0.5 + 2.0 / 16.0);
        let (a, b) = (
            on(&[0, 1, 2, 3]),
            on(&[12, 13, 14, 15]).iter().map(|x| x * 1.5).collect::<Vec<f64>>(),
        );
        for index in 0..50 {
            let mut child = a.clone();
            cross_slots(&slots, &mut child, &a, &b, &mut stream(index));
            for slot in &slots {
                let (i, s) = (slot.indicator, 16 + slot.indicator);
                assert!([(a[i], a[s]), (b[i], b[s])].contains(&(child[i], child[s])));
            }
        }
    }

    #[test]
    fn children_stay_inside_and_the_same_draw_gives_the_same_child() {
        let (domain, slots, variation) = (domain(), slots(), Variation::default());
        for index in 0..2000 {
            let (a, b) = (
                domain.sample(&mut stream(index)),
                domain.sample(&mut stream(index + 5000)),
            );
            let draw = || child(&variation, &domain, &slots, &a, &b, &mut stream(index));
            domain.check(&draw()).unwrap();
            assert_eq!(draw(), draw());
        }
    }

    #[test]
    fn what_is_off_is_not_of_the_essence() {
        let mut other = on(&[0, 5]);
        other[16 + 7] = 1.4;
        assert_eq!(essence(&slots(), &on(&[0, 5])), essence(&slots(), &other));
        other[16 + 5] = 1.4;
        assert_ne!(essence(&slots(), &on(&[0, 5])), essence(&slots(), &other));
    }
}
