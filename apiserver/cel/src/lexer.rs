//! Text to tokens, with escapes resolved.

use std::sync::Arc;

/// A token and where it starts, in code points.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub kind: TokenKind,
    pub at: usize,
    /// What stands there, as messages quote it.
    pub text: String,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TokenKind {
    /// An operator or bracket.
    Symbol(&'static str),
    /// A name; keywords are told apart by the parser.
    Ident,
    /// A name in backquotes, without them.
    Escaped(Arc<str>),
    Int,
    Uint,
    Float,
    String(Result<Arc<str>, String>),
    Bytes(Result<Arc<[u8]>, String>),
    End,
}

/// A character that starts no token, and where.
pub(crate) struct Unknown {
    pub at: usize,
    pub text: String,
}

const SYMBOLS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":",
    "+", "*", "/", "%", "<", ">",
];

/// The tokens of an expression, the end included, and what could not be read.
pub(crate) fn tokens(source: &[char]) -> (Vec<Token>, Vec<Unknown>) {
    let mut lexer = Lexer {
        source,
        at: 0,
        unknown: Vec::new(),
    };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next();
        let end = token.kind == TokenKind::End;
        tokens.push(token);
        if end {
            return (tokens, lexer.unknown);
        }
    }
}

struct Lexer<'s> {
    source: &'s [char],
    at: usize,
    unknown: Vec<Unknown>,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> char {
        self.source.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn skip_blanks(&mut self) {
        loop {
            match self.peek(0) {
                '\t' | ' ' | '\r' | '\n' | '\u{c}' => self.at += 1,
                '/' if self.peek(1) == '/' => {
                    while self.at < self.source.len() && self.peek(0) != '\n' {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn text(&self, from: usize) -> String {
        self.source[from..self.at].iter().collect()
    }

    fn next(&mut self) -> Token {
        loop {
            self.skip_blanks();
            let start = self.at;
            if start >= self.source.len() {
                return Token {
                    kind: TokenKind::End,
                    at: start,
                    text: "<EOF>".into(),
                };
            }
            if let Some(kind) = self.token() {
                return Token {
                    kind,
                    at: start,
                    text: self.text(start),
                };
            }
            if self.at == start {
                self.at += 1;
            }
            self.unknown.push(Unknown {
                at: start,
                text: self.text(start),
            });
        }
    }

    fn token(&mut self) -> Option<TokenKind> {
        let c = self.peek(0);
        if c.is_ascii_digit() || (c == '.' && self.peek(1).is_ascii_digit()) {
            return Some(self.number());
        }
        if c == '"' || c == '\'' {
            return self.quoted(false, false);
        }
        let quote = |c: char| c == '"' || c == '\'';
        let (second, third) = (self.peek(1), self.peek(2));
        match c {
            'r' | 'R' if quote(second) => {
                self.at += 1;
                return self.quoted(true, false);
            }
            'b' | 'B' if quote(second) => {
                self.at += 1;
                return self.quoted(false, true);
            }
            'b' | 'B' if matches!(second, 'r' | 'R') && quote(third) => {
                self.at += 2;
                return self.quoted(true, true);
            }
            _ => {}
        }
        if c.is_ascii_alphabetic() || c == '_' {
            while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == '_' {
                self.at += 1;
            }
            return Some(TokenKind::Ident);
        }
        if c == '`' {
            return self.escaped();
        }
        for symbol in SYMBOLS {
            if symbol
                .chars()
                .enumerate()
                .all(|(i, wanted)| self.peek(i) == wanted)
            {
                self.at += symbol.len();
                return Some(TokenKind::Symbol(symbol));
            }
        }
        None
    }

    fn escaped(&mut self) -> Option<TokenKind> {
        let start = self.at;
        let mut end = start + 1;
        while let Some(c) = self.source.get(end) {
            match c {
                '`' if end > start + 1 => {
                    self.at = end + 1;
                    let name: String = self.source[start + 1..end].iter().collect();
                    return Some(TokenKind::Escaped(name.into()));
                }
                c if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ' ') => {
                    end += 1;
                }
                _ => return None,
            }
        }
        None
    }

    fn digits(&mut self) {
        while self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
    }

    fn number(&mut self) -> TokenKind {
        if self.peek(0) == '0' && self.peek(1) == 'x' && self.peek(2).is_ascii_hexdigit() {
            self.at += 2;
            while self.peek(0).is_ascii_hexdigit() {
                self.at += 1;
            }
        } else {
            self.digits();
            let mut float = false;
            if self.peek(0) == '.' && self.peek(1).is_ascii_digit() {
                float = true;
                self.at += 1;
                self.digits();
            }
            if matches!(self.peek(0), 'e' | 'E') {
                let sign = usize::from(matches!(self.peek(1), '+' | '-'));
                if self.peek(1 + sign).is_ascii_digit() {
                    float = true;
                    self.at += 1 + sign;
                    self.digits();
                }
            }
            if float {
                return TokenKind::Float;
            }
        }
        if matches!(self.peek(0), 'u' | 'U') {
            self.at += 1;
            return TokenKind::Uint;
        }
        TokenKind::Int
    }

    /// A string from its first quote on; `None` where it does not end.
    fn quoted(&mut self, raw: bool, bytes: bool) -> Option<TokenKind> {
        let quote = self.peek(0);
        let long = self.peek(1) == quote && self.peek(2) == quote;
        let width = if long { 3 } else { 1 };
        self.at += width;
        let start = self.at;
        loop {
            if self.at >= self.source.len() {
                return None;
            }
            let c = self.peek(0);
            if c == quote && (!long || (self.peek(1) == quote && self.peek(2) == quote)) {
                break;
            }
            if !long && (c == '\n' || c == '\r') {
                return None;
            }
            self.at += if c == '\\' && !raw { 2 } else { 1 };
        }
        let body = &self.source[start..self.at];
        self.at += width;
        Some(if bytes {
            TokenKind::Bytes(unescape(body, raw, true).map(Arc::from))
        } else {
            TokenKind::String(
                unescape(body, raw, false)
                    .map(|utf8| Arc::from(String::from_utf8_lossy(&utf8).as_ref())),
            )
        })
    }
}

fn unescape(body: &[char], raw: bool, bytes: bool) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(body.len());
    let mut at = 0;
    let mut buffer = [0; 4];
    while at < body.len() {
        let c = body[at];
        if raw || c != '\\' {
            // line ends are one character, however they are written
            if c == '\r' {
                out.push(b'\n');
                at += if body.get(at + 1) == Some(&'\n') {
                    2
                } else {
                    1
                };
                continue;
            }
            out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            at += 1;
            continue;
        }
        let Some(&kind) = body.get(at + 1) else {
            return Err("unable to unescape string, found '\\' as last character".into());
        };
        at += 2;
        let simple = match kind {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            '\\' | '\'' | '"' | '`' | '?' => u8::try_from(u32::from(kind)).unwrap_or(b'?'),
            'x' | 'X' | 'u' | 'U' | '0'..='3' => {
                let (digits, radix, from) = match kind {
                    'x' | 'X' => (2, 16, at),
                    'u' => (4, 16, at),
                    'U' => (8, 16, at),
                    _ => (3, 8, at - 1),
                };
                if bytes && matches!(kind, 'u' | 'U') {
                    return Err("unable to unescape string".into());
                }
                let text: String = body
                    .get(from..from + digits)
                    .unwrap_or_default()
                    .iter()
                    .collect();
                let value = (text.len() == digits)
                    .then(|| u32::from_str_radix(&text, radix).ok())
                    .flatten()
                    .ok_or("unable to unescape string")?;
                at = from + digits;
                if bytes {
                    out.push(u8::try_from(value).map_err(|_| "unable to unescape string")?);
                } else {
                    let c = char::from_u32(value).ok_or("invalid unicode code point")?;
                    out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
                }
                continue;
            }
            _ => return Err(format!("unable to unescape string: \\{kind}")),
        };
        out.push(simple);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(source: &str) -> Vec<TokenKind> {
        let chars: Vec<char> = source.chars().collect();
        let (tokens, unknown) = tokens(&chars);
        assert!(unknown.is_empty(), "{source}");
        tokens.into_iter().map(|t| t.kind).collect()
    }

    #[test]
    fn literals() {
        let string = |s: &str| TokenKind::String(Ok(s.into()));
        for (source, kind) in [
            ("12", TokenKind::Int),
            ("0x1F", TokenKind::Int),
            ("3u", TokenKind::Uint),
            ("1.5e-3", TokenKind::Float),
            (".5", TokenKind::Float),
            (r#""a\n\x41\u00fc\101""#, string("a\nAüA")),
            (r"r'\d'", string(r"\d")),
            ("'''a'b'''", string("a'b")),
            (r"b'\xff'", TokenKind::Bytes(Ok([255_u8].as_slice().into()))),
            ("`a.b/c-d`", TokenKind::Escaped("a.b/c-d".into())),
        ] {
            assert_eq!(kinds(source), [kind, TokenKind::End], "{source}");
        }
    }

    #[test]
    fn comments_and_blanks_are_skipped() {
        assert_eq!(
            kinds("a // b\n <= c"),
            [
                TokenKind::Ident,
                TokenKind::Symbol("<="),
                TokenKind::Ident,
                TokenKind::End
            ]
        );
    }

    #[test]
    fn what_is_no_token_is_told() {
        let chars: Vec<char> = "a # 'b".chars().collect();
        let (_, unknown) = tokens(&chars);
        let texts: Vec<_> = unknown.iter().map(|u| (u.at, u.text.as_str())).collect();
        assert_eq!(texts, [(2, "#"), (4, "'b")]);
    }
}
