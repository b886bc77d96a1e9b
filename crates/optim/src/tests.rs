//! What holds for every optimizer: convergence, resume, order, bounds, invariance, and the edges.

use proptest::prelude::*;

use super::*;

fn sphere(x: &[f64]) -> f64 {
    -x.iter().map(|x| x * x).sum::<f64>()
}

fn boxed(n: usize) -> Domain {
    Domain::new(vec![Gene::Real { low: -3.0, high: 5.0 }; n]).unwrap()
}

fn mixed() -> Domain {
    Domain::new(vec![
        Gene::Real { low: -1.0, high: 2.0 },
        Gene::Int { low: -2, high: 6 },
        Gene::Choice { n: 3 },
        Gene::Choice { n: 1 },
        Gene::Real { low: 0.0, high: 1.0 },
        Gene::Int { low: 0, high: 1 },
    ])
    .unwrap()
}

/// A domain that the algorithm can search.
fn domain_for(kind: Kind) -> Domain {
    if kind == Kind::CmaEs { boxed(4) } else { mixed() }
}

/// The algorithms that have a mean.
fn is_cma(kind: Kind) -> bool {
    matches!(kind, Kind::CmaEs | Kind::CmaEsMargin)
}

fn options(seed: u64) -> Options {
    Options {
        seed,
        restarts: Restarts::None,
        ..Options::default()
    }
}

fn start(kind: Kind, seed: u64) -> Optimizer {
    Optimizer::new(kind, domain_for(kind), &options(seed)).unwrap()
}

/// Asks, scores and tells for `generations` generations; gives every genotype asked for.
fn run(optimizer: &mut Optimizer, generations: usize, fitness: impl Fn(&[f64]) -> f64) -> Vec<Genotype> {
    let mut seen = Vec::new();
    for _ in 0..generations {
        let asks = optimizer.ask();
        let results: Vec<_> = asks
            .iter()
            .map(|ask| (ask.id, Outcome::from_score(fitness(&ask.genotype))))
            .collect();
        optimizer.tell(&results).unwrap();
        seen.extend(asks.into_iter().map(|ask| ask.genotype));
    }
    seen
}

/// Runs until the fitness reaches `target`; gives the evaluations used.
fn evaluations_to(
    optimizer: &mut Optimizer,
    target: f64,
    budget: usize,
    fitness: impl Fn(&[f64]) -> f64,
) -> Option<usize> {
    let mut evaluations = 0;
    while evaluations < budget {
        for ask in optimizer.ask() {
            let value = fitness(&ask.genotype);
            evaluations += 1;
            if value >= target {
                return Some(evaluations);
            }
            optimizer.tell(&[(ask.id, Outcome::from_score(value))]).unwrap();
        }
    }
    None
}

fn bits(genotypes: &[Genotype]) -> Vec<u64> {
    genotypes.iter().flatten().map(|x| x.to_bits()).collect()
}

#[test]
fn five_generations_and_save_and_load_and_five_are_ten_bit_for_bit() {
    for kind in Kind::ALL {
        for noisy in [false, true] {
            let options = Options {
                noisy,
                learning_rate_adaptation: noisy,
                ..options(3)
            };
            let fresh = || Optimizer::new(kind, domain_for(kind), &options).unwrap();
            let mut whole = fresh();
            let expected = run(&mut whole, 10, sphere);

            let mut first = fresh();
            let mut seen = run(&mut first, 5, sphere);
            // Saved in the middle of a generation: some out, some answered.
            let asks = first.ask();
            first
                .tell(&[(asks[1].id, Outcome::from_score(sphere(&asks[1].genotype)))])
                .unwrap();
            let mut second = Optimizer::from_json(&first.to_json()).unwrap();
            assert_eq!(second, first);
            let waiting = second.pending();
            assert_eq!(waiting.len(), asks.len() - 1);
            let rest: Vec<_> = waiting
                .iter()
                .map(|ask| (ask.id, Outcome::from_score(sphere(&ask.genotype))))
                .collect();
            second.tell(&rest).unwrap();
            seen.extend(asks.into_iter().map(|ask| ask.genotype));
            seen.extend(run(&mut second, 4, sphere));

            assert_eq!(bits(&seen), bits(&expected), "{kind:?}");
            assert_eq!(second.to_json(), whole.to_json());
        }
    }
}

#[test]
fn the_order_of_answers_does_not_matter() {
    for kind in Kind::ALL {
        let (mut forward, mut backward) = (start(kind, 5), start(kind, 5));
        run(&mut forward, 8, sphere);
        for _ in 0..8 {
            let mut asks = backward.ask();
            asks.rotate_left(3);
            for ask in asks.iter().rev() {
                backward
                    .tell(&[(ask.id, Outcome::from_score(sphere(&ask.genotype)))])
                    .unwrap();
            }
        }
        assert_eq!(forward, backward, "{kind:?}");
    }
}

/// The algorithms that go by ranks alone.
fn ranked() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| *kind != Kind::Gp)
}

