//! Changes to the objects of the account other than VMs. Pure: time and randomness are arguments.

use super::account::{FirewallGroup, Image, Project, Script, SshKey, Tag, Vpc};
use super::operations::ApiError;
use super::plain::{Hidden, PrivateIp};
use super::shapes::ScriptName;
use super::span::later;
use super::state::{Context, State, uuid};
use super::vm::{Vm, VmKind};

/// The kind of VMs in requests for tags.
const VM_ENTITY: &str = "boxes";

impl State {
    pub(super) fn add_script(&mut self, cx: &mut Context<'_>, name: &str, content: String, kind: String) {
        let name = match cx.config.shapes.script_name {
            ScriptName::Suffixed => format!("{name}.sh"),
            ScriptName::Plain => name.to_owned(),
        };
        let script =
            Script { identifier: uuid(cx.rng), name, content: content.into(), kind, created_at: cx.now };
        let id = self.allocate_id();
        self.account.scripts.insert(id, script);
        self.revision += 1;
    }

    pub(super) fn edit_script(
        &mut self,
        identifier: &str,
        name: Option<String>,
        content: Option<String>,
    ) -> Result<(), ApiError> {
        let mut scripts = self.account.scripts.values_mut();
        let script = scripts.find(|s| s.identifier == identifier).ok_or_else(ApiError::not_found)?;
        if let Some(name) = name {
            script.name = name;
        }
        if let Some(content) = content {
            script.content = Hidden::from(content);
        }
        self.revision += 1;
        Ok(())
    }

    pub(super) fn delete_script(&mut self, identifier: &str) -> Result<(), ApiError> {
        let (id, _) = self.account.script(identifier).ok_or_else(ApiError::not_found)?;
        self.account.scripts.remove(&id);
        self.revision += 1;
        Ok(())
    }

    pub(super) fn add_ssh_key(&mut self, cx: &mut Context<'_>, name: String, key: String) {
        let key = SshKey { identifier: uuid(cx.rng), name, key, created_at: cx.now };
        let id = self.allocate_id();
        self.account.ssh_keys.insert(id, key);
        self.revision += 1;
    }

    pub(super) fn delete_ssh_key(&mut self, identifier: &str) -> Result<(), ApiError> {
        let (id, _) = self.account.ssh_key(identifier).ok_or_else(ApiError::not_found)?;
        self.account.ssh_keys.remove(&id);
        self.revision += 1;
        Ok(())
    }

    pub(super) fn add_project(&mut self, cx: &mut Context<'_>, name: String, description: String) {
        let project = Project { identifier: uuid(cx.rng), name, description, created_at: cx.now };
        let id = self.allocate_id();
        self.account.projects.insert(id, project);
        self.revision += 1;
    }

    /// Deletes a project without VMs.
    pub(super) fn delete_project(&mut self, reference: &str) -> Result<(), ApiError> {
        let (id, _) = self.account.project(reference).ok_or_else(ApiError::not_found)?;
        let is_in_it = |vm: &Vm| vm.plain.as_ref().is_some_and(|plain| plain.request.project == id);
        if id == super::account::DEFAULT_PROJECT || self.vms.values().any(is_in_it) {
            return Err(ApiError::new(400, "The project is the default one, or has VMs"));
        }
        self.account.projects.remove(&id);
        self.revision += 1;
        Ok(())
    }

    pub(super) fn add_image(
        &mut self,
        cx: &mut Context<'_>,
        datacenter: String,
        name: String,
        url: String,
    ) -> Result<(), ApiError> {
        cx.config.datacenter(&datacenter).ok_or_else(ApiError::not_found)?;
        let image = Image { identifier: uuid(cx.rng), name, url, datacenter, created_at: cx.now };
        let id = self.allocate_id();
        self.account.images.insert(id, image);
        self.revision += 1;
        Ok(())
    }

    pub(super) fn delete_image(&mut self, identifier: &str) -> Result<(), ApiError> {
        let (id, _) = self.account.image(identifier).ok_or_else(ApiError::not_found)?;
        self.account.images.remove(&id);
        self.revision += 1;
        Ok(())
    }

    pub(super) fn add_vpc(&mut self, cx: &mut Context<'_>, mut vpc: Vpc) -> Result<(), ApiError> {
        cx.config.datacenter(&vpc.datacenter).ok_or_else(ApiError::not_found)?;
        let id = self.allocate_id();
        if vpc.network_range.is_empty() {
            vpc.network_range = format!("10.{}.0.0", 128 + id % 128);
        }
        self.account.vpcs.insert(id, vpc);
        self.revision += 1;
        Ok(())
    }

    /// Deletes a VPC without VMs.
    pub(super) fn delete_vpc(&mut self, id: u64) -> Result<(), ApiError> {
        if self.vpc_addresses(id).next().is_some() {
            return Err(ApiError::new(400, "The VPC has VMs"));
        }
        self.account.vpcs.remove(&id).ok_or_else(ApiError::not_found)?;
        self.revision += 1;
        Ok(())
    }

    /// The VMs of a VPC, with their addresses in it.
    pub(super) fn vpc_addresses(&self, vpc: u64) -> impl Iterator<Item = (&Vm, &PrivateIp)> {
        self.vms.values().flat_map(move |vm| {
            let addresses = vm.plain.iter().flat_map(|plain| &plain.private_ips);
            addresses.filter(move |address| address.vpc == vpc).map(move |address| (vm, address))
        })
    }

