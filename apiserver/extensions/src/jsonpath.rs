//! The JSONPath of columns and selectable fields: kubectl's, as far as simple paths go.
//!
//! Fields, quoted keys, indexes, slices, wildcards, recursive descent and filters by comparison are understood.

use serde_json::Value;

/// A compiled path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>, i64),
    Wildcard,
    Recursive,
    Filter(Vec<Step>, Option<(Operator, Operand)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Literal(Value),
    Path(Vec<Step>),
}

const DEPTH: usize = 64;

impl JsonPath {
    /// Compiles what stands between braces. The error is a short sentence.
    pub fn parse(text: &str) -> Result<JsonPath, String> {
        let mut parser = Parser {
            rest: text.trim(),
            depth: 0,
        };
        let steps = parser.steps(false)?;
        if parser.rest.is_empty() {
            Ok(JsonPath { steps })
        } else {
            Err(format!(
                "unrecognized character in action: {:?}",
                parser.rest
            ))
        }
    }

    /// All values the path leads to; missing keys lead to none.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        find(vec![value], &self.steps)
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn eat(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn steps(&mut self, inside: bool) -> Result<Vec<Step>, String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err("the path is nested too deeply".to_owned());
        }
        let mut steps = Vec::new();
        loop {
            if self.eat("..") {
                steps.push(Step::Recursive);
                if !self.rest.starts_with('[') {
                    self.name(&mut steps);
                }
            } else if self.eat(".") {
                self.name(&mut steps);
            } else if self.eat("[") {
                steps.push(self.bracket()?);
            } else if self.eat("@") || self.eat("$") {
                // The object itself.
            } else if inside || self.rest.is_empty() {
                break;
            } else if steps.is_empty()
                && self
                    .rest
                    .starts_with(|c: char| c.is_alphanumeric() || c == '_')
            {
                self.name(&mut steps);
            } else {
                return Err(format!("unrecognized character in action: {:?}", self.rest));
            }
        }
        self.depth -= 1;
        Ok(steps)
    }

    /// A name behind a dot; a backslash takes the next character as it is.
    fn name(&mut self, steps: &mut Vec<Step>) {
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, c)| c)),
                '.' | '[' | ']' | ' ' | ')' | '=' | '!' | '<' | '>' | ',' | '\n' | '\t' => {
                    end = at;
                    break;
                }
                c => name.push(c),
            }
        }
        self.rest = &self.rest[end..];
        match name.as_str() {
            "" => {}
            "*" => steps.push(Step::Wildcard),
            _ => steps.push(Step::Field(name)),
        }
    }

    fn bracket(&mut self) -> Result<Step, String> {
        self.rest = self.rest.trim_start();
        if self.eat("?(") {
            return self.filter();
        }
        if let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"')) {
            let Operand::Literal(Value::String(name)) = self.quoted(quote)? else {
                return Err("unterminated array".to_owned());
            };
            return self.close(Step::Field(name));
        }
        if self.eat("*") {
            return self.close(Step::Wildcard);
        }
        let end = self.rest.find(']').ok_or("unterminated array")?;
        let inner = self.rest[..end].trim().to_owned();
        self.rest = &self.rest[end..];
        let number = |text: &str| -> Result<Option<i64>, String> {
            match text.trim() {
                "" => Ok(None),
                text => text
                    .parse()
                    .map(Some)
                    .map_err(|_| format!("invalid array index {inner}")),
            }
        };
        let parts: Vec<&str> = inner.split(':').collect();
        let step = match parts[..] {
            [one] => {
                Step::Index(number(one)?.ok_or_else(|| format!("invalid array index {inner}"))?)
            }
            [from, to] => Step::Slice(number(from)?, number(to)?, 1),
            [from, to, by] => {
                Step::Slice(number(from)?, number(to)?, number(by)?.unwrap_or(1).max(1))
            }
            _ => return Err(format!("invalid array index {inner}")),
        };
        self.close(step)
    }

    fn close(&mut self, step: Step) -> Result<Step, String> {
        self.rest = self.rest.trim_start();
        if self.eat("]") {
            Ok(step)
        } else {
            Err("unterminated array".to_owned())
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Operand, String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => text.extend(chars.next().map(|(_, c)| c)),
                c if c == quote => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Ok(Operand::Literal(Value::String(text)));
                }
                c => text.push(c),
            }
        }
        Err("unterminated quoted string".to_owned())
    }

    fn filter(&mut self) -> Result<Step, String> {
        self.rest = self.rest.trim_start();
        let left = self.steps(true)?;
        self.rest = self.rest.trim_start();
        const OPERATORS: [(&str, Operator); 6] = [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<=", Operator::LessOrEqual),
            (">=", Operator::GreaterOrEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let mut test = None;
        if let Some((text, operator)) = OPERATORS.iter().find(|(t, _)| self.rest.starts_with(t)) {
            self.rest = self.rest[text.len()..].trim_start();
            test = Some((*operator, self.operand()?));
        }
        self.rest = self.rest.trim_start();
        if !self.eat(")") {
            return Err("unterminated filter".to_owned());
        }
        self.close(Step::Filter(left, test))
    }

    fn operand(&mut self) -> Result<Operand, String> {
        match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => self.quoted(quote),
            Some('@' | '$' | '.') => Ok(Operand::Path(self.steps(true)?)),
            _ => {
                let end = self.rest.find([')', ' ']).unwrap_or(self.rest.len());
                let word = &self.rest[..end];
                let value = serde_json::from_str(word)
                    .map_err(|_| format!("unrecognized literal {word:?} in a filter"))?;
                self.rest = &self.rest[end..];
                Ok(Operand::Literal(value))
            }
        }
    }
}