#[test]
fn a_monotone_transform_of_the_fitness_changes_nothing() {
    for kind in ranked() {
        let (mut plain, mut bent) = (start(kind, 6), start(kind, 6));
        let a = run(&mut plain, 15, sphere);
        let b = run(&mut bent, 15, |x| libm::cbrt(sphere(x)) * 10.0 - 4.0);
        assert_eq!(bits(&a), bits(&b), "{kind:?}");
    }
}

#[test]
fn seeds_differ_and_repeat() {
    for kind in Kind::ALL {
        let trace = |seed| bits(&run(&mut start(kind, seed), 3, sphere));
        assert_eq!(trace(1), trace(1));
        assert_ne!(trace(1), trace(2));
    }
}

#[test]
fn workers_that_never_wait_give_the_same_run_for_the_same_order() {
    for kind in Kind::ALL {
        // Four workers; of those at work, the one that holds the larger genotype sum is slower.
        let search = || {
            let mut optimizer = start(kind, 8);
            let mut at_work: Vec<Ask> = (0..4).map(|_| optimizer.ask_one()).collect();
            let mut best = f64::NEG_INFINITY;
            // A process of hundreds of scores is slow, and 80 are enough for it.
            for _ in 0..if kind == Kind::Gp { 80 } else { 600 } {
                let slowness = |ask: &Ask| ask.genotype.iter().sum::<f64>();
                let next = (0..4)
                    .min_by(|&a, &b| slowness(&at_work[a]).total_cmp(&slowness(&at_work[b])))
                    .unwrap();
                let done = std::mem::replace(&mut at_work[next], optimizer.ask_one());
                best = best.max(sphere(&done.genotype));
                optimizer
                    .tell(&[(done.id, Outcome::from_score(sphere(&done.genotype)))])
                    .unwrap();
            }
            (optimizer.to_json(), best)
        };
        let (state, best) = search();
        assert_eq!((state, best), search());
        assert!(
            best > if kind == Kind::Random { -2.0 } else { -0.5 },
            "{kind:?}: {best}"
        );
    }
}

#[test]
fn cma_es_converges_on_a_sphere_in_five_dimensions() {
    for seed in 0..5 {
        let mut optimizer = Optimizer::new(Kind::CmaEs, boxed(5), &options(seed)).unwrap();
        let used = evaluations_to(&mut optimizer, -1e-10, 3000, sphere);
        assert!(used.is_some_and(|used| used < 1100), "{used:?}");
        let mean = optimizer.mean().unwrap();
        assert!(sphere(&mean) > -1e-8);
    }
}

#[test]
fn cma_es_finds_an_optimum_on_the_bound() {
    // The best of −(x + 4)² on [−3, 5] is at −3.
    let fitness = |x: &[f64]| -x.iter().map(|x| (x + 4.0) * (x + 4.0)).sum::<f64>();
    let mut optimizer = Optimizer::new(Kind::CmaEs, boxed(4), &options(1)).unwrap();
    assert!(evaluations_to(&mut optimizer, -4.0 - 1e-4, 3000, fitness).is_some());
}

#[test]
fn every_kind_improves_on_a_mixed_or_real_sphere() {
    for kind in [Kind::CmaEs, Kind::CmaEsMargin, Kind::Genetic, Kind::Gp] {
        let fitness = |x: &[f64]| sphere(x);
        let mut optimizer = start(kind, 2);
        assert!(
            evaluations_to(&mut optimizer, -1e-3, 4000, fitness).is_some(),
            "{kind:?}"
        );
    }
}

#[test]
fn one_gene_and_two_candidates_are_enough() {
    let one = Domain::new(vec![Gene::Real { low: -3.0, high: 5.0 }]).unwrap();
    for kind in Kind::ALL {
        let mut optimizer = Optimizer::new(kind, one.clone(), &options(4)).unwrap();
        let target = if kind == Kind::CmaEs { -1e-8 } else { -1e-2 };
        assert!(
            evaluations_to(&mut optimizer, target, 3000, sphere).is_some(),
            "{kind:?}"
        );

        let pair = Options {
            population_size: Some(2),
            ..options(4)
        };
        let mut optimizer = Optimizer::new(kind, domain_for(kind), &pair).unwrap();
        assert_eq!(optimizer.ask().len(), 2);
        let pending: Vec<_> = optimizer
            .pending()
            .iter()
            .map(|ask| (ask.id, Outcome::from_score(sphere(&ask.genotype))))
            .collect();
        optimizer.tell(&pending).unwrap();
        let target = if kind == Kind::Random { -2.0 } else { -0.3 };
        assert!(
            evaluations_to(&mut optimizer, target, 6000, sphere).is_some(),
            "{kind:?}"
        );

        let lone = Options {
            population_size: Some(1),
            ..options(4)
        };
        assert!(matches!(
            Optimizer::new(kind, one.clone(), &lone),
            Err(Error::PopulationSize { got: 1, least: 2 })
        ));
    }
}

#[test]
fn five_hundred_genes() {
    for kind in Kind::ALL {
        let domain = boxed(500);
        let mut optimizer = Optimizer::new(kind, domain.clone(), &options(1)).unwrap();
        for genotype in run(&mut optimizer, 3, sphere) {
            domain.check(&genotype).unwrap();
        }
    }
}

