//! An IKE SA of either version: what the endpoint keeps in its one table.

use std::time::Instant;

use culvert_crypto::sign::PublicKey;
use culvert_types::TunnelId;

use crate::ctx::Ctx;
use crate::job::Done;
use crate::{CertificateRefused, EndpointConfig, v1, v2};

/// An IKE SA of either version, in any state.
pub(crate) enum AnySa {
    V1(v1::Sa),
    V2(v2::Sa),
}

impl AnySa {
    /// The tunnel, once it is known.
    pub(super) fn tunnel(&self) -> Option<TunnelId> {
        match self {
            Self::V1(sa) => sa.tunnel(),
            Self::V2(sa) => sa.tunnel(),
        }
    }

    /// Whether both sides have authenticated.
    pub(super) fn is_up(&self) -> bool {
        matches!(self, Self::V1(v1::Sa::Up(_)) | Self::V2(v2::Sa::Up(_)))
    }

    /// Takes in what a job brought that was asked for on its behalf.
    pub(super) fn on_job(self, ctx: &mut Ctx<'_>, number: u64, done: &mut Option<Done>) -> Option<Self> {
        match self {
            Self::V2(sa) => sa.on_job(ctx, number, done).map(Self::V2),
            Self::V1(sa) => sa.on_job(ctx, number, done).map(Self::V1),
        }
    }

    /// Takes in the owner's verdict on a certificate.
    pub(super) fn on_checked(
        self,
        ctx: &mut Ctx<'_>,
        number: u64,
        verdict: Result<PublicKey, CertificateRefused>,
    ) -> Option<Self> {
        match self {
            Self::V1(sa) => sa.on_checked(ctx, number, &verdict).map(Self::V1),
            Self::V2(sa) => sa.on_checked(ctx, number, verdict).map(Self::V2),
        }
    }

    /// Does what is due.
    pub(super) fn on_timeout(self, ctx: &mut Ctx<'_>) -> Option<Self> {
        match self {
            Self::V1(sa) => sa.on_timeout(ctx).map(Self::V1),
            Self::V2(sa) => sa.on_timeout(ctx).map(Self::V2),
        }
    }

    /// When something is due.
    pub(super) fn deadline(&self, config: &EndpointConfig) -> Option<(Instant, &'static str)> {
        match self {
            Self::V1(sa) => sa.deadline(config),
            Self::V2(sa) => sa.deadline(config),
        }
    }
}
