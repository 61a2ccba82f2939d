//! The wire format of protobuf: tags, varints and lengths.

/// How a field's content is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WireType {
    Varint,
    Fixed64,
    Bytes,
    Fixed32,
}

/// Appends a varint.
pub(crate) fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn tag(out: &mut Vec<u8>, field: u32, kind: u64) {
    varint(out, u64::from(field) << 3 | kind);
}

/// Appends a field holding a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, field: u32, number: u64) {
    tag(out, field, 0);
    varint(out, number);
}

/// Appends a field holding a double.
pub(crate) fn put_double(out: &mut Vec<u8>, field: u32, number: f64) {
    tag(out, field, 1);
    out.extend_from_slice(&number.to_le_bytes());
}

/// Appends a field holding the message that `write` appends.
pub(crate) fn put_message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    tag(out, field, 2);
    let start = out.len();
    write(out);
    let end = out.len();
    varint(out, (end - start) as u64);
    let prefix = out.len() - end;
    out[start..].rotate_right(prefix); // the length stands before what it measures
}

/// Appends a field holding a string, bytes or a message.
pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u32, content: &[u8]) {
    tag(out, field, 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// A field as it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawField<'b> {
    pub(crate) number: u32,
    pub(crate) kind: WireType,
    /// The varint, or the fixed bits.
    pub(crate) bits: u64,
    /// The content, where it is delimited by a length.
    pub(crate) bytes: &'b [u8],
}

/// Reads the fields of a message; an error is a message that ends too early or has a tag that can't be.
pub(crate) struct Reader<'b> {
    rest: &'b [u8],
}

/// What a message that can't be read is refused with.
pub(crate) const TRUNCATED: &str = "unexpected EOF";

impl<'b> Reader<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Reader<'b> {
        Reader { rest: bytes }
    }

    /// The next varint.
    pub(crate) fn varint(&mut self) -> Result<u64, String> {
        let mut number = 0u64;
        for shift in (0..70).step_by(7) {
            let (first, rest) = self.rest.split_first().ok_or(TRUNCATED)?;
            self.rest = rest;
            if shift < 64 {
                number |= u64::from(first & 0x7f) << shift;
            }
            if first & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("proto: integer overflow".to_owned())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], String> {
        if length > self.rest.len() {
            return Err(TRUNCATED.to_owned());
        }
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }

    /// The next field; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<RawField<'b>>, String> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| format!("proto: illegal tag {tag}"))?;
        let mut field = RawField {
            number,
            kind: WireType::Varint,
            bits: 0,
            bytes: &[],
        };
        match tag & 7 {
            0 => field.bits = self.varint()?,
            1 => {
                field.kind = WireType::Fixed64;
                let bytes = self.take(8)?;
                field.bits = bytes
                    .iter()
                    .rev()
                    .fold(0, |bits, byte| bits << 8 | u64::from(*byte));
            }
            2 => {
                field.kind = WireType::Bytes;
                let length = self.varint()?;
                field.bytes = self.take(usize::try_from(length).map_err(|_| TRUNCATED)?)?;
            }
            5 => {
                field.kind = WireType::Fixed32;
                let bytes = self.take(4)?;
                field.bits = bytes
                    .iter()
                    .rev()
                    .fold(0, |bits, byte| bits << 8 | u64::from(*byte));
            }
            other => return Err(format!("proto: illegal wireType {other}")),
        }
        Ok(Some(field))
    }
}
