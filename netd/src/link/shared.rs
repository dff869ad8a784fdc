//! Programs that many devices share: their clsact qdiscs have two blocks of filters in common, one a direction
//! (`tc qdisc add … ingress_block N egress_block M clsact`, since kernel 4.16).
//!
//! A device that comes is one message and has the programs from that moment on, and a new program takes the place of the old
//! one on all of them at once. A TCX attachment waits for a grace period of RCU (16 ms) with every other change of links held
//! up, when it comes and again when its device goes; this does not. Nor can a filter of a block be taken from one device alone.

use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context, Result, bail};
use nix::libc;
use rtnetlink::{
    packet_core::{
        DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla,
    },
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
    },
};

use super::{
    Filter, Links,
    kernel::{answered, refusal},
};

/// `TCA_INGRESS_BLOCK` and `TCA_EGRESS_BLOCK` of `linux/rtnetlink.h`.
const ATTRIBUTES: [u16; 2] = [13, 14];

/// The handle that every clsact qdisc has.
const CLSACT: TcHandle = TcHandle { major: 0xffff, minor: 0 };

/// `ETH_P_ALL` of `linux/if_ether.h`.
const EVERY_PROTOCOL: u16 = 3;

/// The number of our block of a direction.
const fn ours(egress: bool) -> u32 {
    if egress { 0x6e64_0002 } else { 0x6e64_0001 }
}

/// The block that a clsact qdisc shares in a direction.
pub fn block_of(qdisc: &TcMessage, egress: bool) -> Option<u32> {
    let number = |attribute: &TcAttribute| match attribute {
        TcAttribute::Other(other) if other.kind() == ATTRIBUTES[usize::from(egress)] && other.value_len() == 4 => {
            let mut bytes = [0; 4];
            other.emit_value(&mut bytes);
            Some(u32::from_ne_bytes(bytes))
        }
        _ => None,
    };
    qdisc.attributes.iter().find_map(number)
}

/// A request for what is in a block.
pub fn of_block(block: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = TcHeader::TCM_IFINDEX_MAGIC_BLOCK.cast_signed();
    message.header.parent = block.into();
    message
}

impl Links {
    /// Has a device share our blocks, by a clsact qdisc that is made for it; false where it has one that another has made.
    pub async fn share_blocks(&self, index: u32) -> Result<bool> {
        let block = |egress: bool| {
            let number = ours(egress).to_ne_bytes().to_vec();
            TcAttribute::Other(DefaultNla::new(ATTRIBUTES[usize::from(egress)], number))
        };
        let mut message = clsact(index)?;
        message.attributes = vec![TcAttribute::Kind("clsact".to_owned()), block(false), block(true)];
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        match self.acknowledged(request).await {
            Err(error) if answered(&error, libc::EEXIST) => self.shares_blocks(index).await,
            made => made.map(|()| true).context("cannot add a clsact qdisc"),
        }
    }

    /// Puts a program into our block of a direction, in the place of the one that has its priority and handle there.
    pub async fn put_into_block(&self, filter: &Filter, program: BorrowedFd<'_>) -> Result<()> {
        let mut message = of_block(ours(filter.egress));
        message.header.handle = filter.handle.into();
        message.header.info = u32::from(filter.priority) << 16 | u32::from(EVERY_PROTOCOL.to_be());
        message.attributes = vec![
            TcAttribute::Kind("bpf".to_owned()),
            TcAttribute::Options(vec![
                TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned())),
                TcOption::Bpf(TcFilterBpfOption::ProgName(filter.name.clone())),
                TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            ]),
        ];
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewTrafficFilter(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        self.acknowledged(request).await.with_context(|| format!("cannot put {} into its block", filter.name))
    }

    /// Whether a device has a clsact qdisc that shares our blocks.
    pub async fn shares_blocks(&self, index: u32) -> Result<bool> {
        use futures_util::StreamExt;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetQueueDiscipline(clsact(index)?));
        // Without this it is told to everybody but who asks.
        request.header.flags = NLM_F_REQUEST | NLM_F_ECHO | NLM_F_ACK;
        let mut answers = self.handle.clone().request(request).map_err(refusal)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewQueueDiscipline(qdisc)) => {
                    return Ok([false, true].iter().all(|egress| block_of(&qdisc, *egress) == Some(ours(*egress))));
                }
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    let error = error.to_io();
                    // There is none; or none any more.
                    if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) {
                        return Ok(false);
                    }
                    return Err(error).context("cannot look at the clsact qdisc");
                }
                _ => {}
            }
        }
        bail!("the kernel does not tell of the clsact qdisc that it says is there")
    }
}

fn clsact(index: u32) -> Result<TcMessage> {
    let mut message = TcMessage::with_index(i32::try_from(index).context("no interface has this index")?);
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = CLSACT;
    Ok(message)
}
