# Everything runs from .venv, made here; a fresh machine needs Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SCANNER := .venv-checkov/bin/checkov
OUT ?= out
REGISTRY ?= ghcr.io/example
TAG ?= 0.1.0

.PHONY: help setup demo test test-slow test-browser test-gpu docs-test chaos bad-inputs lint format protos stubs-typescript stubs-go chart images sbom \
  bench clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt .ci/get_helm.py
	@echo "setting up $(VENV) (about two minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,train,chart,c2pa,webrtc]'
	@$(BIN)/python .ci/get_helm.py $(BIN)
	@touch $@

# It pins what the service needs in other versions: it has an environment to itself.
$(SCANNER):
	@echo "setting up .venv-checkov (about a minute)"
	@$(PYTHON) -m venv .venv-checkov
	@.venv-checkov/bin/python -m pip install --quiet --disable-pip-version-check checkov==3.3.30

setup: $(STAMP)  ## make .venv with everything installed

demo: $(STAMP)  ## start the service, stream a portrait and a voice, write out/demo.mp4, print what was measured
	@$(BIN)/liveact demo --out $(OUT)/demo.mp4

test: $(STAMP)  ## the whole default test suite
	$(BIN)/python -m pytest

test-slow: $(STAMP) $(SCANNER)  ## the minutes-long tests
	$(BIN)/python -m pytest -m slow

test-browser: $(STAMP)  ## the console and the page of WebRTC in a real Chromium, which must be installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	$(BIN)/python -m pytest -m slow tests/test_console.py tests/test_webrtc_browser.py

test-gpu: $(STAMP)  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

docs-test: $(STAMP)  ## run the commands and programs of README.md and docs/; say of each whether it ran or was only parsed
	$(BIN)/python -m pytest -m slow -s tests/test_docs_commands.py

chaos: $(STAMP)  ## kill every part of a service in turn, 100 times, while sessions stream; compare every frame
	$(BIN)/python -m pytest -m chaos
	$(BIN)/liveact bench chaos --kills 100

bad-inputs: $(STAMP)  ## send every bad input over a real stream and print the status of each
	$(BIN)/python -m pytest tests/test_bad_input.py -s

lint: $(STAMP)  ## ruff, mypy, buf and hadolint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd protos && ../$(BIN)/buf lint
	$(BIN)/hadolint docker/*.Dockerfile

format: $(STAMP)  ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(STAMP)  ## generate the Python stubs beside each .proto, and docs/api.md
	$(BIN)/python -m grpc_tools.protoc -I protos --python_out=protos --pyi_out=protos --grpc_python_out=protos \
		protos/liveact/v1/avatar.proto protos/liveact/vault/v1/vault.proto
	$(BIN)/python -m liveact_services.api_reference protos docs/api.md

PROTOC = $(BIN)/python -m grpc_tools.protoc -I protos

stubs-typescript: $(STAMP)  ## TypeScript stubs and the example that uses them, into examples/typescript (needs node and npm)
	cd examples/typescript && npm ci --no-fund --no-audit && mkdir -p generated
	$(PROTOC) --plugin=protoc-gen-ts=examples/typescript/node_modules/.bin/protoc-gen-ts \
		--ts_out=examples/typescript/generated --ts_opt=long_type_bigint,generate_dependencies protos/liveact/v1/avatar.proto
	cd examples/typescript && npm run build

stubs-go: $(STAMP)  ## Go stubs, into examples/go/v1 (needs protoc-gen-go and protoc-gen-go-grpc)
	$(PROTOC) --go_out=examples/go --go_opt=module=liveact,Mliveact/v1/avatar.proto=liveact/v1 \
		--go-grpc_out=examples/go --go-grpc_opt=module=liveact,Mliveact/v1/avatar.proto=liveact/v1 protos/liveact/v1/avatar.proto

chart: $(STAMP)  ## generate the chart's values.yaml, its schema and the reference in its README
	$(BIN)/python -m liveact_services.cluster.reference helm/liveact

images:  ## build the container images, with SBOM and provenance attached; needs docker buildx
	for kind in cpu gpu; do docker buildx build --sbom=true --provenance=mode=max --file docker/$$kind.Dockerfile --target image \
	  --tag $(REGISTRY)/liveact-serve-$$kind:$(TAG) --push . || exit 1; done

sbom:  ## write the software inside each image into out/, as CycloneDX; needs docker buildx
	for kind in cpu gpu; do docker buildx build --file docker/$$kind.Dockerfile --target sbom --output $(OUT) . || exit 1; done

bench: $(STAMP)  ## every benchmark that needs no GPU (about ten minutes)
	$(BIN)/liveact bench flops --preset soulx-liveact-18b --size 512x512
	$(BIN)/liveact bench load
	$(BIN)/liveact bench graph
	$(BIN)/liveact bench memory
	$(BIN)/liveact bench simulate

clean:  ## remove what the targets made
	rm -rf $(VENV) .venv-checkov $(OUT) .pytest_cache .mypy_cache .ruff_cache
