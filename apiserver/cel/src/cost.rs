//! What expressions cost, in cel-go's and Kubernetes' units: estimated here, before they are evaluated; [`calls`] counts meanwhile.

mod calls;

use std::sync::Arc;

use crate::ast::{ACCUMULATOR, Call, Expr, Fold, Kind, Literal, Name};
use crate::check::Checked;
use crate::decl::{Decl, DeclKind};
use crate::environment::Environment;
use crate::types::Type;

pub(crate) use calls::call;

const TRAVERSAL: f64 = 0.1;
const REGEX: f64 = 0.25;

/// The least and the most that something costs, or how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
}

const UNKNOWN: Cost = Cost {
    min: 0,
    max: u64::MAX,
};

fn scaled(n: u64, factor: f64) -> u64 {
    // floats saturate when they become integers
    (n as f64 * factor).ceil() as u64
}

impl Cost {
    const fn fixed(n: u64) -> Cost {
        Cost { min: n, max: n }
    }

    fn plus(self, other: Cost) -> Cost {
        Cost {
            min: self.min.saturating_add(other.min),
            max: self.max.saturating_add(other.max),
        }
    }

    fn times(self, other: Cost) -> Cost {
        Cost {
            min: self.min.saturating_mul(other.min),
            max: self.max.saturating_mul(other.max),
        }
    }

    fn factor(self, factor: f64) -> Cost {
        Cost {
            min: scaled(self.min, factor),
            max: scaled(self.max, factor),
        }
    }

    fn union(self, other: Cost) -> Cost {
        Cost {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }
}

/// Where in the declared types a node's value comes from.
#[derive(Clone, Default)]
enum Path {
    /// It is made by the expression.
    #[default]
    Nowhere,
    /// It comes from a variable, but nothing is declared of it.
    Lost,
    /// It is of this declared type.
    At(Arc<Decl>),
}

/// The sizes of what a list or map holds.
#[derive(Clone, Copy)]
struct Entries {
    list: bool,
    key: Cost,
    value: Cost,
}

#[derive(Clone, Default)]
struct Node {
    path: Path,
    size: Option<Cost>,
    entries: Option<Entries>,
}

struct Variable {
    name: Name,
    node: Node,
}

struct Estimator<'e> {
    environment: &'e Environment,
    checked: &'e Checked,
    nodes: Vec<Node>,
    locals: Vec<Variable>,
}

/// What the evaluation of an expression costs.
pub(crate) fn estimate(environment: &Environment, expr: &Expr, checked: &Checked) -> Cost {
    let mut estimator = Estimator {
        environment,
        checked,
        nodes: vec![Node::default(); checked.types.len()],
        locals: Vec::new(),
    };
    estimator.cost(expr)
}

/// What a function is called with, as estimates look at it.
struct Operand {
    path: Path,
    size: Option<Cost>,
    ty: Type,
    literal: Option<i64>,
    entries: Option<Entries>,
}

/// What a call costs, without its arguments, and how large its result is.
struct CallCost {
    cost: Cost,
    size: Option<Cost>,
}

impl CallCost {
    fn of(cost: Cost) -> CallCost {
        CallCost { cost, size: None }
    }

    fn sized(cost: Cost, size: Cost) -> CallCost {
        CallCost {
            cost,
            size: Some(size),
        }
    }
}

