//! Plain VMs for self-managed clusters.

mod account;
mod attachments;
mod backend;
mod calls;
mod creation;
mod deletion;
mod deletion_key;
mod group;
mod memory;
mod owner;
mod payload;
mod plans;
mod script_list;
mod scripts;
mod shared_account;

pub use backend::VmBackend;
pub use deletion_key::DeletionKey;
pub use group::{Delivery, VmGroup, VmNetwork, VmPlace};
pub use owner::cluster_code;
pub use payload::{Payload, PayloadError, PayloadSource};
pub use script_list::{Script, Scripts};
