# Every target does its own set-up (tools/bootstrap.sh); a second run with nothing to do takes seconds.
# `.venv/bin` comes first, so that its cmake is used where the system's is too old.
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup build demo test test-clients test-aarch64 test-threads lint format coverage fuzz bench torch-compat install clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 21

setup: ## install what is missing: Debian packages, .venv
	@tools/bootstrap.sh build

build: setup ## build everything (build/release)
	@tools/build.sh release

demo: setup ## compress the embedded model to INT8 and INT4 and print before and after
	@tools/build.sh release autoglm
	@tools/demo.sh

test: setup ## run every test: release, ASan+UBSan, and a build without LibTorch
	@tools/test.sh

test-clients: build ## load everything that is written with the software it is for, and write the table of docs/FORMATS.md
	@tools/bootstrap.sh env:gptqmodel env:vllm
	@tools/test_clients.sh

test-aarch64: ## build core and runtime for 64-bit ARM and run their tests under qemu
	@tools/bootstrap.sh build aarch64
	@tools/sysroot.sh arm64
	@tools/test.sh edge-aarch64

test-threads: setup ## run the runtime's tests under ThreadSanitizer
	@tools/test.sh tsan

lint: ## formatting, clang-tidy, cyclomatic complexity, repeated code (FILES=… or ALL=1; else what changed)
	@tools/bootstrap.sh build lint
	@tools/lint.sh $(FILES)

format: ## rewrite the sources by .clang-format
	@tools/bootstrap.sh lint
	@tools/sources.sh '*.h' '*.cpp' | xargs -r clang-format -i

coverage: ## line coverage per room
	@tools/bootstrap.sh build lint
	@tools/coverage.sh

fuzz: ## libFuzzer on every parser, SECONDS_EACH=60 each
	@tools/bootstrap.sh build fuzz
	@tools/fuzz.sh $(or $(SECONDS_EACH),60)

bench: setup ## the benchmarks of docs/BENCHMARKS.md
	@tools/bootstrap.sh env:llmcompressor env:converters
	@tools/build.sh release autoglm
	@benchmarks/run.sh

torch-compat: build ## compile the sources against the headers of older LibTorch releases (VERSIONS="2.11.0 2.12.1")
	@.venv/bin/python tools/torch_compat.py $(or $(VERSIONS),2.11.0 2.12.1)

install: build ## install to PREFIX (default /usr/local)
	@cmake --install build/release --prefix $(or $(PREFIX),/usr/local)

clean: ## remove build folders; .venv stays
	rm -rf build
