# `make demo` and `make test` set up all they need in .venv, quickly the second time.

MODEL ?= smollm2-135m
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM := .venv-vllm

.PHONY: demo test lint slow long vllm bench docs

demo: $(READY)  ## stack up, environment pushed, SFT, GRPO, evaluation, chat: MODEL=tiny for the small model
	$(BIN)/python examples/demo.py --model $(MODEL) --seed $(SEED)

test: $(READY) lint  ## what must hold before every commit
	$(BIN)/python -m pytest -q -n 2 --dist loadscope -m "not slow and not long"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: $(READY)  ## the slow tests: kills, walks, the real pull; with a FLASH_CHAOS_SEED every fifth file, as CI runs them
	$(BIN)/python -m pytest -q -m "slow and not long"

long: $(READY)  ## everything, minutes each: every kill point, three seeds of each demo
	$(BIN)/python -m pytest -q -m "slow or long"

vllm: $(VLLM)/.ready  ## what engines owe, on vLLM: in a venv of its own, as it wants a hundred packages more
	$(VLLM)/bin/python -m pytest -q tests/rollout/engines -m "not long" -k vllm

docs: $(READY)  ## write the generated pages anew
	$(BIN)/python -m flash.contracts.document docs
	$(BIN)/python -m flash.config.document docs
	$(BIN)/python -m cli.document docs

$(READY): pyproject.toml
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test]'
	touch $(READY)

$(VLLM)/.ready: $(READY) deploy/vllm_cpu.py
	test -x $(VLLM)/bin/python || python3 -m venv $(VLLM)
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
		> $$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/flash.pth
	$(VLLM)/bin/python deploy/vllm_cpu.py
	touch $@
