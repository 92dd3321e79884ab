//! Requests for VMs outside managed clusters, and actions on them. Pure: time and randomness are arguments.

use jiff::SignedDuration;
use rand::RngExt;

use super::config::Shortage;
use super::datacenter_faults::Creations;
use super::operations::ApiError;
use super::plain::{Boot, Hidden, PlainVm, VmRequest};
use super::shapes::{DeletePassword, SameHostname};
use super::span::{Span, later};
use super::state::{Context, State};
use super::vm::{EndedBy, Vm, VmKind};

/// An action on a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Start,
    Stop,
    Restart,
    Lock,
    Unlock,
}

impl State {
    /// Creates a VM and returns its number. None: the request is accepted, but no VM is created.
    pub(super) fn create_vm(
        &mut self,
        cx: &mut Context<'_>,
        datacenter: &str,
        size: u64,
        hostname: &str,
        mut request: VmRequest,
    ) -> Result<Option<u64>, ApiError> {
        if !is_hostname(hostname) {
            return Err(ApiError::new(400, "Please enter a valid hostname"));
        }
        let is_taken = |vm: &Vm| vm.kind == VmKind::Plain && vm.hostname.eq_ignore_ascii_case(hostname);
        if cx.config.shapes.same_hostname == SameHostname::Refused && self.vms.values().any(is_taken) {
            return Err(ApiError::new(400, "Hostname already exists"));
        }
        if let Some(script) = &request.script
            && self.account.script(script).is_none()
        {
            return Err(ApiError::new(400, "Script not found"));
        }
        if let Some(key) = &request.ssh_key
            && self.account.ssh_key(key).is_none()
        {
            return Err(ApiError::new(400, "SSH key not found"));
        }
        let count = self.vms.values().filter(|vm| vm.kind == VmKind::Plain).count();
        if self.vm_quota.is_some_and(|quota| count >= quota as usize) {
            return Err(ApiError::new(400, "Maximum number of VMs reached, quota exceeded"));
        }
        let shortage = || ApiError::new(400, cx.config.shortage_message.clone());
        match cx.config.faults_at(datacenter).creations {
            Creations::Refused => return Err(shortage()),
            Creations::Lost => return Ok(None),
            Creations::Accepted | Creations::Hidden | Creations::Pending => {}
        }
        if self.remaining_capacity(datacenter, size, false) == Some(0) {
            return match cx.config.shortage {
                Shortage::Refused => Err(shortage()),
                Shortage::Silent => Ok(None),
            };
        }
        if request.password.reveal().is_empty() {
            request.password = Hidden::from(format!("{:016x}", cx.rng.random::<u64>()));
            request.password_is_generated = true;
        }
        let vm = self.new_vm(cx, hostname.to_owned(), VmKind::Plain, datacenter, size);
        let id = vm.id;
        let gap = cx.config.times.gap;
        let pending_until = (gap != Span::ZERO).then(|| later(vm.listed_at, -gap.draw(cx.rng)));
        let plain = Some(PlainVm { request, pending_until, ..PlainVm::default() });
        self.vms.insert(id, Vm { plain, ..vm });
        self.revision += 1;
        Ok(Some(id))
    }

    /// Deletes a VM outside clusters.
    pub(super) fn delete_vm(
        &mut self,
        cx: &mut Context<'_>,
        uuid: &str,
        password: Option<&str>,
    ) -> Result<(), ApiError> {
        let deletion = cx.config.times.deletion.draw(cx.rng);
        let now = cx.now;
        let vm = self.plain_vm_mut(cx, uuid)?;
        let own = vm.plain.as_ref().map(|plain| plain.request.password.reveal());
        let is_refused = match (cx.config.shapes.delete_password, password) {
            (DeletePassword::Ignored, _) | (DeletePassword::Checked, None) => false,
            (DeletePassword::Required, None) => true,
            (DeletePassword::Checked | DeletePassword::Required, Some(given)) => own != Some(given),
        };
        if is_refused {
            return Err(ApiError::new(400, "Incorrect password"));
        }
        if vm.plain.as_ref().is_some_and(|plain| plain.locked) {
            return Err(ApiError::new(400, "The VM is locked"));
        }
        vm.finish(EndedBy::Deletion, now, SignedDuration::ZERO, deletion);
        self.revision += 1;
        Ok(())
    }

    /// Carries out an action.
    pub(super) fn act(&mut self, cx: &mut Context<'_>, uuid: &str, action: Action) -> Result<(), ApiError> {
        self.change_plain(cx, uuid, |plain| {
            match action {
                Action::Start => {
                    plain.restarts += u32::from(plain.stopped);
                    plain.stopped = false;
                }
                Action::Stop => plain.stopped = true,
                Action::Restart => {
                    plain.restarts += 1;
                    plain.stopped = false;
                }
                Action::Lock => plain.locked = true,
                Action::Unlock => plain.locked = false,
            }
            if matches!(plain.boot, Boot::Refused { .. } | Boot::Retrying { .. }) && !plain.stopped {
                plain.boot = Boot::Waiting;
            }
            Ok(())
        })
    }

    /// Changes a listed VM outside clusters.
    pub(super) fn change_plain(
        &mut self,
        cx: &Context<'_>,
        uuid: &str,
        change: impl FnOnce(&mut PlainVm) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        let vm = self.plain_vm_mut(cx, uuid)?;
        change(vm.plain.get_or_insert_default())?;
        self.revision += 1;
        Ok(())
    }

    /// Renames a VM. Its Node keeps its name.
    pub(super) fn rename_vm(&mut self, cx: &Context<'_>, uuid: &str, hostname: &str) -> Result<(), ApiError> {
        if !is_hostname(hostname) {
            return Err(ApiError::new(400, "Please enter a valid hostname"));
        }
        hostname.clone_into(&mut self.plain_vm_mut(cx, uuid)?.hostname);
        self.revision += 1;
        Ok(())
    }

    /// Gives a VM another size.
    pub(super) fn resize_vm(
        &mut self,
        cx: &Context<'_>,
        uuid: &str,
        cpu: u64,
        ram: u64,
    ) -> Result<(), ApiError> {
        let mut offers = cx.config.offers.iter();
        let offer = offers.find(|offer| u64::from(offer.cpu) == cpu && offer.ram == ram);
        let size = offer.ok_or_else(|| ApiError::new(400, "Please select a valid size"))?.id;
        self.plain_vm_mut(cx, uuid)?.size = size;
        self.revision += 1;
        Ok(())
    }

    fn plain_vm_mut(&mut self, cx: &Context<'_>, uuid: &str) -> Result<&mut Vm, ApiError> {
        let vm = self.vm_mut(uuid).filter(|vm| vm.kind == VmKind::Plain && vm.is_listed(cx.now));
        vm.ok_or_else(ApiError::not_found)
    }

    /// The content of the script of a VM, or its user data. None: it has neither, or the script is deleted.
    pub(super) fn payload(&self, vm: &Vm) -> Option<Hidden> {
        let request = &vm.plain.as_ref()?.request;
        let script = request.script.as_deref().and_then(|script| self.account.script(script));
        script.map(|(_, script)| script.content.clone()).or_else(|| request.user_data.clone())
    }
}

/// Returns true iff the text is a hostname by RFC 1123.
fn is_hostname(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}