impl Estimator<'_> {
    fn ty(&self, expr: &Expr) -> &Type {
        &self.checked.types[expr.id]
    }

    fn local(&self, name: &str) -> Option<&Variable> {
        self.locals.iter().rev().find(|local| *local.name == *name)
    }

    fn path(&self, expr: &Expr) -> Path {
        if let Kind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.node.path.clone();
        }
        self.nodes[expr.id].path.clone()
    }

    /// The path one step further. A step from nowhere starts at the root, as upstream's paths do.
    fn step(&self, from: &Path, into: impl Fn(&Decl) -> Option<Arc<Decl>>) -> Path {
        match from {
            Path::Nowhere => self
                .environment
                .root()
                .cloned()
                .map_or(Path::Lost, Path::At),
            Path::Lost => Path::Lost,
            Path::At(decl) => into(decl).map_or(Path::Lost, Path::At),
        }
    }

    fn declared(&self, path: &Path) -> Option<Cost> {
        match path {
            Path::At(decl) if self.environment.root().is_some() => Some(Cost {
                min: 0,
                max: decl.max_elements,
            }),
            _ => None,
        }
    }

    fn size(&self, expr: &Expr) -> Option<Cost> {
        if let Some(size) = self.nodes[expr.id].size {
            return Some(size);
        }
        match &expr.kind {
            Kind::Literal(Literal::String(text)) => {
                return Some(Cost::fixed(text.chars().count() as u64));
            }
            Kind::Literal(Literal::Bytes(bytes)) => return Some(Cost::fixed(bytes.len() as u64)),
            Kind::Literal(_) => return Some(Cost::fixed(1)),
            Kind::List(list) => return Some(Cost::fixed(list.len() as u64)),
            Kind::Map(map) => return Some(Cost::fixed(map.len() as u64)),
            _ => {}
        }
        if let Some(size) = self.declared(&self.path(expr)) {
            return Some(size);
        }
        if is_scalar(self.ty(expr)) {
            return Some(Cost::fixed(1));
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name)?.node.size,
            _ => None,
        }
    }

    fn size_or_unknown(&self, expr: &Expr) -> Cost {
        self.size(expr).unwrap_or(UNKNOWN)
    }

    fn entries(&self, expr: &Expr) -> Option<Entries> {
        self.nodes[expr.id].entries.or_else(|| match &expr.kind {
            Kind::Ident(name) => self.local(name)?.node.entries,
            _ => None,
        })
    }

    fn cost(&mut self, expr: &Expr) -> Cost {
        stacker::maybe_grow(128 * 1024, 1024 * 1024, || self.node(expr))
    }

    fn node(&mut self, expr: &Expr) -> Cost {
        match &expr.kind {
            Kind::Literal(_) => Cost::fixed(0),
            Kind::Ident(name) => {
                self.nodes[expr.id].path = match self.local(name) {
                    Some(local) => local.node.path.clone(),
                    None => match self.environment.variable_decl(name) {
                        Some(_) => self
                            .environment
                            .root()
                            .cloned()
                            .map_or(Path::Lost, Path::At),
                        None => Path::Lost,
                    },
                };
                Cost::fixed(1)
            }
            Kind::Select(select) => {
                let cost = self.cost(&select.operand);
                if select.test {
                    return cost;
                }
                let path = self.path(&select.operand);
                self.nodes[expr.id].path = self.step(&path, |decl| match &decl.kind {
                    DeclKind::Object(object) => object.field(&select.field).map(|f| f.decl.clone()),
                    _ => None,
                });
                let charged = matches!(
                    self.ty(&select.operand),
                    Type::Map(_) | Type::Object(_) | Type::Param(_)
                );
                cost.plus(Cost::fixed(u64::from(charged)))
            }
            Kind::Call(call) => self.call(expr, call),
            Kind::List(elements) => {
                let mut cost = Cost::fixed(10);
                let mut size: Option<Cost> = None;
                for element in elements {
                    cost = cost.plus(self.cost(&element.value));
                    let own = self.size_or_unknown(&element.value);
                    size = Some(size.map_or(own, |size| size.union(own)));
                }
                self.nodes[expr.id].entries = Some(Entries {
                    list: true,
                    key: Cost::fixed(1),
                    value: size.unwrap_or(Cost::fixed(0)),
                });
                cost
            }
            Kind::Map(entries) => {
                let mut cost = Cost::fixed(30);
                let (mut key, mut value): (Option<Cost>, Option<Cost>) = (None, None);
                for entry in entries {
                    cost = cost
                        .plus(self.cost(&entry.key))
                        .plus(self.cost(&entry.value));
                    let (k, v) = (
                        self.size_or_unknown(&entry.key),
                        self.size_or_unknown(&entry.value),
                    );
                    key = Some(key.map_or(k, |key| key.union(k)));
                    value = Some(value.map_or(v, |value| value.union(v)));
                }
                self.nodes[expr.id].entries = Some(Entries {
                    list: false,
                    key: key.unwrap_or(Cost::fixed(0)),
                    value: value.unwrap_or(Cost::fixed(0)),
                });
                cost
            }
            Kind::Struct(_, fields) => fields.iter().fold(Cost::fixed(40), |cost, field| {
                cost.plus(self.cost(&field.value))
            }),
            Kind::Fold(fold) => match expr.as_bind() {
                Some(bind) => self.bind(expr, bind),
                None => self.fold(expr, fold),
            },
        }
    }

    fn bind(&mut self, expr: &Expr, fold: &Fold) -> Cost {
        let cost = self.cost(&fold.range).plus(self.cost(&fold.init));
        let node = Node {
            path: self.path(&fold.init),
            size: self.size(&fold.init),
            entries: self.entries(&fold.init),
        };
        self.locals.push(Variable {
            name: fold.accu.clone(),
            node,
        });
        let cost = cost.plus(self.cost(&fold.result));
        let (size, entries) = (self.size(&fold.result), self.entries(&fold.result));
        self.locals.pop();
        self.nodes[expr.id].size = size;
        self.nodes[expr.id].entries = entries;
        cost
    }

    /// The variable that goes over a range's keys, or its values.
    fn iterated(&self, range: &Expr, keys: bool) -> Node {
        let entries = self.entries(range);
        let list = entries.map_or(matches!(self.ty(range), Type::List(_)), |e| e.list);
        let path = self.step(&self.path(range), |decl| match &decl.kind {
            DeclKind::List(element, _) if !keys => Some(element.clone()),
            DeclKind::Map(_) if keys && !list => Some(Decl::key()),
            DeclKind::Map(value) if !keys => Some(value.clone()),
            _ => None,
        });
        Node {
            path,
            size: entries.map(|e| if keys { e.key } else { e.value }),
            entries: None,
        }
    }

    fn fold(&mut self, expr: &Expr, fold: &Fold) -> Cost {
        let mut cost = self.cost(&fold.range).plus(self.cost(&fold.init));
        let depth = self.locals.len();
        let accu = Node {
            path: Path::Lost,
            size: self.size(&fold.init),
            entries: self.entries(&fold.init),
        };
        self.locals.push(Variable {
            name: fold.accu.clone(),
            node: accu,
        });
        let entries = self.entries(&fold.range);
        let list = entries.map_or(matches!(self.ty(&fold.range), Type::List(_)), |e| e.list);
        let first = self.iterated(&fold.range, fold.var2.is_some() || !list);
        self.locals.push(Variable {
            name: fold.var.clone(),
            node: first,
        });
        if let Some(var2) = &fold.var2 {
            let second = self.iterated(&fold.range, false);
            self.locals.push(Variable {
                name: var2.clone(),
                node: second,
            });
        }
        let condition = self.cost(&fold.condition);
        let step = self.cost(&fold.step);
        let step_entries = self.entries(&fold.step);
        self.locals.truncate(depth + 1);
        cost = cost.plus(self.cost(&fold.result));
        self.locals.truncate(depth);
        let range = self.size_or_unknown(&fold.range);
        cost = cost.plus(range.times(step.plus(condition)));
        match &fold.init.kind {
            Kind::Literal(_) => self.nodes[expr.id].size = self.size(&fold.init),
            Kind::List(_) | Kind::Map(_) => {
                self.nodes[expr.id].size = Some(range);
                if step_entries.is_some() {
                    self.nodes[expr.id].entries = step_entries;
                }
            }
            _ => {}
        }
        cost
    }

    fn operand(&self, expr: &Expr) -> Operand {
        let accumulator = matches!(&expr.kind, Kind::Ident(name) if &**name == ACCUMULATOR);
        Operand {
            path: if accumulator {
                Path::Nowhere
            } else {
                self.path(expr)
            },
            size: self.size(expr),
            ty: self.ty(expr).clone(),
            literal: match expr.kind {
                Kind::Literal(Literal::Int(n)) => Some(n),
                _ => None,
            },
            entries: self.entries(expr),
        }
    }

    fn call(&mut self, expr: &Expr, call: &Call) -> Cost {
        if &*call.function == "dyn" && call.args.len() == 1 {
            let cost = self.cost(&call.args[0]).plus(Cost::fixed(1));
            self.nodes[expr.id].size = self.size(&call.args[0]);
            self.nodes[expr.id].entries = self.entries(&call.args[0]);
            return cost;
        }
        let mut costs = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            costs.push(self.cost(arg));
        }
        let args: Vec<Operand> = call.args.iter().map(|arg| self.operand(arg)).collect();
        let Some(resolved) = self.checked.calls[expr.id].clone() else {
            return Cost::fixed(0);
        };
        let mut before = Cost::fixed(0);
        let target = call.target.as_ref().map(|target| {
            before = self.cost(target);
            self.operand(target)
        });
        let sum = costs
            .iter()
            .fold(Cost::fixed(0), |sum, cost| sum.plus(*cost));
        let (mut total, mut size): (Option<Cost>, Option<Cost>) = (None, None);
        for overload in resolved.overloads {
            let own = match overload {
                "logical_or" | "logical_and" => CallCost::of(Cost {
                    min: costs[0].min,
                    max: sum.max,
                }),
                "conditional" => {
                    let unknown = |o: &Operand| o.size.unwrap_or(UNKNOWN);
                    let entries = args[1]
                        .entries
                        .zip(args[2].entries)
                        .map(|(a, b)| joined(a, b));
                    self.nodes[expr.id].entries = entries;
                    CallCost::sized(
                        costs[0].plus(costs[1].union(costs[2])),
                        unknown(&args[1]).union(unknown(&args[2])),
                    )
                }
                _ => {
                    let own = self.function(&call.function, overload, target.as_ref(), &args);
                    CallCost {
                        cost: own.cost.plus(sum),
                        ..own
                    }
                }
            };
            total = Some(total.map_or(own.cost, |total| total.union(own.cost)));
            size = match (size, own.size) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            if matches!(overload, "add_list" | "add_string" | "add_bytes")
                && let Some((a, b)) = args[0].entries.zip(args[1].entries)
            {
                self.nodes[expr.id].entries = Some(joined(a, b));
            }
            if matches!(overload, "index_list" | "index_map") {
                size = args[0].entries.map(|e| e.value);
                self.nodes[expr.id].path = self.step(&args[0].path, |decl| match &decl.kind {
                    DeclKind::List(element, _) if overload == "index_list" => Some(element.clone()),
                    DeclKind::Map(value) if overload == "index_map" => Some(value.clone()),
                    _ => None,
                });
            }
            if size.is_none() {
                size = self.size(expr);
            }
        }
        if size.is_some() {
            self.nodes[expr.id].size = size;
        }
        before.plus(total.unwrap_or(Cost::fixed(0)))
    }

    fn element_size(&self, list: &Operand) -> Option<(Type, Cost)> {
        let element = match &list.ty {
            Type::List(element) => (**element).clone(),
            Type::Map(pair) => pair.0.clone(),
            _ => return None,
        };
        let path = match &list.path {
            Path::Nowhere => Path::Nowhere,
            path => self.step(path, |decl| match &decl.kind {
                DeclKind::List(element, _) | DeclKind::Map(element) => Some(element.clone()),
                _ => None,
            }),
        };
        Some((element, self.declared(&path).unwrap_or(UNKNOWN)))
    }

    fn function(
        &self,
        function: &str,
        overload: &str,
        target: Option<&Operand>,
        args: &[Operand],
    ) -> CallCost {
        let size = |operand: &Operand| operand.size.unwrap_or(UNKNOWN);
        let one = CallCost::of(Cost::fixed(1));
        let first = args.first().map(size);
        match (function, target, first) {
            ("check", ..) => CallCost::of(Cost::fixed(350_000)),
            ("fieldSelector" | "labelSelector", _, Some(size)) => CallCost::of(selector(size)),
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(target), _) => {
                CallCost::of(match self.element_size(target) {
                    Some((Type::String | Type::Bytes, element)) => {
                        size(target).times(Cost::fixed(1).plus(element.factor(TRAVERSAL)))
                    }
                    Some(_) => size(target),
                    None => size(target).factor(TRAVERSAL),
                })
            }
            ("url" | "jsonpatch.escapeKey", _, Some(size)) => {
                CallCost::sized(size.factor(TRAVERSAL), size)
            }
            ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(target), _) => {
                CallCost::sized(size(target).factor(TRAVERSAL), size(target))
            }
            ("replace", Some(target), Some(from)) if args.len() >= 2 => {
                replaced(size(target), from, size(&args[1]))
            }
            ("split", Some(target), _) => {
                let sz = size(target);
                let limit = args.get(1).and_then(|arg| arg.literal);
                let max = limit.map_or(sz.max, |n| n as u64);
                CallCost::sized(sz.factor(2.0 * TRAVERSAL), Cost { min: 0, max })
            }
            ("join", Some(target), separator) => {
                let list = size(target);
                let mut total = self
                    .element_size(target)
                    .map_or(Cost::fixed(0), |(_, element)| list.times(element));
                if let Some(separator) = separator {
                    let gaps = Cost {
                        min: list.min.saturating_sub(1),
                        max: list.max.saturating_sub(1),
                    };
                    total = total.plus(separator.times(gaps));
                }
                CallCost::sized(total.factor(TRAVERSAL), total)
            }
            ("find" | "findAll", Some(target), Some(pattern)) => {
                let sz = size(target);
                let text = sz.plus(Cost::fixed(1)).factor(TRAVERSAL);
                CallCost::sized(
                    text.times(pattern.factor(REGEX)),
                    Cost {
                        min: 0,
                        max: sz.max,
                    },
                )
            }
            ("ip", ..) if overload == "cidr_ip" => one,
            (
                "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver"
                | "isSemver",
                _,
                Some(size),
            ) => CallCost::of(size.factor(TRAVERSAL)),
            ("ip.isCanonical", _, Some(size)) => CallCost::of(size.factor(2.0 * TRAVERSAL)),
            ("containsIP" | "containsCIDR", _, Some(other)) => {
                let bytes = Cost { min: 4, max: 16 };
                let mut cost = bytes.plus(bytes).factor(TRAVERSAL);
                if function == "containsCIDR" {
                    cost = cost.plus(bytes.factor(TRAVERSAL)).plus(Cost::fixed(1));
                }
                if overload.ends_with("_string") {
                    cost = cost.plus(other.factor(TRAVERSAL));
                }
                CallCost::of(cost)
            }
            ("validate", _, Some(size)) => {
                CallCost::of(size.factor(TRAVERSAL).factor(128.0 * REGEX))
            }
            _ => self.standard(overload, target, args),
        }
    }

    fn standard(&self, overload: &str, target: Option<&Operand>, args: &[Operand]) -> CallCost {
        let size = |operand: &Operand| operand.size.unwrap_or(UNKNOWN);
        match (overload, target, args) {
            ("string_format", Some(target), _) => CallCost::of(size(target).factor(TRAVERSAL)),
            ("string_to_bytes", _, [arg]) => {
                let sz = size(arg);
                let max = sz.max.saturating_mul(4);
                CallCost::sized(sz.factor(TRAVERSAL), Cost { min: sz.min, max })
            }
            ("bytes_to_string", _, [arg]) => {
                let sz = size(arg);
                CallCost::sized(
                    sz.factor(TRAVERSAL),
                    Cost {
                        min: sz.min / 4,
                        max: sz.max,
                    },
                )
            }
            ("strings_quote", _, [arg]) => {
                let sz = size(arg);
                let result = Cost {
                    min: sz.min.saturating_add(2),
                    max: sz.max.saturating_mul(2).saturating_add(2),
                };
                CallCost::sized(sz.factor(TRAVERSAL), result)
            }
            ("starts_with_string" | "ends_with_string", _, [arg]) => {
                CallCost::of(size(arg).factor(TRAVERSAL))
            }
            ("in_list", _, [_, list]) => CallCost::of(size(list)),
            (
                "list_sets_contains_list"
                | "list_sets_equivalent_list"
                | "list_sets_intersects_list",
                _,
                [a, b],
            ) => {
                let product = size(a).times(size(b));
                let factor = if overload == "list_sets_equivalent_list" {
                    2
                } else {
                    1
                };
                CallCost::of(product.times(Cost::fixed(factor)).plus(Cost::fixed(1)))
            }
            ("matches_string", Some(target), [pattern]) => {
                let text = size(target).plus(Cost::fixed(1)).factor(TRAVERSAL);
                CallCost::of(text.times(size(pattern).factor(REGEX)))
            }
            ("contains_string", Some(target), [part]) => CallCost::of(
                size(target)
                    .factor(TRAVERSAL)
                    .times(size(part).factor(TRAVERSAL)),
            ),
            ("add_string" | "add_bytes" | "add_list", _, [a, b]) => {
                let result = size(a).plus(size(b));
                let cost = if overload == "add_list" {
                    Cost::fixed(1)
                } else {
                    result.factor(TRAVERSAL)
                };
                CallCost::sized(cost, result)
            }
            (
                "less_string"
                | "greater_string"
                | "less_equals_string"
                | "greater_equals_string"
                | "less_bytes"
                | "greater_bytes"
                | "less_equals_bytes"
                | "greater_equals_bytes"
                | "equals"
                | "not_equals",
                _,
                [a, b],
            ) => {
                if overload == "equals" && a.ty == b.ty && is_special(&a.ty) {
                    return CallCost::of(Cost::fixed(1));
                }
                let max = size(a).max.min(size(b).max);
                let min = u64::from(max > 0);
                CallCost::of(Cost { min, max }.factor(TRAVERSAL))
            }
            _ => CallCost::of(Cost::fixed(1)),
        }
    }
}

