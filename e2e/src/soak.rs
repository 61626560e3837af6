//! How much of what takes long, and which of all random runs.

/// The seed of this run: `MILLRACE_SEED`, else a new one. It is printed, so that a run can be had again.
pub fn seed() -> u64 {
    let given = std::env::var("MILLRACE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("MILLRACE_SEED={seed}");
    seed
}

/// Whether `make soak` asks for ten times as much.
pub fn soaking() -> bool {
    std::env::var("MILLRACE_SOAK").is_ok_and(|value| value == "1")
}
