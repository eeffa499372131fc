# One recipe per job of .ci/run, with the same commands (tests/it/documents.rs holds them together).

# Lists the recipes.
default:
    @just --list

# Checks the format.
fmt:
    cargo fmt --check

# Lints everything; a warning fails.
clippy:
    cargo clippy --all-targets --locked -- -D warnings

# Builds the documentation, private items too; a warning fails.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked --document-private-items

# Builds every test.
build:
    cargo test --locked --no-run

# Runs every test. Tests of programs that are not installed are skipped, unless OMERO_GRID_REQUIRE_PEERS=1.
test:
    cargo test --locked

# Shows that the chaos test notices a bug that is planted for it. After `test`, which builds the checker.
planted:
    OMERO_GRID_CHAOS_SECONDS=15 cargo test --locked --features planted-bug --test it chaos::no_session

# Measures what the README's table says. Not a CI job: machines differ.
bench:
    cargo bench --locked --bench grid
    cargo bench --locked --bench sessions
    cargo bench --locked --bench data

# Does what CI does.
ci:
    .ci/run
