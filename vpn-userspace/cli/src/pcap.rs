//! pcap-ng files, as packet analysers read them.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};

/// A file, or the standard output, that takes packets. What was written is whole after each [`flush`](Self::flush).
pub(crate) struct PcapNg(PcapNgWriter<BufWriter<Box<dyn Write>>>);

impl PcapNg {
    /// Creates the file, or takes the standard output for `-`. `option`: how the user named it, for the error.
    pub(crate) fn create(path: &Path, option: &str) -> Result<Self> {
        let cannot = || format!("cannot write {}; choose another file for {option}", path.display());
        let file: Box<dyn Write> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(File::create(path).with_context(cannot)?)
        };
        Ok(Self(PcapNgWriter::new(BufWriter::new(file)).with_context(cannot)?))
    }

    /// Tells of an interface; they are numbered from 0.
    pub(crate) fn interface(&mut self, name: Option<&str>, linktype: DataLink) -> io::Result<()> {
        // Times count nanoseconds.
        let mut options = vec![InterfaceDescriptionOption::IfTsResol(9)];
        options.extend(name.map(|name| InterfaceDescriptionOption::IfName(Cow::Borrowed(name))));
        let block = InterfaceDescriptionBlock { linktype, snaplen: 0, options };
        self.0.write_pcapng_block(block).map_err(told)?;
        Ok(())
    }

    /// Writes a packet: of which interface, when since 1970, whether it came or was sent.
    pub(crate) fn packet(
        &mut self,
        interface: u32,
        time: Duration,
        sent: bool,
        data: &[u8],
    ) -> io::Result<()> {
        let block = EnhancedPacketBlock {
            interface_id: interface,
            timestamp: time,
            original_len: u32::try_from(data.len()).unwrap_or(u32::MAX),
            data: Cow::Borrowed(data),
            // epb_flags: 1 inbound, 2 outbound.
            options: vec![EnhancedPacketOption::Flags(if sent { 2 } else { 1 })],
        };
        self.0.write_pcapng_block(block).map_err(told)?;
        Ok(())
    }

    /// Brings everything to the file.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}

/// A reader that has seen enough stays known as one.
fn told(error: pcap_file::PcapError) -> io::Error {
    match error {
        pcap_file::PcapError::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}
