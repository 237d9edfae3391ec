//! IP packets of a private network, on and off.

use std::sync::Arc;

use anyhop::{HostJournal, Vpn, VpnMode, VpnOptions, VpnStatus};
use tokio::sync::{Mutex, MutexGuard};

use super::{Presence, enter::blocking, events::Teller};
use crate::{
    api::VpnReport,
    error::{CliError, Code},
};

/// The packet plane of one network, if it is up.
#[derive(Debug, Default)]
pub(super) struct VpnSwitch(Mutex<Option<Vpn>>);

impl VpnSwitch {
    /// Keeps it as it is meanwhile.
    pub(super) async fn lock(&self) -> MutexGuard<'_, Option<Vpn>> {
        self.0.lock().await
    }

    async fn status(&self) -> Option<VpnStatus> {
        self.0.lock().await.as_ref().map(Vpn::status)
    }
}

impl Presence {
    /// Carries IP packets; once more changes nothing.
    pub(super) async fn vpn_up(
        &self,
        options: VpnOptions,
        dns: bool,
    ) -> Result<VpnReport, CliError> {
        let network = self.private()?;
        let mut vpn = self.vpn.0.lock().await;
        let running = match vpn.take() {
            Some(running) => {
                let mode = running.mode();
                if mode != options.mode {
                    *vpn = Some(running);
                    let message = format!("the VPN that is up carries {}", carried(mode));
                    let hint = "`anyhop vpn down` ends it; then it comes up as you like";
                    return Err(CliError::new(Code::Refused, message).hint(hint));
                }
                running
            }
            None => {
                let started = Vpn::start_in(&network, options, self.local_rules()?.set)?;
                self.routes_up(&started).await;
                started
            }
        };
        let status = running.status();
        *vpn = Some(running);
        if dns {
            self.names_up(&status).await;
        }
        self.ports_up(&status.interface).await;
        Ok(self.vpn_report(status).await)
    }

    /// Carries none any more.
    pub(super) async fn vpn_down(&self) -> Result<VpnReport, CliError> {
        let status = self.vpn_status().await?;
        self.vpn_stop().await;
        Ok(status)
    }

    /// Ends it if it is up, and returns when the interface is gone and the host as it was.
    pub(super) async fn vpn_stop(&self) {
        let mut vpn = self.vpn.0.lock().await;
        self.names_down().await;
        self.ports_down().await;
        if let Some(vpn) = vpn.take() {
            vpn.stop().await;
        }
        let owner = self.id().to_string();
        self.on_host(move |journal| journal.undo_all(&owner)).await;
    }

    /// Whose changes of the host are written down as this network's for a purpose; they are
    /// undone when its VPN stops.
    pub(super) fn host_owner(&self, purpose: &str) -> String {
        format!("{}/{purpose}", self.id())
    }

    /// Changes the host, where that holds nobody up; tells what is not as it should be.
    async fn on_host(&self, work: impl FnOnce(&HostJournal) -> Vec<String> + Send + 'static) {
        let told = self.with_journal(work).await;
        for told in told.unwrap_or_default() {
            tracing::warn!("{told}");
        }
    }

    /// Changes the host, or undoes that, where it holds nobody up.
    pub(super) async fn with_journal<T: Send + 'static>(
        &self,
        work: impl FnOnce(&HostJournal) -> T + Send + 'static,
    ) -> Result<T, CliError> {
        let journal = Arc::clone(&self.journal);
        blocking(move || work(&journal)).await
    }

    /// What is carried for whom.
    pub(super) async fn vpn_status(&self) -> Result<VpnReport, CliError> {
        let status = self.vpn.status().await.ok_or_else(|| self.no_vpn())?;
        Ok(self.vpn_report(status).await)
    }

    pub(super) fn no_vpn(&self) -> CliError {
        let message = format!("no VPN is up in the network {}", self.name());
        CliError::new(Code::Refused, message).hint("`anyhop vpn up` starts one")
    }

    async fn vpn_report(&self, status: VpnStatus) -> VpnReport {
        VpnReport {
            network: self.name(),
            status,
            dns: self.names.report().await,
        }
    }
}

fn carried(mode: VpnMode) -> &'static str {
    match mode {
        VpnMode::L2 => "ethernet frames",
        VpnMode::L3 => "IP packets",
    }
}

/// Carries IP packets as soon as this node is a member.
pub(super) async fn raise(teller: Teller, presence: Arc<Presence>, dns: bool) {
    let Some(network) = presence.node.private_network() else {
        return;
    };
    if network.joined().await.is_err() {
        return;
    }
    if let Err(error) = presence.vpn_up(VpnOptions::default(), dns).await {
        teller.network_failed(&presence.name(), &error.context("its VPN is not up"));
    }
}
