//! Properties of the API on which VPSie's clients contradict each other
//! (docs/reference/vpsie-api.md#contradictions).

mod definition;
#[cfg(test)]
mod tests;

use definition::shapes;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// An invalid `--shape`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Not `name=value`.
    #[error("shape {0:?} must be <name>=<value>, such as login-request=form")]
    Syntax(String),
    /// Unknown shape.
    #[error("shape {name:?} is unknown; shapes are {known}")]
    Name {
        /// The given text.
        name: String,
        /// The names of all shapes.
        known: String,
    },
    /// Unknown value of a shape.
    #[error("shape {name} must be one of {allowed}; is {value:?}")]
    Value {
        /// The shape.
        name: &'static str,
        /// The given text.
        value: String,
        /// The valid values.
        allowed: String,
    },
}

/// A shape: a property of the API that clients disagree about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeChoice {
    /// Its name.
    pub name: &'static str,
    /// Its description.
    pub about: &'static str,
    /// Its values with their meanings, the default first.
    pub values: Vec<(&'static str, &'static str)>,
}

/// Shapes that matter for VMs outside managed clusters, or for no client known to date.
const VM_SHAPES: [&str; 6] =
    ["cluster-count", "create-vm", "same-hostname", "vm-project", "delete-password", "script-name"];

