# `make demo` and `make test` are all that a fresh machine needs. ARGS reaches the program behind a target:
# make test ARGS="tests/contract -k duration". VENV puts the environment elsewhere, for two people in one checkout.
export VENV ?= .venv
ARGS ?=

.DEFAULT_GOAL := setup
.PHONY: setup demo test mutation check format bench e2e soak clean

setup:    ; @scripts/setup.sh
demo:     setup ; @"$(VENV)/bin/python" examples/demo.py $(ARGS)
test:     ; @scripts/test.sh test $(ARGS)
mutation: ; @scripts/test.sh mutation $(ARGS)
check:    ; @scripts/check.sh
format:   setup ; @"$(VENV)/bin/ruff" check --fix . ; "$(VENV)/bin/ruff" format .
bench:    ; @scripts/bench.sh $(ARGS)
e2e:      ; @scripts/e2e-setup.sh && scripts/test.sh e2e $(ARGS)
soak:     ; @scripts/test.sh soak $(ARGS)
clean:    ; @rm -rf $$(cat build/stage-place 2>/dev/null) build .venv
