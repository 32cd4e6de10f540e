"""One GPU, checked and measured in one command: see `python -m benchmarks.gpu --help`."""
