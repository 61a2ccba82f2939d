//! Tokens to a syntax tree. Depth is bounded as cel-go bounds it, so that no later pass can run out of stack.

use std::sync::Arc;

use crate::ast::{Call, Element, Entry, Expr, Field, Kind, Literal, Name, Select};
use crate::lexer::{Token, TokenKind, tokens};
use crate::macros;
use crate::source::{CompileError, Fault, Lines, NOWHERE};

/// How deep rules may nest.
const MAX_DEPTH: usize = 250;
/// How long an expression may be, in code points.
const MAX_LENGTH: usize = 100_000;
/// Words that are no names.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];
const EXPECTED: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// A parsed expression and where its nodes are.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    pub expr: Expr,
    pub offsets: Vec<usize>,
    pub lines: Lines,
}

/// Parses an expression.
pub(crate) fn parse(source: &str) -> Result<Parsed, CompileError> {
    let chars: Vec<char> = source.chars().collect();
    if chars.len() > MAX_LENGTH {
        let message = format!(
            "expression code point size exceeds limit: size: {}, limit {MAX_LENGTH}",
            chars.len()
        );
        return Err(CompileError::new(
            source,
            vec![Fault {
                location: NOWHERE,
                message,
            }],
        ));
    }
    let (tokens, unknown) = tokens(&chars);
    let lines = Lines::new(&chars);
    let mut parser = Parser {
        tokens,
        next: 0,
        nodes: Nodes::default(),
        depth: [0; RULES],
        faults: unknown
            .into_iter()
            .map(|u| Fault {
                location: lines.at(u.at),
                message: format!(
                    "Syntax error: token recognition error at: '{}'",
                    shown(&u.text)
                ),
            })
            .collect(),
        lines,
    };
    match parser.whole() {
        Ok(expr) if parser.faults.is_empty() => Ok(Parsed {
            expr,
            offsets: parser.nodes.offsets,
            lines: parser.lines,
        }),
        Ok(_) | Err(Stop) => Err(CompileError::new(source, parser.faults)),
    }
}

/// Parsing can't go on; the fault is noted.
struct Stop;

/// Gives nodes their ids and places.
#[derive(Default)]
pub(crate) struct Nodes {
    offsets: Vec<usize>,
}

impl Nodes {
    /// A new node at an offset.
    pub fn id(&mut self, at: usize) -> usize {
        self.offsets.push(at);
        self.offsets.len() - 1
    }

    /// A new node where another one is.
    pub fn node(&mut self, beside: usize, kind: Kind) -> Expr {
        let at = self.offsets[beside];
        Expr {
            id: self.id(at),
            kind,
        }
    }
}

#[derive(Clone, Copy)]
enum Rule {
    Expr,
    Relation,
    Calc,
    Member,
}
const RULES: usize = 4;

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    nodes: Nodes,
    depth: [usize; RULES],
    faults: Vec<Fault>,
    lines: Lines,
}

