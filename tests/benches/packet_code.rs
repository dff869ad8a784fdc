//! What the packet code costs in memory, a path at a time: the World's tables are trees, so compare a path with itself
//! before a change, and not with the kernel.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use netd_tests::{paths::PATHS, scene};

fn paths(criterion: &mut Criterion) {
    for path in PATHS {
        let prepared = || {
            let world = scene::world();
            for (hook, mut frame) in (path.before)() {
                let _ = world.run(hook, &mut frame);
            }
            (world, (path.packet)(0))
        };
        criterion.bench_function(path.name, |bencher| {
            bencher.iter_batched_ref(prepared, |(world, frame)| world.run(path.hook, frame), BatchSize::SmallInput);
        });
    }
}

criterion_group!(benches, paths);
criterion_main!(benches);