#[test]
fn a_flat_fitness_never_completes_soon_and_breaks_nothing() {
    for kind in Kind::ALL {
        for noisy in [false, true] {
            let domain = domain_for(kind);
            let mut optimizer = Optimizer::new(kind, domain.clone(), &Options { noisy, ..options(7) }).unwrap();
            for _ in 0..10 {
                for genotype in run(&mut optimizer, 1, |_| 0.25) {
                    domain.check(&genotype).unwrap();
                }
                assert_eq!(optimizer.should_stop(), None, "{kind:?}");
            }
            // The landscape appears at last.
            run(&mut optimizer, 2, sphere);
            assert_eq!(optimizer.should_stop(), None);
        }
    }
}

#[test]
fn a_flat_fitness_ends_a_run_without_noise_after_many_generations() {
    let mut optimizer = start(Kind::CmaEs, 1);
    run(&mut optimizer, 200, |_| 0.0);
    assert_eq!(optimizer.should_stop(), Some(StopReason::Flat));
    let mut noisy = Optimizer::new(
        Kind::CmaEs,
        boxed(4),
        &Options {
            noisy: true,
            ..options(1)
        },
    )
    .unwrap();
    run(&mut noisy, 200, |_| 0.0);
    assert_eq!(noisy.should_stop(), None);
    assert_eq!(noisy.status().flat_generations, 200);
}

#[test]
fn all_failed_and_one_survivor() {
    for kind in Kind::ALL {
        let domain = domain_for(kind);
        let mut optimizer = start(kind, 9);
        for genotype in run(&mut optimizer, 5, |_| f64::NAN) {
            domain.check(&genotype).unwrap();
        }
        // Only candidates with a small first gene survive: about one in a generation.
        let narrow = |x: &[f64]| if x[0] < -0.5 { sphere(x) } else { f64::NAN };
        for genotype in run(&mut optimizer, 20, narrow) {
            domain.check(&genotype).unwrap();
        }
        assert_eq!(optimizer.should_stop(), None);
        // Nobody replies to the language model's question, and nothing else moves its mean into the dark.
        if !matches!(kind, Kind::Random | Kind::Evollm) {
            let alive = run(&mut optimizer, 5, narrow).iter().filter(|x| x[0] < -0.5).count();
            assert!(alive * 3 > 5 * optimizer.population_size(), "{kind:?}: {alive}");
        }
    }
}

#[test]
fn eliminated_arms_teach_in_the_order_in_which_they_left() {
    for kind in ranked() {
        let (mut scored, mut raced) = (start(kind, 12), start(kind, 12));
        for _ in 0..10 {
            let asks = scored.ask();
            assert_eq!(asks, raced.ask());
            let results: Vec<_> = asks.iter().map(|ask| (ask.id, sphere(&ask.genotype))).collect();
            let mut ranked = results.clone();
            ranked.sort_by(|a, b| a.1.total_cmp(&b.1));
            // The same ranks, once by score and once by race: the better half is scored, the worse leaves early.
            let race: Vec<_> = ranked
                .iter()
                .enumerate()
                .map(|(place, (id, score))| {
                    let out = place < ranked.len() / 2;
                    (
                        *id,
                        if out {
                            Outcome::Eliminated { order: place as u64 }
                        } else {
                            Outcome::from_score(*score)
                        },
                    )
                })
                .collect();
            let scores: Vec<_> = results
                .iter()
                .map(|(id, score)| (*id, Outcome::from_score(*score)))
                .collect();
            scored.tell(&scores).unwrap();
            raced.tell(&race).unwrap();
            if matches!(kind, Kind::Genetic | Kind::Nsga2) {
                break; // a scored child may outlive a parent, an eliminated one may not: the runs part company
            }
        }
        assert_eq!(scored.ask(), raced.ask(), "{kind:?}");
    }
}

#[test]
fn a_budget_below_one_generation() {
    for kind in Kind::ALL {
        let mut optimizer = start(kind, 1);
        let asks = optimizer.ask();
        optimizer.tell(&[(asks[0].id, Outcome::from_score(1.0))]).unwrap();
        assert_eq!(optimizer.ask(), [], "the rest of the generation is still out");
        assert_eq!(optimizer.status().generation, 0);
        assert_eq!(optimizer.should_stop(), None);
        assert_eq!(optimizer.mean().is_some(), is_cma(kind) || kind == Kind::Evollm);
    }
}

