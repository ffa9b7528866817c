//! Measures the time of all cases with criterion: `make bench-micro`.

use criterion::{Criterion, Throughput};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("micro");
    for mut case in micro::cases() {
        group.throughput(Throughput::Elements(case.times));
        group.bench_function(&case.name, |bencher| bencher.iter(|| (case.run)()));
    }
    group.finish();
    criterion.final_summary();
}
