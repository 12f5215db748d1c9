# The two commands of the README are `make demo` and `make test`; both set up .venv themselves.
PYTHON ?= python3.11
CERTMIX_DATA ?= ../shared/data
BIN := .venv/bin
# small networks: one thread per process is fastest, and two test processes share two cores
OMP_NUM_THREADS ?= 1
export CERTMIX_DATA OMP_NUM_THREADS

.PHONY: help demo test test-slow test-gpu test-upstream lint docs proofs mutation coverage benchmarks clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

.venv: .venv/.complete

.venv/.complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[auto-lirpa,dev,docs]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps "auto_LiRPA==0.3"
	touch $@

demo: .venv  ## audit, check, report on the bundled digits
	rm -rf out/demo
	$(BIN)/certmix audit --config examples/digits/audit.toml --out out/demo
	$(BIN)/certmix check out/demo
	$(BIN)/certmix report out/demo

test: .venv  ## the tests
	$(BIN)/python -m pytest -n 2

test-slow: .venv  ## the full counts of the property tests, and mutation testing
	$(BIN)/python -m pytest -n 2 -m slow
	$(MAKE) mutation

test-gpu: .venv  ## device paths against the processor's
	@if $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then \
	  CERTMIX_DEVICE=cuda $(BIN)/python -m pytest tests/test_devices.py tests/verifiers/smoothing/test_philox.py \
	    tests/verifiers/smoothing/test_device.py tests/verifiers/lipschitz/test_lipsdp_on_device.py; \
	else echo "skipped: torch finds no CUDA device here"; fi

test-upstream: .venv  ## engine laws against a checkout of upstream auto_LiRPA: UPSTREAM=DIR
	@if [ -d "$(UPSTREAM)/auto_LiRPA" ]; then \
	  PYTHONPATH="$(UPSTREAM)" $(BIN)/python -m pytest tests/verifiers/test_engine_laws.py tests/verifiers/auto_lirpa/test_auto_lirpa.py tests/certmix/testing/test_finds.py tests/verifiers/auto_lirpa/test_auto_lirpa_jacobian.py; \
	else echo "skipped: UPSTREAM=DIR must name a checkout of auto_LiRPA, got '$(UPSTREAM)'"; fi

lint: .venv  ## formatting, lint, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	@# what is handed out has types throughout. It asks the python that is first in PATH for torch's, and finds certmix by
	@# PYTHONPATH: an editable installation is a hook that it does not follow.
	@mkdir -p out
	PYTHONPATH="$(CURDIR)" PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --verifytypes certmix --ignoreexternal > out/types.txt || { cat out/types.txt; exit 1; }

docs: .venv  ## the pages as a site in out/site/html; a warning is an error, every link is checked
	$(BIN)/python docs/site/build.py

coverage: .venv  ## of the judge by its tests, every line and branch, or it fails; in out/coverage
	$(BIN)/python -m pytest -n 2 tests/proofs_check tests/second_judge --cov=proofs_check --cov-branch --cov-fail-under=100 \
	  --cov-report=term-missing:skip-covered --cov-report=html:out/coverage

BENCHMARK ?= digits_radii
benchmarks: .venv  ## one script of benchmarks/: BENCHMARK=digits_radii
	$(BIN)/python benchmarks/$(BENCHMARK).py

# the theorems in Coq, with what each assumes; on Debian: apt-get install coq libcoq-coquelicot
PROOFS := Axioms Margin Softmax Artanh Tree Rounding Smoothing
OF_REALS := ^(ClassicalDedekindReals\.sig_(forall|not)_dec|FunctionalExtensionality\.functional_extensionality_dep|Classical_Prop\.classic)$$
proofs:  ## the theorems in Coq, with what each assumes
	@command -v coqc > /dev/null || { echo "make proofs needs Coq: apt-get install coq libcoq-coquelicot"; exit 1; }
	rm -rf out/proofs && mkdir -p out/proofs && cp proofs_check/theorems/coq/*.v out/proofs
	cd out/proofs && for name in $(PROOFS); do coqc -w -ambiguous-paths -Q . Certmix $$name.v || exit 1; done
	cd out/proofs && coqc -Q . Certmix Statements.v > statements.txt && cat statements.txt
	@awk '/^[A-Za-z_.0-9]+ : /{print $$1} /^  : /{print last} {last=$$1}' out/proofs/statements.txt | sort -u \
	| grep -vE '$(OF_REALS)' | while read -r name; do grep -qE "^(Axiom|Parameters?) ([a-z]+ )*$$name " out/proofs/Axioms.v \
	|| { echo "assumed, and not in Axioms.v: $$name"; exit 1; }; done
	@echo "nothing is assumed but Axioms.v and, with Coq's real numbers, classical logic and functional extensionality"

mutation: .venv  ## mutants of the judge
	$(BIN)/python benchmarks/mutation.py

clean:  ## everything made
	rm -rf .venv out build *.egg-info