fn find<'v>(mut at: Vec<&'v Value>, steps: &[Step]) -> Vec<&'v Value> {
    for step in steps {
        let mut next = Vec::new();
        for value in at {
            take(value, step, &mut next);
        }
        at = next;
    }
    at
}

fn take<'v>(value: &'v Value, step: &Step, found: &mut Vec<&'v Value>) {
    match (step, value) {
        (Step::Field(name), Value::Object(map)) => found.extend(map.get(name)),
        (Step::Index(at), Value::Array(items)) => {
            let len = i64::try_from(items.len()).unwrap_or(i64::MAX);
            let at = if *at < 0 { at + len } else { *at };
            found.extend(usize::try_from(at).ok().and_then(|at| items.get(at)));
        }
        (Step::Slice(from, to, by), Value::Array(items)) => {
            let len = i64::try_from(items.len()).unwrap_or(i64::MAX);
            let place = |at: i64| {
                usize::try_from(if at < 0 { at + len } else { at }.clamp(0, len)).unwrap_or(0)
            };
            let (from, to) = (place(from.unwrap_or(0)), place(to.unwrap_or(len)));
            let by = usize::try_from(*by).unwrap_or(1).max(1);
            if from < to {
                found.extend(items[from..to].iter().step_by(by));
            }
        }
        (Step::Wildcard, Value::Array(items)) => found.extend(items),
        (Step::Wildcard, Value::Object(map)) => found.extend(map.values()),
        (Step::Recursive, _) => descend(value, found),
        (Step::Filter(left, test), Value::Array(items)) => {
            found.extend(items.iter().filter(|item| holds(item, left, test.as_ref())));
        }
        _ => {}
    }
}

fn descend<'v>(value: &'v Value, found: &mut Vec<&'v Value>) {
    found.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|v| descend(v, found)),
        Value::Object(map) => map.values().for_each(|v| descend(v, found)),
        _ => {}
    }
}

fn holds(item: &Value, left: &[Step], test: Option<&(Operator, Operand)>) -> bool {
    let Some(left) = find(vec![item], left).first().copied() else {
        return false;
    };
    let Some((operator, right)) = test else {
        return true;
    };
    let right = match right {
        Operand::Literal(value) => value,
        Operand::Path(steps) => match find(vec![item], steps).first() {
            Some(value) => value,
            None => return false,
        },
    };
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    match operator {
        Operator::Equal => left == right || order.is_some_and(|o| o.is_eq()),
        Operator::NotEqual => left != right && order.is_none_or(|o| o.is_ne()),
        Operator::Less => order.is_some_and(|o| o.is_lt()),
        Operator::LessOrEqual => order.is_some_and(|o| o.is_le()),
        Operator::Greater => order.is_some_and(|o| o.is_gt()),
        Operator::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_where_kubectl_goes() {
        let value = json!({"spec": {"a": [1, 2, 3], "c": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "False"}]},
            "metadata": {"labels": {"a.b/c": "v"}}});
        for (path, expected) in [
            (".spec.a[1]", json!([2])),
            (".spec.a[-1]", json!([3])),
            (".spec.a[0:2]", json!([1, 2])),
            (".spec.c[?(@.type==\"Ready\")].status", json!(["True"])),
            (".spec.c[?(@.type!='Ready')].type", json!(["X"])),
            (".metadata.labels.a\\.b/c", json!(["v"])),
            (".metadata.labels['a.b/c']", json!(["v"])),
            (".spec.missing.deep", json!([])),
            ("..status", json!(["True", "False"])),
            (".spec.a[*]", json!([1, 2, 3])),
        ] {
            let found = JsonPath::parse(path).unwrap();
            assert_eq!(json!(found.find(&value)), expected, "{path}");
        }
        for bad in [".a[", ".a[x]", ".a[?(@.b", ".a['b", ".a{"] {
            let _ = JsonPath::parse(bad).map(|p| p.find(&value).len());
        }
        assert!(JsonPath::parse(&"[?(@".repeat(1000)).is_err());
    }
}
