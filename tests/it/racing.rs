//! Racing against full evaluation, on landscapes whose truth is known.

#[path = "../../examples/racing/land.rs"]
mod land;
#[path = "../../examples/racing/simulated.rs"]
mod simulated;

use heterosis::space::Racing;

const GENES: usize = 24;
const CANDIDATES: u64 = 240;

/// As good a mean for a quarter of the answers.
#[test]
fn a_race_finds_as_much_with_a_quarter_of_the_answers() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut answers, mut truth) = ([0, 0], [0.0, 0.0]);
    let seeds = 1..=6;
    for seed in seeds.clone() {
        let land = simulated::land(GENES, seed);
        for (k, racing) in [None, Some(Racing::default())].into_iter().enumerate() {
            let way = simulated::Way {
                racing,
                ..simulated::Way::default()
            };
            let found = simulated::search(&land, GENES, CANDIDATES, &way, seed, tmp.path()).unwrap();
            answers[k] += found.answers;
            truth[k] += found.truth / seeds.clone().count() as f64;
        }
    }
    assert!(4 * answers[1] <= answers[0], "{answers:?}");
    assert!(truth[1] >= truth[0] - 0.02, "{truth:?}");
}

/// Whoever is told of candidates as they come learns of each a little late; the hands wait for nobody.
#[test]
fn candidates_as_they_come_find_as_much_as_generations_and_leave_no_hand_idle() {
    let tmp = tempfile::tempdir().unwrap();
    let (mut truth, mut seconds) = ([0.0, 0.0], [0.0, 0.0]);
    let seeds = 1..=4;
    for seed in seeds.clone() {
        let land = simulated::land(GENES, seed);
        for (k, asynchronous) in [false, true].into_iter().enumerate() {
            let way = simulated::Way {
                hands: 8,
                asynchronous,
                ..simulated::Way::default()
            };
            let found = simulated::search(&land, GENES, CANDIDATES, &way, seed, tmp.path()).unwrap();
            truth[k] += found.truth / seeds.clone().count() as f64;
            seconds[k] += found.seconds;
        }
    }
    assert!(truth[1] >= truth[0] - 0.02, "{truth:?}");
    assert!(seconds[1] < 0.8 * seconds[0], "{seconds:?}");
}
