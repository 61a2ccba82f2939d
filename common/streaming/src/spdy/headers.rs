//! Header blocks: name and value pairs, compressed with one context a direction for the life of a connection.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// Most bytes of a header block, unpacked.
const MAX_BLOCK: usize = 64 << 10;
/// Most pairs in it.
const MAX_PAIRS: usize = 100;

/// What is wrong with a header block.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeaderError {
    /// Not what zlib makes.
    #[error("header block can't be decompressed")]
    Compression,
    /// Too much.
    #[error("header block is too large")]
    TooLarge,
    /// Lengths that do not fit.
    #[error("header block is malformed")]
    Malformed,
}

/// Headers in order.
pub type Headers = Vec<(String, String)>;

/// The first value of a name.
pub fn get<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v.as_str())
}

/// Unpacks the peer's header blocks.
pub struct Decoder(Decompress);

impl Default for Decoder {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Decoder {
    /// The headers of a block.
    pub fn decode(&mut self, mut input: &[u8]) -> Result<Headers, HeaderError> {
        let mut out = Vec::with_capacity(1024);
        let mut dictionary_given = false;
        while !input.is_empty() {
            if out.len() == out.capacity() {
                out.reserve(out.capacity());
            }
            let (before_in, before_out) = (self.0.total_in(), out.len());
            let result = self
                .0
                .decompress_vec(input, &mut out, FlushDecompress::Sync);
            let used = usize::try_from(self.0.total_in() - before_in)
                .map_err(|_| HeaderError::Compression)?;
            input = input.get(used..).ok_or(HeaderError::Compression)?;
            if out.len() > MAX_BLOCK {
                return Err(HeaderError::TooLarge);
            }
            match result {
                Ok(Status::StreamEnd) => return Err(HeaderError::Compression),
                Ok(_) if used == 0 && out.len() == before_out && out.len() < out.capacity() => {
                    return Err(HeaderError::Compression);
                }
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() && !dictionary_given => {
                    dictionary_given = true;
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| HeaderError::Compression)?;
                }
                Err(_) => return Err(HeaderError::Compression),
            }
        }
        // What did not fit into the buffer with the last of the input.
        loop {
            let before = out.len();
            if out.len() == out.capacity() {
                out.reserve(1024);
            }
            match self.0.decompress_vec(&[], &mut out, FlushDecompress::Sync) {
                Ok(_) if out.len() > before && out.len() <= MAX_BLOCK => {}
                Ok(_) if out.len() > MAX_BLOCK => return Err(HeaderError::TooLarge),
                _ => break,
            }
        }
        parse(&out)
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, HeaderError> {
    let number = |block: &mut &[u8]| -> Result<usize, HeaderError> {
        let (head, rest) = block
            .split_first_chunk::<4>()
            .ok_or(HeaderError::Malformed)?;
        *block = rest;
        usize::try_from(u32::from_be_bytes(*head)).map_err(|_| HeaderError::Malformed)
    };
    let text = |block: &mut &[u8]| -> Result<String, HeaderError> {
        let length = number(block)?;
        let (head, rest) = block
            .split_at_checked(length)
            .ok_or(HeaderError::Malformed)?;
        *block = rest;
        String::from_utf8(head.to_vec()).map_err(|_| HeaderError::Malformed)
    };
    let count = number(&mut block)?;
    if count > MAX_PAIRS {
        return Err(HeaderError::TooLarge);
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut block)?.to_ascii_lowercase();
        // Several values of one name stand together, NUL between them.
        for value in text(&mut block)?.split('\0') {
            headers.push((name.clone(), value.to_owned()));
        }
    }
    Ok(headers)
}

/// Packs our header blocks.
pub struct Encoder(Compress);

impl Encoder {
    /// A fresh context.
    pub fn new() -> Result<Self, HeaderError> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress
            .set_dictionary(&DICTIONARY)
            .map_err(|_| HeaderError::Compression)?;
        Ok(Self(compress))
    }

    /// The block of these headers.
    pub fn encode(&mut self, headers: &[(String, String)]) -> Result<Vec<u8>, HeaderError> {
        let length = |n: usize| {
            u32::try_from(n)
                .map(u32::to_be_bytes)
                .map_err(|_| HeaderError::TooLarge)
        };
        let mut block = length(headers.len())?.to_vec();
        for (name, value) in headers {
            for part in [name, value] {
                block.extend_from_slice(&length(part.len())?);
                block.extend_from_slice(part.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(block.len() + 64);
        let start = self.0.total_in();
        loop {
            let used =
                usize::try_from(self.0.total_in() - start).map_err(|_| HeaderError::Compression)?;
            let rest = block.get(used..).ok_or(HeaderError::Compression)?;
            self.0
                .compress_vec(rest, &mut out, FlushCompress::Sync)
                .map_err(|_| HeaderError::Compression)?;
            if self.0.total_in() - start == block.len() as u64 && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_round_with_one_context() {
        let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::default());
        for n in 0..50 {
            let headers = vec![
                ("streamtype".to_owned(), "data".to_owned()),
                ("requestid".to_owned(), n.to_string()),
            ];
            let block = encoder.encode(&headers).unwrap();
            assert_eq!(decoder.decode(&block).unwrap(), headers);
        }
        let large = vec![("k".to_owned(), "v".repeat(5000))];
        assert_eq!(
            decoder.decode(&encoder.encode(&large).unwrap()).unwrap(),
            large
        );
    }

    #[test]
    fn refuses_bombs_and_rubbish() {
        let mut encoder = Encoder::new().unwrap();
        let bomb = encoder
            .encode(&[("k".to_owned(), "v".repeat(1 << 20))])
            .unwrap();
        assert_eq!(Decoder::default().decode(&bomb), Err(HeaderError::TooLarge));
        assert!(
            Decoder::default()
                .decode(b"rubbish that is no zlib")
                .is_err()
        );
        assert_eq!(
            parse(&[0, 0, 0, 1, 0, 0, 0, 9, b'x']),
            Err(HeaderError::Malformed)
        );
        assert_eq!(parse(&[255, 0, 0, 0]), Err(HeaderError::TooLarge));
    }
}