#[test]
fn calls_out_of_turn_are_refused_and_change_nothing() {
    for kind in Kind::ALL {
        let mut optimizer = start(kind, 1);
        let ask = optimizer.ask_one();
        let before = optimizer.clone();
        let scored = |id| (id, Outcome::from_score(1.0));
        assert!(matches!(
            optimizer.tell(&[scored(0), scored(99)]),
            Err(Error::UnknownCandidate { id: 99 })
        ));
        assert!(matches!(
            optimizer.tell(&[scored(0), scored(0)]),
            Err(Error::UnknownCandidate { id: 0 })
        ));
        let two = Outcome::Objectives {
            values: vec![Fitness::new(1.0).unwrap(); 2],
            violation: Fitness::new(0.0).unwrap(),
        };
        assert!(matches!(
            optimizer.tell(&[(0, two)]),
            Err(Error::Objectives {
                expected: 1,
                got: 2,
                ..
            })
        ));
        assert!(matches!(
            optimizer.start_at(&ask.genotype, &Spread::OfRange(0.1)),
            Err(Error::AlreadyStarted)
        ));
        assert!(optimizer.inject([vec![1e9; 4]]).is_err());
        assert_eq!(optimizer, before);
        optimizer.tell(&[scored(0)]).unwrap();
        assert!(matches!(
            optimizer.tell(&[scored(0)]),
            Err(Error::UnknownCandidate { id: 0 })
        ));
    }
}

#[test]
fn warm_starts_come_first_and_the_search_begins_around_the_start() {
    let point = vec![2.0, -1.0, 0.5, 4.0];
    let mut optimizer = start(Kind::CmaEs, 1);
    optimizer.start_at(&point, &Spread::OfRange(1e-3)).unwrap();
    optimizer.inject([vec![0.0; 4], vec![1.0; 4]]).unwrap();
    let asks = optimizer.ask();
    assert_eq!(asks[0].genotype, [0.0; 4]);
    assert_eq!(asks[1].genotype, [1.0; 4]);
    for ask in &asks[2..] {
        assert!(
            ask.genotype
                .iter()
                .zip(&point)
                .all(|(a, b)| (a - b).abs() < 8.0 * 1e-3 * 6.0),
            "{ask:?}"
        );
    }
    let near = |a: &[f64]| a.iter().zip(&point).all(|(a, b)| (a - b).abs() < 1e-12);
    assert!(near(&optimizer.mean().unwrap()));

    let mut per_gene = start(Kind::CmaEs, 1);
    per_gene
        .start_at(&point, &Spread::OfGenes(vec![1e-6, 1e-6, 1e-6, 0.1]))
        .unwrap();
    assert!(
        per_gene
            .ask()
            .iter()
            .all(|ask| (ask.genotype[0] - 2.0).abs() < 1e-5 && (ask.genotype[3] - 4.0).abs() < 1.0)
    );
    for bad in [
        Spread::OfRange(0.0),
        Spread::OfRange(f64::NAN),
        Spread::OfGenes(vec![1.0, 1.0, -1.0, 1.0]),
    ] {
        assert!(matches!(
            start(Kind::CmaEs, 1).start_at(&point, &bad),
            Err(Error::StepSize { .. })
        ));
    }

    for kind in [Kind::Genetic, Kind::Nsga2, Kind::Gp, Kind::Random] {
        let mut optimizer = start(kind, 1);
        let point = vec![0.0, 3.0, 2.0, 0.0, 0.5, 1.0];
        optimizer.start_at(&point, &Spread::OfRange(0.1)).unwrap();
        assert_eq!(optimizer.ask_one().genotype, point);
    }
}

#[test]
fn what_a_search_has_learnt_can_start_another() {
    let problem = |x: &[f64]| -(x[0] - x[1]).powi(2) * 100.0 - (x[0] + x[1]).powi(2) - x[2] * x[2] - x[3] * x[3];
    let mut optimizer = start(Kind::CmaEs, 5);
    for _ in 0..40 {
        let asks = optimizer.ask();
        let told = asks
            .iter()
            .map(|ask| (ask.id, Outcome::from_score(problem(&ask.genotype))));
        optimizer.tell(&told.collect::<Vec<_>>()).unwrap();
    }
    let (mean, spread) = (optimizer.mean().unwrap(), optimizer.spread().unwrap());
    let Spread::Correlated { stds, correlations } = &spread else {
        panic!("{spread:?}")
    };
    assert!(
        correlations[1] > 0.8,
        "the first two genes go together: {correlations:?}"
    );
    assert_eq!(correlations[1], correlations[4]);

    let mut heir = start(Kind::CmaEs, 6);
    heir.start_at(&mean, &spread).unwrap();
    let Some(Spread::Correlated { stds: again, .. }) = heir.spread() else {
        panic!()
    };
    assert!(stds.iter().zip(&again).all(|(a, b)| (a / b - 1.0).abs() < 1e-9));
    // Its first samples lie along the valley.
    let along = |x: &[f64]| (x[0] - mean[0]) * (x[1] - mean[1]) > 0.0;
    let asks: Vec<Ask> = (0..40).map(|_| heir.ask_one()).collect();
    assert!(asks.iter().filter(|ask| along(&ask.genotype)).count() > 30);

    let short = Spread::Correlated {
        stds: stds.clone(),
        correlations: vec![1.0; 3],
    };
    assert!(start(Kind::CmaEs, 6).start_at(&mean, &short).is_err());
    assert_eq!(start(Kind::Genetic, 6).spread(), None);
}

