//! The client and the backend against a scripted VPSie and the simulator, on tokio's paused clock.

mod client;
mod login;
mod managed;
mod script;
mod simulated;
mod trial;