shapes! {
    /// Path prefixes (row 1).
    prefix = "prefix": Prefix {
        /// `/apps/v2` and `/api/v2` reach the same backend.
        AppsAndApi = "apps-and-api",
        /// Only `/apps/v2`.
        Apps = "apps",
        /// Only `/api/v2`.
        Api = "api",
        /// Only `/v2`.
        Bare = "v2",
    }
    /// Body of a login request (row 2).
    login_request = "login-request": LoginRequest {
        /// JSON or form.
        Any = "any",
        /// Only `application/json`.
        Json = "json",
        /// Only `application/x-www-form-urlencoded`.
        Form = "form",
    }
    /// Place of the token in the reply to a login (row 3).
    login_response = "login-response": LoginResponse {
        /// `token.access.token`.
        TokenAccess = "token-access",
        /// `accessToken.token`.
        AccessToken = "access-token",
        /// `token`, a text.
        Text = "text",
        /// `data.accessToken.token`.
        Data = "data",
    }
    /// Expiry of the token in the reply to a login (docs/reference/vpsie-api.md#login).
    login_expiry = "login-expiry": LoginExpiry {
        /// RFC 3339.
        Rfc3339 = "rfc3339",
        /// RFC 2822.
        Rfc2822 = "rfc2822",
        /// Seconds since 1970.
        Seconds = "seconds",
        /// Milliseconds since 1970.
        Millis = "millis",
        /// Absent.
        Absent = "absent",
    }
    /// Header of the token (row 4).
    auth_header = "auth-header": AuthHeader {
        /// Either one.
        Either = "either",
        /// Only `Vpsie-Auth`.
        VpsieAuth = "vpsie-auth",
        /// Only `Authorization: Bearer`.
        Bearer = "bearer",
    }
    /// The `error` field (row 5).
    error_flag = "error-flag": ErrorFlag {
        /// A boolean.
        Bool = "bool",
        /// A text: the message, or `false`.
        Text = "text",
    }
    /// The HTTP status of a refusal (row 5).
    error_status = "error-status": ErrorStatus {
        /// 4xx.
        Status = "status",
        /// 200, with `error: true`. A missing token is still 401.
        Ok = "ok",
        /// 500, with `error: true` and `type: false`. A missing token is still 401.
        Internal = "500",
    }
    /// Body of the reply for an unknown route (row 6).
    unknown_route = "unknown-route": UnknownRoute {
        /// JSON, `Not found`.
        Json = "json",
        /// An HTML page.
        Html = "html",
    }
    /// `data` of a list (row 7).
    list = "list": ListShape {
        /// An array.
        Array = "array",
        /// `{rows, count}`.
        RowsCount = "rows-count",
        /// `{rows, total}`.
        RowsTotal = "rows-total",
        /// The array alone, without an envelope.
        Bare = "bare",
    }
    /// `data` of an empty list (row 7).
    empty_list = "empty-list": EmptyList {
        /// The same as for other lists.
        Array = "array",
        /// `false`.
        False = "false",
        /// `null`.
        Null = "null",
        /// No `data`.
        Absent = "absent",
    }
    /// Reply for an object that does not exist (row 7).
    not_found = "not-found": NotFound {
        /// HTTP 404 with an error.
        Status = "status",
        /// `data: false`, no error.
        False = "data-false",
        /// `data: null`, no error.
        Null = "data-null",
        /// HTTP 200 with an error.
        Error = "error",
    }
    /// Field with the number of rows (row 8).
    total = "total": Total {
        /// `total`.
        Total = "total",
        /// `total` and a space.
        Space = "total-space",
        /// `count`.
        Count = "count",
        /// `pagination.total`.
        Pagination = "pagination",
        /// Not given.
        Absent = "absent",
    }
    /// Paging of long lists (docs/reference/vpsie-api.md#paging).
    paging = "paging": Paging {
        /// No paging: its parameters are ignored.
        Whole = "whole",
        /// `offset` counts rows; `limit` is 20 by default.
        Rows = "rows",
        /// `offset` counts pages; `limit` is 20 by default.
        Pages = "pages",
    }
    /// Numeric ids (row 9).
    ids = "ids": Ids {
        /// Numbers.
        Number = "number",
        /// Texts.
        Text = "text",
    }
    /// A group's `boxsize_id` (row 10).
    boxsize = "boxsize": Boxsize {
        /// The `KubeSizeID` that the group was created with.
        KubeSize = "kube-size",
        /// A number of another kind.
        Other = "other",
    }
    /// Reply to a request for a VM by its UUID (row 11).
    vm_get = "vm-get": VmGet {
        /// `data.vmData`.
        VmData = "vm-data",
        /// `data`.
        Data = "data",
        /// No envelope.
        Bare = "bare",
    }
    /// State of a VM (row 12).
    vm_state = "vm-state": VmStateShape {
        /// `is_active`, `power`, `is_suspended` and so on.
        Flags = "flags",
        /// A text `status`.
        Status = "status",
        /// Both.
        Both = "both",
    }
    /// The nodes of a cluster (row 13).
    nodes = "nodes": Nodes {
        /// `nodes`, with neither UUID nor state.
        Plain = "plain",
        /// `nodes`, with UUID, role, state and size.
        Rich = "rich",
        /// `masters` and `slaves`, with UUID, role, state and size.
        MastersSlaves = "masters-slaves",
        /// `nodes`, with UUID, and with flags in place of a state.
        Flags = "flags",
    }
    /// `node_type` of a control-plane node (row 13).
    node_type = "node-type": NodeType {
        /// 1; workers are 2.
        MasterOne = "master-1",
        /// 0; workers are 1.
        MasterZero = "master-0",
    }
    /// Reply to the addition of a worker (row 14).
    add_slave = "add-slave": AddSlave {
        /// `data: true`.
        True = "true",
        /// An object with id, status and hostname.
        Object = "object",
        /// An object with id, status, hostname and UUID.
        Identified = "identified",
    }
    /// Reply to the creation of a group (row 16).
    add_group = "add-group": AddGroup {
        /// `data: true`.
        True = "true",
        /// `data.groupId`.
        GroupId = "group-id",
        /// No `data`.
        Absent = "absent",
    }
    /// Required body of a deletion (row 17).
    delete_body = "delete-body": DeleteBody {
        /// Any or none.
        Free = "free",
        /// `deleteStatistic.reason`, for groups and VMs.
        Statistic = "statistic",
    }
    /// Workers of a deleted group. Not evidenced.
    delete_group = "delete-group": DeleteGroup {
        /// They are deleted too.
        Cascade = "cascade",
        /// A group with workers cannot be deleted.
        Refuse = "refuse",
    }
    /// Flags (row 18).
    flags = "flags": Flags {
        /// 0 and 1.
        Number = "number",
        /// `"0"` and `"1"`.
        Text = "text",
        /// Booleans.
        Bool = "bool",
    }
    /// The project of a VM or group (row 19).
    project = "project": Project {
        /// `project_id`.
        Snake = "project_id",
        /// `projectId`.
        Camel = "projectId",
        /// `project_id` of a group, `projectId` of a VM.
        Mixed = "mixed",
    }
    /// Money (row 20).
    money = "money": Money {
        /// Texts on the bill, numbers elsewhere.
        Mixed = "mixed",
        /// Numbers.
        Number = "number",
        /// Texts.
        Text = "text",
    }
    /// The hourly price of an offer (row 20).
    hourly = "hourly": Hourly {
        /// Given.
        Given = "given",
        /// 0.
        Zero = "zero",
        /// Not given.
        Absent = "absent",
    }
    /// Names of the fields of a size (row 21).
    sizes = "sizes": Sizes {
        /// `name`, `disk` for Kubernetes offers, `nickname`, `ssd` elsewhere.
        Own = "own",
        /// `name`, `disk`, `bandwidth` everywhere.
        Disk = "disk",
        /// `nickname`, `ssd`, `traffic` everywhere.
        Ssd = "ssd",
    }
    /// Times (row 22).
    times = "times": Times {
        /// RFC 3339 for groups and billing, `YYYY-MM-DD HH:MM:SS` elsewhere.
        Mixed = "mixed",
        /// RFC 3339.
        Rfc3339 = "rfc3339",
        /// `YYYY-MM-DD HH:MM:SS`.
        Sql = "sql",
        /// Empty texts.
        Empty = "empty",
        /// Null.
        Null = "null",
    }
    /// `kube_version` (row 23).
    version = "version": Version {
        /// `1.33.4`.
        Plain = "plain",
        /// `v1.33.4`.
        Prefixed = "v",
    }
    /// Case of hostnames (row 24).
    hostnames = "hostnames": Hostnames {
        /// As the cluster's name is written; Kubernetes uses lower case.
        Mixed = "mixed",
        /// Lower case.
        Lower = "lower",
        /// Lower case in `storages/vms`, mixed elsewhere.
        Differing = "differing",
    }
    /// Malformed rows (row 25).
    rows = "rows": Rows {
        /// None, and only evidenced fields.
        Clean = "clean",
        /// Unknown fields, and one malformed row in every list.
        Odd = "odd",
    }
    /// `count` of a cluster. Not evidenced.
    cluster_count = "cluster-count": ClusterCount {
        /// Its control-plane nodes.
        Masters = "masters",
        /// All its nodes.
        Nodes = "nodes",
    }
    /// Reply to a request for a VM (docs/reference/vpsie-api.md#creating-a-vm).
    create_vm = "create-vm": CreateVm {
        /// `data: true`.
        True = "true",
        /// An object with hostname and status.
        Object = "object",
        /// An object with hostname, status and UUID.
        Identified = "identified",
    }
    /// A request for a VM with the hostname of another one. Not evidenced.
    same_hostname = "same-hostname": SameHostname {
        /// The VM is created.
        Accepted = "accepted",
        /// It is refused.
        Refused = "refused",
    }
    /// The project in a request for a VM (row 19).
    vm_project = "vm-project": VmProject {
        /// UUID or number.
        Any = "any",
        /// UUID. After a number, the VM is in the default project.
        Uuid = "uuid",
        /// Number. After a UUID, the VM is in the default project.
        Number = "number",
    }
    /// The password in a request to delete a VM (row 17).
    delete_password = "delete-password": DeletePassword {
        /// Not checked.
        Ignored = "ignored",
        /// A wrong one is refused.
        Checked = "checked",
        /// A missing or wrong one is refused.
        Required = "required",
    }
    /// Name of a new script in lists (docs/reference/vpsie-api.md#scripts).
    script_name = "script-name": ScriptName {
        /// The name of the request and `.sh`.
        Suffixed = "suffixed",
        /// The name of the request.
        Plain = "plain",
    }
    /// `Retry-After` of a 429.
    retry_after = "retry-after": RetryAfter {
        /// Not given, because there is no evidence for it.
        Absent = "absent",
        /// Seconds.
        Seconds = "seconds",
        /// An HTTP date.
        Date = "date",
    }
}

