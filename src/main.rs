//! The binary: parse, build, run.

fn main() {}
