# What CI runs, and what takes longer. `just --list` explains.

# Format, lints and docs, each warning an error; the dependency tree where cargo-deny is installed.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --all-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps
    @if command -v cargo-deny >/dev/null; then cargo deny check; else echo "SKIPPED: cargo-deny is not installed (cargo install cargo-deny)"; fi

# The README's test command.
test:
    cargo test --workspace

# Every example, run to its end; each asserts what it claims.
examples:
    for example in examples/*.rs; do cargo run --quiet --example "$(basename "$example" .rs)" || exit 1; done

# Everything that decides whether a change lands.
ci:
    .ci/run

# Benchmarks beside their peers: see benches/README.md for what each needs. Never part of CI.
bench *ARGS:
    benches/run {{ARGS}}

# FUSE beside gocryptfs, bindfs and the bare file system: RUNS rounds, five where it is not said.
bench-fs:
    benches/run fs

# Two hours of mixed load on one server over FUSE, NFS and FTP: whether memory and open files grow.
soak *ARGS:
    benches/soak {{ARGS}}

# What takes long. Seeds are printed, and the environment sets others.
nightly:
    MUXFS_KILL_ROUNDS=500 cargo test --release -p muxfs-cli --test program rounds -- --nocapture
    MUXFS_ZDB_ROUNDS=200 cargo test --release -p muxfs-cli --test program zdb -- --nocapture
    MUXFS_CLUSTER_ROUNDS=20 cargo test --release -p muxfs-cli --test program cluster -- --nocapture
    MUXFS_FUZZ_STREAMS=50000 cargo test --release -p muxfs-zdb-serve --test hostile -- --nocapture
    MUXFS_FUZZ_INPUTS=2000000 cargo test --release -p muxfs --test fuzz -- --nocapture
    MUXFS_FUZZ_INPUTS=100000 cargo test --release -p muxfs-flist --test fuzz -- --nocapture
    MUXFS_FUZZ_INPUTS=200000 cargo test --release -p muxfs-http --test fuzz -- --nocapture
    MUXFS_FUZZ_INPUTS=200000 cargo test --release -p muxfs-vault --lib fuzz -- --nocapture
    MUXFS_VAULT_ALL_BITS=1 MUXFS_VAULT_ALL_CRASHES=1 cargo test --release -p muxfs-vault --lib -- --nocapture
    MUXFS_HELIA_MIB=1024 cargo test --release -p muxfs-cli --test program helia -- --nocapture
    MUXFS_S3_ROUNDS=20000 cargo test --release -p muxfs-s3 --test fencing -- --nocapture
    MUXFS_S3_ROUNDS=2000 cargo test --release -p muxfs-s3 --test faults crash -- --nocapture
    # MUXFS_S3S_FS names the program s3s-fs; MUXFS_S3_ENDPOINT, MUXFS_S3_BUCKET and the AWS_ variables one that runs: Garage, MinIO.
    cargo test --release -p muxfs-s3 --test server -- --nocapture
    MUXFS_WIPE_ROUNDS=100 cargo test --release -p muxfs-cli --test program replaced -- --nocapture
    MUXFS_COHERENCE_ROUNDS=20000 cargo test --release -p muxfs-cli --test program coherence -- --nocapture
    MUXFS_CRASH_POINTS=400000 cargo test --release -p muxfs --lib crash_at_any_call -- --nocapture
    MUXFS_SIMULATE_SEEDS=100000 cargo test --release --test simulate -- --nocapture
    MUXFS_EXERCISE_STEPS=1500000 cargo test --release -p muxfs --test exercise -- --nocapture
    MUXFS_EXERCISE_STEPS=1500000 cargo test --release -p muxfs-fuse --test mounted exercise:: -- --nocapture
    MUXFS_EXERCISE_STEPS=1500000 cargo test --release -p muxfs-nfs --test wire exercise:: -- --nocapture
    MUXFS_FLIST_ROOT=/usr/share/doc cargo test --release -p muxfs-cli --test program real_root -- --nocapture
    MUXFS_FLIST_ROOT=/usr cargo test --release -p muxfs-flist --lib all_of_this_machine -- --ignored --nocapture
    MUXFS_S3_PARTS_MIB=5120 cargo test --release -p muxfs-cli --test program boto3 -- --nocapture
