//! Dividing an address range into equal parts, and knowing which are taken. No I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// More parts than this are not kept track of, as upstream.
const MOST_BITS: u8 = 16;

/// Why a range can't be divided.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The parts would be larger than the whole, or too many.
    #[error("a node mask of /{mask} does not fit {range}: it must be between /{from} and /{to}")]
    Mask {
        /// The prefix length asked for.
        mask: u8,
        /// The range.
        range: IpNet,
        /// The smallest prefix length possible.
        from: u8,
        /// The largest.
        to: u8,
    },
}

/// A range and its parts.
#[derive(Debug)]
pub struct Cidrs {
    range: IpNet,
    mask: u8,
    taken: Vec<bool>,
    next: usize,
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Cidrs {
    /// Divides `range` into parts with this prefix length.
    pub fn new(range: IpNet, mask: u8) -> Result<Self, Error> {
        let range = range.trunc();
        let from = range.prefix_len();
        let to = range.max_prefix_len().min(from.saturating_add(MOST_BITS));
        if mask < from || mask > to {
            return Err(Error::Mask {
                mask,
                range,
                from,
                to,
            });
        }
        Ok(Self {
            range,
            mask,
            taken: vec![false; 1 << (mask - from)],
            next: 0,
        })
    }

    /// Whether the range is of the same family as `other`.
    pub fn is_family_of(&self, other: &IpNet) -> bool {
        self.range.addr().is_ipv4() == other.addr().is_ipv4()
    }

    fn part(&self, index: usize) -> Option<IpNet> {
        let shift = u32::from(self.range.max_prefix_len() - self.mask);
        let offset = u128::try_from(index).ok()?.checked_shl(shift)?;
        let address = bits(self.range.addr()) + offset;
        let address = if self.range.addr().is_ipv4() {
            IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(address).ok()?))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(address))
        };
        IpNet::new(address, self.mask).ok()
    }

    /// The parts that a range touches.
    fn touched(&self, cidr: &IpNet) -> std::ops::Range<usize> {
        let overlaps = self.is_family_of(cidr)
            && (self.range.contains(&cidr.network()) || cidr.contains(&self.range.network()));
        if !overlaps {
            return 0..0;
        }
        let shift = u32::from(self.range.max_prefix_len() - self.mask);
        let start = bits(self.range.network());
        let last = bits(self.range.broadcast());
        let index = |address: u128| {
            let offset = (address.clamp(start, last) - start)
                .checked_shr(shift)
                .unwrap_or(0);
            usize::try_from(offset)
                .unwrap_or(usize::MAX)
                .min(self.taken.len() - 1)
        };
        index(bits(cidr.network()))..index(bits(cidr.broadcast())) + 1
    }

    /// Marks what a range touches as taken.
    pub fn occupy(&mut self, cidr: &IpNet) {
        for index in self.touched(cidr) {
            self.taken[index] = true;
        }
    }

    /// Gives a part back.
    pub fn release(&mut self, cidr: &IpNet) {
        for index in self.touched(cidr) {
            self.taken[index] = false;
        }
    }

    /// The next free part, now taken. Parts just given back come last, so that addresses aren't used again at once.
    pub fn allocate(&mut self) -> Option<IpNet> {
        let count = self.taken.len();
        let index = (0..count)
            .map(|step| (self.next + step) % count)
            .find(|index| !self.taken[*index])?;
        self.taken[index] = true;
        self.next = (index + 1) % count;
        self.part(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn parts_are_given_out_once_and_late_again() {
        let mut cidrs = Cidrs::new(net("10.244.0.0/22"), 24).unwrap();
        cidrs.occupy(&net("10.244.1.0/24"));
        assert_eq!(cidrs.allocate(), Some(net("10.244.0.0/24")));
        cidrs.release(&net("10.244.0.0/24"));
        assert_eq!(cidrs.allocate(), Some(net("10.244.2.0/24")));
        assert_eq!(cidrs.allocate(), Some(net("10.244.3.0/24")));
        assert_eq!(cidrs.allocate(), Some(net("10.244.0.0/24")));
        assert_eq!(cidrs.allocate(), None);
    }

    #[test]
    fn ranges_that_overlap_take_all_parts_they_touch() {
        let mut cidrs = Cidrs::new(net("10.0.0.0/22"), 24).unwrap();
        cidrs.occupy(&net("10.0.0.128/25"));
        cidrs.occupy(&net("10.0.2.0/23"));
        cidrs.occupy(&net("192.168.0.0/16"));
        cidrs.occupy(&net("fd00::/64"));
        assert_eq!(cidrs.allocate(), Some(net("10.0.1.0/24")));
        assert_eq!(cidrs.allocate(), None);
        let mut whole = Cidrs::new(net("10.0.0.0/22"), 24).unwrap();
        whole.occupy(&net("10.0.0.0/8"));
        assert_eq!(whole.allocate(), None);
    }

    #[test]
    fn six_has_room_and_masks_are_checked() {
        let mut cidrs = Cidrs::new(net("fd00::/48"), 64).unwrap();
        assert_eq!(cidrs.allocate(), Some(net("fd00::/64")));
        assert_eq!(cidrs.allocate(), Some(net("fd00:0:0:1::/64")));
        assert!(Cidrs::new(net("10.0.0.0/24"), 16).is_err());
        assert!(Cidrs::new(net("fd00::/40"), 64).is_err());
    }
}
