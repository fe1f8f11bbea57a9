"""The fixtures of tests/ and benchmarks/."""

pytest_plugins = ["tests.support.fixtures"]
