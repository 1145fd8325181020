//! Shows the operator at work.

fn main() {}
