//! The time of one generation's ask and tell, without the evaluation.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use heterosis::optim::{CovarianceModel, Domain, Gene, Kind, Optimizer, Options, Outcome};

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

criterion_group!(benches, ask_and_tell);
criterion_main!(benches);
