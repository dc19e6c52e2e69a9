# `make demo` and `make test` need nothing but Python 3.10 to 3.13.
VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
BIN := $(VENV)/bin
READY := $(VENV)/.ready

TFX := $(VENV)-tfx
DATA ?=
CONFIG ?=
SET ?=

.PHONY: help demo test test-slow test-browser test-jax test-bioimage pipeline test-pipeline oracles lint format lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.10 to 3.13 is needed: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

demo: $(READY)  ## train, score and publish a small U-Net on made-up cells (about 4 minutes)
	$(BIN)/keras-unet demo

test: $(READY)  ## the tests, without the slow ones and those in a browser
	$(BIN)/python -m pytest -m 'not slow and not browser and not tfx'

test-slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -m 'slow and not tfx'

test-browser: $(READY)  ## reports and the server's page in Chromium (as root, installs Debian's)
	@{ command -v chromium && command -v chromedriver; } >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq \
		&& apt-get install -qq --no-install-recommends chromium chromium-driver >/dev/null; } \
		|| echo "chromium and chromium-driver are not installed: these tests will be skipped"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt selenium
	$(BIN)/python -m pytest -m browser

$(VENV)-jax/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-jax
	$(VENV)-jax/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt keras jax numpy scipy pydantic lazy-loader pytest hypothesis
	@touch $@

test-jax: $(VENV)-jax/.ready  ## model, losses and metrics on Keras's JAX backend, without TensorFlow
	KERAS_BACKEND=jax PYTHONPATH=. $(VENV)-jax/bin/python -m pytest \
		tests/models/test_unet.py tests/test_losses.py tests/test_metrics.py

$(VENV)-bioimage/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-bioimage
	grep -v '^pydantic' constraints.txt > $(VENV)-bioimage/constraints.txt  # the zoo needs an older one
	$(VENV)-bioimage/bin/python -m pip install --quiet --disable-pip-version-check \
		-c $(VENV)-bioimage/constraints.txt -e '.[bioimage]' pytest hypothesis
	@touch $@

test-bioimage: $(VENV)-bioimage/.ready  ## BioImage Model Zoo packages, checked and run by the zoo's own library
	$(VENV)-bioimage/bin/python -m pytest -m slow -k model_zoo tests/serving/test_formats.py

$(TFX)/.ready: pyproject.toml pipelines/constraints.txt pipelines/environment.py
	@test -n "$(PYTHON)" || { echo "Python 3.10 to 3.13 is needed: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) pipelines/environment.py $(TFX)
	$(TFX)/bin/uv pip install --quiet --python $(TFX)/bin/python -c pipelines/constraints.txt pytest hypothesis
	@touch $@

pipeline: $(TFX)/.ready  ## raw images to a validated version in saved_models/, on TFX: DATA=folder CONFIG=file SET="key=value …"
	$(TFX)/bin/python -W ignore -m pipelines.run $(if $(DATA),--data '$(DATA)') $(if $(CONFIG),--config '$(CONFIG)') \
		$(foreach one,$(SET),--set '$(one)')

test-pipeline: $(TFX)/.ready  ## the pipeline's tests, in TFX's environment
	$(TFX)/bin/python -W ignore -m pytest -m tfx tests/pipelines tests/cli/test_lineage.py

oracles: $(READY)  ## what the augmentation is compared with: tensorflow-addons (Python 3.11), elasticdeform; ovmsclient; schemas of Kubernetes and Compose
	test -x $(VENV)-tfa/bin/python || $(BIN)/python tests/oracles/environments.py tfa $(CURDIR)/$(VENV)-tfa
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--no-binary elasticdeform elasticdeform
	test -x $(VENV)-ovms/bin/python || $(BIN)/python tests/oracles/environments.py ovms $(CURDIR)/$(VENV)-ovms
	test -x $(VENV)-manifests/bin/check-jsonschema || { $(PYTHON) -m venv $(VENV)-manifests && $(VENV)-manifests/bin/python \
		-m pip install --quiet --disable-pip-version-check kubernetes-validate==1.37.0 check-jsonschema==0.39.0; }

lint: $(READY)  ## ruff (lint and format), import-linter and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

format: $(READY)  ## reformat the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(READY)  ## newest versions into constraints.txt
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --universal --upgrade --python-version 3.10 --extra test --extra jax --extra browser \
		--no-annotate --no-header --quiet pyproject.toml -o constraints.txt
	printf 'pytest\nhypothesis\nsetuptools<81\n' | $(BIN)/uv pip compile --universal --upgrade --python-version 3.10 \
		--extra tfx --no-annotate --no-header --quiet pyproject.toml - -o pipelines/constraints.txt

clean:  ## environments and caches
	rm -rf $(VENV) $(VENV)-jax $(TFX) $(VENV)-tfa $(VENV)-ovms $(VENV)-manifests $(VENV)-stardist $(VENV)-cellpose build *.egg-info .pytest_cache .ruff_cache .mypy_cache
