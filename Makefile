# The verbs people know. Each is one line about a script in scripts/; `make help` lists them.

# rustup's folder is not in root's path under sudo.
export PATH := $(HOME)/.cargo/bin:$(PATH)

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help packages deps build web image up down logs bash test test-vm check deb dist endure fuzz bench

image := target/image/default/index.json
page := web/dist/index.html
cloister := target/release/cloister
# What a test installs in a cell, to work with.
work := gdb strace nodejs golang-go openjdk-17-jdk-headless cargo chromium-headless-shell

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

up: deps image ## Start a server with everything it needs, and print the address to open
	@scripts/up

down: ## Stop the server and every cell
	@scripts/down

logs: ## Follow the server's log
	@tail -n 50 -F target/up/serve.log

bash: deps image ## Open a shell in a cell of the project demo
	@. scripts/server.sh && { [ -d "$$CLOISTER_PROJECTS/demo" ] || $(cloister) project create demo; } && $(cloister) run demo

build: deps $(page) ## Build the command with its page (release)
	@echo "==> building the server (a few minutes the first time)"
	@cargo build --release

web: packages $(page) ## Build the page

image: build $(image) ## Build the default runner image and import it
	@. scripts/server.sh && $(cloister) image import target/image/default --name default

test: deps ## Install what tests need, then run every check: what CI runs
	@scripts/install-deps test
	@scripts/install-websocat
	@$(MAKE) --no-print-directory $(page) $(image)
	@scripts/fetch-packages $(work)
	@scripts/check
	@$(MAKE) --no-print-directory test-vm

deb: build ## Make the Debian package: target/deb/cloister_VERSION_ARCHITECTURE.deb
	@scripts/package

dist: deb ## Make a tarball of the same, with an installer, for systems without apt: target/dist
	@scripts/dist

test-vm: build $(image) ## Install, upgrade and crash the package on Debian hosts with systemd: a container, and one that qemu emulates
	@scripts/install-deps vm
	@scripts/vm
	@rm -rf target/vm/payload && mkdir target/vm/payload && cp -a target/image/default target/vm/payload/image
	@scripts/package 0.1.0+1 && mv target/deb/cloister_*.deb target/vm/payload/before.deb
	@scripts/package 0.1.0+2 && cp target/deb/cloister_*.deb target/vm/payload/after.deb
	@scripts/dist && mv target/dist/*.tar.gz target/vm/payload/dist.tar.gz
	@cargo test --quiet --package cloister --test vm

endure: build ## Kill server and launcher for ten minutes while a hundred sessions are worked in; nothing may be lost
	@CLOISTER_ENDURE_S=$${CLOISTER_ENDURE_S:-600} cargo test --release --quiet --package cloister --test it endure:: -- --nocapture

check: deps ## Check formatting, lints, scripts and the page's types
	@scripts/install-deps test
	@scripts/check static

fuzz: deps ## Try what strangers can send, a minute for each target (scripts/fuzz TARGET SECONDS for more)
	@scripts/fuzz

bench: image ## Measure against bubblewrap, crun, podman and no sandbox
	@scripts/install-deps bench
	@scripts/bench

packages:
	@scripts/install-deps up

deps: packages
	@scripts/check-rust
	@scripts/install-user

$(page): $(shell find web -path web/node_modules -prune -o -path web/dist -prune -o -path web/test -prune -o -type f -print)
	@echo "==> building the page"
	@cd web && npm ci --loglevel=error --no-audit --no-fund && npm run --silent build
	@touch $@

$(image): scripts/build-image $(shell find runner/images/default -type f)
	@echo "==> building the default runner image (half a minute)"
	@scripts/build-image
	@touch $@
