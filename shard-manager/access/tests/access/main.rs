//! Tests of access control: guaranteed behaviour, attacks and random inputs.

#![expect(
    unsafe_code,
    reason = "counting allocations needs an allocator, which is an unsafe trait"
)]
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod audit;
mod audit_merging;
mod changed_claims;
mod checks;
mod counted_heap;
mod denials;
mod hot_path;
mod key_sets;
mod keys;
mod keys_file;
mod limits;
mod random_rights;
mod random_texts;
mod rights;
mod roles;
mod sessions;
mod signers;
mod snapshots;
mod tenants;
mod token_attacks;
mod token_confusion;
mod tokens;
mod usage;
