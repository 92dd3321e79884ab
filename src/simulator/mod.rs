//! A VPSie API in a process.
//!
//! It implements the API that VPSie's public clients use, not the API that this project's client assumes.
//! Where those clients contradict each other, [`Shapes`] selects the behaviour. [`Simulator::call`] executes
//! requests in process, [`listen`] serves them over TCP.

mod account;
mod account_operations;
mod anomalies;
mod args;
mod boot;
mod config;
mod config_error;
mod control;
mod datacenter_faults;
mod fault;
mod handle;
mod join;
mod market;
mod node_object;
mod operations;
mod persist;
mod plain;
mod requests;
mod routes;
mod server;
mod shapes;
mod span;
mod state;
#[cfg(test)]
mod tests;
mod vm;
mod vm_operations;
mod wire;

pub use anomalies::AnomaliesConfig;
pub use args::{JoinArgs, SimulatorArgs, WorldArgs, run};
pub use boot::{
    BootstrapToken, CaHash, Connect, JoinKind, JoinPlan, KubeConnect, NodeTaint, PlanError, Trust,
    TrustError, boot, check_ca,
};
pub use config::{
    AccountConfig, CapacityConfig, ClusterConfig, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_CLUSTER,
    DEFAULT_DATACENTER, DEFAULT_TOKEN, DatacenterConfig, OfferConfig, Shortage, SimulatorConfig, TimesConfig,
};
pub use config_error::ConfigError;
pub use control::{ControlError, Overview, VmView};
pub use datacenter_faults::{Creations, DatacenterFaults, Held};
pub use fault::{ActiveRule, Effect, Execution, FaultError, FaultRule};
pub use handle::Simulator;
pub use join::join;
pub use market::{CapacityEvent, Interruption, MarketConfig, MarketEvent, RateConfig, Storm};
pub use node_object::{Heartbeat, JoinOptions};
pub use persist::{Snapshot, SnapshotError};
pub use plain::{Boot, Hidden, KubeletIdentity, PlainVm, PrivateIp, VmOptions, VmRequest};
pub use requests::CallError;
pub use server::listen;
pub use shapes::{
    AddGroup, AddSlave, AuthHeader, Boxsize, DeleteBody, DeleteGroup, EmptyList, ErrorFlag, ErrorStatus,
    Flags, Hostnames, Hourly, Ids, ListShape, LoginExpiry, LoginRequest, LoginResponse, Money, NodeType,
    Nodes, NotFound, Paging, Prefix, Project, RetryAfter, Rows, ShapeChoice, ShapeError, Shapes, Sizes,
    Times, Total, UnknownRoute, Version, VmGet, VmStateShape,
};
pub use span::{Span, SpanError};
pub use state::Group;
pub use vm::{End, EndedBy, Phase, Vm, VmKind};
