//! Steps, taken: each by the part of the host that it is about.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use netd_common::tables::Hook;

use super::{Host, index, needed_index};
use crate::reconcile::{Join, LinkName, Sandbox, Step};

impl Host {
    /// Takes a step.
    pub(super) async fn take(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Rename(link, current) => self.links.rename(link, current).await,
            Step::Close(link) => self.links.take_down(link).await,
            Step::RemovePublication(key, _) => self.dataplane.tables_mut().remove_publication(*key),
            Step::RemoveAllowance(key) => self.dataplane.tables_mut().remove_allowance(*key),
            Step::PutAllowance(key) => self.dataplane.tables_mut().put_allowance(*key),
            Step::RemoveAddress(address) => self.dataplane.tables_mut().remove_address(*address),
            Step::RemoveEndpoint(key) => self.dataplane.tables_mut().remove_endpoint(*key),
            Step::RemoveDevice(link) => match index(link)? {
                Some(index) => self.dataplane.tables_mut().remove_device(index),
                None => Ok(()),
            },
            Step::RemoveOrphan(index) => self.dataplane.tables_mut().remove_orphan(*index),
            Step::Detach(link, hook) => self.detach(link, *hook).await,
            Step::DeleteVeth(link) | Step::DeleteJoin(link) | Step::DeleteBridge(link) | Step::DeleteTunnel(link) => {
                self.delete(link).await
            }
            Step::RemoveSegment(vni) => self.dataplane.tables_mut().overlay.remove_segment(*vni),
            Step::RemoveRemote(key) => self.dataplane.tables_mut().overlay.remove_remote(*key),
            Step::RemoveVtep(key) => self.dataplane.tables_mut().overlay.remove_vtep(*key),
            Step::RemoveMeshEnd(key) => self.dataplane.tables_mut().overlay.remove_mesh_end(*key),
            Step::PutMeshEnd(key, end) => self.dataplane.tables_mut().overlay.put_mesh_end(*key, *end),
            Step::RemovePeer(key) => self.dataplane.tables_mut().overlay.remove_peer(*key),
            Step::PutAssociation(_, association) if !association.keying.is_known() => bail!("its key is not known"),
            Step::PutAssociation(id, association) => Ok(self.xfrm()?.put_association(*id, association)?),
            Step::RemoveAssociation(id) => Ok(self.xfrm()?.remove_association(*id)?),
            Step::PutPolicy(id, protection) => Ok(self.xfrm()?.put_policy(*id, *protection)?),
            Step::RemovePolicy(id) => Ok(self.xfrm()?.remove_policy(*id)?),
            Step::PutTunnel(link, tunnel) => self.links.put_tunnel(link, tunnel).await,
            Step::PutSegment(vni, record) => {
                let (tunnel, bridge) = (needed_index(&record.tunnel)?, needed_index(&record.bridge)?);
                self.dataplane.tables_mut().overlay.put_segment(*vni, tunnel, bridge, record)
            }
            Step::PutRemote(key, remote) => self.dataplane.tables_mut().overlay.put_remote(*key, *remote),
            Step::PutVtep(key) => self.dataplane.tables_mut().overlay.put_vtep(*key),
            Step::PutPeer(key, address) => self.dataplane.tables_mut().overlay.put_peer(*key, *address),
            Step::RestoreForwarding(link, family) => self.forwarding.give_back(link, *family).map(|_| ()),
            Step::Withhold(ports) => self.withheld.put(ports),
            Step::Guard(calls) => self.dataplane.calls_mut().make(calls),
            Step::PutReserved(reserved) => self.dataplane.tables_mut().put_reserved(reserved),
            Step::Accept(accept) => self.firewall.accept(*accept),
            Step::RemoveAccept(accept) => self.firewall.remove_accept(*accept),
            Step::PutSettings(settings) => self.dataplane.tables_mut().put_settings(*settings),
            Step::CreateBridge(link, bridge) => self.links.create_bridge(link, bridge).await,
            Step::UpdateBridge(link, bridge) => self.links.update_bridge(link, bridge).await,
            Step::Forward(link, family) => {
                let announced = self.links.with_announced_routes().await?;
                self.forwarding.switch_on(link, *family, &announced)
            }
            Step::CreateJoin(link, join) => self.links.create_join(link, join).await,
            Step::ConnectJoin(link, join) => self.links.connect_join(link, join).await,
            Step::CreateVeth(link, veth) => {
                self.links.create_veth(link, veth).await?;
                self.sandboxes.insert(link.clone(), veth.sandbox.clone());
                Ok(())
            }
            Step::OpenResolver(namespace) => self.open_resolver(*namespace),
            Step::CloseResolver(namespace) => self.close_resolver(*namespace).await,
            Step::Attach(link, hook) => self.attach(link, *hook).await,
            Step::PutDevice(link, record) => {
                let bridge = record.bridge.as_ref().map_or(Ok(0), needed_index)?;
                self.dataplane.tables_mut().put_device(needed_index(link)?, bridge, record)
            }
            Step::ConnectVeth(link, veth) => {
                self.links.connect_veth(link, veth).await?;
                self.sandboxes.insert(link.clone(), veth.sandbox.clone());
                Ok(())
            }
            Step::PutEndpoint(key, record) => {
                self.dataplane.tables_mut().put_endpoint(*key, needed_index(&record.device)?, record)
            }
            Step::PutAddress(address) => self.dataplane.tables_mut().put_address(*address),
            Step::PutSource(range) => self.dataplane.tables_mut().put_source(*range),
            Step::RemoveSource(range) => self.dataplane.tables_mut().remove_source(*range),
            Step::PutPublication(key, publication) => self.dataplane.tables_mut().put_publication(*key, *publication),
        }
    }

    async fn attach(&mut self, link: &LinkName, hook: Hook) -> Result<()> {
        let index = needed_index(link)?;
        // The blocks of both directions come together, and a join has a program in one alone. A device that shares them goes on: it would
        // have what another puts into them besides its own. One that has got them for its other program is not asked again.
        if let Some((filter, program)) = self.dataplane.shared(hook)?
            && !link.as_str().starts_with(Join::NEAR)
            && (self.dataplane.is_shared(index)
                || (self.dataplane.shares(index, hook) || self.links.shares_blocks(index).await?)
                    && self.links.share_blocks(index).await?)
        {
            self.links.put_into_block(&filter, program).await?;
            return self.dataplane.note_shared(index, hook);
        }
        self.dataplane.attach(link, index, hook)
    }

    async fn detach(&mut self, link: &LinkName, hook: Hook) -> Result<()> {
        let Some(index) = index(link)? else { return Ok(()) };
        if self.dataplane.detach(link, index, hook)? {
            self.remove_qdisc(index).await?;
        }
        Ok(())
    }

    /// The sockets first: a question that the program leads to none is dropped.
    fn open_resolver(&mut self, namespace: u64) -> Result<()> {
        let sandbox = self.sandbox_of(namespace).with_context(|| format!("no veth leads to namespace {namespace}"))?;
        let sandbox = sandbox.clone();
        self.resolver.open(&sandbox)?;
        self.dataplane.attach_inside(&sandbox)
    }

    async fn close_resolver(&mut self, namespace: u64) -> Result<()> {
        let sandbox = self.sandbox_of(namespace).cloned();
        let sandbox = sandbox.unwrap_or(Sandbox { path: PathBuf::new(), inode: namespace });
        let detached = self.dataplane.detach_inside(&sandbox).await;
        self.resolver.close(namespace);
        detached
    }

    /// The programs went with the link; their pins go after it.
    async fn delete(&mut self, link: &LinkName) -> Result<()> {
        let index = index(link)?;
        self.links.delete(link).await?;
        if let Some(index) = index {
            for hook in Hook::OF_DEVICES {
                let detached = self.dataplane.detach(link, index, hook);
                detached.with_context(|| format!("cannot detach {} from {link}", hook.name()))?;
            }
            self.dataplane.forget_qdisc(index)?;
        }
        self.sandboxes.remove(link);
        self.forwarding.forget(link)
    }
}
