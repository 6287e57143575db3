//! Where the programs of LAN and WAN devices stand: under TC always, and under XDP before that where it can be and is worth
//! it. A device has one program under XDP: where the guard has it, ours stands behind it.
use super::device::{forwards_frames, hides_tags, name_of};
use super::{EspBpf, EspError, LAN, LAN_EARLY, WAN_EARLY, program};
use crate::guard::{AttachedMode, Guard, Link, TcHook, TcPlace, XdpHook, hook_tc, hook_xdp};
use crate::netlink::{XdpFeatures, XdpProber};
use crate::xsk::{device_index, device_mac};
use aya::programs::{TcAttachType, Xdp};
use culvert_ebpf_shared::esp::layout::Device;
use std::collections::HashMap;

/// Which hook the programs of LAN and WAN devices shall have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HookChoice {
    /// XDP where the driver has it and it takes nothing from anybody, else TC.
    #[default]
    Auto,
    /// XDP where the driver has it, else TC.
    Xdp,
    /// TC.
    Tc,
}

/// How the programs stand at a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceHook {
    /// The device.
    pub interface: String,
    /// Under XDP, and not under TC alone.
    pub xdp: bool,
    /// Why so.
    pub reason: Option<String>,
}

/// A device of the LAN or the WAN.
#[derive(Debug)]
pub(super) struct Hooked {
    name: String,
    /// 0 while there is no such device.
    index: u32,
    program: &'static str,
    /// Opened packets may go out there.
    lan: bool,
    /// Held for what dropping it does.
    tc: Option<(TcHook, AttachedMode)>,
    early: Early,
    /// Why it does not take a program under XDP with the guard as it was then: that is tried once.
    refused: Option<(Option<AttachedMode>, String)>,
    /// Its driver sends what XDP redirects to it.
    sends: bool,
    /// Why not under XDP, or where there.
    reason: Option<String>,
    /// As the programs know it.
    known: Option<Device>,
}

/// How it stands under XDP.
#[derive(Debug)]
enum Early {
    No,
    /// Alone.
    Own(#[expect(dead_code, reason = "held for what dropping it does")] XdpHook),
    /// Behind the guard's program.
    Behind,
}

/// Tunnels' interfaces by their indices: the back's, and whether that sends frames.
pub(super) type Backs = HashMap<u32, (u32, bool)>;

impl EspBpf {
    /// Attaches a program to a device under TC, unless it is there.
    pub(super) fn hook(&mut self, program: &'static str, name: &str) -> Result<(), EspError> {
        let index = Link::find(name)?.index;
        let lan = program == LAN;
        let at = match self.devices.iter().position(|d| d.name == name) {
            Some(at) => at,
            None => {
                self.devices.push(Hooked {
                    name: name.to_owned(),
                    index: 0,
                    program,
                    lan,
                    tc: None,
                    early: Early::No,
                    refused: None,
                    sends: false,
                    reason: None,
                    known: None,
                });
                self.devices.len() - 1
            }
        };
        let Some(device) = self.devices.get_mut(at) else { return Ok(()) };
        device.lan |= lan;
        let outcome = self.find(at, Some(index));
        if outcome.is_err() {
            self.devices.remove(at);
            return outcome;
        }
        self.tell(at)
    }

    /// Looks for devices that went or came back, and has the programs stand under XDP where the choice and the guard let them.
    /// To be called now and then, in the network namespace of the devices.
    ///
    /// # Errors
    /// A map's, or a device's that came back; all else is a reason of [`hooks`](Self::hooks).
    pub fn settle(&mut self, choice: HookChoice, mut guard: Option<&mut Guard>) -> Result<(), EspError> {
        let mut outcome = Ok(());
        let prober = if choice == HookChoice::Tc { None } else { XdpProber::new().ok() };
        for at in 0..self.devices.len() {
            let index = self.devices.get(at).and_then(|d| device_index(&d.name));
            let found = self.find(at, index);
            let settled =
                found.and_then(|()| self.settle_one(at, choice, prober.as_ref(), guard.as_deref_mut()));
            outcome = outcome.and(settled);
        }
        if let Some(prober) = &prober
            && self.devices.iter().any(Hooked::is_early)
        {
            self.open_backs(prober);
        }
        outcome
    }