#[test]
fn restarts_double_the_population_and_go_on() {
    for restarts in [Restarts::Ipop, Restarts::Bipop] {
        let mut optimizer = Optimizer::new(Kind::CmaEs, boxed(2), &Options { restarts, ..options(2) }).unwrap();
        let first = optimizer.population_size();
        let mut sizes = vec![first];
        while !sizes.contains(&(4 * first)) {
            run(&mut optimizer, 1, sphere);
            assert!(optimizer.status().generation < 20_000, "{sizes:?}");
            assert_eq!(optimizer.should_stop(), None);
            if sizes.last() != Some(&optimizer.population_size()) {
                sizes.push(optimizer.population_size());
            }
        }
        assert_eq!(sizes[1], 2 * first);
        let ended = optimizer.ended_means();
        assert_eq!(ended.len() as u64, optimizer.status().restart);
        assert!(sphere(&ended[0]) > -1e-10, "the first run had converged");
    }
}

#[test]
fn genes_that_cmaes_cannot_move_are_refused_with_a_way_out() {
    let error = Optimizer::new(Kind::CmaEs, mixed(), &options(0)).unwrap_err();
    assert!(matches!(error, Error::UnsupportedGene { gene: 1, .. }));
    assert!(error.to_string().contains("cma-es-margin"), "{error}");
    let fixed = Domain::new(vec![Gene::Choice { n: 1 }, Gene::Real { low: 0.0, high: 1.0 }]).unwrap();
    let mut optimizer = Optimizer::new(Kind::CmaEs, fixed, &options(0)).unwrap();
    assert!(run(&mut optimizer, 3, sphere).iter().all(|x| x[0] == 0.0));
}

#[test]
fn broken_states_are_refused() {
    let json = start(Kind::CmaEs, 1).to_json();
    assert!(matches!(
        Optimizer::from_json(&json.replacen("\"version\":1", "\"version\":9", 1)),
        Err(Error::StateVersion { got: 9, .. })
    ));
    assert!(matches!(
        Optimizer::from_json(&json[..json.len() / 2]),
        Err(Error::State { .. })
    ));
    let short = json.replacen("\"p_sigma\":[0.0,", "\"p_sigma\":[", 1);
    assert_ne!(short, json);
    assert!(matches!(Optimizer::from_json(&short), Err(Error::State { .. })));
}

#[test]
fn fitness_refuses_what_is_not_a_number() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(matches!(Fitness::new(value), Err(Error::NotFinite { .. })));
        assert_eq!(Outcome::from_score(value), Outcome::Failed);
    }
    assert_eq!(Fitness::new(-0.0).unwrap().value().to_bits(), 0.0f64.to_bits());
    assert!(serde_json::from_str::<Fitness>("null").is_err());
}

#[test]
fn noise_does_not_keep_a_lucky_parent_alive() {
    // Fitness is the number of ones with heavy noise: re-asked parents must lose their luck.
    let domain = Domain::new(vec![Gene::Choice { n: 2 }; 20]).unwrap();
    let mut optimizer = Optimizer::new(
        Kind::Genetic,
        domain,
        &Options {
            noisy: true,
            ..options(3)
        },
    )
    .unwrap();
    let mut evaluation = 0u64;
    let mut ones = Vec::new();
    for _ in 0..60 {
        for ask in optimizer.ask() {
            evaluation += 1;
            let noise = chance::Stream::at(
                77,
                chance::Address {
                    restart: 0,
                    generation: 0,
                    index: evaluation,
                },
            )
            .normal();
            let true_worth: f64 = ask.genotype.iter().sum();
            ones.push(true_worth);
            optimizer
                .tell(&[(ask.id, Outcome::from_score(true_worth + 2.0 * noise))])
                .unwrap();
        }
    }
    let late = &ones[ones.len() - 200..];
    let average = late.iter().sum::<f64>() / late.len() as f64;
    assert!(average > 16.0, "{average}");
}

#[test]
fn nsga2_finds_the_front_of_two_parabolas() {
    // max −x² and −(x − 2)² on three genes: the front is the segment from 0 to 2 of the first gene, the others 0.
    let domain = Domain::new(vec![Gene::Real { low: -5.0, high: 5.0 }; 3]).unwrap();
    let options = Options {
        objectives: 2,
        population_size: Some(40),
        ..options(3)
    };
    let mut optimizer = Optimizer::new(Kind::Nsga2, domain, &options).unwrap();
    let number = |value: f64| Fitness::new(value).unwrap();
    let score = |x: &[f64]| {
        let rest = x[1] * x[1] + x[2] * x[2];
        let values = vec![number(-x[0] * x[0] - rest), number(-(x[0] - 2.0) * (x[0] - 2.0) - rest)];
        Outcome::Objectives {
            values,
            violation: number((x[0] - 1.5).max(0.0)),
        } // a limit: x₀ ≤ 1.5
    };
    for _ in 0..100 {
        let told: Vec<_> = optimizer
            .ask()
            .iter()
            .map(|ask| (ask.id, score(&ask.genotype)))
            .collect();
        optimizer.tell(&told).unwrap();
    }
    let front = optimizer.front();
    assert!(front.len() >= 30, "{}", front.len());
    for (genotype, values) in &front {
        assert!((-0.05..=1.5).contains(&genotype[0]), "{genotype:?}");
        assert!(genotype[1].abs() < 0.2 && genotype[2].abs() < 0.2, "{genotype:?}");
        assert!(values[0] > -2.5 && values[1] > -4.5);
    }
    let reach = |low: f64, high: f64| front.iter().filter(|(x, _)| (low..high).contains(&x[0])).count();
    assert!(
        reach(-0.1, 0.3) >= 2 && reach(0.6, 0.9) >= 2 && reach(1.2, 1.51) >= 2,
        "{front:?}"
    );
    let scalar = Optimizer::new(Kind::Genetic, boxed(2), &options);
    assert!(matches!(
        scalar,
        Err(Error::Objectives {
            expected: 1,
            got: 2,
            ..
        })
    ));
}

