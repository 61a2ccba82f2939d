//! Addresses and blocks of addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Context, Row};
use crate::error::EvalError;
use crate::value::{Evaluated, Special, Value};

/// The library.
pub(crate) const FUNCTIONS: &[Row] = &[
    (
        "ip",
        ip,
        &[
            ("string_to_ip", "(string) -> net.IP"),
            ("cidr_ip", "net.CIDR.() -> net.IP"),
        ],
    ),
    ("isIP", is_ip, &[("is_ip", "(string) -> bool")]),
    (
        "ip.isCanonical",
        is_canonical,
        &[("ip_is_canonical", "(string) -> bool")],
    ),
    ("family", family, &[("ip_family", "net.IP.() -> int")]),
    (
        "isUnspecified",
        is_unspecified,
        &[("ip_is_unspecified", "net.IP.() -> bool")],
    ),
    (
        "isLoopback",
        is_loopback,
        &[("ip_is_loopback", "net.IP.() -> bool")],
    ),
    (
        "isLinkLocalMulticast",
        is_link_local_multicast,
        &[("ip_is_link_local_multicast", "net.IP.() -> bool")],
    ),
    (
        "isLinkLocalUnicast",
        is_link_local_unicast,
        &[("ip_is_link_local_unicast", "net.IP.() -> bool")],
    ),
    (
        "isGlobalUnicast",
        is_global_unicast,
        &[("ip_is_global_unicast", "net.IP.() -> bool")],
    ),
    ("cidr", cidr, &[("string_to_cidr", "(string) -> net.CIDR")]),
    ("isCIDR", is_cidr, &[("is_cidr", "(string) -> bool")]),
    (
        "containsIP",
        contains_ip,
        &[
            ("cidr_contains_ip_string", "net.CIDR.(string) -> bool"),
            ("cidr_contains_ip_ip", "net.CIDR.(net.IP) -> bool"),
        ],
    ),
    (
        "containsCIDR",
        contains_cidr,
        &[
            ("cidr_contains_cidr_string", "net.CIDR.(string) -> bool"),
            ("cidr_contains_cidr", "net.CIDR.(net.CIDR) -> bool"),
        ],
    ),
    (
        "prefixLength",
        prefix_length,
        &[("cidr_prefix_length", "net.CIDR.() -> int")],
    ),
    (
        "masked",
        masked,
        &[("cidr_masked", "net.CIDR.() -> net.CIDR")],
    ),
];

fn parse_ip(text: &str) -> Result<IpAddr, EvalError> {
    let fail = |why: &str| EvalError::failed(why.to_owned());
    if text.contains('%') {
        return Err(fail(&format!(
            "IP address {text:?} with zone value is not allowed"
        )));
    }
    let parsed: IpAddr = text.parse().map_err(|_| {
        fail(&format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        ))
    })?;
    if matches!(parsed, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err(fail(&format!(
            "IPv4-mapped IPv6 address {text:?} is not allowed"
        )));
    }
    Ok(parsed)
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8), EvalError> {
    let fail = |why: &str| {
        EvalError::failed(format!(
            "network address parse error during conversion from string: netip.ParsePrefix({text:?}): {why}"
        ))
    };
    let (ip, bits) = text.split_once('/').ok_or_else(|| fail("no '/'"))?;
    let ip: IpAddr = ip
        .parse()
        .map_err(|_| fail(&format!("ParseAddr({ip:?}): unable to parse IP")))?;
    if bits.len() > 1 && bits.starts_with('0') || !bits.chars().all(|c| c.is_ascii_digit()) {
        return Err(fail(&format!("bad bits after slash: {bits:?}")));
    }
    let bits: u8 = bits
        .parse()
        .map_err(|_| fail(&format!("bad bits after slash: {bits:?}")))?;
    let max = if ip.is_ipv4() { 32 } else { 128 };
    if bits > max {
        return Err(fail("prefix length out of range"));
    }
    if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err(EvalError::failed(format!(
            "IPv4-mapped IPv6 address {text:?} is not allowed"
        )));
    }
    Ok((ip, bits))
}

fn ip<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Special(Special::Ip(match args {
        [Value::String(text)] => parse_ip(text)?,
        [Value::Special(Special::Cidr(ip, _))] => *ip,
        _ => return Err(EvalError::no_overload()),
    })))
}

fn is_ip<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(parse_ip(text).is_ok())),
        _ => Err(EvalError::no_overload()),
    }
}

fn is_canonical<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(parse_ip(text)?.to_string() == **text)),
        _ => Err(EvalError::no_overload()),
    }
}

fn address(args: &[Value<'_>]) -> Result<IpAddr, EvalError> {
    match args {
        [Value::Special(Special::Ip(ip))] => Ok(*ip),
        _ => Err(EvalError::no_overload()),
    }
}

fn family<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Int(if address(args)?.is_ipv4() { 4 } else { 6 }))
}

fn is_unspecified<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(address(args)?.is_unspecified()))
}

fn is_loopback<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(address(args)?.is_loopback()))
}

fn link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_link_local_multicast<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(link_local_multicast(address(args)?)))
}

fn is_link_local_unicast<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(link_local_unicast(address(args)?)))
}

fn is_global_unicast<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let ip = address(args)?;
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || broadcast;
    Ok(Value::Bool(!special && !link_local_unicast(ip)))
}

fn cidr<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => {
            let (ip, bits) = parse_cidr(text)?;
            Ok(Value::Special(Special::Cidr(ip, bits)))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn is_cidr<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bool(parse_cidr(text).is_ok())),
        _ => Err(EvalError::no_overload()),
    }
}

fn block(ip: IpAddr, bits: u8) -> Result<IpNet, EvalError> {
    IpNet::new(ip, bits).map_err(|_| EvalError::failed("prefix length out of range"))
}

fn contains_ip<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (net, ip) = match args {
        [
            Value::Special(Special::Cidr(net, bits)),
            Value::String(text),
        ] => (block(*net, *bits)?, parse_ip(text)?),
        [
            Value::Special(Special::Cidr(net, bits)),
            Value::Special(Special::Ip(ip)),
        ] => (block(*net, *bits)?, *ip),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Bool(net.contains(&ip)))
}

fn contains_cidr<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    let (net, (ip, bits)) = match args {
        [
            Value::Special(Special::Cidr(net, bits)),
            Value::String(text),
        ] => (block(*net, *bits)?, parse_cidr(text)?),
        [
            Value::Special(Special::Cidr(net, bits)),
            Value::Special(Special::Cidr(ip, inner)),
        ] => (block(*net, *bits)?, (*ip, *inner)),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(Value::Bool(net.prefix_len() <= bits && net.contains(&ip)))
}

fn prefix_length<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Special(Special::Cidr(_, bits))] => Ok(Value::Int((*bits).into())),
        _ => Err(EvalError::no_overload()),
    }
}

fn masked<'a>(_: &Context<'_>, args: &mut [Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Special(Special::Cidr(ip, bits))] => Ok(Value::Special(Special::Cidr(
            block(*ip, *bits)?.network(),
            *bits,
        ))),
        _ => Err(EvalError::no_overload()),
    }
}