    /// Lets go of the place under XDP of a device, which somebody else is to have now.
    pub fn give_way(&mut self, name: &str) {
        if let Some(device) = self.devices.iter_mut().find(|d| d.name == name) {
            device.early = Early::No;
        }
    }

    /// How the programs stand at each device.
    pub fn hooks(&self) -> Vec<DeviceHook> {
        let hook = |d: &Hooked| DeviceHook {
            interface: d.name.clone(),
            xdp: d.is_early(),
            reason: d.reason.clone(),
        };
        self.devices.iter().filter(|d| d.index != 0).map(hook).collect()
    }

    /// Follows the device to its index, and attaches anew under TC if that is another than it was.
    fn find(&mut self, at: usize, index: Option<u32>) -> Result<(), EspError> {
        let Some(device) = self.devices.get_mut(at) else { return Ok(()) };
        let index = index.unwrap_or(0);
        if device.index == index && (index == 0 || device.tc.is_some()) {
            return Ok(());
        }
        let gone = std::mem::replace(&mut device.index, index);
        (device.tc, device.early, device.sends) = (None, Early::No, false);
        (device.known, device.reason, device.refused) = (None, None, None);
        if gone != 0 {
            self.maps.remove_device(gone)?;
        }
        if index == 0 {
            return Ok(());
        }
        let loaded = program(&mut self.ebpf, device.program)?;
        if loaded.fd().is_err() {
            loaded.load().map_err(EspError::load)?;
        }
        device.tc = Some(hook_tc(loaded, &device.name, TcAttachType::Ingress, TcPlace::Last)?);
        Ok(())
    }

    fn settle_one(
        &mut self,
        at: usize,
        choice: HookChoice,
        prober: Option<&XdpProber>,
        guard: Option<&mut Guard>,
    ) -> Result<(), EspError> {
        let Some(device) = self.devices.get(at).filter(|d| d.index != 0) else { return Ok(()) };
        let features = prober.and_then(|p| p.features(device.index).ok());
        let stands = match may_have_xdp(device, choice, features) {
            Ok(()) => self.stand_early(at, guard),
            Err(reason) => Err(reason),
        };
        let Some(device) = self.devices.get_mut(at) else { return Ok(()) };
        match stands {
            Ok(place) => {
                let deaf = features.is_some_and(|f| !f.sends);
                let deaf = deaf.then(|| {
                    "its driver sends nothing for XDP now: what leaves here does so by TC".to_owned()
                });
                let all: Vec<String> = place.into_iter().chain(deaf).collect();
                device.reason = (!all.is_empty()).then(|| all.join("; "));
            }
            Err(reason) => {
                if device.reason.as_ref() != Some(&reason) {
                    tracing::info!("engine bpf is at {} under TC: {reason}", device.name);
                }
                (device.early, device.reason) = (Early::No, Some(reason));
            }
        }
        device.sends = features.is_some_and(|f| f.sends);
        self.tell(at)
    }

