# Builds, trains, tests and measures. `make help` lists the targets.

MODEL ?= small
DATA  ?=
SAVE  ?=
ARGS  ?=
FUZZ_SECONDS ?= 60
# Not from the environment, where the name means other things.
FEATURES =
PREFIX   =

PYTHON   ?= python3
# The program, in the folder that cargo builds in: CARGO_TARGET_DIR or cargo's own configuration may
# name another than target.
BUILT     = $(or $(shell cargo metadata --no-deps --format-version 1 2>/dev/null | \
	sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p' | sed 's|^$(CURDIR)/||'),target)
BIN       = $(BUILT)/$(CARGO_BUILD_TARGET:%=%/)release/ptb-word-lm
# PTB's folder as the programs need it: absolute, since cargo runs tests and benches elsewhere.
PTB_DATA := $(if $(DATA),$(abspath $(DATA)))

# An existing libtorch comes first: LIBTORCH, or LIBTORCH_USE_PYTORCH=1. Otherwise ours, by the same
# path that .cargo/config.toml gives to plain cargo, so that nothing is built twice.
ifeq ($(LIBTORCH)$(LIBTORCH_USE_PYTORCH),)
export LIBTORCH := $(CURDIR)/.libtorch/torch
CPU_LIBTORCH  := .libtorch/cpu.stamp
CUDA_LIBTORCH := .libtorch/cuda.stamp
else
CPU_LIBTORCH  := check-libtorch
endif

# Without PTB the sample corpus inside the program is trained; a wrong DATA is an error.
define FIND_DATA
data=$$(DATA='$(DATA)' data/fetch.sh) || { \
	[ $$? = 1 ] || exit 1; \
	data=sample; \
	echo "Training the sample corpus inside the program instead (data/README.md)." >&2; \
}
endef

# The tests, benches and the binary share the release profile, so that torch-sys, which takes minutes, is compiled once.
.PHONY: help train-cpu train-cuda build data libtorch check-libtorch install distributed test test-distributed \
	test-tensorflow compare bench gpu-kit golden torture fuzz audit compilers package portable doc lint clean
.DEFAULT_GOAL := help

help: ## This menu
	@echo "TensorFlow's PTB word language model in Rust on libtorch"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-24s %s\n", $$1, $$2}'
	@echo
	@echo "  MODEL=small            small, medium, large or test"
	@echo "  DATA=FOLDER            where ptb.train.txt, ptb.valid.txt and ptb.test.txt are"
	@echo "  SAVE=FOLDER            keep checkpoints there, and resume from them"
	@echo "  ARGS='--seed 1 ...'    flags of the program (train --help)"

train-cpu: build ## Train on the CPU: fetches libtorch and data, builds
	@$(FIND_DATA); \
	'$(BIN)' train --device cpu --model $(MODEL) --data-path "$$data" $(if $(SAVE),--save-path '$(SAVE)') $(ARGS)

train-cuda: $(CUDA_LIBTORCH) build ## Train on a GPU (fetches NVIDIA's libraries too)
	@$(FIND_DATA); \
	'$(BIN)' train --device cuda --model $(MODEL) --data-path "$$data" $(if $(SAVE),--save-path '$(SAVE)') $(ARGS)

build: $(CPU_LIBTORCH) ## Build target/release/ptb-word-lm
	@$(if $(findstring distributed,$(FEATURES)),PYTHON='$(PYTHON)' scripts/headers.sh)
	@cargo build --release $(if $(FEATURES),--features '$(FEATURES)')

data: ## Find or fetch PTB: DATA, then data/ptb, then the net
	@DATA='$(DATA)' data/fetch.sh

libtorch: $(CPU_LIBTORCH) ## Fetch libtorch 2.11.0, unless LIBTORCH is set

.libtorch/cpu.stamp:
	@PYTHON='$(PYTHON)' scripts/libtorch.sh cpu

.libtorch/cuda.stamp: $(CPU_LIBTORCH)
	@PYTHON='$(PYTHON)' scripts/libtorch.sh cuda

check-libtorch:
	@scripts/libtorch.sh check

install: build ## Install in PREFIX=FOLDER (docs/quick-start.md)
	@scripts/install.sh '$(or $(PREFIX),$(error PREFIX=FOLDER says where to install))' '$(BIN)'

distributed: FEATURES = distributed
distributed: build ## Build with several workers (docs/distributed.md)

test-distributed: distributed ## Their tests: workers killed and stopped
	cargo test --release --features distributed --test distributed
ifneq ($(PTB_DATA),)
	PTB_DATA='$(PTB_DATA)' cargo test --release --features distributed --test distributed -- --ignored ptb_
endif
	cargo clippy --release --features distributed --all-targets -- -D warnings

test: $(CPU_LIBTORCH) ## Run the tests; with DATA also those that need PTB
	cargo test --release
ifneq ($(PTB_DATA),)
	PTB_DATA='$(PTB_DATA)' cargo test --release -- --ignored ptb_
endif

test-tensorflow: $(CPU_LIBTORCH) ## Run those that need TensorFlow 1.15 and PyTorch
	tests/golden/run.sh -c ''
	TF_PYTHON='$(CURDIR)/.venv-tf/bin/python' cargo test --release --test tf_files --test watch -- --include-ignored
ifneq ($(wildcard .venv-bench/torch/bin/python),)
	TORCH_PYTHON='$(CURDIR)/.venv-bench/torch/bin/python' cargo test --release --test exchange -- --include-ignored
else
	@echo "No PyTorch in .venv-bench (make bench installs it): it does not read our files here" >&2
endif

compare: build ## Runs beside TensorFlow's published numbers
	@'$(BIN)' compare $(ARGS)

bench: build ## Time it against PyTorch and TensorFlow
	@DATA='$(PTB_DATA)' PTB_WORD_LM='$(BIN)' bench/run.sh $(ARGS)

gpu-kit: $(CPU_LIBTORCH) ## Build all that a machine with a GPU needs
	@DATA='$(PTB_DATA)' bench/gpu-kit.sh

golden: ## Make the golden files again (needs Python 3.7)
	tests/golden/run.sh

torture: build ## Kill, starve and fuzz, long (docs/reliability.md)
	scripts/torture.sh

fuzz: build ## Fuzz every reader of files, FUZZ_SECONDS each
	scripts/fuzz.sh $(FUZZ_SECONDS)

audit: ## Licences, sources, advisories of the dependencies
	scripts/audit.sh

compilers: $(CPU_LIBTORCH) ## Compile the C++ with every compiler that is here
	scripts/compilers.sh

package: $(CPU_LIBTORCH) ## The crate: packed, documented, used by a program
	cargo test --release --test crate -- --include-ignored

portable: $(CPU_LIBTORCH) ## Whether it compiles for aarch64 and for macOS
	scripts/portable.sh

doc: $(CPU_LIBTORCH) ## The library's documentation
	RUSTDOCFLAGS='-D warnings' cargo doc --release --no-deps

lint: doc ## rustfmt, clippy and rustdoc, warnings denied
	cargo fmt --check
	scripts/width.sh
	cargo clippy --release --all-targets -- -D warnings

clean: ## Remove what was built, but no fetched files
	cargo clean
