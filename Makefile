# make demo    see 3D made from real camera frames
# make test    the tests, two files at a time; TEST_ARGS="-m 'not slow' test/core" chooses, TEST_PROCESSES=0 is one by one
# make lint    ruff and mypy
# make docs    the documentation, to build/docs/index.html; any warning is an error
# make fuzz    decoders and readers against strange inputs, FUZZ_ARGS='image --runs 100000'
# make mutants which changes of the code no test notices, MUTANTS_ARGS=vggt_ros/decode.py; hours for all
# make audit   known vulnerabilities of what we depend on, asked of PyPI
# make clean   remove the environment and everything built
#
# Needs Python 3.10 to 3.13 with venv, a C++ compiler and cmake; everything else goes into .venv. Where a ROS 2
# installation is sourced, that one is used, with whatever Python it was made for.
#   PYTHON=python3.12                    another Python
#   TORCH_REQUIREMENTS=my-torch.txt      another torch; see requirements/torch-cpu.txt

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV ?= .venv
TORCH_REQUIREMENTS ?= requirements/torch-cpu.txt
DEMO_ARGS ?=
TEST_ARGS ?=
TEST_PROCESSES ?= 2
FUZZ_ARGS ?= all
MUTANTS_ARGS ?=

# ROS 2 talks to this machine only, unless told otherwise.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
# The ROS wheels set the library path once for a process tree; a tree that runs another environment starts anew.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DONE := $(VENV)/.done
ROS_SOURCED := $(shell test -n "$${ROS_DISTRO:-}" && $(PYTHON) -c 'import rclpy' 2>/dev/null && echo yes)

ifeq ($(ROS_SOURCED),yes)
VENV_OPTIONS := --system-site-packages
REQUIREMENTS := requirements/runtime.txt requirements/stand-ins.txt
else
VENV_OPTIONS :=
REQUIREMENTS := requirements/numerics.txt requirements/runtime.txt requirements/stand-ins.txt requirements/ros-pypi.txt
endif

.PHONY: demo test lint docs fuzz mutants environment clean audit

demo: environment
	$(BIN)/vggt_ros demo $(DEMO_ARGS)

test: environment $(DONE)/dev
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(TEST_ARGS)

lint: environment $(DONE)/dev
	$(BIN)/ruff check
	$(BIN)/mypy

fuzz: environment $(DONE)/by-hand
	$(BIN)/python -m fuzz $(FUZZ_ARGS)

mutants: environment $(DONE)/by-hand
	$(BIN)/python scripts/mutants.py $(MUTANTS_ARGS)

docs: $(DONE)/docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo build/docs/index.html

audit: $(DONE)/audit
	build/audit/bin/pip-audit --vulnerability-service pypi --no-deps --disable-pip \
	  $(foreach file,$(filter-out %/torch-cpu.txt,$(wildcard requirements/*.txt)),-r $(file))

environment: $(DONE)/package $(DONE)/pypi_ros

# The checks come first, so that what is missing is said in one line and before anything is downloaded.
$(DONE)/venv:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH; try make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "Python 3.10 or newer is needed, $(PYTHON) is $$($(PYTHON) -V); try make PYTHON=python3.12" >&2; exit 1; }
ifneq ($(ROS_SOURCED),yes)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 14))' \
	  || { echo "PyPI has ROS 2 for Python 3.10 to 3.13, $(PYTHON) is $$($(PYTHON) -V): source a ROS 2 installation," \
	       "or try make PYTHON=python3.12" >&2; exit 1; }
	@for tool in cmake c++; do command -v $$tool >/dev/null \
	  || { echo "$$tool is not on the PATH; install cmake and a C++ compiler (apt install cmake g++)" >&2; exit 1; }; done
endif
	@$(PYTHON) -m venv $(VENV_OPTIONS) $(VENV) \
	  || { echo "$(PYTHON) cannot make virtual environments; install its venv (apt install python3-venv)" >&2; exit 1; }
	@touch $(VENV)/COLCON_IGNORE
	@mkdir -p $(DONE) && touch $@

# One call: pip looks at all of it together, which is faster and finds versions that fit. Most modules of torch are never
# imported, so compiling all of them here would cost more than it saves.
$(DONE)/requirements: $(TORCH_REQUIREMENTS) $(REQUIREMENTS) requirements/build.txt | $(DONE)/venv
	$(PIP) install --quiet --no-compile $(foreach file,$^,-r $(file))
	@touch $@

$(DONE)/dev: requirements/dev.txt requirements/studio.txt requirements/batch.txt | $(DONE)/requirements
	$(PIP) install --quiet $(foreach file,$^,-r $(file))
	@touch $@

$(DONE)/by-hand: requirements/by-hand.txt | $(DONE)/dev
	$(PIP) install --quiet -r $<
	@touch $@

$(DONE)/docs: requirements/docs.txt | $(DONE)/requirements
	$(PIP) install --quiet -r $<
	@touch $@

# In an environment of its own: it brings what nothing here needs.
$(DONE)/audit: | $(DONE)/venv
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@touch $@

$(DONE)/package: setup.py setup.cfg | $(DONE)/requirements
	$(PIP) install --quiet --no-build-isolation --no-deps -e .
	@touch $@

$(DONE)/pypi_ros: $(shell find pypi_ros -type f -not -name '*.pyc') | $(DONE)/requirements
	$(BIN)/python -m pypi_ros.install
	@touch $@

clean:
	rm -rf $(VENV) build install log *.egg-info
