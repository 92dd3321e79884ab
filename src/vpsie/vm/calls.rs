//! The calls for plain VMs (docs/reference/vpsie-api.md#calls). Paths are case-sensitive.

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::payload::Payload;
use crate::catalog::{DatacenterId, Offer};
use crate::fleet::{Hostname, VmId};
use crate::vpsie::call::{Body, Call};
use crate::vpsie::client::Client;
use crate::vpsie::endpoints::DeletionReply;
use crate::vpsie::error::{ApiError, ErrorKind};
use crate::vpsie::limiter::Purpose;
use crate::vpsie::paging::Listed;
use crate::vpsie::reply;
use crate::vpsie::wire::{PendingVm, PlainVm, PlanCategory, read_created_vm, read_plan, read_script};

const VMS: &str = "vm";
const PENDING_VMS: &str = "vm/pending";
const PLAN_CATEGORIES: &str = "plans/category";
const PLANS: &str = "resources";
const SCRIPTS: &str = "scripts";
const ADD_SCRIPT: &str = "script/add";
const SCRIPT: &str = "script";
const ADD_TO_VPC: &str = "vm/add/vpc";
const ATTACH_FIREWALL_GROUP: &str = "firewall/attach/group";

/// A VPSie script, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScriptRow {
    /// Identifier, for the deletion.
    pub(super) id: String,
    /// Name. VPSie appends `.sh` to the name of the request.
    pub(super) name: String,
}

/// The channel by which a VM gets its payload.
pub(super) enum PayloadChannel<'a> {
    /// A script with the payload, by its identifier.
    Script(&'a str, &'a Payload),
    UserData(&'a Payload),
}

/// A request for a VM.
pub(super) struct NewVm<'a> {
    /// UUID of the plan in the datacenter.
    pub(super) plan: &'a str,
    pub(super) image: &'a str,
    pub(super) datacenter: &'a DatacenterId,
    pub(super) hostname: &'a Hostname,
    pub(super) notes: String,
    pub(super) tags: &'a [String],
    pub(super) project: Option<&'a str>,
    pub(super) ssh_key: Option<&'a str>,
    pub(super) public_ipv4: bool,
    pub(super) public_ipv6: bool,
    pub(super) private_ip: bool,
    /// None: VPSie generates one.
    pub(super) password: Option<SecretString>,
    pub(super) payload: PayloadChannel<'a>,
    /// UUID that VPSie shows with the pending VM.
    pub(super) process: String,
}

/// Reply to a creation.
pub(super) enum CreationReply {
    Accepted,
    /// VPSie's reply identifies the VM.
    Created(VmId),
}

/// An id as VPSie's clients send it: a number, if it is one.
fn number_or_text(id: &str) -> Value {
    id.parse::<u64>().map_or_else(|_| id.into(), Value::from)
}

impl NewVm<'_> {
    fn body(&self) -> Body {
        let mut body = json!({
            "resourceIdentifier": self.plan,
            "osIdentifier": self.image,
            "dcIdentifier": self.datacenter,
            "hostname": self.hostname,
            "notes": self.notes,
            "tags": self.tags,
            "addPublicIpV4": u8::from(self.public_ipv4),
            "addPublicIpV6": u8::from(self.public_ipv6),
            "addPrivateIp": u8::from(self.private_ip),
            "backupEnabled": 0,
            "weeklyBackupEnabled": 0,
            "monthlyBackupEnabled": 0,
            "isGeneratedPassword": u8::from(self.password.is_none()),
            "processId": self.process,
        });
        let mut secrets = Vec::new();
        if let Some(project) = self.project {
            body["projectId"] = number_or_text(project);
        }
        if let Some(key) = self.ssh_key {
            body["sshKeyIdentifier"] = key.into();
        }
        if let Some(password) = &self.password {
            body["vmPassword"] = password.expose_secret().into();
            secrets.push(password.clone());
        }
        match self.payload {
            // VPSie knows the content of the script, so the reply may repeat it.
            PayloadChannel::Script(id, payload) => {
                body["scriptIdentifier"] = id.into();
                secrets.push(payload.expose().into());
            }
            PayloadChannel::UserData(payload) => {
                body["userData"] = payload.expose().into();
                secrets.push(payload.expose().into());
            }
        }
        Body::secret(&body, secrets)
    }
}

