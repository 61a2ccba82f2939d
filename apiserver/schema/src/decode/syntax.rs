//! What is wrong with a text that isn't JSON, in the words of Go's scanner, which clients see.

/// The first syntax error; none where the text is JSON.
pub(super) fn explain(bytes: &[u8]) -> Option<String> {
    let mut scanner = Scanner { bytes, at: 0 };
    scanner.document().err()
}

/// Go's bound on nesting.
pub(super) const MAX_DEPTH: usize = 10_000;

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// An open array or object.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    Array,
    Object,
}

impl Scanner<'_> {
    fn document(&mut self) -> Result<(), String> {
        let mut open: Vec<Open> = Vec::new();
        'value: loop {
            self.space();
            match self.peek()? {
                b'{' => {
                    self.at += 1;
                    self.space();
                    open.push(Open::Object);
                    if self.peek()? == b'}' {
                        self.at += 1;
                        open.pop();
                    } else {
                        self.key()?;
                        Self::depth(&open)?;
                        continue 'value;
                    }
                }
                b'[' => {
                    self.at += 1;
                    self.space();
                    if self.peek()? == b']' {
                        self.at += 1;
                    } else {
                        open.push(Open::Array);
                        Self::depth(&open)?;
                        continue 'value;
                    }
                }
                b'"' => self.string()?,
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                b'-' | b'0'..=b'9' => self.number()?,
                _ => return self.unexpected("looking for beginning of value"),
            }
            loop {
                self.space();
                let Some(innermost) = open.last() else {
                    return if self.at < self.bytes.len() {
                        self.unexpected("after top-level value")
                    } else {
                        Ok(())
                    };
                };
                let (context, close) = match innermost {
                    Open::Array => ("after array element", b']'),
                    Open::Object => ("after object key:value pair", b'}'),
                };
                let next = self.peek()?;
                if next == close {
                    self.at += 1;
                    open.pop();
                } else if next == b',' {
                    self.at += 1;
                    if *innermost == Open::Object {
                        self.space();
                        self.key()?;
                    }
                    continue 'value;
                } else {
                    return self.unexpected(context);
                }
            }
        }
    }

    fn depth(open: &[Open]) -> Result<(), String> {
        if open.len() > MAX_DEPTH {
            return Err("exceeded max depth".to_owned());
        }
        Ok(())
    }

    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Result<u8, String> {
        self.bytes
            .get(self.at)
            .copied()
            .ok_or_else(|| "unexpected end of JSON input".to_owned())
    }

    /// The next byte where Go's scanner sees a space at the end.
    fn peek_inside(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(b' ')
    }

    fn unexpected(&self, context: &str) -> Result<(), String> {
        let byte = self.peek_inside();
        Err(format!("invalid character {} {context}", quoted(byte)))
    }

    fn key(&mut self) -> Result<(), String> {
        if self.peek()? != b'"' {
            return self.unexpected("looking for beginning of object key string");
        }
        self.string()?;
        self.space();
        if self.peek()? != b':' {
            return self.unexpected("after object key");
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => {
                    self.at += 1;
                    match self.peek_inside() {
                        b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.at += 1,
                        b'u' => {
                            self.at += 1;
                            for _ in 0..4 {
                                if !self.peek_inside().is_ascii_hexdigit() {
                                    return self.unexpected("in \\u hexadecimal character escape");
                                }
                                self.at += 1;
                            }
                        }
                        _ => return self.unexpected("in string escape code"),
                    }
                }
                0..0x20 => return self.unexpected("in string literal"),
                _ => self.at += 1,
            }
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for expected in word.bytes() {
            if self.peek_inside() != expected {
                return self.unexpected(&format!(
                    "in literal {word} (expecting {})",
                    quoted(expected)
                ));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek()? == b'-' {
            self.at += 1;
            if !self.peek_inside().is_ascii_digit() {
                return self.unexpected("in numeric literal");
            }
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits();
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            if !self.peek_inside().is_ascii_digit() {
                return self.unexpected("after decimal point in numeric literal");
            }
            self.digits();
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek_inside(), b'+' | b'-') {
                self.at += 1;
            }
            if !self.peek_inside().is_ascii_digit() {
                return self.unexpected("in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }
}

/// A byte as Go quotes a character.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0..0x20 | 0x7f => format!(r"'\x{byte:02x}'"),
        0x80..0xa0 => format!(r"'\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}
