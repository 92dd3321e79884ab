# Checks, one by one: `just --list`. `just` is a convenience: `.ci/run` and `.ci/check NAME` do the same without it.

# Everything that a change must pass.
ci:
    .ci/run

# What to run before each commit: a minute or two.
quick: format lint docs

# Layout of Rust code.
format:
    .ci/check format

# Clippy, pedantic, for all targets.
lint:
    .ci/check lint

# Clippy for the program as images have it: without the simulator.
slim:
    .ci/check slim

# rustfmt and clippy are installed.
components:
    .ci/check components

# Licences, sources and bans of dependencies.
dependencies:
    .ci/check dependencies

# Dependencies that nothing uses.
unused:
    .ci/check unused

# All tests of the workspace.
tests:
    .ci/check tests

# Links and citations of the documentation.
docs:
    cargo test --locked --test documentation

# Fuzzers, for a minute.
fuzz:
    .ci/check fuzz

# Helm chart and kustomizations (needs Go).
install:
    .ci/check install

# Unit tests of the alerts (needs promtool, or root on Debian).
alerts:
    .ci/check alerts

# A real control plane with Cluster Autoscaler (needs Go).
e2e *arguments:
    tests/e2e/run {{arguments}}

# Writes generated files: docs, CRDs, RBAC, expander scenarios, copies of the chart.
update:
    UPDATE=1 cargo test --lib
    UPDATE=1 cargo test --lib
    UPDATE=1 cargo test --test expander_scenarios
    UPDATE=1 tests/install/run

# Starts it with a simulated VPSie.
simulate:
    cargo run -- serve --simulate

# Builds the files of a release, and publishes nothing.
release version:
    .ci/release {{version}}
