# make demo and make test need neither AWS, nor Docker, nor root.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
AIRFLOW ?=
FIGURES ?= benchmarks
QUICK ?= tests/unit tests/command
E2E = tests/host/test_e2e.py
HOST ?= tests/host --ignore=$(E2E)

.PHONY: help install uninstall demo test quick coverage host e2e environments faults figures nightly
.PHONY: bench lint package clean

help:
	@echo 'sudo make install REGION=us-east-1 AIRFLOW=/opt/airflow/bin/airflow AIRFLOW_HOME=/srv/airflow'
	@echo '              puts the command and its systemd units on this host, or upgrades them'
	@echo 'sudo make uninstall   removes them'
	@echo 'make demo     a real Airflow connection filled from a stand-in for ECR, checked, and a failure'
	@echo 'make test     all tests that need neither AWS, nor Docker, nor root'
	@echo 'make quick    those among them that start no real Airflow'
	@echo 'make coverage those in tests/unit: they run 95 of 100 lines and branches'
	@echo 'make host     systemd, cron, sudo and Docker, for real: needs root'
	@echo 'make e2e      DockerOperator pulls through the connection: needs root and Docker'
	@echo 'make faults   kill and stop it at twenty moments of each method: half an hour'
	@echo 'make figures  what a run costs, in ratios'
	@echo 'make -k nightly  test with every Airflow on every database, faults, figures, e2e'
	@echo 'make bench    the sync beside delete and add: ten minutes, and a plot'
	@echo 'make lint     format, lint, types'
	@echo 'make package  build and check the sdist and the wheel'
	@echo 'PYTHON=python3.8 VENV=.venv38 make quick   with another Python'

install uninstall:
	@sh systemd/install.sh $@

$(VENV)/ready: setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[test]'
	touch $@

demo: $(VENV)/ready
	@$(BIN)/python -m examples.demo

environments: $(VENV)/ready
	$(BIN)/python -m tests.support.airflows

test: environments coverage
	$(BIN)/python -m pytest tests/command tests/airflow -n auto

quick: $(VENV)/ready
	$(BIN)/python -m pytest $(QUICK) -n auto -q

coverage: export COVERAGE_FILE = $(abspath $(VENV))/coverage/data
coverage: $(VENV)/ready
	rm -rf $(VENV)/coverage && mkdir $(VENV)/coverage
	$(BIN)/coverage run -m pytest tests/unit -n auto -q
	-$(BIN)/coverage combine --quiet  # a process that was killed leaves half a file
	$(BIN)/coverage report --fail-under=95

# Each file stays in one worker, where it boots a machine once.
host: $(VENV)/ready
	$(BIN)/python -m pytest $(HOST) -n 3 --dist loadfile

e2e: $(VENV)/ready
	$(BIN)/python -m pytest $(E2E) -k '$(AIRFLOW)' -n 2

faults: $(VENV)/ready
	FAULT_MOMENTS=20 $(BIN)/python -m pytest tests/command/test_faults.py tests/airflow/test_faults.py -n auto --timeout=1800

figures: $(VENV)/ready
	$(BIN)/python -m pytest $(FIGURES) -s -q

nightly: export NIGHTLY = true
nightly: test faults figures e2e

bench: $(VENV)/ready
	$(BIN)/python -m benchmarks.bench --svg examples/bench.svg

$(VENV)/lint: $(VENV)/ready
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[lint]'
	touch $@

lint: $(VENV)/lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy ecr_airflow_sync.py _ecr_airflow_sync tests benchmarks examples
	$(BIN)/shellcheck $$(git ls-files '*.sh') .ci/run

package: $(VENV)/lint
	rm -rf build dist
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv --clear $(VENV)/wheel
	$(BIN)/uv pip install --quiet --python $(VENV)/wheel dist/*.whl
	cd / && $(abspath $(VENV))/wheel/bin/ecr-airflow-sync --version
	$(BIN)/python -m tests.support.installed $(VENV)/wheel/bin/ecr-airflow-sync

clean:
	rm -rf .venv* .envs build dist *.egg-info