    /// Attaches a VM to a VPC of its datacenter. Its address is shown a little later.
    pub(super) fn assign_vpc(&mut self, cx: &mut Context<'_>, vm: &str, vpc: u64) -> Result<(), ApiError> {
        let shown_at = later(cx.now, cx.config.times.attachment.draw(cx.rng));
        let datacenter = self.listed_plain(cx, vm)?.datacenter.clone();
        let id = self.allocate_id();
        let network = self.account.vpcs.get_mut(&vpc).ok_or_else(ApiError::not_found)?;
        if network.datacenter != datacenter {
            return Err(ApiError::new(400, "The VPC is in another datacenter"));
        }
        network.addresses += 1;
        let prefix = network.network_range.rsplit_once('.').map_or("10.0.0", |(prefix, _)| prefix);
        let address = format!("{prefix}.{}", network.addresses + 1);
        self.change_plain(cx, vm, |plain| {
            if plain.private_ips.iter().any(|address| address.vpc == vpc) {
                return Err(ApiError::new(400, "The VM is in the VPC already"));
            }
            plain.private_ips.push(PrivateIp { id, vpc, address, shown_at });
            Ok(())
        })
    }

    /// Takes an address in a VPC from a VM.
    pub(super) fn release_address(
        &mut self,
        cx: &Context<'_>,
        vm: &str,
        address: u64,
    ) -> Result<(), ApiError> {
        self.change_plain(cx, vm, |plain| {
            let before = plain.private_ips.len();
            plain.private_ips.retain(|private| private.id != address);
            if plain.private_ips.len() == before { Err(ApiError::not_found()) } else { Ok(()) }
        })
    }

    /// Moves a VM from its VPCs to another one.
    pub(super) fn move_vpc(&mut self, cx: &mut Context<'_>, vm: &str, vpc: u64) -> Result<(), ApiError> {
        let before = self.listed_plain(cx, vm)?.plain.as_ref().map(|plain| plain.private_ips.clone());
        self.assign_vpc(cx, vm, vpc)?;
        for address in before.into_iter().flatten() {
            self.release_address(cx, vm, address.id)?;
        }
        Ok(())
    }

    pub(super) fn add_firewall_group(&mut self, cx: &mut Context<'_>, name: String) {
        let group = FirewallGroup { identifier: uuid(cx.rng), name, created_at: cx.now };
        let id = self.allocate_id();
        self.account.firewall_groups.insert(id, group);
        self.revision += 1;
    }

    pub(super) fn delete_firewall_group(&mut self, identifier: &str) -> Result<(), ApiError> {
        let (id, _) = self.account.firewall_group(identifier).ok_or_else(ApiError::not_found)?;
        self.account.firewall_groups.remove(&id);
        for plain in self.vms.values_mut().filter_map(|vm| vm.plain.as_mut()) {
            plain.firewall_groups.retain(|group| group != identifier);
        }
        self.revision += 1;
        Ok(())
    }

    /// Attaches a firewall group. A VM can do one attachment at a time.
    pub(super) fn attach_firewall_group(
        &mut self,
        cx: &mut Context<'_>,
        vm: &str,
        group: &str,
    ) -> Result<(), ApiError> {
        self.account.firewall_group(group).ok_or_else(ApiError::not_found)?;
        let done_at = later(cx.now, cx.config.times.attachment.draw(cx.rng));
        let now = cx.now;
        self.change_plain(cx, vm, |plain| {
            if plain.firewall_busy_until.is_some_and(|until| until > now) {
                return Err(ApiError::new(400, "ipSetNotCreated"));
            }
            if !plain.firewall_groups.iter().any(|own| own == group) {
                plain.firewall_groups.push(group.to_owned());
            }
            plain.firewall_busy_until = Some(done_at);
            Ok(())
        })
    }

    pub(super) fn detach_firewall_group(
        &mut self,
        cx: &Context<'_>,
        vm: &str,
        group: &str,
    ) -> Result<(), ApiError> {
        self.change_plain(cx, vm, |plain| {
            plain.firewall_groups.retain(|own| own != group);
            Ok(())
        })
    }

    /// The tags of an object.
    pub(super) fn tags(&self, entity: &str, identifier: &str) -> Vec<String> {
        if entity == VM_ENTITY {
            let plain = self.vm(identifier).and_then(|vm| vm.plain.as_ref());
            return plain.map(|plain| plain.request.tags.clone()).unwrap_or_default();
        }
        let tags = self.account.tags.iter();
        tags.filter(|tag| tag.entity == entity && tag.identifier == identifier)
            .map(|tag| tag.text.clone())
            .collect()
    }

    /// Replaces the tags of an object.
    pub(super) fn set_tags(
        &mut self,
        cx: &Context<'_>,
        entity: &str,
        identifier: &str,
        tags: Vec<String>,
    ) -> Result<(), ApiError> {
        if entity == VM_ENTITY {
            return self.change_plain(cx, identifier, |plain| {
                plain.request.tags = tags;
                Ok(())
            });
        }
        self.account.tags.retain(|tag| tag.entity != entity || tag.identifier != identifier);
        self.account.tags.extend(tags.into_iter().map(|text| Tag {
            entity: entity.to_owned(),
            identifier: identifier.to_owned(),
            text,
        }));
        self.revision += 1;
        Ok(())
    }

    fn listed_plain(&self, cx: &Context<'_>, uuid: &str) -> Result<&Vm, ApiError> {
        let vm = self.vm(uuid).filter(|vm| vm.kind == VmKind::Plain && vm.is_listed(cx.now));
        vm.ok_or_else(ApiError::not_found)
    }
}
