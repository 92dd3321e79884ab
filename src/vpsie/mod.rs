//! The VPSie API: client, lenient wire types, backends.

mod backend;

pub use backend::{Backend, BackendError};
