//! A VPSie API in a process.
//!
//! It implements the API that VPSie's public clients use, not the API that this project's client assumes.
//! Where those clients contradict each other, [`Shapes`] selects the behaviour. [`Simulator::call`] executes
//! requests in process, [`listen`] serves them over TCP.

mod anomalies;
mod args;
mod config;
mod config_error;
mod control;
mod fault;
mod handle;
mod join;
mod market;
mod operations;
mod persist;
mod requests;
mod routes;
mod server;
mod shapes;
mod span;
mod state;
#[cfg(test)]
mod tests;
mod wire;

pub use anomalies::AnomaliesConfig;
pub use args::{JoinArgs, SimulatorArgs, WorldArgs, run};
pub use config::{
    AccountConfig, CapacityConfig, ClusterConfig, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_CLUSTER,
    DEFAULT_DATACENTER, DEFAULT_TOKEN, DatacenterConfig, OfferConfig, Shortage, SimulatorConfig, TimesConfig,
};
pub use config_error::ConfigError;
pub use control::{ControlError, Overview, VmView};
pub use fault::{ActiveRule, Effect, Execution, FaultError, FaultRule};
pub use handle::Simulator;
pub use join::{Heartbeat, JoinOptions, join};
pub use market::{CapacityEvent, Interruption, MarketConfig, MarketEvent, RateConfig, Storm};
pub use persist::{Snapshot, SnapshotError};
pub use requests::CallError;
pub use server::listen;
pub use shapes::{
    AddGroup, AddSlave, AuthHeader, Boxsize, DeleteBody, DeleteGroup, EmptyList, ErrorFlag, ErrorStatus,
    Flags, Hostnames, Hourly, Ids, ListShape, LoginExpiry, LoginRequest, LoginResponse, Money, NodeType,
    Nodes, NotFound, Paging, Prefix, Project, RetryAfter, Rows, ShapeChoice, ShapeError, Shapes, Sizes,
    Times, Total, UnknownRoute, Version, VmGet, VmStateShape,
};
pub use span::{Span, SpanError};
pub use state::{End, EndedBy, Group, Phase, Vm, VmKind};