    /// Puts the program under XDP, or behind the guard's there. Why not, in the error; where, in the answer.
    fn stand_early(&mut self, at: usize, guard: Option<&mut Guard>) -> Result<Option<String>, String> {
        let Some(device) = self.devices.get_mut(at) else { return Ok(None) };
        let stands = guard.as_ref().and_then(|guard| guard.stands_at(&device.name));
        if let Some((then, reason)) = &device.refused
            && *then == stands
        {
            return Err(reason.clone());
        }
        let stand = || -> Result<Option<&'static str>, EspError> {
            let name = if device.program == LAN { LAN_EARLY } else { WAN_EARLY };
            let found = self.ebpf.program_mut(name).and_then(|p| <&mut Xdp>::try_from(p).ok());
            let loaded = found.ok_or(EspError::Missing(name))?;
            if loaded.fd().is_err() {
                loaded.load().map_err(EspError::load)?;
            }
            match guard {
                Some(guard) if stands.is_some() => {
                    if !matches!(device.early, Early::Behind) {
                        guard.precede(device.program == LAN, loaded.fd().map_err(EspError::load)?)?;
                        device.early = Early::Behind;
                    }
                    Ok(Some("behind the guard's program"))
                }
                _ => {
                    if !matches!(device.early, Early::Own(_)) {
                        device.early = Early::Own(hook_xdp(loaded, &device.name, device.index)?);
                    }
                    Ok(None)
                }
            }
        };
        let outcome = match stands {
            None | Some(AttachedMode::XdpNative) => stand().map_err(|error| error.to_string()),
            Some(mode) => Err(format!(
                "the guard stands there by {}, and would not see what native XDP takes before it",
                mode.name()
            )),
        };
        device.refused = outcome.as_ref().err().map(|reason| (stands, reason.clone()));
        outcome.map(|place| place.map(str::to_owned))
    }

    /// Has the interfaces of tunnels take what XDP sends by their backs.
    fn open_backs(&mut self, prober: &XdpProber) {
        for (front, (back, opened)) in self.backs.iter_mut().filter(|(_, (_, opened))| !opened) {
            // Where it fails, packets take the way that they have under TC.
            let heard = name_of(*front).is_some_and(|name| forwards_frames(&name).is_ok());
            let sends = heard && prober.features(*back).is_ok_and(|f| f.sends);
            if sends && self.maps.set_device(*back, Device { mac: [0; 6], flags: Device::FRAMES }).is_ok() {
                *opened = true;
            }
        }
    }

    /// Tells the programs what may be done at a device.
    fn tell(&mut self, at: usize) -> Result<(), EspError> {
        let Some(device) = self.devices.get_mut(at) else { return Ok(()) };
        let Some(mac) = device_mac(&device.name) else { return Ok(()) };
        let flag = |set: bool, flag: u16| if set { flag } else { 0 };
        let flags = flag(device.lan, Device::LAN)
            | flag(device.is_early(), Device::EARLY)
            | flag(device.sends, Device::FRAMES);
        let entry = Device { mac, flags };
        if device.known != Some(entry) {
            self.maps.set_device(device.index, entry)?;
            device.known = Some(entry);
        }
        Ok(())
    }
}

impl Hooked {
    fn is_early(&self) -> bool {
        !matches!(self.early, Early::No)
    }
}

/// Whether the device is one for XDP, or why not.
fn may_have_xdp(device: &Hooked, choice: HookChoice, features: Option<XdpFeatures>) -> Result<(), String> {
    if choice == HookChoice::Tc {
        return Err("bpf_hook = \"tc\"".to_owned());
    }
    let link = Link::find(&device.name).map_err(|error| error.to_string())?;
    let driver = link.driver.as_deref().unwrap_or("virtual");
    if !link.ethernet {
        return Err("the link has no Ethernet headers, which XDP needs".to_owned());
    }
    if choice == HookChoice::Auto && link.is_virtual() {
        return Err(format!("XDP on a {driver} link would take segmentation offload from its senders"));
    }
    if hides_tags(&device.name) {
        let off = format!("ethtool -K {} rxvlan off", device.name);
        return Err(format!(
            "VLAN devices stand on it, and its driver takes the tags off before XDP sees them (`{off}`)"
        ));
    }
    match features {
        None => Err("this kernel does not tell what drivers do for XDP (6.3 does)".to_owned()),
        Some(features) if !features.redirects => {
            Err(format!("driver {driver} does not take native XDP that redirects"))
        }
        Some(_) => Ok(()),
    }
}
