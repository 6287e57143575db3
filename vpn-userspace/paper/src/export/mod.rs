//! A connection as the device at the far end wants to be told: its own configuration, complete, with comments.
//!
//! Each target is a file. What a target cannot say stands in a comment where it would have stood, and in
//! [`Exported::notes`].

mod alibaba;
mod aws;
mod cisco;
mod culvert;
mod fortios;
mod h3c;
mod huawei;
mod juniper;
mod libreswan;
mod page;
mod routeros;
mod strongswan;
#[cfg(test)]
mod tests;
mod words;

use std::fmt;
use std::str::FromStr;

use crate::Side;

/// What stands at the far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Cisco IOS and IOS XE.
    CiscoIos,
    /// H3C Comware 7.
    H3c,
    /// Huawei VRP: AR routers, USG firewalls.
    Huawei,
    /// Juniper SRX.
    Juniper,
    /// Fortinet FortiGate.
    FortiOs,
    /// MikroTik RouterOS 7.
    RouterOs,
    /// strongSwan, by swanctl.conf.
    StrongSwan,
    /// Libreswan, by ipsec.conf and ipsec.secrets.
    Libreswan,
    /// AWS Site-to-Site VPN: the argument of `aws ec2 create-vpn-connection --cli-input-json`.
    AwsJson,
    /// Alibaba Cloud VPN Gateway: the parameters of CreateVpnConnection.
    AlibabaJson,
    /// Culvert.
    Culvert,
}

impl Target {
    /// Every one, in the order of the help.
    pub const ALL: [Self; 11] = [
        Self::CiscoIos,
        Self::H3c,
        Self::Huawei,
        Self::Juniper,
        Self::FortiOs,
        Self::RouterOs,
        Self::StrongSwan,
        Self::Libreswan,
        Self::AwsJson,
        Self::AlibabaJson,
        Self::Culvert,
    ];

    /// The word of the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CiscoIos => "cisco-ios",
            Self::H3c => "h3c",
            Self::Huawei => "huawei",
            Self::Juniper => "juniper",
            Self::FortiOs => "fortios",
            Self::RouterOs => "routeros",
            Self::StrongSwan => "strongswan",
            Self::Libreswan => "libreswan",
            Self::AwsJson => "aws-json",
            Self::AlibabaJson => "alibaba-json",
            Self::Culvert => "culvert",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|target| target.as_str() == text).ok_or_else(|| {
            let all: Vec<&str> = Self::ALL.iter().map(|target| target.as_str()).collect();
            format!("there are: {}", all.join(", "))
        })
    }
}

/// How it is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// With the pre-shared keys; placeholders stand for them otherwise.
    pub secrets: bool,
}

/// A configuration for the far end.
#[derive(Clone, PartialEq, Eq)]
pub struct Exported {
    /// The text; with keys in it if asked for.
    pub text: String,
    /// What it cannot say, or what must be done by hand.
    pub notes: Vec<String>,
}

impl fmt::Debug for Exported {
    // There may be keys in the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exported").field("notes", &self.notes).finish_non_exhaustive()
    }
}

/// The configuration of the far end of `own`, Culvert's end.
pub fn export(own: &Side, target: Target, options: Options) -> Exported {
    let far = own.mirror();
    match target {
        Target::CiscoIos => cisco::write(&far, options),
        Target::H3c => h3c::write(&far, options),
        Target::Huawei => huawei::write(&far, options),
        Target::Juniper => juniper::write(&far, options),
        Target::FortiOs => fortios::write(&far, options),
        Target::RouterOs => routeros::write(&far, options),
        Target::StrongSwan => strongswan::write(&far, options),
        Target::Libreswan => libreswan::write(&far, options),
        Target::AwsJson => aws::write(&far, options),
        Target::AlibabaJson => alibaba::write(&far, options),
        Target::Culvert => culvert::write(&far, options),
    }
}