fn any_gene() -> impl Strategy<Value = Gene> {
    prop_oneof![
        (-1e3..1e3f64, 1e-3..1e3f64).prop_map(|(low, width)| Gene::Real { low, high: low + width }),
        (-50..50i64, 1..20i64).prop_map(|(low, width)| Gene::Int { low, high: low + width }),
        (1..5usize).prop_map(|n| Gene::Choice { n }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_ask_is_within_bounds(genes in prop::collection::vec(any_gene(), 1..8), seed: u64, bent in -3.0..3.0f64) {
        for kind in Kind::ALL {
            let genes: Vec<Gene> = match kind {
                Kind::CmaEs => genes.iter().copied().filter(|gene| matches!(gene, Gene::Real { .. })).collect(),
                _ => genes.clone(),
            };
            let Ok(domain) = Domain::new(genes) else { continue };
            let mut optimizer = Optimizer::new(kind, domain.clone(), &options(seed)).unwrap();
            let fitness = |x: &[f64]| x.iter().enumerate().map(|(i, x)| (x * bent + i as f64).sin()).sum();
            for genotype in run(&mut optimizer, 12, fitness) {
                prop_assert!(domain.check(&genotype).is_ok(), "{kind:?}: {genotype:?}");
            }
        }
    }
}

/// Twelve slots in three sources; fitness counts the slots that agree with a path that nobody knows.
fn paths(seed: u64) -> (Optimizer, impl Fn(&[f64]) -> f64) {
    let slot = |i: usize| Slot {
        indicator: i,
        scale: None,
        source: i / 4,
        layer: i % 4,
        repeat: 0,
    };
    let options = Options {
        population_size: Some(8),
        path: (0..12).map(slot).collect(),
        ..options(seed)
    };
    let domain = Domain::new(vec![Gene::Choice { n: 2 }; 12]).unwrap();
    let target = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0];
    let fitness = move |x: &[f64]| x.iter().zip(target).filter(|(x, t)| **x == *t).count() as f64;
    (Optimizer::new(Kind::Genetic, domain, &options).unwrap(), fitness)
}

#[test]
fn a_genetic_search_of_paths_finds_one_asks_nothing_twice_and_resumes() {
    let (mut optimizer, fitness) = paths(1);
    let first = run(&mut optimizer, 1, &fitness);
    let mut seen: std::collections::BTreeSet<Vec<u64>> = first.iter().map(|x| bits(std::slice::from_ref(x))).collect();
    for _ in 0..4 {
        let asked = run(&mut optimizer, 1, &fitness);
        for genotype in &asked {
            assert!(
                !seen.contains(&bits(std::slice::from_ref(genotype))),
                "{genotype:?} again"
            );
        }
        seen.extend(asked.iter().map(|x| bits(std::slice::from_ref(x))));
    }
    let mut resumed = Optimizer::from_json(&optimizer.to_json()).unwrap();
    assert_eq!(resumed, optimizer);
    let goes_on = run(&mut optimizer, 3, &fitness);
    assert_eq!(bits(&run(&mut resumed, 3, &fitness)), bits(&goes_on));
    let (mut whole, fitness) = paths(1);
    assert!(evaluations_to(&mut whole, 12.0, 400, fitness).is_some());
}

#[test]
fn paths_begin_around_the_start_and_slots_are_checked() {
    let (mut optimizer, _) = paths(2);
    let mut mean = vec![0.02; 12];
    mean[..4].fill(0.98);
    optimizer.start_at(&mean, &Spread::OfGenes(vec![1.0; 12])).unwrap();
    let asks = optimizer.ask();
    assert_eq!(
        asks[0].genotype,
        [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    );
    let flips: f64 = asks
        .iter()
        .flat_map(|ask| ask.genotype.iter().zip(&mean))
        .map(|(x, m)| (x - m.round()).abs())
        .sum();
    assert!(flips <= 8.0, "{flips} of 96 differ from the start");

    let slot = Slot {
        indicator: 0,
        scale: Some(1),
        source: 0,
        layer: 0,
        repeat: 0,
    };
    let options = Options {
        path: vec![slot],
        ..options(0)
    };
    let domain = Domain::new(vec![Gene::Choice { n: 2 }; 2]).unwrap();
    let refused = Optimizer::new(Kind::Genetic, domain, &options);
    assert!(matches!(
        refused,
        Err(Error::Slot {
            indicator: 0,
            scale: Some(1)
        })
    ));
}

/// Two needles: forty questions need the first four genes to be right, twenty the last four.
fn niches(x: &[f64]) -> Vec<Answered> {
    let is_right = |genes: &[f64]| genes.iter().all(|g| (g - 0.8).abs() < 0.1);
    let (first, second) = (is_right(&x[..4]), is_right(&x[4..]));
    let answer = |question: u32| Answered {
        question,
        score: f64::from(u8::from(if question < 40 { first } else { second })),
        weight: 1.0,
    };
    (0..60).map(answer).collect()
}

fn mating(competition: Option<f64>, seed: u64) -> Optimizer {
    let options = Options {
        population_size: Some(10),
        noisy: true,
        competition,
        groups: [Some(0), Some(1)].iter().flat_map(|group| [*group; 4]).collect(),
        ..options(seed)
    };
    let domain = Domain::new(vec![Gene::Real { low: 0.0, high: 1.0 }; 8]).unwrap();
    let mut optimizer = Optimizer::new(Kind::Genetic, domain, &options).unwrap();
    let specialist = |low: f64, high: f64| [[low; 4], [high; 4]].concat();
    optimizer.inject([specialist(0.8, 0.1), specialist(0.1, 0.8)]).unwrap();
    optimizer
}

/// One generation; gives who was asked, the parents first.
fn generation(optimizer: &mut Optimizer, observed: bool) -> Vec<Genotype> {
    let asks = optimizer.ask();
    for ask in &asks {
        let answers = niches(&ask.genotype);
        let score = answers.iter().map(|a| a.score).sum::<f64>() / 60.0;
        if observed {
            optimizer.observe(ask.id, answers).unwrap();
        }
        optimizer.tell(&[(ask.id, Outcome::from_score(score))]).unwrap();
    }
    asks.into_iter().map(|ask| ask.genotype).collect()
}

/// A specialist of few questions is worth less than any double of the other one, and is lost without competition.
#[test]
fn attraction_keeps_both_niches_and_combines_them() {
    const SEEDS: u64 = 40;
    let outcome = |competition: Option<f64>| {
        let (mut kept, mut combined) = (0, 0);
        for seed in 0..SEEDS {
            let mut optimizer = mating(competition, seed);
            let last = (0..8).map(|_| generation(&mut optimizer, true)).last().unwrap();
            let right = |question: usize| last.iter().any(|x| niches(x)[question].score > 0.0);
            kept += u64::from(right(0) && right(59));
            let both = |x: &Genotype| niches(x).iter().all(|a| a.score > 0.0);
            combined += u64::from(last.iter().any(both));
        }
        (kept, combined)
    };
    let (plain, attracted) = (outcome(None), outcome(Some(1.0)));
    assert!(attracted.0 >= 36 && attracted.1 >= 30, "{attracted:?} of {SEEDS}");
    assert!(plain.0 <= 20 && plain.1 <= 15, "{plain:?} of {SEEDS}");
}

#[test]
fn without_competition_or_answers_mating_is_by_tournaments() {
    let trace = |competition: Option<f64>, observed: bool| {
        let mut optimizer = mating(competition, 3);
        let seen: Vec<Genotype> = (0..6).flat_map(|_| generation(&mut optimizer, observed)).collect();
        bits(&seen)
    };
    let plain = trace(None, false);
    assert_eq!(trace(Some(0.0), true), plain);
    assert_eq!(trace(Some(1.0), false), plain);
    assert_ne!(trace(Some(1.0), true), plain);
    for (kind, competition) in [(Kind::Random, 1.0), (Kind::Genetic, -1.0), (Kind::Genetic, f64::NAN)] {
        let options = Options {
            competition: Some(competition),
            ..options(0)
        };
        let refused = Optimizer::new(kind, boxed(2), &options);
        assert!(matches!(refused, Err(Error::Competition { .. })), "{refused:?}");
    }
}

#[test]
fn attraction_goes_on_where_it_was_saved() {
    let mut whole = mating(Some(1.0), 4);
    let expected: Vec<Genotype> = (0..6).flat_map(|_| generation(&mut whole, true)).collect();
    let mut first = mating(Some(1.0), 4);
    let mut seen: Vec<Genotype> = (0..3).flat_map(|_| generation(&mut first, true)).collect();
    // Saved while the answers of one candidate are known, and its result is not.
    let asks = first.ask();
    first.observe(asks[0].id, niches(&asks[0].genotype)).unwrap();
    assert!(matches!(
        first.observe(999, Vec::new()),
        Err(Error::UnknownCandidate { id: 999 })
    ));
    let mut second = Optimizer::from_json(&first.to_json()).unwrap();
    assert_eq!(second, first);
    for ask in second.pending() {
        let answers = niches(&ask.genotype);
        let score = answers.iter().map(|a| a.score).sum::<f64>() / 60.0;
        if ask.id != asks[0].id {
            second.observe(ask.id, answers).unwrap();
        }
        second.tell(&[(ask.id, Outcome::from_score(score))]).unwrap();
    }
    seen.extend(asks.into_iter().map(|ask| ask.genotype));
    seen.extend((0..2).flat_map(|_| generation(&mut second, true)));
    assert_eq!(bits(&seen), bits(&expected));
    assert_eq!(second.to_json(), whole.to_json());
}

/// FNV-1a, carried on from `digest`.
fn digest_on(digest: u64, text: &str) -> u64 {
    let step = |digest: u64, byte: u8| (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(digest, step)
}

/// A long search with all that can come its way: ties, flat generations, failures, candidates from outside, answers that
/// come late. Its state after each generation, digested.
fn eventful(kind: Kind, domain: &Domain, options: &Options, begin: Option<&Spread>) -> u64 {
    let mut optimizer = Optimizer::new(kind, domain.clone(), options).unwrap();
    if let Some(spread) = begin {
        let low = domain.genes().iter().map(|gene| gene.low().max(0.0));
        optimizer.start_at(&low.collect::<Vec<f64>>(), spread).unwrap();
    }
    let slope = |(i, x): (usize, &f64)| (i as f64 + 1.0) * (x - 0.25 * i as f64) * (x - 0.25 * i as f64);
    let mut digest = 0xcbf2_9ce4_8422_2325;
    let mut late: Option<Ask> = None;
    for generation in 0..80u64 {
        if generation % 9 == 4 {
            optimizer.inject([optimizer.domain().middle()]).unwrap();
        }
        let mut asks: Vec<Ask> = optimizer.ask();
        if generation % 6 == 1 {
            asks.push(optimizer.ask_one());
        }
        asks.extend(late.take());
        if generation % 6 == 1 {
            late = Some(asks.remove(0));
        }
        for ask in asks {
            let cost: f64 = ask.genotype.iter().enumerate().map(slope).sum();
            let outcome = match (generation % 7, ask.id % 5) {
                (3, _) => Outcome::from_score(1.0),
                (5, 0) => Outcome::Failed,
                (5, 1) => Outcome::Eliminated { order: ask.id },
                (6, _) => Outcome::from_score(-(cost * 4.0).floor()),
                _ => Outcome::from_score(-cost),
            };
            optimizer.tell(&[(ask.id, outcome)]).unwrap();
        }
        digest = digest_on(digest, &optimizer.to_json());
        digest = digest_on(digest, &format!("{:?}{:?}", optimizer.mean(), optimizer.spread()));
        digest = digest_on(
            digest,
            &format!("{:?}{:?}", optimizer.status(), optimizer.should_stop()),
        );
    }
    digest
}

/// A journal holds the digest of the state after each generation, and a run is resumed only if it comes out the same: what
/// the distributions do and how they are written may change no bit.
#[test]
fn trajectories_are_bit_for_bit_what_they_always_were() {
    let real = Gene::Real { low: -1.0, high: 2.0 };
    let free = Gene::Real {
        low: f64::NEG_INFINITY,
        high: f64::INFINITY,
    };
    let (int, bit) = (Gene::Int { low: -2, high: 6 }, Gene::Int { low: 0, high: 1 });
    let (choice, fixed) = (Gene::Choice { n: 3 }, Gene::Choice { n: 1 });
    let reals = vec![real, free, fixed, real, real];
    let whole = vec![real, int, fixed, free, bit, int];
    let any = vec![real, int, choice, fixed, bit, Gene::Choice { n: 2 }, free];
    let chosen = vec![choice, fixed, choice, Gene::Choice { n: 2 }];
    let searches = [
        (Kind::CmaEs, reals),
        (Kind::CmaEsMargin, whole),
        (Kind::CmaEsMargin, any),
        (Kind::CmaEsMargin, chosen),
    ];
    let bipop = Options {
        restarts: Restarts::Bipop,
        population_size: Some(6),
        covariance: CovarianceModel::Diagonal,
        ..options(11)
    };
    let ways = [
        (options(7), None),
        (
            Options {
                restarts: Restarts::Ipop,
                ..Options::for_noisy_fitness(8)
            },
            Some(Spread::OfRange(0.02)),
        ),
        (bipop, Some(Spread::OfRange(1e-9))),
    ];
    let mut digests = Vec::new();
    for (kind, genes) in searches {
        let domain = Domain::new(genes).unwrap();
        for (options, begin) in &ways {
            digests.push(eventful(kind, &domain, options, begin.as_ref()));
        }
    }
    assert_eq!(digests, EVENTFUL);
}

const EVENTFUL: [u64; 12] = [
    0x73f4_49f2_0d6c_a278,
    0xa210_5894_fa8d_d87c,
    0x9b92_1a72_95e5_46df,
    0x640e_4173_8ff9_ee6e,
    0x4796_7a60_2f61_bf32,
    0x1b73_5f3c_a424_6e8f,
    0x8eee_8c5d_13e3_6c3c,
    0x319b_75ae_67cc_896f,
    0xcc39_4969_4fc0_5ddf,
    0x1a04_baa0_5a46_1352,
    0x1b09_ec0f_447b_d8cb,
    0x34b7_908c_4007_6a0e,
];
