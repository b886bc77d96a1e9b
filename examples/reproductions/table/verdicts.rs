//! What the table says: a line for each arm of each family, and each claim of the papers with a sign test over families, training
//! seeds and search seeds.

use std::collections::BTreeMap;

use heterosis::eval::stats;

use super::{ARMS, Cell, FAMILY, PARENTS, PROBLEMS, UNSEARCHED};

/// A claim is held, or denied, below this.
const SURE: f64 = 0.01;

/// What is compared.
#[derive(Clone, Copy)]
enum Side {
    Arm(&'static str),
    BestParent,
    BestUnsearched,
}

use Side::{Arm, BestParent, BestUnsearched};

/// One side is ahead of the other by more than a margin, in points.
struct Claim {
    words: &'static str,
    source: &'static str,
    ahead: Side,
    behind: Side,
    margin: f64,
    /// The one family that it is about; empty: all.
    family: &'static str,
}

const fn claim(words: &'static str, source: &'static str, ahead: Side, behind: Side) -> Claim {
    Claim {
        words,
        source,
        ahead,
        behind,
        margin: 0.0,
        family: "",
    }
}

const PS: &str = "parameter space, CMA-ES";
const DFS: &str = "data flow";
const SWAP: &str = "layer swap, searched";
const AKIBA: &str = "Akiba et al. 2024";
const BANDARKAR: &str = "Bandarkar et al. 2024";

const CLAIMS: [Claim; 16] = [
    claim(
        "hybrid > parameter space",
        AKIBA,
        Arm("parameter space, then data flow"),
        Arm(PS),
    ),
    claim("both at once > parameter space", AKIBA, Arm("both at once"), Arm(PS)),
    claim("parameter space > data flow", AKIBA, Arm(PS), Arm(DFS)),
    claim("data flow > best parent", AKIBA, Arm(DFS), BestParent),
    Claim {
        family: "depths",
        ..claim(
            "data flow > parameter space, where skills lie at different depths",
            "",
            Arm(DFS),
            Arm(PS),
        )
    },
    claim("parameter space > best parent", AKIBA, Arm(PS), BestParent),
    claim("parameter space > best unsearched merge", "", Arm(PS), BestUnsearched),
    claim("CMA-ES > random draws", "", Arm(PS), Arm("parameter space, random")),
    claim("CMA-ES > genetic", "", Arm(PS), Arm("parameter space, genetic")),
    claim(
        "staged widening > parameter space",
        "",
        Arm("parameter space, staged widening"),
        Arm(PS),
    ),
    claim(
        "learned, then 30 candidates > parameter space",
        "",
        Arm("learned, then 30 candidates"),
        Arm(PS),
    ),
    Claim {
        margin: 10.0,
        ..claim(
            "searched layer swap > best parent by 10 points",
            BANDARKAR,
            Arm(SWAP),
            BestParent,
        )
    },
    Claim {
        family: "layer-swap",
        margin: 10.0,
        ..claim(
            "the same, from a base strong in both languages",
            BANDARKAR,
            Arm(SWAP),
            BestParent,
        )
    },
    claim("TIES > plain sum", "Yadav et al. 2023", Arm("TIES"), Arm("plain sum")),
    claim(
        "DARE-TIES > plain sum",
        "Yu et al. 2024",
        Arm("DARE-TIES"),
        Arm("plain sum"),
    ),
    Claim {
        family: "sentences",
        ..claim(
            "language gate > none, right and in Spanish",
            AKIBA,
            Arm(PS),
            Arm("parameter space, no language gate"),
        )
    },
];

/// As those of [`CLAIMS`], on the area under fronts.
const OF_AREAS: [Claim; 2] = [
    claim(
        "NSGA-II > random draws, area of the front",
        "",
        Arm("two tasks, NSGA-II"),
        Arm("two tasks, random"),
    ),
    claim(
        "learned, then 30 candidates > NSGA-II, area of the front",
        "",
        Arm("two tasks, learned, then 30 candidates"),
        Arm("two tasks, NSGA-II"),
    ),
];

pub fn print(cells: &[Cell]) {
    for family in FAMILY {
        let mine: Vec<&Cell> = cells.iter().filter(|cell| cell.family == family.name).collect();
        if !mine.is_empty() {
            println!("\n### `{}`\n", family.name);
            print_arms(&mine);
        }
    }
    println!("\n| claim | source | cells | difference, points | ahead in | p | |\n|---|---|---|---|---|---|---|");
    for claim in CLAIMS {
        print_claim(&claim, cells, &percent);
    }
    for claim in OF_AREAS {
        print_claim(&claim, cells, &|cell| {
            cell.area.map(|area| 100.0 * area).unwrap_or(f64::NAN)
        });
    }
}

fn print_arms(cells: &[&Cell]) {
    println!(
        "| | cells | answers | right, selection's templates | test's | of what its best parent could, lost | area of the front |"
    );
    println!("|---|---|---|---|---|---|---|");
    let names = PARENTS
        .into_iter()
        .chain(UNSEARCHED.map(|(name, _)| name))
        .chain(ARMS.map(|arm| arm.name));
    let most = |trained: u64| {
        let parents = cells
            .iter()
            .filter(|cell| cell.trained == trained && PARENTS.contains(&cell.arm.as_str()));
        parents.map(|cell| cell.right.iter().sum::<usize>()).max().unwrap_or(0)
    };
    for name in names {
        let mine: Vec<&&Cell> = cells.iter().filter(|cell| cell.arm == name).collect();
        if mine.is_empty() {
            continue;
        }
        let mean = |of: &dyn Fn(&Cell) -> f64| stats::mean(&mine.iter().map(|cell| of(cell)).collect::<Vec<_>>());
        let right = |split: usize| {
            spread(
                mine.iter()
                    .map(|cell| 100.0 * cell.right[split] as f64 / PROBLEMS as f64),
            )
        };
        let area = match mine.iter().any(|cell| cell.area.is_some()) {
            true => format!("{:.3}", mean(&|cell| cell.area.unwrap_or(f64::NAN))),
            false => String::new(),
        };
        println!(
            "| {name} | {} | {:.0} | {} | {} | {:.0} % | {area} |",
            mine.len(),
            mean(&|cell| cell.answers as f64),
            right(0),
            right(1),
            100.0 * mean(&|cell| cell.lost as f64 / most(cell.trained).max(1) as f64),
        );
    }
}

/// Mean, least and most.
fn spread(values: impl Iterator<Item = f64>) -> String {
    let values: Vec<f64> = values.collect();
    let (least, most) = values
        .iter()
        .fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
    match values.len() {
        1 => format!("{:.1}", values[0]),
        _ => format!("{:.1} ({least:.1}–{most:.1})", stats::mean(&values)),
    }
}

/// Of all fresh problems.
fn percent(cell: &Cell) -> f64 {
    100.0 * cell.right.iter().sum::<usize>() as f64 / (2 * PROBLEMS) as f64
}

fn print_claim(claim: &Claim, cells: &[Cell], value: &dyn Fn(&Cell) -> f64) {
    let differences: Vec<f64> = pairs(claim, cells, value)
        .into_iter()
        .map(|(a, b)| a - b - claim.margin)
        .collect();
    if differences.is_empty() {
        return;
    }
    let ahead = differences.iter().filter(|difference| **difference > 0.0).count();
    let behind = differences.iter().filter(|difference| **difference < 0.0).count();
    let p = sign_test(ahead, behind);
    let verdict = match (p < SURE, ahead > behind) {
        (true, true) => "**holds**",
        (true, false) => "**does not**",
        (false, _) => "cannot be told",
    };
    println!(
        "| {} | {} | {} | {:+.1} | {ahead} | {p:.4} | {verdict} |",
        claim.words,
        claim.source,
        differences.len(),
        stats::mean(&differences) + claim.margin
    );
}

/// Both sides' values, wherever both were measured. What nobody searched for stands beside every search seed of its family.
fn pairs(claim: &Claim, cells: &[Cell], value: &dyn Fn(&Cell) -> f64) -> Vec<(f64, f64)> {
    let mine = || {
        cells
            .iter()
            .filter(|cell| claim.family.is_empty() || cell.family == claim.family)
    };
    let mut at: BTreeMap<(&str, u64, u64), [Option<f64>; 2]> = BTreeMap::new();
    for (side, which) in [(0, claim.ahead), (1, claim.behind)] {
        let seedless = |names: &[&str], cell: &Cell| {
            let same = mine().filter(|c| (&c.family, c.trained) == (&cell.family, cell.trained));
            let values = same
                .filter(|c| c.seed == 0 && names.contains(&c.arm.as_str()))
                .map(value);
            values.reduce(f64::max)
        };
        for cell in mine() {
            let found = match which {
                Arm(name) if cell.arm == name => Some(value(cell)),
                Arm(_) => None,
                BestParent => seedless(&PARENTS, cell),
                BestUnsearched => seedless(&UNSEARCHED.map(|(name, _)| name), cell),
            };
            if found.is_some() {
                at.entry((&cell.family, cell.trained, cell.seed)).or_default()[side] = found;
            }
        }
    }
    at.into_values().filter_map(|[a, b]| a.zip(b)).collect()
}

/// Two-sided: how likely so uneven a split is if neither side is ahead (draws left out).
fn sign_test(ahead: usize, behind: usize) -> f64 {
    let n = ahead + behind;
    let mut term = 0.5_f64.powi(n as i32);
    let mut tail = 0.0;
    for k in 0..=ahead.min(behind) {
        tail += term;
        term *= (n - k) as f64 / (k + 1) as f64;
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_of_nine_are_sure_and_eight_are_not() {
        assert!((sign_test(9, 0) - 2.0 / 512.0).abs() < 1e-12);
        assert!((sign_test(8, 1) - 20.0 / 512.0).abs() < 1e-12);
        assert!((sign_test(3, 3) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_claim_pairs_what_was_measured_alike() {
        let cell = |trained, seed, arm: &str, right| Cell {
            family: "depths".into(),
            trained,
            seed,
            arm: arm.into(),
            answers: 1,
            right: [right, right],
            right_in_any_language: [right, right],
            lost: 0,
            area: None,
        };
        let cells = [
            cell(1, 0, "maths", 100),
            cell(1, 0, "base", 50),
            cell(1, 1, DFS, 200),
            cell(1, 2, DFS, 90),
            cell(2, 1, DFS, 300), // whose parents are not there
        ];
        let told = pairs(&claim("", "", Arm(DFS), BestParent), &cells, &percent);
        assert_eq!(told, [(8.0, 4.0), (3.6, 4.0)]);
    }
}
