# Everything runs from .venv, made here; a fresh machine needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= out

.PHONY: help setup demo test test-slow test-gpu chaos bad-inputs lint format protos stubs-typescript stubs-go bench clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (about two minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,train]'
	@touch $@

setup: $(STAMP)  ## make .venv with everything installed

demo: $(STAMP)  ## start the service, stream a portrait and a voice, write out/demo.mp4, print what was measured
	@$(BIN)/liveact demo --out $(OUT)/demo.mp4

test: $(STAMP)  ## the whole default test suite
	$(BIN)/python -m pytest

test-slow: $(STAMP)  ## the minutes-long tests
	$(BIN)/python -m pytest -m slow

test-gpu: $(STAMP)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

chaos: $(STAMP)  ## kill every part of a service in turn, 100 times, while sessions stream; compare every frame
	$(BIN)/python -m pytest -m chaos
	$(BIN)/liveact bench chaos --kills 100

bad-inputs: $(STAMP)  ## send every bad input over a real stream and print the status of each
	$(BIN)/python -m pytest tests/test_bad_input.py -s

lint: $(STAMP)  ## ruff, mypy and buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd protos && ../$(BIN)/buf lint

format: $(STAMP)  ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(STAMP)  ## generate the Python stubs beside the .proto
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=protos --pyi_out=protos --grpc_python_out=protos protos/liveact/v1/avatar.proto

PROTOC = $(BIN)/python -m grpc_tools.protoc -I protos

stubs-typescript: $(STAMP)  ## TypeScript stubs and the example that uses them, into examples/typescript (needs node and npm)
	cd examples/typescript && npm ci --no-fund --no-audit && mkdir -p generated
	$(PROTOC) --plugin=protoc-gen-ts=examples/typescript/node_modules/.bin/protoc-gen-ts \
		--ts_out=examples/typescript/generated --ts_opt=long_type_bigint,generate_dependencies protos/liveact/v1/avatar.proto
	cd examples/typescript && npm run build

stubs-go: $(STAMP)  ## Go stubs, into examples/go/v1 (needs protoc-gen-go and protoc-gen-go-grpc)
	$(PROTOC) --go_out=examples/go --go_opt=module=liveact,Mliveact/v1/avatar.proto=liveact/v1 \
		--go-grpc_out=examples/go --go-grpc_opt=module=liveact,Mliveact/v1/avatar.proto=liveact/v1 protos/liveact/v1/avatar.proto

bench: $(STAMP)  ## every benchmark that needs no GPU (about ten minutes)
	$(BIN)/liveact bench flops --preset soulx-liveact-18b --size 512x512
	$(BIN)/liveact bench load
	$(BIN)/liveact bench graph
	$(BIN)/liveact bench memory
	$(BIN)/liveact bench simulate

clean:  ## remove what the targets made
	rm -rf $(VENV) $(OUT) .pytest_cache .mypy_cache .ruff_cache