impl Client {
    /// Lists the VMs of all projects of the account. Nodes of managed clusters are omitted.
    pub(super) async fn list_plain_vms(&self, purpose: Purpose) -> Result<Listed<PlainVm>, ApiError> {
        let call = Call::get("list_plain_vms", VMS).with_purpose(purpose).with_secret_reply();
        let mut vms = self.read_rows(call, |row| PlainVm::read(row, self.interruption_fields())).await?;
        vms.rows.retain(|vm| !vm.is_managed);
        Ok(vms)
    }

    pub(super) async fn list_pending_vms(&self, purpose: Purpose) -> Result<Listed<PendingVm>, ApiError> {
        let call = Call::get("list_pending_vms", PENDING_VMS).with_purpose(purpose).with_secret_reply();
        self.read_rows(call, PendingVm::read).await
    }

    pub(super) async fn list_plan_categories(&self) -> Result<Vec<PlanCategory>, ApiError> {
        Ok(self.read_rows(Call::get("list_plan_categories", PLAN_CATEGORIES), PlanCategory::read).await?.rows)
    }

    /// Lists the plans of a category for an image in a datacenter, or of all categories that VPSie returns
    /// without one.
    pub(super) async fn list_plans(
        &self,
        datacenter: &DatacenterId,
        image: &str,
        category: Option<&str>,
    ) -> Result<Listed<Offer>, ApiError> {
        let form = plans_form(datacenter, image, category);
        let call = Call::post("list_plans", PLANS, Body::Form(form));
        self.read_rows(call, |row| read_plan(row, datacenter)).await
    }

    /// Requests a VM. Not idempotent.
    pub(super) async fn create_vm(&self, vm: &NewVm<'_>) -> Result<CreationReply, ApiError> {
        let call = Call::post("create_vm", VMS, vm.body()).with_secret_reply().without_repeats();
        let unclear = |message| Err(ApiError::new(ErrorKind::Unclear, message));
        match self.send(&call).await?.payload() {
            reply::Payload::False => unclear("VPSie neither accepted nor refused the request"),
            reply::Payload::Object(object) => match read_created_vm(&object) {
                Some((id, Some(hostname))) if hostname == *vm.hostname => Ok(CreationReply::Created(id)),
                Some((_, Some(_))) => unclear("VPSie replied with a VM of another hostname"),
                // An id without the hostname may be that of something else.
                Some((_, None)) | None => Ok(CreationReply::Accepted),
            },
            reply::Payload::Nothing | reply::Payload::Accepted | reply::Payload::List { .. } => {
                Ok(CreationReply::Accepted)
            }
        }
    }

