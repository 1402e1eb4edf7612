"""One script a question; run as modules: ``python -m benchmarks.bench_score``."""
