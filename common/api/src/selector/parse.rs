//! kubectl's syntax of label selectors: a lexer and a recursive-descent parser.

use super::{Operator, Requirement, SelectorError};
use crate::field;
use crate::names;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

type Item = (Token, String);

fn error<T>(message: String) -> Result<T, SelectorError> {
    Err(SelectorError(message))
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn symbol(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "(" => Token::Open,
        _ => return None,
    })
}

/// Longest match among the symbols, then identifiers and the two keywords.
fn lex(text: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n']);
    while let Some(first) = rest.chars().next() {
        let taken = if is_special(first) {
            let two = rest.get(..2).filter(|t| symbol(t).is_some());
            let lexeme = two.unwrap_or(&rest[..1]);
            items.push((symbol(lexeme).unwrap_or(Token::Error), lexeme.to_string()));
            lexeme.len()
        } else {
            let end = rest
                .find(|c: char| is_special(c) || matches!(c, ' ' | '\t' | '\r' | '\n'))
                .unwrap_or(rest.len());
            let word = &rest[..end];
            let token = match word {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Identifier,
            };
            items.push((token, word.to_string()));
            end
        };
        rest = rest[taken..].trim_start_matches([' ', '\t', '\r', '\n']);
    }
    items.push((Token::End, String::new()));
    items
}

struct Parser {
    items: Vec<Item>,
    position: usize,
}

impl Parser {
    /// The next item where a key or value may stand: there the keywords are plain words.
    fn peek(&self) -> (Token, &str) {
        let (token, text) = &self.items[self.position.min(self.items.len() - 1)];
        let token = if matches!(token, Token::In | Token::NotIn) {
            Token::Identifier
        } else {
            *token
        };
        (token, text)
    }

    fn next(&mut self) -> Item {
        let (token, text) = self.peek();
        let item = (token, text.to_string());
        self.position += 1;
        item
    }

    fn next_operator(&mut self) -> Item {
        let item = self.items[self.position.min(self.items.len() - 1)].clone();
        self.position += 1;
        item
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (mut token, mut text) = self.next();
        let negated = token == Token::Not;
        if negated {
            (token, text) = self.next();
        }
        if token != Token::Identifier {
            return error(format!("found '{text}', expected: identifier"));
        }
        let key = text;
        let faults = names::qualified_name(&key);
        if !faults.is_empty() {
            // The key's path is a nil one upstream, and prints so.
            return error(format!(
                "<nil>: Invalid value: {}: {}",
                field::quote(&key),
                faults.join("; ")
            ));
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, Vec::new());
        }
        let (token, text) = self.next_operator();
        let operator = match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => {
                return error(format!(
                    "found '{text}', expected: in, notin, =, ==, !=, gt, lt"
                ));
            }
        };
        let values = if matches!(operator, Operator::In | Operator::NotIn) {
            self.values()?
        } else {
            vec![self.exact_value()?]
        };
        Requirement::new(&key, operator, values)
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        let (token, text) = self.next();
        if token == Token::Identifier {
            Ok(text)
        } else {
            error(format!("found '{text}', expected: identifier"))
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        let (token, text) = self.next();
        if token != Token::Open {
            return error(format!("found '{text}' expected: '('"));
        }
        let (token, text) = self.peek();
        match token {
            Token::Identifier | Token::Comma => {
                let first = text.to_string();
                let mut values = self.identifiers()?;
                if self.next().0 != Token::Close {
                    return error(format!("found '{first}', expected: ')'"));
                }
                values.sort_unstable();
                values.dedup();
                Ok(values)
            }
            Token::Close => {
                self.next();
                Ok(vec![String::new()])
            }
            _ => error(format!("found '{text}', expected: ',', ')' or identifier")),
        }
    }

    fn identifiers(&mut self) -> Result<Vec<String>, SelectorError> {
        let mut values = Vec::new();
        loop {
            let (token, text) = self.next();
            match token {
                Token::Identifier => {
                    values.push(text);
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, other) => {
                            return error(format!("found '{other}', expected: ',' or ')'"));
                        }
                    }
                }
                Token::Comma => {
                    // "(,", ",," and ",)" each stand for an empty value.
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek().0 {
                        Token::Close => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        Token::Comma => values.push(String::new()),
                        _ => {}
                    }
                }
                _ => return error(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }
}

/// The requirements in `text`.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser {
        items: lex(text),
        position: 0,
    };
    let mut requirements = Vec::new();
    loop {
        match parser.peek() {
            (Token::Identifier | Token::Not, _) => {
                let requirement = parser
                    .requirement()
                    .map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?;
                requirements.push(requirement);
                let (token, text) = parser.next();
                match token {
                    Token::End => return Ok(requirements),
                    Token::Comma => {
                        if let (token, text) = parser.peek()
                            && !matches!(token, Token::Identifier | Token::Not)
                        {
                            return error(format!(
                                "found '{text}', expected: identifier after ','"
                            ));
                        }
                    }
                    _ => return error(format!("found '{text}', expected: ',' or 'end of string'")),
                }
            }
            (Token::End, _) => return Ok(requirements),
            (_, text) => {
                return error(format!(
                    "found '{text}', expected: !, identifier, or 'end of string'"
                ));
            }
        }
    }
}