    /// Deletes exactly this VM.
    pub(super) async fn delete_vm(
        &self,
        vm: &VmId,
        password: Option<&SecretString>,
    ) -> Result<DeletionReply, ApiError> {
        let mut body = json!({
            "vmIdentifier": vm,
            "deleteStatistic": {"reason": "other", "note": "no longer needed by the autoscaler"},
        });
        if let Some(password) = password {
            body["password"] = password.expose_secret().into();
        }
        let body = Body::secret(&body, password.cloned().into_iter().collect());
        match self.send(&Call::delete("delete_vm", VMS, body)).await {
            Ok(reply) => Ok(match reply.payload() {
                reply::Payload::False => DeletionReply::NotFound("not found".to_owned()),
                _ => DeletionReply::Accepted,
            }),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::WrongServer) => {
                Ok(DeletionReply::NotFound(error.message))
            }
            Err(error) if refuses_password(&error) => {
                Err(ApiError { kind: ErrorKind::PasswordRefused, ..error })
            }
            Err(error) => Err(error),
        }
    }

    /// Lists the scripts of the account. VPSie's reply has their contents, which are not kept.
    pub(super) async fn list_script_rows(&self) -> Result<Vec<ScriptRow>, ApiError> {
        let call = Call::get("list_scripts", SCRIPTS).with_secret_reply();
        let scripts = self.read_rows(call, read_script).await?.rows;
        Ok(scripts.into_iter().map(|(id, name)| ScriptRow { id, name }).collect())
    }

    /// Adds a script. The reply has no id.
    pub(super) async fn add_script(&self, name: &str, content: &Payload) -> Result<(), ApiError> {
        let body = json!({"name": name, "scriptContent": content.expose(), "scriptType": "bash", "tags": []});
        let body = Body::secret(&body, vec![content.expose().into()]);
        let call = Call::post("add_script", ADD_SCRIPT, body).with_secret_reply().without_repeats();
        self.send(&call).await.map(drop)
    }

    /// Deletes a script. Succeeds if it does not exist.
    pub(super) async fn delete_script_row(&self, id: &str) -> Result<(), ApiError> {
        let body = Body::Json(json!({"scriptIdentifier": id}));
        // The reserved rate is for deletions that stop costs.
        let call = Call::delete("delete_script", SCRIPT, body).with_purpose(Purpose::Ordinary);
        match self.send(&call).await {
            Err(error) if error.kind != ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Attaches a VM to a VPC of its datacenter.
    pub(super) async fn add_to_vpc(
        &self,
        vm: &VmId,
        vpc: &str,
        datacenter: &DatacenterId,
    ) -> Result<(), ApiError> {
        let body = json!({"vmIdentifier": vm, "vpcId": number_or_text(vpc), "dcIdentifier": datacenter});
        self.attach(Call::post("add_to_vpc", ADD_TO_VPC, Body::Json(body))).await
    }

    /// Attaches a VM to a firewall group.
    pub(super) async fn attach_firewall_group(&self, vm: &VmId, group: &str) -> Result<(), ApiError> {
        let body = json!({"vmId": vm, "groupId": number_or_text(group)});
        self.attach(Call::post("attach_firewall_group", ATTACH_FIREWALL_GROUP, Body::Json(body))).await
    }

    /// Sends an attachment. Succeeds if the VM is already attached.
    async fn attach(&self, call: Call) -> Result<(), ApiError> {
        match self.send(&call.without_repeats()).await {
            Ok(reply) => match reply.payload() {
                reply::Payload::False => {
                    let message = "VPSie neither accepted nor refused the attachment";
                    Err(ApiError::new(ErrorKind::Unclear, message))
                }
                _ => Ok(()),
            },
            Err(error) if error.message.to_lowercase().contains("already") => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn plans_form(datacenter: &DatacenterId, image: &str, category: Option<&str>) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("dcIdentifier", datacenter.as_str()).append_pair("osIdentifier", image);
    if let Some(category) = category {
        form.append_pair("planCatIdentifier", category);
    }
    form.append_pair("name", "query")
        .append_pair("description", "query")
        .append_pair("isCustom", "0")
        .finish()
}

/// Whether VPSie refused a deletion for the password of the VM. A deletion that counts as refused, but was
/// executed, is harmless.
fn refuses_password(error: &ApiError) -> bool {
    let is_refusal = match error.kind {
        ErrorKind::Unauthenticated
        | ErrorKind::Forbidden
        | ErrorKind::BadConfiguration
        | ErrorKind::Refused
        | ErrorKind::PasswordRefused
        | ErrorKind::Unclear => true,
        ErrorKind::Quota
        | ErrorKind::Shortage
        | ErrorKind::NotFound
        | ErrorKind::WrongServer
        | ErrorKind::RateLimited
        | ErrorKind::NotSent
        | ErrorKind::NotAdmitted => false,
    };
    is_refusal && error.message.to_lowercase().contains("password")
}