type Parse<T = Expr> = Result<T, Stop>;

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next]
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.peek().kind, TokenKind::Symbol(s) if s == symbol)
    }

    fn advance(&mut self) -> Token {
        let token = self.tokens[self.next].clone();
        if self.next + 1 < self.tokens.len() {
            self.next += 1;
        }
        token
    }

    fn take(&mut self, symbol: &str) -> Option<usize> {
        self.is(symbol).then(|| self.advance().at)
    }

    fn fault(&mut self, at: usize, message: impl Into<String>) {
        let location = self.lines.at(at);
        self.faults.push(Fault {
            location,
            message: message.into(),
        });
    }

    /// What stands here is not what should.
    fn unexpected<T>(&mut self, expected: &str) -> Parse<T> {
        let token = self.peek();
        let (at, text) = (token.at, shown(&token.text));
        let extraneous = self.next + 2 == self.tokens.len() && expected == "<EOF>";
        let what = if extraneous {
            "extraneous"
        } else {
            "mismatched"
        };
        self.fault(
            at,
            format!("Syntax error: {what} input '{text}' expecting {expected}"),
        );
        Err(Stop)
    }

    fn expect(&mut self, symbol: &str) -> Parse<usize> {
        match self.take(symbol) {
            Some(at) => Ok(at),
            None => self.unexpected(&format!("'{symbol}'")),
        }
    }

    fn enter(&mut self, rule: Rule) -> Parse<()> {
        let depth = &mut self.depth[rule as usize];
        *depth += 1;
        if *depth > MAX_DEPTH {
            self.faults = vec![Fault {
                location: NOWHERE,
                message: format!("expression recursion limit exceeded: {MAX_DEPTH}"),
            }];
            return Err(Stop);
        }
        Ok(())
    }

    fn leave(&mut self, rule: Rule, times: usize) {
        self.depth[rule as usize] -= times;
    }

    fn whole(&mut self) -> Parse {
        let expr = self.expr()?;
        if self.peek().kind != TokenKind::End {
            return self.unexpected("<EOF>");
        }
        Ok(expr)
    }

    fn expr(&mut self) -> Parse {
        self.enter(Rule::Expr)?;
        let expr = stacker::maybe_grow(128 * 1024, 1024 * 1024, || self.ternary());
        self.leave(Rule::Expr, 1);
        expr
    }

    fn ternary(&mut self) -> Parse {
        let condition = self.logical("||", "_||_")?;
        let Some(at) = self.take("?") else {
            return Ok(condition);
        };
        let id = self.nodes.id(at);
        let yes = self.logical("||", "_||_")?;
        self.expect(":")?;
        let no = self.expr()?;
        Ok(call(id, "_?_:_", None, vec![condition, yes, no]))
    }

    /// A chain of `||` or of `&&`, balanced so that its depth is the logarithm of its length.
    fn logical(&mut self, symbol: &'static str, function: &'static str) -> Parse {
        let mut terms = vec![self.logical_operand(symbol)?];
        let mut ids = Vec::new();
        while let Some(at) = self.take(symbol) {
            ids.push(self.nodes.id(at));
            terms.push(self.logical_operand(symbol)?);
        }
        let mut terms: Vec<Option<Expr>> = terms.into_iter().map(Some).collect();
        Ok(balance(&mut terms, &ids, function))
    }

    fn logical_operand(&mut self, symbol: &str) -> Parse {
        if symbol == "||" {
            self.logical("&&", "_&&_")
        } else {
            self.relation()
        }
    }

    fn relation(&mut self) -> Parse {
        let mut left = self.sum()?;
        let mut entered = 0;
        loop {
            let function = match &self.peek().kind {
                TokenKind::Symbol("<") => "_<_",
                TokenKind::Symbol("<=") => "_<=_",
                TokenKind::Symbol(">") => "_>_",
                TokenKind::Symbol(">=") => "_>=_",
                TokenKind::Symbol("==") => "_==_",
                TokenKind::Symbol("!=") => "_!=_",
                TokenKind::Ident if self.peek().text == "in" => "@in",
                _ => break,
            };
            self.enter(Rule::Relation)?;
            entered += 1;
            let at = self.advance().at;
            let id = self.nodes.id(at);
            let right = self.sum()?;
            left = call(id, function, None, vec![left, right]);
        }
        self.leave(Rule::Relation, entered);
        Ok(left)
    }

    fn sum(&mut self) -> Parse {
        let mut left = self.product()?;
        let mut entered = 0;
        loop {
            let function = match self.peek().kind {
                TokenKind::Symbol("+") => "_+_",
                TokenKind::Symbol("-") => "_-_",
                _ => break,
            };
            self.enter(Rule::Calc)?;
            entered += 1;
            let at = self.advance().at;
            let id = self.nodes.id(at);
            let right = self.product()?;
            left = call(id, function, None, vec![left, right]);
        }
        self.leave(Rule::Calc, entered);
        Ok(left)
    }

    fn product(&mut self) -> Parse {
        let mut left = self.unary()?;
        let mut entered = 0;
        loop {
            let function = match self.peek().kind {
                TokenKind::Symbol("*") => "_*_",
                TokenKind::Symbol("/") => "_/_",
                TokenKind::Symbol("%") => "_%_",
                _ => break,
            };
            self.enter(Rule::Calc)?;
            entered += 1;
            let at = self.advance().at;
            let id = self.nodes.id(at);
            let right = self.unary()?;
            left = call(id, function, None, vec![left, right]);
        }
        self.leave(Rule::Calc, entered);
        Ok(left)
    }

    fn unary(&mut self) -> Parse {
        for (symbol, function) in [("!", "!_"), ("-", "-_")] {
            if !self.is(symbol) {
                continue;
            }
            let number = |token: Option<&Token>| {
                token.is_some_and(|t| matches!(t.kind, TokenKind::Int | TokenKind::Float))
            };
            if symbol == "-" && number(self.tokens.get(self.next + 1)) {
                break;
            }
            let at = self.peek().at;
            let mut count = 0;
            while self.is(symbol) {
                if symbol == "-" && count > 0 && number(self.tokens.get(self.next + 1)) {
                    break;
                }
                self.advance();
                count += 1;
            }
            if count % 2 == 0 {
                return self.member();
            }
            let id = self.nodes.id(at);
            let operand = self.member()?;
            return Ok(call(id, function, None, vec![operand]));
        }
        self.member()
    }

    fn member(&mut self) -> Parse {
        let mut left = self.primary()?;
        let mut entered = 0;
        loop {
            if let Some(at) = self.take(".") {
                self.enter(Rule::Member)?;
                entered += 1;
                let optional = self.take("?").is_some();
                left = self.selection(left, at, optional)?;
            } else if let Some(at) = self.take("[") {
                self.enter(Rule::Member)?;
                entered += 1;
                let optional = self.take("?").is_some();
                let id = self.nodes.id(at);
                let index = self.expr()?;
                self.expect("]")?;
                let function = if optional { "_[?_]" } else { "_[_]" };
                left = call(id, function, None, vec![left, index]);
            } else {
                break;
            }
        }
        self.leave(Rule::Member, entered);
        Ok(left)
    }

    fn selection(&mut self, operand: Expr, at: usize, optional: bool) -> Parse {
        let (field, escaped, field_at) = self.field_name()?;
        if !optional
            && !escaped
            && let Some(open) = self.take("(")
        {
            let id = self.nodes.id(open);
            let args = self.arguments()?;
            return self.expand(id, field, Some(operand), args);
        }
        let id = self.nodes.id(at);
        if optional {
            let name = Expr {
                id: self.nodes.id(field_at),
                kind: Kind::Literal(Literal::String(field)),
            };
            return Ok(call(id, "_?._", None, vec![operand, name]));
        }
        Ok(Expr {
            id,
            kind: Kind::Select(Box::new(Select {
                operand,
                field,
                test: false,
            })),
        })
    }

    /// A field's name, whether it is in backquotes, and where it is.
    fn field_name(&mut self) -> Parse<(Name, bool, usize)> {
        match self.peek().kind.clone() {
            TokenKind::Ident
                if !matches!(self.peek().text.as_str(), "in" | "true" | "false" | "null") =>
            {
                let token = self.advance();
                Ok((token.text.into(), false, token.at))
            }
            TokenKind::Escaped(name) => Ok((name, true, self.advance().at)),
            _ => {
                let token = self.peek();
                let (at, text) = (token.at, shown(&token.text));
                self.fault(
                    at,
                    format!("Syntax error: no viable alternative at input '.{text}'"),
                );
                Err(Stop)
            }
        }
    }

    fn arguments(&mut self) -> Parse<Vec<Expr>> {
        let mut args = Vec::new();
        if self.take(")").is_some() {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect(")")?;
        Ok(args)
    }

    /// A call, or what the macro of that name makes of it.
    fn expand(
        &mut self,
        id: usize,
        function: Name,
        target: Option<Expr>,
        args: Vec<Expr>,
    ) -> Parse {
        match macros::expand(&mut self.nodes, id, &function, target, args) {
            Ok(kind) => Ok(kind),
            Err(macros::Fault { id, message }) => {
                let at = self.nodes.offsets[id];
                self.fault(at, message);
                // a stand-in; the expression is refused anyway
                Ok(Expr {
                    id,
                    kind: Kind::Literal(Literal::Null),
                })
            }
        }
    }

    fn primary(&mut self) -> Parse {
        let token = self.peek().clone();
        match &token.kind {
            TokenKind::Symbol("(") => {
                self.advance();
                let expr = self.expr()?;
                self.expect(")")?;
                Ok(expr)
            }
            TokenKind::Symbol("[") => self.list(),
            TokenKind::Symbol("{") => self.map(),
            TokenKind::Symbol("-") => {
                self.advance();
                self.literal(token.at, "-")
            }
            TokenKind::Symbol(".") => {
                self.advance();
                if self.peek().kind != TokenKind::Ident {
                    return self.unexpected("IDENTIFIER");
                }
                self.name(".")
            }
            TokenKind::Ident => match token.text.as_str() {
                "true" | "false" => {
                    self.advance();
                    Ok(self.constant(token.at, Literal::Bool(token.text == "true")))
                }
                "null" => {
                    self.advance();
                    Ok(self.constant(token.at, Literal::Null))
                }
                "in" => self.unexpected(EXPECTED),
                _ => self.name(""),
            },
            TokenKind::Int
            | TokenKind::Uint
            | TokenKind::Float
            | TokenKind::String(_)
            | TokenKind::Bytes(_) => self.literal(token.at, ""),
            TokenKind::Symbol(_) | TokenKind::Escaped(_) | TokenKind::End => {
                self.unexpected(EXPECTED)
            }
        }
    }

    fn constant(&mut self, at: usize, literal: Literal) -> Expr {
        Expr {
            id: self.nodes.id(at),
            kind: Kind::Literal(literal),
        }
    }

    fn literal(&mut self, at: usize, sign: &str) -> Parse {
        let token = self.advance();
        let text = &token.text;
        let literal = match token.kind {
            TokenKind::Int => {
                let value = match text.strip_prefix("0x") {
                    Some(hex) => i64::from_str_radix(&format!("{sign}{hex}"), 16),
                    None => format!("{sign}{text}").parse(),
                };
                value
                    .map(Literal::Int)
                    .map_err(|_| "invalid int literal".to_owned())
            }
            TokenKind::Uint => {
                let digits = text.trim_end_matches(['u', 'U']);
                let value = match digits.strip_prefix("0x") {
                    Some(hex) => u64::from_str_radix(hex, 16),
                    None => digits.parse(),
                };
                value
                    .map(Literal::Uint)
                    .map_err(|_| "invalid uint literal".to_owned())
            }
            TokenKind::Float => format!("{sign}{text}")
                .parse()
                .ok()
                .filter(|value: &f64| value.is_finite())
                .map(Literal::Double)
                .ok_or_else(|| "invalid double literal".to_owned()),
            TokenKind::String(text) => text.map(Literal::String),
            TokenKind::Bytes(bytes) => bytes.map(Literal::Bytes),
            _ => {
                self.next -= usize::from(self.next > 0);
                return self.unexpected(EXPECTED);
            }
        };
        let literal = literal.unwrap_or_else(|message| {
            self.fault(at, message);
            Literal::Null
        });
        Ok(self.constant(at, literal))
    }

    /// A variable, a call of a function, or a message.
    fn name(&mut self, dot: &str) -> Parse {
        let token = self.advance();
        let (at, mut name) = (token.at, format!("{dot}{}", token.text));
        if let Some(end) = self.message_follows() {
            while self.next < end {
                self.advance();
                name.push('.');
                name.push_str(&self.advance().text);
            }
            let open = self.advance().at;
            return self.message(open, name.trim_start_matches('.').into());
        }
        if RESERVED.contains(&token.text.as_str()) {
            self.fault(at, format!("reserved identifier: {}", token.text));
        }
        if let Some(open) = self.take("(") {
            let id = self.nodes.id(open);
            let args = self.arguments()?;
            return self.expand(id, name.into(), None, args);
        }
        Ok(Expr {
            id: self.nodes.id(at),
            kind: Kind::Ident(name.into()),
        })
    }

    /// Where the brace is that makes a message of the names that follow.
    fn message_follows(&self) -> Option<usize> {
        let mut at = self.next;
        loop {
            match &self.tokens.get(at)?.kind {
                TokenKind::Symbol("{") => return Some(at),
                TokenKind::Symbol(".") if self.tokens.get(at + 1)?.kind == TokenKind::Ident => {
                    at += 2;
                }
                _ => return None,
            }
        }
    }

    fn message(&mut self, open: usize, name: Name) -> Parse {
        let id = self.nodes.id(open);
        let mut fields = Vec::new();
        while !self.is("}") {
            let optional = self.take("?").is_some();
            let (name, _, _) = self.field_name()?;
            let at = self.expect(":")?;
            let field = self.nodes.id(at);
            let value = self.expr()?;
            fields.push(Field {
                id: field,
                name,
                value,
                optional,
            });
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect("}")?;
        Ok(Expr {
            id,
            kind: Kind::Struct(name, fields),
        })
    }

    fn list(&mut self) -> Parse {
        let at = self.advance().at;
        let id = self.nodes.id(at);
        let mut elements = Vec::new();
        while !self.is("]") {
            let optional = self.take("?").is_some();
            let value = self.expr()?;
            elements.push(Element { value, optional });
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect("]")?;
        Ok(Expr {
            id,
            kind: Kind::List(elements),
        })
    }

    fn map(&mut self) -> Parse {
        let at = self.advance().at;
        let id = self.nodes.id(at);
        let mut entries = Vec::new();
        while !self.is("}") {
            let optional = self.take("?").is_some();
            let key = self.expr()?;
            self.expect(":")?;
            let value = self.expr()?;
            entries.push(Entry {
                key,
                value,
                optional,
            });
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect("}")?;
        Ok(Expr {
            id,
            kind: Kind::Map(entries),
        })
    }
}

/// A token's text as messages quote it.
fn shown(text: &str) -> String {
    text.replace('\n', "\\n")
        .replace('\r', "\\r")
        .replace('\t', "\\t")
}

/// A call's node.
pub(crate) fn call(id: usize, function: &str, target: Option<Expr>, args: Vec<Expr>) -> Expr {
    Expr {
        id,
        kind: Kind::Call(Box::new(Call {
            function: Arc::from(function),
            target,
            args,
        })),
    }
}

fn balance(terms: &mut [Option<Expr>], ids: &[usize], function: &str) -> Expr {
    if ids.is_empty() {
        // one term is left, and each is taken once
        return terms[0].take().unwrap_or(Expr {
            id: 0,
            kind: Kind::Literal(Literal::Null),
        });
    }
    let middle = ids.len() / 2;
    let (left, right) = terms.split_at_mut(middle + 1);
    let left = balance(left, &ids[..middle], function);
    let right = balance(right, &ids[middle + 1..], function);
    call(ids[middle], function, None, vec![left, right])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(source: &str) -> String {
        parse(source).unwrap_err().to_string()
    }

    #[test]
    fn faults_are_told_in_upstreams_words() {
        assert!(error("1 +").starts_with(
            "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'['"
        ));
        assert_eq!(
            error("let"),
            "ERROR: <input>:1:1: reserved identifier: let\n | let\n | ^"
        );
        assert!(error("99999999999999999999").contains("invalid int literal"));
        assert!(error("[1, 2].all(1, true)").contains("1:12: argument must be a simple name"));
        assert!(error("a #").contains("token recognition error at: '#'"));
        assert!(error("a )").contains("extraneous input ')' expecting <EOF>"));
        assert!(error("has(a)").contains("invalid argument to has() macro"));
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let limit = "ERROR: <input>:-1:0: expression recursion limit exceeded: 250";
        assert_eq!(
            error(&format!("{}1{}", "(".repeat(300), ")".repeat(300))),
            limit
        );
        assert_eq!(error(&format!("{}1", "1+".repeat(300))), limit);
        assert_eq!(error(&format!("a{}", ".b".repeat(300))), limit);
        assert_eq!(error(&format!("{}]", "[".repeat(100_000 - 1))), limit);
        assert!(parse(&format!("{}true", "true&&".repeat(5000))).is_ok());
        assert!(
            error(&"1".repeat(100_001)).contains("size exceeds limit: size: 100001, limit 100000")
        );
    }

    #[test]
    fn signs_belong_to_numbers() {
        assert!(parse("-9223372036854775808").is_ok());
        assert!(parse("1 - -1").is_ok());
        assert!(parse("-a.b - -(-3)").is_ok());
        assert!(parse("!!true").is_ok());
    }
}
