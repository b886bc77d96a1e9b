//! The time of one generation's ask and tell, without the evaluation.

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use heterosis::optim::{CovarianceModel, Domain, Gene, Kind, Measurement, Optimizer, Options, Outcome};

/// One generation on a sphere.
fn generation(optimizer: &mut Optimizer) {
    let score = |x: &[f64]| Outcome::from_score(-x.iter().map(|x| x * x).sum::<f64>());
    let results: Vec<_> = optimizer
        .ask()
        .iter()
        .map(|ask| (ask.id, score(&ask.genotype)))
        .collect();
    optimizer.tell(&results).expect("every candidate was asked for");
}

fn ask_and_tell(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ask and tell");
    group.sample_size(20);
    for n in [10, 30, 100, 500] {
        let boxed = || Domain::new(vec![Gene::Real { low: -3.0, high: 5.0 }; n]).expect("the ranges are well formed");
        for (name, kind, covariance) in [
            ("cma-es", Kind::CmaEs, CovarianceModel::Full),
            ("sep-cma-es", Kind::CmaEs, CovarianceModel::Diagonal),
            ("cma-es-margin", Kind::CmaEsMargin, CovarianceModel::Full),
            ("genetic", Kind::Genetic, CovarianceModel::Auto),
            ("nsga2", Kind::Nsga2, CovarianceModel::Auto),
        ] {
            let options = Options {
                covariance,
                noisy: true,
                ..Options::default()
            };
            let mut optimizer = Optimizer::new(kind, boxed(), &options).expect("every kind moves real genes");
            group.bench_function(BenchmarkId::new(name, n), |bencher| {
                bencher.iter(|| generation(&mut optimizer))
            });
        }
    }
    group.finish();
}

/// A Gaussian process of 40 genes, when so many scores are known.
fn process(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gp, a generation");
    group.sample_size(10);
    let domain = Domain::new(vec![Gene::Real { low: -3.0, high: 5.0 }; 40]).expect("the ranges are well formed");
    for known in [100, 500] {
        let draws = Options {
            population_size: Some(known),
            ..Options::default()
        };
        let mut random = Optimizer::new(Kind::Random, domain.clone(), &draws).expect("random takes any gene");
        let mut optimizer = Optimizer::new(Kind::Gp, domain.clone(), &Options::default()).expect("all have ranges");
        for ask in random.ask() {
            let score = -ask.genotype.iter().map(|x| x * x).sum::<f64>();
            let measured = Measurement::new(score, 1.0).expect("a sum of squares is finite");
            optimizer
                .know(ask.genotype, measured)
                .expect("it is of the same domain");
        }
        // The design comes first, and costs nothing.
        (0..3).for_each(|_| generation(&mut optimizer));
        group.bench_function(BenchmarkId::new("scores", known), |bencher| {
            bencher.iter_batched(
                || optimizer.clone(),
                |mut it| generation(&mut it),
                BatchSize::PerIteration,
            )
        });
    }
    group.finish();
}

criterion_group!(benches, ask_and_tell, process);
criterion_main!(benches);