fn is_special(ty: &Type) -> bool {
    match ty {
        Type::Opaque(name, _) => name.starts_with("net."),
        Type::Object(name) => {
            matches!(&**name, "kubernetes.Quantity" | "kubernetes.Semver")
                || name.starts_with("kubernetes.authorization.")
        }
        _ => false,
    }
}

fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => {
            true
        }
        other => other.unwrap_optional().is_some_and(is_scalar),
    }
}

fn joined(a: Entries, b: Entries) -> Entries {
    Entries {
        list: a.list,
        key: a.key.union(b.key),
        value: a.value.union(b.value),
    }
}

fn selector(size: Cost) -> Cost {
    Cost::fixed(10)
        .plus(size.factor(TRAVERSAL))
        .plus(size.factor(0.5).factor(50.0))
}

fn replaced(text: Cost, from: Cost, to: Cost) -> CallCost {
    let (mut count, mut kept) = (Cost::fixed(0), Cost::fixed(0));
    if from.min == 0 {
        count.max = text.max.saturating_add(1);
        kept.max = text.max;
    } else if to.max <= from.min {
        kept.max = text.max;
    } else {
        count.max = scaled(text.max, 1.0 / from.min as f64);
    }
    if from.max == 0 {
        count.min = text.min.saturating_add(1);
        kept.min = text.min;
    } else if from.max <= to.min {
        kept.min = text.min;
    } else {
        count.min = scaled(text.min, 1.0 / from.max as f64);
    }
    CallCost::sized(text.factor(2.0 * TRAVERSAL), count.times(to).plus(kept))
}