fn choose<T: Copy>(name: &'static str, value: &str, all: &[(&'static str, T)]) -> Result<T, ShapeError> {
    all.iter().find(|(text, _)| *text == value).map(|(_, chosen)| *chosen).ok_or_else(|| ShapeError::Value {
        name,
        value: value.to_owned(),
        allowed: all.iter().map(|(text, _)| *text).collect::<Vec<_>>().join(", "),
    })
}

impl Shapes {
    /// The shapes that the client of the original autoscaler decodes.
    pub fn original_client() -> Self {
        Self {
            login_request: LoginRequest::Form,
            login_response: LoginResponse::AccessToken,
            auth_header: AuthHeader::Bearer,
            nodes: Nodes::Rich,
            add_slave: AddSlave::Identified,
            add_group: AddGroup::GroupId,
            times: Times::Rfc3339,
            ..Self::default()
        }
    }

    /// The default with one value changed, for every value other than the default, with its `name=value`. A
    /// tolerant client handles all of them.
    pub fn each() -> Vec<(String, Self)> {
        let mut all = Vec::new();
        for ShapeChoice { name, values, .. } in Self::choices() {
            for (value, _) in values.into_iter().skip(1) {
                let text = format!("{name}={value}");
                let mut shapes = Self::default();
                if shapes.set(&text).is_ok() {
                    all.push((text, shapes));
                }
            }
        }
        all
    }
}

/// An amount as the nearest JSON number.
pub(super) fn number(money: Decimal) -> f64 {
    money.try_into().unwrap_or_default()
}
