//! The `cloud-identity-operator` binary.

fn main() {}
