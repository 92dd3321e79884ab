//! A VPSie API in a process.
