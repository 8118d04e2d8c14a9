//! Trusted proxies: the addresses of proxies whose headers about the client's address are trusted.
//!
//! **Invariant:** without the setting no address is trusted, and no setting trusts all addresses.
//! **Not here:** the headers (`access/client_address`).

use std::net::IpAddr;

/// Maximum number of networks: the address of a client is compared with all of them.
const NETWORKS_MAX: usize = 256;
/// Number of bits before the IPv4 address in an IPv4-mapped IPv6 address.
const MAPPED_BITS: u32 = 96;

/// Networks of proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Network>);

/// Network: all addresses that have their first `bits` bits in common. IPv4 addresses are mapped to
/// IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    first: u128,
    bits: u32,
}

impl TrustedProxies {
    /// Parses addresses and networks that are separated by commas. Also returns the value as the
    /// operator sees it.
    ///
    /// # Errors
    /// Description of the fault, which completes an error message that begins with the name of the
    /// setting.
    pub fn parse(text: &str) -> Result<(Self, String), String> {
        if matches!(text, "" | "none") {
            return Ok((Self::default(), "none".to_owned()));
        }
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        if parts.len() > NETWORKS_MAX {
            return Err(format!("names {} networks; there may be {NETWORKS_MAX}", parts.len()));
        }
        let networks = parts.iter().map(|part| Network::parse(part));
        Ok((Self(networks.collect::<Result<_, _>>()?), parts.join(",")))
    }

    /// Returns true if no address is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if the address is that of a trusted proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = number(address);
        self.0.iter().any(|network| network.first == first(address, network.bits))
    }
}

impl Network {
    fn parse(text: &str) -> Result<Self, String> {
        let form = || {
            format!("has `{text}`, which is neither an address nor a network such as 10.0.0.0/8")
        };
        let (address, length) = match text.split_once('/') {
            None => (text, None),
            Some((address, length)) => (address, Some(length)),
        };
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let (before, longest) = match address {
            IpAddr::V4(_) => (MAPPED_BITS, u32::BITS),
            IpAddr::V6(_) => (0, u128::BITS),
        };
        let is_number = |length: &&str| length.bytes().all(|byte| byte.is_ascii_digit());
        let length = match length {
            None => longest,
            Some(length) => {
                let length = Some(length).filter(is_number).and_then(|length| length.parse().ok());
                length.filter(|length| *length <= longest).ok_or_else(form)?
            }
        };
        if length == 0 {
            return Err(format!("has `{text}`: each client could then choose its address"));
        }
        let (address, bits) = (number(address), before + length);
        if first(address, bits) != address {
            return Err(format!("has `{text}`, whose address has bits after the first {length}"));
        }
        Ok(Self { first: address, bits })
    }
}

fn number(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Returns the address with all but the first `bits` bits cleared.
fn first(address: u128, bits: u32) -> u128 {
    address & u128::MAX.checked_shl(u128::BITS - bits).unwrap_or(0)
}
