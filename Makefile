# Each target sets up .venv by itself, once; it installs again when a requirements file changes.
#
#   make demo     train, evaluate, harvest and score on the demo model, then open the app
#                 (ARGS="--no-app" ends after scoring)
#   make test     lint, then every quick test
#   make soak     the long tests, about an hour
#   make lint     ruff, checking only
#   make bench    every benchmark: a table and a JSON line each
#   make peers    environments of the libraries that the benchmarks compare with

.PHONY: demo test soak lint bench peers
.DELETE_ON_ERROR:

PYTHON = $(shell for p in python3.11 python3 python3.12 python3.13 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP_INSTALL := -m pip install -qq --disable-pip-version-check

demo: .venv/installed
	.venv/bin/python run.py demo $(ARGS)

test: lint
	.venv/bin/python -m pytest -q -n 2 --dist loadfile $(ARGS)

soak: .venv/installed-dev
	.venv/bin/python -m pytest -q -m soak $(ARGS)

lint: .venv/installed-dev
	.venv/bin/ruff check --quiet .
	.venv/bin/ruff format --check --quiet .

bench: .venv/installed
	@set -e; for script in bench/[a-z]*.py; do name=$$(basename $$script .py); \
		echo "== python -m bench.$$name"; .venv/bin/python -m bench.$$name $(ARGS); done

peers: .peers/saelens/installed .peers/dictionary_learning/installed .peers/sae_dashboard/installed \
	.peers/delphi/installed

.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and none is on PATH" >&2; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/pip
	@echo "installing into .venv (a few minutes the first time)"
	@.venv/bin/python $(PIP_INSTALL) -r requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	@echo "installing what the tests need into .venv"
	@.venv/bin/python $(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

# The peers get environments of their own: they ask for other versions than we do. torch goes first,
# at our version, so that speeds can be compared.
.peers/%/bin/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and none is on PATH" >&2; exit 1; }
	@mkdir -p .peers
	@$(PYTHON) -m venv .peers/$*

.peers/saelens/installed: | .peers/saelens/bin/pip
	@echo "installing into .peers/saelens (a few minutes)"
	@.peers/saelens/bin/python $(PIP_INSTALL) torch==2.13.0
	@.peers/saelens/bin/python $(PIP_INSTALL) sae-lens==6.54.12
	@touch $@

# Without the constraint it would replace torch; the torchvision it brings is built for another one
# and breaks `import transformers`, and nothing here needs it.
.peers/dictionary_learning/installed: | .peers/dictionary_learning/bin/pip
	@echo "installing into .peers/dictionary_learning (a few minutes)"
	@echo "torch==2.13.0" > .peers/dictionary_learning/constraints.txt
	@.peers/dictionary_learning/bin/python $(PIP_INSTALL) torch==2.13.0
	@.peers/dictionary_learning/bin/python $(PIP_INSTALL) dictionary-learning==0.1.0 \
		-c .peers/dictionary_learning/constraints.txt
	@.peers/dictionary_learning/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

# It asks for NumPy below 2, which newer pyarrows refuse. torchvision and torchaudio as above.
.peers/sae_dashboard/installed: | .peers/sae_dashboard/bin/pip
	@echo "installing into .peers/sae_dashboard (a few minutes)"
	@printf 'torch==2.13.0\npyarrow<22\n' > .peers/sae_dashboard/constraints.txt
	@.peers/sae_dashboard/bin/python $(PIP_INSTALL) torch==2.13.0
	@.peers/sae_dashboard/bin/python $(PIP_INSTALL) sae-dashboard==0.8.0 \
		-c .peers/sae_dashboard/constraints.txt
	@.peers/sae_dashboard/bin/python -m pip uninstall --quiet --yes torchvision torchaudio
	@touch $@

# It brings vLLM: 6.5 GB.
.peers/delphi/installed: | .peers/delphi/bin/pip
	@echo "installing into .peers/delphi (6.5 GB, ten minutes)"
	@echo "torch==2.13.0" > .peers/delphi/constraints.txt
	@.peers/delphi/bin/python $(PIP_INSTALL) torch==2.13.0
	@.peers/delphi/bin/python $(PIP_INSTALL) eai-delphi==0.1.3 -c .peers/delphi/constraints.txt
	@.peers/delphi/bin/python -m pip uninstall --quiet --yes torchvision torchaudio
	@touch $@
